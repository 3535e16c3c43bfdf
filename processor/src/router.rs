//! The router: opens each record of `inbox` once to learn its event id, and copies it, still sealed, to its place in `events`.
//!
//! It keeps no state but its committed offset. At-least-once is enough: a record copied twice has the same id and is
//! recognised behind it. What it cannot verify, open or identify goes to `dead`, so no garbage ever reaches an index.

use std::sync::Arc;

use common::id::{EventId, SourceId, placement};
use common::kafka::consumer::Incoming;
use common::record::{Head, Identity};
use common::spans::Kind;
use common::topics::Topic;

use crate::engine::{Inspected, Lane, Turn, Work};
use crate::keys::Keys;
use crate::outcome::Outcome;
use crate::pipeline::{HandOff, Item, Pipeline};

/// The work of the router.
pub struct Router {
    pipeline: Arc<Pipeline>,
}

impl Router {
    /// A router.
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        Self { pipeline }
    }
}

/// While an id key rotates the previous keyed id is written too, so that repeats of older events are known.
fn identity(keys: &Keys, source: &SourceId, event: &EventId) -> Identity {
    let previous = keys.previous_id.as_ref().map(|key| key.keyed_id(source, event));
    Identity { id: keys.id.keyed_id(source, event), previous }
}

impl Work for Router {
    type Item = Item;
    type Pass = ();

    fn inspect(&self, lane: &Lane, record: &Incoming<'_>) -> Inspected<Item> {
        Inspected::Run { key: None, item: Item::read(&self.pipeline.keys.load().edge, &lane.topic, record) }
    }

    async fn pass(&self, _: &Item) {}

    async fn run(&self, turn: Turn, item: Item, (): ()) -> Option<Outcome> {
        let keys = self.pipeline.keys();
        let unsealed = match &item.head {
            Ok(head) => keys.sources.unseal(head, &item.value).map(|unsealed| {
                // Each record of the inbox is a message of its own, sealed under a nonce of its own, but for one that was
                // written twice: too many rather than too few.
                keys.sources.count(&head.source, &unsealed.key_id);
                (head, unsealed.id)
            }),
            Err(reason) => Err(*reason),
        };
        let (head, event) = match unsealed {
            Ok(known) => known,
            Err(reason) => return self.pipeline.bury(&turn, &item, reason, None).await,
        };
        let identity = identity(&keys, &head.source, &event);
        let mut span = self.pipeline.span("route", Kind::Consumer, &turn, head);
        if let Some(span) = &mut span {
            span.text("sealstream.event", identity.id.to_string());
        }
        let traceparent = span.as_ref().map(|span| span.context().to_string().into());
        let partition = placement(&head.source, &event, self.pipeline.partitions);
        let head = Head {
            identity: Some(identity),
            retry: None,
            traceparent: traceparent.or_else(|| head.traceparent.clone()),
            ..head.clone()
        };
        let headers = keys.core.seal(&Topic::Events, &head, &item.value);
        let key = Some(&identity.id.0[..]);
        let record = HandOff { topic: &Topic::Events, partition: Some(partition), key, headers, value: &item.value };
        self.pipeline.hand_off(&turn, record).await?;
        tracing::trace!(
            source = %head.source, topic = "inbox", partition = turn.partition(), offset = turn.offset(), to = partition,
            id = %identity.id, "copied"
        );
        Some(Outcome::Routed)
    }
}
