//! Verification of a server's certificate with pins: first as without them, then its key must be one of the pinned.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::pin::Pin;
use crate::tls;

/// See the module.
#[derive(Debug)]
pub(super) struct Pinned {
    verifier: Arc<WebPkiServerVerifier>,
    pins: Vec<Pin>,
}

/// A server whose certificate is valid, but for this key.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotPinned(pub(super) Pin);

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key {} is not pinned", self.0)
    }
}

impl std::error::Error for NotPinned {}

impl NotPinned {
    /// Finds it among an error's causes.
    pub(super) fn in_causes_of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) = error.downcast_ref() {
                return other.downcast_ref().copied();
            }
            // An I/O error does not show what it was made from as its cause.
            cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

impl Pinned {
    pub(super) fn new(roots: Arc<RootCertStore>, pins: Vec<Pin>) -> Result<Self, VerifierBuilderError> {
        Ok(Self { verifier: WebPkiServerVerifier::builder_with_provider(roots, tls::provider()).build()?, pins })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let pin = Pin::of(end_entity)?;
        if self.pins.contains(&pin) {
            return Ok(verified);
        }
        Err(CertificateError::Other(OtherError(Arc::new(NotPinned(pin)))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
