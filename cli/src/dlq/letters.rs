//! Reads the dead-letter topic and folds it: copies of a letter become one, and markers say which were redriven.
//!
//! A letter whose MAC is wrong is kept as one that nobody wrote, with nothing of what it says. Bodies are not kept: who
//! needs them reads them again. Memory goes with the letters of one partition, and with those that pass.
//!
//! Invariant: whatever was redriven folds as redriven, in whichever order markers and copies lie.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use anyhow::{Context, Result};
use common::kafka::consumer::{Incoming, Reader};
use common::record::{Dead, Failure, Head, LetterId, LetterPlace, RecordError, RecordKeys};
use common::topics::Topic;
use processor::config::Config;
use processor::record_keys;

/// A dead letter, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Where it lies, or the first of its copies.
    pub(crate) place: LetterPlace,
    /// When it was given up, Unix milliseconds; of one that is not trusted, when the broker got it.
    pub(crate) time_ms: u64,
    /// Bytes of its sealed body.
    pub(crate) body_bytes: usize,
    /// What it says, or why that can't be trusted.
    pub(crate) content: Result<Content, RecordError>,
}

/// What a letter says whose MAC is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// What the record says of itself, unless it was not trusted where it was read.
    pub(crate) head: Option<Head>,
    /// Why it is dead.
    pub(crate) failure: Failure,
    /// What its copies have in common.
    pub(crate) id: LetterId,
    /// When it was redriven, Unix milliseconds.
    pub(crate) redriven_ms: Option<u64>,
    /// Where its further copies lie.
    pub(crate) copies: Vec<LetterPlace>,
}

/// The dead-letter topic of a deployment. Its methods block.
pub(crate) struct DeadTopic {
    name: String,
    partitions: i32,
    keys: RecordKeys,
    reader: Reader,
}

impl DeadTopic {
    /// Loads the core keys, which check letters. Connects when it is used.
    pub(crate) fn of(config: &Config) -> Result<Self> {
        Ok(Self {
            name: Topic::Dead.name(&config.topics.prefix),
            partitions: i32::try_from(config.topics.partitions)?,
            keys: record_keys(&config.pipeline.core_keys)?,
            reader: Reader::new(&config.kafka)?,
        })
    }

    /// The letters of all partitions that pass, and where reading ended in each.
    pub(crate) fn letters(&self, passes: impl Fn(&Letter) -> bool) -> Result<(Vec<Letter>, Vec<i64>)> {
        let mut letters = Vec::new();
        let mut ends = Vec::new();
        for partition in 0..self.partitions {
            let (found, end) = self.letters_in(partition)?;
            letters.extend(found.into_iter().filter(&passes));
            ends.push(end);
        }
        Ok((letters, ends))
    }

    /// The letters of one partition, and where reading ended.
    pub(crate) fn letters_in(&self, partition: i32) -> Result<(Vec<Letter>, i64)> {
        let mut fold = Fold::of(partition);
        let (from, to) = self.bounds(partition)?;
        self.fold(&mut fold, (from, to))?;
        Ok((fold.letters(), to))
    }

    /// The letters for which markers were written at or after these offsets.
    pub(crate) fn redriven_since(&self, from: &[i64]) -> Result<HashSet<LetterId>> {
        let mut redriven = HashSet::new();
        for (partition, from) in (0..self.partitions).zip(from) {
            let mut fold = Fold::of(partition);
            self.fold(&mut fold, (*from, self.bounds(partition)?.1))?;
            redriven.extend(fold.redriven.into_keys());
        }
        Ok(redriven)
    }

