//! An answer of ingest, as a test looks at it; and the little HTTP that the internal listener needs.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Response;
use http::header::RETRY_AFTER;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What ingest answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body's `code`, empty on success.
    pub code: String,
    /// The body's `status`, empty on refusal.
    pub says: String,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// The request's id.
    pub request_id: Option<String>,
}

impl Answer {
    /// Reads an answer.
    pub fn of(response: &Response<Bytes>) -> Self {
        let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let text = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
        let request_id =
            response.headers().get("x-request-id").and_then(|value| value.to_str().ok().map(str::to_owned));
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            status: response.status().as_u16(),
            code: text("code"),
            says: text("status"),
            retry_after_s: retry_after,
            request_id,
        }
    }

    /// Whether the event was accepted.
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }
}

/// `GET` from an internal listener: status and body.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of its head")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("the answer has no status")?;
    Ok((status, body.to_owned()))
}

/// Sum of the series of a metric that carry these labels, from the text of `/metrics`.
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let value = |line: &str| -> Option<f64> {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, carried) = series.split_once('{').unwrap_or((series, "}"));
        let carried = format!(",{},", carried.strip_suffix('}')?);
        let all = labels.iter().all(|(key, value)| carried.contains(&format!(",{key}=\"{value}\",")));
        if found == name && all { value.parse().ok() } else { None }
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_matching_series() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"4\"} 5\na_b{x=\"1\"} 100\nc 7\n";
        assert_eq!(metric(text, "a", &[("x", "1")]), 8.0);
        assert_eq!(metric(text, "a", &[("y", "4"), ("x", "1")]), 5.0);
        assert_eq!(metric(text, "a", &[("x", "2")]), 0.0);
        assert_eq!(metric(text, "c", &[]), 7.0);
    }
}
