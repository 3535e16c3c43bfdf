//! What a process has used, read from the system.

use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of a process so far, user and system, in steps of 10 ms.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    // The second field is the program's name in parentheses, which may hold anything.
    let fields = stat.rsplit_once(')').context("a line of another form")?.1;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(Duration::from_secs_f64(as_f64(ticks) / as_f64(per_second.try_into()?)))
}

/// A count as a number that can be divided.
#[allow(clippy::cast_precision_loss, reason = "counts and ticks are far below 2^52")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Duration;

    #[test]
    fn work_is_seen() {
        let before = super::cpu(std::process::id()).unwrap();
        let mut x = 1_u64;
        while super::cpu(std::process::id()).unwrap() < before + Duration::from_millis(20) {
            for _ in 0..100_000 {
                x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        }
    }
}
