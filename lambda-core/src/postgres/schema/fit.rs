//! Checks whether a table fits the record that is stored in it, by the catalog. A column of
//! another type accepts values too: numeric rounds to its scale, a shorter integer refuses
//! every row. So both are compared before anything is stored.

use postgres_types::Type;

use super::catalog::{self, Found, FoundType};
use crate::error::Error;
use crate::postgres::connection::Connection;
use crate::postgres::remedy;
use crate::record::{Column, ColumnType, Table, table};

/// The protocol's tables, which a loader reads and writes in addition to the record's.
const OWN_TABLES: [&str; 5] = [
    "lambda.ingest_progress",
    "lambda.dead_letters",
    "lambda.corrections",
    "lambda.batch_jobs",
    "lambda.xid_offset",
];

/// Kind of relation behind each name, whether policies hide its rows from this role, and the
/// encoding of the database.
const RELATIONS: &str = "\
    select t.name, \
           case when c.relpersistence <> 'p' then 'u' \
                when c.relkind = 'r' and c.relhassubclass \
                     and exists (select from pg_inherits where inhparent = c.oid) then 'i' \
                else c.relkind::text end as kind, \
           row_security_active(c.oid) as secured, \
           current_user::text as role, getdatabaseencoding()::text as encoding \
    from unnest($1::text[]) with ordinality t (name, number) \
    join pg_class c on c.oid = t.name::regclass order by t.number";

/// Compares `table` and the protocol's tables with the catalog.
///
/// # Errors
/// `Fatal`, naming the table and each column that differs with both types.
pub(crate) async fn check(connection: &Connection, table: &Table) -> Result<(), Error> {
    let failed = |error| remedy::explain(error, "compare the table in PostgreSQL with the record");
    let schema = connection.schema();
    let own = OWN_TABLES.iter().map(|name| schema.sql(name).into_owned());
    let names: Vec<String> = [table.to_string()].into_iter().chain(own).collect();
    for row in connection.query(RELATIONS, &[&names]).await.map_err(failed)? {
        let read = || {
            Ok((
                row.try_get("name")?,
                row.try_get("kind")?,
                row.try_get("secured")?,
                row.try_get("role")?,
                row.try_get("encoding")?,
            ))
        };
        let (name, kind, secured, role, encoding): (&str, &str, bool, &str, &str) =
            read().map_err(failed)?;
        utf8(encoding)?;
        storable(name, kind)?;
        if secured {
            return Err(secured_by_policies(name, role));
        }
    }
    let found = catalog::columns(connection, &table.to_string()).await.map_err(failed)?;
    let (name, evidence) = (table.to_string(), table::evidence());
    let columns = table.columns().iter().chain(&evidence);
    let keys = table.key_columns().filter_map(|column| collated(&name, column, &found));
    let differences: Vec<String> =
        columns.filter_map(|column| difference(&name, column, &found)).chain(keys).collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::misconfigured(
        differences.join("; "),
        "alter the table so that it fits, or run lambda-db-setup of this version; nothing was \
         stored by this session",
    ))
}

/// Names of the triggers that may change a row before it is stored.
const TRIGGERS: &str = "\
    select string_agg(tgname, ', ' order by tgname) from pg_trigger \
    where tgrelid = $1::text::regclass and not tgisinternal and tgenabled <> 'D' \
      and tgtype & 3 = 3 and tgtype & 20 <> 0";

/// Warns of triggers that may change a row before it is stored: the row's content would not be
/// the record's.
pub(crate) async fn warn_of_triggers(connection: &Connection, table: &Table) -> Result<(), Error> {
    let row = connection.query_one(TRIGGERS, &[&table.to_string()]).await;
    let triggers: Option<String> = row
        .and_then(|row| row.try_get(0))
        .map_err(|error| remedy::explain(error, "look for triggers in PostgreSQL"))?;
    if let Some(triggers) = triggers {
        tracing::warn!(
            %table, triggers,
            "triggers run before rows are stored; they must not change a column of the record"
        );
    }
    Ok(())
}

/// Refuses other encodings of text: keys would have another order than their bytes.
fn utf8(encoding: &str) -> Result<(), Error> {
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(Error::misconfigured(
        format!("the database has the encoding {encoding}"),
        "create a database with the encoding UTF8",
    ))
}

fn storable(name: &str, kind: &str) -> Result<(), Error> {
    let kind = match kind {
        "r" | "p" => return Ok(()),
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        "u" => "an unlogged table, which a crash of the server empties",
        "i" => "a table with others that inherit from it, which no index covers together",
        _ => "not a table",
    };
    Err(Error::misconfigured(
        format!("{name} is {kind}, and rows are stored exactly once only in a table"),
        "name the table itself; a partitioned table works too",
    ))
}

