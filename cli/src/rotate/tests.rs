use std::time::Duration;

use clap::Parser;
use common::clock::{Clock, ManualClock};
use common::config::SecretFile;
use common::id::EventId;
use common::kafka::embedded::EmbeddedKafka;
use common::kafka::producer::{Outgoing, Producer, ProducerSettings};
use common::record::{Head, Identity, RecordKey, RecordKeys};
use common::secret::Secret;
use common::topics::Topic;
use open::{Key, seal_native};

use super::*;
use crate::deployment::{self, MainSink, Options};
use crate::files::read;
use crate::sender_config::SenderConfig;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// A deployment, and the Kafka that its topics lie in.
struct Bench {
    temp: tempfile::TempDir,
    kafka: EmbeddedKafka,
    clock: Clock,
    hand: ManualClock,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let roles = ["inbox", "events", "dead", "retry.main.10s", "retry.main.1m", "retry.main.10m", "retry.main.1h"];
        let names: Vec<String> = roles.iter().map(|role| format!("sealstream.{role}")).collect();
        let kafka = EmbeddedKafka::start(names.iter().map(|name| (&**name, 2))).unwrap();
        let options = Options {
            source: "acme".parse().unwrap(),
            url: "https://hooks.example/webhook".parse().unwrap(),
            hosts: vec!["hooks.example".to_owned()],
            kafka: kafka.config().bootstrap,
            danger_single_broker: true,
            sink: MainSink::File,
            output_topic: None,
        };
        deployment::write(temp.path(), &options, &Clock::system()).unwrap();
        let processor = temp.path().join(PROCESSOR);
        let text = read(&processor).unwrap().replace("[topics]\n", "[topics]\npartitions = 2\n");
        std::fs::write(processor, text).unwrap();
        // The embedded cluster has the producer's time, which is the system's.
        let (clock, hand) = Clock::manual(Clock::system().unix_ms());
        Self { temp, kafka, clock, hand }
    }

    fn dir(&self) -> &Path {
        self.temp.path()
    }

    fn rotate(&self, words: &[&str]) -> Result<Verdict> {
        let mut line = vec!["rotate"];
        line.extend(words);
        line.extend(["--dir", self.dir().to_str().unwrap()]);
        run(&Line::parse_from(line).command, &self.clock)
    }

    fn count(&self, kind: Kind, source: Option<&SourceId>, id: &str) -> u64 {
        lying::count(&self.processor(), kind, source, id, &self.clock).unwrap()
    }

    fn processor(&self) -> processor::config::Config {
        processor::config::Config::load(Some(&self.dir().join(PROCESSOR)), std::iter::empty()).unwrap()
    }

    fn ingest(&self) -> ingest::Config {
        let config = ingest::Config::load(Some(&self.dir().join(INGEST)), std::iter::empty()).unwrap();
        ingest::check(&config).unwrap();
        config
    }

    fn sender(&self) -> SenderConfig {
        SenderConfig::load(Some(&self.dir().join(SENDER))).unwrap()
    }

    /// A secret of the processors.
    fn load(&self, name: &str) -> Secret {
        SecretFile::new(self.dir().join("processor/secrets").join(name)).load().unwrap()
    }

    /// Writes a record under the deployment's own keys of these ids.
    fn write(&self, topic: &Topic, mac_key: &str, sealing_key: &str) {
        self.write_as(topic, mac_key, sealing_key, None);
    }

    /// Writes a record as the router does: with the event's ids under the configured id keys.
    fn route(&self, sealing_key: &str) {
        let keys = processor::keys::Keys::load(&self.processor()).unwrap();
        let (source, event) = ("acme".parse().unwrap(), EventId::new("1").unwrap());
        let previous = keys.previous_id.map(|key| key.keyed_id(&source, &event));
        let identity = Identity { id: keys.id.keyed_id(&source, &event), previous };
        self.write_as(&Topic::Events, "core-1", sealing_key, Some(identity));
    }

    fn write_as(&self, topic: &Topic, mac_key: &str, sealing_key: &str, identity: Option<Identity>) {
        let load = |name: &str| self.load(name);
        let key = RecordKey::new(mac_key.parse().unwrap(), &load(&format!("{mac_key}.key")));
        let keys = RecordKeys::new(vec![key]).unwrap();
        let body = seal_native(&Key::try_from(&load(&format!("acme.{sealing_key}.key"))).unwrap(), b"{\"id\":\"1\"}")
            .unwrap()
            .body;
        let head = Head {
            source: "acme".parse().unwrap(),
            received_ms: 1,
            timestamp: "1700000000".into(),
            traceparent: None,
            identity,
            retry: None,
            redriven_ms: None,
        };
        let headers = keys.seal(topic, &head, &body);
        let producer = Producer::new(&self.kafka.config(), &ProducerSettings::default()).unwrap();
        let name = topic.name(&"sealstream".parse().unwrap());
        let record = Outgoing { topic: &name, partition: Some(1), key: None, value: &body };
        let delivery = producer.send(record, headers.iter()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(delivery).unwrap();
    }
}

