//! The source of truth: a topic whose records are known, and the outcomes that they should
//! have by the plainest reading of the rules.

use std::collections::BTreeMap;
use std::fmt;

use lambda_core::memory::Contents;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::progress::{Counts, LaneId};
use lambda_core::record::{RowWriter, Scratch};
use lambda_core::testing::draft::{SAMPLES, Sample};
use lambda_core::{Record, dead_letter::Reason};
use proptest::prelude::*;

pub(crate) const PARTITIONS: i32 = 3;

/// Content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A row. Ids and amounts are few, so that ids repeat and repeats sometimes have the same
    /// content.
    Row { id: u8, amount: i64 },
    /// A row that the database refuses.
    Refused { id: u8 },
    /// Nothing that could be a row.
    Garbage,
}

impl Content {
    pub(crate) fn sample(&self) -> Option<Sample> {
        match self {
            Self::Row { id, amount } => Some(Sample::new(&format!("id-{id}"), *amount)),
            Self::Refused { id } => Some(Sample::new(&format!("{REFUSED}{id}"), 1)),
            Self::Garbage => None,
        }
    }

    /// Its bytes in the topic.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let Some(sample) = self.sample() else { return b"no record".to_vec() };
        format!(r#"{{"id":"{}","amount":{}}}"#, sample.id, sample.amount).into_bytes()
    }
}

/// Prefix of the ids that the database refuses.
pub(crate) const REFUSED: &str = "refused-";

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) position: i64,
    pub(crate) content: Content,
    pub(crate) payload: Vec<u8>,
}

/// A lane's records, in order, with gaps between them and after the last.
#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Entry>,
    pub(crate) end: i64,
}

impl Log {
    /// The same without its last record.
    pub(crate) fn shorten(&mut self) {
        self.records.pop();
        self.end = self.records.last().map_or(0, |entry| entry.position + 1);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.records {
            match &entry.content {
                Content::Row { id, amount } => write!(f, "{}: id-{id} {amount}, ", entry.position)?,
                other => write!(f, "{}: {other:?}, ", entry.position)?,
            }
        }
        write!(f, "end {}", self.end)
    }
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        12 => (0..5_u8, 0..2_i64).prop_map(|(id, amount)| Content::Row { id, amount }),
        1 => (0..3_u8).prop_map(|id| Content::Refused { id }),
        1 => Just(Content::Garbage),
    ]
}

pub(crate) fn log() -> impl Strategy<Value = Log> {
    let gap = || prop_oneof![6 => Just(0_i64), 1 => 1..3_i64];
    (prop::collection::vec((gap(), content()), 1..14), gap()).prop_map(|(records, tail)| {
        let mut log = Log::default();
        for (gap, content) in records {
            let payload = content.payload();
            log.records.push(Entry { position: log.end + gap, content, payload });
            log.end += gap + 1;
        }
        log.end += tail;
        log
    })
}

/// An expected row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    amount: i64,
    authority: Authority,
    lane: LaneId,
    position: i64,
}

/// The expected results of the records before the lanes' positions, in the order of the
/// commits: written from the rules alone, without a line of the code under
/// test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    rows: BTreeMap<String, Row>,
    letters: BTreeMap<(LaneId, i64), (Reason, Vec<u8>)>,
    corrections: usize,
    counts: BTreeMap<LaneId, Counts>,
}

impl Expected {
    /// The next record of a lane.
    pub(crate) fn take(
        &mut self,
        authority: Authority,
        lane: LaneId,
        entry: &Entry,
    ) -> &'static str {
        let position = entry.position;
        let (id, amount) = match &entry.content {
            Content::Row { id, amount } => (format!("id-{id}"), *amount),
            Content::Refused { .. } => return self.reject(lane, entry, Reason::Refused),
            Content::Garbage => return self.reject(lane, entry, Reason::InvalidJson),
        };
        let counts = self.counts.entry(lane).or_default();
        counts.read += 1;
        let Some(row) = self.rows.get_mut(&id) else {
            counts[Outcome::Inserted] += 1;
            self.rows.insert(id, Row { amount, authority, lane, position });
            return "inserted";
        };
        if authority < row.authority {
            counts[Outcome::Superseded] += 1;
            "superseded"
        } else if authority > row.authority && amount == row.amount {
            counts[Outcome::Confirmed] += 1;
            row.authority = authority;
            "confirmed"
        } else if authority > row.authority {
            counts[Outcome::Corrected] += 1;
            *row = Row { amount, authority, lane, position };
            self.corrections += 1;
            "corrected"
        } else if amount == row.amount {
            counts[Outcome::Duplicate] += 1;
            "duplicate"
        } else {
            counts.read -= 1;
            self.reject(lane, entry, Reason::IdConflict)
        }
    }

    fn reject(&mut self, lane: LaneId, entry: &Entry, reason: Reason) -> &'static str {
        let counts = self.counts.entry(lane).or_default();
        counts.read += 1;
        counts[Outcome::Rejected] += 1;
        self.letters.insert((lane, entry.position), (reason, entry.payload.clone()));
        "rejected"
    }

    /// Compares the expected results with what is stored.
    pub(crate) fn compare(&self, contents: &Contents) -> Result<(), String> {
        for (lane, progress) in &contents.lanes {
            let counts = self.counts.get(lane).copied().unwrap_or_default();
            if progress.counts != counts || !counts.balanced() {
                return Err(format!("{lane} counts {:?} and not {counts:?}", progress.counts));
            }
            if progress.sums.written != written(contents, *lane) {
                return Err(format!("{lane} has another sum than the rows it wrote"));
            }
        }
        let stored: BTreeMap<_, _> = contents
            .rows
            .iter()
            .map(|(key, row)| {
                let key = String::from_utf8_lossy(key).into_owned();
                (key, (row.content.clone(), row.authority, row.lane, row.position))
            })
            .collect();
        let expected: BTreeMap<_, _> = self
            .rows
            .iter()
            .map(|(id, row)| {
                let content = encoded(&Sample::new(id, row.amount));
                (id.clone(), (content, row.authority, row.lane, row.position))
            })
            .collect();
        let mut ids = stored.keys().chain(expected.keys());
        if let Some(id) = ids.find(|id| stored.get(*id) != expected.get(*id)) {
            let (is, should) = (stored.get(id), expected.get(id));
            return Err(format!("the row {id} is {is:?} and not {should:?}"));
        }
        let letters: BTreeMap<_, _> = contents
            .dead_letters
            .iter()
            .map(|(at, letter)| (*at, (letter.reject.reason, letter.payload.clone())))
            .collect();
        if letters != self.letters {
            return Err(format!("dead letters are {letters:?} and not {:?}", self.letters));
        }
        if contents.corrections.len() != self.corrections {
            return Err(format!("{} corrections", contents.corrections.len()));
        }
        Ok(())
    }
}

/// The sum of everything a lane wrote, even if replaced since.
fn written(contents: &Contents, lane: LaneId) -> i64 {
    let rows = contents.rows.values();
    let displaced = contents.corrections.iter().map(|correction| &correction.before);
    let of_lane = rows.chain(displaced).filter(|row| row.lane == lane);
    of_lane.fold(0, |sum, row| row.hash().written(row.written_xid).wrapping_add(sum))
}

fn encoded(sample: &Sample) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut scratch = Scratch::default();
    let mut writer = RowWriter::new(SAMPLES.table(), &mut buffer, &mut scratch);
    sample.write(&mut writer);
    match writer.finish() {
        Ok(row) => buffer[row.content].to_vec(),
        Err(_) => Vec::new(),
    }
}