fn secured_by_policies(name: &str, role: &str) -> Error {
    Error::misconfigured(
        format!("row security applies to {name} for the role {role}"),
        format!(
            "a loader must see and write every row: alter role {role} bypassrls, or alter table \
             {name} disable row level security"
        ),
    )
}

/// Describes how the record's column differs from the table's, if it does.
fn difference(table: &str, column: &Column, found: &[Found]) -> Option<String> {
    let (name, wanted) = (&*column.name, &column.kind);
    let Some(found) = found.iter().find(|found| found.name == name) else {
        return Some(format!("{table}.{name} is missing, the record has it as {wanted}"));
    };
    let shown = &found.shown;
    if !takes(found, wanted) {
        return Some(format!("{table}.{name} is {shown}, the record has it as {wanted}"));
    }
    if found.not_null && column.nullable {
        return Some(format!(
            "{table}.{name} is {shown} not null, the record has it as {wanted} that may be null"
        ));
    }
    found.generated.then(|| format!("{table}.{name} is generated, the record has it as {wanted}"))
}

/// Describes the collation of a key's column, if it takes different texts for one key.
fn collated(table: &str, column: &Column, found: &[Found]) -> Option<String> {
    let found = found.iter().find(|found| found.name == column.name)?;
    let Found { name, shown, collation, .. } = found;
    (!collation.is_empty()).then(|| {
        format!("{table}.{name} is {shown} collate {collation}, in which different keys are equal")
    })
}

/// Whether a column stores every value of the type unchanged.
fn takes(found: &Found, wanted: &ColumnType) -> bool {
    match (&found.kind, wanted) {
        (FoundType::Enum(schema, name), ColumnType::Enum { schema: in_schema, name: named }) => {
            (schema, name) == (in_schema, named)
        }
        (FoundType::ArrayOf(oid), ColumnType::Array(element)) => {
            Some(*oid) == element.oid() && holds(found.modifier, element)
        }
        (FoundType::Scalar(oid), wanted) => {
            let text = [ColumnType::Text.oid(), Some(Type::VARCHAR.oid())];
            // As values, not as elements of an array, both forms of text are the same.
            let same = if wanted.is_text() {
                text.contains(&Some(*oid))
            } else {
                Some(*oid) == wanted.oid()
            };
            same && holds(found.modifier, wanted)
        }
        _ => false,
    }
}

