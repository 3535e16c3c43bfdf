//! The checker: a history of what happened, held against the promise.
//!
//! * **Lost**: acknowledged to a sender, and neither at the sink nor in `dead`. Must be empty, sink by sink.
//! * A *replay* is a dispatch of a record that was dispatched before. Each has one of three causes: the sink had not
//!   answered when the process died or was cut off (**in flight**); it had, but no commit that covers it was acknowledged
//!   (**not committed**); or one was (**committed yet repeated**, which must not be).
//! * **Without a crash**: a replay of what a process dispatched that neither died nor was cut off. Must not be.
//! * **Over the bound**: more replays of one lane after one crash than that lane has permits. Must not be.
//! * **Not recognised**: two records of a lane with the same key were both dispatched. Must not be.
//! * **Unexplained**: an event with more effects at a sink than its replays and lost answers account for. Must not be.
//! * **Foreign**: an effect of an event that nobody was told is accepted. Must not be.
//!
//! A sink that remembers ids sees each event once: its effects are the different ids among all effects. That they are
//! exactly the acknowledged events, less those that are dead, is what *lost* and *foreign* say together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::journal::{Answer, Entry, EventId, Journal, Life, Place, What};

/// What a sink saw and what was buried for it.
#[derive(Debug, Default, Clone)]
pub struct SinkSaw {
    /// Its name.
    pub name: String,
    /// How often each event had an effect.
    pub effects: HashMap<EventId, u32>,
    /// Events in `dead`.
    pub dead: HashSet<EventId>,
    /// Whether its client writes again by itself what it wrote beside a record whose acknowledgement was late: Kafka's
    /// does, under a new producer epoch. Such an event's answer was lost too, though nobody but the client knows.
    pub rewrites: bool,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct History {
    /// Events that senders were told are accepted.
    pub acked: HashSet<EventId>,
    /// The sinks.
    pub sinks: Vec<SinkSaw>,
    /// What the processors wrote.
    pub journal: Journal,
    /// When a process died or was cut off, by node and process id.
    pub crashes: Vec<(usize, i32)>,
    /// Whether brokers or connections were disturbed, so that any process may have been cut off.
    pub cut_off: bool,
    /// Permits of each lane.
    pub permits: usize,
}

/// What must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// See the module.
    Lost,
    /// See the module.
    Foreign,
    /// See the module.
    NotRecognised,
    /// See the module.
    CommittedRepeated,
    /// See the module.
    OverBound,
    /// See the module.
    WithoutCrash,
    /// See the module.
    Unexplained,
}

impl Invariant {
    /// What it is called in a table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Foreign => "foreign",
            Self::NotRecognised => "repeat not recognised",
            Self::CommittedRepeated => "committed yet repeated",
            Self::OverBound => "over the bound",
            Self::WithoutCrash => "repeated without a crash",
            Self::Unexplained => "unexplained",
        }
    }
}

/// What the checker found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// How often each invariant was violated, with a few examples.
    pub violations: BTreeMap<Invariant, (usize, Vec<String>)>,
    /// Events acknowledged.
    pub acked: usize,
    /// Events that are dead for a sink, summed over the sinks.
    pub dead: usize,
    /// Effects beyond the first of an event, summed over the sinks.
    pub twice: usize,
    /// Of these: in flight when the process died or was cut off, or their answer was lost.
    pub in_flight: usize,
    /// Of these: answered, but the commit was not acknowledged.
    pub not_committed: usize,
    /// Most replays of one lane after one crash.
    pub lane_max: usize,
    /// Most replays after one crash, all lanes and sinks together.
    pub crash_max: usize,
    /// Dispatches.
    pub dispatches: usize,
    /// Of these: those that failed or were not answered.
    pub failed: usize,
}

impl Findings {
    /// How often an invariant was violated.
    pub fn count(&self, invariant: Invariant) -> usize {
        self.violations.get(&invariant).map_or(0, |(count, _)| *count)
    }

    /// Whether nothing was violated.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Takes in what was found in another part of the same session.
    pub fn add(&mut self, other: Self) {
        for (invariant, (count, examples)) in other.violations {
            let (sum, shown) = self.violations.entry(invariant).or_default();
            *sum += count;
            shown.extend(examples);
        }
        self.acked += other.acked;
        self.dead += other.dead;
        self.twice += other.twice;
        self.in_flight += other.in_flight;
        self.not_committed += other.not_committed;
        self.lane_max = self.lane_max.max(other.lane_max);
        self.crash_max = self.crash_max.max(other.crash_max);
        self.dispatches += other.dispatches;
        self.failed += other.failed;
    }

    fn violate(&mut self, invariant: Invariant, example: impl FnOnce() -> String) {
        const EXAMPLES: usize = 5;
        let (count, examples) = self.violations.entry(invariant).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(example());
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (invariant, (count, examples)) in &self.violations {
            writeln!(f, "{}: {count}, such as", invariant.as_str())?;
            examples.iter().try_for_each(|example| writeln!(f, "  {example}"))?;
        }
        Ok(())
    }
}

/// Why a dispatch was repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    InFlight,
    NotCommitted,
    Committed,
}

