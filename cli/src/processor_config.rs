//! The processor's configuration, for commands that look at what it works on.

use std::path::PathBuf;

use anyhow::Result;
use common::config::environment;
use common::telemetry::{LogConfig, LogFormat, install_logging};
use processor::config::Config;

/// The option that names it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProcessorConfig {
    /// The processor's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl ProcessorConfig {
    /// Loads it. Warnings of the Kafka client are shown from now on.
    pub(crate) fn load(&self) -> Result<Config> {
        install_logging(&LogConfig { format: LogFormat::Human, level: "warn".to_owned() });
        Ok(Config::load(Some(&self.config), environment())?)
    }
}
