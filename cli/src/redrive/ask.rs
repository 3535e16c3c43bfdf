//! Asks before letters are redriven: once, and once more if they are more than a page.

use std::io::{BufRead, Result, Write};

/// More letters than this are asked about twice.
pub(super) const PAGE: usize = 100;

/// Whether the user agrees. The end of the input is a no.
pub(super) fn agrees(count: usize, input: &mut impl BufRead, output: &mut impl Write) -> Result<bool> {
    let mut answer = |question: std::fmt::Arguments<'_>| -> Result<String> {
        write!(output, "{question} ")?;
        output.flush()?;
        let mut line = String::new();
        input.read_line(&mut line)?;
        Ok(line.trim().to_lowercase())
    };
    if !matches!(answer(format_args!("Redrive {count}? [y/N]"))?.as_str(), "y" | "yes") {
        return Ok(false);
    }
    if count <= PAGE {
        return Ok(true);
    }
    let number = answer(format_args!("That is more than {PAGE}. Type the number, {count}, to go on:"))?;
    Ok(number == count.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(count: usize, input: &str, expect: bool) -> String {
        let mut output = Vec::new();
        assert_eq!(agrees(count, &mut input.as_bytes(), &mut output).unwrap(), expect, "{count} {input:?}");
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn a_page_is_asked_about_once() {
        for (input, expect) in
            [("y\n", true), ("YES\n", true), ("n\n", false), ("\n", false), ("", false), ("100\n", false)]
        {
            assert!(!check(PAGE, input, expect).contains("more than"));
        }
    }

    #[test]
    fn more_than_a_page_is_asked_about_twice() {
        assert!(check(101, "y\n101\n", true).contains("Type the number, 101"));
        for input in ["y\n", "y\ny\n", "y\n100\n", "n\n101\n"] {
            check(101, input, false);
        }
    }
}
