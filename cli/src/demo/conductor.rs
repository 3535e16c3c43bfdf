//! Watches the run: how much is unread, whether there is room for more, and when everything has ended.
//!
//! The embedded Kafka silently drops what lies more than 5 MiB or 100 000 batches behind a partition's end, so the sender
//! waits while more than [`UNREAD_MAX`] records are unread anywhere; a real one only shows better latencies for it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use common::clock::Clock;
use common::kafka::embedded::UNREAD_BYTES_MAX;
use common::telemetry::Metrics;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use processor::metrics::RECORDS;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::sending::Ledger;
use super::stage::Stage;
use super::witness::Witness;
use crate::say;

/// Most bytes of one record: its sealed body and its headers.
pub(super) const RECORD_BYTES_MAX: u64 = 1280;
/// Records that may be unread in one topic: even in one partition they are less than what is dropped.
const UNREAD_MAX: u64 = UNREAD_BYTES_MAX / RECORD_BYTES_MAX;
/// How often to look.
const LOOK: Duration = Duration::from_millis(50);
/// When nothing has changed for so long, nothing will.
const STALL: Duration = Duration::from_secs(30);

/// The processor's own counts; of the sinks, HTTP first, then Kafka.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Records of `inbox` that ended.
    inbox: u64,
    /// Of those, copied to `events`.
    routed: u64,
    /// Records of `events` that ended.
    ended: [u64; 2],
    /// Of those, repeats.
    pub(super) repeats: [u64; 2],
    /// Events in the output topic.
    output: u64,
}

impl Counts {
    /// The counts of this process so far.
    pub(super) fn read(metrics: &Metrics) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counters are whole, positive and small"
        )]
        let count = |labels: &[(&str, &str)]| metrics.value(RECORDS, labels) as u64;
        let sinks = ["main", "out"];
        Self {
            inbox: count(&[("lane", "inbox")]),
            routed: count(&[("lane", "inbox"), ("outcome", "routed")]),
            ended: sinks.map(|sink| count(&[("lane", "events"), ("sink", sink)])),
            repeats: sinks.map(|sink| count(&[("lane", "events"), ("sink", sink), ("outcome", "repeat")])),
            output: count(&[("sink", "out"), ("outcome", "delivered")]),
        }
    }

    /// What was added since an earlier reading: there may have been a run before in this process.
    pub(super) fn since(self, before: Self) -> Self {
        let each = |now: [u64; 2], before: [u64; 2]| [now[0] - before[0], now[1] - before[1]];
        Self {
            inbox: self.inbox - before.inbox,
            routed: self.routed - before.routed,
            ended: each(self.ended, before.ended),
            repeats: each(self.repeats, before.repeats),
            output: self.output - before.output,
        }
    }

    /// The most records that are unread in any topic.
    fn unread(self, accepted: u64, outputs_read: u64) -> u64 {
        let behind = [
            accepted.saturating_sub(self.inbox),
            self.routed.saturating_sub(self.ended[0]),
            self.routed.saturating_sub(self.ended[1]),
            self.output.saturating_sub(outputs_read),
        ];
        behind.into_iter().max().unwrap_or(0)
    }
}

/// See the module.
pub(super) struct Conductor<'a> {
    stage: &'a Stage,
    witness: Arc<Witness>,
    ledger: Arc<Ledger>,
    clock: Clock,
    before: Counts,
    open: watch::Sender<bool>,
    bar: ProgressBar,
}

