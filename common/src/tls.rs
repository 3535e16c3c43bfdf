//! The one TLS set-up of both ends: provider, versions, cipher suites, and the server's configuration from PEM files.
//!
//! The crypto provider is aws-lc-rs, handed to every configuration explicitly, never installed as the process's default.
//! TLS 1.2 and 1.3 with ECDHE key exchange and AEAD ciphers only; no early data, since it can be replayed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::config::ConfigPath;

/// The versions that are spoken.
pub static VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// ALPN name of HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN name of HTTP/1.1.
pub const ALPN_HTTP11: &[u8] = b"http/1.1";

/// Why TLS could not be set up. The operator's fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file is missing, may not be read, or holds no item of the needed kind.
    #[error("{} holds no readable {item}: {cause}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for in it.
        item: &'static str,
        /// What the PEM reader said.
        #[source]
        cause: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not fit each other, or TLS refuses one of them.
    #[error("certificate {} with key {} cannot be used: {cause}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        #[source]
        cause: rustls::Error,
    },
    /// An authority's certificate is none that certificates can be checked against.
    #[error("an authority in {} cannot be used: {cause}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        #[source]
        cause: rustls::Error,
    },
    /// Clients' certificates can't be checked with these authorities and revocation lists.
    #[error("client certificates cannot be checked with {}: {cause}", ca.display())]
    Clients {
        /// The authorities' file.
        ca: PathBuf,
        /// What rustls said.
        #[source]
        cause: VerifierBuilderError,
    },
    /// A file holds something that is no X.509.
    #[error("{} holds something that is no {item}", path.display())]
    X509 {
        /// The file.
        path: PathBuf,
        /// What it should be.
        item: &'static str,
    },
}

/// Which clients may connect, by their certificates.
#[derive(Debug, Clone, Copy)]
pub struct Clients<'a> {
    /// PEM of the authorities that their certificates may come from.
    pub ca: &'a Path,
    /// PEM of those authorities' revocation lists. Every authority on the way to a certificate must have one in it.
    pub crl: Option<&'a Path>,
    /// Whether a client without a certificate is refused.
    pub required: bool,
}

/// The crypto provider, with its cipher suites listed one by one.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        })
    };
    PROVIDER.get_or_init(make).clone()
}

/// A server's configuration from a certificate chain and its key, both PEM files, offering HTTP/2 and HTTP/1.1 by ALPN.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    server_config_for(certificate, key, None)
}

/// The same for clients that have certificates. What is not resumed is checked anew, and a new configuration resumes
/// nothing of another.
pub fn server_config_for(
    certificate: &Path,
    key: &Path,
    clients: Option<Clients<'_>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let pem = |cause| TlsError::Pem { path: key.into(), item: "private key", cause };
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(pem)?;
    let unusable = |cause| TlsError::Unusable { certificate: certificate.into(), key: key.into(), cause };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .map_err(unusable)?
        .with_client_cert_verifier(clients.map_or_else(|| Ok(WebPkiClientVerifier::no_client_auth()), verifier)?)
        .with_single_cert(chain, private_key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP11.to_vec()];
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A client's configuration that trusts the authorities in a PEM file, or the system's where no file is named.
pub fn client_config(ca: &ConfigPath) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca.if_set() {
        Some(path) => authorities(path)?,
        None => system_roots(),
    };
    let unusable = |cause| TlsError::Authority { path: ca.as_path().into(), cause };
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS).map_err(unusable)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn verifier(clients: Clients<'_>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = authorities(clients.ca)?;
    let crls = clients.crl.map(revocation_lists).transpose()?.unwrap_or_default();
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).with_crls(crls);
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|cause| TlsError::Clients { ca: clients.ca.into(), cause })
}

/// The authorities that the system trusts.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "cannot read some of the system's root certificates");
    }
    roots.add_parsable_certificates(system.certs);
    roots
}

/// The authorities in a PEM file, at least one.
fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|cause| TlsError::Authority { path: path.into(), cause })?;
    }
    Ok(roots)
}

