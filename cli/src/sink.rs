//! `sealstream sink`: a sample receiver that prints what an HTTP sink delivers, one line of JSON for each delivery.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use common::clock::Clock;
use common::config::SecretFile;
use common::shutdown::Group;
use common::standard_webhooks::SigningKey;
use common::telemetry::{LogConfig, LogFormat, install_logging};
use data_encoding::BASE64;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

use crate::receiver::{Answer, Delivery, Judge, Receiver};
use crate::{Verdict, say};

/// How long connections may take to end.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Options of `sink`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// File with the sink's `whsec_…` secret: DIR/sink/secrets/sink-main.whsec
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,
    /// Answer the first N deliveries with 503, to see them come again
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail_first: u64,
    /// PEM file of a certificate: speak TLS
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

/// One delivery, printed.
#[derive(Serialize)]
struct Line<'a> {
    webhook_id: &'a str,
    repeat: bool,
    status: u16,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// Prints a delivery, with what it was answered.
pub(crate) fn print(delivery: &Delivery, answer: Answer) {
    say::line(json_line(delivery, answer));
}

fn json_line(delivery: &Delivery, answer: Answer) -> String {
    // A text of several lines would be no line of JSON.
    let data: Option<&RawValue> = serde_json::from_slice(&delivery.body).ok();
    let data = data.filter(|data| !data.get().contains(['\n', '\r']));
    let status = match answer {
        Answer::Taken => 200,
        Answer::NotNow => 503,
    };
    let line = Line {
        webhook_id: &delivery.webhook_id,
        repeat: delivery.repeat,
        status,
        content_type: &delivery.content_type,
        data,
        data_base64: data.is_none().then(|| BASE64.encode(&delivery.body)),
    };
    serde_json::to_string(&line).expect("texts, numbers and JSON that was parsed")
}

/// Runs `sink` until the process is asked to end.
pub async fn run(args: &Args) -> Result<Verdict> {
    install_logging(&LogConfig { format: LogFormat::Human, level: "warn".to_owned() });
    let secret = SecretFile::new(&args.secret).load()?;
    let key = SigningKey::parse(&secret).with_context(|| args.secret.display().to_string())?;
    let tls = match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => Some(common::tls::server_config(certificate, key)?),
        _ => None,
    };
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    say::note(format_args!("sealstream sink listens on {}", listener.local_addr()?));

    let to_fail = AtomicU64::new(args.fail_first);
    let judge: Judge = Arc::new(move |delivery| {
        let fails = to_fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let answer = if fails { Answer::NotNow } else { Answer::Taken };
        print(delivery, answer);
        answer
    });
    let group = Group::new();
    Receiver::new(key, Clock::system(), judge).serve(&group, listener, tls);
    group.on_signals().await;
    group.cancel();
    group.wait(END_DEADLINE).await;
    Ok(Verdict::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(body: &'static str, answer: Answer) -> String {
        let delivery = Delivery {
            webhook_id: "msg_1".to_owned(),
            repeat: false,
            content_type: "application/json".to_owned(),
            body: body.into(),
        };
        json_line(&delivery, answer)
    }

    #[test]
    fn a_delivery_is_one_line() {
        let head = r#"{"webhook_id":"msg_1","repeat":false,"status":"#;
        let json = line(r#"{"id": 1}"#, Answer::Taken);
        assert_eq!(json, format!(r#"{head}200,"content_type":"application/json","data":{{"id": 1}}}}"#));
        let other = line("{\n}", Answer::NotNow);
        assert_eq!(other, format!(r#"{head}503,"content_type":"application/json","data_base64":"ewp9"}}"#));
    }
}
