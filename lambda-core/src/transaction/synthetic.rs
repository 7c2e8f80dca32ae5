//! Synthetic traffic: realistic transactions from a seed, with repeated and broken ones
//! among them, in constant memory.
//!
//! One seed gives one sequence, so a test knows what it sent by generating it again.

use std::collections::VecDeque;

use fastrand::Rng;

use super::Transaction;
use super::wire::{CSV_HEADER, put_row};
use crate::record::{Decimal, UnixMicros};

/// Number of recent valid records among which repetitions are chosen.
const RECENT: usize = 1024;

/// 2026-01-01 00:00:00 UTC, in microseconds since the Unix epoch.
const START_MICROS: i64 = 1_767_225_600_000_000;

/// The same of 10000-01-01, which no record has.
const END_MICROS: i64 = 253_402_300_800_000_000;

/// The type of transaction that has a merchant.
const PURCHASE: &str = "purchase";

const MERCHANTS: [(&str, i64); 8] = [
    // Lines of business, each with a usual amount in cents.
    ("grocery", 6_500),
    ("retail", 8_000),
    ("restaurant", 4_200),
    ("fuel", 5_500),
    ("travel", 62_000),
    ("electronics", 34_000),
    ("pharmacy", 2_800),
    ("entertainment", 3_600),
];

const PLACES: [&str; 8] = [
    "Nashville TN",
    "Austin TX",
    "Portland, OR",
    "Chicago IL",
    "Zürich",
    "São Paulo",
    "The \"Loop\", Chicago",
    "Online",
];

/// Encoding of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object.
    Json,
    /// A row under [`CSV_HEADER`].
    Csv,
}

/// Required outcome of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expectation {
    /// It is new and valid.
    Valid,
    /// It repeats an earlier valid record, byte for byte.
    Duplicate,
    /// It is not a record, and must be rejected.
    Invalid,
}

impl Expectation {
    /// Every expectation.
    pub const ALL: [Self; 3] = [Self::Valid, Self::Duplicate, Self::Invalid];

    /// Its name in ledgers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Duplicate => "duplicate",
            Self::Invalid => "invalid",
        }
    }
}

/// A record as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// Its bytes, on one line and without a line end.
    pub payload: Vec<u8>,
    /// Its id; for an invalid record, the id that it might have had.
    pub id: String,
    /// Its account: the message's key.
    pub key: String,
    /// Its required outcome.
    pub expectation: Expectation,
}

/// Options of the traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Number of accounts; at least one is used.
    pub accounts: u32,
    /// Fraction of the lines that repeat an earlier one, from 0 to 1.
    pub duplicate_ratio: f64,
    /// Fraction of the lines that are invalid, from 0 to 1.
    pub invalid_ratio: f64,
}

impl Default for Options {
    /// Ten thousand accounts, nothing repeated and nothing invalid.
    fn default() -> Self {
        Self { accounts: 10_000, duplicate_ratio: 0.0, invalid_ratio: 0.0 }
    }
}

/// A generator of synthetic transactions. As an iterator it never ends; its time begins
/// with 2026 and advances by up to 20 ms a record.
///
/// ```
/// use lambda_core::transaction::synthetic::Synthetic;
///
/// // A seed gives the same traffic every time.
/// let first: Vec<_> = Synthetic::new(7).take(3).collect();
/// assert_eq!(first, Synthetic::new(7).take(3).collect::<Vec<_>>());
/// ```
#[derive(Debug, Clone)]
pub struct Synthetic {
    rng: Rng,
    options: Options,
    sequence: u32,
    clock_micros: i64,
    recent: VecDeque<Line>,
}

impl Synthetic {
    /// The traffic of `seed`, by default options.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            options: Options::default(),
            sequence: 0,
            clock_micros: START_MICROS,
            recent: VecDeque::new(),
        }
    }

    /// Sets other options.
    #[must_use]
    pub fn with(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Sets the start of its time.
    #[must_use]
    pub fn starting(self, start: UnixMicros) -> Self {
        Self { clock_micros: start.0, ..self }
    }

    /// Generates the next transaction, at the caller's `timestamp`.
    pub fn transaction_at(&mut self, timestamp: UnixMicros) -> Transaction {
        self.sequence = self.sequence.wrapping_add(1);
        let rng = &mut self.rng;
        let (merchant, usual_cents) = MERCHANTS[rng.usize(..MERCHANTS.len())];
        let transaction_type = match rng.u8(..100) {
            0..70 => PURCHASE,
            70..80 => "withdrawal",
            80..88 => "transfer",
            88..93 => "refund",
            _ => "deposit",
        };
        let account = rng.u32(..self.options.accounts.max(1));
        // The product of two uniform numbers: many small amounts, few large ones.
        let cents = 1 + rng.i64(0..usual_cents * 4) * rng.i64(1..=100) / 100;
        let card_present = rng.u8(..100) < 80;
        Transaction {
            transaction_id: transaction_id(timestamp, self.sequence, rng),
            account_id: format!("ACC-{account:06}"),
            transaction_type: transaction_type.to_owned(),
            amount: hundredths(cents),
            timestamp,
            merchant_category: (transaction_type == PURCHASE).then(|| merchant.to_owned()),
            location: (rng.u8(..100) < 97).then(|| PLACES[rng.usize(..PLACES.len())].to_owned()),
            card_present: (rng.u8(..100) < 98).then_some(card_present),
            risk_score: (rng.u8(..100) < 98)
                .then(|| hundredths(i64::from(rng.u8(0..=100) / rng.u8(1..=10)))),
        }
    }

    /// Generates the next line, at the caller's `timestamp`: a valid, repeated or invalid
    /// record, by the ratios of the options.
    pub fn line_at(&mut self, timestamp: UnixMicros, format: Format) -> Line {
        let chance = self.rng.f64();
        let Options { invalid_ratio, duplicate_ratio, .. } = self.options;
        let repeat = (invalid_ratio..invalid_ratio + duplicate_ratio).contains(&chance);
        if repeat && !self.recent.is_empty() {
            let line = self.recent[self.rng.usize(..self.recent.len())].clone();
            return Line { expectation: Expectation::Duplicate, ..line };
        }
        let transaction = self.transaction_at(timestamp);
        let invalid = chance < invalid_ratio;
        let payload = match (invalid, format) {
            (true, _) => invalid_payload(&mut self.rng, &transaction, format),
            (false, Format::Json) => transaction.to_json(),
            (false, Format::Csv) => {
                let mut row = Vec::with_capacity(128);
                transaction.write_csv(&mut row);
                row
            }
        };
        let expectation = if invalid { Expectation::Invalid } else { Expectation::Valid };
        let (id, key) = (transaction.transaction_id, transaction.account_id);
        let line = Line { payload, id, key, expectation };
        if !invalid && duplicate_ratio > 0.0 {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(line.clone());
        }
        line
    }

    /// Generates the next line, at the generator's own time.
    pub fn line(&mut self, format: Format) -> Line {
        let timestamp = self.tick();
        self.line_at(timestamp, format)
    }

    fn tick(&mut self) -> UnixMicros {
        self.clock_micros += self.rng.i64(1..=20_000);
        if self.clock_micros >= END_MICROS {
            self.clock_micros = START_MICROS;
        }
        UnixMicros(self.clock_micros)
    }
}

