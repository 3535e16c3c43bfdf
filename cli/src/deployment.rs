//! What a deployment consists of, as files. Each party has a directory of its own and needs no other:
//!
//! ```text
//! ingest/     ingest.toml     secrets/{edge-1.key, <source>.hmac.s1}                          tls/{server.pem, server.key}
//! processor/  processor.toml  secrets/{edge-1.key, core-1.key, id-1.key, <source>.k1.key, sink-main.whsec}
//! sender/     sender.toml     secrets/{<source>.hmac.s1, <source>.k1.key}                     tls/ca.pem
//! sink/                       secrets/sink-main.whsec             with an HTTP sink only
//! ca/         ca.pem, ca.key                                      to issue further certificates; nothing that runs needs it
//! ```
//!
//! So what opens an envelope is never in `ingest/`. A source that is added later has a `sender-<source>/` of its own.

use std::path::Path;

use anyhow::Result;
use common::clock::Clock;
use common::id::SourceId;
use http::Uri;

use crate::authority;
use crate::files::{NewFile, random_key, random_text, random_whsec};

/// Ingest's configuration, below a deployment's directory.
pub const INGEST: &str = "ingest/ingest.toml";
/// The processor's.
pub const PROCESSOR: &str = "processor/processor.toml";
/// The first source's sender's.
pub const SENDER: &str = "sender/sender.toml";
/// The secret of the HTTP sink `main`, for its receiver.
pub const SINK_SECRET: &str = "sink/secrets/sink-main.whsec";
/// The certificate of the development CA, below a sender's directory.
pub const CA: &str = "tls/ca.pem";

/// The path that every source has unless it has another: ingest's default.
pub const DEFAULT_PATH: &str = "/webhook";

/// What a deployment is to be like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its first source.
    pub source: SourceId,
    /// Where that source's senders reach ingest.
    pub url: Uri,
    /// Names and addresses that the server certificate is for.
    pub hosts: Vec<String>,
    /// Kafka's bootstrap servers.
    pub kafka: String,
    /// One broker will do.
    pub danger_single_broker: bool,
    /// Where the sink `main` delivers to.
    pub sink: MainSink,
    /// An output topic, for a second sink `out`.
    pub output_topic: Option<String>,
}

/// The sink `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MainSink {
    /// JSON lines in a file beside the processor's data.
    File,
    /// POST.
    Http(Uri),
}

/// A source's secrets, and the files of those who need them.
pub(crate) struct SourceSecrets {
    hmac: String,
    key: String,
}

impl SourceSecrets {
    /// New ones.
    pub(crate) fn random() -> Result<Self> {
        Ok(Self { hmac: random_text()?, key: random_key()? })
    }

    /// For ingest, which checks signatures and opens nothing.
    pub(crate) fn for_ingest(&self, source: &SourceId) -> NewFile {
        NewFile::new(format!("ingest/{}", hmac_file(source)), &*self.hmac)
    }

    /// For the processor, which opens envelopes.
    pub(crate) fn for_processor(&self, source: &SourceId) -> NewFile {
        NewFile::new(format!("processor/{}", key_file(source)), &*self.key)
    }

    /// Everything a sender needs: its configuration, both secrets, and whom to trust.
    pub(crate) fn for_sender(&self, dir: &str, source: &SourceId, url: &Uri, ca: Option<&str>) -> Vec<NewFile> {
        let mut files = vec![
            NewFile::new(format!("{dir}/{}", hmac_file(source)), &*self.hmac),
            NewFile::new(format!("{dir}/{}", key_file(source)), &*self.key),
        ];
        files.extend(ca.map(|ca| NewFile::new(format!("{dir}/{CA}"), ca)));
        files.push(NewFile::new(format!("{dir}/sender.toml"), sender_toml(source, url, ca.is_some())));
        files
    }
}

/// The secret that ingest and a source's senders share, below either's directory.
pub(crate) fn hmac_file(source: &SourceId) -> String {
    format!("secrets/{source}.hmac.s1")
}

/// The key that the processor and a source's senders share, below either's directory.
pub(crate) fn key_file(source: &SourceId) -> String {
    format!("secrets/{source}.k1.key")
}

/// Every file of a new deployment, the configurations last: a deployment that has them is complete.
pub(crate) fn files(options: &Options, clock: &Clock) -> Result<Vec<NewFile>> {
    let Options { source, url, .. } = options;
    let certificates = authority::issue(&options.hosts, clock)?;
    let secrets = SourceSecrets::random()?;
    let edge_key = random_key()?;

    let mut files = vec![
        NewFile::new("ca/ca.key", certificates.ca_key),
        NewFile::new("ca/ca.pem", &*certificates.ca),
        NewFile::new("ingest/tls/server.key", certificates.server_key),
        NewFile::new("ingest/tls/server.pem", certificates.server),
        NewFile::new("ingest/secrets/edge-1.key", &*edge_key),
        secrets.for_ingest(source),
        NewFile::new("processor/secrets/edge-1.key", edge_key),
        NewFile::new("processor/secrets/core-1.key", random_key()?),
        NewFile::new("processor/secrets/id-1.key", random_key()?),
        secrets.for_processor(source),
    ];
    if let MainSink::Http(_) = options.sink {
        let whsec = random_whsec()?;
        files.push(NewFile::new("processor/secrets/sink-main.whsec", &*whsec));
        files.push(NewFile::new(SINK_SECRET, whsec));
    }
    files.extend(secrets.for_sender("sender", source, url, Some(&certificates.ca)));
    files.push(NewFile::new(PROCESSOR, processor_toml(options)));
    files.push(NewFile::new(INGEST, ingest_toml(options)));
    Ok(files)
}

