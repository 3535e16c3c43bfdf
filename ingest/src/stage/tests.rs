//! What the stages decide without a connection: how slow a body may be, and what is passed on.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use hyper::body::{Body, Frame};

use super::admitted::traceparent;
use super::body::{Collected, GRACE, deadline, read};

#[test]
fn a_body_earns_its_time() {
    let mut limits = crate::tests::config().limits;
    limits.body_deadline = Duration::from_secs(15);
    limits.body_bytes_per_second_min = common::config::ByteSize::kib(1);
    assert_eq!(deadline(&limits, 0), GRACE);
    assert_eq!(deadline(&limits, 1024), GRACE + Duration::from_secs(1));
    assert_eq!(deadline(&limits, 512), GRACE + Duration::from_millis(500));
    assert_eq!(deadline(&limits, 10 * 1024), Duration::from_secs(15), "at most the whole deadline");
    assert_eq!(deadline(&limits, usize::MAX), Duration::from_secs(15));
    limits.body_deadline = Duration::from_secs(1);
    assert_eq!(deadline(&limits, 0), Duration::from_secs(1));
}

#[test]
fn a_trace_context_is_passed_on_in_our_own_words_and_nothing_else_is() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let read = |text: &str| traceparent(&HeaderValue::from_str(text).unwrap());
    assert_eq!(read(good).as_deref(), Some(good));
    for end in 0..good.len() {
        assert_eq!(read(&good[..end]), None);
    }
    assert_eq!(read(&format!("{}-and-more", good.replacen("00", "01", 1))).as_deref(), Some(good));
    let zero = good.replace("b7ad6b7169203331", &"0".repeat(16));
    for bad in [good.replacen("00", "ff", 1), good.to_uppercase(), good.replace('-', "0"), format!("{good}-x"), zero] {
        assert_eq!(read(&bad), None, "{bad}");
    }
    assert_eq!(traceparent(&HeaderValue::from_bytes(b"00-\xff").unwrap()), None);
}

#[test]
fn a_body_is_set_aside_no_more_than_the_limit() {
    const LIMIT: usize = 1000;
    for expected in [0, 1, 600, LIMIT] {
        for piece_len in [1, 7, 300, 999] {
            let whole: Vec<u8> = (0..LIMIT).map(|at| at as u8).collect();
            let mut collected = Collected::Nothing;
            for piece in whole.chunks(piece_len) {
                collected.push(Bytes::copy_from_slice(piece), expected, LIMIT);
                collected.push(Bytes::new(), expected, LIMIT);
                if let Collected::Many(pieces) = &collected {
                    assert!(pieces.capacity() <= LIMIT, "{} for {}", pieces.capacity(), pieces.len());
                    assert!(pieces.capacity() >= expected.min(LIMIT));
                }
            }
            assert_eq!(collected.into_bytes(), whole);
        }
    }
}

#[test]
fn a_body_of_one_piece_stays_where_it_is() {
    let piece = Bytes::from(vec![7; 100]);
    let at = piece.as_ptr();
    let mut collected = Collected::Nothing;
    collected.push(piece, 100, 1000);
    assert_eq!(collected.into_bytes().as_ptr(), at);
}

#[test]
fn small_pieces_do_not_move_a_body_each_time() {
    const LIMIT: usize = 100_000;
    let mut collected = Collected::Nothing;
    let mut capacities = std::collections::BTreeSet::new();
    for _ in 0..LIMIT {
        collected.push(Bytes::from_static(b"x"), 0, LIMIT);
        if let Collected::Many(pieces) = &collected {
            capacities.insert(pieces.capacity());
        }
    }
    assert!(capacities.len() < 20, "{capacities:?}");
}

/// A body whose next piece comes only after the one before it was seen.
struct Watched<'a> {
    pieces: std::vec::IntoIter<&'static [u8]>,
    given: usize,
    seen: &'a Cell<usize>,
}

impl Body for Watched<'_> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert_eq!(self.given, self.seen.get(), "each piece is worked in before the next is asked for");
        let piece = self.pieces.next();
        self.given += piece.map_or(0, <[u8]>::len);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(Bytes::from_static(piece)))))
    }
}

#[tokio::test]
async fn each_piece_is_shown_as_it_comes() {
    let limits = crate::tests::config().limits;
    let seen = Cell::new(0);
    let pieces: Vec<&[u8]> = vec![b"a", b"", b"body", b" in ", b"pieces"];
    let body = Watched { pieces: pieces.into_iter(), given: 0, seen: &seen };
    let whole = read(body, &limits, |piece| seen.set(seen.get() + piece.len())).await.unwrap();
    assert_eq!(whole, "abody in pieces");
}
