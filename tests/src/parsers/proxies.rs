//! How what stands before ingest says for whom it speaks: the PROXY protocol of balancers, the headers of HTTP proxies.

use std::io::ErrorKind;
use std::net::IpAddr;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue};
use ingest::config::{Forwarded, ForwardedHeader};
use ingest::proxy_protocol::{Header, read};
use tokio::io::AsyncReadExt;

use super::{Judged, Target};

const SIGNATURE: &str = "\r\n\r\n\0\r\nQUIT\n";

pub(super) const PROXY_HEADER: Target = Target {
    name: "proxy_header",
    check: proxy_header,
    seeds: || {
        let seed = |command: u8, family: u8, len: u16, rest: &[u8]| {
            [SIGNATURE.as_bytes(), &[command, family], &len.to_be_bytes(), rest].concat()
        };
        let v4 = [192, 0, 2, 7, 203, 0, 113, 1, 0x30, 0x39, 0x20, 0xfb];
        let v6 = [&[0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0x30, 0x39, 0x20, 0xfb]].concat();
        let mapped = [&[0; 10][..], &[0xff, 0xff], &v4[..4], &[0; 20]].concat();
        let tlvs = [&v4[..], &[0xea, 0, 3, 1, 2, 3, 4, 0, 0]].concat();
        vec![
            seed(0x21, 0x11, 12, &v4),
            seed(0x21, 0x11, 12, &[&v4[..], b"\x16\x03\x01\x02\0\x01"].concat()),
            seed(0x21, 0x11, 21, &tlvs),
            seed(0x21, 0x21, 36, &v6),
            seed(0x21, 0x21, 36, &mapped),
            seed(0x20, 0x00, 0, &[]),
            seed(0x20, 0xff, 3, b"any"),
            seed(0x21, 0x00, 3, b"any"),
            seed(0x21, 0x11, 4096, &[7; 4096]),
            seed(0x21, 0x11, 4097, &[7; 4097]),
            seed(0x21, 0x21, 35, &v6),
            seed(0x21, 0x12, 12, &v4),
            seed(0x21, 0x31, 216, &[b'/'; 216]),
            seed(0x11, 0x11, 12, &v4),
            b"PROXY TCP4 192.0.2.7 203.0.113.1 12345 8443\r\n".to_vec(),
        ]
    },
    pieces: &[
        SIGNATURE,
        "\x21\x11",
        "\x21\x21",
        "\x20\0",
        "\x21\0",
        "\x11",
        "\x12",
        "\x31",
        "\0\0",
        "\0\x0c",
        "\0\x24",
        "\x10\0",
        "\x10\x01",
        "PROXY ",
        "\0\0\0\0\0\0\0\0\0\0",
    ],
};

/// What comes over a connection.
fn proxy_header(input: &[u8]) -> Judged {
    let told = told(input);
    let mut left = input;
    let header = read(&mut left).now_or_never().expect("all that comes is there");
    // However it is cut on its way.
    let (first, second) = input.split_at(input.last().map_or(0, |&at| usize::from(at) % input.len()));
    let again = read(&mut first.chain(second)).now_or_never().expect("all that comes is there");
    assert_eq!(again.ok().as_ref(), header.as_ref().ok());
    match (header, told) {
        (Ok(header), Ok((expected, len))) => {
            assert_eq!((header, left), (expected, &input[len..]));
            let short = read(&mut &input[..len - 1]).now_or_never().expect("all that comes is there");
            assert_eq!(short.map_err(|error| error.kind()), Err(ErrorKind::UnexpectedEof));
            Judged::Accepted
        }
        (Err(error), Err(expected)) => {
            assert_eq!(error.kind(), expected);
            Judged::Refused
        }
        (header, told) => panic!("{header:?} instead of {told:?}"),
    }
}

/// The header that bytes begin with, and its length. What is too short for one may become one.
fn told(bytes: &[u8]) -> Result<(Header, usize), ErrorKind> {
    let byte = |at: usize| bytes.get(at).copied().ok_or(ErrorKind::UnexpectedEof);
    let len = 16 + usize::from(byte(14)?) * 256 + usize::from(byte(15)?);
    // Version and command, family and transport; how long the addresses are.
    let addresses = match (byte(12)?, byte(13)?) {
        (b' ', _) | (b'!', 0) => 0,
        (b'!', 0x11) => 2 * (4 + 2),
        (b'!', b'!') => 2 * (16 + 2),
        _ => return Err(ErrorKind::InvalidData),
    };
    if !bytes.starts_with(SIGNATURE.as_bytes()) || len < 16 + addresses || len > 16 + 4096 {
        return Err(ErrorKind::InvalidData);
    }
    byte(len - 1)?;
    let decimal = |from: usize| format!("{}.{}.{}.{}", bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]);
    let text = match addresses {
        0 => return Ok((Header::Local, len)),
        12 => decimal(16),
        _ if bytes[16..26].iter().all(|&byte| byte == 0) && bytes[26..28] == [0xff, 0xff] => decimal(28),
        _ => {
            let groups: Vec<String> =
                bytes[16..32].chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect();
            groups.join(":")
        }
    };
    Ok((Header::Client(text.parse().expect("an address is written so")), len))
}

/// Who asks. It is trusted.
const PEER: &str = "10.0.0.1";

