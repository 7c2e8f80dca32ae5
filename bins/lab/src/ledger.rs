//! The producer's ledger: the messages delivered, and so the rows that the table must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use lambda_core::postgres::Connection;
use lambda_core::record::checksum;
use serde::Deserialize;

use crate::Failure;

/// Differences shown of each kind; others are only counted.
const SHOWN: usize = 5;

/// A message as it was produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// New and valid.
    Valid,
    /// A repeated valid message.
    Duplicate,
    /// An invalid message.
    Invalid,
}

/// A line of the ledger: a message that is in the topic.
#[derive(Debug, Clone, Deserialize)]
struct Message {
    id: String,
    partition: i32,
    offset: i64,
    kind: Kind,
    payload_xxh3: String,
}

/// Number of messages of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds {
    /// New and valid.
    pub valid: i64,
    /// Repeated valid messages.
    pub duplicate: i64,
    /// Invalid messages.
    pub invalid: i64,
}

impl Kinds {
    /// All of them.
    pub fn all(self) -> i64 {
        self.valid + self.duplicate + self.invalid
    }
}

/// Messages delivered to a topic, as sets.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    kinds: Kinds,
    ids: BTreeSet<String>,
    /// Place of each invalid message, and the XXH3-64 of its bytes in hex.
    invalid: BTreeMap<(i32, i64), String>,
    /// Offset after the last one of each partition.
    ends: BTreeMap<i32, i64>,
}

impl Ledger {
    /// Reads a ledger.
    ///
    /// # Errors
    /// If it cannot be read or is no ledger.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let mut ledger = Self::default();
        ledger.read_on(path)?;
        Ok(ledger)
    }

    /// Adds the ledger of another producer to the same topic.
    ///
    /// # Errors
    /// As for [`Ledger::read`].
    pub fn read_on(&mut self, path: &Path) -> Result<(), Failure> {
        for line in BufReader::new(File::open(path)?).lines() {
            self.note(serde_json::from_str(&line?)?);
        }
        Ok(())
    }

    fn note(&mut self, message: Message) {
        let Message { id, partition, offset, kind, payload_xxh3 } = message;
        let end = self.ends.entry(partition).or_default();
        *end = (offset + 1).max(*end);
        match kind {
            Kind::Valid => {
                self.kinds.valid += 1;
                self.ids.insert(id);
            }
            Kind::Duplicate => {
                self.kinds.duplicate += 1;
                self.ids.insert(id);
            }
            Kind::Invalid => {
                self.kinds.invalid += 1;
                self.invalid.insert((partition, offset), payload_xxh3);
            }
        }
    }

    /// Number of messages of each kind.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// Exactly the ids that the table must hold.
    pub fn ids(&self) -> &BTreeSet<String> {
        &self.ids
    }

    /// Places of the messages that must be dead letters: partition and offset.
    pub fn invalid_offsets(&self) -> BTreeSet<(i32, i64)> {
        self.invalid.keys().copied().collect()
    }

    /// Offset after the last one of each partition.
    pub fn ends(&self) -> &BTreeMap<i32, i64> {
        &self.ends
    }

    /// Compares with plain SQL: the ids in the table, and the partition, offset
    /// and bytes of the topic's dead letters, as sets.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn compare(&self, sql: &Connection) -> Result<Differences, Failure> {
        let rows = sql.query("select transaction_id from transactions", &[]).await?;
        let ids: BTreeSet<String> =
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let letters = "select p.partition, d.position, d.payload \
                       from lambda.dead_letters d join lambda.ingest_progress p using (lane) \
                       where d.reason <> 'id_conflict' and d.job_id is null";
        let mut dead = BTreeMap::new();
        for row in sql.query(letters, &[]).await? {
            let payload: Option<Vec<u8>> = row.try_get(2)?;
            let bytes = checksum::of_bytes(&payload.unwrap_or_default());
            dead.insert((row.try_get(0)?, row.try_get(1)?), format!("{bytes:016x}"));
        }
        let (sent, stored): (BTreeSet<_>, BTreeSet<_>) =
            (self.invalid.iter().collect(), dead.iter().collect());
        Ok(Differences {
            missing_ids: self.ids.difference(&ids).cloned().collect(),
            foreign_ids: ids.difference(&self.ids).cloned().collect(),
            missing_letters: sent.difference(&stored).map(|(at, _)| **at).collect(),
            foreign_letters: stored.difference(&sent).map(|(at, _)| **at).collect(),
        })
    }
}

/// Differences between ledger and database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Delivered, but not in the table.
    pub missing_ids: Vec<String>,
    /// In the table, but never delivered.
    pub foreign_ids: Vec<String>,
    /// Delivered as invalid, but not among the dead letters with the same bytes.
    pub missing_letters: Vec<(i32, i64)>,
    /// Dead letters that were not delivered as invalid, or with other bytes.
    pub foreign_letters: Vec<(i32, i64)>,
}

impl Differences {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |at: &(i32, i64)| format!("partition {} offset {}", at.0, at.1);
        let kinds = [
            ("missing in the table", self.missing_ids.clone()),
            ("never delivered", self.foreign_ids.clone()),
            ("missing dead letters", self.missing_letters.iter().map(letter).collect()),
            ("unexpected dead letters", self.foreign_letters.iter().map(letter).collect()),
        ];
        for (what, found) in kinds.iter().filter(|(_, found)| !found.is_empty()) {
            let shown = found.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let more = if found.len() > SHOWN { ", …" } else { "" };
            writeln!(f, "{what}: {} ({shown}{more})", found.len())?;
        }
        if self.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}
