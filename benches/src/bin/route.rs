//! The router beside its floor: the shipped `processor` routes the same records that a bare loop consumes, opens and writes as
//! they were. In turn, so that ratios hold on a noisy machine: `./x bench route`.
#![allow(clippy::print_stderr, reason = "a command-line tool talks to its user")]

use anyhow::Result;
use benches::figures::{cpu_us, median, rate, ratio, raw, shown, tell};
use benches::processors::{Ground, Options, SOURCE};
use clap::Parser;
use comfy_table::Table;
use common::topics::Topic;
use tests::ports;

/// Measures the router beside its floor.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { options } = Arguments::parse();
    let (mut floor, mut router) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        // The group of a router that has just ended is kept for its next start, so each round has topics of its own.
        let folder = tempfile::Builder::new().prefix("sealstream-bench-").tempdir()?;
        let ground = Ground::new(&options, folder.path(), &format!("bench-route-{round}"), &[])?;
        let admin = ports::free();
        let rest = "[sink.main]\nkind = \"file\"\npath = \"out.jsonl\"\n[roles]\ndeliverer = false\n";
        let config = ground.configure("route", admin, rest)?;
        ground.fill(Topic::Inbox).await?;
        floor.push(ground.consume(&Topic::Inbox, "open", &["--open", SOURCE]).await?);
        router.push(ground.processor(&config, admin, "inbox", "routed").await?);
        ground.remove_all(&config).await?;
    }

    let (floor_cpu, router_cpu) = (cpu_us(&floor, options.records), cpu_us(&router, options.records));
    let (floor_rate, router_rate) = (rate(&floor, options.records), rate(&router, options.records));
    let against = ratio(&router_cpu, &floor_cpu);
    let mut table = Table::new();
    table.set_header(["medians", "records/s", "CPU µs per record", "CPU ÷ floor"]);
    for (name, rate, cpu, against) in
        [("floor: consume, open, produce", floor_rate, &floor_cpu, 1.0), ("router", router_rate, &router_cpu, against)]
    {
        table.add_row([name.to_owned(), shown(rate), shown(median(cpu.iter().copied())), shown(against)]);
    }
    let object = || {
        serde_json::json!({
            "router_cpu_vs_floor": against,
            "route": {
                "records": options.records, "payload_bytes": options.payload_bytes, "partitions": options.partitions,
                "rounds": options.rounds, "floor": raw(&floor, options.records), "router": raw(&router, options.records),
            },
        })
    };
    tell(options.json, table, object);
    Ok(())
}
