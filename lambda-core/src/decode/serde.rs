//! Records that serde reads.

mod json;
mod row;

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::csv::{Csv, CsvFields};
use super::json::Json;
use super::record::Record;
use crate::dead_letter::{Reason, Reject};
use crate::decode::{Decode, Decoded, Message};
use crate::error::Error;
use crate::record::{Column, Origin, RowWriter, Table};

/// Decodes records by serde: the struct is built, then written as a row. It takes any record that
/// serde reads, and costs more time than a decoder that goes by the table alone. How a value is
/// read is up to its type: jiff's types, for example, take second 60 for 59, and a `Value` of
/// `serde_json` keeps large numbers as doubles.
///
/// ```
/// use lambda_core::decode::Serde;
/// use lambda_core::{Pipeline, Record};
///
/// #[derive(Record, serde::Deserialize)]
/// #[record(table = "ops.readings", key(id), serde)]
/// struct Reading {
///     id: String,
///     #[serde(alias = "temperature")]
///     millidegrees: i64,
/// }
///
/// let readings = Pipeline::of::<Reading>("readings").build()?;
/// assert_eq!(readings.decoder().format(), "json");
/// # Ok::<(), lambda_core::Error>(())
/// ```
pub struct Serde<R> {
    record: PhantomData<fn() -> R>,
}

impl<R: Record + DeserializeOwned> Serde<R> {
    /// Messages whose values are JSON objects.
    pub fn json() -> Self {
        Self { record: PhantomData }
    }

    /// Rows of CSV files, under the names of the table's fields. An empty field is null. A field
    /// for a sequence, a map or a [`Jsonb`](crate::record::Jsonb) holds JSON.
    pub fn csv() -> Csv {
        Csv::by(|fields, row| {
            decode_fields::<R>(fields)?.write(row);
            Ok(())
        })
    }
}

fn decode_fields<R: DeserializeOwned>(fields: &CsvFields<'_>) -> Result<R, Reject> {
    R::deserialize(row::Row::new(*fields)).map_err(row::Error::into_reject)
}

impl<R> fmt::Debug for Serde<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serde")
    }
}

impl<R: Record + DeserializeOwned> Decode for Serde<R> {
    fn format(&self) -> &str {
        Json::FORMAT
    }

    /// Checks that serde reads each of the table's fields: it would leave out one of another
    /// name, and store null.
    fn bind(&mut self, table: &Table) -> Result<(), Error> {
        let only_fields =
            |column: &&Column| column.default.is_some() || column.origin != Origin::Field;
        if let Some(Column { name, .. }) = table.columns().iter().find(only_fields) {
            return Err(Error::misconfigured(
                format!(
                    "serde gives the column {name} of {table} no default and no part of a message"
                ),
                "use serde's own default, or decode without serde",
            ));
        }
        let Some(known) = row::known::<R>() else { return Ok(()) };
        match table.columns().iter().find(|column| !known.contains(&column.field.as_str())) {
            None => Ok(()),
            Some(Column { name, field, .. }) => Err(Error::misconfigured(
                format!("serde reads no field {field} for the column {name} of {table}"),
                "give the field this name in serde too (rename or alias)",
            )),
        }
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        let written = json::object(message, |object| {
            // Serde would read the fields of a struct from an array too.
            if !object.trim_start().starts_with('{') {
                return Err(Reject::new(Reason::InvalidJson, "expected a JSON object"));
            }
            let record: R = serde_json::from_str(object).map_err(|_| json::located::<R>(object))?;
            record.write(row);
            Ok(())
        });
        written.map(|()| Decoded::Row)
    }
}

/// Beginnings of serde's own messages, which end with the form that is expected.
const OF_SERDE: [&str; 5] =
    ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant ", "unknown field "];

/// Beginnings of the messages of our own types, which hold no value.
const OF_OURS: [&str; 6] = [
    "PostgreSQL's jsonb cannot",
    "expected JSON",
    "expected a decimal number of",
    "expected each key of",
    "expected numbers of at most",
    "expected text without unpaired",
];

/// The form that serde expected, from its message, which may quote the value before that form.
/// What the types of others say may hold values too.
fn expectation(message: &str) -> String {
    let begins = |with: &[&str]| with.iter().any(|begin| message.starts_with(begin));
    let expected = match message.rfind(", expected ").filter(|_| begins(&OF_SERDE)) {
        Some(at) => &message[at + 2..],
        None if begins(&OF_OURS) => message,
        None => "a value does not fit the record's type",
    };
    expected.split(" at line ").next().unwrap_or(expected).to_owned()
}

