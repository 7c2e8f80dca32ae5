//! Splits one record into its fields, by RFC 4180 and nothing more lenient: after a
//! closing quote only a comma or a line end is allowed, and a quote inside a field that
//! is not in quotes is an error.
//!
//! A more lenient reader takes `"Memphis,true` and the rows after it for one field, and
//! loses records silently.

use std::fmt;

use crate::record::Scratch;

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
            Self::Followed => "expected a comma or the line's end after a closing quote",
            Self::InText => "a quote in a field that does not begin with one",
            Self::Open => "the quote that opens here is not closed",
        })
    }
}

impl Scratch {
    /// Splits a record into its fields, unquoted; the record may have a line end.
    ///
    /// # Errors
    /// The first [`Defect`]; the fields are then invalid.
    pub(super) fn split(&mut self, record: &[u8]) -> Result<(), Defect> {
        self.text.clear();
        self.ends.clear();
        let mut at = record.iter().position(|byte| !is_line_end(*byte)).ok_or(Defect::Blank)?;
        loop {
            at = match record.get(at) {
                Some(b'"') => self.quoted(record, at)?,
                _ => self.plain(record, at)?,
            };
            self.ends.push(self.text.len());
            if record.get(at) != Some(&b',') {
                break;
            }
            at += 1;
        }
        if record[at..].iter().all(|byte| is_line_end(*byte)) { Ok(()) } else { Err(Defect::More) }
    }

    /// Reads the field that begins at `from`; returns its end.
    fn plain(&mut self, record: &[u8], from: usize) -> Result<usize, Defect> {
        let ends = |byte: &u8| matches!(byte, b',' | b'"') || is_line_end(*byte);
        let end = record[from..].iter().position(ends).map_or(record.len(), |length| from + length);
        if record.get(end) == Some(&b'"') {
            return Err(Defect::Quote { at: end, misplaced: Misplaced::InText });
        }
        self.text.extend_from_slice(&record[from..end]);
        Ok(end)
    }

    /// Reads the field whose quote opens at `open`; returns the position after its closing
    /// quote.
    fn quoted(&mut self, record: &[u8], open: usize) -> Result<usize, Defect> {
        let mut at = open + 1;
        loop {
            let length = record[at..].iter().position(|byte| *byte == b'"');
            let unclosed = Defect::Quote { at: open, misplaced: Misplaced::Open };
            let quote = at + length.ok_or(unclosed)?;
            self.text.extend_from_slice(&record[at..quote]);
            at = quote + 1;
            match record.get(at) {
                Some(b'"') => {
                    self.text.push(b'"');
                    at += 1;
                }
                Some(byte) if *byte != b',' && !is_line_end(*byte) => {
                    return Err(Defect::Quote { at, misplaced: Misplaced::Followed });
                }
                _ => return Ok(at),
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
        let mut fields = Scratch::default();
        fields.split(record)?;
        let starts = std::iter::once(0).chain(fields.ends.iter().copied());
        let fields = starts.zip(&fields.ends).map(|(start, end)| fields.text[start..*end].to_vec());
        Ok(fields.collect())
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
