//! Which request is answered by what.
//!
//! | request | needs | does |
//! |---|---|---|
//! | `GET /login`, the page's own files | | |
//! | `POST /login` | `Origin` | opens a session |
//! | `GET /` | a session, else goes to `/login` | |
//! | `GET /api/session`, `/api/state`, `/api/letters`, `/api/letter` | a session | |
//! | `POST /api/dry-run` | a session, `Origin`, the CSRF token | looks what a redrive would do |
//! | `POST /api/redrive`, `/api/stop` | the same, and not `--read-only` | begins a redrive, ends it between two batches |
//! | `POST /api/logout` | the same | ends the session |
//!
//! Nothing but a `POST` changes anything, and every `POST` passes [`Site::may_change`] first.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use common::clock::Clock;
use common::record::LetterPlace;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use processor::config::Config;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::access::{Access, Refused, Visitor};
use super::guard::Guard;
use super::job::{Answer, Jobs};
use super::live::Live;
use super::search::{self, Search};
use crate::cluster::Letters;

/// See the module.
pub(super) struct Site {
    pub(super) access: Access,
    pub(super) guard: Guard,
    pub(super) jobs: Jobs,
    pub(super) read_only: bool,
    pub(super) live: Live,
    pub(super) letters: Letters,
    pub(super) config: Arc<Config>,
    pub(super) clock: Clock,
}

/// A file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const INDEX: File = File { path: "/", kind: HTML, text: include_str!("page/index.html") };
const LOGIN: File = File { path: "/login", kind: HTML, text: include_str!("page/login.html") };
/// They hold nothing of the deployment, so everybody may have them.
const FILES: [File; 7] = [
    File { path: "/page.css", kind: "text/css; charset=utf-8", text: include_str!("page/page.css") },
    File { path: "/icon.svg", kind: "image/svg+xml", text: include_str!("page/icon.svg") },
    File { path: "/login.js", kind: SCRIPT, text: include_str!("page/login.js") },
    File { path: "/page.js", kind: SCRIPT, text: include_str!("page/page.js") },
    File { path: "/dom.js", kind: SCRIPT, text: include_str!("page/dom.js") },
    File { path: "/chart.js", kind: SCRIPT, text: include_str!("page/chart.js") },
    File { path: "/letters.js", kind: SCRIPT, text: include_str!("page/letters.js") },
];

impl Site {
    /// Answers a request; `body` is `None` if it was too long or broke off.
    pub(super) async fn answer(&self, peer: IpAddr, head: &Parts, body: Option<&[u8]>) -> Response<Full<Bytes>> {
        let mut answered = if self.guard.is_for_us(&head.headers) {
            self.route(peer, head, body).await
        } else {
            refusal(StatusCode::MISDIRECTED_REQUEST, "this name is not one of the console's: see --host")
        };
        self.guard.protect(answered.headers_mut());
        answered
    }

