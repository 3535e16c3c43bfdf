use std::fs;
use std::path::Path;

use jiff::civil::date;
use rcgen::date_time_ymd;
use tempfile::TempDir;

use super::*;
use crate::deployment::{self, INGEST, MainSink, Options, PROCESSOR};

/// Nobody listens there.
const CLOSED: &str = "127.0.0.1:1";

fn deployment(sink: MainSink) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        source: "acme".parse().unwrap(),
        url: "https://localhost:8443/webhook".parse().unwrap(),
        hosts: vec!["localhost".to_owned()],
        kafka: CLOSED.to_owned(),
        danger_single_broker: false,
        sink,
        output_topic: None,
    };
    deployment::write(dir.path(), &options, &Clock::system()).unwrap();
    dir
}

async fn findings(dir: &Path, offline: bool) -> Vec<Finding> {
    let (ingest, processor) = (Some(dir.join(INGEST)), Some(dir.join(PROCESSOR)));
    let found = examine(&Args { ingest, processor, offline, json: false }, &Clock::system()).await;
    // Of the machine that this runs on, not of the deployment.
    found.into_iter().filter(|finding| finding.area != "system").collect()
}

fn replace(dir: &Path, file: &str, from: &str, to: &str) {
    let text = fs::read_to_string(dir.join(file)).unwrap();
    assert!(text.contains(from), "{from} is not in\n{text}");
    fs::write(dir.join(file), text.replace(from, to)).unwrap();
}

fn prepend(dir: &Path, file: &str, lines: &str) {
    let text = fs::read_to_string(dir.join(file)).unwrap();
    fs::write(dir.join(file), format!("{lines}\n{text}")).unwrap();
}

fn append(dir: &Path, file: &str, lines: &str) {
    let text = fs::read_to_string(dir.join(file)).unwrap();
    fs::write(dir.join(file), format!("{text}\n{lines}\n")).unwrap();
}

