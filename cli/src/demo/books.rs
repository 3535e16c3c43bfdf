//! The demonstration's books: what was sent, what became of it, and whether that adds up.
//!
//! ```text
//! sent = delivered once + repeats recognised + refused + dead          for each sink
//! ```
//!
//! Deliveries are counted by the sinks themselves, dead letters in their topic, answers by the sender; only the repeats
//! are the processor's own count, since a repeat that is recognised shows itself nowhere else.

use std::collections::BTreeMap;

/// What was seen at one sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sink {
    /// How often each event arrived, by its number.
    pub arrivals: Vec<u32>,
    /// Repeats that the processor kept from it.
    pub repeats: u64,
}

/// What was seen of everything.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Requests sent.
    pub sent: u64,
    /// How often each event was answered 200, by its number.
    pub accepted: Vec<u32>,
    /// Refusals, by code; requests without an answer are among them.
    pub refused: BTreeMap<String, u64>,
    /// Of those, requests that may be in the log all the same: without an answer, or answered that it came too late.
    pub uncertain: u64,
    /// The sinks.
    pub http: Sink,
    /// The sinks.
    pub kafka: Sink,
    /// Different `webhook-id`s at both sinks together.
    pub webhook_ids: u64,
    /// Dispatches that the HTTP sink put off, each of which was made again.
    pub retried: u64,
    /// Letters in the dead-letter topic, by reason.
    pub dead: BTreeMap<String, u64>,
}

/// The books.
#[derive(Debug, Clone, PartialEq)]
pub struct Books {
    /// Requests sent.
    pub sent: u64,
    /// Answered 200.
    pub accepted: u64,
    /// Refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// Events that every sink has.
    pub delivered: u64,
    /// Events that a sink has: HTTP, Kafka.
    pub delivered_to: [u64; 2],
    /// Repeats that were kept from every sink.
    pub duplicates_recognised: u64,
    /// Repeats that were kept from a sink: HTTP, Kafka.
    pub duplicates_of: [u64; 2],
    /// Dispatches made again after the sink put them off.
    pub retried: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters, by reason.
    pub dead_by_reason: BTreeMap<String, u64>,
    /// Events answered 200 that are neither at every sink nor dead.
    pub lost: u64,
    /// Events that a sink has more than once.
    pub delivered_twice: u64,
    /// Whether the books balance.
    pub conserved: bool,
}

impl Seen {
    /// Makes the books.
    pub fn books(self) -> Books {
        let Self { sent, accepted, refused, uncertain, http, kafka, webhook_ids, retried, dead } = self;
        let at = |sink: &Sink, event: usize| sink.arrivals.get(event).copied().unwrap_or(0);
        let (mut delivered, mut missing, mut delivered_twice, mut known) = (0, 0, 0, 0);
        let mut delivered_to = [0; 2];
        for (event, &accepted) in accepted.iter().enumerate() {
            let arrivals = [at(&http, event), at(&kafka, event)];
            delivered += u64::from(arrivals.iter().all(|&count| count > 0));
            known += u64::from(arrivals.iter().any(|&count| count > 0));
            missing += u64::from(accepted > 0 && arrivals.contains(&0));
            delivered_twice += u64::from(arrivals.iter().any(|&count| count > 1));
            for (sum, count) in delivered_to.iter_mut().zip(arrivals) {
                *sum += u64::from(count > 0);
            }
        }
        let accepted: u64 = accepted.iter().map(|&count| u64::from(count)).sum();
        let dead_sum = dead.values().sum();
        let lost = u64::saturating_sub(missing, dead_sum);
        let refused_sum: u64 = refused.values().sum();
        let duplicates_of = [http.repeats, kafka.repeats];
        // A request that was not answered in time may have been accepted: then it is on both sides.
        let balances = |delivered: u64, repeats: u64| {
            let ended = delivered + repeats + refused_sum + dead_sum;
            (sent..=sent + uncertain).contains(&ended)
        };
        let conserved = lost == 0
            && delivered_twice == 0
            && sent == accepted + refused_sum
            && webhook_ids == known
            && balances(delivered_to[0], http.repeats)
            && balances(delivered_to[1], kafka.repeats);
        Books {
            sent,
            accepted,
            refused,
            delivered,
            delivered_to,
            duplicates_recognised: http.repeats.min(kafka.repeats),
            duplicates_of,
            retried,
            dead: dead_sum,
            dead_by_reason: dead,
            lost,
            delivered_twice,
            conserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six events, the first sent three times, the last dead; two forgeries.
    fn seen() -> Seen {
        let sink = Sink { arrivals: vec![1, 1, 1, 1, 1, 0], repeats: 2 };
        Seen {
            sent: 10,
            accepted: vec![3, 1, 1, 1, 1, 1],
            refused: [("signature_invalid".to_owned(), 2)].into(),
            uncertain: 0,
            http: sink.clone(),
            kafka: sink,
            webhook_ids: 5,
            retried: 2,
            dead: [("open_failed".to_owned(), 1)].into(),
        }
    }

    #[test]
    fn books_that_balance() {
        let books = seen().books();
        assert!(books.conserved);
        assert_eq!((books.sent, books.accepted, books.delivered, books.duplicates_recognised), (10, 8, 5, 2));
        assert_eq!((books.dead, books.lost, books.delivered_twice, books.retried), (1, 0, 0, 2));
        assert!(Seen::default().books().conserved, "nothing sent, nothing lost");
    }

    /// Each of these must show: a check that can't fail proves nothing.
    #[test]
    fn books_that_do_not() {
        let bent = |bend: &dyn Fn(&mut Seen)| {
            let mut seen = seen();
            bend(&mut seen);
            let books = seen.books();
            assert!(!books.conserved, "{books:?}");
            books
        };
        assert_eq!(bent(&|seen| seen.http.arrivals[2] = 0).lost, 1);
        assert_eq!(bent(&|seen| seen.kafka.arrivals[2] = 0).lost, 1);
        assert_eq!(bent(&|seen| seen.dead.clear()).lost, 1);
        assert_eq!(bent(&|seen| seen.http.arrivals[2] = 2).delivered_twice, 1);
        assert_eq!(bent(&|seen| seen.kafka.arrivals[0] = 2).delivered_twice, 1);
        bent(&|seen| seen.http.repeats = 1);
        bent(&|seen| seen.kafka.repeats = 3);
        bent(&|seen| seen.sent = 11);
        bent(&|seen| seen.webhook_ids = 6);
        bent(&|seen| seen.webhook_ids = 4);
        bent(&|seen| *seen.accepted.last_mut().unwrap() = 0);
        // A loss and a duplicate do not make up for each other.
        let books = bent(&|seen| {
            seen.http.arrivals[2] = 0;
            seen.http.repeats += 1;
        });
        assert_eq!(books.lost, 1);
    }

    #[test]
    fn a_request_without_an_answer_may_have_been_accepted_or_not() {
        let unanswered = |bend: &dyn Fn(&mut Seen)| {
            let mut seen = seen();
            seen.sent += 1;
            seen.uncertain = 1;
            seen.refused.insert("no_answer".to_owned(), 1);
            bend(&mut seen);
            seen.books().conserved
        };
        assert!(unanswered(&|_| {}), "it was not");
        assert!(unanswered(&|seen| (seen.http.repeats, seen.kafka.repeats) = (3, 3)), "it was, as a repeat");
        assert!(!unanswered(&|seen| (seen.http.repeats, seen.kafka.repeats) = (4, 4)), "one can't be two");
    }
}
