//! Values as formats spell them.

use std::borrow::Cow;

/// A value as a format spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelled<'a> {
    /// JSON's null, or CSV's.
    Null,
    /// JSON's `true` or `false`.
    Bool(bool),
    /// A number of JSON.
    Number(&'a str),
    /// A text of JSON without escapes, and so without a NUL character.
    Plain(&'a str),
    /// A text of JSON, as it is between its quotes.
    Escaped(&'a str),
    /// The same, unescaped.
    Text(&'a str),
    /// JSON: an array, an object, or any value for a column of `jsonb`.
    Json(&'a str),
    /// A field of CSV, or a text from the rest of a message.
    Field(&'a str),
    /// The same, without a NUL character.
    PlainField(&'a str),
}

impl<'a> Spelled<'a> {
    /// The text of a string of JSON; nothing for another value, or if half of a surrogate pair is
    /// in it.
    pub(super) fn unescaped(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Plain(text) => Some(Cow::Borrowed(text)),
            // Its syntax was checked; only half a surrogate pair remains.
            Self::Escaped(raw) => serde_json::from_str(&format!("\"{raw}\"")).ok().map(Cow::Owned),
            _ => None,
        }
    }

    /// The text of a value that may be spelled as one.
    pub(super) fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) | Self::Plain(text) | Self::Field(text) | Self::PlainField(text) => {
                Some(text)
            }
            _ => None,
        }
    }

    /// The text of a number, which may be spelled as a text.
    pub(super) fn digits(self) -> Option<&'a str> {
        if let Self::Number(text) = self { Some(text) } else { self.text() }
    }

    pub(super) fn json(self) -> Option<&'a str> {
        match self {
            Self::Json(text) | Self::Field(text) | Self::PlainField(text) => Some(text),
            _ => None,
        }
    }
}
