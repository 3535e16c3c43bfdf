//! What a receiver's answer means.

use std::fmt;

use bytes::Bytes;
use common::http_client::CallError;
use http::{Response, StatusCode};
use serde::Deserialize;

/// Longest code or request id that is taken over from an answer, in bytes.
const WORD_LEN_MAX: usize = 64;

/// How an attempt failed.
#[derive(Debug)]
pub enum Failure {
    /// The receiver answered, and not with a success.
    Status {
        /// Its status.
        status: StatusCode,
        /// Its reason in one word, for example `signature_invalid`.
        code: Option<String>,
        /// Its name for the request, to ask about it.
        request_id: Option<String>,
    },
    /// There was no answer.
    NoAnswer(CallError),
}

impl Failure {
    /// Reads an answer that is no success.
    pub(crate) fn of(answer: &Response<Bytes>) -> Self {
        Self::Status { status: answer.status(), code: body(answer).code.and_then(word), request_id: request_id(answer) }
    }

    /// Whether another attempt may fare better: timeouts (408), too early (425), too many (429), the receiver's own
    /// trouble (5xx), and no answer at all, unless the receiver's key is not a pinned one.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Status { status, .. } => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
            // What was meant to be reached is not there, and nobody but the operators can change that.
            Self::NoAnswer(CallError::NotPinned(_)) => false,
            Self::NoAnswer(CallError::Connect(_) | CallError::Broken(_) | CallError::Timeout(_)) => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, code, request_id } => {
                write!(f, "{status}")?;
                if let Some(code) = code {
                    write!(f, " {code}")?;
                }
                match request_id {
                    Some(id) => write!(f, " (request {id})"),
                    None => Ok(()),
                }
            }
            Self::NoAnswer(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Status { .. } => None,
            Self::NoAnswer(error) => error.source(),
        }
    }
}

/// The receiver's name for a request: a header on every answer, and a member of a refusal.
pub(crate) fn request_id(answer: &Response<Bytes>) -> Option<String> {
    let header = answer.headers().get("x-request-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    header.or_else(|| body(answer).request_id).and_then(word)
}

#[derive(Default, Deserialize)]
struct Body {
    code: Option<String>,
    request_id: Option<String>,
}

fn body(answer: &Response<Bytes>) -> Body {
    serde_json::from_slice(answer.body()).unwrap_or_default()
}

/// Only a short plain word: it will be printed, and whoever answered chose it.
fn word(text: String) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    ((1..=WORD_LEN_MAX).contains(&text.len()) && text.bytes().all(plain)).then_some(text)
}
