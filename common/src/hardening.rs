//! What every process of ours does before it reads a secret: [`harden`].

use std::panic::PanicHookInfo;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

/// Switches core dumps off, makes the process's memory unreadable to others of its user (on Linux), and makes panics tell
/// their place and not their message. Call it first in `main`.
///
/// # Errors
/// The system refused. Nothing else depends on it, so a process may go on, and say so.
pub fn harden() -> Result<(), Errno> {
    std::panic::set_hook(Box::new(report_panic));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // A core dump can be piped to a program, which the limit above does not stop.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// One line, to the log where there is one. A panic's message can quote data, so it is not told.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(place, thread, "panic");
    } else {
        say(&format!("panic at {place} in thread {thread}"));
    }
}

/// Standard error, where there is no log.
#[allow(clippy::print_stderr, reason = "nothing else is there to be told")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CANARY: &str = "canary-of-a-panic-message";
    const CHILD: &str = "SEALSTREAM_TEST_PANICS";

    /// Runs itself again as a process that panics, since the hook is the whole process's.
    #[test]
    fn a_panic_tells_its_place_and_thread_and_nothing_of_its_message() {
        if let Ok(logged) = std::env::var(CHILD) {
            harden().unwrap();
            if logged == "logged" {
                crate::telemetry::install_logging(&crate::telemetry::LogConfig {
                    format: crate::telemetry::LogFormat::Json,
                    level: "trace".into(),
                });
            }
            let thread = std::thread::Builder::new().name("worker".into());
            let ended = thread.spawn(|| panic!("{CANARY} {:?}", CANARY.as_bytes())).unwrap().join();
            assert!(ended.is_err());
            return;
        }
        for logged in ["logged", "unlogged"] {
            let name = "hardening::tests::a_panic_tells_its_place_and_thread_and_nothing_of_its_message";
            let mut itself = Command::new(std::env::current_exe().unwrap());
            let output = itself.args(["--exact", name, "--nocapture"]).env(CHILD, logged).output().unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(output.status.success(), "{said}");
            assert!(said.contains("hardening.rs:") && said.contains("worker"), "{logged}: {said}");
            assert!(!said.contains("canary") && !said.contains("99, 97, 110"), "{logged}: {said}");
        }
    }
}
