//! Dead letters, looked at and redriven with the real command line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::clock::Clock;
use common::envelope::Format;
use common::record::{MAC_HEADER, Reason};
use common::secret::Secret;
use common::topics::Topic;
use open::Key;
use serde_json::{Value, json};
use tests::books::Letter;
use tests::client::Client;
use tests::plan::Plan;
use tests::sink::{Arrival, Behaviour, Reply};
use tests::stack::Stack;
use tests::topic::{self, Record};
use tests::wait::until;

use super::operator::{ended, sealstream};

const DEADLINE: Duration = Duration::from_secs(60);

/// The sinks of these tests, told by the events themselves how to behave.
fn told_by_the_id(arrival: Arrival<'_>) -> Reply {
    match arrival.event_id.split('-').next() {
        Some("bad") => Reply::status(400),
        Some("never") => Reply::status(500),
        _ => Reply::OK,
    }
}

/// The words of a command on a stack's letters.
fn words<'a>(config: &'a str, command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, &["--config", config, "--json"], more].concat()
}

fn config(stack: &Stack) -> String {
    stack.dir().join("processor-0.toml").display().to_string()
}

/// What a command that must succeed printed, line by line.
async fn lines(stack: &Stack, command: &[&str], more: &[&str]) -> Result<Vec<Value>> {
    let printed = sealstream(&words(&config(stack), command, more), &[]).await?;
    Ok(printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// The letters that are listed, without the counts.
async fn list(stack: &Stack, more: &[&str]) -> Result<Vec<Value>> {
    let mut lines = lines(stack, &["dlq", "list"], more).await?;
    let counts = lines.pop().context("there are counts")?;
    ensure!(counts["shown"] == json!(lines.len()), "{counts} after {} lines", lines.len());
    Ok(lines)
}

/// Redrives, and answers what that came to and whether the command called it good.
async fn redrive(stack: &Stack, more: &[&str]) -> Result<(Value, bool)> {
    let output = ended(&words(&config(stack), &["redrive"], more), &[]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = serde_json::from_slice(&output.stdout).with_context(|| format!("redrive said: {said}"))?;
    Ok((printed, output.status.success()))
}

fn reasons(letters: &[Value]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for letter in letters {
        *counts.entry(letter["reason"].as_str().unwrap_or_default()).or_default() += 1;
    }
    counts
}

/// A sender whose key the processors don't have yet.
fn sender_with_a_new_key(stack: &Stack) -> Result<Client> {
    let config = stack.sender_config(0, "acme", Format::Jwe)?;
    stack.client_of(sender::Config { key_id: "k2".parse()?, key: Key::try_from(&Secret::from(vec![7; 32]))?, ..config })
}

/// A record of the inbox that nobody signed.
async fn forge(stack: &Stack) -> Result<()> {
    let genuine = stack.records(&Topic::Inbox).await?.pop().context("there is a record")?;
    let mut forged = Record { value: b"forged".to_vec(), ..genuine };
    forged.headers.retain(|(name, _)| name != MAC_HEADER);
    stack.inject(&Topic::Inbox, None, &forged).await
}

async fn ends(stack: &Stack) -> Result<Vec<Vec<i64>>> {
    let config = stack.config();
    let topics = config.pipeline_topics().iter().map(|topic| stack.topic_name(topic)).collect();
    topic::ends(stack.kafka(), topics, config.topics.partitions).await
}

/// Waits until something of this time is older than that.
async fn older(what: &str, unix_ms: u64, than: Duration) -> Result<()> {
    let clock = Clock::system();
    let due = unix_ms + u64::try_from(than.as_millis())?;
    until(what, DEADLINE, async || Ok((clock.unix_ms() > due).then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_shown_and_exported_without_a_word_of_their_payloads() -> Result<()> {
    let plan = Plan::new("letters").source("acme", &["main"]).attempts_max(2);
    let plan = plan.http("main", Behaviour::by_rule(told_by_the_id));
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        client.send("good-1").await?;
        client.send("bad-1").await?;
        client.send("never-1").await?;
        let unknown = sender_with_a_new_key(stack)?;
        ensure!(unknown.post(unknown.prepare("evt-k2", br#"{"id":"evt-k2"}"#)?).await?.is_ok());
        stack.settled().await?;
        forge(stack).await?;
        stack.settled().await?;

        let all = list(stack, &[]).await?;
        let expected = [("bad_mac", 1), ("exhausted", 1), ("refused", 1), ("unknown_key", 1)];
        assert_eq!(reasons(&all), expected.into());
        assert_eq!(list(stack, &["--redriven"]).await?.len(), 0);
        assert_eq!(list(stack, &["--limit", "3"]).await?, all[..3]);
        assert_eq!(list(stack, &["--limit", "3", "--skip", "3"]).await?, all[3..]);
        for (filter, expected) in [
            (&["--reason", "refused"][..], &["refused"][..]),
            (&["--reason", "refused", "--reason", "bad_mac"], &["bad_mac", "refused"]),
            (&["--sink", "main"], &["exhausted", "refused"]),
            (&["--source", "acme"], &["exhausted", "refused", "unknown_key"]),
            (&["--source", "acme", "--id", "bad-1"], &["refused"]),
            (&["--source", "acme", "--id", "good-1"], &[]),
            (&["--since", "1h", "--sink", "main"], &["exhausted", "refused"]),
            (&["--until", "1h"], &[]),
        ] {
            let found = list(stack, filter).await?;
            let found: BTreeSet<_> = found.iter().filter_map(|letter| letter["reason"].as_str()).collect();
            assert_eq!(found, expected.iter().copied().collect(), "{filter:?}");
        }
        let exhausted = all.iter().find(|letter| letter["reason"] == "exhausted").context("it is listed")?;
        assert_eq!((&exhausted["status"], &exhausted["attempts"]), (&json!(500), &json!(2)));
        let id = exhausted["id"].as_str().context("it has an id")?;
        assert_eq!(list(stack, &["--id", id]).await?, std::slice::from_ref(exhausted));

        // People are shown the same, and nobody a payload.
        let config = config(stack);
        let mut shown = sealstream(&["dlq", "list", "--config", &config], &[]).await?;
        for letter in &all {
            let place = letter["place"].as_str().context("it lies somewhere")?;
            let one = sealstream(&["dlq", "show", "--config", &config, place], &[]).await?;
            let fate = match letter["reason"].as_str() {
                Some("bad_mac") => "not redriven",
                Some("unknown_key") => "redriven to      inbox",
                _ => "redriven to      retry.main.1s",
            };
            assert!(one.contains(fate), "{fate} is not in\n{one}");
            shown += &one;
            shown += &lines(stack, &["dlq", "show"], &[place]).await?[0].to_string();
        }
        assert!(shown.contains("refused") && !shown.contains("canary") && !shown.contains("bad-1"), "{shown}");
        let nowhere = ended(&["dlq", "show", "--config", &config, "0/999"], &[]).await?;
        assert!(!nowhere.status.success() && String::from_utf8_lossy(&nowhere.stderr).contains("no letter at 0/999"));

        // What is exported is what lies there.
        let file = stack.dir().join("letters.jsonl");
        sealstream(&["dlq", "export", "--config", &config, "--output", &file.display().to_string()], &[]).await?;
        let text = std::fs::read_to_string(file)?;
        assert_eq!(text, sealstream(&["dlq", "export", "--config", &config], &[]).await?);
        let exported: BTreeSet<Vec<u8>> = text.lines().map(body).collect::<Result<_>>()?;
        let bodies = stack.letters().await?.into_iter().map(|letter| letter.value);
        assert_eq!(exported, bodies.collect());
        Ok(())
    })
    .await
}

/// The sealed body in a line of an export.
fn body(line: &str) -> Result<Vec<u8>> {
    let value: Value = serde_json::from_str(line)?;
    Ok(STANDARD.decode(value["body_base64"].as_str().context("it has a body")?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_redriven_twice_is_delivered_once_long_after_the_window() -> Result<()> {
    const WINDOW: Duration = Duration::from_secs(2);
    const AGE_MAX: Duration = Duration::from_secs(6);
    let plan = Plan::new("redrive").source("acme", &["main", "other"]).attempts_max(2).dedup_window(WINDOW);
    let plan = plan.http("main", Behaviour::by_rule(told_by_the_id)).http("other", Behaviour::by_rule(told_by_the_id));
    // The control at the end delivers once more.
    let plan = plan.repeats_max(1);
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        let ids = ["bad-1", "bad-2", "never-1", "never-2"];
        for id in ids {
            client.send(id).await?;
        }
        let unknown = sender_with_a_new_key(stack)?;
        ensure!(unknown.post(unknown.prepare("evt-k2", br#"{"id":"evt-k2"}"#)?).await?.is_ok());
        stack.settled().await?;
        forge(stack).await?;
        stack.settled().await?;
        let (main, other) = (stack.sink("main"), stack.sink("other"));
        assert_eq!((main.effect_count(), other.effect_count()), (0, 0));

        // The key is added, the sinks are mended; what waited is older than anything may be.
        mend(stack, AGE_MAX).await?;
        main.behave(Behaviour::good());
        other.behave(Behaviour::good());
        let letters = stack.letters().await?;
        let unopened =
            letters.iter().find(|letter| letter.failure.reason == Reason::UnknownKey).context("it is dead")?;
        let received_ms = unopened.head.as_ref().context("it was trusted")?.received_ms;
        older("the unopened event is too old", received_ms, AGE_MAX).await?;

        // Looking changes nothing, and without a terminal nothing is done unasked.
        let before = ends(stack).await?;
        let (dry, good) = redrive(stack, &["--dry-run"]).await?;
        assert!(!good, "a letter is kept");
        let targets = json!({ "inbox": 1, "retry.main.1s": 4, "retry.other.1s": 4 });
        assert_eq!((&dry["targets"], &dry["kept"], &dry["redriven"]), (&targets, &json!({ "bad_mac": 1 }), &json!(0)));
        let unasked = ended(&["redrive", "--config", &config(stack)], &[]).await?;
        let said = String::from_utf8_lossy(&unasked.stderr).into_owned();
        assert!(!unasked.status.success() && said.contains("--dry-run, then say --yes"), "{said}");
        let embedded = [("PROCESSOR__TOPICS__DANGER_EMBEDDED", "true".to_owned())];
        let embedded = ended(&["redrive", "--config", &config(stack), "--yes"], &embedded).await?;
        assert!(String::from_utf8_lossy(&embedded.stderr).contains("has no transactions"));
        assert_eq!(ends(stack).await?, before, "the ends of all topics");

        // One sink's letters, then all that are left: each to its own sink.
        let (first, good) = redrive(stack, &["--sink", "main", "--yes"]).await?;
        assert!(good && first["targets"] == json!({ "retry.main.1s": 4 }), "{first}");
        stack.settled().await?;
        assert_eq!((main.effect_count(), other.effect_count()), (4, 0));
        let (rest, good) = redrive(stack, &["--yes"]).await?;
        assert!(!good && rest["targets"] == json!({ "inbox": 1, "retry.other.1s": 4 }), "{rest}");
        assert_eq!((&rest["already_redriven"], &rest["kept"]), (&json!(4), &json!({ "bad_mac": 1 })));
        stack.settled().await?;
        check_once(stack, 5);
        assert_eq!(list(stack, &["--redriven"]).await?.len(), 9);
        assert_eq!(reasons(&list(stack, &[]).await?), [("bad_mac", 1)].into());

        // And all of it again, when no index remembers it any more.
        let lane = Topic::Retry { sink: "main".parse()?, delay: "1s".parse()? };
        let redriven =
            stack.records(&lane).await?.into_iter().filter(|record| record.header("ss-redrive") == Some("1"));
        let redriven: Vec<_> = redriven.collect();
        let newest_ms = redriven.iter().map(|record| record.time_ms).max().context("there are some")?;
        older("the window has passed", newest_ms.max(Clock::system().unix_ms()), WINDOW).await?;
        let before = ends(stack).await?;
        let (again, _) = redrive(stack, &["--yes"]).await?;
        assert_eq!((&again["redriven"], &again["already_redriven"]), (&json!(0), &json!(9)));
        assert_eq!(ends(stack).await?, before);
        check_once(stack, 5);

        // The controls: without the marker a second hand-over would have been delivered, and without an age that began
        // anew the event that waited unopened would be dead again.
        stack.inject(&lane, Some(redriven[0].partition), &redriven[0]).await?;
        let inbox = stack.records(&Topic::Inbox).await?;
        let waited = |record: &&Record| record.value == unopened.value && record.header("ss-redriven").is_none();
        stack.inject(&Topic::Inbox, None, inbox.iter().find(waited).context("it came in")?).await?;
        stack.settled().await?;
        let twice: Vec<_> = main.effects().into_values().filter(|count| *count > 1).collect();
        assert_eq!(twice, [2], "the window has passed, so only the marker kept it from this");
        let too_old = stack.letters().await?.into_iter().filter(|letter| letter.failure.reason == Reason::TooOld);
        assert_eq!(too_old.filter(|letter| letter.value == unopened.value).count(), 2, "one for each sink");
        Ok(())
    })
    .await
}

/// Adds the new key, lowers the age that events may have, and starts the processor again.
async fn mend(stack: &mut Stack, age_max: Duration) -> Result<()> {
    let (path, key) = (config(stack), stack.materials().path("secrets/acme.k2.key"));
    std::fs::write(key, format!("hex:{}\n", "07".repeat(32)))?;
    let text = std::fs::read_to_string(&path)?;
    let mended = text
        .replace("secrets/acme.k1.key\" }", "secrets/acme.k1.key\" }, { id = \"k2\", file = \"secrets/acme.k2.key\" }")
        .replace("dedup.window", &format!("dedup.age_max = \"{}s\"\ndedup.window", age_max.as_secs()));
    ensure!(mended.matches("k2").count() == 2 && mended.contains("age_max"), "the configuration looks otherwise");
    std::fs::write(path, mended)?;
    stack.processor(0).stop().await?;
    stack.processor(0).up().await
}

/// So many events had one effect each, at both sinks.
fn check_once(stack: &Stack, events: usize) {
    for sink in ["main", "other"] {
        let effects = stack.sink(sink).effects();
        assert!(effects.len() == events && effects.values().all(|count| *count == 1), "{sink}: {effects:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_before_the_good_copy_of_an_id_harms_nothing_and_dies_again() -> Result<()> {
    let plan = Plan::new("garbage").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let config = stack.sender_config(0, "acme", Format::Native)?;
        let wrong = sender::Config { key: Key::try_from(&Secret::from(vec![9; 32]))?, ..config };
        let garbage = stack.client_of(wrong)?;
        let signed = garbage.prepare("evt-1", br#"{"id":"evt-1"}"#)?;
        let body = signed.body.clone();
        ensure!(garbage.post(signed).await?.is_ok());
        stack.settled().await?;
        let good = stack.client(0, "acme", Format::Native)?;
        good.send("evt-1").await?;
        stack.settled().await?;
        assert_eq!(stack.sink("main").effect_count(), 1, "garbage is no copy of anything");

        let (done, good) = redrive(stack, &["--reason", "open_failed", "--yes"]).await?;
        assert!(good && done["targets"] == json!({ "inbox": 1 }), "{done}");
        stack.settled().await?;
        let letters = stack.letters().await?;
        let states: Vec<_> = letters.iter().map(|letter| (letter.failure.reason, letter.value == body[..])).collect();
        assert_eq!(states, [(Reason::OpenFailed, true); 2], "dead again, as a letter of its own");
        assert_eq!(letters.iter().filter(|letter| letter.redriven).count(), 1);
        assert_eq!(stack.sink("main").delivery_count(), 1);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_redrives_at_once_the_later_goes_on_and_every_letter_goes_once() -> Result<()> {
    const EVENTS: usize = 8;
    let plan = Plan::new("fenced").source("acme", &["main"]).http("main", Behaviour::by_rule(told_by_the_id));
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Jwe)?;
        for number in 0..EVENTS {
            client.send(&format!("bad-{number}")).await?;
        }
        stack.settled().await?;
        stack.sink("main").behave(Behaviour::good());

        let config = config(stack);
        let slow = words(&config, &["redrive"], &["--yes", "--rate", "1/s"]);
        let (slow, fast) = tokio::join!(ended(&slow, &[]), async {
            until("the slow one has begun", DEADLINE, async || {
                Ok(stack.letters().await?.iter().any(|letter| letter.redriven).then_some(()))
            })
            .await?;
            redrive(stack, &["--yes"]).await
        });
        let (slow, (fast, good)) = (slow?, fast?);
        let said = String::from_utf8_lossy(&slow.stderr);
        assert!(!slow.status.success() && said.contains("another redrive of this deployment began"), "{said}");
        let before: Value = serde_json::from_slice(&slow.stdout).context("it says how far it came")?;
        let count = |value: &Value| value["redriven"].as_u64().unwrap_or_default();
        assert!(good && count(&before) > 0, "{before} {fast}");
        assert_eq!(count(&before) + count(&fast), EVENTS as u64);
        stack.settled().await?;
        assert!(stack.letters().await?.iter().all(|letter: &Letter| letter.redriven));
        assert_eq!(stack.balance().await?.delivered["main"], EVENTS);
        Ok(())
    })
    .await
}
