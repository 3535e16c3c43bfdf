//! `sealstream load`: many requests, each with an event of its own, sealed and signed when it is sent; and what became of them.
//!
//! An open loop (`--rate`) sends at fixed times, whatever the receiver does, and measures from the time at which a request was
//! meant to be sent: a receiver that stalls for a second has kept all waiting that were due in that second. A closed loop
//! sends on each connection as soon as the answer before is there: it finds out how much a receiver takes, and says little
//! about how long one waits.
//!
//! Each request is sent once and ends in exactly one outcome. Threads share nothing but the numbers that
//! they take: each has connections, requests and a tally of its own.

mod connection;
mod events;
mod pace;
mod report;
mod tally;

use std::io::{IsTerminal, stderr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use common::clock::Clock;
use common::config::ByteSize;
use common::shutdown::Group;
use common::telemetry::{LogConfig, LogFormat, install_logging};
use indicatif::{ProgressBar, ProgressStyle};
use sender::{Sender, Signed};

use crate::sender_config::{Flags, SenderConfig};
use crate::{Verdict, say};
use connection::{Slot, Target, Version};
use events::Events;
use pace::{Limits, Turns};
use report::{Course, Cpu, Plan, Report};
use tally::{Exchange, Outcome, Tally};

/// How long a load runs that says neither how long nor how many.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// How often the progress line is drawn, and looked whether all is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a closed loop waits on a connection that could not be made. An open loop goes by its times.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may take to close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Options of `load`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Open loop: send so many requests a second, whatever the receiver does. Without it, each connection sends as soon as it
    /// has its answer
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Send so many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Begin requests for so long, for example 30s [default: 10s, unless --requests is given]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// The version of HTTP
    #[arg(long, value_enum, default_value_t = Version::Http1)]
    http: Version,
    /// With --http 2: requests at once on each connection
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,
    /// Make a connection for each request, and close it after the answer
    #[arg(long)]
    new_connections: bool,
    /// With --new-connections: resume TLS sessions, as a sender does that comes again. Without it each handshake is a whole one
    #[arg(long, requires = "new_connections")]
    resume: bool,
    /// Which part of the requests repeat an event that was sent before, sealed and signed anew: 0 to 0.9
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    duplicates: f64,
    /// Sizes of the bodies, sealed, for example 1KiB; of several, separated by commas, each as often
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_delimiter = ',', value_parser = size)]
    body_bytes: Vec<ByteSize>,
    /// Threads that send
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate: f64 = text.parse().map_err(|_| "is a number of requests a second")?;
    if (0.001..=1e7).contains(&rate) { Ok(rate) } else { Err("is between 0.001 and 10000000 requests a second") }
}

fn share(text: &str) -> Result<f64, &'static str> {
    let share: f64 = text.parse().map_err(|_| "is a part of 1")?;
    if (0.0..=0.9).contains(&share) { Ok(share) } else { Err("is between 0 and 0.9") }
}

fn duration(text: &str) -> Result<Duration, serde::de::value::Error> {
    common::config::duration::deserialize(serde::de::IntoDeserializer::into_deserializer(text))
}

fn size(text: &str) -> Result<ByteSize, serde::de::value::Error> {
    serde::Deserialize::deserialize(serde::de::IntoDeserializer::into_deserializer(text))
}

/// Runs `load`: good if the receiver took every request.
pub fn run(args: &Args) -> Result<Verdict> {
    install_logging(&LogConfig { format: LogFormat::Human, level: "warn".to_owned() });
    let report = Load::new(args)?.run()?;
    if args.json {
        say::json(&report);
    } else {
        say::line(report.table());
    }
    report.remarks().iter().for_each(say::note);
    Ok(Verdict::good_if(report.failed() == 0))
}

