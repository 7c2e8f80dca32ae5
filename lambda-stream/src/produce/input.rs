//! Sources of messages: generated traffic or a file.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lambda_core::batch::Body;
use lambda_core::decode::Message;
use lambda_core::record::{Scratch, UnixMicros};
use lambda_core::transaction;
use lambda_core::transaction::synthetic::{Expectation, Format, Line, Options, Synthetic};
use lambda_core::{Error, Pipeline};
use serde::Deserialize;
use uuid::Uuid;

use super::From;

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) key: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// The transaction id, valid or not.
    pub(super) id: String,
    pub(super) kind: Expectation,
}

/// An open source of messages.
pub(super) enum Input {
    /// Repeatable traffic with its own clock.
    Seeded(Box<Synthetic>),
    /// Traffic that carries the current time.
    Live(Box<Synthetic>),
    Json(Box<JsonLines>),
    Csv(Box<CsvRows>),
}

impl Input {
    pub(super) fn open(from: &From) -> Result<Self, Error> {
        match from {
            From::Traffic { seed, duplicate_ratio, invalid_ratio } => {
                let options = Options {
                    duplicate_ratio: *duplicate_ratio,
                    invalid_ratio: *invalid_ratio,
                    ..Options::default()
                };
                let traffic = |seed| Box::new(Synthetic::new(seed).with(options));
                Ok(match seed {
                    Some(seed) => Self::Seeded(traffic(*seed)),
                    None => Self::Live(traffic(Uuid::new_v4().as_u64_pair().0)),
                })
            }
            From::File(path) if path.extension().is_some_and(|extension| extension == "csv") => {
                CsvRows::open(path).map(|rows| Self::Csv(Box::new(rows)))
            }
            From::File(path) => JsonLines::open(path).map(|lines| Self::Json(Box::new(lines))),
        }
    }

    /// The next message, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Outgoing>, Error> {
        match self {
            Self::Seeded(traffic) => Ok(Some(generated(traffic.line(Format::Json)))),
            Self::Live(traffic) => Ok(Some(generated(traffic.line_at(now()?, Format::Json)))),
            Self::Json(lines) => lines.next(),
            Self::Csv(rows) => rows.next(),
        }
    }
}

fn generated(line: Line) -> Outgoing {
    Outgoing { key: line.key.into(), payload: line.payload, id: line.id, kind: line.expectation }
}

fn now() -> Result<UnixMicros, Error> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(since_epoch.as_micros()).map(UnixMicros);
    micros
        .map_err(|_| Error::misconfigured("this machine's clock is out of range", "set the clock"))
}

/// Fields that a message needs, even if other fields of the record are invalid.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Names {
    transaction_id: Option<String>,
    account_id: Option<String>,
}

/// Decodes records as a consumer will.
struct Check {
    pipeline: Pipeline,
    rows: Vec<u8>,
    scratch: Scratch,
}

impl Check {
    fn new() -> Self {
        let pipeline = transaction::pipeline();
        Self { pipeline, rows: Vec::new(), scratch: Scratch::default() }
    }

    fn expectation(&mut self, payload: &[u8]) -> Expectation {
        self.rows.clear();
        let (decoder, table) = (self.pipeline.decoder(), self.pipeline.table());
        let message = Message::of(Some(payload));
        match Body::decode(&**decoder, table, &message, &mut self.rows, &mut self.scratch) {
            Body::Row { .. } => Expectation::Valid,
            Body::Rejected(_) | Body::Skipped => Expectation::Invalid,
        }
    }
}

/// Makes a message from a record of a file. An invalid record is sent unchanged and marked
/// as invalid.
fn read_from_file(payload: Vec<u8>, check: &mut Check) -> Outgoing {
    let kind = check.expectation(&payload);
    let names: Names = serde_json::from_slice(&payload).unwrap_or_default();
    Outgoing {
        key: names.account_id.unwrap_or_default().into(),
        id: names.transaction_id.unwrap_or_default(),
        payload,
        kind,
    }
}

/// A file of JSON lines. Blank lines are skipped.
pub(super) struct JsonLines {
    path: PathBuf,
    lines: BufReader<File>,
    number: u64,
    check: Check,
}

impl JsonLines {
    fn open(path: &Path) -> Result<Self, Error> {
        let lines = BufReader::new(open(path)?);
        Ok(Self { path: path.to_owned(), lines, number: 0, check: Check::new() })
    }

    fn next(&mut self) -> Result<Option<Outgoing>, Error> {
        loop {
            self.number += 1;
            let mut line = Vec::new();
            let read = self.lines.read_until(b'\n', &mut line);
            if read.map_err(|error| unreadable(&self.path, self.number, &error))? == 0 {
                return Ok(None);
            }
            line.truncate(line.trim_ascii_end().len());
            if !line.is_empty() {
                return Ok(Some(read_from_file(line, &mut self.check)));
            }
        }
    }
}

