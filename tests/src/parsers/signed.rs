//! The headers of the signature scheme, and `Retry-After`.

use std::time::Duration;

use common::http_client::retry_after;
use common::signature::{SIGNATURE_HEADER_BYTES_MAX, SIGNATURES_MAX, Signatures, Timestamp};
use http::header::RETRY_AFTER as RETRY_AFTER_HEADER;
use http::{HeaderMap, HeaderValue};

use super::{Judged, Target, native_vectors, texts};

const ONE: &str = "2162ca2eeda9394cde38469b0f7e733c71d2af471d395574f1a54949da96c8e3";

pub(super) const SIGNATURE: Target = Target {
    name: "signature",
    check: signature,
    seeds: || {
        let rotation = &native_vectors()["rotation"];
        let long = vec![format!("sha256={ONE}"); SIGNATURES_MAX].join(",").into_bytes();
        let by_hand = [ONE.into(), format!("v1={ONE}").into(), format!("sha256={ONE},{ONE}").into(), long];
        [texts(&rotation["accepted_headers"]), texts(&rotation["refused_headers"]), by_hand.into()].concat()
    },
    pieces: &["v1=", "sha256=", ",", "=", ONE, "v1,", " ", "00", "F"],
};

fn signature(input: &[u8]) -> Judged {
    let parsed = Signatures::parse(input).ok();
    assert_eq!(parsed.as_ref().map(|parsed| parsed.as_slice().to_vec()), macs(input));
    let Some(parsed) = parsed else { return Judged::Refused };
    let plain: Vec<String> =
        parsed.as_slice().iter().map(|mac| mac.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    let again = Signatures::parse(plain.join(",").as_bytes()).expect("what it says is a header again");
    assert_eq!(again.as_slice(), parsed.as_slice());
    Judged::Accepted
}

/// `sig *("," sig)`, `sig = ["v1=" / "sha256="] 64 lower-case hex`, 1 to 5 of them in at most 512 bytes.
fn macs(input: &[u8]) -> Option<Vec<[u8; 32]>> {
    let text = std::str::from_utf8(input).ok()?;
    let parts: Vec<&str> = text.split(',').collect();
    if text.len() > SIGNATURE_HEADER_BYTES_MAX || parts.len() > SIGNATURES_MAX {
        return None;
    }
    parts.into_iter().map(mac).collect()
}

fn mac(text: &str) -> Option<[u8; 32]> {
    let (prefix, hex) = text.split_at_checked(text.len().checked_sub(64)?)?;
    if !["", "v1=", "sha256="].contains(&prefix) || hex.chars().any(|c| !"0123456789abcdef".contains(c)) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("these are two of its digits");
    Some(std::array::from_fn(byte))
}

pub(super) const TIMESTAMP: Target = Target {
    name: "timestamp",
    check: timestamp,
    seeds: || {
        let by_hand = ["1700000000", "1000000000", "9999999999", "99999999999", "10000000000", "0170000000"];
        [texts(&native_vectors()["timestamps_refused"]), by_hand.map(|text| text.as_bytes().to_vec()).into()].concat()
    },
    pieces: &["0", "1", "+", "-", ".", "e", " ", "9999999999"],
};

fn timestamp(input: &[u8]) -> Judged {
    let parsed = Timestamp::parse(input);
    // Ten or eleven digits, and the number that they stand for is written like this and in no other way.
    let number = std::str::from_utf8(input).ok().and_then(|text| Some((text, text.parse::<u64>().ok()?)));
    let good = number.filter(|(text, number)| number.to_string() == *text && matches!(text.len(), 10 | 11));
    assert_eq!(parsed.map(|parsed| parsed.unix_s()).ok(), good.map(|(_, number)| number));
    let Ok(parsed) = parsed else { return Judged::Refused };
    assert_eq!((parsed.as_bytes(), parsed.as_str().as_bytes()), (input, input));
    assert_eq!(Timestamp::at(parsed.unix_s()), Ok(parsed));
    Judged::Accepted
}

/// The time at which answers arrive.
const NOW_S: u64 = 1_700_000_000;

pub(super) const RETRY_AFTER: Target = Target {
    name: "retry_after",
    check: retry,
    seeds: || {
        let texts = [
            "120",
            "0",
            "18446744073709551616",
            "Tue, 14 Nov 2023 22:15:00 GMT",
            "Tuesday, 14-Nov-23 22:15:00 GMT",
            "Tue Nov 14 22:15:00 2023",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "-1",
            "",
            "1.5",
        ];
        texts.map(|text| text.as_bytes().to_vec()).into()
    },
    pieces: &["0", "9", " ", "GMT", "Nov", "Tue, ", ":", "-", "\t"],
};

fn retry(input: &[u8]) -> Judged {
    let Ok(value) = HeaderValue::from_bytes(input) else { return Judged::Refused };
    let asked = |value: HeaderValue| retry_after(&HeaderMap::from_iter([(RETRY_AFTER_HEADER, value)]), NOW_S);
    let Some(wait) = asked(value) else {
        let digits = !input.is_empty() && input.iter().all(u8::is_ascii_digit);
        assert!(!digits, "digits are seconds");
        return Judged::Refused;
    };
    let text = std::str::from_utf8(input).expect("what is no text is refused").trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let significant = text.trim_start_matches('0');
        let seconds = if significant.is_empty() { 0 } else { significant.parse().unwrap_or(u64::MAX) };
        assert_eq!(wait, Duration::from_secs(seconds));
    } else {
        let date = httpdate::parse_http_date(text).expect("it is a date, or no number at all");
        let due = std::time::UNIX_EPOCH + Duration::from_secs(NOW_S);
        assert_eq!(wait, Duration::from_secs(date.duration_since(due).unwrap_or_default().as_secs()));
        // The date as it is written today says the same.
        let modern = HeaderValue::from_str(&httpdate::fmt_http_date(date)).expect("a date is visible characters");
        assert_eq!(asked(modern), Some(wait));
    }
    assert_eq!(asked(HeaderValue::from(wait.as_secs())), Some(wait));
    Judged::Accepted
}
