//! The sources: which path leads to which, and by which secrets they are told apart.
//!
//! On a path every secret of every source is worked through, whatever the request shows, so that neither answer nor time
//! tells which sources exist; those outside their period too, and none of these is accepted. A path whose sources are all
//! disabled has a secret that nobody knows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use common::config::{Mistake, Period, SecretFile};
use common::envelope::Format;
use common::id::SourceId;
use common::pin::Pin;
use common::secret::Secret;
use common::signature::{Mac, Window};
use common::verify::{Shown, Verification, VerifyingKey};
use metrics::Counter;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::config;
use crate::metrics::{EdgeMetrics, PathMetrics, SourceMetrics};
use crate::quota::Quota;
use crate::scheme::Scheme;

/// Shorter secrets can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// Reads secrets and sees to it that each is used once.
#[derive(Default)]
pub(crate) struct Secrets {
    known: Vec<(String, Secret)>,
    pub(crate) mistakes: Vec<Mistake>,
}

impl Secrets {
    /// The secret of the file configured at `key`; `None` leaves a mistake.
    pub(crate) fn load(&mut self, key: &str, file: &SecretFile) -> Option<&Secret> {
        let mut wrong = |sentence: String| self.mistakes.push(Mistake::new(key, sentence));
        let secret = match file.load() {
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

    /// The same as a key of a scheme.
    fn load_key(&mut self, key: &str, file: &SecretFile, scheme: Scheme) -> Option<VerifyingKey> {
        match scheme.spec().key(self.load(key, file)?) {
            Ok(found) => Some(found),
            Err(why) => {
                self.mistakes.push(Mistake::new(key, format!("the secret {why}")));
                None
            }
        }
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
    pub(crate) limit: Arc<SourceLimit>,
    /// What is counted for it.
    pub(crate) metrics: SourceMetrics,
    /// The keys that its senders' certificates may have; empty if they need none.
    pins: Vec<Pin>,
}

impl Source {
    /// Whether a request may come on a connection with this client key.
    pub(crate) fn admits(&self, client_key: Option<Pin>) -> bool {
        self.pins.is_empty() || client_key.is_some_and(|key| self.pins.contains(&key))
    }
}

/// How many requests of a source are accepted.
#[derive(Debug)]
pub(crate) struct SourceLimit {
    /// `None` for all.
    quota: Option<Quota>,
    whole_at: Mutex<Duration>,
}

impl SourceLimit {
    /// A limit as configured: the one there was, if it is still that.
    fn new(config: &config::Source, before: Option<&Arc<Self>>) -> Arc<Self> {
        let quota = Quota::new(config.requests_per_second, Duration::from_secs(1), config.burst);
        let same = before.filter(|before| before.quota == quota);
        same.cloned().unwrap_or_else(|| Arc::new(Self { quota, whole_at: Mutex::default() }))
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
pub(crate) struct Routes {
    by_path: HashMap<String, Arc<Route>>,
    /// The sources' limits, for the next set.
    limits: HashMap<SourceId, Arc<SourceLimit>>,
}

/// One path and the sources behind it.
#[derive(Debug)]
pub(crate) struct Route {
    /// The path.
    pub(crate) path: Box<str>,
    /// Its hash, by which all nodes tell paths apart.
    pub(crate) path_hash: u64,
    /// What is counted for it.
    pub(crate) metrics: PathMetrics,
    /// How all of its sources sign.
    pub(crate) scheme: Scheme,
    /// What any of its sources may send.
    pub(crate) formats: Vec<Format>,
    /// Every secret of its sources; never empty.
    candidates: Vec<Candidate>,
    /// The keys that any of its sources has pinned.
    pins: Vec<Pin>,
}

impl Route {
    /// Begins a verification by every secret, with what stands before the body.
    pub(crate) fn begin<'s>(&self, before_body: &[u8], shown: &'s Shown) -> Verification<'s> {
        Verification::begin(self.candidates.iter().map(|candidate| &candidate.key), before_body, shown)
    }

    /// Whose secret made one of the signatures, by a verification of [`begin`](Self::begin) that was given the body.
    pub(crate) fn verify(&self, verification: Verification<'_>, now_s: u64) -> Option<&Owner> {
        let accepted =
            |index| self.candidates.get(index).is_some_and(|candidate: &Candidate| candidate.period.holds(now_s));
        verification.finish(accepted).and_then(|index| self.candidates.get(index)?.owner.as_ref())
    }

    /// Whether one of its sources has pinned this key.
    pub(crate) fn has_pinned(&self, key: Pin) -> bool {
        self.pins.contains(&key)
    }
}

/// A secret that a request may be signed with, or its public half.
#[derive(Debug)]
struct Candidate {
    /// The secret, worked in.
    key: VerifyingKey,
    /// When it is accepted.
    period: Period,
    /// Whose it is; `None` for the one that nobody knows.
    owner: Option<Owner>,
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
    /// Reads the sources' secrets. A source that was there before goes on with what it has used of its limit.
    pub(crate) fn load(
        sources: &BTreeMap<SourceId, config::Source>,
        secrets: &mut Secrets,
        before: Option<&Self>,
        metrics: &EdgeMetrics,
    ) -> Self {
        let mut routes: HashMap<String, Route> = HashMap::new();
        let mut limits = HashMap::new();
        for (id, configured) in sources {
            let route = routes.entry(configured.path.clone()).or_insert_with(|| Route {
                path: configured.path.clone().into(),
                path_hash: path_hash(&configured.path),
                metrics: metrics.path(&configured.path),
                scheme: configured.scheme,
                formats: Vec::new(),
                candidates: Vec::new(),
                pins: Vec::new(),
            });
            let limit = SourceLimit::new(configured, before.and_then(|before| before.limits.get(id)));
            limits.insert(id.clone(), limit.clone());
            let source = Arc::new(Source {
                id: id.clone(),
                formats: configured.formats.clone(),
                window: Window { tolerance_s: configured.tolerance.as_secs() },
                limit,
                metrics: metrics.source(id, &configured.path),
                pins: configured.pins.clone(),
            });
            route.formats.extend(&configured.formats);
            if configured.enabled {
                route.pins.extend(&configured.pins);
            }
            for (place, entry) in configured.secrets.iter().enumerate() {
                let key = format!("source.{id}.secrets[{place}].file");
                let key = secrets.load_key(&key, &entry.file, configured.scheme);
                if let (Some(key), true) = (key, configured.enabled) {
                    let owner = Owner { source: source.clone(), verified: metrics.verified(id, &entry.id) };
                    route.candidates.push(Candidate { key, period: entry.period(), owner: Some(owner) });
                }
            }
        }
        for route in routes.values_mut().filter(|route| route.candidates.is_empty()) {
            let mut unknown = vec![0; 32];
            getrandom::fill(&mut unknown).expect("the system has random bytes");
            let key = VerifyingKey::Mac(Mac::new(&Secret::from(unknown)));
            route.candidates.push(Candidate { key, period: Period::default(), owner: None });
        }
        Self { by_path: routes.into_iter().map(|(path, route)| (path, Arc::new(route))).collect(), limits }
    }

    /// The route of exactly this path.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<Route>> {
        self.by_path.get(path)
    }
}

/// The first eight bytes of SHA-256.
fn path_hash(path: &str) -> u64 {
    Sha256::digest(path).iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
