//! Who may do what: the token, sessions, CSRF tokens, and how often one may guess.
//!
//! Whoever knows the token gets a session: a random cookie, and a random CSRF token that the page sends with every change of
//! state. Secrets are compared in constant time. A session ends after half a day, when it is logged out, and when the token's
//! file holds another token; while the file can't be read nobody is let in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::clock::Clock;
use common::config::SecretFile;
use common::secret::Secret;
use data_encoding::BASE64URL_NOPAD;
use http::HeaderMap;
use http::header::COOKIE;

/// Fewer bytes would be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// Sessions at once; the oldest ends for a new one.
const SESSION_COUNT_MAX: usize = 64;
/// How long a session lasts.
const SESSION_LASTS: Duration = Duration::from_secs(12 * 60 * 60);
/// Wrong tokens that an address may try in a row.
const WRONG_MAX: u32 = 5;
/// After so long one of them is forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(12);
/// Addresses that are remembered; more share one account.
const ADDRESS_COUNT_MAX: usize = 1024;
/// Whose account that is: nobody has a multicast address.
const STRANGERS: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0));
/// Where a page says its CSRF token.
pub(super) const CSRF_HEADER: &str = "x-csrf-token";

/// See the module.
pub(super) struct Access {
    token: SecretFile,
    clock: Clock,
    cookie: String,
    attributes: &'static str,
    sessions: Mutex<Vec<Session>>,
    guesses: Mutex<HashMap<IpAddr, Guesses>>,
}

/// Somebody who knew the token.
struct Session {
    id: Secret,
    csrf: Secret,
    /// The token that it was opened with.
    token: Secret,
    began: Duration,
    name: u32,
}

/// What a request with a good session is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visitor {
    /// A random name of the session, for the log.
    pub(super) name: u32,
}

/// Wrong tokens of an address.
#[derive(Debug, Clone, Copy)]
struct Guesses {
    wrong: u32,
    /// Since when one is being forgiven.
    since: Duration,
}

/// Why nobody was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Not the token. The visitor's fault.
    #[error("that is not the token")]
    WrongToken,
    /// Too many of those. The visitor's fault.
    #[error("too many wrong tokens: wait a minute")]
    TooMany,
    /// The token can't be read. The operator's fault.
    #[error("the token's file can't be read; the console's log says why")]
    NoToken,
}

impl Access {
    /// Reads the token once, so that a wrong file is told at the start.
    pub(super) fn new(token_file: &Path, clock: Clock, port: u16, is_tls: bool) -> Result<Self> {
        let token = SecretFile::new(token_file);
        let length = token.load()?.expose().len();
        if length < TOKEN_BYTES_MIN {
            bail!(
                "the token in {} has {length} bytes: at least {TOKEN_BYTES_MIN} are needed, for example of `openssl rand -hex 32`",
                token_file.display()
            );
        }
        // Cookies of one host are shared by its ports.
        let (cookie, attributes) = if is_tls {
            (format!("__Host-sealstream-{port}"), "; Path=/; HttpOnly; SameSite=Strict; Secure")
        } else {
            (format!("sealstream-{port}"), "; Path=/; HttpOnly; SameSite=Strict")
        };
        Ok(Self { token, clock, cookie, attributes, sessions: Mutex::default(), guesses: Mutex::default() })
    }

