//! The one TLS set-up of both ends: provider, versions, cipher suites, and the server's configuration from PEM files.
//!
//! The crypto provider is aws-lc-rs, handed to every configuration explicitly, never installed as the process's default.
//! TLS 1.2 and 1.3 with ECDHE key exchange and AEAD ciphers only; no early data, since it can be replayed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

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
    /// A certificate of an authority cannot be used.
    #[error("the authorities in {} cannot be used: {cause}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        #[source]
        cause: rustls::Error,
    },
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
    let chain = certificates(certificate)?;
    let pem = |cause| TlsError::Pem { path: key.into(), item: "private key", cause };
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(pem)?;
    let unusable = |cause| TlsError::Unusable { certificate: certificate.into(), key: key.into(), cause };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP11.to_vec()];
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A client's configuration that trusts the authorities in a PEM file, or the system's where no file is named.
pub fn client_config(ca: &ConfigPath) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    let path = ca.as_path();
    let unusable = |cause| TlsError::Authorities { path: path.into(), cause };
    if ca.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(unusable)?;
        }
    }
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS).map_err(unusable)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
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
    fn every_cipher_suite_is_ephemeral_and_authenticated() {
        for suite in &provider().cipher_suites {
            let name = format!("{:?}", suite.suite());
            assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
            assert!(name.contains("_GCM_") || name.contains("_POLY1305_"), "{name}");
        }
    }
}
