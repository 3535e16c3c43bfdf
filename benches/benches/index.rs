//! The dedup index: memory per id, its peak while growing, and ids a second.
//!
//! `cargo bench -p benches --bench index` prints a table for 1, 10 and 50 million ids; `-- --smoke` does it for few.
//! Each size runs in a process of its own, so that what it finds resident is its own.
//!
//! * *grow*: as many ids as the window holds, each new, from an empty index.
//! * *steady*: as many again, evenly in time, so that for each that comes one expires.
//! * *repeat*: ids that are known, in no order.
//!
//! Each is done one by one, and with 64 ids at a time told beforehand ([`Index::prefetch`]), as records come from the log.
//!
//! Ids a second are of one core's time, not of the clock on the wall: other programs may share the core.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench")]

use std::process::Command;
use std::time::Duration;

use common::id::KeyedId;
use processor::core::index::{Index, Verdict};

const SIZES: [u64; 3] = [1_000_000, 10_000_000, 50_000_000];
const SMOKE: [u64; 2] = [10_000, 100_000];
const BATCHES: [usize; 2] = [1, 64];
const WINDOW_MS: u64 = 24 * 3600 * 1000;
const START_MS: u64 = 1_700_000_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--one") {
        return one(arguments[at + 1].parse().unwrap(), arguments[at + 2].parse().unwrap());
    }
    let sizes: &[u64] = if arguments.iter().any(|argument| argument == "--smoke") { &SMOKE } else { &SIZES };
    println!("{:>19} {:>26} {:>26} {:>32}", "", "resident bytes per id", "bytes per id", "million ids per second");
    println!(
        "{:>12} {:>6} {:>8} {:>8} {:>8} {:>12} {:>13} {:>10} {:>10} {:>10}",
        "ids", "batch", "grown", "steady", "peak", "allocated", "held/window", "grow", "steady", "repeat"
    );
    for (size, batch) in sizes.iter().flat_map(|size| BATCHES.map(|batch| (size, batch))) {
        let mut child = Command::new(std::env::current_exe().unwrap());
        assert!(child.args(["--one", &size.to_string(), &batch.to_string()]).status().unwrap().success());
    }
}

fn one(ids: u64, batch: usize) {
    let mut bench =
        Bench { index: Index::new(Duration::from_millis(WINDOW_MS), 0), changed: Vec::new(), next: 0, ids, batch };
    let before = Memory::now();
    let grow = bench.run(ids, Verdict::Deliver, |turn| turn);
    let grown = Memory::now();
    let steady = bench.run(ids, Verdict::Deliver, |turn| ids + turn);
    let after = Memory::now();
    let (allocated, held) = (bench.index.bytes(), bench.index.len());
    // Of the last half of the window, in no order.
    let repeat = bench.run(ids / 4, Verdict::Repeat, |turn| 2 * ids - (mix(turn) % (ids / 2) + ids / 4 + 1));
    let per_id = |bytes: u64| bytes as f64 / ids as f64;
    println!(
        "{ids:>12} {batch:>6} {:>8.2} {:>8.2} {:>8.2} {:>12.2} {:>13.3} {grow:>10.2} {steady:>10.2} {repeat:>10.2}",
        per_id(grown.resident - before.resident),
        per_id(after.resident - before.resident),
        per_id(after.peak - before.resident),
        per_id(allocated as u64),
        held as f64 / ids as f64,
    );
}

struct Bench {
    index: Index,
    changed: Vec<processor::core::index::Entry>,
    next: u64,
    ids: u64,
    batch: usize,
}

impl Bench {
    /// Looks at `times` ids and tells million looks per second of processor time.
    fn run(&mut self, times: u64, expect: Verdict, number: impl Fn(u64) -> u64) -> f64 {
        let start = on_core();
        let mut ids = Vec::with_capacity(self.batch);
        for first in (0..times).step_by(self.batch) {
            let batch = first..(first + self.batch as u64).min(times);
            ids.clear();
            ids.extend(batch.map(|turn| id(number(turn))));
            if self.batch > 1 {
                ids.iter().for_each(|id| self.index.prefetch(*id));
            }
            ids.iter().for_each(|id| self.look(*id, expect));
        }
        times as f64 / (on_core() - start).as_secs_f64() / 1e6
    }

    fn look(&mut self, id: KeyedId, expect: Verdict) {
        let time_ms = START_MS + self.next * WINDOW_MS / self.ids;
        self.changed.clear();
        let verdict = self.index.look(self.next.cast_signed(), id, None, time_ms, &mut self.changed);
        assert_eq!(verdict, expect);
        self.next += 1;
    }
}

fn id(number: u64) -> KeyedId {
    KeyedId((u128::from(mix(number)) << 64 | u128::from(mix(!number))).to_be_bytes())
}

/// SplitMix64's finisher: ids as evenly spread as an HMAC's, for less time than what is measured.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

struct Memory {
    resident: u64,
    peak: u64,
}

impl Memory {
    fn now() -> Self {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        Self { resident: pages * 4096, peak: peak * 1024 }
    }
}

/// How long this process has run on a core.
fn on_core() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}
