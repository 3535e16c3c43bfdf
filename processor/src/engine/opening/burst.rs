//! One burst: several partitions of a topic, read side by side until each is open.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use common::kafka::consumer::scanner::{Scanned, Scanner};
use common::kafka::consumer::{Assigned, Incoming, ReadError};

use super::super::Lane;
use super::start::{Opening, foreign, start};
use super::{BURST_PARTITIONS, Built, ColdIndex, IndexSettings, Job, Owner, POLL, partition};
use crate::control::{self, Control};
use crate::core::index::Index;
use crate::journal::{self, Point};
use crate::metrics;

/// Records read between two looks at the throttle, at what is still wanted, and at new work.
const TURN_RECORDS: u32 = 256;

/// How often the log tells how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How long nothing may come while something must.
const STALL: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Burst<'a> {
    settings: &'a IndexSettings,
    owner: &'a dyn Owner,
    lane: Arc<Lane>,
    topic: Arc<str>,
    /// Partitions that this burst's scanner has begun.
    begun: BTreeSet<i32>,
    active: BTreeMap<i32, Opening>,
    /// Taken from the backlog, and not begun.
    taken: Vec<Job>,
    /// Records read since the last turn.
    fresh: u32,
    scanned: u64,
}

/// What a record or the log's end means for its partition.
enum Step {
    Continue,
    /// Its index covers what it must.
    Reached,
    /// The cache is of another log.
    Foreign,
}

impl<'a> Burst<'a> {
    pub(super) fn new(settings: &'a IndexSettings, owner: &'a dyn Owner, lane: Arc<Lane>) -> Self {
        Self {
            settings,
            owner,
            topic: lane.name.clone(),
            lane,
            begun: BTreeSet::new(),
            active: BTreeMap::new(),
            taken: Vec::new(),
            fresh: 0,
            scanned: 0,
        }
    }

    /// Opens the backlog's partitions of the topic, and those that come while it reads.
    pub(super) fn run(&mut self, waiting: &Receiver<Job>, backlog: &mut VecDeque<Job>) -> Result<(), ReadError> {
        let clock = &self.settings.clock;
        let scanner = Scanner::new(&self.settings.kafka, self.topic.clone())?;
        let began = clock.monotonic();
        let (mut told, mut moved) = (began, began);
        loop {
            backlog.extend(waiting.try_iter());
            self.take(backlog);
            self.begin(&scanner)?;
            self.abandon(&scanner)?;
            self.note_progress();
            if self.active.is_empty() {
                break;
            }
            let now = clock.monotonic();
            if now.saturating_sub(told) >= TELL_EVERY {
                told = now;
                tracing::info!(topic = %self.topic, opening = self.active.len(), scanned = self.scanned, left = self.left_records(),
                    "reading the log to open partitions");
            }
            if self.turn(&scanner, backlog)? {
                moved = clock.monotonic();
            } else if let Some((partition, opening)) = self.active.iter().find(|(_, opening)| !opening.job.early)
                && clock.monotonic().saturating_sub(moved) > STALL
            {
                let after = opening.next() - 1;
                return Err(ReadError::Stalled { topic: self.topic.to_string(), partition: *partition, after });
            }
        }
        if self.scanned > 0 {
            let ms = clock.monotonic().saturating_sub(began).as_millis();
            tracing::info!(topic = %self.topic, partitions = self.begun.len(), scanned = self.scanned, ms, "partitions were opened from the log");
        }
        Ok(())
    }

    /// What is not done, after an error.
    pub(super) fn left(&mut self) -> Vec<Job> {
        let active = std::mem::take(&mut self.active);
        active.into_values().map(|opening| opening.job).chain(self.taken.drain(..)).collect()
    }

    fn take(&mut self, backlog: &mut VecDeque<Job>) {
        let mut later = VecDeque::new();
        while let Some(job) = backlog.pop_front() {
            let partition = job.assigned.at.partition;
            let room = self.active.len() + self.taken.len() < BURST_PARTITIONS;
            if room && job.assigned.at.topic == self.topic && self.begun.insert(partition) {
                self.taken.push(job);
            } else {
                later.push_back(job);
            }
        }
        *backlog = later;
    }

