use super::*;

pub(super) fn keys(names: &[&str]) -> RecordKeys {
    let key =
        |name: &&str| RecordKey::new(name.parse().unwrap(), &Secret::from(format!("secret of {name}").into_bytes()));
    RecordKeys::new(names.iter().map(key).collect()).unwrap()
}

pub(super) fn head() -> Head {
    Head {
        source: "acme".parse().unwrap(),
        received_ms: 1_700_000_000_123,
        timestamp: "1700000000".into(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        identity: Some(Identity { id: KeyedId([7; 16]), previous: Some(KeyedId([8; 16])) }),
        retry: Some(Retry {
            sink: "main".parse().unwrap(),
            first_seen_ms: 1_700_000_000_456,
            redrive: 0,
            attempt: 3,
            hop: 1,
            due_ms: Some(1_700_003_600_000),
        }),
        redriven_ms: Some(1_700_000_000_789),
    }
}

fn retry_topic() -> Topic {
    Topic::Retry { sink: "main".parse().unwrap(), delay: "10s".parse().unwrap() }
}

pub(super) fn failure() -> Failure {
    Failure {
        reason: Reason::Exhausted,
        status: Some(503),
        origin: Origin { role: "retry.main.10s".to_owned(), partition: 3, offset: 4711 },
        failed_ms: 1_700_000_100_000,
    }
}

/// A header that a test may alter.
pub(super) type Header = (String, Vec<u8>);

pub(super) fn owned(headers: &Headers) -> Vec<Header> {
    headers.iter().map(|(name, text)| (name.to_owned(), text.to_vec())).collect()
}

pub(super) fn view(headers: &[Header]) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().map(|(name, text)| (name.as_str(), &text[..]))
}

/// Header texts that a test may alter before their MAC is made: as another version might write them.
pub(super) struct Fields([Option<Vec<u8>>; NAMES.len()]);

impl Fields {
    pub(super) fn of(headers: &Headers) -> Self {
        let text = |wanted| headers.iter().find(|(name, _)| *name == wanted).map(|(_, text)| text.to_vec());
        Self(NAMES.map(text))
    }

    pub(super) fn set(&mut self, field: Field, text: impl Into<Vec<u8>>) {
        self.0[field as usize] = Some(text.into());
    }

    pub(super) fn remove(&mut self, field: Field) {
        self.0[field as usize] = None;
    }

    /// The headers, under a right MAC.
    pub(super) fn finish(&self, keys: &RecordKeys, topic: &Topic, value: &[u8]) -> Vec<Header> {
        owned(&keys.finish(topic, Raw(std::array::from_fn(|at| self.0[at].as_deref())).covered(), value))
    }
}

fn open(keys: &RecordKeys, topic: &Topic, headers: &[Header], value: &[u8]) -> Result<Head, RecordError> {
    keys.open(topic, view(headers), value)
}

#[test]
fn round_trip_with_and_without_every_optional_part() {
    let keys = keys(&["core-1"]);
    let full = head();
    let inbox = Head { traceparent: None, identity: None, retry: None, redriven_ms: None, ..head() };
    let events = Head { identity: Some(Identity { id: KeyedId([7; 16]), previous: None }), retry: None, ..head() };
    let retry = head().retry.map(|retry| Retry { due_ms: None, ..retry });
    let by_lane = Head { retry, ..head() };
    let redriven = Head { redriven_ms: Some(1), ..inbox.clone() };
    for (topic, head) in [
        (retry_topic(), full),
        (retry_topic(), by_lane),
        (Topic::Inbox, inbox),
        (Topic::Inbox, redriven),
        (Topic::Events, events),
    ] {
        let headers = owned(&keys.seal(&topic, &head, b"body"));
        assert_eq!(open(&keys, &topic, &headers, b"body"), Ok(head));
    }
}

