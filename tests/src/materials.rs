//! Keys, secrets and certificates of one stack, made anew for each.
//!
//! ```text
//! secrets/edge-1.key core-1.key id-1.key     pipeline keys, hex
//! secrets/<source>.hmac.s1 <source>.k1.key   a source's signing secret (text) and sealing key (hex)
//! secrets/sink-<sink>.whsec                  an HTTP sink's signing secret
//! tls/ca.pem server.pem server.key           an authority of its own, and ingest's certificate
//! ```

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::clock::Clock;
use common::config::SecretFile;
use common::id::{IdKey, KeyId};
use common::record::{RecordKey, RecordKeys};
use common::secret::Secret;
use data_encoding::HEXLOWER;
use open::{Key, Keyring};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The name of every source's one sealing key.
pub const KEY_ID: &str = "k1";

/// The folder with all of it.
#[derive(Debug)]
pub struct Materials {
    dir: PathBuf,
}

impl Materials {
    /// What was made in a folder before.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes everything for these sources and sinks in a folder.
    pub fn create<'a>(
        dir: &Path,
        sources: impl IntoIterator<Item = &'a str>,
        sinks: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let materials = Self::at(dir);
        fs::create_dir_all(dir.join("secrets"))?;
        fs::create_dir_all(dir.join("tls"))?;
        for name in ["edge-1", "core-1", "id-1"] {
            materials.write(&format!("secrets/{name}.key"), &format!("hex:{}\n", HEXLOWER.encode(&random()?)))?;
        }
        for source in sources {
            materials.write(&format!("secrets/{source}.hmac.s1"), &format!("{}\n", STANDARD.encode(random()?)))?;
            let key = format!("hex:{}\n", HEXLOWER.encode(&random()?));
            materials.write(&format!("secrets/{source}.{KEY_ID}.key"), &key)?;
        }
        for sink in sinks {
            materials
                .write(&format!("secrets/sink-{sink}.whsec"), &format!("whsec_{}\n", STANDARD.encode(random()?)))?;
        }
        materials.certify()?;
        Ok(materials)
    }

    /// Writes a source's signing secret as Standard Webhooks has it: `secrets/<source>.whsec`.
    pub(crate) fn standard(&self, source: &str) -> Result<()> {
        let secret = fs::read_to_string(self.path(&format!("secrets/{source}.hmac.s1")))?;
        self.write(&format!("secrets/{source}.whsec"), &format!("whsec_{secret}"))
    }

    fn certify(&self) -> Result<()> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        authority.distinguished_name.push(DnType::CommonName, "Sealstream test authority");
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);

        let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        server.distinguished_name.push(DnType::CommonName, "localhost");
        server.use_authority_key_identifier_extension = true;
        // As long as a public authority's certificates live.
        let day = Duration::from_secs(24 * 3600);
        let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(Clock::system().unix_s());
        (server.not_before, server.not_after) = (now - day, now + 90 * day);
        let server_key = KeyPair::generate()?;
        let certificate = server.signed_by(&server_key, &issuer)?;
        self.write("tls/ca.pem", &authority_certificate.pem())?;
        self.write("tls/server.pem", &certificate.pem())?;
        self.write("tls/server.key", &server_key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.dir.join(name))?;
        Ok(std::io::Write::write_all(&mut file, text.as_bytes())?)
    }

    /// A file below the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.path("tls/ca.pem")
    }

    /// A source's signing secret.
    pub fn signing_secret(&self, source: &str) -> Result<Secret> {
        self.secret(&format!("{source}.hmac.s1"))
    }

    /// A source's sealing key.
    pub fn sealing_key(&self, source: &str) -> Result<Key> {
        Ok(Key::try_from(&self.secret(&format!("{source}.{KEY_ID}.key"))?)?)
    }

    /// What opens a source's events.
    pub fn keyring(&self, source: &str) -> Result<Keyring> {
        Ok(Keyring::new(vec![(KEY_ID.parse()?, self.sealing_key(source)?)])?)
    }

    /// An HTTP sink's secret: the key itself, as its receiver has it.
    pub fn sink_key(&self, sink: &str) -> Result<Vec<u8>> {
        let secret = self.secret(&format!("sink-{sink}.whsec"))?;
        let text = std::str::from_utf8(secret.expose())?;
        Ok(STANDARD.decode(text.strip_prefix("whsec_").unwrap_or_default())?)
    }

    /// What ingest makes its records' MACs with.
    pub fn edge_keys(&self) -> Result<RecordKeys> {
        self.record_keys("edge-1")
    }

    /// What the processors make their records' MACs with.
    pub fn core_keys(&self) -> Result<RecordKeys> {
        self.record_keys("core-1")
    }

    /// What makes keyed ids.
    pub fn id_key(&self) -> Result<IdKey> {
        Ok(IdKey::new("id-1".parse()?, &self.secret("id-1.key")?))
    }

    fn record_keys(&self, name: &str) -> Result<RecordKeys> {
        let id: KeyId = name.parse()?;
        let key = RecordKey::new(id, &self.secret(&format!("{name}.key"))?);
        Ok(RecordKeys::new(vec![key]).expect("one key is not none"))
    }

    fn secret(&self, name: &str) -> Result<Secret> {
        Ok(SecretFile::new(self.path("secrets").join(name)).load()?)
    }
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
