//! How the nodes of a deployment tell each other what they have admitted: through Redis, in the background.
//!
//! Only this file names the Redis client. No request ever waits for it: while Redis is away or slow, each node goes on with
//! what it knows, and a counter says so. One script does everything at once and reads Redis's own clock, so that nobody
//! else's matters.
//!
//! ```text
//! key     <prefix>:rate:<hex of the first 16 bytes of SHA-256(network, 16 bytes ‖ hash of the path, 8 bytes)>
//! value   when the budget will be whole again: microseconds since 1970 by Redis's clock, in decimal
//! expiry  that moment: keys are there only as long as they say something
//! ```
//!
//! There are never more keys than entries in the nodes' tables together. It needs the commands `SCRIPT LOAD`, `EVALSHA`,
//! `TIME`, `GET` and `SET`, and `AUTH` and `SELECT` where configured.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use common::clock::Clock;
use common::config::Mistake;
use common::tls;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{Key, RateLimiter, Report};
use crate::config;
use crate::metrics::RateMetrics;

/// How often a node reports. With an exchange that takes no longer than this, what one node admits is known to itself and
/// to Redis within 0.1 s.
pub(crate) const EXCHANGE_INTERVAL: Duration = Duration::from_millis(50);
/// How long an exchange may take before Redis counts as away.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// How long connecting may take, TLS and login included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long after a failure Redis is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Keys of one run of the script, during which Redis does nothing else.
const SCRIPT_KEYS_MAX: usize = 1000;

/// Moves each key's moment on by its charge, and answers how far ahead it lies then, in microseconds.
const SCRIPT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer = {}
for i, key in ipairs(KEYS) do
  local whole_at = math.max(tonumber(redis.call('GET', key) or '0'), now) + tonumber(ARGV[i])
  local ahead = whole_at - now
  redis.call('SET', key, string.format('%.0f', whole_at), 'PX', math.ceil(ahead / 1000))
  answer[i] = ahead
end
return answer
";

/// Why there was no exchange. The operator's fault, Redis's, or the network's.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No connection.
    #[error("cannot connect to redis: {0}")]
    Connect(#[from] std::io::Error),
    /// Redis refused something, or the connection broke.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Nothing came in time.
    #[error("redis did not answer in time")]
    Late,
    /// An answer that does not fit what was asked.
    #[error("redis answered for {answered} of {asked} keys")]
    Answer {
        /// Keys in the question.
        asked: usize,
        /// Numbers in the answer.
        answered: usize,
    },
}

/// Where Redis is, and how to log in.
#[derive(Clone)]
pub(crate) struct Store {
    address: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    login: RedisConnectionInfo,
    prefix: String,
}

