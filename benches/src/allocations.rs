//! How often a program asks for memory, as valgrind counts it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// What a program is started by, so that its allocations are counted: nothing but that is looked at.
pub fn counting(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"]).arg(program);
    command
}

/// The allocations of a program that has ended, by what was written when it did.
pub fn counted(log: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(log)?;
    let line =
        text.lines().find_map(|line| line.split_once("total heap usage: ")).context("no allocations were counted")?;
    let count: String = line.1.chars().take_while(|c| *c != ' ').filter(|c| *c != ',').collect();
    count.parse().with_context(|| format!("a count of another form: {}", line.1))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_count_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = "{\"level\":\"INFO\"}\n==7== HEAP SUMMARY:\n==7==   total heap usage: 1,234,567 allocs, 1,234,500 frees, 9 bytes allocated\n";
        std::fs::write(file.path(), said).unwrap();
        assert_eq!(super::counted(file.path()).unwrap(), 1_234_567);
        std::fs::write(file.path(), "nothing\n").unwrap();
        assert!(super::counted(file.path()).is_err());
    }
}