#[test]
fn every_header_is_covered_by_the_mac() {
    let keys = keys(&["core-1"]);
    let headers = owned(&keys.seal_dead(Some(&head()), &failure(), b"body"));
    assert_eq!(headers.len(), NAMES.len() + 1 - 2, "the test must see every header but a marker's two");
    let read = |headers: &[Header]| keys.open_dead(view(headers), b"body");
    assert_eq!(read(&headers), Ok(Dead::Letter { head: Some(head()), failure: failure() }));
    for at in 0..headers.len() {
        for byte in 0..headers[at].1.len() {
            let mut changed = headers.clone();
            changed[at].1[byte] ^= 1;
            assert!(read(&changed).is_err(), "{} changed at byte {byte}", headers[at].0);
        }
        for len in 0..headers[at].1.len() {
            let mut cut = headers.clone();
            cut[at].1.truncate(len);
            assert!(read(&cut).is_err(), "{} cut to {len} bytes", headers[at].0);
        }
        let mut without = headers.clone();
        without.remove(at);
        assert!(read(&without).is_err(), "{} removed", headers[at].0);
        let mut twice = headers.clone();
        twice.push(headers[at].clone());
        assert!(read(&twice).is_err(), "{} twice", headers[at].0);
    }
    let mut moved = headers.clone();
    let (first, second) = (moved[1].1.clone(), moved[3].1.clone());
    (moved[1].1, moved[3].1) = (second, first);
    assert!(read(&moved).is_err(), "two texts exchanged");
}

#[test]
fn a_header_added_is_refused_and_foreign_ones_are_ignored() {
    let keys = keys(&["core-1"]);
    let plain = Head { traceparent: None, identity: None, retry: None, redriven_ms: None, ..head() };
    let headers = owned(&keys.seal(&Topic::Inbox, &plain, b"body"));
    for name in NAMES.iter().filter(|name| !headers.iter().any(|(have, _)| have == *name)) {
        let mut more = headers.clone();
        more.push(((*name).to_owned(), b"1".to_vec()));
        assert_eq!(open(&keys, &Topic::Inbox, &more, b"body"), Err(RecordError::BadMac), "{name}");
    }
    let mut unknown = headers.clone();
    unknown.push(("ss-other".to_owned(), b"1".to_vec()));
    assert_eq!(open(&keys, &Topic::Inbox, &unknown, b"body"), Err(RecordError::BadMac));
    let mut foreign = headers;
    foreign.push(("x-proxy".to_owned(), b"1".to_vec()));
    assert_eq!(open(&keys, &Topic::Inbox, &foreign, b"body"), Ok(plain));
}

#[test]
fn value_and_topic_are_covered() {
    let keys = keys(&["core-1"]);
    let headers = owned(&keys.seal(&retry_topic(), &head(), b"body"));
    assert_eq!(open(&keys, &retry_topic(), &headers, b"bodz"), Err(RecordError::BadMac));
    assert_eq!(open(&keys, &retry_topic(), &headers, b""), Err(RecordError::BadMac));
    let other_sink = Topic::Retry { sink: "other".parse().unwrap(), delay: "10s".parse().unwrap() };
    let other_lane = Topic::Retry { sink: "main".parse().unwrap(), delay: "1m".parse().unwrap() };
    for topic in [Topic::Inbox, Topic::Events, Topic::Dead, other_sink, other_lane] {
        assert_eq!(open(&keys, &topic, &headers, b"body"), Err(RecordError::BadMac), "{topic:?}");
    }
}

#[test]
fn keys_rotate_and_halves_are_apart() {
    let (edge, old, both, new) = (keys(&["edge-1"]), keys(&["core-1"]), keys(&["core-2", "core-1"]), keys(&["core-2"]));
    let by_old = owned(&old.seal(&Topic::Events, &head(), b"body"));
    let by_both = owned(&both.seal(&Topic::Events, &head(), b"body"));
    assert!(open(&both, &Topic::Events, &by_old, b"body").is_ok());
    assert!(open(&new, &Topic::Events, &by_both, b"body").is_ok(), "the first key makes");
    assert_eq!(open(&new, &Topic::Events, &by_old, b"body"), Err(RecordError::UnknownKey));
    assert_eq!(open(&edge, &Topic::Events, &by_old, b"body"), Err(RecordError::UnknownKey));

    // The same key id with another secret, as in two deployments.
    let same_name = RecordKey::new("core-1".parse().unwrap(), &Secret::from(b"another".to_vec()));
    let impostor = RecordKeys::new(vec![same_name]).unwrap();
    assert_eq!(open(&impostor, &Topic::Events, &by_old, b"body"), Err(RecordError::BadMac));
}

