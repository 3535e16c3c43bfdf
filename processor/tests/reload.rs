//! A running processor whose keys, sources and sink secrets change, on the in-process Kafka with an HTTP sink.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::clock::Clock;
use common::kafka::embedded::EmbeddedKafka;
use common::kafka::producer::{Outgoing, Producer, ProducerSettings};
use common::record::{Head, RecordKey, RecordKeys};
use common::secret::Secret;
use common::shutdown::Group;
use common::standard_webhooks::{SigningKey, sign};
use common::telemetry::{Metrics, install_metrics};
use common::topics::Topic;
use open::{Key, seal_native};
use processor::config::Config;
use processor::{Deps, start_from};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const FIRST_WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECOND_WHSEC: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

/// What a delivery brought: its id, its time, its signature and its body.
type Delivery = (String, u64, String, String);

/// A sink that takes everything, one request per connection.
async fn sink(group: &Group) -> (u16, Arc<Mutex<Vec<Delivery>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen: Arc<Mutex<Vec<Delivery>>> = Arc::default();
    let (notes, token) = (seen.clone(), group.token());
    group.spawn("sink", async move {
        while let Some(Ok((mut stream, _))) = token.run_until_cancelled(listener.accept()).await {
            let mut request = String::new();
            let (head, body) = loop {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                request.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
                let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
                if body.len() == header(head, "content-length").parse::<usize>().unwrap() {
                    break (head, body);
                }
            };
            let (id, signature) = (header(head, "webhook-id"), header(head, "webhook-signature"));
            let time = header(head, "webhook-timestamp").parse().unwrap();
            notes.lock().unwrap().push((id, time, signature, body.to_owned()));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
    (port, seen)
}

fn header(head: &str, name: &str) -> String {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next().unwrap()
}

/// The keys that a configuration has, each list in order, and its sources.
struct Configured<'a> {
    edge: &'a [&'a str],
    core: &'a [&'a str],
    id: &'a [&'a str],
    opening: &'a [&'a str],
    sources: &'a [&'a str],
}

fn configure(dir: &Path, bootstrap: &str, sink: u16, configured: &Configured<'_>) {
    let list = |ids: &[&str]| {
        let entries: Vec<String> = ids.iter().map(|id| format!("{{ id = \"{id}\", file = \"{id}\" }}")).collect();
        format!("[{}]", entries.join(", "))
    };
    let Configured { edge, core, id, opening, sources } = configured;
    let mut text = format!(
        "admin.address = \"127.0.0.1:0\"\ndata.dir = \"data\"\nreload.interval = \"0s\"\nkafka.bootstrap = \"{bootstrap}\"\n\
         topics = {{ partitions = 4, danger_embedded = true, danger_single_broker = true }}\n\
         pipeline = {{ edge_keys = {}, core_keys = {}, id_keys = {} }}\n\
         sink.main = {{ url = \"http://127.0.0.1:{sink}/\", secret = \"whsec\", danger_plain_http = true }}\n",
        list(edge),
        list(core),
        list(id)
    );
    for source in *sources {
        text += &format!("source.{source} = {{ keys = {} }}\n", list(opening));
    }
    std::fs::write(dir.join("processor.toml"), text).unwrap();
}

/// Publishes as ingest does, with one edge key and one sealing key.
async fn publish(producer: &Producer, edge: &str, opening: &str, source: &str, event: &str) {
    let secret = |id: &str| Secret::from(format!("{id:-<32}").into_bytes());
    let keys = RecordKeys::new(vec![RecordKey::new(edge.parse().unwrap(), &secret(edge))]).unwrap();
    let key = Key::try_from(&secret(opening)).unwrap();
    let body = seal_native(&key, format!("{{\"id\":\"{event}\"}}").as_bytes()).unwrap().body;
    let head = Head {
        source: source.parse().unwrap(),
        received_ms: Clock::system().unix_ms(),
        timestamp: "1700000000".into(),
        traceparent: None,
        identity: None,
        retry: None,
        redriven_ms: None,
    };
    let headers = keys.seal(&Topic::Inbox, &head, &body);
    let record = Outgoing { topic: "sealstream.inbox", partition: None, key: None, value: &body };
    producer.send(record, headers.iter()).unwrap().await.unwrap();
}

