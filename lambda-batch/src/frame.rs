//! Where the records of a CSV file begin and end.
//!
//! A pure state machine that draws the same borders as `csv-core`'s reader with
//! its default settings: a quote is special only at a field's start, a doubled
//! one inside quotes is text, text may follow a closing quote, a record ends at
//! LF, CRLF or a lone CR, blank lines are no records, and the last line needs no
//! line end. It jumps from one interesting byte to the next instead of walking,
//! and can be stopped and resumed at any byte, so it runs over a file in blocks
//! of any size in constant memory.

use memchr::{memchr, memchr_iter, memchr3};

/// Longest record, and longest run of blank lines, in bytes. A longer record is
/// most likely a quote that nobody closed.
pub const RECORD_BYTES_MAX: u64 = 4 << 20;

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// One record's place in the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its first byte.
    pub start: u64,
    /// The byte behind its last one, its line end not included.
    pub end: u64,
    /// The line on which it begins, counted from 1 by LF as `csv` does.
    pub line: u64,
}

/// Why no record ends here: one, or a run of blank lines, is beyond
/// [`RECORD_BYTES_MAX`], or a quote is open where the content ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Endless {
    /// A record.
    #[error("the record that begins on line {line} is longer than 4 MiB")]
    Record {
        /// Where it begins.
        line: u64,
    },
    /// A quote. All that follows would be one record.
    #[error("the quote that opens on line {line} is not closed within 4 MiB, nor by the end")]
    Quote {
        /// Where it opens.
        line: u64,
    },
    /// Blank lines.
    #[error("more than 4 MiB of blank lines before line {line}")]
    Blank {
        /// Where it was noticed.
        line: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the very beginning; so many bytes of a byte order mark were seen.
    Mark(u8),
    /// Between records.
    Between,
    /// In a record outside quotes. A quote here opens only at a field's start.
    Plain { field_start: bool },
    /// Inside quotes.
    Quoted,
    /// Behind a quote inside quotes: it closes them unless another one follows.
    Closing,
}

/// Finds records in content that is handed over block by block.
#[derive(Debug, Clone)]
pub struct Framer {
    state: State,
    /// The next byte to look at.
    at: u64,
    /// The line it is on.
    line: u64,
    /// Where the record at hand began, or the run of blank lines did.
    start: u64,
    start_line: u64,
    /// Where the last quote opened.
    quote_line: u64,
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

impl Framer {
    /// At the beginning of a file, where a byte order mark may stand.
    pub fn new() -> Self {
        Self { state: State::Mark(0), at: 0, line: 1, start: 0, start_line: 1, quote_line: 1 }
    }

    /// At byte `position`, on `line`, between two records.
    pub fn resume(position: u64, line: u64) -> Self {
        let (at, start, start_line, quote_line) = (position, position, line, line);
        Self { state: State::Between, at, line, start, start_line, quote_line }
    }

    /// The next byte to look at.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// First byte and line of the record whose end was not seen yet.
    pub fn open(&self) -> Option<(u64, u64)> {
        match self.state {
            State::Mark(_) | State::Between => None,
            State::Plain { .. } | State::Quoted | State::Closing => {
                Some((self.start, self.start_line))
            }
        }
    }

    /// The next record that ends in `rest`, which is shortened by what was looked
    /// at. `None`: `rest` is empty now, go on with the following block.
    ///
    /// # Errors
    /// [`Endless`]; the framer must not be asked again.
    pub fn next(&mut self, rest: &mut &[u8]) -> Result<Option<Frame>, Endless> {
        while !rest.is_empty() {
            match self.state {
                State::Mark(seen) => self.mark(seen, rest),
                State::Between => self.between(rest)?,
                State::Plain { field_start } => {
                    if let Some(frame) = self.plain(field_start, rest) {
                        return Self::checked(frame).map(Some);
                    }
                }
                State::Quoted => self.quoted(rest),
                State::Closing => self.closing(rest),
            }
        }
        match self.open() {
            Some(_) if self.at - self.start > RECORD_BYTES_MAX => Err(self.endless()),
            _ => Ok(None),
        }
    }

    /// Why the record at hand does not end.
    fn endless(&self) -> Endless {
        match self.state {
            State::Quoted => Endless::Quote { line: self.quote_line },
            _ => Endless::Record { line: self.start_line },
        }
    }

    /// The last record, if the content ends without a line end.
    ///
    /// # Errors
    /// As for [`Framer::next`], and if the content ends inside quotes: it was cut, or
    /// its last record holds many.
    pub fn finish(mut self) -> Result<Option<Frame>, Endless> {
        if self.state == State::Quoted {
            return Err(self.endless());
        }
        if let State::Mark(1..) = self.state {
            self.state = State::Plain { field_start: false };
        }
        match self.open() {
            None => Ok(None),
            Some((start, line)) => Self::checked(Frame { start, end: self.at, line }).map(Some),
        }
    }