impl Iterator for Synthetic {
    type Item = Transaction;

    fn next(&mut self) -> Option<Transaction> {
        let timestamp = self.tick();
        Some(self.transaction_at(timestamp))
    }
}

fn hundredths(unscaled: i64) -> Decimal {
    Decimal { unscaled: unscaled.into(), scale: 2 }
}

/// Builds `TXN-` and a UUID of version 7 (RFC 9562, section 6.2, method 1): milliseconds,
/// then the record's number, then random bits, so ids of one generator ascend and those of
/// two differ.
fn transaction_id(timestamp: UnixMicros, sequence: u32, rng: &mut Rng) -> String {
    let millis = u64::try_from(timestamp.0 / 1000).unwrap_or_default();
    // The version takes the upper half of byte 0, the variant the two upper bits of byte 2:
    // the number's 32 bits go into the 4 + 8 + 6 + 16 around them.
    let [b4, b3, b2, b1] = sequence.to_be_bytes();
    let mut behind = [b4 >> 6, b4 << 2 | b3 >> 6, b3 & 0x3f, b2, b1, 0, 0, 0, 0, 0];
    rng.fill(&mut behind[5..]);
    let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &behind).into_uuid();
    format!("TXN-{uuid}")
}

/// Field texts that the rules refuse in both formats: field and text.
const REFUSED: [(usize, &str); 14] = [
    (0, ""),
    (0, "TXN-0123456789012345678901234567890123456789012345678901234567890123456789"),
    (1, ""),
    (2, "gift"),
    (2, "PURCHASE"),
    (3, ""),
    (3, "12.345"),
    (3, "1e8"),
    (3, "twelve"),
    (4, "2026-02-30 10:00:00"),
    (4, "2026-01-01"),
    (4, "2026-01-01T10:00:00"),
    (7, "yes"),
    (8, "1.001"),
];

/// Builds a line from the transaction, broken in one of many ways.
fn invalid_payload(rng: &mut Rng, transaction: &Transaction, format: Format) -> Vec<u8> {
    let mut texts = transaction.texts();
    let kind = rng.usize(..REFUSED.len() + 5);
    if let Some((field, text)) = REFUSED.get(kind) {
        (*text).clone_into(&mut texts[*field]);
        return spelled(&texts, format);
    }
    if kind == REFUSED.len() {
        "Nash\0ville".clone_into(&mut texts[6]);
        return spelled(&texts, format);
    }
    let mut payload = spelled(&texts, format);
    match (kind - REFUSED.len(), format) {
        (1, _) => {
            // Inside the first field's text in both formats.
            let at = payload.iter().position(|byte| *byte == b'T').unwrap_or_default();
            payload[at] = 0xff;
        }
        (2, Format::Json) => payload.truncate(payload.len() / 2),
        (3, Format::Json) => {
            payload.pop();
            payload.extend_from_slice(br#","amount":"1.00"}"#);
        }
        (_, Format::Json) => payload = b"[]".to_vec(),
        (2, Format::Csv) => payload.extend_from_slice(b",one more"),
        (3, Format::Csv) => payload = b"one field".to_vec(),
        (_, Format::Csv) => payload = CSV_HEADER.into(),
    }
    payload
}

/// Formats the field texts as a line; in JSON all are strings.
fn spelled(texts: &[String; 9], format: Format) -> Vec<u8> {
    let mut payload = Vec::with_capacity(256);
    match format {
        Format::Csv => put_row(&mut payload, texts),
        Format::Json => {
            let object: serde_json::Map<_, _> = CSV_HEADER
                .split(',')
                .zip(texts)
                .map(|(name, text)| (name.to_owned(), text.as_str().into()))
                .collect();
            payload.extend_from_slice(serde_json::Value::Object(object).to_string().as_bytes());
        }
    }
    payload
}