    /// Opens a session for who knows the token; answers the cookie to be set.
    pub(super) fn log_in(&self, address: IpAddr, given: &str) -> Result<(String, Visitor), Refused> {
        let now = self.clock.monotonic();
        let mut guesses = locked(&self.guesses);
        let account = account(&mut guesses, address, now);
        account.forgive(now);
        if account.wrong >= WRONG_MAX {
            return Err(Refused::TooMany);
        }
        let token = self.current().ok_or(Refused::NoToken)?;
        if !token.is_same_as(&Secret::from(given.as_bytes().to_vec())) {
            account.wrong += 1;
            return Err(Refused::WrongToken);
        }
        drop(guesses);
        let new = || {
            random().map_err(|error| {
                tracing::error!(%error, "no session could be opened");
                Refused::NoToken
            })
        };
        let (id, csrf) = (new()?, new()?);
        let name = getrandom::u32().unwrap_or_default();
        let cookie = format!("{}={id}{}", self.cookie, self.attributes);
        let mut sessions = locked(&self.sessions);
        sessions.retain(|session| session.is_alive(now));
        if sessions.len() >= SESSION_COUNT_MAX {
            sessions.remove(0);
        }
        let secret = |text: String| Secret::from(text.into_bytes());
        sessions.push(Session { id: secret(id), csrf: secret(csrf), token, began: now, name });
        Ok((cookie, Visitor { name }))
    }

    /// Who sent this request, if it has a session.
    pub(super) fn visitor(&self, headers: &HeaderMap) -> Option<Visitor> {
        self.with_session(headers, |session| Visitor { name: session.name })
    }

    /// The CSRF token of this request's session.
    pub(super) fn csrf(&self, headers: &HeaderMap) -> Option<String> {
        self.with_session(headers, |session| String::from_utf8_lossy(session.csrf.expose()).into_owned())
    }

    /// Whether this request says the CSRF token of its session.
    pub(super) fn says_csrf(&self, headers: &HeaderMap) -> bool {
        let Some(said) = headers.get(CSRF_HEADER) else { return false };
        let said = Secret::from(said.as_bytes().to_vec());
        self.with_session(headers, |session| session.csrf.is_same_as(&said)).unwrap_or(false)
    }

    /// Ends this request's session; answers the cookie that takes its cookie away.
    pub(super) fn log_out(&self, headers: &HeaderMap) -> String {
        let id = self.cookie_of(headers);
        locked(&self.sessions).retain(|session| !id.as_ref().is_some_and(|id| session.id.is_same_as(id)));
        format!("{}={}; Max-Age=0", self.cookie, self.attributes)
    }

    fn with_session<T>(&self, headers: &HeaderMap, answer: impl FnOnce(&Session) -> T) -> Option<T> {
        let id = self.cookie_of(headers)?;
        let (now, token) = (self.clock.monotonic(), self.current()?);
        let sessions = locked(&self.sessions);
        let session = sessions.iter().find(|session| session.id.is_same_as(&id))?;
        (session.is_alive(now) && session.token.is_same_as(&token)).then(|| answer(session))
    }

    fn cookie_of(&self, headers: &HeaderMap) -> Option<Secret> {
        let pairs = headers.get_all(COOKIE).iter().filter_map(|text| text.to_str().ok());
        let mut pairs = pairs.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == self.cookie)?;
        Some(Secret::from(value.as_bytes().to_vec()))
    }

    /// The token as the file has it now.
    fn current(&self) -> Option<Secret> {
        match self.token.load() {
            Ok(token) if token.expose().len() >= TOKEN_BYTES_MIN => Some(token),
            Ok(_) => {
                tracing::error!(file = %self.token.as_path().display(), "the token is too short: nobody is let in");
                None
            }
            Err(error) => {
                tracing::error!(%error, "nobody is let in");
                None
            }
        }
    }
}

impl Session {
    fn is_alive(&self, now: Duration) -> bool {
        now.saturating_sub(self.began) < SESSION_LASTS
    }
}

impl Guesses {
    fn forgive(&mut self, now: Duration) {
        while self.wrong > 0 && now.saturating_sub(self.since) >= FORGIVEN_AFTER {
            self.wrong -= 1;
            self.since += FORGIVEN_AFTER;
        }
        if self.wrong == 0 {
            self.since = now;
        }
    }
}

