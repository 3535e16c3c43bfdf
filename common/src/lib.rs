//! Wire format, ids, records, configuration, Kafka client, telemetry and shutdown.

pub mod admin;
pub mod clock;
pub mod config;
mod decode;
pub mod envelope;
pub mod hardening;
pub mod http_client;
pub mod id;
pub mod kafka;
pub mod limits;
pub mod pin;
pub mod record;
pub mod reload;
pub mod secret;
pub mod shutdown;
pub mod signature;
pub mod spans;
pub mod standard_webhooks;
pub mod telemetry;
pub mod tls;
pub mod topics;
pub mod trace;
pub mod verify;
