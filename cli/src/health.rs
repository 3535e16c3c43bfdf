//! `sealstream health`: whether a service is ready, for health checks in containers that have no other client.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use common::http_client::{ClientOptions, HttpsClient, Schemes};
use common::topics::Delay;
use http::{Request, Uri};

use crate::{Verdict, say};

/// Options of `health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask, for example http://127.0.0.1:9100/readyz
    url: Uri,
    /// Longest wait for the answer
    #[arg(long, default_value = "3s", value_name = "DURATION")]
    timeout: Delay,
    /// PEM file of authorities to trust besides the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Runs `health`: good if the answer is a success.
pub async fn run(args: &Args) -> Result<Verdict> {
    let Args { url, timeout, ca } = args;
    if url.host().is_none() || !matches!(url.scheme_str(), Some("http" | "https")) {
        bail!("{url} is no http:// or https:// URL");
    }
    let extra_roots = ca.as_deref().map(common::tls::certificates).transpose()?.unwrap_or_default();
    let client =
        HttpsClient::new(&ClientOptions { schemes: Schemes::HttpToo, extra_roots, ..ClientOptions::default() })?;
    let request = Request::get(url).body(Bytes::new())?;
    let answer =
        client.exchange(request, timeout.duration()).await.with_context(|| format!("{url} gives no answer"))?;
    // The conditions, if it is one of ours.
    let body = String::from_utf8_lossy(answer.body());
    let shown: String = body.chars().filter(|c| !c.is_control()).take(500).collect();
    say::line(format_args!("{} {shown}", answer.status().as_u16()));
    Ok(Verdict::good_if(answer.status().is_success()))
}
