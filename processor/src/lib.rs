//! Router and deliverer: opens, recognises repeats, delivers to sinks.
//!
//! ```text
//! inbox ─▶ Engine<Router> ─▶ events ─▶ Engine<Deliverer> ─▶ sink          one Engine<Deliverer> per sink,
//!               │                            │     ▲                      and one for its retry lanes
//!               ▼                            ▼     │
//!             dead ◀─────────────────── retry.<sink>.<delay>
//! ```

pub mod audit;
pub mod checks;
pub mod config;
mod control;
pub mod core;
pub mod deliverer;
pub mod engine;
pub mod event;
pub mod gate;
mod journal;
pub mod keys;
mod measure;
pub mod metrics;
pub mod outcome;
pub mod outlet;
pub mod pipeline;
mod reload;
pub mod router;
pub mod sink;
pub mod slot;
mod start;
pub mod store;
pub mod topics;
pub mod unseal;

pub use keys::record_keys;
pub use start::{Deps, Running, StartError, check, start, start_from};
