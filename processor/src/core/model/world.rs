//! The logs, the brokers' memory, the sink, and the processors; and what must hold at each step.

use std::time::Duration;

use common::record::Reason;

use super::Broken;
use super::log::{DELAYS, Log, Park, Record, WINDOW_MS, What, keyed_id, park_key};
use super::node::{Node, PROGRESS_WINDOW, Run, SESSION_MS, Stored};
use super::steps::{Answer, How, LANES, NODES, PARTITIONS, Step};
use crate::core::partition::{Admit, DedupKey};
use crate::core::schedule::{self, Next, Schedule};
use crate::core::tally::Tally;
use crate::outcome::Outcome;

/// What a step found.
pub(super) type Check = Result<(), String>;

/// Permits of a lane on a processor.
const PERMITS: usize = 3;

/// How far the clocks of brokers differ at most.
const SKEW_MS: u64 = 500;

/// Which keys make ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    Old,
    Both { since_ms: u64 },
    New,
}

pub(super) struct World {
    broken: Broken,
    now_ms: u64,
    keys: Keys,
    schedule: Schedule,
    /// Of each partition of each lane, those of `events` first.
    logs: Vec<Log>,
    stored: Vec<Stored>,
    nodes: Vec<Node>,
}

pub(super) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(why()) }
}

/// Metadata with another tally.
fn with_tally(metadata: &str, tally: &Tally) -> String {
    let mut text = format!("2:{}:", metadata.split(':').nth(1).unwrap_or_default());
    tally.write(&mut text);
    text
}

/// What is known of a record when it is parked.
fn before(record: &Record) -> Park {
    match record.what.0 {
        What::Park(park) => park,
        What::Event { event, .. } => {
            Park { event, origin: record.offset, first_seen_ms: record.time_ms, attempt: 0, hop: 0 }
        }
    }
}

impl World {
    pub(super) fn new(broken: Broken) -> Self {
        let delays = DELAYS.map(|delay| delay.parse().unwrap()).to_vec();
        Self {
            broken,
            now_ms: 1_000_000,
            keys: Keys::Old,
            schedule: Schedule::new(delays, 4).unwrap(),
            logs: (0..LANES * PARTITIONS).map(|_| Log::default()).collect(),
            stored: vec![Stored::default(); LANES * PARTITIONS],
            nodes: (0..NODES).map(|_| Node::new()).collect(),
        }
    }

    pub(super) fn step(&mut self, step: &Step) -> Check {
        match *step {
            Step::Append { partition, event, gap, skew_ms } => self.append(partition, event, gap, skew_ms),
            Step::Wait(ms) => self.now_ms += ms,
            Step::Rotate => self.rotate(),
            Step::Assign { at, node } => self.assign(at, node)?,
            Step::Read { at, count } => self.read(at, count)?,
            Step::Again { at, back } => self.again(at, back)?,
            Step::Run { at, which, how } => self.run(at, which, how)?,
            Step::Commit { node } => self.commit(node)?,
            Step::Answer { node, answer } => self.answer(node, answer),
            Step::Crash { node, hole, stored } => self.crash(node, hole, stored)?,
            Step::Revoke { at, answer } => self.revoke(at, answer)?,
            Step::Lose { at, effects } => self.lose(at, effects)?,
            Step::Stop { node } => self.stop(node)?,
            Step::Wipe { node } => self.nodes[node].wipe(),
        }
        self.nodes.iter().try_for_each(|node| self.permits(node))
    }

