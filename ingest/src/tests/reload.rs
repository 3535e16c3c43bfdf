//! What a running ingest takes over from its files, when, and what happens when they are wrong.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use common::envelope::Format;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::RwLock;
use tokio_rustls::TlsConnector;

use super::{Ask, Edge, NATIVE, NEXT_EDGE_KEY, NOW_S, OTHER_SECRET, SECOND_SECRET, SECRET, Wire};

const BASE: &str = "listen = { address = \"127.0.0.1:0\", certificate = \"server.pem\", key = \"server.key\" }\n\
    admin.address = \"127.0.0.1:0\"\npipeline.edge_key.file = \"edge-1\"\ndrain.notice = \"1ms\"\n\
    reload.interval = \"0s\"\n";
const ACME: &str = "[source.acme]\nsecrets = [{ id = \"s1\", file = \"acme.s1\" }]\n";

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), content).unwrap();
}

fn configure(dir: &Path, more: &str) {
    write(dir, "ingest.toml", format!("{BASE}{more}"));
}

/// An edge with the source `acme`, which reloads only when it is told to.
async fn start() -> Edge {
    Edge::start_from_file(|dir| configure(dir, ACME)).await
}

fn signed(secret: &[u8]) -> Ask {
    Ask::signed(secret, NOW_S, "application/json", NATIVE)
}

impl Edge {
    async fn reloaded(&self) -> u64 {
        self.running.reload().now().await.unwrap()
    }

    /// Changes the configuration, and lets that take effect.
    async fn configured(&self, more: &str) {
        configure(self.dir.path(), more);
        self.reloaded().await;
    }

    /// The keys that are wrong.
    async fn mistakes(&self) -> Vec<String> {
        match self.running.reload().now().await.unwrap_err() {
            common::reload::ReloadError::Mistakes(mistakes) => {
                mistakes.iter().map(|mistake| mistake.key().to_owned()).collect()
            }
            common::reload::ReloadError::Ended => panic!("it runs"),
        }
    }

    fn reloads(&self, outcome: &str) -> f64 {
        self.metrics.value("ingest_config_reloads_total", &[("outcome", outcome)])
    }

    fn generation(&self) -> f64 {
        self.metrics.value("ingest_config_generation", &[])
    }
}

