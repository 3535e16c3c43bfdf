//! What the tests need from outside. It comes from `./x test`; without it a test fails and says so, it never skips.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use common::kafka::client::KafkaConfig;

/// The brokers that most tests share.
pub fn kafka() -> Result<KafkaConfig> {
    Ok(KafkaConfig::plaintext(variable("KAFKA_BOOTSTRAP", "the address of a real Kafka broker")?))
}

/// `host:port` of the Redis that most tests share.
pub fn redis() -> Result<String> {
    let url = variable("REDIS_URL", "the address of a real Redis")?;
    let address = url.strip_prefix("redis://").unwrap_or(&url);
    Ok(address.trim_end_matches('/').to_owned())
}

/// A shipped binary, as built in the dev profile.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(variable("SEALSTREAM_BIN_DIR", "the folder of the built binaries")?).join(name);
    ensure!(
        path.exists(),
        "there is no {}: build it with `cargo build -p {name}`, or run the tests with `./x test`",
        path.display()
    );
    Ok(path)
}

/// The folder of Kafka's jars, for programs of Java.
pub fn kafka_libs() -> Result<PathBuf> {
    variable("KAFKA_LIBS", "the folder of Kafka's jars").map(Into::into)
}

/// The program that starts brokers.
pub fn xtask() -> Result<PathBuf> {
    variable("SEALSTREAM_XTASK", "the built program of the crate xtask").map(Into::into)
}

/// A Python with `httpx` 0.27.2, which sends `json=` with spaces.
pub fn python_httpx_027() -> Result<PathBuf> {
    variable("PYTHON_HTTPX_027", "a Python interpreter with httpx 0.27.2").map(Into::into)
}

/// A Python with `httpx` 0.28.1, which sends `json=` without spaces.
pub fn python_httpx_028() -> Result<PathBuf> {
    variable("PYTHON_HTTPX_028", "a Python interpreter with httpx 0.28.1").map(Into::into)
}

/// A Python with `sslyze`.
pub fn python_sslyze() -> Result<PathBuf> {
    variable("PYTHON_SSLYZE", "a Python interpreter with sslyze").map(Into::into)
}

/// A Python with Selenium.
pub fn python_selenium() -> Result<PathBuf> {
    variable("PYTHON_SELENIUM", "a Python interpreter with selenium").map(Into::into)
}

/// A browser that runs without a display.
pub fn chromium() -> Result<String> {
    variable("CHROMIUM", "the program chromium")
}

/// The driver of that browser.
pub fn chromedriver() -> Result<String> {
    variable("CHROMEDRIVER", "the program chromedriver")
}

/// Where a test of a page leaves pictures of it, if somebody wants to look: `SEALSTREAM_PICTURES`.
pub fn pictures() -> Option<String> {
    std::env::var("SEALSTREAM_PICTURES").ok().filter(|folder| !folder.is_empty())
}

/// Node, with its own `fetch`.
pub fn node_js() -> Result<PathBuf> {
    variable("NODE", "a Node of version 18 or later").map(Into::into)
}

/// Whether the folder of a test that passed is to stay too, for a look at its logs: `SEALSTREAM_KEEP=1`.
pub fn keeps_folders() -> bool {
    std::env::var_os("SEALSTREAM_KEEP").is_some()
}

fn variable(name: &str, what: &str) -> Result<String> {
    let value = std::env::var(name).unwrap_or_default();
    ensure!(
        !value.is_empty(),
        "{name} is not set: it must hold {what}. Run the tests with `./x test`, which provides it"
    );
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::variable;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let error = variable("SEALSTREAM_NO_SUCH_VARIABLE", "a thing").unwrap_err().to_string();
        assert!(
            error.contains("SEALSTREAM_NO_SUCH_VARIABLE") && error.contains("a thing") && error.contains("./x test")
        );
    }
}