/// What all threads share.
struct Load {
    plan: Plan,
    threads: usize,
    clock: Clock,
    sender: Arc<Sender>,
    events: Events,
    target: Target,
    turns: Turns,
    timeout: Duration,
    /// Requests that have ended, and those of them that were not taken: for the progress line.
    ended: AtomicU64,
    failed: AtomicU64,
    trouble: Mutex<Trouble>,
    /// All threads have made their connections, and all may begin.
    connected: Barrier,
    begun: Barrier,
}

/// What went wrong first, in words.
#[derive(Default)]
struct Trouble {
    /// Why a request brought no answer.
    no_answer: Option<String>,
    /// Why the load was given up.
    fatal: Option<anyhow::Error>,
}

impl Load {
    fn new(args: &Args) -> Result<Self> {
        ensure!(args.flags.attempts.is_none(), "--attempts has no meaning here: a load sends each request once");
        let clock = Clock::system();
        let config = SenderConfig::from_flags(args.flags.clone())?;
        let sender = config.sender(config.client()?, clock.clone())?;
        let sizes: Vec<_> = args.body_bytes.iter().map(|size| size.as_usize()).collect();
        let events = Events::new(&sender, &sizes, args.duplicates)?;
        let http2 = args.http == Version::Http2 && !args.new_connections;
        let plan = Plan {
            rate: args.rate,
            connections: args.connections,
            streams: if http2 { args.streams } else { 1 },
            http: args.http,
            new_connections: args.new_connections,
            format: config.format,
            duplicates: args.duplicates,
            body_bytes: events.body_bytes(),
        };
        let workers = usize::from(plan.connections) * usize::from(plan.streams);
        let limits = Limits {
            requests: args.requests,
            duration: args.duration.or_else(|| args.requests.is_none().then_some(DURATION_DEFAULT)),
            grace: config.timeout,
        };
        let threads = usize::from(args.threads).min(usize::from(plan.connections));
        Ok(Self {
            target: Target::new(&config, args.http, args.resume)?,
            turns: Turns::new(args.rate, &limits, workers, clock.clone()),
            threads,
            plan,
            clock,
            sender,
            events,
            timeout: config.timeout,
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            trouble: Mutex::default(),
            connected: Barrier::new(threads + 1),
            begun: Barrier::new(threads + 1),
        })
    }

    /// Makes all connections, then sends; answers when every request has ended.
    fn run(self) -> Result<Report> {
        let load = Arc::new(self);
        let threads: Vec<_> = (0..load.threads)
            .map(|number| {
                let load = load.clone();
                std::thread::spawn(move || load.work(number))
            })
            .collect();
        load.connected.wait();
        let (begin, before) = (load.clock.monotonic(), Cpu::now()?);
        load.turns.begin(begin);
        load.begun.wait();
        let releasing = load.clone();
        let release = std::thread::spawn(move || releasing.turns.release_all());
        load.watch(|| threads.iter().all(std::thread::JoinHandle::is_finished))?;
        let cpu = Cpu::now()?.since(before);
        let mut tally = Tally::new();
        for thread in threads {
            tally.add(&thread.join().map_err(|_| anyhow::anyhow!("a sending thread panicked"))??);
        }
        release.join().map_err(|_| anyhow::anyhow!("the thread that keeps the time panicked"))?;
        let trouble = std::mem::take(&mut *load.trouble());
        trouble.fatal.map_or(Ok(()), Err)?;
        let course = Course { threads: load.threads, begin, cpu, no_answer: trouble.no_answer };
        Ok(Report::new(load.plan.clone(), course, &tally))
    }

