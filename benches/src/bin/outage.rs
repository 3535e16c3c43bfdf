//! A sink that is down for long under load: what the other sink gets meanwhile, how often the one that is down is asked, and
//! how fast it catches up. `./x bench outage`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::time::Duration;

use anyhow::{Result, ensure};
use benches::usage::as_f64;
use clap::Parser;
use common::clock::Clock;
use tests::load::{Load, LoadPlan};
use tests::plan::{BREAKER_PROBES, Plan};
use tests::sink::{Behaviour, RecordingSink, Reply};
use tests::stack::Stack;
use tests::wait::until_true;

/// Measures an outage of one of two sinks.
#[derive(Parser)]
struct Options {
    /// How long the sink is down, in seconds
    #[arg(long, default_value_t = 600)]
    down: u64,
    /// How long the load runs before, in seconds
    #[arg(long, default_value_t = 60)]
    before: u64,
    /// Events a second
    #[arg(long, default_value_t = 300)]
    rate: u32,
}

/// How long catching up may take, in outages.
const CATCH_UP_MAX: u32 = 2;

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let plan = Plan::new("outage").source("acme", &["up", "down"]).breakers();
    let answer = || Behaviour::good().slow(5..=15);
    plan.http("up", answer()).http("down", answer()).run(async |stack| measure(stack, &options, answer()).await).await
}

/// The state at one moment.
struct Moment {
    at: Duration,
    accepted: u64,
    up: u64,
    down: u64,
    dispatched: u64,
    probes: f64,
}

struct Watch {
    clock: Clock,
    load: Load,
    up: RecordingSink,
    down: RecordingSink,
}

impl Watch {
    async fn now(&self, stack: &mut Stack) -> Result<Moment> {
        let mut probes = 0.0;
        for number in 0..stack.processor_count() {
            probes += stack.processor(number).metric("processor_breaker_probes_total", &[("sink", "down")]).await?;
        }
        Ok(Moment {
            at: self.clock.monotonic(),
            accepted: self.load.acked(),
            up: self.up.effect_count() as u64,
            down: self.down.effect_count() as u64,
            dispatched: self.down.delivery_count() as u64,
            probes,
        })
    }
}

async fn measure(stack: &mut Stack, options: &Options, good: Behaviour) -> Result<()> {
    let load =
        LoadPlan { ids: "evt-outage", in_flight: 32, repeat_every: 10, ahead_of: None, rate: Some(options.rate) };
    let watch = Watch {
        clock: Clock::system(),
        load: Load::start(stack.clients("acme")?, load),
        up: stack.sink("up"),
        down: stack.sink("down"),
    };
    let start = watch.now(stack).await?;
    tokio::time::sleep(Duration::from_secs(options.before)).await;
    let begun = watch.now(stack).await?;
    watch.down.behave(Behaviour::by_rule(|_| Reply::status(503)));
    let opened = || watch.clock.monotonic() >= begun.at + Duration::from_secs(30);
    until_true("the breakers are open", Duration::from_secs(60), opened).await?;
    let open = watch.now(stack).await?;
    tokio::time::sleep(Duration::from_secs(options.down).saturating_sub(open.at - begun.at)).await;
    let mended = watch.now(stack).await?;
    watch.down.behave(good);
    let outage = mended.at - begun.at;
    let caught_up = || watch.down.effect_count() as u64 + u64::from(options.rate) >= watch.load.acked();
    until_true("the sink has caught up", outage * CATCH_UP_MAX, caught_up).await?;
    let done = watch.now(stack).await?;
    let accepted = watch.load.stop().await?;
    stack.settled().await?;
    let summary = stack.balance().await?;

    let rate = |from: &Moment, to: &Moment, count: fn(&Moment) -> u64| {
        as_f64(count(to) - count(from)) / (to.at - from.at).as_secs_f64()
    };
    let accepting = rate(&mended, &done, |moment| moment.accepted);
    println!("accepted {accepted} events; the sink was down for {:.0} s", outage.as_secs_f64());
    for (phase, from, to) in [("before", &start, &begun), ("down", &begun, &mended), ("catching up", &mended, &done)] {
        println!(
            "{phase}: {:.0} s, accepted {:.0}/s, the other sink {:.0}/s, this sink {:.0}/s",
            (to.at - from.at).as_secs_f64(),
            rate(from, to, |moment| moment.accepted),
            rate(from, to, |moment| moment.up),
            rate(from, to, |moment| moment.down)
        );
    }
    let (asked, probes) = (mended.dispatched - open.dispatched, mended.probes - open.probes);
    println!("while the breakers were open: {asked} dispatches, {probes:.0} probes");
    println!(
        "caught up with {} events in {:.1} s: {:.1} times the rate of arrival",
        mended.accepted - mended.down,
        (done.at - mended.at).as_secs_f64(),
        rate(&mended, &done, |moment| moment.down) / accepting
    );
    println!("{summary}");
    let slack = as_f64((BREAKER_PROBES * stack.processor_count()) as u64);
    ensure!(as_f64(asked) <= probes + slack, "more dispatches than probes while it was down");
    ensure!(summary.dead.is_empty(), "events were given up");
    Ok(())
}
