//! For whom an HTTP proxy in front of ingest speaks: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds the address it was called from at the right end. So the list is read from there, and only as long as
//! whoever wrote the entry is trusted: the first address that is not a trusted proxy's is the client's. What an untrusted
//! peer sends is never looked at.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::config::{Forwarded, ForwardedHeader};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Forwarded {
    /// The client behind `peer`. Without a trusted network, that is always the peer.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let mut hops = self.hops(headers);
        while trusts(&self.trusted, client) {
            // Without an address, the last proxy that has one is the client.
            let Some(hop) = hops.next().flatten() else { break };
            client = hop;
        }
        client
    }

    /// The addresses of the list, from its right end.
    fn hops<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = Option<IpAddr>> + use<'h> {
        let header = self.header;
        let name = match header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => FORWARDED,
        };
        let lines = headers.get_all(name).iter().rev();
        let entries = lines.flat_map(|line| rsplit(line.as_bytes(), b','));
        entries.map(move |entry| match header {
            ForwardedHeader::XForwardedFor => address(entry),
            ForwardedHeader::Forwarded => forwarded_for(entry),
        })
    }
}

/// Splits a list from its right end, but not where it is quoted: a proxy may quote what its client says. Whatever stands to the
/// left of a well-formed entry does not change how that one is read.
fn rsplit(list: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(list);
    std::iter::from_fn(move || {
        let list = left?;
        let mut quoted = false;
        let separates = |&at: &usize| {
            quoted ^= list[at] == b'"' && !is_escaped(&list[..at]);
            !quoted && list[at] == separator
        };
        let (rest, entry) = match (0..list.len()).rev().find(separates) {
            Some(at) => (Some(&list[..at]), &list[at + 1..]),
            None => (None, list),
        };
        left = rest;
        Some(entry)
    })
}

/// Whether what follows these bytes in a quoted string stands for itself.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Whether an address belongs to one of these networks.
pub(crate) fn trusts(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// The address in one element of `Forwarded`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    // Another parameter may be no text.
    let texts = rsplit(element, b';').flat_map(std::str::from_utf8);
    let mut pairs = texts.filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let node = node.trim();
    address(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node).as_bytes())
}

