//! `sealstream keygen`: a new secret or key, of the length and in the form that its file needs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::files::{NewFile, random_key, random_text, random_whsec, write_new};
use crate::{Verdict, say};

/// What it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Signs native requests: HMAC-SHA256 with the file's text
    Hmac,
    /// 32 bytes: a source's sealing key (AES-256-GCM), or an edge, core or id key of the pipeline
    Key,
    /// Signs Standard Webhooks, of a source or to an HTTP sink
    Whsec,
}

/// Options of `keygen`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What it is for
    kind: Kind,
    /// Where to write it, readable by its owner only; nothing is overwritten. Without it, it is printed
    file: Option<PathBuf>,
}

/// Runs `keygen`.
pub fn run(Args { kind, file }: &Args) -> Result<Verdict> {
    let secret = match kind {
        Kind::Hmac => random_text()?,
        Kind::Key => random_key()?,
        Kind::Whsec => random_whsec()?,
    };
    match file {
        Some(file) => {
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = file.file_name().context("the file needs a name")?;
            write_new(dir, &[NewFile::new(name, secret)])?;
            say::note(format_args!("written to {}", file.display()));
        }
        None => say::line(secret.trim_end()),
    }
    Ok(Verdict::Good)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use common::config::SecretFile;
    use common::standard_webhooks::SigningKey;

    use super::*;

    #[test]
    fn each_kind_is_what_its_file_needs_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        for kind in [Kind::Hmac, Kind::Key, Kind::Whsec] {
            let file = dir.path().join(format!("{kind:?}"));
            let args = Args { kind, file: Some(file.clone()) };
            run(&args).unwrap();
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{kind:?}");
            let secret = SecretFile::new(&file).load().unwrap();
            match kind {
                Kind::Hmac => assert!(secret.expose().len() >= 32),
                Kind::Key => assert_eq!(secret.expose().len(), 32),
                Kind::Whsec => drop(SigningKey::parse(&secret).unwrap()),
            }
            let before = fs::read(&file).unwrap();
            assert!(run(&args).is_err(), "{kind:?}");
            assert_eq!(fs::read(&file).unwrap(), before, "{kind:?}");
        }
    }
}
