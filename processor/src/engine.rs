//! The engine: one consumer group's partitions, from the record read to the completion committed.
//!
//! It joins the pure [`core`](crate::core) to the consumer thread on one side and to asynchronous work on the other. The
//! router, the deliverer of `events` and the retry lanes are the same engine with different [`Work`].
//!
//! Invariants:
//! * An offset completes only when its effect is durable elsewhere ([`Work::run`] has answered), or when it is a repeat.
//! * A send starts only under a lease, in the partition's present epoch, and not once it is fenced.
//! * What is in flight is bounded: by the lane's permits, the partition's window, and one held record per partition.

mod cache;
mod opening;
mod throttle;
mod turn;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use common::clock::Clock;
use common::kafka::consumer::{Assigned, Commit, Die, Doubt, Handler, Incoming, More, TopicPartition, Waker};
use common::shutdown::Group as Tasks;
use common::topics::Topic;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::control::{self, Control};
use crate::core::lease::Lease;
use crate::core::partition::{Admit, DedupKey, Partition};
use crate::core::schedule::wait_ms;
use crate::journal::{self, Point};
use crate::metrics::{self, Ended};
use crate::outcome::Outcome;

pub use opening::{ColdIndex, IndexSettings, KeyOf};
pub use throttle::Throttle;
pub use turn::Turn;

/// Runs that are one task: what wakes several of them wakes it once. More would keep what they compute on fewer cores.
const RUNS_TOGETHER: usize = 16;

/// What is done with the records of a group.
pub trait Work: Send + Sync + 'static {
    /// A record in a form that outlives the consumer's buffer.
    type Item: Send + 'static;

    /// What a run waits for before it begins.
    type Pass: Send + 'static;

    /// Verifies and reads a record. On the poll thread: cheap, no I/O.
    fn inspect(&self, lane: &Lane, record: &Incoming<'_>) -> Inspected<Self::Item>;

    /// Waits, as long as it takes, until the effect may begin. Dropped while it waits if the partition leaves.
    fn pass(&self, item: &Self::Item) -> impl Future<Output = Self::Pass> + Send;

    /// Brings about the effect. Answers only when it is durable; `None` if the partition left before.
    fn run(&self, turn: Turn, item: Self::Item, pass: Self::Pass) -> impl Future<Output = Option<Outcome>> + Send;
}

/// What a record turned out to be.
pub enum Inspected<I> {
    /// To be run, unless it is a repeat. Without a key it is never one, and enters no index.
    Run {
        /// What it is known by.
        key: Option<DedupKey>,
        /// It.
        item: I,
    },
    /// Nothing to do with it here; it still enters the index.
    Pass {
        /// What it is known by.
        key: DedupKey,
    },
}

/// One topic of a group: a lane with a delay.
#[derive(Debug)]
pub struct Lane {
    /// Its role.
    pub topic: Topic,
    /// Its name in Kafka.
    pub name: Arc<str>,
    /// The sink that the group works for; empty for the router.
    pub sink: String,
    /// How long each record waits, at least.
    pub delay_ms: u64,
    /// The partitions that a delay is spread over.
    pub partitions: u32,
    /// Records whose completion is not committed yet.
    pub permits: usize,
    /// How its records ended.
    pub ended: Ended,
}

impl Lane {
    /// How long each record of a partition waits.
    fn wait_ms(&self, partition: i32) -> u64 {
        if self.delay_ms > 0 { wait_ms(self.delay_ms, partition, self.partitions) } else { 0 }
    }

    fn count(&self, outcome: Outcome) {
        self.ended.count(&self.topic, &self.sink, outcome);
    }
}

/// Settings of an engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// The progress window.
    pub window: u32,
    /// How long a revoke waits for sends.
    pub drain_deadline: Duration,
    /// The session timeout.
    pub session: Duration,
    /// Longest dispatch.
    pub dispatch_timeout: Duration,
    /// What keeps a process from an effect for a partition that is no longer its own.
    pub guard: Guard,
}

