//! Message and file codecs.

pub mod csv;
pub mod decimal;
pub mod json;

mod foreign;

use crate::dead_letter::{Reason, Reject};

/// The bytes as text.
fn utf8(bytes: &[u8]) -> Result<&str, Reject> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Reject::new(Reason::InvalidUtf8, format!("invalid UTF-8 at byte {at} of the record"))
    })
}

/// The reject for an error message of serde. Such messages quote the value before the
/// expected form; only the latter comes from the type.
fn of_serde(message: &str, place: &str) -> Reject {
    if let Some(field) = named(message, "missing field `") {
        return Reject::field(Reason::MissingField, field, "a value is required");
    }
    if let Some(field) = named(message, "duplicate field `") {
        return Reject::field(Reason::DuplicateKey, field, "expected once");
    }
    let expected = message.rfind(", expected ").map(|at| &message[at + 2..]);
    let expected = expected.map_or("a value does not fit the record's type", |expected| {
        expected.split(" at line ").next().unwrap_or(expected)
    });
    Reject::new(Reason::InvalidField, format!("{expected}, {place}"))
}

fn named<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.split('`').next()
}
