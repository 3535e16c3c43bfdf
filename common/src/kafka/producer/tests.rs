use super::*;
use crate::kafka::embedded::EmbeddedKafka;
use crate::limits::RECORD_BYTES_MAX;

const TOPIC: &str = "t";

fn producer(kafka: &EmbeddedKafka, settings: &ProducerSettings) -> Producer {
    Producer::new(&kafka.config(), settings).unwrap()
}

fn record(value: &[u8]) -> Outgoing<'_> {
    Outgoing { topic: TOPIC, partition: Some(1), key: Some(b"k"), value }
}

#[tokio::test]
async fn an_acknowledged_record_has_a_place() {
    let kafka = EmbeddedKafka::start([(TOPIC, 2)]).unwrap();
    let producer = producer(&kafka, &ProducerSettings::default());
    for offset in 0..3 {
        let ack = producer.send(record(b"v"), [("h", &b"1"[..])]).unwrap().await.unwrap();
        assert_eq!(ack, Ack { partition: 1, offset });
    }
    assert_eq!(producer.partitions(TOPIC, Duration::from_secs(5)).unwrap(), 2);
}

#[tokio::test]
async fn a_record_over_the_limit_is_too_large() {
    let kafka = EmbeddedKafka::start([(TOPIC, 2)]).unwrap();
    let producer = producer(&kafka, &ProducerSettings::default());
    let refused = producer.send(record(&vec![0; RECORD_BYTES_MAX + 1]), []);
    assert!(matches!(refused.err(), Some(ProduceError::TooLarge)));
}

#[tokio::test]
async fn without_a_broker_records_are_unavailable_and_a_full_queue_says_so_at_once() {
    let kafka = EmbeddedKafka::start([(TOPIC, 2)]).unwrap();
    let settings =
        ProducerSettings { ack_deadline: Duration::from_secs(1), queue_records: 2, ..ProducerSettings::default() };
    let producer = producer(&kafka, &settings);
    kafka.set_up(false).unwrap();
    let waiting = [producer.send(record(b"1"), []).unwrap(), producer.send(record(b"2"), []).unwrap()];
    assert!(matches!(producer.send(record(b"3"), []).err(), Some(ProduceError::QueueFull)));
    // The client counts what it has to tell, too: that no broker answers.
    assert!(producer.in_flight() >= 2);
    for delivery in waiting {
        assert!(matches!(delivery.await, Err(ProduceError::Unavailable(_))));
    }

    kafka.set_up(true).unwrap();
    let settings = ProducerSettings::default();
    assert!(self::producer(&kafka, &settings).send(record(b"4"), []).unwrap().await.is_ok(), "and recovers");
}

#[tokio::test]
async fn what_is_queued_when_a_producer_closes_is_told() {
    let kafka = EmbeddedKafka::start([(TOPIC, 2)]).unwrap();
    let producer =
        producer(&kafka, &ProducerSettings { linger: Duration::from_secs(20), ..ProducerSettings::default() });
    let lost = producer.send(record(b"1"), []).unwrap();
    drop(producer);
    let answer = lost.await;
    assert!(matches!(answer, Err(ProduceError::Closed)), "{answer:?}");
}