    fn checked(frame: Frame) -> Result<Frame, Endless> {
        if frame.end - frame.start > RECORD_BYTES_MAX {
            return Err(Endless::Record { line: frame.line });
        }
        Ok(frame)
    }

    fn mark(&mut self, seen: u8, rest: &mut &[u8]) {
        if rest[0] == BYTE_ORDER_MARK[usize::from(seen)] {
            self.skip(rest, 1);
            self.state = State::Mark(seen + 1);
            if usize::from(seen) + 1 == BYTE_ORDER_MARK.len() {
                self.state = State::Between;
                self.start = self.at;
            }
        } else if seen == 0 {
            self.state = State::Between;
        } else {
            // Half a mark is text of the first field.
            self.state = State::Plain { field_start: false };
        }
    }

    fn between(&mut self, rest: &mut &[u8]) -> Result<(), Endless> {
        let blank = rest.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        self.line += count_lines(&rest[..blank]);
        self.skip(rest, blank);
        if self.at - self.start > RECORD_BYTES_MAX {
            return Err(Endless::Blank { line: self.line });
        }
        if !rest.is_empty() {
            (self.start, self.start_line) = (self.at, self.line);
            self.state = State::Plain { field_start: true };
        }
        Ok(())
    }

    fn plain(&mut self, field_start: bool, rest: &mut &[u8]) -> Option<Frame> {
        let Some(found) = memchr3(b'\n', b'\r', b'"', rest) else {
            self.state = State::Plain { field_start: rest.ends_with(b",") };
            self.skip(rest, rest.len());
            return None;
        };
        if rest[found] == b'"' {
            let opens = if found == 0 { field_start } else { rest[found - 1] == b',' };
            if opens {
                self.quote_line = self.line;
            }
            self.state = if opens { State::Quoted } else { State::Plain { field_start: false } };
            self.skip(rest, found + 1);
            return None;
        }
        let end = self.at + found as u64;
        let frame = Frame { start: self.start, end, line: self.start_line };
        self.line += u64::from(rest[found] == b'\n');
        self.skip(rest, found + 1);
        self.state = State::Between;
        self.start = self.at;
        Some(frame)
    }

    fn quoted(&mut self, rest: &mut &[u8]) {
        let found = memchr(b'"', rest);
        let text = found.unwrap_or(rest.len());
        self.line += count_lines(&rest[..text]);
        self.skip(rest, text + usize::from(found.is_some()));
        if found.is_some() {
            self.state = State::Closing;
        }
    }

    fn closing(&mut self, rest: &mut &[u8]) {
        self.state = match rest[0] {
            b'"' => {
                self.skip(rest, 1);
                State::Quoted
            }
            // A comma, a line end or more text: as in a field without quotes.
            _ => State::Plain { field_start: false },
        };
    }

