//! Tables as the catalog describes them, and the records that they can store.

use std::future::IntoFuture;
use std::pin::Pin;

use postgres_types::Type;
use tokio_postgres::Row;

use crate::error::Error;
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::record::column_type::{FRACTION_DIGITS_MAX, NUMERIC_DIGITS_MAX, VARCHAR_LENGTH_MAX};
use crate::record::{Column, ColumnType, Table, table};

/// Columns of a table. A domain counts as its base type; an array has the type of its elements.
const COLUMNS: &str = "\
    with recursive c as ( \
        select attnum as number, attname::text as name, atttypid as type, \
               atttypmod as modifier, attnotnull as not_null, \
               attgenerated <> '' or attidentity = 'a' as generated, \
               atthasdef and attgenerated = '' or attidentity = 'd' as defaulted, \
               coalesce((select collname from pg_collation \
                         where oid = attcollation and not collisdeterministic)::text, '') \
                   as collation \
        from pg_attribute \
        where attrelid = $1::text::regclass and attnum > 0 and not attisdropped \
        union all \
        select c.number, c.name, t.typbasetype, t.typtypmod, c.not_null or t.typnotnull, \
               c.generated, c.defaulted or t.typdefault is not null, c.collation \
        from c join pg_type t on t.oid = c.type where t.typtype = 'd') \
    select c.*, format_type(c.type, c.modifier) as shown, \
           n.nspname::text as type_schema, t.typname::text as type_name, \
           t.typtype = 'e' as is_enum, \
           case when t.typcategory = 'A' and t.oid = (select typarray from pg_type e \
                                                      where e.oid = t.typelem) \
                then t.typelem else 0 end as element \
    from c join pg_type t on t.oid = c.type join pg_namespace n on n.oid = t.typnamespace \
    where t.typtype <> 'd' order by c.number";

/// A column in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(super) name: String,
    pub(super) kind: FoundType,
    /// The type's modifier, as in `pg_attribute`; -1: none.
    pub(super) modifier: i32,
    pub(super) not_null: bool,
    /// Whether only the server writes it.
    pub(super) generated: bool,
    /// Whether the server has a value for rows that do not name the column.
    pub(super) defaulted: bool,
    /// Its collation, if that takes different texts for equal.
    pub(super) collation: String,
    /// The type as SQL writes it.
    pub(super) shown: String,
}

/// A type in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FoundType {
    /// A type by its number.
    Scalar(u32),
    /// An array of the type of this number.
    ArrayOf(u32),
    /// An enum by its schema and name.
    Enum(String, String),
}

impl Found {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let kind = match (row.try_get("is_enum")?, row.try_get("element")?) {
            (true, _) => FoundType::Enum(row.try_get("type_schema")?, row.try_get("type_name")?),
            (false, 0) => FoundType::Scalar(row.try_get("type")?),
            (false, element) => FoundType::ArrayOf(element),
        };
        Ok(Self {
            name: row.try_get("name")?,
            kind,
            modifier: row.try_get("modifier")?,
            not_null: row.try_get("not_null")?,
            generated: row.try_get("generated")?,
            defaulted: row.try_get("defaulted")?,
            collation: row.try_get("collation")?,
            shown: row.try_get("shown")?,
        })
    }
}

/// Reads the columns of a table, in its order.
pub(super) async fn columns(
    connection: &Connection,
    table: &str,
) -> Result<Vec<Found>, tokio_postgres::Error> {
    connection.query(COLUMNS, &[&table]).await?.iter().map(Found::of).collect()
}

/// The keys that a table may have: its unique indexes on columns alone, which hold for all rows at
/// once. The primary key is first.
const KEYS: &str = "\
    select array(select a.attname::text \
                 from unnest(i.indkey::int2[]) with ordinality k (number, place) \
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number \
                 where k.place <= i.indnkeyatts order by k.place) as columns, \
           i.indisprimary as is_primary \
    from pg_index i \
    where i.indrelid = $1::text::regclass and i.indisunique and i.indimmediate \
      and i.indisvalid and i.indpred is null and i.indexprs is null \
    order by i.indisprimary desc, i.indexrelid";

/// Schema and name of a table.
const NAME: &str = "\
    select n.nspname::text, c.relname::text \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.oid = to_regclass($1)";

/// A table that is read from the catalog: see [`Postgres::table`].
#[derive(Debug, Clone)]
#[must_use = "await it to read the table"]
pub struct ReadTable {
    postgres: Postgres,
    name: String,
    include: Vec<String>,
    /// Added if they exist.
    include_existing: Vec<String>,
    ignore: Vec<String>,
    key: Vec<String>,
}