#[test]
fn a_letter_that_was_never_trusted_keeps_no_header() {
    let keys = keys(&["core-1"]);
    let failure = Failure { reason: Reason::BadMac, status: None, ..failure() };
    let headers = owned(&keys.seal_dead(None, &failure, b"forged"));
    let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ss-version", "ss-reason", "ss-origin", "ss-failed", "ss-mac"]);
    let read = keys.open_dead(view(&headers), b"forged");
    assert_eq!(read, Ok(Dead::Letter { head: None, failure }));
}

/// The headers of a record with these fields, under a right MAC.
fn written(keys: &RecordKeys, topic: &Topic, change: impl FnOnce(&mut Fields)) -> Vec<Header> {
    let mut fields = Fields::of(&keys.seal(topic, &head(), b"body"));
    change(&mut fields);
    fields.finish(keys, topic, b"body")
}

#[test]
fn what_is_rightly_signed_and_of_another_form_is_malformed() {
    let keys = keys(&["core-1"]);
    let topic = retry_topic();
    assert_eq!(open(&keys, &topic, &written(&keys, &topic, |_| ()), b"body"), Ok(head()));
    for (field, text) in [
        (Field::Source, &b"Acme"[..]),
        (Field::Received, b"01"),
        (Field::Received, b"-1"),
        (Field::Received, b"18446744073709551616"),
        (Field::Timestamp, b"\xff"),
        (Field::Id, b"07"),
        (Field::Id, b"0707070707070707070707070707070G"),
        (Field::IdPrevious, b"0808080808080808080808080808080"),
        (Field::Sink, b""),
        (Field::FirstSeen, b"+1"),
        (Field::Redrive, b"4294967296"),
        (Field::Attempt, b"three"),
        (Field::Hop, b""),
        (Field::Due, b"1.5"),
        (Field::Redriven, b"00"),
        (Field::Traceparent, b"\xff"),
    ] {
        let headers = written(&keys, &topic, |fields| fields.set(field, text));
        let name = NAMES[field as usize];
        assert_eq!(open(&keys, &topic, &headers, b"body"), Err(RecordError::Malformed), "{name} {text:?}");
    }
    for field in [Field::Source, Field::Received, Field::Timestamp, Field::FirstSeen, Field::Hop] {
        let headers = written(&keys, &topic, |fields| fields.remove(field));
        assert_eq!(open(&keys, &topic, &headers, b"body"), Err(RecordError::Malformed), "{}", NAMES[field as usize]);
    }
    // Headers that nobody would read: of a letter, of a marker, and of a retry without its sink.
    for field in [Field::Reason, Field::Failed, Field::Letter, Field::LetterId] {
        let headers = written(&keys, &topic, |fields| fields.set(field, "1"));
        assert_eq!(open(&keys, &topic, &headers, b"body"), Err(RecordError::Malformed), "{}", NAMES[field as usize]);
    }
    for field in [Field::Sink, Field::Id] {
        let headers = written(&keys, &topic, |fields| fields.remove(field));
        assert_eq!(open(&keys, &topic, &headers, b"body"), Err(RecordError::Malformed), "{}", NAMES[field as usize]);
    }
}

#[test]
fn another_version_is_malformed() {
    let keys = keys(&["core-1"]);
    for version in [None, Some(&b"2"[..]), Some(b"01")] {
        let headers = written(&keys, &Topic::Events, |fields| match version {
            Some(text) => fields.set(Field::Version, text),
            None => fields.remove(Field::Version),
        });
        assert_eq!(open(&keys, &Topic::Events, &headers, b"body"), Err(RecordError::Malformed), "{version:?}");
    }
}

