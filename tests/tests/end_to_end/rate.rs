//! One rate limit over several ingest processes, through a real Redis: with it, without it, and with it again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use tests::client::payload;
use tests::environment;
use tests::plan::Plan;
use tests::redis::OwnRedis;
use tests::sink::Behaviour;
use tests::stack::Stack;
use tests::wait::until;

const DEADLINE: Duration = Duration::from_secs(30);
/// Between two requests of one sender.
const PACE: Duration = Duration::from_millis(20);
/// What the nodes admit together.
const LIMIT: usize = 60;
/// What each sender asks for: more than a node admits by itself.
const ASKED: usize = 100;

/// Starts every ingest again with a rate limit that is kept in the Redis at `address`. In the time of a test it gives
/// nothing back: one request a minute.
async fn share(stack: &mut Stack, ingests: usize, address: &str, more: &[(&'static str, String)]) -> Result<()> {
    let prefix = stack.prefix().to_owned();
    for number in 0..ingests {
        let ingest = stack.ingest(number);
        if ingest.is_running() {
            ingest.stop().await?;
        }
        let settings = [
            ("INGEST__RATE__REQUESTS_PER_MINUTE", "1".to_owned()),
            ("INGEST__RATE__BURST", LIMIT.to_string()),
            ("INGEST__RATE__STORE", "redis".to_owned()),
            ("INGEST__RATE__REDIS__ADDRESS", address.to_owned()),
            ("INGEST__RATE__REDIS__PREFIX", prefix.clone()),
        ];
        for (name, value) in settings.into_iter().chain(more.iter().cloned()) {
            ingest.set(name, Some(value));
        }
        ingest.up().await?;
    }
    Ok(())
}

/// Sends one request after the other, and answers how many were admitted. All others are told 429.
async fn admitted(stack: &Stack, ingest: usize, source: &str, count: usize) -> Result<usize> {
    let client = stack.client(ingest, source, Format::Native)?;
    let mut admitted = 0;
    for number in 0..count {
        let id = format!("evt-{source}-{ingest}-{number}-{:08x}", getrandom::u32()?);
        let payload = payload(&id);
        let (answer, ()) = tokio::join!(client.offer(&id, payload.as_bytes()), tokio::time::sleep(PACE));
        let answer = answer?;
        match (answer.status, answer.code.as_str()) {
            (200, _) => admitted += 1,
            (429, "rate_limited") => ensure!(answer.retry_after_s.is_some(), "{answer:?}"),
            _ => anyhow::bail!("{answer:?}"),
        }
    }
    Ok(admitted)
}

async fn exchanges(stack: &mut Stack, ingest: usize, outcome: &str) -> Result<f64> {
    stack.ingest(ingest).metric("ingest_rate_exchanges_total", &[("outcome", outcome)]).await
}

/// Waits until an ingest has exchanged, or failed to, more often than so many times.
async fn exchanged(stack: &mut Stack, ingest: usize, outcome: &str, more_than: f64) -> Result<()> {
    until(&format!("ingest-{ingest} has an exchange {outcome}"), DEADLINE, async || {
        Ok((exchanges(stack, ingest, outcome).await? > more_than).then_some(()))
    })
    .await
}

/// The longest exchange of an ingest, rounded up to a bound of the histogram.
async fn longest_exchange_s(stack: &mut Stack, ingest: usize) -> Result<f64> {
    const NAME: &str = "ingest_rate_exchange_seconds";
    let all = stack.ingest(ingest).metric(&format!("{NAME}_count"), &[]).await?;
    for bound in ["0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1"] {
        if stack.ingest(ingest).metric(&format!("{NAME}_bucket"), &[("le", bound)]).await? >= all {
            return Ok(bound.parse()?);
        }
    }
    anyhow::bail!("an exchange took more than its deadline")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_admit_together_what_is_configured_and_what_they_get_in_a_tenth_of_a_second() -> Result<()> {
    let address = environment::redis()?;
    Plan::new("rate-bound")
        .ingests(2)
        .processors(0)
        .source("acme", &["main"])
        .http("main", Behaviour::good())
        .run(async |stack| {
            share(stack, 2, &address, &[]).await?;
            let (one, two) = tokio::try_join!(admitted(stack, 0, "acme", ASKED), admitted(stack, 1, "acme", ASKED))?;
            let longest = f64::max(longest_exchange_s(stack, 0).await?, longest_exchange_s(stack, 1).await?);
            // A tenth of a second, unless this machine took longer for an exchange than half of that. A sender has one
            // request under way, so besides those that it sends meanwhile there is one at each end.
            let unknown_s = f64::max(0.1, 0.05 + longest);
            let bound = LIMIT as f64 + 2.0 * (unknown_s / PACE.as_secs_f64() + 2.0);
            let total = one + two;
            ensure!((LIMIT as f64..=bound).contains(&(total as f64)), "{one} and {two} of {bound}, {longest} s");
            for ingest in 0..2 {
                ensure!(exchanges(stack, ingest, "done").await? > 0.0);
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_node_goes_on_with_the_same_limit_and_it_recovers_by_itself() -> Result<()> {
    let mut redis = OwnRedis::start().await?;
    Plan::new("rate-outage")
        .ingests(2)
        .processors(0)
        .source("acme", &["main"])
        .source("other", &["main"])
        .source("third", &["main"])
        .http("main", Behaviour::good())
        .run(async |stack| {
            share(stack, 2, &redis.address().to_string(), &[]).await?;
            ensure!(admitted(stack, 0, "acme", 20).await? == 20);
            exchanged(stack, 0, "done", 0.0).await?;

            // Gone: each admits what it would alone, and no request fails for it.
            redis.kill().await?;
            ensure!(admitted(stack, 0, "acme", ASKED).await? == LIMIT - 20, "what was used before still counts");
            ensure!(admitted(stack, 1, "acme", ASKED).await? == LIMIT);
            for ingest in 0..2 {
                exchanged(stack, ingest, "failed", 0.0).await?;
            }
            let told = stack.ingest(1).log_lines("shared rate limit is out of reach")?;
            ensure!(told.iter().filter(|line| line.contains("WARN")).count() == 1, "told once: {told:?}");

            // Back, and empty: what they have used meanwhile is told, and a fresh budget is shared.
            let before = [exchanges(stack, 0, "done").await?, exchanges(stack, 1, "done").await?];
            redis.up().await?;
            for (ingest, before) in before.into_iter().enumerate() {
                exchanged(stack, ingest, "done", before).await?;
                until("it says so", DEADLINE, async || {
                    Ok(stack.ingest(ingest).log_lines("share their rate limit again")?.first().map(drop))
                })
                .await?;
            }
            ensure!(admitted(stack, 0, "acme", 5).await? == 0 && admitted(stack, 1, "acme", 5).await? == 0);
            let before = exchanges(stack, 0, "done").await?;
            ensure!(admitted(stack, 0, "other", ASKED).await? == LIMIT);
            exchanged(stack, 0, "done", before).await?;
            let unknown = admitted(stack, 1, "other", ASKED).await?;
            ensure!((1..LIMIT / 2).contains(&unknown), "the other admits only until it knows: {unknown}");

            // Frozen: connections stay, and nothing is ever answered. No request waits for it.
            redis.freeze()?;
            let before = exchanges(stack, 1, "failed").await?;
            ensure!(admitted(stack, 0, "third", ASKED).await? == LIMIT);
            ensure!(admitted(stack, 1, "third", ASKED).await? == LIMIT);
            exchanged(stack, 1, "failed", before).await?;
            redis.thaw()
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_with_tls_and_a_password_that_no_log_shows() -> Result<()> {
    const PASSWORD: &str = "redis-password-canary";
    Plan::new("rate-secured")
        .processors(0)
        .source("acme", &["main"])
        .http("main", Behaviour::good())
        .run(async |stack| {
            let redis = OwnRedis::start_secured(stack.materials(), PASSWORD).await?;
            let file = stack.materials().path("secrets/redis");
            std::fs::write(&file, PASSWORD)?;
            let secured = [
                ("INGEST__RATE__REDIS__PASSWORD_FILE", file.display().to_string()),
                ("INGEST__RATE__REDIS__TLS__ENABLED", "true".to_owned()),
                ("INGEST__RATE__REDIS__TLS__CA", stack.materials().authority().display().to_string()),
                ("INGEST__LOG__LEVEL", "trace".to_owned()),
            ];
            let address = format!("localhost:{}", redis.address().port());
            share(stack, 1, &address, &secured).await?;
            ensure!(admitted(stack, 0, "acme", ASKED).await? == LIMIT);
            exchanged(stack, 0, "done", 0.0).await?;

            // Another password, and another authority: it serves all the same, and says what is wrong.
            std::fs::write(&file, "another-canary")?;
            share(stack, 1, &address, &secured).await?;
            ensure!(admitted(stack, 0, "acme", 5).await? == 5);
            exchanged(stack, 0, "failed", 0.0).await?;
            std::fs::write(&file, PASSWORD)?;
            let other_ca = ("INGEST__RATE__REDIS__TLS__CA", String::new());
            share(stack, 1, &address, &[&secured[..], &[other_ca]].concat()).await?;
            exchanged(stack, 0, "failed", 0.0).await?;
            let said = stack.ingest(0).log_lines("shared rate limit is out of reach")?;
            let (password, tls) = ("assword authentication failed", "UnknownIssuer");
            for cause in [password, tls] {
                ensure!(said.iter().any(|line| line.contains(cause)), "{cause}: {said:?}");
            }
            for canary in [PASSWORD, "another-canary"] {
                ensure!(stack.ingest(0).log_lines(canary)?.is_empty());
            }
            stack.ingest(0).log_lines("ingest listens")?.first().context("the log is looked at")?;
            Ok(())
        })
        .await
}