    fn skip(&mut self, rest: &mut &[u8], count: usize) {
        *rest = &rest[count..];
        self.at += count as u64;
    }
}

fn count_lines(text: &[u8]) -> u64 {
    memchr_iter(b'\n', text).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All records of `content`, handed over in blocks of these sizes in turn.
    fn frames(content: &[u8], sizes: &[usize]) -> Result<Vec<Frame>, Endless> {
        let mut framer = Framer::new();
        let mut found = Vec::new();
        let (mut at, mut turn) = (0, 0);
        while at < content.len() {
            let size = sizes[turn % sizes.len()].min(content.len() - at);
            let mut block = &content[at..at + size];
            while let Some(frame) = framer.next(&mut block)? {
                found.push(frame);
            }
            assert!(block.is_empty());
            (at, turn) = (at + size, turn + 1);
            assert_eq!(framer.position(), at as u64);
        }
        found.extend(framer.finish()?);
        Ok(found)
    }

    fn reader(content: &[u8]) -> csv::Reader<&[u8]> {
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(content)
    }

    /// What a plain `csv` reader says: fields, first byte and line of each record.
    fn by_csv(content: &[u8]) -> Vec<(Vec<Vec<u8>>, u64, u64)> {
        let marked = content.starts_with(&BYTE_ORDER_MARK);
        let mut records = Vec::new();
        for record in reader(content).byte_records() {
            let record = record.expect("a slice is readable and ragged rows are allowed");
            let position = record.position().expect("a record that was read has one");
            // The reader's position is where it stood, before what it skips.
            let mut start = position.byte();
            if start == 0 && marked {
                start = 3;
            }
            let skipped = content[start as usize..]
                .iter()
                .take_while(|byte| matches!(byte, b'\n' | b'\r'))
                .count();
            let line = position.line() + count_lines(&content[start as usize..][..skipped]);
            let fields = record.iter().map(<[u8]>::to_vec).collect();
            records.push((fields, start + skipped as u64, line));
        }
        records
    }

    fn by_frames(content: &[u8], sizes: &[usize]) -> Vec<(Vec<Vec<u8>>, u64, u64)> {
        let frames = frames(content, sizes).expect("short records");
        let record = |frame: Frame| {
            let bytes = &content[frame.start as usize..frame.end as usize];
            // Without a line end and alone: what a decoder is given.
            let mut csv = reader(bytes);
            // A record that looks like a byte order mark is text everywhere but first.
            let mut shielded = b"\n".to_vec();
            shielded.extend_from_slice(bytes);
            let mut shielded_csv = reader(&shielded);
            let csv: &mut dyn Iterator<Item = csv::Result<csv::ByteRecord>> =
                if bytes.starts_with(&BYTE_ORDER_MARK) {
                    &mut shielded_csv.byte_records()
                } else {
                    &mut csv.byte_records()
                };
            let record = csv.next().expect("a record").expect("a slice is readable");
            assert!(csv.next().is_none(), "one frame holds one record");
            (record.iter().map(<[u8]>::to_vec).collect(), frame.start, frame.line)
        };
        frames.into_iter().map(record).collect()
    }

    /// Bytes that matter to the state machine, far denser than chance has them.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => prop::sample::select(vec![
                "\"", "\"\"", ",", "\n", "\r", "\r\n", "a", "bc", "\u{feff}", " ",
                "\n\n", ",\"", "\",", "\"\n", "\n\"", "",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..4),
            1 => Just(vec![0xef, 0xbb]),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_bytes_in_blocks_of_any_size_give_the_records_of_a_csv_reader(
            content in hostile(),
            sizes in prop::collection::vec(1_usize..20, 1..5),
        ) {
            let csv = by_csv(&content);
            // Inside quotes, whatever comes is text of the last field.
            let open = by_csv(&[&content[..], b"\nx"].concat()).len() == csv.len();
            prop_assert_eq!(frames(&content, &sizes).is_err(), open);
            if !open {
                prop_assert_eq!(by_frames(&content, &sizes), csv);
            }
        }

        #[test]
        fn resuming_at_any_record_gives_the_rest_of_the_records(mut content in hostile()) {
            if frames(&content, &[7]).is_err() {
                content.push(b'"');
            }
            let all = frames(&content, &[7]).expect("short records, and no open quote");
            for (index, from) in all.iter().enumerate() {
                let mut framer = Framer::resume(from.start, from.line);
                let mut rest = &content[from.start as usize..];
                let mut resumed = Vec::new();
                while let Some(frame) = framer.next(&mut rest).expect("short records") {
                    resumed.push(frame);
                }
                resumed.extend(framer.finish().expect("short records"));
                prop_assert_eq!(&resumed[..], &all[index..]);
            }
        }
    }

    #[test]
    fn a_quote_that_nobody_closes_is_refused_with_the_line_where_it_began() {
        let mut content = b"h\n1\n2,\"two\nlines\",\"open\n".to_vec();
        for more in [0, 100, RECORD_BYTES_MAX as usize] {
            content.resize(content.len() + more, b'\n');
            for size in [1 << 20, 65_537, 7, content.len()] {
                assert_eq!(frames(&content, &[size]), Err(Endless::Quote { line: 4 }));
            }
        }
    }

    #[test]
    fn a_record_of_exactly_4_mib_is_taken_and_one_byte_more_is_refused() {
        let longest = vec![b'x'; RECORD_BYTES_MAX as usize];
        for ending in [&b""[..], b"\n", b"\r\n"] {
            let fits = [&longest[..], ending].concat();
            let over = [&b"x"[..], &longest, ending].concat();
            for size in [1000, 1 << 20, fits.len(), over.len()] {
                assert_eq!(frames(&fits, &[size]).map(|frames| frames.len()), Ok(1));
                assert_eq!(frames(&over, &[size]), Err(Endless::Record { line: 1 }));
            }
        }
    }

    #[test]
    fn more_than_4_mib_of_blank_lines_are_refused() {
        let content = vec![b'\n'; RECORD_BYTES_MAX as usize + 1];
        assert!(matches!(frames(&content, &[1 << 16]), Err(Endless::Blank { .. })));
    }
}
