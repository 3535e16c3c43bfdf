//! The index cache's disk, in every bad condition: the processor goes on, or refuses with a clear sentence; nothing is lost,
//! and nothing repeated beyond what was in flight.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use tests::load::{Load, LoadPlan};
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::stack::Stack;
use tests::wait::{until, until_true};

const DEADLINE: Duration = Duration::from_secs(60);
/// Enough for some batches of every partition to be written before a revoke writes the rest.
const WARM: usize = 400;

fn plan(name: &'static str) -> Plan {
    Plan::new(name).partitions(2).source("acme", &["main"])
}

fn index(stack: &Stack) -> PathBuf {
    stack.dir().join("data/0/index")
}

async fn in_use(stack: &mut Stack, wanted: f64) -> Result<()> {
    until(&format!("processor_index_cache_in_use is {wanted}"), DEADLINE, async || {
        let found = stack.processor(0).metric("processor_index_cache_in_use", &[]).await?;
        Ok((found == wanted).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_is_deleted_while_in_use_and_then_the_processor_is_killed() -> Result<()> {
    const PERMITS: usize = 32;
    let plan = plan("disk-deleted").permits(PERMITS).repeats_max(PERMITS).http("main", Behaviour::good().slow(20..=60));
    plan.run(async |stack| {
        let sink = stack.sink("main");
        let ahead_of = Some((sink.clone(), 1000));
        let load = Load::start(
            stack.clients("acme")?,
            LoadPlan { ids: "evt-gone", in_flight: 24, repeat_every: 3, ahead_of, rate: None },
        );
        let more = async |count: usize| {
            let enough = sink.effect_count() + count;
            until_true("more events arrive at the sink", DEADLINE, || sink.effect_count() >= enough).await
        };
        more(WARM).await?;
        in_use(stack, 1.0).await?;
        std::fs::remove_dir_all(index(stack)).context("deleting the cache")?;
        in_use(stack, 0.0).await?;
        more(50).await?;
        ensure!(stack.processor(0).log_lines("the index cache is switched off")?.len() == 1, "one warning");
        until_true("half of the permits are busy", DEADLINE, || sink.in_flight() >= PERMITS / 2).await?;
        stack.processor(0).kill().await?;
        stack.processor(0).up().await?;
        in_use(stack, 1.0).await?;
        more(50).await?;
        let acked = load.stop().await?;
        stack.settled().await?;
        assert_eq!(stack.balance().await?.delivered["main"] as u64, acked);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_are_flipped_and_files_cut_short_between_runs() -> Result<()> {
    const SEEDS: usize = 6;
    // Not one repeat is allowed: nothing is killed here.
    plan("disk-damaged")
        .http("main", Behaviour::good())
        .run(async |stack| {
            let client = stack.client(0, "acme", Format::Native)?;
            let mut met = 0;
            for round in 0..SEEDS {
                for number in 0..WARM / SEEDS {
                    client.send(&format!("evt-{round}-{number}")).await?;
                }
                stack.settled().await?;
                stack.processor(0).stop().await?;
                damage(stack, round)?;
                stack.processor(0).up().await?;
                in_use(stack, 1.0).await.or_else(|_| {
                    // Damage that shows itself while loading: off until the next start.
                    ensure!(!stack.processor(0).log_lines("switched off")?.is_empty(), "off without a word");
                    Ok(())
                })?;
                for earlier in 0..=round {
                    client.send(&format!("evt-{earlier}-0")).await?;
                    client.send(&format!("evt-{earlier}-7")).await?;
                }
                stack.settled().await?;
                met += usize::from(index(stack).with_extension("bad").exists());
            }
            ensure!(met > 0, "no damage was ever noticed: the test damages nothing");
            assert_eq!(stack.sink("main").delivery_count(), SEEDS * (WARM / SEEDS));
            Ok(())
        })
        .await
}

/// Damages the cache's files: at random, and once for certain.
fn damage(stack: &mut Stack, round: usize) -> Result<()> {
    let path = index(stack).join("db");
    let mut bytes = std::fs::read(&path).context("the cache that the last run left")?;
    let len = bytes.len() as u64;
    match round % 3 {
        0 => bytes.truncate(usize::try_from(stack.seed().within(0..=len - 1))?),
        1 => {
            for _ in 0..64 {
                let at = usize::try_from(stack.seed().within(0..=len - 1))?;
                bytes[at] ^= 1 << stack.seed().within(0..=7);
            }
        }
        _ => std::fs::write(index(stack).join("conf"), "not a configuration")?,
    }
    Ok(std::fs::write(path, bytes)?)
}

/// A small disk of its own over the folder `data` of a stack, taken away again when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(data: &Path, options: &str) -> Result<Self> {
        std::fs::create_dir_all(data)?;
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(data).status()?;
        ensure!(
            status.success(),
            "this test mounts a small file system over {}, which only root may: run the tests as root, or in a container with \
             CAP_SYS_ADMIN",
            data.display()
        );
        Ok(Self(data.to_owned()))
    }

    /// Leaves not one free byte.
    fn fill(&self) -> Result<()> {
        let full = std::fs::write(self.0.join("filler"), vec![7; 64 << 20]);
        ensure!(full.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull), "the disk is not full");
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full_and_later_read_only() -> Result<()> {
    plan("disk-full")
        .http("main", Behaviour::good())
        .run(async |stack| {
            let data = stack.dir().join("data");
            stack.processor(0).stop().await?;
            let disk = SmallDisk::over(&data, "size=8m")?;
            stack.processor(0).up().await?;
            in_use(stack, 1.0).await?;
            disk.fill()?;
            let client = stack.client(0, "acme", Format::Jwe)?;
            for number in 0..WARM {
                client.send(&format!("evt-full-{number}")).await?;
            }
            in_use(stack, 0.0).await?;
            ensure!(!stack.processor(0).log_lines("No space left on device")?.is_empty(), "it says why");
            // A restart on the full disk, and everything again: each is a repeat, found in the log.
            stack.settled().await?;
            stack.processor(0).stop().await?;
            stack.processor(0).up().await?;
            for number in 0..WARM / 4 {
                client.send(&format!("evt-full-{number}")).await?;
            }
            stack.settled().await?;
            assert_eq!(stack.sink("main").delivery_count(), WARM);

            // A folder that can't be written to at all holds no identity: refused, with the key to look at.
            stack.processor(0).stop().await?;
            drop(disk);
            let disk = SmallDisk::over(&data, "ro,size=1m")?;
            stack.processor(0).start()?;
            let refused = stack.processor(0).ready().await.unwrap_err().to_string();
            ensure!(refused.contains("ended by itself"), "{refused}");
            let said = stack.processor(0).log_lines("the processor can't start")?;
            ensure!(said.len() == 1 && said[0].contains("data.dir") && said[0].contains("Read-only"), "{said:?}");
            ensure!(stack.processor(0).kill().await.is_err(), "it has ended");
            drop(disk);
            stack.processor(0).up().await
        })
        .await
}
