//! Finds where the records of a CSV file begin and end.
//!
//! A pure state machine. A record ends at LF, CRLF or a lone CR outside quotes; blank
//! lines are no records, and the last line needs no line end. It jumps from one
//! interesting byte to the next instead of walking, and can be stopped and resumed at
//! any byte, so it runs over a file in blocks of any size in bounded memory.
//!
//! RFC 4180 allows only a comma or a line end after a closing quote, and a quote only at a
//! field's start. A record with any other quote is malformed, which its decoder also
//! reports; the framer only decides where such a record ends:
//!
//! - If a quoted field spans a line end and text follows its closing quote, then most likely
//!   its own closing quote is missing and the quote found opens a field of a later record.
//!   So the record ends with the line on which its quote opens, and the lines after it are
//!   read again as records of their own.
//! - Any other misplaced quote is text, and its record ends where its line does.
//! - A quote that is never closed is no record: its file is refused.
//!
//! Each line is read at most twice: a line wholly inside an open quote has only doubled
//! quotes, which leave none open when it is read again by itself.

use lambda_core::decode::csv::Marks;
use memchr::{memchr, memchr2, memchr2_iter, memchr3};

/// Longest record, and longest run of blank lines, in bytes. A longer record is
/// most likely a quote that is never closed.
pub const RECORD_BYTES_MAX: u64 = 4 << 20;

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// One record's place in the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last one, without its line end.
    pub end: u64,
    /// The line on which it begins, counted from 1. A line ends at LF, CRLF or a lone
    /// CR, inside quotes too.
    pub line: u64,
}

/// Reason why no record ends here: a record, or a run of blank lines, is longer than
/// [`RECORD_BYTES_MAX`], or a quote is open where the content ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Endless {
    /// A record is too long.
    #[error("the record that begins on line {line} is longer than 4 MiB")]
    Record {
        /// Line on which it begins.
        line: u64,
    },
    /// A quote is not closed. All that follows would be one record.
    #[error("the quote that opens on line {line} is not closed within 4 MiB or before the end")]
    Quote {
        /// Line on which it opens.
        line: u64,
    },
    /// Too many blank lines.
    #[error("more than 4 MiB of blank lines before line {line}")]
    Blank {
        /// Line at which it was noticed.
        line: u64,
    },
}

/// A part of the content in memory.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    bytes: &'a [u8],
    start: u64,
}

impl<'a> Window<'a> {
    /// `bytes` as the content from offset `start`.
    pub fn new(bytes: &'a [u8], start: u64) -> Self {
        Self { bytes, start }
    }

    /// The byte after its last one.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Its bytes from `from` to `to`, which must be inside it.
    pub fn range(&self, from: u64, to: u64) -> &'a [u8] {
        &self.bytes[offset(from - self.start)..offset(to - self.start)]
    }
}

/// An offset in the part held in memory.
fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning, with this many bytes of a byte order mark seen.
    Mark(u8),
    /// Between records.
    Between,
    /// In a record outside quotes. A quote here opens only at a field's start.
    Plain { field_start: bool },
    /// Inside quotes.
    Quoted,
    /// After a quote inside quotes: it closes them unless another one follows.
    Closing,
}

/// Finds records in content that is handed over block by block.
///
/// ```
/// use lambda_batch::frame::{Framer, Window};
/// use lambda_core::decode::Csv;
///
/// let content = b"id,note\r\nR-1,\"two\nlines\"\nR-2,";
/// let (mut framer, window) = (Framer::new(Csv::new().marks()), Window::new(content, 0));
/// let mut lines = Vec::new();
/// while let Some(record) = framer.next(window)? {
///     lines.push(record.line);
/// }
/// assert_eq!(lines, [1, 2]);
/// // The content ends without a line end.
/// let last = framer.finish()?;
/// assert!(last.is_some_and(|record| record.line == 4));
/// # Ok::<(), lambda_batch::frame::Endless>(())
/// ```
#[derive(Debug, Clone)]
pub struct Framer {
    marks: Marks,
    state: State,
    /// The next byte to look at.
    at: u64,
    /// The line it is on.
    line: u64,
    /// Whether the byte before it is a CR: an LF here is part of the same line end.
    after_cr: bool,
    /// Start of the current record, or of the run of blank lines.
    start: u64,
    start_line: u64,
    /// The line on which the last quote opened.
    quote_line: u64,
    /// End of that line, if the quote is still open there.
    quote_line_end: Option<u64>,
}

