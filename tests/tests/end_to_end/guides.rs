//! The programs of docs/senders.md and docs/consumers.md, as they stand in `examples/`: what each of them sends arrives, and each of them
//! prints it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::environment::{self, node_js, python_httpx_028};
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::stack::Stack;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// `go run` compiles first.
const DEADLINE: Duration = Duration::from_secs(180);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn event(id: &str) -> Value {
    json!({"id": id, "type": "order.paid", "text": "Grüße, \u{1F44B}", "price": 12.5})
}

/// The sender of each language, less what it is to send. Java trusts the authority in `trusted`.
fn senders(trusted: &Path) -> Result<Vec<(&'static str, Command)>> {
    let command = |program: PathBuf, words: &[&str], file: &str| {
        let mut command = Command::new(program);
        command.args(words).arg(example(file));
        command
    };
    let trusts = [
        format!("-Djavax.net.ssl.trustStore={}", trusted.display()),
        format!("-Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}"),
    ];
    let trusts = trusts.each_ref().map(String::as_str);
    Ok(vec![
        ("python", command(python_httpx_028()?, &["-B"], "senders/send.py")),
        ("node", command(node_js()?, &[], "senders/send.mjs")),
        ("go", command("go".into(), &["run"], "senders/send.go")),
        ("java", command("java".into(), &trusts, "senders/Send.java")),
        ("rust", Command::new(environment::binary("examples/send")?)),
    ])
}

const TRUST_STORE_PASSWORD: &str = "changeit";

/// Java takes authorities from a file of its own form only.
async fn trust_store(stack: &Stack) -> Result<PathBuf> {
    let path = stack.dir().join("trusted.p12");
    let mut keytool = Command::new("keytool");
    keytool.args(["-importcert", "-noprompt", "-alias", "authority", "-storepass", TRUST_STORE_PASSWORD, "-file"]);
    keytool.arg(stack.materials().authority()).arg("-keystore").arg(&path);
    let output = keytool.output().await.context("running keytool, which comes with Java")?;
    ensure!(output.status.success(), "keytool: {}", String::from_utf8_lossy(&output.stdout));
    Ok(path)
}

/// Sends an event, signed with this secret.
async fn send(stack: &Stack, mut sender: Command, id: &str, secret: &Path) -> Result<Output> {
    let authority = stack.materials().authority();
    sender
        .arg(id)
        .env("SEALSTREAM_URL", stack.url(0, "acme"))
        .env("SEALSTREAM_SOURCE", "acme")
        .env("SEALSTREAM_SECRET_FILE", secret)
        .env("SEALSTREAM_KEY_FILE", stack.materials().path("secrets/acme.k1.key"))
        .env("SEALSTREAM_KEY_ID", "k1")
        .env("SSL_CERT_FILE", &authority)
        .env("NODE_EXTRA_CA_CERTS", &authority)
        .env("NO_PROXY", "localhost")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child =
        sender.spawn().context("starting it: run the tests with `./x test`, which installs what it needs")?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(event(id).to_string().as_bytes()).await?;
    drop(stdin);
    Ok(tokio::time::timeout(DEADLINE, child.wait_with_output()).await.context("it does not end")??)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guides_senders_send_arrives_and_what_they_sign_wrongly_is_refused() -> Result<()> {
    let plan = Plan::new("guide-senders").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let right = stack.materials().path("secrets/acme.hmac.s1");
        let wrong = stack.dir().join("wrong");
        std::fs::write(&wrong, "a secret of somebody else's")?;
        let trusted = trust_store(stack).await?;
        let mut sent = Vec::new();
        for (language, sender) in senders(&trusted)? {
            let id = format!("evt-{language}");
            let output = send(stack, sender, &id, &right).await?;
            let said = format!("{language}: {output:?}");
            ensure!(output.status.success() && output.stdout.starts_with(b"200 "), "{said}");
            stack.ledger().event("acme", &id);
            sent.push(id);
        }
        for (language, sender) in senders(&trusted)? {
            let output = send(stack, sender, "evt-forged", &wrong).await?;
            let said =
                format!("{} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.code() == Some(1) && said.contains("signature_invalid"), "{language}: {said}");
        }
        stack.settled().await?;
        for id in sent {
            let deliveries = stack.sink("main").deliveries_of(&id);
            assert_eq!(deliveries.len(), 1, "{id}");
            assert_eq!(serde_json::from_slice::<Value>(&deliveries[0].payload)?, event(&id));
        }
        Ok(())
    })
    .await
}

/// Prints the lines of a consumer until one has this id, and ends it.
async fn printed(mut consumer: Command, stack: &Stack, name: &str, id: &str) -> Result<String> {
    consumer
        .arg(stack.output_topic("out"))
        .env("KAFKA_BOOTSTRAP", &stack.kafka().bootstrap)
        .env("KAFKA_GROUP", format!("{}-guide-{name}", stack.prefix()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = consumer.spawn().with_context(|| format!("starting {name}"))?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let found = tokio::time::timeout(DEADLINE, async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(id) {
                return Ok(line);
            }
        }
        anyhow::bail!("{name} ended")
    });
    let found = found.await.with_context(|| format!("{name} does not print {id}"))?;
    child.kill().await?;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_consumers_print_the_event() -> Result<()> {
    let plan = Plan::new("guide-consumers").source("acme", &["out"]).output("out");
    plan.run(async |stack| {
        let payload = event("evt-printed").to_string();
        let client = stack.client(0, "acme", common::envelope::Format::Jwe)?;
        assert!(client.offer("evt-printed", payload.as_bytes()).await?.is_ok());
        stack.settled().await?;
        let mut python = Command::new(python_httpx_028()?);
        python.arg("-B").arg(example("consumers/consume.py"));
        let mut java = Command::new("java");
        java.args(["-cp", &format!("{}/*", environment::kafka_libs()?.display())])
            .arg(example("consumers/Consume.java"));
        let kcat = Command::new(example("consumers/consume.sh"));
        for (name, consumer) in [("kcat", kcat), ("python", python), ("java", java)] {
            let line = printed(consumer, stack, name, "evt-printed").await?;
            ensure!(line.ends_with(&payload), "{name} printed {line}");
            ensure!(line.contains("ce_webhookid") || line.starts_with("msg_"), "{name} shows no webhook id: {line}");
        }
        Ok(())
    })
    .await
}