/// What keeps a process from an effect for a partition that is no longer its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// An effect is for good once it began, so it begins only while a lease holds.
    Lease,
    /// An effect is for good once its transaction is committed. The broker commits none for a member of an earlier
    /// generation, so no lease is needed; nor could there be one, for offsets in a transaction don't renew a session.
    Transaction,
}

/// What an engine needs from its process.
#[derive(Clone)]
pub struct Surroundings {
    /// Time.
    pub clock: Clock,
    /// The process's tasks.
    pub tasks: Tasks,
    /// The runtime of the tasks.
    pub runtime: Handle,
    /// Ends the process.
    pub die: Die,
}

/// See the module.
pub struct Engine<W: Work> {
    work: W,
    lanes: Vec<Arc<Lane>>,
    settings: EngineSettings,
    surroundings: Surroundings,
    /// The window of the indexes, if there are any.
    dedup_window: Option<Duration>,
    opener: Option<opening::Opener>,
    waker: Waker,
    state: Mutex<State<W::Item>>,
    drained: Condvar,
    /// Told at every change of the lease or of ownership.
    leased: Notify,
    /// Told when partitions are fenced or gone.
    left: Notify,
    dirty: AtomicBool,
    tick_ms: std::sync::OnceLock<Arc<AtomicU64>>,
}

struct State<I> {
    slots: HashMap<TopicPartition, Slot<I>>,
    /// Permits taken, by lane.
    taken: Vec<usize>,
    lease: Lease,
    epoch: u64,
    /// Whether a transaction is being committed: nothing starts.
    held_up: bool,
    /// What is to be run, and is not yet: handed to the runtime once in a while, because a task for each record from outside of
    /// it costs a lock and a wake-up each.
    admitted: Vec<(Turn, I)>,
}

/// An owned partition.
struct Slot<I> {
    lane: usize,
    epoch: u64,
    /// `Err` until its index is there: what was committed last.
    partition: Result<Partition, Commit>,
    fenced: bool,
    /// Runs started and not ended.
    sending: usize,
    held: Option<Held<I>>,
    /// Goes on where the index ends; none while a partition was opened before its window was read.
    cache: Option<cache::Cache>,
    /// When it was opened, by the monotonic clock.
    opened: Duration,
}

/// Whether a run has started.
enum Begin {
    Begun,
    /// The lease does not hold now.
    NotLeased,
    /// Its partition is fenced or gone.
    Left,
}

/// A record that was read too early.
struct Held<I> {
    offset: i64,
    time_ms: u64,
    inspected: Inspected<I>,
}

impl<W: Work> Engine<W> {
    /// An engine that owns nothing yet; without index settings it recognises no repeats. `None` if the session leaves no
    /// time to send in.
    pub fn new(
        work: W,
        lanes: Vec<Lane>,
        settings: EngineSettings,
        surroundings: Surroundings,
        index: Option<IndexSettings>,
        waker: Waker,
    ) -> Option<Arc<Self>> {
        let lease = Lease::new(settings.session, settings.dispatch_timeout)?;
        let taken = vec![0; lanes.len()];
        let dedup_window = index.as_ref().map(|index| index.window);
        Some(Arc::new_cyclic(|engine: &Weak<Self>| {
            let opener = index.map(|index| opening::Opener::start(index, Arc::new(Openings(engine.clone()))));
            Self {
                work,
                lanes: lanes.into_iter().map(Arc::new).collect(),
                settings,
                surroundings,
                dedup_window,
                opener,
                waker,
                state: Mutex::new(State {
                    slots: HashMap::new(),
                    taken,
                    lease,
                    epoch: 0,
                    held_up: false,
                    admitted: Vec::new(),
                }),
                drained: Condvar::new(),
                leased: Notify::new(),
                left: Notify::new(),
                dirty: AtomicBool::new(false),
                tick_ms: std::sync::OnceLock::new(),
            }
        }))
    }

