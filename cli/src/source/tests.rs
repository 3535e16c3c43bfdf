use clap::Parser;
use common::clock::Clock;

use super::*;
use crate::deployment::{self, MainSink, Options};
use crate::sender_config::SenderConfig;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

fn add(dir: &Path, words: &[&str]) -> Result<Verdict> {
    let mut line = vec!["source", "add", "--dir", dir.to_str().unwrap()];
    line.extend(words);
    run(&Line::parse_from(line).command)
}

fn deployment() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        source: "acme".parse().unwrap(),
        url: "https://hooks.example:444/webhook".parse().unwrap(),
        hosts: vec!["hooks.example".to_owned()],
        kafka: "127.0.0.1:9092".to_owned(),
        danger_single_broker: true,
        sink: MainSink::File,
        output_topic: Some("events".to_owned()),
    };
    deployment::write(dir.path(), &options, &Clock::system()).unwrap();
    dir
}

fn load(dir: &Path) -> (ingest::Config, processor::config::Config) {
    let ingest = ingest::Config::load(Some(&dir.join(INGEST)), std::iter::empty()).unwrap();
    ingest::check(&ingest).unwrap();
    (ingest, processor::config::Config::load(Some(&dir.join(PROCESSOR)), std::iter::empty()).unwrap())
}

#[test]
fn a_source_is_added_and_every_line_stays() {
    let temp = deployment();
    let dir = temp.path();
    let before: Vec<String> = [INGEST, PROCESSOR].map(|file| read(&dir.join(file)).unwrap()).into();
    assert_eq!(add(dir, &["beta", "--path", "/in/beta"]).unwrap(), Verdict::Good);
    for (before, file) in before.iter().zip([INGEST, PROCESSOR]) {
        let after = read(&dir.join(file)).unwrap();
        let mut rest = after.lines();
        for line in before.lines() {
            assert!(rest.any(|kept| kept == line), "{line:?} is gone or moved in\n{after}");
        }
        assert!(after.contains("\n\n[source.beta]\n"), "{after}");
    }
    let (ingest, processor) = load(dir);
    let beta: SourceId = "beta".parse().unwrap();
    assert_eq!(ingest.source[&beta].path, "/in/beta");
    assert_eq!(processor.source[&beta].sinks, ["main", "out"].map(|sink| sink.parse().unwrap()));

    let sender = SenderConfig::load(Some(&dir.join("sender-beta/sender.toml"))).unwrap();
    assert_eq!((sender.url.as_str(), sender.source.as_str()), ("https://hooks.example:444/in/beta", "beta"));
    sender.sender(sender.client().unwrap(), Clock::system()).unwrap();
    let same = |one: &common::config::SecretFile, other: &common::config::SecretFile| {
        one.load().unwrap().is_same_as(&other.load().unwrap())
    };
    assert!(same(&sender.secret, &ingest.source[&beta].secrets[0].file));
    assert!(same(&sender.key.file, &processor.source[&beta].keys[0].file));
    assert!(!same(&sender.secret, &ingest.source[&"acme".parse::<SourceId>().unwrap()].secrets[0].file));
}

#[test]
fn a_source_that_is_there_is_left_alone() {
    let temp = deployment();
    let dir = temp.path();
    let error = add(dir, &["acme"]).unwrap_err();
    assert!(format!("{error:#}").contains("already"), "{error:#}");
    add(dir, &["beta"]).unwrap();
    assert!(add(dir, &["beta"]).is_err());
    // Secrets of a source that was taken out of the configurations are not overwritten either.
    for file in [INGEST, PROCESSOR] {
        let mut document = parse(&dir.join(file)).unwrap();
        document["source"].as_table_like_mut().unwrap().remove("beta");
        std::fs::write(dir.join(file), document.to_string()).unwrap();
    }
    let error = add(dir, &["beta"]).unwrap_err().to_string();
    assert!(error.contains("nothing was written"), "{error}");
}

#[test]
fn what_would_not_load_changes_nothing() {
    let temp = deployment();
    let dir = temp.path();
    let before: Vec<String> = [INGEST, PROCESSOR].map(|file| read(&dir.join(file)).unwrap()).into();
    let error = add(dir, &["beta", "--sink", "nowhere"]).unwrap_err();
    assert!(format!("{error:#}").contains("nowhere"), "{error:#}");
    let after: Vec<String> = [INGEST, PROCESSOR].map(|file| read(&dir.join(file)).unwrap()).into();
    assert_eq!(before, after);
    assert!(!dir.join("processor/secrets/beta.k1.key").exists());
    assert!(add(dir, &["default"]).is_err());
    assert!(add(&dir.join("nowhere"), &["beta"]).unwrap_err().to_string().contains("sealstream init"));
}

#[test]
fn every_way_to_write_a_source_can_be_added_to() {
    for text in [
        "source.acme.secrets = [{ id = \"s1\", file = \"secrets/acme.hmac.s1\" }]   # kept\n",
        "source = { acme = { secrets = [{ id = \"s1\", file = \"secrets/acme.hmac.s1\" }] } }   # kept\n",
        "[source]\nacme.secrets = [{ id = \"s1\", file = \"secrets/acme.hmac.s1\" }]   # kept\n[log]\nlevel = \"warn\"\n",
        "[source.acme]   # kept\nsecrets = [{ id = \"s1\", file = \"secrets/acme.hmac.s1\" }]\n[log]\nlevel = \"warn\"\n",
    ] {
        let temp = deployment();
        let dir = temp.path();
        let head = "listen = { certificate = \"tls/server.pem\", key = \"tls/server.key\" }\n\
                    pipeline.edge_key = { id = \"edge-1\", file = \"secrets/edge-1.key\" }\n";
        std::fs::write(dir.join(INGEST), format!("{head}{text}")).unwrap();
        add(dir, &["beta"]).unwrap();
        let (ingest, _) = load(dir);
        assert_eq!(ingest.source.len(), 2, "{text}");
        assert!(read(&dir.join(INGEST)).unwrap().contains("# kept"), "{text}");
    }
}
