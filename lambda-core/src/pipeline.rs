//! A pipeline: where records come from, how they are decoded, and the table that they go to.

use std::fmt;
use std::sync::Arc;

use crate::decode::{Csv, Decode, Json, Record, encode_default};
use crate::error::Error;
use crate::record::table::evidence;
use crate::record::{Column, Table};

/// Longest name that PostgreSQL keeps, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// A pipeline. Cheap to clone.
///
/// ```
/// use lambda_core::transaction;
///
/// let transactions = transaction::pipeline();
/// assert_eq!(transactions.table().to_string(), "public.transactions");
/// ```
#[derive(Clone)]
pub struct Pipeline {
    name: Arc<str>,
    table: Arc<Table>,
    messages: Arc<dyn Decode>,
    files: Csv,
}

impl Pipeline {
    /// Starts the pipeline of a record, from messages in JSON and from files in CSV, unless they
    /// are set otherwise.
    ///
    /// ```
    /// use lambda_core::decode::Json;
    /// use lambda_core::{Pipeline, Record};
    ///
    /// #[derive(Record)]
    /// #[record(table = "ops.flights", key(flight_id))]
    /// struct Flight {
    ///     flight_id: String,
    ///     delay_minutes: Option<i16>,
    /// }
    ///
    /// let json = Json::new().only("type", "flight");
    /// let flights = Pipeline::of::<Flight>("flights").messages(json).build()?;
    /// assert_eq!((flights.name(), flights.decoder().format()), ("flights", "json"));
    /// # Ok::<(), lambda_core::Error>(())
    /// ```
    pub fn of<R: Record>(name: &str) -> Builder {
        Self::builder(name, R::table()).messages(R::messages()).files(R::files())
    }

    /// Starts the pipeline of a table, from messages in JSON and from files in CSV, unless they
    /// are set otherwise.
    ///
    /// ```
    /// use lambda_core::Pipeline;
    /// use lambda_core::record::{Column, ColumnType, Table};
    ///
    /// let table = Table::new("ops.readings")
    ///     .column(Column::new("sensor", ColumnType::Text))
    ///     .column(Column::new("at", ColumnType::TIMESTAMPTZ))
    ///     .column(Column::new("millidegrees", ColumnType::Int4).nullable())
    ///     .key(["sensor", "at"]);
    /// let readings = Pipeline::builder("readings", table).build()?;
    /// assert_eq!(readings.table().key_names(), ["sensor", "at"]);
    /// # Ok::<(), lambda_core::Error>(())
    /// ```
    pub fn builder(name: &str, table: Table) -> Builder {
        let (messages, files) = (Box::new(Json::new()), Csv::new());
        Builder { name: name.to_owned(), table, messages, files }
    }

    /// Its name: unique in a database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The decoder of its messages.
    pub fn decoder(&self) -> &Arc<dyn Decode> {
        &self.messages
    }

    /// The format of its files.
    pub fn files(&self) -> &Csv {
        &self.files
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("name", &self.name)
            .field("table", &self.table)
            .field("messages", &self.messages.format())
            .finish_non_exhaustive()
    }
}

/// A pipeline that is not built yet.
#[must_use]
pub struct Builder {
    name: String,
    table: Table,
    messages: Box<dyn Decode>,
    files: Csv,
}

impl Builder {
    /// Sets the decoder of messages.
    pub fn messages(self, decoder: impl Decode) -> Self {
        Self { messages: Box::new(decoder), ..self }
    }

    /// Sets the format of files.
    pub fn files(self, csv: Csv) -> Self {
        Self { files: csv, ..self }
    }

    /// Builds the pipeline, after checking everything that is known without a database.
    ///
    /// ```
    /// use lambda_core::Pipeline;
    /// use lambda_core::record::{Column, ColumnType, Table};
    ///
    /// let table = Table::new("ratios").column(Column::new("ratio", ColumnType::Float8));
    /// let refused = Pipeline::builder("ratios", table).build();
    /// assert!(refused.is_err_and(|error| error.exit_code() == 78), "no key is a float");
    /// ```
    ///
    /// # Errors
    /// `Fatal` for a table without columns, with a key that is none of its columns, with types or
    /// rules out of range, or with names that PostgreSQL would cut or that evidence columns
    /// have; and for a decoder that cannot fill the table.
    pub fn build(self) -> Result<Pipeline, Error> {
        let Self { name, mut table, mut messages, files } = self;
        check(&name, &table)?;
        if let Some(defect) = files.defect() {
            return Err(Error::misconfigured(
                format!("the files of pipeline {name}: {defect}"),
                "change how the pipeline's files are read",
            ));
        }
        table.try_map_columns(encode_default).map_err(|reject| {
            Error::misconfigured(
                format!("pipeline {name}: the default of {reject}"),
                "give a default that the column can have",
            )
        })?;
        messages.bind(&table)?;
        let (name, table) = (name.as_str().into(), Arc::new(table));
        Ok(Pipeline { name, table, messages: messages.into(), files })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, table, messages, .. } = self;
        f.debug_struct("Builder")
            .field("name", name)
            .field("table", table)
            .field("messages", &messages.format())
            .finish_non_exhaustive()
    }
}

