//! The PROXY protocol, version 2: how a load balancer says for whom it opened a connection.
//!
//! ```text
//! 12 bytes   signature 0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A
//!  1 byte    version 2 in the high half; command in the low one: 0 LOCAL, 1 PROXY
//!  1 byte    family and transport: 0x11 TCP over IPv4, 0x21 TCP over IPv6, 0x00 unspecified
//!  2 bytes   length of what follows, big-endian
//!            IPv4: source, destination (4 bytes each), ports (2 bytes each)
//!            IPv6: source, destination (16 bytes each), ports (2 bytes each)
//!            then anything: TLVs are skipped
//! ```
//!
//! A header is required from trusted peers and refused from all others, also version 1's. Not a byte behind the header is
//! read. The source is <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// How a header of version 1 begins.
const SIGNATURE_V1: [u8; 6] = *b"PROXY ";
/// Signature, version and command, family, length.
const FIXED_LEN: usize = 16;
/// Longest rest. Addresses take 36 bytes; balancers add a few hundred bytes of TLVs.
const REST_LEN_MAX: usize = 4096;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The balancer speaks for itself, or does not say for whom: the peer's own address counts.
    Local,
    /// The balancer speaks for this client.
    Client(IpAddr),
}

/// What is no header. The balancer's fault, or ours for trusting it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header of version 2 for TCP")]
pub(crate) struct HeaderError;

/// The fixed part: what it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fixed {
    family: Family,
    rest_len: usize,
}

/// Whose address is in the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Local,
    V4,
    V6,
}

impl Fixed {
    fn parse(bytes: &[u8; FIXED_LEN]) -> std::result::Result<Self, HeaderError> {
        let &[.., version_and_command, family, high, low] = bytes;
        let rest_len = usize::from(u16::from_be_bytes([high, low]));
        let (family, len_min) = match (version_and_command, family) {
            // LOCAL: whatever else it says is to be ignored.
            (0x20, _) | (0x21, 0x00) => (Family::Local, 0),
            (0x21, 0x11) => (Family::V4, 12),
            (0x21, 0x21) => (Family::V6, 36),
            _ => return Err(HeaderError),
        };
        if bytes[..SIGNATURE.len()] == SIGNATURE && (len_min..=REST_LEN_MAX).contains(&rest_len) {
            Ok(Self { family, rest_len })
        } else {
            Err(HeaderError)
        }
    }

    /// Reads the addresses at the beginning of the rest.
    fn header(&self, rest: &[u8]) -> Header {
        fn source<const N: usize>(rest: &[u8]) -> [u8; N] {
            rest.first_chunk().copied().expect("the length was checked against the family")
        }
        match self.family {
            Family::Local => Header::Local,
            Family::V4 => Header::Client(Ipv4Addr::from(source::<4>(rest)).into()),
            Family::V6 => Header::Client(Ipv6Addr::from(source::<16>(rest)).to_canonical()),
        }
    }
}

/// Reads a header. What is none is an error of kind [`ErrorKind::InvalidData`].
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header> {
    let invalid = |error| Error::new(ErrorKind::InvalidData, error);
    let mut fixed = [0; FIXED_LEN];
    stream.read_exact(&mut fixed).await?;
    let fixed = Fixed::parse(&fixed).map_err(invalid)?;
    let mut rest = vec![0; fixed.rest_len];
    stream.read_exact(&mut rest).await?;
    Ok(fixed.header(&rest))
}