pub(super) const FORWARDED: Target = Target {
    name: "forwarded",
    check: forwarded,
    seeds: || {
        let texts = [
            "x192.0.2.7",
            "x198.51.100.1, 192.0.2.7,10.2.3.4",
            "x198.51.100.1\n192.0.2.7:4711, 10.2.3.4:1",
            "x[2001:db8::7]:4711",
            "x2001:db8::7, ::ffff:10.2.3.4",
            "xunknown, 10.2.3.4",
            "x",
            "x198.51.100.1, _hidden",
            "ffor=192.0.2.7",
            "fFor=\"[2001:db8::7]:4711\";proto=https;by=203.0.113.43",
            "ffor=198.51.100.1, for=192.0.2.7 ; by=_b, for=10.1.1.1",
            "ffor=192.0.2.7;host=\"a,for=198.51.100.1;x=\";proto=https",
            "ffor=192.0.2.7;host=\"a\\\",for=198.51.100.1;x=\\\"\"",
            "ffor=\"\\\nfor=192.0.2.7, for=10.1.1.1",
            "ffor=198.51.100.1, for=unknown",
            "fby=10.2.3.4",
        ];
        texts.map(|text| text.as_bytes().to_vec()).into()
    },
    pieces: &[
        ", ",
        ";",
        "for=",
        "For=",
        "by=",
        "\"",
        "\\",
        "\\\"",
        "[",
        "]",
        ":",
        ":80",
        ".",
        "10.2.3.4",
        "::ffff:10.2.3.4",
        "192.0.2.7",
        "2001:db8::7",
        "%3",
        "\n",
        " ",
        "\t",
        "unknown",
    ],
};

/// `x` or `f` for the header, and its lines.
fn forwarded(input: &[u8]) -> Judged {
    let Some((kind, rest)) = input.split_first() else { return Judged::Refused };
    let (header, name) = match kind {
        b'x' => (ForwardedHeader::XForwardedFor, "x-forwarded-for"),
        b'f' => (ForwardedHeader::Forwarded, "forwarded"),
        _ => return Judged::Refused,
    };
    let mut headers = HeaderMap::new();
    for line in rest.split(|&byte| byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { return Judged::Refused };
        headers.append(name, value);
    }
    let peer: IpAddr = PEER.parse().expect("an address");
    let trusted = vec!["10.0.0.0/8".parse().expect("a network")];
    let client = Forwarded { header, trusted }.client(peer, &headers);

    let lines: Vec<&[u8]> = rest.split(|&byte| byte == b'\n').collect();
    let entries = lines.into_iter().flat_map(|line| pieces(line, b','));
    let said: Vec<Option<IpAddr>> = entries
        .map(|entry| match header {
            ForwardedHeader::XForwardedFor => node(entry),
            ForwardedHeader::Forwarded => parameter(entry).and_then(node),
        })
        .collect();
    // All that trusted proxies wrote, up to whom the first of them was called by, if it says that.
    let is_proxy = |said: &Option<IpAddr>| said.is_some_and(|address| address.to_string().starts_with("10."));
    let proxies = said.iter().rev().take_while(|said| is_proxy(said)).count();
    let (others, proxies) = said.split_at(said.len() - proxies);
    let first = proxies.first().copied().flatten().unwrap_or(peer);
    assert_eq!(client, others.last().copied().flatten().unwrap_or(first));
    Judged::accepted_if(client != peer)
}

/// What stands between these separators, where they are not quoted, read from the right: there stands what is well formed.
fn pieces(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut found, mut quoted, mut end) = (Vec::new(), false, text.len());
    for at in (0..text.len()).rev() {
        let backslashes = text[..at].iter().rev().take_while(|&&byte| byte == b'\\').count();
        if text[at] == b'"' && backslashes.is_multiple_of(2) {
            quoted = !quoted;
        } else if text[at] == separator && !quoted {
            found.push(&text[at + 1..end]);
            end = at;
        }
    }
    found.push(&text[..end]);
    found.reverse();
    found
}

/// The value of the last parameter `for`, without its quotes.
fn parameter(element: &[u8]) -> Option<&[u8]> {
    let value = pieces(element, b';').into_iter().rev().find_map(|pair| {
        let text = std::str::from_utf8(pair).ok()?;
        let (name, value) = text.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    })?;
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    Some(inner.unwrap_or(value).as_bytes())
}

/// An address; with a port, brackets stand around one of IPv6. Mapped ones are those of IPv4.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let address: IpAddr = if let Some(rest) = text.strip_prefix('[') {
        let (inside, behind) = rest.split_once(']')?;
        match behind.strip_prefix(':') {
            None if behind.is_empty() => inside.parse().ok()?,
            Some(port) if is_port(port) => scoped(inside)?,
            Some(_) | None => return None,
        }
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        IpAddr::V4(address.parse().ok().filter(|_| is_port(port))?)
    };
    Some(match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    })
}

/// An address of IPv6, where a port follows also one with the number of a zone.
fn scoped(text: &str) -> Option<IpAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let is_zone = |zone: &str| zone.bytes().all(|byte| byte.is_ascii_digit()) && zone.parse::<u32>().is_ok();
    zone.is_none_or(is_zone).then_some(())?;
    Some(IpAddr::V6(address.parse().ok()?))
}
