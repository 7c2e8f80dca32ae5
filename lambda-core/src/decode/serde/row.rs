//! A row of a file as serde's data: a map from the table's fields to their texts.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::dead_letter::{Reason, Reject};
use crate::decode::csv::CsvFields;
use crate::record::Column;

/// Name under which `serde_json` asks for a value's own text, for its `RawValue`.
const RAW_JSON: &str = "$serde_json::private::RawValue";

/// What is wrong with a row.
#[derive(Debug)]
pub(super) struct Error {
    /// The field, once it is known.
    field: Option<String>,
    reason: Reason,
    /// The form that is expected, without the value.
    expected: String,
}

impl Error {
    fn new(reason: Reason, expected: &str) -> Self {
        Self { field: None, reason, expected: expected.to_owned() }
    }

    pub(super) fn into_reject(self) -> Reject {
        match self.field {
            Some(field) => Reject::field(self.reason, &field, self.expected),
            None => Reject::new(self.reason, self.expected),
        }
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Reason::InvalidField, &super::expectation(&message.to_string()))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { field: Some(field.into()), ..Self::new(Reason::MissingField, REQUIRED) }
    }
}

const REQUIRED: &str = "a value is required";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expected)
    }
}

impl std::error::Error for Error {}

/// A row.
pub(super) struct Row<'a> {
    fields: CsvFields<'a>,
    next: usize,
}

impl<'a> Row<'a> {
    pub(super) fn new(fields: CsvFields<'a>) -> Self {
        Self { fields, next: 0 }
    }
}

impl<'de> Deserializer<'de> for Row<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl Row<'_> {
    fn column(&self) -> Option<&Column> {
        self.fields.columns().get(self.next)
    }
}

impl<'de> MapAccess<'de> for Row<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(column) = self.column() else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = column.field.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = seed.deserialize(Text(self.fields.get(self.next)));
        let value = value.map_err(|error| Error {
            field: error.field.or_else(|| self.column().map(|column| column.field.clone())),
            ..error
        });
        self.next += 1;
        value
    }
}

/// The text of a field; nothing for an empty one, which is null.
struct Text<'a>(Option<&'a str>);

impl<'a> Text<'a> {
    fn required(&self) -> Result<&'a str, Error> {
        self.0.ok_or_else(|| Error::new(Reason::MissingField, REQUIRED))
    }

    /// Lets `serde_json` read the text.
    fn as_json<T>(
        &self,
        read: impl FnOnce(
            &mut serde_json::Deserializer<serde_json::de::StrRead<'a>>,
        ) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let mut json = serde_json::Deserializer::from_str(self.required()?);
        let value = read(&mut json).and_then(|value| json.end().map(|()| value));
        // Such a text names the expected token and the place, or is one of ours.
        value.map_err(|error| {
            if error.is_data() {
                de::Error::custom(error)
            } else {
                de::Error::custom("expected JSON")
            }
        })
    }
}

/// Numbers, each parsed at its own width.
macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty, $expected:literal;)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                let parsed = self.required()?.parse::<$type>();
                let value = parsed.map_err(|_| Error::new(Reason::InvalidField, $expected))?;
                visitor.$visit(value)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = Error;

    parsed! {
        deserialize_i8 visit_i8 i8, "expected a whole number of 8 bits";
        deserialize_i16 visit_i16 i16, "expected a whole number of 16 bits";
        deserialize_i32 visit_i32 i32, "expected a whole number of 32 bits";
        deserialize_i64 visit_i64 i64, "expected a whole number of 64 bits";
        deserialize_i128 visit_i128 i128, "expected a whole number of 128 bits";
        deserialize_u8 visit_u8 u8, "expected a whole number of 8 bits, without a sign";
        deserialize_u16 visit_u16 u16, "expected a whole number of 16 bits, without a sign";
        deserialize_u32 visit_u32 u32, "expected a whole number of 32 bits, without a sign";
        deserialize_u64 visit_u64 u64, "expected a whole number of 64 bits, without a sign";
        deserialize_u128 visit_u128 u128, "expected a whole number of 128 bits, without a sign";
        deserialize_char visit_char char, "expected one character";
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f32(float(self.required()?, f32::is_infinite)?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(float(self.required()?, f64::is_infinite)?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.required()?;
        if text.eq_ignore_ascii_case("true") {
            visitor.visit_bool(true)
        } else if text.eq_ignore_ascii_case("false") {
            visitor.visit_bool(false)
        } else {
            Err(Error::new(Reason::InvalidField, "expected true or false"))
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_none() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == RAW_JSON {
            return self.as_json(|json| json.deserialize_newtype_struct(name, visitor));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.as_json(|json| json.deserialize_seq(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.as_json(|json| json.deserialize_tuple(length, visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.as_json(|json| json.deserialize_tuple_struct(name, length, visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.as_json(|json| json.deserialize_map(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.as_json(|json| json.deserialize_struct(name, fields, visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant: StrDeserializer<'_, Error> = self.required()?.into_deserializer();
        visitor.visit_enum(variant)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bytes(self.required()?.as_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    /// A column of the table that the record does not read would become null.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::new(Reason::InvalidField, "expected a field that the record reads"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Some(text) => visitor.visit_borrowed_str(text),
            None => visitor.visit_none(),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.required()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! { unit unit_struct }
}

/// Parses a number at its own width: one that is too large for it is no infinity.
fn float<T: std::str::FromStr + Copy>(
    text: &str,
    is_infinite: impl Fn(T) -> bool,
) -> Result<T, Error> {
    let spells_infinity = text.trim_start_matches(['+', '-']).starts_with(['i', 'I']);
    let number = text.parse().ok().filter(|number| spells_infinity || !is_infinite(*number));
    number.ok_or_else(|| Error::new(Reason::InvalidField, "expected a number in the type's range"))
}

/// The names of the fields that serde reads of a struct; nothing for another type, or one with
/// its own way to be read.
pub(super) fn known<R: de::DeserializeOwned>() -> Option<&'static [&'static str]> {
    let mut found = None;
    // It fails in any case: there is no value.
    let _ = R::deserialize(Probe(&mut found));
    found
}

/// Asks a type what it would read.
struct Probe<'f>(&'f mut Option<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = Some(fields);
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::new(Reason::InvalidField, "there is no value"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
