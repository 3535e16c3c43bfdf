//! The command line `sealstream`, as an operator and a sender use it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use common::kafka::admin::Admin;
use serde_json::{Value, json};
use tests::client::payload;
use tests::environment::{self, binary, python_httpx_028};
use tests::node::{Node, NodeSpec};
use tests::plan::Plan;
use tests::ports;
use tests::python::Script;
use tests::sink::Behaviour;
use tests::stack::Stack;
use tests::wait::until;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(60);

/// Runs `sealstream` until it ends.
pub(super) async fn ended(words: &[&str], variables: &[(&str, String)]) -> Result<Output> {
    let mut command = Command::new(binary("sealstream")?);
    command.args(words).envs(variables.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    Ok(tokio::time::timeout(DEADLINE, command.output()).await.context("sealstream does not end")??)
}

/// Runs `sealstream`, which must succeed; answers what it printed.
pub(super) async fn sealstream(words: &[&str], variables: &[(&str, String)]) -> Result<String> {
    let output = ended(words, variables).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sealstream {words:?} ended with {}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// The options of `sealstream send` for a source of a stack.
fn sender_options(stack: &Stack, url: String, format: Format) -> Vec<String> {
    let secret = |name: &str| stack.materials().path(&format!("secrets/{name}")).display().to_string();
    let format = match format {
        Format::Native => "native",
        Format::Jwe => "jwe",
    };
    [
        ("--url", url),
        ("--source", "acme".to_owned()),
        ("--secret", secret("acme.hmac.s1")),
        ("--key", secret("acme.k1.key")),
        ("--key-id", "k1".to_owned()),
        ("--ca", stack.materials().authority().display().to_string()),
        ("--format", format.to_owned()),
    ]
    .into_iter()
    .flat_map(|(option, value)| [option.to_owned(), value])
    .collect()
}

async fn send(options: &[String], more: &[&str]) -> Result<String> {
    let words: Vec<&str> =
        ["send"].into_iter().chain(options.iter().map(String::as_str)).chain(more.iter().copied()).collect();
    sealstream(&words, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_events_is_sent_and_sent_again_and_delivered_once() -> Result<()> {
    const EVENTS: usize = 25;
    let plan = Plan::new("send").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let ids: Vec<String> = (0..EVENTS).map(|number| format!("evt-file-{number}")).collect();
        let lines: String = ids.iter().map(|id| payload(id) + "\n").collect();
        let file = stack.dir().join("events.jsonl");
        std::fs::write(&file, lines)?;
        let file = file.display().to_string();
        for format in [Format::Native, Format::Jwe] {
            let options = sender_options(stack, stack.url(0, "acme"), format);
            let printed = send(&options, &["--file", &file, "--json"]).await?;
            let results: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            let (books, each) = results.split_last().context("it printed nothing")?;
            assert_eq!((&books["received"], &books["failed"]), (&json!(EVENTS), &json!(0)));
            let received: BTreeSet<_> = each.iter().filter_map(|result| result["id"].as_str()).collect();
            assert_eq!(received, ids.iter().map(String::as_str).collect());
        }
        let options = sender_options(stack, stack.url(0, "acme"), Format::Jwe);
        send(&options, &["--id", "evt-bytes", "--data", "no JSON at all"]).await?;
        ids.iter().for_each(|id| stack.ledger().event("acme", id));
        stack.ledger().event("acme", "evt-bytes");
        stack.settled().await?;
        let summary = stack.balance().await?;
        assert_eq!((summary.inbox, summary.delivered["main"]), (2 * EVENTS + 1, EVENTS + 1));
        for delivery in stack.sink("main").deliveries() {
            let sent =
                if delivery.event_id.is_empty() { "no JSON at all".to_owned() } else { payload(&delivery.event_id) };
            assert_eq!(delivery.payload, sent);
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_in_python_accepts_and_opens_what_sealstream_send_emits() -> Result<()> {
    let plan = Plan::new("send-python").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let path = |name: &str| stack.materials().path(name);
        let text = |name: &str| std::fs::read_to_string(path(name)).map(|text| text.trim_end().to_owned());
        let key = text("secrets/acme.k1.key")?.trim_start_matches("hex:").to_owned();
        let order = json!({
            "certificate": path("tls/server.pem"), "private_key": path("tls/server.key"),
            "secret": text("secrets/acme.hmac.s1")?, "keys": {"k1": key}, "audience": "acme", "requests": 2,
        });
        let mut receiver = Script::start(&python_httpx_028()?, "receiver.py", &order).await?;
        let url = format!("https://localhost:{}/hook", receiver.line().await?["port"]);
        for (format, header) in [(Format::Native, None), (Format::Jwe, Some("evt-cli"))] {
            send(&sender_options(stack, url.clone(), format), &["--data", &payload("evt-cli")]).await?;
            let found = receiver.line().await?;
            assert_eq!(found["payload"], payload("evt-cli"));
            assert_eq!(found["header"]["jti"].as_str(), header);
        }
        receiver.end().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_init_writes_runs_as_it_is() -> Result<()> {
    let kafka = environment::kafka()?;
    let folder = tempfile::Builder::new().prefix("sealstream-init-").tempdir()?;
    let dir = folder.path().join("deployment");
    let file = |name: &str| dir.join(name).display().to_string();
    let (listen, ingest_admin, processor_admin) = (ports::free(), ports::free(), ports::free());
    let url = format!("https://localhost:{}/hooks/acme", listen.port());
    let words =
        ["init", &dir.display().to_string(), "--url", &url, "--kafka", &kafka.bootstrap, "--danger-single-broker"];
    sealstream(&words, &[]).await?;

    // What differs between two deployments on one machine.
    let prefix = format!("init-{:08x}", getrandom::u32()?);
    let variables = |binary: &str, more: &[(&'static str, String)]| -> Vec<(&'static str, String)> {
        let prefix_of = if binary == "ingest" { "INGEST__TOPICS__PREFIX" } else { "PROCESSOR__TOPICS__PREFIX" };
        [(prefix_of, prefix.clone())].into_iter().chain(more.iter().cloned()).collect()
    };
    let of_ingest = variables(
        "ingest",
        &[
            ("INGEST__LISTEN__ADDRESS", listen.to_string()),
            ("INGEST__ADMIN__ADDRESS", ingest_admin.to_string()),
            ("INGEST__DRAIN__NOTICE", "100ms".to_owned()),
        ],
    );
    let of_processor = variables(
        "processor",
        &[
            ("PROCESSOR__ADMIN__ADDRESS", processor_admin.to_string()),
            ("PROCESSOR__TOPICS__PARTITIONS", "4".to_owned()),
        ],
    );
    let processor_toml = file("processor/processor.toml");
    sealstream(&["topics", "create", "--config", &processor_toml], &of_processor).await?;
    sealstream(&["topics", "check", "--config", &processor_toml], &of_processor).await?;

    let node = |name: &str, config: String, variables: &[(&'static str, String)], admin| -> Result<Node> {
        Ok(Node::new(NodeSpec {
            name: name.to_owned(),
            program: binary(name)?,
            config: config.into(),
            variables: variables.to_vec(),
            log: folder.path().join(format!("{name}.log")),
            admin,
            may_doubt: false,
        }))
    };
    let mut ingest = node("ingest", file("ingest/ingest.toml"), &of_ingest, ingest_admin)?;
    let mut processor = node("processor", processor_toml.clone(), &of_processor, processor_admin)?;
    ingest.up().await?;
    processor.up().await?;
    for _ in 0..2 {
        sealstream(&["send", "--config", &file("sender/sender.toml"), "--data", &payload("evt-init")], &[]).await?;
    }
    let delivered = until("the event is in the file", DEADLINE, async || lines_below(&dir)).await?;
    assert_eq!(delivered["id"], "evt-init");
    assert_eq!(delivered["data"], serde_json::from_str::<Value>(&payload("evt-init"))?);
    until("its repeat is recognised", DEADLINE, async || {
        let repeats = processor.metric("processor_records_total", &[("outcome", "repeat")]).await?;
        Ok((repeats > 0.0).then_some(()))
    })
    .await?;
    ingest.stop().await?;
    processor.stop().await?;
    assert!(lines_below(&dir)?.is_some(), "one line, after the repeat too");

    let environment =
        of_processor.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<BTreeMap<_, _>>();
    let config = processor::config::Config::load(Some(Path::new(&processor_toml)), environment.into_iter())?;
    let topics: Vec<_> = processor::topics::specs(&config).into_iter().map(|spec| spec.name).collect();
    Ok(Admin::new(&kafka)?.delete(&topics).await?)
}

/// The one JSON line in the files `*.jsonl` of a deployment, once it is there.
fn lines_below(dir: &Path) -> Result<Option<Value>> {
    let mut lines = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jsonl") {
                lines.extend(std::fs::read_to_string(&path)?.lines().map(str::to_owned));
            }
        }
    }
    ensure!(lines.len() <= 1, "more than one line: {lines:?}");
    Ok(lines.first().map(|line| serde_json::from_str(line)).transpose()?)
}
