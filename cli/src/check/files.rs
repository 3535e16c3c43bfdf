//! What can be seen without asking anybody: configurations, the files that they name, and this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::clock::Clock;
use common::config::{Mistake, Mistakes};
use common::tls;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use processor::config::SinkKind;

use super::Finding;

/// Certificates that end sooner are told.
const SOON_S: u64 = 14 * 24 * 3600;

/// A configuration that could be read, and everything wrong with it or with the files that it names.
pub(super) fn loaded<T>(
    area: &'static str,
    config: Result<T, Mistakes>,
    check: impl FnOnce(&T) -> Result<(), Mistakes>,
    findings: &mut Vec<Finding>,
) -> Option<T> {
    let mut tell = |mistakes: &Mistakes| {
        findings.extend(mistakes.iter().map(|mistake| Finding::wrong(area, mistake.to_string(), remedy(mistake))));
    };
    match config {
        Ok(config) => {
            check(&config).unwrap_or_else(|mistakes| tell(&mistakes));
            Some(config)
        }
        Err(mistakes) => {
            tell(&mistakes);
            None
        }
    }
}

fn remedy(mistake: &Mistake) -> String {
    let (key, text) = (mistake.key(), mistake.to_string());
    let says = |part: &str| text.contains(part);
    if key.is_empty() {
        return "mend the file: it is TOML, and `sealstream init` writes one that works".to_owned();
    }
    if says("has expired") {
        return "renew the certificate, and put it in the place of the old one: it is taken over without a restart"
            .to_owned();
    }
    if key.starts_with("listen") && says("cannot be used") {
        return "certificate and key must be a pair: issue both anew, or name the key that the certificate was made for"
            .to_owned();
    }
    if says("Permission denied") {
        return "let the user that the service runs as read the file: chown, and chmod 0600".to_owned();
    }
    if says("No such file") {
        return format!("put the file there, or correct {key}; paths start at the configuration's directory");
    }
    if says("is empty") || says("key has 32 bytes") {
        return "make a new one: `sealstream rotate add` writes secrets of the right length".to_owned();
    }
    format!("correct {key}: the manual of every key is docs/configuration.md")
}

/// Ingest's files and this machine.
pub(super) fn ingest(config: &ingest::Config, clock: &Clock, findings: &mut Vec<Finding>) {
    certificates(config, clock, findings);
    permissions("ingest", config.files(), findings);
    let connections = config.limits.connections_max as u64;
    // The producer, the listeners, files that are read anew.
    let needed = connections + 256;
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < needed
    {
        findings.push(Finding::look(
            "system",
            format!("here a process may have {soft} files open, and limits.connections_max = {connections} needs {needed}"),
            format!("raise it for ingest: LimitNOFILE={needed} in a systemd unit, `ulimits` in compose, or lower limits.connections_max"),
        ));
    }
    let needed = config.memory_bytes_max();
    if let Some(memory) = memory_bytes().filter(|memory| *memory < needed) {
        findings.push(Finding::look(
            "system",
            format!("senders can make ingest keep {} MiB, and this machine has {} MiB", needed >> 20, memory >> 20),
            "lower limits.requests_in_flight_max, limits.connections_max or publish.queue_bytes".to_owned(),
        ));
    }
}

fn certificates(config: &ingest::Config, clock: &Clock, findings: &mut Vec<Finding>) {
    let now = clock.unix_s();
    let day = |s: u64| s / (24 * 3600);
    let listen = &config.listen;
    let files = [("listen.certificate", &listen.certificate), ("listen.client_ca", &listen.client_ca)];
    for (key, file) in files.into_iter().filter_map(|(key, file)| Some((key, file.if_set()?))) {
        // What can't be read has been told.
        let (Ok(start), Ok(end)) = (tls::certificate_start(file), tls::certificate_expiry(file)) else { continue };
        if start > now {
            findings.push(Finding::wrong(
                "ingest",
                format!("{key}: {} is valid only in {} s", file.display(), start - now),
                "wait, use another one, or set this machine's clock".to_owned(),
            ));
        }
        if (now..now + SOON_S).contains(&end) {
            findings.push(Finding::look(
                "ingest",
                format!("{key}: {} ends in {} days", file.display(), day(end - now)),
                "renew it now: it is taken over without a restart".to_owned(),
            ));
        }
    }
}

