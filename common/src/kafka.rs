//! The Kafka client: everything that names rdkafka is below this module.
//!
//! [`client`] makes the settings that all have in common, [`producer`] is the only file that names rdkafka's
//! producer, [`consumer`] (in a group) and [`consumer::scanner`] (outside of any) are those that name its consumer, [`admin`] creates and inspects topics, [`embedded`] is the in-process cluster.

pub mod admin;
pub mod client;
pub mod consumer;
pub mod embedded;
pub mod producer;
