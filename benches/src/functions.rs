//! What is done once per event, one function at a time. `cargo bench -p benches --bench functions` measures their time, `./x counts`
//! their instructions.

#![allow(clippy::unwrap_used, reason = "what is measured is made of constants")]

use std::hint::black_box;
use std::time::Duration;

use common::envelope::{Envelope, JweHeader};
use common::id::{EventId, IdKey, KeyedId, SourceId, placement};
use common::record::{Head, RecordKey, RecordKeys};
use common::secret::Secret;
use common::signature::{Mac, Signatures, Timestamp, sign, verify_any};
use common::topics::Topic;
use open::{Key, Keyring, seal_jwe, seal_native};
use processor::core::index::Index;
use processor::core::progress::Progress;
use processor::event::{Pointer, find};
use processor::outcome::Outcome;

/// One call after the other of a function under measurement.
pub type Calls = Box<dyn FnMut()>;

/// A function, and what makes its calls ready.
pub type Function = (&'static str, fn() -> Calls);

/// Every function. Bodies are of about one KiB.
pub const FUNCTIONS: [Function; 14] = [
    ("verify", verify),
    ("envelope_parse", || envelope_parse(native())),
    ("jwe_parse", || envelope_parse(jwe())),
    ("seal", || {
        let (key, payload) = (key(), payload());
        Box::new(move || drop(black_box(seal_native(&key, black_box(&payload)).unwrap())))
    }),
    ("open", || open_envelope(native())),
    ("jwe_open", || open_envelope(jwe())),
    ("record_encode", record_encode),
    ("record_decode", record_decode),
    ("event_id", || {
        let (payload, pointer): (_, Pointer) = (payload(), "/id".parse().unwrap());
        Box::new(move || drop(black_box(find(black_box(&payload), &pointer))))
    }),
    ("identity", identity),
    ("progress", progress),
    ("commit_metadata_full", commit_metadata_full),
    ("index_look_new", || index_look(1)),
    ("index_look_known", || index_look(0)),
];

fn secret() -> Secret {
    Secret::from(b"an HMAC secret of some length".to_vec())
}

fn key() -> Key {
    Key::try_from(&Secret::from(vec![7; Key::LEN])).unwrap()
}

fn source() -> SourceId {
    "acme".parse().unwrap()
}

fn payload() -> Vec<u8> {
    format!(r#"{{"id":"evt_1","type":"order.paid","text":"{}"}}"#, "x".repeat(660)).into_bytes()
}

fn native() -> Vec<u8> {
    seal_native(&key(), &payload()).unwrap().body
}

fn jwe() -> Vec<u8> {
    let header = JweHeader {
        kid: "k1".parse().unwrap(),
        aud: source(),
        iat: Some(1_700_000_000),
        jti: EventId::new("evt_1").unwrap(),
    };
    seal_jwe(&key(), &header, &payload()).unwrap().into_bytes()
}

fn verify() -> Calls {
    let (mac, body) = (Mac::new(&secret()), native());
    let timestamp = Timestamp::parse(b"1700000000").unwrap();
    let header = sign(&secret(), &timestamp, &body);
    Box::new(move || {
        let signatures = Signatures::parse(header.as_bytes()).unwrap();
        let mut mac = mac.begin(&timestamp);
        mac.update(black_box(&body));
        assert!(verify_any(&[mac.finish()], &signatures).is_some());
    })
}

fn envelope_parse(body: Vec<u8>) -> Calls {
    let source = source();
    Box::new(move || {
        black_box(Envelope::parse(black_box(&body), &source).unwrap().format());
    })
}

fn open_envelope(body: Vec<u8>) -> Calls {
    let keyring = Keyring::new(vec![("k1".parse().unwrap(), key())]).unwrap();
    let source = source();
    Box::new(move || {
        let envelope = Envelope::parse(black_box(&body), &source).unwrap();
        drop(black_box(open::open(&keyring, &envelope).unwrap()));
    })
}

fn record() -> (RecordKeys, Head, Vec<u8>) {
    let head = Head {
        source: source(),
        received_ms: 1_700_000_000_000,
        timestamp: "1700000000".into(),
        traceparent: None,
        identity: None,
        retry: None,
        redriven_ms: None,
    };
    (RecordKeys::new(vec![RecordKey::new("edge-1".parse().unwrap(), &secret())]).unwrap(), head, native())
}

fn record_encode() -> Calls {
    let (keys, head, body) = record();
    Box::new(move || drop(black_box(keys.seal(&Topic::Inbox, black_box(&head), &body))))
}

fn record_decode() -> Calls {
    let (keys, head, body) = record();
    let headers = keys.seal(&Topic::Inbox, &head, &body);
    Box::new(move || {
        drop(black_box(keys.open(&Topic::Inbox, headers.iter(), black_box(&body)).unwrap()));
    })
}

fn identity() -> Calls {
    let id_key = IdKey::new("id-1".parse().unwrap(), &secret());
    let (source, event) = (source(), EventId::new("evt_0123456789").unwrap());
    Box::new(move || {
        black_box((id_key.keyed_id(&source, black_box(&event)), placement(&source, &event, 64)));
    })
}

fn progress() -> Calls {
    let mut progress = Progress::restore(0, "", 1024).unwrap();
    let mut offset = 0;
    Box::new(move || {
        progress.see(offset);
        progress.complete(offset, Outcome::Delivered);
        offset += 1;
    })
}

/// The longest metadata that a commit has: all of a window but its first.
fn commit_metadata_full() -> Calls {
    let mut progress = Progress::restore(0, "", 16_384).unwrap();
    (0..16_384).for_each(|offset| {
        progress.see(offset);
    });
    (1..16_384).for_each(|offset| progress.complete(offset, Outcome::Delivered));
    Box::new(move || drop(black_box(progress.metadata())))
}

/// Looks at ids in an index that holds some. Each is the `step`-th after the one before: with 0 it is always the same one.
fn index_look(step: u64) -> Calls {
    let mut index = Index::new(Duration::from_secs(3600), 0);
    let (mut changed, mut offset, mut number) = (Vec::new(), 0, 0);
    let mut look = move |step| {
        let id = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        changed.clear();
        black_box(index.look(offset, KeyedId(id.to_le_bytes()), None, 1_700_000_000_000, &mut changed));
        (offset, number) = (offset + 1, number + step);
    };
    (0..1000).for_each(|_| look(1));
    Box::new(move || look(step))
}