impl Framer {
    /// Starts at the beginning of a file, where a byte order mark is allowed.
    pub fn new(marks: Marks) -> Self {
        Self { state: State::Mark(0), ..Self::resume(marks, 0, 1) }
    }

    /// Starts at byte `position`, on `line`, between two records.
    pub fn resume(marks: Marks, position: u64, line: u64) -> Self {
        Self {
            marks,
            state: State::Between,
            at: position,
            line,
            after_cr: false,
            start: position,
            start_line: line,
            quote_line: line,
            quote_line_end: None,
        }
    }

    /// First byte and line of the current record, whose end was not seen yet.
    pub fn open(&self) -> Option<(u64, u64)> {
        match self.state {
            State::Mark(_) | State::Between => None,
            State::Plain { .. } | State::Quoted | State::Closing => {
                Some((self.start, self.start_line))
            }
        }
    }

    /// The first byte that the next window must have: the lines after an open quote's line
    /// may have to be read again.
    pub fn needed_from(&self) -> u64 {
        self.quote_line_end.unwrap_or(self.at)
    }

    /// The next record that ends in `window`, which begins at [`Self::needed_from`] or
    /// before it. `None`: the window ends inside a record; more bytes are needed.
    ///
    /// # Errors
    /// [`Endless`]; the framer must not be asked again.
    pub fn next(&mut self, window: Window<'_>) -> Result<Option<Frame>, Endless> {
        while self.at < window.end() {
            let rest = window.range(self.at, window.end());
            let found = match self.state {
                State::Mark(seen) => self.mark(seen, rest),
                State::Between => self.between(rest)?,
                State::Plain { field_start } => self.plain(field_start, rest),
                State::Quoted => self.quoted(rest),
                State::Closing => self.closing(rest)?,
            };
            if let Some(frame) = found {
                return Self::checked(frame).map(Some);
            }
        }
        match self.open() {
            Some(_) if self.at - self.start > RECORD_BYTES_MAX => Err(self.endless()),
            _ => Ok(None),
        }
    }

    /// Reason why the current record does not end.
    fn endless(&self) -> Endless {
        match self.state {
            State::Quoted => Endless::Quote { line: self.quote_line },
            _ => Endless::Record { line: self.start_line },
        }
    }

    /// The last record, if the content ends without a line end.
    ///
    /// # Errors
    /// As for [`Framer::next`], and if the content ends inside quotes: it was truncated, or
    /// its last record holds many.
    pub fn finish(mut self) -> Result<Option<Frame>, Endless> {
        if self.state == State::Quoted { Err(self.endless()) } else { self.last() }
    }

    /// The next record of a chunk that was read to its end; call [`Self::next`] for those after
    /// it. A quote that is open here has its record end with the quote's line: the plan, which
    /// read past the chunk, has decided so.
    ///
    /// # Errors
    /// As for [`Framer::next`].
    pub fn finish_chunk(&mut self) -> Result<Option<Frame>, Endless> {
        if self.state == State::Quoted { Ok(Some(self.cut())) } else { self.last() }
    }

    fn last(&mut self) -> Result<Option<Frame>, Endless> {
        if let State::Mark(1..) = self.state {
            self.state = State::Plain { field_start: false };
        }
        let Some((start, line)) = self.open() else { return Ok(None) };
        self.state = State::Between;
        Self::checked(Frame { start, end: self.at, line }).map(Some)
    }

    fn checked(frame: Frame) -> Result<Frame, Endless> {
        if frame.end - frame.start > RECORD_BYTES_MAX {
            return Err(Endless::Record { line: frame.line });
        }
        Ok(frame)
    }

    fn mark(&mut self, seen: u8, rest: &[u8]) -> Option<Frame> {
        if rest[0] == BYTE_ORDER_MARK[usize::from(seen)] {
            self.at += 1;
            self.state = State::Mark(seen + 1);
            if usize::from(seen) + 1 == BYTE_ORDER_MARK.len() {
                self.state = State::Between;
                self.start = self.at;
            }
        } else if seen == 0 {
            self.state = State::Between;
        } else {
            // Half a byte order mark is text of the first field.
            self.state = State::Plain { field_start: false };
        }
        None
    }

