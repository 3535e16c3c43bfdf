//! The tests' Python environments: the same libraries with the two `httpx` versions that send JSON differently.
//!
//! httpx up to 0.27 sends `json=` with spaces, from 0.28 on without; a sender that signs `json.dumps(…)` is right with the
//! first only. And one each for sslyze, which judges ingest's TLS, for Selenium, which drives a browser, and for
//! what judges the files of a deployment. Versions are pinned, so that a test means the same tomorrow.

use crate::workspace::{self, output};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const LIBRARIES: &[&str] = &[
    "confluent-kafka==2.16.1",
    "cryptography==46.0.3",
    "joserfc==1.4.0",
    "requests==2.32.5",
    "standardwebhooks==1.1.0",
    "svix==2.9.1",
];
const ENVIRONMENTS: &[(&str, &str)] = &[("PYTHON_HTTPX_027", "httpx==0.27.2"), ("PYTHON_HTTPX_028", "httpx==0.28.1")];
const SSLYZE: (&str, &str) = ("PYTHON_SSLYZE", "sslyze==6.3.1");
const SELENIUM: (&str, &str) = ("PYTHON_SELENIUM", "selenium==4.51.0");
/// What judges manifests and bills of materials, with the schemas that it needs.
const SCHEMAS: (&str, &[&str]) = ("kubernetes-validate==1.37.0", &["cyclonedx-python-lib[json-validation]==11.12.0"]);

pub(crate) fn run() -> Result<()> {
    for (name, interpreter) in environments()? {
        println!("{name}={interpreter}");
    }
    Ok(())
}

/// Makes what is missing; answers the names of environment variables with the interpreters' paths.
pub(crate) fn environments() -> Result<Vec<(String, String)>> {
    let senders = ENVIRONMENTS.iter().map(|(name, httpx)| (name, *httpx, LIBRARIES));
    let all = senders.chain([SSLYZE, SELENIUM].iter().map(|(name, own)| (name, *own, &[][..])));
    let made =
        all.map(|(name, own, libraries)| Ok(((*name).to_owned(), environment(own, libraries)?.display().to_string())));
    made.collect()
}

/// The interpreter whose libraries have the schemas of Kubernetes and of CycloneDX.
pub(crate) fn schemas() -> Result<PathBuf> {
    environment(SCHEMAS.0, SCHEMAS.1)
}

/// The interpreter of the environment that is named after `own`, a library that it has beside the others.
fn environment(own: &str, libraries: &[&str]) -> Result<PathBuf> {
    let dir = workspace::state().join("python").join(own.replace("==", "-"));
    let interpreter = dir.join("bin/python");
    let stamp = dir.join("installed.txt");
    let wanted = [libraries, &[own]].concat();
    if interpreter.exists() && fs::read_to_string(&stamp).is_ok_and(|text| text == wanted.join("\n")) {
        return Ok(interpreter);
    }
    eprintln!("x: making a Python environment with {own} (once)");
    let made = output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
    made.context("making a Python environment (Debian has this in the package python3-venv)")?;
    output(
        Command::new(&interpreter)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(&wanted),
    )
    .with_context(|| format!("installing {}", wanted.join(", ")))?;
    fs::write(stamp, wanted.join("\n"))?;
    Ok(interpreter)
}
