//! A decoder of your own, for messages in a binary format.
//!
//! ```text
//!   u16     length of the sensor's name, in bytes
//!   …       the name, UTF-8
//!   i64     value
//!   u8      1 if the value is valid, 0 if not
//! ```
//!
//! Numbers are big-endian, and nothing follows the last byte.

use lambda_core::dead_letter::{Reason, Reject};
use lambda_core::decode::{Decode, Decoded, Message};
use lambda_core::record::{Column, ColumnType, RowRef, RowWriter, Scratch, Table};
use lambda_core::{Error, Pipeline, Record};

/// A sensor's measurement. The derive makes its table, and reads it from a row.
#[derive(Debug, PartialEq, Eq, Record)]
#[record(table = "ops.readings", key(sensor))]
pub struct Reading {
    /// The sensor's name.
    pub sensor: String,
    /// The value, in the sensor's unit.
    pub value: i64,
    /// Whether the sensor trusts the value.
    pub valid: bool,
}

/// The columns that a message fills, and their types.
const COLUMNS: [(&str, ColumnType); 3] =
    [("sensor", ColumnType::Text), ("value", ColumnType::Int8), ("valid", ColumnType::Bool)];

/// The decoder. `bind` finds the index of each of [`COLUMNS`] in the table.
#[derive(Debug, Default)]
pub struct Binary {
    columns: [usize; 3],
}

impl Decode for Binary {
    fn format(&self) -> &'static str {
        "readings-1"
    }

    fn bind(&mut self, table: &Table) -> Result<(), Error> {
        for (index, (name, kind)) in self.columns.iter_mut().zip(COLUMNS) {
            let fits = |column: &Column| column.name == name && column.kind == kind;
            *index = table.columns().iter().position(fits).ok_or_else(|| {
                Error::misconfigured(
                    format!("{table} has no column {name} of type {kind}"),
                    "add the column, or choose another decoder",
                )
            })?;
        }
        Ok(())
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        let empty = || Reject::new(Reason::EmptyPayload, "the message has no value");
        let mut bytes = Bytes { of: message.payload.ok_or_else(empty)?, at: 0 };
        let length = u16::from_be_bytes(bytes.array("the length of sensor")?);
        let name = bytes.take(length.into(), "sensor")?;
        let sensor = std::str::from_utf8(name).map_err(|error| {
            let at = 2 + error.valid_up_to();
            Reject::field(Reason::InvalidUtf8, "sensor", format!("invalid UTF-8 at byte {at}"))
        })?;
        let value = i64::from_be_bytes(bytes.array("value")?);
        let valid = match bytes.array("valid")? {
            [0] => false,
            [1] => true,
            [other] => {
                let detail = format!("0 or 1 expected at byte {}, found {other}", bytes.at - 1);
                return Err(Reject::field(Reason::InvalidField, "valid", detail));
            }
        };
        bytes.end()?;
        // The values fit: `bind` has checked the types. The columns' rules are checked here.
        let [sensor_column, value_column, valid_column] = self.columns;
        row.set(sensor_column, sensor).set(value_column, value).set(valid_column, valid);
        Ok(Decoded::Row)
    }
}

/// The bytes of a message, and the place up to which they are read.
struct Bytes<'m> {
    of: &'m [u8],
    at: usize,
}

impl<'m> Bytes<'m> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'m [u8], Reject> {
        let Some(taken) = self.of.get(self.at..self.at + count) else {
            let (at, end) = (self.at, self.of.len());
            let detail = format!(
                "the message ends at byte {end}, within {what}: {count} bytes from byte {at}"
            );
            return Err(Reject::new(Reason::InvalidMessage, detail));
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Reject> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn end(&self) -> Result<(), Reject> {
        let (at, end) = (self.at, self.of.len());
        if at == end {
            return Ok(());
        }
        let detail = format!("the reading ends at byte {at}, but the message has {end} bytes");
        Err(Reject::new(Reason::InvalidMessage, detail))
    }
}

/// The pipeline of these messages. It decodes CSV files as any other pipeline does.
pub fn pipeline() -> Result<Pipeline, Error> {
    Pipeline::of::<Reading>("readings").messages(Binary::default()).build()
}

/// Decodes a message into a row, and reads the row back.
pub fn decode(pipeline: &Pipeline, payload: &[u8]) -> Result<Option<Reading>, Reject> {
    let (table, mut out, mut scratch) = (pipeline.table(), Vec::new(), Scratch::default());
    let mut row = RowWriter::new(table, &mut out, &mut scratch);
    match pipeline.decoder().decode(&Message::of(Some(payload)), &mut row)? {
        Decoded::Row => {
            let row = row.finish()?;
            Reading::read(RowRef::new(table, &out[row.content])).map(Some)
        }
        _ => Ok(None),
    }
}

/// A message in this format.
pub fn encode(reading: &Reading) -> Result<Vec<u8>, std::num::TryFromIntError> {
    let Reading { sensor, value, valid } = reading;
    let mut message = u16::try_from(sensor.len())?.to_be_bytes().to_vec();
    message.extend_from_slice(sensor.as_bytes());
    message.extend_from_slice(&value.to_be_bytes());
    message.push(u8::from(*valid));
    Ok(message)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write;
    let readings = pipeline()?;
    let message = encode(&Reading { sensor: "attic".into(), value: 21_500, valid: true })?;
    let mut out = std::io::stdout();
    for payload in [&message[..], &message[..12], &[&message[..], b"?"].concat()] {
        match decode(&readings, payload) {
            Ok(reading) => writeln!(out, "{reading:?}")?,
            Err(reject) => writeln!(out, "rejected: {reject}")?,
        }
    }
    Ok(())
}
