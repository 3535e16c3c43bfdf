//! The workspace and everything that it is built from, as `cargo tree` tells it.
//!
//! `cargo tree` knows which optional dependencies are really switched on, which `cargo metadata` does not. Only normal
//! dependencies count: what a build script or a test uses is not in a binary.

use crate::workspace;
use anyhow::{Context, Result};
use semver::Version;
use std::collections::{BTreeMap, BTreeSet};

/// A package and what it depends on.
pub(crate) struct Package {
    /// Its name in the registry.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: Version,
    /// Its licence, an SPDX expression; empty where it states none.
    pub(crate) licence: String,
    /// Whether it is a crate of this workspace.
    member: bool,
    /// What it depends on directly: names with versions, as cargo prints them.
    edges: BTreeSet<String>,
}

/// All packages that the workspace's binaries are made of.
pub(crate) struct Graph {
    packages: BTreeMap<String, Package>,
}

impl Graph {
    /// Asks cargo, for the platform of this machine and the versions in `Cargo.lock`.
    pub(crate) fn load() -> Result<Self> {
        let mut tree = workspace::cargo();
        tree.args(["tree", "--locked", "--workspace", "--edges", "normal", "--prefix", "depth"]);
        Self::parse(&workspace::output(tree.args(["--format", "{p}|{l}"]))?)
    }

    /// Every package.
    pub(super) fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }

    /// The names of all packages that the crate `name` depends on, directly or not.
    pub(super) fn reach(&self, name: &str) -> BTreeSet<&str> {
        let mut reached: BTreeSet<&str> = self.below(&[name]).map(|package| package.name.as_str()).collect();
        reached.remove(name);
        reached
    }

    /// The crates `names` and everything below them.
    pub(crate) fn below(&self, names: &[&str]) -> impl Iterator<Item = &Package> {
        let named = |(_, package): &(&String, &Package)| package.member && names.contains(&package.name.as_str());
        let mut open: Vec<&String> = self.packages.iter().filter(named).map(|(id, _)| id).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(&self.packages[id].edges);
            }
        }
        seen.into_iter().map(|id| &self.packages[id])
    }

    /// The crates of this workspace that depend on `name` directly, whatever its version.
    pub(super) fn users(&self, name: &str) -> impl Iterator<Item = &Package> {
        self.packages().filter(move |package| package.member && package.depends_on(name, self))
    }

    /// Reads lines `<depth><name> v<version> (<path or kind>)|<licence>`, each below the last line of a lesser depth. A
    /// package that was shown before ends in `(*)` and is shown without what is below it.
    fn parse(tree: &str) -> Result<Self> {
        let mut packages: BTreeMap<String, Package> = BTreeMap::new();
        let mut above: Vec<String> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let unread = || format!("cargo tree printed a line that this cannot read: {line}");
            let depth_length = line.find(|c: char| !c.is_ascii_digit()).with_context(unread)?;
            let (depth, rest) = line.split_at(depth_length);
            let depth: usize = depth.parse().with_context(unread)?;
            let (package, licence) = rest.trim_end_matches(" (*)").split_once('|').with_context(unread)?;
            let mut words = package.splitn(3, ' ');
            let (name, version) = (words.next().with_context(unread)?, words.next().with_context(unread)?);
            let id = format!("{name} {version}");
            above.truncate(depth);
            if let Some(parent) = above.last().and_then(|parent| packages.get_mut(parent)) {
                parent.edges.insert(id.clone());
            }
            packages.entry(id.clone()).or_insert(Package {
                name: name.to_owned(),
                version: Version::parse(version.trim_start_matches('v')).with_context(unread)?,
                licence: licence.to_owned(),
                member: words.next().is_some_and(|place| place.starts_with("(/")),
                edges: BTreeSet::new(),
            });
            above.push(id);
        }
        Ok(Self { packages })
    }

    /// A made-up workspace, in the form that `cargo tree` prints.
    #[cfg(test)]
    pub(crate) fn of(tree: &str) -> Self {
        Self::parse(tree).unwrap()
    }
}

impl Package {
    /// What it depends on directly.
    pub(crate) fn dependencies<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = &'a Package> {
        self.edges.iter().map(|id| &graph.packages[id])
    }

    /// Whether it depends on `name` directly.
    pub(super) fn depends_on(&self, name: &str, graph: &Graph) -> bool {
        self.edges.iter().any(|id| graph.packages[id].name == name)
    }

    /// Whether it is a crate of this workspace.
    pub(super) fn is_member(&self) -> bool {
        self.member
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_once_is_below_each_that_shows_it() {
        let graph = Graph::of(
            "0a v0.1.0 (/w/a)|Apache-2.0\n1m v2.0.0 (proc-macro)|MIT\n2x v1.0.0|MIT/Apache-2.0\n1y v1.0.0|MIT\n\n\
             0b v0.1.0 (/w/b)|Apache-2.0\n1m v2.0.0 (proc-macro)|MIT (*)\n1x v0.9.0|\n",
        );
        assert_eq!(graph.reach("a"), BTreeSet::from(["m", "x", "y"]));
        assert_eq!(graph.reach("b"), BTreeSet::from(["m", "x"]));
        assert_eq!(graph.packages().count(), 6);
        assert_eq!(graph.users("x").map(|package| &package.name).collect::<Vec<_>>(), ["b"]);
        assert!(Graph::parse("not a tree").is_err());
    }
}