    fn begin(&mut self, scanner: &Scanner) -> Result<(), ReadError> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let openings = start(self.settings, scanner, self.taken.clone())?;
        self.taken.clear();
        let mut from = Vec::new();
        for mut opening in openings {
            let needed = opening.from < opening.target && !control::is(Control::IndexAhead);
            if needed && opening.cold && self.settings.cold == ColdIndex::Serve && !opening.job.early {
                let Assigned { at, base, .. } = &opening.job.assigned;
                tracing::warn!(topic = %at.topic, partition = at.partition, base,
                    "partition open before its window is known: repeats of what lies before may be delivered meanwhile");
                let index = Index::new(self.settings.window, *base);
                self.owner.opened(&opening.job, partition(&opening.job, index), None);
                opening.job.early = true;
            }
            let number = opening.job.assigned.at.partition;
            if needed || opening.job.early {
                from.push((number, opening.from));
                self.active.insert(number, opening);
            } else {
                self.reached(opening);
            }
        }
        scanner.begin(&from)
    }

    /// Gives up what is not wanted any more.
    fn abandon(&mut self, scanner: &Scanner) -> Result<(), ReadError> {
        let unwanted = self.active.iter().filter(|(_, opening)| !self.owner.wants(&opening.job));
        for partition in unwanted.map(|(partition, _)| *partition).collect::<Vec<_>>() {
            self.active.remove(&partition);
            scanner.end(partition)?;
        }
        Ok(())
    }

    /// Reads some records; whether there were any.
    fn turn(&mut self, scanner: &Scanner, backlog: &mut VecDeque<Job>) -> Result<bool, ReadError> {
        let mut any = false;
        while self.fresh < TURN_RECORDS && !self.active.is_empty() {
            let mut step = None;
            let wait = if any { Duration::ZERO } else { POLL };
            let there = scanner.poll(wait, |scanned| {
                let (partition, record) = match scanned {
                    Scanned::Record(partition, record) => (partition, Some(record)),
                    Scanned::End(partition) => (partition, None),
                };
                if let Some(opening) = self.active.get_mut(&partition) {
                    step = Some((partition, step_of(self.settings, opening, record)));
                }
                self.fresh += 1;
            })?;
            if !there {
                break;
            }
            any = true;
            match step {
                None | Some((_, Step::Continue)) => {}
                Some((partition, Step::Reached)) => {
                    if let Some(opening) = self.active.remove(&partition)
                        && !self.reached(opening)
                    {
                        continue;
                    }
                    scanner.end(partition)?;
                }
                Some((partition, Step::Foreign)) => {
                    if let Some(mut opening) = self.active.remove(&partition) {
                        foreign(&opening.job);
                        opening.job.foreign = true;
                        // In the next burst: this one's scanner has begun the partition.
                        backlog.push_back(opening.job);
                    }
                    scanner.end(partition)?;
                }
            }
        }
        let mut pause = self.settings.throttle.take(self.fresh);
        while !pause.is_zero() && !self.active.is_empty() {
            // In short naps, so that a revoke is seen soon.
            std::thread::sleep(pause.min(POLL));
            self.abandon(scanner)?;
            pause = self.settings.throttle.take(0);
        }
        Ok(any)
    }

    /// Hands a partition over. `false` if it must read on, and is active again.
    fn reached(&mut self, mut opening: Opening) -> bool {
        opening.settle();
        let Assigned { at, base, .. } = opening.job.assigned.clone();
        opening.built.index.cover(base);
        opening.built.cache.cover(base);
        let (high, ids) = (opening.built.index.high(), opening.built.index.len());
        let from_log = high - opening.known;
        if opening.job.early {
            if let Some((built, wanted)) = self.owner.completed(&opening.job, opening.built) {
                opening.built = built;
                opening.target = wanted;
                self.active.insert(at.partition, opening);
                return false;
            }
            tracing::info!(topic = %at.topic, partition = at.partition, base, high, ids, from_log, "index complete");
        } else {
            let Built { index, mut cache } = opening.built;
            if from_log > 0 {
                cache.flush();
            }
            journal::pass(Point::WhileOpening);
            self.owner.opened(&opening.job, partition(&opening.job, index), Some(cache));
            tracing::info!(topic = %at.topic, partition = at.partition, base, high, ids, from_log, "partition open");
        }
        true
    }

    fn left_records(&self) -> u64 {
        let left = |opening: &Opening| u64::try_from(opening.target - opening.built.index.high()).unwrap_or(0);
        self.active.values().map(left).sum()
    }

    fn note_progress(&mut self) {
        let closed = self.active.values().filter(|opening| !opening.job.early).count();
        metrics::opening(&self.lane.topic, &self.lane.sink, closed, self.left_records(), self.fresh.into());
        self.scanned += u64::from(self.fresh);
        self.fresh = 0;
    }
}

/// Puts a record into its partition's index; `None` is the log's end.
fn step_of(settings: &IndexSettings, opening: &mut Opening, record: Option<Incoming<'_>>) -> Step {
    let Some(record) = record else {
        // What is missing up to the committed offset are markers. Beyond it, an open partition has read more: go on.
        let enough = opening.target <= opening.job.assigned.base;
        return match opening.anchor {
            Some(_) => Step::Foreign,
            None if enough => Step::Reached,
            None => Step::Continue,
        };
    };
    let (offset, time_ms) = (record.offset(), record.time_ms());
    if let Some(anchor) = opening.anchor.take() {
        let found = (settings.key_of)(&opening.job.lane, &record);
        let belongs =
            offset == anchor.offset && time_ms == anchor.time_ms && found.is_some_and(|key| key.id == anchor.id);
        if !belongs && !control::is(Control::NoAnchor) {
            return Step::Foreign;
        }
    }
    if offset >= opening.next() && offset < opening.target {
        opening.admit(offset, time_ms, (settings.key_of)(&opening.job.lane, &record));
    }
    if offset + 1 >= opening.target { Step::Reached } else { Step::Continue }
}
