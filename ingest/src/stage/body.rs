//! Reading a body: under a limit, a deadline and a minimum rate, none of which the HTTP library has.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
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
        collected.push(data, expected);
    }
}

/// When the next piece must be there, counted from the beginning, after so many bytes.
pub(super) fn deadline(limits: &Limits, received: usize) -> Duration {
    let earned = Duration::from_secs_f64(received as f64 / limits.body_bytes_per_second_min.as_u64() as f64);
    limits.body_deadline.min(GRACE + earned)
}

/// The pieces so far.
enum Collected {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Collected {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(piece) => piece.len(),
            Self::Many(pieces) => pieces.len(),
        }
    }

    fn push(&mut self, data: Bytes, expected: usize) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::One(data),
            Self::One(first) if data.is_empty() => Self::One(first),
            Self::One(first) => {
                let mut pieces = BytesMut::with_capacity(expected.max(first.len() + data.len()));
                pieces.extend_from_slice(&first);
                pieces.extend_from_slice(&data);
                Self::Many(pieces)
            }
            Self::Many(mut pieces) => {
                pieces.extend_from_slice(&data);
                Self::Many(pieces)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(piece) => piece,
            Self::Many(pieces) => pieces.freeze(),
        }
    }
}
