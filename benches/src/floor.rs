//! Floors: what the libraries cost when nothing is promised. Each is a process of its own, the binary `floor`, so that its CPU
//! time is its own too.
//!
//! | floor | what it is the floor of |
//! |---|---|
//! | [`consume`] | consume and produce, consume, open and produce: the router, and the deliverer to a Kafka sink |
//! | [`serve`] | hyper and rustls read a body and answer 200, with and without a record published meanwhile: ingest |
//! | [`post`] | a client of hyper posts bodies: the deliverer to an HTTP sink |
//!
//! They have the settings of the product's clients and servers, and none of its checks.

pub mod consume;
pub mod post;
pub mod serve;

use std::time::Duration;

use anyhow::Result;
use common::clock::Clock;
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::usage::cpu;

/// What a run took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Took {
    /// From the first record to the last acknowledgement, in seconds.
    pub seconds: f64,
    /// CPU of the process in that time, in seconds.
    pub cpu_seconds: f64,
}

/// What a process takes from a moment on.
pub struct Stopwatch {
    clock: Clock,
    pid: u32,
    begun: Duration,
    used: Duration,
}

impl Stopwatch {
    /// From now on.
    pub fn start(pid: u32) -> Result<Self> {
        let clock = Clock::system();
        Ok(Self { begun: clock.monotonic(), used: cpu(pid)?, clock, pid })
    }

    /// Until now.
    pub fn took(&self) -> Result<Took> {
        Ok(Took {
            seconds: (self.clock.monotonic() - self.begun).as_secs_f64(),
            cpu_seconds: (cpu(self.pid)? - self.used).as_secs_f64(),
        })
    }
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("enable.metrics.push", "false").set("socket.nagle.disable", "true");
    config
}

/// How long records wait for company in the product's producers, unless they are told otherwise, in microseconds.
pub const LINGER_US: u32 = 1000;

/// What the product's producers are told. Ingest's is not idempotent.
fn producer(bootstrap: &str, linger_us: u32, idempotent: bool) -> ClientConfig {
    let mut config = client(bootstrap);
    config.set("acks", "all").set("enable.idempotence", idempotent.to_string());
    config.set("linger.ms", (f64::from(linger_us) / 1000.0).to_string());
    config.set("compression.type", "none").set("queue.buffering.max.messages", "100000");
    config
}
