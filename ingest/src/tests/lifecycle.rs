//! What happens around requests: start, readiness, Kafka's absence, our own bugs, and the orderly end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::clock::Clock;
use common::kafka::embedded::EmbeddedKafka;
use common::shutdown::Group;
use common::telemetry::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Ask, Edge, PARTITIONS, PATIENCE, SECRET, Wire, config_in};
use crate::{Config, Deps, PROBE_INTERVAL_UNREADY, StartError, check, start};

async fn readyz(edge: &Edge) -> String {
    let mut stream = TcpStream::connect(edge.running.admin_addr()).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Sends a request whose answer has to wait, and returns when it has been handed to Kafka.
async fn hanging<'e>(edge: &'e Edge) -> Wire<'e> {
    let bodies = || edge.metrics.value("ingest_body_bytes_count", &[]);
    let before = bodies();
    let mut wire = edge.http1().await;
    wire.send(&Ask::good().to_http1()).await;
    edge.until("the request is under way", |_edge| bodies() == before + 1.0).await;
    wire
}

#[tokio::test]
async fn ready_when_kafka_is_there_and_the_inbox_exists() {
    let kafka = EmbeddedKafka::start([("sealstream.other", 1)]).unwrap();
    let edge = Edge::start().await;
    edge.until("ready", |edge| edge.running.health().ready()).await;
    assert!(readyz(&edge).await.starts_with("HTTP/1.1 200 "));
    edge.finish().await;

    let edge =
        Edge::start_with(|config| config.kafka = common::kafka::client::KafkaConfig::plaintext("127.0.0.1:1")).await;
    let answer = readyz(&edge).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains(r#""kafka":false"#) && answer.contains(r#""tls":true"#), "{answer}");
    edge.group.cancel();
    assert!(edge.group.wait(PATIENCE).await);
    drop(kafka);
}

#[tokio::test]
async fn row_33_without_kafka_nothing_is_accepted_and_it_recovers_by_itself() {
    // The first record waits for the producer's id as well, which the embedded Kafka is slow to give.
    let edge = Edge::start_with(|config| config.publish.ack_deadline = Duration::from_secs(4)).await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.kafka.set_up(false).unwrap();
    edge.check(&Ask::good(), 503, "unavailable").await;
    edge.kafka.set_up(true).unwrap();
    let recovered = timeout(PATIENCE, async { while edge.http1().await.ask(&Ask::good()).await.status != 200 {} });
    recovered.await.expect("Kafka is back");
    // A record whose sender was told 503 may be in the log: whether it is decides nothing here, so it is not counted.
    let received = edge.outcome("received");
    let stored = edge.inbox().len() as f64;
    assert!((received..=received + edge.outcome("unavailable")).contains(&stored), "{stored} of {received}");
    edge.group.cancel();
    assert!(edge.group.wait(PATIENCE).await);
}

#[tokio::test]
async fn row_33_who_may_not_write_to_the_inbox_is_not_ready_though_it_is_there() {
    let edge = Edge::start().await;
    let is_ready = |edge: &Edge| edge.running.health().ready();
    edge.check(&Ask::good(), 200, "received").await;
    edge.until("ready", is_ready).await;
    edge.kafka.deny_records(1);
    edge.http1().await.ask(&Ask::good()).await.check(503, "unavailable");
    edge.until("not ready", |edge| !is_ready(edge)).await;
    assert!(readyz(&edge).await.contains(r#""kafka":false"#));
    // Nobody sends to a node that is not ready, so nothing tells that the right was given but time.
    edge.clock.advance(Duration::from_secs(59));
    let looked = Instant::now();
    edge.until("it looked again", |_edge| looked.elapsed() > 2 * PROBE_INTERVAL_UNREADY).await;
    assert!(!is_ready(&edge));
    edge.clock.advance(Duration::from_secs(1));
    edge.until("ready again", is_ready).await;
    edge.kafka.deny_records(1);
    edge.http1().await.ask(&Ask::good()).await.check(503, "unavailable");
    edge.until("not ready again", |edge| !is_ready(edge)).await;
    // What some sender sends all the same does tell.
    edge.check(&Ask::good(), 200, "received").await;
    edge.until("ready at once", is_ready).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_33_who_may_not_begin_to_write_is_not_ready_until_it_may() {
    let kafka = EmbeddedKafka::start([("sealstream.inbox", PARTITIONS)]).unwrap();
    kafka.deny_producers(true);
    let edge = Edge::start_on(kafka, |_config| {}).await;
    let is_ready = |edge: &Edge| edge.running.health().ready();
    // Nobody has sent anything. Other producers are tried meanwhile, and are not taken for good ones before they are.
    let since = std::cell::Cell::new(Instant::now());
    edge.until("it stays unready", |edge| {
        if is_ready(edge) {
            since.set(Instant::now());
        }
        since.get().elapsed() > 3 * PROBE_INTERVAL_UNREADY
    })
    .await;
    edge.kafka.deny_producers(false);
    edge.until("ready", is_ready).await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_33_full_is_said_at_once() {
    let edge = Edge::start_with(|config| config.limits.requests_in_flight_max = 1).await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.kafka.set_up(false).unwrap();
    let mut first = hanging(&edge).await;
    let [reply, _] = edge.check(&Ask::good(), 503, "unavailable").await;
    assert_eq!(reply.headers["retry-after"], "1");
    edge.kafka.set_up(true).unwrap();
    first.reply().await.check(200, "received");
    edge.check(&Ask::good(), 200, "received").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_33_a_full_queue_is_said_at_once() {
    let edge = Edge::start_with(|config| config.publish.queue_records = 1).await;
    // From the start: a record counts until the library has cleared it away, some time after its acknowledgement.
    edge.kafka.set_up(false).unwrap();
    let mut first = hanging(&edge).await;
    edge.check(&Ask::good(), 503, "unavailable").await;
    edge.kafka.set_up(true).unwrap();
    first.reply().await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn a_sender_that_goes_away_is_counted() {
    let edge = Edge::start().await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.kafka.set_up(false).unwrap();
    let first = hanging(&edge).await;
    drop(first);
    edge.until("counted", |edge| edge.outcome("abandoned") == 1.0).await;
    edge.kafka.set_up(true).unwrap();
    edge.group.cancel();
    assert!(edge.group.wait(PATIENCE).await);
    assert_eq!(edge.inbox().len(), 3, "what was handed over is flushed, though nobody waits for it");
}

#[tokio::test]
async fn row_35_a_bug_is_answered_and_the_process_lives() {
    let edge = Edge::start().await;
    let [http1, _] = edge.check(&Ask::good().with("x-test-panic", "1"), 500, "internal").await;
    assert!(http1.says_close());
    let mut wire = edge.http1().await;
    wire.ask(&Ask::good().with("x-test-panic", "1")).await.check(500, "internal");
    assert!(wire.ends().await);
    edge.check(&Ask::good(), 200, "received").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_34_draining_finishes_what_is_under_way_and_refuses_the_rest() {
    let edge = Edge::start().await;
    edge.check(&Ask::good(), 200, "received").await;
    let (mut kept, mut kept2) = (edge.http1().await, edge.http2().await);
    kept.ask(&Ask::good()).await.check(200, "received");
    kept2.ask(&Ask::good()).await.check(200, "received");
    edge.kafka.set_up(false).unwrap();
    let mut under_way = hanging(&edge).await;

    edge.group.cancel();
    edge.until("it takes no more", |edge| !edge.running.health().ready()).await;
    assert!(readyz(&edge).await.contains(r#""taking_requests":false"#));
    let [new, _] = edge.check(&Ask::good(), 503, "shutting_down").await;
    assert!(new.says_close(), "{new:?}");
    let reply = kept.ask(&Ask::good()).await;
    reply.check(503, "shutting_down");
    assert!(reply.says_close() && kept.ends().await);
    kept2.ask(&Ask::good()).await.check(503, "shutting_down");
    assert!(kept2.ends().await);
    assert!(!edge.group.wait(Duration::from_millis(100)).await, "a request is still under way");

    edge.kafka.set_up(true).unwrap();
    under_way.reply().await.check(200, "received");
    let address = edge.address();
    edge.finish().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
}

/// What a balancer asks.
fn health_check() -> Ask {
    Ask { method: "GET", path: "/healthz".into(), headers: Vec::new(), body: Vec::new() }
}

#[tokio::test]
async fn row_37_a_balancer_is_told_that_it_is_ready() {
    let edge = Edge::start().await;
    edge.until("ready", |edge| edge.running.health().ready()).await;
    edge.check(&health_check(), 200, "healthy").await;
    // Only that: neither another path nor another method, whatever comes with it.
    edge.check(&health_check().to("/healthz/"), 404, "not_found").await;
    edge.check(&Ask::good().to("/healthz"), 404, "not_found").await;
    edge.check(&health_check().to("/healthz?x=1"), 200, "healthy").await;
    // Once draining begins it is told no, while the listener is still there.
    let mut kept = edge.http1().await;
    kept.ask(&Ask::good()).await.check(200, "received");
    edge.kafka.set_up(false).unwrap();
    let mut under_way = hanging(&edge).await;
    edge.group.cancel();
    edge.until("it takes no more", |edge| !edge.running.health().ready()).await;
    kept.ask(&health_check()).await.check(503, "shutting_down");
    edge.kafka.set_up(true).unwrap();
    under_way.reply().await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn row_38_a_balancer_is_told_that_kafka_is_not_reached() {
    let away = |config: &mut Config| config.kafka = common::kafka::client::KafkaConfig::plaintext("127.0.0.1:1");
    let edge = Edge::start_with(away).await;
    let [reply, _] = edge.check(&health_check(), 503, "not_ready").await;
    assert!(!reply.body.contains("kafka"), "what is wrong is nobody's business: {reply:?}");
    edge.group.cancel();
    assert!(edge.group.wait(PATIENCE).await);
}

#[tokio::test]
async fn without_a_health_path_nobody_is_told() {
    let edge = Edge::start_with(|config| config.listen.health_path.clear()).await;
    edge.until("ready", |edge| edge.running.health().ready()).await;
    edge.check(&health_check(), 404, "not_found").await;
    edge.finish().await;
}

#[tokio::test]
async fn draining_has_an_end() {
    let edge = Edge::start_with(|config| config.drain.deadline = Duration::from_millis(500)).await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.kafka.set_up(false).unwrap();
    let mut stuck = hanging(&edge).await;
    let _half = {
        let mut wire = edge.http1().await;
        wire.write(b"POST /webhook HTTP/1.1\r\n").await;
        wire
    };
    edge.group.cancel();
    assert!(edge.group.wait(PATIENCE).await);
    assert!(stuck.try_reply().await.is_none(), "no answer is better than a wrong one");
    assert_eq!(edge.outcome("abandoned"), 1.0);
    assert_eq!(edge.sent.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn every_wrong_file_is_told_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_in(dir.path());
    let write = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content).unwrap();
    write("acme.s1", b"fifteen bytes..");
    write("other.s1", b"second-secret-do-not-use\n");
    write("sealed.s1", b"hex:nope");
    write("edge-1", b"");
    config.listen.key = common::config::ConfigPath::new(dir.path().join("absent"));
    let told = check(&config).unwrap_err().to_string();
    let expect = [
        "pipeline.edge_key.file: the secret in edge-1 is empty",
        "source.acme.secrets[0].file: the secret is shorter than 16 bytes",
        "source.other.secrets[0].file: the secret is the same as that of source.acme.secrets[1].file",
        "source.sealed.secrets[0].file: the secret in sealed.s1 is not what its prefix says, hex",
        "listen: absent holds no readable private key: ",
    ];
    let told = told.replace(&format!("{}/", dir.path().display()), "");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), expect.len(), "{told}");
    for (line, expect) in lines.iter().zip(expect) {
        assert!(line.starts_with(expect), "{line}\n{expect}");
    }
    assert!(!told.contains("fifteen") && !told.contains("nope"), "no secret is echoed");
    let deps = Deps { group: Group::new(), clock: Clock::system(), metrics: Metrics::isolated() };
    assert!(matches!(start(config, deps).await, Err(StartError::Configuration(_))));
}

#[tokio::test]
async fn an_address_in_use_is_told_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let taken_again = std::net::TcpListener::bind(taken.unwrap()).unwrap();
    let try_start = |change: fn(&mut Config, std::net::SocketAddr)| {
        let mut config = config_in(dir.path());
        change(&mut config, taken_again.local_addr().unwrap());
        start(config, Deps { group: Group::new(), clock: Clock::system(), metrics: Metrics::isolated() })
    };
    let error = try_start(|config, address| config.listen.address = address).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { key: "listen.address", .. }), "{error}");
    let error = try_start(|config, address| config.admin.address = address).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { key: "admin.address", .. }), "{error}");
}

#[test]
fn nothing_that_is_printed_shows_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_in(dir.path());
    let shown = format!("{config:?}");
    assert!(!shown.contains(std::str::from_utf8(SECRET).unwrap()));
    assert!(shown.contains("acme.s1"), "the path is no secret");
}
