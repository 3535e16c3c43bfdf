//! What only others can tell: the brokers, Redis and the sinks.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::clock::Clock;
use common::http_client::{ClientOptions, tls_config};
use common::kafka::admin::Admin;
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::{Reader, ownerless};
use common::topics::Topic;
use http::Uri;
use processor::config::{Sink, SinkKind};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Finding;
use crate::topics;

type Processor = processor::config::Config;

/// How long a broker, Redis or a sink may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// How far this clock may be from another.
const CLOCK_MS: u64 = 30_000;

pub(super) async fn check(
    ingest: Option<&ingest::Config>,
    processor: Option<&Processor>,
    clock: &Clock,
    findings: &mut Vec<Finding>,
) {
    if let Some(config) = ingest {
        let inbox = Topic::Inbox.name(&config.topics.prefix);
        match blocking(|| inbox_of(&config.kafka, &inbox, clock)) {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(unreached("ingest", &config.kafka, &error)),
        }
        redis(config, clock, findings).await;
    }
    if let Some(config) = processor {
        match topics::inspect(config).await {
            Ok(inspection) => {
                let finding = |make: fn(&'static str, String, String) -> Finding| {
                    move |finding: processor::topics::Finding| {
                        make("kafka", format!("topic {}: {}", finding.topic, finding.wrong), finding.remedy)
                    }
                };
                findings.extend(inspection.findings.into_iter().map(finding(Finding::wrong)));
                findings.extend(inspection.warnings.into_iter().map(finding(Finding::look)));
                findings.extend(blocking(|| owners(config)));
            }
            Err(error) => findings.push(unreached("the processor", &config.kafka, &error)),
        }
        for (name, sink) in config.sink.iter().filter(|(_, sink)| sink.kind == SinkKind::Http) {
            if let Err(error) = http(sink).await {
                findings.push(Finding::wrong(
                    "sink",
                    format!("sink.{name}.url {}: {error:#}", sink.url),
                    sink_remedy(name.as_str(), &error),
                ));
            }
        }
    }
}

fn blocking<T>(call: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(call)
}

fn unreached(who: &str, kafka: &KafkaConfig, error: &anyhow::Error) -> Finding {
    // What it is wrapped in says the same, less exactly.
    let text = error.root_cause().to_string();
    let remedy = if text.contains("Authentication") || text.contains("SASL") {
        "look at kafka.sasl: the brokers refuse this user or password"
    } else if text.contains("uthorization") {
        "give this user the rights in docs/kafka-security.md"
    } else if text.contains("SSL") || text.contains("certificate") {
        "look at kafka.tls: `ca` must be the authority of the brokers' certificates, and their names those in kafka.bootstrap"
    } else {
        "look whether the brokers run, whether kafka.bootstrap names them, and whether this machine may connect"
    };
    Finding::wrong("kafka", format!("{who} does not reach Kafka at {}: {text}", kafka.bootstrap), remedy)
}

/// The inbox as ingest sees it, and what the brokers' clock says: they stamp every record.
fn inbox_of(kafka: &KafkaConfig, inbox: &str, clock: &Clock) -> Result<Vec<Finding>> {
    let admin = Admin::new(kafka)?;
    admin.cluster()?;
    let Ok(partitions) = admin.leaders(inbox) else {
        return Ok(vec![Finding::wrong(
            "kafka",
            format!("topic {inbox} is missing, or this user may not see it"),
            "make it with `sealstream topics create`, or give this user Write on it",
        )]);
    };
    // Ingest may not read, and need not: then nothing is known of the clock.
    let newest = Reader::new(kafka).ok().and_then(|reader| {
        let times = (0..partitions.len())
            .filter_map(|partition| newest(&reader, inbox, i32::try_from(partition).ok()?).ok()?);
        times.max()
    });
    let ahead = newest.unwrap_or(0).saturating_sub(clock.unix_ms());
    Ok((ahead > CLOCK_MS).then(|| clock_finding("the brokers", ahead)).into_iter().collect())
}

