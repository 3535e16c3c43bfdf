//! Allocations for each request that ingest accepts and for each record that the processor delivers, beside those of the floors: of
//! two runs that differ in their number, what the longer one has more: `./x bench allocations`.
#![allow(clippy::print_stderr, reason = "a command-line tool talks to its user")]

use anyhow::{Result, ensure};
use benches::allocations::{counted, counting};
use benches::figures::{shown, tell};
use benches::process::Process;
use benches::processors::{Ground, Options as Records, until_ended};
use benches::servers::{Contender, Servers, Shape};
use benches::usage::as_f64;
use clap::Parser;
use comfy_table::Table;
use common::topics::Topic;
use serde_json::json;
use tests::{environment, ports};

/// Counts allocations.
#[derive(Parser)]
struct Options {
    /// Requests, and records, of the longer run; the shorter one has a quarter of them
    #[arg(long, default_value_t = 4000)]
    count: u64,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let (few, many) = (options.count / 4, options.count);
    let each =
        |few_counted: u64, many_counted: u64| as_f64(many_counted.saturating_sub(few_counted)) / as_f64(many - few);
    let folder = tempfile::Builder::new().prefix("sealstream-bench-").tempdir()?;
    let mut servers = Servers::new(folder.path())?;
    let mut rows = Vec::new();
    for contender in Contender::ALL {
        eprintln!("{}", contender.name());
        let shape = Shape { connections: 1, ..Shape::default() };
        let few = servers.allocations(contender, &shape, few).await?;
        rows.push((contender.name(), contender.key(), each(few, servers.allocations(contender, &shape, many).await?)));
    }
    for (name, key, role, other, sink) in [
        ("router", "router", Topic::Inbox, "deliverer", "kind = \"file\"\npath = \"out.jsonl\""),
        ("deliverer to a Kafka sink", "deliverer_kafka", Topic::Events, "router", "kind = \"kafka\"\ntopic = \"OUT\""),
    ] {
        eprintln!("{name}");
        let few = processor(key, &role, other, sink, few).await?;
        rows.push((name, key, each(few, processor(key, &role, other, sink, many).await?)));
    }
    let mut table = Table::new();
    table.set_header(["", "allocations"]);
    for (name, _, count) in &rows {
        table.add_row([(*name).to_owned(), shown(*count)]);
    }
    let object: serde_json::Map<_, _> = rows.iter().map(|(_, key, count)| ((*key).to_owned(), json!(count))).collect();
    tell(options.json, table, || json!({ "allocations": object }));
    Ok(())
}

/// Those of a processor with one role that ends so many records.
async fn processor(key: &str, role: &Topic, other: &str, sink: &str, records: u64) -> Result<u64> {
    let folder = tempfile::Builder::new().prefix("sealstream-bench-").tempdir()?;
    let options = Records { records, payload_bytes: 1024, partitions: 2, rounds: 1, json: false };
    let ground = Ground::new(&options, folder.path(), &format!("bench-allocations-{key}-{records}"), &[])?;
    let output = ground.output("out").await?;
    let admin = ports::free();
    let rest = format!("[sink.main]\n{}\n[roles]\n{other} = false\n", sink.replace("OUT", &output));
    let config = ground.configure("processor", admin, &rest)?;
    ground.fill(role.clone()).await?;
    let log = config.with_extension("log");
    let mut command = counting(&environment::binary("processor")?);
    let process = Process::start(command.arg("--config").arg(&config), &log, admin).await?;
    let (lane, outcome) = if *role == Topic::Inbox { ("inbox", "routed") } else { ("events", "delivered") };
    until_ended(&[admin], &[("lane", lane), ("outcome", outcome)], records).await?;
    let status = process.stop()?;
    ensure!(status.success(), "the processor ended with {status}");
    ground.remove(output).await?;
    ground.remove_all(&config).await?;
    counted(&log)
}
