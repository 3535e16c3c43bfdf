//! Types of configured values: sizes, durations, paths, files with secrets.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use zeroize::Zeroizing;

use super::de::PATH_TOKEN;
use crate::secret::Secret;

/// No secret is larger; a larger file is some other file.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// A number of bytes, configured as `"256KiB"`, `"2 MiB"`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many times 1024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib * 1024)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; the largest length if it is more than that.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        bytesize::ByteSize::b(self.0).fmt(formatter)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a size such as \"256KiB\"")
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteSize, E> {
                let size = text.parse::<bytesize::ByteSize>();
                size.map(|size| ByteSize(size.as_u64())).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

/// A `Duration` configured as `"10s"`, `"1m 30s"`, `"24h"`; for `#[serde(with = "common::config::duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::de::value::Error as PlainError;
    use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, Unexpected};

    /// Reads a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed: Result<Duration, PlainError> = humantime_serde::deserialize(text.as_str().into_deserializer());
        parsed.map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &"a duration such as \"10s\""))
    }
}

/// A list of durations; for `#[serde(with = "common::config::durations")]`.
pub mod durations {
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer};

    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct One(#[serde(with = "super::duration")] Duration);

    /// Reads a list of durations.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|One(duration)| duration).collect())
    }
}

/// A moment, configured in RFC 3339, with an offset from UTC: `2026-12-31T23:59:59Z`, as a TOML date or as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// So many seconds after 1970-01-01 00:00 UTC.
    pub const fn at(unix_s: i64) -> Self {
        Self(unix_s)
    }

    /// Whole seconds since 1970-01-01 00:00 UTC.
    pub const fn unix_s(self) -> i64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment: Result<jiff::Timestamp, _> = text.parse();
        let wrong = |_| D::Error::invalid_value(Unexpected::Str(&text), &"a time such as 2026-12-31T23:59:59Z");
        moment.map(|moment| Self(moment.as_second())).map_err(wrong)
    }
}

/// The time in which something is accepted: from `not_before` on, until before `not_after`. An end that is not set is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Period {
    /// Its first second.
    pub not_before: Option<Moment>,
    /// The second in which it is over.
    pub not_after: Option<Moment>,
}

impl Period {
    /// Whether a time lies in it.
    pub fn holds(&self, unix_s: u64) -> bool {
        let now = Moment(i64::try_from(unix_s).unwrap_or(i64::MAX));
        self.not_before.is_none_or(|first| first <= now) && self.not_after.is_none_or(|over| now < over)
    }

    /// Whether no time lies in it.
    pub fn is_empty(&self) -> bool {
        self.not_before.zip(self.not_after).is_some_and(|(first, over)| over <= first)
    }

    /// The most of these that hold at one time.
    pub fn overlap(periods: &[Self]) -> usize {
        // As many as ever hold do so when one of them begins.
        let begins = periods.iter().map(|period| period.not_before.unwrap_or(Moment(i64::MIN)));
        let at = |now: Moment| {
            let holds = |period: &&Self| {
                period.not_before.is_none_or(|first| first <= now) && period.not_after.is_none_or(|over| now < over)
            };
            periods.iter().filter(holds).count()
        };
        begins.map(at).max().unwrap_or(0)
    }
}

/// A path, relative to the directory of the configuration file however it is configured; empty means: not set.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ConfigPath(PathBuf);

impl ConfigPath {
    /// This path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path; empty if it is not set.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path, if it is set.
    pub fn if_set(&self) -> Option<&Path> {
        Some(self.as_path()).filter(|_| !self.is_empty())
    }

    /// Whether it is not set.
    pub fn is_empty(&self) -> bool {
        self.0.as_os_str().is_empty()
    }
}

impl fmt::Debug for ConfigPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<'de> Deserialize<'de> for ConfigPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathVisitor;

        impl<'de> Visitor<'de> for PathVisitor {
            type Value = ConfigPath;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a path")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<ConfigPath, D::Error> {
                let text = String::deserialize(deserializer)?;
                if text.contains('\0') {
                    return Err(D::Error::custom("a path cannot contain a zero byte"));
                }
                if is_content(&text) {
                    return Err(D::Error::custom(
                        "this is what a file is to hold: write it to one, and name that here",
                    ));
                }
                Ok(ConfigPath(text.into()))
            }
        }

        deserializer.deserialize_newtype_struct(PATH_TOKEN, PathVisitor)
    }
}

/// Whether this is a key or a secret that was put where its file's path belongs.
fn is_content(text: &str) -> bool {
    let name = text.rsplit('/').next().unwrap_or_default();
    text.contains('\n') || ["hex:", "base64:", "whsec_", "whpk_", "whsk_"].iter().any(|prefix| name.starts_with(prefix))
}

/// A path as a mistake may tell it: of one that leads nowhere, the end could be a secret instead of a file's name.
fn told(path: &Path) -> String {
    const NAME_LEN_MAX: usize = 15;
    let known = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new(""));
    match path.strip_prefix(known) {
        Ok(rest) if rest.as_os_str().len() > NAME_LEN_MAX && !rest.to_string_lossy().contains('.') => {
            format!("{} (its end is not shown, lest it be the secret itself)", known.join("…").display())
        }
        Ok(_) | Err(_) => path.display().to_string(),
    }
}

/// A file that holds one secret; the configuration holds only its path.
///
/// Its content is the secret's bytes, without one newline at the end; or `hex:` or `base64:` and the bytes so encoded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct SecretFile(ConfigPath);

/// Why a secret could not be read. The operator's fault; tells the file, nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file is missing, or may not be read.
    #[error("the secret in {} cannot be read: {cause}", told(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The file holds nothing.
    #[error("the secret in {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than any secret.
    #[error("the file {} is too large to be a secret", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file starts with `hex:` or `base64:`, but goes on otherwise.
    #[error("the secret in {} is not what its prefix says, {encoding}", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The encoding that it names.
        encoding: &'static str,
    },
}

impl SecretFile {
    /// The secret in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(ConfigPath::new(path))
    }

    /// Where the secret lies; empty if it is not set.
    pub fn as_path(&self) -> &Path {
        self.0.as_path()
    }

    /// Whether no file is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the secret.
    pub fn load(&self) -> Result<Secret, SecretFileError> {
        let path = self.as_path();
        let unreadable = |cause| SecretFileError::Unreadable { path: path.into(), cause };
        // Room for everything from the start: a growing buffer would leave copies of the secret behind.
        let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(SECRET_FILE_BYTES_MAX).unwrap_or(0) + 2));
        let file = File::open(path).map_err(unreadable)?;
        file.take(SECRET_FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
        if content.len() as u64 > SECRET_FILE_BYTES_MAX {
            return Err(SecretFileError::TooLarge { path: path.into() });
        }
        let line = content.strip_suffix(b"\r\n").or_else(|| content.strip_suffix(b"\n"));
        let content = line.unwrap_or(&content);
        let decoded = |encoding, bytes: Option<Vec<u8>>| {
            bytes.ok_or_else(|| SecretFileError::Encoding { path: path.into(), encoding })
        };
        let bytes = if let Some(hex) = content.strip_prefix(b"hex:") {
            decoded("hex", HEXLOWER_PERMISSIVE.decode(hex).ok())?
        } else if let Some(base64) = content.strip_prefix(b"base64:") {
            decoded("base64", STANDARD.decode(base64).ok())?
        } else {
            content.to_vec()
        };
        if bytes.is_empty() {
            return Err(SecretFileError::Empty { path: path.into() });
        }
        Ok(Secret::from(bytes))
    }
}
