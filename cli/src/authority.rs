//! A development certificate authority and the server certificate that it signs.
//!
//! For machines that a public authority does not certify: development, tests, closed networks. Whoever holds its key can
//! pose as any server to those who trust its certificate, so the key lies apart from everything that runs.

use std::time::Duration;

use anyhow::{Context, Result};
use common::clock::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Validity of the authority.
const AUTHORITY_DAYS: u32 = 3650;
/// Validity of a server certificate: the longest that common clients accept.
const SERVER_DAYS: u32 = 825;

/// Certificates and keys, PEM.
pub(crate) struct Certificates {
    /// The authority's certificate: what senders trust.
    pub(crate) ca: String,
    /// Its key.
    pub(crate) ca_key: String,
    /// The server's certificate.
    pub(crate) server: String,
    /// Its key.
    pub(crate) server_key: String,
}

/// Makes an authority, and a server certificate for these host names and addresses.
pub(crate) fn issue(hosts: &[String], clock: &Clock) -> Result<Certificates> {
    let mut authority = CertificateParams::default();
    valid_for(&mut authority, AUTHORITY_DAYS, clock);
    authority.distinguished_name.push(DnType::CommonName, "Sealstream development CA");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate().context("making a key")?;
    let ca = authority.self_signed(&ca_key).context("making the development CA")?;

    let mut server =
        CertificateParams::new(hosts).with_context(|| format!("a certificate for {}", hosts.join(", ")))?;
    valid_for(&mut server, SERVER_DAYS, clock);
    server.distinguished_name.push(DnType::CommonName, hosts.first().map_or("sealstream", String::as_str));
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Strict verifiers, such as Python's, want it.
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate().context("making a key")?;
    let issuer = Issuer::from_params(&authority, &ca_key);
    let certificate = server.signed_by(&server_key, &issuer).context("making the server certificate")?;
    Ok(Certificates {
        ca: ca.pem(),
        ca_key: ca_key.serialize_pem(),
        server: certificate.pem(),
        server_key: server_key.serialize_pem(),
    })
}

/// From a day ago, for clocks that differ.
fn valid_for(params: &mut CertificateParams, days: u32, clock: &Clock) {
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(clock.unix_s());
    params.not_before = now - DAY;
    params.not_after = now + DAY * days;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_use_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let made = issue(&["localhost".to_owned(), "127.0.0.1".to_owned()], &Clock::system()).unwrap();
        let path = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (certificate, key) = (path("server.pem", &made.server), path("server.key", &made.server_key));
        common::tls::server_config(&certificate, &key).unwrap();
        assert_eq!(common::tls::certificates(&path("ca.pem", &made.ca)).unwrap().len(), 1);
        // The authority's key is not the server's.
        assert!(common::tls::server_config(&certificate, &path("ca.key", &made.ca_key)).is_err());
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let error = issue(&["bücher.example".to_owned()], &Clock::system()).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("a certificate for bücher.example"));
    }
}
