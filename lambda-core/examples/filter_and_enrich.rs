//! Only some messages of a topic are records, and a record has a column that no message has.

use std::collections::BTreeMap;

use lambda_core::dead_letter::{Reason, Reject};
use lambda_core::decode::{Decode, Decoded, Json, Message};
use lambda_core::record::{RowRef, RowWriter, Scratch};
use lambda_core::{Error, Pipeline, Record};
use serde_json::Value;

/// A reading, with the site of its device.
#[derive(Debug, PartialEq, Record)]
#[record(table = "ops.readings", key(id))]
pub struct Reading {
    /// Its id.
    pub id: i64,
    /// The site, which the message does not name.
    pub site: String,
    /// The temperature.
    #[record(between(-90_000, 60_000))]
    pub millidegrees: i32,
}

/// Readings of the devices at these sites; the message's key is the device. Messages without a key
/// are heartbeats. A device that is not listed makes its reading a dead letter, which can be
/// replayed by a program that lists it.
pub fn pipeline(sites: BTreeMap<String, String>) -> Result<Pipeline, Error> {
    let enrich = move |message: &Message<'_>| {
        let wrong = |what: &str| Reject::new(Reason::InvalidMessage, what);
        let device = message.key.and_then(|key| str::from_utf8(key).ok()).unwrap_or_default();
        let site = sites.get(device).ok_or_else(|| wrong("the key is no device of ours"))?;
        let payload = message.payload.unwrap_or_default();
        let reading: Option<Value> = serde_json::from_slice(payload).ok();
        let Some(Value::Object(mut reading)) = reading else {
            return Err(wrong("expected a JSON object"));
        };
        reading.insert("site".into(), Value::from(site.as_str()));
        Ok(Value::Object(reading).to_string().into_bytes())
    };
    // The filter is outside, so it comes first.
    let messages =
        Json::new().map("readings of devices", enrich).filter(|message| message.key.is_some());
    Pipeline::of::<Reading>("readings").messages(messages).build()
}

/// Decodes a message into a row, and reads the row back. Nothing: it was skipped.
pub fn decode(pipeline: &Pipeline, message: &Message<'_>) -> Result<Option<Reading>, Reject> {
    let (table, mut out, mut scratch) = (pipeline.table(), Vec::new(), Scratch::default());
    let mut row = RowWriter::new(table, &mut out, &mut scratch);
    match pipeline.decoder().decode(message, &mut row)? {
        Decoded::Row => {
            let row = row.finish()?;
            Reading::read(RowRef::new(table, &out[row.content])).map(Some)
        }
        _ => Ok(None),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write;
    let readings = pipeline([("d-1".into(), "roof".into())].into())?;
    for (key, payload) in [(Some("d-1"), r#"{"id":1,"millidegrees":21500}"#), (None, "{}")] {
        let mut message = Message::of(Some(payload.as_bytes()));
        message.key = key.map(str::as_bytes);
        writeln!(std::io::stdout(), "{:?}", decode(&readings, &message)?)?;
    }
    Ok(())
}
