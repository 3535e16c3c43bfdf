//! What needs a real broker: topics, first offsets, and the demonstration on them. `./x test` starts one.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn bootstrap() -> String {
    std::env::var("KAFKA_BOOTSTRAP")
        .expect("this test needs a Kafka broker: run it by `./x test`, or set KAFKA_BOOTSTRAP")
}

fn sealstream(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealstream"));
    command.args(arguments).envs(environment.iter().copied()).output().expect("the program runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A deployment whose topics nobody else has.
struct Deployment {
    dir: tempfile::TempDir,
    config: PathBuf,
    prefix: String,
}

impl Deployment {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let prefix = format!("cli-test-{}", dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
        let topic = format!("{prefix}.output");
        let made = sealstream(
            &["init", &path("d"), "--kafka", &bootstrap(), "--danger-single-broker", "--output-topic", &topic],
            &[],
        );
        assert!(made.status.success(), "{made:?}");
        Self { config: Path::new(&path("d/processor/processor.toml")).to_owned(), dir, prefix }
    }

    fn topics(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut all = vec!["topics"];
        all.extend(arguments);
        all.extend(["--json", "--config", self.config.to_str().unwrap()]);
        let mut settings =
            vec![("PROCESSOR__TOPICS__PREFIX", self.prefix.as_str()), ("PROCESSOR__TOPICS__PARTITIONS", "3")];
        settings.extend(environment);
        sealstream(&all, &settings)
    }
}

#[test]
fn topics_are_made_once_and_checked() {
    let deployment = Deployment::new();
    // Three topics, four retry lanes for each of two sinks, and an output topic.
    let missing = deployment.topics(&["check"], &[]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    let findings = json(&missing)["findings"].as_array().unwrap().clone();
    assert_eq!(findings.len(), 12);
    assert!(
        findings.iter().all(|finding| finding["remedy"].as_str().unwrap().contains("topics create")),
        "{findings:?}"
    );

    let made = deployment.topics(&["create", "--outputs"], &[]);
    assert!(made.status.success(), "{made:?}");
    let told = json(&made);
    assert_eq!((told["made"].as_array().unwrap().len(), &told["there"]), (12, &0.into()));
    let first = &told["first_offsets"];
    let group = |name: &str| first[format!("{}.{name}", deployment.prefix)].as_u64();
    assert_eq!((group("router"), group("deliver.main"), group("retry.out")), (Some(3), Some(3), Some(12)), "{first}");

    let again = deployment.topics(&["create", "--outputs"], &[]);
    assert!(again.status.success(), "{again:?}");
    let told = json(&again);
    assert_eq!((told["made"].as_array().unwrap().len(), &told["there"]), (0, &12.into()));
    assert!(told["first_offsets"].as_object().unwrap().values().all(|count| count == 0), "{told}");
    let good = deployment.topics(&["check"], &[]);
    assert!(good.status.success(), "{good:?}");

    // Another number of partitions is a finding, with the remedy; and so is a group that was never made.
    let other = deployment.topics(&["check"], &[("PROCESSOR__TOPICS__RETENTION", "8d")]);
    assert_eq!(other.status.code(), Some(1));
    let findings = json(&other)["findings"].as_array().unwrap().clone();
    assert_eq!(findings.len(), 10, "every topic but dead, which is kept for longer: {findings:?}");
    assert!(findings[0]["remedy"].as_str().unwrap().contains("kafka-configs.sh"), "{findings:?}");
    let sink = [
        ("PROCESSOR__SINK__NEW", "{kind = \"file\", path = \"x\"}"),
        ("PROCESSOR__RETRY__LANES", "[\"10s\", \"1m\", \"10m\", \"1h\"]"),
    ];
    let other = deployment.topics(&["check"], &sink);
    let findings = json(&other)["findings"].as_array().unwrap().clone();
    let about_group = findings
        .iter()
        .any(|finding| finding["wrong"].as_str().unwrap().contains("deliver.new has no committed offset"));
    assert!(about_group, "{findings:?}");
    drop(deployment.dir);
}

#[test]
fn a_broker_that_is_not_there_is_told() {
    let deployment = Deployment::new();
    let settings = [("PROCESSOR__KAFKA__BOOTSTRAP", "127.0.0.1:1")];
    let output = deployment.topics(&["check"], &settings);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Kafka at 127.0.0.1:1"), "{output:?}");
}

#[test]
fn the_demonstration_balances_on_a_real_broker() {
    let output =
        sealstream(&["demo", "--events", "500", "--kafka", "real", "--json"], &[("KAFKA_BOOTSTRAP", &bootstrap())]);
    assert!(output.status.success(), "{output:?}");
    let books = json(&output);
    assert_eq!(books["conserved"], true);
    assert_eq!((&books["delivered"], &books["duplicates_recognised"]), (&426.into(), &51.into()), "{books}");
}
