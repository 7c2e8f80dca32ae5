//! The source of truth: a topic whose records are known, and what each should
//! become by the plainest reading of the rules.

use std::collections::BTreeMap;
use std::fmt;

use lambda_core::memory::Contents;
use lambda_core::outcome::Authority;
use lambda_core::progress::{Counts, LaneId};
use lambda_core::record::RowWriter;
use lambda_core::testing::draft::{SAMPLES, Sample};
use lambda_core::{Record, dead_letter::Reason};
use proptest::prelude::*;

pub(crate) const PARTITIONS: i32 = 3;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A row. Ids are few, so that they repeat, and amounts too, so that repeats
    /// sometimes agree.
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

    pub(crate) fn payload(&self) -> Vec<u8> {
        let Some(sample) = self.sample() else { return b"no record".to_vec() };
        format!(r#"{{"id":"{}","amount":{}}}"#, sample.id, sample.amount).into_bytes()
    }
}

/// How the ids start that the database refuses.
pub(crate) const REFUSED: &str = "refused-";

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) position: i64,
    pub(crate) content: Content,
}

/// A lane's records, in order, with gaps between them and behind the last.
#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Entry>,
    pub(crate) end: i64,
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
            log.records.push(Entry { position: log.end + gap, content });
            log.end += gap + 1;
        }
        log.end += tail;
        log
    })
}

/// A row as it should stand.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    amount: i64,
    authority: Authority,
    lane: LaneId,
    position: i64,
}

/// What the records below the lanes' positions should have become, in the order of
/// the commits: written from the rules alone, without a line of the code under
/// test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    rows: BTreeMap<String, Row>,
    letters: BTreeMap<(LaneId, i64), Reason>,
    corrections: usize,
    counts: BTreeMap<LaneId, Counts>,
}

impl Expected {
    /// The next record of a lane.
    pub(crate) fn take(&mut self, authority: Authority, lane: LaneId, entry: &Entry) -> &'static str {
        let position = entry.position;
        let (id, amount) = match &entry.content {
            Content::Row { id, amount } => (format!("id-{id}"), *amount),
            Content::Refused { .. } => return self.reject(lane, position, Reason::Refused),
            Content::Garbage => return self.reject(lane, position, Reason::InvalidJson),
        };
        let counts = self.counts.entry(lane).or_default();
        counts.read += 1;
        let Some(row) = self.rows.get_mut(&id) else {
            counts.inserted += 1;
            self.rows.insert(id, Row { amount, authority, lane, position });
            return "inserted";
        };
        if authority < row.authority {
            counts.superseded += 1;
            "superseded"
        } else if authority > row.authority && amount == row.amount {
            counts.confirmed += 1;
            row.authority = authority;
            "confirmed"
        } else if authority > row.authority {
            counts.corrected += 1;
            *row = Row { amount, authority, lane, position };
            self.corrections += 1;
            "corrected"
        } else if amount == row.amount {
            counts.duplicate += 1;
            "duplicate"
        } else {
            counts.read -= 1;
            self.reject(lane, position, Reason::IdConflict)
        }
    }

    fn reject(&mut self, lane: LaneId, position: i64, reason: Reason) -> &'static str {
        let counts = self.counts.entry(lane).or_default();
        counts.read += 1;
        counts.rejected += 1;
        self.letters.insert((lane, position), reason);
        "rejected"
    }

    /// Compares with what is stored.
    pub(crate) fn compare(&self, contents: &Contents) -> Result<(), String> {
        for (lane, progress) in &contents.lanes {
            let counts = self.counts.get(lane).copied().unwrap_or_default();
            if progress.counts != counts || !counts.balanced() {
                return Err(format!("{lane} counts {:?} and not {counts:?}", progress.counts));
            }
        }
        let stored: BTreeMap<String, (Vec<u8>, Authority, LaneId, i64)> = contents
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
        if stored != expected {
            return Err(format!("the table holds {stored:?} and not {expected:?}"));
        }
        let letters: BTreeMap<_, _> =
            contents.dead_letters.iter().map(|(at, letter)| (*at, letter.reject.reason)).collect();
        if letters != self.letters {
            return Err(format!("dead letters are {letters:?} and not {:?}", self.letters));
        }
        if contents.corrections.len() != self.corrections {
            return Err(format!("{} corrections", contents.corrections.len()));
        }
        Ok(())
    }
}

fn encoded(sample: &Sample) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut writer = RowWriter::new(&SAMPLES, &mut buffer);
    sample.write(&mut writer);
    match writer.finish() {
        Ok(row) => buffer[row.content].to_vec(),
        Err(_) => Vec::new(),
    }
}
