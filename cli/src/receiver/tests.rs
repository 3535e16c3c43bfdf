use std::net::SocketAddr;

use common::clock::ManualClock;
use common::http_client::{ClientOptions, HttpsClient, Schemes};

use super::*;

const NOW_S: u64 = 1_700_000_000;
const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn key() -> SigningKey {
    SigningKey::parse(&Secret::from(WHSEC.as_bytes().to_vec())).unwrap()
}

/// A receiver whose judge takes everything but the body `later`, and notes what it saw.
struct Bench {
    address: SocketAddr,
    client: HttpsClient,
    seen: Arc<Mutex<Vec<(String, bool)>>>,
    hand: ManualClock,
    group: Group,
}

impl Bench {
    async fn start() -> Self {
        let (clock, hand) = Clock::manual(NOW_S * 1000);
        let seen: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
        let notes = seen.clone();
        let judge: Judge = Arc::new(move |delivery| {
            notes.lock().unwrap().push((delivery.webhook_id.clone(), delivery.repeat));
            if delivery.body == "later" { Answer::NotNow } else { Answer::Taken }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let group = Group::new();
        Receiver::new(key(), clock, judge).serve(&group, listener, None);
        let client =
            HttpsClient::new(&ClientOptions { schemes: Schemes::HttpToo, ..ClientOptions::default() }).unwrap();
        Self { address, client, seen, hand, group }
    }

    fn signed(&self, id: &str, body: &'static str) -> Request<Bytes> {
        Request::post(format!("http://{}/events", self.address))
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, NOW_S.to_string())
            .header(SIGNATURE_HEADER, sign(&key(), id, NOW_S, body.as_bytes()))
            .body(Bytes::from_static(body.as_bytes()))
            .unwrap()
    }

    async fn status(&self, request: Request<Bytes>) -> u16 {
        self.client.exchange(request, Duration::from_secs(10)).await.unwrap().status().as_u16()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.group.cancel();
    }
}

#[tokio::test]
async fn a_delivery_that_comes_again_is_known() {
    let bench = Bench::start().await;
    assert_eq!(bench.status(bench.signed("msg_1", "{}")).await, 200);
    assert_eq!(bench.status(bench.signed("msg_1", "{}")).await, 200);
    assert_eq!(bench.status(bench.signed("msg_2", "later")).await, 503);
    assert_eq!(bench.status(bench.signed("msg_2", "now")).await, 200);
    let seen = bench.seen.lock().unwrap().clone();
    let expect = [("msg_1", false), ("msg_1", true), ("msg_2", false), ("msg_2", false)];
    assert_eq!(seen, expect.map(|(id, repeat)| (id.to_owned(), repeat)));
}

#[tokio::test]
async fn only_what_was_signed_now_gets_to_the_judge() {
    let bench = Bench::start().await;
    let bent = |name: HeaderName, value: &'static str| {
        let mut request = bench.signed("msg_1", "{}");
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    for (request, expect) in [
        (bent(ID_HEADER, "msg_2"), 401),
        (bent(ID_HEADER, "msg.1"), 401),
        (bent(TIMESTAMP_HEADER, "1700000001"), 401),
        (bent(TIMESTAMP_HEADER, "+1700000000"), 401),
        (bent(SIGNATURE_HEADER, "v1,AAAA"), 401),
        (bent(SIGNATURE_HEADER, ""), 401),
        (Request::put(format!("http://{}/", bench.address)).body(Bytes::new()).unwrap(), 405),
        (Request::get(format!("http://{}/events", bench.address)).body(Bytes::new()).unwrap(), 404),
        (Request::get(format!("http://{}/readyz", bench.address)).body(Bytes::new()).unwrap(), 200),
    ] {
        assert_eq!(bench.status(request).await, expect);
    }
    let mut unsigned = bench.signed("msg_1", "{}");
    unsigned.headers_mut().remove(SIGNATURE_HEADER);
    assert_eq!(bench.status(unsigned).await, 401);
    let mut doubled = bench.signed("msg_1", "{}");
    doubled.headers_mut().append(ID_HEADER, "msg_1".parse().unwrap());
    assert_eq!(bench.status(doubled).await, 401);
    let mut other_body = bench.signed("msg_1", "{}");
    *other_body.body_mut() = Bytes::from_static(b"{ }");
    assert_eq!(bench.status(other_body).await, 401);
    assert!(bench.seen.lock().unwrap().is_empty());

    // One of several signatures is enough.
    let mut rotating = bench.signed("msg_1", "{}");
    let good = rotating.headers()[SIGNATURE_HEADER].to_str().unwrap().to_owned();
    rotating.headers_mut().insert(SIGNATURE_HEADER, format!("v1,AAAA {good}").parse().unwrap());
    assert_eq!(bench.status(rotating).await, 200);
}

#[tokio::test]
async fn the_timestamp_has_both_edges() {
    let bench = Bench::start().await;
    for (now_s, expect) in [(NOW_S - 301, 401), (NOW_S - 300, 200), (NOW_S + 300, 200), (NOW_S + 301, 401)] {
        bench.hand.set_unix_ms(now_s * 1000);
        assert_eq!(bench.status(bench.signed("msg_1", "{}")).await, expect, "{now_s}");
    }
}

#[test]
fn the_oldest_ids_are_forgotten_first() {
    let mut ids = Ids::default();
    for n in 0..=IDS_MAX {
        ids.insert(&n.to_string());
        ids.insert(&n.to_string());
    }
    assert_eq!((ids.known.len(), ids.order.len()), (IDS_MAX, IDS_MAX));
    assert!(!ids.known.contains("0") && ids.known.contains("1"));
}
