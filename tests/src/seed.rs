//! Randomness that can be had again: every run prints its seed, and `SEALSTREAM_SEED` sets it.

use std::ops::RangeInclusive;

/// A small generator (SplitMix64): good enough to choose moments and victims.
#[derive(Debug, Clone)]
pub struct Seed(u64);

impl Seed {
    /// The seed of this run, printed under the test's name.
    pub fn of(test: &str) -> Self {
        let given = std::env::var("SEALSTREAM_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| getrandom::u64().expect("the system has random bytes") >> 32);
        report(test, seed);
        Self(seed)
    }

    /// The randomness of a number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Randomness of its own for somebody else.
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of a range.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let span = range.end() - range.start() + 1;
        range.start() + self.next_u64() % span
    }

    /// One of `count` things.
    pub fn choose(&mut self, count: usize) -> usize {
        usize::try_from(self.next_u64() % count as u64).expect("less than a usize")
    }
}

#[allow(clippy::print_stderr, reason = "shown with a test that fails")]
fn report(test: &str, seed: u64) {
    eprintln!("{test}: SEALSTREAM_SEED={seed}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_within_their_range() {
        let (mut one, mut two) = (Seed(7), Seed(7));
        for _ in 0..1000 {
            let number = one.within(20..=60);
            assert!((20..=60).contains(&number));
            assert_eq!(number, two.within(20..=60));
        }
    }
}
