//! How letters are told: as a table, as an object, one with all its headers. Never anything of a payload.
//!
//! What a stranger may have written is shown with its control characters escaped, or only measured.

use std::collections::BTreeMap;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use common::record::MAC_HEADER;
use data_encoding::BASE64;
use processor::config::Config;
use serde_json::{Value, json};

use super::letters::Letter;
use super::target::{Target, target};
use crate::say;

/// What a letter is counted and listed under: its reason, or that it is not trusted.
pub(crate) fn reason(letter: &Letter) -> &'static str {
    letter.content.as_ref().map_or("not_trusted", |content| content.failure.reason.as_str())
}

/// How many letters there are of each reason.
pub(super) fn by_reason(letters: &[Letter]) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for letter in letters {
        *counts.entry(reason(letter)).or_default() += 1;
    }
    counts
}

/// A time in RFC 3339, to the second.
pub(crate) fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{unix_ms} ms"), |time| format!("{time:.0}"))
}

/// A row for each letter.
pub(super) fn table(letters: &[&Letter]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(["time", "reason", "source", "sink", "status", "attempts", "keyed id", "place", "redriven"]);
    for letter in letters {
        let dash = || "-".to_owned();
        let content = letter.content.as_ref().ok();
        let head = content.and_then(|content| content.head.as_ref());
        let retry = head.and_then(|head| head.retry.as_ref());
        table.add_row([
            time(letter.time_ms),
            reason(letter).to_owned(),
            head.map_or_else(dash, |head| head.source.to_string()),
            retry.map_or_else(dash, |retry| retry.sink.to_string()),
            content.and_then(|content| content.failure.status).map_or_else(dash, |status| status.to_string()),
            retry.map_or_else(dash, |retry| retry.attempt.to_string()),
            head.and_then(|head| head.identity).map_or_else(dash, |identity| identity.id.to_string()),
            letter.place.to_string(),
            content.and_then(|content| content.redriven_ms).map_or_else(dash, time),
        ]);
    }
    table
}

/// A letter as an object.
pub(crate) fn json(letter: &Letter, config: &Config) -> Value {
    let mut value = json!({
        "place": letter.place.to_string(),
        "time": time(letter.time_ms),
        "time_ms": letter.time_ms,
        "trusted": letter.content.is_ok(),
        "reason": reason(letter),
        "body_bytes": letter.body_bytes,
    });
    let target = target(letter, config);
    value["target"] = target.as_ref().ok().map(Target::to_string).into();
    value["kept"] = target.err().map(|kept| kept.as_str()).into();
    let Ok(content) = &letter.content else { return value };
    let failure = &content.failure;
    value["status"] = failure.status.into();
    value["origin"] = failure.origin.to_string().into();
    value["letter_id"] = content.id.to_string().into();
    value["redriven"] = content.redriven_ms.map(time).into();
    value["copies"] = content.copies.iter().map(ToString::to_string).collect();
    let Some(head) = &content.head else { return value };
    value["source"] = head.source.as_str().into();
    value["received_ms"] = head.received_ms.into();
    value["id"] = head.identity.map(|identity| identity.id.to_string()).into();
    value["webhook_id"] = head.identity.map(|identity| identity.id.webhook_id()).into();
    if let Some(retry) = &head.retry {
        value["sink"] = retry.sink.as_str().into();
        value["attempts"] = retry.attempt.into();
        value["redrive"] = retry.redrive.into();
    }
    value
}

/// Shows one letter.
pub(super) fn letter(letter: &Letter, headers: &Headers, config: &Config) {
    let paint = say::Paint::for_stdout();
    let row = |name: &str, text: &dyn std::fmt::Display| say::line(format_args!("{name:<16} {text}"));
    row("place", &letter.place);
    row("time", &time(letter.time_ms));
    row("reason", &paint.strong(reason(letter)));
    row("body", &format_args!("{} bytes, sealed", letter.body_bytes));
    row("headers", &format_args!("{} bytes", headers.bytes()));
    let trusted = letter.content.is_ok();
    for (name, text) in &headers.0 {
        match std::str::from_utf8(text) {
            // It ties the record to its topic, and says nothing to people.
            Ok(_) if name == MAC_HEADER && trusted => row("  ss-mac", &"right"),
            Ok(text) if trusted => row(&format!("  {name}"), &text.escape_debug()),
            Ok(_) | Err(_) => row(&format!("  {}", name.escape_debug()), &format_args!("{} bytes", text.len())),
        }
    }
    if let Ok(content) = &letter.content {
        row("letter id", &content.id);
        for copy in &content.copies {
            row("copy", copy);
        }
        if let Some(redriven_ms) = content.redriven_ms {
            return row("redriven", &time(redriven_ms));
        }
    }
    match target(letter, config) {
        Ok(target) => match target.partition {
            Some(partition) => row("redriven to", &format_args!("{target}, partition {partition}")),
            None => row("redriven to", &target),
        },
        Err(kept) => row("not redriven", &kept.sentence()),
    }
}

/// The headers of a record as they are.
#[derive(Debug, Clone)]
pub(crate) struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// Of a record.
    pub(crate) fn of<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        Self(headers.map(|(name, text)| (name.to_owned(), text.to_vec())).collect())
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(name, text)| name.len() + text.len()).sum()
    }

    /// A list of names and texts, since a stranger may have written one twice; what is no text is in base64.
    pub(crate) fn json(&self) -> Value {
        let one = |(name, text): &(String, Vec<u8>)| match std::str::from_utf8(text) {
            Ok(text) => json!({ "name": name, "text": text }),
            Err(_) => json!({ "name": name, "base64": BASE64.encode(text) }),
        };
        self.0.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use common::record::{Reason, RecordError};

    use super::*;
    use crate::dlq::letters::tests::{failure, head, letter as of};
    use crate::dlq::target::tests::config;

    #[test]
    fn the_table_and_the_object_say_what_the_letter_says() {
        let letter = of(Some(head(Some("main"))), failure(Reason::Exhausted, "retry.main.1h"));
        let text = table(&[&letter]).to_string();
        for word in ["2023-11-14T22:15:00Z", "exhausted", "acme", "main", "503", "3/17", &"07".repeat(16)] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        let value = json(&letter, &config());
        assert_eq!((&value["target"], &value["kept"]), (&json!("retry.main.10s"), &Value::Null));
        assert_eq!((&value["attempts"], &value["origin"]), (&json!(3), &json!("retry.main.1h/3/4711")));
        assert_eq!(by_reason(&[letter]), [("exhausted", 1)].into());
    }

    #[test]
    fn what_is_not_trusted_says_nothing_of_itself() {
        let letter = of(Some(head(Some("main"))), failure(Reason::Exhausted, "events"));
        let forged = Letter { content: Err(RecordError::BadMac), ..letter };
        let value = json(&forged, &config());
        assert_eq!(
            (&value["trusted"], &value["reason"], &value["kept"]),
            (&json!(false), &json!("not_trusted"), &json!("not_trusted"))
        );
        assert!(value.get("source").is_none() && value.get("status").is_none());
        assert!(!table(&[&forged]).to_string().contains("acme"));
    }

    #[test]
    fn headers_are_kept_as_they_are() {
        let headers = Headers::of([("a", &b"x"[..]), ("a", &[0xff][..])].into_iter());
        assert_eq!(headers.bytes(), 4);
        assert_eq!(headers.json(), json!([{ "name": "a", "text": "x" }, { "name": "a", "base64": "/w==" }]));
    }
}
