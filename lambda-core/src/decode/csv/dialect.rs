//! How the files of a pipeline spell their rows.

use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::Offset;
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
pub(crate) struct Dialect {
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
        let others = [*delimiter, *quote, '\n', '\r', '\0'];
        if let Some(null) = null.as_ref().filter(|null| null.contains(others)) {
            return Some(format!(
                "the text of null, {null:?}, has a mark, a line end or NUL in it"
            ));
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
    // Names of zones are not looked up, and times in them would be taken as UTC.
    let names_zones = format.contains("%Q") || format.contains("%:Q");
    // With a fraction: `%.f` writes none of zero.
    let written = jiff::Timestamp::new(981_173_106, 500_000_000)
        .and_then(|moment| strtime::format(format, moment));
    !names_zones && written.is_ok_and(|text| usual(format, &text, kind).is_some())
}

/// A date or time as ISO 8601 writes it, from a text in another format.
pub(super) fn usual(format: &str, text: &str, kind: &ColumnType) -> Option<String> {
    let read = BrokenDownTime::parse(format, text).ok()?;
    if *kind == ColumnType::Date {
        return read.to_date().ok().map(|date| date.to_string());
    }
    if let Some(moment) = read.timestamp() {
        // A fraction beside it would be dropped.
        let time = Offset::UTC.to_datetime(moment);
        return read
            .subsec_nanosecond()
            .is_none()
            .then(|| format!("{} {}", time.date(), time.time()));
    }
    if read.iana_time_zone().is_some() || is_leap_second(format, text, &read) {
        return None;
    }
    let time = read.to_datetime().ok()?;
    let Some(offset) = read.offset() else {
        return Some(format!("{} {}", time.date(), time.time()));
    };
    let (sign, seconds) = (if offset.is_negative() { '-' } else { '+' }, offset.seconds().abs());
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let is_whole = seconds % 60 == 0;
    is_whole.then(|| format!("{}T{}{sign}{hours:02}:{minutes:02}", time.date(), time.time()))
}

/// Whether a text spells second 60, which was read as 59: no time has it in PostgreSQL.
fn is_leap_second(format: &str, text: &str, read: &BrokenDownTime) -> bool {
    read.second() == Some(59)
        && text.match_indices("60").any(|(at, sixty)| {
            let other = [&text[..at], "59", &text[at + sixty.len()..]].concat();
            BrokenDownTime::parse(format, other).is_ok_and(|other| {
                other.to_datetime().ok() == read.to_datetime().ok()
                    && other.offset() == read.offset()
            })
        })
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
            (r#"{"time_format":"%s%.f"}"#, "time_format"),
            (r#"{"time_format":"%F %T %Q"}"#, "time_format"),
            (r#"{"null":"\u0000"}"#, "NUL"),
            (r#"{"date_format":"%d.%m."}"#, "date_format"),
        ] {
            let defect = dialect(json).defect();
            assert_eq!(defect.is_some(), !says.is_empty(), "{json}: {defect:?}");
            assert!(defect.unwrap_or_default().contains(says), "{json}");
        }
    }
}