#[test]
fn a_signing_secret_is_added_used_and_retired() {
    let bench = Bench::new();
    let words = |step| [step, "signing", "--source", "acme"];
    let ids = || -> Vec<String> {
        bench.ingest().source[&"acme".parse::<SourceId>().unwrap()]
            .secrets
            .iter()
            .map(|secret| secret.id.to_string())
            .collect()
    };
    let comments = read(&bench.dir().join(INGEST)).unwrap();
    assert!(bench.rotate(&words("use")).is_err() && bench.rotate(&words("retire")).is_err(), "there is nothing new");
    assert_eq!(bench.rotate(&words("add")).unwrap(), Verdict::Good);
    assert_eq!(ids(), ["s1", "s2"]);
    assert!(bench.sender().secret.as_path().ends_with("acme.hmac.s1"), "nothing uses it");
    assert!(bench.rotate(&words("add")).is_err() && bench.rotate(&words("retire")).is_err(), "it is to be used first");
    assert_eq!(bench.rotate(&words("use")).unwrap(), Verdict::Good);
    assert!(bench.sender().secret.as_path().ends_with("acme.hmac.s2"));
    let [one, two] = ["sender", "ingest"].map(|dir| read(&bench.dir().join(dir).join("secrets/acme.hmac.s2")).unwrap());
    assert_eq!(one, two);
    assert_eq!(bench.rotate(&words("retire")).unwrap(), Verdict::Good);
    assert_eq!(ids(), ["s2"]);
    let after = read(&bench.dir().join(INGEST)).unwrap();
    assert_eq!(after.lines().count(), comments.lines().count(), "{after}");
    assert!(after.lines().filter(|line| line.contains('#')).all(|line| comments.contains(line)), "{after}");
}

#[test]
fn an_edge_key_is_kept_while_a_record_under_it_lies_in_inbox() {
    let bench = Bench::new();
    let ids = || -> Vec<String> { bench.processor().pipeline.edge_keys.iter().map(|key| key.id.to_string()).collect() };
    bench.rotate(&["add", "edge"]).unwrap();
    assert_eq!(
        (ids(), bench.ingest().pipeline.edge_key.id.as_str().to_owned()),
        (vec!["edge-1".into(), "edge-2".into()], "edge-1".into())
    );
    bench.rotate(&["use", "edge"]).unwrap();
    assert_eq!(bench.ingest().pipeline.edge_key.id.as_str(), "edge-2");
    assert!(read(&bench.dir().join(INGEST)).unwrap().contains("# the processor has it in its edge_keys"));
    bench.write(&Topic::Inbox, "edge-2", "k1");
    bench.write(&Topic::Inbox, "edge-1", "k1");
    assert_eq!(bench.rotate(&["retire", "edge"]).unwrap(), Verdict::Bad);
    assert_eq!(ids(), ["edge-1", "edge-2"]);
    assert_eq!(bench.rotate(&["retire", "edge", "--force"]).unwrap(), Verdict::Good);
    assert_eq!(ids(), ["edge-2"]);
    assert!(bench.rotate(&["retire", "edge"]).is_err(), "the one in use stays");
    bench.rotate(&["add", "edge"]).unwrap();
    assert_eq!(ids(), ["edge-2", "edge-3"]);
}

#[test]
fn a_core_key_is_kept_while_a_record_under_it_lies_behind_the_router() {
    let bench = Bench::new();
    let ids = || -> Vec<String> { bench.processor().pipeline.core_keys.iter().map(|key| key.id.to_string()).collect() };
    bench.rotate(&["add", "core"]).unwrap();
    assert_eq!(ids(), ["core-1", "core-2"]);
    bench.rotate(&["use", "core"]).unwrap();
    assert_eq!(ids(), ["core-2", "core-1"]);
    let retry = Topic::Retry { sink: "main".parse().unwrap(), delay: "1m".parse().unwrap() };
    for topic in [&Topic::Events, &retry, &Topic::Dead] {
        bench.write(topic, "core-2", "k1");
    }
    assert_eq!(bench.count(Kind::Core, None, "core-1"), 0);
    for (count, topic) in [(1, &Topic::Events), (2, &retry), (3, &Topic::Dead)] {
        bench.write(topic, "core-1", "k1");
        assert_eq!(bench.count(Kind::Core, None, "core-1"), count);
        assert_eq!(bench.rotate(&["retire", "core"]).unwrap(), Verdict::Bad);
    }
    assert_eq!(bench.rotate(&["retire", "core", "--force"]).unwrap(), Verdict::Good);
    assert_eq!(ids(), ["core-2"]);
}

