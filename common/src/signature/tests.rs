use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/native.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::from(text.as_bytes().to_vec())
}

/// Whether a header's signature holds, the way the edge asks: parse, feed, compare with every secret.
fn holds(secrets: &[&str], timestamp: &str, body: &[u8], header: &[u8]) -> Option<usize> {
    let signatures = Signatures::parse(header).ok()?;
    let timestamp = Timestamp::parse(timestamp.as_bytes()).unwrap();
    let macs: Vec<_> = secrets
        .iter()
        .map(|text| {
            let mut mac = Mac::new(&secret(text)).begin(&timestamp);
            // In pieces, as a body arrives.
            for piece in body.chunks(7) {
                mac.update(piece);
            }
            mac.finish()
        })
        .collect();
    verify_any(&macs, &signatures)
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(text(value).as_bytes()).unwrap()
}

#[test]
fn golden_signature_cases() {
    let vectors = vectors();
    let cases = list(&vectors["signature_cases"]);
    assert_eq!(cases.len(), 7);
    for case in cases {
        let (body, timestamp) = (hex(&case["body_hex"]), text(&case["timestamp"]));
        let valid = case["signature_valid"].as_bool().unwrap();
        let found = holds(&[text(&case["secret_utf8"])], timestamp, &body, text(&case["signature"]).as_bytes());
        assert_eq!(found.is_some(), valid, "{}", case["name"]);
        let ours = sign(&secret(text(&case["secret_utf8"])), &Timestamp::parse(timestamp.as_bytes()).unwrap(), &body);
        assert_eq!(ours == text(&case["signature"]), valid, "{}", case["name"]);
    }
}

#[test]
fn golden_rotation_headers() {
    let rotation = &vectors()["rotation"];
    let secrets: Vec<_> = list(&rotation["secrets_utf8"]).iter().map(text).collect();
    let check =
        |header: &str| holds(&secrets, text(&rotation["timestamp"]), &hex(&rotation["body_hex"]), header.as_bytes());
    let accepted: Vec<_> = list(&rotation["accepted_headers"]).iter().map(|header| check(text(header))).collect();
    assert_eq!(accepted, [Some(0), Some(1), Some(1), Some(0), Some(1)]);
    let refused = list(&rotation["refused_headers"]);
    assert_eq!(refused.len(), 13);
    for header in refused {
        assert_eq!(check(text(header)), None, "{header}");
    }
}

#[test]
fn golden_timestamps_are_refused() {
    let vectors = vectors();
    assert_eq!(list(&vectors["timestamps_refused"]).len(), 16);
    for case in list(&vectors["timestamps_refused"]) {
        assert_eq!(Timestamp::parse(text(case).as_bytes()), Err(TimestampError), "{case}");
    }
}