    /// Hands the records at these places, which must be in order, to `each`. Answers how many there still were.
    pub(crate) fn records(
        &self,
        places: &[LetterPlace],
        mut each: impl FnMut(LetterPlace, Incoming<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut count = 0;
        for chunk in places.chunk_by(|one, other| one.partition == other.partition) {
            let (first, last) = (chunk[0], chunk[chunk.len() - 1]);
            let mut wanted = chunk.iter().copied().peekable();
            // What has left the topic in the meantime is not an error.
            let (low, end) = self.bounds(first.partition)?;
            let range = (first.offset.max(low), end.min(last.offset + 1));
            self.read(first.partition, range, |record| {
                while wanted.next_if(|place| place.offset < record.offset()).is_some() {}
                match wanted.next_if(|place| place.offset == record.offset()) {
                    Some(place) => {
                        count += 1;
                        each(place, record)
                    }
                    None => Ok(()),
                }
            })?;
        }
        Ok(count)
    }

    /// What a record of the topic is.
    pub(crate) fn open(&self, record: Incoming<'_>) -> Result<Dead, RecordError> {
        self.keys.open_dead(record.headers(), record.value())
    }

    /// The first offset of a partition and its end.
    pub(crate) fn bounds(&self, partition: i32) -> Result<(i64, i64)> {
        self.reader.watermarks(&self.name, partition).with_context(|| self.hint())
    }

    /// The first offset and the end of every partition.
    fn all_bounds(&self) -> Result<Vec<(i64, i64)>> {
        let topics = std::slice::from_ref(&self.name);
        let bounds = self.reader.all_watermarks(topics, self.partitions).with_context(|| self.hint())?;
        Ok(bounds.into_iter().flatten().collect())
    }

    fn fold(&self, fold: &mut Fold, range: (i64, i64)) -> Result<()> {
        self.read(fold.partition, range, |record| {
            fold.take(&self.keys, record.offset(), record.time_ms(), record.headers(), record.value());
            Ok(())
        })
    }

    fn read(&self, partition: i32, range: (i64, i64), mut each: impl FnMut(Incoming<'_>) -> Result<()>) -> Result<()> {
        let mut outcome = Ok(());
        let read = self.reader.read(&self.name, partition, range, |record| {
            outcome = each(record);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        outcome?;
        read.with_context(|| self.hint())
    }

    fn hint(&self) -> String {
        format!(
            "the dead-letter topic {} can't be read; `sealstream topics check` says what is wrong with it",
            self.name
        )
    }
}

/// The records of one partition on their way to being letters.
#[derive(Debug)]
struct Fold {
    partition: i32,
    letters: Vec<Letter>,
    known: HashMap<LetterId, usize>,
    redriven: HashMap<LetterId, u64>,
}

impl Fold {
    fn of(partition: i32) -> Self {
        Self { partition, letters: Vec::new(), known: HashMap::new(), redriven: HashMap::new() }
    }

    /// Takes the next record.
    fn take<'a>(
        &mut self,
        keys: &RecordKeys,
        offset: i64,
        broker_ms: u64,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        value: &[u8],
    ) {
        let place = LetterPlace { partition: self.partition, offset };
        let not_trusted = |why| Letter { place, time_ms: broker_ms, body_bytes: value.len(), content: Err(why) };
        match keys.open_dead(headers, value) {
            // Written beside its letter and behind it, or copied there by somebody else.
            Ok(Dead::Marker(marker)) if marker.place.partition == self.partition && marker.place.offset < offset => {
                let redriven_ms = *self.redriven.entry(marker.letter).or_insert(marker.redriven_ms);
                if let Some(content) = self.known.get(&marker.letter).copied().and_then(|at| self.content(at)) {
                    content.redriven_ms = Some(redriven_ms);
                }
            }
            Ok(Dead::Marker(_)) => self.letters.push(not_trusted(RecordError::BadMac)),
            Err(why) => self.letters.push(not_trusted(why)),
            Ok(Dead::Letter { head, failure }) => {
                let id = LetterId::of(head.as_ref(), &failure, value);
                if let Some(first) = self.known.get(&id).copied() {
                    if let Some(content) = self.content(first) {
                        content.copies.push(place);
                    }
                    return;
                }
                self.known.insert(id, self.letters.len());
                let time_ms = failure.failed_ms;
                let redriven_ms = self.redriven.get(&id).copied();
                let content = Ok(Content { head, failure, id, redriven_ms, copies: Vec::new() });
                self.letters.push(Letter { place, time_ms, body_bytes: value.len(), content });
            }
        }
    }

    fn content(&mut self, at: usize) -> Option<&mut Content> {
        self.letters.get_mut(at)?.content.as_mut().ok()
    }

    /// Forgets what lies below an offset. A letter stays while one of its copies does, and lies where that one is.
    fn forget_below(&mut self, low: i64) {
        self.letters.retain_mut(|letter| {
            let copies = letter.content.as_mut().map(|content| &mut content.copies);
            let mut left = copies.map(std::mem::take).unwrap_or_default();
            left.retain(|copy| copy.offset >= low);
            if letter.place.offset < low {
                if left.is_empty() {
                    return false;
                }
                letter.place = left.remove(0);
            }
            if let Ok(content) = &mut letter.content {
                content.copies = left;
            }
            true
        });
        let ids = self.letters.iter().enumerate();
        self.known = ids.filter_map(|(index, letter)| Some((letter.content.as_ref().ok()?.id, index))).collect();
        self.redriven.retain(|id, _| self.known.contains_key(id));
    }

    fn letters(self) -> Vec<Letter> {
        self.letters
    }
}

mod follow;

pub(crate) use follow::Followed;

#[cfg(test)]
pub(crate) mod tests;
