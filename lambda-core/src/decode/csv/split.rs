//! Splits one record into its fields, by RFC 4180 and nothing more lenient: after a
//! closing quote only a delimiter or a line end is allowed, and a quote inside a field that
//! is not in quotes is an error.
//!
//! A more lenient reader takes `"Memphis,true` and the rows after it for one field, and
//! loses records silently.

use std::fmt;

use memchr::{memchr_iter, memchr3};

use super::Marks;
use crate::decode::bytes::{self, Word};

/// Reason why a record cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// No record, only line ends.
    Blank,
    /// A second record follows.
    More,
    /// A quote is misplaced.
    Quote {
        /// Byte of the record.
        at: usize,
        /// The kind of error.
        misplaced: Misplaced,
    },
}

/// Error of a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misplaced {
    /// It closes, and other text follows; the place is that of the text.
    Followed,
    /// It is in a field that does not begin with one.
    InText,
    /// It opens and is not closed.
    Open,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Followed => "expected a delimiter or the line's end after a closing quote",
            Self::InText => "a quote in a field that does not begin with one",
            Self::Open => "the quote that opens here is not closed",
        })
    }
}

/// A record while it is split.
#[derive(Debug)]
struct Split<'r, 'u> {
    record: &'r str,
    marks: Marks,
    at: usize,
    /// The text of a field that has quotes in it.
    unquoted: &'u mut String,
}

/// Gives each field of a record, with its number, unquoted, and whether it was in quotes, to
/// `field`; the record may have a line end. Returns the number of fields.
///
/// # Errors
/// The first [`Defect`]; fields before it were given.
#[inline]
pub(super) fn split(
    record: &str,
    marks: Marks,
    unquoted: &mut String,
    mut field: impl FnMut(usize, &str, bool),
) -> Result<usize, Defect> {
    let fields = record.trim_matches(['\r', '\n']);
    if fields.is_empty() {
        return Err(Defect::Blank);
    }
    if memchr3(marks.quote, b'\r', b'\n', fields.as_bytes()).is_none() {
        let (mut begin, mut count) = (0, 0);
        for end in memchr_iter(marks.delimiter, fields.as_bytes()).chain([fields.len()]) {
            field(count, fields.get(begin..end).unwrap_or_default(), false);
            (begin, count) = (end + 1, count + 1);
        }
        return Ok(count);
    }
    let at = record.bytes().take_while(|byte| is_line_end(*byte)).count();
    let mut split = Split { record, marks, at, unquoted };
    let mut count = 0;
    loop {
        let is_quoted = split.is(marks.quote);
        let text = if is_quoted { split.quoted()? } else { split.plain()? };
        field(count, text, is_quoted);
        count += 1;
        if !split.is(marks.delimiter) {
            break;
        }
        split.at += 1;
    }
    let rest = record.as_bytes().get(split.at..).unwrap_or_default();
    if rest.iter().all(|byte| is_line_end(*byte)) { Ok(count) } else { Err(Defect::More) }
}

impl Split<'_, '_> {
    #[inline]
    fn is(&self, byte: u8) -> bool {
        self.record.as_bytes().get(self.at) == Some(&byte)
    }

    /// Reads the field that begins here.
    #[inline]
    fn plain(&mut self) -> Result<&str, Defect> {
        let (begin, Marks { delimiter, quote }) = (self.at, self.marks);
        self.at = bytes::find(self.record.as_bytes(), begin, |word: Word| {
            word.equals(delimiter) | word.equals(quote) | word.equals(b'\n') | word.equals(b'\r')
        });
        if self.is(quote) {
            return Err(Defect::Quote { at: self.at, misplaced: Misplaced::InText });
        }
        Ok(self.record.get(begin..self.at).unwrap_or_default())
    }

