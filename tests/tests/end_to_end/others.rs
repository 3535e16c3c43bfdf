//! Senders and receivers of other people's: Python programs that share no code with us, over TLS with a checked certificate.

use std::path::PathBuf;

use anyhow::Result;
use common::envelope::Format;
use data_encoding::HEXLOWER;
use http::HeaderValue;
use sender::Sender;
use serde_json::{Value, json};
use tests::environment::{python_httpx_027, python_httpx_028};
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
