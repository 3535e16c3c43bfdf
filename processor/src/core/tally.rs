//! How many offsets of a partition are complete, by how each became so: what `sealstream audit` adds up.
//!
//! Counting begins at an offset, the *start*. The tally goes with the progress in the commit's metadata, so it says how exactly
//! those offsets ended that this commit calls complete: after a crash the next owner goes on from both.
//!
//! ```text
//! start { letter count }      100a1d7R2: since offset 100, one was a repeat, seven were delivered, two are dead, refused
//! ```
//!
//! Counts of nothing are left out. A letter that is not known here is one of a later version: it counts as
//! [`Completion::Other`], so that the sum stays right.

use std::fmt::Write as _;

use common::record::Reason;

use crate::outcome::Outcome;

/// The largest count, and the largest start.
const COUNT_MAX: u64 = i64::MAX as u64;

/// Digits of the largest count.
const DIGITS: usize = COUNT_MAX.ilog10() as usize + 1;

/// How an offset became complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// Its record ended.
    Ended(Outcome),
    /// No reader gets a record there: it is the marker of a transaction, or in one that was aborted.
    Marker,
    /// Retention took it before it was complete: it is lost.
    Expired,
    /// It was complete before counting began, or in a way that only a later version tells from others.
    Other,
}

impl From<Outcome> for Completion {
    fn from(outcome: Outcome) -> Self {
        Self::Ended(outcome)
    }
}

impl Completion {
    /// How many there are, reasons told apart.
    const KINDS: usize = Outcome::KINDS + 3;

    /// Each of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Outcome::all().map(Self::Ended).chain([Self::Marker, Self::Expired, Self::Other])
    }

    /// Its name in an audit.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended(outcome) => outcome.as_str(),
            Self::Marker => "marker",
            Self::Expired => "expired",
            Self::Other => "other",
        }
    }

    /// Its number among all.
    fn kind(self) -> usize {
        match self {
            Self::Ended(outcome) => outcome.kind(),
            Self::Marker => Outcome::KINDS,
            Self::Expired => Outcome::KINDS + 1,
            Self::Other => Outcome::KINDS + 2,
        }
    }

    /// Its letter in metadata: it stays.
    fn letter(self) -> char {
        match self {
            Self::Ended(outcome) => match outcome {
                Outcome::Repeat => 'a',
                Outcome::Delivered => 'd',
                Outcome::Passed => 'n',
                Outcome::Parked => 'p',
                Outcome::Routed => 'r',
                Outcome::Dead(reason) => match reason {
                    Reason::BadMac => 'B',
                    Reason::InvalidEnvelope => 'E',
                    Reason::InvalidEventId => 'I',
                    Reason::UnknownKey => 'K',
                    Reason::Misplaced => 'M',
                    Reason::OpenFailed => 'O',
                    Reason::Refused => 'R',
                    Reason::UnknownSource => 'S',
                    Reason::TooOld => 'T',
                    Reason::Exhausted => 'X',
                },
            },
            Self::Marker => 'm',
            Self::Other => 'o',
            Self::Expired => 'x',
        }
    }

    fn of_letter(letter: char) -> Self {
        Self::all().find(|completion| completion.letter() == letter).unwrap_or(Self::Other)
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    start: i64,
    counts: [u64; Completion::KINDS],
}

impl Tally {
    /// The longest text of one.
    pub const TEXT_BYTES_MAX: usize = DIGITS + Completion::KINDS * (1 + DIGITS);

    /// One that begins at an offset.
    pub fn new(start: i64) -> Self {
        Self { start, counts: [0; Completion::KINDS] }
    }

    /// The offset where counting began.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// How many became complete in this way.
    pub fn of(&self, completion: Completion) -> u64 {
        self.counts[completion.kind()]
    }

    /// How many became complete.
    pub fn total(&self) -> i128 {
        self.counts.iter().map(|count| i128::from(*count)).sum()
    }

    /// Those that are not zero.
    pub fn counts(&self) -> impl Iterator<Item = (Completion, u64)> {
        Completion::all().map(|completion| (completion, self.of(completion))).filter(|(_, count)| *count > 0)
    }

