//! What a running ingest can be told anew: one set, never changed, swapped as a whole.
//!
//! A request sees one set from its head to its body's end, and is judged by the one that is in effect then.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::clock::Clock;
use common::config::{Mistake, Mistakes};
use common::kafka::client::Credentials;
use common::record::{RecordKey, RecordKeys};
use common::tls::{self, Clients};
use ipnet::IpNet;
use rustls::ServerConfig;

use crate::config::{self, ClientCertificate, Config, Forwarded, Limits, Listen};
use crate::failures::Failures;
use crate::metrics::EdgeMetrics;
use crate::rate::exchange::Store;
use crate::rate::{self, RateLimiter};
use crate::source::{Routes, Secrets};

/// See the module.
pub(crate) struct Settings {
    /// What requests and connections may use.
    pub(crate) limits: Limits,
    /// Where balancers ask whether to send requests; empty: nowhere.
    health_path: String,
    /// The sources by path.
    pub(crate) routes: Routes,
    /// Makes records' MACs.
    pub(crate) keys: RecordKeys,
    /// Certificate and key, and whose clients may connect.
    pub(crate) tls: Arc<ServerConfig>,
    /// Balancers whose PROXY headers are believed.
    pub(crate) proxies: Vec<IpNet>,
    /// HTTP proxies whose headers are believed.
    pub(crate) forwarded: Forwarded,
    /// The limiter of requests per client and path. It stays what it was while its configuration does.
    pub(crate) rate: Option<Arc<RateLimiter>>,
    rate_config: config::Rate,
    /// Where nodes share that limiter's budgets.
    pub(crate) store: Option<Store>,
    /// The limiter of failed authentications. It stays what it was while its configuration does.
    pub(crate) failures: Arc<Failures>,
    /// Which certificates and passwords lead to Kafka.
    pub(crate) credentials: Credentials,
    /// When certificates end, Unix seconds, by the key that names their file.
    pub(crate) expiries: BTreeMap<String, u64>,
}

impl Settings {
    /// Reads every file that the configuration names, and tells everything that is wrong with any of them. `before` is the
    /// set in effect, if there is one.
    pub(crate) fn load(
        config: &Config,
        before: Option<&Self>,
        metrics: &EdgeMetrics,
        clock: &Clock,
    ) -> Result<Self, Mistakes> {
        let mut secrets = Secrets::default();
        let edge_key = &config.pipeline.edge_key;
        let keys = secrets
            .load("pipeline.edge_key.file", &edge_key.file)
            .and_then(|secret| RecordKeys::new(vec![RecordKey::new(edge_key.id.clone(), secret)]));
        let routes = Routes::load(&config.source, &mut secrets, before.map(|before| &before.routes), metrics);
        let mut mistakes = secrets.mistakes;
        let mut wrong = |key: &str, sentence: String| mistakes.push(Mistake::new(key, sentence));
        let tls = server_tls(&config.listen).map_err(|error| wrong("listen", error.to_string()));
        let mut expiries = BTreeMap::new();
        // Without these files the TLS set-up has failed already, and has said why.
        if tls.is_ok() {
            expiries = self::expiries(&config.listen).unwrap_or_else(|error| {
                wrong("listen", error.to_string());
                BTreeMap::new()
            });
        }
        if expiries.get(CERTIFICATE).is_some_and(|end| *end <= clock.unix_s()) {
            wrong(CERTIFICATE, "the certificate has expired".to_owned());
        }
        let credentials = config.kafka.credentials().map_err(|error| wrong("kafka", error.to_string()));
        // What only a start changes stays.
        let (rate_config, store) = match before.filter(|before| config.rate.needs_start(&before.rate_config)) {
            Some(running) => (running.rate_config.clone(), running.store.clone()),
            None => (config.rate.clone(), Store::load(&config.rate, &mut mistakes)),
        };
        Mistakes::none_in(mistakes)?;
        let (Some(keys), Ok(tls), Ok(credentials)) = (keys, tls, credentials) else {
            unreachable!("each that is missing left a mistake")
        };
        let rate = match before {
            Some(before) if before.rate_config == rate_config => before.rate.clone(),
            Some(_) | None => rate::of_addresses(&rate_config).map(Arc::new),
        };
        let failures = match before {
            Some(before) if before.failures.are_as_in(config) => before.failures.clone(),
            Some(_) | None => Arc::new(Failures::new(config)),
        };
        let (limits, proxies) = (config.limits.clone(), config.listen.proxy_protocol.trusted.clone());
        let forwarded = config.listen.forwarded.clone();
        Ok(Self {
            limits,
            health_path: config.listen.health_path.clone(),
            routes,
            keys,
            tls,
            proxies,
            forwarded,
            rate,
            rate_config,
            store,
            failures,
            credentials,
            expiries,
        })
    }

    /// Whether balancers ask there.
    pub(crate) fn is_health_path(&self, path: &str) -> bool {
        !self.health_path.is_empty() && path == self.health_path
    }
}

const CERTIFICATE: &str = "listen.certificate";

fn server_tls(listen: &Listen) -> Result<Arc<ServerConfig>, tls::TlsError> {
    let clients = listen.client_ca.if_set().map(|ca| Clients {
        ca,
        crl: listen.client_crl.if_set(),
        required: listen.client_certificate == ClientCertificate::Required,
    });
    tls::server_config_for(listen.certificate.as_path(), listen.key.as_path(), clients)
}

fn expiries(listen: &Listen) -> Result<BTreeMap<String, u64>, tls::TlsError> {
    let mut expiries = BTreeMap::new();
    let certificates = [(CERTIFICATE, &listen.certificate), ("listen.client_ca", &listen.client_ca)];
    for (key, path) in certificates.into_iter().filter_map(|(key, path)| Some((key, path.if_set()?))) {
        expiries.insert(key.to_owned(), tls::certificate_expiry(path)?);
    }
    if let Some(end) = listen.client_crl.if_set().map(tls::revocation_expiry).transpose()?.flatten() {
        expiries.insert("listen.client_crl".to_owned(), end);
    }
    Ok(expiries)
}
