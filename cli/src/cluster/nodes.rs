//! The nodes' internal listeners: what they count, and whether they are ready.
//!
//! A node that does not answer, or says what is no metrics, is shown as such: it is one of the things to be seen.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use common::clock::Clock;
use common::http_client::{ClientOptions, HttpsClient, Schemes};
use common::shutdown::Group;
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode, Uri};

use super::exposition::Samples;

/// Longest wait for a node's answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// Longest text of metrics that is read: some ten thousand series.
const METRICS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which nodes are looked at.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which nodes")]
#[group(skip)]
pub(crate) struct Args {
    /// The internal listener of an ingest or a processor, for example http://10.0.0.5:9100; may be given several times
    #[arg(long = "node", value_name = "URL")]
    nodes: Vec<Uri>,
    /// A file with such URLs, one a line; read again at each look
    #[arg(long = "nodes", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What a look at one node came to.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Its URL, as it was given.
    pub(crate) url: String,
    /// When, by the clock's monotonic time.
    pub(crate) at: Duration,
    /// What it said, or why it said nothing.
    pub(crate) answer: Result<Answer, String>,
}

/// What a node said.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The conditions of its readiness that do not hold; empty if it is ready.
    pub(crate) missing: Vec<String>,
    pub(crate) samples: Samples,
}

/// See the module.
pub(crate) struct Nodes {
    args: Args,
    client: HttpsClient,
    clock: Clock,
}

impl Nodes {
    /// Checks the URLs, and that the file can be read.
    pub(crate) fn new(args: &Args, clock: Clock) -> Result<Self> {
        let options = ClientOptions {
            schemes: Schemes::HttpToo,
            answer_bytes_max: METRICS_BYTES_MAX,
            ..ClientOptions::default()
        };
        let nodes = Self { args: args.clone(), client: HttpsClient::new(&options)?, clock };
        nodes.urls()?;
        Ok(nodes)
    }

    /// Asks every node, all at once.
    pub(crate) async fn look(&self) -> Vec<Look> {
        let urls = match self.urls() {
            Ok(urls) => urls,
            Err(error) => {
                let url = self.args.file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
                return vec![Look { url, at: self.clock.monotonic(), answer: Err(format!("{error:#}")) }];
            }
        };
        let group = Group::new();
        let asked: Vec<_> = urls
            .into_iter()
            .map(|url| {
                let (client, clock, asked) = (self.client.clone(), self.clock.clone(), url.clone());
                let answer = group.spawn("node", async move {
                    let answer = ask(&client, &asked).await.map_err(|error| super::sentence(&error));
                    (clock.monotonic(), answer)
                });
                (url.trim_end_matches('/').to_owned(), answer)
            })
            .collect();
        let mut looks = Vec::new();
        for (url, answer) in asked {
            let (at, answer) =
                answer.await.unwrap_or_else(|error| (self.clock.monotonic(), Err(format!("not asked: {error}"))));
            looks.push(Look { url, at, answer });
        }
        looks
    }

    /// The URLs that were given, and those in the file.
    fn urls(&self) -> Result<Vec<String>> {
        let mut urls: Vec<String> = self.args.nodes.iter().map(checked).collect::<Result<_>>()?;
        if let Some(path) = &self.args.file {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            let lines = text.lines().map(str::trim).enumerate();
            for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
                let url = line.parse().map_err(anyhow::Error::from).and_then(|url| checked(&url));
                urls.push(url.with_context(|| format!("{}, line {}", path.display(), at + 1))?);
            }
        }
        Ok(urls)
    }
}

/// A node's URL without a path.
fn checked(url: &Uri) -> Result<String> {
    let plain = matches!(url.scheme_str(), Some("http" | "https")) && matches!(url.path(), "" | "/" | "/metrics");
    match (url.scheme_str(), url.authority()) {
        (Some(scheme), Some(authority)) if plain && url.query().is_none() && !authority.as_str().contains('@') => {
            Ok(format!("{scheme}://{authority}"))
        }
        _ => bail!("a node is given as the URL of its internal listener, for example http://10.0.0.5:9100, not {url}"),
    }
}