impl Postgres {
    /// Reads a table from the catalog, for a pipeline without a record of its own. It gets all
    /// columns but those of the evidence, those that the server fills (generated, identity) and
    /// those with a default; its key is the primary key, or the only other unique index.
    ///
    /// ```no_run
    /// use lambda_core::{Pipeline, Postgres};
    ///
    /// # async fn run() -> Result<(), lambda_core::Error> {
    /// let postgres = Postgres::new("postgresql://loader@localhost/app")?;
    /// let table = postgres.table("ops.readings").ignore(["comment"]).await?;
    /// let readings = Pipeline::builder("readings", table).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn table(&self, name: &str) -> ReadTable {
        ReadTable {
            postgres: self.clone(),
            name: name.to_owned(),
            include: Vec::new(),
            include_existing: Vec::new(),
            ignore: Vec::new(),
            key: Vec::new(),
        }
    }
}

impl ReadTable {
    /// Adds columns that have a default: records give their value.
    pub fn include<'c>(mut self, columns: impl IntoIterator<Item = &'c str>) -> Self {
        self.include.extend(columns.into_iter().map(ToOwned::to_owned));
        self
    }

    /// Adds columns that have a default, if they exist.
    #[cfg(feature = "config")]
    pub(crate) fn include_existing<'c>(
        mut self,
        columns: impl IntoIterator<Item = &'c str>,
    ) -> Self {
        self.include_existing.extend(columns.into_iter().map(ToOwned::to_owned));
        self
    }

    /// Leaves out columns that may be null, or that no record can have.
    pub fn ignore<'c>(mut self, columns: impl IntoIterator<Item = &'c str>) -> Self {
        self.ignore.extend(columns.into_iter().map(ToOwned::to_owned));
        self
    }

    /// Selects the unique index on these columns, in the order of the index.
    pub fn key<'c>(mut self, columns: impl IntoIterator<Item = &'c str>) -> Self {
        self.key = columns.into_iter().map(ToOwned::to_owned).collect();
        self
    }

    async fn read(self) -> Result<Table, Error> {
        const READ: Request = Request::to("read a table from PostgreSQL's catalog");
        let connection = connect(&self.postgres, "catalog").await?;
        let named = READ.ask(connection.query_opt(NAME, &[&self.name])).await?;
        let Some(named) = named else {
            return Err(Error::misconfigured(
                format!("there is no table {}", self.name),
                "create it, or correct the name: with its schema, and in quotes where SQL needs them",
            ));
        };
        let read = || Ok((named.try_get(0)?, named.try_get(1)?));
        let (schema, name): (String, String) = read().map_err(|error| READ.failed(error))?;
        let found = READ.ask(columns(&connection, &self.name)).await?;
        let keys = READ.ask(connection.query(KEYS, &[&self.name])).await?;
        let keys = keys.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        let keys: Vec<(Vec<String>, bool)> =
            keys.collect::<Result<_, _>>().map_err(|error| READ.failed(error))?;
        self.assemble(Table::in_schema(&schema, &name), &found, &keys)
    }

    /// Makes the table of what the catalog says.
    fn assemble(
        &self,
        empty: Table,
        found: &[Found],
        keys: &[(Vec<String>, bool)],
    ) -> Result<Table, Error> {
        let refused = |what: String, remedy: &str| Err(Error::misconfigured(what, remedy));
        let shown = empty.to_string();
        for name in self.include.iter().chain(&self.ignore).chain(&self.key) {
            if !found.iter().any(|column| column.name == *name) {
                return refused(format!("{shown} has no column {name}"), "correct the name");
            }
        }
        let evidence = table::evidence();
        let mut table = empty;
        for column in found {
            let name = &column.name;
            let is_evidence = evidence.iter().any(|evidence| evidence.name == *name);
            let is_named = self.include.contains(name) || self.include_existing.contains(name);
            let left_out = column.defaulted && !is_named;
            if is_evidence || column.generated || left_out {
                continue;
            }
            if self.ignore.contains(name) {
                if column.not_null {
                    return refused(
                        format!(
                            "{shown}.{name} is not null and has no default, so every record has to give it"
                        ),
                        "do not ignore it, or give it a default",
                    );
                }
                continue;
            }
            let Some(kind) = column.column_type() else {
                return refused(
                    format!("{shown}.{name} is {}, which no record can have", column.shown),
                    "ignore the column if it may be null, give it a default, or change its type",
                );
            };
            let record = Column::new(name, kind);
            table = table.column(if column.not_null { record } else { record.nullable() });
        }
        let key = self.select(&shown, keys)?;
        if let Some(lacks) = key.iter().find(|name| !table.has_column(name)) {
            return refused(
                format!("{lacks} is in the key of {shown}, and no record gives it"),
                "select a unique index on columns that records give as the key, or include the column",
            );
        }
        Ok(table.key(key.iter().map(String::as_str)))
    }

    /// Selects one of the keys.
    fn select<'k>(
        &self,
        table: &str,
        keys: &'k [(Vec<String>, bool)],
    ) -> Result<&'k [String], Error> {
        let keys_of = || {
            let lists = keys.iter().map(|(columns, _)| format!("({})", columns.join(", ")));
            lists.collect::<Vec<_>>().join(", ")
        };
        if !self.key.is_empty() {
            let found = keys.iter().find(|(columns, _)| *columns == self.key);
            return found.map(|(columns, _)| &**columns).ok_or_else(|| {
                Error::misconfigured(
                    format!("{table} has no unique index on ({})", self.key.join(", ")),
                    format!("its unique indexes are on: {}", keys_of()),
                )
            });
        }
        match keys {
            [(columns, true), ..] | [(columns, _)] => Ok(columns),
            [] => Err(Error::misconfigured(
                format!("{table} has no primary key and no unique index on columns alone"),
                "add one: a record's key decides whether it is stored already",
            )),
            _ => Err(Error::misconfigured(
                format!("{table} has no primary key and several unique indexes: {}", keys_of()),
                "select one of them as the key",
            )),
        }
    }
}

