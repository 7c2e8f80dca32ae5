//! The rules for transactions. Both codecs fill a [`Draft`] with the text of each field;
//! only [`Draft::check`] decides whether that is a transaction.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    AccountId, Amount, Expected, RiskScore, Timestamp, Transaction, TransactionId, TransactionType,
    id,
};
use crate::dead_letter::{Reason, Reject};
use crate::decode::csv::CsvFields;
use crate::decode::json;
use crate::record::RowWriter;

/// The fields, in the order of the table's columns.
const NAMES: [&str; 9] = [
    "transaction_id",
    "account_id",
    "transaction_type",
    "amount",
    "timestamp",
    "merchant_category",
    "location",
    "card_present",
    "risk_score",
];
const FIELDS: usize = NAMES.len();
const AMOUNT: usize = 3;
const CARD_PRESENT: usize = 7;
const RISK_SCORE: usize = 8;

/// One field as read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value<'a> {
    /// Absent, null or empty.
    Null,
    /// Its text: of a string, a number, or a boolean.
    Text(Cow<'a, str>),
    /// JSON of a type that the field cannot have.
    Misfit(Expected),
}

/// A transaction's fields as read, in the order of its table.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    values: [Value<'a>; FIELDS],
    /// A key that occurred twice.
    twice: Option<&'static str>,
}

/// A transaction's fields after all rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked<'a> {
    transaction_id: &'a str,
    account_id: &'a str,
    transaction_type: TransactionType,
    amount: Amount,
    timestamp: Timestamp,
    merchant_category: Option<&'a str>,
    location: Option<&'a str>,
    card_present: Option<bool>,
    risk_score: Option<RiskScore>,
}

impl<'a> Draft<'a> {
    /// Reads a CSV row.
    pub(super) fn of_csv(fields: &CsvFields<'a>) -> Self {
        let values = std::array::from_fn(|index| match fields.get(index) {
            None => Value::Null,
            Some(text) => Value::Text(Cow::Borrowed(text)),
        });
        Self { values, twice: None }
    }

    /// Reads a JSON object.
    pub(super) fn of_json(json: &'a str) -> Result<Self, Reject> {
        let draft: Self = serde_json::from_str(json).map_err(|error| {
            if error.is_data() {
                Reject::new(Reason::InvalidJson, "expected a JSON object")
            } else {
                json::reject(&error)
            }
        })?;
        match draft.twice {
            None => Ok(draft),
            Some(key) => Err(Reject::field(Reason::DuplicateKey, key, "expected once")),
        }
    }

    /// Applies the rules, field by field.
    pub(super) fn check(&self) -> Result<Checked<'_>, Reject> {
        Ok(Checked {
            transaction_id: self.required(0, id::check)?,
            account_id: self.required(1, id::check)?,
            transaction_type: self.required(2, TransactionType::parse)?,
            amount: self.required(AMOUNT, Amount::parse)?,
            timestamp: self.required(4, Timestamp::parse)?,
            merchant_category: self.optional(5, Ok)?,
            location: self.optional(6, Ok)?,
            card_present: self.optional(CARD_PRESENT, boolean)?,
            risk_score: self.optional(RISK_SCORE, RiskScore::parse)?,
        })
    }

    fn required<'b, T>(
        &'b self,
        index: usize,
        parse: impl FnOnce(&'b str) -> Result<T, Expected>,
    ) -> Result<T, Reject> {
        self.optional(index, parse)?
            .ok_or_else(|| Reject::field(Reason::MissingField, field(index), "a value is required"))
    }

    fn optional<'b, T>(
        &'b self,
        index: usize,
        parse: impl FnOnce(&'b str) -> Result<T, Expected>,
    ) -> Result<Option<T>, Reject> {
        let expected = match &self.values[index] {
            Value::Null => return Ok(None),
            Value::Misfit(expected) => *expected,
            Value::Text(text) if text.as_bytes().contains(&0) => {
                let detail = "PostgreSQL's text cannot hold a NUL character";
                return Err(Reject::field(Reason::NulCharacter, field(index), detail));
            }
            Value::Text(text) => match parse(text) {
                Ok(value) => return Ok(Some(value)),
                Err(expected) => expected,
            },
        };
        Err(Reject::field(Reason::InvalidField, field(index), expected))
    }
}

/// A column's name in messages and files.
fn field(index: usize) -> &'static str {
    NAMES[index]
}

fn boolean(text: &str) -> Result<bool, Expected> {
    if text.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err(Expected("true or false"))
    }
}