#[test]
fn a_sealing_key_is_kept_while_it_opens_anything() {
    let bench = Bench::new();
    let words = |step| [step, "sealing", "--source", "acme"];
    let acme: SourceId = "acme".parse().unwrap();
    let ids = || -> Vec<String> { bench.processor().source[&acme].keys.iter().map(|key| key.id.to_string()).collect() };
    bench.rotate(&words("add")).unwrap();
    assert_eq!((ids(), bench.sender().key.id.to_string()), (vec!["k1".into(), "k2".into()], "k1".into()));
    bench.rotate(&words("use")).unwrap();
    assert_eq!(bench.sender().key.id.to_string(), "k2");
    bench.write(&Topic::Inbox, "edge-1", "k2");
    assert_eq!(bench.count(Kind::Sealing, Some(&acme), "k1"), 0);
    bench.write(&Topic::Dead, "core-1", "k1");
    assert_eq!(bench.count(Kind::Sealing, Some(&acme), "k1"), 1);
    assert_eq!(bench.rotate(&words("retire")).unwrap(), Verdict::Bad);
    assert_eq!(bench.rotate(&["retire", "sealing", "--source", "acme", "--force"]).unwrap(), Verdict::Good);
    assert_eq!(ids(), ["k2"]);
}

#[test]
fn an_id_key_is_kept_while_repeats_may_come_that_it_alone_knows() {
    let bench = Bench::new();
    let ids = || -> Vec<String> { bench.processor().pipeline.id_keys.iter().map(|key| key.id.to_string()).collect() };
    let window = bench.processor().dedup.window;
    assert!(bench.rotate(&["retire", "id"]).is_err(), "the one in use stays");
    bench.route("k1");
    bench.rotate(&["add", "id"]).unwrap();
    assert_eq!(ids(), ["id-1", "id-2"], "known, and not in use");
    assert_ne!(bench.load("id-1.key").expose(), bench.load("id-2.key").expose());
    assert!(
        bench.rotate(&["add", "id"]).is_err() && bench.rotate(&["retire", "id"]).is_err(),
        "it is to be used first"
    );
    bench.route("k1");
    bench.rotate(&["use", "id"]).unwrap();
    assert_eq!(ids(), ["id-2", "id-1"]);
    bench.route("k1");
    assert!(bench.rotate(&["add", "id"]).is_err(), "there are two at most");
    assert_eq!(ids(), ["id-2", "id-1"]);

    // Only what came before `add` is known by the old one alone; as long as anyone may ask.
    assert_eq!(bench.count(Kind::Id, None, "id-1"), 1);
    assert_eq!(bench.rotate(&["retire", "id"]).unwrap(), Verdict::Bad);
    bench.hand.advance(window + Duration::from_secs(3600));
    assert_eq!(bench.rotate(&["retire", "id"]).unwrap(), Verdict::Bad, "this machine's clock may be ahead");
    assert_eq!(ids(), ["id-2", "id-1"]);
    bench.hand.advance(window / 8);
    assert_eq!(bench.rotate(&["retire", "id"]).unwrap(), Verdict::Good);
    assert_eq!(ids(), ["id-2"]);
}

#[test]
fn an_id_key_is_kept_for_a_record_that_the_keys_of_an_earlier_rotation_name() {
    let bench = Bench::new();
    for step in ["add", "use"] {
        bench.rotate(&[step, "id"]).unwrap();
    }
    // It has two ids, as every record while a key rotates: id-2's and id-1's.
    bench.route("k1");
    assert_eq!(bench.rotate(&["retire", "id"]).unwrap(), Verdict::Good);
    for step in ["add", "use"] {
        bench.rotate(&[step, "id"]).unwrap();
    }
    assert_eq!(bench.count(Kind::Id, None, "id-2"), 1);
    assert_eq!(bench.rotate(&["retire", "id"]).unwrap(), Verdict::Bad);
    assert_eq!(bench.rotate(&["retire", "id", "--force"]).unwrap(), Verdict::Good);
}

#[test]
fn what_cannot_be_opened_any_more_keeps_an_id_key_and_what_nobody_trusts_does_not() {
    let bench = Bench::new();
    let sealing = |step| ["rotate", step, "sealing", "--source", "acme"];
    for step in ["add", "use"] {
        bench.rotate(&sealing(step)[1..]).unwrap();
    }
    for step in ["add", "use"] {
        bench.rotate(&[step, "id"]).unwrap();
    }
    bench.route("k1");
    bench.route("k2");
    assert_eq!(bench.count(Kind::Id, None, "id-1"), 0);
    // By the edge's key, as no processor writes into this topic.
    bench.write(&Topic::Events, "edge-1", "k2");
    assert_eq!(bench.count(Kind::Id, None, "id-1"), 0);
    bench.rotate(&["retire", "sealing", "--source", "acme", "--force"]).unwrap();
    assert_eq!(bench.count(Kind::Id, None, "id-1"), 1);
}

#[test]
fn without_kafka_nothing_is_retired() {
    let bench = Bench::new();
    bench.rotate(&["add", "core"]).unwrap();
    bench.rotate(&["use", "core"]).unwrap();
    let processor = bench.dir().join(PROCESSOR);
    let text = read(&processor).unwrap().replace(&bench.kafka.config().bootstrap, "127.0.0.1:1");
    std::fs::write(processor, text).unwrap();
    let error = bench.rotate(&["retire", "core"]).unwrap_err();
    assert!(format!("{error:#}").contains("nothing was changed"), "{error:#}");
    assert_eq!(bench.processor().pipeline.core_keys.len(), 2);
}
