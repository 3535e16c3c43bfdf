//! The runbooks: every alert names its section in docs/runbooks.md, which is there, and no section is without its alert.

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
    let unlinked = unlinked(&rules);
    ensure!(
        unlinked.is_empty(),
        "these alerts lack the annotation `runbook: {PAGE}#<their name in lower case>`: {unlinked:?}"
    );
    Ok(())
}

/// Alerts whose rule does not name their section.
fn unlinked(rules: &str) -> Vec<&str> {
    let rules = rules.split("- alert: ").skip(1).filter_map(|rule| Some((rule.lines().next()?, rule)));
    let linked = |name: &str, rule: &str| {
        let link = format!("runbook: {PAGE}#{}", name.to_lowercase());
        rule.lines().any(|line| line.trim() == link)
    };
    rules.filter(|(name, rule)| !linked(name, rule)).map(|(name, _)| name).collect()
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

    #[test]
    fn an_alert_that_does_not_name_its_section_is_found() {
        let rule = |name: &str, link: &str| {
            format!("      - alert: {name}\n        annotations:\n          runbook: {PAGE}#{link}\n")
        };
        let rules = rule("One", "one") + &rule("Two", "one") + "      - alert: Three\n";
        assert_eq!(unlinked(&rules), ["Two", "Three"]);
    }
}
