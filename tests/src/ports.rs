//! Ports that a process can listen on, lose, and listen on again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range that systems hand out to outgoing connections: there, a connection could take the port of a process
/// that was just killed. `xtask` takes its brokers' ports from the range above this one.
const RANGE: std::ops::Range<u16> = 10_000..20_000;

/// A loopback address that nobody listens on, and that this process gives to nobody else.
pub fn free() -> SocketAddr {
    static STEP: AtomicU32 = AtomicU32::new(0);
    let span = u32::from(RANGE.end - RANGE.start);
    for _ in 0..span {
        // Two test runs at once look in different places.
        let step = std::process::id().wrapping_mul(61).wrapping_add(STEP.fetch_add(1, Ordering::Relaxed)) % span;
        let port = RANGE.start + u16::try_from(step).expect("the span is that of a port range");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("there is no free port between {} and {}", RANGE.start, RANGE.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_given_once() {
        let ports = [free(), free(), free()].map(|address| address.port());
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
        assert!(ports.iter().all(|port| RANGE.contains(port)));
    }
}
