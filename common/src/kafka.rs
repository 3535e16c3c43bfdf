//! The Kafka client: everything that names rdkafka is below this module.
//!
//! [`client`] makes the settings that all have in common, [`producer`] and [`consumer`] are the only files that name
//! rdkafka's producer and consumer, [`admin`] creates and inspects topics, [`embedded`] is the in-process cluster.

pub mod admin;
pub mod client;
pub mod consumer;
pub mod embedded;
pub mod producer;
