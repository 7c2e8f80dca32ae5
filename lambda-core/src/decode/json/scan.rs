//! Reads JSON (RFC 8259) value by value, and nothing more lenient.
//!
//! A value is the part of the text that spells it, which costs one look at each byte. What is
//! nested is checked without recursion: a message cannot exhaust the stack.

use std::fmt;

use crate::decode::bytes::{self, Word};
use crate::decode::spelled::Spelled;

/// What is expected at a place where the text is no JSON: at the scanner's next byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Object,
    Key,
    WholeKey,
    Colon,
    Value,
    Literal,
    Digit,
    NoLeadingZero,
    NoControl,
    Escape,
    StringEnd,
    ObjectMore,
    ArrayMore,
    End,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "expected a JSON object",
            Self::Key => "expected a key in quotes",
            Self::WholeKey => "expected a key without unpaired surrogates",
            Self::Colon => "expected a colon after the key",
            Self::Value => "expected a value",
            Self::Literal => "expected true, false or null",
            Self::Digit => "expected a digit",
            Self::NoLeadingZero => "expected a number without leading zeros",
            Self::NoControl => "expected no control character in a string",
            Self::Escape => "expected an escape that JSON has",
            Self::StringEnd => "expected the end of a string",
            Self::ObjectMore => "expected a comma or the end of the object",
            Self::ArrayMore => "expected a comma or the end of the array",
            Self::End => "expected nothing after the value",
        })
    }
}

/// A text of JSON, read up to some byte.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Begins at the text's first byte.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is no white space, which remains unread; 0 for a control character and at
    /// the end.
    #[inline]
    pub(super) fn peek(&mut self) -> u8 {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(byte) if *byte > b' ' => return *byte,
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(_) | None => return 0,
            }
        }
    }

    /// The place of the next byte that is no white space.
    pub(super) fn here(&mut self) -> usize {
        self.peek();
        self.at
    }

    /// Reads this byte if it is the next one.
    #[inline]
    pub(super) fn skip(&mut self, byte: u8) -> bool {
        if self.peek() != byte {
            return false;
        }
        self.at += 1;
        true
    }

    /// Reads this byte.
    #[inline]
    pub(super) fn expect(&mut self, byte: u8, expected: Expected) -> Result<(), Expected> {
        if self.skip(byte) { Ok(()) } else { Err(expected) }
    }

    /// Checks that only white space follows.
    pub(super) fn end(&mut self) -> Result<(), Expected> {
        self.peek();
        let is_end = self.at == self.text.len();
        if is_end { Ok(()) } else { Err(Expected::End) }
    }

    /// What was read from a place on.
    pub(super) fn since(&self, begin: usize) -> &'a str {
        self.text.get(begin..self.at).unwrap_or_default()
    }

    /// Reads this text if it comes next.
    #[inline]
    pub(super) fn skip_text(&mut self, text: &str) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(text.as_bytes()) {
            return false;
        }
        self.at += text.len();
        true
    }

    /// Reads a key of an object, with its colon.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Spelled<'a>, Expected> {
        if self.peek() != b'"' {
            return Err(Expected::Key);
        }
        let key = self.string()?;
        self.expect(b':', Expected::Colon)?;
        Ok(key)
    }

    /// Reads the separator of two members or elements: whether another one follows `close`.
    #[inline]
    pub(super) fn more(&mut self, close: u8) -> Result<bool, Expected> {
        if self.skip(b',') {
            return Ok(true);
        }
        let expected = if close == b'}' { Expected::ObjectMore } else { Expected::ArrayMore };
        self.expect(close, expected)?;
        Ok(false)
    }

    /// Reads a value.
    #[inline]
    pub(super) fn value(&mut self) -> Result<Spelled<'a>, Expected> {
        match self.peek() {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number().map(Spelled::Number),
            b'{' | b'[' => self.nested().map(Spelled::Json),
            b't' => self.literal("true", Spelled::Bool(true)),
            b'f' => self.literal("false", Spelled::Bool(false)),
            b'n' => self.literal("null", Spelled::Null),
            _ => Err(Expected::Value),
        }
    }

    /// Reads a value, and gives the text that spells it.
    pub(super) fn raw(&mut self) -> Result<&'a str, Expected> {
        let begin = self.here();
        self.value()?;
        Ok(self.since(begin))
    }

    fn literal(&mut self, word: &str, value: Spelled<'a>) -> Result<Spelled<'a>, Expected> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(Expected::Literal);
        }
        self.at += word.len();
        Ok(value)
    }

    /// Reads a string, whose quote is the next byte.
    #[inline]
    fn string(&mut self) -> Result<Spelled<'a>, Expected> {
        let bytes = self.text.as_bytes();
        let begin = self.at + 1;
        let mut escaped = false;
        self.at = begin;
        loop {
            self.at = bytes::find(bytes, self.at, |word: Word| {
                word.equals(b'"') | word.equals(b'\\') | word.below(b' ')
            });
            match bytes.get(self.at) {
                Some(b'"') => {
                    let text = self.since(begin);
                    self.at += 1;
                    // A NUL character would be an escape.
                    return Ok(if escaped { Spelled::Escaped(text) } else { Spelled::Plain(text) });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(Expected::NoControl),
                None => return Err(Expected::StringEnd),
            }
        }
    }

    /// Reads an escape, whose backslash is the next byte.
    fn escape(&mut self) -> Result<(), Expected> {
        let rest = self.text.as_bytes().get(self.at + 1..).unwrap_or_default();
        let length = match rest {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', a, b, c, d, ..]
                if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) =>
            {
                6
            }
            _ => return Err(Expected::Escape),
        };
        self.at += length;
        Ok(())
    }

    /// Reads a number, whose sign or first digit is the next byte.
    #[inline]
    fn number(&mut self) -> Result<&'a str, Expected> {
        let begin = self.at;
        if self.is(b'-') {
            self.at += 1;
        }
        let first = self.at;
        self.digits()?;
        if self.text.as_bytes()[first] == b'0' && self.at > first + 1 {
            self.at = first;
            return Err(Expected::NoLeadingZero);
        }
        if self.is(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if self.is(b'e') || self.is(b'E') {
            self.at += 1;
            if self.is(b'+') || self.is(b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(self.since(begin))
    }

    #[inline]
    fn is(&self, byte: u8) -> bool {
        self.text.as_bytes().get(self.at) == Some(&byte)
    }

    /// Reads digits, at least one.
    #[inline]
    fn digits(&mut self) -> Result<(), Expected> {
        let begin = self.at;
        while let Some(b'0'..=b'9') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
        if self.at > begin { Ok(()) } else { Err(Expected::Digit) }
    }

    /// Reads an array or an object, whose bracket is the next byte, with all that is in it.
    fn nested(&mut self) -> Result<&'a str, Expected> {
        let begin = self.at;
        // The closing brackets of what is open.
        let mut open = Vec::new();
        loop {
            // A value follows.
            let close = match self.peek() {
                b'{' => b'}',
                b'[' => b']',
                _ => {
                    self.value()?;
                    0
                }
            };
            if close != 0 {
                self.at += 1;
                if self.skip(close) {
                    // It is empty.
                } else {
                    open.push(close);
                    if close == b'}' {
                        self.key()?;
                    }
                    continue;
                }
            }
            // A value was read.
            loop {
                let Some(close) = open.last() else { return Ok(self.since(begin)) };
                if self.more(*close)? {
                    if *close == b'}' {
                        self.key()?;
                    }
                    break;
                }
                open.pop();
            }
        }
    }
}
