//! What the log, the caches and the log files must not hold: payloads, and the ids of native events.

use anyhow::Result;
use common::envelope::Format;
use common::topics::Topic;
use tests::plan::Plan;
use tests::search::Canary;
use tests::sink::{Behaviour, Reply};
use tests::stack::Stack;
use walkdir::walk;

#[tokio::test(flavor = "multi_thread")]
async fn no_topic_no_cache_and_no_log_holds_a_payload_or_the_id_of_a_native_event() -> Result<()> {
    let rule = |arrival: tests::sink::Arrival<'_>| match (arrival.event_id.contains("refused"), arrival.attempt) {
        (true, _) => Reply::status(400),
        (false, 1) => Reply::status(500),
        (false, _) => Reply::OK,
    };
    let plan =
        Plan::new("secrecy").source("acme", &["main", "out"]).http("main", Behaviour::by_rule(rule)).output("out");
    plan.run(async |stack| {
        let mut hidden = Vec::new();
        let mut readable = Vec::new();
        for (name, format) in [("native", Format::Native), ("jwe", Format::Jwe)] {
            for kind in ["retried", "refused", "unopened"] {
                let (id, note) =
                    (Canary::new(&format!("id-canary-{name}-{kind}")), Canary::new(&format!("note~?>{name}-{kind}")));
                let payload = format!(r#"{{"id":"{}","note":"{}"}}"#, id.text(), note.text());
                let mut config = stack.sender_config(0, "acme", format)?;
                if kind == "unopened" {
                    config.key = open::Key::try_from(&common::secret::Secret::from(vec![9; 32]))?;
                }
                let client = stack.client_of(config)?;
                assert!(client.post(client.prepare(id.text(), payload.as_bytes())?).await?.is_ok());
                hidden.push(note);
                match format {
                    Format::Native => hidden.push(id),
                    Format::Jwe => readable.push(id),
                }
            }
        }
        stack.settled().await?;

        let retry = Topic::Retry { sink: "main".parse()?, delay: "1s".parse()? };
        for topic in [Topic::Inbox, Topic::Events, retry, Topic::Dead] {
            let records = stack.records(&topic).await?;
            assert!(records.len() >= 2, "{} holds {} records: too few to prove anything", topic.role(), records.len());
            for part in records.iter().flat_map(|record| record.parts()) {
                absent(&hidden, part, &topic.role());
            }
        }
        for (path, bytes) in files(stack)? {
            absent(&hidden, &bytes, &path);
            absent(&readable, &bytes, &path);
        }

        // The same search finds what is there: in the output topic, plain by choice, and a JWE's id, which is readable.
        let output = stack.output("out").await?;
        for canary in hidden.iter().filter(|canary| !canary.text().contains("unopened")) {
            let found = output.iter().flat_map(|record| record.parts()).any(|part| canary.find(part) == Some("plain"));
            assert!(found, "{} is not in the output topic", canary.text());
        }
        let inbox = stack.records(&Topic::Inbox).await?;
        for canary in &readable {
            let found =
                inbox.iter().any(|record| canary.find(&record.value).is_some_and(|form| form.starts_with("base64")));
            assert!(found, "{} is not in the inbox", canary.text());
        }
        Ok(())
    })
    .await
}

fn absent(canaries: &[Canary], bytes: &[u8], place: &str) {
    for canary in canaries {
        if let Some(form) = canary.find(bytes) {
            panic!("{} holds {} as {form}", place, canary.text());
        }
    }
}

/// Every log file, and every file of the processors' data.
fn files(stack: &Stack) -> Result<Vec<(String, Vec<u8>)>> {
    let files = [walk(&stack.dir().join("logs"))?, walk(&stack.dir().join("data"))?].concat();
    assert!(files.len() >= 4, "{} files: the logs or the data are not where they should be", files.len());
    Ok(files)
}

mod walkdir {
    use std::path::Path;

    use anyhow::Result;

    /// Every file below a folder, with its content.
    pub(super) fn walk(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                files.extend(walk(&path)?);
            } else {
                files.push((path.display().to_string(), std::fs::read(&path)?));
            }
        }
        Ok(files)
    }
}
