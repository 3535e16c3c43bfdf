use common::id::KeyedId;
use common::record::{Headers, Identity, Marker, Origin, Reason, RecordKey, Retry};
use common::secret::Secret;

use super::*;

pub(crate) fn keys(name: &str) -> RecordKeys {
    let secret = Secret::from(format!("secret of {name}").into_bytes());
    RecordKeys::new(vec![RecordKey::new(name.parse().unwrap(), &secret)]).unwrap()
}

/// What a letter of a sink says of itself; without a sink, of one that was never opened.
pub(crate) fn head(sink: Option<&str>) -> Head {
    Head {
        source: "acme".parse().unwrap(),
        received_ms: 1_700_000_000_000,
        timestamp: "1700000000".into(),
        traceparent: None,
        identity: sink.map(|_| Identity { id: KeyedId([7; 16]), previous: None }),
        retry: sink.map(|sink| Retry {
            sink: sink.parse().unwrap(),
            first_seen_ms: 1_700_000_000_100,
            redrive: 0,
            attempt: 3,
            hop: 0,
            due_ms: None,
        }),
        redriven_ms: None,
    }
}

pub(crate) fn failure(reason: Reason, role: &str) -> Failure {
    let origin = Origin { role: role.to_owned(), partition: 3, offset: 4711 };
    Failure { reason, status: Some(503), origin, failed_ms: 1_700_000_100_000 }
}

/// A letter as the fold would make it.
pub(crate) fn letter(head: Option<Head>, failure: Failure) -> Letter {
    let id = LetterId::of(head.as_ref(), &failure, b"body");
    let time_ms = failure.failed_ms;
    let content = Ok(Content { head, failure, id, redriven_ms: None, copies: Vec::new() });
    Letter { place: LetterPlace { partition: 3, offset: 17 }, time_ms, body_bytes: 4, content }
}

/// A partition of `dead`, in memory.
#[derive(Default)]
struct Log(Vec<(Option<Headers>, Vec<u8>)>);

impl Log {
    fn letter(&mut self, sink: Option<&str>, role: &str) -> i64 {
        self.push(keys("core-1").seal_dead(Some(&head(sink)), &failure(Reason::Exhausted, role), b"body"), b"body")
    }

    fn push(&mut self, headers: Headers, value: &[u8]) -> i64 {
        self.0.push((Some(headers), value.to_vec()));
        i64::try_from(self.0.len()).unwrap() - 1
    }

    fn fold(&self) -> Vec<Letter> {
        let mut fold = Fold::of(3);
        for (offset, (headers, value)) in (0..).zip(&self.0) {
            fold.take(&keys("core-1"), offset, 5, headers.iter().flat_map(Headers::iter), value);
        }
        fold.letters()
    }

    fn mark(&mut self, offset: i64) -> i64 {
        let marker = self.marker(offset);
        self.push(keys("core-1").seal_marker(&marker), b"")
    }

    fn marker(&self, offset: i64) -> Marker {
        let place = LetterPlace { partition: 3, offset };
        let letters = self.fold();
        let is_it = |content: &&Content| content.copies.contains(&place);
        let contents = letters.iter().filter_map(|letter| Some((letter.place, letter.content.as_ref().ok()?)));
        let (_, content) = contents.into_iter().find(|(at, content)| *at == place || is_it(content)).unwrap();
        Marker { place, letter: content.id, redriven_ms: 99 }
    }
}

/// Place and time of redrive of each letter.
fn redriven(letters: &[Letter]) -> Vec<(i64, Option<u64>)> {
    letters.iter().map(|letter| (letter.place.offset, letter.content.as_ref().unwrap().redriven_ms)).collect()
}

#[test]
fn a_marker_is_of_its_letter_alone() {
    let mut log = Log::default();
    let first = log.letter(Some("main"), "events");
    log.letter(Some("other"), "events");
    log.letter(None, "inbox");
    log.mark(first);
    assert_eq!(redriven(&log.fold()), [(0, Some(99)), (1, None), (2, None)]);
}