#[test]
fn golden_window() {
    let vectors = vectors();
    let timestamp = Timestamp::at(1_700_000_000).unwrap();
    assert_eq!(list(&vectors["window"]).len(), 4);
    for case in list(&vectors["window"]) {
        let freshness = Window::default().freshness(&timestamp, case["now"].as_u64().unwrap());
        assert_eq!(freshness == Freshness::Fresh, case["ok"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn window_has_two_names_for_outside() {
    let at = |unix_s| Timestamp::at(unix_s).unwrap();
    for tolerance_s in [Window::TOLERANCE_S_MIN, 300, Window::TOLERANCE_S_MAX] {
        let (window, now) = (Window { tolerance_s }, 1_700_000_000);
        assert_eq!(window.freshness(&at(now - tolerance_s), now), Freshness::Fresh);
        assert_eq!(window.freshness(&at(now - tolerance_s - 1), now), Freshness::Stale);
        assert_eq!(window.freshness(&at(now + tolerance_s), now), Freshness::Fresh);
        assert_eq!(window.freshness(&at(now + tolerance_s + 1), now), Freshness::Future);
    }
    // A clock that is far off on either side neither overflows nor wraps.
    assert_eq!(Window::default().freshness(&at(99_999_999_999), 0), Freshness::Future);
    assert_eq!(Window::default().freshness(&at(1_000_000_000), u64::MAX), Freshness::Stale);
}

#[test]
fn timestamps_have_both_edges_and_keep_their_text() {
    for good in ["1000000000", "9999999999", "10000000000", "99999999999"] {
        let timestamp = Timestamp::parse(good.as_bytes()).unwrap();
        assert_eq!(timestamp.as_str(), good);
        assert_eq!(timestamp.to_string(), good);
        assert_eq!(timestamp.as_bytes(), good.as_bytes());
        assert_eq!(timestamp.unix_s(), good.parse::<u64>().unwrap());
        assert_eq!(Timestamp::at(timestamp.unix_s()), Ok(timestamp));
    }
    for bad in [0, 999_999_999, 100_000_000_000, u64::MAX] {
        assert_eq!(Timestamp::at(bad), Err(TimestampError));
    }
}

#[test]
fn every_prefix_of_a_signature_header_is_refused_or_ends_at_a_whole_signature() {
    let one = "2162ca2eeda9394cde38469b0f7e733c71d2af471d395574f1a54949da96c8e3";
    let header = format!("v1={one},{one},sha256={one}");
    let whole: Vec<_> = (1..=3).map(|n| header.split(',').take(n).collect::<Vec<_>>().join(",").len()).collect();
    for len in 0..=header.len() {
        assert_eq!(Signatures::parse(&header.as_bytes()[..len]).is_ok(), whole.contains(&len), "{len}");
    }
}

#[test]
fn every_flipped_bit_of_timestamp_body_and_signature_is_refused() {
    let (body, timestamp) = (b"{\"encrypted\":\"AAAA\"}".to_vec(), "1700000000");
    let header = sign(&secret("s"), &Timestamp::parse(timestamp.as_bytes()).unwrap(), &body);
    assert_eq!(holds(&["s"], timestamp, &body, header.as_bytes()), Some(0));
    for bit in 0..body.len() * 8 {
        let mut bad = body.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(holds(&["s"], timestamp, &bad, header.as_bytes()), None);
    }
    for bit in 0..header.len() * 8 {
        let mut bad = header.clone().into_bytes();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(holds(&["s"], timestamp, &body, &bad), None);
    }
    for bit in 0..timestamp.len() * 8 {
        let mut bad = timestamp.as_bytes().to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Ok(bad) = Timestamp::parse(&bad) {
            assert_ne!(sign(&secret("s"), &bad, &body), header);
        }
    }
    // A dot moved from the body into the timestamp would sign the same bytes; the grammar does not let it.
    assert!(Timestamp::parse(b"170000000.").is_err());
}

#[test]
fn five_signatures_are_accepted_and_six_are_not() {
    let one = "ab".repeat(32);
    let header = |n: usize| vec![format!("sha256={one}"); n].join(",");
    assert_eq!(Signatures::parse(header(5).as_bytes()).unwrap().as_slice(), [[0xab; 32]; 5]);
    assert!(Signatures::parse(header(6).as_bytes()).is_err());
    for bad in [
        format!("v1=v1={one}"),
        format!("V1={one}"),
        format!("v2={one}"),
        format!("{one}, {one}"),
        format!("{one};{one}"),
    ] {
        assert!(Signatures::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn verify_any_answers_the_first_secret_that_was_shown() {
    let mac = |n: u8| [n; MAC_LEN];
    let shown = |bytes: &[u8]| {
        let hex: Vec<_> = bytes.iter().map(|&n| HEXLOWER.encode(&mac(n))).collect();
        Signatures::parse(hex.join(",").as_bytes()).unwrap()
    };
    assert_eq!(verify_any(&[mac(1), mac(2), mac(3)], &shown(&[9, 3])), Some(2));
    assert_eq!(verify_any(&[mac(1), mac(2), mac(3)], &shown(&[3, 2])), Some(1));
    assert_eq!(verify_any(&[mac(1), mac(1)], &shown(&[1])), Some(0));
    assert_eq!(verify_any(&[mac(1)], &shown(&[2])), None);
    assert_eq!(verify_any(&[], &shown(&[2])), None);
    // The unused slots of the array are zeroes; they were not shown.
    assert_eq!(verify_any(&[mac(0)], &shown(&[2])), None);
}

#[test]
fn debug_shows_no_signature() {
    let signatures = Signatures::parse("ab".repeat(32).as_bytes()).unwrap();
    assert_eq!(format!("{signatures:?}"), "Signatures(1)");
    assert_eq!(format!("{:?}", Mac::new(&secret("canary"))), "Mac([redacted])");
}

/// Wycheproof's HMAC-SHA256 set. What was cut to 128 bits is outside the header's grammar, whether it is right or not.
#[test]
fn wycheproof_hmac_sha256() {
    let set: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/wycheproof/hmac_sha256_test.json")).unwrap();
    let (mut right, mut wrong, mut short) = (0, 0, 0);
    for case in list(&set["testGroups"]).iter().flat_map(|group| list(&group["tests"])) {
        let mut mac = Mac::new(&Secret::from(hex(&case["key"])));
        mac.update(&hex(&case["msg"]));
        let mac = mac.finish();
        let Ok(signatures) = Signatures::parse(text(&case["tag"]).as_bytes()) else {
            assert_eq!(hex(&case["tag"]).len(), MAC_LEN / 2, "case {}", case["tcId"]);
            short += 1;
            continue;
        };
        let valid = case["result"] == "valid";
        assert_eq!(verify_any(&[mac], &signatures), valid.then_some(0), "case {}", case["tcId"]);
        *(if valid { &mut right } else { &mut wrong }) += 1;
    }
    assert_eq!((right, wrong, short), (33, 54, 87));
    assert_eq!(set["numberOfTests"], right + wrong + short);
}

proptest! {
    #[test]
    fn timestamp_grammar(bytes in "[0-9]{8,13}|[ +0-9.eE-]{9,12}|\\PC{0,12}") {
        let good = (10..=11).contains(&bytes.len())
            && bytes.bytes().all(|b| b.is_ascii_digit())
            && !bytes.starts_with('0');
        prop_assert_eq!(Timestamp::parse(bytes.as_bytes()).is_ok(), good);
    }

    #[test]
    fn signatures_round_trip(
        macs in proptest::collection::vec(any::<[u8; MAC_LEN]>(), 1..=SIGNATURES_MAX),
        prefixes in proptest::collection::vec(prop_oneof![Just(""), Just("v1="), Just("sha256=")], SIGNATURES_MAX),
    ) {
        let part = |(mac, prefix): (&[u8; MAC_LEN], &str)| prefix.to_owned() + &HEXLOWER.encode(mac);
        let parts: Vec<_> = macs.iter().zip(prefixes).map(part).collect();
        let parsed = Signatures::parse(parts.join(",").as_bytes()).unwrap();
        prop_assert_eq!(parsed.as_slice(), &macs[..]);
    }

    #[test]
    fn signature_parser_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Signatures::parse(&bytes);
    }

    #[test]
    fn pieces_do_not_matter(body in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
        let timestamp = Timestamp::at(1_700_000_000).unwrap();
        let (head, tail) = body.split_at(cut.min(body.len()));
        let mut mac = Mac::new(&secret("s")).begin(&timestamp);
        mac.update(head);
        mac.update(tail);
        prop_assert_eq!(HEXLOWER.encode(&mac.finish()), sign(&secret("s"), &timestamp, &body));
    }
}
