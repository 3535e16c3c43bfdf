//! `deps`: the rules about who depends on what, the versions that matter and the licences.
//!
//! Bans, floors and licences are read from `deny.toml`, where `cargo deny` finds them too; this needs no advisory database
//! and no network. Which crates may see each other, and which file may name a library, is said here.

pub(crate) mod graph;
mod licence;
mod mentions;

use crate::workspace;
use anyhow::{Context, Result, bail};
use graph::{Graph, Package};
use semver::VersionReq;
use std::fs;

/// The crates whose binaries are shipped.
pub(crate) const SHIPPED: &[&str] = &["ingest", "processor", "sealstream"];
/// `(crate, crates that it must not reach)`.
const APART: &[(&str, &[&str])] = &[
    ("ingest", &["open", "sender", "aes-gcm", "processor", "sealstream"]),
    ("processor", &["ingest", "sealstream"]),
    ("common", &["open", "sender", "ingest", "processor", "sealstream"]),
];
/// `(crate, who may depend on it)`: nothing that is shipped does.
const TOPS: &[(&str, &[&str])] = &[("sealstream", &[]), ("tests", &["benches"]), ("benches", &[]), ("xtask", &[])];
/// `(crate, crates that it does reach)`: were these not found, the search itself would be broken.
const TOGETHER: &[(&str, &[&str])] = &[("processor", &["open", "aes-gcm"]), ("sealstream", &["open", "sender"])];
/// What Sealstream is built on: each a direct dependency of a crate that is shipped.
const FOUNDATIONS: &[&str] = &[
    "hyper",
    "tokio",
    "rustls",
    "rdkafka",
    "hmac",
    "sha2",
    "aes-gcm",
    "sled",
    "serde_json",
    "metrics",
    "metrics-exporter-prometheus",
];

pub(crate) fn run() -> Result<()> {
    let graph = Graph::load()?;
    let deny = workspace::root().join("deny.toml");
    let deny: toml::Table = fs::read_to_string(&deny).context("reading deny.toml")?.parse().context("deny.toml")?;
    let mut wrong = Vec::new();
    reach(&graph, &mut wrong);
    foundations(&graph, &mut wrong);
    banned(&graph, &deny, &mut wrong)?;
    licences(&graph, &deny, &mut wrong)?;
    mentions::check(workspace::root(), &mut wrong)?;
    if !wrong.is_empty() {
        bail!("the rules about dependencies are broken:\n  {}", wrong.join("\n  "));
    }
    println!("dependencies: {} packages, every rule kept", graph.packages().count());
    Ok(())
}

fn reach(graph: &Graph, wrong: &mut Vec<String>) {
    for (from, apart) in APART {
        let reached = graph.reach(from);
        wrong.extend(
            apart.iter().filter(|name| reached.contains(*name)).map(|name| format!("{from} must not reach {name}")),
        );
    }
    for (from, together) in TOGETHER {
        let reached = graph.reach(from);
        let lost = together.iter().filter(|name| !reached.contains(*name));
        wrong.extend(lost.map(|name| format!("{from} should reach {name}: is this check broken?")));
    }
    for (top, allowed) in TOPS {
        let users = graph.users(top).filter(|user| !allowed.contains(&user.name.as_str()));
        wrong.extend(users.map(|user| format!("{} must not depend on {top}", user.name)));
    }
}

fn foundations(graph: &Graph, wrong: &mut Vec<String>) {
    let shipped: Vec<&Package> = graph.below(SHIPPED).filter(|package| package.is_member()).collect();
    let used = |name: &str| shipped.iter().any(|member| member.depends_on(name, graph));
    let missing = FOUNDATIONS.iter().filter(|name| !used(name));
    wrong.extend(missing.map(|name| format!("no shipped crate depends on {name} directly")));
}

/// The entries `{ crate = "name@requirement", reason = "…" }` of `bans.deny`, for what the shipped crates are made of.
fn banned(graph: &Graph, deny: &toml::Table, wrong: &mut Vec<String>) -> Result<()> {
    let bans = deny.get("bans").and_then(|bans| bans.get("deny")?.as_array()).context("deny.toml has no bans.deny")?;
    for ban in bans {
        let text = |key: &str| {
            ban.get(key).and_then(|value| value.as_str()).with_context(|| format!("deny.toml: a ban without {key}"))
        };
        let (name, versions) = match text("crate")?.split_once('@') {
            Some((name, versions)) => {
                (name, VersionReq::parse(versions).with_context(|| format!("deny.toml: {versions}"))?)
            }
            None => (text("crate")?, VersionReq::STAR),
        };
        let reason = text("reason")?;
        let found = graph.below(SHIPPED).filter(|package| package.name == name && versions.matches(&package.version));
        wrong.extend(found.map(|package| format!("{name} {} is banned: {reason}", package.version)));
    }
    Ok(())
}

