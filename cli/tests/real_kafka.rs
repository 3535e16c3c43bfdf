//! What needs a real broker: topics, first offsets, the demonstration on them, and a load on an ingest that keeps books too. `./x test` starts one.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::clock::Clock;
use common::shutdown::Group;
use common::telemetry::Metrics;
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

/// An ingest of this process on a real broker, and loads of a process of their own on it.
struct Loaded {
    deployment: Deployment,
    url: String,
    metrics: Metrics,
    group: Group,
    runtime: tokio::runtime::Runtime,
}

impl Loaded {
    fn start() -> Self {
        let deployment = Deployment::new();
        let made = deployment.topics(&["create", "--outputs"], &[]);
        assert!(made.status.success(), "{made:?}");
        // Connections end after a few requests, so that a load meets ending ones.
        let settings = [
            ("INGEST__LISTEN__ADDRESS", "127.0.0.1:0"),
            ("INGEST__ADMIN__ADDRESS", "127.0.0.1:0"),
            ("INGEST__TOPICS__PREFIX", &deployment.prefix),
            ("INGEST__LIMITS__REQUESTS_PER_CONNECTION_MAX", "50"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let file = deployment.dir.path().join("d/ingest/ingest.toml");
        let config = ingest::Config::load(Some(&file), settings.into_iter()).unwrap();
        let (group, metrics) = (Group::new(), Metrics::isolated());
        let deps = ingest::Deps { group: group.clone(), clock: Clock::system(), metrics: metrics.clone() };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let running = runtime.block_on(ingest::start(config, deps)).unwrap();
        let url = format!("https://localhost:{}/webhook", running.local_addr().port());
        Self { deployment, url, metrics, group, runtime }
    }

    /// Runs a load; answers its report, and by how much ingest's own counters of requests rose, by outcome.
    fn load(&self, words: &[&str]) -> (Value, Vec<(&'static str, f64)>) {
        let counts = || {
            ingest::Outcome::ALL
                .iter()
                .map(|outcome| outcome.as_str())
                .map(|outcome| (outcome, self.metrics.value("ingest_requests_total", &[("outcome", outcome)])))
        };
        let before: Vec<_> = counts().collect();
        let sender = self.deployment.dir.path().join("d/sender/sender.toml");
        let mut line = vec!["load", "--json", "--config", sender.to_str().unwrap(), "--url", &self.url];
        line.extend(words);
        let output = sealstream(&line, &[]);
        let report = json(&output);
        let received_all = report["received"] == report["requests"];
        assert_eq!(output.status.code(), Some(i32::from(!received_all)), "{output:?}");
        let rose = counts().zip(before).map(|((outcome, after), (_, before))| (outcome, after - before));
        (report, rose.filter(|(_, count)| *count > 0.0).collect())
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.group.cancel();
        self.runtime.block_on(self.group.wait(Duration::from_secs(60)));
    }
}

#[test]
fn a_load_counts_what_ingest_counts() {
    let loaded = Loaded::start();
    for words in [
        &["--requests", "600", "--connections", "8"][..],
        &["--rate", "400", "--requests", "300", "--connections", "4", "--duplicates", "0.2", "--threads", "2"],
        &["--requests", "600", "--connections", "2", "--http", "2", "--format", "jwe", "--body-bytes", "512,4KiB"],
        &["--requests", "40", "--connections", "4", "--new-connections"],
        &["--requests", "40", "--connections", "4", "--new-connections", "--resume", "--http", "2"],
    ] {
        let (report, counted) = loaded.load(words);
        let requests = report["requests"].as_f64().unwrap();
        assert_eq!(requests.to_string(), words[words.iter().position(|word| *word == "--requests").unwrap() + 1]);
        assert_eq!(counted, [("received", requests)], "{words:?}: {report}");
        assert_eq!(report["statuses"], serde_json::json!({ "200": requests as u64 }), "{words:?}");
    }
    // With another secret all are refused, and with nothing else wrong both sides say the same again.
    let other = loaded.deployment.dir.path().join("other");
    std::fs::write(&other, "another secret than ingest has").unwrap();
    let (report, counted) = loaded.load(&["--requests", "30", "--secret", other.to_str().unwrap()]);
    assert_eq!(counted, [("signature_invalid", 30.0)]);
    assert_eq!((&report["statuses"], &report["received"]), (&serde_json::json!({ "401": 30 }), &0.into()));
}
