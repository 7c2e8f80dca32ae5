//! The registry: every pipeline of a database, and its table.

use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::record::table::quoted;
use crate::record::{Column, Table};

/// A pipeline in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// Its table, as SQL names it, always in quotes.
    pub table: String,
    /// The columns of its key, in order.
    pub key: Vec<String>,
}

/// Enters pipelines, or brings their entries up to date.
///
/// # Errors
/// `Fatal` when another pipeline has the table, or the pipeline another table; otherwise as for
/// [`connect`].
pub async fn register(config: &Postgres, pipelines: &[&Pipeline]) -> Result<(), Error> {
    const REGISTER: Request = Request::to("register a pipeline in PostgreSQL").with_locks();
    let mut connection = connect(config, "setup").await?;
    let failed = |error| REGISTER.failed(error);
    for pipeline in pipelines {
        let (name, table) = (pipeline.name(), pipeline.table());
        let qualified = table.to_string();
        let sql = "\
            insert into lambda.pipelines (name, \"table\", definition) values ($1, $2, $3) \
            on conflict (name) do update set definition = excluded.definition \
            where pipelines.\"table\" = excluded.\"table\"";
        let definition = definition(table);
        let store = async {
            let transaction = connection.transaction().await.map_err(failed)?;
            // Two setups at once would meet each other's key instead of the name.
            let lock = "lock table lambda.pipelines in share row exclusive mode";
            transaction.batch_execute(lock).await.map_err(failed)?;
            let stored = transaction.execute(sql, &[&name, &qualified, &definition]).await;
            let stored = stored.map_err(|error| {
                if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
                    return Error::misconfigured(
                        format!("pipeline {name} cannot have {table}: another one stores there"),
                        "look in the table pipelines; a table has one pipeline",
                    );
                }
                failed(error)
            })?;
            if stored == 0 {
                check(&transaction, pipeline).await?;
            }
            transaction.commit().await.map_err(failed)
        };
        REGISTER.limit(store).await?;
    }
    Ok(())
}

fn definition(table: &Table) -> Value {
    let column = |column: &Column| {
        json!({
            "name": column.name,
            "type": column.kind.to_string(),
            "nullable": column.nullable,
        })
    };
    json!({
        "columns": table.columns().iter().map(column).collect::<Vec<_>>(),
        "key": table.key_names(),
    })
}

/// Checks that a pipeline is registered with its table: setup, restore and grants know only
/// those.
///
/// # Errors
/// `Fatal` when it is not.
pub(crate) async fn check(connection: &Connection, pipeline: &Pipeline) -> Result<(), Error> {
    const LOOK: Request = Request::to("look up the pipeline in PostgreSQL").of_own_tables();
    let (name, table) = (pipeline.name(), pipeline.table().to_string());
    let sql = "select \"table\" from lambda.pipelines where name = $1";
    let row = LOOK.ask(connection.query_opt(sql, &[&name])).await?;
    let registered = row.map(|row| row.try_get::<_, String>(0)).transpose();
    match registered.map_err(|error| LOOK.failed(error))? {
        Some(registered) if registered == table => Ok(()),
        Some(other) => Err(Error::misconfigured(
            format!("pipeline {name} stores in {other} here, not in {table}"),
            "give one of the two another name, or finish with the old table and delete its entry \
             in the table pipelines",
        )),
        None => Err(Error::misconfigured(
            format!("pipeline {name} is not registered in this database"),
            "register it when you set the database up; lambda-db-setup registers transactions",
        )),
    }
}

/// Whether a pipeline of this name is registered, and our role may store rows in its table.
///
/// # Errors
/// As for [`connect`].
pub async fn knows(connection: &Connection, name: &str) -> Result<bool, Error> {
    const LOOK: Request = Request::to("look up the pipeline in PostgreSQL").of_own_tables();
    let sql = "\
        select exists (select from lambda.pipelines \
                       where name = $1 and has_table_privilege(to_regclass(\"table\"), 'insert'))";
    let row = LOOK.ask(connection.query_one(sql, &[&name])).await?;
    row.try_get(0).map_err(|error| LOOK.failed(error))
}

/// Reads the registry, by name, without pipelines whose table does not exist.
pub(crate) async fn read(
    connection: &Connection,
) -> Result<Vec<Registered>, tokio_postgres::Error> {
    let sql = "\
        select p.name, n.nspname::text, c.relname::text, \
               array(select jsonb_array_elements_text(definition -> 'key')) \
        from lambda.pipelines p join pg_class c on c.oid = to_regclass(p.\"table\") \
        join pg_namespace n on n.oid = c.relnamespace order by p.name";
    let registered = |row: &Row| {
        let table = format!("{}.{}", quoted(row.try_get(1)?), quoted(row.try_get(2)?));
        Ok(Registered { name: row.try_get(0)?, table, key: row.try_get(3)? })
    };
    connection.query(sql, &[]).await?.iter().map(registered).collect()
}