#[test]
fn copies_are_one_letter_and_a_marker_of_one_is_of_all() {
    for marked in [0, 1] {
        let mut log = Log::default();
        log.letter(Some("main"), "events");
        log.letter(Some("main"), "events");
        log.mark(marked);
        log.letter(Some("main"), "events");
        let letters = log.fold();
        assert_eq!(redriven(&letters), [(0, Some(99))], "marked {marked}");
        let copies: Vec<_> = letters[0].content.as_ref().unwrap().copies.iter().map(|copy| copy.offset).collect();
        assert_eq!(copies, [1, 3], "a copy behind the marker too");
    }
}

#[test]
fn what_nobody_wrote_is_kept_as_such() {
    let mut log = Log::default();
    log.letter(Some("main"), "events");
    log.0[0].1 = b"other".to_vec();
    log.0.push((None, b"forged".to_vec()));
    let letters = log.fold();
    let contents: Vec<_> = letters.iter().map(|letter| letter.content.clone()).collect();
    assert_eq!(contents, [Err(RecordError::BadMac), Err(RecordError::UnknownKey)]);
    assert_eq!((letters[1].time_ms, letters[1].body_bytes), (5, 6), "time by the broker");
}

#[test]
fn a_marker_that_was_forged_or_copied_elsewhere_marks_nothing() {
    let mut log = Log::default();
    let offset = log.letter(Some("main"), "events");
    let marker = log.marker(offset);
    log.push(keys("edge-1").seal_marker(&marker), b"");
    let elsewhere = Marker { place: LetterPlace { partition: 4, ..marker.place }, ..marker };
    log.push(keys("core-1").seal_marker(&elsewhere), b"");
    let ahead = Marker { place: LetterPlace { offset: 50, ..marker.place }, ..marker };
    log.push(keys("core-1").seal_marker(&ahead), b"");
    let letters = log.fold();
    assert_eq!(letters.len(), 4, "each is listed as what it is");
    assert_eq!(redriven(&letters[..1]), [(0, None)]);
    assert!(letters[1..].iter().all(|letter| letter.content.is_err()));
}

#[test]
fn markers_alone_are_no_letters() {
    let mut log = Log::default();
    let offset = log.letter(Some("main"), "events");
    let marker = log.marker(offset);
    // As when retention has taken the letter.
    let mut fold = Fold::of(3);
    let headers = keys("core-1").seal_marker(&marker);
    fold.take(&keys("core-1"), 7, 5, headers.iter(), b"");
    assert_eq!(fold.redriven.keys().copied().collect::<Vec<_>>(), [marker.letter]);
    assert_eq!(fold.letters(), []);
}

#[test]
fn what_retention_took_is_forgotten_but_for_letters_that_have_a_copy_left() {
    let mut log = Log::default();
    let first = log.letter(Some("main"), "events");
    log.letter(Some("other"), "events");
    log.mark(first);
    log.letter(Some("main"), "events");
    let mut fold = Fold::of(3);
    let take = |fold: &mut Fold, offset: i64| {
        let (headers, value) = &log.0[usize::try_from(offset).unwrap()];
        fold.take(&keys("core-1"), offset, 5, headers.iter().flat_map(Headers::iter), value);
    };
    (0..4).for_each(|offset| take(&mut fold, offset));
    fold.forget_below(2);
    assert_eq!(redriven(&fold.letters), [(3, Some(99))], "where its copy lies, and still redriven");
    assert_eq!(fold.letters[0].content.as_ref().unwrap().copies, []);
    take(&mut fold, 3);
    assert_eq!(fold.letters.len(), 1, "it is known where it lies now");
    fold.forget_below(4);
    assert_eq!((fold.letters.len(), fold.known.len(), fold.redriven.len()), (0, 0, 0));
}

#[test]
fn a_marker_that_is_read_later_marks_what_is_kept() {
    let mut log = Log::default();
    let first = log.letter(Some("main"), "events");
    log.mark(first);
    let mut fold = Fold::of(3);
    for (offset, (headers, value)) in (0..).zip(&log.0) {
        assert_eq!(fold.letters.first().and_then(|letter| letter.content.as_ref().unwrap().redriven_ms), None);
        fold.take(&keys("core-1"), offset, 5, headers.iter().flat_map(Headers::iter), value);
    }
    assert_eq!(redriven(&fold.letters), [(0, Some(99))]);
}