    async fn route(&self, peer: IpAddr, head: &Parts, body: Option<&[u8]>) -> Response<Full<Bytes>> {
        let path = head.uri.path();
        if head.method == Method::GET || head.method == Method::HEAD {
            return self.read(path, head).await;
        }
        let Some(body) = body else {
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long, or broke off");
        };
        if head.method != Method::POST {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "GET and POST are served");
        }
        if path == "/login" {
            return self.log_in(peer, head, body);
        }
        match self.may_change(head) {
            Ok(visitor) => self.change(path, head, body, visitor).await,
            Err((status, sentence)) => {
                tracing::warn!(%peer, path, sentence, "a change was refused");
                refusal(status, sentence)
            }
        }
    }

    async fn read(&self, path: &str, head: &Parts) -> Response<Full<Bytes>> {
        if let Some(file) = FILES.iter().chain([&LOGIN]).find(|file| file.path == path) {
            return file.answer();
        }
        let is_in = self.access.visitor(&head.headers).is_some();
        if path == INDEX.path {
            return if is_in { INDEX.answer() } else { redirect(LOGIN.path) };
        }
        if !is_in {
            return refusal(StatusCode::UNAUTHORIZED, "log in first");
        }
        let query = head.uri.query().unwrap_or_default();
        match path {
            "/api/session" => answer(&json!({
                "csrf": self.access.csrf(&head.headers),
                "read_only": self.read_only,
                "reasons": common::record::Reason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>(),
                "sources": self.config.source.keys().map(ToString::to_string).collect::<Vec<_>>(),
                "sinks": self.config.sink.keys().map(ToString::to_string).collect::<Vec<_>>(),
                "prefix": self.config.topics.prefix.to_string(),
            })),
            "/api/state" => {
                let since = parameter(query, "since").and_then(|since| since.parse().ok()).unwrap_or(0);
                let (view, points) = self.live.since(since);
                answer(&json!({ "view": view.as_deref(), "points": points, "job": self.jobs.json() }))
            }
            "/api/letters" => told(self.letters(query).await),
            "/api/letter" => self.letter(query).await,
            _ => refusal(StatusCode::NOT_FOUND, "there is no such thing here"),
        }
    }

    fn log_in(&self, peer: IpAddr, head: &Parts, body: &[u8]) -> Response<Full<Bytes>> {
        if !self.guard.is_from_us(&head.headers) {
            return refusal(StatusCode::FORBIDDEN, "the request comes from another page");
        }
        let token = form_urlencoded::parse(body).find(|(name, _)| name == "token").map(|(_, token)| token.into_owned());
        match self.access.log_in(peer, &token.unwrap_or_default()) {
            Ok((cookie, visitor)) => {
                tracing::info!(%peer, session = visitor.name, "logged in");
                with_cookie(answer(&json!({})), &cookie)
            }
            Err(refused) => {
                tracing::warn!(%peer, %refused, "not logged in");
                let status = match refused {
                    Refused::WrongToken => StatusCode::FORBIDDEN,
                    Refused::TooMany => StatusCode::TOO_MANY_REQUESTS,
                    Refused::NoToken => StatusCode::SERVICE_UNAVAILABLE,
                };
                let mut answered = refusal(status, &refused.to_string());
                if refused == Refused::TooMany {
                    answered.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
                }
                answered
            }
        }
    }

    /// Who asks for a change, if it is somebody who may: from this page, with a session and its CSRF token.
    fn may_change(&self, head: &Parts) -> Result<Visitor, (StatusCode, &'static str)> {
        if !self.guard.is_from_us(&head.headers) {
            return Err((StatusCode::FORBIDDEN, "the request comes from another page"));
        }
        let visitor = self.access.visitor(&head.headers).ok_or((StatusCode::UNAUTHORIZED, "log in first"))?;
        if !self.access.says_csrf(&head.headers) {
            return Err((StatusCode::FORBIDDEN, "the request lacks the page's own token: load the page anew"));
        }
        Ok(visitor)
    }

    async fn change(&self, path: &str, head: &Parts, body: &[u8], visitor: Visitor) -> Response<Full<Bytes>> {
        match path {
            "/api/logout" => {
                tracing::info!(session = visitor.name, "logged out");
                with_cookie(answer(&json!({})), &self.access.log_out(&head.headers))
            }
            "/api/dry-run" => told(self.dry_run(body).await),
            "/api/redrive" | "/api/stop" if self.read_only => {
                refusal(StatusCode::FORBIDDEN, "this console shows only: it was started with --read-only")
            }
            "/api/redrive" => told(self.redrive(body, visitor).await),
            "/api/stop" => {
                tracing::warn!(session = visitor.name, "redrive is asked to stop");
                self.jobs.interrupt();
                answer(&json!({}))
            }
            _ => refusal(StatusCode::NOT_FOUND, "there is no such thing here"),
        }
    }

    async fn letters(&self, query: &str) -> Result<Response<Full<Bytes>>> {
        let search = Search::parse(query)?;
        let (letters, config, now_ms) = (self.letters.clone(), self.config.clone(), self.clock.unix_ms());
        let page = tokio::task::spawn_blocking(move || search.page(&letters, &config, now_ms)).await??;
        Ok(answer(&page))
    }

    async fn letter(&self, query: &str) -> Response<Full<Bytes>> {
        let Some(place) = parameter(query, "place").and_then(|place| place.parse::<LetterPlace>().ok()) else {
            return refusal(StatusCode::BAD_REQUEST, "a place is written partition/offset");
        };
        let (letters, config) = (self.letters.clone(), self.config.clone());
        let found = tokio::task::spawn_blocking(move || search::details(&letters, &config, place)).await;
        told(found.map_err(anyhow::Error::from).flatten().map(|found| match found {
            Some(letter) => answer(&letter),
            None => refusal(StatusCode::NOT_FOUND, "there is no such letter any more"),
        }))
    }

    async fn dry_run(&self, body: &[u8]) -> Result<Response<Full<Bytes>>> {
        let query = std::str::from_utf8(body)?;
        Ok(of_job(self.jobs.dry_run(Search::parse(query)?).await?))
    }

    /// The body is the search, with `confirmed`: how many letters the dry run said would go.
    async fn redrive(&self, body: &[u8], visitor: Visitor) -> Result<Response<Full<Bytes>>> {
        let query = std::str::from_utf8(body)?;
        let Some(confirmed) = parameter(query, "confirmed").and_then(|count| count.parse().ok()) else {
            return Ok(refusal(StatusCode::BAD_REQUEST, "a redrive is confirmed with the number of its letters"));
        };
        let search = form_urlencoded::parse(body).filter(|(name, _)| name != "confirmed");
        let search = form_urlencoded::Serializer::new(String::new()).extend_pairs(search).finish();
        Ok(of_job(self.jobs.begin(Search::parse(&search)?, search, confirmed, visitor).await?))
    }
}

