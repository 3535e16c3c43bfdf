//! A whole processor on the in-process Kafka: router, deliverer and a file sink, fed with records as ingest makes them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use common::clock::Clock;
use common::envelope::JweHeader;
use common::kafka::embedded::EmbeddedKafka;
use common::kafka::producer::{Outgoing, Producer, ProducerSettings};
use common::record::{Head, RecordKey, RecordKeys};
use common::secret::Secret;
use common::telemetry::install_metrics;
use common::topics::Topic;
use open::{Key, seal_jwe, seal_native};
use processor::config::Config;
use processor::{Deps, start};

const KEY: [u8; 32] = [7; 32];

fn configuration(dir: &Path, bootstrap: &str) -> Config {
    for (name, text) in [("edge", "edge secret"), ("core", "core secret"), ("id", "id secret")] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    std::fs::write(dir.join("k1"), KEY).unwrap();
    let text = format!(
        r#"
[admin]
address = "127.0.0.1:0"
[kafka]
bootstrap = "{bootstrap}"
[topics]
partitions = 4
danger_embedded = true
danger_single_broker = true
[data]
dir = "data"
[pipeline]
edge_keys = [{{ id = "edge-1", file = "edge" }}]
core_keys = [{{ id = "core-1", file = "core" }}]
id_keys = [{{ id = "id-1", file = "id" }}]
[source.acme]
keys = [{{ id = "k1", file = "k1" }}]
[sink.main]
kind = "file"
path = "out.jsonl"
"#
    );
    let path = dir.join("processor.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), std::iter::empty()).unwrap()
}

/// Publishes sealed bodies to the inbox as ingest does.
struct Inbox {
    producer: Producer,
    keys: RecordKeys,
    topic: String,
}

impl Inbox {
    fn new(config: &Config) -> Self {
        let key = RecordKey::new("edge-1".parse().unwrap(), &Secret::from(b"edge secret".to_vec()));
        Self {
            producer: Producer::new(&config.kafka, &ProducerSettings::default()).unwrap(),
            keys: RecordKeys::new(vec![key]).unwrap(),
            topic: Topic::Inbox.name(&config.topics.prefix),
        }
    }

    async fn publish(&self, body: &[u8]) {
        let head = Head {
            source: "acme".parse().unwrap(),
            received_ms: Clock::system().unix_ms(),
            timestamp: "1700000000".into(),
            traceparent: None,
            identity: None,
            retry: None,
            redriven_ms: None,
        };
        let headers = self.keys.seal(&Topic::Inbox, &head, body);
        let record = Outgoing { topic: &self.topic, partition: None, key: None, value: body };
        self.producer.send(record, headers.iter()).unwrap().await.unwrap();
    }
}

fn sealed(key: &Key, n: usize) -> Vec<u8> {
    let payload = format!(r#"{{"id":"evt_{n}","type":"order.paid","n":{n}}}"#);
    if n.is_multiple_of(2) {
        return seal_native(key, payload.as_bytes()).unwrap().body;
    }
    let header = JweHeader {
        kid: "k1".parse().unwrap(),
        jti: common::id::EventId::new(format!("evt_{n}")).unwrap(),
        aud: "acme".parse().unwrap(),
        iat: None,
    };
    seal_jwe(key, &header, payload.as_bytes()).unwrap().into_bytes()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Duration::from_secs(30);
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(deadline, waiting).await.unwrap_or_else(|_| panic!("{what}: not within {deadline:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_is_delivered_once_and_garbage_ends_in_dead() {
    const EVENTS: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let prefix = "sealstream";
    let names: Vec<String> =
        ["inbox", "events", "dead", "retry.main.10s", "retry.main.1m", "retry.main.10m", "retry.main.1h"]
            .map(|role| format!("{prefix}.{role}"))
            .to_vec();
    let kafka = EmbeddedKafka::start(names.iter().map(|name| (&**name, 4))).unwrap();
    let config = configuration(dir.path(), &kafka.config().bootstrap);
    let inbox = Inbox::new(&config);
    let metrics = install_metrics();
    let running = start(config, Deps::system(metrics.clone())).await.unwrap();

    let key = Key::try_from(&Secret::from(KEY.to_vec())).unwrap();
    for n in 0..EVENTS {
        inbox.publish(&sealed(&key, n)).await;
        if n.is_multiple_of(5) {
            inbox.publish(&sealed(&key, n)).await;
        }
    }
    let wrong = Key::try_from(&Secret::from(vec![9; 32])).unwrap();
    inbox.publish(&sealed(&wrong, EVENTS)).await;
    inbox.publish(&seal_native(&key, b"{\"no\":\"id\"}").unwrap().body).await;

    let records =
        |lane: &str, outcome: &str| metrics.value("processor_records_total", &[("lane", lane), ("outcome", outcome)]);
    until("repeats recognised", || records("events", "repeat") >= (EVENTS / 5) as f64).await;
    until("all delivered", || records("events", "delivered") >= EVENTS as f64).await;
    until("garbage buried", || records("inbox", "dead") >= 2.0).await;
    running.stop().await;

    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for line in std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((line["source"].as_str(), line["type"].as_str()), (Some("acme"), Some("order.paid")));
        assert_eq!(line["data"]["id"], line["id"]);
        *seen.entry(line["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), EVENTS);
    assert!(seen.values().all(|count| *count == 1));
    assert_eq!(records("inbox", "routed"), (EVENTS + EVENTS / 5) as f64);
    for reason in ["open_failed", "invalid_event_id"] {
        assert_eq!(metrics.value("processor_records_total", &[("reason", reason)]), 1.0, "{reason}");
    }
}
