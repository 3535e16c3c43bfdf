//! `sealstream status`: a whole deployment on the terminal, once or again and again. What it shows is made by `cluster`.

mod text;

use std::io::{IsTerminal, stdout};

use anyhow::Result;
use common::clock::Clock;
use common::shutdown::Group;
use common::topics::Delay;

use crate::cluster::{Cluster, NodeArgs, View};
use crate::processor_config::ProcessorConfig;
use crate::{Verdict, say};

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    processor: ProcessorConfig,
    #[command(flatten)]
    nodes: NodeArgs,
    /// Time between two looks, which rates are taken over
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    interval: Delay,
    /// Go on: draw over it on a terminal, or with --json print a line each time. Without a terminal it is shown once
    #[arg(long)]
    watch: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `status`: good if Kafka and every node answered.
pub async fn run(args: &Args) -> Result<Verdict> {
    let config = args.processor.load()?;
    let interval = args.interval.duration();
    let cluster = Cluster::of(&config, &args.nodes, &Clock::system())?;
    if !args.watch || !(args.json || stdout().is_terminal()) {
        let view = cluster.view(&config, interval).await;
        tell(&view, args.json);
        return Ok(Verdict::good_if(view.troubles.is_empty()));
    }
    let group = Group::new();
    let stop = group.on_signals();
    let _screen = (!args.json).then(say::Screen::open);
    let watching = async {
        let mut before = cluster.look().await;
        loop {
            tokio::time::sleep(interval).await;
            let after = cluster.look().await;
            let view = View::between(Some(&before), &after, &config);
            before = after;
            if args.json {
                say::json(&view);
            } else {
                say::redraw(&fitted(&text::of(&view, say::Paint::for_stdout())))?;
            }
        }
    };
    tokio::select! {
        () = stop => Ok(Verdict::Good),
        ended = watching => ended,
    }
}

fn tell(view: &View, json: bool) {
    if json {
        say::json(view);
    } else {
        say::line(text::of(view, say::Paint::for_stdout()).trim_end());
    }
}

/// As many lines as the terminal has.
fn fitted(text: &str) -> String {
    let (rows, _) = ::console::Term::stdout().size();
    text.lines().take(usize::from(rows)).collect::<Vec<_>>().join("\n")
}