impl<'a> Conductor<'a> {
    /// Watches a stage on which nothing was sent yet.
    pub(super) fn new(
        stage: &'a Stage,
        before: Counts,
        witness: Arc<Witness>,
        ledger: Arc<Ledger>,
        events: usize,
    ) -> Self {
        // Indicatif draws on standard error, and only if that is a terminal.
        let bar = ProgressBar::new(events as u64).with_finish(ProgressFinish::AndClear);
        let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} requests ended · {per_sec} · {msg}");
        bar.set_style(style.expect("the template is fixed"));
        let open = watch::Sender::new(true);
        Self { stage, witness, ledger, clock: stage.clock.clone(), before, open, bar }
    }

    /// Says whether there is room for more.
    pub(super) fn open(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }

    /// Watches while something is done.
    pub(super) async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = look.tick() => {
                    self.look();
                    self.stage.runs()?;
                }
            }
        }
    }

    /// Waits until everything that was accepted has ended, or until nothing changes any more: then the books tell.
    pub(super) async fn settle(&self) -> Result<()> {
        let mut last = (self.clock.monotonic(), 0);
        loop {
            let ended = self.look();
            if self.is_settled() {
                return Ok(());
            }
            self.stage.runs()?;
            let now = self.clock.monotonic();
            if ended != last.1 {
                last = (now, ended);
            } else if now - last.0 > STALL {
                say::note(format_args!("nothing has changed for {STALL:?}: not everything will end"));
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The processor's counts of this run.
    pub(super) fn counts(&self) -> Counts {
        Counts::read(&self.stage.metrics).since(self.before)
    }

    /// Looks at everything once; answers how many things have ended, in a sum that grows with each.
    fn look(&self) -> u64 {
        let Self { witness, ledger, .. } = self;
        let counts = self.counts();
        let accepted = ledger.accepted.load(Ordering::SeqCst);
        let unread = counts.unread(accepted, witness.outputs_read.load(Ordering::SeqCst));
        self.open.send_if_modified(|open| {
            let now = unread < UNREAD_MAX;
            std::mem::replace(open, now) != now
        });
        let [http, kafka] = [witness.http.events(), witness.kafka.events()];
        let dead: u64 = witness.dead().values().sum();
        let refused = ledger.sent.load(Ordering::SeqCst).saturating_sub(accepted);
        self.bar.set_position(http.min(kafka) + counts.repeats[0].min(counts.repeats[1]) + dead + refused);
        self.bar.set_message(format!(
            "{} delivered · {} repeats recognised · {} refused · {unread} unread",
            say::grouped(http.min(kafka)),
            say::grouped(counts.repeats[0]),
            say::grouped(refused),
        ));
        counts.inbox + counts.ended[0] + counts.ended[1] + http + kafka + dead
    }

    fn is_settled(&self) -> bool {
        let Self { witness, ledger, .. } = self;
        let number = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::SeqCst);
        let (events, undecryptable) = (number(&ledger.accepted_events), number(&ledger.accepted_undecryptable));
        let repeats = number(&ledger.accepted) - events - undecryptable;
        let dead: u64 = witness.dead().values().sum();
        let counts = self.counts();
        [witness.http.events(), witness.kafka.events()].iter().all(|seen| *seen >= events)
            && counts.repeats.iter().all(|seen| *seen >= repeats)
            && dead >= undecryptable
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{event_id, payload};
    use super::*;

    #[test]
    fn a_record_is_no_larger_than_assumed() {
        let key = open::Key::try_from(&common::secret::Secret::from(vec![7; 32])).unwrap();
        let event = 99_999_999;
        let header = common::envelope::JweHeader {
            kid: "k1".parse().unwrap(),
            jti: event_id(event),
            aud: "acme".parse().unwrap(),
            iat: Some(1_700_000_000),
        };
        let jwe = open::seal_jwe(&key, &header, payload(event).as_bytes()).unwrap();
        let native = open::seal_native(&key, payload(event).as_bytes()).unwrap().body;
        // The headers of a record in `events` or a retry lane, their names and lengths included, are below 600 bytes.
        assert!(
            jwe.len().max(native.len()) + 600 <= usize::try_from(RECORD_BYTES_MAX).unwrap(),
            "{} {}",
            jwe.len(),
            native.len()
        );
    }

    #[test]
    fn what_is_unread_is_the_worst_of_all_topics() {
        let counts = Counts { inbox: 90, routed: 80, ended: [70, 79], repeats: [1, 1], output: 60 };
        assert_eq!(counts.unread(95, 60), 10);
        assert_eq!(counts.unread(195, 60), 105);
        assert_eq!(counts.unread(95, 5), 55);
        assert_eq!(counts.since(counts), Counts::default());
    }
}