/// Every revocation list in a PEM file, at least one.
fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let pem = |cause| TlsError::Pem { path: path.into(), item: "revocation list", cause };
    let lists = CertificateRevocationListDer::pem_file_iter(path).map_err(pem)?;
    let lists: Vec<_> = lists.collect::<Result<_, _>>().map_err(pem)?;
    if lists.is_empty() {
        return Err(pem(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(lists)
}

/// When the first certificate of a PEM file ends, Unix seconds.
pub fn certificate_expiry(path: &Path) -> Result<u64, TlsError> {
    let wrong = || TlsError::X509 { path: path.into(), item: "certificate" };
    first(validities(path)?.into_iter().map(|(_, end)| end).collect()).ok_or_else(wrong)
}

/// From when on all certificates of a PEM file are valid, Unix seconds.
pub fn certificate_start(path: &Path) -> Result<u64, TlsError> {
    let start = validities(path)?.into_iter().map(|(start, _)| start).max();
    Ok(start.and_then(|start| u64::try_from(start).ok()).unwrap_or(0))
}

/// When each certificate of a PEM file begins and ends, Unix seconds.
fn validities(path: &Path) -> Result<Vec<(i64, i64)>, TlsError> {
    let validity = |der: CertificateDer<'static>| {
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| TlsError::X509 { path: path.into(), item: "certificate" })?;
        let validity = certificate.validity();
        Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
    };
    certificates(path)?.into_iter().map(validity).collect()
}

/// When the first revocation list of a PEM file should have been replaced, Unix seconds; `None` if none says.
pub fn revocation_expiry(path: &Path) -> Result<Option<u64>, TlsError> {
    let wrong = |_| TlsError::X509 { path: path.into(), item: "revocation list" };
    let mut ends = Vec::new();
    for der in revocation_lists(path)? {
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(wrong)?;
        ends.extend(list.next_update().map(|time| time.timestamp()));
    }
    Ok(first(ends))
}

/// The first of these times; what ended before 1970 ended then.
fn first(ends: Vec<i64>) -> Option<u64> {
    ends.into_iter().min().map(|end| u64::try_from(end).unwrap_or(0))
}

/// Every certificate in a PEM file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |cause| TlsError::Pem { path: path.into(), item: "certificate", cause };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if chain.is_empty() {
        return Err(pem(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A self-signed certificate and its key, as PEM.
    fn pair() -> (String, String) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_make_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let ((certificate_pem, key_pem), (_, other_key_pem)) = (pair(), pair());
        std::fs::write(&certificate, &certificate_pem).unwrap();
        std::fs::write(&key, &key_pem).unwrap();
        let config = server_config(&certificate, &key).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(config.max_early_data_size, 0);
        assert_eq!(config.crypto_provider().cipher_suites.len(), 9);

        std::fs::write(&key, other_key_pem).unwrap();
        assert!(
            matches!(server_config(&certificate, &key), Err(TlsError::Unusable { .. })),
            "another certificate's key"
        );
        std::fs::write(&key, certificate_pem).unwrap();
        assert!(matches!(server_config(&certificate, &key), Err(TlsError::Pem { item: "private key", .. })));
        std::fs::write(&certificate, "no PEM").unwrap();
        assert!(matches!(server_config(&certificate, &key), Err(TlsError::Pem { item: "certificate", .. })));
        assert!(matches!(certificates(&dir.path().join("absent")), Err(TlsError::Pem { .. })));
    }

    #[test]
    fn clients_are_checked_by_authorities_and_lists_that_are_some() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (certificate_pem, key_pem) = pair();
        std::fs::write(path("cert.pem"), &certificate_pem).unwrap();
        std::fs::write(path("key.pem"), key_pem).unwrap();
        std::fs::write(path("empty.pem"), "").unwrap();
        std::fs::write(path("crl.pem"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").unwrap();
        let with = |ca: &str, crl: Option<&str>| {
            let (ca, crl) = (path(ca), crl.map(path));
            let clients = Clients { ca: &ca, crl: crl.as_deref(), required: true };
            server_config_for(&path("cert.pem"), &path("key.pem"), Some(clients))
        };
        assert!(with("cert.pem", None).is_ok());
        assert!(matches!(with("key.pem", None), Err(TlsError::Pem { item: "certificate", .. })));
        assert!(matches!(with("empty.pem", None), Err(TlsError::Pem { item: "certificate", .. })));
        assert!(matches!(with("cert.pem", Some("cert.pem")), Err(TlsError::Pem { item: "revocation list", .. })));
        assert!(matches!(with("cert.pem", Some("crl.pem")), Err(TlsError::Clients { .. })));
    }

    #[test]
    fn the_first_end_of_a_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certs.pem");
        let ending = |year: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        std::fs::write(&path, ending(2040) + &ending(2030) + &ending(2050)).unwrap();
        assert_eq!(certificate_expiry(&path).unwrap(), 1_893_456_000);
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(certificate_expiry(&path), Err(TlsError::X509 { .. })));
        assert!(matches!(revocation_expiry(&path), Err(TlsError::Pem { .. })));
    }

    #[test]
    fn every_cipher_suite_is_ephemeral_and_authenticated() {
        for suite in &provider().cipher_suites {
            let name = format!("{:?}", suite.suite());
            assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
            assert!(name.contains("_GCM_") || name.contains("_POLY1305_"), "{name}");
        }
    }
}