    /// Where to read when the poll thread last came round.
    pub fn watch_tick(&self, tick_ms: Arc<AtomicU64>) {
        self.tick_ms.set(tick_ms).ok();
    }

    fn lane_of(&self, at: &TopicPartition) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.name == at.topic)
    }

    /// Takes a record that was read, or holds it if it is too early. There is room for one.
    fn take(self: &Arc<Self>, at: &TopicPartition, record: Held<W::Item>) -> More {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        // While its partition leaves, a record is left to the next owner.
        let Some(slot) = state.slots.get(at) else { return More::NotNow };
        if slot.fenced {
            return More::NotNow;
        }
        let Some(held) = self.admit(state, at, record) else { return More::Yes };
        if let Some(slot) = state.slots.get_mut(at) {
            // The next would take its place, and it would count as a gap.
            slot.held = Some(held);
        }
        More::NotNow
    }

    /// Puts one record through the core and starts its run. Gives the record back if it is too early.
    fn admit(
        self: &Arc<Self>,
        state: &mut State<W::Item>,
        at: &TopicPartition,
        record: Held<W::Item>,
    ) -> Option<Held<W::Item>> {
        let State { slots, taken, admitted, .. } = state;
        let slot = slots.get_mut(at)?;
        let lane = &self.lanes[slot.lane];
        let partition = slot.partition.as_mut().ok()?;
        if lane.delay_ms > 0
            && self.surroundings.clock.unix_ms() < record.time_ms.saturating_add(lane.wait_ms(at.partition))
        {
            return Some(record);
        }
        let Held { offset, time_ms, inspected } = record;
        let key = match &inspected {
            Inspected::Run { key, .. } => *key,
            Inspected::Pass { key } => Some(*key),
        };
        let mut changed = Vec::new();
        let verdict = partition.admit(offset, key, time_ms, &mut changed);
        // One that must wait was not looked at: noted now, it would count as seen when it comes again.
        if let Some(cache) = &mut slot.cache
            && verdict != Admit::Wait
        {
            cache.note(offset, time_ms, &changed);
        }
        match (verdict, inspected) {
            (Admit::Wait, inspected) => return Some(Held { offset, time_ms, inspected }),
            (Admit::Skip, _) => {}
            (Admit::Repeat, _) => lane.count(Outcome::Repeat),
            (Admit::Deliver, Inspected::Pass { .. }) => {
                // Complete without an effect, so its permit goes the ordinary way.
                taken[slot.lane] += 1;
                partition.complete(offset, Outcome::Passed);
                lane.count(Outcome::Passed);
            }
            (Admit::Deliver, Inspected::Run { item, .. }) => {
                taken[slot.lane] += 1;
                journal::pass(Point::AfterAdmit);
                let turn = Turn::new(at.clone(), slot.epoch, offset, time_ms, lane.clone());
                admitted.push((turn, item));
            }
        }
        self.dirty.store(true, Ordering::SeqCst);
        None
    }

    /// Starts the runs of what was admitted.
    fn start(self: &Arc<Self>) {
        let admitted = std::mem::take(&mut self.state.lock().admitted);
        if admitted.is_empty() {
            return;
        }
        let engine = self.clone();
        let _runtime = self.surroundings.runtime.enter();
        self.surroundings.tasks.spawn("dispatch", async move {
            let mut admitted = admitted.into_iter();
            loop {
                let runs: FuturesUnordered<_> =
                    admitted.by_ref().take(RUNS_TOGETHER).map(|(turn, item)| engine.clone().run(turn, item)).collect();
                if runs.is_empty() {
                    return;
                }
                engine.surroundings.tasks.spawn("dispatch", runs.for_each(|()| std::future::ready(())));
            }
        });
    }

    async fn run(self: Arc<Self>, mut turn: Turn, item: W::Item) {
        let place = turn.place();
        // From the beginning: a run that panics takes those of its task with it.
        let unfinished = turn::Unfinished::new(&self.surroundings.die, &place);
        // The lease comes last: it must hold when the effect begins, however long the pass took. And no pass is kept while
        // the lease is waited for: a run of another group may have one.
        let pass = loop {
            let Some(pass) = self.while_ours(&turn, self.work.pass(&item)).await else { return };
            match self.begin(&turn) {
                Begin::Begun => break pass,
                Begin::NotLeased => drop(pass),
                Begin::Left => return,
            }
            if !self.leased(&turn).await {
                return;
            }
        };
        turn.watch(self.clone());
        let outcome = self.work.run(turn, item, pass).await;
        unfinished.finished();
        self.finish(&place, outcome);
    }

    /// Waits for something as long as the partition is ours; `None` once it leaves.
    async fn while_ours<T>(&self, turn: &Turn, waited_for: impl Future<Output = T>) -> Option<T> {
        let mut waited_for = pin!(waited_for);
        loop {
            let left = self.left.notified();
            if !turn::Ownership::holds(self, &turn.at, turn.epoch) {
                return None;
            }
            tokio::select! {
                // In this order what is there at once costs nothing more.
                biased;
                done = &mut waited_for => return Some(done),
                () = left => {}
            }
        }
    }

    /// Counts the run as started if it may start.
    fn begin(&self, turn: &Turn) -> Begin {
        let mut state = self.state.lock();
        let holds = self.may_start(&state);
        match state.slots.get_mut(&turn.at) {
            Some(slot) if slot.epoch == turn.epoch && !slot.fenced => {
                if !holds {
                    return Begin::NotLeased;
                }
                slot.sending += 1;
                journal::started(turn);
                journal::pass(Point::BeforeDispatch);
                Begin::Begun
            }
            Some(_) | None => Begin::Left,
        }
    }

    /// Waits for the lease. `false` if the partition left.
    async fn leased(&self, turn: &Turn) -> bool {
        loop {
            let changed = self.leased.notified();
            if !turn::Ownership::holds(self, &turn.at, turn.epoch) {
                return false;
            }
            if self.may_start(&self.state.lock()) {
                return true;
            }
            // The tick may have been what was missing, and it tells nobody.
            let _ = tokio::time::timeout(Duration::from_millis(100), changed).await;
        }
    }

    fn may_start(&self, state: &State<W::Item>) -> bool {
        match self.settings.guard {
            Guard::Lease => self.lease_holds(&state.lease),
            Guard::Transaction => !state.held_up,
        }
    }

    fn lease_holds(&self, lease: &Lease) -> bool {
        let tick = self.tick_ms.get().map_or(0, |tick| tick.load(Ordering::SeqCst));
        lease.holds(self.surroundings.clock.monotonic(), Duration::from_millis(tick)) || control::is(Control::NoLease)
    }

    fn finish(&self, place: &turn::Place, outcome: Option<Outcome>) {
        let mut guard = self.state.lock();
        let State { slots, taken, .. } = &mut *guard;
        if let Some(slot) = slots.get_mut(&place.at)
            && slot.epoch == place.epoch
        {
            slot.sending -= 1;
            if let (Some(outcome), Ok(partition)) = (outcome, &mut slot.partition) {
                partition.complete(place.offset, outcome);
                if control::is(Control::PermitFreedOnAnswer) {
                    partition.snapshot();
                    taken[slot.lane] -= partition.committed();
                }
            }
        }
        drop(guard);
        if let Some(outcome) = outcome {
            place.lane.count(outcome);
            self.dirty.store(true, Ordering::SeqCst);
        }
        self.drained.notify_all();
    }

    /// Notes what the indexes hold.
    fn measure(&self, state: &State<W::Item>) {
        if self.opener.is_none() {
            return;
        }
        let open = state.slots.values().filter_map(|slot| slot.partition.as_ref().ok()?.index());
        let (ids, bytes) = open.fold((0, 0), |(ids, bytes), index| (ids + index.len(), bytes + index.bytes()));
        metrics::index(&self.lanes[0].topic, &self.lanes[0].sink, ids, bytes);
    }

    fn sending(state: &State<W::Item>, partitions: &[TopicPartition]) -> usize {
        partitions.iter().filter_map(|at| state.slots.get(at)).map(|slot| slot.sending).sum()
    }
}

