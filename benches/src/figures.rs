//! Figures of several rounds.

use std::fmt::Display;

use serde_json::{Value, json};

use crate::floor::Took;
use crate::usage::as_f64;

/// The middle one; of an even number the upper of the two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median over rounds of the ratio of two contenders, each measured once in each round: what slows the machine for a
/// while slows both.
pub fn ratio(ours: &[f64], floor: &[f64]) -> f64 {
    median(ours.iter().zip(floor).map(|(ours, floor)| ours / floor))
}

/// Records a second, in the median.
pub fn rate(took: &[Took], records: u64) -> f64 {
    median(took.iter().map(|took| as_f64(records) / took.seconds))
}

/// CPU time per record of each round, in µs.
pub fn cpu_us(took: &[Took], records: u64) -> Vec<f64> {
    took.iter().map(|took| took.cpu_seconds * 1e6 / as_f64(records)).collect()
}

/// What is printed of rates and CPU times: medians, and each round's CPU time per record.
pub fn raw(took: &[Took], records: u64) -> Value {
    let cpu = cpu_us(took, records);
    json!({ "records_per_second": rate(took, records), "cpu_us": median(cpu.iter().copied()), "cpu_us_each": cpu })
}

/// Prints a table for people, or beside it one object for programs.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the benches are command-line tools")]
pub fn tell(json: bool, table: impl Display, object: impl FnOnce() -> Value) {
    if json {
        eprintln!("{table}");
        println!("{}", object());
    } else {
        println!("{table}");
    }
}

/// A figure with as many digits as it bears.
pub fn shown(figure: f64) -> String {
    match figure.abs() {
        large if large >= 1000.0 => format!("{figure:.0}"),
        large if large >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_each_round() {
        // The machine was twice as slow in the second round.
        assert_eq!(ratio(&[12.0, 24.0, 13.0], &[10.0, 20.0, 10.0]), 1.2);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
    }
}
