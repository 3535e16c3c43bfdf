//! Which event each request carries: a function of its number, so that nothing has to be remembered.

use anyhow::{Context, Result, ensure};
use common::id::EventId;
use sender::Sender;

/// How far back the event of a repeat lies at most, in requests.
const DISTANCE_MAX: u64 = 1000;

/// The events of one load.
#[derive(Debug)]
pub(super) struct Events {
    /// Begins every id: of this load alone.
    prefix: String,
    repeat_share: f64,
    sizes: Vec<Size>,
}

#[derive(Debug, Clone, Copy)]
struct Size {
    payload_bytes: usize,
    body_bytes: usize,
}

/// An event to be sent.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) id: EventId,
    /// JSON, with the id at `/id`.
    pub(super) payload: Vec<u8>,
    /// It was sent before.
    pub(super) is_repeat: bool,
}

impl Events {
    /// Events that make sealed bodies of these sizes, or a few bytes less, in turn. Each repeat is of one of the last
    /// thousand requests.
    pub(super) fn new(sender: &Sender, body_bytes: &[usize], repeat_share: f64) -> Result<Self> {
        let prefix = format!("load-{:08x}-", getrandom::u32().context("no random bytes")?);
        let mut events = Self { prefix, repeat_share, sizes: Vec::new() };
        for wanted in body_bytes {
            events.sizes.push(events.fitting(sender, *wanted)?);
        }
        ensure!(!events.sizes.is_empty(), "no size of bodies is given");
        Ok(events)
    }

    /// The longest payload whose body is no longer than wanted.
    fn fitting(&self, sender: &Sender, wanted: usize) -> Result<Size> {
        let id = self.id(0)?;
        let body =
            |payload_bytes| -> Result<usize> { Ok(sender.prepare(&id, &payload(&id, payload_bytes))?.body.len()) };
        let (mut fits, mut too_long) = (payload(&id, 0).len(), wanted + 1);
        let least = body(fits)?;
        ensure!(least <= wanted, "a body has {least} bytes at least, so none has {wanted}");
        while too_long - fits > 1 {
            let middle = fits.midpoint(too_long);
            if body(middle)? <= wanted { fits = middle } else { too_long = middle }
        }
        Ok(Size { payload_bytes: fits, body_bytes: body(fits)? })
    }

    /// The sizes that bodies have.
    pub(super) fn body_bytes(&self) -> Vec<usize> {
        self.sizes.iter().map(|size| size.body_bytes).collect()
    }

    /// The event of a request. A repeat has the id and the payload of its original.
    pub(super) fn event(&self, number: u64) -> Event {
        let mut original = number;
        while self.is_repeat(original) {
            original -= 1 + scattered(original) % original.min(DISTANCE_MAX);
        }
        let id = self.id(original).expect("the prefix and a number are a short text");
        let size = self.sizes[usize::try_from(original).unwrap_or_default() % self.sizes.len()];
        Event { payload: payload(&id, size.payload_bytes), id, is_repeat: original != number }
    }

    /// Evenly: of any run of requests so large a part, to within one. The first is none.
    fn is_repeat(&self, number: u64) -> bool {
        let before = |count: u64| (count as f64 * self.repeat_share) as u64;
        number > 0 && before(number + 1) > before(number)
    }

    fn id(&self, number: u64) -> Result<EventId> {
        Ok(EventId::new(format!("{}{number:012}", self.prefix))?)
    }
}

/// A payload of so many bytes, or as few as it takes.
fn payload(id: &EventId, bytes: usize) -> Vec<u8> {
    const END: &[u8] = b"\"}";
    let mut payload = format!(r#"{{"id":"{}","type":"load","text":""#, id.as_str()).into_bytes();
    payload.resize(bytes.saturating_sub(END.len()).max(payload.len()), b'x');
    payload.extend_from_slice(END);
    payload
}

/// A number that looks random (the finisher of SplitMix64).
fn scattered(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use common::clock::Clock;
    use common::envelope::Format;
    use common::http_client::{ClientOptions, HttpsClient, Schemes};
    use common::secret::Secret;
    use open::Key;
    use sender::{Config, RetryPolicy};

    use super::*;

    fn sender(format: Format) -> Arc<Sender> {
        let options = ClientOptions { schemes: Schemes::HttpToo, ..ClientOptions::default() };
        let config = Config {
            url: "http://localhost/".parse().unwrap(),
            source: "acme".parse().unwrap(),
            secret: Secret::from(vec![7; 32]),
            key_id: "k1".parse().unwrap(),
            key: Key::try_from(&Secret::from(vec![7; 32])).unwrap(),
            format,
            timeout: std::time::Duration::from_secs(1),
            retry: RetryPolicy::default(),
        };
        Arc::new(Sender::new(config, HttpsClient::new(&options).unwrap(), Clock::system()).unwrap())
    }

    #[test]
    fn bodies_are_as_long_as_asked_in_both_formats() {
        for format in [Format::Native, Format::Jwe] {
            let sender = sender(format);
            let events = Events::new(&sender, &[512, 1024, 262_144], 0.0).unwrap();
            for (number, wanted) in (0..).zip([512, 1024, 262_144, 512]) {
                let event = events.event(number);
                let body = sender.prepare(&event.id, &event.payload).unwrap().body;
                assert!((wanted - 3..=wanted).contains(&body.len()), "{format:?}: {} for {wanted}", body.len());
                assert_eq!(body.len(), events.body_bytes()[usize::try_from(number).unwrap() % 3]);
                let json: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
                assert_eq!(json["id"], event.id.as_str());
            }
            let error = Events::new(&sender, &[100], 0.0).unwrap_err().to_string();
            assert!(error.contains("at least"), "{error}");
        }
    }

    #[test]
    fn without_duplicates_every_id_is_new() {
        let events = Events::new(&sender(Format::Native), &[512], 0.0).unwrap();
        let mut ids: Vec<_> = (0..2000).map(|number| events.event(number).id.as_str().to_owned()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 2000);
        let others = Events::new(&sender(Format::Native), &[512], 0.0).unwrap();
        assert_ne!(others.event(0).id.as_str(), events.event(0).id.as_str(), "and no other load has it");
    }

    #[test]
    fn so_many_repeat_an_event_that_was_sent_before_with_its_payload() {
        for share in [0.1, 0.25, 0.9] {
            let events = Events::new(&sender(Format::Native), &[512, 1024], share).unwrap();
            let mut sent = BTreeMap::new();
            let mut repeats = 0_u32;
            for number in 0..4000 {
                let event = events.event(number);
                let known = sent.insert(event.id.as_str().to_owned(), event.payload.clone());
                assert_eq!(known.is_some(), event.is_repeat, "{number}");
                assert!(known.is_none_or(|payload| payload == event.payload), "{number}");
                repeats += u32::from(event.is_repeat);
            }
            assert!((f64::from(repeats) - 4000.0 * share).abs() <= 1.0, "{repeats} of 4000 at {share}");
        }
    }
}