/// An engine as those see it who look at it from outside, now and then.
pub trait Watched: Send + Sync {
    /// Whether every partition owned is open.
    fn is_open(&self) -> bool;

    /// Notes what changes without anybody's doing.
    fn measure(&self);

    /// How far each partition that is owned has come.
    fn positions(&self) -> Vec<Position>;
}

/// How far a partition has come.
#[derive(Debug, Clone)]
pub struct Position {
    /// Its topic, and whose it is.
    pub lane: Arc<Lane>,
    /// Its number.
    pub partition: i32,
    /// The lowest offset that is not complete.
    pub base: i64,
}

impl<W: Work> Watched for Engine<W> {
    fn is_open(&self) -> bool {
        self.state.lock().slots.values().all(|slot| slot.partition.is_ok())
    }

    fn measure(&self) {
        let state = self.state.lock();
        let now = self.surroundings.clock.monotonic();
        let open = || state.slots.values().filter(|slot| slot.partition.is_ok());
        let covered = |window: Duration| {
            let of = |slot: &Slot<W::Item>| match slot.cache {
                Some(_) => window,
                None => window.min(now.saturating_sub(slot.opened)),
            };
            open().map(of).min().unwrap_or(window)
        };
        let now = metrics::GroupNow {
            in_flight: state.taken.iter().sum(),
            owned: state.slots.len(),
            may_start: self.may_start(&state),
            covered: self.dedup_window.map(covered),
        };
        drop(state);
        metrics::group(&self.lanes[0].topic, &self.lanes[0].sink, now);
    }

