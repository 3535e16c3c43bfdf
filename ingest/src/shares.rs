//! Each network's share of the handshakes at once, so that none can hold them all and keep the others waiting.
//!
//! Who has used up its share waits for its own; nobody else waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::network::Network;

/// Networks that it takes to hold all handshakes.
const NETWORKS: usize = 4;

/// The shares of networks that have connections in their handshakes, and so as many as there may be connections.
type Table = Arc<Mutex<HashMap<Network, Arc<Semaphore>>>>;

/// The shares.
pub(crate) struct Shares {
    each: AtomicUsize,
    table: Table,
}

impl Shares {
    /// Shares of so many handshakes at once.
    pub(crate) fn new(handshakes_max: usize) -> Self {
        Self { each: AtomicUsize::new(handshakes_max.div_ceil(NETWORKS)), table: Table::default() }
    }

    /// Changes them for each network whose next handshake is its only one.
    pub(crate) fn resize(&self, handshakes_max: usize) {
        self.each.store(handshakes_max.div_ceil(NETWORKS), Ordering::Relaxed);
    }

    /// Waits for a place in the share of `network`.
    pub(crate) async fn take(&self, network: Network) -> Share {
        let each = self.each.load(Ordering::Relaxed);
        let semaphore = self.table.lock().entry(network).or_insert_with(|| Arc::new(Semaphore::new(each))).clone();
        let mut share = Share { network, semaphore, table: self.table.clone(), permit: None };
        let permit = share.semaphore.clone().acquire_owned().await;
        share.permit = Some(permit.expect("the semaphore is never closed"));
        share
    }
}

/// A place, or one that is waited for; given back when it is dropped.
pub(crate) struct Share {
    network: Network,
    semaphore: Arc<Semaphore>,
    table: Table,
    permit: Option<OwnedSemaphorePermit>,
}

/// References to the semaphore of a network of which nobody else is left.
const US_AND_THE_TABLE: usize = 2;

impl Drop for Share {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        // A permit holds its semaphore too.
        self.permit = None;
        if Arc::strong_count(&self.semaphore) == US_AND_THE_TABLE {
            table.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn network(last: u8) -> Network {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)).into()
    }

    fn now<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_network_waits_for_its_own_share_only() {
        let shares = Shares::new(8);
        let held = [0, 1].map(|_| now(pin!(shares.take(network(1)))).expect("its share is two"));
        let mut waiting = Box::pin(shares.take(network(1)));
        assert!(now(waiting.as_mut()).is_none());
        let other = now(pin!(shares.take(network(2)))).expect("another network");
        drop(held.into_iter().next());
        let third = now(waiting.as_mut()).expect("a place came back");
        drop((waiting, third, other));
        assert!(shares.table.lock().is_empty(), "nobody is left");
    }

    #[test]
    fn who_gives_up_waiting_leaves_nothing() {
        let shares = Shares::new(1);
        let held = now(pin!(shares.take(network(1)))).expect("at least one");
        let mut waiting = Box::pin(shares.take(network(1)));
        assert!(now(waiting.as_mut()).is_none());
        drop(waiting);
        assert_eq!(shares.table.lock().len(), 1);
        drop(held);
        assert!(shares.table.lock().is_empty());
        assert!(now(pin!(shares.take(network(1)))).is_some());
    }
}
