//! JSON lines in a file. An event counts as delivered once its line is synced to disk; one sync serves all that wait.
//!
//! ```text
//! {"id":…,"source":…,"type":…,"time":…,"webhook_id":…,"data":<the payload>}          a JSON payload
//! {"id":…,"source":…,"type":…,"time":…,"webhook_id":…,"data_base64":"…"}             any other
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::{Event, Refusal};

/// Lines waiting for the disk.
const QUEUE: usize = 8192;

type Answer = oneshot::Sender<Result<(), String>>;

/// A file sink.
pub struct FileSink {
    lines: mpsc::Sender<(Vec<u8>, Answer)>,
    timeout: Duration,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    time: &'a str,
    webhook_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl FileSink {
    /// Opens the file for appending; a new one only its owner can read.
    pub fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let (lines, waiting) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("file-sink".to_owned()).spawn(move || write_all(file, waiting))?;
        Ok(Self { lines, timeout })
    }

    pub(super) async fn deliver(&self, event: &Event) -> Result<(), Refusal> {
        // A payload that spans lines is JSON all the same, but not a JSON line.
        let json: Option<&RawValue> =
            serde_json::from_slice(&event.payload).ok().filter(|raw: &&RawValue| !raw.get().contains('\n'));
        let mut line = serde_json::to_vec(&Line {
            id: event.id.as_str(),
            source: event.source.as_str(),
            r#type: &event.description.event_type,
            time: &event.description.time,
            webhook_id: &event.webhook_id,
            data: json,
            data_base64: json.is_none().then(|| BASE64.encode(&event.payload)),
        })
        .map_err(|error| Refusal::Transport(Box::new(error)))?;
        line.push(b'\n');
        let (answer, synced) = oneshot::channel();
        let written = async {
            self.lines.send((line, answer)).await.map_err(|_| "the writer ended".to_owned())?;
            synced.await.unwrap_or_else(|_| Err("the writer ended".to_owned()))
        };
        match tokio::time::timeout(self.timeout, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Refusal::Transport(error.into())),
            Err(_) => Err(Refusal::Timeout),
        }
    }
}

fn write_all(mut file: File, mut waiting: mpsc::Receiver<(Vec<u8>, Answer)>) {
    let mut batch = Vec::new();
    while waiting.blocking_recv_many(&mut batch, QUEUE) > 0 {
        let mut lines = Vec::new();
        batch.iter().for_each(|(line, _)| lines.extend_from_slice(line));
        let result = write(&mut file, &lines).map_err(|error| error.to_string());
        for (_, answer) in batch.drain(..) {
            // Nobody waits any more: the dispatch timed out.
            answer.send(result.clone()).ok();
        }
    }
}

/// Appends whole lines or nothing: what a full disk left of them is cut off again.
fn write(file: &mut File, lines: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    let result = file.write_all(lines).and_then(|()| file.sync_data());
    if result.is_err() {
        file.set_len(before).ok();
    }
    result
}
