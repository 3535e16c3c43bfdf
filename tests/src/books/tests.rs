//! Each rule of the books, broken once: a check that cannot fail would prove nothing.

use common::id::KeyedId;
use common::record::{Headers, Identity, Marker, Origin, Retry};
use open::seal_native;

use super::*;
use crate::client::payload;
use crate::topic::owned;

/// Books of three events that went through as they should: to the sink, and the third into `dead`.
struct World {
    materials: Materials,
    books: Books,
    _folder: tempfile::TempDir,
}

const IDS: [&str; 3] = ["evt-1", "evt-2", "evt-3"];

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let materials = Materials::create(folder.path(), ["acme"], ["main"]).unwrap();
        let mut books = Books {
            sources: vec![SourcePlan { name: "acme", sinks: vec!["main"], event_id: "/id", standard: false }],
            keeps_sinks: true,
            partitions: 6,
            id_key: materials.id_key().unwrap(),
            edge_keys: materials.edge_keys().unwrap(),
            core_keys: materials.core_keys().unwrap(),
            acked_events: BTreeSet::new(),
            acked_bodies: Vec::new(),
            opened: BTreeMap::new(),
            inbox: Vec::new(),
            events: Vec::new(),
            dead: Vec::new(),
            effects: BTreeMap::from([("main", BTreeMap::new())]),
            violations: Vec::new(),
        };
        for id in IDS {
            let body = seal_native(&materials.sealing_key("acme").unwrap(), payload(id).as_bytes()).unwrap().body;
            let event = EventKey { source: "acme".to_owned(), id: id.to_owned() };
            let head = head(None);
            books.inbox.push(record(0, books.inbox.len(), &books.edge_keys.seal(&Topic::Inbox, &head, &body), &body));
            let place = books.place(&event).unwrap();
            let identity = Some(Identity { id: keyed_id(&books, id), previous: None });
            let head = Head { identity, ..head };
            let headers = books.core_keys.seal(&Topic::Events, &head, &body);
            books.events.push(record(place, books.events.len(), &headers, &body));
            books.acked_events.insert(event);
            books.acked_bodies.push(body.into());
        }
        let mut world = Self { materials, books, _folder: folder };
        world.deliver("evt-1");
        world.deliver("evt-2");
        world.bury("evt-3");
        world.books.open(&world.materials).unwrap();
        world
    }

    fn deliver(&mut self, id: &str) {
        let id = keyed_id(&self.books, id).webhook_id();
        *self.books.effects.get_mut("main").unwrap().entry(id).or_default() += 1;
    }

    fn bury(&mut self, id: &str) {
        let retry =
            Retry { sink: "main".parse().unwrap(), first_seen_ms: 1, redrive: 0, attempt: 1, hop: 0, due_ms: None };
        let identity = Some(Identity { id: keyed_id(&self.books, id), previous: None });
        let head = Head { identity, retry: Some(retry), ..head(None) };
        let origin = Origin { role: "events".to_owned(), partition: 0, offset: 2 };
        let failure = Failure { reason: Reason::Refused, status: Some(400), origin, failed_ms: 1 };
        let body = self.books.events[2].value.clone();
        let headers = self.books.core_keys.seal_dead(Some(&head), &failure, &body);
        self.books.dead.push(record(0, 0, &headers, &body));
    }

    /// Marks the one letter as redriven.
    fn mark(&mut self) {
        let letter = &self.books.letters().unwrap()[0];
        let id = LetterId::of(letter.head.as_ref(), &letter.failure, &letter.value);
        let marker = Marker { place: letter.place, letter: id, redriven_ms: 1 };
        let headers = self.books.core_keys.seal_marker(&marker);
        self.books.dead.push(record(0, self.books.dead.len(), &headers, b""));
    }

    /// What the books say is wrong.
    fn fault(&self) -> String {
        self.books.balance(0).unwrap_err().to_string()
    }
}

fn keyed_id(books: &Books, id: &str) -> KeyedId {
    books.id_key.keyed_id(&"acme".parse().unwrap(), &EventId::new(id).unwrap())
}

fn head(identity: Option<Identity>) -> Head {
    Head {
        source: "acme".parse().unwrap(),
        received_ms: 1,
        timestamp: "1700000000".into(),
        traceparent: None,
        identity,
        retry: None,
        redriven_ms: None,
    }
}

fn record(partition: i32, offset: usize, headers: &Headers, body: &[u8]) -> Record {
    Record {
        partition,
        offset: i64::try_from(offset).unwrap(),
        time_ms: 1,
        key: None,
        headers: owned(headers.iter()),
        value: body.to_vec(),
    }
}

