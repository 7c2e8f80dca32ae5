//! Adoption of a table that was there before its pipeline: it gets the columns in which evidence is
//! kept.

use tokio_postgres::error::SqlState;

use super::{catalog, fit, migrate};
use crate::error::{Error, Server};
use crate::pipeline::Pipeline;
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::schema::migrate::connect_to_set_up;
use crate::record::{Column, Table, table};

const LOOK: Request = Request::to("read a table from PostgreSQL's catalog");
const ADD: Request = Request::to("add columns to a table in PostgreSQL").with_locks();

/// Whether the ids of transactions, by the function `$2`, are the default of a table's evidence.
const DEFAULT: &str = "\
    select exists (select from pg_attrdef d \
                   join pg_attribute a on (a.attrelid, a.attnum) = (d.adrelid, d.adnum) \
                   join pg_depend p on p.classid = 'pg_attrdef'::regclass and p.objid = d.oid \
                   where a.attrelid = $1::text::regclass and a.attname = 'written_xid' \
                     and p.refclassid = 'pg_proc'::regclass \
                     and p.refobjid = to_regprocedure($2))";

impl Postgres {
    /// The statements that [`Postgres::adopt`] would run on the pipeline's table; none if it has
    /// been adopted.
    ///
    /// # Errors
    /// As for [`connect`].
    pub async fn adoption(&self, pipeline: &Pipeline) -> Result<Vec<String>, Error> {
        let connection = connect(self, "catalog").await?;
        statements(&connection, pipeline.table()).await
    }

    /// Prepares a database for a pipeline as [`Postgres::set_up`] does, and adds the columns of the
    /// evidence to its table, which may have rows already. The loaders count those as rows of the
    /// stream without evidence: a record of the same content is a duplicate, a file confirms or
    /// corrects them. Rows that an application inserts later carry the id of their transaction.
    /// Safe to run again. Returns the statements that it ran on the table.
    ///
    /// ```no_run
    /// use lambda_core::{Pipeline, Postgres};
    ///
    /// # async fn run() -> Result<(), lambda_core::Error> {
    /// let postgres = Postgres::new("postgresql://owner@localhost/app")?;
    /// let table = postgres.table("ops.readings").await?;
    /// let readings = Pipeline::builder("readings", table).build()?;
    /// for statement in postgres.adopt(&readings).await? {
    ///     println!("{statement}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Postgres::set_up`]. `Transient` when another transaction holds the table; `Fatal`
    /// when this role may not change it, when it does not fit, and when it has some of the evidence's
    /// names for columns of its own. The table is unchanged then, and the pipeline not registered.
    pub async fn adopt(&self, pipeline: &Pipeline) -> Result<Vec<String>, Error> {
        migrate::PROTOCOL.migrate(self).await?;
        let mut connection = connect_to_set_up(self, "adopt").await?;
        let statements = statements(&connection, pipeline.table()).await?;
        let add = async {
            let transaction = connection.transaction().await.map_err(adding)?;
            if !statements.is_empty() {
                transaction.batch_execute(&statements.join("; ")).await.map_err(adding)?;
            }
            fit::check(&transaction, pipeline.table()).await?;
            transaction.commit().await.map_err(adding)
        };
        ADD.limit(add).await?;
        // Grants and restores go by the registry, so it never has a table that is not ready.
        self.set_up(&[pipeline]).await?;
        Ok(statements)
    }
}

/// What the table lacks, as statements. Rows from before get constants, so none is rewritten.
async fn statements(connection: &Connection, table: &Table) -> Result<Vec<String>, Error> {
    let name = table.to_string();
    let found = LOOK.ask(catalog::columns(connection, &name)).await?;
    let has = |column: &Column| found.iter().any(|found| found.name == column.name);
    let evidence = table::evidence();
    let taken: Vec<&str> =
        evidence.iter().filter(|column| has(column)).map(|column| &*column.name).collect();
    if !taken.is_empty() && taken.len() < evidence.len() {
        return Err(Error::misconfigured(
            format!("{name} has columns with names of the evidence: {}", taken.join(", ")),
            "rename them, or add the others of the evidence by hand if these are its",
        ));
    }
    let missing = evidence.iter().filter(|column| !has(column)).map(|column| match &*column.name {
        // Older than every snapshot.
        "written_xid" => {
            format!("add column if not exists {} {} not null default 0", column.sql(), column.kind)
        }
        "job_id" => {
            format!("add column if not exists {} {} collate \"C\"", column.sql(), column.kind)
        }
        _ => format!("add column if not exists {} {}", column.sql(), column.kind),
    });
    let missing: Vec<String> = missing.collect();
    let id = connection.schema().sql("lambda.current_id()").into_owned();
    let row = LOOK.ask(connection.query_one(DEFAULT, &[&name, &id])).await?;
    let has_default: bool = row.try_get(0).map_err(|error| LOOK.failed(error))?;
    let mut statements = Vec::new();
    if !missing.is_empty() {
        statements.push(format!("alter table {name} {}", missing.join(", ")));
    }
    if !has_default {
        statements.push(format!("alter table {name} alter column written_xid set default {id}"));
    }
    Ok(statements)
}

fn adding(error: tokio_postgres::Error) -> Error {
    match error.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE) => Error::Temporary {
            server: Server::Postgres,
            what: "add columns to a table in PostgreSQL",
            remedy: "a long transaction holds the table: look at pg_stat_activity, and run it again",
            source: Box::new(error),
        },
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Error::Misconfigured {
            what: "could not add columns to the pipeline's table".into(),
            remedy: "log in as the table's owner".into(),
            source: error.as_db_error().map(|error| error.message().into()),
        },
        _ => ADD.failed(error),
    }
}
