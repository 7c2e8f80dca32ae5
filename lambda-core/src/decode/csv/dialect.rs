//! How the files of a pipeline spell their rows.

use jiff::fmt::strtime::{self, BrokenDownTime};
use serde::{Deserialize, Serialize};

use crate::record::ColumnType;

/// The bytes that separate the fields of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Marks {
    /// The byte between two fields.
    pub delimiter: u8,
    /// The byte around a field that has marks or line ends in it; doubled, it is text.
    pub quote: u8,
}

impl Default for Marks {
    fn default() -> Self {
        Self { delimiter: b',', quote: b'"' }
    }
}

/// All that rows of one form may spell differently from those of another. A job keeps it as JSON,
/// without what is as usual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Dialect {
    #[serde(skip_serializing_if = "is_comma")]
    pub(super) delimiter: char,
    #[serde(skip_serializing_if = "is_quote")]
    pub(super) quote: char,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) null: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) time_format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) date_format: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_comma(delimiter: &char) -> bool {
    *delimiter == ','
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_quote(quote: &char) -> bool {
    *quote == '"'
}

impl Default for Dialect {
    fn default() -> Self {
        let (null, time_format, date_format) = (None, None, None);
        Self { delimiter: ',', quote: '"', null, time_format, date_format }
    }
}

impl Dialect {
    /// The marks; those of [`Self::defect`] are wrong.
    pub(super) fn marks(&self) -> Marks {
        let byte = |mark: char| u8::try_from(mark).unwrap_or(b'?');
        Marks { delimiter: byte(self.delimiter), quote: byte(self.quote) }
    }

    /// Describes what is wrong, if anything is.
    pub(super) fn defect(&self) -> Option<String> {
        let Self { delimiter, quote, null, time_format, date_format } = self;
        let is_mark = |mark: char| {
            mark == '\t' || mark.is_ascii() && !mark.is_control() && !mark.is_ascii_alphanumeric()
        };
        for (name, mark) in [("delimiter", delimiter), ("quote", quote)] {
            if !is_mark(*mark) {
                return Some(format!(
                    "the {name} {mark:?} is not a tab or an ASCII character that is no letter and \
                     no digit"
                ));
            }
        }
        if delimiter == quote {
            return Some(format!("delimiter and quote are both {delimiter:?}"));
        }
        let marks = [*delimiter, *quote, '\n', '\r'];
        if let Some(null) = null.as_ref().filter(|null| null.contains(marks)) {
            return Some(format!("the text of null, {null:?}, has a mark or a line end in it"));
        }
        let formats = [
            ("time_format", time_format, ColumnType::TIMESTAMPTZ, "a date with a time"),
            ("date_format", date_format, ColumnType::Date, "a date"),
        ];
        formats.into_iter().find_map(|(name, format, kind, what)| {
            let format = format.as_ref().filter(|format| !gives(format, &kind))?;
            Some(format!("the {name} {format:?} is none in which {what} is written"))
        })
    }

    /// The format of a column of this type, if its values are not in the usual one.
    pub(super) fn format(&self, kind: &ColumnType) -> Option<&str> {
        match kind {
            ColumnType::Timestamp { .. } | ColumnType::Timestamptz { .. } => {
                self.time_format.as_deref()
            }
            ColumnType::Date => self.date_format.as_deref(),
            _ => None,
        }
    }
}

/// Whether the format gives back a time that it has written.
fn gives(format: &str, kind: &ColumnType) -> bool {
    let written = strtime::format(format, jiff::Timestamp::UNIX_EPOCH);
    written.is_ok_and(|text| usual(format, &text, kind).is_some())
}

/// A date or time as ISO 8601 writes it, from a text in another format.
pub(super) fn usual(format: &str, text: &str, kind: &ColumnType) -> Option<String> {
    let read = BrokenDownTime::parse(format, text).ok()?;
    if *kind == ColumnType::Date {
        return read.to_date().ok().map(|date| date.to_string());
    }
    if let Ok(moment) = read.to_timestamp() {
        return Some(moment.to_string());
    }
    // Without an offset, which a `T` would ask for.
    read.to_datetime().ok().map(|time| format!("{} {}", time.date(), time.time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(json: &str) -> Dialect {
        serde_json::from_str(json).expect("a dialect")
    }

    #[test]
    fn a_dialect_is_kept_without_what_is_usual() {
        for json in ["{}", r#"{"delimiter":";","null":"\\N"}"#, r#"{"time_format":"%d.%m.%Y"}"#] {
            let kept = serde_json::to_string(&dialect(json)).expect("JSON");
            assert_eq!(kept, json);
        }
    }

    #[test]
    fn a_dialect_in_which_no_row_could_be_read_is_refused() {
        for (json, says) in [
            ("{}", ""),
            (r#"{"delimiter":"\t","quote":"'","null":"\\N"}"#, ""),
            (r#"{"time_format":"%d.%m.%Y %H:%M:%S%.f","date_format":"%d.%m.%Y"}"#, ""),
            (r#"{"time_format":"%s"}"#, ""),
            (r#"{"time_format":"%Y-%m-%dT%H:%M:%S%:z"}"#, ""),
            (r#"{"delimiter":"a"}"#, "delimiter 'a'"),
            (r#"{"delimiter":"é"}"#, "delimiter 'é'"),
            (r#"{"quote":"\n"}"#, "quote '\\n'"),
            (r#"{"delimiter":"\""}"#, "both '\"'"),
            (r#"{"null":"a,b"}"#, "the text of null"),
            (r#"{"time_format":"%H:%M"}"#, "time_format \"%H:%M\""),
            (r#"{"time_format":"%!"}"#, "time_format"),
            (r#"{"date_format":"%d.%m."}"#, "date_format"),
        ] {
            let defect = dialect(json).defect();
            assert_eq!(defect.is_some(), !says.is_empty(), "{json}: {defect:?}");
            assert!(defect.unwrap_or_default().contains(says), "{json}");
        }
    }
}
