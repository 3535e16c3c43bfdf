//! Figures of several rounds.

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
