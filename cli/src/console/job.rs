//! One redrive at a time, with the code of `sealstream redrive`: looked at first, then confirmed with the number that the look
//! came to, then done at a limited rate.
//!
//! What is confirmed is looked at again: if another number of letters would go by now, nothing is done.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use common::clock::Clock;
use processor::config::Config;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::Visitor;
use super::search::Search;
use crate::redrive::{Pace, Plan};

/// See the module. Clones are the same.
#[derive(Clone)]
pub(super) struct Jobs {
    config: Arc<Config>,
    clock: Clock,
    rate: u32,
    /// Held by whoever looks or redrives.
    one: Arc<Semaphore>,
    job: Arc<Mutex<Option<Job>>>,
    interrupted: Arc<AtomicBool>,
}

/// The redrive that runs, or the last one.
#[derive(Debug, Clone)]
struct Job {
    query: String,
    began_ms: u64,
    total: usize,
    went: Arc<AtomicUsize>,
    /// What became of it.
    outcome: Option<Value>,
}

/// What a request for a redrive came to.
#[derive(Debug)]
pub(super) enum Answer {
    /// What would be done, or what was begun.
    Told(Value),
    /// Somebody else looks or redrives.
    Busy,
    /// Another number of letters would go by now.
    Changed(Value),
}

impl Jobs {
    pub(super) fn new(config: Arc<Config>, clock: Clock, rate: u32) -> Self {
        let (one, job, interrupted) = (Arc::new(Semaphore::new(1)), Arc::default(), Arc::default());
        Self { config, clock, rate, one, job, interrupted }
    }

    /// What would be redriven.
    pub(super) async fn dry_run(&self, search: Search) -> Result<Answer> {
        let Ok(_permit) = self.one.clone().try_acquire_owned() else { return Ok(Answer::Busy) };
        Ok(Answer::Told(self.plan(search).await?.json()))
    }

    /// Begins to redrive if as many letters would go as were confirmed.
    pub(super) async fn begin(&self, search: Search, query: String, confirmed: usize, who: Visitor) -> Result<Answer> {
        let Ok(permit) = self.one.clone().try_acquire_owned() else { return Ok(Answer::Busy) };
        let plan = self.plan(search).await?;
        let told = plan.json();
        if plan.len() != confirmed || plan.is_empty() {
            return Ok(Answer::Changed(told));
        }
        tracing::warn!(session = who.name, query, letters = confirmed, "redrive begins");
        let went = Arc::new(AtomicUsize::new(0));
        let job = Job { query, began_ms: self.clock.unix_ms(), total: confirmed, went: went.clone(), outcome: None };
        *self.job() = Some(job);
        let jobs = self.clone();
        // Its end is waited for by `ended`, through the permit.
        drop(tokio::task::spawn_blocking(move || jobs.carry_out(plan, &went, who, permit)));
        Ok(Answer::Told(told))
    }

    /// Ends what is under way between two batches. Later ones begin as ever.
    pub(super) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
    }

    /// Waits until nothing is under way, at most so long. Nothing begins after that.
    pub(super) async fn ended(&self, deadline: Duration) -> bool {
        tokio::time::timeout(deadline, self.one.acquire())
            .await
            .is_ok_and(|permit| permit.map(|permit| permit.forget()).is_ok())
    }

    /// The job as the page shows it.
    pub(super) fn json(&self) -> Value {
        let job = self.job();
        let one = |job: &Job| {
            json!({
                "query": job.query,
                "began_ms": job.began_ms,
                "total": job.total,
                "went": job.went.load(Ordering::SeqCst),
                "outcome": job.outcome,
            })
        };
        job.as_ref().map(one).into()
    }

    async fn plan(&self, search: Search) -> Result<Plan> {
        let (config, now_ms) = (self.config.clone(), self.clock.unix_ms());
        tokio::task::spawn_blocking(move || Plan::make(&config, &search.filter, now_ms)).await?
    }

    fn carry_out(&self, plan: Plan, went: &AtomicUsize, who: Visitor, permit: OwnedSemaphorePermit) {
        self.interrupted.store(false, Ordering::SeqCst);
        let count = |letters: usize| {
            went.fetch_add(letters, Ordering::SeqCst);
        };
        let pace = Pace { rate: self.rate, clock: &self.clock, interrupted: &self.interrupted, went: &count };
        let (mut told, outcome) = plan.carry_out_told(&self.config, &pace);
        let error = outcome.err().map(|error| format!("{error:#}"));
        let redriven = &told["redriven"];
        match &error {
            None => tracing::warn!(session = who.name, %redriven, "redrive done"),
            Some(error) => tracing::error!(session = who.name, %redriven, error, "redrive ended early"),
        }
        told["error"] = error.into();
        if let Some(job) = self.job().as_mut() {
            job.outcome = Some(told);
        }
        drop(permit);
    }

    fn job(&self) -> MutexGuard<'_, Option<Job>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
