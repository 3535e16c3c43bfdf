//! docs/quick-start.md, run as it stands: every command of the way without containers, but those that build and that start a broker.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tests::environment::{binary, kafka};
use tests::ports;
use tokio::process::Command;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/quick-start.md"));
const DEADLINE: Duration = Duration::from_secs(180);
/// What the page says that a test can't have: somebody else may be there.
const PORTS: [&str; 3] = ["8443", "9100", "9101"];

/// The commands, block by block.
fn commands() -> Result<Vec<&'static str>> {
    let (_, way) = PAGE.split_once("## Without containers").context("the page has this way")?;
    let blocks: Vec<&str> = way.split("```sh\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    let (first, rest) = blocks.split_first().context("the way has commands")?;
    ensure!(first.contains("cargo build") && first.contains("./x kafka up"), "the first block is another one: {first}");
    ensure!(rest.len() == 5, "the page has {} other blocks", rest.len());
    Ok(rest.to_vec())
}

/// The shell, and what it has started: ended with this, also when a command of the page fails.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // There is nothing left to end where everything went well.
        let _ended = killpg(self.0, Signal::SIGKILL);
    }
}

/// Runs it all in one shell.
async fn run(dir: &Path, script: &str, prefix: &str, ingest: &str) -> Result<String> {
    let bin = binary("sealstream")?.parent().context("the binaries are in a folder")?.to_owned();
    let path = std::env::join_paths(
        [bin].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let mut shell = Command::new("bash");
    shell
        .args(["-eu", "-o", "pipefail", "-c", script])
        .current_dir(dir)
        .env("PATH", path)
        .env("KAFKA_BOOTSTRAP", kafka()?.bootstrap)
        .envs(["INGEST", "PROCESSOR"].map(|program| (format!("{program}__TOPICS__PREFIX"), prefix)))
        .env("PROCESSOR__TOPICS__PARTITIONS", "2")
        .env("INGEST__LISTEN__ADDRESS", ingest)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = shell.spawn().context("running bash")?;
    let _all = Group(Pid::from_raw(i32::try_from(child.id().context("it runs")?)?));
    let output =
        tokio::time::timeout(DEADLINE, child.wait_with_output()).await.context("the commands do not end")??;
    let logs: String = ["ingest.log", "processor.log"]
        .map(|log| std::fs::read_to_string(dir.join(log)).unwrap_or_default())
        .join("\n");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the page's commands ended with {}: {said}\n{logs}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_works_as_it_is_written() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let name = dir.path().file_name().context("a folder has a name")?.to_string_lossy();
    let name = format!("quick-start-{}", name.trim_start_matches('.'));
    let mut script = commands()?.concat().replace("orders", &format!("{name}.orders"));
    let addresses = PORTS.map(|_| ports::free());
    for (port, address) in PORTS.iter().zip(addresses) {
        script = script.replace(port, &address.port().to_string());
    }
    let admin = format!("export INGEST__ADMIN__ADDRESS={} PROCESSOR__ADMIN__ADDRESS={}\n", addresses[1], addresses[2]);
    let printed = run(dir.path(), &(admin + &script), &name, &addresses[0].to_string()).await?;
    assert_eq!(printed.matches("received evt-1").count(), 2, "{printed}");
    // Once in the file, once in the topic.
    assert_eq!(printed.matches(r#"{"id":"evt-1","type":"order.paid","total":12.5}"#).count(), 2, "{printed}");
    assert!(printed.contains("ce_webhookid=msg_"), "{printed}");
    assert!(printed.contains(r#"200 {"status":"healthy"}"#), "{printed}");
    Ok(())
}
