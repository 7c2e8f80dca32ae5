//! JSON as `jsonb` keeps and prints it.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde_json::value::RawValue;

use super::{Cell, CellRef, Field, Value};
use crate::dead_letter::Reason;
use crate::record::{ColumnType, Family};

/// Most digits of a number when it is written without an exponent: enough for any double.
const DIGITS_MAX: i64 = 1_000;

/// Most digits that all exponents of a value add when they are written out: a short text must not
/// become a large one.
const DIGITS_IN_ALL: usize = 64 * 1024;

/// Deepest nesting, which is that of `serde_json` too.
const DEPTH_MAX: u32 = 127;

/// First byte of the binary form: its version.
const VERSION: u8 = 1;

/// Reason why a text cannot be `jsonb`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonbError {
    /// The text is not JSON.
    #[error("expected JSON: {0}")]
    Syntax(String),
    /// An object has a key twice.
    #[error("expected each key of an object once")]
    DuplicateKey,
    /// A text has a NUL character.
    #[error("PostgreSQL's jsonb cannot hold a NUL character")]
    Nul,
    /// A text has half of a surrogate pair.
    #[error("expected text without unpaired surrogates")]
    Surrogate,
    /// Arrays and objects are nested deeper than most programs read them.
    #[error("expected JSON nested at most {DEPTH_MAX} deep")]
    Depth,
    /// A number is very long, or very large, or very small.
    #[error("expected numbers of at most {DIGITS_MAX} digits")]
    Digits,
}

impl JsonbError {
    /// The reason of a record that is rejected for it.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::DuplicateKey => Reason::DuplicateKey,
            Self::Nul => Reason::NulCharacter,
            _ => Reason::InvalidField,
        }
    }
}

/// A JSON value in the form in which PostgreSQL prints a `jsonb`: keys by length, then by
/// bytes, one space after each colon and comma, numbers without an exponent and otherwise as
/// they were written.
///
/// ```
/// use lambda_core::record::Jsonb;
///
/// let value = Jsonb::parse(r#"{"price": 1.50, "id":"a", "large":1e2}"#)?;
/// assert_eq!(value.as_str(), r#"{"id": "a", "large": 100, "price": 1.50}"#);
/// # Ok::<(), lambda_core::record::JsonbError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Jsonb(Box<str>);

