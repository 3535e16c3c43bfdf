//! Rows 3 and 4: client certificates, their revocation, and pins.

use std::path::Path;
use std::sync::Arc;

use common::pin::Pin;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Ask, Edge, NATIVE, NOW_S, OTHER_SECRET, PATIENCE, Wire};

/// An authority of client certificates, and what it has issued.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A client's certificate and key.
struct Identity {
    serial: u64,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// An authority of this name: revocation lists are found by it.
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn issue(&self, serial: u64) -> Identity {
        self.issue_until(serial, 2100)
    }

    fn issue_until(&self, serial: u64, year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![format!("client-{serial}")]).unwrap();
        params.serial_number = Some(serial.into());
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Identity { serial, certificate, key }
    }

    /// A revocation list with these certificates in it.
    fn revoking(&self, identities: &[&Identity]) -> String {
        let revoked = |identity: &&Identity| RevokedCertParams {
            serial_number: identity.serial.into(),
            revocation_time: date_time_ymd(2023, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2023, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: identities.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Identity {
    fn pin(&self) -> Pin {
        Pin::of(&self.certificate).unwrap()
    }
}

/// What a test's edge is told about clients.
struct Told<'a> {
    client_certificate: &'a str,
    /// Of the source `acme`, and of `other`.
    pins: [Vec<Pin>; 2],
}

fn configure(dir: &Path, told: &Told<'_>) {
    let pins = told.pins.each_ref().map(|pins| {
        let pins: Vec<String> = pins.iter().map(|pin| format!("\"{pin}\"")).collect();
        format!("pins = [{}]\n", pins.join(", "))
    });
    let text = format!(
        "listen = {{ address = \"127.0.0.1:0\", certificate = \"server.pem\", key = \"server.key\", \
         client_ca = \"clients.pem\", client_crl = \"clients.crl\", client_certificate = \"{}\" }}\n\
         admin.address = \"127.0.0.1:0\"\npipeline.edge_key.file = \"edge-1\"\ndrain.notice = \"1ms\"\n\
         reload.interval = \"0s\"\n\
         [source.acme]\nsecrets = [{{ id = \"s1\", file = \"acme.s1\" }}]\n{}\
         [source.other]\nsecrets = [{{ id = \"s1\", file = \"other.s1\" }}]\n{}",
        told.client_certificate, pins[0], pins[1]
    );
    std::fs::write(dir.join("ingest.toml"), text).unwrap();
}

async fn start(authority: &Authority, revoked: &[&Identity], told: &Told<'_>) -> Edge {
    Edge::start_from_file(|dir| {
        std::fs::write(dir.join("clients.pem"), authority.issuer.pem()).unwrap();
        std::fs::write(dir.join("clients.crl"), authority.revoking(revoked)).unwrap();
        configure(dir, told);
    })
    .await
}

/// A client, with or without a certificate, that resumes sessions.
fn client(
    edge: &Edge,
    identity: Option<&Identity>,
    alpn: &str,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(common::tls::certificates(&edge.certificate()).unwrap().remove(0)).unwrap();
    let builder = ClientConfig::builder_with_provider(common::tls::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
            builder.with_client_auth_cert(vec![identity.certificate.clone()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(8);
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Arc::new(config)
}

async fn connect<'e>(edge: &'e Edge, client: &Arc<ClientConfig>) -> std::io::Result<Wire<'e>> {
    let stream = TcpStream::connect(edge.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(client.clone()).connect(name, stream).await?;
    Ok(Wire { edge, stream, received: Vec::new() })
}

/// Whether the server refuses this client in the handshake, with an alert. In TLS 1.3 the client reads of it only later.
async fn is_refused(edge: &Edge, client: &Arc<ClientConfig>) -> bool {
    let Ok(mut wire) = connect(edge, client).await else { return true };
    let mut nothing = [0; 1];
    let read = wire.stream.read(&mut nothing);
    timeout(PATIENCE, read).await.expect("the server ends the connection").is_err()
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn kind(wire: &Wire<'_>) -> HandshakeKind {
    wire.stream.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn row_03_client_certificates_missing_untrusted_expired_and_revoked() {
    let (authority, strangers) = (Authority::new("ours"), Authority::new("theirs"));
    let (good, revoked, expired) = (authority.issue(1), authority.issue(2), authority.issue_until(3, 2020));
    let stranger = strangers.issue(1);
    let told = Told { client_certificate: "required", pins: [Vec::new(), Vec::new()] };
    let edge = start(&authority, &[&revoked], &told).await;
    for version in VERSIONS {
        let mut wire = connect(&edge, &client(&edge, Some(&good), "http/1.1", version)).await.unwrap();
        wire.ask(&Ask::good()).await.check(200, "received");
        for (identity, outcome) in [
            (None, "client_certificate_missing"),
            (Some(&stranger), "client_certificate_untrusted"),
            (Some(&expired), "client_certificate_expired"),
            (Some(&revoked), "client_certificate_revoked"),
        ] {
            let before = edge.connection_outcome(outcome);
            assert!(is_refused(&edge, &client(&edge, identity, "http/1.1", version)).await, "{outcome}");
            edge.until(outcome, |edge| edge.connection_outcome(outcome) == before + 1.0).await;
        }
    }
    assert_eq!(edge.connection_outcome("handshake_failed"), 0.0);
    let end = |key| edge.metrics.value("ingest_certificate_expiry_timestamp_seconds", &[("certificate", key)]);
    assert_eq!(end("listen.client_crl"), 3_786_912_000.0);
    assert!(end("listen.client_ca") > end("listen.client_crl"));
    edge.finish().await;
}

#[tokio::test]
async fn row_04_a_valid_certificate_whose_key_the_source_has_not_pinned() {
    let authority = Authority::new("ours");
    let (pinned, other) = (authority.issue(1), authority.issue(2));
    let told = Told { client_certificate: "required", pins: [vec![pinned.pin()], vec![other.pin(), pinned.pin()]] };
    let edge = start(&authority, &[], &told).await;
    let of_other = Ask::signed(OTHER_SECRET, NOW_S, "application/json", NATIVE);
    for version in VERSIONS {
        let ours = client(&edge, Some(&pinned), "http/1.1", version);
        let mut wire = connect(&edge, &ours).await.unwrap();
        wire.ask(&Ask::good()).await.check(200, "received");
        wire.ask(&of_other).await.check(200, "received");

        let theirs = client(&edge, Some(&other), "http/1.1", version);
        for expect in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut wire = connect(&edge, &theirs).await.unwrap();
            assert_eq!(kind(&wire), expect);
            wire.ask(&of_other).await.check(200, "received");
            let reply = wire.ask(&Ask::good()).await;
            reply.check(403, "client_certificate_not_pinned");
            assert!(reply.says_close() && wire.ends().await);
        }
        // Nobody learns of pins without a signature.
        let mut wire = connect(&edge, &theirs).await.unwrap();
        wire.ask(&Ask::signed(b"nobody-has-this-secret", NOW_S, "application/json", NATIVE))
            .await
            .check(401, "signature_invalid");
    }
    let records = edge.inbox().len();
    assert_eq!(records, 8);
    edge.finish().await;
}

#[tokio::test]
async fn where_certificates_are_optional_only_pins_ask_for_one() {
    let authority = Authority::new("ours");
    let (pinned, stranger) = (authority.issue(1), Authority::new("theirs").issue(1));
    let told = Told { client_certificate: "optional", pins: [vec![pinned.pin()], Vec::new()] };
    let edge = start(&authority, &[], &told).await;
    let of_other = Ask::signed(OTHER_SECRET, NOW_S, "application/json", NATIVE);
    let mut wire = connect(&edge, &client(&edge, None, "http/1.1", VERSIONS[1])).await.unwrap();
    wire.ask(&of_other).await.check(200, "received");
    wire.ask(&Ask::good()).await.check(403, "client_certificate_not_pinned");
    assert!(wire.ends().await);
    let mut wire = connect(&edge, &client(&edge, Some(&pinned), "http/1.1", VERSIONS[1])).await.unwrap();
    wire.ask(&of_other).await.check(200, "received");
    wire.ask(&Ask::good()).await.check(200, "received");
    assert!(
        is_refused(&edge, &client(&edge, Some(&stranger), "http/1.1", VERSIONS[1])).await,
        "none is better than a bad one"
    );

    // The same by HTTP/2.
    let http2 = async |identity: Option<&Identity>| {
        let wire = connect(&edge, &client(&edge, identity, "h2", VERSIONS[1])).await.unwrap();
        super::Http2::over(&edge, wire.stream).await
    };
    let mut without = http2(None).await;
    without.ask(&Ask::good()).await.check(403, "client_certificate_not_pinned");
    assert!(without.ends().await);
    http2(Some(&pinned)).await.ask(&Ask::good()).await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn whoever_has_shown_a_pinned_certificate_fails_without_a_limit() {
    let authority = Authority::new("ours");
    let (pinned, other) = (authority.issue(1), authority.issue(2));
    let told = Told { client_certificate: "optional", pins: [vec![pinned.pin()], Vec::new()] };
    let edge = start(&authority, &[], &told).await;
    let forged = Ask::signed(b"nobody-has-this-secret", NOW_S, "application/json", NATIVE);
    let mut exempt = connect(&edge, &client(&edge, Some(&pinned), "http/1.1", VERSIONS[1])).await.unwrap();
    for _ in 0..60 {
        exempt.ask(&forged).await.check(401, "signature_invalid");
    }
    // Its failures have used nothing up. Others have their fifty, also with a certificate that no source of the path has pinned.
    let mut others = [
        connect(&edge, &client(&edge, Some(&other), "http/1.1", VERSIONS[1])).await.unwrap(),
        connect(&edge, &client(&edge, None, "http/1.1", VERSIONS[1])).await.unwrap(),
    ];
    for _ in 0..25 {
        for wire in &mut others {
            wire.ask(&forged).await.check(401, "signature_invalid");
        }
    }
    for wire in &mut others {
        wire.ask(&forged).await.check(429, "rate_limited");
    }
    exempt.ask(&forged).await.check(401, "signature_invalid");
    exempt.ask(&Ask::good()).await.check(200, "received");
    drop((exempt, others));
    edge.finish().await;
}

#[tokio::test]
async fn pins_revocations_and_authorities_are_reloaded() {
    let (authority, next_authority) = (Authority::new("present"), Authority::new("next"));
    let (one, two) = (authority.issue(1), authority.issue(2));
    let told = |pins: Vec<Pin>| Told { client_certificate: "required", pins: [pins, Vec::new()] };
    let edge = start(&authority, &[], &told(vec![one.pin()])).await;
    let dir = edge.dir.path();
    let reload = async || edge.running.reload().now().await.unwrap();
    let [first, second] = [&one, &two].map(|identity| client(&edge, Some(identity), "http/1.1", VERSIONS[1]));
    let (mut kept, mut other) = (connect(&edge, &first).await.unwrap(), connect(&edge, &second).await.unwrap());
    kept.ask(&Ask::good()).await.check(200, "received");

    configure(dir, &told(vec![two.pin()]));
    reload().await;
    other.ask(&Ask::good()).await.check(200, "received");
    kept.ask(&Ask::good()).await.check(403, "client_certificate_not_pinned");
    let mut again = connect(&edge, &first).await.unwrap();
    assert_eq!(kind(&again), HandshakeKind::Full, "nothing is resumed over a reload");
    again.ask(&Ask::good()).await.check(403, "client_certificate_not_pinned");

    // A revoked certificate opens no connection any more, and resumes none.
    let mut wire = connect(&edge, &second).await.unwrap();
    wire.ask(&Ask::good()).await.check(200, "received");
    let resumed = connect(&edge, &second).await.unwrap();
    assert_eq!(kind(&resumed), HandshakeKind::Resumed);
    drop((wire, resumed));
    std::fs::write(dir.join("clients.crl"), authority.revoking(&[&two])).unwrap();
    reload().await;
    assert!(is_refused(&edge, &second).await);
    other.ask(&Ask::good()).await.check(200, "received");

    // The next authority, beside the one before, and then alone.
    let three = next_authority.issue(1);
    let third = client(&edge, Some(&three), "http/1.1", VERSIONS[1]);
    assert!(is_refused(&edge, &third).await);
    std::fs::write(dir.join("clients.pem"), authority.issuer.pem() + &next_authority.issuer.pem()).unwrap();
    std::fs::write(dir.join("clients.crl"), authority.revoking(&[]) + &next_authority.revoking(&[])).unwrap();
    configure(dir, &told(vec![one.pin(), three.pin()]));
    reload().await;
    for client in [&first, &third] {
        connect(&edge, client).await.unwrap().ask(&Ask::good()).await.check(200, "received");
    }
    std::fs::write(dir.join("clients.pem"), next_authority.issuer.pem()).unwrap();
    reload().await;
    assert!(is_refused(&edge, &first).await);
    connect(&edge, &third).await.unwrap().ask(&Ask::good()).await.check(200, "received");

    // Broken files leave all of that as it is.
    std::fs::write(dir.join("clients.crl"), "no list").unwrap();
    edge.running.reload().now().await.unwrap_err();
    assert!(is_refused(&edge, &first).await);
    connect(&edge, &third).await.unwrap().ask(&Ask::good()).await.check(200, "received");
    edge.finish().await;
}
