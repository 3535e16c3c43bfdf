//! `sealstream init`: a working configuration, keys and a development CA for a new deployment.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use common::clock::Clock;
use common::id::SourceId;
use http::Uri;

use crate::deployment::{self, DEFAULT_PATH, INGEST, MainSink, Options, PROCESSOR, SENDER};
use crate::{Verdict, files, say};

/// Options of `init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the deployment; made if it is not there
    dir: PathBuf,
    /// Name of the first source
    #[arg(long, default_value = "acme")]
    source: SourceId,
    /// Names and addresses that senders know ingest by, for its certificate; may be repeated
    #[arg(long, value_name = "HOST", value_delimiter = ',', default_value = "localhost")]
    host: Vec<String>,
    /// Where senders reach the source; its path becomes the source's [default: https://HOST:8443/webhook]
    #[arg(long)]
    url: Option<Uri>,
    /// Where events are delivered to, by HTTP [default: a file of JSON lines]
    #[arg(long, value_name = "URL")]
    sink_url: Option<Uri>,
    /// Deliver events to this Kafka topic too, as plain text
    #[arg(long, value_name = "TOPIC")]
    output_topic: Option<String>,
    /// Kafka's bootstrap servers
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    kafka: String,
    /// One broker will do: an acknowledged event is on one disk only
    #[arg(long)]
    danger_single_broker: bool,
    /// Do nothing if there is a deployment already
    #[arg(long)]
    if_missing: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `init`.
pub fn run(args: &Args) -> Result<Verdict> {
    let made = if args.if_missing && is_there(&args.dir)? {
        false
    } else {
        let options = options(args)?;
        deployment::write(&args.dir, &options, &Clock::system())?;
        true
    };
    if args.json {
        say::json(&serde_json::json!({
            "made": made,
            "ingest": args.dir.join(INGEST),
            "processor": args.dir.join(PROCESSOR),
            "sender": args.dir.join(SENDER),
        }));
    } else if made {
        tell_what_next(args);
    } else {
        say::line(format_args!("{} holds a deployment already: nothing was changed", args.dir.display()));
    }
    Ok(Verdict::Good)
}

/// Whether there is a whole deployment. Half of one is an error: an interrupted run, or somebody else's files.
fn is_there(dir: &Path) -> Result<bool> {
    let (there, missing): (Vec<_>, Vec<_>) =
        [INGEST, PROCESSOR, SENDER].map(Path::new).into_iter().partition(|file| dir.join(file).exists());
    match (there.is_empty(), missing.is_empty()) {
        (true, _) => Ok(false),
        (false, true) => Ok(true),
        (false, false) => bail!(
            "{} holds a part of a deployment: {} is there, {} is missing. Remove the rest, or choose another directory",
            dir.display(),
            files::list(&there),
            files::list(&missing),
        ),
    }
}

fn options(args: &Args) -> Result<Options> {
    let first = args.host.first().context("at least one --host is needed")?;
    let url = match &args.url {
        Some(url) => url.clone(),
        None => {
            let host = if first.contains(':') { format!("[{first}]") } else { first.clone() };
            format!("https://{host}:8443{DEFAULT_PATH}").parse().with_context(|| format!("the host {first:?}"))?
        }
    };
    if url.scheme_str() != Some("https") || url.host().is_none() {
        bail!("--url {url}: ingest speaks https://HOST[:PORT]/PATH");
    }
    if url.query().is_some() {
        bail!("--url {url}: a source's path has no query");
    }
    if args.source.as_str() == "default" {
        bail!("--source default: [source.default] is what every source inherits; take another name");
    }
    let sink = match &args.sink_url {
        None => MainSink::File,
        Some(url) if matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() => {
            MainSink::Http(url.clone())
        }
        Some(url) => bail!("--sink-url {url}: a sink has an https:// or http:// URL"),
    };
    Ok(Options {
        source: args.source.clone(),
        url,
        hosts: args.host.clone(),
        kafka: args.kafka.clone(),
        danger_single_broker: args.danger_single_broker,
        sink,
        output_topic: args.output_topic.clone(),
    })
}

fn tell_what_next(args: &Args) {
    let paint = say::Paint::for_stdout();
    let dir = args.dir.display();
    let outputs = if args.output_topic.is_some() { " --outputs" } else { "" };
    say::line(format_args!(
        "\
{made} {dir}: ingest/, processor/, sender/{sink} and ca/, each with all that its party needs and no more.
Everything in it is secret but ca/ca.pem; keep ca/ca.key away from what runs.

{next}
  sealstream topics create --config {dir}/{PROCESSOR}{outputs}
  processor --config {dir}/{PROCESSOR}
  ingest --config {dir}/{INGEST}
  sealstream send --config {dir}/{SENDER} --data '{{\"id\":\"evt_1\",\"type\":\"hello\"}}'",
        made = paint.good("Made"),
        sink = if args.sink_url.is_some() { ", sink/" } else { "" },
        next = paint.strong("What next:"),
    ));
    if args.sink_url.as_ref().and_then(Uri::scheme_str) == Some("http") {
        say::note(
            "note: the sink has an http:// URL, so events cross the network to it in the clear (danger_plain_http)",
        );
    }
}

#[cfg(test)]
mod tests;
