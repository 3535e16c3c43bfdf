//! How many connections there may be at once: in all, per network, and in their handshakes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::shutdown::Group;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::config::Limits;
use crate::edge::resize;
use crate::metrics::ConnectionOutcome;
use crate::network::Network;

/// Connections per network. Holds an entry only for networks that have some, so it is bounded by the cap on all.
type Counts = Arc<Mutex<HashMap<Network, usize>>>;

/// The caps.
pub(crate) struct Caps {
    all: Arc<Semaphore>,
    per_network: AtomicUsize,
    counts: Counts,
    handshakes: Arc<Semaphore>,
}

impl Caps {
    /// Caps as configured.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections_max)),
            per_network: AtomicUsize::new(limits.connections_per_ip_max),
            counts: Counts::default(),
            handshakes: Arc::new(Semaphore::new(limits.handshakes_max)),
        }
    }

    /// Changes the caps. No connection is ended for that.
    pub(crate) fn apply(&self, before: &Limits, after: &Limits, group: &Group) {
        resize(&self.all, before.connections_max, after.connections_max, group);
        resize(&self.handshakes, before.handshakes_max, after.handshakes_max, group);
        self.per_network.store(after.connections_per_ip_max, Ordering::Relaxed);
    }

    /// A place for one more connection, from wherever it is, or how to count the one that finds none.
    pub(crate) fn enter(&self) -> Result<Entry, ConnectionOutcome> {
        let permit = self.all.clone().try_acquire_owned().map_err(|_| ConnectionOutcome::OverCap)?;
        Ok(Entry { _permit: permit })
    }

    /// The same place, now among the connections from `network`.
    pub(crate) fn settle(&self, entry: Entry, network: Network) -> Result<Slot, ConnectionOutcome> {
        let mut counts = self.counts.lock();
        let count = counts.entry(network).or_insert(0);
        if *count >= self.per_network.load(Ordering::Relaxed) {
            return Err(ConnectionOutcome::OverNetworkCap);
        }
        *count += 1;
        Ok(Slot { network, counts: self.counts.clone(), _entry: entry })
    }

    /// Waits for a place among the handshakes.
    pub(crate) async fn handshake(&self) -> SemaphorePermit<'_> {
        self.handshakes.acquire().await.expect("the semaphore is never closed")
    }
}

/// The place of a connection of which nobody knows yet whom it counts for; given back when it is dropped.
pub(crate) struct Entry {
    _permit: OwnedSemaphorePermit,
}

/// A connection's place; given back when it is dropped.
pub(crate) struct Slot {
    network: Network,
    counts: Counts,
    _entry: Entry,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn places_are_given_out_to_the_caps_and_come_back() {
        let mut limits = crate::tests::config().limits;
        limits.connections_max = 3;
        limits.connections_per_ip_max = 2;
        let caps = Caps::new(&limits);
        let network = |last| Network::from(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        let take = |last| caps.enter().and_then(|entry| caps.settle(entry, network(last)));
        let held: Vec<Slot> = [1, 1, 2].into_iter().map(|last| take(last).unwrap_or_else(|_| panic!())).collect();
        assert_eq!(take(3).err(), Some(ConnectionOutcome::OverCap));
        drop(held);
        assert!(take(1).is_ok(), "everything came back");
        let two = [take(1), take(1)];
        assert_eq!(take(1).err(), Some(ConnectionOutcome::OverNetworkCap));
        drop(two);
        assert!(caps.counts.lock().is_empty());
        assert_eq!(caps.all.available_permits(), 3);
    }
}