/// Writes a new deployment. The configurations are [`INGEST`], [`PROCESSOR`] and [`SENDER`].
///
/// # Errors
/// When one of its files is there already: nothing is ever overwritten.
pub fn write(dir: &Path, options: &Options, clock: &Clock) -> Result<()> {
    crate::files::write_new(dir, &files(options, clock)?)
}

/// A text as TOML has it.
pub(crate) fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// `[kafka]`, unless it is the default.
fn kafka_table(bootstrap: &str) -> String {
    const DEFAULT: &str = "127.0.0.1:9092";
    if bootstrap == DEFAULT { String::new() } else { format!("[kafka]\nbootstrap = {}\n\n", quoted(bootstrap)) }
}

fn ingest_toml(options: &Options) -> String {
    let Options { source, url, kafka, .. } = options;
    let path = match url.path() {
        "" | "/" | DEFAULT_PATH => String::new(),
        path => format!("path = {}\n", quoted(path)),
    };
    format!(
        "\
# Ingest: what differs from its defaults. `ingest.default.toml` explains every key. Paths start at this file.

[listen]
certificate = \"tls/server.pem\"   # by the development CA of this deployment
key = \"tls/server.key\"

{kafka}[pipeline]
edge_key = {{ id = \"edge-1\", file = \"secrets/edge-1.key\" }}   # the processor has it in its edge_keys

# `sealstream source add` makes further sources.
[source.{source}]
{path}secrets = [{{ id = \"s1\", file = \"{hmac}\" }}]
",
        kafka = kafka_table(kafka),
        hmac = hmac_file(source),
    )
}

fn processor_toml(options: &Options) -> String {
    let Options { source, kafka, sink, output_topic, .. } = options;
    let topics = if options.danger_single_broker {
        "[topics]\ndanger_single_broker = true   # an acknowledged event is on one disk only\n\n"
    } else {
        ""
    };
    let sinks = if output_topic.is_some() { "sinks = [\"main\", \"out\"]\n" } else { "" };
    let main = match sink {
        MainSink::File => "\
# Events as JSON lines. kind = \"http\" posts them: it needs url and secret.
[sink.main]
kind = \"file\"
path = \"data/events.jsonl\"
"
        .to_owned(),
        MainSink::Http(url) => {
            let plain = url.scheme_str() == Some("http");
            let danger =
                if plain { "danger_plain_http = true   # events cross this network in the clear\n" } else { "" };
            format!(
                "\
# POST, signed as Standard Webhooks: the receiver checks with the same secret.
[sink.main]
url = {}
{danger}secret = \"secrets/sink-main.whsec\"
",
                quoted(&url.to_string())
            )
        }
    };
    let out = output_topic.as_ref().map_or_else(String::new, |topic| {
        format!(
            "
# CloudEvents on a topic of the same cluster. Plain text, by choice.
[sink.out]
kind = \"kafka\"
topic = {}
",
            quoted(topic)
        )
    });
    format!(
        "\
# The processor: what differs from its defaults. `processor.default.toml` explains every key. Paths start at this file.

{kafka}{topics}[pipeline]
edge_keys = [{{ id = \"edge-1\", file = \"secrets/edge-1.key\" }}]   # the same as ingest's
core_keys = [{{ id = \"core-1\", file = \"secrets/core-1.key\" }}]
id_keys = [{{ id = \"id-1\", file = \"secrets/id-1.key\" }}]

# `sealstream source add` makes further sources.
[source.{source}]
keys = [{{ id = \"k1\", file = \"{key}\" }}]
{sinks}
{main}{out}",
        kafka = kafka_table(kafka),
        key = key_file(source),
    )
}

fn sender_toml(source: &SourceId, url: &Uri, ca: bool) -> String {
    let ca = if ca {
        format!("ca = \"{CA}\"   # the development CA; remove it for a certificate of a public authority\n")
    } else {
        String::new()
    };
    format!(
        "\
# What `sealstream send` needs to send as {source}. A sender in another language needs the same things.
url = {url}
source = \"{source}\"
secret = \"{hmac}\"                    # signs: HMAC-SHA256 with the file's text as it is
key = {{ id = \"k1\", file = \"{key}\" }}   # seals: AES-256-GCM with these 32 bytes
{ca}",
        url = quoted(&url.to_string()),
        hmac = hmac_file(source),
        key = key_file(source),
    )
}
