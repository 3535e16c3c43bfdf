use std::net::Ipv4Addr;
use std::time::Duration;

use http::Request;
use http::header::{CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN};
use http_body_util::BodyExt;
use tempfile::TempDir;

use super::*;
use crate::cluster::sample;
use crate::console::access::CSRF_HEADER;
use crate::console::access::tests::TOKEN;
use crate::dlq::Followed;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OURS: &str = "http://localhost:9180";

/// A site over a Kafka that nobody answers for.
struct Console {
    site: Site,
    _dir: TempDir,
}

fn console(read_only: bool) -> Console {
    let dir = tempfile::tempdir().unwrap();
    for key in ["e", "c", "i", "k"] {
        std::fs::write(dir.path().join(key), format!("hex:{}\n", "07".repeat(32))).unwrap();
    }
    std::fs::write(dir.path().join("token"), TOKEN).unwrap();
    let text = r#"
kafka.bootstrap = "127.0.0.1:1"
topics.partitions = 2
pipeline = { edge_keys = [{ id = "e", file = "e" }], core_keys = [{ id = "c", file = "c" }], id_keys = [{ id = "i", file = "i" }] }
[source.acme]
keys = [{ id = "k", file = "k" }]
sinks = ["main"]
[sink.main]
kind = "file"
path = "main.jsonl"
"#;
    let path = dir.path().join("processor.toml");
    std::fs::write(&path, text).unwrap();
    let config = Arc::new(Config::load(Some(&path), std::iter::empty()).unwrap());
    let (clock, _) = Clock::manual(1_700_000_000_000);
    let site = Site {
        access: Access::new(&dir.path().join("token"), clock.clone(), 9180, false).unwrap(),
        guard: Guard::new("127.0.0.1:9180".parse().unwrap(), &[], false),
        jobs: Jobs::new(config.clone(), clock.clone(), 100),
        read_only,
        live: Live::default(),
        letters: Letters::of(Followed::of(&config, 100).unwrap()),
        config,
        clock,
    };
    Console { site, _dir: dir }
}