/// A dispatch that was repeated, with the life that made it first.
struct Replay {
    place: Place,
    before: Life,
    again: Life,
    cause: Cause,
}

/// Dispatches of one place, as far as they were read.
struct Dispatched {
    life: Life,
    answer: Option<Answer>,
}

/// Holds a history against the promise.
pub fn check(history: &History) -> Findings {
    let mut findings = Findings { acked: history.acked.len(), ..Findings::default() };
    let ids = recognised(history, &mut findings);
    let replays = replays(&history.journal.entries);
    judge_replays(history, &replays, &mut findings);
    let mut explained: HashMap<(usize, EventId), [usize; 2]> = HashMap::new();
    let sink_of = |place: &Place| -> Option<usize> {
        let (sink, _) = &history.journal.lanes[place.lane];
        history.sinks.iter().position(|saw| saw.name == *sink)
    };
    for replay in &replays {
        if let (Some(sink), Some(id)) = (sink_of(&replay.place), ids.get(&replay.place)) {
            let of = explained.entry((sink, *id)).or_default();
            match replay.cause {
                Cause::InFlight => of[0] += 1,
                Cause::NotCommitted => of[1] += 1,
                Cause::Committed => {}
            }
        }
    }
    for entry in &history.journal.entries {
        match &entry.what {
            What::Answered { place, id, answer, .. } => {
                findings.failed += usize::from(matches!(answer, Answer::Failed | Answer::Unknown));
                if *answer == Answer::Unknown
                    && let Some(sink) = sink_of(place)
                {
                    explained.entry((sink, *id)).or_default()[0] += 1;
                }
            }
            What::Started(_) => findings.dispatches += 1,
            What::Committed { .. } | What::Gained(_) | What::Left(_) => {}
        }
    }
    let beside = beside_lost_answers(&history.journal.entries, sink_of);
    for (number, sink) in history.sinks.iter().enumerate() {
        findings.dead += sink.dead.len();
        for id in &history.acked {
            if !sink.effects.contains_key(id) && !sink.dead.contains(id) {
                findings.violate(Invariant::Lost, || format!("{}: {id:032x}", sink.name));
            }
        }
        for (id, count) in &sink.effects {
            if !history.acked.contains(id) {
                findings.violate(Invariant::Foreign, || format!("{}: {id:032x}", sink.name));
            }
            let twice = *count as usize - 1;
            if twice == 0 {
                continue;
            }
            let [in_flight, not_committed] = explained.get(&(number, *id)).copied().unwrap_or_default();
            findings.twice += twice;
            let of_not_committed = twice.min(not_committed);
            let mut of_in_flight = (twice - of_not_committed).min(in_flight);
            if sink.rewrites && of_not_committed + of_in_flight < twice {
                of_in_flight +=
                    beside.get(&(number, *id)).copied().unwrap_or(0).min(twice - of_not_committed - of_in_flight);
            }
            findings.not_committed += of_not_committed;
            findings.in_flight += of_in_flight;
            if of_not_committed + of_in_flight < twice {
                findings.violate(Invariant::Unexplained, || format!("{}: {id:032x} had {count} effects", sink.name));
            }
        }
    }
    findings
}

/// The event at each place; notes where the same record's copy was not recognised.
fn recognised(history: &History, findings: &mut Findings) -> HashMap<Place, EventId> {
    let mut ids = HashMap::new();
    let mut first: HashMap<(usize, EventId, [u32; 3]), Place> = HashMap::new();
    for entry in &history.journal.entries {
        if let What::Answered { place, id, turn, .. } = &entry.what
            && ids.insert(*place, *id).is_none()
        {
            let owner = first.entry((place.lane, *id, *turn)).or_insert(*place);
            if owner != place {
                let (sink, topic) = &history.journal.lanes[place.lane];
                findings.violate(Invariant::NotRecognised, || {
                    format!(
                        "{sink}: {topic}-{} has {id:032x} at {} and at {}",
                        place.partition, owner.offset, place.offset
                    )
                });
            }
        }
    }
    ids
}

/// Lost answers nearer to each other than this, in nanoseconds, made the client write again once.
const MOMENT: u64 = 50_000_000;

/// How often, while an event was on its way to a sink, other answers of that sink were lost in the same process. Before the
/// client gave the event up, too: then it wrote it again, and gave it up later.
fn beside_lost_answers(
    entries: &[Entry],
    sink_of: impl Fn(&Place) -> Option<usize>,
) -> HashMap<(usize, EventId), usize> {
    let mut lost: HashMap<(Life, usize), Vec<u64>> = HashMap::new();
    for entry in entries {
        if let What::Answered { place, answer: Answer::Unknown, .. } = &entry.what
            && let Some(sink) = sink_of(place)
        {
            lost.entry((entry.life, sink)).or_default().push(entry.at);
        }
    }
    let mut begun: HashMap<(Life, Place), u64> = HashMap::new();
    let mut beside = HashMap::new();
    for entry in entries {
        match &entry.what {
            What::Started(place) => {
                begun.insert((entry.life, *place), entry.at);
            }
            What::Answered { place, id, answer: answer @ (Answer::Ok | Answer::Unknown), .. } => {
                let (Some(sink), Some(from)) = (sink_of(place), begun.remove(&(entry.life, *place))) else { continue };
                let times = lost.get(&(entry.life, sink)).map(Vec::as_slice).unwrap_or_default();
                // Not the loss of this answer itself.
                let end = if *answer == Answer::Ok { entry.at } else { entry.at.saturating_sub(MOMENT) };
                let during = &times[times.partition_point(|time| *time < from)..];
                let during = &during[..during.partition_point(|time| *time <= end)];
                let moments = during.chunk_by(|one, next| next - one < MOMENT).count();
                *beside.entry((sink, *id)).or_default() += moments;
            }
            What::Answered { .. } | What::Committed { .. } | What::Gained(_) | What::Left(_) => {}
        }
    }
    beside
}

