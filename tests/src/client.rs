//! A sender of one source at one ingest, which keeps the ledger.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use common::envelope::Format;
use common::id::EventId;
use sender::{SendError, Sender, Signed};

use crate::answer::Answer;
use crate::ledger::Ledger;

/// How long a request may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug)]
pub struct Client {
    source: String,
    format: Format,
    sender: Sender,
    ledger: Ledger,
}

impl Client {
    pub(crate) fn new(source: &str, format: Format, sender: Sender, ledger: Ledger) -> Self {
        Self { source: source.to_owned(), format, sender, ledger }
    }

    /// Seals and signs an event; nothing is sent yet.
    pub fn prepare(&self, id: &str, payload: &[u8]) -> Result<Signed> {
        Ok(self.sender.prepare(&EventId::new(id)?, payload)?)
    }

    /// The same, signed as of another time.
    pub fn prepare_at(&self, unix_s: u64, id: &str, payload: &[u8]) -> Result<Signed> {
        Ok(self.sender.prepare_at(unix_s, &EventId::new(id)?, payload)?)
    }

    /// Sends a prepared request, once. What is answered 200 goes into the ledger by its body.
    pub async fn post(&self, signed: Signed) -> Result<Answer> {
        let body: Bytes = signed.body.clone();
        let answer = Answer::of(&self.sender.exchange(signed).await?);
        if answer.is_ok() {
            self.ledger.body(body);
        }
        Ok(answer)
    }

    /// Seals, signs and sends an event, once.
    pub async fn offer(&self, id: &str, payload: &[u8]) -> Result<Answer> {
        let answer = self.post(self.prepare(id, payload)?).await?;
        if answer.is_ok() {
            self.ledger.event(&self.source, id);
        }
        Ok(answer)
    }

    /// Sends the event `{"id": id, …}` with a payload of the harness's own, which must be accepted at once.
    pub async fn send(&self, id: &str) -> Result<()> {
        let answer = self.offer(id, payload(id).as_bytes()).await?;
        anyhow::ensure!(answer.is_ok(), "{id} was answered {answer:?}");
        Ok(())
    }

    /// Sends an event with the sender's own retries.
    pub async fn persist(&self, id: &str) -> Result<u32, SendError> {
        let event = EventId::new(id).expect("a test's ids are short");
        let sent = self.sender.send(&event, payload(id).as_bytes()).await?;
        self.ledger.event(&self.source, id);
        Ok(sent.attempt_count)
    }

    /// The envelope that it seals in.
    pub fn format(&self) -> Format {
        self.format
    }
}

/// The harness's own payload for an event id.
pub fn payload(id: &str) -> String {
    format!(r#"{{"id":"{id}","type":"order.paid","amount":12.5,"note":"payload-canary-of-{id}"}}"#)
}
