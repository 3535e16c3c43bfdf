//! End-to-end tests: real ingest and processor processes on a real Kafka.
//!
//! Each test has its own topics, and its books must balance at its end. See the crate `tests` for the harness.

mod alerts;
mod audit;
mod check;
mod cold;
mod console;
mod consumer;
mod delivery;
mod deployment;
mod disk;
mod failures;
mod guides;
mod kills;
mod leaks;
mod letters;
mod lives;
mod operator;
mod others;
mod outage;
mod patience;
mod quick_start;
mod rate;
mod repeats;
mod secrecy;
mod secured;
mod status;
mod tampering;
mod tls;
mod tracing;
mod transactional_producer;
mod transactions;
