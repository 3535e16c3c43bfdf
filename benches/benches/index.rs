//! The dedup index: memory per id, its peak while growing, and ids a second.
//!
//! `cargo bench -p benches --bench index` prints a table for 1, 10 and 50 million ids; `-- --smoke` does it for few.
//! Each size runs in a process of its own, so that what it finds resident is its own.
//!
//! * *grow*: as many ids as the window holds, each new, from an empty index.
//! * *steady*: as many again, evenly in time, so that for each that comes one expires.
//! * *repeat*: ids that are known, in no order.
//!
//! Ids a second are of one core's time, not of the clock on the wall: other programs may share the core.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench")]

use std::process::Command;
use std::time::Duration;

use common::id::KeyedId;
use processor::core::index::{Index, Verdict};

const SIZES: [u64; 3] = [1_000_000, 10_000_000, 50_000_000];
const SMOKE: [u64; 2] = [10_000, 100_000];
const WINDOW_MS: u64 = 24 * 3600 * 1000;
const START_MS: u64 = 1_700_000_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--one") {
        return one(arguments[at + 1].parse().unwrap());
    }
    let sizes: &[u64] = if arguments.iter().any(|argument| argument == "--smoke") { &SMOKE } else { &SIZES };
    println!("{:>12} {:>26} {:>26} {:>32}", "", "resident bytes per id", "bytes per id", "million ids per second");
    println!(
        "{:>12} {:>8} {:>8} {:>8} {:>12} {:>13} {:>10} {:>10} {:>10}",
        "ids", "grown", "steady", "peak", "allocated", "held/window", "grow", "steady", "repeat"
    );
    for size in sizes {
        let child = Command::new(std::env::current_exe().unwrap()).args(["--one", &size.to_string()]).status().unwrap();
        assert!(child.success());
    }
}

fn one(ids: u64) {
    let mut bench = Bench { index: Index::new(Duration::from_millis(WINDOW_MS), 0), changed: Vec::new(), next: 0, ids };
    let before = Memory::now();
    let grow = bench.run(ids, Bench::new_id);
    let grown = Memory::now();
    let steady = bench.run(ids, Bench::new_id);
    let after = Memory::now();
    let (allocated, held) = (bench.index.bytes(), bench.index.len());
    let repeat = bench.run(ids / 4, Bench::known_id);
    let per_id = |bytes: u64| bytes as f64 / ids as f64;
    println!(
        "{ids:>12} {:>8.2} {:>8.2} {:>8.2} {:>12.2} {:>13.3} {grow:>10.2} {steady:>10.2} {repeat:>10.2}",
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
}

impl Bench {
    /// Runs `times` looks and tells million looks per second of processor time.
    fn run(&mut self, times: u64, look: impl Fn(&mut Self, u64)) -> f64 {
        let start = on_core();
        (0..times).for_each(|turn| look(self, turn));
        times as f64 / (on_core() - start).as_secs_f64() / 1e6
    }

    fn new_id(&mut self, _: u64) {
        let number = self.next;
        self.look(number, Verdict::Deliver);
    }

    fn known_id(&mut self, turn: u64) {
        // The last half of the window, in no order.
        let back = mix(turn) % (self.ids / 2) + self.ids / 4 + 1;
        let number = 2 * self.ids - back;
        self.look(number, Verdict::Repeat);
    }

    fn look(&mut self, number: u64, expect: Verdict) {
        let time_ms = START_MS + self.next * WINDOW_MS / self.ids;
        let id = KeyedId((u128::from(mix(number)) << 64 | u128::from(mix(!number))).to_be_bytes());
        self.changed.clear();
        let verdict = self.index.look(self.next.cast_signed(), id, None, time_ms, &mut self.changed);
        assert_eq!(verdict, expect);
        self.next += 1;
    }
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
