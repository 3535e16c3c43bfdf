//! Free ports of the loopback interface.

use anyhow::{Result, bail};
use std::net::{Ipv4Addr, TcpListener};

/// Below the range that systems hand out to outgoing connections (from 32768 on Linux, 49152 elsewhere): there, a
/// connection could take the port of a broker that is down for a moment, and the broker could not come back.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// `count` ports that nobody listens on now.
pub(crate) fn free(count: usize) -> Result<Vec<u16>> {
    let span = u32::from(RANGE.end - RANGE.start);
    // Two programs of this kind that start together look in different places.
    let begin = std::process::id().wrapping_mul(61);
    let mut held = Vec::new();
    for step in 0..span {
        if held.len() == count {
            break;
        }
        let port =
            RANGE.start + u16::try_from(begin.wrapping_add(step) % span).expect("the span is that of a port range");
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        bail!("there are no {count} free ports between {} and {}", RANGE.start, RANGE.end);
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_one_that_is_taken_is_not_given() {
        let first = free(3).unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first[0])).unwrap();
        let second = free(3).unwrap();
        assert!(!second.contains(&first[0]), "{first:?} {second:?}");
        assert!(second.iter().all(|port| RANGE.contains(port)));
    }
}