    /// So many more became complete in this way.
    pub(super) fn add(&mut self, completion: Completion, offsets: u64) {
        let count = &mut self.counts[completion.kind()];
        *count = count.saturating_add(offsets).min(COUNT_MAX);
    }

    /// One less, which nothing but a control does.
    #[cfg(test)]
    pub(super) fn take_one(&mut self, completion: Completion) {
        self.counts[completion.kind()] -= 1;
    }

    /// Appends what the commit's metadata says of it.
    pub(super) fn write(&self, text: &mut String) {
        write!(text, "{}", self.start).expect("a string takes everything");
        for (completion, count) in self.counts() {
            write!(text, "{}{count}", completion.letter()).expect("a string takes everything");
        }
    }

    /// What [`write`](Self::write) wrote. A letter that comes again adds to the first.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (start, mut rest) = number(text)?;
        let mut tally = Self::new(i64::try_from(start).ok()?);
        while let Some(letter) = rest.chars().next() {
            if !letter.is_ascii_alphabetic() {
                return None;
            }
            let (count, after) = number(&rest[1..])?;
            tally.add(Completion::of_letter(letter), count);
            rest = after;
        }
        Some(tally)
    }
}

/// The number that a text begins with, as it would be written, and the rest.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(digits);
    let is_canonical = digits == "0" || !digits.starts_with('0');
    let number = digits.parse().ok().filter(|number| is_canonical && *number <= COUNT_MAX)?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(tally: &Tally) -> String {
        let mut text = String::new();
        tally.write(&mut text);
        text
    }

    /// What is in Kafka stays readable: a letter never means another thing.
    #[test]
    fn each_way_has_its_letter_and_its_place() {
        let letters: String = Completion::all().map(Completion::letter).collect();
        assert_eq!(letters, "rdapnBSEKOIMTRXmxo");
        let places: BTreeSet<_> = Completion::all().map(Completion::kind).collect();
        assert!(places.into_iter().eq(0..Completion::KINDS));
        assert_eq!(letters.chars().collect::<BTreeSet<_>>().len(), Completion::KINDS);
        assert!(Completion::all().all(|completion| Completion::of_letter(completion.letter()) == completion));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut tally = Tally::new(100);
        assert_eq!((text(&tally).as_str(), tally.total()), ("100", 0));
        tally.add(Outcome::Delivered.into(), 7);
        tally.add(Outcome::Dead(Reason::Refused).into(), 2);
        tally.add(Outcome::Repeat.into(), 1);
        assert_eq!((text(&tally).as_str(), tally.total()), ("100d7a1R2", 10));
        assert_eq!(Tally::parse("100d7a1R2").as_ref(), Some(&tally));
        assert_eq!((tally.start(), tally.of(Outcome::Delivered.into()), tally.of(Completion::Marker)), (100, 7, 0));

        let mut longest = Tally::new(i64::MAX);
        for completion in Completion::all() {
            longest.add(completion, COUNT_MAX);
            longest.add(completion, 1);
        }
        assert_eq!(text(&longest).len(), Tally::TEXT_BYTES_MAX);
        assert_eq!(Tally::parse(&text(&longest)), Some(longest), "a count stays what can be read");
    }

    #[test]
    fn what_a_later_version_counts_is_part_of_the_sum() {
        let tally = Tally::parse("0d3Q4z5").unwrap();
        assert_eq!((tally.of(Outcome::Delivered.into()), tally.of(Completion::Other), tally.total()), (3, 9, 12));
        assert_eq!(text(&tally), "0d3o9");
    }

    #[test]
    fn what_is_no_tally_is_refused() {
        for bad in [
            "",
            "d3",
            "-1",
            "+1",
            "01",
            "0d",
            "0d03",
            "0d-1",
            "0 d3",
            "0d3 ",
            "0d3,",
            "0é3",
            "9223372036854775808",
            "0d9223372036854775808",
            "0d99999999999999999999",
        ] {
            assert_eq!(Tally::parse(bad), None, "{bad:?}");
        }
    }
}
