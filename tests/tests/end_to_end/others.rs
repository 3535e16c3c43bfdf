//! Senders and receivers of other people's: Python programs that share no code with us, over TLS with a checked certificate.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use common::envelope::Format;
use common::secret::Secret;
use common::standard_webhooks::{SigningKey, sign};
use data_encoding::HEXLOWER;
use http::HeaderValue;
use sender::Sender;
use serde_json::{Value, json};
use tests::environment::{node_js, python_httpx_027, python_httpx_028};
use tests::plan::Plan;
use tests::python::{Script, run};
use tests::sink::Behaviour;
use tests::stack::Stack;

fn event(id: &str) -> Value {
    json!({"id": id, "type": "order.paid", "text": "Grüße, \u{1F44B}", "price": 12.5})
}

/// A source's secret and sealing key, as a program without our files needs them.
fn keys(stack: &Stack) -> Result<(String, String)> {
    let text = |name: &str| std::fs::read_to_string(stack.materials().path(&format!("secrets/{name}")));
    let key = text("acme.k1.key")?;
    Ok((text("acme.hmac.s1")?.trim_end().to_owned(), key.trim_end().trim_start_matches("hex:").to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_as_in_tutorials_is_answered_200_where_its_client_sends_what_it_signed() -> Result<()> {
    let plan = Plan::new("tutorial").source("acme", &["main", "out"]).http("main", Behaviour::good()).output("out");
    plan.run(async |stack| {
        let (secret, key) = keys(stack)?;
        let url = stack.url(0, "acme");
        let send = async |python: PathBuf, mode: &str, id: &str| {
            let order = json!({
                "url": url, "ca": stack.materials().authority(), "secret": secret, "key": key, "mode": mode, "event": event(id),
            });
            run(&python, "guide_sender.py", &order).await
        };
        let (old, new) = (python_httpx_027()?, python_httpx_028()?);
        let sent = [
            (send(old.clone(), "json", "evt-old-json").await?, "0.27.2", Some("evt-old-json")),
            // It signs with spaces and sends without: what arrives is not what was signed.
            (send(new.clone(), "json", "evt-new-json").await?, "0.28.1", None),
            (send(old, "content", "evt-old-content").await?, "0.27.2", Some("evt-old-content")),
            (send(new, "content", "evt-new-content").await?, "0.28.1", Some("evt-new-content")),
        ];
        stack.settled().await?;
        let output = stack.output("out").await?;
        for (answer, httpx, accepted) in &sent {
            assert_eq!(answer["httpx"], *httpx);
            let Some(id) = accepted else {
                assert_eq!((&answer["status"], &answer["body"]["code"]), (&json!(401), &json!("signature_invalid")));
                continue;
            };
            assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!({"status": "received"})), "{id}");
            stack.ledger().event("acme", id);
            let deliveries = stack.sink("main").deliveries_of(id);
            assert_eq!(deliveries.len(), 1);
            assert_eq!(serde_json::from_slice::<Value>(&deliveries[0].payload)?, event(id));
            let record = output.iter().find(|record| record.header("ce_id") == Some(id)).expect("it is in the output topic");
            assert_eq!(serde_json::from_slice::<Value>(&record.value)?, event(id));
        }
        assert_eq!(stack.sink("main").delivery_count(), 3);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_in_python_accepts_and_opens_what_the_sender_emits() -> Result<()> {
    let plan = Plan::new("receiver").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let (secret, key) = keys(stack)?;
        let path = |name: &str| stack.materials().path(name);
        let order = json!({
            "certificate": path("tls/server.pem"), "private_key": path("tls/server.key"),
            "secret": secret, "keys": {"k1": key}, "audience": "acme", "requests": 3,
        });
        let mut receiver = Script::start(&python_httpx_028()?, "receiver.py", &order).await?;
        let url = format!("https://localhost:{}/hook", receiver.line().await?["port"]);
        for (format, id) in [(Format::Native, "evt-native"), (Format::Jwe, "evt-jwe")] {
            let config = sender::Config { url: url.parse()?, ..stack.sender_config(0, "acme", format)? };
            let sender = Sender::new(config, stack.http_client(), common::clock::Clock::system())?;
            let payload = event(id).to_string();
            let sent = sender.send(&common::id::EventId::new(id)?, payload.as_bytes()).await?;
            assert_eq!((sent.status.as_u16(), sent.attempt_count), (200, 1));
            let found = receiver.line().await?;
            assert_eq!(found["payload"], payload);
            let header = &found["header"];
            match format {
                Format::Native => assert_eq!(*header, json!({})),
                Format::Jwe => assert_eq!((&header["jti"], &header["kid"]), (&json!(id), &json!("k1"))),
            }
        }
        // It can also refuse.
        let config = sender::Config { url: url.parse()?, ..stack.sender_config(0, "acme", Format::Native)? };
        let sender = Sender::new(config, stack.http_client(), common::clock::Clock::system())?;
        let mut bent = sender.prepare(&common::id::EventId::new("evt")?, b"{}")?;
        bent.headers.insert("x-webhook-signature", HeaderValue::from_str(&HEXLOWER.encode(&[0; 32]))?);
        assert_eq!(sender.exchange(bent).await?.status(), 401);
        assert_eq!(receiver.line().await?["refused"], "no signature fits");
        receiver.end().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jose_library_seals_what_is_accepted_and_opens_what_the_sender_seals() -> Result<()> {
    let plan = Plan::new("jose").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let (secret, key) = keys(stack)?;
        let order = json!({
            "url": stack.url(0, "acme"), "ca": stack.materials().authority(), "secret": secret, "key": key,
            "kid": "k1", "jti": "evt-jose", "aud": "acme", "event": event("evt-jose"),
        });
        let python = python_httpx_028()?;
        let answer = run(&python, "jose.py", &order).await?;
        assert_eq!(answer, json!({"status": 200, "body": {"status": "received"}}));
        stack.ledger().event("acme", "evt-jose");
        stack.settled().await?;
        let deliveries = stack.sink("main").deliveries_of("evt-jose");
        assert_eq!(deliveries.len(), 1);
        assert_eq!(serde_json::from_slice::<Value>(&deliveries[0].payload)?, event("evt-jose"));

        let payload = event("evt-ours").to_string();
        let signed = stack.client(0, "acme", Format::Jwe)?.prepare("evt-ours", payload.as_bytes())?;
        let order = json!({"token": std::str::from_utf8(&signed.body)?, "key": key});
        let opened = run(&python, "jose.py", &order).await?;
        assert_eq!(opened["payload"], payload);
        let header = &opened["header"];
        assert_eq!((&header["alg"], &header["enc"], &header["kid"]), (&json!("dir"), &json!("A256GCM"), &json!("k1")));
        assert_eq!((&header["jti"], &header["aud"]), (&json!("evt-ours"), &json!("acme")));
        Ok(())
    })
    .await
}

/// How a request is, and the status and code that it must be answered.
type Variant = (&'static str, u16, Option<&'static str>);

/// What every sender does.
const VARIANTS: [Variant; 6] = [
    ("good", 200, None),
    ("rotated", 200, None),
    ("forged", 401, Some("signature_invalid")),
    ("altered", 401, Some("signature_invalid")),
    ("stale", 401, Some("timestamp_out_of_tolerance")),
    // Our grammar has no space behind a comma: what a client joined, nobody signed like that.
    ("joined", 401, Some("signature_invalid")),
];

/// What those do that can send a header twice.
const DUPLICATED: Variant = ("duplicated", 400, Some("duplicate_header"));

/// Runs a script on these variants and holds each answer against what it must be; notes what was accepted. Answers the names
/// of those that the script's own library would have taken.
async fn vary(
    stack: &Stack,
    interpreter: &Path,
    script: &str,
    order: Value,
    variants: &[Variant],
) -> Result<Vec<&'static str>> {
    let (secret, key) = keys(stack)?;
    let names: Vec<&str> = variants.iter().map(|(name, ..)| *name).collect();
    let mut whole = json!({
        "url": stack.url(0, "acme"), "ca": stack.materials().authority(), "secret": secret, "key": key, "variants": names,
    });
    let client = order["client"].as_str().context("who sends")?.to_owned();
    let own = order.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
    whole.as_object_mut().context("an object")?.extend(own);
    let mut running = Script::start(interpreter, script, &whole).await?;
    let mut taken = Vec::new();
    for &(name, status, code) in variants {
        let mut answer = running.line().await?;
        if answer.as_object_mut().and_then(|members| members.remove("taken")) == Some(true.into()) {
            taken.push(name);
        }
        let says = code.is_none().then_some("received");
        assert_eq!(answer, json!({"variant": name, "status": status, "code": code, "says": says}), "{client}");
        if code.is_none() {
            stack.ledger().event("acme", &format!("evt-{client}-{name}"));
        }
    }
    running.end().await?;
    Ok(taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_clients_of_other_languages_are_accepted_and_their_forged_stale_and_doubled_requests_are_not() -> Result<()>
{
    let plan = Plan::new("clients").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let python = python_httpx_028()?;
        let all = [&VARIANTS[..], &[DUPLICATED]].concat();
        vary(stack, &python, "senders.py", json!({"client": "httpx"}), &all).await?;
        // It keeps one line for each name, so it cannot send a header twice.
        vary(stack, &python, "senders.py", json!({"client": "requests"}), &VARIANTS).await?;
        let milliseconds = ("milliseconds", 401, Some("invalid_timestamp"));
        let all = [&VARIANTS[..], &[DUPLICATED, milliseconds]].concat();
        vary(stack, &node_js()?, "sender.mjs", json!({"client": "fetch"}), &all).await?;
        stack.settled().await?;
        assert_eq!(stack.sink("main").effect_count(), 6);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_with_the_libraries_of_standard_webhooks_are_accepted_with_a_sealed_body_and_nothing_else_of_theirs()
-> Result<()> {
    // Each library takes these from its own kind, and ingest does not.
    let stricter = [
        ("dotted", 401, Some("signature_invalid")),
        ("crowded", 401, Some("signature_invalid")),
        ("fractional", 401, Some("invalid_timestamp")),
        ("plaintext", 400, Some("invalid_envelope")),
    ];
    let all = [&VARIANTS[..], &[DUPLICATED, ("renamed", 401, Some("signature_missing"))], &stricter].concat();
    let plan = Plan::new("standard").standard_source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let secret = std::fs::read_to_string(stack.materials().path("secrets/acme.whsec"))?;
        for (interpreter, script) in [(python_httpx_028()?, "standard_sender.py"), (node_js()?, "standard_sender.mjs")]
        {
            for library in ["standardwebhooks", "svix"] {
                let client = format!("{library}-{}", if script.ends_with(".py") { "python" } else { "node" });
                let order = json!({"client": client, "library": library, "secret": secret.trim_end()});
                let taken = vary(stack, &interpreter, script, order, &all).await?;
                let expected = ["good", "rotated"].into_iter().chain(stricter.map(|(name, ..)| name));
                assert!(expected.into_iter().all(|name| taken.contains(&name)), "{client} takes {taken:?}");
                assert!(["forged", "altered", "stale"].iter().all(|name| !taken.contains(name)), "{client}: {taken:?}");
                // Only the libraries of the service svix know the names that it gives to the headers.
                assert_eq!(taken.contains(&"renamed"), library == "svix", "{client}");
            }
        }
        stack.settled().await?;
        assert_eq!(stack.sink("main").effect_count(), 8);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_libraries_of_standard_webhooks_sign_as_we_do_and_take_our_signatures_and_no_others() -> Result<()> {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let key = SigningKey::parse(&Secret::from(secret.as_bytes().to_vec()))?;
    let now = common::clock::Clock::system().unix_s();
    // The library for Python also reads them as JSON.
    let bodies = ["{}", r#"{"text":"Grüße","price":12.5}"#, " [1, 2] ", "\"\""];
    let ours: Vec<String> = bodies.iter().map(|body| sign(&key, "msg_1", now, body.as_bytes())).collect();
    let message =
        |body: &str, signature: &str| json!({"id": "msg_1", "timestamp": now, "body": body, "signature": signature});
    let mut messages: Vec<Value> = bodies.iter().zip(&ours).map(|(body, signature)| message(body, signature)).collect();
    // Of another body, and of this one but written as ours are at the edge.
    messages.push(message("{}", &ours[1]));
    messages.push(message("{}", &ours[0].replace(',', "=")));
    for (interpreter, script) in [(python_httpx_028()?, "standard.py"), (node_js()?, "standard.mjs")] {
        for library in ["standardwebhooks", "svix"] {
            let order = json!({"library": library, "secret": secret, "messages": messages});
            let mut running = Script::start(&interpreter, script, &order).await?;
            for expected in &ours {
                let answer = running.line().await?;
                assert_eq!(answer, json!({"signed": expected, "verifies": true}), "{script} {library}");
            }
            for _ in ours.len()..messages.len() {
                assert_eq!(running.line().await?["verifies"], false, "{script} {library}");
            }
            running.end().await?;
        }
    }
    Ok(())
}
