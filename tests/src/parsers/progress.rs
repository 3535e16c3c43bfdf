//! The metadata of a commit.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use processor::core::progress::{Progress, WINDOW_MAX, metadata_bytes_max};
use processor::core::tally::Completion;

use super::{Judged, Target};

pub(super) const COMMIT_METADATA: Target = Target {
    name: "commit_metadata",
    check: commit_metadata,
    seeds: || {
        let seed = |base: i64, text: &str| [&base.to_be_bytes()[..], text.as_bytes()].concat();
        vec![
            seed(0, ""),
            seed(100, "1:Cg"),
            seed(1 << 40, "1:AgAAAAAAAAAAAAAAAAAB"),
            seed(7, "1:_____w"),
            seed(0, "1:"),
            seed(0, &format!("1:{}", "A".repeat(2731))),
            seed(i64::MAX, "1:Ag"),
            seed(BASE_MAX, "1:_____w"),
            seed(-1, "1:Ag"),
            seed(0, "1:Ag=="),
            seed(100, "2:Cg:95d4a3"),
            seed(100, "2::95r4B1m0x7o9"),
            seed(100, "2:Cg:100d2q17:of a later version"),
            seed(7, "2:_____w:9223372036854775807d9223372036854775807d1"),
            seed(0, &format!("2:{}:0", "A".repeat(2731))),
            seed(0, "2:Ag"),
            seed(0, "2:Ag:0d07"),
            seed(0, "3:Ag:0"),
        ]
    },
    pieces: &["1:", "2:", ":", "A", "_", "g", "=", "AAAAAAAAAAAAAAAAAAAA", "0", "17", "d1", "X9223372036854775807"],
};

/// The largest offset to begin with.
const BASE_MAX: i64 = i64::MAX - 2 * WINDOW_MAX as i64;

/// The committed offset in eight bytes, then the text.
fn commit_metadata(input: &[u8]) -> Judged {
    let Some((base, text)) = input.split_first_chunk() else { return Judged::Refused };
    let (base, Ok(text)) = (i64::from_be_bytes(*base), std::str::from_utf8(text)) else { return Judged::Refused };
    let restored = Progress::restore(base, text, 1024);
    let said = said(base, text).filter(|_| (0..=BASE_MAX).contains(&base));
    assert_eq!(restored.is_ok(), said.is_some(), "{base} {text}");
    let (Ok(restored), Some(Said { bits, start, counts })) = (restored, said) else { return Judged::Refused };
    let ones: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
    assert_eq!((restored.tally().start(), restored.completed()), (start, base - start + i64::from(ones)));
    for completion in Completion::all() {
        let of_it = counts.get(&completion_name(completion)).copied().unwrap_or_default();
        assert_eq!(restored.tally().of(completion), of_it, "{completion:?} in {text}");
    }
    let is_set = |at: usize| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    let first = (0..).find(|&at| !is_set(at)).expect("the bits end");
    assert_eq!(restored.base(), base + offset(first));
    let written = restored.metadata();
    assert!(written.len() <= metadata_bytes_max(WINDOW_MAX));
    let again = Progress::restore(restored.base(), &written, 1024);
    // What it writes it reads, but where what is complete leads past the largest offset to begin with.
    assert_eq!(again.is_ok(), restored.base() <= BASE_MAX, "{base} {text}");
    assert!(again.as_ref().ok().is_none_or(|again| again.tally() == restored.tally()), "{text} became {written}");
    // Every bit of a short text, some of a long one.
    for at in (0..bits.len() * 8 + 70).step_by(bits.len() / 64 + 1) {
        let at_offset = base + offset(at);
        let complete = at < first || is_set(at);
        assert_eq!(restored.is_complete(at_offset), complete, "bit {at}");
        assert!(
            again.as_ref().is_ok_and(|again| again.is_complete(at_offset) == complete) || again.is_err(),
            "bit {at}"
        );
    }
    Judged::Accepted
}

fn offset(at: usize) -> i64 {
    i64::try_from(at).expect("a few thousand bits")
}

/// What a text says.
struct Said {
    bits: Vec<u8>,
    start: i64,
    /// By name and reason.
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

/// `"1:" base64url(bitmap)`, or `"2:" base64url(bitmap) ":" tally`, perhaps with more behind another colon; or nothing. The
/// bitmap is at most as long as the widest window.
fn said(base: i64, text: &str) -> Option<Said> {
    let bits = |text: &str| {
        let bits = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        (bits.len() * 8 <= usize::try_from(WINDOW_MAX).ok()?).then_some(bits)
    };
    if text.is_empty() {
        return Some(Said { bits: Vec::new(), start: base, counts: BTreeMap::new() });
    }
    let (version, rest) = text.split_once(':')?;
    if version == "1" {
        let bits = bits(rest)?;
        let ones = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
        return Some(Said { bits, start: base, counts: [(("other", ""), ones)].into() });
    }
    let mut parts = rest.split(':');
    let (bitmap, tally) = (parts.next()?, parts.next().filter(|_| version == "2")?);
    let mut numbers = tally.split(|character: char| character.is_ascii_alphabetic());
    let letters = tally.chars().filter(char::is_ascii_alphabetic);
    let start = number(numbers.next()?)?;
    let mut counts = BTreeMap::new();
    for (letter, digits) in letters.zip(numbers) {
        let count: &mut u64 = counts.entry(name(letter)).or_default();
        *count = count.saturating_add(number(digits)?.unsigned_abs()).min(i64::MAX.unsigned_abs());
    }
    Some(Said { bits: bits(bitmap)?, start, counts })
}

/// A number as it is written.
fn number(digits: &str) -> Option<i64> {
    digits.parse::<i64>().ok().filter(|number| number.to_string() == digits && *number >= 0)
}

/// What a letter counts.
fn name(letter: char) -> (&'static str, &'static str) {
    match letter {
        'r' => ("routed", ""),
        'd' => ("delivered", ""),
        'a' => ("repeat", ""),
        'p' => ("parked", ""),
        'n' => ("passed", ""),
        'm' => ("marker", ""),
        'x' => ("expired", ""),
        'B' => ("dead", "bad_mac"),
        'S' => ("dead", "unknown_source"),
        'E' => ("dead", "invalid_envelope"),
        'K' => ("dead", "unknown_key"),
        'O' => ("dead", "open_failed"),
        'I' => ("dead", "invalid_event_id"),
        'M' => ("dead", "misplaced"),
        'T' => ("dead", "too_old"),
        'R' => ("dead", "refused"),
        'X' => ("dead", "exhausted"),
        _ => ("other", ""),
    }
}

fn completion_name(completion: Completion) -> (&'static str, &'static str) {
    match completion {
        Completion::Ended(outcome) => (outcome.as_str(), outcome.reason()),
        Completion::Marker | Completion::Expired | Completion::Other => (completion.as_str(), ""),
    }
}