    fn between(&mut self, rest: &[u8]) -> Result<Option<Frame>, Endless> {
        let blank = rest.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        self.pass(&rest[..blank]);
        if self.at - self.start > RECORD_BYTES_MAX {
            return Err(Endless::Blank { line: self.line });
        }
        if blank < rest.len() {
            (self.start, self.start_line) = (self.at, self.line);
            self.after_cr = false;
            self.state = State::Plain { field_start: true };
        }
        Ok(None)
    }

    fn plain(&mut self, field_start: bool, rest: &[u8]) -> Option<Frame> {
        let Marks { delimiter, quote, .. } = self.marks;
        let Some(found) = memchr3(b'\n', b'\r', quote, rest) else {
            self.state = State::Plain { field_start: rest.ends_with(&[delimiter]) };
            self.at += rest.len() as u64;
            return None;
        };
        self.at += found as u64;
        if rest[found] == quote {
            let opens = if found == 0 { field_start } else { rest[found - 1] == delimiter };
            if opens {
                self.quote_line = self.line;
            }
            self.state = if opens { State::Quoted } else { State::Plain { field_start: false } };
            self.at += 1;
            return None;
        }
        Some(self.end_at(self.at))
    }

    fn quoted(&mut self, rest: &[u8]) -> Option<Frame> {
        let found = memchr(self.marks.quote, rest);
        let text = &rest[..found.unwrap_or(rest.len())];
        if self.quote_line_end.is_none() {
            let line_end = memchr2(b'\n', b'\r', text);
            self.quote_line_end = line_end.map(|at| self.at + at as u64);
        }
        self.pass(text);
        if found.is_some() {
            (self.at, self.after_cr) = (self.at + 1, false);
            self.state = State::Closing;
        }
        None
    }

    fn closing(&mut self, rest: &[u8]) -> Result<Option<Frame>, Endless> {
        let Marks { delimiter, quote, .. } = self.marks;
        match rest[0] {
            mark if mark == quote => {
                self.at += 1;
                self.state = State::Quoted;
            }
            mark if mark == delimiter || matches!(mark, b'\n' | b'\r') => {
                self.quote_line_end = None;
                self.state = State::Plain { field_start: false };
            }
            _ if self.quote_line_end.is_none() => self.state = State::Plain { field_start: false },
            _ if self.at - self.start > RECORD_BYTES_MAX => {
                return Err(Endless::Quote { line: self.quote_line });
            }
            _ => return Ok(Some(self.cut())),
        }
        Ok(None)
    }

    /// Ends the current record with the line on which its last quote opened, and returns to
    /// that line's end.
    fn cut(&mut self) -> Frame {
        let end = self.quote_line_end.take().unwrap_or(self.at);
        self.line = self.quote_line;
        self.end_at(end)
    }

    /// Ends the current record at `end`, which is on the current line.
    fn end_at(&mut self, end: u64) -> Frame {
        let frame = Frame { start: self.start, end, line: self.start_line };
        (self.at, self.start, self.after_cr) = (end, end, false);
        self.state = State::Between;
        frame
    }

