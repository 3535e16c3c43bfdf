//! The marker: a record of `dead` which says that one of its letters was redriven.
//!
//! It is written in the same transaction as the redriven record, so there is never one without the other; whoever reads
//! `dead` takes both together and never redrives a letter twice. It lies in its letter's partition and behind it, so
//! retention never removes it first. What it doesn't say is where the letter went: that follows from the letter.
//!
//! A process that died between writing a letter and noting so writes it again. Both copies have one *letter id*, made
//! from what does not differ between them, and a marker of one is a marker of both.
//!
//! ```text
//! letter id = SHA-256(field(origin) ‖ field(sink, or nothing) ‖ field(value))[..16]     field and origin as in the record
//! ```

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::decode::exactly;

use super::{Covered, Failure, Field, Head, Raw, RecordError, VERSION, number};

/// Says that a letter was redriven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Where the letter lies. The marker lies in the same partition.
    pub place: LetterPlace,
    /// Which letter it is, whichever of its copies lies there.
    pub letter: LetterId,
    /// When it was redriven, Unix milliseconds.
    pub redriven_ms: u64,
}

/// Where a letter lies in `dead`, written `partition/offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterPlace {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// A text that is not a place. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a place in the dead-letter topic is PARTITION/OFFSET, for example 3/4711")]
pub struct LetterPlaceError;

impl FromStr for LetterPlace {
    type Err = LetterPlaceError;

    fn from_str(text: &str) -> Result<Self, LetterPlaceError> {
        let (partition, offset) = text.split_once('/').ok_or(LetterPlaceError)?;
        let (partition, offset) = number(partition).zip(number(offset)).ok_or(LetterPlaceError)?;
        Ok(Self { partition, offset })
    }
}

impl fmt::Display for LetterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

/// What all copies of one letter have in common. See the module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId([u8; Self::LEN]);

impl LetterId {
    const LEN: usize = 16;

    /// The id of a letter.
    pub fn of(head: Option<&Head>, failure: &Failure, value: &[u8]) -> Self {
        let origin = failure.origin.to_string();
        let sink = head.and_then(|head| head.retry.as_ref()).map_or("", |retry| retry.sink.as_str());
        let mut hash = Sha256::new();
        for field in [origin.as_bytes(), sink.as_bytes(), value] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&hash.finalize()[..Self::LEN]);
        Self(id)
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", HEXLOWER.encode_display(&self.0))
    }
}

impl fmt::Debug for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LetterId({self})")
    }
}

impl Covered {
    pub(super) fn of_marker(marker: &Marker) -> Self {
        let mut covered = Self::new();
        covered.put(Field::Version, VERSION.as_bytes());
        covered.show(Field::Redriven, marker.redriven_ms);
        covered.show(Field::Letter, marker.place);
        covered.show(Field::LetterId, marker.letter);
        covered.end();
        covered
    }
}

impl Raw<'_> {
    pub(super) fn marker(&self) -> Result<Marker, RecordError> {
        // What is a letter too is neither.
        if self.0.iter().flatten().count() != 4 {
            return Err(RecordError::Malformed);
        }
        let letter = exactly(&HEXLOWER, self.text(Field::LetterId)?.as_bytes()).ok_or(RecordError::Malformed)?;
        Ok(Marker {
            place: self.parsed(Field::Letter)?,
            letter: LetterId(letter),
            redriven_ms: self.number(Field::Redriven)?,
        })
    }
}

#[cfg(test)]
mod tests;
