//! Which files name a library: some are named by exactly one file, so that what surrounds them is in one place.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Paths in Rust that exactly one file names.
const ONE_FILE: &[&str] = &["rdkafka::producer", "sled", "aes_gcm", "redis"];
/// `(path in Rust, how the files begin outside of which nothing names it)`: a folder, or a module with its parts.
const ONE_FOLDER: &[(&str, &str)] =
    &[("rdkafka", "common/src/kafka/"), ("rdkafka::consumer", "common/src/kafka/consumer")];
/// Not `benches`: it measures beside the bare libraries.
const CRATES: &[&str] = &["common", "ingest", "processor", "cli", "tests"];

pub(super) fn check(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let mut files = Vec::new();
    for name in CRATES {
        rust_files(&root.join(name), &mut files)?;
    }
    let mut sources = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        sources.push((path, paths(&text)));
    }
    judge(&sources, wrong);
    Ok(())
}

/// `sources` are files with the Rust paths that they name.
fn judge(sources: &[(String, Vec<String>)], wrong: &mut Vec<String>) {
    let naming = |library: &str| {
        let naming = sources.iter().filter(|(_, paths)| paths.iter().any(|path| within(path, library)));
        naming.map(|(file, _)| file.as_str()).collect::<Vec<_>>()
    };
    for library in ONE_FILE {
        let files = naming(library);
        if files.len() != 1 {
            wrong.push(format!("exactly one file is to name {library}, but these do: [{}]", files.join(", ")));
        }
    }
    for (library, folder) in ONE_FOLDER {
        let strangers = naming(library).into_iter().filter(|file| !file.starts_with(folder));
        wrong.extend(strangers.map(|file| format!("{library} is named by {file}, outside {folder}")));
    }
}

/// Whether `path` is inside `library`. The bare name of a crate may be a module or a word of ours.
fn within(path: &str, library: &str) -> bool {
    path.strip_prefix(library).is_some_and(|rest| rest.starts_with("::") || rest.is_empty() && library.contains("::"))
}

/// Every `a::b::c` in a file's code, with `a::{b, c::d}` written out; comments are left out.
fn paths(text: &str) -> Vec<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut path = String::new();
    let mut rest = code.as_str();
    while let Some(c) = rest.chars().next() {
        let word_length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if word_length > 0 {
            // A word that does not follow `::` begins a path.
            if !path.ends_with("::") {
                path = prefixes.last().cloned().unwrap_or_default();
            }
            path.push_str(&rest[..word_length]);
            found.push(path.clone());
            rest = &rest[word_length..];
        } else if let Some(after) = rest.strip_prefix("::") {
            if !path.is_empty() {
                path.push_str("::");
            }
            rest = after;
        } else {
            match c {
                '{' => prefixes.push(if path.ends_with("::") { std::mem::take(&mut path) } else { String::new() }),
                '}' => {
                    prefixes.pop();
                    path.clear();
                }
                c if c.is_whitespace() && path.ends_with("::") => {}
                _ => path.clear(),
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    found
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: &str, text: &str) -> (String, Vec<String>) {
        (file.to_owned(), paths(text))
    }

    #[test]
    fn grouped_and_plain_paths_are_read_and_comments_are_not() {
        let named = paths(
            "use rdkafka::{config::ClientConfig,\n    consumer::{BaseConsumer, self}};\nfn f() { let x = sled::open(1); } // aes_gcm::Key",
        );
        for path in ["rdkafka::config::ClientConfig", "rdkafka::consumer::BaseConsumer", "sled::open"] {
            assert!(named.iter().any(|found| found == path), "{path} in {named:?}");
        }
        assert!(!named.iter().any(|found| found.starts_with("aes_gcm")), "{named:?}");
    }

    #[test]
    fn a_second_file_and_a_missing_one_are_both_wrong() {
        let good = [
            source("common/open/src/aead.rs", "use aes_gcm::Aes256Gcm;"),
            source("common/src/kafka/consumer.rs", "use rdkafka::{consumer::BaseConsumer, Message};"),
            source("common/src/kafka/consumer/member.rs", "use rdkafka::consumer::BaseConsumer;"),
            source("common/src/kafka/producer.rs", "use rdkafka::producer::ThreadedProducer;"),
            source("processor/src/store/sled.rs", "fn f() -> ::sled::Result<()> {}"),
            source("processor/src/store/mod.rs", "mod sled; use self::sled::Sled; // sled::open"),
            source("ingest/src/rate/exchange.rs", "use redis::aio::MultiplexedConnection;"),
        ];
        let mut wrong = Vec::new();
        judge(&good, &mut wrong);
        assert_eq!(wrong, Vec::<String>::new());

        let mut bad = good.to_vec();
        bad.push(source("processor/src/router.rs", "use rdkafka::{producer::{BaseRecord}};"));
        bad.push(source("common/src/kafka/admin.rs", "use rdkafka::consumer::BaseConsumer;"));
        bad.remove(0);
        judge(&bad, &mut wrong);
        assert_eq!(wrong.len(), 4, "{wrong:?}");
    }
}