#[tokio::test]
async fn the_next_request_of_a_kept_connection_is_judged_by_what_is_new() {
    let edge = start().await;
    let dir = edge.dir.path();
    let mut wire = edge.http1().await;
    let mut http2 = edge.http2().await;
    // The change, a request, and its answer before and after.
    let oversized = Ask::native(format!("{NATIVE}{}", " ".repeat(1000)));
    let jwe = Ask::signed(SECRET, NOW_S, Format::Jwe.content_type(), "a.b.c");
    let many = (0..30).fold(Ask::good(), |ask, _| ask.with("x-more", "1"));
    let old = Ask::signed(SECRET, NOW_S - 100, "application/json", NATIVE);
    let table = [
        (
            format!("{ACME}[limits]\nbody_bytes_max = \"1KiB\"\n"),
            oversized,
            (200, "received"),
            (413, "payload_too_large"),
        ),
        (format!("{ACME}formats = [\"native\"]\n"), jwe, (400, "invalid_envelope"), (415, "unsupported_media_type")),
        (format!("{ACME}[limits]\nheader_count_max = 20\n"), many, (200, "received"), (431, "head_too_large")),
        (format!("{ACME}tolerance = \"1m\"\n"), old, (200, "received"), (401, "timestamp_out_of_tolerance")),
        (format!("{ACME}path = \"/new\"\n"), Ask::good(), (200, "received"), (404, "not_found")),
        (
            format!("{ACME}[source.second]\npath = \"/second\"\nsecrets = [{{ id = \"s2\", file = \"acme.s2\" }}]\n"),
            signed(SECOND_SECRET).to("/second"),
            (404, "not_found"),
            (200, "received"),
        ),
        (ACME.replace("acme.s1", "acme.s2"), signed(SECOND_SECRET), (401, "signature_invalid"), (200, "received")),
        (ACME.replace("acme.s1", "acme.s2"), signed(SECRET), (200, "received"), (401, "signature_invalid")),
        (format!("{ACME}enabled = false\n"), Ask::good(), (200, "received"), (401, "signature_invalid")),
        (
            format!("{ACME}[rate]\nrequests_per_minute = 1\nburst = 1\n[limits]\nrequests_in_flight_max = 1\n"),
            Ask::good().method("GET"),
            (405, "method_not_allowed"),
            (405, "method_not_allowed"),
        ),
    ];
    for (more, ask, before, after) in table {
        // Before and after on both connections, unless an answer ends them.
        let closes = [before.0, after.0].iter().any(|status| matches!(status, 413 | 431));
        if closes {
            wire = edge.http1().await;
            http2 = edge.http2().await;
        }
        for reply in [wire.ask(&ask).await, http2.ask(&ask).await] {
            reply.check(before.0, before.1);
        }
        edge.configured(&more).await;
        // The header's number is for the HTTP library too: it knows a connection's own.
        for reply in [wire.ask(&ask).await, http2.ask(&ask).await] {
            reply.check(after.0, after.1);
        }
        if closes {
            wire = edge.http1().await;
            http2 = edge.http2().await;
        }
        edge.configured(ACME).await;
    }

    // The content of a file, its path being the same.
    write(dir, "acme.s1", OTHER_SECRET);
    edge.reloaded().await;
    wire.ask(&signed(SECRET)).await.check(401, "signature_invalid");
    wire.ask(&signed(OTHER_SECRET)).await.check(200, "received");
    write(dir, "acme.s1", SECRET);

    // The key of the records' MACs: the inbox is read with both.
    write(dir, "edge-2", NEXT_EDGE_KEY);
    let base = BASE
        .replace("pipeline.edge_key.file = \"edge-1\"", "pipeline.edge_key = { id = \"edge-2\", file = \"edge-2\" }");
    write(dir, "ingest.toml", format!("{base}{ACME}"));
    edge.reloaded().await;
    wire.ask(&Ask::good()).await.check(200, "received");

    // The rate: a budget that is spent, and one that is larger.
    let rate = |burst| format!("{ACME}[rate]\nrequests_per_minute = 1\nburst = {burst}\n");
    edge.configured(&rate(1)).await;
    wire.ask(&Ask::good()).await.check(200, "received");
    wire.ask(&Ask::good()).await.check(429, "rate_limited");
    edge.configured(&format!("{}[limits]\nuri_bytes_max = 1000\n", rate(1))).await;
    wire.ask(&Ask::good()).await.check(429, "rate_limited");
    edge.configured(&rate(2)).await;
    wire.ask(&Ask::good()).await.check(200, "received");

    // Requests on one connection.
    edge.configured(&format!("{ACME}[limits]\nrequests_per_connection_max = 1\n")).await;
    let reply = wire.ask(&Ask::good()).await;
    reply.check(200, "received");
    assert!(reply.says_close() && wire.ends().await);
    edge.finish().await;
}

