use super::*;
use crate::id::SinkId;
use crate::record::tests::{Fields, Header, failure, head, keys, owned, view};
use crate::record::{Dead, Origin, RecordKey, RecordKeys, Retry};
use crate::secret::Secret;
use crate::topics::Topic;

fn marker() -> Marker {
    Marker {
        place: LetterPlace { partition: 3, offset: 17 },
        letter: LetterId::of(Some(&head()), &failure(), b"body"),
        redriven_ms: 1_700_000_200_000,
    }
}

fn open(keys: &RecordKeys, headers: &[Header], value: &[u8]) -> Result<Dead, RecordError> {
    keys.open_dead(view(headers), value)
}

#[test]
fn a_marker_is_read_as_it_was_written() {
    let keys = keys(&["core-1"]);
    assert_eq!(open(&keys, &owned(&keys.seal_marker(&marker())), b""), Ok(Dead::Marker(marker())));
}

#[test]
fn the_bytes_of_a_marker_are_as_documented() {
    // The id and the MAC were computed apart, with Python's hashlib and hmac.
    let key = RecordKey::new("core-1".parse().unwrap(), &Secret::from(b"k".to_vec()));
    let headers = RecordKeys::new(vec![key]).unwrap().seal_marker(&marker());
    let texts: Vec<_> = headers.iter().map(|(name, text)| (name, std::str::from_utf8(text).unwrap())).collect();
    let expected = [
        ("ss-version", "1"),
        ("ss-redriven", "1700000200000"),
        ("ss-letter", "3/17"),
        ("ss-letter-id", "75010c3e56a648f8e94104284472ccb8"),
        ("ss-mac", "1:core-1:iWhEwS5S4mJLvhj5NaVf8VU3cUCfKwBEjyilmZ_xRNU"),
    ];
    assert_eq!(texts, expected);
}

#[test]
fn a_marker_that_was_changed_in_any_place_is_refused() {
    let keys = keys(&["core-1"]);
    let headers = owned(&keys.seal_marker(&marker()));
    for at in 0..headers.len() {
        for byte in 0..headers[at].1.len() {
            let mut changed = headers.clone();
            changed[at].1[byte] ^= 1;
            assert!(open(&keys, &changed, b"").is_err(), "{} changed at byte {byte}", headers[at].0);
        }
        for len in 0..headers[at].1.len() {
            let mut cut = headers.clone();
            cut[at].1.truncate(len);
            assert!(open(&keys, &cut, b"").is_err(), "{} cut to {len} bytes", headers[at].0);
        }
        let mut without = headers.clone();
        without.remove(at);
        assert!(open(&keys, &without, b"").is_err(), "{} removed", headers[at].0);
    }
    assert!(open(&keys, &headers, b"x").is_err(), "a value added");
    for name in ["ss-source", "ss-reason", "ss-sink", "ss-other"] {
        let mut more = headers.clone();
        more.push((name.to_owned(), b"main".to_vec()));
        assert!(open(&keys, &more, b"").is_err(), "{name} added");
    }
}

#[test]
fn a_marker_that_is_rightly_signed_and_of_another_form_is_malformed() {
    let keys = keys(&["core-1"]);
    let read = |change: &dyn Fn(&mut Fields)| {
        let mut fields = Fields::of(&keys.seal_marker(&marker()));
        change(&mut fields);
        open(&keys, &fields.finish(&keys, &Topic::Dead, b""), b"")
    };
    assert_eq!(read(&|_| ()), Ok(Dead::Marker(marker())));
    for (field, text) in [
        (Field::Letter, "3"),
        (Field::Letter, "3/017"),
        (Field::LetterId, "75010C3E56A648F8E94104284472CCB8"),
        (Field::LetterId, "75010c3e56a648f8e94104284472cc"),
        (Field::LetterId, "75010c3e56a648f8e94104284472ccb8b8"),
        (Field::Redriven, "soon"),
        (Field::Source, "acme"),
        (Field::Reason, "exhausted"),
    ] {
        assert_eq!(read(&|fields| fields.set(field, text)), Err(RecordError::Malformed), "{text}");
    }
    for field in [Field::LetterId, Field::Redriven] {
        assert_eq!(read(&|fields| fields.remove(field)), Err(RecordError::Malformed));
    }
    // One of its headers in another's place.
    let replaced = read(&|fields| {
        fields.remove(Field::LetterId);
        fields.set(Field::Source, "acme");
    });
    assert_eq!(replaced, Err(RecordError::Malformed));
    let with_body = Fields::of(&keys.seal_marker(&marker())).finish(&keys, &Topic::Dead, b"body");
    assert_eq!(open(&keys, &with_body, b"body"), Err(RecordError::Malformed), "a marker has no value");
}

#[test]
fn a_letter_id_is_shown_in_hex() {
    assert_eq!(format!("{:?}", marker().letter), "LetterId(75010c3e56a648f8e94104284472ccb8)");
}

#[test]
fn the_edge_can_make_no_marker_and_no_other_topic_takes_one() {
    let (core, edge) = (keys(&["core-1"]), keys(&["edge-1"]));
    assert!(open(&core, &owned(&edge.seal_marker(&marker())), b"").is_err());
    let headers = core.seal_marker(&marker());
    for topic in [Topic::Inbox, Topic::Events] {
        assert!(core.open(&topic, headers.iter(), b"").is_err(), "{topic:?}");
    }
}

#[test]
fn a_letter_id_is_of_one_hand_over_of_one_body() {
    let id = |head: Option<&Head>, failure: &Failure, value: &[u8]| LetterId::of(head, failure, value);
    let unopened = Failure { origin: Origin { role: "inbox".to_owned(), partition: 0, offset: 5 }, ..failure() };
    // Computed apart.
    assert_eq!(id(None, &unopened, b"body").to_string(), "838d3abb942414b83d8e47a0e62120d4");

    let first = id(Some(&head()), &failure(), b"body");
    let later = Failure { failed_ms: 1, status: None, ..failure() };
    assert_eq!(id(Some(&head()), &later, b"body"), first, "a copy that was written later");

    let of_sink = |sink: &str| {
        let retry = head().retry.map(|retry| Retry { sink: sink.parse::<SinkId>().unwrap(), ..retry });
        Head { retry, ..head() }
    };
    assert_ne!(id(Some(&of_sink("other")), &failure(), b"body"), first, "of another sink");
    let elsewhere = Failure { origin: Origin { offset: 4712, ..failure().origin }, ..failure() };
    assert_ne!(id(Some(&head()), &elsewhere, b"body"), first, "from another place");
    assert_ne!(id(Some(&head()), &failure(), b"bodz"), first, "of another body, as after a topic was made anew");
}

#[test]
fn places_are_read_and_written() {
    let place = LetterPlace { partition: 3, offset: 4711 };
    assert_eq!(("3/4711".parse(), place.to_string()), (Ok(place), "3/4711".to_owned()));
    for bad in ["", "3", "3/", "/4711", "-1/0", "0/-1", "a/b", "1/2/3"] {
        assert_eq!(bad.parse::<LetterPlace>(), Err(LetterPlaceError), "{bad}");
    }
}
