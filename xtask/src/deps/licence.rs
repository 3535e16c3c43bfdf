//! Whether an SPDX licence expression can be met by allowed licences alone.

/// `expression` is of the form `(MIT OR Apache-2.0) AND Unicode-3.0`; `/` is an old way to write OR.
pub(super) fn allows(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let met = any(&mut words, allowed);
    met && words.is_empty()
}

/// `all (OR all)*`
fn any(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    let mut met = all(words, allowed);
    while words.pop_if(|word| *word == "OR").is_some() {
        met |= all(words, allowed);
    }
    met
}

/// `one (AND one)*`
fn all(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    let mut met = one(words, allowed);
    while words.pop_if(|word| *word == "AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

/// A licence, one `WITH` an exception, or an expression in parentheses.
fn one(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    match words.pop() {
        Some("(") => {
            let met = any(words, allowed);
            words.pop() == Some(")") && met
        }
        Some(licence) => {
            let exception = if words.pop_if(|word| *word == "WITH").is_some() { words.pop() } else { None };
            let name = exception.map_or(licence.to_owned(), |exception| format!("{licence} WITH {exception}"));
            allowed.contains(&name.as_str())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn expressions_are_met_or_not() {
        let allowed = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
        for met in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(GPL-2.0 OR MIT) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(allows(met, &allowed), "{met}");
        }
        for unmet in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "Apache-2.0",
            "",
            "(MIT",
            "MIT)",
            "MIT MIT",
            "no licence",
            "GPL-3.0 OR (MIT AND ISC)",
        ] {
            assert!(!allows(unmet, &allowed), "{unmet}");
        }
    }
}
