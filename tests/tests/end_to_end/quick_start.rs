//! docs/quick-start.md, run as it stands: every command of the way without containers, but those that build and that start a broker.
//! On what that makes, the commands of docs/senders.md and docs/consumers.md.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tests::environment::{binary, kafka, kafka_libs, node_js, python_httpx_028};
use tests::ports;
use tokio::process::Command;

const QUICK_START: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/quick-start.md"));
const SENDERS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/senders.md"));
const CONSUMERS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/consumers.md"));
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
/// `go run` and Java compile first.
const DEADLINE: Duration = Duration::from_secs(300);
/// What the page says that a test can't have: somebody else may be there.
const PORTS: [&str; 3] = ["8443", "9100", "9101"];

/// The commands of a page, block by block.
fn blocks(page: &'static str) -> Vec<&'static str> {
    page.split("```sh\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect()
}

/// The commands of the quick start, those of the other pages before the last block, which ends the programs.
fn commands() -> Result<String> {
    let (_, way) = QUICK_START.split_once("## Without containers").context("the page has this way")?;
    let [build, first @ .., end] = &blocks(way)[..] else { anyhow::bail!("the way has commands") };
    ensure!(build.contains("cargo build") && build.contains("./x kafka up"), "the first block is another one: {build}");
    ensure!(first.len() == 4 && end.contains("kill %1 %2"), "the page has other blocks");
    Ok([&first.concat(), &senders()?, &consumers()?, *end].concat())
}

/// The commands of docs/senders.md, with a program that is built already.
fn senders() -> Result<String> {
    const RUN: &str = "cargo run --locked --example send --";
    let [block] = blocks(SENDERS)[..] else { anyhow::bail!("the page of senders has other blocks") };
    ensure!(block.matches(RUN).count() == 1, "the example of Rust is run in another way");
    let sender = binary("examples/send")?;
    Ok(block.replace(RUN, sender.to_str().context("a path of text")?))
}

/// The commands of docs/consumers.md. They print without end: of each, as a group of its own, until the event is there.
fn consumers() -> Result<String> {
    let [block] = blocks(CONSUMERS)[..] else { anyhow::bail!("the page of consumers has other blocks") };
    let until = |(number, line): (usize, &str)| {
        format!(
            "exec 3< <(KAFKA_GROUP=orders.{number} exec {line})\nconsumer=$!\ngrep -m 1 evt-2 <&3\nkill $consumer\n"
        )
    };
    let (export, programs) = block.split_once('\n').context("the block has lines")?;
    ensure!(export.starts_with("export KAFKA_BOOTSTRAP=") && programs.lines().count() == 3, "other lines: {block}");
    Ok(programs.lines().enumerate().map(until).collect())
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
    let folder = |program: PathBuf| program.parent().map(Path::to_owned).context("a program is in a folder");
    let first = [bin, folder(python_httpx_028()?)?, folder(node_js()?)?];
    // One that was found by its name is in no folder that it says.
    let first = first.into_iter().filter(|dir| dir.is_absolute());
    let path = std::env::join_paths(first.chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())))?;
    std::os::unix::fs::symlink(EXAMPLES, dir.join("examples"))?;
    let mut shell = Command::new("bash");
    shell
        .args(["-eu", "-o", "pipefail", "-c", script])
        .current_dir(dir)
        .env("PATH", path)
        .env("KAFKA_BOOTSTRAP", kafka()?.bootstrap)
        .env("KAFKA_LIBS", kafka_libs()?)
        .env("NO_PROXY", "localhost")
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
async fn the_quick_start_and_the_guides_work_as_they_are_written() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let name = dir.path().file_name().context("a folder has a name")?.to_string_lossy();
    let name = format!("quick-start-{}", name.trim_start_matches('.'));
    let mut script = commands()?.replace("orders", &format!("{name}.orders"));
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
    // Five senders are told that it was received, and three consumers print it: it is one event, as Python wrote it.
    assert_eq!(printed.matches("200 {\"status\":\"received\"}").count(), 4, "{printed}");
    assert!(printed.contains("200 after 1 attempts"), "{printed}");
    assert_eq!(printed.matches(r#"{"id": "evt-2", "type": "order.paid", "total": 7}"#).count(), 3, "{printed}");
    let file = std::fs::read_to_string(dir.path().join("demo/processor/data/events.jsonl"))?;
    assert_eq!(file.lines().filter(|line| line.contains("evt-2")).count(), 1, "{file}");
    assert!(printed.contains(r#"200 {"status":"healthy"}"#), "{printed}");
    Ok(())
}