impl IntoFuture for ReadTable {
    type Output = Result<Table, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// # Errors
    /// As for [`connect`]; `Fatal`, naming the column, when no record can have one that it would
    /// have to give, or when there is no key.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.read())
    }
}

impl Found {
    /// The type of a record's column that is stored in this one.
    fn column_type(&self) -> Option<ColumnType> {
        match &self.kind {
            FoundType::Enum(schema, name) => {
                Some(ColumnType::Enum { schema: schema.clone(), name: name.clone() })
            }
            FoundType::ArrayOf(oid) => scalar(*oid, self.modifier).map(ColumnType::array),
            // Without a limit, it stores what a text does.
            FoundType::Scalar(oid) if *oid == Type::VARCHAR.oid() && self.modifier == -1 => {
                Some(ColumnType::Text)
            }
            FoundType::Scalar(oid) => scalar(*oid, self.modifier),
        }
    }
}

/// The type of this number and modifier.
fn scalar(oid: u32, modifier: i32) -> Option<ColumnType> {
    let precision = u8::try_from(modifier).unwrap_or(FRACTION_DIGITS_MAX);
    let plain = [
        ColumnType::Bool,
        ColumnType::Int2,
        ColumnType::Int4,
        ColumnType::Int8,
        ColumnType::Float4,
        ColumnType::Float8,
        ColumnType::Text,
        ColumnType::Bytea,
        ColumnType::Uuid,
        ColumnType::Date,
        ColumnType::Jsonb,
        ColumnType::Time { precision },
        ColumnType::Timestamp { precision },
        ColumnType::Timestamptz { precision },
    ];
    if let Some(kind) = plain.into_iter().find(|kind| kind.oid() == Some(oid)) {
        return Some(kind);
    }
    match Type::from_oid(oid)? {
        Type::VARCHAR if modifier == -1 => Some(ColumnType::Varchar { length: VARCHAR_LENGTH_MAX }),
        // The modifier counts the four bytes of a length.
        Type::VARCHAR => {
            u32::try_from(modifier - 4).ok().map(|length| ColumnType::Varchar { length })
        }
        Type::NUMERIC if modifier == -1 => Some(ColumnType::UnconstrainedNumeric),
        Type::NUMERIC => {
            let (precision, scale) = digits(modifier)?;
            let precision = precision.min(i32::from(NUMERIC_DIGITS_MAX));
            let kind = ColumnType::Numeric {
                precision: u8::try_from(precision).ok()?,
                scale: u8::try_from(scale).ok()?,
            };
            kind.defect().is_none().then_some(kind)
        }
        _ => None,
    }
}

/// Decodes precision and scale from the modifier of a numeric, as `numeric.c` packs them.
pub(super) fn digits(modifier: i32) -> Option<(i32, i32)> {
    let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    Some((packed >> 16, ((packed & 0x7ff) ^ 1024) - 1024))
}