/// The processor's files and this machine.
pub(super) fn processor(config: &processor::config::Config, findings: &mut Vec<Finding>) {
    permissions("processor", config.files(), findings);
    directory("data.dir", config.data.dir.as_path(), findings);
    for (name, sink) in config.sink.iter().filter(|(_, sink)| sink.kind == SinkKind::File) {
        let dir = sink.path.as_path().parent().unwrap_or(Path::new("/"));
        directory(&format!("sink.{name}.path"), dir, findings);
    }
    for (name, _) in config.sink.iter().filter(|(_, sink)| sink.danger_plain_http) {
        findings.push(Finding::look(
            "processor",
            format!("sink.{name}.danger_plain_http: decrypted events cross the network in the clear"),
            "use https:// unless something else encrypts the way to the sink".to_owned(),
        ));
    }
    if config.topics.danger_single_broker {
        findings.push(Finding::look(
            "processor",
            "topics.danger_single_broker: an acknowledged event is on one disk",
            "use three brokers, and remove it: it is for development",
        ));
    }
    let needed = config.dedup.cache_disk_bytes.as_u64();
    let dir = config.data.dir.as_path();
    let free = dir.ancestors().find(|dir| dir.is_dir()).and_then(|dir| statvfs(dir).ok());
    let free = free.map(|disk| disk.blocks_available() * disk.fragment_size());
    if let Some(free) = free.filter(|free| *free < needed) {
        findings.push(Finding::look(
            "system",
            format!(
                "the disk of data.dir has {} MiB free, and dedup.cache_disk_bytes allows {} MiB",
                free >> 20,
                needed >> 20
            ),
            "make room, or lower dedup.cache_disk_bytes; without the cache a start reads the window from the log",
        ));
    }
}

fn directory(key: &str, dir: &Path, findings: &mut Vec<Finding>) {
    // A service makes what is missing below a directory that is there.
    let Some(at) = dir.ancestors().find(|dir| dir.exists()) else { return };
    let why = if !at.is_dir() {
        format!("{} is no directory", at.display())
    } else if nix::unistd::access(at, nix::unistd::AccessFlags::W_OK).is_err() {
        format!("this user may not write to {}", at.display())
    } else {
        return;
    };
    findings.push(Finding::wrong(
        "processor",
        format!("{key}: {why}"),
        "make a directory there that belongs to the user that the processor runs as, or name another",
    ));
}

/// Secrets that others can read. Certificates are no secrets.
fn permissions(area: &'static str, files: Vec<std::path::PathBuf>, findings: &mut Vec<Finding>) {
    const OTHERS: u32 = 0o007;
    let public = |file: &Path| {
        let bytes = fs::read(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.contains("BEGIN CERTIFICATE") || text.contains("BEGIN X509 CRL")
    };
    for file in files {
        let Ok(metadata) = fs::metadata(&file) else { continue };
        if metadata.permissions().mode() & OTHERS != 0 && !public(&file) {
            findings.push(Finding::look(
                area,
                format!("{} can be read by every user of this machine", file.display()),
                format!("chmod 0600 {}", file.display()),
            ));
        }
    }
}

/// What this process may use: the machine's memory, or the container's if that is less.
fn memory_bytes() -> Option<u64> {
    let line = |text: &str| text.lines().find_map(|line| line.strip_prefix("MemTotal:").map(str::to_owned));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| line(&text));
    let machine =
        machine.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map(|kib| kib * 1024);
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(container).min()
}
