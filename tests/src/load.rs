//! A load of events on the ingests of a stack, with bounded concurrency and keep-alive, until it is told to stop.
//!
//! Each event is sent with the sender's own retries, so an ingest that dies costs attempts and no events: what one
//! process did not answer is sent again, sealed and signed anew under the same id.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use common::shutdown::Group;
use sender::{RetryPolicy, SendError};

use crate::client::Client;
use crate::sink::RecordingSink;

/// How long the last requests may take when a load is stopped.
const STOP_DEADLINE: Duration = Duration::from_secs(120);
/// How long a worker waits before it looks again whether it may go on.
const PAUSE: Duration = Duration::from_millis(2);

/// How much, and how far ahead.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// Begins each event's id.
    pub ids: &'static str,
    /// Requests at once.
    pub in_flight: usize,
    /// Every how many events one is sent a second time, sealed and signed anew; 0 for never.
    pub repeat_every: u64,
    /// A sink, and how many accepted events it may be behind before the load waits for it.
    pub ahead_of: Option<(RecordingSink, u64)>,
    /// Events a second at most.
    pub rate: Option<u32>,
}

/// How often and how fast an event is sent again: often enough for every restart of a test.
pub(crate) fn retry_policy() -> RetryPolicy {
    RetryPolicy {
        attempts_max: 200,
        pause_first: Duration::from_millis(20),
        pause_max: Duration::from_millis(500),
        retry_after_max: Duration::from_secs(1),
    }
}

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    group: Group,
}

#[derive(Debug)]
struct Shared {
    plan: LoadPlan,
    clients: Vec<Client>,
    next: AtomicU64,
    acked: AtomicU64,
    attempts: AtomicU64,
    refused: AtomicU64,
    under_way: Vec<AtomicUsize>,
}

impl Load {
    /// Starts it. Events go to the clients in turn.
    pub fn start(clients: Vec<Client>, plan: LoadPlan) -> Self {
        let under_way = clients.iter().map(|_| AtomicUsize::new(0)).collect();
        let workers = plan.in_flight;
        let shared = Arc::new(Shared {
            plan,
            clients,
            next: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            under_way,
        });
        let group = Group::new();
        for _ in 0..workers {
            group.spawn("load", work(shared.clone(), group.clone()));
        }
        Self { shared, group }
    }

    /// How many events were answered 200.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::SeqCst)
    }

    /// How many requests were made for them, at least.
    pub fn attempts(&self) -> u64 {
        self.shared.attempts.load(Ordering::SeqCst)
    }

    /// Events under way on the n-th client.
    pub fn under_way(&self, client: usize) -> usize {
        self.shared.under_way[client].load(Ordering::SeqCst)
    }

    /// Begins no further event, and waits for those under way. An event that was refused is an error.
    pub async fn stop(self) -> Result<u64> {
        self.group.cancel();
        if !self.group.wait(STOP_DEADLINE).await {
            bail!("the load's last requests did not end");
        }
        match self.shared.refused.load(Ordering::SeqCst) {
            0 => Ok(self.acked()),
            refused => bail!("{refused} events of the load were refused"),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.group.cancel();
    }
}

async fn work(shared: Arc<Shared>, group: Group) {
    let token = group.token();
    let plan = &shared.plan;
    let share = |rate: u32| Duration::from_secs(plan.in_flight as u64) / rate;
    let mut pace = plan.rate.map(|rate| tokio::time::interval(share(rate)));
    while !token.is_cancelled() {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let behind = plan.ahead_of.as_ref().is_some_and(|(sink, ahead)| {
            shared.acked.load(Ordering::SeqCst).saturating_sub(sink.effect_count() as u64) > *ahead
        });
        if behind {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let id = format!("{}-{number}", plan.ids);
        let client = usize::try_from(number).unwrap_or(usize::MAX) % shared.clients.len();
        shared.under_way[client].fetch_add(1, Ordering::SeqCst);
        let first = shared.clients[client].persist(&id).await;
        shared.under_way[client].fetch_sub(1, Ordering::SeqCst);
        shared.count(&first);
        if first.is_ok() {
            shared.acked.fetch_add(1, Ordering::SeqCst);
        }
        if plan.repeat_every > 0 && number.is_multiple_of(plan.repeat_every) {
            // To another ingest and in another envelope, where there are.
            let other = (client + 1) % shared.clients.len();
            shared.count(&shared.clients[other].persist(&id).await);
        }
    }
}

impl Shared {
    fn count(&self, result: &Result<u32, SendError>) {
        match result {
            Ok(attempts) => {
                self.attempts.fetch_add(u64::from(*attempts), Ordering::SeqCst);
            }
            Err(error) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                tracing::error!(%error, "an event of the load was refused");
            }
        }
    }
}
