//! The books of a stack: what came in against what came out, from the log itself and from the sinks.
//!
//! ```text
//! ledger (answered 200)  ⊆  inbox  =  events + dead letters of inbox                      by the sealed bodies
//! events, per sink       =  effects at the sink ∪ dead letters of the sink                by keyed ids
//! ```
//!
//! A letter that was redriven balances nothing any more: what it held must be found behind it.
//!
//! They are kept when everything is committed, so nothing is open and nothing waits in a retry lane. What a test injects
//! into a topic by hand is expected to end in `dead` too; it is told from the rest by its MAC. Counters are not asked:
//! they die with their process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use common::id::{EventId, IdKey, SourceId, placement};
use common::record::{Dead, Failure, Head, LetterId, LetterPlace, Reason, RecordKeys};
use common::topics::Topic;

use crate::ledger::EventKey;
use crate::materials::Materials;
use crate::plan::{Plan, SinkKind, SourcePlan};
use crate::stack::Stack;
use crate::topic::Record;

/// What was read of a stack.
#[derive(Debug)]
pub struct Books {
    sources: Vec<SourcePlan>,
    keeps_sinks: bool,
    partitions: u32,
    id_key: IdKey,
    edge_keys: RecordKeys,
    core_keys: RecordKeys,
    acked_events: BTreeSet<EventKey>,
    acked_bodies: Vec<Bytes>,
    opened: BTreeMap<Vec<u8>, EventKey>,
    inbox: Vec<Record>,
    events: Vec<Record>,
    dead: Vec<Record>,
    effects: BTreeMap<&'static str, BTreeMap<String, usize>>,
    violations: Vec<String>,
}

/// A dead letter, read.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Where it lies in `dead`.
    pub place: LetterPlace,
    /// Whether a marker says that it was redriven.
    pub redriven: bool,
    /// What it says of itself, unless it was never trusted.
    pub head: Option<Head>,
    /// Why it is dead.
    pub failure: Failure,
    /// The sealed body.
    pub value: Vec<u8>,
}

impl Letter {
    /// Reads the records of `dead`, whose MACs must be right. Each marker must be of one letter, and each letter has one
    /// marker at most: nothing is redriven twice.
    pub fn read(keys: &RecordKeys, records: &[Record]) -> Result<Vec<Self>> {
        let mut letters = Vec::new();
        let mut markers = Vec::new();
        for record in records {
            match keys.open_dead(record.headers(), &record.value)? {
                Dead::Letter { head, failure } => {
                    let place = LetterPlace { partition: record.partition, offset: record.offset };
                    letters.push(Self { place, redriven: false, head, failure, value: record.value.clone() });
                }
                Dead::Marker(marker) => {
                    ensure!(
                        marker.place.partition == record.partition,
                        "the marker of {} lies elsewhere",
                        marker.place
                    );
                    markers.push(marker);
                }
            }
        }
        for marker in markers {
            let copies = letters
                .iter_mut()
                .filter(|letter| LetterId::of(letter.head.as_ref(), &letter.failure, &letter.value) == marker.letter);
            let mut count = 0;
            for letter in copies {
                ensure!(!letter.redriven, "{} was redriven twice", letter.place);
                letter.redriven = true;
                count += 1;
            }
            ensure!(count > 0, "a marker of {}, where no letter is", marker.place);
        }
        Ok(letters)
    }

    /// Whether it comes from the inbox, so that its event's id was never seen.
    fn is_unopened(&self) -> bool {
        self.failure.origin.role == Topic::Inbox.role()
    }
}