    fn positions(&self) -> Vec<Position> {
        let state = self.state.lock();
        let position = |(at, slot): (&TopicPartition, &Slot<W::Item>)| Position {
            lane: self.lanes[slot.lane].clone(),
            partition: at.partition,
            base: match &slot.partition {
                Ok(partition) => partition.base(),
                Err(closed) => closed.base,
            },
        };
        state.slots.iter().map(position).collect()
    }
}

/// The engine as its opener sees it. When the engine is gone, nothing is wanted any more.
struct Openings<W: Work>(Weak<Engine<W>>);

impl<W: Work> opening::Owner for Openings<W> {
    fn wants(&self, job: &opening::Job) -> bool {
        self.0.upgrade().is_some_and(|engine| turn::Ownership::holds(&*engine, &job.assigned.at, job.epoch))
    }

    fn opened(&self, job: &opening::Job, partition: Partition, cache: Option<cache::Cache>) {
        let Some(engine) = self.0.upgrade() else { return };
        if let Some(slot) = engine.state.lock().slots.get_mut(&job.assigned.at)
            && slot.epoch == job.epoch
        {
            slot.partition = Ok(partition);
            slot.cache = cache;
            slot.opened = engine.surroundings.clock.monotonic();
        }
        engine.waker.wake();
    }

    fn completed(&self, job: &opening::Job, built: opening::Built) -> Option<(opening::Built, i64)> {
        let engine = self.0.upgrade()?;
        let mut state = engine.state.lock();
        let slot = state.slots.get_mut(&job.assigned.at).filter(|slot| slot.epoch == job.epoch)?;
        let opening::Built { index, cache } = built;
        match slot.partition.as_mut().ok()?.complete_index(index) {
            Some((index, wanted)) => Some((opening::Built { index, cache }, wanted)),
            None => {
                slot.cache = Some(cache);
                None
            }
        }
    }
}

