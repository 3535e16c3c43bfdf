//! Nothing leaks: secrets, payloads, headers and bodies go through every way that a request, an event or a configuration
//! can take, good or bad, with everything logged that any library has to say; then whatever came out is searched for them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use common::record::MAC_HEADER;
use common::signature::{SIGNATURE_HEADER, Timestamp, sign};
use common::topics::Topic;
use http::{HeaderName, HeaderValue};
use sender::Signed;
use serde_json::Value;
use tests::answer::get;
use tests::environment::binary;
use tests::plan::Plan;
use tests::search::Canary;
use tests::sink::{Arrival, Behaviour, Reply};
use tests::stack::Stack;
use tests::topic::Record;
use tests::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::operator::ended;

const DEADLINE: Duration = Duration::from_secs(60);
/// A payload's text, an unsigned header's, and a body's that is no envelope; each is followed by what tells them apart.
const PAYLOAD: &str = "payload-canary";
const HEADER: &str = "header-canary";
const BODY: &str = "plain-body-canary";
/// What somebody with access to Kafka wrote into a record's headers: it lies in the inbox, and so holds none of the others.
const FORGED: &str = "forged-record-canary";

/// What must not come out.
#[derive(Default)]
struct Hidden(Vec<Canary>);

impl Hidden {
    fn add(&mut self, canary: Canary) {
        self.0.push(canary);
    }

    fn assert_absent(&self, place: &str, bytes: &[u8]) {
        for canary in &self.0 {
            if let Some(form) = canary.find(bytes) {
                panic!("{place} holds {} as {form}", canary.text());
            }
        }
    }
}

/// Every file of keys, as it is and as what it stands for.
fn secrets(stack: &Stack) -> Result<Hidden> {
    let mut hidden = Hidden::default();
    for entry in std::fs::read_dir(stack.materials().path("secrets"))? {
        let path = entry?.path();
        let (name, content) = (path.display().to_string(), std::fs::read_to_string(&path)?);
        let text = content.trim_end();
        hidden.add(Canary::of(&name, text.as_bytes()));
        let known = |prefix: &str| text.strip_prefix(prefix);
        let bytes = match (known("hex:"), known("whsec_")) {
            (Some(hex), _) => data_encoding::HEXLOWER.decode(hex.as_bytes())?,
            (None, base64) => data_encoding::BASE64.decode(base64.unwrap_or(text).as_bytes())?,
        };
        hidden.add(Canary::of(&format!("the bytes of {name}"), &bytes));
    }
    let key = std::fs::read_to_string(stack.materials().path("tls/server.key"))?;
    for line in key.lines().filter(|line| !line.starts_with("-----")) {
        hidden.add(Canary::of("the TLS key", line.as_bytes()));
    }
    ensure!(hidden.0.len() >= 14, "{} secrets: they are not where they should be", hidden.0.len());
    Ok(hidden)
}

