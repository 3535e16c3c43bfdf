//! `bench`: the release binaries beside the floors of the libraries, on a Kafka of their own.

use crate::{service::Service, workspace};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `bench` is told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What is measured; without it `ingest`, `route` and `deliver`, whose figures go into one object
    what: Option<What>,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Where all figures and the plot go, without a name [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A few requests on the binaries of the dev profile: shows that the benches work. Its figures mean nothing
    #[arg(long)]
    smoke: bool,
    /// Handed to the bench that is named: `./x bench open -- --help`
    #[arg(last = true, requires = "what")]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Ingest beside a bare server, and one that publishes
    Ingest,
    /// The router beside a loop that consumes, opens and produces
    Route,
    /// The deliverer beside loops that consume and produce, and a client that posts
    Deliver,
    /// How long partitions take to open, warm and cold, beside a plain consumer
    Open,
    /// How ingest's cost grows with connections, sizes, sources, secrets and partitions, and what an idle connection keeps
    Scale,
    /// Whether two ingests and three processors cost as much per event as one of each
    Capacity,
    /// Allocations for each request and each record, beside the floors'
    Allocations,
    /// A sink that is down for long: what the other gets, and how fast it catches up
    Outage,
}

/// Those that make up the one object.
const ALL: [What; 3] = [What::Ingest, What::Route, What::Deliver];

/// The figures that have a target, with it: at most so much.
const TARGETS: [(&str, f64); 6] = [
    ("ingest_cpu_vs_kafka_floor", 1.25),
    ("ingest_cpu_vs_http_floor", 1.8),
    ("ingest_p99_added_ms", 1.0),
    ("router_cpu_vs_floor", 1.3),
    ("deliverer_kafka_cpu_vs_floor", 1.6),
    ("deliverer_http_cpu_vs_floor", 1.5),
];

impl What {
    /// Its program. That of ingest's bench may not have the name of the product.
    fn program(self) -> &'static str {
        match self {
            Self::Ingest => "edge",
            Self::Route => "route",
            Self::Deliver => "deliver",
            Self::Open => "open",
            Self::Scale => "scale",
            Self::Capacity => "capacity",
            Self::Allocations => "allocations",
            Self::Outage => "outage",
        }
    }

    /// Words for a run that only shows that it works.
    fn smoke(self) -> &'static [&'static str] {
        match self {
            Self::Ingest => &[
                "--seconds=0.3",
                "--warm-up=0.1",
                "--rounds=1",
                "--half-rounds=1",
                "--connections=4",
                "--points=0.2,0.5",
            ],
            Self::Route | Self::Deliver => &["--records", "20000", "--rounds", "1", "--partitions", "2"],
            Self::Open => &["--ids", "20000", "--partitions", "2", "--rounds", "1"],
            Self::Scale => &["--seconds", "0.3", "--warm-up", "0.1", "--rounds", "1", "--up-to", "2", "--idle", "100"],
            Self::Capacity => &["--rate", "200", "--seconds", "1", "--rounds", "1", "--partitions", "3"],
            Self::Allocations => &["--count", "40"],
            Self::Outage => &["--down", "31", "--before", "1", "--rate", "50"],
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { what, json, out, smoke, arguments } = arguments;
    let names = what.map_or(&ALL[..], |_| &[]).iter().copied().chain(*what).collect::<Vec<_>>();
    let binaries = build(&names, *smoke)?;
    let state = workspace::state().join(format!("bench-{}", std::process::id()));
    let dir = state.display().to_string();
    let mut kafka = Service::start("Kafka", &["kafka", "--state", &dir, "up", "--own", "--until-eof"])?;
    let bench = Bench { environment: kafka.ready()?, binaries, smoke: *smoke };
    let ran = match what {
        Some(what) => {
            let json = json.then_some("--json");
            workspace::run(bench.command(*what).args(json).args(arguments))
        }
        None => bench.all(out.as_deref(), *json),
    };
    drop(kafka);
    std::fs::remove_dir_all(&state).with_context(|| format!("removing {dir}"))?;
    ran
}

/// All benches with few requests, for `ci`.
pub(crate) fn smoke() -> Result<()> {
    run(&Arguments { what: None, json: false, out: None, smoke: true, arguments: Vec::new() })
}

/// Builds what is measured and what measures; answers the folder of the binaries.
fn build(names: &[What], smoke: bool) -> Result<PathBuf> {
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "--workspace"]).args((!smoke).then_some("--release"));
    let programs =
        ["ingest", "processor", "sealstream", "floor"].into_iter().chain(names.iter().map(|what| what.program()));
    workspace::run(build.args(programs.flat_map(|program| ["--bin", program])))?;
    let dev = workspace::binaries()?;
    if smoke { Ok(dev) } else { Ok(dev.parent().context("the directory above the binaries")?.join("release")) }
}