impl Jsonb {
    /// The value that a text spells.
    ///
    /// # Errors
    /// If it is not JSON, or PostgreSQL cannot keep it as it is.
    pub fn parse(text: &str) -> Result<Self, JsonbError> {
        // Checks the whole syntax, so that what follows may rely on it.
        serde_json::from_str::<IgnoredAny>(text)
            .map_err(|error| JsonbError::Syntax(error.to_string()))?;
        let mut out = String::with_capacity(text.len() + text.len() / 8);
        Printer { text, at: 0, depth: 0, digits_left: DIGITS_IN_ALL }.value(&mut out)?;
        Ok(Self(out.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Jsonb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Jsonb {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(raw.get()).map_err(serde::de::Error::custom)
    }
}

impl Value for Jsonb {
    /// JSON's own null makes the column null.
    fn write(&self, cell: &mut Cell<'_>) {
        if *cell.kind() != ColumnType::Jsonb {
            cell.misfit("JSON");
        } else if &*self.0 != "null" {
            cell.put(&[VERSION]);
            cell.put(self.0.as_bytes());
        }
    }
}

impl Field for Jsonb {
    const FAMILY: Family = Family::JSON;

    fn column_type() -> ColumnType {
        ColumnType::Jsonb
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        let (version, text) = cell.bytes()?.split_first()?;
        let text = std::str::from_utf8(text).ok().filter(|_| *version == VERSION)?;
        (*cell.kind() == ColumnType::Jsonb).then(|| Self(text.into()))
    }
}

/// Prints JSON whose syntax was checked.
struct Printer<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    /// Digits that numbers may still get when their exponents are written out.
    digits_left: usize,
}

impl<'a> Printer<'a> {
    fn value(&mut self, out: &mut String) -> Result<(), JsonbError> {
        match self.peek() {
            b'{' | b'[' if self.depth == DEPTH_MAX => Err(JsonbError::Depth),
            open @ (b'{' | b'[') => {
                self.depth += 1;
                if open == b'{' { self.object(out) } else { self.array(out) }?;
                self.depth -= 1;
                Ok(())
            }
            b'"' => {
                put_text(out, &self.string()?);
                Ok(())
            }
            b'-' | b'0'..=b'9' => {
                let (number, before) = (self.word(), out.len());
                put_number(out, number)?;
                let more = (out.len() - before).saturating_sub(number.len());
                self.digits_left = self.digits_left.checked_sub(more).ok_or(JsonbError::Digits)?;
                Ok(())
            }
            _ => {
                out.push_str(self.word());
                Ok(())
            }
        }
    }

    fn object(&mut self, out: &mut String) -> Result<(), JsonbError> {
        let mut members: Vec<(Cow<'a, str>, String)> = Vec::new();
        self.at += 1;
        while self.peek() != b'}' {
            let key = self.string()?;
            self.skip(b':');
            let mut value = String::new();
            self.value(&mut value)?;
            members.push((key, value));
            self.skip(b',');
        }
        self.at += 1;
        members.sort_by(|(one, _), (other, _)| (one.len(), one).cmp(&(other.len(), other)));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(JsonbError::DuplicateKey);
        }
        out.push('{');
        for (index, (key, value)) in members.iter().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            put_text(out, key);
            out.push_str(": ");
            out.push_str(value);
        }
        out.push('}');
        Ok(())
    }

    fn array(&mut self, out: &mut String) -> Result<(), JsonbError> {
        out.push('[');
        self.at += 1;
        let mut first = true;
        while self.peek() != b']' {
            out.push_str(if first { "" } else { ", " });
            first = false;
            self.value(out)?;
            self.skip(b',');
        }
        self.at += 1;
        out.push(']');
        Ok(())
    }

    /// The string that begins here, unescaped.
    fn string(&mut self) -> Result<Cow<'a, str>, JsonbError> {
        self.peek();
        let bytes = self.text.as_bytes();
        let begin = self.at;
        let mut end = begin + 1;
        while let Some(byte) = bytes.get(end).filter(|byte| **byte != b'"') {
            end += if *byte == b'\\' { 2 } else { 1 };
        }
        self.at = end + 1;
        let inside = self.text.get(begin + 1..end).unwrap_or_default();
        if !inside.contains('\\') {
            return Ok(Cow::Borrowed(inside));
        }
        let quoted = self.text.get(begin..=end).unwrap_or_default();
        // Its syntax was checked; only half a surrogate pair remains.
        let text: String = serde_json::from_str(quoted).map_err(|_| JsonbError::Surrogate)?;
        if text.contains('\0') { Err(JsonbError::Nul) } else { Ok(Cow::Owned(text)) }
    }

    /// The number or literal that begins here.
    fn word(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let ends = |byte: u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
        let length = rest.bytes().position(ends).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        // The syntax was checked, so that this ends every loop.
        bytes.get(self.at).copied().unwrap_or(b'}')
    }

    /// Skips this byte if it is the next one.
    fn skip(&mut self, byte: u8) {
        if self.peek() == byte {
            self.at += 1;
        }
    }
}

/// Puts a text in quotes, escaped like the server's `escape_json`.
fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control @ '\0'..' ' => {
                // A string takes any text.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Puts a number as the server's `numeric` prints it: without an exponent, with the decimals that
/// were written.
fn put_number(out: &mut String, number: &str) -> Result<(), JsonbError> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i64 = exponent.parse().map_err(|_| JsonbError::Digits)?;
    let digits = format!("{whole}{fraction}");
    // Digits before the point after it was moved by the exponent.
    let before = (whole.len() as i64).saturating_add(exponent);
    let decimals = (fraction.len() as i64).saturating_sub(exponent).max(0);
    if before > DIGITS_MAX || decimals > DIGITS_MAX || digits.len() as i64 > DIGITS_MAX {
        return Err(JsonbError::Digits);
    }
    let (whole, fraction) = match usize::try_from(before) {
        Ok(before) if before >= digits.len() => {
            let zeros = "0".repeat(before - digits.len());
            (format!("{digits}{zeros}"), String::new())
        }
        Ok(before) => (digits[..before].to_owned(), digits[before..].to_owned()),
        Err(_) => {
            let zeros = "0".repeat(before.unsigned_abs() as usize);
            (String::new(), format!("{zeros}{digits}"))
        }
    };
    let whole = whole.trim_start_matches('0');
    let is_zero = whole.is_empty() && fraction.bytes().all(|digit| digit == b'0');
    if negative && !is_zero {
        out.push('-');
    }
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(&fraction);
    }
    Ok(())
}