    /// Lets all that is there end, and looks what became of it.
    pub(super) fn drain(&mut self) -> Check {
        for _ in 0..100 {
            for node in 0..NODES {
                self.answer(node, Answer::Ok);
                self.commit(node)?;
                self.answer(node, Answer::Ok);
            }
            for at in 0..self.logs.len() {
                self.assign(at, 0)?;
                self.read(at, usize::MAX)?;
                while self
                    .owner(at)
                    .is_some_and(|node| self.lease_holds(node) && !self.nodes[node].slots[&at].runs.is_empty())
                {
                    self.run(at, 0, How::Delivered)?;
                }
            }
            self.nodes.iter().try_for_each(|node| self.permits(node))?;
            let committed =
                |(log, stored): (&Log, &Stored)| log.records.last().is_none_or(|last| stored.base > last.offset);
            if self.logs.iter().zip(&self.stored).all(committed)
                && self.nodes.iter().all(|node| node.taken == [0; LANES])
            {
                break;
            }
            self.now_ms += 500;
        }
        for (at, (log, stored)) in self.logs.iter().zip(&self.stored).enumerate() {
            for record in &log.records {
                if record.repeat {
                    ensure(record.ended == 0, || format!("a repeat ended: {at} {record:?}"))?;
                } else {
                    ensure(record.ended > 0, || format!("lost: {at} {record:?}"))?;
                }
            }
            let last = log.records.last().map_or(0, |record| record.offset + 1);
            ensure(stored.base >= last, || format!("stuck: {at} at {} of {last}", stored.base))?;
        }
        for node in &self.nodes {
            ensure(node.taken == [0; LANES], || format!("permits did not come back: {:?}", node.taken))?;
        }
        Ok(())
    }

    fn owner(&self, at: usize) -> Option<usize> {
        self.nodes.iter().position(|node| node.slots.contains_key(&at))
    }

    fn lease_holds(&self, node: usize) -> bool {
        let now = Duration::from_millis(self.now_ms);
        self.nodes[node].lease.holds(now, now)
    }

    fn permits(&self, node: &Node) -> Check {
        let mut held = [0; LANES];
        node.slots.iter().for_each(|(at, slot)| held[at / PARTITIONS] += slot.partition.permits());
        let counted = held == node.taken || self.broken == Broken::PermitUntilCommit;
        ensure(counted, || format!("permits: {held:?} held, {:?} taken", node.taken))
    }

    fn append(&mut self, partition: usize, event: u8, gap: i64, skew_ms: u64) {
        let what = |new_key| What::Event { event, new_key };
        let (what, id, previous) = match self.keys {
            Keys::Old => ((what(false), None), keyed_id(event, false), None),
            Keys::Both { .. } => ((what(true), Some(what(false))), keyed_id(event, true), Some(keyed_id(event, false))),
            Keys::New => ((what(true), None), keyed_id(event, true), None),
        };
        self.logs[partition].append(gap, self.now_ms - skew_ms.min(SKEW_MS), what, None, DedupKey { id, previous });
    }

    fn rotate(&mut self) {
        self.keys = match self.keys {
            Keys::Old => Keys::Both { since_ms: self.now_ms },
            Keys::Both { since_ms } if self.now_ms > since_ms + WINDOW_MS + SKEW_MS => Keys::New,
            other => other,
        };
    }

    fn assign(&mut self, at: usize, node: usize) -> Check {
        if self.owner(at).is_none() {
            let (log, stored) = (&self.logs[at], &self.stored[at]);
            self.nodes[node].open(at, log, stored, self.now_ms, self.broken)?;
        }
        Ok(())
    }

