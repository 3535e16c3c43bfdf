//! The processors' journals, read: see `processor/src/journal/kept.rs` for the lines.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use processor::core::progress::{Progress, WINDOW_MAX};

/// The keyed id of an event: what its `webhook-id` says.
pub type EventId = u128;

/// One life of one processor: an index into [`Journal::lives`].
pub type Life = usize;

/// A lane of one sink: an index into [`Journal::lanes`].
pub type Lane = usize;

/// Where a record lies, for one sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The lane.
    pub lane: Lane,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// What a sink answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has the event.
    Ok,
    /// It refuses the event for good.
    Refused,
    /// It can't take it now.
    Failed,
    /// Nothing: it may have the event.
    Unknown,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A dispatch was about to start.
    Started(Place),
    /// The sink answered it.
    Answered {
        /// Where the record lies.
        place: Place,
        /// Its event.
        id: EventId,
        /// What tells it from other records of the event in the same lane: redrive, attempt, hop.
        turn: [u32; 3],
        /// The answer.
        answer: Answer,
    },
    /// A commit was acknowledged.
    Committed {
        /// The partition, with the lowest offset that is not complete.
        base: Place,
        /// What is complete above it.
        bits: Vec<u8>,
    },
    /// Partitions came.
    Gained(Lane),
    /// Partitions left.
    Left(Lane),
}

/// A line of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds of the machine's monotonic clock.
    pub at: u64,
    /// Who wrote it.
    pub life: Life,
    /// What happened.
    pub what: What,
}

/// What all processors wrote since it was read last.
#[derive(Debug, Default)]
pub struct Journal {
    /// The lanes: sink and topic.
    pub lanes: Vec<(String, String)>,
    /// The lives: node and process id.
    pub lives: Vec<(usize, i32)>,
    /// The lines, by time.
    pub entries: Vec<Entry>,
}

/// Reads the journals of the processors, each time from where it stopped.
#[derive(Debug)]
pub struct Journals {
    files: Vec<(PathBuf, u64, Option<Life>)>,
    known: HashMap<(String, String), Lane>,
    lanes: Vec<(String, String)>,
    lives: Vec<(usize, i32)>,
}

impl Journals {
    /// The journals of these files, one of each processor. They need not exist yet.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = files.into_iter().map(|file| (file, 0, None)).collect();
        Self { files, known: HashMap::new(), lanes: Vec::new(), lives: Vec::new() }
    }

    /// What was written since the last time.
    pub fn read(&mut self) -> Result<Journal> {
        let mut entries = Vec::new();
        for node in 0..self.files.len() {
            let (path, begin, mut life) = self.files[node].clone();
            if !path.exists() {
                continue;
            }
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(begin))?;
            let mut reader = BufReader::with_capacity(1 << 20, file);
            let (mut position, mut line) = (begin, String::new());
            while reader.read_line(&mut line)? > 0 {
                if !line.ends_with('\n') {
                    break;
                }
                position += line.len() as u64;
                self.take(node, &mut life, line.trim_end(), &mut entries)
                    .with_context(|| format!("{}: {line}", path.display()))?;
                line.clear();
            }
            self.files[node] = (path, position, life);
        }
        entries.sort_by_key(|entry: &Entry| entry.at);
        Ok(Journal { lanes: self.lanes.clone(), lives: self.lives.clone(), entries })
    }

    fn take(&mut self, node: usize, life: &mut Option<Life>, line: &str, entries: &mut Vec<Entry>) -> Result<()> {
        let mut words = Words(line.split(' '));
        let (kind, at) = (words.next()?, words.number()?);
        if kind == "B" {
            self.lives.push((node, words.number()?));
            *life = Some(self.lives.len() - 1);
            return Ok(());
        }
        let life = life.context("a line of nobody")?;
        let lane = (words.next()?.to_owned(), words.next()?.to_owned());
        let lane = match self.known.get(&lane) {
            Some(lane) => *lane,
            None => {
                self.lanes.push(lane.clone());
                self.known.insert(lane, self.lanes.len() - 1);
                self.lanes.len() - 1
            }
        };
        let mut place = || anyhow::Ok(Place { lane, partition: words.number()?, offset: words.number()? });
        let what = match kind {
            "S" => What::Started(place()?),
            "A" => {
                let place = place()?;
                let id = event_id(&HEXLOWER.decode(words.next()?.as_bytes())?)?;
                let mut turn = words.next()?.split('.').map(str::parse);
                let mut number = || turn.next().context("three numbers")?.map_err(anyhow::Error::from);
                let turn = [number()?, number()?, number()?];
                let answer = match words.next()? {
                    "ok" => Answer::Ok,
                    "refused" => Answer::Refused,
                    "failed" => Answer::Failed,
                    "unknown" => Answer::Unknown,
                    other => bail!("no answer: {other}"),
                };
                What::Answered { place, id, turn, answer }
            }
            "C" => {
                let base = place()?;
                let metadata = words.next()?;
                if metadata != "-" {
                    let says = Progress::restore(base.offset, metadata, WINDOW_MAX)?;
                    ensure!(says.is_balanced(), "a commit counts what is not complete: {line}");
                }
                let bits = match metadata.strip_prefix("2:").and_then(|rest| rest.split(':').next()) {
                    Some(bits) => BASE64URL_NOPAD.decode(bits.as_bytes())?,
                    None => Vec::new(),
                };
                What::Committed { base, bits }
            }
            "G" => What::Gained(lane),
            "R" => What::Left(lane),
            other => bail!("no kind of line: {other}"),
        };
        entries.push(Entry { at, life, what });
        Ok(())
    }
}

/// An event's id from its bytes.
pub fn event_id(bytes: &[u8]) -> Result<EventId> {
    Ok(u128::from_be_bytes(bytes.try_into().context("an id has 16 bytes")?))
}

/// An event's id from its `webhook-id`.
pub fn of_webhook_id(text: &str) -> Result<EventId> {
    event_id(&BASE64URL_NOPAD.decode(text.strip_prefix("msg_").unwrap_or_default().as_bytes())?)
}

struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str> {
        self.0.next().context("the line is too short")
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T> {
        self.next()?.parse().ok().context("not a number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_from_where_the_last_reading_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("journal");
        let id = "000102030405060708090a0b0c0d0e0f";
        std::fs::write(&file, format!("B 1 77\nS 2 main x.events 3 9\nA 4 main x.events 3 9 {id} 0.1.2 ok\nS 5 ma"))
            .unwrap();
        let mut journals = Journals::new([file.clone()]);
        let journal = journals.read().unwrap();
        let place = Place { lane: 0, partition: 3, offset: 9 };
        assert_eq!((&journal.lives[..], &journal.lanes[0].1[..]), (&[(0, 77)][..], "x.events"));
        let whats: Vec<_> = journal.entries.iter().map(|entry| entry.what.clone()).collect();
        let answered = What::Answered {
            place,
            id: 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f,
            turn: [0, 1, 2],
            answer: Answer::Ok,
        };
        assert_eq!(whats, [What::Started(place), answered], "half a line is left for later");
        let more = "in x.events 3 10\nC 6 main x.events 3 10 2:Ag:9d2\nB 7 78\nC 8 main x.events 3 11 -\n";
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, before + more).unwrap();
        let journal = journals.read().unwrap();
        let lives: Vec<_> = journal.entries.iter().map(|entry| entry.life).collect();
        assert_eq!(lives, [0, 0, 1]);
        assert!(
            matches!(&journal.entries[1].what, What::Committed { base, bits } if base.offset == 10 && bits == &[2])
        );
    }
}
