//! The floors, each as a process of its own: see [`benches::floor`]. The benches start it.
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use benches::floor::LINGER_US;
use benches::floor::consume::{Consume, Work};
use benches::floor::post::Post;
use benches::floor::serve::Serve;
use clap::{Parser, Subcommand};
use tests::environment;
use tests::materials::Materials;

/// What the libraries cost when nothing is promised.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    floor: Floor,
}

#[derive(Subcommand)]
enum Floor {
    /// Read bodies, answer 200
    Serve {
        #[arg(long)]
        listen: SocketAddr,
        /// PEM files; without them there is no TLS
        #[arg(long, requires = "key")]
        certificate: Option<PathBuf>,
        #[arg(long, requires = "certificate")]
        key: Option<PathBuf>,
        /// Publish each body to this topic first, and wait for the acknowledgement
        #[arg(long)]
        topic: Option<String>,
        /// How long they wait for company, in microseconds
        #[arg(long, default_value_t = LINGER_US)]
        linger_us: u32,
    },
    /// Read every record of a topic and write it to another
    Consume {
        #[arg(long)]
        input: String,
        #[arg(long)]
        output: String,
        #[arg(long)]
        partitions: i32,
        #[arg(long)]
        records: u64,
        /// Open each record, with the keys of this source
        #[arg(long, requires = "dir")]
        open: Option<String>,
        /// Where its keys are
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Write the payload instead of what was sealed
        #[arg(long, requires = "open")]
        unseal: bool,
    },
    /// Post bodies
    Post {
        #[arg(long)]
        receiver: SocketAddr,
        #[arg(long)]
        records: u64,
        #[arg(long)]
        body_bytes: usize,
        #[arg(long, default_value_t = 64)]
        connections: usize,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let took = match Arguments::parse().floor {
        Floor::Serve { listen, certificate, key, topic, linger_us } => {
            let bootstrap = || environment::kafka().map(|kafka| kafka.bootstrap);
            let publish = topic.map(|topic| Ok::<_, anyhow::Error>((bootstrap()?, topic))).transpose()?;
            return Serve { listen, tls: certificate.zip(key), publish, linger_us }.run().await;
        }
        Floor::Consume { input, output, partitions, records, open, dir, unseal } => {
            let work = match open.zip(dir) {
                None => Work::Copy,
                Some((source, dir)) => {
                    let keyring = Materials::at(&dir).keyring(&source)?;
                    let source = source.parse()?;
                    if unseal { Work::Unseal(source, keyring) } else { Work::Open(source, keyring) }
                }
            };
            let bootstrap = environment::kafka()?.bootstrap;
            let consume = Consume { bootstrap, input, partitions, output, records, work };
            tokio::task::block_in_place(|| consume.run())?
        }
        Floor::Post { receiver, records, body_bytes, connections } => {
            Post { receiver, records, body_bytes, connections }.run().await?
        }
    };
    println!("{}", serde_json::to_string(&took)?);
    Ok(())
}