    /// Advances over `text`, which begins at the next byte to read.
    fn pass(&mut self, text: &[u8]) {
        for at in memchr2_iter(b'\n', b'\r', text) {
            let after_cr = if at == 0 { self.after_cr } else { text[at - 1] == b'\r' };
            self.line += u64::from(text[at] == b'\r' || !after_cr);
        }
        self.after_cr = text.last().map_or(self.after_cr, |last| *last == b'\r');
        self.at += text.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use lambda_core::decode::Csv;
    use proptest::prelude::*;

    use super::*;

    /// All records of `content`, pushed in blocks of these sizes in turn, with no more of the
    /// earlier content than the framer asks for.
    fn frames(content: &[u8], sizes: &[usize]) -> Result<Vec<Frame>, Endless> {
        frames_of(Marks::default(), content, sizes)
    }

    fn frames_of(marks: Marks, content: &[u8], sizes: &[usize]) -> Result<Vec<Frame>, Endless> {
        let mut framer = Framer::new(marks);
        let mut found = Vec::new();
        let (mut end, mut turn) = (0, 0);
        while end < content.len() {
            let from = framer.needed_from() as usize;
            end = (end + sizes[turn % sizes.len()]).min(content.len());
            turn += 1;
            let window = Window::new(&content[from..end], from as u64);
            while let Some(frame) = framer.next(window)? {
                found.push(frame);
            }
        }
        found.extend(framer.finish()?);
        Ok(found)
    }

    /// All records of a chunk that begins at byte `start`, on `line`.
    fn frames_of_chunk(chunk: &[u8], start: u64, line: u64) -> Vec<Frame> {
        let mut framer = Framer::resume(Marks::default(), start, line);
        let window = Window::new(chunk, start);
        let mut next = || match framer.next(window).expect("short records") {
            None => framer.finish_chunk().expect("short records"),
            some => some,
        };
        std::iter::from_fn(&mut next).collect()
    }

    fn is_line_end(byte: u8) -> bool {
        matches!(byte, b'\n' | b'\r')
    }

    /// Line ends in `text`, counted by a method other than the framer's.
    fn count_lines(text: &[u8]) -> u64 {
        let text = String::from_utf8_lossy(text).replace("\r\n", "\n");
        text.matches(['\n', '\r']).count() as u64
    }

    /// End of the record that begins at `start`, and whether a quote in it is misplaced, by
    /// the rules in the module's comment, with all content in view; `None` if a quote is not
    /// closed.
    fn record_end(content: &[u8], start: usize) -> Option<(usize, bool)> {
        let (mut at, mut misplaced) = (start, false);
        loop {
            if content.get(at) == Some(&b'"') {
                let open = at;
                loop {
                    at += 1 + content[at + 1..].iter().position(|byte| *byte == b'"')?;
                    if content.get(at + 1) != Some(&b'"') {
                        break;
                    }
                    at += 1;
                }
                let close = at;
                at += 1;
                let ends = |byte: &u8| *byte == b',' || is_line_end(*byte);
                if !content.get(at).is_none_or(ends) {
                    misplaced = true;
                    if let Some(end) = content[open..close].iter().position(|b| is_line_end(*b)) {
                        return Some((open + end, true));
                    }
                }
            }
            while let Some(byte) = content.get(at).filter(|byte| **byte != b',') {
                if is_line_end(*byte) {
                    return Some((at, misplaced));
                }
                misplaced |= *byte == b'"';
                at += 1;
            }
            if at == content.len() {
                return Some((at, misplaced));
            }
            at += 1;
        }
    }

    /// All records, and whether none has a misplaced quote.
    fn by_rules(content: &[u8]) -> Option<(Vec<Frame>, bool)> {
        let (mut frames, mut all_fit) = (Vec::new(), true);
        let mut at = if content.starts_with(&BYTE_ORDER_MARK) { 3 } else { 0 };
        loop {
            at += content[at..].iter().take_while(|byte| is_line_end(**byte)).count();
            if at == content.len() {
                return Some((frames, all_fit));
            }
            let (end, misplaced) = record_end(content, at)?;
            let line = 1 + count_lines(&content[..at]);
            frames.push(Frame { start: at as u64, end: end as u64, line });
            (at, all_fit) = (end, all_fit && !misplaced);
        }
    }

    fn by_csv(content: &[u8]) -> Vec<csv::ByteRecord> {
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(content);
        let records = reader.byte_records();
        records.map(|record| record.expect("a slice is readable")).collect()
    }

    fn each_by_csv(content: &[u8], frames: &[Frame]) -> Vec<csv::ByteRecord> {
        let record = |frame: &Frame| {
            // A byte order mark is text everywhere except at the beginning.
            let bytes = &content[frame.start as usize..frame.end as usize];
            let mut records = by_csv(&[b"\n", bytes].concat());
            assert_eq!(records.len(), 1, "one frame holds one record");
            records.remove(0)
        };
        frames.iter().map(record).collect()
    }

    /// Content with far more of the state machine's special bytes than random content has.
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
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn any_bytes_in_blocks_of_any_size_give_the_same_records(
            content in hostile(),
            sizes in prop::collection::vec(1_usize..20, 1..5),
        ) {
            let found = frames(&content, &sizes);
            let Some((expected, all_fit)) = by_rules(&content) else {
                let endless = matches!(found, Err(Endless::Quote { .. }));
                prop_assert!(endless, "{:?}", found);
                return Ok(());
            };
            prop_assert_eq!(found.as_ref(), Ok(&expected));
            if all_fit {
                prop_assert_eq!(each_by_csv(&content, &expected), by_csv(&content));
            }
        }

        #[test]
        fn other_marks_give_the_same_records(content in hostile(), size in 1_usize..20) {
            let others = Csv::new().delimiter(';').quote('\'').marks();
            let translate = |byte: &u8| match byte {
                b',' => b';',
                b'"' => b'\'',
                b';' => b',',
                b'\'' => b'"',
                other => *other,
            };
            let translated: Vec<u8> = content.iter().map(translate).collect();
            prop_assert_eq!(frames_of(others, &translated, &[size]), frames(&content, &[size]));
        }

        #[test]
        fn a_chunk_from_any_record_to_any_other_has_the_records_of_the_whole(content in hostile()) {
            let Ok(all) = frames(&content, &[7]) else { return Ok(()) };
            for (first, from) in all.iter().enumerate() {
                for count in 1..=all.len() - first {
                    let end = all.get(first + count).map_or(content.len() as u64, |next| next.start);
                    let chunk = &content[from.start as usize..end as usize];
                    let found = frames_of_chunk(chunk, from.start, from.line);
                    prop_assert_eq!(&found[..], &all[first..first + count]);
                }
            }
        }
    }

