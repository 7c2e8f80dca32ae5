//! Extracts from a database URL the settings that tokio-postgres does not know: its own
//! parser refuses `sslmode=verify-full` and `sslrootcert`.

use std::ops::Range;

use percent_encoding::percent_decode_str;

use crate::error::Error;

/// A URL or `key=value` string without its TLS settings, and those settings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parted {
    /// The text for tokio-postgres.
    pub(crate) rest: String,
    /// `sslmode`
    pub(crate) mode: Option<String>,
    /// `sslrootcert`
    pub(crate) root_cert: Option<String>,
}

/// A setting, and its place in the text.
struct Setting {
    key: String,
    value: String,
    at: Range<usize>,
}

/// Removes the TLS settings from a URL or a `key=value` string. The last of several counts,
/// as for all settings.
///
/// # Errors
/// [`Error::Misconfigured`] for a URL with a second `@`: part of the password would be read
/// as the name of a host, which is shown.
pub(crate) fn part(text: &str) -> Result<Parted, Error> {
    let scheme = ["postgresql://", "postgres://"].into_iter().find(|it| text.starts_with(it));
    let settings = match scheme {
        Some(scheme) => of_url(text, scheme.len())?,
        None => of_pairs(text),
    };
    let mut parted = Parted { rest: String::new(), mode: None, root_cert: None };
    let mut kept = 0;
    for Setting { key, value, at } in settings {
        let place = match key.as_str() {
            "sslmode" => &mut parted.mode,
            "sslrootcert" => &mut parted.root_cert,
            _ => continue,
        };
        *place = Some(value);
        parted.rest.push_str(&text[kept..at.start]);
        kept = at.end;
    }
    parted.rest.push_str(&text[kept..]);
    Ok(parted)
}

/// The settings after a URL's `?`, each with the `&` that follows it.
fn of_url(text: &str, scheme: usize) -> Result<Vec<Setting>, Error> {
    let host = text[scheme..].find('@').map_or(scheme, |at| scheme + at + 1);
    let query = text[host..].find('?').map_or(text.len(), |at| host + at);
    if host > scheme && text[host..query].contains('@') {
        return Err(Error::misconfigured(
            "the database URL has a second @ before its settings",
            "percent-encode the password: @ as %40, / as %2F, ? as %3F",
        ));
    }
    let mut settings = Vec::new();
    let mut start = query + 1;
    for setting in text.get(start..).unwrap_or_default().split_inclusive('&') {
        let at = start..start + setting.len();
        start = at.end;
        if let Some((key, value)) = setting.trim_end_matches('&').split_once('=') {
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            settings.push(Setting { key: key.to_owned(), value, at });
        }
    }
    Ok(settings)
}

/// The settings of a `key=value` string, by libpq's rules: values in single quotes may hold
/// spaces, and a backslash escapes the next character. Stops at anything else, which
/// tokio-postgres then refuses.
fn of_pairs(text: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let start = text.len() - rest.len();
        let after = after.trim_start();
        let (value, length) = value_of(after);
        rest = after[length..].trim_start();
        let at = start..text.len() - rest.len();
        settings.push(Setting { key: key.trim_end().to_owned(), value, at });
    }
    settings
}

/// The value at the start of the text, and its length in bytes.
fn value_of(text: &str) -> (String, usize) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if quoted => return (value, at + 1),
            _ if !quoted && character.is_whitespace() => return (value, at),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, text.len())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn parted(rest: &str, mode: Option<&str>, root_cert: Option<&str>) -> Parted {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Parted { rest: rest.into(), mode: owned(mode), root_cert: owned(root_cert) }
    }

    #[test]
    fn tls_settings_are_taken_out_of_urls() {
        let table = [
            ("postgresql://u:p@h:1/d", parted("postgresql://u:p@h:1/d", None, None)),
            (
                "postgres://u@h/d?sslmode=verify-full&connect_timeout=1&sslrootcert=%2Fa%20b",
                parted("postgres://u@h/d?connect_timeout=1&", Some("verify-full"), Some("/a b")),
            ),
            ("postgresql:///?sslmode=require", parted("postgresql:///?", Some("require"), None)),
            // A password is not a setting.
            (
                "postgresql://u:a?sslmode=b&@h/d?user=sslmode%3Dc",
                parted("postgresql://u:a?sslmode=b&@h/d?user=sslmode%3Dc", None, None),
            ),
        ];
        for (text, wanted) in table {
            assert_eq!(part(text).unwrap(), wanted, "{text}");
            assert!(wanted.rest.parse::<tokio_postgres::Config>().is_ok(), "{text}");
        }
    }

    #[test]
    fn tls_settings_are_taken_out_of_pairs() {
        let table = [
            ("", parted("", None, None)),
            (
                "host=h sslmode = 'verify-ca' sslrootcert='/it\\'s here' user=u",
                parted("host=h user=u", Some("verify-ca"), Some("/it's here")),
            ),
            (
                "password='x sslmode=disable' user=u\\ sslmode=c sslmode=require",
                parted("password='x sslmode=disable' user=u\\ sslmode=c ", Some("require"), None),
            ),
        ];
        for (text, wanted) in table {
            assert_eq!(part(text).unwrap(), wanted, "{text}");
            assert!(wanted.rest.parse::<tokio_postgres::Config>().is_ok(), "{text}");
        }
        // Anything else is left for tokio-postgres to refuse.
        assert_eq!(part("nonsense é 'x").unwrap().rest, "nonsense é 'x");
    }

    #[test]
    fn a_password_that_looks_like_a_host_is_not_shown() {
        let error = part("postgresql://u:hun@ter2/pass@h/d").unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(!error.chain().contains("ter2"), "{}", error.chain());
    }
}
