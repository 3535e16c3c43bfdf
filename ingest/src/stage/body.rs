//! Reading a body: under a limit, a deadline and a minimum rate, none of which the HTTP library has.
//!
//! A body is in memory once. Each piece is shown as it comes, so that nothing has to be read twice, and then added to those
//! before it; what is set aside for a body is never more than the limit.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

use crate::config::Limits;
use crate::refusal::Refusal;

/// How long a body may be slower than the minimum rate at its beginning.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Reads a whole body and shows each piece as it comes. A body of one piece is not copied.
pub(super) async fn read<B>(body: B, limits: &Limits, mut piece: impl FnMut(&[u8])) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let mut body = pin!(body);
    let bytes_max = limits.body_bytes_max.as_usize();
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(bytes_max);
    let start = Instant::now();
    let mut collected = Collected::Nothing;
    loop {
        let frame = match timeout_at(start + deadline(limits, collected.len()), body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(Refusal::IncompleteBody(error.into())),
            Ok(None) => return Ok(collected.into_bytes()),
            Err(_elapsed) => return Err(Refusal::BodyTimeout),
        };
        // Trailers are not signed: they are ignored.
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > bytes_max {
            return Err(Refusal::PayloadTooLarge);
        }
        piece(&data);
        collected.push(data, expected, bytes_max);
    }
}

/// When the next piece must be there, counted from the beginning, after so many bytes.
pub(super) fn deadline(limits: &Limits, received: usize) -> Duration {
    let earned = Duration::from_secs_f64(received as f64 / limits.body_bytes_per_second_min.as_u64() as f64);
    limits.body_deadline.min(GRACE + earned)
}

/// The pieces so far.
pub(super) enum Collected {
    /// None.
    Nothing,
    /// One, where the HTTP library put it.
    One(Bytes),
    /// Several, one behind the other.
    Many(Vec<u8>),
}

impl Collected {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(piece) => piece.len(),
            Self::Many(pieces) => pieces.len(),
        }
    }

    /// Adds a piece. `expected` is the length that was declared, or 0; the whole is at most `bytes_max`.
    pub(super) fn push(&mut self, data: Bytes, expected: usize, bytes_max: usize) {
        if data.is_empty() {
            return;
        }
        let pieces = match self {
            Self::Nothing => {
                *self = Self::One(data);
                return;
            }
            Self::One(first) => {
                let mut pieces = Vec::with_capacity(capacity(0, first.len() + data.len(), bytes_max).max(expected));
                pieces.extend_from_slice(first);
                *self = Self::Many(pieces);
                let Self::Many(pieces) = self else { unreachable!("it was just made") };
                pieces
            }
            Self::Many(pieces) => pieces,
        };
        let len = pieces.len() + data.len();
        if len > pieces.capacity() {
            pieces.reserve_exact(capacity(pieces.capacity(), len, bytes_max) - pieces.len());
        }
        pieces.extend_from_slice(&data);
    }

    /// The whole.
    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(piece) => piece,
            Self::Many(pieces) => pieces.into(),
        }
    }
}

/// What to set aside for `len` bytes: twice what there was, so that a body in many small pieces is not moved for each, but
/// not more than it may become.
fn capacity(before: usize, len: usize, bytes_max: usize) -> usize {
    len.max((2 * before).min(bytes_max))
}
