//! The binary: its exit status, what it says about a wrong configuration, and its end on SIGTERM.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::kafka::embedded::EmbeddedKafka;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A directory with a working configuration, to which `more` is added.
fn directory(more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name: &str, content: &str| std::fs::write(dir.path().join(name), content).unwrap();
    write("server.pem", &certified.cert.pem());
    write("server.key", &certified.signing_key.serialize_pem());
    write("edge-1", "edge-key-of-tests-edge-key-of-te");
    write("acme.s1", "test-secret-do-not-use");
    let mut config = String::from(
        "[listen]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nkey = \"server.key\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[pipeline]\nedge_key.file = \"edge-1\"\n\
         [source.acme]\nsecrets = [{ id = \"s1\", file = \"acme.s1\" }]\n",
    );
    writeln!(config, "{more}").unwrap();
    write("ingest.toml", &config);
    dir
}

fn ingest(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
    command.args(arguments).current_dir(dir).env_clear();
    command
}

fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, stdout } = ingest(dir, arguments).output().unwrap();
    assert!(stdout.is_empty());
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_configuration_is_checked_without_starting() {
    let dir = directory("");
    assert_eq!(run(dir.path(), &["--config", "ingest.toml", "--check"]), (Some(0), String::new()));
    std::fs::write(dir.path().join("acme.s1"), "short").unwrap();
    let (status, told) = run(dir.path(), &["--config", "ingest.toml", "--check"]);
    assert_eq!(status, Some(78));
    assert_eq!(told, "source.acme.secrets[0].file: the secret is shorter than 16 bytes\n");
    let (status, told) = run(dir.path(), &["--config", "ingest.toml"]);
    assert_eq!(status, Some(78), "{told}");
}

#[test]
fn mistakes_are_told_with_file_and_line() {
    let dir = directory("[limits]\nbody_bytes_max = \"2MiB\"\nbody_deadlin = \"1s\"");
    let (status, told) = run(dir.path(), &["--config", "ingest.toml"]);
    assert_eq!(status, Some(78));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert_eq!(lines[0], "ingest.toml:12: limits.body_bytes_max: must be from 1 byte to 1MiB");
    assert!(lines[1].starts_with("ingest.toml:13: limits.body_deadlin: unknown key, expected one of "), "{told}");
}

#[test]
fn a_wrong_command_line_is_told() {
    let dir = directory("");
    for arguments in [&["--config"][..], &["--nonsense"], &["ingest.toml"]] {
        assert_eq!(run(dir.path(), arguments), (Some(64), "usage: ingest [--config FILE] [--check]\n".into()));
    }
    assert_eq!(run(dir.path(), &["--help"]).0, Some(0));
}

#[test]
fn it_ends_in_order_on_sigterm_and_its_memory_stays_its_own() {
    let kafka = EmbeddedKafka::start([("sealstream.inbox", 1)]).unwrap();
    let dir = directory("[drain]\nnotice = \"1ms\"");
    let mut child = ingest(dir.path(), &["--config", "ingest.toml"])
        .env("INGEST__KAFKA__BOOTSTRAP", kafka.config().bootstrap)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.find(|line| line.contains("ingest listens")).expect("it says that it listens");
    assert!(first.starts_with('{') && first.contains("\"local_addr\":\"127.0.0.1:"), "{first}");

    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");

    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("\"message\":\"drained\"")), "{rest:?}");
}

#[test]
fn it_reloads_on_sighup_and_keeps_the_last_good_configuration() {
    let kafka = EmbeddedKafka::start([("sealstream.inbox", 1)]).unwrap();
    let dir = directory("[drain]\nnotice = \"1ms\"\n[reload]\ninterval = \"0s\"");
    let mut child = ingest(dir.path(), &["--config", "ingest.toml"])
        .env("INGEST__KAFKA__BOOTSTRAP", kafka.config().bootstrap)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut until =
        |text: &str| lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("no line says {text}"));
    until("ingest listens");
    std::fs::write(dir.path().join("acme.s1"), "another-secret-do-not-use").unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    assert!(until("configuration reloaded").contains("\"generation\":2"));
    std::fs::write(dir.path().join("acme.s1"), "canary").unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    let told = until("the last good configuration stays");
    assert!(told.contains("source.acme.secrets[0].file") && !told.contains("canary"), "{told}");
    std::fs::write(dir.path().join("acme.s1"), "a-third-secret-do-not-use").unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    assert!(until("configuration reloaded").contains("\"generation\":3"));
    kill(pid, Signal::SIGTERM).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
}
