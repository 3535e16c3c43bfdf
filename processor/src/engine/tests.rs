//! The engine alone: records go in by hand, runs end when the test says so, commits are acknowledged by hand.

use std::collections::HashMap;

use common::record::Reason;
use tokio::sync::oneshot;

use super::*;

const NOW_MS: u64 = 1_700_000_000_000;
const PERMITS: usize = 4;
const DELAY_MS: u64 = 10_000;
const PARTITIONS: u32 = 6;

/// Runs wait until the test ends them.
#[derive(Default)]
struct ByHand {
    under_way: Mutex<HashMap<i64, oneshot::Sender<Option<Outcome>>>>,
    started: Mutex<Vec<i64>>,
    /// What gets no pass.
    barred: tokio::sync::watch::Sender<Vec<i64>>,
}

impl Work for Arc<ByHand> {
    type Item = i64;
    type Pass = ();

    fn inspect(&self, _: &Lane, _: &Incoming<'_>) -> Inspected<i64> {
        unreachable!("the tests take records as they are after their inspection")
    }

    async fn pass(&self, offset: &i64) {
        let waits = self.barred.subscribe().wait_for(|barred| !barred.contains(offset)).await.is_ok();
        assert!(waits, "the bench outlives its runs");
    }

    async fn run(&self, _: Turn, offset: i64, (): ()) -> Option<Outcome> {
        let (end, ended) = oneshot::channel();
        self.under_way.lock().insert(offset, end);
        self.started.lock().push(offset);
        ended.await.expect("the test ends every run that it waits for")
    }
}

struct Bench {
    work: Arc<ByHand>,
    engine: Arc<Engine<Arc<ByHand>>>,
    handler: EngineHandler<Arc<ByHand>>,
    hand: common::clock::ManualClock,
    tick_ms: Arc<AtomicU64>,
    at: TopicPartition,
    /// Why the process would have ended, of runs that panicked. Any other doubt fails the test.
    panics: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    /// An engine that owns one empty partition of one lane.
    fn new(delay_ms: u64, window: u32) -> Self {
        Self::guarded(Guard::Lease, delay_ms, window)
    }

    fn guarded(guard: Guard, delay_ms: u64, window: u32) -> Self {
        let (clock, hand) = Clock::manual(NOW_MS);
        let lane = Lane {
            topic: Topic::Events,
            name: "events".into(),
            sink: "main".to_owned(),
            delay_ms,
            partitions: PARTITIONS,
            permits: PERMITS,
            ended: Ended::default(),
        };
        let settings = EngineSettings {
            window,
            drain_deadline: Duration::from_secs(15),
            session: Duration::from_secs(45),
            dispatch_timeout: Duration::from_secs(10),
            guard,
        };
        let panics = Arc::new(Mutex::new(Vec::new()));
        let told = panics.clone();
        let die: Die = Arc::new(move |Doubt(why)| {
            assert!(std::thread::panicking(), "in doubt: {why}");
            told.lock().push(why);
        });
        let surroundings = Surroundings { clock, tasks: Tasks::new(), runtime: Handle::current(), die };
        let work = Arc::new(ByHand::default());
        let engine = Engine::new(work.clone(), vec![lane], settings, surroundings, None, Waker::new())
            .expect("the session leaves time to send in");
        let tick_ms = Arc::new(AtomicU64::new(0));
        engine.watch_tick(tick_ms.clone());
        let at = TopicPartition { topic: "events".into(), partition: 3 };
        let bench = Self { work, handler: EngineHandler(engine.clone()), engine, hand, tick_ms, at, panics };
        bench.assign(0, "");
        bench.commit();
        bench
    }

    fn assign(&self, base: i64, metadata: &str) {
        self.assign_after_retention(base, metadata, base);
    }

    /// What was committed, and where the log begins.
    fn assign_after_retention(&self, committed: i64, metadata: &str, low: i64) {
        let (at, metadata) = (self.at.clone(), metadata.to_owned());
        self.handler.assigned(vec![Assigned { at, committed, metadata, base: low, low, high: i64::MAX }]);
    }

    /// A commit that is acknowledged: what it said.
    fn commit(&self) -> Commit {
        let commits = self.handler.snapshot(None);
        self.handler.committed(&commits, self.engine.surroundings.clock.monotonic());
        commits.into_iter().next().expect("a partition is owned")
    }

    fn room(&self) -> usize {
        let room = self.handler.room(&self.at);
        self.handler.turned();
        room
    }

    /// A record of the age that a lane's delay makes due.
    fn offer(&self, offset: i64, time_ms: u64) -> More {
        let more = self.take(offset, time_ms);
        self.handler.turned();
        more
    }

