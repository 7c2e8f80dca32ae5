//! JSON messages.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::dead_letter::{Reason, Reject};
use crate::decode::{Decode, Decoded, Message, foreign};
use crate::record::{Record, RowWriter};

/// Decodes one JSON object into a row.
type DecodeObject = fn(&str, &mut RowWriter<'_>) -> Result<(), Reject>;

/// Messages whose values are JSON objects.
#[derive(Clone, Copy)]
pub struct Json {
    decode: DecodeObject,
}

impl Json {
    /// The format's name.
    pub const FORMAT: &str = "json";

    /// Objects that serde reads as `R`.
    pub fn of<R: Record + DeserializeOwned>() -> Self {
        Self::by(|json, row| {
            by_serde::<R>(json)?.write(row);
            Ok(())
        })
    }

    /// Objects that a function decodes.
    pub(crate) fn by(decode: DecodeObject) -> Self {
        Self { decode }
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Json")
    }
}

impl Decode for Json {
    fn format(&self) -> &str {
        Self::FORMAT
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        let payload = message.payload.filter(|payload| !payload.is_empty()).ok_or_else(|| {
            Reject::new(Reason::EmptyPayload, "expected a JSON object, found nothing")
        })?;
        let json = super::utf8(payload).map_err(|reject| foreign::explain(reject, payload))?;
        (self.decode)(json, row).map_err(|reject| foreign::explain(reject, payload))?;
        Ok(Decoded::Row)
    }
}

/// Decodes one JSON object by serde.
///
/// # Errors
/// The expected form and the place, without the value that was found.
fn by_serde<R: DeserializeOwned>(json: &str) -> Result<R, Reject> {
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
