//! JSON messages.

mod object;
mod paths;
mod scan;

use self::object::{Read, Reading};
use self::paths::Paths;
use self::scan::Scanner;
use super::spelled::Spelled;
use crate::dead_letter::{Reason, Reject};
use crate::decode::{Decode, Decoded, Message, foreign};
use crate::error::Error;
use crate::record::{ColumnType, Origin, RowWriter, Table, UnixMicros};

/// Messages whose values are JSON objects. A column reads the field of its name, or of its path
/// into nested objects; other fields are ignored. A key that occurs twice rejects the record, except
/// in objects of which no column reads a field.
///
/// ```
/// use lambda_core::decode::{Decode, Json};
///
/// // All other messages are skipped.
/// let flights = Json::new().only("type", "flight");
/// assert_eq!(flights.format(), Json::FORMAT);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Json {
    only: Vec<(String, String)>,
    paths: Paths,
    /// Columns that are read from the rest of the message.
    beside: Vec<(usize, Origin)>,
}

impl Json {
    /// The format's name.
    pub const FORMAT: &str = "json";

    /// Objects, all of which are records.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, but only objects are records in which the field at `path` is this text, number
    /// or boolean. The others are skipped.
    #[must_use]
    pub fn only(mut self, path: &str, value: &str) -> Self {
        self.only.push((path.to_owned(), value.to_owned()));
        self
    }
}

impl Decode for Json {
    fn format(&self) -> &str {
        Self::FORMAT
    }

    fn bind(&mut self, table: &Table) -> Result<(), Error> {
        self.paths = Paths::of(table, &self.only)?;
        let columns = table.columns().iter().enumerate();
        let beside = columns.filter(|(_, column)| column.origin != Origin::Field);
        self.beside = beside.map(|(index, column)| (index, column.origin.clone())).collect();
        Ok(())
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        let payload = message.payload.filter(|payload| !payload.is_empty()).ok_or_else(|| {
            Reject::new(Reason::EmptyPayload, "expected a JSON object, found nothing")
        })?;
        let decoded = super::utf8(payload).and_then(|json| {
            let Read { matching, twice } = Reading::new(json, row).message(&self.paths)?;
            if matching < self.only.len() {
                return Ok(Decoded::Skip("a field has another value than records have"));
            }
            twice.map_or(Ok(()), Err)?;
            for (index, origin) in &self.beside {
                match origin {
                    Origin::Message => _ = row.set(*index, Spelled::Json(json)),
                    Origin::Key => put_bytes(row, *index, message.key),
                    Origin::Header(name) => {
                        // As in Kafka's own client, the last one of a name counts.
                        let header = message.headers.iter().rfind(|header| header.name == *name);
                        match header.map(|header| header.value) {
                            Some(None) => _ = row.set(*index, Spelled::Null),
                            value => put_bytes(row, *index, value.flatten()),
                        }
                    }
                    Origin::Timestamp => {
                        if let Some(ms) = message.timestamp_ms {
                            row.set(*index, UnixMicros(ms.saturating_mul(1_000)));
                        }
                    }
                    Origin::Field => {}
                }
            }
            row.complete().map(|()| Decoded::Row)
        });
        decoded.map_err(|reject| foreign::explain(reject, payload))
    }
}

/// Puts a key or the value of a header: a text, or the bytes of a column of bytes.
fn put_bytes(row: &mut RowWriter<'_>, index: usize, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return };
    let kind = row.table().columns().get(index).map(|column| &column.kind);
    match std::str::from_utf8(bytes) {
        _ if kind == Some(&ColumnType::Bytea) => _ = row.set(index, bytes),
        Ok(text) => _ = row.set(index, Spelled::Field(text)),
        Err(_) => row.reject(index, "expected UTF-8"),
    }
}

/// The elements of an array; nothing if the text is no array. Elements for a column of `jsonb` stay
/// JSON.
pub(super) fn elements(json: &str, is_json: bool) -> Option<Vec<Spelled<'_>>> {
    let mut scanner = Scanner::new(json);
    let mut elements = Vec::new();
    if !scanner.skip(b'[') {
        return None;
    }
    let mut more = !scanner.skip(b']');
    while more {
        let element = if is_json { scanner.raw().map(Spelled::Json) } else { scanner.value() };
        elements.push(element.ok()?);
        more = scanner.more(b']').ok()?;
    }
    scanner.end().ok()?;
    Some(elements)
}

#[cfg(test)]
mod tests;
