//! The schema that holds the protocol's own tables.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::Error;

/// The schema by which this crate's statements name the protocol's tables.
const DEFAULT: &str = "lambda";

/// Longest name that PostgreSQL keeps, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// The schema that holds the protocol's own tables: `lambda`, unless another one is set.
///
/// Statements are written for the schema `lambda`, and a connection puts this one in its place. The session's `search_path` stays as it is, since an application's triggers may
/// depend on theirs.
///
/// ```
/// use lambda_core::Postgres;
/// use lambda_core::postgres::Schema;
///
/// let ours: Schema = "ingest".parse()?;
/// let postgres = Postgres::new("postgresql://loader@localhost/app")?.with_schema(ours);
/// assert_eq!(postgres.schema().name(), "ingest");
/// assert!("public".parse::<Schema>().is_err(), "applications keep their tables there");
/// # Ok::<(), lambda_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Schema(Arc<str>);

impl Schema {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// A statement that is written for the schema `lambda`, for this schema.
    pub(crate) fn sql<'s>(&self, statement: &'s str) -> Cow<'s, str> {
        if &*self.0 == DEFAULT {
            return Cow::Borrowed(statement);
        }
        let mut parts = statement.split("lambda.");
        let mut sql = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // Not the end of a longer name.
            let name = !sql.ends_with(|last: char| last.is_alphanumeric() || "_.\"".contains(last));
            // A reserved word needs quotes.
            let schema = if name { ["\"", &self.0, "\""] } else { ["", DEFAULT, ""] };
            sql.extend(schema);
            sql.push('.');
            sql.push_str(part);
        }
        Cow::Owned(sql)
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl FromStr for Schema {
    type Err = Error;

    /// Accepts lower-case letters, digits and underscores: a name that reads the same with and
    /// without quotes.
    fn from_str(name: &str) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let begins = name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
        let reserved = name == "public" || name.starts_with("pg_") || name == "information_schema";
        if !begins || !name.bytes().all(plain) || name.len() > NAME_BYTES_MAX || reserved {
            return Err(Error::misconfigured(
                format!("{name:?} cannot be the schema of the platform's own tables"),
                "name one of its own, of lower-case letters, digits and underscores",
            ));
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn statements_name_the_schema_that_is_set() {
        let sql = "select 'lambda' from lambda.a join public.lambda.b on to_regclass('lambda.c') \
                   is null and my_lambda.d(\"lambda.e\")";
        assert_eq!(Schema::default().sql(sql), sql);
        let other: Schema = "ops".parse().unwrap();
        assert_eq!(
            other.sql(sql),
            "select 'lambda' from \"ops\".a join public.lambda.b on to_regclass('\"ops\".c') \
             is null and my_lambda.d(\"lambda.e\")"
        );
        assert_eq!(other.sql("lambda.a, lambda.b"), "\"ops\".a, \"ops\".b");
    }

    #[test]
    fn a_schema_of_others_or_a_name_that_needs_quotes_is_refused() {
        for name in ["lambda", "_a1", "ops"] {
            assert_eq!(name.parse::<Schema>().unwrap().name(), name);
        }
        let long = "x".repeat(64);
        for name in ["", "public", "pg_x", "information_schema", "Ops", "1a", "a-b", "a\"b", &long]
        {
            assert!(name.parse::<Schema>().is_err(), "{name}");
        }
    }
}
