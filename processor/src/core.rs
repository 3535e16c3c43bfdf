//! The pure core: what may be admitted, delivered and committed, as functions of events and time. No I/O, no `await`.
//!
//! ```text
//! record ──▶ Partition::admit ──▶ Skip | Wait | Repeat | Deliver ──▶ … effect … ──▶ Partition::complete
//!                                                                                      │
//!            permits freed ◀── Partition::committed ◀── commit acknowledged ◀── Partition::snapshot
//! ```

pub mod breaker;
pub mod concurrency;
pub mod index;
pub mod lease;
#[cfg(test)]
mod model;
pub mod partition;
pub mod progress;
pub mod schedule;
pub mod table;
pub mod tally;
