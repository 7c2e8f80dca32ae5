//! Pipelines without Rust: a file of their definitions, whose tables are read from the database.
//!
//! ```toml
//! [pipeline.readings]
//! table  = "ops.readings"        # its columns, types and key are read from PostgreSQL
//! topic  = "readings"
//! only   = { type = "reading" }  # all other messages are skipped
//!
//! [pipeline.readings.columns.recorded_at]
//! field  = "meta.ts"             # a path into the message; without it, the column's name
//!
//! [pipeline.readings.columns.device]
//! from   = "key"                 # or "header:NAME", "message", "timestamp"
//!
//! [pipeline.readings.columns.millidegrees]
//! between = [-90000, 60000]      # or length, bytes, one_of, round, default, empty_is_null
//!
//! [pipeline.readings.files]        # without it, plain CSV
//! delimiter = ";"                  # and quote, null, time_format, date_format
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::decode::csv::Dialect;
use crate::decode::{Csv, Json};
use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::postgres::Postgres;
use crate::record::{Decimal, Origin, Rounding, Rule, Table};

/// The definitions of a file, by the pipeline's name.
#[derive(Debug, Clone)]
pub struct Definitions {
    path: PathBuf,
    text: String,
    pipelines: BTreeMap<String, Definition>,
}

/// The definition of one pipeline.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    table: Spanned<String>,
    topic: Option<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    files: Dialect,
    #[serde(default)]
    only: BTreeMap<String, Spanned<Scalar>>,
    #[serde(default)]
    ignore: Vec<Spanned<String>>,
    #[serde(default)]
    key: Vec<String>,
    #[serde(default)]
    columns: BTreeMap<Spanned<String>, Options>,
}

/// Format of the messages.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
}

/// What a definition says of a column.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    field: Option<String>,
    from: Option<Spanned<String>>,
    length: Option<[u32; 2]>,
    bytes: Option<[u32; 2]>,
    one_of: Option<Vec<String>>,
    between: Option<[Spanned<Scalar>; 2]>,
    round: Option<Round>,
    default: Option<Spanned<Scalar>>,
    empty_is_null: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Round {
    HalfAway,
}

/// A value as a message or a file may spell it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    /// Its text is that of the definition: it may have more digits than a float keeps.
    Number(#[serde(deserialize_with = "any_number")] ()),
    Text(String),
}

fn any_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    f64::deserialize(deserializer).map(drop)
}