fn newest(reader: &Reader, topic: &str, partition: i32) -> Result<Option<u64>> {
    let (low, end) = reader.watermarks(topic, partition)?;
    let mut time = None;
    reader.read(topic, partition, ((end - 1).max(low), end), |record| {
        time = Some(record.time_ms());
        ControlFlow::Break(())
    })?;
    Ok(time)
}

fn clock_finding(whose: &str, apart_ms: u64) -> Finding {
    Finding::wrong(
        "clock",
        format!("this machine's clock and that of {whose} are {} s apart", apart_ms / 1000),
        "let every machine keep time by NTP: requests are refused by their timestamps, and windows are measured by the brokers'",
    )
}

async fn redis(config: &ingest::Config, clock: &Clock, findings: &mut Vec<Finding>) {
    match ingest::shared_store_time(config).await {
        Ok(Some(time_ms)) if time_ms.abs_diff(clock.unix_ms()) > CLOCK_MS => {
            findings.push(clock_finding("Redis", time_ms.abs_diff(clock.unix_ms())));
        }
        Ok(_) => {}
        Err(error) => {
            let text = error.to_string();
            let remedy = if text.contains("WRONGPASS") || text.contains("NOAUTH") || text.contains("uthentication") {
                "look at rate.redis.username and rate.redis.password_file: Redis refuses them"
            } else if text.contains("NOPERM") {
                "let this user run SCRIPT LOAD, EVALSHA, TIME, GET and SET on keys that begin with rate.redis.prefix"
            } else {
                "look whether Redis runs at rate.redis.address, and whether TLS is meant; until then each node limits by itself"
            };
            findings.push(Finding::wrong("redis", format!("{}: {text}", config.rate.redis.address), remedy));
        }
    }
}

/// Partitions that no processor has, in groups that have members.
fn owners(config: &Processor) -> Vec<Finding> {
    let prefix = &config.topics.prefix;
    let partitions = i32::try_from(config.topics.partitions).expect("a checked configuration holds small numbers");
    let mut findings = Vec::new();
    for (group, topics) in config.groups() {
        for topic in topics.iter().map(|topic| topic.name(prefix)) {
            let group = group.name(prefix);
            if let Ok(Some(partitions)) = ownerless(&config.kafka, &group, &topic, partitions)
                && !partitions.is_empty()
            {
                findings.push(Finding::look(
                    "kafka",
                    format!("group {group}: nobody reads partitions {partitions:?} of {topic}"),
                    "look again in a minute: the processors share them out; if they stay, restart one processor",
                ));
            }
        }
    }
    findings
}

/// Connects to a sink, and speaks TLS with it where it is https. Sends nothing.
async fn http(sink: &Sink) -> Result<()> {
    let url: Uri = sink.url.parse()?;
    let host = url.host().context("names no host")?;
    let https = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
    let connecting = TcpStream::connect((host.trim_matches(['[', ']']), port));
    let Ok(stream) = timeout(DEADLINE, connecting).await else { bail!("no connection within {DEADLINE:?}") };
    let stream = stream?;
    if !https {
        return Ok(());
    }
    let extra_roots = sink.ca.if_set().map(common::tls::certificates).transpose()?.unwrap_or_default();
    let config = tls_config(&ClientOptions { extra_roots, pins: sink.pins.clone(), ..ClientOptions::default() })?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let shaking = TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream);
    let Ok(shaken) = timeout(DEADLINE, shaking).await else { bail!("no TLS handshake within {DEADLINE:?}") };
    shaken.context("TLS")?;
    Ok(())
}

fn sink_remedy(name: &str, error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    if text.contains("UnknownIssuer") {
        format!("name the authority of its certificate in sink.{name}.ca")
    } else if text.contains("NotValidForName") || text.contains("pinned") || text.contains("Expired") {
        format!(
            "the server has another certificate than sink.{name} expects: correct the url or the pins, or let its owner renew it"
        )
    } else {
        "look whether it runs, whether the url is right, and whether this machine may connect; its events wait in retry lanes meanwhile".to_owned()
    }
}