#[test]
fn a_letter_that_is_rightly_signed_and_of_another_form_is_malformed() {
    let keys = keys(&["core-1"]);
    let read = |change: &dyn Fn(&mut Fields)| {
        let mut fields = Fields::of(&keys.seal_dead(Some(&head()), &failure(), b"body"));
        change(&mut fields);
        keys.open_dead(view(&fields.finish(&keys, &Topic::Dead, b"body")), b"body")
    };
    assert_eq!(read(&|_| ()), Ok(Dead::Letter { head: Some(head()), failure: failure() }));
    for (field, text) in [
        (Field::Reason, "boredom"),
        (Field::Origin, "retry.main.10s/3"),
        (Field::Origin, "3/4711"),
        (Field::Origin, "inbox/03/4711"),
        (Field::Origin, "inbox/3/x"),
        (Field::Status, "65536"),
        (Field::Status, "0503"),
        (Field::Failed, ""),
        // A letter and a marker at once.
        (Field::Letter, "3/17"),
        (Field::LetterId, "75010c3e56a648f8e94104284472ccb8"),
    ] {
        let read = read(&|fields| fields.set(field, text));
        assert_eq!(read, Err(RecordError::Malformed), "{} {text}", NAMES[field as usize]);
    }
    for field in [Field::Reason, Field::Origin, Field::Failed, Field::Source] {
        let read = read(&|fields| fields.remove(field));
        assert_eq!(read, Err(RecordError::Malformed), "{}", NAMES[field as usize]);
    }
}

#[test]
fn what_a_record_claims_can_be_asked_without_a_key() {
    let headers = owned(&keys(&["core-1"]).seal(&Topic::Events, &head(), b"body"));
    let claims = |headers: &[Header]| {
        let all = || view(headers);
        (mac_key_id(all()).map(str::to_owned), source_of(all()).map(str::to_owned))
    };
    assert_eq!(claims(&headers), (Some("core-1".to_owned()), Some("acme".to_owned())));
    assert_eq!(claims(&[]), (None, None));
    let odd = [(MAC_HEADER, &b"2:core-1:AAAA"[..]), ("ss-source", b"\xff")]
        .map(|(name, text)| (name.to_owned(), text.to_vec()));
    assert_eq!(claims(&odd), (None, None));
}

#[test]
fn there_is_no_set_without_a_key_and_none_shows_itself() {
    assert!(RecordKeys::new(Vec::new()).is_none());
    let shown = format!("{:?}", keys(&["core-2", "core-1"]));
    assert_eq!(shown, "RecordKeys([RecordKey(core-2, [redacted]), RecordKey(core-1, [redacted])])");
}

#[test]
fn reasons_have_names_of_their_own() {
    let names: std::collections::BTreeSet<String> = Reason::ALL.iter().map(Reason::to_string).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')), "{names:?}");
}

#[test]
fn no_mac_at_all_is_refused() {
    let keys = keys(&["core-1"]);
    assert_eq!(open(&keys, &Topic::Inbox, &[], b""), Err(RecordError::UnknownKey));
    for text in ["", "1:core-1", "1:core-1:", "2:core-1:AAAA", "1:core-1:AAAA", "1:core-1:!"] {
        let headers = [(MAC_HEADER.to_owned(), text.as_bytes().to_vec())];
        assert!(open(&keys, &Topic::Inbox, &headers, b"").is_err(), "{text}");
    }
}

#[test]
fn the_mac_is_as_documented() {
    // Computed apart, with Python's hmac.
    let key = RecordKey::new("edge-1".parse().unwrap(), &Secret::from(b"k".to_vec()));
    let head = Head { traceparent: None, identity: None, retry: None, redriven_ms: None, ..head() };
    let headers = RecordKeys::new(vec![key]).unwrap().seal(&Topic::Inbox, &head, b"body");
    assert_eq!(headers.iter().last(), Some((MAC_HEADER, GOLDEN.as_bytes())));
}

const GOLDEN: &str = "1:edge-1:Ul2dLJHvWRt-HjtEChV7tjJSGwHqHJ3VBMxLrQ7jxhc";