/// What the books came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events answered 200.
    pub acked: usize,
    /// Records in the inbox.
    pub inbox: usize,
    /// Different events in `events`.
    pub unique: usize,
    /// Records in `events` that repeat another.
    pub repeats: usize,
    /// Different events with an effect, by sink.
    pub delivered: BTreeMap<&'static str, usize>,
    /// Effects beyond the first of each event, by sink.
    pub repeated: BTreeMap<&'static str, usize>,
    /// Dead letters by reason.
    pub dead: BTreeMap<Reason, usize>,
    /// Those of them that were redriven.
    pub redriven: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acked, inbox, unique, repeats, delivered, repeated, dead, redriven } = self;
        write!(
            f,
            "{acked} answered 200, {inbox} in the inbox, {unique} events and {repeats} repeats of them, delivered \
             {delivered:?}, delivered again {repeated:?}, dead {dead:?}, of these redriven {redriven}"
        )
    }
}

impl Books {
    pub(crate) async fn read(stack: &Stack, plan: &Plan) -> Result<Self> {
        let mut effects = BTreeMap::new();
        let mut violations = Vec::new();
        for sink in &plan.sinks {
            let counted = match &sink.kind {
                SinkKind::Http(_) => {
                    let recorded = stack.sink(sink.name);
                    violations.extend(recorded.violations());
                    recorded.effects()
                }
                SinkKind::Elsewhere(_) => continue,
                SinkKind::Kafka { .. } => {
                    let ids = stack.output(sink.name).await?;
                    count(ids.iter().filter_map(|record| record.header("ce_webhookid")))
                }
                SinkKind::File => {
                    // A sink that got nothing has made no lines.
                    let lines = stack.file_lines(sink.name).unwrap_or_default();
                    count(lines.iter().filter_map(|line| line["webhook_id"].as_str()))
                }
            };
            effects.insert(sink.name, counted);
        }
        let mut books = Self {
            sources: plan.sources.clone(),
            keeps_sinks: plan.processors > 0,
            partitions: plan.partitions,
            id_key: stack.materials().id_key()?,
            edge_keys: stack.materials().edge_keys()?,
            core_keys: stack.materials().core_keys()?,
            acked_events: stack.ledger().events(),
            acked_bodies: stack.ledger().bodies(),
            opened: BTreeMap::new(),
            inbox: stack.records(&Topic::Inbox).await?,
            events: stack.records(&Topic::Events).await?,
            dead: stack.records(&Topic::Dead).await?,
            effects,
            violations,
        };
        books.open(stack.materials())?;
        if plan.strange_letters > 0 {
            let all = books.dead.len();
            let keys = &books.core_keys;
            books.dead.retain(|record| keys.open_dead(record.headers(), &record.value).is_ok());
            let strange = all - books.dead.len();
            ensure!(strange == plan.strange_letters, "{strange} letters that no processor wrote");
        }
        Ok(books)
    }

    /// Opens what lies in the inbox with the sources' keys, so that ids come from the bodies and not from our headers.
    fn open(&mut self, materials: &Materials) -> Result<()> {
        for SourcePlan { name, .. } in self.sources.iter().filter(|source| source.has_ids()) {
            let (id, keyring) = (name.parse::<SourceId>()?, materials.keyring(name)?);
            for record in &self.inbox {
                if self.opened.contains_key(&record.value) {
                    continue;
                }
                let Ok(envelope) = common::envelope::Envelope::parse(&record.value, &id) else { continue };
                let Ok(opened) = open::open(&keyring, &envelope) else { continue };
                let event = match &envelope {
                    common::envelope::Envelope::Jwe(jwe) => jwe.header().jti.as_str().to_owned(),
                    common::envelope::Envelope::Native(_) => {
                        let json: serde_json::Value = serde_json::from_slice(&opened.plaintext).unwrap_or_default();
                        let Some(event) = json["id"].as_str() else { continue };
                        event.to_owned()
                    }
                };
                self.opened.insert(record.value.clone(), EventKey { source: (*name).to_owned(), id: event });
            }
        }
        Ok(())
    }

    /// Every dead letter, whose MAC must be right.
    pub fn letters(&self) -> Result<Vec<Letter>> {
        Letter::read(&self.core_keys, &self.dead)
    }