    /// Reads the field whose quote opens here.
    fn quoted(&mut self) -> Result<&str, Defect> {
        let (open, Marks { delimiter, quote }) = (self.at, self.marks);
        let mut begin = open + 1;
        let mut has_quotes = false;
        self.unquoted.clear();
        loop {
            let end = bytes::find(self.record.as_bytes(), begin, |word: Word| word.equals(quote));
            if end == self.record.len() {
                return Err(Defect::Quote { at: open, misplaced: Misplaced::Open });
            }
            let text = self.record.get(begin..end).unwrap_or_default();
            self.at = end + 1;
            match self.record.as_bytes().get(self.at) {
                Some(byte) if *byte == quote => {
                    self.unquoted.push_str(text);
                    self.unquoted.push(char::from(quote));
                    has_quotes = true;
                    begin = self.at + 1;
                }
                Some(byte) if *byte != delimiter && !is_line_end(*byte) => {
                    return Err(Defect::Quote { at: self.at, misplaced: Misplaced::Followed });
                }
                _ if !has_quotes => return Ok(text),
                _ => {
                    self.unquoted.push_str(text);
                    return Ok(self.unquoted);
                }
            }
        }
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Line and column of the byte `at` of a record that begins on `line`. A line ends at
/// LF, CRLF or a lone CR, a column is a character; both are counted from 1.
pub(super) fn place(record: &[u8], at: usize, line: u64) -> (u64, usize) {
    let (mut line, mut begin) = (line, 0);
    for (index, byte) in record[..at].iter().enumerate() {
        if *byte == b'\n' || *byte == b'\r' && record.get(index + 1) != Some(&b'\n') {
            (line, begin) = (line + 1, index + 1);
        }
    }
    (line, String::from_utf8_lossy(&record[begin..at]).chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(record: &[u8]) -> Result<Vec<Vec<u8>>, Defect> {
        let record = std::str::from_utf8(record).expect("text");
        let mut fields = Vec::new();
        let count =
            super::split(record, Marks::default(), &mut String::new(), |number, field, _| {
                assert_eq!(number, fields.len());
                fields.push(field.as_bytes().to_vec());
            })?;
        assert_eq!(count, fields.len());
        Ok(fields)
    }

    /// The records that a lenient reader finds.
    fn by_csv(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        // A line feed in front keeps the reader from removing a byte order mark.
        let shielded = [b"\n", bytes].concat();
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&shielded[..]);
        let fields = |record: csv::ByteRecord| record.iter().map(<[u8]>::to_vec).collect();
        reader.byte_records().map(|record| fields(record.expect("a slice is readable"))).collect()
    }

    /// Whether a quote is misplaced there, by RFC 4180:
    /// `escaped = DQUOTE *(TEXTDATA / COMMA / CR / LF / 2DQUOTE) DQUOTE`.
    fn is_misplaced(record: &[u8], at: usize, misplaced: Misplaced) -> bool {
        let even =
            |text: &[u8]| String::from_utf8_lossy(text).matches('"').count().is_multiple_of(2);
        let ends_field = |byte: u8| byte == b',' || is_line_end(byte);
        even(&record[..at])
            && match misplaced {
                Misplaced::InText => record[at] == b'"' && !ends_field(record[at - 1]),
                Misplaced::Followed => {
                    record[at - 1] == b'"' && record[at] != b'"' && !ends_field(record[at])
                }
                Misplaced::Open => record[at] == b'"' && !even(&record[at..]),
            }
    }

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "\"", "\"\"", ",", "\n", "\r", "\r\n", "a", "bc", "\u{feff}", " ", ",\"", "\",", "é",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_record_is_split_as_any_reader_does_or_has_a_defect(record in hostile()) {
            match split(&record) {
                Ok(fields) => prop_assert_eq!(by_csv(&record), vec![fields]),
                Err(Defect::Blank) => prop_assert!(by_csv(&record).is_empty()),
                Err(Defect::More) => prop_assert!(by_csv(&record).len() > 1),
                Err(Defect::Quote { at, misplaced }) => {
                    prop_assert!(is_misplaced(&record, at, misplaced), "{}: {}", at, misplaced);
                }
            }
        }
    }

    #[test]
    fn a_misplaced_quote_is_found_where_it_is() {
        for (record, at, misplaced) in [
            ("a,\"Joe\\\"s Bar\",b", 8, Misplaced::Followed),
            ("a,\"b\" ,c", 5, Misplaced::Followed),
            ("\"a\nb\"c", 5, Misplaced::Followed),
            ("a,5\" pipe,c", 3, Misplaced::InText),
            ("a, \"b\",c", 3, Misplaced::InText),
            ("a,\"Memphis,true,0.10", 2, Misplaced::Open),
            ("a,\"b\"\"", 2, Misplaced::Open),
        ] {
            let defect = Defect::Quote { at, misplaced };
            assert_eq!(split(record.as_bytes()), Err(defect), "{record:?}");
        }
    }

    #[test]
    fn lines_end_at_any_line_end_and_columns_are_characters() {
        let record = "é\r\nab\rc\n\u{1F980}d".as_bytes();
        assert_eq!(place(record, 2, 7), (7, 2));
        assert_eq!(place(record, 5, 7), (8, 2));
        assert_eq!(place(record, 7, 7), (9, 1));
        assert_eq!(place(record, 13, 7), (10, 2));
    }
}
