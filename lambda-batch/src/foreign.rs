//! Recognizes files that are not CSV by their first bytes. Without it, the error would be
//! about an invalid header or an open quote.

use std::fmt;

/// Number of first bytes that are checked; a tar archive has its name at byte 257.
pub(crate) const FIRST_BYTES: usize = 512;

/// A format other than CSV, and what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foreign {
    what: &'static str,
    remedy: &'static str,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is {}: {}", self.what, self.remedy)
    }
}

const CONVERT: &str = "convert it to UTF-8, for example with iconv -f UTF-16 -t UTF-8";
const EXPORT: &str = "export it as CSV";
const SAVE: &str = "save it as CSV (UTF-8)";
const UNPACK: &str = "unpack it, or compress it with gzip or zstd, which are read directly";
const TWICE: &str = "unpack it once";

/// Formats by their first bytes.
const MAGIC: [(&[u8], &str, &str); 12] = [
    (b"\xff\xfe", "UTF-16 text", CONVERT),
    (b"\xfe\xff", "UTF-16 text", CONVERT),
    (b"PAR1\x15", "a Parquet file", EXPORT),
    (b"Obj\x01", "an Avro file", EXPORT),
    (b"ARROW1\0", "an Arrow file", EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)", SAVE),
    (b"\xfd7zXZ\0", "xz data", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"PK\x05\x06", "an empty zip archive", UNPACK),
    (b"\x1f\x8b", "gzip data inside compressed data", TWICE),
    (b"\x28\xb5\x2f\xfd", "zstd data inside compressed data", TWICE),
];

/// First names in zip archives that are documents.
const DOCUMENTS: [(&[u8], &str); 5] = [
    (b"[Content_Types].xml", "an Excel workbook (.xlsx)"),
    (b"_rels/", "an Excel workbook (.xlsx)"),
    (b"docProps/", "an Excel workbook (.xlsx)"),
    (b"xl/", "an Excel workbook (.xlsx)"),
    (b"mimetypeapplication/vnd.oasis", "an OpenDocument file (.ods)"),
];

/// Recognizes content that begins with `first`.
pub(crate) fn recognize(first: &[u8]) -> Option<Foreign> {
    if let Some((_, what)) = zipped(first) {
        return Some(Foreign { what, remedy: SAVE });
    }
    if let Some((_, what, remedy)) = MAGIC.into_iter().find(|(magic, ..)| first.starts_with(magic))
    {
        return Some(Foreign { what, remedy });
    }
    if matches!(first, [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..]) {
        return Some(Foreign { what: "bzip2 data", remedy: UNPACK });
    }
    if first.get(257..262) == Some(b"ustar") {
        return Some(Foreign { what: "a tar archive", remedy: UNPACK });
    }
    if is_wide(first) {
        return Some(Foreign { what: "UTF-16 text", remedy: CONVERT });
    }
    text(first)
}

fn zipped(first: &[u8]) -> Option<(&'static [u8], &'static str)> {
    let name = first.strip_prefix(b"PK\x03\x04")?.get(26..)?;
    DOCUMENTS.into_iter().find(|(document, _)| name.starts_with(document))
}

/// Whether every other byte is zero, as in UTF-16 without a byte order mark.
fn is_wide(first: &[u8]) -> bool {
    let Some(first) = first.get(..8) else { return false };
    let zeros = |odd: usize| first.iter().skip(odd).step_by(2).all(|byte| *byte == 0);
    let texts = |odd: usize| first.iter().skip(odd).step_by(2).all(|byte| *byte != 0);
    zeros(0) && texts(1) || zeros(1) && texts(0)
}

/// Recognizes JSON and XML. Checks two bytes, since a header may begin with a bracket too.
fn text(first: &[u8]) -> Option<Foreign> {
    let first = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
    let (begin, rest) = first.split_first()?;
    let next = rest.trim_ascii_start().first();
    let what = match (begin, next?) {
        (b'{', b'"' | b'}') | (b'[', b'{' | b'[' | b'"' | b']') => "JSON",
        (b'<', b'?' | b'!' | b'a'..=b'z' | b'A'..=b'Z') => "XML or HTML",
        _ => return None,
    };
    Some(Foreign { what, remedy: EXPORT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_instead_of_csv_is_named() {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        let mut zip = b"PK\x03\x04".to_vec();
        zip.resize(30, 0);
        let mut tar = b"a.csv".to_vec();
        tar.resize(257, 0);
        tar.extend_from_slice(b"ustar\x0000");
        for (bytes, what) in [
            (wide("\u{feff}transaction_id"), "UTF-16"),
            (big("\u{feff}transaction_id"), "UTF-16"),
            (wide("transaction_id"), "UTF-16"),
            (big("transaction_id"), "UTF-16"),
            ([&zip[..], b"a.csv"].concat(), "a zip archive"),
            ([&zip[..], b"[Content_Types].xml"].concat(), ".xlsx"),
            ([&zip[..], b"mimetypeapplication/vnd.oasis.opendocument"].concat(), ".ods"),
            (b"PAR1\x15\x04".to_vec(), "Parquet"),
            (b"\xfd7zXZ\0\0".to_vec(), "xz"),
            (b"BZh91AY&SY".to_vec(), "bzip2"),
            (tar, "tar"),
            (b"{\"transaction_id\":\"T\"}".to_vec(), "JSON"),
            (b"\xef\xbb\xbf [\n {".to_vec(), "JSON"),
            (b"<?xml version=\"1.0\"?>".to_vec(), "XML"),
            (b"\n<!DOCTYPE html>".to_vec(), "HTML"),
        ] {
            let found = recognize(&bytes).map(|foreign| foreign.to_string()).unwrap_or_default();
            assert!(found.contains(what), "{what}: {found:?}");
        }
    }

    #[test]
    fn a_csv_file_is_nothing_else() {
        for text in ["", "a", "a,b\n1,2\n", "\u{feff}a,b", "[id],[name]\n", "{x,y\n", "\"a\",b\n"] {
            assert_eq!(recognize(text.as_bytes()), None, "{text:?}");
        }
    }
}