/// Whether a peer begins with a PROXY header of either version. Takes bytes from the stream only where they begin no TLS
/// record, so that what is TLS can go on.
pub(crate) async fn is_announced(stream: &mut TcpStream) -> Result<bool> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    let signature: &[u8] = match first[0] {
        b'\r' => &SIGNATURE,
        b'P' => &SIGNATURE_V1,
        _ => return Ok(false),
    };
    for expected in signature {
        if stream.read_u8().await? != *expected {
            return Err(Error::new(ErrorKind::InvalidData, "neither TLS nor a PROXY header"));
        }
    }
    Ok(true)
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A header with this command, family, addresses and TLVs.
    pub(crate) fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, rest].concat()
    }

    /// The header of a balancer that speaks for this client.
    pub(crate) fn header_for(client: &str) -> Vec<u8> {
        match client.parse().unwrap() {
            IpAddr::V4(client) => {
                header(0x21, 0x11, &[&client.octets()[..], &[203, 0, 113, 1], &[0x30, 0x39, 0x20, 0xfb]].concat())
            }
            IpAddr::V6(client) => {
                header(0x21, 0x21, &[&client.octets()[..], &[0; 16], &[0x30, 0x39, 0x20, 0xfb]].concat())
            }
        }
    }

    async fn parse(bytes: &[u8]) -> Result<(Header, usize)> {
        let mut rest = bytes;
        let header = read(&mut rest).await?;
        Ok((header, bytes.len() - rest.len()))
    }

    #[tokio::test]
    async fn both_families_and_what_has_no_address() {
        for (client, expect) in
            [("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::7"), ("::ffff:192.0.2.7", "192.0.2.7")]
        {
            // A mapped address is sent as IPv6.
            let mut bytes = match client.parse::<IpAddr>().unwrap() {
                IpAddr::V6(v6) => header(0x21, 0x21, &[&v6.octets()[..], &[0; 20]].concat()),
                IpAddr::V4(_) => header_for(client),
            };
            let len = bytes.len();
            bytes.extend_from_slice(b"\x16\x03\x01");
            assert_eq!(parse(&bytes).await.unwrap(), (Header::Client(expect.parse().unwrap()), len), "{client}");
        }
        let local: [(u8, u8, &[u8]); 5] = [
            (0x20, 0x00, &[]),
            (0x20, 0x11, &[0; 12]),
            (0x20, 0xff, &[1; 40]),
            (0x21, 0x00, &[]),
            (0x21, 0x00, &[9; 99]),
        ];
        for (command, family, rest) in local {
            let bytes = header(command, family, rest);
            assert_eq!(parse(&bytes).await.unwrap(), (Header::Local, bytes.len()), "{command:x} {family:x}");
        }
    }

    #[tokio::test]
    async fn tlvs_are_skipped_up_to_the_longest_header() {
        let rest = |len: usize| [&[192, 0, 2, 7][..], &vec![0xee; len - 4]].concat();
        for len in [12, 13, REST_LEN_MAX] {
            let bytes = header(0x21, 0x11, &rest(len));
            assert_eq!(parse(&bytes).await.unwrap(), (Header::Client("192.0.2.7".parse().unwrap()), 16 + len));
        }
        for len in [11, REST_LEN_MAX + 1, 65535] {
            let error = parse(&header(0x21, 0x11, &rest(len))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{len}");
        }
        assert!(parse(&header(0x21, 0x21, &[0; 35])).await.is_err());
        assert!(parse(&header(0x20, 0x00, &vec![0; REST_LEN_MAX + 1])).await.is_err());
    }

    #[tokio::test]
    async fn what_begins_a_tls_record_is_left_on_the_stream() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let arrived = async |bytes: &[u8]| {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(bytes).await.unwrap();
            drop(client);
            listener.accept().await.unwrap().0
        };
        for bytes in [&b"\x16\x03\x01"[..], b"\0", b"\xff", b"GET / HTTP/1.1\r\n"] {
            let mut stream = arrived(bytes).await;
            assert!(!is_announced(&mut stream).await.unwrap(), "{bytes:?}");
            let mut left = Vec::new();
            stream.read_to_end(&mut left).await.unwrap();
            assert_eq!(left, bytes);
        }
        for bytes in [&header_for("192.0.2.7")[..], &SIGNATURE, &SIGNATURE_V1, b"PROXY UNKNOWN\r\n"] {
            assert!(is_announced(&mut arrived(bytes).await).await.unwrap(), "{bytes:?}");
        }
        for (bytes, kind) in [
            (&b"POST / HTTP/1.1\r\n"[..], ErrorKind::InvalidData),
            (b"\r\n\r\n\0\r\nQUIT\r", ErrorKind::InvalidData),
            (b"PROXY", ErrorKind::UnexpectedEof),
            (&SIGNATURE[..11], ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(is_announced(&mut arrived(bytes).await).await.unwrap_err().kind(), kind, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn every_other_command_family_and_signature_is_refused_and_so_is_every_beginning() {
        let good = header_for("192.0.2.7");
        for command in (0..=u8::MAX).filter(|command| !matches!(command, 0x20 | 0x21)) {
            assert!(parse(&header(command, 0x11, &good[16..])).await.is_err(), "{command:x}");
        }
        for family in (0..=u8::MAX).filter(|family| !matches!(family, 0x00 | 0x11 | 0x21)) {
            assert!(parse(&header(0x21, family, &[0; 216])).await.is_err(), "{family:x}");
        }
        for at in 0..SIGNATURE.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(parse(&bytes).await.is_err(), "{at}");
        }
        for end in 0..good.len() {
            assert_eq!(parse(&good[..end]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof, "{end}");
        }
    }
}
