//! What senders can write makes no series: label values come from enums and from configured names.

use std::collections::BTreeSet;

use super::{Ask, Edge, NOW_S, SECRET};

const REQUESTS: u64 = 10_000;
/// Fewer than a connection may have.
const REQUESTS_PER_CONNECTION: usize = 1000;

/// The names of all series, with their labels.
fn series(edge: &Edge) -> BTreeSet<String> {
    let shown = edge.metrics.render();
    let values = shown.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    values.map(|(name, _)| name.to_owned()).collect()
}

/// A request whose every part is made up, from the number; what it is refused for goes in turn.
fn made_up(number: u64) -> Ask {
    // The finalizer of SplitMix64: numbers in a row have nothing in common.
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let word = format!("{:016x}", mixed ^ (mixed >> 31));
    let header = format!(r#"{{"alg":"dir","enc":"A256GCM","kid":"{word}","jti":"{word}","aud":"{word}"}}"#);
    let token = format!(
        "{}..AAECAwQFBgcICQoL.AAAA.AAAAAAAAAAAAAAAAAAAAAA",
        data_encoding::BASE64URL_NOPAD.encode(header.as_bytes())
    );
    let ask = match number % 6 {
        0 => Ask::good().to(&format!("/in/{word}")),
        1 => Ask::good().to(&format!("/{word}?source={word}")).method("PURGE"),
        2 => Ask::good().method("PROPFIND"),
        3 => Ask::good().set("content-type", format!("text/{word}")),
        4 => Ask::signed(word.as_bytes(), NOW_S, "application/json", word.as_bytes()),
        _ => Ask::signed(SECRET, NOW_S, "application/jose", token).without("x-encryption-nonce"),
    };
    ask.with("user-agent", word.as_bytes()).with("traceparent", word.as_bytes()).with("x-source", word.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_made_up_paths_and_sources_make_no_series() {
    let edge = Edge::start().await;
    // Histograms are shown from their first value on.
    let warm = [&Ask::good(), &made_up(0), &made_up(4), &made_up(5)];
    let mut connection = edge.http2().await;
    for ask in warm {
        connection.ask(ask).await;
    }
    let before = series(&edge);
    let mut codes = BTreeSet::new();
    let numbers: Vec<u64> = (0..REQUESTS).collect();
    for numbers in numbers.chunks(REQUESTS_PER_CONNECTION) {
        connection = edge.http2().await;
        for &number in numbers {
            let reply = connection.ask(&made_up(number)).await;
            codes.insert(reply.status);
        }
    }
    assert!(codes.is_superset(&[400, 401, 404, 405, 415].into()), "{codes:?}");
    assert_eq!(series(&edge), before);
    drop(connection);
    edge.finish().await;
}
