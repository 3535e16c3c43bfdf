//! An HTTP/2 connection on which a test writes frames by hand.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, SETTINGS, block, frame};
use super::{Ask, Edge, PATIENCE};

/// The header block of a request.
pub(super) fn head(ask: &Ask) -> Vec<u8> {
    let pseudo = [
        (":method", ask.method.as_bytes()),
        (":scheme", b"https"),
        (":authority", b"localhost"),
        (":path", ask.path.as_bytes()),
    ];
    block(pseudo.into_iter().chain(ask.headers.iter().map(|(name, value)| (*name, value.as_slice()))))
}

/// A frame from the server.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// Why the other side goes away.
    pub(super) fn reason(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// An HTTP/2 connection on which frames are written by hand.
pub(super) struct Raw<'e> {
    edge: &'e Edge,
    pub(super) stream: TlsStream<TcpStream>,
    received: Vec<u8>,
    next_stream: u32,
}

impl<'e> Raw<'e> {
    /// A connection with empty settings.
    pub(super) async fn connect(edge: &'e Edge) -> Self {
        Self::with_settings(edge, &[]).await
    }

    /// A connection with these settings: identifier and value.
    pub(super) async fn with_settings(edge: &'e Edge, settings: &[(u16, u32)]) -> Self {
        let mut stream = edge.connect("h2").await;
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await.unwrap();
        stream.flush().await.unwrap();
        Self { edge, stream, received: Vec::new(), next_stream: 1 }
    }

    /// Writes; false when the server has closed the connection.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, written).await.expect("the server reads, or closes").is_ok()
    }

    /// The next stream of a client.
    pub(super) fn open(&mut self) -> u32 {
        self.next_stream += 2;
        self.next_stream - 2
    }

    /// Sends a whole request; answers its stream.
    pub(super) async fn send(&mut self, ask: &Ask) -> u32 {
        self.edge.sent.fetch_add(1, Ordering::SeqCst);
        let stream = self.open();
        let request =
            [frame(HEADERS, END_HEADERS, stream, &head(ask)), frame(DATA, END_STREAM, stream, &ask.body)].concat();
        assert!(self.write(&request).await);
        stream
    }

    /// The next frame, or nothing once the server has closed the connection.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(found) = self.parse() {
                return Some(found);
            }
            let read = self.stream.read_buf(&mut self.received);
            if timeout(PATIENCE, read).await.expect("the server answers, or closes").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    fn parse(&mut self) -> Option<Frame> {
        let header = self.received.get(..9)?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let payload = self.received.get(9..9 + length)?.to_vec();
        let stream = u32::from_be_bytes(header[5..].try_into().unwrap());
        let found = Frame { kind: header[3], stream, payload };
        self.received.drain(..9 + length);
        Some(found)
    }

    /// The next frame of a kind, or nothing once the server has closed the connection.
    pub(super) async fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let next = self.next().await?;
            if next.kind == kind {
                return Some(next);
            }
        }
    }

    /// The last GOAWAY before the server closes the connection.
    pub(super) async fn farewell(&mut self) -> Option<Frame> {
        let mut last = None;
        while let Some(next) = self.next().await {
            if next.kind == GOAWAY {
                last = Some(next);
            }
        }
        last
    }
}
