//! `kafka`: a real Kafka for development and tests, and its single brokers by number.

mod cluster;
mod distribution;

use crate::{service, workspace};
use anyhow::{Context, Result};
use clap::Subcommand;
use cluster::{Cluster, Ways};
use std::path::PathBuf;

/// Options of `kafka`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where its state is kept [default: .sealstream/kafka]
    #[arg(long, global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster and print how to reach it; with `KAFKA_BOOTSTRAP` set, that one is used
    Up {
        /// How many brokers; with three, topics have three replicas of which two must be in sync
        #[arg(long, default_value_t = 1, value_parser = brokers)]
        brokers: usize,
        /// A cluster of its own, also where `KAFKA_BOOTSTRAP` is set
        #[arg(long)]
        own: bool,
        /// With a second way in, of which clients are told another port: that of a proxy that a test runs
        #[arg(long)]
        proxied: bool,
        /// With two more ways in, by SASL over TLS and by certificate, and with access lists on. The folder holds
        /// broker.pem, ca.pem and plain.users
        #[arg(long, value_name = "DIR")]
        secured: Option<PathBuf>,
        /// Stay, and take it down when standard input ends
        #[arg(long)]
        until_eof: bool,
    },
    /// Run one of Kafka's own tools on the cluster, with full rights
    Tool {
        /// Its script: kafka-acls.sh or kafka-configs.sh
        script: String,
        /// Its arguments, without --bootstrap-server
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Stop the cluster and remove its data
    Down,
    /// Say which brokers run
    Status,
    /// Start one broker again, with its data and its port
    Start {
        /// The broker's number, from 1
        broker: usize,
    },
    /// Stop one broker and let it hand over its partitions
    Stop {
        /// The broker's number, from 1
        broker: usize,
    },
    /// Kill one broker
    Kill {
        /// The broker's number, from 1
        broker: usize,
    },
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let dir = arguments.state.unwrap_or_else(|| workspace::state().join("kafka"));
    let there = || Cluster::open(&dir)?.with_context(|| format!("there is no cluster in {}", dir.display()));
    match arguments.action {
        Action::Up { brokers, own, proxied, secured, until_eof } => {
            let external = workspace::setting("KAFKA_BOOTSTRAP").filter(|_| !own);
            let cluster = match &external {
                Some(bootstrap) => {
                    println!("KAFKA_BOOTSTRAP={bootstrap}");
                    None
                }
                None => Some(cluster::up(&dir, brokers, &Ways { proxied, secured })?),
            };
            for (name, value) in cluster.iter().flat_map(Cluster::environment) {
                println!("{name}={value}");
            }
            if until_eof {
                service::hold();
                cluster.map_or(Ok(()), |cluster| cluster.down())?;
            }
            Ok(())
        }
        Action::Down => Cluster::open(&dir)?.map_or(Ok(()), |cluster| cluster.down()),
        Action::Status => {
            match Cluster::open(&dir)? {
                Some(cluster) => print!("{}", cluster.status()),
                None => println!("no cluster"),
            }
            Ok(())
        }
        Action::Tool { script, words } => {
            print!("{}", there()?.tool(&script, &words)?);
            Ok(())
        }
        Action::Start { broker } => there()?.start(broker),
        Action::Stop { broker } => there()?.stop(broker),
        Action::Kill { broker } => there()?.kill(broker),
    }
}

fn brokers(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("a cluster has 1 broker or 3".to_owned()),
    }
}
