//! JSON messages.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::dead_letter::{Reason, Reject};
use crate::decode::foreign;
use crate::record::{Record, Row, RowWriter};

/// Decodes one message's value into a row at the end of `rows`; a tombstone is
/// `None`.
///
/// # Errors
/// A [`Reject`] with the reason; `rows` is then unchanged.
pub fn decode<R: Record>(payload: Option<&[u8]>, rows: &mut Vec<u8>) -> Result<Row, Reject> {
    let payload = payload.filter(|payload| !payload.is_empty()).ok_or_else(|| {
        Reject::new(Reason::EmptyPayload, "expected a JSON object, found nothing")
    })?;
    let json = super::utf8(payload).map_err(|reject| foreign::explain(reject, payload))?;
    let start = rows.len();
    let mut row = RowWriter::new(const { &R::TABLE }, rows);
    match R::decode_json(json, &mut row) {
        Ok(()) => row.finish(),
        Err(reject) => {
            rows.truncate(start);
            Err(foreign::explain(reject, payload))
        }
    }
}

/// Decodes one JSON object by serde.
///
/// # Errors
/// The expected form and the place, without the value that was found.
pub fn by_serde<R: DeserializeOwned>(json: &str) -> Result<R, Reject> {
    serde_json::from_str(json).map_err(|error| reject(&error))
}

/// The reject for an error of `serde_json`.
pub(crate) fn reject(error: &serde_json::Error) -> Reject {
    let text = error.to_string();
    if error.classify() == Category::Data {
        let place = format!("at line {} column {}", error.line(), error.column());
        super::of_serde(&text, &place)
    } else {
        // Such a text names the expected token and the place, not a value.
        Reject::new(Reason::InvalidJson, text)
    }
}