#[tokio::test]
async fn caps_are_taken_over_and_end_no_connection() {
    let edge = start().await;
    let (mut one, mut two) = (edge.http1().await, edge.http1().await);
    one.ask(&Ask::good()).await.check(200, "received");
    two.ask(&Ask::good()).await.check(200, "received");
    let refused = |outcome: &'static str| {
        let (edge, before) = (&edge, edge.connection_outcome(outcome));
        async move {
            drop(TcpStream::connect(edge.address()).await.unwrap());
            edge.until("refused", |edge| edge.connection_outcome(outcome) == before + 1.0).await;
        }
    };
    edge.configured(&format!("{ACME}[limits]\nconnections_per_ip_max = 2\n")).await;
    refused("over_network_cap").await;
    edge.configured(&format!("{ACME}[limits]\nconnections_max = 1\n")).await;
    refused("over_cap").await;
    one.ask(&Ask::good()).await.check(200, "received");
    drop(two);
    edge.until("one is left", |edge| edge.metrics.value("ingest_connections_open", &[]) == 1.0).await;
    refused("over_cap").await;
    edge.configured(&format!("{ACME}[limits]\nconnections_max = 2\nhandshakes_max = 1\n")).await;
    edge.http1().await.ask(&Ask::good()).await.check(200, "received");
    one.ask(&Ask::good()).await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_ends_none() {
    let edge = start().await;
    let mut kept = edge.http1().await;
    let certificate = |wire: &Wire<'_>| wire.stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let first = certificate(&kept);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let key = KeyPair::generate().unwrap();
    write(edge.dir.path(), "server.pem", params.self_signed(&key).unwrap().pem());
    write(edge.dir.path(), "server.key", key.serialize_pem());
    edge.reloaded().await;
    let new = edge.http1().await;
    assert_ne!(certificate(&new), first);
    kept.ask(&Ask::good()).await.check(200, "received");
    let expiry =
        edge.metrics.value("ingest_certificate_expiry_timestamp_seconds", &[("certificate", "listen.certificate")]);
    assert_eq!(expiry, 1_893_456_000.0);
    drop((new, kept));
    edge.finish().await;
}