impl<W: Work> turn::Ownership for Engine<W> {
    fn holds(&self, at: &TopicPartition, epoch: u64) -> bool {
        self.state.lock().slots.get(at).is_some_and(|slot| slot.epoch == epoch && !slot.fenced)
    }
}

/// The engine as the consumer thread sees it.
pub struct EngineHandler<W: Work>(pub Arc<Engine<W>>);

impl<W: Work> Handler for EngineHandler<W> {
    fn assigned(&self, partitions: Vec<Assigned>) {
        let engine = &self.0;
        journal::assigned(&engine.lanes[0], partitions.len());
        metrics::rebalanced(&engine.lanes[0].topic, &engine.lanes[0].sink, "assigned");
        let now = engine.surroundings.clock.monotonic();
        let mut state = engine.state.lock();
        for assigned in partitions {
            let Some(lane) = engine.lane_of(&assigned.at) else { continue };
            state.epoch += 1;
            let epoch = state.epoch;
            let at = assigned.at.clone();
            let partition = match &engine.opener {
                Some(opener) => {
                    let closed =
                        Commit { at: at.clone(), base: assigned.committed, metadata: assigned.metadata.clone() };
                    opener.open(opening::Job {
                        lane: engine.lanes[lane].clone(),
                        epoch,
                        assigned,
                        window: engine.settings.window,
                        foreign: false,
                        early: false,
                    });
                    Err(closed)
                }
                None => match opening::progress(&engine.lanes[lane], &assigned, engine.settings.window) {
                    Ok(progress) => Ok(Partition::new(progress, None)),
                    Err(error) => return (engine.surroundings.die)(Doubt(format!("{at:?}: {error}"))),
                },
            };
            state.slots.insert(
                at,
                Slot { lane, epoch, partition, fenced: false, sending: 0, held: None, cache: None, opened: now },
            );
        }
        drop(state);
        engine.dirty.store(true, Ordering::SeqCst);
    }

    fn room(&self, at: &TopicPartition) -> usize {
        let engine = &self.0;
        let mut guard = engine.state.lock();
        let state = &mut *guard;
        let Some(slot) = state.slots.get_mut(at) else { return 0 };
        if slot.fenced || slot.partition.is_err() {
            return 0;
        }
        let permits = engine.lanes[slot.lane].permits;
        if state.taken[slot.lane] >= permits {
            return 0;
        }
        if let Some(held) = slot.held.take()
            && let Some(held) = engine.admit(state, at, held)
        {
            if let Some(slot) = state.slots.get_mut(at) {
                slot.held = Some(held);
            }
            return 0;
        }
        let Some(slot) = state.slots.get(at) else { return 0 };
        let window = slot.partition.as_ref().map_or(0, Partition::room);
        window.min(permits.saturating_sub(state.taken[slot.lane]))
    }

    fn record(&self, at: &TopicPartition, record: Incoming<'_>) -> More {
        let engine = &self.0;
        let Some(lane) = engine.lane_of(at) else { return More::NotNow };
        let inspected = engine.work.inspect(&engine.lanes[lane], &record);
        engine.take(at, Held { offset: record.offset(), time_ms: record.time_ms(), inspected })
    }

    fn turned(&self) {
        self.0.start();
    }

    fn passed(&self, at: &TopicPartition, end: i64) {
        let engine = &self.0;
        let mut state = engine.state.lock();
        if let Some(slot) = state.slots.get_mut(at)
            // What is held was read, and is not admitted: it lies below the end, and it is no marker.
            && slot.held.is_none()
            && !slot.fenced
            && let Ok(partition) = &mut slot.partition
            && partition.next() < end
        {
            partition.pass(end);
            engine.dirty.store(true, Ordering::SeqCst);
        }
    }

    fn lapsed(&self, now: Duration) {
        self.0.state.lock().lease.lapse(now);
    }