    /// Balances the books: every rule of the module, and at most so many repeated effects at each sink.
    pub fn balance(&self, repeats_max: usize) -> Result<Summary> {
        ensure!(self.violations.is_empty(), "a sink got what it must not get: {:?}", self.violations);
        let letters = self.letters()?;
        let mut summary = Summary {
            acked: self.acked_events.len().max(self.acked_bodies.len()),
            inbox: self.inbox.len(),
            redriven: letters.iter().filter(|letter| letter.redriven).count(),
            ..Summary::default()
        };
        for letter in &letters {
            *summary.dead.entry(letter.failure.reason).or_default() += 1;
        }
        self.balance_ledger()?;
        if !self.keeps_sinks {
            return Ok(summary);
        }
        self.balance_inbox(&letters)?;
        let good = self.good_events();
        summary.unique = good.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len();
        summary.repeats = good.len() - summary.unique;
        for (sink, effects) in &self.effects {
            self.balance_sink(sink, &good, effects, &letters)?;
            let repeated: usize = effects.values().map(|count| count - 1).sum();
            ensure!(
                repeated <= repeats_max,
                "{sink} got {repeated} effects more than events, where at most {repeats_max} are allowed: {:?}",
                effects.iter().filter(|(_, count)| **count > 1).take(10).collect::<Vec<_>>()
            );
            summary.delivered.insert(sink, effects.len());
            summary.repeated.insert(sink, repeated);
        }
        Ok(summary)
    }

    /// What was answered 200 is in the inbox.
    fn balance_ledger(&self) -> Result<()> {
        let bodies: BTreeSet<&[u8]> = self.inbox.iter().map(|record| record.value.as_slice()).collect();
        let missing = self.acked_bodies.iter().filter(|body| !bodies.contains(&body[..])).count();
        ensure!(missing == 0, "{missing} bodies were answered 200 and are not in the inbox");
        let events: BTreeSet<&EventKey> = self.opened.values().collect();
        let missing: Vec<_> = self.acked_events.iter().filter(|event| !events.contains(event)).collect();
        ensure!(missing.is_empty(), "answered 200 and not in the inbox: {}", few(&missing));
        Ok(())
    }

    /// What is in the inbox is in `events`, or it is dead; and nothing else is in `events`.
    fn balance_inbox(&self, letters: &[Letter]) -> Result<()> {
        let dead: BTreeSet<_> = letters
            .iter()
            .filter(|letter| letter.is_unopened())
            .map(|letter| (letter.failure.origin.partition, letter.failure.origin.offset))
            .collect();
        // What was redriven into the inbox is there once more than it was.
        let mut wanted: BTreeMap<&[u8], usize> = BTreeMap::new();
        for letter in letters.iter().filter(|letter| letter.redriven && letter.is_unopened()) {
            *wanted.entry(&letter.value).or_insert(1) += 1;
        }
        for (body, count) in wanted {
            let found = self.inbox.iter().filter(|record| record.value == body).count();
            ensure!(found >= count, "lost: redriven into the inbox, which has {found} of {count} records of the body");
        }
        let copied: BTreeSet<&[u8]> = self.events.iter().map(|record| record.value.as_slice()).collect();
        for record in &self.inbox {
            let trusted = self.edge_keys.open(&Topic::Inbox, record.headers(), &record.value).is_ok();
            let is_dead = dead.contains(&(record.partition, record.offset));
            ensure!(
                is_dead || (trusted && copied.contains(record.value.as_slice())),
                "the inbox's record {}/{} is neither in events nor dead",
                record.partition,
                record.offset
            );
        }
        let sources: BTreeSet<&[u8]> = self.inbox.iter().map(|record| record.value.as_slice()).collect();
        for (_, record) in self.good_events() {
            ensure!(sources.contains(record.value.as_slice()), "events has a good record that the inbox has not");
        }
        Ok(())
    }