/// An address, with or without brackets and port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.as_ref().map(IpAddr::to_canonical)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check<V: AsRef<[u8]>>(header: ForwardedHeader, peer: &str, lines: &[(&'static str, V)], expect: &str) {
        let trusted = ["10.0.0.0/8", "2001:db8:ff::/48"].map(|network| network.parse().unwrap()).to_vec();
        let forwarded = Forwarded { trusted, header };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_ref()).unwrap());
        }
        assert_eq!(forwarded.client(peer.parse().unwrap(), &headers).to_string(), expect, "{peer} {headers:?}");
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_clients() {
        let check =
            |peer, list, expect| check(ForwardedHeader::XForwardedFor, peer, &[("x-forwarded-for", list)], expect);
        check("10.0.0.1", "192.0.2.7", "192.0.2.7");
        check("::ffff:10.0.0.1", "192.0.2.7", "192.0.2.7");
        check("10.0.0.1", "198.51.100.1, 192.0.2.7", "192.0.2.7");
        check("10.0.0.1", "198.51.100.1, 192.0.2.7, 10.2.3.4", "192.0.2.7");
        check("10.0.0.1", "198.51.100.1,192.0.2.7 ,2001:db8:ff::1,10.2.3.4", "192.0.2.7");
        check("10.0.0.1", "192.0.2.7:4711", "192.0.2.7");
        check("10.0.0.1", "2001:db8::7", "2001:db8::7");
        check("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7");
        check("10.0.0.1", "[2001:db8::7]", "2001:db8::7");
        check("10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7");
        check("10.0.0.1", "10.2.3.4, 10.2.3.5", "10.2.3.4");
    }

    #[test]
    fn from_others_it_is_never_believed() {
        let check =
            |peer, list, expect| check(ForwardedHeader::XForwardedFor, peer, &[("x-forwarded-for", list)], expect);
        check("192.0.2.9", "198.51.100.1", "192.0.2.9");
        check("192.0.2.9", "10.0.0.1", "192.0.2.9");
        let off = Forwarded { trusted: Vec::new(), header: ForwardedHeader::XForwardedFor };
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, HeaderValue::from_static("198.51.100.1"))]);
        assert_eq!(off.client("10.0.0.1".parse().unwrap(), &headers).to_string(), "10.0.0.1");
    }

    #[test]
    fn where_no_address_stands_the_last_proxy_counts() {
        for list in
            ["", "unknown", "198.51.100.1, unknown", "198.51.100.1, _hidden", "198.51.100.1,", "1.2.3.4.5", "a\u{e9}"]
        {
            check(ForwardedHeader::XForwardedFor, "10.0.0.1", &[("x-forwarded-for", list)], "10.0.0.1");
        }
        check(ForwardedHeader::XForwardedFor, "10.0.0.1", &[("x-forwarded-for", "unknown, 10.2.3.4")], "10.2.3.4");
        check(ForwardedHeader::XForwardedFor, "10.0.0.1", &[("x-forwarded-for", b"192.0.2.7\xff")], "10.0.0.1");
        check::<&str>(ForwardedHeader::XForwardedFor, "10.0.0.1", &[], "10.0.0.1");
    }

    #[test]
    fn several_lines_are_one_list_and_the_other_header_is_not_looked_at() {
        let lines = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "192.0.2.7, 10.2.3.4")];
        check(ForwardedHeader::XForwardedFor, "10.0.0.1", &lines, "192.0.2.7");
        check(ForwardedHeader::XForwardedFor, "10.0.0.1", &[lines[1], lines[0]], "198.51.100.1");
        check(ForwardedHeader::Forwarded, "10.0.0.1", &lines, "10.0.0.1");
        check(ForwardedHeader::XForwardedFor, "10.0.0.1", &[("forwarded", "for=192.0.2.7")], "10.0.0.1");
    }

    #[test]
    fn forwarded_has_a_grammar_of_its_own() {
        let check = |list, expect| check(ForwardedHeader::Forwarded, "10.0.0.1", &[("forwarded", list)], expect);
        check("for=192.0.2.7", "192.0.2.7");
        check("For=192.0.2.7;proto=https;by=203.0.113.43", "192.0.2.7");
        check("proto=https; for=\"192.0.2.7:4711\"", "192.0.2.7");
        check("for=198.51.100.1, for=\"[2001:db8::7]:4711\";proto=http, for=10.1.1.1", "2001:db8::7");
        check("for=198.51.100.1, proto=https", "10.0.0.1");
        check("for=198.51.100.1, for=unknown", "10.0.0.1");
        check("for=198.51.100.1, for=\"192.0.2.7", "10.0.0.1");
        check("192.0.2.7", "10.0.0.1");
    }

    #[test]
    fn what_is_quoted_is_neither_an_element_nor_a_parameter() {
        let check = |list: &str, expect| check(ForwardedHeader::Forwarded, "10.0.0.1", &[("forwarded", list)], expect);
        // A proxy may quote what its client says: a name of a host may have these characters.
        check("for=192.0.2.7;host=\"a,for=198.51.100.1;x=\";proto=https", "192.0.2.7");
        check("for=192.0.2.7;host=\"a;for=198.51.100.1\"", "192.0.2.7");
        check("host=\"a;for=198.51.100.1;x=\";for=192.0.2.7", "192.0.2.7");
        check("for=192.0.2.7;host=\"a\\\",for=198.51.100.1;x=\\\"\"", "192.0.2.7");
        check("host=\"a\\\\\";for=192.0.2.7;by=\"\"", "192.0.2.7");
        let no_text = [("forwarded", b"for=192.0.2.7;host=\"\xff\"")];
        super::tests::check(ForwardedHeader::Forwarded, "10.0.0.1", &no_text, "192.0.2.7");
        // What the client itself wrote, to the left, cannot swallow what was added.
        for begun in ["for=\"", "for=\"\\", "host=\"a,for=\\\"", "\"\"\"", "\\"] {
            for added in ["for=192.0.2.7", "for=\"192.0.2.7:1\";host=\"b\", for=10.2.3.4"] {
                check(&format!("{begun}, {added}"), "192.0.2.7");
            }
        }
    }
}