impl<'a> Checked<'a> {
    /// The fields of a transaction that satisfies the rules.
    pub(super) fn of(transaction: &'a Transaction) -> Self {
        let text = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
        Self {
            transaction_id: transaction.transaction_id.as_str(),
            account_id: transaction.account_id.as_str(),
            transaction_type: transaction.transaction_type,
            amount: transaction.amount,
            timestamp: transaction.timestamp,
            merchant_category: text(&transaction.merchant_category),
            location: text(&transaction.location),
            card_present: transaction.card_present,
            risk_score: transaction.risk_score,
        }
    }

    /// Writes the row.
    pub(super) fn write(&self, row: &mut RowWriter<'_>) {
        row.put(self.transaction_id)
            .put(self.account_id)
            .put(self.transaction_type.as_str())
            .put(self.amount)
            .put(self.timestamp)
            .put(self.merchant_category)
            .put(self.location)
            .put(self.card_present)
            .put(self.risk_score);
    }

    fn to_transaction(self) -> Result<Transaction, Expected> {
        Ok(Transaction {
            transaction_id: TransactionId::parse(self.transaction_id)?,
            account_id: AccountId::parse(self.account_id)?,
            transaction_type: self.transaction_type,
            amount: self.amount,
            timestamp: self.timestamp,
            merchant_category: self.merchant_category.map(Into::into),
            location: self.location.map(Into::into),
            card_present: self.card_present,
            risk_score: self.risk_score,
        })
    }
}

impl<'de> Deserialize<'de> for Transaction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let draft = Draft::of_json(json.get()).map_err(D::Error::custom)?;
        let checked = draft.check().map_err(D::Error::custom)?;
        checked.to_transaction().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Draft<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Draft<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Draft<'de>, A::Error> {
        let mut draft = Draft { values: [const { Value::Null }; FIELDS], twice: None };
        let mut seen = [false; FIELDS];
        let mut unknown = HashSet::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let value: &RawValue = map.next_value()?;
            match key {
                Key::Field(index) if !seen[index] => {
                    seen[index] = true;
                    draft.values[index] = value_of(index, value.get());
                }
                Key::Field(index) => draft.twice = Some(field(index)),
                Key::Unknown(key) => {
                    if !unknown.insert(key) {
                        draft.twice = Some("a key that is none of the record's fields");
                    }
                }
            }
        }
        Ok(draft)
    }
}

/// A key of the object.
enum Key<'a> {
    Field(usize),
    Unknown(Cow<'a, str>),
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
        Ok(index_of(key).map_or(Key::Unknown(Cow::Borrowed(key)), Key::Field))
    }

    fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
        Ok(index_of(key).map_or_else(|| Key::Unknown(Cow::Owned(key.into())), Key::Field))
    }
}

/// Column of a field; a match, which the compiler turns into comparisons of whole words.
fn index_of(key: &str) -> Option<usize> {
    Some(match key {
        "transaction_id" => 0,
        "account_id" => 1,
        "transaction_type" => 2,
        "amount" => AMOUNT,
        "timestamp" => 4,
        "merchant_category" => 5,
        "location" => 6,
        "card_present" => CARD_PRESENT,
        "risk_score" => RISK_SCORE,
        _ => return None,
    })
}

/// Checks the JSON type of a field, and reads its text.
fn value_of(index: usize, raw: &str) -> Value<'_> {
    match (raw.as_bytes().first(), index) {
        (Some(b'n'), _) => Value::Null,
        (Some(b't' | b'f'), CARD_PRESENT) | (Some(b'0'..=b'9' | b'-'), AMOUNT | RISK_SCORE) => {
            Value::Text(Cow::Borrowed(raw))
        }
        (_, CARD_PRESENT) => Value::Misfit(Expected("true or false")),
        (Some(b'"'), _) => string(raw),
        (_, AMOUNT | RISK_SCORE) => Value::Misfit(Expected("a number or a decimal string")),
        _ => Value::Misfit(Expected("text")),
    }
}

/// The text of a JSON string; `raw` includes the quotes.
fn string(raw: &str) -> Value<'_> {
    let text = &raw[1..raw.len() - 1];
    if text.is_empty() {
        Value::Null
    } else if !text.as_bytes().contains(&b'\\') {
        Value::Text(Cow::Borrowed(text))
    } else {
        serde_json::from_str(raw).map_or(
            // Its syntax was checked before; only unpaired surrogates remain.
            Value::Misfit(Expected("text without unpaired surrogates")),
            |text| Value::Text(Cow::Owned(text)),
        )
    }
}