struct Bench {
    environment: Vec<(String, String)>,
    binaries: PathBuf,
    smoke: bool,
}

impl Bench {
    fn command(&self, what: What) -> Command {
        let mut command = Command::new(self.binaries.join(what.program()));
        command.envs(self.environment.iter().cloned()).env("SEALSTREAM_BIN_DIR", &self.binaries);
        command.args(if self.smoke { what.smoke() } else { &[] });
        command
    }

    /// Runs all, and puts their figures together.
    fn all(&self, out: Option<&Path>, json: bool) -> Result<()> {
        let folder = if self.smoke { "bench-smoke" } else { "bench" };
        let beside =
            || self.binaries.parent().map(|target| target.join(folder)).context("the directory above the binaries");
        let out = out.map_or_else(beside, |out| Ok(out.to_owned()))?;
        std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
        let mut figures = Map::new();
        for what in ALL {
            let mut command = self.command(what);
            command.arg("--json");
            if what == What::Ingest {
                command.arg("--plot").arg(out.join("latency.svg"));
            }
            let ran =
                command.stderr(Stdio::inherit()).output().with_context(|| format!("running {}", what.program()))?;
            ensure!(ran.status.success(), "the bench {} failed ({})", what.program(), ran.status);
            let found: Map<String, Value> = serde_json::from_slice(&ran.stdout).context("reading figures")?;
            figures.extend(found);
        }
        let file = out.join("figures.json");
        std::fs::write(&file, serde_json::to_string_pretty(&figures)? + "\n")
            .with_context(|| format!("writing {}", file.display()))?;
        if json {
            println!("{}", Value::Object(figures));
        } else {
            print!("{}", judged(&figures)?);
        }
        eprintln!("x: everything is in {}", out.display());
        Ok(())
    }
}

/// Each figure that has a target, beside it.
fn judged(figures: &Map<String, Value>) -> Result<String> {
    let mut lines = String::new();
    for (name, target) in TARGETS {
        let figure = figures.get(name).and_then(Value::as_f64).with_context(|| format!("no bench has said {name}"))?;
        let verdict = if figure <= target { "kept" } else { "missed" };
        lines.push_str(&format!("{name:<32} {figure:>7.2}   at most {target:<5} {verdict}\n"));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_held_against_its_target() {
        let mut figures: Map<String, Value> =
            TARGETS.iter().map(|(name, target)| ((*name).to_owned(), Value::from(*target))).collect();
        assert_eq!(judged(&figures).unwrap().matches("kept").count(), TARGETS.len());
        figures.insert("router_cpu_vs_floor".to_owned(), Value::from(1.31));
        let text = judged(&figures).unwrap();
        let line = text.lines().find(|line| line.starts_with("router_cpu_vs_floor")).unwrap();
        assert!(line.contains("1.31") && line.ends_with("missed"), "{line}");
        figures.remove("router_cpu_vs_floor");
        assert!(judged(&figures).unwrap_err().to_string().contains("router_cpu_vs_floor"));
    }
}