    /// The same without the end of the turn over the partitions.
    fn take(&self, offset: i64, time_ms: u64) -> More {
        let inspected = Inspected::Run { key: None, item: offset };
        self.engine.take(&self.at, Held { offset, time_ms, inspected })
    }

    fn advance(&self, by: Duration) {
        self.hand.advance(by);
        self.tick_ms
            .store(u64::try_from(self.engine.surroundings.clock.monotonic().as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Lets the tasks run until the test sees what it waits for.
    async fn until(&self, what: &str, mut seen: impl FnMut() -> bool) {
        for tries in 0..10_000 {
            if seen() {
                return;
            }
            // Tasks of this runtime need a turn; a thread of its own needs time.
            if tries < 1000 {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        panic!("this did not come about: {what}");
    }

    async fn started(&self, offset: i64) {
        self.until("a run starts", || self.work.under_way.lock().contains_key(&offset)).await;
    }

    async fn end(&self, offset: i64, outcome: Option<Outcome>) {
        self.started(offset).await;
        let sending = self.sending();
        let end = self.work.under_way.lock().remove(&offset).expect("it was waited for");
        end.send(outcome).expect("the run waits");
        self.until("a run ends", || self.sending() < sending).await;
    }

    fn sending(&self) -> usize {
        let state = self.engine.state.lock();
        Engine::<Arc<ByHand>>::sending(&state, std::slice::from_ref(&self.at))
    }
}

#[tokio::test]
async fn a_run_that_panics_ends_the_process_and_so_does_one_that_goes_down_with_it() {
    let bench = Bench::new(0, 1024);
    bench.work.barred.send_replace(vec![1]);
    assert_eq!([bench.take(0, NOW_MS), bench.take(1, NOW_MS)], [More::Yes, More::Yes]);
    bench.handler.turned();
    bench.started(0).await;
    bench.work.under_way.lock().remove(&0);
    bench.until("the process ends", || bench.panics.lock().len() == 2).await;
    // The one that waited had not begun: nobody would have missed it.
    let of = |offset| format!("the run of events-3 offset {offset} panicked");
    assert_eq!(*bench.panics.lock(), [of(0), of(1)]);
}

#[tokio::test]
async fn runs_of_one_task_end_each_for_itself() {
    let bench = Bench::new(0, 1024);
    let count = 3;
    for offset in 0..count {
        assert_eq!(bench.take(offset, NOW_MS), More::Yes);
    }
    bench.handler.turned();
    bench.started(2).await;
    bench.end(2, Some(Outcome::Delivered)).await;
    assert_eq!(bench.commit().base, 0);
    bench.end(0, Some(Outcome::Delivered)).await;
    assert_eq!(bench.commit().base, 1);
    bench.end(1, Some(Outcome::Delivered)).await;
    assert_eq!(bench.commit().base, count);
}

#[tokio::test]
async fn a_lane_holds_one_record_that_is_not_due_and_takes_no_other() {
    let bench = Bench::new(DELAY_MS, 1024);
    assert!(bench.room() > 0);
    assert_eq!(bench.offer(0, NOW_MS), More::NotNow, "it is held");
    assert_eq!(bench.room(), 0, "another would take its place");
    // Half of the tenth that six partitions are spread over: this one is the fourth.
    let wait_ms = DELAY_MS + DELAY_MS / 20;
    bench.advance(Duration::from_millis(wait_ms - 1));
    assert_eq!(bench.room(), 0, "one millisecond early");
    assert!(bench.work.started.lock().is_empty());
    bench.advance(Duration::from_millis(1));
    assert!(bench.room() > 0, "it is due: the held one goes first");
    assert_eq!(bench.offer(1, NOW_MS), More::Yes);
    bench.end(0, Some(Outcome::Delivered)).await;
    bench.end(1, Some(Outcome::Delivered)).await;
    assert_eq!(*bench.work.started.lock(), [0, 1]);
    assert_eq!(bench.commit().base, 2);
}

#[tokio::test]
async fn a_record_past_the_window_is_held_until_the_oldest_is_complete() {
    // The narrowest window; offsets may have gaps, so few permits can span it.
    let bench = Bench::new(0, 64);
    assert_eq!(bench.offer(0, NOW_MS), More::Yes);
    assert_eq!(bench.offer(63, NOW_MS), More::Yes, "the last of the window");
    assert_eq!(bench.offer(64, NOW_MS), More::NotNow, "one past it");
    assert_eq!(bench.room(), 0);
    bench.end(63, Some(Outcome::Delivered)).await;
    assert_eq!(bench.room(), 0, "the oldest is still open");
    bench.end(0, Some(Outcome::Delivered)).await;
    assert!(bench.room() > 0);
    bench.end(64, Some(Outcome::Delivered)).await;
    assert_eq!(bench.commit().base, 65);
}

#[tokio::test]
async fn a_permit_comes_back_with_the_commit_and_not_with_the_answer() {
    let bench = Bench::new(0, 1024);
    for offset in 0..4 {
        assert!(bench.room() > 0, "{offset}");
        bench.offer(offset, NOW_MS);
    }
    assert_eq!(bench.room(), 0, "all permits are taken");
    for offset in 0..4 {
        bench.end(offset, Some(Outcome::Delivered)).await;
    }
    assert_eq!(bench.room(), 0, "answered, but a crash now would repeat them");
    let unanswered = bench.handler.snapshot(None);
    assert_eq!((unanswered[0].base, bench.room()), (4, 0), "sent, but not acknowledged");
    bench.commit();
    assert_eq!(bench.room(), PERMITS);
}

#[tokio::test]
async fn nothing_starts_without_a_lease_nor_once_it_is_fenced() {
    let bench = Bench::new(0, 1024);
    // The commit that `new` made is a whole term ago: 45 s less 10 s for a dispatch and 5 s of margin.
    bench.advance(Duration::from_secs(30));
    bench.offer(0, NOW_MS);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(bench.work.started.lock().is_empty(), "the lease is over");
    bench.commit();
    bench.started(0).await;
    bench.handler.fence(std::slice::from_ref(&bench.at));
    assert_eq!((bench.room(), bench.offer(1, NOW_MS)), (0, More::NotNow), "left to the next owner");
    bench.end(0, Some(Outcome::Delivered)).await;
    bench.handler.drain(std::slice::from_ref(&bench.at));
    assert_eq!(bench.commit().base, 1, "what was under way still counts");
}

#[tokio::test]
async fn after_the_poll_thread_was_away_nothing_starts_before_a_commit_that_was_sent_since() {
    let bench = Bench::new(0, 1024);
    let before = bench.handler.snapshot(None);
    bench.advance(Duration::from_secs(3));
    let now = bench.engine.surroundings.clock.monotonic();
    bench.handler.lapsed(now);
    bench.handler.committed(&before, now - Duration::from_secs(1));
    bench.offer(0, NOW_MS);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(bench.work.started.lock().is_empty(), "the answer is new, the commit was sent before the gap");
    bench.commit();
    bench.started(0).await;
    bench.end(0, Some(Outcome::Delivered)).await;
}

#[tokio::test]
async fn markers_at_the_end_of_the_log_are_complete_and_what_is_held_is_not() {
    let bench = Bench::new(DELAY_MS, 1024);
    let passed = |end| bench.handler.passed(&bench.at, end);
    passed(3);
    assert_eq!(bench.commit().base, 3, "nothing but markers so far");
    assert_eq!(bench.offer(3, NOW_MS), More::NotNow, "not due");
    passed(5);
    assert_eq!(bench.commit().base, 3, "what is held is not complete, whatever follows it");
    bench.advance(Duration::from_millis(DELAY_MS + DELAY_MS / 10));
    assert!(bench.room() > 0);
    bench.started(3).await;
    passed(5);
    assert_eq!(bench.commit().base, 3, "nor is what is under way");
    bench.end(3, Some(Outcome::Delivered)).await;
    assert_eq!(bench.commit().base, 5);
}

#[tokio::test]
async fn a_transaction_is_committed_only_while_nothing_is_under_way_and_takes_in_all_that_was() {
    let bench = Bench::guarded(Guard::Transaction, 0, 1024);
    // A day without a commit: no lease is asked for.
    bench.advance(Duration::from_secs(86_400));
    bench.offer(0, NOW_MS);
    bench.started(0).await;

    let engine = bench.engine.clone();
    let mut holding = tokio::task::spawn_blocking(move || EngineHandler(engine).hold());
    bench.until("the gate is closed", || bench.engine.state.lock().held_up).await;
    bench.offer(1, NOW_MS);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*bench.work.started.lock(), [0], "nothing starts while the gate is closed");
    assert!(!holding.is_finished(), "one is under way");
    bench.end(0, Some(Outcome::Delivered)).await;
    assert!((&mut holding).await.unwrap());
    assert_eq!((bench.sending(), bench.commit().base), (0, 1), "the snapshot has all that was sent");
    bench.handler.release();
    bench.started(1).await;
    bench.end(1, Some(Outcome::Delivered)).await;
    assert_eq!(bench.commit().base, 2);
}

#[tokio::test]
async fn a_transaction_is_not_committed_while_something_hangs() {
    let bench = Bench::guarded(Guard::Transaction, 0, 1024);
    bench.offer(0, NOW_MS);
    bench.started(0).await;
    let engine = bench.engine.clone();
    let holding = tokio::task::spawn_blocking(move || EngineHandler(engine).hold());
    bench.until("the gate is closed", || bench.engine.state.lock().held_up).await;
    bench.advance(Duration::from_secs(15));
    bench.engine.drained.notify_all();
    assert!(!holding.await.unwrap());
}

#[tokio::test]
async fn a_run_of_an_earlier_ownership_completes_nothing() {
    let bench = Bench::new(0, 1024);
    bench.offer(0, NOW_MS);
    bench.started(0).await;
    // Lost and given back: the record is read again, by a new run.
    let partitions = std::slice::from_ref(&bench.at);
    bench.handler.fence(partitions);
    bench.handler.revoked(partitions);
    bench.assign(0, "");
    bench.commit();
    let late = bench.work.under_way.lock().remove(&0).expect("it is under way");
    late.send(Some(Outcome::Delivered)).expect("the run waits");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.commit().base, 0);
    assert_eq!(bench.offer(0, NOW_MS), More::Yes);
    bench.end(0, Some(Outcome::Delivered)).await;
    assert_eq!(bench.commit().base, 1);
    assert_eq!(bench.room(), PERMITS, "no permit is left with the earlier one");
}

#[tokio::test]
async fn each_end_is_counted_in_the_commit_that_covers_it() {
    let bench = Bench::new(0, 1024);
    for offset in 0..4 {
        bench.offer(offset, NOW_MS);
    }
    bench.end(1, Some(Outcome::Parked)).await;
    bench.end(2, Some(Outcome::Dead(Reason::Refused))).await;
    assert_eq!(bench.commit().metadata, "2:Bg:0p1R1");
    bench.end(0, Some(Outcome::Delivered)).await;
    bench.end(3, None).await;
    bench.handler.passed(&bench.at, 6);
    let commit = bench.commit();
    assert_eq!((commit.base, commit.metadata.as_str()), (3, "2:Bg:0d1p1R1m2"));
}

#[tokio::test]
async fn what_retention_took_moves_nothing_that_is_complete() {
    let bench = Bench::new(0, 1024);
    bench.handler.revoked(std::slice::from_ref(&bench.at));
    // 11 and 13 were complete, and 10 was not; the log begins at 12.
    bench.assign_after_retention(10, "2:Cg:10d2", 12);
    let commit = bench.commit();
    assert_eq!((commit.base, commit.metadata.as_str()), (12, "2:Ag:10d2x1"));
    assert_eq!((bench.offer(12, NOW_MS), bench.offer(13, NOW_MS)), (More::Yes, More::Yes));
    bench.end(12, Some(Outcome::Delivered)).await;
    assert_eq!(*bench.work.started.lock(), [12], "13 was complete before");
    let commit = bench.commit();
    assert_eq!((commit.base, commit.metadata.as_str()), (14, "2::10d3x1"));
}

#[tokio::test]
async fn a_run_without_an_outcome_stays_open() {
    let bench = Bench::new(0, 1024);
    bench.offer(0, NOW_MS);
    bench.end(0, None).await;
    assert_eq!(bench.commit().base, 0, "it is replayed by whoever owns the partition next");
}

#[tokio::test]
async fn what_waits_for_a_pass_holds_its_permit_and_leaves_with_its_partition() {
    let bench = Bench::new(0, 1024);
    bench.work.barred.send_replace((0..4).collect());
    for offset in 0..4 {
        assert_eq!(bench.offer(offset, NOW_MS), More::Yes);
    }
    let tasks = || bench.engine.surroundings.tasks.clone();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((bench.room(), bench.sending()), (0, 0), "nothing is admitted, and nothing counts as sent");
    bench.commit();
    assert_eq!(bench.room(), 0, "a commit frees nothing");

    bench.work.barred.send_replace(vec![1, 2, 3]);
    bench.end(0, Some(Outcome::Delivered)).await;
    let partitions = std::slice::from_ref(&bench.at);
    bench.handler.fence(partitions);
    // With every pass still barred: they leave because of the fence, and there is nothing to drain.
    assert!(tasks().wait(Duration::from_secs(10)).await, "every run has ended");
    bench.handler.drain(partitions);
    assert_eq!(*bench.work.started.lock(), [0]);
    assert_eq!(bench.commit().base, 1);
    bench.handler.revoked(partitions);
}

#[tokio::test]
async fn a_pass_that_comes_after_the_lease_has_ended_starts_nothing() {
    let bench = Bench::new(0, 1024);
    bench.work.barred.send_replace(vec![0]);
    bench.offer(0, NOW_MS);
    bench.advance(Duration::from_secs(30));
    bench.work.barred.send_replace(Vec::new());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(bench.work.started.lock().is_empty(), "the lease is asked for last");
    bench.commit();
    bench.end(0, Some(Outcome::Delivered)).await;
}
