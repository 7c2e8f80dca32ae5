//! Messages as serde reads them, and its errors as rejects.

use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::Segment;

use crate::dead_letter::{Reason, Reject};
use crate::decode::{Message, foreign, utf8};

/// Decodes the object of a message. A payload that is something else is named.
pub(super) fn object<T>(
    message: &Message<'_>,
    decode: impl FnOnce(&str) -> Result<T, Reject>,
) -> Result<T, Reject> {
    let payload = message.payload.filter(|payload| !payload.is_empty()).ok_or_else(|| {
        Reject::new(Reason::EmptyPayload, "expected a JSON object, found nothing")
    })?;
    let json = utf8(payload).map_err(|reject| foreign::explain(reject, payload))?;
    decode(json).map_err(|reject| foreign::explain(reject, payload))
}

/// The reject for an object that serde cannot read as `T`. Reads it again to find the field.
pub(super) fn located<T: DeserializeOwned>(json: &str) -> Reject {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) => {
            // Below the field, a path may hold keys of the message's own maps.
            let field = match error.path().iter().next() {
                Some(Segment::Map { key }) => Some(key.as_str()),
                _ => None,
            };
            reject_at(error.inner(), field)
        }
        // The object is read; something follows it.
        Ok(_) => deserializer.end().map_or_else(
            |error| reject_at(&error, None),
            |()| Reject::new(Reason::InvalidJson, "expected a JSON object"),
        ),
    }
}

fn reject_at(error: &serde_json::Error, field: Option<&str>) -> Reject {
    let text = error.to_string();
    if let (Some(field), true) = (field, text.starts_with("number out of range")) {
        return Reject::field(Reason::InvalidField, field, text);
    }
    if error.classify() != Category::Data {
        // Such a text names the expected token and the place, not a value.
        return Reject::new(Reason::InvalidJson, text);
    }
    if let Some(field) = super::named(&text, "missing field `") {
        return Reject::field(Reason::MissingField, field, "a value is required");
    }
    if let Some(field) = super::named(&text, "duplicate field `") {
        return Reject::field(Reason::DuplicateKey, field, "expected once");
    }
    let (line, column) = (error.line(), error.column());
    let expected = format!("{}, at line {line} column {column}", super::expectation(&text));
    match field {
        Some(field) => Reject::field(Reason::InvalidField, field, expected),
        None => Reject::new(Reason::InvalidField, expected),
    }
}
