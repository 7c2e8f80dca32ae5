//! Checks that the schema is complete: the objects that the migrations created may have
//! been dropped.

use tokio_postgres::Row;

use super::{row, rows, unread};
use crate::error::Error;
use crate::postgres::connection::Connection;
use crate::postgres::schema::TABLES;

/// Objects that migrations create.
#[derive(Debug, Clone, Copy)]
pub struct Objects {
    /// Tables and views.
    pub relations: &'static [&'static str],
    /// Indexes that belong to no constraint, each with its table.
    pub indexes: &'static [(&'static str, &'static str)],
    /// Constraints, each with its table.
    pub constraints: &'static [(&'static str, &'static str)],
}

/// The protocol's objects.
pub const PROTOCOL: Objects = Objects {
    relations: &TABLES,
    indexes: &[
        ("lambda.corrections", "corrections_key"),
        ("lambda.corrections", "corrections_written_xid"),
        ("lambda.dead_letters", "dead_letters_open"),
        ("lambda.ingest_progress", "ingest_progress_streams"),
    ],
    constraints: &[
        ("lambda.batch_jobs", "batch_jobs_check"),
        ("lambda.batch_jobs", "batch_jobs_job_id_key"),
        ("lambda.batch_jobs", "batch_jobs_pipeline_source_key"),
        ("lambda.batch_jobs", "batch_jobs_pkey"),
        ("lambda.batch_jobs", "batch_jobs_status_check"),
        ("lambda.corrections", "corrections_pkey"),
        ("lambda.dead_letters", "dead_letters_lane_position_key"),
        ("lambda.dead_letters", "dead_letters_pkey"),
        ("lambda.dead_letters", "dead_letters_status_check"),
        ("lambda.ingest_progress", "ingest_progress_check"),
        ("lambda.ingest_progress", "ingest_progress_check1"),
        ("lambda.ingest_progress", "ingest_progress_lane_key"),
        ("lambda.ingest_progress", "ingest_progress_pkey"),
        ("lambda.job_numbers", "job_numbers_one_check"),
        ("lambda.job_numbers", "job_numbers_pkey"),
        ("lambda.pipelines", "pipelines_pkey"),
        ("lambda.pipelines", "pipelines_table_key"),
        ("lambda.xid_offset", "xid_offset_one_check"),
        ("lambda.xid_offset", "xid_offset_pkey"),
    ],
};

/// Names those of the objects that are missing or not valid.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn missing(connection: &Connection, objects: &Objects) -> Result<Vec<String>, Error> {
    let sql = "\
        select 'table ' || name from unnest($1::text[]) as name where to_regclass(name) is null \
        union all \
        select 'index ' || name || ' of ' || on_table \
        from unnest($2::text[], $3::text[]) as i (on_table, name) \
        where not exists ( \
            select from pg_index join pg_class c on c.oid = indexrelid \
            where indrelid = to_regclass(on_table) and relname = name \
                and indisvalid and indisready) \
        union all \
        select 'constraint ' || name || ' of ' || on_table \
        from unnest($4::text[], $5::text[]) as c (on_table, name) \
        where not exists ( \
            select from pg_constraint where conrelid = to_regclass(on_table) \
                and conname = name and convalidated)";
    let schema = connection.schema();
    let relations: Vec<_> = objects.relations.iter().map(|name| schema.sql(name)).collect();
    let of_tables = |objects: &'static [(&str, &str)]| {
        let objects = objects.iter().map(|(table, name)| (schema.sql(table), *name));
        objects.unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (index_tables, indexes) = of_tables(objects.indexes);
    let (constraint_tables, constraints) = of_tables(objects.constraints);
    let found = rows(
        connection,
        sql,
        &[&relations, &index_tables, &indexes, &constraint_tables, &constraints],
    )
    .await?;
    found.iter().map(|row: &Row| row.try_get(0)).collect::<Result<_, _>>().map_err(unread)
}

/// Whether the database was dumped and restored into another cluster, where its stored
/// transaction ids are meaningless until `lambda-db-setup` moves them.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn is_restored(connection: &Connection) -> Result<bool, Error> {
    let sql = "\
        select system_identifier <> (select system_identifier from pg_control_system()) \
        from lambda.xid_offset";
    row(connection, sql, &[]).await?.try_get(0).map_err(unread)
}