#[tokio::test]
async fn after_any_mistake_everything_stays_as_it_was() {
    let edge = start().await;
    let dir = edge.dir.path();
    let restore = || {
        configure(dir, ACME);
        write(dir, "acme.s1", SECRET);
        write(dir, "acme.s2", SECOND_SECRET);
        write(dir, "edge-1", super::EDGE_KEY);
    };
    let (certificate, key) =
        (std::fs::read(dir.join("server.pem")).unwrap(), std::fs::read(dir.join("server.key")).unwrap());
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut expired = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    expired.not_after = rcgen::date_time_ymd(2023, 1, 1);
    let expired_key = KeyPair::generate().unwrap();
    let expired = expired.self_signed(&expired_key).unwrap().pem();
    let expired_key = expired_key.serialize_pem();
    // Each time the second secret would be accepted if anything of it took effect.
    let both = ACME.replace("}]", "}, { id = \"s2\", file = \"acme.s2\" }]");
    type Break<'a> = Box<dyn Fn() + 'a>;
    let breaks: Vec<(&str, Break<'_>)> = vec![
        ("", Box::new(|| write(dir, "ingest.toml", "this is no TOML"))),
        ("", Box::new(|| std::fs::remove_file(dir.join("ingest.toml")).unwrap())),
        ("limits.body_bytes_max", Box::new(|| configure(dir, &format!("{both}[limits]\nbody_bytes_max = 0\n")))),
        ("limits.nonsense", Box::new(|| configure(dir, &format!("{both}[limits]\nnonsense = 0\n")))),
        ("source.acme.secrets[0].file", Box::new(|| write(dir, "acme.s1", "short"))),
        ("source.acme.secrets[1].file", Box::new(|| write(dir, "acme.s2", SECRET))),
        ("source.acme.secrets[1].file", Box::new(|| std::fs::remove_file(dir.join("acme.s2")).unwrap())),
        ("pipeline.edge_key.file", Box::new(|| write(dir, "edge-1", "hex:nope"))),
        ("listen", Box::new(|| write(dir, "server.pem", "no PEM"))),
        ("listen", Box::new(|| write(dir, "server.key", stranger.signing_key.serialize_pem()))),
        (
            "listen.certificate",
            Box::new(|| {
                write(dir, "server.pem", &expired);
                write(dir, "server.key", &expired_key);
            }),
        ),
        (
            "listen",
            Box::new(|| {
                let base = BASE.replace("server.key\" }", "server.key\", client_ca = \"acme.s1\" }");
                write(dir, "ingest.toml", format!("{base}{both}"));
            }),
        ),
    ];
    let mut wire = edge.http1().await;
    let count = breaks.len() as f64;
    for (key_told, break_it) in breaks {
        restore();
        configure(dir, &both);
        write(dir, "server.pem", &certificate);
        write(dir, "server.key", &key);
        break_it();
        let told = edge.mistakes().await;
        assert!(told.iter().any(|told| told == key_told), "{key_told:?} in {told:?}");
        wire.ask(&Ask::good()).await.check(200, "received");
        wire.ask(&signed(SECOND_SECRET)).await.check(401, "signature_invalid");
        // The client trusts what lies there.
        write(dir, "server.pem", &certificate);
        edge.http1().await.ask(&Ask::good()).await.check(200, "received");
    }
    assert_eq!((edge.generation(), edge.reloads("applied"), edge.reloads("failed")), (1.0, 0.0, count));
    restore();
    configure(dir, &both);
    write(dir, "server.pem", &certificate);
    write(dir, "server.key", &key);
    assert_eq!(edge.reloaded().await, 2);
    wire.ask(&signed(SECOND_SECRET)).await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn what_needs_a_start_is_told_and_the_rest_takes_effect() {
    let edge = start().await;
    let address = edge.address();
    let waiting = |edge: &Edge| edge.metrics.value("ingest_config_restart_needed", &[]);
    assert_eq!(waiting(&edge), 0.0);
    let base = BASE.replace("127.0.0.1:0", "127.0.0.1:1").replace("notice = \"1ms\"", "notice = \"2ms\"");
    let more = "[topics]\nprefix = \"elsewhere\"\n[publish]\nlinger = \"2ms\"\n[log]\nlevel = \"debug\"\n";
    write(edge.dir.path(), "ingest.toml", format!("{base}{}{more}", ACME.replace("acme.s1", "acme.s2")));
    edge.reloaded().await;
    assert_eq!(waiting(&edge), 6.0, "listen.address, admin.address, drain, topics.prefix, publish, log");
    assert_eq!(edge.address(), address);
    edge.check(&signed(SECOND_SECRET), 200, "received").await;
    edge.configured(ACME).await;
    assert_eq!(waiting(&edge), 0.0);
    edge.finish().await;
}

#[tokio::test]
async fn what_is_used_up_stays_so_until_its_limit_is_another() {
    let edge = start().await;
    let limits = |of_source: u32, of_failures: u32, more: &str| {
        format!(
            "{ACME}requests_per_second = 1\nburst = {of_source}\n\
             [limits]\nfailed_authentications_burst = {of_failures}\n{more}"
        )
    };
    edge.configured(&limits(1, 1, "")).await;
    let mut wire = edge.http1().await;
    let forged = signed(b"nobody-has-this-secret");
    wire.ask(&Ask::good()).await.check(200, "received");
    wire.ask(&forged).await.check(401, "signature_invalid");
    for more in ["", "uri_bytes_max = 1000\n", ""] {
        edge.configured(&limits(1, 1, more)).await;
        wire.ask(&Ask::good()).await.check(429, "source_rate_limited");
        wire.ask(&forged).await.check(429, "rate_limited");
    }
    // Where the source's requests come is no matter, nor by which secret.
    let moved = limits(1, 1, "").replace("burst = 1\n[", "burst = 1\npath = \"/new\"\n[").replace("acme.s1", "acme.s2");
    edge.configured(&moved).await;
    wire.ask(&signed(SECOND_SECRET).to("/new")).await.check(429, "source_rate_limited");
    edge.configured(&limits(2, 1, "")).await;
    wire.ask(&Ask::good()).await.check(200, "received");
    wire.ask(&forged).await.check(429, "rate_limited");
    edge.configured(&limits(2, 2, "")).await;
    wire.ask(&Ask::good()).await.check(200, "received");
    wire.ask(&Ask::good()).await.check(429, "source_rate_limited");
    wire.ask(&forged).await.check(401, "signature_invalid");
    drop(wire);
    edge.finish().await;
}

#[tokio::test]
async fn whom_a_client_is_may_be_told_anew() {
    let edge = start().await;
    let with = |listen: &str| {
        let base = BASE.replace("server.key\" }", &format!("server.key\"{listen} }}"));
        write(edge.dir.path(), "ingest.toml", format!("{base}{ACME}[rate]\nrequests_per_minute = 1\nburst = 1\n"));
    };
    with("");
    edge.reloaded().await;
    let mut wire = edge.http1().await;
    let for_another = Ask::good().with("x-forwarded-for", "192.0.2.7");
    wire.ask(&Ask::good()).await.check(200, "received");
    wire.ask(&for_another).await.check(429, "rate_limited");
    with(", forwarded.trusted = [\"127.0.0.1/32\"]");
    edge.reloaded().await;
    wire.ask(&for_another).await.check(200, "received");
    wire.ask(&for_another).await.check(429, "rate_limited");
    // Connections that begin later need a header, and those there are go on.
    with(", proxy_protocol.trusted = [\"127.0.0.1/32\"]");
    edge.reloaded().await;
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    stream.write_all(b"\x16\x03\x01 not a header").await.unwrap();
    edge.until("it is closed", |edge| edge.connection_outcome("proxy_header_invalid") == 1.0).await;
    wire.ask(&for_another).await.check(429, "rate_limited");
    drop(wire);
    edge.finish().await;
}

#[tokio::test]
async fn a_limit_that_nodes_share_is_set_up_at_the_start() {
    // Nobody listens there: each node goes on by itself.
    let rate = |store: &str, burst: u32, more: &str| {
        format!(
            "{ACME}[rate]\nrequests_per_minute = 1\nburst = {burst}\nstore = \"{store}\"\n\
             redis = {{ address = \"127.0.0.1:1\"{more} }}\n"
        )
    };
    let edge = Edge::start_from_file(|dir| {
        write(dir, "redis", "the-password");
        configure(dir, &rate("redis", 1, ", password_file = \"redis\""));
    })
    .await;
    let waiting = |edge: &Edge| edge.metrics.value("ingest_config_restart_needed", &[]);
    let mut wire = edge.http1().await;
    wire.ask(&Ask::good()).await.check(200, "received");
    wire.ask(&Ask::good()).await.check(429, "rate_limited");
    for (store, burst) in [("redis", 2), ("memory", 1), ("memory", 2)] {
        edge.configured(&rate(store, burst, ", password_file = \"redis\"").replace("acme.s1", "acme.s2")).await;
        assert_eq!(waiting(&edge), 1.0, "{store} {burst}");
        wire.ask(&signed(SECOND_SECRET)).await.check(429, "rate_limited");
    }
    // The password may be another: it is read with everything else.
    let same = rate("redis", 1, ", password_file = \"redis\"");
    write(edge.dir.path(), "redis", "the-next-password");
    edge.configured(&same).await;
    assert_eq!(waiting(&edge), 0.0);
    std::fs::remove_file(edge.dir.path().join("redis")).unwrap();
    assert_eq!(edge.mistakes().await, ["rate.redis.password_file"]);
    wire.ask(&Ask::good()).await.check(429, "rate_limited");
    drop(wire);
    edge.finish().await;

    let alone = Edge::start_from_file(|dir| configure(dir, &rate("memory", 1, ""))).await;
    alone.configured(&rate("redis", 1, "")).await;
    assert_eq!(waiting(&alone), 1.0);
    alone.configured(&rate("memory", 2, "")).await;
    assert_eq!(waiting(&alone), 0.0);
    alone.finish().await;
}

#[tokio::test]
async fn a_secret_is_accepted_in_its_period_only() {
    let edge = start().await;
    let (first, over) = ("2023-11-14T22:15:00Z", "2023-11-14T22:16:00Z");
    let (first_s, over_s) = (1_700_000_100, 1_700_000_160);
    let two = format!(
        "[source.acme]\nsecrets = [{{ id = \"s1\", file = \"acme.s1\", not_after = {over} }}, \
         {{ id = \"s2\", file = \"acme.s2\", not_before = {first} }}]\n"
    );
    edge.configured(&two).await;
    let (one, two) = (signed(SECRET), signed(SECOND_SECRET));
    let mut wire = edge.http1().await;
    for (now_s, first_is, second_is) in [
        (NOW_S, true, false),
        (first_s - 1, true, false),
        (first_s, true, true),
        (over_s - 1, true, true),
        (over_s, false, true),
        (over_s + 60, false, true),
    ] {
        edge.clock.set_unix_ms(now_s * 1000);
        for (ask, is_accepted) in [(&one, first_is), (&two, second_is)] {
            let (status, code) = if is_accepted { (200, "received") } else { (401, "signature_invalid") };
            wire.ask(ask).await.check(status, code);
        }
        // With both signatures it is enough that one is by a secret in its period.
        let [old, new] = [&one, &two].map(|ask| String::from_utf8(ask.value("x-webhook-signature").to_vec()).unwrap());
        wire.ask(&one.clone().set("x-webhook-signature", format!("{old},{new}"))).await.check(200, "received");
    }
    edge.finish().await;
}

#[tokio::test]
async fn kubernetes_swaps_a_mounted_secret() {
    let volume = |dir: &Path, name: &str, secret: &[u8]| {
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("hmac"), secret).unwrap();
    };
    let edge = Edge::start_from_file(|dir| {
        volume(dir, "..2026_01", SECRET);
        symlink("..2026_01", dir.join("..data")).unwrap();
        symlink("..data/hmac", dir.join("hmac")).unwrap();
        let base = BASE.replace("interval = \"0s\"", "interval = \"20ms\"");
        write(dir, "ingest.toml", format!("{base}{}", ACME.replace("acme.s1", "hmac")));
    })
    .await;
    edge.check(&signed(SECRET), 200, "received").await;
    let dir = edge.dir.path();
    volume(dir, "..2026_02", SECOND_SECRET);
    symlink("..2026_02", dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    edge.until("the swap is seen", |edge| edge.generation() == 2.0).await;
    edge.check(&signed(SECOND_SECRET), 200, "received").await;
    edge.check(&signed(SECRET), 401, "signature_invalid").await;
    edge.finish().await;
}

#[tokio::test]
async fn a_request_under_way_is_judged_by_what_is_in_effect_when_its_body_is_complete() {
    let edge = start().await;
    let both = ACME.replace("}]", "}, { id = \"s2\", file = \"acme.s2\" }]");
    edge.configured(&both).await;
    let mut waiting = Vec::new();
    for secret in [SECRET, SECOND_SECRET, OTHER_SECRET] {
        let request = signed(secret).to_http1();
        let (begin, end) = request.split_at(request.len() - 10);
        let mut wire = edge.http1().await;
        wire.send(begin).await;
        waiting.push((wire, end.to_vec()));
    }
    edge.until("all are under way", |edge| edge.metrics.value("ingest_requests_in_flight", &[]) == 3.0).await;
    // Retires the first, keeps the second, adds the third.
    let next = both.replace("acme.s1", "other.s1");
    edge.configured(&next).await;
    let answers = [(401, "signature_invalid"), (200, "received"), (200, "received")];
    for ((mut wire, end), (status, code)) in waiting.into_iter().zip(answers) {
        wire.write(&end).await;
        wire.reply().await.check(status, code);
    }
    // Its path is gone meanwhile.
    let request = signed(SECOND_SECRET).to_http1();
    let (begin, end) = request.split_at(request.len() - 10);
    let mut wire = edge.http1().await;
    wire.send(begin).await;
    edge.until("it is under way", |edge| edge.metrics.value("ingest_requests_in_flight", &[]) == 1.0).await;
    edge.configured(&format!("{next}path = \"/new\"\n")).await;
    wire.write(end).await;
    wire.reply().await.check(401, "signature_invalid");
    edge.finish().await;
}

/// Reloads of the test below.
const ROUNDS: u64 = 1000;

/// The secret of a round: the one before it is retired in this round, the one after it begins to be accepted.
fn secret_of(round: u64) -> Vec<u8> {
    format!("secret-of-round-{round:06}").into_bytes()
}

/// What the senders of the test below share.
#[derive(Default)]
struct Rotation {
    /// The round whose secret senders use.
    in_use: AtomicU64,
    /// Held by those who use the secret of an even and of an odd round.
    users: [RwLock<()>; 2],
    /// The latest round whose secret is retired, and its swap done.
    retired: AtomicU64,
    over: AtomicBool,
    good: AtomicUsize,
    refused: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reloads_under_load_fail_no_good_request_and_accept_no_retired_secret() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let certificates: Vec<(String, String)> = (0..4)
        .map(|_| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            (params.signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
        })
        .collect();
    // In round r the secrets of r and r + 1 are accepted.
    let rotate = |dir: &Path, round: u64| {
        let (certificate, key) = &certificates[usize::try_from(round).unwrap() % certificates.len()];
        write(dir, "server.pem", certificate);
        write(dir, "server.key", key);
        write(dir, "acme.s1", secret_of(round));
        write(dir, "acme.s2", secret_of(round + 1));
    };
    let both = ACME.replace("}]", "}, { id = \"s2\", file = \"acme.s2\" }]");
    let edge = Edge::start_from_file(|dir| {
        configure(dir, &both);
        rotate(dir, 1);
    })
    .await;

    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(common::tls::provider())
        .with_protocol_versions(&common::tls::VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(tls));
    let rotation = Rotation { in_use: AtomicU64::new(1), ..Rotation::default() };

    let connect = async || {
        let stream = TcpStream::connect(edge.address()).await.unwrap();
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        Wire { edge: &edge, stream, received: Vec::new() }
    };
    let good = async || {
        while !rotation.over.load(Ordering::SeqCst) {
            let mut wire = connect().await;
            for _ in 0..5 {
                let round = rotation.in_use.load(Ordering::SeqCst);
                let _using = rotation.users[usize::try_from(round % 2).unwrap()].read().await;
                if rotation.in_use.load(Ordering::SeqCst) != round {
                    continue;
                }
                wire.ask(&signed(&secret_of(round))).await.check(200, "received");
                rotation.good.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let bad = async || {
        while !rotation.over.load(Ordering::SeqCst) {
            let mut wire = connect().await;
            for _ in 0..100 {
                let round = rotation.retired.load(Ordering::SeqCst);
                wire.ask(&signed(&secret_of(round))).await.check(401, "signature_invalid");
                rotation.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let rotator = async {
        for round in 2..2 + ROUNDS {
            // The senders change first, to a secret that is accepted before and after; then the old one is retired.
            rotation.in_use.store(round, Ordering::SeqCst);
            drop(rotation.users[usize::try_from((round - 1) % 2).unwrap()].write().await);
            rotate(edge.dir.path(), round);
            assert_eq!(edge.reloaded().await, round);
            rotation.retired.store(round - 1, Ordering::SeqCst);
        }
        rotation.over.store(true, Ordering::SeqCst);
    };
    tokio::join!(rotator, good(), good(), good(), bad());

    let (good, refused) = (rotation.good.into_inner(), rotation.refused.into_inner());
    println!("{ROUNDS} reloads, {good} good requests, {refused} by a retired secret");
    assert!(good as u64 >= ROUNDS && refused as u64 >= ROUNDS, "there was load: {good} good ones, {refused} refused");
    assert_eq!(edge.outcome("received"), good as f64);
    assert_eq!(edge.outcome("signature_invalid"), refused as f64);
    assert_eq!((edge.generation(), edge.reloads("failed")), ((1 + ROUNDS) as f64, 0.0));
    edge.finish().await;
}
