//! The metadata of a commit.

use data_encoding::BASE64URL_NOPAD;
use processor::core::progress::{Progress, WINDOW_MAX};

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
            seed(0, "2:Ag"),
            seed(0, "1:Ag=="),
        ]
    },
    pieces: &["1:", "A", "_", "g", "=", "AAAAAAAAAAAAAAAAAAAA"],
};

/// The largest offset to begin with.
const BASE_MAX: i64 = i64::MAX - 2 * WINDOW_MAX as i64;

/// The committed offset in eight bytes, then the text.
fn commit_metadata(input: &[u8]) -> Judged {
    let Some((base, text)) = input.split_first_chunk() else { return Judged::Refused };
    let (base, Ok(text)) = (i64::from_be_bytes(*base), std::str::from_utf8(text)) else { return Judged::Refused };
    let restored = Progress::restore(base, text, 1024);
    let bits = bits(text).filter(|_| (0..=BASE_MAX).contains(&base));
    assert_eq!(restored.is_ok(), bits.is_some(), "{base} {text}");
    let (Ok(restored), Some(bits)) = (restored, bits) else { return Judged::Refused };
    let is_set = |at: usize| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    let first = (0..).find(|&at| !is_set(at)).expect("the bits end");
    assert_eq!(restored.base(), base + offset(first));
    let written = restored.metadata();
    assert!(written.len() <= 4096 && written.len() <= text.len());
    let again = Progress::restore(restored.base(), &written, 1024);
    // What it writes it reads, but where what is complete leads past the largest offset to begin with.
    assert_eq!(again.is_ok(), restored.base() <= BASE_MAX, "{base} {text}");
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

/// `"1:" base64url(bitmap)`, at most as long as the widest window; or nothing.
fn bits(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let bits = BASE64URL_NOPAD.decode(text.strip_prefix("1:")?.as_bytes()).ok()?;
    (bits.len() * 8 <= usize::try_from(WINDOW_MAX).ok()?).then_some(bits)
}