#[test]
fn good_books_balance() {
    let summary = World::new().books.balance(0).unwrap();
    assert_eq!((summary.acked, summary.inbox, summary.unique, summary.repeats), (3, 3, 3, 0));
    assert_eq!(summary.delivered, BTreeMap::from([("main", 2)]));
    assert_eq!(summary.dead, BTreeMap::from([(Reason::Refused, 1)]));
}

#[test]
fn what_was_answered_200_must_be_in_the_inbox() {
    let mut world = World::new();
    world.books.acked_events.insert(EventKey { source: "acme".to_owned(), id: "evt-4".to_owned() });
    assert!(world.fault().starts_with("answered 200 and not in the inbox: 1"), "{}", world.fault());
    let mut world = World::new();
    world.books.acked_bodies.push(Bytes::from_static(b"{}"));
    assert!(world.fault().contains("bodies were answered 200"), "{}", world.fault());
}

#[test]
fn what_is_in_the_inbox_must_be_in_events_or_dead() {
    let mut world = World::new();
    world.books.events.remove(0);
    assert!(world.fault().contains("0/0 is neither in events nor dead"), "{}", world.fault());
}

#[test]
fn what_is_in_events_must_come_from_the_inbox() {
    let mut world = World::new();
    world.books.acked_events.clear();
    world.books.acked_bodies.clear();
    world.books.inbox.remove(0);
    assert!(world.fault().contains("that the inbox has not"), "{}", world.fault());
}

#[test]
fn what_is_in_events_must_be_at_the_sink_or_dead() {
    let mut world = World::new();
    world.books.effects.get_mut("main").unwrap().pop_first();
    assert!(world.fault().starts_with("lost: in events"), "{}", world.fault());
    let mut world = World::new();
    world.books.dead.clear();
    assert!(world.fault().starts_with("lost: in events"), "{}", world.fault());
}

#[test]
fn nothing_may_be_at_the_sink_that_is_not_in_events() {
    let mut world = World::new();
    world.deliver("evt-9");
    assert!(world.fault().contains("main got what is not in events"), "{}", world.fault());
}

#[test]
fn a_repeated_effect_is_allowed_as_often_as_the_plan_says() {
    let mut world = World::new();
    world.deliver("evt-1");
    assert!(world.fault().contains("1 effects more than events"), "{}", world.fault());
    assert_eq!(world.books.balance(1).unwrap().repeated, BTreeMap::from([("main", 1)]));
}

#[test]
fn what_a_sink_must_not_get_is_told() {
    let mut world = World::new();
    world.books.violations.push("a wrong signature".to_owned());
    assert!(world.fault().contains("a wrong signature"), "{}", world.fault());
}

#[test]
fn a_letter_with_a_wrong_mac_is_no_letter() {
    let mut world = World::new();
    world.books.dead[0].value.push(b'x');
    assert!(world.fault().contains("MAC"), "{}", world.fault());
}

#[test]
fn a_letter_that_was_redriven_excuses_nothing() {
    let mut world = World::new();
    world.mark();
    assert!(world.fault().starts_with("lost: in events"), "{}", world.fault());
    world.deliver("evt-3");
    let summary = world.books.balance(0).unwrap();
    assert_eq!((summary.redriven, summary.delivered["main"]), (1, 3));
}

#[test]
fn what_was_redriven_into_the_inbox_must_be_there() {
    let mut world = World::new();
    world.books.dead.clear();
    let body = world.books.events.remove(2).value;
    let origin = Origin { role: "inbox".to_owned(), partition: 0, offset: 2 };
    let failure = Failure { reason: Reason::UnknownKey, status: None, origin, failed_ms: 1 };
    let headers = world.books.core_keys.seal_dead(Some(&head(None)), &failure, &body);
    world.books.dead.push(record(0, 0, &headers, &body));
    world.books.balance(0).unwrap();
    world.mark();
    assert!(world.fault().starts_with("lost: redriven into the inbox"), "{}", world.fault());
}

#[test]
fn no_letter_is_redriven_twice_and_no_marker_is_of_nothing() {
    let mut world = World::new();
    world.mark();
    world.mark();
    assert!(world.fault().contains("was redriven twice"), "{}", world.fault());
    let mut world = World::new();
    world.mark();
    world.books.dead.remove(0);
    assert!(world.fault().contains("where no letter is"), "{}", world.fault());
}
