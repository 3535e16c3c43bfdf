//! The headers of a record: letters and markers too. Their MAC is made here once more, from its description.

use std::collections::BTreeMap;

use common::id::KeyedId;
use common::record::{
    Dead, Failure, Head, Headers, Identity, LetterId, LetterPlace, MAC_HEADER, Marker, Origin, Reason, RecordError,
    RecordKey, RecordKeys, Retry,
};
use common::secret::Secret;
use common::topics::Topic;
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{Judged, Target};

const SECRET: &[u8] = b"a-key-of-tests-a-key-of-tests-ab";
/// The headers that the MAC covers, in its order.
const NAMES: [&str; 20] = [
    "ss-version",
    "ss-source",
    "ss-received",
    "ss-timestamp",
    "ss-id",
    "ss-id-previous",
    "ss-first-seen",
    "ss-sink",
    "ss-redrive",
    "ss-attempt",
    "ss-hop",
    "ss-due",
    "ss-redriven",
    "ss-reason",
    "ss-status",
    "ss-origin",
    "ss-failed",
    "ss-letter",
    "ss-letter-id",
    "traceparent",
];
/// Bit of the first byte: the right MAC is added. Without it nearly every input would end there.
const SEALED: u8 = 4;

pub(super) const RECORD: Target = Target {
    name: "record",
    check: record,
    seeds,
    pieces: &[
        "\n",
        ":",
        "ss-",
        "ss-id:",
        "ss-source:acme\n",
        "ss-attempt:1\n",
        "ss-reason:refused\n",
        "ss-due:1\n",
        "ss-letter:3/17\n",
        "ss-status:404\n",
        "+",
        "0",
        "-",
        "/",
        "00",
        "traceparent:",
        "x:y\n",
    ],
};

fn keys() -> RecordKeys {
    let key = RecordKey::new("core-1".parse().expect("a key's id"), &Secret::from(SECRET.to_vec()));
    RecordKeys::new(vec![key]).expect("one key is not none")
}

fn topic(choice: u8) -> Topic {
    match choice % 4 {
        0 => Topic::Inbox,
        1 => Topic::Events,
        2 => Topic::Retry { sink: "main".parse().expect("a sink"), delay: "10s".parse().expect("a delay") },
        _ => Topic::Dead,
    }
}

/// A byte that chooses, lines `name:value`, an empty line, and the record's value.
fn record(input: &[u8]) -> Judged {
    let Some((&choice, rest)) = input.split_first() else { return Judged::Refused };
    let topic = topic(choice);
    let (mut headers, value) = read(rest);
    if choice & SEALED != 0 {
        headers.retain(|(name, _)| name != MAC_HEADER);
        let mac = mac(&topic, &covered(&headers).unwrap_or_default(), value);
        headers.push((MAC_HEADER.to_owned(), mac.into_bytes()));
    }
    let keys = keys();
    let view = || headers.iter().map(|(name, text)| (name.as_str(), text.as_slice()));
    let opened = match topic {
        Topic::Dead => keys.open_dead(view(), value).map(|dead| match dead {
            Dead::Letter { head, failure } => keys.seal_dead(head.as_ref(), &failure, value),
            Dead::Marker(marker) => keys.seal_marker(&marker),
        }),
        _ => keys.open(&topic, view(), value).map(|head| keys.seal(&topic, &head, value)),
    };
    let covered = covered(&headers);
    let authentic = covered.as_ref().is_some_and(|covered| {
        covered.get(MAC_HEADER).is_some_and(|shown| *shown == mac(&topic, covered, value).as_bytes())
    });
    match (&opened, authentic) {
        (Ok(_) | Err(RecordError::Malformed), true) | (Err(RecordError::UnknownKey | RecordError::BadMac), false) => {}
        wrong => panic!("{wrong:?}"),
    }
    let Ok(again) = opened else { return Judged::Refused };
    let again: BTreeMap<&str, &[u8]> = again.iter().collect();
    assert_eq!(Some(again), covered, "what was read is all of what was written");
    for other in (0..4).map(self::topic).filter(|other| *other != topic) {
        assert_eq!(keys.open(&other, view(), value), Err(RecordError::BadMac), "a record belongs to its topic");
    }
    Judged::Accepted
}

