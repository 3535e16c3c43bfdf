//! What a consumer of an output topic does with repeats, as docs/kafka-sink.md tells it.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::environment::python_httpx_028;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The document's only program in Python.
fn program() -> Result<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kafka-sink.md");
    let text = std::fs::read_to_string(path)?;
    let (_, rest) = text.split_once("```python\n").context("the document has a program")?;
    let (program, rest) = rest.split_once("```").context("which ends")?;
    ensure!(!rest.contains("```python"), "the document has one program only");
    Ok(program.to_owned())
}

/// A record as `kcat -J` prints it.
fn line(webhook_id: &str, id: &str) -> String {
    let headers = ["content-type", "application/json", "ce_id", id, "ce_webhookid", webhook_id];
    json!({"topic": "orders", "partition": 0, "offset": 0, "headers": headers, "key": id, "payload": "{}"}).to_string()
}

async fn python(dir: &std::path::Path, program: &str, input: &str) -> Result<String> {
    let mut child = Command::new(python_httpx_028()?)
        .args(["-B", "-c", program])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn the_documents_consumer_applies_each_event_once_also_after_its_restart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = program()?;
    // Two sources may have events of one id: these are two events.
    let lines = [line("msg_1", "a"), line("msg_1", "a"), line("msg_2", "b"), line("msg_3", "a")].join("\n");
    for _ in 0..2 {
        python(dir.path(), &program, &lines).await?;
    }
    let count =
        "import sqlite3; print(*sqlite3.connect('orders.db').execute('SELECT count(*) FROM orders').fetchone())";
    assert_eq!(python(dir.path(), count, "").await?.trim(), "3");
    Ok(())
}
