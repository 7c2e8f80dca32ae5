//! Headers of messages, and the form in which dead letters keep them.

use data_encoding::BASE64;

/// A header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header<'a> {
    /// Its name. A message may have several headers of one name.
    pub name: &'a str,
    /// Its value, if it has one.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// A header of this name and value.
    pub fn new(name: &'a str, value: Option<&'a [u8]>) -> Self {
        Self { name, value }
    }
}

/// A header of its own, as a dead letter has it.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderBuf {
    /// Its name.
    pub name: String,
    /// Its value, if it has one.
    pub value: Option<Vec<u8>>,
}

impl HeaderBuf {
    /// The same, borrowed.
    pub fn as_header(&self) -> Header<'_> {
        Header::new(&self.name, self.value.as_deref())
    }
}

impl std::fmt::Debug for HeaderBuf {
    /// Hides the value, which is never logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeaderBuf").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Appends headers to `out` as a JSON array of names with their values in base64.
pub(crate) fn write(headers: &[Header<'_>], out: &mut Vec<u8>) {
    for (index, header) in headers.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"[[" } else { b",[" });
        // A text always has a form in JSON, and a vector takes any number of bytes.
        let _ = serde_json::to_writer(&mut *out, header.name);
        match header.value {
            None => out.extend_from_slice(b",null]"),
            Some(value) => {
                out.extend_from_slice(b",\"");
                let begin = out.len();
                out.resize(begin + BASE64.encode_len(value.len()), 0);
                BASE64.encode_mut(value, &mut out[begin..]);
                out.extend_from_slice(b"\"]");
            }
        }
    }
    out.extend_from_slice(if headers.is_empty() { b"[]" } else { b"]" });
}

/// Reads what [`write`] wrote. Nothing, if it is anything else.
#[cfg(any(test, feature = "postgres"))]
pub(crate) fn read(json: &str) -> Option<Vec<HeaderBuf>> {
    let pairs: Vec<(String, Option<String>)> = serde_json::from_str(json).ok()?;
    let header = |(name, value): (String, Option<String>)| {
        let value = value.map(|value| BASE64.decode(value.as_bytes())).transpose().ok()?;
        Some(HeaderBuf { name, value })
    };
    pairs.into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_are_read_as_they_were_written(
            pairs in prop::collection::vec((any::<String>(), any::<Option<Vec<u8>>>()), 0..5),
        ) {
            let headers: Vec<HeaderBuf> =
                pairs.into_iter().map(|(name, value)| HeaderBuf { name, value }).collect();
            let mut json = Vec::new();
            write(&headers.iter().map(HeaderBuf::as_header).collect::<Vec<_>>(), &mut json);
            prop_assert_eq!(read(std::str::from_utf8(&json).unwrap_or_default()), Some(headers));
        }
    }

    #[test]
    fn what_is_no_list_of_headers_is_nothing() {
        for json in ["", "{}", "[1]", r#"[["a"]]"#, r#"[["a","?"]]"#, r#"[["a","YQ==",1]]"#] {
            assert_eq!(read(json), None, "{json}");
        }
        assert_eq!(read("[]"), Some(Vec::new()));
    }
}