    fn read(&mut self, at: usize, count: usize) -> Check {
        let Some(node) = self.owner(at) else { return Ok(()) };
        let lane = at / PARTITIONS;
        for _ in 0..count {
            let slot = &self.nodes[node].slots[&at];
            if self.nodes[node].taken[lane] >= PERMITS || slot.partition.room() == 0 {
                break;
            }
            let Some(record) = self.logs[at].from(slot.read).next().cloned() else { break };
            if lane > 0 && self.now_ms < record.time_ms + self.schedule.lanes()[lane - 1].as_ms() {
                break;
            }
            if !self.admit(node, at, &record)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the record was taken.
    fn admit(&mut self, node: usize, at: usize, record: &Record) -> Result<bool, String> {
        let (this, offset, lane) = (&mut self.nodes[node], record.offset, at / PARTITIONS);
        let Some(slot) = this.slots.get_mut(&at) else { return Ok(false) };
        let next = slot.partition.next();
        let ahead = slot.partition.index().is_some_and(|index| index.high() > offset);
        let mut changed = Vec::new();
        let verdict = slot.partition.admit(offset, Some(record.key), record.time_ms, &mut changed);
        let fresh = offset >= next;
        match verdict {
            Admit::Wait => {
                ensure(offset >= slot.complete_below() + i64::from(PROGRESS_WINDOW), || format!("{offset} must wait"))?;
                return Ok(false);
            }
            Admit::Skip => {
                ensure(!fresh || slot.complete.contains_key(&offset), || format!("lost: {at} {offset} was skipped"))?;
                if self.broken == Broken::CountOnce && fresh {
                    slot.partition.tally_mut().add(Outcome::Delivered.into(), 1);
                }
                if self.broken == Broken::SkipBelowBase && fresh && offset < slot.complete_below() {
                    slot.runs.insert(offset, Run::Waiting);
                }
            }
            Admit::Repeat => {
                ensure(record.repeat, || format!("the verdict on {at} {record:?} is repeat"))?;
                slot.complete.insert(offset, Outcome::Repeat);
            }
            Admit::Deliver => {
                ensure(!record.repeat, || format!("the verdict on {at} {record:?} is deliver"))?;
                this.taken[lane] += 1;
                slot.runs.insert(offset, Run::Waiting);
                if self.broken == Broken::OwnerComparison && ahead {
                    slot.runs.remove(&offset);
                    slot.complete(offset, Outcome::Delivered, self.broken);
                } else if self.broken == Broken::CompleteAtEffect {
                    slot.complete(offset, Outcome::Delivered, self.broken);
                } else if self.broken == Broken::CountAtCompletion {
                    slot.partition.tally_mut().add(Outcome::Delivered.into(), 1);
                }
            }
        }
        slot.read = slot.read.max(offset + 1);
        this.note(at, offset, &changed);
        Ok(true)
    }

    fn again(&mut self, at: usize, back: usize) -> Check {
        let Some(node) = self.owner(at) else { return Ok(()) };
        let read = self.nodes[node].slots[&at].read;
        let stored = self.stored[at].base;
        let before: Vec<_> =
            self.logs[at].records.iter().filter(|record| (stored..read).contains(&record.offset)).cloned().collect();
        match before.iter().rev().nth(back) {
            Some(record) => self.admit(node, at, record).map(|_| ()),
            None => Ok(()),
        }
    }

    fn run(&mut self, at: usize, which: usize, how: How) -> Check {
        let Some(node) = self.owner(at) else { return Ok(()) };
        let runs = &self.nodes[node].slots[&at].runs;
        let Some((&offset, &run)) = runs.iter().nth(which % runs.len().max(1)) else { return Ok(()) };
        match run {
            Run::Unanswered(outcome) => self.complete(node, at, offset, outcome),
            Run::Waiting if !self.lease_holds(node) => {}
            Run::Waiting => {
                let outcome = self.effect(node, at, offset, how)?;
                match how {
                    How::Unanswered => {
                        self.slot(node, at, |slot| slot.runs.insert(offset, Run::Unanswered(outcome)));
                    }
                    How::Delivered | How::Failed { .. } | How::AnswerLost | How::Refused => {
                        self.complete(node, at, offset, outcome)
                    }
                }
            }
        }
        Ok(())
    }

    fn slot<T>(&mut self, node: usize, at: usize, with: impl FnOnce(&mut super::node::Slot) -> T) -> Option<T> {
        self.nodes[node].slots.get_mut(&at).map(with)
    }

    /// What becomes of a record is durable elsewhere. Answers what that is.
    fn effect(&mut self, node: usize, at: usize, offset: i64, how: How) -> Result<Outcome, String> {
        let record = self.logs[at].at(offset).clone();
        let parked = match how {
            How::Failed { asked_ms } => Some(asked_ms),
            How::AnswerLost => Some(None),
            How::Delivered | How::Unanswered | How::Refused => None,
        };
        let mut outcome = match how {
            How::Refused => Outcome::Dead(Reason::Refused),
            How::Delivered | How::Unanswered | How::Failed { .. } | How::AnswerLost => Outcome::Delivered,
        };
        if let Some(rest) = self.schedule.rest(record.due_ms, self.now_ms) {
            // It is not due yet, so nothing is dispatched.
            let before = before(&record);
            self.park(at, Park { hop: before.hop + 1, ..before }, rest);
            outcome = Outcome::Parked;
        } else if let Some(asked_ms) = parked {
            let before = before(&record);
            let asked = asked_ms.map(Duration::from_millis);
            match self.schedule.after(before.attempt + 1, asked, self.now_ms) {
                Next::Park(to) => {
                    self.park(at, Park { attempt: before.attempt + 1, hop: 0, ..before }, to);
                    outcome = Outcome::Parked;
                }
                Next::Exhausted => outcome = Outcome::Dead(Reason::Exhausted),
            }
        }
        let stored = self.stored[at].complete.contains_key(&offset);
        ensure((record.ended == 0 && !record.repeat) || !stored, || {
            format!("committed yet repeated: {at} {record:?}")
        })?;
        self.logs[at].at(offset).ended += 1;
        self.slot(node, at, |slot| slot.effects.insert(offset));
        Ok(outcome)
    }

    fn park(&mut self, at: usize, park: Park, to: schedule::Park) {
        let lane = self.schedule.lanes().iter().position(|lane| *lane == to.delay).unwrap() + 1;
        let hop = if self.broken == Broken::HopInKey { 0 } else { park.hop };
        let key = park_key(Park { hop, ..park });
        let to_log = lane * PARTITIONS + at % PARTITIONS;
        self.logs[to_log].append(0, self.now_ms, (What::Park(park), None), to.due_ms, key);
    }

    fn complete(&mut self, node: usize, at: usize, offset: i64, outcome: Outcome) {
        let broken = self.broken;
        let freed = self.slot(node, at, |slot| {
            slot.runs.remove(&offset);
            // It is complete already where that rule is broken, or where it should not have been run at all.
            if !slot.complete.contains_key(&offset) {
                slot.complete(offset, outcome, broken);
                return broken == Broken::PermitUntilCommit;
            }
            false
        });
        self.nodes[node].taken[at / PARTITIONS] -= usize::from(freed == Some(true));
    }

    /// What a processor commits now, of one partition or all.
    fn snapshot(&mut self, node: usize, only: Option<usize>) -> Result<Vec<(usize, Stored)>, String> {
        let mut commits = Vec::new();
        for (&at, slot) in &mut self.nodes[node].slots {
            if only.is_some_and(|only| only != at) {
                continue;
            }
            let snapshot = slot.partition.snapshot();
            let mut stored =
                Stored { base: snapshot.base, metadata: snapshot.metadata, complete: slot.complete.clone() };
            // Where a rule about it is broken, the core does not know what was complete.
            if self.broken.keeps_commits() {
                stored.check(at, &self.logs[at])?;
            }
            if self.broken == Broken::CommitLowest {
                stored.base = slot.complete.keys().last().map_or(stored.base, |last| stored.base.max(last + 1));
                stored.metadata = String::new();
            } else if self.broken == Broken::Bitmap {
                stored.metadata = String::new();
            }
            commits.push((at, stored));
        }
        Ok(commits)
    }

    fn commit(&mut self, node: usize) -> Check {
        if self.nodes[node].pending.is_none() {
            let commits = self.snapshot(node, None)?;
            self.nodes[node].pending = Some((self.now_ms, commits));
        }
        Ok(())
    }

    fn answer(&mut self, node: usize, answer: Answer) {
        let Some((sent_ms, commits)) = self.nodes[node].pending.take() else { return };
        for (at, mut commit) in commits {
            if self.broken == Broken::CountWithSnapshot
                && let Some(slot) = self.nodes[node].slots.get(&at)
            {
                commit.metadata = with_tally(&commit.metadata, slot.partition.tally());
            }
            let bits = match answer {
                Answer::Ok | Answer::Lost => u8::MAX,
                Answer::Error { stored } => stored,
            };
            if bits >> at & 1 == 1 {
                self.stored[at] = commit;
            }
            if matches!(answer, Answer::Ok) {
                let freed = self.slot(node, at, |slot| slot.partition.committed()).unwrap_or(0);
                if self.broken != Broken::PermitUntilCommit {
                    self.nodes[node].taken[at / PARTITIONS] -= freed;
                }
            }
        }
        if matches!(answer, Answer::Ok) {
            let from_ms = if self.broken == Broken::LeaseFromSending { self.now_ms } else { sent_ms };
            self.nodes[node].lease.renew(Duration::from_millis(from_ms));
            self.nodes[node].renewed_ms = sent_ms;
        }
    }

    /// What these partitions' next owners may repeat is no more than the permits.
    fn bound(&self, node: usize, partitions: &[usize]) -> Check {
        let mut exposed = [0; LANES];
        for at in partitions {
            let Some(slot) = self.nodes[node].slots.get(at) else { continue };
            let repeated =
                slot.effects.iter().filter(|offset| !self.stored[*at].complete.contains_key(*offset)).count();
            exposed[at / PARTITIONS] += repeated;
            let held = slot.partition.permits();
            ensure(repeated <= held, || format!("more repeats than permits held: {at}: {repeated} of {held}"))?;
        }
        ensure(exposed.iter().all(|exposed| *exposed <= PERMITS), || format!("more repeats than permits: {exposed:?}"))
    }

    fn crash(&mut self, node: usize, hole: Option<usize>, stored: bool) -> Check {
        self.answer(node, if stored { Answer::Lost } else { Answer::Error { stored: 0 } });
        let owned: Vec<_> = self.nodes[node].slots.keys().copied().collect();
        self.bound(node, &owned)?;
        self.nodes[node].restart(hole);
        Ok(())
    }

    fn revoke(&mut self, at: usize, answer: Answer) -> Check {
        let Some(node) = self.owner(at) else { return Ok(()) };
        // A commit under way holds the lock until it is answered.
        self.answer(node, answer);
        let sent = self.nodes[node].slots[&at].runs.iter().filter_map(|(offset, run)| match run {
            Run::Unanswered(outcome) => Some((*offset, *outcome)),
            Run::Waiting => None,
        });
        let sent: Vec<_> = sent.collect();
        sent.into_iter().for_each(|(offset, outcome)| self.complete(node, at, offset, outcome));
        let commits = self.snapshot(node, Some(at))?;
        self.nodes[node].pending = Some((self.now_ms, commits));
        self.answer(node, answer);
        if matches!(answer, Answer::Ok) {
            let slot = &self.nodes[node].slots[&at];
            let covered = slot.effects.iter().all(|offset| self.stored[at].complete.contains_key(offset));
            ensure(covered, || format!("a revoke in order leaves something to repeat: {at}"))?;
        }
        self.leave(node, at)
    }

    fn lose(&mut self, at: usize, effects: u8) -> Check {
        let Some(node) = self.owner(at) else { return Ok(()) };
        self.answer(node, Answer::Error { stored: effects });
        if self.lease_holds(node) {
            // Sends under way have their effect or not.
            let runs: Vec<_> = self.nodes[node].slots[&at].runs.iter().map(|(offset, run)| (*offset, *run)).collect();
            for (number, (offset, run)) in runs.into_iter().enumerate() {
                if run == Run::Waiting && effects >> (number % 8) & 1 == 1 {
                    self.effect(node, at, offset, How::Delivered)?;
                }
            }
        }
        self.leave(node, at)
    }

    fn stop(&mut self, node: usize) -> Check {
        self.answer(node, Answer::Error { stored: 0 });
        self.now_ms = self.now_ms.max(self.nodes[node].renewed_ms + SESSION_MS);
        ensure(!self.lease_holds(node), || format!("a send after the session: {node}"))?;
        let owned: Vec<_> = self.nodes[node].slots.keys().copied().collect();
        owned.into_iter().try_for_each(|at| self.leave(node, at))
    }

    fn leave(&mut self, node: usize, at: usize) -> Check {
        self.bound(node, &[at])?;
        let node = &mut self.nodes[node];
        if let Some(slot) = node.slots.get(&at) {
            let freed_early = self.broken == Broken::PermitUntilCommit;
            node.taken[at / PARTITIONS] -= if freed_early { slot.runs.len() } else { slot.partition.permits() };
        }
        node.close(at);
        Ok(())
    }
}
