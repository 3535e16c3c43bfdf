//! Links of the pages: what they lead to in this repository is there.

use crate::workspace;
use anyhow::{Result, bail};
use std::fs;
use std::path::Path;

pub(crate) fn check() -> Result<()> {
    let mut broken = Vec::new();
    for folder in ["", "docs"] {
        for page in workspace::files(folder, ".md")? {
            let text = fs::read_to_string(&page)?;
            let lost = targets(&text).filter(|target| !workspace::root().join(folder).join(target).exists());
            broken.extend(lost.map(|target| format!("{}: {target}", shown(&page))));
        }
    }
    if !broken.is_empty() {
        bail!("links that lead nowhere:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

fn shown(page: &Path) -> String {
    page.strip_prefix(workspace::root()).unwrap_or(page).display().to_string()
}

/// The files that a page's links name: what is between `](` and `)` or `#`, addresses left out.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#']).next()?;
        (!target.is_empty() && !target.contains("://") && !target.contains(char::is_whitespace)).then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_found_and_addresses_are_not() {
        let text = "see [a](a.md), [b](../b.md#part) and [c](https://example.com/x), [d](#here); `x[1](y)`";
        assert_eq!(targets(text).collect::<Vec<_>>(), ["a.md", "../b.md", "y"]);
    }
}
