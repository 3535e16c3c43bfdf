//! What every request must say of itself, and what every answer says to the browser.
//!
//! The `Host` check stops a foreign page that has its own name point at this address; the `Origin` check stops one that posts
//! here. The content security policy lets the page run only its own files: what a record says can't become a script, and no
//! string can become markup (trusted types, with no policy).

use std::net::SocketAddr;

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// See the module.
pub(super) struct Guard {
    /// Names that a request may be for; `None` for any.
    names: Option<Vec<String>>,
    scheme: &'static str,
}

impl Guard {
    /// On the loopback only its own names are taken, and those that were given; elsewhere those that were given, if any were.
    pub(super) fn new(address: SocketAddr, hosts: &[String], is_tls: bool) -> Self {
        let own = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        let mut names: Vec<String> = hosts.iter().map(|name| name.to_lowercase()).collect();
        let any = !address.ip().is_loopback() && names.is_empty();
        names.extend(own);
        // IPv6 addresses stand in brackets.
        let with_port = address.to_string();
        names.extend(with_port.rsplit_once(':').map(|(name, _)| name.to_owned()));
        Self { names: (!any).then_some(names), scheme: if is_tls { "https" } else { "http" } }
    }

    /// Whether a request is for this page, by its only `Host`.
    pub(super) fn is_for_us(&self, headers: &HeaderMap) -> bool {
        let Some(host) = only(headers, &HOST) else { return false };
        let Some(names) = &self.names else { return true };
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let name = name.map_or(host, |(name, _)| name).to_lowercase();
        names.contains(&name)
    }

    /// Whether a request comes from a page of this host.
    pub(super) fn is_from_us(&self, headers: &HeaderMap) -> bool {
        match (only(headers, &HOST), only(headers, &ORIGIN)) {
            (Some(host), Some(origin)) => {
                origin.strip_prefix(self.scheme).and_then(|rest| rest.strip_prefix("://")) == Some(host)
            }
            _ => false,
        }
    }

    /// Adds what every answer says.
    pub(super) fn protect(&self, headers: &mut HeaderMap) {
        let fixed: [(HeaderName, &'static str); 7] = [
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (REFERRER_POLICY, "same-origin"),
            (CACHE_CONTROL, "no-store"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ];
        headers.extend(fixed.map(|(name, text)| (name, HeaderValue::from_static(text))));
        if self.scheme == "https" {
            headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
        }
    }
}

/// A header that is there once, and text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        (None, _) | (Some(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, hosts: &[&str], is_tls: bool) -> Guard {
        let hosts: Vec<_> = hosts.iter().map(|name| (*name).to_owned()).collect();
        Guard::new(address.parse().unwrap(), &hosts, is_tls)
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, text) in pairs {
            headers.append(name, text.parse().unwrap());
        }
        headers
    }

    #[test]
    fn on_the_loopback_a_foreign_name_is_refused_whatever_it_points_at() {
        let guard = guard("127.0.0.1:9180", &["Console.example"], false);
        let takes = |host: &str| guard.is_for_us(&headers(&[(HOST, host)]));
        for host in ["127.0.0.1:9180", "localhost:9180", "LOCALHOST", "[::1]:9180", "localhost:7777", "console.example"]
        {
            assert!(takes(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9180", "localhost.evil.example", "127.0.0.1.evil.example", "", ":9180"]
        {
            assert!(!takes(host), "{host}");
        }
        assert!(!guard.is_for_us(&HeaderMap::new()));
        assert!(!guard.is_for_us(&headers(&[(HOST, "localhost"), (HOST, "localhost")])), "twice");
    }

    #[test]
    fn elsewhere_any_name_is_taken_unless_some_were_given() {
        let takes =
            |hosts: &[&str], host: &str| guard("10.0.0.1:443", hosts, true).is_for_us(&headers(&[(HOST, host)]));
        assert!(takes(&[], "console.example") && takes(&["console.example"], "console.example:443"));
        assert!(!takes(&["console.example"], "other.example"));
        assert!(takes(&["console.example"], "10.0.0.1:443"), "its own address");
    }

    #[test]
    fn only_pages_of_this_host_and_scheme_may_post() {
        let from = |is_tls, origin: &[&str]| {
            let pairs: Vec<_> = origin.iter().map(|origin| (ORIGIN, *origin)).collect();
            let all = [&[(HOST, "localhost:9180")], &pairs[..]].concat();
            guard("127.0.0.1:9180", &[], is_tls).is_from_us(&headers(&all))
        };
        assert!(from(false, &["http://localhost:9180"]) && from(true, &["https://localhost:9180"]));
        let foreign =
            ["http://evil.example", "https://localhost:9180", "http://localhost", "http://localhost:91801", "null", ""];
        for origin in foreign {
            assert!(!from(false, &[origin]), "{origin}");
        }
        assert!(!from(false, &[]), "none");
        assert!(!from(false, &["http://localhost:9180", "http://localhost:9180"]), "twice");
    }

    #[test]
    fn every_answer_forbids_what_the_page_does_not_need() {
        let mut answer = HeaderMap::new();
        guard("127.0.0.1:9180", &[], false).protect(&mut answer);
        let policy = answer[CONTENT_SECURITY_POLICY].to_str().unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self';",
            "style-src 'self';",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{part}");
        }
        assert!(
            !policy.contains("unsafe")
                && !policy.contains("http:")
                && !policy.contains('*')
                && !policy.contains("data:")
        );
        assert_eq!(answer[CACHE_CONTROL], "no-store");
        assert_eq!(answer[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(!answer.contains_key(STRICT_TRANSPORT_SECURITY));
        guard("127.0.0.1:9180", &[], true).protect(&mut answer);
        assert!(answer.contains_key(STRICT_TRANSPORT_SECURITY));
    }
}
