//! `sbom`: what the shipped binaries are made of, as a CycloneDX document.
//!
//! Components are the crates that are compiled in; the C libraries that some of them bring along (librdkafka, OpenSSL, aws-lc)
//! are part of the version of their crate, as its name says. It has neither a time nor a serial number: what is built of the same
//! sources has the same document. What the image has besides is known to its package manager.

use crate::deps::SHIPPED;
use crate::deps::graph::{Graph, Package};
use crate::workspace;
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

/// The binaries together, of which everything else is a part.
const ROOT: &str = "sealstream-image";

pub(crate) fn run() -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&document()?)?);
    Ok(())
}

pub(crate) fn document() -> Result<Value> {
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock")).context("reading Cargo.lock")?;
    Ok(describe(&Graph::load()?, &checksums(&lock)?))
}

/// SHA-256 of the archives of all crates that come from a registry, by name and version.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    Ok(lock.package.into_iter().filter_map(|p| Some(((p.name, p.version), p.checksum?))).collect())
}

fn describe(graph: &Graph, checksums: &BTreeMap<(String, String), String>) -> Value {
    let packages: Vec<&Package> = graph.below(SHIPPED).collect();
    let shipped: Vec<String> = packages
        .iter()
        .filter(|package| SHIPPED.contains(&package.name.as_str()))
        .map(|package| url(package))
        .collect();
    let component = |package: &&Package| {
        let mut component = json!({
            "type": if SHIPPED.contains(&package.name.as_str()) { "application" } else { "library" },
            "bom-ref": url(package),
            "name": package.name,
            "version": package.version.to_string(),
            "purl": url(package),
        });
        if let Some(digest) = checksums.get(&(package.name.clone(), package.version.to_string())) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": digest}]);
        }
        if !package.licence.is_empty() {
            // As crates wrote it before SPDX's grammar.
            component["licenses"] = json!([{"expression": package.licence.replace('/', " OR ")}]);
        }
        component
    };
    let depends = |package: &&Package| {
        let on: Vec<String> = package.dependencies(graph).map(url).collect();
        json!({"ref": url(package), "dependsOn": on})
    };
    let mut dependencies = vec![json!({"ref": ROOT, "dependsOn": shipped})];
    dependencies.extend(packages.iter().map(depends));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "container", "bom-ref": ROOT, "name": "sealstream", "version": env!("CARGO_PKG_VERSION"),
        }},
        "components": packages.iter().map(component).collect::<Vec<_>>(),
        "dependencies": dependencies,
    })
}

/// The crate's package URL.
fn url(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version.to_string().replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_into_the_binaries_is_named_with_its_digest_and_nothing_else_is() {
        let graph = Graph::of(
            "0ingest v0.1.0 (/w/ingest)|Apache-2.0\n1a v1.0.0+x|MIT/Apache-2.0\n\n0tests v0.1.0 (/w/tests)|Apache-2.0\n1b v1.0.0|MIT\n",
        );
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0+x\"\nchecksum = \"00ff\"\n[[package]]\nname = \"ingest\"\nversion = \"0.1.0\"\n";
        let made = describe(&graph, &checksums(lock).unwrap());
        let components = made["components"].as_array().unwrap();
        let names: Vec<&str> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "ingest"]);
        assert_eq!(components[0]["purl"], "pkg:cargo/a@1.0.0%2Bx");
        assert_eq!(components[0]["hashes"], json!([{"alg": "SHA-256", "content": "00ff"}]));
        assert_eq!(components[0]["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
        assert_eq!(components[1].get("hashes"), None);
        let edges = made["dependencies"].as_array().unwrap();
        assert!(edges.contains(&json!({"ref": ROOT, "dependsOn": ["pkg:cargo/ingest@0.1.0"]})), "{edges:?}");
        assert!(edges.contains(&json!({"ref": "pkg:cargo/ingest@0.1.0", "dependsOn": ["pkg:cargo/a@1.0.0%2Bx"]})));
    }
}
