//! Private files that did not exist before, and random secrets to put into them.
//!
//! Invariants: nothing is ever overwritten; a file is readable by its owner only from the moment it exists; of several
//! files either all are written or none stays.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use common::secret::Secret;
use data_encoding::{BASE64, HEXLOWER};

/// Most paths that are listed in a message.
const LISTED_MAX: usize = 3;

/// A file to be written.
#[derive(Debug)]
pub(crate) struct NewFile {
    /// Where, below the deployment's directory.
    pub(crate) path: PathBuf,
    /// Its content; held like a secret, since it often is one.
    pub(crate) content: Secret,
}

impl NewFile {
    /// A file of text.
    pub(crate) fn new(path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), content: Secret::from(content.into()) }
    }
}

/// Which of these files are there already.
pub(crate) fn present<'a>(dir: &Path, files: &'a [NewFile]) -> Vec<&'a Path> {
    files.iter().map(|file| file.path.as_path()).filter(|path| dir.join(path).symlink_metadata().is_ok()).collect()
}

/// Writes files that are not there yet, mode 0600, making their directories, mode 0700.
pub(crate) fn write_new(dir: &Path, files: &[NewFile]) -> Result<()> {
    let there = present(dir, files);
    if !there.is_empty() {
        bail!(
            "{} already holds {}: nothing was written, since nothing is ever overwritten",
            dir.display(),
            list(&there)
        );
    }
    let mut written = Vec::new();
    for file in files {
        let path = dir.join(&file.path);
        if let Err(error) = write_one(&path, &file.content) {
            for path in &written {
                // Made above, a moment ago, by us. If one can't be removed the next run will name it.
                let _ = std::fs::remove_file(path);
            }
            return Err(error).with_context(|| format!("writing {}", path.display()));
        }
        written.push(path);
    }
    Ok(())
}

/// The first few of these paths, for a message.
pub(crate) fn list(paths: &[&Path]) -> String {
    let shown: Vec<_> = paths.iter().take(LISTED_MAX).map(|path| path.display().to_string()).collect();
    match paths.len().saturating_sub(LISTED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn write_one(path: &Path, content: &Secret) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.expose())?;
    file.sync_all()
}

/// A file's text.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// 32 random bytes as a key file has them: `hex:…`.
pub(crate) fn random_key() -> Result<String> {
    Ok(format!("hex:{}\n", HEXLOWER.encode(&random()?)))
}

/// A random secret of 64 printable characters, whose text is the secret.
pub(crate) fn random_text() -> Result<String> {
    Ok(format!("{}\n", HEXLOWER.encode(&random()?)))
}

/// A random Standard Webhooks secret: `whsec_…`.
pub(crate) fn random_whsec() -> Result<String> {
    Ok(format!("whsec_{}\n", BASE64.encode(&random()?)))
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_private_and_new() {
        let dir = tempfile::tempdir().unwrap();
        write_new(dir.path(), &[NewFile::new("a/b", "1"), NewFile::new("a/c", "2")]).unwrap();
        assert_eq!(mode(&dir.path().join("a")), 0o700);
        assert_eq!(mode(&dir.path().join("a/b")), 0o600);

        let error = write_new(dir.path(), &[NewFile::new("new", "3"), NewFile::new("a/c", "4")]).unwrap_err();
        assert!(error.to_string().contains("a/c"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("a/c")).unwrap(), "2");
        assert!(!dir.path().join("new").exists());
    }

    #[test]
    fn all_are_written_or_none_stays() {
        let dir = tempfile::tempdir().unwrap();
        // The second can't be: its directory would be the first.
        write_new(dir.path(), &[NewFile::new("a", "1"), NewFile::new("a/b", "2")]).unwrap_err();
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn a_dangling_link_is_something_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("a")).unwrap();
        assert!(write_new(dir.path(), &[NewFile::new("a", "1")]).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
}
