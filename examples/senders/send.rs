//! Sends one event with the crate `sender`: `cargo run --example send -- EVENT-ID < event.json`.
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use common::clock::Clock;
use common::config::SecretFile;
use common::envelope::Format;
use common::http_client::{ClientOptions, HttpsClient};
use common::id::EventId;
use open::Key;
use sender::{Config, RetryPolicy, Sender};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let secret = |name: &str| Ok::<_, Box<dyn Error>>(SecretFile::new(variable(name)?).load()?);
    let config = Config {
        url: variable("SEALSTREAM_URL")?.parse()?,
        source: variable("SEALSTREAM_SOURCE")?.parse()?,
        secret: secret("SEALSTREAM_SECRET_FILE")?,
        key_id: variable("SEALSTREAM_KEY_ID")?.parse()?,
        key: Key::try_from(&secret("SEALSTREAM_KEY_FILE")?)?,
        format: Format::Jwe,
        timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
    };
    let sender = Sender::new(config, HttpsClient::new(&ClientOptions::default())?, Clock::system())?;
    let event_id = EventId::new(std::env::args().nth(1).ok_or("which event id?")?)?;
    let mut payload = Vec::new();
    std::io::stdin().read_to_end(&mut payload)?;
    // Until it is received. Each attempt is sealed and signed anew, under the same event id.
    let sent = sender.send(&event_id, &payload).await?;
    println!("{} after {} attempts", sent.status.as_u16(), sent.attempt_count);
    Ok(())
}