impl Store {
    /// Reads the files that the configuration names. `None` without a store, and after a mistake.
    pub(crate) fn load(config: &config::Rate, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        if config.requests_per_minute == 0 || config.store != config::RateStore::Redis {
            return None;
        }
        let redis = &config.redis;
        let mut wrong =
            |key: &str, sentence: String| mistakes.push(Mistake::new(format!("rate.redis.{key}"), sentence));
        let mut login = RedisConnectionInfo::default().set_db(redis.database.into()).set_skip_set_lib_name();
        if !redis.username.is_empty() {
            login = login.set_username(&redis.username);
        }
        if !redis.password_file.is_empty() {
            let secret = redis.password_file.load().map_err(|error| wrong("password_file", error.to_string())).ok()?;
            let Ok(password) = std::str::from_utf8(secret.expose()) else {
                wrong("password_file", "the password is not UTF-8".into());
                return None;
            };
            login = login.set_password(password);
        }
        let tls = if redis.tls.enabled {
            let config = tls::client_config(&redis.tls.ca).map_err(|error| wrong("tls.ca", error.to_string())).ok()?;
            let host = redis.address.rsplit_once(':').map_or("", |(host, _)| host);
            let Ok(name) = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()) else {
                wrong("address", "must name a host, for TLS".into());
                return None;
            };
            Some((config, name))
        } else {
            None
        };
        Some(Self { address: redis.address.clone(), tls, login, prefix: redis.prefix.clone() })
    }

    /// A connection, and what keeps it going.
    async fn connect(&self) -> Result<(MultiplexedConnection, Driver), ExchangeError> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some((config, name)) => Box::new(TlsConnector::from(config.clone()).connect(name.clone(), tcp).await?),
        };
        // The deadlines are ours.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (connection, driver) = MultiplexedConnection::new_with_config(&self.login, stream, config).await?;
        Ok((connection, Driver(Box::pin(driver))))
    }

    /// What Redis's clock says, Unix milliseconds, to someone who could run the exchange.
    pub(crate) async fn time_ms(&self) -> Result<u64, ExchangeError> {
        let asked = async {
            let (connection, driver) = self.connect().await?;
            let asking = async {
                let mut session = Session::begin(connection).await?;
                let (s, us): (u64, u64) = redis::cmd("TIME").query_async(&mut session.connection).await?;
                Ok(s * 1000 + us / 1000)
            };
            tokio::select! {
                answer = asking => answer,
                () = driver.0 => Err(ExchangeError::Late),
            }
        };
        timeout(CONNECT_DEADLINE, asked).await.unwrap_or(Err(ExchangeError::Late))
    }

    fn key(&self, key: &Key) -> String {
        let digest = Sha256::new().chain_update(key.network.to_bytes()).chain_update(key.path.to_be_bytes()).finalize();
        let number = digest.iter().take(16).fold(0u128, |number, byte| number << 8 | u128::from(*byte));
        format!("{}:rate:{number:032x}", self.prefix)
    }

    /// Reports, and answers how far ahead each key's moment lies.
    async fn tell(&self, session: &mut Session, reports: &[Report]) -> Result<Vec<Duration>, ExchangeError> {
        let mut pipeline = redis::pipe();
        for part in reports.chunks(SCRIPT_KEYS_MAX) {
            let command = pipeline.cmd("EVALSHA").arg(&session.script).arg(part.len());
            for report in part {
                command.arg(self.key(&report.key));
            }
            for report in part {
                command.arg(report.charge.as_micros().to_string());
            }
        }
        let answers: Vec<Vec<u64>> = pipeline.query_async(&mut session.connection).await?;
        let ahead: Vec<Duration> = answers.into_iter().flatten().map(Duration::from_micros).collect();
        if ahead.len() == reports.len() {
            Ok(ahead)
        } else {
            Err(ExchangeError::Answer { asked: reports.len(), answered: ahead.len() })
        }
    }
}

/// What carries Redis's protocol.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What keeps a connection going.
struct Driver(Pin<Box<dyn Future<Output = ()> + Send>>);

/// A connection that knows the script.
struct Session {
    connection: MultiplexedConnection,
    /// Redis's name for the script.
    script: String,
}

impl Session {
    /// Teaches a connection the script.
    async fn begin(mut connection: MultiplexedConnection) -> Result<Self, ExchangeError> {
        let script = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(&mut connection).await?;
        Ok(Self { connection, script })
    }
}

/// Keeps one limiter and Redis informed of each other.
pub(crate) struct Exchange {
    limiter: Arc<RateLimiter>,
    /// What the next connection is made by.
    store: Arc<ArcSwap<Store>>,
    metrics: RateMetrics,
    clock: Clock,
}

impl Exchange {
    /// An exchange that does not run yet.
    pub(crate) fn new(
        limiter: Arc<RateLimiter>,
        store: Arc<ArcSwap<Store>>,
        metrics: RateMetrics,
        clock: Clock,
    ) -> Self {
        Self { limiter, store, metrics, clock }
    }

