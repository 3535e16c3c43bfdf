//! The demonstration, run in this process. It counts in the process's one registry, so the runs come one after the other.

use sealstream::demo::report::Report;
use sealstream::demo::{Kafka, Run, play};

async fn run(requests: usize) -> Report {
    play(&Run { requests, at_once: 32, kafka: Kafka::Embedded }).await.expect("the demonstration runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_balance() {
    let report = run(500).await;
    let books = &report.books;
    assert!(books.conserved, "{books:?}");
    // What the plan has among 500 requests.
    assert_eq!((books.sent, books.accepted, books.delivered, books.duplicates_recognised), (500, 478, 426, 51));
    assert_eq!((books.retried, books.dead, books.lost, books.delivered_twice), (2, 1, 0, 0));
    let refused = [("signature_invalid".to_owned(), 11), ("timestamp_out_of_tolerance".to_owned(), 11)];
    assert_eq!(books.refused, refused.into());
    assert_eq!(books.dead_by_reason, [("open_failed".to_owned(), 1)].into());
    assert!(report.delivery.is_some_and(|latency| latency.p50_ms > 0.0) && report.rate > 0.0);

    // The least there is: and another run in the same process counts from zero.
    let books = run(1).await.books;
    assert!(books.conserved, "{books:?}");
    assert_eq!((books.sent, books.delivered, books.duplicates_recognised, books.dead), (1, 1, 0, 0));
}