fn read(mut rest: &[u8]) -> (Vec<(String, Vec<u8>)>, &[u8]) {
    let mut headers = Vec::new();
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { break };
        headers.push((String::from_utf8_lossy(&line[..colon]).into_owned(), line[colon + 1..].to_vec()));
    }
    (headers, rest)
}

/// The headers that count, if each is there once and none is of another kind.
fn covered(headers: &[(String, Vec<u8>)]) -> Option<BTreeMap<&str, &[u8]>> {
    let mut covered = BTreeMap::new();
    for (name, text) in headers {
        let known = NAMES.contains(&name.as_str()) || name == MAC_HEADER;
        if !known && name.starts_with("ss-") || known && covered.insert(name.as_str(), text.as_slice()).is_some() {
            return None;
        }
    }
    Some(covered)
}

fn mac(topic: &Topic, covered: &BTreeMap<&str, &[u8]>, value: &[u8]) -> String {
    let field = |text: &[u8]| [&(text.len() as u64).to_be_bytes()[..], text].concat();
    let mut content = field(topic.role().as_bytes());
    for name in NAMES {
        content.extend(covered.get(name).map_or(vec![0], |text| [&[1][..], &field(text)].concat()));
    }
    content.extend(field(value));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("HMAC takes a key of any length");
    mac.update(&content);
    format!("1:core-1:{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
}

fn seeds() -> Vec<Vec<u8>> {
    let keys = keys();
    let plain = Head {
        source: "acme".parse().expect("a source"),
        received_ms: 1_700_000_000_123,
        timestamp: "1700000000".into(),
        traceparent: None,
        identity: None,
        retry: None,
        redriven_ms: None,
    };
    let identity = Identity { id: KeyedId([7; 16]), previous: Some(KeyedId([8; 16])) };
    let routed = Head { identity: Some(identity), redriven_ms: Some(7), ..plain.clone() };
    let retry = Retry {
        sink: "main".parse().expect("a sink"),
        first_seen_ms: 1_700_000_000_456,
        redrive: 0,
        attempt: 3,
        hop: 1,
        due_ms: Some(1_700_003_600_000),
    };
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let retried = Head { retry: Some(retry), traceparent: Some(trace.into()), ..routed.clone() };
    let failure = Failure {
        reason: Reason::Exhausted,
        status: Some(503),
        origin: Origin { role: "retry.main.10s".to_owned(), partition: 3, offset: 4711 },
        failed_ms: 1_700_000_100_000,
    };
    let place = LetterPlace { partition: 3, offset: 17 };
    let letter = LetterId::of(Some(&retried), &failure, b"body");
    let marker = Marker { place, letter, redriven_ms: 1_700_000_200_000 };
    let written = [
        (0, keys.seal(&topic(0), &plain, b"body")),
        (1, keys.seal(&topic(1), &routed, b"body")),
        (2, keys.seal(&topic(2), &retried, b"body")),
        (3, keys.seal_dead(Some(&retried), &failure, b"body")),
        (3, keys.seal_dead(None, &Failure { status: None, ..failure.clone() }, b"body")),
    ];
    let marker = write(3, &keys.seal_marker(&marker), b"");
    let sealed = written
        .iter()
        .flat_map(|(choice, headers)| [*choice, *choice | SEALED].map(|byte| write(byte, headers, b"body")));
    let marked = [[&[3 | SEALED], &marker[1..]].concat(), marker];
    sealed.chain(marked).chain([b"".to_vec(), b"\x04ss-version:1\n\n".to_vec()]).collect()
}

fn write(choice: u8, headers: &Headers, value: &[u8]) -> Vec<u8> {
    let mut input = vec![choice];
    for (name, text) in headers.iter() {
        input.extend([name.as_bytes(), b":", text, b"\n"].concat());
    }
    input.push(b'\n');
    input.extend(value);
    input
}
