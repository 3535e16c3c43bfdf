//! The last stage: within its source's limit. Nothing else is charged to a source.

use std::sync::Arc;
use std::time::Duration;

use super::record::Record;
use crate::quota::retry_after_s;
use crate::refusal::Refusal;
use crate::source::Source;

/// A record that may be published.
pub(crate) struct Charged(Record);

impl Charged {
    /// Takes one request from the source's budget.
    pub(crate) fn charge(record: Record, now: Duration) -> Result<Self, Refusal> {
        let source = record.source();
        source.limit.take(now).map_err(|wait| {
            source.metrics.rate_limited.increment(1);
            Refusal::SourceRateLimited { retry_after_s: retry_after_s(wait) }
        })?;
        Ok(Self(record))
    }

    /// Who paid for it, and gets it back if the request is refused after all.
    pub(crate) fn source(&self) -> &Arc<Source> {
        self.0.source()
    }

    /// The record.
    pub(crate) fn into_record(self) -> Record {
        self.0
    }
}
