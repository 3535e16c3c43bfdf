//! The browser of the tests, and the driver that it is driven by.

use crate::workspace;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Variables with the names that the programs may have: Debian's first.
const PROGRAMS: [(&str, &[&str]); 2] =
    [("CHROMIUM", &["chromium", "chromium-browser", "google-chrome"]), ("CHROMEDRIVER", &["chromedriver"])];

/// Answers the names of environment variables with the programs' paths.
pub(crate) fn environment() -> Result<Vec<(String, String)>> {
    let found = PROGRAMS.iter().map(|(variable, names)| {
        let path = workspace::setting(variable).or_else(|| on_path(names).map(|path| path.display().to_string()));
        let path =
            path.with_context(|| format!("there is no {} (Debian has it in chromium and chromium-driver)", names[0]))?;
        Ok(((*variable).to_owned(), path))
    });
    found.collect()
}

fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|program| program.is_file())
}
