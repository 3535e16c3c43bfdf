//! One signed request.

use bytes::Bytes;
use common::envelope::Format;
use common::secret::Secret;
use common::signature::{NONCE_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Timestamp, sign};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use open::SealedNative;

const OUR_USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("sealstream/", env!("CARGO_PKG_VERSION")));

/// A request ready to be sent: everything but the URL. The fields are open, so that one can be looked at or bent.
#[derive(Clone)]
pub struct Signed {
    /// The headers: content type, timestamp, signature, and for a native envelope the nonce.
    pub headers: HeaderMap,
    /// The body, whose exact bytes are signed.
    pub body: Bytes,
}

impl Signed {
    /// A native envelope with its three headers.
    pub fn native(secret: &Secret, timestamp: &Timestamp, sealed: SealedNative) -> Self {
        let mut signed = Self::new(secret, timestamp, Format::Native, sealed.body.into());
        let nonce = HeaderValue::try_from(sealed.nonce_text).expect("base64 is a header's text");
        signed.headers.insert(NONCE_HEADER, nonce);
        signed
    }

    /// A JWE with its two headers.
    pub fn jwe(secret: &Secret, timestamp: &Timestamp, token: String) -> Self {
        Self::new(secret, timestamp, Format::Jwe, token.into())
    }

    fn new(secret: &Secret, timestamp: &Timestamp, format: Format, body: Bytes) -> Self {
        let signature = HeaderValue::try_from(sign(secret, timestamp, &body)).expect("hex is a header's text");
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
            (USER_AGENT, OUR_USER_AGENT),
            (TIMESTAMP_HEADER, HeaderValue::from_str(timestamp.as_str()).expect("digits are a header's text")),
            (SIGNATURE_HEADER, signature),
        ]);
        Self { headers, body }
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signed({} bytes)", self.body.len())
    }
}