impl Definitions {
    /// Reads a file.
    ///
    /// # Errors
    /// `Fatal` for a file that cannot be read or is malformed, with the line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::Misconfigured {
            what: format!("could not read {}", path.display()),
            remedy: "name a file of pipelines that this user can read".into(),
            source: Some(Box::new(error)),
        })?;
        Self::parse(path, text)
    }

    /// Reads the text of a file; errors name `path`.
    fn parse(path: &Path, text: String) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            pipeline: BTreeMap<String, Definition>,
        }
        let file: File = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&text, &span));
            Error::misconfigured(
                format!("{} line {line}: {}", path.display(), error.message()),
                "correct the file",
            )
        })?;
        Ok(Self { path: path.to_owned(), text, pipelines: file.pipeline })
    }

    /// The names of the pipelines.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pipelines.keys().map(String::as_str)
    }

    /// Checks that a pipeline is defined.
    ///
    /// # Errors
    /// `Fatal` if it is not, with the names of those that are.
    pub fn check(&self, name: &str) -> Result<(), Error> {
        self.definition(name).map(drop)
    }

    fn definition(&self, name: &str) -> Result<&Definition, Error> {
        self.pipelines.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            Error::misconfigured(
                format!("{} defines no pipeline {name}", self.path.display()),
                format!("its pipelines are: {}", names.join(", ")),
            )
        })
    }

    /// The topic of a pipeline, if it is defined and has one.
    pub fn topic(&self, name: &str) -> Option<&str> {
        self.pipelines.get(name)?.topic.as_deref()
    }

    /// Builds a pipeline, with its table as the database has it.
    ///
    /// # Errors
    /// `Fatal`, with the line where there is one, for a pipeline that is not defined, a table or a
    /// column that does not exist, and for options that a column cannot have; otherwise as for
    /// [`connect`](crate::postgres::connect).
    pub async fn pipeline(&self, name: &str, postgres: &Postgres) -> Result<Pipeline, Error> {
        let definition = self.definition(name)?;
        let Definition { table, ignore, key, columns, .. } = definition;
        let read = postgres
            .table(table.get_ref())
            // The table says itself which of them it lacks, but not on which line they are.
            .include_existing(columns.keys().map(|name| name.get_ref().as_str()))
            .ignore(ignore.iter().map(|name| name.get_ref().as_str()))
            .key(key.iter().map(String::as_str));
        let mut read = read.await.map_err(|error| self.at(&table.span(), error))?;
        for (name, options) in columns {
            self.apply(&mut read, name, options)?;
        }
        let Format::Json = definition.format;
        let json = definition.only.iter();
        let json = json.fold(Json::new(), |json, (path, value)| json.only(path, &self.text(value)));
        let pipeline =
            Pipeline::builder(name, read).messages(json).files(Csv::from(definition.files.clone()));
        pipeline.build().map_err(|error| self.at(&table.span(), error))
    }

    /// Gives a column its options.
    fn apply(
        &self,
        table: &mut Table,
        name: &Spanned<String>,
        options: &Options,
    ) -> Result<(), Error> {
        let named = table.to_string();
        let Some(column) = table.column_mut(name.get_ref()) else {
            return Err(self.wrong(
                &name.span(),
                &format!("{named} has no column {} that a record gives", name.get_ref()),
            ));
        };
        let mut changed = column.clone();
        if let Some(field) = &options.field {
            changed = changed.from_field(field);
        }
        if let Some(from) = &options.from {
            let origin = Origin::parse(from.get_ref()).ok_or_else(|| {
                let expected = "expected key, header:NAME, message or timestamp";
                self.wrong(&from.span(), expected)
            })?;
            changed = changed.from_origin(origin);
        }
        if let Some([least, most]) = options.length {
            changed = changed.rule(Rule::length(least, most));
        }
        if let Some([least, most]) = options.bytes {
            changed = changed.rule(Rule::bytes(least, most));
        }
        if let Some(texts) = &options.one_of {
            changed = changed.rule(Rule::one_of(texts.iter().map(String::as_str)));
        }
        if let Some([from, to]) = &options.between {
            let bound = |bound: &Spanned<Scalar>| {
                let parsed = self.text(bound).parse::<Decimal>();
                parsed.map_err(|error| self.wrong(&bound.span(), &format!("between: {error}")))
            };
            changed = changed.rule(Rule::between(bound(from)?, bound(to)?));
        }
        if let Some(Round::HalfAway) = options.round {
            changed = changed.rounded(Rounding::HalfAway);
        }
        if let Some(default) = &options.default {
            changed = changed.or_default(&self.text(default));
        }
        if options.empty_is_null {
            changed = changed.empty_is_null();
        }
        if let Some(defect) = changed.defect() {
            return Err(
                self.wrong(&name.span(), &format!("the column {}: {defect}", name.get_ref()))
            );
        }
        *column = changed;
        Ok(())
    }

    /// A value as the file spells it.
    fn text(&self, scalar: &Spanned<Scalar>) -> String {
        match scalar.get_ref() {
            Scalar::Bool(value) => value.to_string(),
            Scalar::Number(()) => self.text.get(scalar.span()).unwrap_or_default().replace('_', ""),
            Scalar::Text(text) => text.clone(),
        }
    }

    fn wrong(&self, span: &Range<usize>, what: &str) -> Error {
        let line = line_of(&self.text, span);
        Error::misconfigured(
            format!("{} line {line}: {what}", self.path.display()),
            "correct the file, or the table",
        )
    }

    /// The same error, with the line of the definition.
    fn at(&self, span: &Range<usize>, error: Error) -> Error {
        let place = format!("{} line {}", self.path.display(), line_of(&self.text, span));
        match error {
            Error::Misconfigured { what, remedy, source } => {
                Error::Misconfigured { what: format!("{place}: {what}"), remedy, source }
            }
            error => error,
        }
    }
}

/// The line on which a part of the text begins, counted from 1.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_malformed_file_is_refused_with_the_line() {
        for (text, says) in [
            ("[pipeline.a]\ntopic = \"x\"\n", "p.toml line 1: missing field `table`"),
            (
                "[pipeline.a]\ntable = \"t\"\ntopik = \"x\"\n",
                "p.toml line 3: unknown field `topik`",
            ),
            ("[pipelines.a]\ntable = \"t\"\n", "p.toml line 1: unknown field `pipelines`"),
            ("\n[pipeline.a\n", "p.toml line 2: "),
            (
                "[pipeline.a]\ntable = \"t\"\n[pipeline.a.columns.b]\nlenght = [1, 2]\n",
                "p.toml line 4: unknown field `lenght`",
            ),
            (
                "[pipeline.a]\ntable = \"t\"\nformat = \"avro\"\n",
                "p.toml line 3: unknown variant `avro`",
            ),
        ] {
            let refused = Definitions::parse(Path::new("p.toml"), text.into()).unwrap_err();
            assert!(refused.chain().contains(says), "{text}: {}", refused.chain());
            assert_eq!(refused.exit_code(), 78);
        }
    }

    #[test]
    fn a_file_names_its_pipelines_and_their_topics() {
        let text = "[pipeline.b]\ntable = \"t\"\ntopic = \"x\"\n[pipeline.a]\ntable = \"u\"\n";
        let file = Definitions::parse(Path::new("p.toml"), text.into()).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((file.topic("a"), file.topic("b"), file.topic("c")), (None, Some("x"), None));
    }
}