/// The account of an address, of an IPv6 network of 64 bits. When there are too many, strangers share one.
fn account(guesses: &mut HashMap<IpAddr, Guesses>, address: IpAddr, now: Duration) -> &mut Guesses {
    let key = match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    };
    if guesses.len() >= ADDRESS_COUNT_MAX && !guesses.contains_key(&key) {
        guesses.values_mut().for_each(|account| account.forgive(now));
        guesses.retain(|_, account| account.wrong > 0);
    }
    let is_full = guesses.len() >= ADDRESS_COUNT_MAX && !guesses.contains_key(&key);
    let key = if is_full { STRANGERS } else { key };
    guesses.entry(key).or_insert(Guesses { wrong: 0, since: now })
}

fn random() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system gives no randomness")?;
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

/// Nothing is left half-done under these locks, so a panic elsewhere spoils nothing.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use common::clock::ManualClock;
    use http::HeaderName;
    use tempfile::TempDir;

    use super::*;

    pub(in crate::console) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn access() -> (TempDir, Access, ManualClock) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let (clock, hand) = Clock::manual(0);
        let access = Access::new(&dir.path().join("token"), clock, 9180, false).unwrap();
        (dir, access, hand)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The headers of a browser that was given this cookie.
    fn with(cookie: &str) -> HeaderMap {
        let pair = cookie.split(';').next().unwrap();
        HeaderMap::from_iter([(COOKIE, format!("other=1; {pair}").parse().unwrap())])
    }

    #[test]
    fn who_knows_the_token_gets_a_session_and_nobody_else() {
        let (_dir, access, _hand) = access();
        for wrong in ["", "0123456789abcdef", &TOKEN[1..], &format!("{TOKEN}x")] {
            assert_eq!(access.log_in(address("127.0.0.1"), wrong).unwrap_err(), Refused::WrongToken);
        }
        let (cookie, visitor) = access.log_in(address("127.0.0.1"), TOKEN).unwrap();
        assert!(cookie.starts_with("sealstream-9180=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"));
        assert_eq!(access.visitor(&with(&cookie)), Some(visitor));
        assert_eq!(access.visitor(&HeaderMap::new()), None);
        assert_eq!(access.visitor(&with(&cookie.replacen('=', "=x", 1))), None);
        let (other, _) = access.log_in(address("127.0.0.1"), TOKEN).unwrap();
        assert_ne!(cookie, other);
        access.log_out(&with(&cookie));
        assert_eq!(access.visitor(&with(&cookie)), None);
        assert!(access.visitor(&with(&other)).is_some(), "another session goes on");
    }

    #[test]
    fn over_tls_the_cookie_goes_nowhere_else() {
        let (dir, _, _hand) = access();
        let access = Access::new(&dir.path().join("token"), Clock::manual(0).0, 443, true).unwrap();
        let (cookie, _) = access.log_in(address("127.0.0.1"), TOKEN).unwrap();
        assert!(cookie.starts_with("__Host-sealstream-443=") && cookie.ends_with("; Secure"), "{cookie}");
    }

    #[test]
    fn a_change_of_state_needs_the_csrf_token_of_its_own_session() {
        let (_dir, access, _hand) = access();
        let (one, _) = access.log_in(address("127.0.0.1"), TOKEN).unwrap();
        let (other, _) = access.log_in(address("127.0.0.1"), TOKEN).unwrap();
        let says = |cookie: &str, csrf: Option<&str>| {
            let mut headers = with(cookie);
            headers.extend(csrf.map(|csrf| (HeaderName::from_static(CSRF_HEADER), csrf.parse().unwrap())));
            access.says_csrf(&headers)
        };
        let csrf = access.csrf(&with(&one)).unwrap();
        assert!(says(&one, Some(&csrf)), "the control");
        assert!(!says(&one, None) && !says(&one, Some("")) && !says(&one, Some(&csrf[1..])));
        assert!(!says(&other, Some(&csrf)), "of another session");
        assert!(!says("sealstream-9180=none", Some(&csrf)), "of none");
    }

    #[test]
    fn a_session_ends_with_its_time_and_with_its_token() {
        let (dir, access, hand) = access();
        let (cookie, _) = access.log_in(address("127.0.0.1"), TOKEN).unwrap();
        hand.advance(SESSION_LASTS - Duration::from_millis(1));
        assert!(access.visitor(&with(&cookie)).is_some());
        hand.advance(Duration::from_millis(1));
        assert!(access.visitor(&with(&cookie)).is_none());

        let (cookie, _) = access.log_in(address("127.0.0.1"), TOKEN).unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, TOKEN.replace('0', "9")).unwrap();
        assert!(access.visitor(&with(&cookie)).is_none(), "the token was changed");
        assert_eq!(access.log_in(address("127.0.0.1"), TOKEN).unwrap_err(), Refused::WrongToken);
        assert!(access.log_in(address("127.0.0.1"), &TOKEN.replace('0', "9")).is_ok());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(access.log_in(address("127.0.0.1"), TOKEN).unwrap_err(), Refused::NoToken);
        std::fs::write(&file, "short").unwrap();
        assert_eq!(access.log_in(address("127.0.0.1"), "short").unwrap_err(), Refused::NoToken);
        assert!(Access::new(&file, Clock::manual(0).0, 1, false).is_err(), "and it does not start with that");
    }

    #[test]
    fn guesses_are_few_and_forgiven_one_by_one() {
        let (_dir, access, hand) = access();
        let log_in = |address: &str, token: &str| access.log_in(self::address(address), token).map(drop);
        for _ in 0..WRONG_MAX {
            assert_eq!(log_in("192.0.2.1", "wrong"), Err(Refused::WrongToken));
        }
        assert_eq!(log_in("192.0.2.1", TOKEN), Err(Refused::TooMany), "the right one too");
        assert_eq!(log_in("::ffff:192.0.2.1", TOKEN), Err(Refused::TooMany), "the same address");
        assert_eq!(log_in("192.0.2.2", TOKEN), Ok(()), "others are let in");
        hand.advance(FORGIVEN_AFTER - Duration::from_millis(1));
        assert_eq!(log_in("192.0.2.1", TOKEN), Err(Refused::TooMany));
        hand.advance(Duration::from_millis(1));
        assert_eq!(log_in("192.0.2.1", "wrong"), Err(Refused::WrongToken));
        assert_eq!(log_in("192.0.2.1", TOKEN), Err(Refused::TooMany), "one was forgiven, not all");
    }

    #[test]
    fn an_ipv6_network_is_one_guesser_and_a_full_table_makes_strangers_one() {
        let (_dir, access, _hand) = access();
        for last in 1..=WRONG_MAX {
            let _ = access.log_in(address(&format!("2001:db8::{last}")), "wrong");
        }
        assert_eq!(access.log_in(address("2001:db8::ffff"), TOKEN).unwrap_err(), Refused::TooMany);
        assert!(access.log_in(address("2001:db8:0:1::1"), TOKEN).is_ok());
        for number in 0..2 * ADDRESS_COUNT_MAX {
            let _ = access.log_in(address(&format!("10.0.{}.{}", number / 256, number % 256)), "wrong");
        }
        assert!(locked(&access.guesses).len() <= ADDRESS_COUNT_MAX + 1);
        assert_eq!(access.log_in(address("10.9.9.9"), TOKEN).unwrap_err(), Refused::TooMany);
    }

    #[test]
    fn sessions_have_a_limit_and_the_oldest_ends() {
        let (_dir, access, _hand) = access();
        let cookies: Vec<_> =
            (0..=SESSION_COUNT_MAX).map(|_| access.log_in(address("127.0.0.1"), TOKEN).unwrap().0).collect();
        let alive: Vec<_> = cookies.iter().map(|cookie| access.visitor(&with(cookie)).is_some()).collect();
        assert_eq!((alive[0], alive.iter().filter(|alive| **alive).count()), (false, SESSION_COUNT_MAX));
    }
}
