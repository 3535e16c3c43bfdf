//! The JavaScript libraries of the tests, in a folder of their own. Versions are pinned, so that a test means the same tomorrow.

use crate::workspace::{self, output};
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;

const LIBRARIES: &[&str] = &["standardwebhooks@1.1.1", "svix@2.5.0"];

/// Makes what is missing; answers the names of environment variables with their values.
pub(crate) fn environment() -> Result<Vec<(String, String)>> {
    let dir = workspace::state().join("javascript");
    let stamp = dir.join("installed.txt");
    if !fs::read_to_string(&stamp).is_ok_and(|text| text == LIBRARIES.join("\n")) {
        eprintln!("x: installing {} (once)", LIBRARIES.join(" and "));
        fs::create_dir_all(&dir)?;
        let mut npm = Command::new("npm");
        npm.current_dir(&dir).args([
            "install",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
            ".",
        ]);
        output(npm.args(LIBRARIES)).context("installing JavaScript libraries (Debian has npm in the package npm)")?;
        fs::write(stamp, LIBRARIES.join("\n"))?;
    }
    let node = workspace::setting("NODE").unwrap_or_else(|| "node".into());
    // A file in the folder whose modules are meant: it need not exist.
    let modules = dir.join("any.js").display().to_string();
    Ok(vec![("NODE".into(), node), ("SEALSTREAM_NODE_MODULES".into(), modules)])
}
