//! The harness of the end-to-end tests: real binaries on a real Kafka, and books that must balance at the end.
//!
//! A test describes what it wants in a [`Plan`](plan::Plan) and runs its body on the [`Stack`](stack::Stack) that the plan
//! makes: keys, certificates and configuration files in a folder of its own, topics under a prefix of their own, and
//! ingest and processor as child processes that it may kill, stop and start. When the body has ended, the harness waits
//! until everything is committed, stops every process, reads all topics and balances the [books]: nothing that was
//! answered 200 is lost, nothing is delivered that nobody sent, and nothing twice unless the plan says how often.
//!
//! Nothing here waits by the clock: waits poll a condition and have a deadline ([`wait`]).

pub mod answer;
pub mod books;
pub mod broker;
pub mod client;
pub mod collector;
pub mod environment;
pub mod faults;
pub mod ledger;
pub mod load;
pub mod materials;
pub mod node;
pub mod parsers;
pub mod plan;
pub mod ports;
pub mod python;
pub mod redis;
pub mod search;
pub mod seed;
mod serve;
pub mod sink;
pub mod stack;
pub mod topic;
pub mod wait;