/// Whether a type of this modifier holds every value of `wanted`, which is of the same type.
fn holds(modifier: i32, wanted: &ColumnType) -> bool {
    match wanted {
        ColumnType::Numeric { precision, scale } => {
            catalog::digits(modifier).is_some_and(|(most, behind)| {
                most >= i32::from(*precision) && behind == i32::from(*scale)
            })
        }
        // Fewer digits would round.
        ColumnType::Time { precision }
        | ColumnType::Timestamp { precision }
        | ColumnType::Timestamptz { precision } => {
            modifier == -1 || modifier >= i32::from(*precision)
        }
        // A shorter one cuts spaces silently. The modifier counts the four bytes of a length.
        ColumnType::Varchar { length } => {
            modifier == -1 || i64::from(modifier) - 4 >= i64::from(*length)
        }
        _ => modifier == -1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(precision: i32, scale: i32) -> (Type, i32) {
        (Type::NUMERIC, (precision << 16 | scale & 0x7ff) + 4)
    }

    #[test]
    fn a_column_takes_a_type_only_if_it_stores_every_value_as_it_is() {
        let money = ColumnType::Numeric { precision: 12, scale: 4 };
        let varchar = ColumnType::Varchar { length: 24 };
        let millis = ColumnType::Timestamptz { precision: 3 };
        let table = [
            (money.clone(), numeric(12, 4), true),
            (money.clone(), numeric(20, 4), true),
            (money.clone(), numeric(12, 2), false),
            (money.clone(), numeric(12, 6), false),
            (money.clone(), numeric(11, 4), false),
            (money.clone(), numeric(12, -4), false),
            (money.clone(), (Type::NUMERIC, -1), false),
            (money.clone(), (Type::FLOAT8, -1), false),
            (money.clone().array(), (Type::NUMERIC_ARRAY, numeric(12, 4).1), true),
            (money.clone().array(), (Type::NUMERIC_ARRAY, numeric(12, 2).1), false),
            (money.clone().array(), numeric(12, 4), false),
            (ColumnType::UnconstrainedNumeric, (Type::NUMERIC, -1), true),
            (ColumnType::UnconstrainedNumeric, numeric(38, 4), false),
            (ColumnType::Int4, (Type::INT4, -1), true),
            (ColumnType::Int4, (Type::INT8, -1), false),
            (ColumnType::Int4, (Type::INT2, -1), false),
            (ColumnType::Int8, (Type::INT8, -1), true),
            (ColumnType::Int8, (Type::INT4, -1), false),
            (ColumnType::Int8, (Type::INT8_ARRAY, -1), false),
            (ColumnType::Float4, (Type::FLOAT4, -1), true),
            (ColumnType::Float4, (Type::FLOAT8, -1), false),
            (ColumnType::Float8, (Type::FLOAT4, -1), false),
            (ColumnType::Text, (Type::TEXT, -1), true),
            (ColumnType::Text, (Type::VARCHAR, -1), true),
            (ColumnType::Text, (Type::VARCHAR, 28), false),
            (ColumnType::Text, (Type::BPCHAR, 28), false),
            (ColumnType::Text.array(), (Type::TEXT_ARRAY, -1), true),
            (ColumnType::Text.array(), (Type::VARCHAR_ARRAY, -1), false),
            (varchar.clone(), (Type::VARCHAR, 28), true),
            (varchar.clone(), (Type::VARCHAR, 27), false),
            (varchar.clone(), (Type::VARCHAR, -1), true),
            (varchar.clone(), (Type::TEXT, -1), true),
            (varchar.clone().array(), (Type::VARCHAR_ARRAY, 28), true),
            (varchar.array(), (Type::TEXT_ARRAY, -1), false),
            (ColumnType::TIMESTAMPTZ, (Type::TIMESTAMPTZ, -1), true),
            (ColumnType::TIMESTAMPTZ, (Type::TIMESTAMPTZ, 6), true),
            (ColumnType::TIMESTAMPTZ, (Type::TIMESTAMPTZ, 3), false),
            (ColumnType::TIMESTAMPTZ, (Type::TIMESTAMP, -1), false),
            (millis.clone(), (Type::TIMESTAMPTZ, 3), true),
            (millis.clone(), (Type::TIMESTAMPTZ, -1), true),
            (millis, (Type::TIMESTAMPTZ, 0), false),
            (ColumnType::TIMESTAMP, (Type::TIMESTAMP, -1), true),
            (ColumnType::TIME, (Type::TIME, -1), true),
            (ColumnType::TIME, (Type::TIMETZ, -1), false),
            (ColumnType::Jsonb, (Type::JSONB, -1), true),
            (ColumnType::Jsonb, (Type::JSON, -1), false),
            (ColumnType::Bytea, (Type::BYTEA, -1), true),
            (ColumnType::Bool, (Type::BOOL, -1), true),
            (ColumnType::Bool, (Type::TEXT, -1), false),
            (ColumnType::enumeration("ops.cabin"), (Type::TEXT, -1), false),
        ];
        for (wanted, (kind, modifier), fits) in table {
            let found = Found {
                name: "c".into(),
                kind: match kind.kind() {
                    postgres_types::Kind::Array(element) => FoundType::ArrayOf(element.oid()),
                    _ => FoundType::Scalar(kind.oid()),
                },
                modifier,
                not_null: false,
                generated: false,
                defaulted: false,
                collation: String::new(),
                shown: String::new(),
            };
            assert_eq!(takes(&found, &wanted), fits, "{wanted} into {kind} with {modifier}");
        }
    }

    #[test]
    fn a_difference_names_the_column_and_both_types() {
        let found = |not_null, generated| Found {
            name: "c".into(),
            kind: FoundType::Scalar(Type::TEXT.oid()),
            modifier: -1,
            not_null,
            generated,
            defaulted: false,
            collation: String::new(),
            shown: "text".into(),
        };
        let required = Column::new("c", ColumnType::Text);
        let says = |column, found| difference("t", &column, &[found]);
        let nullable = || required.clone().nullable();
        assert_eq!(says(required.clone(), found(true, false)), None);
        assert_eq!(says(required.clone(), found(false, false)), None, "the column may allow more");
        assert_eq!(says(nullable(), found(false, false)), None);
        let null = "t.c is text not null, the record has it as text that may be null";
        assert_eq!(says(nullable(), found(true, false)).as_deref(), Some(null));
        let made = "t.c is generated, the record has it as text";
        assert_eq!(says(required.clone(), found(false, true)).as_deref(), Some(made));
        let other =
            Column { kind: ColumnType::Numeric { precision: 12, scale: 4 }, ..required.clone() };
        let kind = "t.c is text, the record has it as numeric(12,4)";
        assert_eq!(says(other, found(false, false)).as_deref(), Some(kind));
        let missing = "t.d is missing, the record has it as text";
        assert_eq!(
            difference("t", &Column { name: "d".into(), ..required }, &[]).as_deref(),
            Some(missing)
        );
    }
}