    fn hold(&self) -> bool {
        let engine = &self.0;
        let deadline = engine.surroundings.clock.monotonic() + engine.settings.drain_deadline;
        let mut state = engine.state.lock();
        state.held_up = true;
        while state.slots.values().any(|slot| slot.sending > 0) {
            let left = deadline.saturating_sub(engine.surroundings.clock.monotonic());
            if left.is_zero() {
                return false;
            }
            engine.drained.wait_for(&mut state, left);
        }
        true
    }

    fn release(&self) {
        self.0.state.lock().held_up = false;
        self.0.leased.notify_waiters();
    }

    fn fence(&self, partitions: &[TopicPartition]) {
        let mut state = self.0.state.lock();
        for at in partitions {
            if let Some(slot) = state.slots.get_mut(at) {
                slot.fenced = true;
            }
        }
        drop(state);
        self.0.leased.notify_waiters();
        self.0.left.notify_waiters();
    }

    fn drain(&self, partitions: &[TopicPartition]) {
        let engine = &self.0;
        journal::pass(Point::InRevoke);
        let deadline = engine.surroundings.clock.monotonic() + engine.settings.drain_deadline;
        let mut state = engine.state.lock();
        while Engine::<W>::sending(&state, partitions) > 0 {
            let left = deadline.saturating_sub(engine.surroundings.clock.monotonic());
            if left.is_zero() {
                tracing::warn!(
                    sending = Engine::<W>::sending(&state, partitions),
                    "sends under way at the drain deadline may be repeated"
                );
                return;
            }
            engine.drained.wait_for(&mut state, left);
        }
    }

    fn snapshot(&self, only: Option<&[TopicPartition]>) -> Vec<Commit> {
        let engine = &self.0;
        if only.is_none() {
            engine.dirty.store(false, Ordering::SeqCst);
        }
        let mut state = engine.state.lock();
        let wanted = |at: &TopicPartition| only.is_none_or(|only| only.contains(at));
        let leaves = |slot: &Slot<W::Item>| control::is(Control::NoFinalCommit) && slot.fenced;
        let slots = state.slots.iter_mut().filter(|(at, slot)| wanted(at) && !leaves(slot));
        let commits = slots
            .map(|(at, slot)| match &mut slot.partition {
                Ok(partition) => {
                    let snapshot = partition.snapshot();
                    Commit { at: at.clone(), base: snapshot.base, metadata: snapshot.metadata }
                }
                Err(closed) => closed.clone(),
            })
            .collect();
        journal::pass(Point::BeforeCommit);
        commits
    }

    fn committed(&self, commits: &[Commit], sent: Duration) {
        let engine = &self.0;
        journal::pass(Point::AfterCommitBeforeAnswer);
        journal::committed(&engine.lanes[0], commits);
        let mut guard = engine.state.lock();
        let state = &mut *guard;
        for commit in commits {
            if let Some(slot) = state.slots.get_mut(&commit.at)
                && let Ok(partition) = &mut slot.partition
            {
                state.taken[slot.lane] -= partition.committed();
            }
        }
        state.lease.renew(sent);
        engine.measure(state);
        drop(guard);
        engine.leased.notify_waiters();
    }

    fn revoked(&self, partitions: &[TopicPartition]) {
        let engine = &self.0;
        journal::revoked(&engine.lanes[0], partitions.len());
        metrics::rebalanced(&engine.lanes[0].topic, &engine.lanes[0].sink, "revoked");
        let mut guard = engine.state.lock();
        let state = &mut *guard;
        for at in partitions {
            if let Some(mut slot) = state.slots.remove(at) {
                if let Ok(partition) = &slot.partition {
                    state.taken[slot.lane] -= partition.permits();
                }
                if let Some(cache) = &mut slot.cache {
                    cache.flush();
                }
            }
        }
        engine.measure(state);
        drop(guard);
        engine.leased.notify_waiters();
        engine.left.notify_waiters();
        engine.drained.notify_all();
    }

    fn dirty(&self) -> bool {
        self.0.dirty.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests;