/// A CSV file with a header. Its rows become JSON objects of strings.
pub(super) struct CsvRows {
    path: PathBuf,
    reader: csv::Reader<File>,
    header: Vec<String>,
    record: csv::ByteRecord,
    check: Check,
}

impl CsvRows {
    fn open(path: &Path) -> Result<Self, Error> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(open(path)?);
        let header = reader.headers().map_err(|error| unreadable(path, 1, &error))?;
        let header = header.iter().map(ToOwned::to_owned).collect();
        let (record, check) = (csv::ByteRecord::new(), Check::new());
        Ok(Self { path: path.to_owned(), reader, header, record, check })
    }

    fn next(&mut self) -> Result<Option<Outgoing>, Error> {
        let line = self.reader.position().line();
        let read = self.reader.read_byte_record(&mut self.record);
        if !read.map_err(|error| unreadable(&self.path, line, &error))? {
            return Ok(None);
        }
        let fields = self.header.iter().zip(self.record.iter());
        let object: serde_json::Map<String, serde_json::Value> =
            fields.map(|(name, field)| (name.clone(), value(name, field))).collect();
        let payload = serde_json::Value::Object(object).to_string().into_bytes();
        Ok(Some(read_from_file(payload, &mut self.check)))
    }
}

/// Formats a field as JSON: null if it is empty, a boolean for `card_present`, else text.
fn value(name: &str, field: &[u8]) -> serde_json::Value {
    let text = String::from_utf8_lossy(field);
    match (name, &*text) {
        (_, "") => serde_json::Value::Null,
        ("card_present", text) if text.eq_ignore_ascii_case("true") => true.into(),
        ("card_present", text) if text.eq_ignore_ascii_case("false") => false.into(),
        (_, text) => text.into(),
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| Error::Misconfigured {
        what: format!("could not open {}", path.display()),
        remedy: "give --from a file that this user can read".into(),
        source: Some(Box::new(error)),
    })
}

fn unreadable(path: &Path, line: u64, error: &dyn std::error::Error) -> Error {
    Error::Input { what: format!("could not read {} at line {line}: {error}", path.display()) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(suffix: &str, content: &str) -> Vec<Outgoing> {
        let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let mut input = Input::open(&From::File(file.path().to_owned())).unwrap();
        std::iter::from_fn(|| input.next().unwrap()).collect()
    }

    #[test]
    fn a_csv_row_and_the_same_json_line_are_messages_of_the_same_record() {
        let rows = all(
            ".csv",
            "transaction_id,account_id,transaction_type,amount,timestamp,merchant_category,\
             location,card_present,risk_score\n\
             T1,A1,purchase,12.50,2026-01-02 03:04:05,,\"Portland, OR\",True,0.1\n",
        );
        let lines = all(
            ".jsonl",
            "\n{\"transaction_id\":\"T1\",\"account_id\":\"A1\",\"transaction_type\":\"purchase\",\
             \"amount\":12.5,\"timestamp\":\"2026-01-02T03:04:05Z\",\"location\":\"Portland, OR\",\
             \"card_present\":true,\"risk_score\":0.1}\r\n",
        );
        assert_eq!((rows.len(), lines.len()), (1, 1));
        let decoded = [&rows[0], &lines[0]].map(|outgoing| {
            assert_eq!((&outgoing.key[..], &*outgoing.id), (&b"A1"[..], "T1"));
            assert_eq!(outgoing.kind, Expectation::Valid);
            let mut check = Check::new();
            assert_eq!(check.expectation(&outgoing.payload), Expectation::Valid);
            check.rows
        });
        assert_eq!(decoded[0], decoded[1]);
    }

    #[test]
    fn an_invalid_record_is_sent_unchanged_and_marked() {
        let lines = all(".jsonl", "{\"account_id\":\"A1\"}\nnonsense\n");
        let kinds: Vec<Expectation> = lines.iter().map(|line| line.kind).collect();
        assert_eq!(kinds, [Expectation::Invalid, Expectation::Invalid]);
        assert_eq!((&lines[0].key[..], &lines[1].payload[..]), (&b"A1"[..], &b"nonsense"[..]));
    }

    #[test]
    fn a_seed_repeats_its_messages_and_live_traffic_does_not() {
        let messages = |seed| {
            let from = From::Traffic { seed, duplicate_ratio: 0.1, invalid_ratio: 0.1 };
            let mut input = Input::open(&from).unwrap();
            (0..50).map(|_| input.next().unwrap().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(messages(Some(7)), messages(Some(7)));
        assert_ne!(messages(None), messages(None));
    }
}