    /// Draws the progress line on a terminal, and ends the load early when this process is asked to end.
    fn watch(&self, done: impl Fn() -> bool) -> Result<()> {
        let bar = if stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut asked_to_end = pin!(Group::new().on_signals());
            let mut every = tokio::time::interval(LOOK_INTERVAL);
            let (mut stopped, mut before) = (false, 0);
            while !done() {
                tokio::select! {
                    () = &mut asked_to_end, if !stopped => {
                        stopped = true;
                        self.turns.stop();
                    }
                    _ = every.tick() => {
                        let (ended, failed) = (self.ended.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
                        let rate = (ended - before) * 1000 / u64::try_from(LOOK_INTERVAL.as_millis()).unwrap_or(1);
                        before = ended;
                        bar.set_message(format!(
                            "{} requests, {}/s, {} failed",
                            say::grouped(ended),
                            say::grouped(rate),
                            say::grouped(failed)
                        ));
                    }
                }
            }
        });
        bar.finish_and_clear();
        Ok(())
    }

    /// One sending thread: its connections, and the workers that share them.
    fn work(self: Arc<Self>, number: usize) -> Result<Tally> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let share = |total: usize| total / self.threads + usize::from(number < total % self.threads);
        let group = Group::new();
        let slots: Vec<_> = (0..share(usize::from(self.plan.connections)))
            .map(|_| Arc::new(Slot::new(self.target.clone(), group.clone(), !self.plan.new_connections)))
            .collect();
        let tally = Arc::new(Mutex::new(Tally::new()));
        // What can't be made now is made, or fails, when a request needs it.
        let connecting = |slot: Arc<Slot>| async move { slot.prepare().await };
        if let Ok(runtime) = &runtime {
            runtime.block_on(all(&group, slots.iter().cloned().map(connecting)));
        }
        // Whatever happened, the others wait.
        self.connected.wait();
        self.begun.wait();
        let runtime = runtime?;
        let streams = usize::from(self.plan.streams);
        let workers = slots.iter().flat_map(|slot| std::iter::repeat_n(slot, streams));
        let workers = workers.map(|slot| self.clone().send(slot.clone(), tally.clone()));
        runtime.block_on(all(&group, workers));
        drop(slots);
        runtime.block_on(group.wait(CLOSE_DEADLINE));
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::replace(&mut *tally, Tally::new()))
    }

    /// One worker: one request after the other, until there are no more turns.
    async fn send(self: Arc<Self>, slot: Arc<Slot>, tally: Arc<Mutex<Tally>>) {
        while let Some(turn) = self.turns.take().await {
            let event = self.events.event(turn.number);
            let (began, outcome) = if turn.is_late {
                (self.clock.monotonic(), Outcome::NotSent)
            } else {
                match self.sender.prepare(&event.id, &event.payload) {
                    Ok(signed) => {
                        let began = self.clock.monotonic();
                        (began, self.exchange(&slot, signed).await)
                    }
                    Err(error) => {
                        self.trouble().fatal.get_or_insert(error.into());
                        return self.turns.stop();
                    }
                }
            };
            let exchange =
                Exchange { intended: turn.intended, began, ended: self.clock.monotonic(), is_repeat: event.is_repeat };
            tally.lock().unwrap_or_else(PoisonError::into_inner).note(&exchange, outcome);
            self.ended.fetch_add(1, Ordering::Relaxed);
            if !outcome.is_received() {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            if outcome == Outcome::NoConnection && turn.intended.is_none() {
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
        tally.lock().unwrap_or_else(PoisonError::into_inner).add_counts(slot.counts());
    }

    async fn exchange(&self, slot: &Slot, signed: Signed) -> Outcome {
        match tokio::time::timeout(self.timeout, slot.exchange(self.target.request(signed))).await {
            Ok(Ok(status)) => Outcome::Status(status),
            Ok(Err(failure)) => {
                let outcome = failure.outcome();
                self.trouble().no_answer.get_or_insert_with(|| format!("{:#}", anyhow::Error::from(failure)));
                outcome
            }
            Err(_elapsed) => Outcome::Timeout,
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs futures as tasks of a group, to the end of the last.
async fn all<F: Future<Output = ()> + Send + 'static>(group: &Group, futures: impl Iterator<Item = F>) {
    let tasks: Vec<_> = futures.map(|future| group.spawn("load", future)).collect();
    for task in tasks {
        // A panic is logged by the group; what the task has noted is kept.
        let _ended = task.await;
    }
}

#[cfg(test)]
mod tests;
