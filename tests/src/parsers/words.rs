//! Short texts that people write: names, places, delays, and secrets in their files.

use std::cell::RefCell;
use std::io::{Seek, SeekFrom, Write};

use common::config::SecretFile;
use common::id::{EventId, KeyId, SinkId, SourceId};
use common::record::LetterPlace;
use common::secret::Secret;
use common::standard_webhooks::{SigningKey, parse_verifying_key};
use common::topics::Delay;
use tempfile::NamedTempFile;

use super::{Judged, Target};

pub(super) const NAME: Target = Target {
    name: "name",
    check: name,
    seeds: || {
        let texts = [
            "source:acme",
            "sink:0-x_y",
            "key:2026.11_K-a",
            "event:e1",
            "delay:10s",
            "delay:24h",
            "delay:90m",
            "place:3/4711",
            "place:0/0",
            "source:-x",
            "sink:A",
            "key:a b",
            "event:",
            "delay:25h",
            "place:+1/2",
            "place:-1/2",
            "place:1/02",
            "?",
        ];
        let long = ["source", "key", "event"].map(|kind| format!("{kind}:{}", "a".repeat(64)).into_bytes());
        texts.map(|text| text.as_bytes().to_vec()).into_iter().chain(long).collect()
    },
    pieces: &["source:", "key:", "place:", "/", "-", "_", ".", "0", "9", "+", "s", "m", "h", "A", "é", " "],
};

/// A kind, a colon and a text.
fn name(input: &[u8]) -> Judged {
    let Ok(input) = std::str::from_utf8(input) else { return Judged::Refused };
    let Some((kind, text)) = input.split_once(':') else { return Judged::Refused };
    let of = |alphabet: &str| (1..=64).contains(&text.len()) && text.chars().all(|c| alphabet.contains(c));
    let lower = "abcdefghijklmnopqrstuvwxyz0123456789";
    let (shown, good) = match kind {
        "source" | "sink" => {
            let shown = if kind == "source" {
                text.parse::<SourceId>().ok().map(|name| name.to_string())
            } else {
                text.parse::<SinkId>().ok().map(|name| name.to_string())
            };
            (shown, of(&format!("{lower}-_")) && !text.starts_with(['-', '_']))
        }
        "key" => {
            (text.parse::<KeyId>().ok().map(|id| id.to_string()), of(&format!("{lower}{}-_.", lower.to_uppercase())))
        }
        "event" => (EventId::new(text).ok().map(|id| id.as_str().to_owned()), (1..=256).contains(&text.len())),
        "place" => {
            let number =
                |text: &str, max: i64| text.parse().is_ok_and(|n: i64| (0..=max).contains(&n) && n.to_string() == text);
            let good = text
                .split_once('/')
                .is_some_and(|(partition, offset)| number(partition, i32::MAX.into()) && number(offset, i64::MAX));
            (text.parse::<LetterPlace>().ok().map(|place| place.to_string()), good)
        }
        "delay" => return delay(text),
        _ => return Judged::Refused,
    };
    assert_eq!(shown, good.then(|| text.to_owned()));
    Judged::accepted_if(good)
}

/// The same delay can be written in several ways: `60s` is shown as `1m`.
fn delay(text: &str) -> Judged {
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let seconds = units.into_iter().find_map(|(unit, of)| {
        let number = text.strip_suffix(unit)?;
        let count = number.parse::<u32>().ok().filter(|count| *count > 0 && count.to_string() == number)?;
        count.checked_mul(of).filter(|seconds| *seconds <= Delay::SECONDS_MAX)
    });
    let parsed = text.parse::<Delay>();
    assert_eq!(parsed.as_ref().ok().map(|delay| delay.duration().as_secs()), seconds.map(u64::from), "{text}");
    let Ok(delay) = parsed else { return Judged::Refused };
    assert_eq!(delay.to_string().parse(), Ok(delay));
    Judged::Accepted
}

pub(super) const SECRET: Target = Target {
    name: "secret",
    check: secret,
    seeds: || {
        let texts = [
            "fplain text of a secret\n",
            "fhex:00ff7Fa0\r\n",
            "fbase64:AAECAwQFBgcICQoL\n",
            "fbase64:AAE=",
            "fhex:0",
            "fhex:",
            "f",
            "f\n\n",
            "kwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "kwhsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
            "kwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
            "kMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "kwhpk_1bhjsWdOGiI/xIfvIaxHdL7T/7ByTEkg9/zFYOmdCuo=",
        ];
        let long = ["f", "k"].map(|kind| format!("{kind}whsec_{}", "A".repeat(88)).into_bytes());
        texts.map(|text| text.as_bytes().to_vec()).into_iter().chain(long).collect()
    },
    pieces: &["hex:", "base64:", "whsec_", "whpk_", "=", "==", "\n", "\r\n", "AAAA", "ff", " ", "g"],
};

/// `f` and a secret file's content, or `k` and a signing key's text.
fn secret(input: &[u8]) -> Judged {
    match input.split_first() {
        Some((b'f', content)) => file(content),
        Some((b'k', text)) => signing_key(text),
        Some(_) | None => Judged::Refused,
    }
}

fn file(content: &[u8]) -> Judged {
    let line = content.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line)).unwrap_or(content);
    let expected = if let Some(hex) = line.strip_prefix(b"hex:") {
        unhex(hex)
    } else if let Some(base64) = line.strip_prefix(b"base64:") {
        super::base64(base64)
    } else {
        Some(line.to_vec())
    };
    let expected = expected.filter(|secret| !secret.is_empty());
    let loaded = in_a_file(content, |file| SecretFile::new(file.path()).load());
    match loaded {
        Ok(secret) => {
            assert_eq!(Some(secret.expose()), expected.as_deref());
            assert_eq!(format!("{secret:?}"), "[redacted]");
            Judged::Accepted
        }
        Err(error) => {
            assert!(expected.is_none(), "{error}");
            Judged::Refused
        }
    }
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.iter().map(|&byte| Some(u8::try_from(char::from(byte).to_digit(16)?).expect("a digit"))).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn signing_key(text: &[u8]) -> Judged {
    let key = text.strip_prefix(b"whsec_").and_then(super::base64);
    let good = key.is_some_and(|key| (24..=64).contains(&key.len()));
    let parsed = SigningKey::parse(&Secret::from(text.to_vec()));
    assert_eq!(parsed.is_ok(), good);
    // Not every public key of the right length is a point of the curve.
    let public = text.strip_prefix(b"whpk_").and_then(super::base64).is_some_and(|key| key.len() == 32);
    let verifying = parse_verifying_key(&Secret::from(text.to_vec()));
    assert!(verifying.is_ok() == good || verifying.is_ok() && public);
    Judged::accepted_if(good)
}

/// Runs `read` on a file with this content.
pub(super) fn in_a_file<T>(content: &[u8], read: impl FnOnce(&NamedTempFile) -> T) -> T {
    thread_local! {
        static FILE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().expect("a file of this thread's own"));
    }
    FILE.with_borrow_mut(|file| {
        let written = file.as_file_mut();
        written.set_len(0).and_then(|()| written.seek(SeekFrom::Start(0))).expect("the file can be emptied");
        written.write_all(content).expect("the file can be written");
        read(file)
    })
}