    /// Exchanges until the token is cancelled.
    pub(crate) async fn run(self, over: CancellationToken) {
        let mut told = false;
        while let Some(Err(error)) = over.run_until_cancelled(self.exchange_until_it_fails(&mut told)).await {
            self.metrics.failed.increment(1);
            // From now on it is overdue, and may be forgotten once it has drained.
            self.limiter.put_back(&self.limiter.reports(self.clock.monotonic()));
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(%error, "the nodes' shared rate limit is out of reach: each goes on by itself");
            } else {
                tracing::debug!(%error, "the nodes' shared rate limit is out of reach");
            }
            if over.run_until_cancelled(sleep(RETRY_INTERVAL)).await.is_none() {
                return;
            }
        }
    }

    async fn exchange_until_it_fails(&self, told: &mut bool) -> Result<Infallible, ExchangeError> {
        let connected = timeout(CONNECT_DEADLINE, self.store.load_full().connect())
            .await
            .map_err(|_elapsed| ExchangeError::Late)?;
        let (connection, driver) = connected?;
        let exchanges = async {
            let begun = timeout(ANSWER_DEADLINE, Session::begin(connection)).await;
            let mut session = begun.map_err(|_elapsed| ExchangeError::Late)??;
            if std::mem::take(told) {
                tracing::info!("the nodes share their rate limit again");
            }
            let mut ticks = interval(EXCHANGE_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.exchange(&mut session).await?;
            }
        };
        // What drives the connection ends only with it; then the exchange has an error of its own.
        tokio::pin!(exchanges);
        tokio::select! {
            failed = &mut exchanges => failed,
            () = driver.0 => exchanges.await,
        }
    }

    /// Tells Redis what is new, and learns from it.
    async fn exchange(&self, session: &mut Session) -> Result<(), ExchangeError> {
        let begun = self.clock.monotonic();
        let reports = self.limiter.reports(begun);
        if reports.is_empty() {
            return Ok(());
        }
        let answered = timeout(ANSWER_DEADLINE, self.store.load_full().tell(session, &reports)).await;
        let ahead = answered.unwrap_or(Err(ExchangeError::Late)).inspect_err(|_| self.limiter.put_back(&reports))?;
        let now = self.clock.monotonic();
        for (report, ahead) in reports.iter().zip(ahead) {
            self.limiter.learn(report.key, ahead, now);
        }
        self.metrics.exchanged.increment(1);
        self.metrics.seconds.record(now.saturating_sub(begun));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use common::clock::ManualClock;
    use common::telemetry::Metrics;

    use super::super::of_addresses;
    use super::*;
    use crate::metrics::EdgeMetrics;

    /// The Redis that all tests share; they keep to keys of their own.
    fn config(name: &str) -> config::Rate {
        let url = std::env::var("REDIS_URL").unwrap_or_default();
        let address = url.strip_prefix("redis://").unwrap_or_default();
        assert!(!address.is_empty(), "REDIS_URL is not set: run the tests with `./x test`, which provides it");
        let mut config = crate::tests::config().rate;
        config.store = config::RateStore::Redis;
        config.redis.address = address.to_owned();
        config.redis.prefix = format!("test-{name}-{:016x}", getrandom::u64().unwrap());
        // Nothing comes back while a test runs, whatever Redis's own clock does.
        config.requests_per_minute = 1;
        config.burst = 500;
        config
    }

    /// A node of which every exchange and every moment is the test's.
    struct Node {
        exchange: Exchange,
        session: Session,
        driver: tokio::task::JoinHandle<()>,
        clock: ManualClock,
        metrics: Metrics,
    }

    impl Node {
        async fn start(config: &config::Rate) -> Self {
            let (clock, hand) = Clock::manual(0);
            let metrics = Metrics::isolated();
            let mut mistakes = Vec::new();
            let store = Store::load(config, &mut mistakes).unwrap_or_else(|| panic!("{mistakes:?}"));
            let (connection, driver) = store.connect().await.unwrap();
            let driver = common::shutdown::Group::new().spawn("driver", driver.0);
            let session = Session::begin(connection).await.unwrap();
            let limiter = Arc::new(of_addresses(config).unwrap());
            let edge_metrics = EdgeMetrics::new(&metrics, &clock);
            let exchange = Exchange::new(limiter, Arc::new(ArcSwap::from_pointee(store)), edge_metrics.rate, clock);
            Self { exchange, session, driver, clock: hand, metrics }
        }

        fn takes(&self, number: u32) -> bool {
            let network = IpAddr::V4(Ipv4Addr::from_bits(number)).into();
            self.exchange.limiter.take(Key { network, path: 7 }, self.exchange.clock.monotonic()).is_ok()
        }

        async fn exchanges(&mut self) {
            self.exchange.exchange(&mut self.session).await.unwrap();
        }

        async fn keys(&mut self) -> Vec<String> {
            let pattern = format!("{}:*", self.exchange.store.load().prefix);
            redis::cmd("KEYS").arg(pattern).query_async(&mut self.session.connection).await.unwrap()
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            self.driver.abort();
        }
    }

    #[tokio::test]
    async fn two_nodes_admit_no_more_than_the_limit_and_what_one_gets_in_a_tenth_of_a_second() {
        let config = config("bound");
        let mut nodes = [Node::start(&config).await, Node::start(&config).await];
        let (mut admitted, mut refused) = (0, 0);
        for now_ms in 0..2000 {
            for (node, phase) in nodes.iter_mut().zip([10, 35]) {
                if now_ms % 50 == phase {
                    node.exchanges().await;
                }
                // 1000 requests a second at each node: 100 in a tenth of a second.
                if node.takes(1) {
                    admitted += 1
                } else {
                    refused += 1
                }
                node.clock.advance(Duration::from_millis(1));
            }
        }
        assert!((500..=500 + 100).contains(&admitted), "{admitted}");
        assert_eq!(admitted + refused, 4000);
        let done = |node: &Node| node.metrics.value("ingest_rate_exchanges_total", &[("outcome", "done")]);
        assert!(nodes.iter().all(|node| (1.0..=40.0).contains(&done(node))), "only what is new is told");
    }

    #[tokio::test]
    async fn a_node_that_comes_later_learns_what_the_others_have_admitted() {
        let config = config("late");
        let mut first = Node::start(&config).await;
        assert_eq!((0..1000).filter(|_| first.takes(1)).count(), 500);
        first.exchanges().await;
        let mut second = Node::start(&config).await;
        assert!(second.takes(1), "it cannot know yet");
        second.exchanges().await;
        assert!(!second.takes(1));
        assert!(second.takes(2), "another address has its own");
    }

    #[tokio::test]
    async fn keys_show_neither_address_nor_path_and_expire() {
        let config = config("keys");
        let mut node = Node::start(&config).await;
        let addresses = u32::try_from(SCRIPT_KEYS_MAX).unwrap() + 5;
        for number in 0..addresses {
            assert!(node.takes(number));
        }
        node.exchanges().await;
        let keys = node.keys().await;
        assert_eq!(keys.len(), SCRIPT_KEYS_MAX + 5, "more than one run of the script");
        for key in &keys {
            let hash = key.strip_prefix(&format!("{}:rate:", config.redis.prefix)).unwrap();
            assert!(hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
            let left_ms: i64 = redis::cmd("PTTL").arg(key).query_async(&mut node.session.connection).await.unwrap();
            assert!((1..=60_000).contains(&left_ms), "one request of one a minute: {left_ms}");
        }
    }

    #[tokio::test]
    async fn what_fails_is_told_later() {
        let config = config("again");
        let mut node = Node::start(&config).await;
        assert!(node.takes(1));
        let script = std::mem::replace(&mut node.session.script, "0".repeat(40));
        let failed = node.exchange.exchange(&mut node.session).await;
        assert!(matches!(failed, Err(ExchangeError::Redis(_))), "{failed:?}");
        assert_eq!(node.keys().await.len(), 0);
        node.session.script = script;
        node.exchanges().await;
        assert_eq!(node.keys().await.len(), 1);
    }

    #[test]
    fn every_mistake_is_told_and_no_password() {
        let mut config = crate::tests::config().rate;
        config.requests_per_minute = 60;
        config.store = config::RateStore::Redis;
        config.redis.address = "::bad::host:6379".into();
        config.redis.tls.enabled = true;
        let load = |config: &config::Rate| {
            let mut mistakes = Vec::new();
            let loaded = Store::load(config, &mut mistakes).is_some();
            (loaded, mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(load(&config), (false, vec!["rate.redis.address: must name a host, for TLS".to_owned()]));
        let dir = tempfile::tempdir().unwrap();
        let file = |content: &[u8]| {
            let path = dir.path().join("file");
            std::fs::write(&path, content).unwrap();
            path
        };
        config.redis.address = "localhost:6379".into();
        assert!(load(&config).0);
        config.redis.tls.ca = common::config::ConfigPath::new(file(b"canary"));
        let (loaded, told) = load(&config);
        assert!(!loaded && told.len() == 1 && told[0].starts_with("rate.redis.tls.ca: "), "{told:?}");
        config.redis.password_file = common::config::SecretFile::new(file(b"canary\xff"));
        let (loaded, told) = load(&config);
        assert!(!loaded && told == ["rate.redis.password_file: the password is not UTF-8"], "{told:?}");
        config.store = config::RateStore::Memory;
        assert_eq!(load(&config), (false, vec![]), "what is not used is not read");
    }
}
