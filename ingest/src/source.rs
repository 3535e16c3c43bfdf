//! The sources: which path leads to which, and by which secrets they are told apart.
//!
//! On a path every active secret of every source is worked through, whatever the request shows, so that neither answer
//! nor time tells which sources exist. A path without an active secret has one that nobody knows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use common::config::{Mistake, Mistakes};
use common::envelope::Format;
use common::id::SourceId;
use common::record::{RecordKey, RecordKeys};
use common::secret::Secret;
use common::signature::{Mac, Window};
use common::tls;
use metrics::Counter;
use parking_lot::Mutex;
use rustls::ServerConfig;
use sha2::{Digest, Sha256};

use crate::config::{self, Config, KeyFile};
use crate::metrics::{EdgeMetrics, PathMetrics, SourceMetrics};
use crate::quota::Quota;
use crate::rate::exchange::Store;

/// Shorter secrets can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// What the files that the configuration names hold: read, and checked together.
pub(crate) struct Materials {
    /// The sources by path.
    pub(crate) routes: Routes,
    /// Makes records' MACs.
    pub(crate) keys: RecordKeys,
    /// Certificate and key.
    pub(crate) tls: Arc<ServerConfig>,
    /// Where nodes exchange their rate limits' counts.
    pub(crate) store: Option<Store>,
}

impl Materials {
    /// Reads every file, and tells everything that is wrong with any of them.
    pub(crate) fn load(config: &Config, metrics: &EdgeMetrics) -> Result<Self, Mistakes> {
        let mut secrets = Secrets::default();
        let edge_key = &config.pipeline.edge_key;
        let keys = secrets
            .load("pipeline.edge_key.file", edge_key)
            .and_then(|secret| RecordKeys::new(vec![RecordKey::new(edge_key.id.clone(), secret)]));
        let routes = Routes::load(&config.source, &mut secrets, metrics);
        let mut mistakes = secrets.mistakes;
        let tls = tls::server_config(config.listen.certificate.as_path(), config.listen.key.as_path())
            .map_err(|error| mistakes.push(Mistake::new("listen", error.to_string())));
        let store = Store::load(&config.rate, &mut mistakes);
        Mistakes::none_in(mistakes)?;
        let (Some(keys), Ok(tls)) = (keys, tls) else { unreachable!("each that is missing left a mistake") };
        Ok(Self { routes, keys, tls, store })
    }
}

/// Reads secrets and sees to it that each is used once.
#[derive(Default)]
struct Secrets {
    known: Vec<(String, Secret)>,
    mistakes: Vec<Mistake>,
}

impl Secrets {
    /// The secret of the file configured at `key`; `None` leaves a mistake.
    fn load(&mut self, key: &str, file: &KeyFile) -> Option<&Secret> {
        let mut wrong = |sentence: String| self.mistakes.push(Mistake::new(key, sentence));
        let secret = match file.file.load() {
            Ok(secret) => secret,
            Err(error) => {
                wrong(error.to_string());
                return None;
            }
        };
        if secret.expose().len() < SECRET_BYTES_MIN {
            wrong(format!("the secret is shorter than {SECRET_BYTES_MIN} bytes"));
            return None;
        }
        if let Some((other, _)) = self.known.iter().find(|(_, known)| known.is_same_as(&secret)) {
            // Whoever knows it could send as either.
            wrong(format!("the secret is the same as that of {other}"));
            return None;
        }
        self.known.push((key.to_owned(), secret));
        self.known.last().map(|(_, secret)| secret)
    }
}

/// One configured source.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its name.
    pub(crate) id: SourceId,
    /// What it may send.
    pub(crate) formats: Vec<Format>,
    /// How far its timestamps may be off.
    pub(crate) window: Window,
    /// How many of its requests are accepted.
    pub(crate) limit: SourceLimit,
    /// What is counted for it.
    pub(crate) metrics: SourceMetrics,
}

/// How many requests of a source are accepted.
#[derive(Debug)]
pub(crate) struct SourceLimit {
    /// `None` for all.
    quota: Option<Quota>,
    whole_at: Mutex<Duration>,
}

impl SourceLimit {
    fn new(config: &config::Source) -> Self {
        let quota = Quota::new(config.requests_per_second, Duration::from_secs(1), config.burst);
        Self { quota, whole_at: Mutex::default() }
    }

    /// Takes one request, or says how long it takes until there is one to take.
    pub(crate) fn take(&self, now: Duration) -> Result<(), Duration> {
        self.quota.map_or(Ok(()), |quota| quota.take(&mut self.whole_at.lock(), now))
    }

    /// Gives back what one request took.
    pub(crate) fn give_back(&self) {
        if let Some(quota) = self.quota {
            quota.give_back(&mut self.whole_at.lock());
        }
    }
}

/// The sources by path.
#[derive(Debug)]
pub(crate) struct Routes(HashMap<String, Arc<Route>>);

/// One path and the sources behind it.
#[derive(Debug)]
pub(crate) struct Route {
    /// The path's hash, by which all nodes tell paths apart.
    pub(crate) path: u64,
    /// What is counted for it.
    pub(crate) metrics: PathMetrics,
    /// What any of its sources may send.
    pub(crate) formats: Vec<Format>,
    /// Every active secret of its sources; never empty.
    pub(crate) candidates: Vec<Candidate>,
}

/// A secret that a request may be signed with.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// The secret, worked in.
    pub(crate) mac: Mac,
    /// Whose it is; `None` for the one that nobody knows.
    pub(crate) owner: Option<Owner>,
}

/// Whose secret it is.
#[derive(Debug)]
pub(crate) struct Owner {
    /// The source.
    pub(crate) source: Arc<Source>,
    /// Counts signatures by this secret.
    pub(crate) verified: Counter,
}

impl Routes {
    fn load(sources: &BTreeMap<SourceId, config::Source>, secrets: &mut Secrets, metrics: &EdgeMetrics) -> Self {
        let mut routes: HashMap<String, Route> = HashMap::new();
        for (id, configured) in sources {
            let route = routes.entry(configured.path.clone()).or_insert_with(|| Route {
                path: path_hash(&configured.path),
                metrics: metrics.path(&configured.path),
                formats: Vec::new(),
                candidates: Vec::new(),
            });
            let window = Window { tolerance_s: configured.tolerance.as_secs() };
            let source = Arc::new(Source {
                id: id.clone(),
                formats: configured.formats.clone(),
                window,
                limit: SourceLimit::new(configured),
                metrics: metrics.source(id, &configured.path),
            });
            route.formats.extend(&configured.formats);
            for (place, file) in configured.secrets.iter().enumerate() {
                let secret = secrets.load(&format!("source.{id}.secrets[{place}].file"), file);
                if let (Some(secret), true) = (secret, configured.enabled) {
                    let owner = Owner { source: source.clone(), verified: metrics.verified(id, &file.id) };
                    route.candidates.push(Candidate { mac: Mac::new(secret), owner: Some(owner) });
                }
            }
        }
        for route in routes.values_mut().filter(|route| route.candidates.is_empty()) {
            let mut unknown = vec![0; 32];
            getrandom::fill(&mut unknown).expect("the system has random bytes");
            route.candidates.push(Candidate { mac: Mac::new(&Secret::from(unknown)), owner: None });
        }
        Self(routes.into_iter().map(|(path, route)| (path, Arc::new(route))).collect())
    }

    /// The route of exactly this path.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<Route>> {
        self.0.get(path)
    }
}

/// The first eight bytes of SHA-256.
fn path_hash(path: &str) -> u64 {
    Sha256::digest(path).iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
