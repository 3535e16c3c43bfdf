//! What the demonstration sends: request by request, decided by its number alone.
//!
//! Two of every hundred requests are forged and two stale, ten repeat an earlier event, re-encrypted and re-signed, as
//! often as not in the other format. One event's sink fails twice, and one can't be decrypted.

use common::envelope::Format;
use common::id::EventId;

/// The event whose HTTP sink fails twice before it succeeds.
pub(super) const FLAKY: usize = 1;
/// How often it fails.
pub(super) const FLAKY_FAILURES: u32 = 2;

/// A repeat is of one of so many requests before it.
const REACH: usize = 5000;
/// How old a stale request claims to be, in seconds: well outside of any tolerance.
pub(super) const STALE_S: u64 = 3600;

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A new event.
    Event,
    /// An earlier event again, sealed and signed anew.
    Repeat {
        /// The request that had it first.
        of: usize,
    },
    /// A new event, signed with a secret that nobody knows.
    Forged,
    /// A new event, rightly signed an hour ago.
    Stale,
    /// Rightly signed, and sealed with a key that nobody knows.
    Undecryptable,
}

impl Kind {
    /// Of the request with this number.
    pub(super) fn of(number: usize) -> Self {
        match number {
            0 | FLAKY => Self::Event,
            2 => Self::Undecryptable,
            3 => Self::Forged,
            4 => Self::Stale,
            5 => Self::Repeat { of: 0 },
            _ => match number % 50 {
                11 => Self::Forged,
                31 => Self::Stale,
                rest if rest % 10 == 7 => Self::Repeat { of: earlier(number) },
                _ => Self::Event,
            },
        }
    }

    /// The number of the event that the request carries.
    pub(super) fn event(self, number: usize) -> usize {
        match self {
            Self::Repeat { of } => of,
            Self::Event | Self::Forged | Self::Stale | Self::Undecryptable => number,
        }
    }
}

/// Some event before this number, near or far.
fn earlier(number: usize) -> usize {
    // Any mixture will do that is not a multiple of the number itself.
    let back = 1 + (number / 2 * 7919 + 11) % number.min(REACH);
    let mut of = number - back;
    while of == FLAKY || Kind::of(of) != Kind::Event {
        of -= 1;
    }
    of
}

/// The envelope of the request with this number.
pub(super) fn format(number: usize) -> Format {
    if (number + number / 10).is_multiple_of(2) { Format::Native } else { Format::Jwe }
}

/// The id of an event.
pub(super) fn event_id(event: usize) -> EventId {
    EventId::new(id_text(event)).expect("a short text")
}

fn id_text(event: usize) -> String {
    format!("evt-{event:08}")
}

/// An event's payload.
pub(super) fn payload(event: usize) -> String {
    let (id, amount) = (id_text(event), event * 7919 % 100_000);
    format!(
        "{{\"id\":\"{id}\",\"type\":\"demo.order.paid\",\"order\":{event},\"amount_cents\":{amount},\
         \"currency\":\"EUR\",\"note\":\"readable at the sinks only\"}}"
    )
}

/// The number of the event that a sink was given; `None` for one that was sent by hand.
pub(super) fn event_of(id: &str) -> Option<usize> {
    id.strip_prefix("evt-")?.parse().ok().filter(|event| id_text(*event) == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn ten_thousand_have_their_share_of_everything() {
        let mut shares = BTreeMap::new();
        for number in 0..10_000 {
            let name = match Kind::of(number) {
                Kind::Event => "event",
                Kind::Repeat { .. } => "repeat",
                Kind::Forged => "forged",
                Kind::Stale => "stale",
                Kind::Undecryptable => "undecryptable",
            };
            *shares.entry(name).or_insert(0) += 1;
        }
        let expect = [("event", 8596), ("forged", 201), ("repeat", 1001), ("stale", 201), ("undecryptable", 1)];
        assert_eq!(shares, BTreeMap::from(expect));
    }

    #[test]
    fn a_repeat_is_of_an_earlier_event_that_is_sent_once_before() {
        for number in 0..100_000 {
            if let Kind::Repeat { of } = Kind::of(number) {
                assert!(of < number && of != FLAKY && Kind::of(of) == Kind::Event, "{number} repeats {of}");
            }
        }
    }

    #[test]
    fn repeats_come_in_both_formats_and_change_them() {
        let repeats = (0..1000).filter_map(|number| match Kind::of(number) {
            Kind::Repeat { of } => Some((format(of), format(number))),
            Kind::Event | Kind::Forged | Kind::Stale | Kind::Undecryptable => None,
        });
        let kinds: std::collections::HashSet<_> = repeats.collect();
        assert_eq!(kinds.len(), 4, "{kinds:?}");
    }

    #[test]
    fn an_events_number_is_read_from_its_id() {
        for event in [0, 1, 99_999_999, 123_456_789] {
            assert_eq!(event_of(event_id(event).as_str()), Some(event));
            let payload: serde_json::Value = serde_json::from_str(&payload(event)).unwrap();
            assert_eq!(payload["id"], event_id(event).as_str());
        }
        for other in ["evt-1", "evt_00000001", "evt-0000000x", "x"] {
            assert_eq!(event_of(other), None, "{other}");
        }
    }
}
