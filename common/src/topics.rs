//! The topics of the pipeline and the consumer groups that read them, named in one place.
//!
//! A topic's *role* is its name without the deployment's prefix; it is part of what a record's MAC covers, so that a
//! record copied from one topic into another is refused.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::SinkId;

/// The constant delay of a retry lane: whole seconds, from 1 s to 24 h, written as in its topic's name (`10s`, `1m`, `1h`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Delay(u32);

/// A text that is not a delay. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a delay: a whole number and s, m or h, from 1s to 24h")]
pub struct DelayError(String);

impl Delay {
    /// The longest delay, in seconds.
    pub const SECONDS_MAX: u32 = 24 * 60 * 60;

    /// The delay as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }

    /// The delay in milliseconds.
    pub fn as_ms(self) -> u64 {
        u64::from(self.0) * 1000
    }
}

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let error = || DelayError(text.chars().take(16).collect());
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(error)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(error()),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
        let seconds = digits.then(|| number.parse::<u32>().ok()).flatten().and_then(|n| n.checked_mul(unit));
        match seconds {
            Some(seconds) if seconds <= Self::SECONDS_MAX => Ok(Self(seconds)),
            Some(_) | None => Err(error()),
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if s % 3600 == 0 => write!(f, "{}h", s / 3600),
            s if s % 60 == 0 => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<'de> Deserialize<'de> for Delay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Delay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One topic of the pipeline, by its role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// What ingest verified, in any order.
    Inbox,
    /// The same records, each in the partition that its event id decides.
    Events,
    /// Failed dispatches to one sink, waiting for one constant delay.
    Retry {
        /// The sink that they go to.
        sink: SinkId,
        /// How long each record waits.
        delay: Delay,
    },
    /// Records that can't be delivered, kept sealed.
    Dead,
}

impl Topic {
    /// The name without the prefix, for example `retry.main.10s`.
    pub fn role(&self) -> Cow<'static, str> {
        match self {
            Self::Inbox => "inbox".into(),
            Self::Events => "events".into(),
            Self::Retry { sink, delay } => format!("retry.{sink}.{delay}").into(),
            Self::Dead => "dead".into(),
        }
    }

    /// The name in Kafka, for example `sealstream.retry.main.10s`.
    pub fn name(&self, prefix: &Prefix) -> String {
        [&*prefix.0, ".", &self.role()].concat()
    }
}

/// A consumer group of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Group {
    /// Reads the inbox.
    Router,
    /// Reads `events` for one sink.
    Deliver(SinkId),
    /// Reads the retry lanes of one sink.
    Retry(SinkId),
}

impl Group {
    /// The name in Kafka, for example `sealstream.deliver.main`.
    pub fn name(&self, prefix: &Prefix) -> String {
        match self {
            Self::Router => format!("{prefix}.router"),
            Self::Deliver(sink) => format!("{prefix}.deliver.{sink}"),
            Self::Retry(sink) => format!("{prefix}.retry.{sink}"),
        }
    }
}

/// What every topic and group name of a deployment begins with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(Box<str>);

/// A text that can't begin a topic's name. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a topic prefix has 1 to 100 of a-z, A-Z, 0-9, '.', _ and -")]
pub struct PrefixError;

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let valid = (1..=100).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if valid { Ok(Self(text.into())) } else { Err(PrefixError) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_written_in_their_largest_unit() {
        for (text, seconds, canonical) in
            [("10s", 10, "10s"), ("60s", 60, "1m"), ("90s", 90, "90s"), ("24h", 86_400, "24h")]
        {
            let delay: Delay = text.parse().unwrap();
            assert_eq!((delay.duration().as_secs(), delay.to_string().as_str()), (seconds, canonical));
        }
        for bad in ["", "s", "0s", "01s", "10", "1d", "-1s", "1.5m", "25h", "86401s", "99999999999999h", "1ß"] {
            assert!(bad.parse::<Delay>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_prefix_and_role() {
        let prefix: Prefix = "sealstream".parse().unwrap();
        let sink: SinkId = "main".parse().unwrap();
        let retry = Topic::Retry { sink: sink.clone(), delay: "1m".parse().unwrap() };
        assert_eq!(retry.name(&prefix), "sealstream.retry.main.1m");
        assert_eq!(Topic::Inbox.name(&prefix), "sealstream.inbox");
        assert_eq!(Group::Deliver(sink).name(&prefix), "sealstream.deliver.main");
        assert!("".parse::<Prefix>().is_err() && "a/b".parse::<Prefix>().is_err());
    }
}
