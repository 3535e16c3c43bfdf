//! A bound on the HTTP/2 frames of a connection that bring nothing.
//!
//! The HTTP library answers every PING and every SETTINGS and refuses every stream over its limit, for as long as they
//! come: it bounds only resets, CONTINUATION and DATA. So what is read is metered here: frames other than DATA are
//! counted, and when there are more of them than the requests of the connection explain, nothing more is read from it.
//!
//! It reads nothing but the nine bytes before each frame (RFC 9113, 4.1).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client sends first (RFC 9113, 3.4).
const PREFACE_LEN: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEADER_LEN: usize = 9;
const DATA: u8 = 0;

/// A stream of which nothing more is read once `bears` has said no to the count of its frames.
pub(crate) struct Metered<S, F> {
    stream: S,
    frames: Frames,
    bears: F,
    stopped: bool,
}

impl<S, F> Metered<S, F> {
    /// A stream on which an HTTP/2 client has said nothing yet.
    pub(crate) fn new(stream: S, bears: F) -> Self {
        Self { stream, frames: Frames::new(), bears, stopped: false }
    }

    /// The stream itself.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin, F: Fn(u64) -> bool + Unpin> AsyncRead for Metered<S, F> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stopped {
            // For ever: whoever said no ends the connection.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        let count = self.frames.feed(&buf.filled()[before..]);
        self.stopped = !(self.bears)(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Metered<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Counts the frames other than DATA in what a client sends.
struct Frames {
    /// Bytes until the next frame begins.
    skip: usize,
    header: [u8; HEADER_LEN],
    header_len: usize,
    count: u64,
}

impl Frames {
    fn new() -> Self {
        Self { skip: PREFACE_LEN, header: [0; HEADER_LEN], header_len: 0, count: 0 }
    }

    /// Takes the next bytes; answers the count so far.
    fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        while !bytes.is_empty() {
            let wanted = if self.skip > 0 { self.skip } else { HEADER_LEN - self.header_len };
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.skip > 0 {
                self.skip -= taken.len();
                continue;
            }
            self.header[self.header_len..][..taken.len()].copy_from_slice(taken);
            self.header_len += taken.len();
            if self.header_len == HEADER_LEN {
                let [a, b, c, kind, ..] = self.header;
                self.header_len = 0;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.count += u64::from(kind != DATA);
            }
        }
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload_len: usize) -> Vec<u8> {
        let length = (payload_len as u32).to_be_bytes();
        // A payload that looks like frames must not be taken for them.
        [&length[1..], &[kind], &[0; 5], &vec![0; payload_len]].concat()
    }

    #[test]
    fn frames_other_than_data_are_counted_however_they_are_cut() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let sent =
            [preface, frame(4, 0), frame(1, 300), frame(DATA, 70_000), frame(6, 8), frame(DATA, 0), frame(0xee, 1)];
        let sent = sent.concat();
        for len in [1, 2, 9, 10, 1000, sent.len()] {
            let mut frames = Frames::new();
            let counts: Vec<u64> = sent.chunks(len).map(|piece| frames.feed(piece)).collect();
            assert_eq!(counts.last(), Some(&4), "in pieces of {len}");
            assert!(counts.is_sorted());
        }
    }

    #[test]
    fn a_frame_counts_with_its_header() {
        let mut frames = Frames::new();
        let sent = [vec![0; PREFACE_LEN], frame(6, 8)].concat();
        assert_eq!(frames.feed(&sent[..PREFACE_LEN + HEADER_LEN - 1]), 0);
        assert_eq!(frames.feed(&sent[PREFACE_LEN + HEADER_LEN - 1..PREFACE_LEN + HEADER_LEN]), 1);
        assert_eq!(frames.feed(&sent[PREFACE_LEN + HEADER_LEN..]), 1);
    }

    #[tokio::test]
    async fn nothing_is_read_after_a_no() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut theirs, ours) = tokio::io::duplex(64 * 1024);
        let mut metered = Metered::new(ours, |count| count <= 2);
        let mut received = [0; 4096];
        theirs.write_all(&[0; PREFACE_LEN]).await.unwrap();
        assert_eq!(metered.read(&mut received).await.unwrap(), PREFACE_LEN);
        for _ in 0..3 {
            theirs.write_all(&frame(6, 8)).await.unwrap();
            assert_eq!(metered.read(&mut received).await.unwrap(), HEADER_LEN + 8);
        }
        theirs.write_all(&frame(6, 8)).await.unwrap();
        let read = std::pin::pin!(metered.read(&mut received));
        assert!(futures_ready(read).is_none(), "the third was one too many");
        metered.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        theirs.read_exact(&mut answer).await.unwrap();
    }

    /// What a future gives at once.
    fn futures_ready<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }
}