fn named<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.split('`').next()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde::Deserialize;

    use super::*;
    use crate::record::{Decimal, Field, Jsonb, Label, RowRef, Scratch};

    #[derive(Debug, Clone, Copy, PartialEq, Deserialize, Field)]
    struct Seat(i32);

    #[derive(Debug, PartialEq, Deserialize, Record)]
    #[record(table = "ops.wide", key(id), serde)]
    struct Wide {
        #[record(length = 1..=3)]
        id: String,
        seat: Option<Seat>,
        ratio: Option<f32>,
        #[record(numeric(30, 4), between(0, 10000))]
        #[serde(default)]
        fare: Option<Decimal>,
        #[record(sql = "ops.cabin")]
        cabin: Option<Label>,
        open: Option<bool>,
        tags: Option<Vec<String>>,
        meta: Option<Jsonb>,
    }

    fn pipeline() -> crate::Pipeline {
        crate::Pipeline::of::<Wide>("wide").build().unwrap()
    }

    fn decode(decoder: &dyn Decode, payload: &str) -> Result<Wide, Reject> {
        let (pipeline, mut out, mut scratch) = (pipeline(), Vec::new(), Scratch::default());
        let mut row = RowWriter::new(pipeline.table(), &mut out, &mut scratch);
        decoder.decode(&Message::of(Some(payload.as_bytes())), &mut row)?;
        let content = row.finish()?.content;
        Wide::read(RowRef::new(pipeline.table(), &out[content]))
    }

    fn of_json(payload: &str) -> Result<Wide, String> {
        decode(&**pipeline().decoder(), payload).map_err(|reject| reject.to_string())
    }

    fn of_csv(row: &str) -> Result<Wide, String> {
        let header = b"meta,tags,open,cabin,fare,ratio,seat,id";
        let rows = pipeline().files().open(header, pipeline().table()).unwrap();
        decode(&rows, row).map_err(|reject| reject.to_string())
    }

    fn full() -> Wide {
        Wide {
            id: "a".into(),
            seat: Some(Seat(-7)),
            ratio: Some(0.1),
            fare: Some(Decimal::literal("12.5000")),
            cabin: Some(Label("first".into())),
            open: Some(true),
            tags: Some(vec!["x".into(), "y z".into()]),
            meta: Some(Jsonb::parse(r#"{"n": 1.50}"#).unwrap()),
        }
    }

    #[test]
    fn both_formats_give_the_same_record() {
        let json = r#"{"id":"a","seat":-7,"ratio":0.1,"fare":12.5,"cabin":"first","open":true,
            "tags":["x","y z"],"meta":{"n":1.50},"unknown":[1]}"#;
        assert_eq!(of_json(json), Ok(full()));
        let csv = r#""{""n"":1.50}","[""x"",""y z""]",TRUE,first,12.5,0.1,-7,a"#;
        assert_eq!(of_csv(csv), Ok(full()));
        let empty = Wide {
            seat: None,
            ratio: None,
            fare: None,
            cabin: None,
            open: None,
            tags: None,
            meta: None,
            ..full()
        };
        assert_eq!(of_csv(",,,,,,,a").as_ref(), Ok(&empty));
        assert_eq!(of_json(r#"{"id":"a","meta":null}"#), Ok(empty));
    }

    #[test]
    fn a_float_is_the_nearest_one_in_both_formats() {
        #[derive(Deserialize, Record)]
        #[record(table = "floats", key(id), serde)]
        struct Floats {
            id: i64,
            single: f32,
            double: f64,
        }
        let mut random = fastrand::Rng::with_seed(7);
        let floats = crate::Pipeline::of::<Floats>("floats").build().unwrap();
        let csv = floats.files().open(b"id,single,double", floats.table()).unwrap();
        for id in 0..2_000 {
            let (single, double) = (random.f32() * 1e3, random.f64() * 1e4);
            let json = format!(r#"{{"id":{id},"single":{single},"double":{double}}}"#);
            let row = format!("{id},{single},{double}");
            for (decoder, payload) in [(&**floats.decoder(), json), (&csv as &dyn Decode, row)] {
                let (mut out, mut scratch) = (Vec::new(), Scratch::default());
                let mut row = RowWriter::new(floats.table(), &mut out, &mut scratch);
                decoder.decode(&Message::of(Some(payload.as_bytes())), &mut row).unwrap();
                let content = row.finish().unwrap().content;
                let read = Floats::read(RowRef::new(floats.table(), &out[content])).unwrap();
                assert_eq!((read.single, read.double), (single, double), "{payload}");
            }
        }
    }

    #[test]
    fn a_field_that_serde_does_not_read_is_refused() {
        #[derive(Deserialize, Record)]
        #[record(table = "renamed", key(id), serde)]
        struct Renamed {
            id: i64,
            #[record(path = "dep")]
            departs: Option<i64>,
        }
        let refused = crate::Pipeline::of::<Renamed>("renamed").build().unwrap_err();
        assert_eq!(refused.exit_code(), 78);
        assert!(refused.chain().contains("serde reads no field dep"), "{}", refused.chain());
    }

    #[test]
    fn a_number_is_exact_whatever_its_digits() {
        let exact = "12345678901234567890.1234";
        let fare = |wide: Wide| wide.fare.unwrap().to_string();
        // Above the rule's 10,000: the rule sees the exact number too.
        let refused = "invalid_field: fare: expected a number from 0 to 10000";
        for fare in [exact, "10000.0001", "-0.0001"] {
            assert_eq!(of_json(&format!(r#"{{"id":"a","fare":{fare}}}"#)), Err(refused.into()));
            assert_eq!(of_csv(&format!(",,,,{fare},,,a")), Err(refused.into()));
        }
        for spelled in ["9999.9999", "\"9999.9999\"", "99999999e-4"] {
            let json = format!(r#"{{"id":"a","fare":{spelled}}}"#);
            assert_eq!(of_json(&json).map(fare), Ok("9999.9999".into()), "{spelled}");
        }
    }

    #[test]
    fn a_reject_names_the_field_and_never_the_value() {
        let cases = [
            (r#"{"id":"a","seat":"x"}"#, ",,,,,,x,a", "invalid_field: seat: expected"),
            (
                r#"{"id":"a","seat":3000000000}"#,
                ",,,,,,3000000000,a",
                "invalid_field: seat: expected",
            ),
            (r#"{"id":"a","ratio":"x"}"#, ",,,,,x,,a", "invalid_field: ratio: expected"),
            (r#"{"id":"a","open":7}"#, ",,7,,,,,a", "invalid_field: open: expected"),
            (r#"{"id":"a","fare":"x"}"#, ",,,,x,,,a", "invalid_field: fare: expected"),
            (r#"{"id":"a","tags":[7]}"#, ",[7],,,,,,a", "invalid_field: tags"),
            (
                r#"{"id":"a","meta":{"a":1,"a":2}}"#,
                r#""{""a"":1,""a"":2}",,,,,,,a"#,
                "invalid_field: meta: expected each key of an object once",
            ),
            (r#"{"id":"abcd"}"#, ",,,,,,,abcd", "invalid_field: id: expected 1 to 3 characters"),
            (r#"{"seat":1}"#, ",,,,,,1,", "missing_field: id: a value is required"),
            (r#"{"id":null}"#, ",,,,,,,", "id"),
        ];
        for (json, csv, says) in cases {
            for rejected in [of_json(json).unwrap_err(), of_csv(csv).unwrap_err()] {
                assert!(rejected.contains(says), "{rejected} for {json}");
                assert!(!rejected.contains("3000000000") && !rejected.contains("abcd"));
            }
        }
        for ratio in ["1e39", "-1e39"] {
            let json = of_json(&format!(r#"{{"id":"a","ratio":{ratio}}}"#)).unwrap_err();
            assert!(json.starts_with("invalid_field: ratio: number out of range"), "{json}");
        }
        let too_large = of_csv(",,,,,1e39,,a").unwrap_err();
        assert_eq!(too_large, "invalid_field: ratio: expected a number in the type's range");
        assert_eq!(of_json("{} {}").unwrap_err(), "missing_field: id: a value is required");
        assert_eq!(of_json(r#"["a"]"#).unwrap_err(), "invalid_json: expected a JSON object");
        assert!(of_json(r#"{"id":"a"} x"#).unwrap_err().starts_with("invalid_json: trailing"));
    }
}
