//! How a batch is written.
//!
//! ```text
//! key    first offset 8
//! value  next offset 8 ‖ time ms 8 ‖ anchor: offset 8, time ms 8, id 16 ‖ (id 16 ‖ owner 8 ‖ seen ms 8)* ‖ digest 16
//! ```
//!
//! Integers are big-endian; the anchor's offset is -1 where there is none. The digest is SHA-256 over the place's length and
//! name, the key, and the value before it, cut to 16 bytes: a flipped bit, a batch cut short, and one that turned up under
//! another key or in another partition's tree are a hole, and never a wrong id or owner.

use common::id::KeyedId;
use sha2::{Digest, Sha256};

use super::{Anchor, Batch, Place};
use crate::core::index::Entry;

const DIGEST_LEN: usize = 16;
const HEAD_LEN: usize = 48;
const ENTRY_LEN: usize = 32;

pub(super) fn encode(place: &Place, batch: &Batch) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_LEN + batch.entries.len() * ENTRY_LEN + DIGEST_LEN);
    let anchor = batch.anchor.unwrap_or(Anchor { offset: -1, id: KeyedId([0; KeyedId::LEN]), time_ms: 0 });
    value.extend(batch.next.to_be_bytes());
    value.extend(batch.time_ms.to_be_bytes());
    value.extend(anchor.offset.to_be_bytes());
    value.extend(anchor.time_ms.to_be_bytes());
    value.extend(anchor.id.0);
    for entry in &batch.entries {
        value.extend(entry.id.0);
        value.extend(entry.owner.to_be_bytes());
        value.extend(entry.seen_ms.to_be_bytes());
    }
    value.extend(digest(place, &batch.first.to_be_bytes(), &value));
    value
}

/// The batch, or `None` if it is not as it was written.
pub(super) fn decode(place: &Place, key: &[u8], value: &[u8]) -> Option<Batch> {
    let (body, sum) = value.split_last_chunk::<DIGEST_LEN>()?;
    if digest(place, key, body) != *sum {
        return None;
    }
    read(key, body)
}

fn read(key: &[u8], mut rest: &[u8]) -> Option<Batch> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*head)
    }
    let rest = &mut rest;
    let first = i64::from_be_bytes(key.try_into().ok()?);
    let next = i64::from_be_bytes(take(rest)?);
    let time_ms = u64::from_be_bytes(take(rest)?);
    let offset = i64::from_be_bytes(take(rest)?);
    let anchor = Anchor { offset, time_ms: u64::from_be_bytes(take(rest)?), id: KeyedId(take(rest)?) };
    let mut entries = Vec::with_capacity(rest.len() / ENTRY_LEN);
    while !rest.is_empty() {
        entries.push(Entry {
            id: KeyedId(take(rest)?),
            owner: i64::from_be_bytes(take(rest)?),
            seen_ms: u64::from_be_bytes(take(rest)?),
        });
    }
    let anchor = (offset >= 0).then_some(anchor);
    (next > first).then_some(Batch { first, next, time_ms, anchor, entries })
}

fn digest(place: &Place, key: &[u8], body: &[u8]) -> [u8; DIGEST_LEN] {
    let name = place.to_string();
    let mut hash = Sha256::new();
    hash.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(name.as_bytes());
    hash.update(key);
    hash.update(body);
    *hash.finalize().first_chunk().expect("32 bytes begin with 16")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, place};
    use super::*;

    /// Whether any single flipped bit of a value gets past `decode` as something else than it was.
    fn deceived(whole: &Batch, decode: impl Fn(&[u8], &[u8]) -> Option<Batch>) -> bool {
        let (key, value) = (whole.first.to_be_bytes(), encode(&place(1), whole));
        (0..value.len() * 8).any(|bit| {
            let mut bent = value.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            decode(&key, &bent).is_some_and(|found| found != *whole)
        })
    }

    #[test]
    fn a_batch_comes_back_and_every_prefix_is_refused() {
        let mut whole = batch(5, 8, 1000);
        for anchor in [whole.anchor, None] {
            whole.anchor = anchor;
            let value = encode(&place(1), &whole);
            assert_eq!(decode(&place(1), &5_i64.to_be_bytes(), &value), Some(whole.clone()));
            for len in 0..value.len() {
                assert_eq!(decode(&place(1), &5_i64.to_be_bytes(), &value[..len]), None, "{len}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_refused_and_another_key_or_place() {
        let whole = batch(5, 8, 1000);
        assert!(!deceived(&whole, |key, value| decode(&place(1), key, value)));
        let value = encode(&place(1), &whole);
        assert_eq!(decode(&place(1), &4_i64.to_be_bytes(), &value), None);
        assert_eq!(decode(&place(2), &5_i64.to_be_bytes(), &value), None);
    }

    #[test]
    fn control_without_the_digest_a_flipped_bit_becomes_a_wrong_id_or_owner() {
        let unchecked = |key: &[u8], value: &[u8]| read(key, value.split_last_chunk::<DIGEST_LEN>()?.0);
        assert!(deceived(&batch(5, 8, 1000), unchecked));
    }
}
