//! What the stages decide without a connection: how slow a body may be, and what is passed on.

use std::time::Duration;

use http::HeaderValue;

use super::admitted::traceparent;
use super::body::{GRACE, deadline};

#[test]
fn a_body_earns_its_time() {
    let mut limits = crate::tests::config().limits;
    limits.body_deadline = Duration::from_secs(15);
    limits.body_bytes_per_second_min = common::config::ByteSize::kib(1);
    assert_eq!(deadline(&limits, 0), GRACE);
    assert_eq!(deadline(&limits, 1024), GRACE + Duration::from_secs(1));
    assert_eq!(deadline(&limits, 512), GRACE + Duration::from_millis(500));
    assert_eq!(deadline(&limits, 10 * 1024), Duration::from_secs(15), "at most the whole deadline");
    assert_eq!(deadline(&limits, usize::MAX), Duration::from_secs(15));
    limits.body_deadline = Duration::from_secs(1);
    assert_eq!(deadline(&limits, 0), Duration::from_secs(1));
}

#[test]
fn only_a_trace_context_of_version_00_is_passed_on() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let read = |text: &str| traceparent(&HeaderValue::from_str(text).unwrap());
    assert_eq!(read(good).as_deref(), Some(good));
    for end in 0..good.len() {
        assert_eq!(read(&good[..end]), None);
    }
    for bad in [good.replace("00-", "01-"), good.to_uppercase(), good.replace('-', "0"), format!("{good}-x")] {
        assert_eq!(read(&bad), None, "{bad}");
    }
}