async fn until(what: &str, metrics: &Metrics, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    waited.unwrap_or_else(|_| panic!("{what}\n{}", metrics.render()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_rotates_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for id in ["edge-1", "edge-2", "core-1", "core-2", "id-1", "id-2", "k1", "k2"] {
        std::fs::write(dir.path().join(id), format!("{id:-<32}")).unwrap();
    }
    std::fs::write(dir.path().join("whsec"), FIRST_WHSEC).unwrap();
    let roles = ["inbox", "events", "dead", "retry.main.10s", "retry.main.1m", "retry.main.10m", "retry.main.1h"];
    let names: Vec<String> = roles.iter().map(|role| format!("sealstream.{role}")).collect();
    let kafka = EmbeddedKafka::start(names.iter().map(|name| (&**name, 4))).unwrap();
    let bootstrap = kafka.config().bootstrap;
    let group = Group::new();
    let (port, seen) = sink(&group).await;
    let mut now =
        Configured { edge: &["edge-1"], core: &["core-1"], id: &["id-1"], opening: &["k1"], sources: &["acme"] };
    let configured = |now: &Configured<'_>| configure(dir.path(), &bootstrap, port, now);
    configured(&now);

    let file = dir.path().join("processor.toml");
    let load = move || Ok((Config::load(Some(&file), std::iter::empty())?, vec![file.clone()]));
    let metrics = install_metrics();
    let running = start_from(load, Deps::system(metrics.clone())).await.unwrap();
    let producer = Producer::new(&kafka.config(), &ProducerSettings::default()).unwrap();
    let count = |labels: &[(&str, &str)]| metrics.value("processor_records_total", labels);
    let delivered = async |events: usize| {
        let count = || count(&[("lane", "events"), ("outcome", "delivered")]) >= events as f64;
        until(&format!("{events} delivered"), &metrics, count).await;
    };
    let dead = async |reason: &str| until(reason, &metrics, || count(&[("reason", reason)]) >= 1.0).await;
    let signed_by = |whsec: &str, event: &str| {
        let key = SigningKey::parse(&Secret::from(whsec.as_bytes().to_vec())).unwrap();
        let seen = seen.lock().unwrap();
        let (id, time, signature, body) = seen.iter().find(|(.., body)| body.contains(event)).unwrap();
        *signature == sign(&key, id, *time, body.as_bytes())
    };

    publish(&producer, "edge-1", "k1", "acme", "evt_1").await;
    delivered(1).await;
    assert!(signed_by(FIRST_WHSEC, "evt_1"));

    // The new ones are known first, and nothing uses them yet.
    now.edge = &["edge-1", "edge-2"];
    now.core = &["core-1", "core-2"];
    now.opening = &["k1", "k2"];
    configured(&now);
    assert_eq!(running.reload().now().await, Ok(2));
    publish(&producer, "edge-2", "k2", "acme", "evt_2").await;
    publish(&producer, "edge-1", "k1", "acme", "evt_3").await;
    delivered(3).await;

    // Then the core key, the id key and the sink's secret are in use.
    now.core = &["core-2", "core-1"];
    now.id = &["id-2", "id-1"];
    std::fs::write(dir.path().join("whsec"), SECOND_WHSEC).unwrap();
    configured(&now);
    assert_eq!(running.reload().now().await, Ok(3));
    publish(&producer, "edge-2", "k2", "acme", "evt_4").await;
    delivered(4).await;
    assert!(signed_by(SECOND_WHSEC, "evt_4") && !signed_by(FIRST_WHSEC, "evt_4"));
    // A repeat of what came under the id key before is one still.
    publish(&producer, "edge-2", "k2", "acme", "evt_1").await;
    until("a repeat", &metrics, || count(&[("lane", "events"), ("outcome", "repeat")]) == 1.0).await;

    // A mistake changes nothing.
    now.edge = &["edge-2"];
    now.opening = &["k2", "absent"];
    configured(&now);
    let error = running.reload().now().await.unwrap_err().to_string();
    assert!(error.starts_with("source.acme.keys: ") && error.contains("absent"), "{error}");
    publish(&producer, "edge-1", "k1", "acme", "evt_5").await;
    delivered(5).await;

    // The old ones are retired, and another source comes.
    now.core = &["core-2"];
    now.id = &["id-2"];
    now.opening = &["k2"];
    now.sources = &["acme", "beta"];
    configured(&now);
    assert_eq!(running.reload().now().await, Ok(4));
    publish(&producer, "edge-2", "k2", "beta", "evt_6").await;
    delivered(6).await;
    publish(&producer, "edge-1", "k2", "acme", "evt_7").await;
    dead("bad_mac").await;
    publish(&producer, "edge-2", "k1", "acme", "evt_8").await;
    dead("open_failed").await;
    assert_eq!(metrics.value("processor_config_restart_needed", &[]), 0.0);

    // What only a start brings into effect is told.
    let text = std::fs::read_to_string(dir.path().join("processor.toml")).unwrap();
    let text = text.replace("partitions = 4", "partitions = 8").replace("/\", secret", "/new\", secret");
    std::fs::write(dir.path().join("processor.toml"), text).unwrap();
    assert_eq!(running.reload().now().await, Ok(5));
    assert_eq!(metrics.value("processor_config_restart_needed", &[]), 2.0, "topics, sink.main");
    publish(&producer, "edge-2", "k2", "acme", "evt_9").await;
    delivered(7).await;

    running.stop().await;
    group.cancel();
    assert!(group.wait(Duration::from_secs(10)).await);
}
