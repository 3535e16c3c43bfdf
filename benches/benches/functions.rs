//! What is done once per event, one function at a time: `cargo bench -p benches`.

#![allow(clippy::unwrap_used, missing_docs, reason = "benches")]

use std::hint::black_box;
use std::time::Duration;

use common::envelope::Envelope;
use common::id::{EventId, IdKey, KeyedId, SourceId, placement};
use common::record::{Head, RecordKey, RecordKeys};
use common::secret::Secret;
use common::signature::{Mac, Signatures, Timestamp, sign, verify_any};
use common::topics::Topic;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use open::{Key, Keyring, seal_native};
use processor::core::index::Index;
use processor::core::progress::Progress;

fn secret() -> Secret {
    Secret::from(b"an HMAC secret of some length".to_vec())
}

fn key() -> Key {
    Key::try_from(&Secret::from(vec![7; Key::LEN])).unwrap()
}

fn source() -> SourceId {
    "acme".parse().unwrap()
}

/// A sealed body of about one KiB.
fn body() -> Vec<u8> {
    let payload = format!(r#"{{"id":"evt_1","type":"order.paid","text":"{}"}}"#, "x".repeat(660));
    seal_native(&key(), payload.as_bytes()).unwrap().body
}

fn edge(c: &mut Criterion) {
    let (mac, body) = (Mac::new(&secret()), body());
    let timestamp = Timestamp::parse(b"1700000000").unwrap();
    let header = sign(&secret(), &timestamp, &body);
    let mut group = c.benchmark_group("edge");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("verify_1k", |b| {
        b.iter(|| {
            let signatures = Signatures::parse(header.as_bytes()).unwrap();
            let mut mac = mac.begin(&timestamp);
            mac.update(black_box(&body));
            assert!(verify_any(&[mac.finish()], &signatures).is_some());
        });
    });
    group.bench_function("envelope_parse_1k", |b| {
        b.iter(|| Envelope::parse(black_box(&body), &source()).unwrap().format())
    });
    group.finish();
}

fn record(c: &mut Criterion) {
    let keys = RecordKeys::new(vec![RecordKey::new("edge-1".parse().unwrap(), &secret())]).unwrap();
    let head = Head {
        source: source(),
        received_ms: 1_700_000_000_000,
        timestamp: "1700000000".into(),
        traceparent: None,
        identity: None,
        retry: None,
        redriven_ms: None,
    };
    let body = body();
    let headers = keys.seal(&Topic::Inbox, &head, &body);
    c.bench_function("record_encode_1k", |b| b.iter(|| keys.seal(&Topic::Inbox, black_box(&head), &body)));
    c.bench_function("record_decode_1k", |b| {
        b.iter(|| {
            keys.open(&Topic::Inbox, headers.iter().map(|(name, text)| (*name, &text[..])), black_box(&body)).unwrap()
        });
    });
}

fn opening(c: &mut Criterion) {
    let (key, body, source) = (key(), body(), source());
    let keyring = Keyring::new(vec![("k1".parse().unwrap(), self::key())]).unwrap();
    let envelope = Envelope::parse(&body, &source).unwrap();
    c.bench_function("seal_1k", |b| b.iter(|| seal_native(&key, black_box(&body)).unwrap()));
    c.bench_function("open_1k", |b| b.iter(|| open::open(&keyring, black_box(&envelope)).unwrap()));
    let id_key = IdKey::new("id-1".parse().unwrap(), &secret());
    let event = EventId::new("evt_0123456789").unwrap();
    c.bench_function("identity", |b| {
        b.iter(|| (id_key.keyed_id(&source, black_box(&event)), placement(&source, &event, 64)));
    });
}

fn core(c: &mut Criterion) {
    c.bench_function("progress", |b| {
        let mut progress = Progress::restore(0, "", 1024).unwrap();
        let mut offset = 0;
        b.iter(|| {
            progress.see(offset);
            progress.complete(offset);
            offset += 1;
        });
    });
    c.bench_function("commit_metadata_full", |b| {
        let mut progress = Progress::restore(0, "", 16_384).unwrap();
        (0..16_384).for_each(|offset| {
            progress.see(offset);
        });
        (1..16_384).for_each(|offset| progress.complete(offset));
        b.iter(|| progress.metadata());
    });
    c.bench_function("index_look", |b| {
        let mut index = Index::new(Duration::from_secs(3600), 0);
        let mut changed = Vec::new();
        let mut offset = 0_i64;
        b.iter(|| {
            let id = KeyedId(
                (u128::from(offset.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
                    .to_le_bytes(),
            );
            changed.clear();
            index.look(offset, id, None, 1_700_000_000_000 + offset.cast_unsigned() / 1000, &mut changed);
            offset += 1;
        });
    });
}

criterion_group!(benches, edge, record, opening, core);
criterion_main!(benches);
