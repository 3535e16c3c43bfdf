//! Hard limits that both halves and the topics must agree on. Configured limits stand in the defaults files.

/// Largest request body that ingest may be configured to accept, in bytes.
pub const BODY_BYTES_CAP: u64 = 1024 * 1024;

/// Largest record of any topic, in bytes: `max.message.bytes` of topics and clients.
pub const RECORD_BYTES_MAX: usize = 2 * 1024 * 1024;

// A body, its headers and what a letter adds must fit one record.
const _: () = assert!(BODY_BYTES_CAP as usize + 64 * 1024 <= RECORD_BYTES_MAX);