/// Every dispatch of a record that was dispatched before, with its cause.
fn replays(entries: &[Entry]) -> Vec<Replay> {
    let mut starts: HashMap<Place, u32> = HashMap::new();
    for entry in entries {
        if let What::Started(place) = &entry.what {
            *starts.entry(*place).or_default() += 1;
        }
    }
    // Commits need to be looked at only for what was dispatched more than once.
    let mut open: HashMap<(usize, i32), BTreeMap<i64, bool>> = HashMap::new();
    for (place, count) in starts {
        if count > 1 {
            open.entry((place.lane, place.partition)).or_default().insert(place.offset, false);
        }
    }
    let is_open = |open: &HashMap<(usize, i32), BTreeMap<i64, bool>>, place: &Place| {
        open.get(&(place.lane, place.partition)).and_then(|offsets| offsets.get(&place.offset)).copied()
    };
    let mut last: HashMap<Place, Dispatched> = HashMap::new();
    let mut replays = Vec::new();
    for entry in entries {
        match &entry.what {
            What::Started(place) => {
                let Some(covered) = is_open(&open, place) else { continue };
                let now = Dispatched { life: entry.life, answer: None };
                if let Some(before) = last.insert(*place, now) {
                    let cause = match (covered, before.answer) {
                        (true, _) => Cause::Committed,
                        (false, None | Some(Answer::Unknown)) => Cause::InFlight,
                        (false, Some(Answer::Ok | Answer::Refused | Answer::Failed)) => Cause::NotCommitted,
                    };
                    replays.push(Replay { place: *place, before: before.life, again: entry.life, cause });
                }
            }
            What::Answered { place, answer, .. } => {
                if let Some(dispatched) = last.get_mut(place).filter(|dispatched| dispatched.life == entry.life) {
                    dispatched.answer = Some(*answer);
                }
            }
            What::Committed { base, bits } => {
                let Some(offsets) = open.get_mut(&(base.lane, base.partition)) else { continue };
                let end = base.offset + i64::try_from(bits.len() * 8).unwrap_or(i64::MAX);
                for (offset, covered) in offsets.range_mut(..end.max(base.offset)).filter(|(_, covered)| !**covered) {
                    let above = usize::try_from(offset - base.offset).ok();
                    *covered = above.is_none_or(|bit| bits[bit / 8] >> (bit % 8) & 1 == 1);
                }
            }
            What::Gained(_) | What::Left(_) => {}
        }
    }
    replays
}

fn judge_replays(history: &History, replays: &[Replay], findings: &mut Findings) {
    let Journal { lanes, lives, .. } = &history.journal;
    let crashes = |life: Life| history.crashes.iter().filter(|crash| **crash == lives[life]).count();
    let shown = |replay: &Replay| {
        let (sink, topic) = &lanes[replay.place.lane];
        format!(
            "{sink}: {topic}-{} offset {} by {:?} and then by {:?}",
            replay.place.partition, replay.place.offset, lives[replay.before], lives[replay.again]
        )
    };
    let mut of_lane: HashMap<(Life, usize), usize> = HashMap::new();
    let mut of_life: HashMap<Life, usize> = HashMap::new();
    for replay in replays {
        if replay.cause == Cause::Committed {
            findings.violate(Invariant::CommittedRepeated, || shown(replay));
        }
        if !history.cut_off && crashes(replay.before) == 0 {
            findings.violate(Invariant::WithoutCrash, || shown(replay));
        }
        *of_lane.entry((replay.before, replay.place.lane)).or_default() += 1;
        *of_life.entry(replay.before).or_default() += 1;
    }
    for ((life, lane), count) in of_lane {
        // One life may be cut off several times, each time with other records in flight.
        let times = crashes(life).max(1);
        let count = count.div_ceil(times);
        findings.lane_max = findings.lane_max.max(count);
        if count > history.permits {
            let (sink, topic) = &lanes[lane];
            findings.violate(Invariant::OverBound, || {
                format!(
                    "{sink}: {count} of {topic} after a crash of {:?}, with {} permits",
                    lives[life], history.permits
                )
            });
        }
    }
    for (life, count) in of_life {
        findings.crash_max = findings.crash_max.max(count.div_ceil(crashes(life).max(1)));
    }
}

#[cfg(test)]
mod tests;