fn licences(graph: &Graph, deny: &toml::Table, wrong: &mut Vec<String>) -> Result<()> {
    let allowed = deny
        .get("licenses")
        .and_then(|table| table.get("allow")?.as_array())
        .context("deny.toml has no licenses.allow")?;
    let allowed: Vec<&str> = allowed.iter().filter_map(|value| value.as_str()).collect();
    for package in graph.packages() {
        let expression = package.licence.as_str();
        if !licence::allows(expression, &allowed) {
            wrong.push(format!(
                "{} {} is under {expression}, which deny.toml does not allow",
                package.name, package.version
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph in which `ingest` reaches the AEAD by way of `common`, and `processor` does not.
    fn broken() -> Graph {
        Graph::of(
            "0ingest v0.1.0 (/w/ingest)|Apache-2.0
1common v0.1.0 (/w/common)|Apache-2.0
2aes-gcm v0.11.0|MIT OR Apache-2.0
2tests v0.1.0 (/w/tests)|Apache-2.0
0processor v0.1.0 (/w/processor)|Apache-2.0
1ring v0.17.14|GPL-3.0-only
0sealstream v0.1.0 (/w/cli)|Apache-2.0
1open v0.1.0 (/w/common/open)|Apache-2.0
1sender v0.1.0 (/w/common/sender)|Apache-2.0",
        )
    }

    #[test]
    fn a_way_to_the_aead_is_seen_and_so_is_a_search_that_finds_nothing() {
        let mut wrong = Vec::new();
        reach(&broken(), &mut wrong);
        assert_eq!(
            wrong,
            [
                "ingest must not reach aes-gcm",
                "processor should reach open: is this check broken?",
                "processor should reach aes-gcm: is this check broken?",
                "common must not depend on tests",
            ]
        );
    }

    #[test]
    fn a_foundation_counts_only_as_a_direct_dependency_of_a_shipped_crate() {
        let mut wrong = Vec::new();
        foundations(&broken(), &mut wrong);
        assert!(wrong.contains(&"no shipped crate depends on hyper directly".to_owned()));
        assert!(!wrong.contains(&"no shipped crate depends on aes-gcm directly".to_owned()));
    }

    #[test]
    fn bans_and_floors_are_read_from_deny_toml() {
        let deny = "[bans]\ndeny = [{ crate = 'ring', reason = 'one provider' }, { crate = 'aes-gcm@<0.11.1', reason = 'old' }, \
                    { crate = 'aes-gcm@<0.11.0', reason = 'older' }]";
        let mut wrong = Vec::new();
        banned(&broken(), &deny.parse().unwrap(), &mut wrong).unwrap();
        assert_eq!(wrong, ["ring 0.17.14 is banned: one provider", "aes-gcm 0.11.0 is banned: old"]);
    }

    /// The floors are in `deny.toml`, each: the version before it is refused, and it is not.
    #[test]
    fn every_floor_is_kept() {
        let floors = [
            ("aws-lc-sys", "0.38.9", "0.39.0"),
            ("bytes", "1.11.0", "1.11.1"),
            ("h2", "0.4.19", "0.4.20"),
            ("hyper", "1.10.9", "1.11.0"),
            ("rustls", "0.23.44", "0.23.45"),
            ("rustls-webpki", "0.103.12", "0.103.13"),
            ("time", "0.3.46", "0.3.47"),
            ("tracing-subscriber", "0.3.19", "0.3.20"),
        ];
        let deny: toml::Table = include_str!("../../../deny.toml").parse().unwrap();
        for (name, below, floor) in floors {
            let refused = |version: &str| {
                let mut wrong = Vec::new();
                let tree = format!("0ingest v0.1.0 (/w/ingest)|Apache-2.0\n1{name} v{version}|MIT");
                banned(&Graph::of(&tree), &deny, &mut wrong).unwrap();
                wrong.len()
            };
            assert_eq!((refused(below), refused(floor)), (1, 0), "{name}");
        }
    }

    #[test]
    fn a_licence_that_is_not_listed_is_refused() {
        let deny = "[licenses]\nallow = ['Apache-2.0']";
        let mut wrong = Vec::new();
        licences(&broken(), &deny.parse().unwrap(), &mut wrong).unwrap();
        assert_eq!(wrong, ["ring 0.17.14 is under GPL-3.0-only, which deny.toml does not allow"]);
    }
}