    fn texts(content: &str, size: usize) -> Vec<(u64, &str)> {
        let frames = frames(content.as_bytes(), &[size]).expect("no quote is left open");
        let text = |frame: &Frame| &content[frame.start as usize..frame.end as usize];
        frames.iter().map(|frame| (frame.line, text(frame))).collect()
    }

    #[test]
    fn a_quote_that_is_not_closed_costs_its_own_line_only() {
        let content = "h\n1,\"Memphis,true\r\n2,\"Paris, FR\",true\r\n3,\"\",x\n4,\"a\nb\",y\n";
        for size in [1, 5, 1_000] {
            assert_eq!(
                texts(content, size),
                [
                    (1, "h"),
                    (2, "1,\"Memphis,true"),
                    (3, "2,\"Paris, FR\",true"),
                    (4, "3,\"\",x"),
                    (5, "4,\"a\nb\",y"),
                ]
            );
        }
    }

    #[test]
    fn a_misplaced_quote_on_one_line_is_text() {
        let content = "1,\"Joe\\\"s Bar\",x\n2,5\" pipe,\"two\nlines\"\n3,\"a\" ,b\n";
        let expected =
            [(1, "1,\"Joe\\\"s Bar\",x"), (2, "2,5\" pipe,\"two\nlines\""), (4, "3,\"a\" ,b")];
        assert_eq!(texts(content, 3), expected);
    }

    #[test]
    fn lines_are_counted_whatever_ends_them() {
        for end in ["\n", "\r", "\r\n"] {
            let content = ["h", "1", "", "\"2", "x\"", "3", "4"].join(end);
            let lines: Vec<u64> = texts(&content, 2).into_iter().map(|(line, _)| line).collect();
            assert_eq!(lines, [1, 2, 4, 6, 7], "{end:?}");
        }
    }

    #[test]
    fn a_quote_that_is_never_closed_is_refused_with_the_line_where_it_began() {
        let mut content = b"h\n1\n2,\"two\nlines\",\"open\n".to_vec();
        for more in [0, 100, RECORD_BYTES_MAX as usize] {
            content.resize(content.len() + more, b'\n');
            for size in [1 << 20, 65_537, content.len()] {
                assert_eq!(frames(&content, &[size]), Err(Endless::Quote { line: 4 }));
            }
        }
        // A closing quote past the limit makes no difference.
        content.extend_from_slice(b"5,\"five\"\n");
        assert_eq!(frames(&content, &[content.len()]), Err(Endless::Quote { line: 4 }));
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