/// A sink that refuses one event, fails others once or always, and takes the rest.
fn told_by_the_id(arrival: Arrival<'_>) -> Reply {
    match (arrival.event_id.split('-').next(), arrival.attempt) {
        (Some("refused"), _) => Reply::status(400),
        (Some("exhausted"), _) | (Some("retried"), 1) => Reply::status(503),
        _ => Reply::OK,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_metric_answer_or_topic_holds_a_secret_a_payload_a_header_or_a_refused_body() -> Result<()> {
    let plan = Plan::new("leaks").source("acme", &["main", "file"]).http("main", Behaviour::by_rule(told_by_the_id));
    let plan = plan.file("file").attempts_max(2).variable("PROCESSOR__LOG__LEVEL", "trace");
    plan.run(async |stack| {
        // Everything that any library has to say.
        let ingest = stack.ingest(0);
        ingest.stop().await?;
        ingest.set("INGEST__LOG__LEVEL", Some("trace".to_owned()));
        ingest.up().await?;

        let mut hidden = secrets(stack)?;
        for canary in [PAYLOAD, HEADER, BODY] {
            hidden.add(Canary::new(canary));
        }
        let mut said = events(stack, &mut hidden).await?;
        said.extend(refusals(stack, &mut hidden).await?);
        stack.settled().await?;
        ensure!(
            hidden.0.iter().all(|canary| canary.find(FORGED.as_bytes()).is_none()),
            "it would be found in the inbox"
        );
        forge(stack).await?;
        stack.settled().await?;
        said.extend(letters(stack).await?);
        stack.settled().await?;
        said.extend(configurations(stack).await?);

        // What may lie in Kafka sealed, but not in a log: what was signed and sent.
        let mut wire = Hidden::default();
        for record in stack.records(&Topic::Inbox).await? {
            // The forged record's value is shorter than any that is sealed.
            if let Some(start) = record.value.get(..48) {
                wire.add(Canary::of("a sealed body", start));
            }
        }
        for (place, text) in &said {
            hidden.assert_absent(place, text);
        }
        for (place, text) in logs_and_metrics(stack).await? {
            hidden.assert_absent(&place, &text);
            wire.assert_absent(&place, &text);
            ensure!(Canary::new(FORGED).find(&text).is_none(), "{place}");
        }
        let retry = Topic::Retry { sink: "main".parse()?, delay: "1s".parse()? };
        for topic in [Topic::Inbox, Topic::Events, retry, Topic::Dead] {
            let records = stack.records(&topic).await?;
            ensure!(!records.is_empty(), "{} is empty, which proves nothing", topic.role());
            for part in records.iter().flat_map(Record::parts) {
                hidden.assert_absent(&topic.role(), part);
            }
        }
        let forged = Canary::new(FORGED);
        let holds = |records: &[Record]| records.iter().flat_map(Record::parts).any(|part| forged.find(part).is_some());
        ensure!(holds(&stack.records(&Topic::Inbox).await?) && !holds(&stack.records(&Topic::Dead).await?));
        // The same search finds what is there: in the file that a sink writes, and what lies sealed in the log.
        let delivered = std::fs::read(stack.dir().join("out/file.jsonl"))?;
        ensure!(hidden.0.iter().any(|canary| canary.text() == PAYLOAD && canary.find(&delivered).is_some()));
        let inbox = stack.records(&Topic::Inbox).await?;
        ensure!(wire.0.iter().all(|canary| inbox.iter().any(|record| canary.find(&record.value).is_some())));
        Ok(())
    })
    .await
}

/// What was said, and where.
type Said = Vec<(String, Vec<u8>)>;

/// Events of every fate.
async fn events(stack: &Stack, hidden: &mut Hidden) -> Result<Said> {
    let mut said = Said::new();
    for format in [Format::Native, Format::Jwe] {
        for fate in ["good", "good", "retried", "refused", "exhausted", "unopened", "nameless"] {
            let id = format!("{fate}-event-id-canary-{:016x}", getrandom::u64()?);
            let member = if fate == "nameless" { "no-id" } else { "id" };
            let payload = format!(r#"{{"{member}":"{id}","note":"{PAYLOAD}-{fate}"}}"#);
            let mut config = stack.sender_config(0, "acme", format)?;
            if fate == "unopened" {
                config.key = open::Key::try_from(&common::secret::Secret::from(vec![9; 32]))?;
            }
            let client = stack.client_of(config)?;
            let mut signed = client.prepare(&id, payload.as_bytes())?;
            hidden.add(Canary::of("a signature", signed.headers[SIGNATURE_HEADER].as_bytes()));
            crowd(&mut signed)?;
            let answer = client.post(signed).await?;
            ensure!(answer.is_ok(), "{fate}: {answer:?}");
            said.push((format!("the answer to {fate}"), format!("{answer:?}").into_bytes()));
            // That of a JWE is readable in Kafka, as its format has it.
            if format == Format::Native {
                hidden.add(Canary::new(&id));
            }
        }
    }
    Ok(said)
}

/// Adds headers that nobody asked for.
fn crowd(signed: &mut Signed) -> Result<()> {
    for name in ["authorization", "cookie", "x-api-key", "user-agent"] {
        signed.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(&format!("{HEADER}-{name}"))?);
    }
    Ok(())
}

/// Requests that are refused at every stage, over HTTP/1.1 byte by byte, and HTTP/2.
async fn refusals(stack: &Stack, hidden: &mut Hidden) -> Result<Said> {
    let mut said = Said::new();
    let mut codes = BTreeSet::new();
    for (name, request) in requests(stack, hidden)? {
        let answer = exchange(stack, &request).await?;
        let body = answer.split(|&byte| byte == b'{').next_back().unwrap_or_default();
        let body: Value = serde_json::from_slice(&[b"{", body].concat()).unwrap_or_default();
        codes.extend(body["code"].as_str().map(str::to_owned));
        said.push((format!("the answer to {name}"), answer));
    }
    for expected in [
        "bad_host",
        "duplicate_header",
        "invalid_ciphertext",
        "invalid_envelope",
        "invalid_json",
        "invalid_nonce",
        "invalid_timestamp",
        "method_not_allowed",
        "not_found",
        "payload_too_large",
        "signature_invalid",
        "signature_missing",
        "timestamp_out_of_tolerance",
        "unsupported_encoding",
        "unsupported_media_type",
        "unsupported_transfer_encoding",
    ] {
        ensure!(codes.contains(expected), "no request was refused with {expected}: {codes:?}");
    }

    // HTTP/2: a wrong signature, with all its headers.
    let client = stack.client(0, "acme", Format::Native)?;
    let mut signed = client.prepare("evt-http2", format!(r#"{{"note":"{PAYLOAD}-http2"}}"#).as_bytes())?;
    signed.headers.insert(SIGNATURE_HEADER, HeaderValue::from_static("00"));
    crowd(&mut signed)?;
    let answer = client.post(signed).await?;
    ensure!(answer.code == "signature_invalid", "{answer:?}");

    // No TLS, and TLS that is given up at once.
    let mut plain = TcpStream::connect(address(stack)?).await?;
    plain.write_all(format!("GET /?token={HEADER} HTTP/1.1\r\nx: {HEADER}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, plain.read_to_end(&mut answer)).await.context("it is not closed")?.ok();
    said.push(("the answer to plain HTTP".into(), answer));
    let distrusting = ClientConfig::builder_with_provider(common::tls::provider())
        .with_protocol_versions(&common::tls::VERSIONS)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    ensure!(connect(stack, distrusting).await.is_err(), "a client that trusts nobody");
    Ok(said)
}

/// Named requests, whole: each is refused for one reason.
fn requests(stack: &Stack, hidden: &mut Hidden) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let secret = stack.materials().signing_secret("acme")?;
    let now = Timestamp::at(common::clock::Clock::system().unix_s())?;
    let old = Timestamp::at(now.unix_s() - 4000)?;
    let nonce = "AAECAwQFBgcICQoL";
    let plain = format!(r#"{{"id":"1","note":"{BODY}"}}"#);
    let sealed = |encrypted: &str, nonce: &str| format!(r#"{{"encrypted":"{encrypted}","nonce":"{nonce}"}}"#);
    let hex = |body: &str| sign(&secret, &now, body.as_bytes());
    let mut noted = |signature: String| {
        hidden.add(Canary::new(&signature));
        signature
    };
    let right = noted(hex(&plain));
    let late = noted(sign(&secret, &old, plain.as_bytes()));
    // Every request carries what nobody asked for, in its query and its headers.
    let request = |line: &str, headers: &[(&str, &str)], body: &str| {
        let mut text =
            format!("{line}?token={HEADER} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {HEADER}\r\n");
        text += &format!("cookie: session={HEADER}\r\nuser-agent: {HEADER}\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        (text + "\r\n" + body).into_bytes()
    };
    let json = ("content-type", "application/json");
    let (signature, timestamp) = ("x-webhook-signature", "x-webhook-timestamp");
    let post = |headers: &[(&str, &str)], body: &str| request("POST /in/acme", &[&[json], headers].concat(), body);
    // Rightly signed, whatever the body is.
    let mut signed = |body: &str| {
        post(&[(signature, &noted(hex(body))), (timestamp, now.as_str()), ("x-encryption-nonce", nonce)], body)
    };
    let at = (timestamp, now.as_str());
    let ciphertext = "A".repeat(64);
    let large = format!("{BODY}{}", "x".repeat(300 * 1024));
    Ok(vec![
        ("an unknown path", request(&format!("POST /{HEADER}"), &[json], &plain)),
        ("another method", request("PUT /in/acme", &[json], &plain)),
        ("two hosts", post(&[("host", HEADER)], &plain)),
        ("another type", request("POST /in/acme", &[("content-type", &format!("text/{HEADER}"))], &plain)),
        ("an encoding", post(&[("content-encoding", HEADER)], &plain)),
        ("a transfer encoding", {
            let text = format!(
                "POST /in/acme HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: {HEADER}, chunked\r\n\r\n0\r\n\r\n"
            );
            text.into_bytes()
        }),
        ("no signature", post(&[at], &plain)),
        ("two signatures", post(&[at, (signature, &right), (signature, &right)], &plain)),
        ("a timestamp that is none", post(&[(timestamp, HEADER), (signature, &right)], &plain)),
        ("a signature that is none", post(&[at, (signature, HEADER)], &plain)),
        ("a wrong signature", post(&[at, (signature, &late)], &plain)),
        ("an old one", post(&[(timestamp, old.as_str()), (signature, &late)], &plain)),
        ("a plain body", signed(&plain)),
        ("no JSON", signed(&format!("{BODY} {{"))),
        ("no ciphertext", signed(&sealed(BODY, nonce))),
        ("no nonce", signed(&sealed(&ciphertext, BODY))),
        ("a large body", post(&[at, (signature, &right)], &large)),
        (
            "a malformed head",
            format!("POST /in/acme HTTP/1.1\r\nhost: localhost\r\n{HEADER} {HEADER}\r\n\r\n").into_bytes(),
        ),
        ("a large head", format!("POST /in/acme HTTP/1.1\r\nx: {HEADER}{}\r\n\r\n", "x".repeat(20_000)).into_bytes()),
        ("a bad chunk", {
            let head = format!(
                "POST /in/acme HTTP/1.1\r\nhost: localhost\r\n{}: {}\r\n{signature}: {right}\r\n",
                json.0, json.1
            );
            format!("{head}{timestamp}: {now}\r\ntransfer-encoding: chunked\r\n\r\n{BODY}\r\n").into_bytes()
        }),
    ])
}

fn address(stack: &Stack) -> Result<SocketAddr> {
    let url: http::Uri = stack.url(0, "acme").parse()?;
    Ok(([127, 0, 0, 1], url.port_u16().context("the URL has a port")?).into())
}

async fn connect(stack: &Stack, config: ClientConfig) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address(stack)?).await?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?)
}

/// Sends one HTTP/1.1 request on a connection of its own, and reads until the answer is there.
async fn exchange(stack: &Stack, request: &[u8]) -> Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    for certificate in common::tls::certificates(&stack.materials().authority())? {
        roots.add(certificate)?;
    }
    let config = ClientConfig::builder_with_provider(common::tls::provider())
        .with_protocol_versions(&common::tls::VERSIONS)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut stream = connect(stack, config).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, async {
        // What is refused by its head may be closed while the rest is still being written.
        stream.write_all(request).await.ok();
        stream.flush().await.ok();
        while !is_whole(&answer) && stream.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {}
    })
    .await
    .context("no answer")?;
    Ok(answer)
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// A record of the inbox that nobody signed, with headers of somebody's own.
async fn forge(stack: &Stack) -> Result<()> {
    let mut forged = stack.records(&Topic::Inbox).await?.pop().context("there is a record")?;
    forged.headers.retain(|(name, _)| name != MAC_HEADER && name != "ss-source");
    forged.headers.extend(["ss-source", "x-header"].map(|name| (name.to_owned(), FORGED.as_bytes().to_vec())));
    forged.value = b"forged".to_vec();
    stack.inject(&Topic::Inbox, None, &forged).await
}

/// What the command line says about the letters.
async fn letters(stack: &Stack) -> Result<Said> {
    let config = stack.dir().join("processor-0.toml").display().to_string();
    let letters = stack.letters().await?;
    ensure!(letters.len() >= 8, "{} letters: too few to prove anything", letters.len());
    let mut said = Said::new();
    let mut run = async |words: &[&str]| -> Result<()> {
        let Output { stdout, stderr, .. } = ended(words, &[]).await?;
        said.push((format!("sealstream {words:?}"), [stdout, stderr].concat()));
        Ok(())
    };
    for json in [&[][..], &["--json"]] {
        run(&[&["dlq", "list", "--config", &config], json].concat()).await?;
        for letter in stack.records(&Topic::Dead).await? {
            let place = format!("{}/{}", letter.partition, letter.offset);
            run(&[&["dlq", "show", "--config", &config, &place], json].concat()).await?;
        }
    }
    run(&["dlq", "export", "--config", &config]).await?;
    run(&["redrive", "--config", &config, "--reason", "refused", "--yes", "--json"]).await?;
    Ok(said)
}

/// What both binaries say about configurations in which a secret stands where it does not belong.
async fn configurations(stack: &Stack) -> Result<Said> {
    let read = |name: &str| std::fs::read_to_string(stack.materials().path(name));
    let (secret, sealing, key) = (read("secrets/acme.hmac.s1")?, read("secrets/acme.k1.key")?, read("tls/server.key")?);
    let (secret, sealing) = (secret.trim_end(), sealing.trim_end());
    std::fs::write(stack.materials().path("bad.hex"), format!("hex:{secret}"))?;
    std::fs::write(stack.materials().path("half.key"), &key[..key.len() / 2])?;
    let ingest = [
        ("source.acme.secrets", format!("[\"{secret}\"]")),
        ("source.acme.secrets", format!("\"{secret}\"")),
        ("source.acme.secrets", format!("[{{ id = \"s1\", file = \"{secret}\" }}]")),
        ("source.acme.secrets", format!("[{{ id = \"s1\", file = \"base64:{secret}\" }}]")),
        ("source.acme.secrets", format!("[{{ id = \"s1\", file = {secret} }}]")),
        ("source.acme.secrets", format!("[{{ id = \"s1\", secret = \"{secret}\" }}]")),
        ("source.acme.secrets", format!("[{{ id = \"{secret}\", file = \"secrets/acme.hmac.s1\" }}]")),
        ("source.acme.secrets", format!("[{{ id = \"s1\", file = \"{secret}")),
        ("source.acme.secrets", "[{ id = \"s1\", file = \"bad.hex\" }]".to_owned()),
        ("pipeline.edge_key", format!("\"{secret}\"")),
        ("kafka.sasl.password", format!("\"{secret}\"")),
        ("listen.key", format!("\"\"\"{key}\"\"\"")),
        ("listen.key", "\"half.key\"".to_owned()),
        ("listen.key", "\"secrets/acme.hmac.s1\"".to_owned()),
    ];
    let processor = [
        ("source.acme.keys", format!("[\"{sealing}\"]")),
        ("source.acme.keys", format!("[{{ id = \"k1\", file = \"{sealing}\" }}]")),
        ("source.acme.keys", format!("[{{ id = \"k1\", file = {sealing} }}]")),
        ("sink.main.secret", format!("\"whsec_{secret}\"")),
        ("sink.main.secret", format!("\"{secret}\"")),
        ("pipeline.id_keys", format!("\"{sealing}\"")),
    ];
    let mut said = Said::new();
    for (name, bent) in [("ingest", &ingest[..]), ("processor", &processor[..])] {
        let whole = stack.dir().join(format!("{name}-0.toml"));
        let alone = stack.dir().join("bent.toml");
        for (key, value) in bent {
            // In a file, and as a variable over a configuration that is right.
            std::fs::write(&alone, format!("{key} = {value}\n"))?;
            let variable = format!("{name}__{}", key.replace('.', "__")).to_uppercase();
            for (file, variable) in [(&alone, None), (&whole, Some((variable, value)))] {
                let mut command = tokio::process::Command::new(binary(name)?);
                let command = command.arg("--config").arg(file).args((name == "ingest").then_some("--check"));
                let ended = tokio::time::timeout(DEADLINE, command.envs(variable).kill_on_drop(true).output()).await;
                let Output { status, stdout, stderr } =
                    ended.with_context(|| format!("{name} takes {key} = {value}"))??;
                let told = [stdout, stderr].concat();
                ensure!(!status.success() && !told.is_empty(), "{name} takes {key} = {value}: {status}");
                said.push((format!("what {name} says of {key} = {value}"), told));
            }
        }
    }
    Ok(said)
}

/// Every log file and every metric.
async fn logs_and_metrics(stack: &mut Stack) -> Result<Said> {
    let mut said = Said::new();
    for entry in std::fs::read_dir(stack.dir().join("logs"))? {
        let path = entry?.path();
        let log = std::fs::read(&path)?;
        // It must be as verbose as it can be, or its silence would prove nothing.
        let text = String::from_utf8_lossy(&log);
        let libraries: &[&str] =
            if path.ends_with("ingest-0.log") { &["rustls::", "h2::", "ingest::"] } else { &["processor::"] };
        for library in libraries {
            let lines = text.lines().filter(|line| line.contains("\"TRACE\"") || line.contains("\"DEBUG\""));
            ensure!(lines.clone().any(|line| line.contains(library)), "{}: nothing of {library}", path.display());
        }
        said.push((path.display().to_string(), log));
    }
    ensure!(said.len() >= 2, "{} logs", said.len());
    for admin in [stack.ingest(0).admin(), stack.processor(0).admin()] {
        let (_, metrics) = get(admin, "/metrics").await?;
        said.push((format!("the metrics at {admin}"), metrics.into_bytes()));
    }
    Ok(said)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_that_holds_a_secret_leaves_a_core_dump() -> Result<()> {
    let plan = Plan::new("cores").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        for pid in [stack.ingest(0).pid(), stack.processor(0).pid()] {
            let pid = pid.context("it runs")?;
            no_core(&format!("/proc/{pid}/limits"))?;
        }
        let port = tests::ports::free();
        let secret = stack.materials().path("secrets/sink-main.whsec").display().to_string();
        let mut sink = tokio::process::Command::new(binary("sealstream")?);
        sink.args(["sink", "--listen", &port.to_string(), "--secret", &secret]).kill_on_drop(true);
        let mut sink = sink.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        let pid = sink.id().context("it runs")?;
        until("sealstream listens", DEADLINE, async || Ok(TcpStream::connect(port).await.ok().map(drop))).await?;
        no_core(&format!("/proc/{pid}/limits"))?;
        Ok(sink.kill().await?)
    })
    .await
}

fn no_core(limits: &str) -> Result<()> {
    let text = std::fs::read_to_string(limits)?;
    let line = text.lines().find(|line| line.starts_with("Max core file size")).context("there is such a limit")?;
    let figures: Vec<&str> = line.split_whitespace().skip(4).collect();
    ensure!(figures == ["0", "0", "bytes"], "{limits}: {line}");
    // This process's own limit is another, or the one above would say nothing.
    let own = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE)?;
    ensure!(own.1 > 0, "this shell has core dumps switched off for good, so nothing can be told here");
    Ok(())
}
