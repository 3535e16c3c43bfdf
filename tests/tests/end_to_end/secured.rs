//! The connection to Kafka: TLS, SASL, client certificates, and rights that are just enough. The commands are those of
//! `docs/kafka-security.md`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tests::broker::OwnBroker;
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::stack::Stack;
use tests::wait::until;

const PAGE: &str = include_str!("../../../docs/kafka-security.md");
const INGEST_PASSWORD: &str = "canary-password-of-ingest";
const NEXT_PASSWORD: &str = "canary-next-password-of-ingest";
const PLAIN_PASSWORD: &str = "canary-plain-password";
const WRONG_PASSWORD: &str = "canary-wrong-password";
const NEXT_PROCESSOR_PASSWORD: &str = "canary-next-password-of-processor";
const PASSWORDS: [&str; 5] = [INGEST_PASSWORD, NEXT_PASSWORD, PLAIN_PASSWORD, WRONG_PASSWORD, NEXT_PROCESSOR_PASSWORD];
/// How long a broker may take to know what it was told.
const DEADLINE: Duration = Duration::from_secs(60);

/// An authority's folder: its certificate, and what it issues.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate and its key.
    fn issue(&self, name: &str, hosts: &[&str]) -> Result<(String, String)> {
        let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

/// The page's commands of one of Kafka's tools, without how an administrator comes in.
fn commands(script: &str) -> Vec<Vec<String>> {
    let lines = PAGE.lines().filter_map(|line| line.strip_prefix(script)?.strip_prefix(' '));
    let words = lines.map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    words.map(|words| words[4..].to_vec()).collect()
}

async fn run_all(broker: &OwnBroker, script: &str, replace: &[(&str, &str)]) -> Result<()> {
    let commands = commands(script);
    ensure!(!commands.is_empty(), "the page has commands of {script}");
    for mut words in commands {
        for (from, to) in replace {
            words.iter_mut().for_each(|word| *word = word.replace(from, to));
        }
        broker.tool(script, &words).await?;
    }
    Ok(())
}

/// Sets a service's variables: how it comes to Kafka.
fn comes_by(stack: &mut Stack, service: &str, settings: &[(&'static str, &'static str, &str)]) {
    for (ingest, processor, value) in settings {
        let value = Some((*value).to_owned()).filter(|value| value != "-");
        match service {
            "ingest" => stack.ingest(0).set(ingest, value),
            _ => stack.processor(0).set(processor, value),
        }
    }
}

macro_rules! setting {
    ($key:literal, $value:expr) => {
        (concat!("INGEST__KAFKA__", $key), concat!("PROCESSOR__KAFKA__", $key), $value)
    };
}

fn write(path: &Path, text: &str) -> Result<PathBuf> {
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    Ok(path.to_owned())
}

/// A service that can't come to Kafka: never ready, 503 to everybody, and a log that says why and no secret.
async fn is_kept_out(stack: &mut Stack, why: &[&str]) -> Result<()> {
    stack.ingest(0).start()?;
    let client = stack.client(0, "acme", Format::Native)?;
    until("it listens", DEADLINE, async || Ok(stack.ingest(0).readyz().await.ok().map(drop))).await?;
    let (id, node) = ("evt-kept-out", stack.ingest(0).name().to_owned());
    for _ in 0..2 {
        let answer = client.offer(id, tests::client::payload(id).as_bytes()).await?;
        ensure!(answer.status == 503, "{node} without Kafka answered {answer:?}");
    }
    let (status, told) = stack.ingest(0).readyz().await?;
    ensure!(status == 503 && told.contains("\"kafka\":false"), "{status} {told}");
    until(&format!("a warning says {why:?}"), DEADLINE, async || {
        let log = stack.ingest(0).log_tail(usize::MAX);
        let since = log.rsplit("=== start").next().unwrap_or_default();
        let warns = |line: &str| line.contains("\"WARN\"") && why.iter().all(|word| line.contains(word));
        Ok(since.lines().any(warns).then_some(()))
    })
    .await?;
    stack.ingest(0).stop().await
}

/// A service that sees the inbox and may not write to it: not ready, and a log that says what to grant.
async fn lacks_the_right_to_write(stack: &mut Stack) -> Result<()> {
    until("it is not ready, and says why", DEADLINE, async || {
        let Ok((status, told)) = stack.ingest(0).readyz().await else { return Ok(None) };
        let log = stack.ingest(0).log_tail(usize::MAX);
        let warns = |line: &str| line.contains("\"WARN\"") && line.contains("needs the right Write on the topic");
        let since = log.rsplit("=== start").next().unwrap_or_default();
        Ok((status == 503 && told.contains("\"kafka\":false") && since.lines().any(warns)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_users_certificates_and_just_the_rights_of_the_page_everything_works_and_nothing_without() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    let (authority, strangers) = (Authority::new()?, Authority::new()?);
    let (certificate, key) = authority.issue("localhost", &["localhost"])?;
    write(&dir.join("broker.pem"), &format!("{key}{certificate}"))?;
    let ca = write(&dir.join("ca.pem"), &authority.pem)?.display().to_string();
    let other_ca = write(&dir.join("other-ca.pem"), &strangers.pem)?.display().to_string();
    write(&dir.join("plain.users"), &format!("user_ingest=\"{PLAIN_PASSWORD}\""))?;
    let (certificate, key) = authority.issue("ingest", &[])?;
    let certificate = write(&dir.join("client.pem"), &certificate)?.display().to_string();
    let client_key = write(&dir.join("client.key"), &key)?.display().to_string();
    let password =
        |name: &str, text: &str| -> Result<String> { Ok(write(&dir.join(name), text)?.display().to_string()) };
    let (right, processors) =
        (password("ingest.password", INGEST_PASSWORD)?, password("processor.password", "processor")?);
    let (wrong, plain) = (password("wrong.password", WRONG_PASSWORD)?, password("plain.password", PLAIN_PASSWORD)?);

    let broker = OwnBroker::start_secured(dir).await?;
    let users = [("INGEST-PASSWORD", INGEST_PASSWORD), ("PROCESSOR-PASSWORD", "processor")];
    run_all(&broker, "kafka-configs.sh", &users).await?;
    // One that has no rights at all.
    let stranger = [("=ingest", "=stranger"), ("ingest", "stranger"), ("INGEST-PASSWORD", WRONG_PASSWORD)];
    let words: Vec<String> = commands("kafka-configs.sh")[0]
        .iter()
        .map(|word| stranger.iter().fold(word.clone(), |word, (from, to)| word.replace(from, to)))
        .collect();
    broker.tool("kafka-configs.sh", &words).await?;

    let plan = Plan::new("secured").kafka(broker.kafka()).ack_deadline(Duration::from_secs(3));
    let plan = plan.source("acme", &["main"]).http("main", Behaviour::good());
    plan.run_prepared(async |stack| {
        let prefix = stack.prefix().to_owned();
        run_all(&broker, "kafka-acls.sh", &[("sealstream.", &format!("{prefix}."))]).await?;
        let by_certificate: Vec<String> = commands("kafka-acls.sh")[0]
            .iter()
            .map(|word| word.replace("sealstream.", &format!("{prefix}.")).replace("User:ingest", "User:CN=ingest"))
            .collect();
        broker.tool("kafka-acls.sh", &by_certificate).await?;
        for service in ["ingest", "processor"] {
            let password = if service == "ingest" { &right } else { &processors };
            comes_by(
                stack,
                service,
                &[
                    setting!("BOOTSTRAP", broker.sasl()),
                    setting!("TLS__ENABLED", "true"),
                    setting!("TLS__CA", &ca),
                    setting!("SASL__MECHANISM", "SCRAM-SHA-512"),
                    setting!("SASL__USERNAME", service),
                    setting!("SASL__PASSWORD_FILE", password),
                ],
            );
        }
        stack.start_nodes().await?;
        let client = stack.client(0, "acme", Format::Native)?;
        for number in 0..20 {
            client.send(&format!("evt-{number}")).await?;
        }
        stack.settled().await?;

        // Another password, taken over while it runs; then one that is wrong, and not taken over.
        let next = [("INGEST-PASSWORD", NEXT_PASSWORD)];
        let words: Vec<String> =
            commands("kafka-configs.sh")[0].iter().map(|word| word.replace(next[0].0, next[0].1)).collect();
        broker.tool("kafka-configs.sh", &words).await?;
        std::fs::write(&right, NEXT_PASSWORD)?;
        let metric =
            async |stack: &mut Stack, name: &str, labels: &[(&str, &str)]| stack.ingest(0).metric(name, labels).await;
        until("the password is taken over", DEADLINE, async || {
            Ok((metric(stack, "ingest_config_generation", &[]).await? >= 2.0).then_some(()))
        })
        .await?;
        client.send("evt-next-password").await?;
        std::fs::write(&right, WRONG_PASSWORD)?;
        until("the wrong one is refused", DEADLINE, async || {
            Ok((metric(stack, "ingest_config_reloads_total", &[("outcome", "failed")]).await? >= 1.0).then_some(()))
        })
        .await?;
        client.send("evt-last-good-password").await?;
        std::fs::write(&right, NEXT_PASSWORD)?;
        until("the right one is taken over", DEADLINE, async || {
            Ok((metric(stack, "ingest_config_generation", &[]).await? >= 3.0).then_some(()))
        })
        .await?;
        stack.ingest(0).signal(Signal::SIGHUP)?;
        until("SIGHUP reloads", DEADLINE, async || {
            Ok((metric(stack, "ingest_config_generation", &[]).await? >= 4.0).then_some(()))
        })
        .await?;
        client.send("evt-after-sighup").await?;
        stack.settled().await?;

        // The same for the processor, which starts anew within its process.
        let words: Vec<String> = commands("kafka-configs.sh")[1]
            .iter()
            .map(|word| word.replace("PROCESSOR-PASSWORD", NEXT_PROCESSOR_PASSWORD))
            .collect();
        broker.tool("kafka-configs.sh", &words).await?;
        let pid = stack.processor(0).pid();
        std::fs::write(&processors, NEXT_PROCESSOR_PASSWORD)?;
        let started = async |stack: &mut Stack, times: usize| {
            until("the processor starts anew", DEADLINE, async || {
                let started = stack.processor(0).log_lines("processor started")?.len();
                Ok((started == times).then_some(()))
            })
            .await?;
            stack.processor(0).ready().await
        };
        started(stack, 2).await?;
        assert_eq!(stack.processor(0).metric("processor_config_generation", &[]).await?, 2.0);
        client.send("evt-next-processor-password").await?;
        stack.settled().await?;
        std::fs::write(&processors, WRONG_PASSWORD)?;
        until("the wrong one is refused", DEADLINE, async || {
            let failed = stack.processor(0).metric("processor_config_reloads_total", &[("outcome", "failed")]);
            Ok((failed.await? >= 1.0).then_some(()))
        })
        .await?;
        client.send("evt-last-good-processor-password").await?;
        stack.settled().await?;
        std::fs::write(&processors, NEXT_PROCESSOR_PASSWORD)?;
        assert_eq!(stack.processor(0).log_lines("processor started")?.len(), 2, "and nothing is started anew");
        assert_eq!(stack.processor(0).pid(), pid, "nor was it the first time");
        stack.ingest(0).stop().await?;

        comes_by(stack, "ingest", &[setting!("SASL__PASSWORD_FILE", &wrong)]);
        is_kept_out(stack, &["uthentication"]).await?;
        comes_by(stack, "ingest", &[setting!("SASL__PASSWORD_FILE", &right), setting!("TLS__CA", &other_ca)]);
        is_kept_out(stack, &["certificate"]).await?;
        comes_by(
            stack,
            "ingest",
            &[
                setting!("TLS__CA", &ca),
                setting!("SASL__USERNAME", "stranger"),
                setting!("SASL__PASSWORD_FILE", &wrong),
            ],
        );
        is_kept_out(stack, &["uthoriz"]).await?;

        // Now it may see the inbox, and not write to it.
        let write = |change: &str| -> Vec<String> {
            let words = commands("kafka-acls.sh").remove(0).into_iter().map(|word| match word.as_str() {
                "--add" => change.to_owned(),
                "User:ingest" => "User:stranger".to_owned(),
                _ => word.replace("sealstream.", &format!("{prefix}.")),
            });
            let force = Some("--force".to_owned()).filter(|_| change == "--remove");
            words.chain(force).collect()
        };
        let describe: Vec<String> = {
            let words = write("--add");
            let at = words.iter().position(|word| word == "Write").context("the page gives Write")?;
            [&words[..at - 1], &words[at + 1..]].concat()
        };
        broker.tool("kafka-acls.sh", &describe).await?;
        stack.ingest(0).start()?;
        lacks_the_right_to_write(stack).await?;
        let offered = client.offer("evt-unwritten", tests::client::payload("evt-unwritten").as_bytes()).await?;
        ensure!(offered.status == 503, "{offered:?}");
        broker.tool("kafka-acls.sh", &write("--add")).await?;
        stack.ingest(0).ready().await?;
        client.send("evt-right-given").await?;
        // The right is taken away while it runs, and given back.
        broker.tool("kafka-acls.sh", &write("--remove")).await?;
        broker.tool("kafka-acls.sh", &describe).await?;
        until("records are refused", DEADLINE, async || {
            let offered = client.offer("evt-right-taken", tests::client::payload("evt-right-taken").as_bytes()).await?;
            Ok((offered.status == 503).then_some(()))
        })
        .await?;
        lacks_the_right_to_write(stack).await?;
        broker.tool("kafka-acls.sh", &write("--add")).await?;
        // What is sent all the same shows that it is there again.
        until("records are taken", DEADLINE, async || {
            let offered = client.offer("evt-right-back", tests::client::payload("evt-right-back").as_bytes()).await?;
            Ok(offered.is_ok().then_some(()))
        })
        .await?;
        stack.ingest(0).ready().await?;
        stack.ingest(0).stop().await?;

        let restart = async |stack: &mut Stack, event: &str| -> Result<()> {
            stack.ingest(0).up().await?;
            client.send(event).await?;
            stack.ingest(0).stop().await
        };
        comes_by(
            stack,
            "ingest",
            &[
                setting!("SASL__MECHANISM", "PLAIN"),
                setting!("SASL__USERNAME", "ingest"),
                setting!("SASL__PASSWORD_FILE", &plain),
            ],
        );
        restart(stack, "evt-plain").await?;
        comes_by(
            stack,
            "ingest",
            &[
                setting!("BOOTSTRAP", broker.mutual()),
                setting!("SASL__MECHANISM", "-"),
                setting!("SASL__USERNAME", "-"),
                setting!("SASL__PASSWORD_FILE", "-"),
                setting!("TLS__CERTIFICATE", &certificate),
                setting!("TLS__KEY", &client_key),
            ],
        );
        restart(stack, "evt-certificate").await?;
        stack.ingest(0).up().await?;

        for password in PASSWORDS {
            ensure!(stack.ingest(0).log_lines(password)?.is_empty(), "a password is in the log");
            ensure!(stack.processor(0).log_lines(password)?.is_empty(), "a password is in the processor's log");
        }
        Ok(())
    })
    .await?;
    broker.end().await
}
