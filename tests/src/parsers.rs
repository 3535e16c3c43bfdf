//! What every parser of bytes from outside keeps to, whatever it is given.
//!
//! A [`Target`] takes any bytes, hands them to one parser, and compares: with a reading of the grammar that shares no code
//! with the parser and is allowed to be slow, and with what the accepted value says when it is written out again. It panics
//! when the two differ. The property tests below run each target on 100 000 inputs; the programs in `fuzz/` hand the same
//! functions to a fuzzer, which starts from the same seeds.

mod configuration;
mod envelopes;
mod json;
mod payload;
mod progress;
mod proxies;
mod records;
mod signed;
mod standard;
mod words;

use data_encoding::BASE64;

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// The parser took it, and was right.
    Accepted,
    /// The parser refused it, and was right.
    Refused,
}

impl Judged {
    /// Accepted if this holds.
    fn accepted_if(holds: bool) -> Self {
        if holds { Self::Accepted } else { Self::Refused }
    }
}

/// One parser, with what is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also that of its fuzz target and its corpus.
    pub name: &'static str,
    /// Hands it an input; panics if it breaks a property.
    pub check: fn(&[u8]) -> Judged,
    /// Inputs to begin with: from the vectors, and by hand.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces that its grammar is made of.
    pub pieces: &'static [&'static str],
}

/// Every parser.
pub const TARGETS: &[Target] = &[
    signed::SIGNATURE,
    signed::TIMESTAMP,
    signed::RETRY_AFTER,
    standard::STANDARD_WEBHOOKS,
    proxies::PROXY_HEADER,
    proxies::FORWARDED,
    envelopes::NATIVE,
    envelopes::JWE,
    records::RECORD,
    progress::COMMIT_METADATA,
    payload::EVENT_ID,
    words::NAME,
    words::SECRET,
    configuration::CONFIGURATION,
];

/// Parsers of the same configuration language that read much more: for the fuzzer, since a case takes them long.
pub const SLOW_TARGETS: &[Target] = &[configuration::INGEST, configuration::PROCESSOR];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().chain(SLOW_TARGETS).find(|target| target.name == name)
}

/// What a canonical text of base64 with padding stands for. The library alone also takes several such texts in a row.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    BASE64.decode(text).ok().filter(|bytes| BASE64.encode(bytes).as_bytes() == text)
}

/// The vectors of the wire format.
fn vectors(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("the vectors are JSON")
}

fn native_vectors() -> serde_json::Value {
    vectors(include_str!("../vectors/native.json"))
}

fn jwe_vectors() -> serde_json::Value {
    vectors(include_str!("../vectors/jwe.json"))
}

