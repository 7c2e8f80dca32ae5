//! The registry: every pipeline of a database, and its table.

use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::postgres::connection::config::DatabaseConfig;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::record::Table;

/// A pipeline in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// Its table, as SQL names it.
    pub table: String,
    /// The columns of its key, in order.
    pub key: Vec<String>,
}

/// Enters pipelines, or brings their entries up to date.
///
/// # Errors
/// `Fatal` when another pipeline has the table; otherwise as for [`connect`].
pub async fn register(config: &DatabaseConfig, pipelines: &[&Pipeline]) -> Result<(), Error> {
    const REGISTER: Request = Request::to("register a pipeline in PostgreSQL").with_locks();
    let connection = connect(config, "setup").await?;
    for pipeline in pipelines {
        let (name, table) = (pipeline.name(), pipeline.table());
        let qualified = table.to_string();
        let sql = "\
            insert into lambda.pipelines (name, \"table\", definition) values ($1, $2, $3) \
            on conflict (name) do update \
            set \"table\" = excluded.\"table\", definition = excluded.definition";
        let definition = definition(table);
        let store = async {
            let stored = connection.execute(sql, &[&name, &qualified, &definition]).await;
            stored.map_err(|error| {
                if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
                    return Error::misconfigured(
                        format!("pipeline {name} cannot have {table}: another one stores there"),
                        "look in the table pipelines; a table has one pipeline",
                    );
                }
                REGISTER.failed(error)
            })
        };
        REGISTER.limit(store).await?;
    }
    Ok(())
}

fn definition(table: &Table) -> Value {
    let column = |column: &crate::record::Column| {
        json!({
            "name": column.name,
            "type": column.kind.to_string(),
            "nullable": column.nullable,
        })
    };
    json!({
        "columns": table.columns().iter().map(column).collect::<Vec<_>>(),
        "key": [table.key_column().name],
    })
}

/// Reads the registry, by name, without pipelines whose table does not exist.
pub(crate) async fn read(
    connection: &Connection,
) -> Result<Vec<Registered>, tokio_postgres::Error> {
    let sql = "\
        select p.name, format('%I.%I', n.nspname, c.relname), \
               array(select jsonb_array_elements_text(definition -> 'key')) \
        from lambda.pipelines p join pg_class c on c.oid = to_regclass(p.\"table\") \
        join pg_namespace n on n.oid = c.relnamespace order by p.name";
    let registered = |row: &Row| {
        Ok(Registered { name: row.try_get(0)?, table: row.try_get(1)?, key: row.try_get(2)? })
    };
    connection.query(sql, &[]).await?.iter().map(registered).collect()
}
