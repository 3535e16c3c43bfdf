//! The runbooks: every alert has a section in docs/runbooks.md, and no section is without its alert.

use crate::{alerts, workspace};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;

const PAGE: &str = "docs/runbooks.md";

pub(crate) fn check() -> Result<()> {
    let page = fs::read_to_string(workspace::root().join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    let mut rules = String::new();
    for path in workspace::files(alerts::FOLDER, ".rules.yml")? {
        rules.push_str(&fs::read_to_string(&path)?);
    }
    let (without, stale) = judge(&page, &rules);
    ensure!(without.is_empty(), "{PAGE} has no section for {without:?}");
    ensure!(stale.is_empty(), "{PAGE} has sections for alerts that don't exist: {stale:?}");
    Ok(())
}

/// Alerts without a section, and sections without an alert.
fn judge<'a>(page: &'a str, rules: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let alerts = named(rules, |line| line.trim_start().strip_prefix("- alert: "));
    let sections = named(page, |line| line.strip_prefix("## "));
    (alerts.difference(&sections).copied().collect(), sections.difference(&alerts).copied().collect())
}

fn named<'a>(text: &'a str, name: impl Fn(&'a str) -> Option<&'a str>) -> BTreeSet<&'a str> {
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_without_a_section_and_a_section_without_an_alert_are_found() {
        let page = "# Runbooks\n\n## Known\n\ntext\n\n## Gone\n";
        let rules = "rules:\n      - alert: Known\n        expr: x\n      - alert: New\n";
        assert_eq!(judge(page, rules), (vec!["New"], vec!["Gone"]));
    }
}