/// The texts of a list or of an object's members.
fn texts(value: &serde_json::Value) -> Vec<Vec<u8>> {
    let of = |value: &serde_json::Value| value.as_str().map(|text| text.as_bytes().to_vec());
    match value {
        serde_json::Value::Array(elements) => elements.iter().filter_map(of).collect(),
        serde_json::Value::Object(members) => members.values().filter_map(of).collect(),
        other => of(other).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    const CASES: u32 = 100_000;

    /// One change to an input: where, what, and a choice within that.
    type Edit = (u16, u8, u8);

    fn edits() -> impl Strategy<Value = (u8, Vec<Edit>)> {
        (any::<u8>(), proptest::collection::vec(any::<Edit>(), 0..5))
    }

    /// A seed with these changes. Seeds are of the parser's grammar, so most of what comes out lies at its edges.
    fn edited(seeds: &[Vec<u8>], pieces: &[&str], seed: u8, edits: &[Edit]) -> Vec<u8> {
        let mut input = seeds[usize::from(seed) % seeds.len()].clone();
        for &(place, kind, choice) in edits {
            let at = usize::from(place) % (input.len() + 1);
            let end = (at + usize::from(choice) % 24).min(input.len());
            match kind % 8 {
                0 if at < input.len() => input[at] = choice,
                1 if at < input.len() => input[at] ^= 1 << (choice % 8),
                2 => input.insert(at, choice),
                3 => drop(input.drain(at..end)),
                4 => input.truncate(at),
                5 => {
                    let copy = input[at..end].to_vec();
                    input.splice(at..at, copy);
                }
                6 => {
                    let other = &seeds[usize::from(choice) % seeds.len()];
                    input.truncate(at);
                    input.extend_from_slice(&other[at.min(other.len())..]);
                }
                _ => {
                    let piece = pieces.get(usize::from(choice) % pieces.len().max(1)).copied().unwrap_or_default();
                    input.splice(at..at, piece.bytes());
                }
            }
        }
        input
    }

    fn keeps_to_its_grammar(target: &Target) {
        let seeds = (target.seeds)();
        let accepted = Cell::new(0);
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new(config).run(&edits(), |(seed, edits)| {
            let input = edited(&seeds, target.pieces, seed, &edits);
            let judged = std::panic::catch_unwind(|| (target.check)(&input));
            match judged {
                Ok(judged) => accepted.set(accepted.get() + u32::from(judged == Judged::Accepted)),
                Err(_) => return Err(TestCaseError::fail(String::from_utf8_lossy(&input).into_owned())),
            }
            Ok(())
        });
        assert!(outcome.is_ok(), "{}: {outcome:?}", target.name);
        // What accepts nothing, or refuses nothing, proves nothing.
        let share = CASES / 50;
        assert!((share..=CASES - share).contains(&accepted.get()), "{} accepted {}", target.name, accepted.get());
    }

    #[test]
    fn signature_header() {
        keeps_to_its_grammar(&signed::SIGNATURE);
    }

    #[test]
    fn timestamp_header() {
        keeps_to_its_grammar(&signed::TIMESTAMP);
    }

    #[test]
    fn standard_webhooks_headers() {
        keeps_to_its_grammar(&standard::STANDARD_WEBHOOKS);
    }

    #[test]
    fn proxy_header() {
        keeps_to_its_grammar(&proxies::PROXY_HEADER);
    }

    #[test]
    fn forwarded_headers() {
        keeps_to_its_grammar(&proxies::FORWARDED);
    }

    #[test]
    fn retry_after_header() {
        keeps_to_its_grammar(&signed::RETRY_AFTER);
    }

    #[test]
    fn native_envelope() {
        keeps_to_its_grammar(&envelopes::NATIVE);
    }

    #[test]
    fn jwe() {
        keeps_to_its_grammar(&envelopes::JWE);
    }

    #[test]
    fn record_headers_and_markers() {
        keeps_to_its_grammar(&records::RECORD);
    }

    #[test]
    fn commit_metadata() {
        keeps_to_its_grammar(&progress::COMMIT_METADATA);
    }

    #[test]
    fn event_id_in_a_payload() {
        keeps_to_its_grammar(&payload::EVENT_ID);
    }

    #[test]
    fn names_and_places() {
        keeps_to_its_grammar(&words::NAME);
    }

    #[test]
    fn secrets_in_files() {
        keeps_to_its_grammar(&words::SECRET);
    }

    #[test]
    fn configuration_files_and_variables() {
        keeps_to_its_grammar(&configuration::CONFIGURATION);
    }

    #[test]
    fn every_target_has_a_name_of_its_own_and_takes_its_seeds() {
        let all: Vec<&Target> = TARGETS.iter().chain(SLOW_TARGETS).collect();
        for (at, known) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|earlier| earlier.name != known.name), "{} is there twice", known.name);
            assert_eq!(target(known.name).map(|found| found.name), Some(known.name));
            let judged: Vec<Judged> = (known.seeds)().iter().map(|seed| (known.check)(seed)).collect();
            for expected in [Judged::Accepted, Judged::Refused] {
                assert!(judged.contains(&expected), "{}: no seed is {expected:?}", known.name);
            }
        }
    }
}
