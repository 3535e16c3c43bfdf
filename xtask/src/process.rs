//! A background process known by its pid file: a broker, a Redis.
//!
//! It outlives this program on purpose. A pid is believed only while its command line still holds the daemon's mark, so a
//! number that the system gave to somebody else is never signalled.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(100);

/// One background process; nothing is running until `start`.
pub(crate) struct Daemon {
    /// What it is called in messages.
    pub(crate) name: String,
    /// Where its pid is kept while it runs.
    pub(crate) pid_file: PathBuf,
    /// Where its output goes; each start appends.
    pub(crate) log: PathBuf,
    /// A part of its command line that no other process has, such as the path of its configuration.
    pub(crate) mark: String,
}

impl Daemon {
    /// The process, if it is running.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let pid = fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()?;
        command_line(pid)?.contains(&self.mark).then_some(Pid::from_raw(pid))
    }

    /// Starts `command` in a process group of its own, and waits until `ready` says yes to what it has printed since.
    pub(crate) fn start(&self, command: &mut Command, deadline: Duration, ready: impl Fn(&str) -> bool) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening {}", self.log.display()))?;
        let begin = log.metadata()?.len();
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("starting {}", self.name))?;
        fs::write(&self.pid_file, child.id().to_string())?;
        let ended = poll(deadline, || match child.try_wait() {
            Ok(Some(status)) => Some(Some(status)),
            _ => ready(&self.printed(begin).unwrap_or_default()).then_some(None),
        });
        match ended {
            Some(None) => Ok(()),
            Some(Some(status)) => bail!("{} ended while starting ({status}): {}", self.name, self.last_lines(begin)),
            None => {
                self.stop(Duration::from_secs(5))?;
                bail!("{} was not ready after {deadline:?}: {}", self.name, self.last_lines(begin))
            }
        }
    }

    /// Asks it to end, and ends it the hard way after `deadline`. Does nothing where it is not running.
    pub(crate) fn stop(&self, deadline: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        if poll(deadline, || self.pid().is_none().then_some(())).is_none() {
            self.kill()?;
        }
        Ok(())
    }

    /// Ends it at once, without letting it tidy up.
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        match poll(Duration::from_secs(10), || self.pid().is_none().then_some(())) {
            Some(()) => Ok(()),
            None => bail!("{} does not end", self.name),
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        match kill(pid, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("sending {signal} to {}", self.name)),
        }
    }

    fn printed(&self, begin: u64) -> Result<String> {
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn last_lines(&self, begin: u64) -> String {
        let printed = self.printed(begin).unwrap_or_default();
        let lines: Vec<_> = printed.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
        format!("the end of {} is\n  {last}", self.log.display())
    }
}

/// Asks `done` every 100 ms until it answers or `deadline` has passed.
pub(crate) fn poll<T>(deadline: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..=deadline.as_millis() / POLL.as_millis() {
        if let Some(answer) = done() {
            return Some(answer);
        }
        std::thread::sleep(POLL);
    }
    None
}

/// Whether there is a process with this number, whoever's it is.
pub(crate) fn exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH)
}

/// The command line of a living process. A process that has ended but was not waited for has none.
fn command_line(pid: i32) -> Option<String> {
    if std::path::Path::new("/proc/self/cmdline").exists() {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&bytes).replace('\0', " "));
    }
    let output = Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(dir: &std::path::Path, mark: &str) -> Daemon {
        Daemon { name: "a test's process".into(), pid_file: dir.join("pid"), log: dir.join("log"), mark: mark.into() }
    }

    #[test]
    fn starts_waits_for_its_word_and_stops() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().display().to_string();
        let daemon = daemon(dir.path(), &mark);
        let script = format!("echo up; while sleep 0.1; do :; done # {mark}");
        daemon
            .start(Command::new("sh").args(["-c", &script]), Duration::from_secs(10), |said| said.contains("up"))
            .unwrap();
        assert!(daemon.pid().is_some());
        daemon.stop(Duration::from_secs(10)).unwrap();
        assert_eq!(daemon.pid(), None);
    }

    #[test]
    fn one_that_ends_while_starting_is_an_error_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let error = daemon(dir.path(), "x")
            .start(Command::new("sh").args(["-c", "echo no room; exit 3"]), Duration::from_secs(10), |_| false)
            .unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
    }

    #[test]
    fn a_pid_that_now_belongs_to_somebody_else_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = daemon(dir.path(), "a mark that this test's process does not have");
        fs::write(&daemon.pid_file, std::process::id().to_string()).unwrap();
        assert_eq!(daemon.pid(), None);
        daemon.stop(Duration::from_secs(1)).unwrap();
    }
}