fn certificate(dir: &Path, from: jiff::civil::Date, to: jiff::civil::Date) {
    let day = |date: jiff::civil::Date| {
        date_time_ymd(date.year().into(), date.month().cast_unsigned(), date.day().cast_unsigned())
    };
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (day(from), day(to));
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(dir.join("ingest/tls/server.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.join("ingest/tls/server.key"), key.serialize_pem()).unwrap();
}

/// A way to break a deployment, and the finding that must come of it: its level, its area, a part of what is found and a part
/// of the remedy.
type Row = (&'static str, fn(&Path), Level, &'static str, &'static str, &'static str);

use Level::{Look, Wrong};

/// What shows in the files.
const OFFLINE: &[Row] = &[
    (
        "a line that is no TOML",
        |dir| prepend(dir, INGEST, "limits = ["),
        Wrong,
        "ingest",
        "ingest.toml:",
        "mend the file",
    ),
    (
        "a key that does not exist",
        |dir| prepend(dir, INGEST, "limits.body_max = 1"),
        Wrong,
        "ingest",
        "limits.body_max",
        "docs/configuration.md",
    ),
    (
        "a value that is out of range",
        |dir| prepend(dir, PROCESSOR, "dedup.window = \"900d\""),
        Wrong,
        "processor",
        "dedup.window",
        "correct dedup.window",
    ),
    (
        "no certificate",
        |dir| fs::remove_file(dir.join("ingest/tls/server.pem")).unwrap(),
        Wrong,
        "ingest",
        "server.pem",
        "put the file there",
    ),
    (
        "a key of another certificate",
        |dir| {
            fs::write(dir.join("ingest/tls/server.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
        },
        Wrong,
        "ingest",
        "cannot be used",
        "must be a pair",
    ),
    (
        "a certificate that has expired",
        |dir| certificate(dir, date(2001, 1, 1), date(2002, 1, 1)),
        Wrong,
        "ingest",
        "has expired",
        "renew the certificate",
    ),
    (
        "a certificate of tomorrow",
        |dir| certificate(dir, date(2090, 1, 1), date(2091, 1, 1)),
        Wrong,
        "ingest",
        "is valid only in",
        "set this machine's clock",
    ),
    (
        "a certificate that ends soon",
        |dir| certificate(dir, date(2001, 1, 1), in_days(3)),
        Look,
        "ingest",
        "ends in ",
        "renew it now",
    ),
    (
        "no secret",
        |dir| fs::remove_file(dir.join("ingest/secrets/acme.hmac.s1")).unwrap(),
        Wrong,
        "ingest",
        "acme.hmac.s1",
        "put the file there",
    ),
    (
        "an empty secret",
        |dir| fs::write(dir.join("ingest/secrets/acme.hmac.s1"), "").unwrap(),
        Wrong,
        "ingest",
        "is empty",
        "rotate add",
    ),
    (
        "a sealing key of another length",
        |dir| fs::write(dir.join("processor/secrets/acme.k1.key"), "hex:00").unwrap(),
        Wrong,
        "processor",
        "acme",
        "rotate add",
    ),
    (
        "a secret that all can read",
        |dir| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(dir.join("processor/secrets/core-1.key"), fs::Permissions::from_mode(0o644)).unwrap();
        },
        Look,
        "processor",
        "core-1.key can be read by every user",
        "chmod 0600",
    ),
    (
        "an edge key that the processor does not have",
        |dir| replace(dir, PROCESSOR, "id = \"edge-1\"", "id = \"edge-0\""),
        Wrong,
        "both",
        "edge-1 is not among",
        "rotate add edge",
    ),
    (
        "an edge key with other bytes",
        |dir| fs::write(dir.join("processor/secrets/edge-1.key"), format!("hex:{}", "17".repeat(32))).unwrap(),
        Wrong,
        "both",
        "is not the same bytes",
        "copy the file",
    ),
    (
        "a source that the processor does not have",
        |dir| replace(dir, PROCESSOR, "[source.acme]", "[source.beta]"),
        Wrong,
        "both",
        "source acme is accepted",
        "sealstream source add",
    ),
    (
        "a source that ingest does not have",
        |dir| append(dir, PROCESSOR, "[source.beta]\nkeys = [{ id = \"k1\", file = \"secrets/acme.k1.key\" }]"),
        Look,
        "both",
        "accepts nothing of it",
        "add the source to ingest",
    ),
    (
        "two prefixes",
        |dir| prepend(dir, INGEST, "topics.prefix = \"other\""),
        Wrong,
        "both",
        "topics.prefix is other",
        "the same topics.prefix",
    ),
    (
        "two clusters",
        |dir| replace(dir, INGEST, CLOSED, "127.0.0.1:2"),
        Look,
        "both",
        "kafka.bootstrap is 127.0.0.1:2",
        "the same brokers",
    ),
    (
        "a window that a recorded request outlives",
        |dir| {
            prepend(dir, PROCESSOR, "dedup.window = \"1m\"");
        },
        Wrong,
        "both",
        "dedup.window is 60 s",
        "twice the tolerance",
    ),
    (
        "a secret that opens envelopes at the edge",
        |dir| _ = fs::copy(dir.join("processor/secrets/acme.k1.key"), dir.join("ingest/secrets/acme.hmac.s1")).unwrap(),
        Wrong,
        "both",
        "could read payloads",
        "another secret for signing",
    ),
    (
        "a data directory that is a file",
        |dir| fs::write(dir.join("processor/data"), "").unwrap(),
        Wrong,
        "processor",
        "is no directory",
        "make a directory",
    ),
    (
        "one broker",
        |dir| prepend(dir, PROCESSOR, "topics.danger_single_broker = true"),
        Look,
        "processor",
        "is on one disk",
        "three brokers",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_good_deployment_has_nothing_to_tell() {
    let dir = deployment(MainSink::File);
    assert_eq!(findings(dir.path(), true).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_deployment_is_named_with_its_remedy() {
    for (what, break_it, level, area, found, remedy) in OFFLINE {
        let dir = deployment(MainSink::File);
        break_it(dir.path());
        let findings = findings(dir.path(), true).await;
        assert!(is_told(&findings, *level, area, found, remedy), "{what}: {findings:#?}");
        let wrong = findings.iter().filter(|finding| finding.level == Wrong).count();
        assert_eq!(wrong > 0, *level == Wrong, "{what}: {findings:#?}");
    }
}

fn is_told(findings: &[Finding], level: Level, area: &str, found: &str, remedy: &str) -> bool {
    let is = |finding: &&Finding| (finding.level, finding.area) == (level, area);
    findings.iter().filter(is).any(|finding| finding.found.contains(found) && finding.remedy.contains(remedy))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_reached_is_named_with_its_remedy() {
    let dir = deployment(MainSink::Http(format!("http://{CLOSED}/in").parse().unwrap()));
    let redis = format!("[rate]\nrequests_per_minute = 60\nstore = \"redis\"\nredis = {{ address = \"{CLOSED}\" }}\n");
    append(dir.path(), INGEST, &redis);
    let findings = findings(dir.path(), false).await;
    for (area, found, remedy) in [
        ("kafka", "ingest does not reach Kafka at 127.0.0.1:1", "whether the brokers run"),
        ("kafka", "the processor does not reach Kafka", "whether the brokers run"),
        ("redis", "cannot connect", "whether Redis runs"),
        ("sink", "sink.main.url http://127.0.0.1:1/in", "whether it runs"),
    ] {
        assert!(is_told(&findings, Wrong, area, found, remedy), "{area}, {found}: {findings:#?}");
    }
    assert!(is_told(&findings, Look, "processor", "danger_plain_http", "https://"), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_with_a_certificate_of_nobody_is_named() {
    let (sink, serving) = stranger().await;
    let dir = deployment(MainSink::Http(sink.parse().unwrap()));
    let findings = tokio::select! {
        findings = findings(dir.path(), false) => findings,
        () = serving => unreachable!("it serves for ever"),
    };
    assert!(is_told(&findings, Wrong, "sink", "UnknownIssuer", "sink.main.ca"), "{findings:#?}");
}

/// A TLS server whose certificate nobody has signed.
async fn stranger() -> (String, impl Future<Output = ()>) {
    let dir = deployment(MainSink::File);
    let file = |name: &str| dir.path().join("ingest/tls").join(name);
    let config = common::tls::server_config(&file("server.pem"), &file("server.key")).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/in", listener.local_addr().unwrap().port());
    let serve = async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            drop(acceptor.accept(stream).await);
        }
    };
    (url, serve)
}

fn in_days(days: i64) -> jiff::civil::Date {
    let now = i64::try_from(Clock::system().unix_s()).unwrap();
    let then = jiff::Timestamp::from_second(now + days * 24 * 3600).unwrap();
    jiff::tz::Offset::UTC.to_datetime(then).date()
}
