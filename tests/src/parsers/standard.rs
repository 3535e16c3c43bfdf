//! The headers of Standard Webhooks, as a source's senders may sign.

use common::secret::Secret;
use common::standard_webhooks::SigningKey;
use common::standard_webhooks::{is_id, parse_signatures, parse_verifying_key, sign};
use common::verify::Verification;
use data_encoding::BASE64;
use serde_json::Value;

use super::{Judged, Target, base64, vectors};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_1";
const TIME_S: u64 = 1_700_000_000;
const BODY: &[u8] = b"a body";

pub(super) const STANDARD_WEBHOOKS: Target = Target {
    name: "standard_webhooks",
    check,
    seeds: || {
        let vectors = vectors(include_str!("../../vectors/schemes.json"));
        let headers = vectors.as_array().into_iter().flatten().map(|vector| &vector["headers"]);
        let text = |header: &Value| header.as_str().map(str::to_owned);
        let signatures =
            headers.clone().filter_map(|headers| text(&headers["webhook-signature"])).map(|text| format!("s{text}"));
        let ids = headers.filter_map(|headers| text(&headers["webhook-id"])).map(|text| format!("i{text}"));
        let right = signed();
        let mac = BASE64.encode(&[7; 32]);
        let by_hand = [
            format!("s{right}"),
            format!("sv1,{mac} {right} v2,anything"),
            format!("s{right} v1a,{}", BASE64.encode(&[7; 64])),
            format!("s{right},{right}"),
            format!("sv1,{}", BASE64.encode(&[7; 31])),
            "i".to_owned(),
            "ia.b".to_owned(),
            format!("i{}", "x".repeat(256)),
        ];
        signatures.chain(ids).chain(by_hand).map(String::into_bytes).collect()
    },
    pieces: &["v1,", "v1a,", "v2,", " ", ",", "=", "AAAA", ".", "msg_"],
};

fn signed() -> String {
    sign(&key(), ID, TIME_S, BODY)
}

fn key() -> SigningKey {
    SigningKey::parse(&Secret::from(KEY.as_bytes().to_vec())).expect("a key")
}

/// `s` and a header of signatures, or `i` and an id.
fn check(input: &[u8]) -> Judged {
    match input.split_first() {
        Some((b's', header)) => signatures(header),
        Some((b'i', header)) => {
            let good = std::str::from_utf8(header).is_ok_and(|text| {
                (1..=256).contains(&text.len()) && text.chars().all(|c| ('!'..='~').contains(&c) && c != '.')
            });
            assert_eq!(is_id(header), good);
            Judged::accepted_if(good)
        }
        Some(_) | None => Judged::Refused,
    }
}

fn signatures(header: &[u8]) -> Judged {
    let parsed = parse_signatures(header);
    let shown = shown(header);
    assert_eq!(parsed.is_ok(), shown.is_some());
    let (Ok(parsed), Some(shown)) = (parsed, shown) else { return Judged::Refused };
    // Whether the one right signature is among them is all that a header can say.
    let right = signed();
    let verifying = parse_verifying_key(&Secret::from(KEY.as_bytes().to_vec())).expect("a key");
    let mut verification = Verification::begin([&verifying].into_iter(), format!("{ID}.{TIME_S}.").as_bytes(), &parsed);
    verification.update(BODY);
    assert_eq!(verification.finish(|_| true), shown.contains(&right.as_str()).then_some(0));
    Judged::Accepted
}

/// The signatures: 1 to 5 with one space between them, in at most 512 bytes, each of a version and, where that is known, the
/// canonical base64 of 32 or 64 bytes.
fn shown(header: &[u8]) -> Option<Vec<&str>> {
    if header.len() > 512 {
        return None;
    }
    // A version that is not known may be followed by anything, also by what is no text.
    let parts: Vec<&[u8]> = header.split(|&byte| byte == b' ').collect();
    let good = |part: &&[u8]| {
        let Some(comma) = part.iter().position(|&byte| byte == b',') else { return false };
        let (version, text) = (&part[..comma], &part[comma + 1..]);
        let len = base64(text).map(|bytes| bytes.len());
        match version {
            b"v1" => len == Some(32),
            b"v1a" => len == Some(64),
            _ => !version.is_empty() && !text.is_empty(),
        }
    };
    (parts.len() <= 5 && parts.iter().all(good))
        .then(|| parts.into_iter().filter_map(|part| std::str::from_utf8(part).ok()).collect())
}