/// What came back: status, headers, and the body as JSON if it is some.
struct Got {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Console {
    async fn ask(&self, request: Request<&str>) -> Got {
        let (head, body) = request.into_parts();
        let (head, body) = self.site.answer(PEER, &head, Some(body.as_bytes())).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Got {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    async fn get(&self, path: &str, cookie: &str) -> Got {
        self.ask(Request::get(path).header(HOST, "localhost:9180").header(COOKIE, cookie).body("").unwrap()).await
    }

    /// Posts as the page does, with these parts bent.
    async fn post(&self, path: &str, body: &str, cookie: &str, origin: Option<&str>, csrf: Option<&str>) -> Got {
        let mut request = Request::post(path).header(HOST, "localhost:9180").header(COOKIE, cookie);
        for (name, text) in [(ORIGIN.as_str(), origin), (CSRF_HEADER, csrf)] {
            if let Some(text) = text {
                request = request.header(name, text);
            }
        }
        self.ask(request.body(body).unwrap()).await
    }

    /// Logs in; answers cookie and CSRF token.
    async fn log_in(&self) -> (String, String) {
        let got = self.post("/login", &format!("token={TOKEN}"), "", Some(OURS), None).await;
        assert_eq!(got.status, 200);
        let cookie = got.headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let session = self.get("/api/session", &cookie).await;
        let csrf = session.body["csrf"].as_str().unwrap().to_owned();
        (cookie, csrf)
    }
}

#[tokio::test]
async fn without_a_session_there_is_the_login_and_nothing_of_the_deployment() {
    let console = console(false);
    let start = console.get("/", "").await;
    assert_eq!((start.status, &start.headers[LOCATION]), (303, &HeaderValue::from_static("/login")));
    for path in ["/login", "/page.css", "/page.js", "/icon.svg"] {
        assert_eq!(console.get(path, "").await.status, 200, "{path}");
    }
    for path in ["/api/session", "/api/state", "/api/letters", "/api/letter?place=0/0", "/api/nothing", "/nothing"] {
        assert_eq!(console.get(path, "sealstream-9180=guess").await.status, 401, "{path}");
    }
    let (cookie, _) = console.log_in().await;
    for path in ["/", "/api/session", "/api/state", "/api/letters"] {
        assert_eq!(console.get(path, &cookie).await.status, 200, "{path}");
    }
    assert_eq!(console.get("/nothing", &cookie).await.status, 404);
}

#[tokio::test]
async fn a_change_needs_a_session_the_own_origin_and_the_csrf_token() {
    let console = console(false);
    let (cookie, csrf) = console.log_in().await;
    let (_, other_csrf) = console.log_in().await;
    let all = (cookie.as_str(), Some(OURS), Some(csrf.as_str()));
    for path in ["/api/redrive", "/api/dry-run", "/api/stop", "/api/logout"] {
        for (what, (cookie, origin, csrf), status) in [
            ("no session", ("", all.1, all.2), 401),
            ("no origin", (all.0, None, all.2), 403),
            ("a foreign origin", (all.0, Some("http://evil.example"), all.2), 403),
            ("another port's origin", (all.0, Some("http://localhost:1"), all.2), 403),
            ("no CSRF token", (all.0, all.1, None), 403),
            ("another session's CSRF token", (all.0, all.1, Some(other_csrf.as_str())), 403),
        ] {
            assert_eq!(console.post(path, "", cookie, origin, csrf).await.status, status, "{path}: {what}");
        }
    }
    // The control: with all of them it is heard.
    assert_eq!(console.post("/api/redrive", "", all.0, all.1, all.2).await.status, 400, "no number confirms it");
    assert_eq!(console.post("/api/nothing", "", all.0, all.1, all.2).await.status, 404);
    assert_eq!(console.post("/api/logout", "", all.0, all.1, all.2).await.status, 200);
    assert_eq!(console.get("/api/session", &cookie).await.status, 401);
}

#[tokio::test]
async fn reading_changes_nothing_and_other_methods_are_not_served() {
    let console = console(false);
    let (cookie, csrf) = console.log_in().await;
    for path in ["/api/redrive", "/api/stop", "/api/logout"] {
        assert_eq!(console.get(path, &cookie).await.status, 404, "{path}");
    }
    assert_eq!(console.get("/api/session", &cookie).await.status, 200, "still logged in");
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let request = Request::builder().method(method).uri("/api/logout").header(HOST, "localhost:9180");
        let request = request.header(COOKIE, &cookie).header(ORIGIN, OURS).header(CSRF_HEADER, &csrf).body("").unwrap();
        assert_eq!(console.ask(request).await.status, 405);
    }
}

#[tokio::test]
async fn a_foreign_host_gets_nothing_and_a_foreign_page_no_session() {
    let console = console(false);
    for path in ["/", "/login", "/page.js", "/api/session"] {
        let request = Request::get(path).header(HOST, "evil.example:9180").body("").unwrap();
        assert_eq!(console.ask(request).await.status, 421, "{path}");
    }
    let body = format!("token={TOKEN}");
    for origin in [None, Some("http://evil.example"), Some("null")] {
        let got = console.post("/login", &body, "", origin, None).await;
        assert!(got.status == 403 && !got.headers.contains_key(SET_COOKIE), "{origin:?}");
    }
}

#[tokio::test]
async fn guessing_is_answered_429_and_tells_nothing() {
    let console = console(false);
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(console.post("/login", "token=guess", "", Some(OURS), None).await.status);
    }
    assert_eq!(statuses, [403, 403, 403, 403, 403, 429, 429]);
    let right = console.post("/login", &format!("token={TOKEN}"), "", Some(OURS), None).await;
    assert_eq!((right.status, right.headers.contains_key(SET_COOKIE)), (429, false));
}

#[tokio::test]
async fn every_answer_is_protected_whatever_it_says() {
    let console = console(false);
    let (cookie, _) = console.log_in().await;
    let mut all = Vec::new();
    for path in ["/", "/login", "/page.js", "/icon.svg", "/api/state", "/api/letters?reason=x", "/nothing"] {
        all.push(console.get(path, &cookie).await);
    }
    all.push(console.post("/api/redrive", "", "", None, None).await);
    all.push(console.ask(Request::get("/").header(HOST, "evil.example").body("").unwrap()).await);
    for got in all {
        let policy = got.headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(got.headers["x-content-type-options"], "nosniff");
        assert_eq!(got.headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn read_only_looks_and_never_redrives() {
    let console = console(true);
    let (cookie, csrf) = console.log_in().await;
    for path in ["/api/redrive", "/api/stop"] {
        let got = console.post(path, "confirmed=1", &cookie, Some(OURS), Some(&csrf)).await;
        assert!(got.status == 403 && got.body["error"].as_str().unwrap().contains("--read-only"));
    }
    assert_eq!(console.get("/api/session", &cookie).await.body["read_only"], true);
}

#[tokio::test]
async fn the_state_has_the_view_and_the_points_after_a_time() {
    let console = console(false);
    let (cookie, _) = console.log_in().await;
    assert_eq!(console.get("/api/state", &cookie).await.body["view"], Value::Null, "before the first look");
    console.site.live.show(sample());
    let state = console.get("/api/state?since=0", &cookie).await.body;
    assert_eq!((&state["view"]["letters"]["waiting"], state["points"].as_array().unwrap().len()), (&json!(5), 1));
    let since = format!("/api/state?since={}", sample().at_ms);
    assert_eq!(console.get(&since, &cookie).await.body["points"], json!([]));
}

#[tokio::test]
async fn a_wrong_search_is_told_as_text() {
    let console = console(false);
    let (cookie, _) = console.log_in().await;
    let got = console.get("/api/letters?source=%3Cscript%3E", &cookie).await;
    assert_eq!((got.status, &got.headers[CONTENT_TYPE]), (400, &HeaderValue::from_static("application/json")));
    assert!(got.body["error"].as_str().unwrap().contains("<script>"));
    assert_eq!(console.get("/api/letters?id=evt-1", &cookie).await.status, 400, "an event id needs its source");
    assert_eq!(console.get("/api/letter?place=nowhere", &cookie).await.status, 400);
    assert_eq!(console.get("/api/letter?place=0/1", &cookie).await.status, 404);
}

#[test]
fn the_page_has_nothing_inline_and_nothing_from_elsewhere() {
    for file in FILES.iter().chain([&INDEX, &LOGIN]) {
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "//cdn", "https://", "javascript:"]
        {
            assert!(!file.text.contains(forbidden), "{} holds {forbidden}", file.path);
        }
        if file.kind == HTML {
            for forbidden in ["<style", " style=", " onclick=", " onload=", "<script>"] {
                assert!(!file.text.contains(forbidden), "{} holds {forbidden}", file.path);
            }
        }
    }
}

#[test]
fn what_lasts_is_waited_for_in_the_end() {
    let console = console(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(console.site.jobs.ended(Duration::from_secs(1))), "nothing is under way");
    let query = Search::parse("").unwrap();
    let begun = runtime.block_on(console.site.jobs.dry_run(query)).unwrap();
    assert!(matches!(begun, Answer::Busy), "nothing begins after that");
}
