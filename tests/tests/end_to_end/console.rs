//! `sealstream console`, used in a real browser.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use common::envelope::Format;
use common::record::MAC_HEADER;
use common::topics::Topic;
use http::header::{COOKIE, ORIGIN, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::{Request, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::client::Client;
use tests::environment::{binary, chromedriver, chromium, pictures, python_selenium};
use tests::plan::Plan;
use tests::python::Script;
use tests::sink::Behaviour;
use tests::stack::Stack;
use tests::topic::Record;
use tests::wait::until;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::status::{options, refuses_bad_ones};

const DEADLINE: Duration = Duration::from_secs(60);
const TOKEN: &str = "token-of-the-test-0123456789";

/// A running console with more options, and where it is.
async fn console(stack: &mut Stack, more: &[&str]) -> Result<(Child, String)> {
    let token = stack.dir().join("console.token");
    std::fs::write(&token, TOKEN)?;
    let log = std::fs::File::create(stack.dir().join("logs/console.log"))?;
    let mut command = Command::new(binary("sealstream")?);
    command
        .args(["console", "--listen", "127.0.0.1:0", "--interval", "1s", "--token-file"])
        .arg(token)
        .args(options(stack))
        .args(more);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.context("the console does not start")??;
    let url = line.and_then(|line| Some(line.strip_prefix("the console is at ")?.to_owned()));
    Ok((child, url.context("it says where it is")?))
}

/// A dead letter that nobody wrote, full of markup.
async fn strange_letter(stack: &Stack) -> Result<()> {
    let genuine = stack.records(&Topic::Dead).await?.pop().context("there is a letter")?;
    let mut strange = Record { value: b"<script>window.ran = 1</script>".to_vec(), ..genuine };
    strange.headers.retain(|(name, _)| name != MAC_HEADER);
    let markup = b"<img src=x onerror=\"window.ran = 1\"><script>window.ran = 1</script>";
    strange.headers.push(("<script>window.ran = 1</script>".to_owned(), markup.to_vec()));
    stack.inject(&Topic::Dead, Some(0), &strange).await
}

/// Sends events until it is told that it is enough.
async fn traffic(client: &Client, enough: &AtomicBool) -> Result<()> {
    let mut number = 0;
    while !enough.load(Ordering::SeqCst) {
        number += 1;
        client.send(&format!("good-{number}")).await?;
    }
    Ok(())
}

fn text<'a>(told: &'a Value, name: &str) -> &'a str {
    told[name].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_a_dead_letter_and_redrives_it_in_a_browser() -> Result<()> {
    let plan = Plan::new("console").source("acme", &["main"]).http("main", Behaviour::by_rule(refuses_bad_ones));
    let plan = plan.strange_letters(1);
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        for id in ["bad-1", "bad-2"] {
            client.send(id).await?;
        }
        stack.settled().await?;
        strange_letter(stack).await?;
        stack.sink("main").behave(Behaviour::good());

        let (mut console, url) = console(stack, &[]).await?;
        let order = json!({
            "url": url, "token": TOKEN, "event_id": "bad-1", "pictures": pictures(),
            "chromium": chromium()?, "chromedriver": chromedriver()?,
        });
        let mut browser = Script::start(&python_selenium()?, "console.py", &order).await?;
        let walk = async {
            check_login(&browser.line().await?);
            let rates = browser.line().await?;
            assert_eq!((text(&rates, "nodes"), text(&rates, "letters")), ("2 of 2", "3"), "{rates}");
            check_parts(&browser.line().await?);
            check_search(&browser.line().await?);
            let strange = browser.line().await?;
            assert!(text(&strange, "details").contains("nothing that it says is trusted"), "{strange}");
            assert_eq!((&strange["markup_made"], &strange["ran"]), (&json!(0), &Value::Null), "it is text");
            let redrive = browser.line().await?;
            assert!(text(&redrive, "plan").contains("would go to retry.main.1s 1"), "{redrive}");
            assert_eq!(redrive["disabled"], true, "without the right number");
            let complaints = browser.line().await?;
            assert_eq!((&complaints["complaints"], &complaints["forbidden"]), (&json!([]), &json!(true)));
            let logout = browser.line().await?;
            assert!(text(&logout, "url").ends_with("/login"), "{logout}");
            browser.end().await
        };
        let enough = AtomicBool::new(false);
        let walk = async {
            let walked = walk.await;
            enough.store(true, Ordering::SeqCst);
            walked
        };
        let (walked, sent) = tokio::join!(walk, traffic(&client, &enough));
        walked.and(sent)?;

        // The one letter was delivered, and the other was not.
        let main = stack.sink("main");
        until("the letter is delivered", DEADLINE, async || {
            Ok(main
                .deliveries()
                .iter()
                .any(|delivery| delivery.event_id == "bad-1" && delivery.is_effect)
                .then_some(()))
        })
        .await?;
        assert!(!main.deliveries().iter().any(|delivery| delivery.event_id == "bad-2" && delivery.is_effect));
        end(&mut console).await?;
        let log = std::fs::read_to_string(stack.dir().join("logs/console.log"))?;
        for line in ["not logged in", "logged in", "redrive begins", "redrive done", "logged out"] {
            assert!(log.contains(line), "{line} is not in\n{log}");
        }
        assert!(!log.contains(TOKEN));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_console_is_for_its_own_page_and_its_cookie_goes_nowhere_else() -> Result<()> {
    let plan = Plan::new("console-tls").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let [certificate, key] = ["tls/server.pem", "tls/server.key"].map(|name| stack.materials().path(name));
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let (mut console, url) = console(stack, &["--certificate", &certificate, "--key", &key]).await?;
        let address = url.strip_prefix("https://").and_then(|rest| rest.strip_suffix('/')).context("by TLS")?;
        let port = address.rsplit_once(':').context("a port")?.1;
        let (origin, client) = (format!("https://localhost:{port}"), stack.http_client());
        let ask = async |request: http::request::Builder, path: &str, body: String| -> Result<Response<Bytes>> {
            Ok(client.exchange(request.uri(format!("{origin}{path}")).body(body.into())?, DEADLINE).await?)
        };
        let page = ask(Request::builder(), "/login", String::new()).await?;
        assert_eq!(page.status(), 200);
        assert_eq!(page.headers()[STRICT_TRANSPORT_SECURITY], "max-age=31536000");

        let log_in = |origin: &str| Request::builder().method("POST").header(ORIGIN, origin);
        let token = format!("token={TOKEN}");
        for other in [&origin.replacen("https", "http", 1), "https://localhost"] {
            assert_eq!(ask(log_in(other), "/login", token.clone()).await?.status(), 403, "{other}");
        }
        let let_in = ask(log_in(&origin), "/login", token.clone()).await?;
        assert_eq!(let_in.status(), 200);
        let cookie = let_in.headers()[SET_COOKIE].to_str()?;
        assert!(cookie.starts_with("__Host-") && cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        let (cookie, _) = cookie.split_once(';').context("a cookie has attributes")?;
        let session = ask(Request::builder().header(COOKIE, cookie), "/api/session", String::new()).await?;
        assert_eq!(session.status(), 200);
        let csrf = serde_json::from_slice::<Value>(session.body())?["csrf"].as_str().context("a token")?.to_owned();
        let leave = |csrf: &str| log_in(&origin).header(COOKIE, cookie).header("x-csrf-token", csrf);
        assert_eq!(ask(leave("another"), "/api/logout", String::new()).await?.status(), 403);
        assert_eq!(ask(leave(&csrf), "/api/logout", String::new()).await?.status(), 200);
        let after = ask(Request::builder().header(COOKIE, cookie), "/api/session", String::new()).await?;
        assert_eq!(after.status(), 401);

        // Without TLS there is no answer at all.
        let mut plain = TcpStream::connect(address).await?;
        plain.write_all(format!("GET /login HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
        let mut said = Vec::new();
        let _ended = tokio::time::timeout(DEADLINE, plain.read_to_end(&mut said)).await.context("it goes on")?;
        assert!(!said.starts_with(b"HTTP/"), "{said:?}");
        end(&mut console).await
    })
    .await
}

fn check_login(login: &Value) {
    assert_eq!(login["refused"], 1, "the browser tells of the wrong token's 403: {login}");
    assert_eq!(
        (&login["http_only"], text(login, "same_site"), text(login, "seen_by_scripts")),
        (&json!(true), "Strict", "")
    );
}

fn check_parts(parts: &Value) {
    for (part, words) in [
        ("requests", "received"),
        ("latency", "request: from head to answer"),
        ("sources", "acme main requests signed by s1"),
        ("sources", "events opened by"),
        ("sinks", "closed"),
        ("lanes", "main 1s 0"),
        ("groups", ".deliver.main events"),
        ("router", "routed"),
    ] {
        assert!(text(parts, part).contains(words), "{words} is not in {part}: {parts}");
    }
}

fn check_search(search: &Value) {
    assert!(text(search, "everything").starts_with("3 letters (1 not_trusted, 2 refused)"), "{search}");
    assert!(text(search, "by_reason").starts_with("2 letters"), "{search}");
    assert_eq!(text(search, "markup"), "no letters");
    assert!(text(search, "by_id").starts_with("1 letters"), "{search}");
    let details = text(search, "details");
    for words in ["refused", "400", " B, sealed", "ss-source", "retry.main.1s"] {
        assert!(details.contains(words), "{words} is not in {details}");
    }
    assert!(!details.contains("canary") && !details.contains("bad-1"), "nothing of the payload: {details}");
}

async fn end(console: &mut Child) -> Result<()> {
    let pid = console.id().and_then(|pid| i32::try_from(pid).ok()).context("it runs")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    let status = tokio::time::timeout(DEADLINE, console.wait()).await.context("the console does not end")??;
    ensure!(status.success(), "the console ended with {status}");
    Ok(())
}
