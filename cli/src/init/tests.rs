use std::os::unix::fs::PermissionsExt;

use clap::Parser;

use super::*;
use crate::sender_config::SenderConfig;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn init(dir: &Path, more: &[&str]) -> Result<Verdict> {
    let mut words = vec!["init", dir.to_str().unwrap()];
    words.extend(more);
    run(&Line::parse_from(words).args)
}

fn none() -> impl Iterator<Item = (String, String)> {
    std::iter::empty()
}

/// Every file below a directory, relative to it, with its mode.
fn tree(dir: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            found.push((name, entry.metadata().unwrap().permissions().mode() & 0o777));
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_it_writes_loads_and_can_be_used() {
    for more in [
        &[][..],
        &["--sink-url", "http://sink:8080/events", "--kafka", "kafka:9092", "--danger-single-broker"],
        &["--sink-url", "https://sink.example/", "--output-topic", "orders \"plain\"", "--source", "beta-2"],
        &["--host", "a.example,10.0.0.1", "--host", "::1", "--url", "https://hooks.example/in/beta"],
    ] {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("new");
        assert_eq!(init(&dir, more).unwrap(), Verdict::Good);

        let config = ingest::Config::load(Some(&dir.join(INGEST)), none()).unwrap();
        ingest::check(&config).unwrap();
        let config = processor::config::Config::load(Some(&dir.join(PROCESSOR)), none()).unwrap();
        let keys = [&config.pipeline.edge_keys, &config.pipeline.core_keys, &config.pipeline.id_keys];
        for key in keys.into_iter().chain(config.source.values().map(|source| &source.keys)).flatten() {
            assert_eq!(key.file.load().unwrap().expose().len(), 32);
        }
        let sender = SenderConfig::load(Some(&dir.join(SENDER))).unwrap();
        sender.sender(sender.client().unwrap(), Clock::system()).unwrap();
    }
}

#[test]
fn each_party_has_its_own_and_no_more() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    init(dir, &["--sink-url", "https://sink.example/hook"]).unwrap();
    let tree = tree(dir);
    let files: Vec<_> =
        tree.iter().filter(|(name, _)| dir.join(name).is_file()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        files,
        [
            "ca/ca.key",
            "ca/ca.pem",
            "ingest/ingest.toml",
            "ingest/secrets/acme.hmac.s1",
            "ingest/secrets/edge-1.key",
            "ingest/tls/server.key",
            "ingest/tls/server.pem",
            "processor/processor.toml",
            "processor/secrets/acme.k1.key",
            "processor/secrets/core-1.key",
            "processor/secrets/edge-1.key",
            "processor/secrets/id-1.key",
            "processor/secrets/sink-main.whsec",
            "sender/secrets/acme.hmac.s1",
            "sender/secrets/acme.k1.key",
            "sender/sender.toml",
            "sender/tls/ca.pem",
            "sink/secrets/sink-main.whsec",
        ]
    );
    for (name, mode) in &tree {
        assert_eq!(*mode, if dir.join(name).is_dir() { 0o700 } else { 0o600 }, "{name}");
    }
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    for (one, other) in [
        ("ingest/secrets/edge-1.key", "processor/secrets/edge-1.key"),
        ("ingest/secrets/acme.hmac.s1", "sender/secrets/acme.hmac.s1"),
        ("processor/secrets/acme.k1.key", "sender/secrets/acme.k1.key"),
        ("processor/secrets/sink-main.whsec", "sink/secrets/sink-main.whsec"),
        ("ca/ca.pem", "sender/tls/ca.pem"),
    ] {
        assert_eq!(read(one), read(other));
    }
    // What opens an envelope is nowhere in ingest's part.
    let opens = read("processor/secrets/acme.k1.key");
    for name in files.iter().filter(|name| name.starts_with("ingest/")) {
        assert!(!read(name).contains(opens.trim()), "{name}");
    }
}

#[test]
fn nothing_is_overwritten_and_half_a_deployment_is_no_deployment() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    init(dir, &["--if-missing"]).unwrap();
    let secret = || std::fs::read(dir.join("ingest/secrets/acme.hmac.s1")).unwrap();
    let before = secret();
    assert!(init(dir, &[]).unwrap_err().to_string().contains("nothing was written"));
    init(dir, &["--if-missing"]).unwrap();
    assert_eq!(secret(), before);

    std::fs::remove_file(dir.join(SENDER)).unwrap();
    let error = init(dir, &["--if-missing"]).unwrap_err().to_string();
    assert!(error.contains("sender/sender.toml is missing"), "{error}");
}

#[test]
fn directories_that_are_there_are_used_as_they_are() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    // As mounted volumes are.
    for part in ["ingest", "processor", "sender", "sink", "ca"] {
        std::fs::create_dir(dir.join(part)).unwrap();
    }
    init(dir, &["--if-missing"]).unwrap();
    assert!(is_there(dir).unwrap());
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_written() {
    for bad in [
        &["--url", "http://localhost/webhook"][..],
        &["--url", "https://localhost/webhook?x=1"],
        &["--sink-url", "ftp://sink/"],
        &["--source", "default"],
        &["--host", "no host"],
    ] {
        let temp = tempfile::tempdir().unwrap();
        init(temp.path(), bad).unwrap_err();
        assert_eq!(tree(temp.path()), [], "{bad:?}");
    }
}
