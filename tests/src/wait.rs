//! Waiting for something to become true, with a deadline.

use std::time::Duration;

use anyhow::{Result, bail};
use common::clock::Clock;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Looks again and again until `found` answers something, at most for `deadline`. `what` completes the sentence "waited
/// in vain until …".
pub async fn until<T>(what: &str, deadline: Duration, mut found: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let clock = Clock::system();
    let end = clock.monotonic() + deadline;
    loop {
        if let Some(found) = found().await? {
            return Ok(found);
        }
        if clock.monotonic() >= end {
            bail!("waited {} s in vain until {what}", deadline.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The same for a condition that needs no waiting itself.
pub async fn until_true(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    until(what, deadline, async || Ok(holds().then_some(()))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_what_is_found_and_says_what_is_not() {
        let mut left = 3;
        let found = until("it is three", Duration::from_secs(5), async || {
            left -= 1;
            Ok((left == 0).then_some("found"))
        });
        assert_eq!(found.await.unwrap(), "found");
        let error = until_true("pigs fly", Duration::ZERO, || false).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain until pigs fly");
    }
}
