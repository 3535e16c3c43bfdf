//! What a process has used, read from the system.

use std::ops::{Add, Sub};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of a process so far, in steps of 10 ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Its own.
    pub user: Duration,
    /// The kernel's for it.
    pub system: Duration,
}

impl Cpu {
    /// Of a process, so far.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
        // The second field is the program's name in parentheses, which may hold anything.
        let fields = stat.rsplit_once(')').context("a line of another form")?.1;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
        let mut times = fields.split_whitespace().skip(11).map(|field| -> Result<Duration> {
            Ok(Duration::from_secs_f64(as_f64(field.parse()?) / as_f64(per_second.try_into()?)))
        });
        let mut next = || times.next().context("a line of another form")?;
        Ok(Self { user: next()?, system: next()? })
    }

    /// Both.
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { user: self.user.saturating_sub(before.user), system: self.system.saturating_sub(before.system) }
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

/// CPU time of a process so far, user and system.
pub fn cpu(pid: u32) -> Result<Duration> {
    Ok(Cpu::of(pid)?.total())
}

/// CPU time so far of the brokers that run for this bench. Zero where nobody says which they are.
pub fn brokers() -> Result<Cpu> {
    let Some(state) = std::env::var_os("SEALSTREAM_KAFKA_STATE") else { return Ok(Cpu::default()) };
    let mut sum = Cpu::default();
    for entry in std::fs::read_dir(PathBuf::from(state))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pid") {
            sum = sum + Cpu::of(std::fs::read_to_string(&path)?.trim().parse()?)?;
        }
    }
    Ok(sum)
}

/// Memory of a process that is in RAM now, in MiB.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(as_f64(kib) / 1024.0)
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

    #[test]
    fn memory_is_seen() {
        let before = super::resident_mib(std::process::id()).unwrap();
        let touched = black_box(vec![1_u8; 64 * 1024 * 1024]);
        let after = super::resident_mib(std::process::id()).unwrap();
        assert!(after > before + 48.0, "{before} MiB before, {after} MiB after {} bytes", touched.len());
    }
}