/// Checks what is known without a database.
fn check(pipeline: &str, table: &Table) -> Result<(), Error> {
    let refused = |what: String| {
        Err(Error::misconfigured(
            format!("pipeline {pipeline}: {what}"),
            "change the pipeline's name or its table",
        ))
    };
    if table.key_columns().count() != table.key_indexes().len() || table.key_indexes().is_empty() {
        return refused(format!("the key of {table} is none of its columns"));
    }
    for column in table.key_columns() {
        let name = &column.name;
        if column.nullable {
            return refused(format!("{name} is in the key of {table} and may be null"));
        }
        if !column.kind.is_key() {
            return refused(format!(
                "{name} is in the key of {table}, and {} cannot be",
                column.kind
            ));
        }
    }
    let names = table.columns().iter().map(|column| &*column.name);
    for name in names.clone().chain([pipeline, table.schema(), table.name()]) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
            return refused(format!("{name:?} is not a name of 1 to {NAME_BYTES_MAX} bytes"));
        }
        // Statements name the protocol's own tables like this.
        if name.contains("lambda.") {
            return refused(format!("{name:?} contains the name of a schema"));
        }
    }
    for column in table.columns() {
        if let Some(defect) = column.defect() {
            return refused(format!("the column {}: {defect}", column.name));
        }
    }
    for (index, name) in names.clone().enumerate() {
        if evidence().iter().any(|column| column.name == name) {
            return refused(format!("the column {name} has the name of an evidence column"));
        }
        if names.clone().take(index).any(|earlier| earlier == name) {
            return refused(format!("{table} has the column {name} twice"));
        }
    }
    for (index, Column { name, field, .. }) in table.columns().iter().enumerate() {
        if let Some(other) = table.columns()[..index].iter().find(|it| it.field == *field) {
            let other = &other.name;
            return refused(format!("the columns {other} and {name} both have the field {field}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ColumnType;

    const NUMERIC: ColumnType = ColumnType::Numeric { precision: 9, scale: 2 };

    fn column(name: &str) -> Column {
        Column::new(name, ColumnType::Text)
    }

    #[test]
    fn a_table_that_cannot_be_a_pipelines_is_refused() {
        let long = "x".repeat(64);
        let table = || Table::new("ops.readings").column(column("id"));
        let of = |kind| table().column(Column::new("n", kind));
        let cases = [
            (table(), ""),
            (Table::new("ops.readings"), "none of its columns"),
            (table().key(["other"]), "none of its columns"),
            (table().key([]), "none of its columns"),
            (table().column(Column::new("n", NUMERIC)).key(["id", "n"]), "numeric(9,2) cannot be"),
            (of(ColumnType::Numeric { precision: 39, scale: 2 }), "numeric(39,2) is not of"),
            (of(ColumnType::Numeric { precision: 4, scale: 5 }), "numeric(4,5) is not of"),
            (of(ColumnType::Varchar { length: 0 }), "character varying(0) is not of"),
            (of(ColumnType::Time { precision: 7 }), "more than 6 digits"),
            (of(ColumnType::Int4.array().array()), "integer[][] is an array"),
            (of(ColumnType::enumeration("ops.cabin").array()), "ops.cabin[] is an array"),
            (of(ColumnType::Varchar { length: 0 }.array()), "character varying(0) is not of"),
            (of(ColumnType::enumeration("ops.cabin")), ""),
            (Table::new("t").column(column("id").nullable()), "may be null"),
            (table().column(column("lane")), "evidence column"),
            (table().column(column("id")), "twice"),
            (table().column(column(&long)), "1 to 63 bytes"),
            (Table::new("ops.").column(column("id")), "1 to 63 bytes"),
        ];
        for (table, says) in cases {
            match check("readings", &table) {
                Ok(()) => assert_eq!(says, "", "{table}"),
                Err(error) => {
                    let chain = error.chain();
                    assert!(!says.is_empty() && chain.contains(says), "{table}: {chain}");
                    assert_eq!(error.exit_code(), 78);
                }
            }
        }
        assert!(check("", &table()).is_err());
    }
}
