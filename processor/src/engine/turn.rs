//! A run's view of its record: where it lies, and whether it is still ours.

use std::sync::Arc;

use common::kafka::consumer::{Die, Doubt, TopicPartition};
use common::record::Origin;

use super::Lane;

/// Whether a partition is still owned in the epoch of a run.
pub(super) trait Ownership: Send + Sync {
    fn holds(&self, at: &TopicPartition, epoch: u64) -> bool;
}

/// One admitted record's turn.
pub struct Turn {
    pub(super) at: TopicPartition,
    pub(super) epoch: u64,
    offset: i64,
    time_ms: u64,
    lane: Arc<Lane>,
    owner: Option<Arc<dyn Ownership>>,
}

/// Where a record lies, and in which epoch it was read.
pub(super) struct Place {
    pub(super) at: TopicPartition,
    pub(super) epoch: u64,
    pub(super) offset: i64,
    pub(super) lane: Arc<Lane>,
}

impl Turn {
    pub(super) fn new(at: TopicPartition, epoch: u64, offset: i64, time_ms: u64, lane: Arc<Lane>) -> Self {
        Self { at, epoch, offset, time_ms, lane, owner: None }
    }

    pub(super) fn watch(&mut self, owner: Arc<dyn Ownership>) {
        self.owner = Some(owner);
    }

    pub(super) fn place(&self) -> Place {
        Place { at: self.at.clone(), epoch: self.epoch, offset: self.offset, lane: self.lane.clone() }
    }

    /// Whether the partition is still owned and not leaving. A run that must wait for something asks between tries.
    pub fn is_ours(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.holds(&self.at, self.epoch))
    }

    /// The lane that the record was read from.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The partition that it was read from.
    pub fn partition(&self) -> i32 {
        self.at.partition
    }

    /// The offset that it was read at.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The broker's time of it, Unix milliseconds.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// When its lane was over for it, Unix milliseconds.
    pub fn due_ms(&self) -> u64 {
        self.time_ms.saturating_add(self.lane.wait_ms(self.at.partition))
    }

    /// Where it was read, as a letter tells it.
    pub fn origin(&self) -> Origin {
        Origin { role: self.lane.topic.role().into_owned(), partition: self.at.partition, offset: self.offset }
    }
}

/// Ends the process if a run panics: its record would stay open for ever, and nothing would say so.
pub(super) struct Unfinished<'a> {
    die: &'a Die,
    place: Option<&'a Place>,
}

impl<'a> Unfinished<'a> {
    pub(super) fn new(die: &'a Die, place: &'a Place) -> Self {
        Self { die, place: Some(place) }
    }

    pub(super) fn finished(mut self) {
        self.place = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(Place { at, offset, .. }) = self.place.take()
        {
            (self.die)(Doubt(format!("the run of {}-{} offset {offset} panicked", at.topic, at.partition)));
        }
    }
}