async fn ask(client: &HttpsClient, url: &str) -> Result<Answer> {
    let get = async |path: &str| -> Result<http::Response<Bytes>> {
        let request = Request::get(format!("{url}{path}")).body(Bytes::new())?;
        Ok(client.exchange(request, DEADLINE).await?)
    };
    let metrics = get("/metrics").await?;
    if metrics.status() != StatusCode::OK {
        bail!("/metrics answers {}", metrics.status().as_u16());
    }
    let promised = metrics.headers().get(CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
    if promised.is_some_and(|bytes| bytes != metrics.body().len()) {
        bail!("/metrics is longer than is read, or broke off");
    }
    let text = std::str::from_utf8(metrics.body()).context("/metrics is no text")?;
    let samples = Samples::parse(text)?;
    let ready = get("/readyz").await?;
    Ok(Answer { missing: missing(ready.status(), ready.body()), samples })
}

/// The conditions that do not hold.
fn missing(status: StatusCode, body: &[u8]) -> Vec<String> {
    if status.is_success() {
        return Vec::new();
    }
    let conditions: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let conditions = conditions.as_object().into_iter().flatten();
    let names: Vec<_> = conditions.filter(|(_, holds)| **holds == false).map(|(name, _)| name.clone()).collect();
    if names.is_empty() { vec![format!("/readyz answers {}", status.as_u16())] } else { names }
}

#[cfg(test)]
mod tests {
    use common::admin::{self, Health};
    use common::telemetry::Metrics;

    use super::*;

    fn nodes(urls: &[&str], file: Option<PathBuf>) -> Result<Nodes> {
        let nodes = urls.iter().map(|url| url.parse().unwrap()).collect();
        Nodes::new(&Args { nodes, file }, Clock::system())
    }

    #[test]
    fn urls_are_of_internal_listeners() {
        for good in ["http://127.0.0.1:9100", "http://node:9100/", "https://node/metrics"] {
            assert!(nodes(&[good], None).is_ok(), "{good}");
        }
        for bad in ["ftp://node", "node:9100", "/metrics", "http://node/other", "http://node/?x", "http://a:b@node"] {
            assert!(nodes(&[bad], None).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_file_is_read_and_a_wrong_line_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes");
        std::fs::write(&path, "# ours\n\nhttp://one:9100\n  http://two:9100/  \n").unwrap();
        let found = nodes(&["http://zero:1"], Some(path.clone())).unwrap().urls().unwrap();
        assert_eq!(found, ["http://zero:1", "http://one:9100", "http://two:9100"]);
        std::fs::write(&path, "http://one:9100\nhttp://one/x\n").unwrap();
        let error = nodes(&[], Some(path)).err().unwrap();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_answers_is_read_and_what_does_not_is_told() {
        let (group, metrics, health) = (Group::new(), Metrics::isolated(), Health::new());
        let counter = metrics.scope(|| metrics::counter!("ingest_requests_total", "outcome" => "received"));
        counter.increment(3);
        // More than an ordinary answer that is kept.
        for number in 0..1000 {
            metrics.scope(|| metrics::counter!("filler_total", "number" => format!("{number:020}"))).increment(1);
        }
        health.set("kafka", false);
        health.set("tls", true);
        let address = admin::serve(&group, "127.0.0.1:0".parse().unwrap(), metrics, health.clone()).await.unwrap();
        let looked = nodes(&[&format!("http://{address}"), "http://127.0.0.1:1"], None).unwrap().look().await;
        let answer = looked[0].answer.as_ref().unwrap();
        assert_eq!(answer.missing, ["kafka"]);
        assert_eq!(answer.samples.sum("ingest_requests_total", &[]), 3.0);
        assert_eq!(answer.samples.sum("filler_total", &[]), 1000.0);
        assert!(looked[1].answer.as_ref().unwrap_err().contains("no connection"), "{looked:?}");
        health.set("kafka", true);
        let looked = nodes(&[&format!("http://{address}")], None).unwrap().look().await;
        assert!(looked[0].answer.as_ref().unwrap().missing.is_empty());
        group.cancel();
    }
}
