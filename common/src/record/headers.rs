//! A record's headers on their way out: all texts in one buffer, which is also what the MAC covers.

use std::fmt::Display;
use std::io::Write;

use super::{Field, MAC_HEADER, NAMES};

const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
/// Bytes of a text's length.
const LEN: usize = size_of::<u64>();

/// The headers of a record, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    pub(super) covered: Covered,
    pub(super) mac: String,
}

impl Headers {
    /// Each header's name and text, the MAC last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.covered.iter().chain([(MAC_HEADER, self.mac.as_bytes())])
    }
}

/// Header texts in the form in which the MAC covers them. They are put in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Covered {
    bytes: Vec<u8>,
    /// How many names have their say in `bytes`.
    names: usize,
}

impl Covered {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::with_capacity(512), names: 0 }
    }

    pub(super) fn put(&mut self, field: Field, text: &[u8]) {
        self.put_at(field as usize, text);
    }

    pub(super) fn put_at(&mut self, at: usize, text: &[u8]) {
        self.begin(at);
        self.bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        self.bytes.extend_from_slice(text);
    }

    pub(super) fn show(&mut self, field: Field, value: impl Display) {
        self.begin(field as usize);
        let start = self.bytes.len() + LEN;
        self.bytes.resize(start, 0);
        write!(self.bytes, "{value}").expect("a buffer takes everything");
        let len = (self.bytes.len() - start) as u64;
        self.bytes[start - LEN..start].copy_from_slice(&len.to_be_bytes());
    }

    fn begin(&mut self, at: usize) {
        self.skip_to(at);
        self.bytes.push(PRESENT);
        self.names += 1;
    }

    fn skip_to(&mut self, at: usize) {
        let skipped = at.checked_sub(self.names).expect("headers are put in the order of their names");
        self.bytes.resize(self.bytes.len() + skipped, ABSENT);
        self.names = at;
    }

    /// No text comes any more.
    pub(super) fn end(&mut self) {
        self.skip_to(NAMES.len());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        debug_assert_eq!(self.names, NAMES.len(), "it has ended");
        &self.bytes
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = &self.bytes[..];
        NAMES.into_iter().filter_map(move |name| {
            let (&mark, after) = rest.split_first()?;
            rest = after;
            if mark == ABSENT {
                return None;
            }
            let (len, after) = rest.split_first_chunk::<LEN>()?;
            let (text, after) = after.split_at(usize::try_from(u64::from_be_bytes(*len)).ok()?);
            rest = after;
            Some((name, text))
        })
    }
}