    /// The records of `events` that must come to an effect, by `webhook-id`, in the order of the log.
    fn good_events(&self) -> Vec<(String, &Record)> {
        let good = |record: &Record| -> Option<String> {
            let head = self.core_keys.open(&Topic::Events, record.headers(), &record.value).ok()?;
            let event = self.opened.get(&record.value);
            let id = head.identity?.id;
            // Of a source without ids the harness does not work out the id again.
            let place = event.map_or(Some(record.partition), |event| self.place(event));
            (place == Some(record.partition)).then(|| id.webhook_id())
        };
        self.events.iter().filter_map(|record| Some((good(record)?, record))).collect()
    }

    fn place(&self, event: &EventKey) -> Option<i32> {
        Some(placement(&event.source.parse().ok()?, &EventId::new(event.id.as_str()).ok()?, self.partitions))
    }

    fn webhook_id(&self, event: &EventKey) -> Option<String> {
        let id = self.id_key.keyed_id(&event.source.parse().ok()?, &EventId::new(event.id.as_str()).ok()?);
        Some(id.webhook_id())
    }

    /// Every event of the sink had an effect there or is dead there, and nothing else had an effect.
    fn balance_sink(
        &self,
        sink: &str,
        good: &[(String, &Record)],
        effects: &BTreeMap<String, usize>,
        letters: &[Letter],
    ) -> Result<()> {
        let feeds = |name: &str| self.sources.iter().any(|source| source.name == name && source.sinks.contains(&sink));
        let fed = good.iter().filter(|(_, record)| record.header("ss-source").is_some_and(feeds));
        let wanted: BTreeMap<&str, String> =
            fed.map(|(id, record)| (id.as_str(), format!("{}/{}", record.partition, record.offset))).rev().collect();
        let dead: BTreeSet<String> = letters
            .iter()
            // A letter that was redriven is no excuse: its event must be delivered, or be dead again.
            .filter(|letter| !letter.redriven)
            .filter_map(|letter| letter.head.as_ref())
            .filter(|head| head.retry.as_ref().is_some_and(|retry| retry.sink.as_str() == sink))
            .filter_map(|head| Some(head.identity?.id.webhook_id()))
            .collect();
        let lost: Vec<_> =
            wanted.iter().filter(|(id, _)| !effects.contains_key(**id) && !dead.contains(**id)).collect();
        ensure!(lost.is_empty(), "lost: in events, and neither at the sink {sink} nor in dead: {}", few(&lost));
        let invented: Vec<_> = effects.keys().filter(|id| !wanted.contains_key(id.as_str())).collect();
        ensure!(invented.is_empty(), "{sink} got what is not in events: {}", few(&invented));
        // The same again from the ledger, with ids made from what the senders said.
        let unopened: BTreeSet<&[u8]> = letters
            .iter()
            .filter(|letter| !letter.redriven && letter.is_unopened())
            .map(|letter| letter.value.as_slice())
            .collect();
        let given_up: BTreeSet<&EventKey> =
            self.opened.iter().filter(|(body, _)| unopened.contains(body.as_slice())).map(|(_, event)| event).collect();
        for event in self.acked_events.iter().filter(|event| feeds(&event.source)) {
            let Some(id) = self.webhook_id(event) else { bail!("{event} has no id") };
            let known = effects.contains_key(&id) || dead.contains(&id) || given_up.contains(event);
            ensure!(known, "lost: {event} was answered 200 and is neither at the sink {sink} nor in dead");
        }
        Ok(())
    }
}

fn count<'a>(ids: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for id in ids {
        *counted.entry(id.to_owned()).or_default() += 1;
    }
    counted
}

/// How many, and the first of them.
fn few<T: fmt::Debug>(all: &[T]) -> String {
    format!("{}, such as {:?}", all.len(), &all[..all.len().min(5)])
}

#[cfg(test)]
mod tests;
