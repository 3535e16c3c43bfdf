//! What a run prints: tables for people, one JSON object for programs.

use serde_json::{Value, json};

use super::checker::Invariant;
use super::controls::Control;
use super::session::Outcome;
use super::suite::Tally;

/// A table whose columns are as wide as they must be; the first ones, so many, hold words and the others numbers.
fn table(words: usize, head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or_default()
    };
    let line = |cells: Vec<String>| {
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            if column < words { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule = (0..head.len()).map(|column| {
        let dashes = "-".repeat(width(column));
        if column < words { dashes } else { format!("{}:", &dashes[1..]) }
    });
    let mut text = line(head.iter().map(|cell| (*cell).to_owned()).collect());
    text.push_str(&line(rule.collect()));
    rows.iter().for_each(|row| text.push_str(&line(row.clone())));
    text
}

/// The table of a run.
pub fn outcomes(outcomes: &[Outcome], permits: usize, bound: usize) -> String {
    let head = [
        "fault",
        "rounds",
        "events",
        "sent again",
        "lost",
        "delivered twice",
        "in flight",
        "not committed",
        "other violations",
        "most per crash and lane",
        "bound",
        "most per crash",
        "bound",
        "s",
    ];
    let row = |name: &str, of: &[Outcome]| {
        let sum = |count: fn(&Outcome) -> usize| of.iter().map(count).sum::<usize>();
        let max = |count: fn(&Outcome) -> usize| of.iter().map(count).max().unwrap_or_default();
        let others = |outcome: &Outcome| {
            let all = outcome.findings.violations.values().map(|(count, _)| count).sum::<usize>();
            all - outcome.findings.count(Invariant::Lost)
        };
        vec![
            name.to_owned(),
            sum(|outcome| outcome.rounds).to_string(),
            sum(|outcome| outcome.findings.acked).to_string(),
            of.iter().map(|outcome| outcome.repeats).sum::<u64>().to_string(),
            sum(|outcome| outcome.findings.count(Invariant::Lost)).to_string(),
            sum(|outcome| outcome.findings.twice).to_string(),
            sum(|outcome| outcome.findings.in_flight).to_string(),
            sum(|outcome| outcome.findings.not_committed).to_string(),
            sum(others).to_string(),
            max(|outcome| outcome.findings.lane_max).to_string(),
            permits.to_string(),
            max(|outcome| outcome.findings.crash_max).to_string(),
            bound.to_string(),
            of.iter().map(|outcome| outcome.time.as_secs()).sum::<u64>().to_string(),
        ]
    };
    let mut rows: Vec<_> = outcomes.iter().map(|outcome| row(outcome.fault, std::slice::from_ref(outcome))).collect();
    rows.push(row("all", outcomes));
    table(1, &head, &rows)
}

/// What was done, in a sentence.
pub fn tally(tally: &Tally) -> String {
    let Tally {
        kills,
        ingest_kills,
        zombies,
        wipes,
        damages,
        rebalances,
        cut_offs,
        broker_restarts,
        broker_kills,
        doubts,
    } = tally;
    format!(
        "{kills} kill -9 of processors and {ingest_kills} of ingests, {zombies} zombies, {wipes} index folders wiped while \
         live, {damages} damaged, {rebalances} rebalances, {cut_offs} cut off from their coordinator, {broker_restarts} brokers restarted and {broker_kills} killed, \
         {doubts} processes ended themselves in doubt"
    )
}

/// An outcome for programs.
pub fn json_of(outcome: &Outcome) -> Value {
    let findings = &outcome.findings;
    let violations: serde_json::Map<String, Value> = findings
        .violations
        .iter()
        .map(|(invariant, (count, _))| (invariant.as_str().to_owned(), json!(count)))
        .collect();
    json!({
        "fault": outcome.fault, "rounds": outcome.rounds, "events": findings.acked, "sent_again": outcome.repeats,
        "lost": findings.count(Invariant::Lost), "delivered_twice": findings.twice, "in_flight": findings.in_flight,
        "not_committed": findings.not_committed, "dead": findings.dead, "dispatches": findings.dispatches,
        "failed": findings.failed, "lane_max": findings.lane_max, "crash_max": findings.crash_max,
        "violations": violations, "seconds": outcome.time.as_secs(),
    })
}

/// A control's row: on how many seeds it was caught, of those on which the same run without it was clean.
#[derive(Debug, Clone)]
pub struct ControlRow {
    /// The control.
    pub name: &'static str,
    /// What it breaks.
    pub what: &'static str,
    /// What must notice.
    pub invariant: Invariant,
    /// The fault.
    pub fault: &'static str,
    /// Seeds tried.
    pub seeds: usize,
    /// Seeds on which the run without it was clean.
    pub clean: usize,
    /// Of these: seeds on which it was caught.
    pub caught: usize,
    /// How often its invariant was violated, seed by seed.
    pub counts: Vec<usize>,
}

impl ControlRow {
    /// A row without runs.
    pub fn new(control: &Control) -> Self {
        let Control { name, what, invariant, fault, .. } = control;
        let (clean, caught, seeds) = (0, 0, 0);
        Self { name, what, invariant: *invariant, fault: fault.as_str(), seeds, clean, caught, counts: Vec::new() }
    }

    /// A seed's two runs: whether the one without it was clean, and how often its invariant was violated with it.
    pub fn add(&mut self, clean: bool, count: usize) {
        self.seeds += 1;
        self.clean += usize::from(clean);
        self.caught += usize::from(clean && count > 0);
        self.counts.push(count);
    }

    /// Whether it was caught on three of five seeds.
    pub fn is_caught(&self) -> bool {
        self.caught > 0 && self.caught * 5 >= self.seeds * 3
    }
}

/// The table of controls.
pub fn controls(rows: &[ControlRow]) -> String {
    let head = ["control", "what it breaks", "fault", "noticed as", "seeds", "clean without", "caught", "violations"];
    let row = |row: &ControlRow| {
        let counts = row.counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        let ControlRow { name, what, fault, invariant, seeds, clean, caught, .. } = row;
        let words = [name, what, fault, invariant.as_str()].map(str::to_owned);
        words.into_iter().chain([seeds, clean, caught].map(usize::to_string)).chain([counts]).collect()
    };
    table(4, &head, &rows.iter().map(row).collect::<Vec<_>>())
}

/// A control's row for programs.
pub fn json_of_control(row: &ControlRow) -> Value {
    json!({
        "control": row.name, "what": row.what, "fault": row.fault, "invariant": row.invariant.as_str(),
        "seeds": row.seeds, "clean": row.clean, "caught": row.caught, "violations": row.counts,
    })
}
