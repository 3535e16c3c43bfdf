//! W3C Trace Context, level 2: which trace a request belongs to, and which of its spans asked for it.
//!
//! ```text
//! traceparent = version "-" trace id "-" parent id "-" flags      2, 32, 16 and 2 lowercase hex digits
//! ```
//!
//! It is not signed and says nothing that is relied upon. What is not of this form is ignored, as the specification asks,
//! and never an error. Of a later version as much is read as this one knows. `tracestate` is not kept: it may be dropped, and
//! a record that carried it could not be read by processors that don't know of it.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use crate::decode::exactly;

/// Length of a `traceparent` as it is written here, in bytes.
pub const TRACEPARENT_BYTES: usize = 55;

const SAMPLED: u8 = 0x01;
const RANDOM: u8 = 0x02;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    flags: u8,
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a W3C traceparent")]
pub struct TraceContextError;

impl TraceContext {
    /// The beginning of a trace that is recorded, at a span of it; both ids are random.
    pub(crate) fn sampled(trace: [u8; 16], span: [u8; 8]) -> Self {
        Self { trace, span, flags: SAMPLED | RANDOM }
    }

    /// The same trace at another span.
    pub(crate) fn at(self, span: [u8; 8]) -> Self {
        Self { span, ..self }
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    fn from_str(text: &str) -> Result<Self, TraceContextError> {
        let (known, rest) = text.as_bytes().split_at_checked(TRACEPARENT_BYTES).ok_or(TraceContextError)?;
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let [version] = hex(&known[..2])?;
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let (trace, span, [flags]) = (hex(&known[3..35])?, hex(&known[36..52])?, hex(&known[53..])?);
        if !dashes || !is_whole || trace == [0; 16] || span == [0; 8] {
            return Err(TraceContextError);
        }
        // Flags that have no meaning yet are cleared.
        Ok(Self { trace, span, flags: flags & (SAMPLED | RANDOM) })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", HEXLOWER.encode(&self.trace), HEXLOWER.encode(&self.span), self.flags)
    }
}

fn hex<const N: usize>(text: &[u8]) -> Result<[u8; N], TraceContextError> {
    exactly(&HEXLOWER, text).ok_or(TraceContextError)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(text: &str) -> Option<String> {
        text.parse::<TraceContext>().ok().map(|context| context.to_string())
    }

    #[test]
    fn what_is_of_the_form_is_written_as_it_was_read() {
        for flags in ["00", "01", "02", "03"] {
            let text = GOOD.replace("-01", &format!("-{flags}"));
            assert_eq!(read(&text).as_deref(), Some(&*text));
            assert_eq!(text.parse::<TraceContext>().unwrap().is_sampled(), flags.ends_with(['1', '3']));
        }
        assert_eq!(GOOD.len(), TRACEPARENT_BYTES);
    }

    #[test]
    fn unknown_flags_are_cleared_and_a_later_version_is_read_as_far_as_it_is_known() {
        assert_eq!(read(&GOOD.replace("-01", "-ff")), Some(GOOD.replace("-01", "-03")));
        for later in ["01", "cc", "fe"] {
            let text = GOOD.replacen("00", later, 1);
            for text in [text.clone(), format!("{text}-"), format!("{text}-what-comes-next")] {
                assert_eq!(read(&text).as_deref(), Some(GOOD), "{text}");
            }
        }
    }

    #[test]
    fn every_prefix_and_every_other_form_is_none() {
        for end in 0..GOOD.len() {
            assert_eq!(read(&GOOD[..end]), None, "{end}");
        }
        for at in 0..GOOD.len() {
            for other in ["g", "-", "A", " ", "ß", "\0"] {
                let text = format!("{}{other}{}", &GOOD[..at], &GOOD[at + 1..]);
                assert!(text == GOOD || read(&text).is_none(), "{text}");
            }
        }
        for bad in [
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            format!("{GOOD}-"),
            format!("{GOOD}-x"),
            format!("{GOOD}x"),
            format!(" {GOOD}"),
            GOOD.replacen("00", "01", 1) + "x",
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
