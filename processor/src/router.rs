//! The router: opens each record of `inbox` once to learn its event id, and copies it, still sealed, to its place in `events`.
//!
//! It keeps no state but its committed offset. At-least-once is enough: a record copied twice has the same id and is
//! recognised behind it. What it cannot verify, open or identify goes to `dead`, so no garbage ever reaches an index.

use std::sync::Arc;

use common::id::{EventId, IdKey, SourceId, placement};
use common::kafka::consumer::Incoming;
use common::record::{Head, Identity};
use common::topics::Topic;

use crate::engine::{Inspected, Lane, Turn, Work};
use crate::outcome::Outcome;
use crate::pipeline::{HandOff, Item, Pipeline};

/// The work of the router.
pub struct Router {
    pipeline: Arc<Pipeline>,
    id_key: IdKey,
    previous: Option<IdKey>,
}

impl Router {
    /// A router. While an id key rotates it writes the previous keyed id too, so that repeats of older events are known.
    pub fn new(pipeline: Arc<Pipeline>, id_key: IdKey, previous: Option<IdKey>) -> Self {
        Self { pipeline, id_key, previous }
    }

    fn identity(&self, source: &SourceId, event: &EventId) -> Identity {
        let previous = self.previous.as_ref().map(|key| key.keyed_id(source, event));
        Identity { id: self.id_key.keyed_id(source, event), previous }
    }
}

impl Work for Router {
    type Item = Item;
    type Pass = ();

    fn inspect(&self, lane: &Lane, record: &Incoming<'_>) -> Inspected<Item> {
        Inspected::Run { key: None, item: Item::read(&self.pipeline.edge_keys, &lane.topic, record) }
    }

    async fn pass(&self, _: &Item) {}

    async fn run(&self, turn: Turn, item: Item, (): ()) -> Option<Outcome> {
        let unsealed = match &item.head {
            Ok(head) => self.pipeline.sources.unseal(head, &item.value).map(|unsealed| (head, unsealed.id)),
            Err(reason) => Err(*reason),
        };
        let (head, event) = match unsealed {
            Ok(known) => known,
            Err(reason) => return self.pipeline.bury(&turn, &item, reason, None).await,
        };
        let identity = self.identity(&head.source, &event);
        let partition = placement(&head.source, &event, self.pipeline.partitions);
        let head = Head { identity: Some(identity), retry: None, ..head.clone() };
        let headers = self.pipeline.core_keys.seal(&Topic::Events, &head, &item.value);
        let key = Some(&identity.id.0[..]);
        let record = HandOff { topic: &Topic::Events, partition: Some(partition), key, headers, value: &item.value };
        self.pipeline.hand_off(&turn, record).await?;
        Some(Outcome::Routed)
    }
}
