//! The journal of a build for the fault suite: lines, each written with one `write(2)`, so that what was written is there
//! whatever becomes of the process. Times are nanoseconds of the machine's monotonic clock, the same in every process.
//!
//! ```text
//! B <time> <pid>                                                                  a process begins
//! S <time> <sink> <topic> <partition> <offset>                                    a dispatch starts
//! A <time> <sink> <topic> <partition> <offset> <id> <redrive>.<attempt>.<hop> <answer>   ok, refused, failed (the sink
//!                                                                                 said so) or unknown (it said nothing)
//! C <time> <sink> <topic> <partition> <base> <metadata or ->                      a commit was acknowledged
//! G <time> <sink> <topic> <count>    R <time> <sink> <topic> <count>              partitions came, partitions left
//! ```
//!
//! `SEALSTREAM_JOURNAL` names the file. `SEALSTREAM_KILL_AT=<point>:<n>` ends the process with SIGKILL when it passes the
//! point for the n-th time.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use common::id::KeyedId;
use common::kafka::consumer::{Commit, TopicPartition};
use common::record::Head;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::Point;
use crate::engine::{Lane, Turn};
use crate::sink::Refusal;

const POINTS: [(&str, Point); 9] = [
    ("after_admit", Point::AfterAdmit),
    ("before_dispatch", Point::BeforeDispatch),
    ("after_sink_answer", Point::AfterSinkAnswer),
    ("before_commit", Point::BeforeCommit),
    ("after_commit_before_answer", Point::AfterCommitBeforeAnswer),
    ("after_park_ack", Point::AfterParkAck),
    ("after_bury_ack", Point::AfterBuryAck),
    ("in_revoke", Point::InRevoke),
    ("while_opening", Point::WhileOpening),
];

/// Kills this process if it was asked to die here.
pub(crate) fn pass(point: Point) {
    static ASKED: OnceLock<Option<(Point, u64)>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);
    let Some((asked, count)) = *ASKED.get_or_init(asked) else { return };
    if asked == point && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == count {
        kill(Pid::this(), Signal::SIGKILL).expect("a process may kill itself");
        loop {
            std::thread::park();
        }
    }
}

fn asked() -> Option<(Point, u64)> {
    let text = std::env::var("SEALSTREAM_KILL_AT").ok().filter(|text| !text.is_empty())?;
    let asked = text.split_once(':').and_then(|(name, count)| {
        let point = POINTS.iter().find(|(known, _)| *known == name)?.1;
        Some((point, count.parse().ok()?))
    });
    assert!(asked.is_some(), "SEALSTREAM_KILL_AT is not <point>:<n>: {text}");
    asked
}

/// A dispatch is about to start.
pub(crate) fn started(turn: &Turn) {
    note(
        |line, time| {
            let lane = turn.lane();
            write!(line, "S {time} {} {} {} {}", lane.sink, lane.name, turn.partition(), turn.offset())
        },
        turn.lane(),
    );
}

/// The sink has answered, or will not.
pub(crate) fn answered(turn: &Turn, head: &Head, id: KeyedId, answer: &Result<(), Refusal>) {
    let (redrive, attempt, hop) =
        head.retry.as_ref().map_or((0, 0, 0), |retry| (retry.redrive, retry.attempt, retry.hop));
    let answer = match answer {
        Ok(()) => "ok",
        Err(Refusal::Permanent { .. }) => "refused",
        Err(Refusal::Status { .. } | Refusal::Overload(_)) => "failed",
        Err(Refusal::Timeout | Refusal::Transport(_)) => "unknown",
    };
    note(
        |line, time| {
            let lane = turn.lane();
            write!(
                line,
                "A {time} {} {} {} {} {id} {redrive}.{attempt}.{hop} {answer}",
                lane.sink,
                lane.name,
                turn.partition(),
                turn.offset()
            )
        },
        turn.lane(),
    );
}

/// A commit was acknowledged. Those that say nothing new are left out.
pub(crate) fn committed(lane: &Lane, commits: &[Commit]) {
    use std::collections::HashMap;
    static LAST: OnceLock<parking_lot::Mutex<HashMap<(String, TopicPartition), Commit>>> = OnceLock::new();
    let mut last = LAST.get_or_init(Default::default).lock();
    for commit in commits {
        if last.insert((lane.sink.clone(), commit.at.clone()), commit.clone()).as_ref() == Some(commit) {
            continue;
        }
        let metadata = if commit.metadata.is_empty() { "-" } else { &commit.metadata };
        note(
            |line, time| {
                write!(
                    line,
                    "C {time} {} {} {} {} {metadata}",
                    lane.sink, commit.at.topic, commit.at.partition, commit.base
                )
            },
            lane,
        );
    }
}

/// Partitions came.
pub(crate) fn assigned(lane: &Lane, partitions: usize) {
    note(|line, time| write!(line, "G {time} {} {} {}", lane.sink, lane.name, partitions), lane);
}

/// Partitions left.
pub(crate) fn revoked(lane: &Lane, partitions: usize) {
    note(|line, time| write!(line, "R {time} {} {} {}", lane.sink, lane.name, partitions), lane);
}

/// Writes a line. The router has no sink and no effects, so nothing of it is noted.
fn note(say: impl FnOnce(&mut String, u64) -> std::fmt::Result, lane: &Lane) {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    if lane.sink.is_empty() {
        return;
    }
    let Some(mut file) = FILE.get_or_init(begin).as_ref() else { return };
    let mut line = String::with_capacity(128);
    say(&mut line, now()).expect("writing to memory");
    line.push('\n');
    // Without its evidence a run proves nothing.
    file.write_all(line.as_bytes()).expect("the journal can be written");
}

fn begin() -> Option<File> {
    let path = std::env::var_os("SEALSTREAM_JOURNAL").filter(|path| !path.is_empty())?;
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the journal can be opened");
    file.write_all(format!("B {} {}\n", now(), std::process::id()).as_bytes()).expect("the journal can be written");
    Some(file)
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the system has a monotonic clock");
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}
