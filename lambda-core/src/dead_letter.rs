//! Reasons for which records are rejected.

use std::fmt;

/// Longest `detail` kept, in bytes.
pub const DETAIL_BYTES_MAX: usize = 1024;

/// The reason of a dead letter, as stored in its `reason` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A message without a value (a tombstone), or an empty one.
    EmptyPayload,
    /// Bytes that are not UTF-8.
    InvalidUtf8,
    /// Not a JSON object.
    InvalidJson,
    /// The same key twice in one JSON object.
    DuplicateKey,
    /// A row with a misplaced quote.
    InvalidCsv,
    /// A row with more or fewer fields than the header.
    RaggedRow,
    /// Bytes that are not in the format of a decoder of your own.
    InvalidMessage,
    /// A required field is absent, null or empty.
    MissingField,
    /// A field's value is not of its type or range.
    InvalidField,
    /// Text with a NUL character, which PostgreSQL cannot store.
    NulCharacter,
    /// The same id with other content, from an equal authority.
    IdConflict,
    /// The database refuses the row.
    Refused,
    /// The table has no partition for the row.
    NoPartition,
}

impl Reason {
    const ALL: [Self; 13] = [
        Self::EmptyPayload,
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::DuplicateKey,
        Self::InvalidCsv,
        Self::RaggedRow,
        Self::InvalidMessage,
        Self::MissingField,
        Self::InvalidField,
        Self::NulCharacter,
        Self::IdConflict,
        Self::Refused,
        Self::NoPartition,
    ];

    /// The name stored in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EmptyPayload => "empty_payload",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::DuplicateKey => "duplicate_key",
            Self::InvalidCsv => "invalid_csv",
            Self::RaggedRow => "ragged_row",
            Self::InvalidMessage => "invalid_message",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::NulCharacter => "nul_character",
            Self::IdConflict => "id_conflict",
            Self::Refused => "refused",
            Self::NoPartition => "no_partition",
        }
    }

    /// The reason stored under `name`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Status of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Nothing yet.
    Open,
    /// It was replayed, and had another outcome.
    Replayed,
    /// An operator decided to leave it unstored.
    Discarded,
}

impl Status {
    /// The name stored in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }

    /// The status stored under `name`.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Open, Self::Replayed, Self::Discarded]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that cannot be stored as a row, and the reason. The reader keeps its place and
/// bytes.
///
/// ```
/// use lambda_core::dead_letter::{Reason, Reject};
///
/// let reject = Reject::field(Reason::InvalidField, "millidegrees", "expected a whole number");
/// assert_eq!(reject.field.as_deref(), Some("millidegrees"));
/// assert_eq!(reject.to_string(), "invalid_field: millidegrees: expected a whole number");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reject {
    /// Kind of defect.
    pub reason: Reason,
    /// The field that is wrong, if it is one; storable.
    pub field: Option<String>,
    /// The field and the expected value; storable, at most [`DETAIL_BYTES_MAX`] long.
    pub detail: String,
}

impl Reject {
    /// A reject whose `detail` is made storable: NUL removed, cut to length.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, field: None, detail: storable(detail.into()) }
    }

    /// A reject for the value of one field.
    pub fn field(reason: Reason, field: &str, expected: impl fmt::Display) -> Self {
        let reject = Self::new(reason, format!("{field}: {expected}"));
        Self { field: Some(storable(field.to_owned())), ..reject }
    }
}

/// Text that PostgreSQL can store, at most [`DETAIL_BYTES_MAX`] long.
fn storable(mut text: String) -> String {
    text.retain(|character| character != '\0');
    text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
    text
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Reject {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reason_is_read_back_from_its_name() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::parse("no_reason"), None);
    }

    proptest! {
        #[test]
        fn every_detail_is_storable(detail in any::<String>(), repeat in 1..200_usize) {
            let reject = Reject::new(Reason::InvalidField, detail.repeat(repeat));
            prop_assert!(reject.detail.len() <= DETAIL_BYTES_MAX);
            prop_assert!(!reject.detail.contains('\0'));
        }
    }
}