impl File {
    fn answer(&self) -> Response<Full<Bytes>> {
        typed(StatusCode::OK, self.kind, self.text.into())
    }
}

/// The first parameter of this name.
fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

fn of_job(answered: Answer) -> Response<Full<Bytes>> {
    match answered {
        Answer::Told(told) => answer(&told),
        Answer::Busy => refusal(StatusCode::CONFLICT, "another redrive, or a dry run, is under way"),
        Answer::Changed(told) => {
            let mut value = told;
            value["error"] = "other letters would be redriven by now: look at the numbers again".into();
            typed(StatusCode::CONFLICT, "application/json", value.to_string())
        }
    }
}

/// What was asked for, or why it can't be had.
fn told(outcome: Result<Response<Full<Bytes>>>) -> Response<Full<Bytes>> {
    outcome.unwrap_or_else(|error| refusal(StatusCode::BAD_REQUEST, &format!("{error:#}")))
}

fn answer(value: &Value) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, "application/json", value.to_string())
}

fn refusal(status: StatusCode, sentence: &str) -> Response<Full<Bytes>> {
    typed(status, "application/json", json!({ "error": sentence }).to_string())
}

fn redirect(path: &'static str) -> Response<Full<Bytes>> {
    let mut answered = typed(StatusCode::SEE_OTHER, "text/plain", String::new());
    answered.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
    answered
}

fn with_cookie(mut answered: Response<Full<Bytes>>, cookie: &str) -> Response<Full<Bytes>> {
    let cookie = HeaderValue::from_str(cookie).expect("a cookie is made of our own letters and digits");
    answered.headers_mut().insert(SET_COOKIE, cookie);
    answered
}

fn typed(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut answered = Response::new(Full::from(text));
    *answered.status_mut() = status;
    answered.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answered
}

#[cfg(test)]
mod tests;
