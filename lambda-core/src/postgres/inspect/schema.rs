//! Checks that the schema is complete: the objects that the migrations created may have
//! been dropped.

use tokio_postgres::{Client, Row};

use super::{row, rows, unread};
use crate::error::Error;
use crate::postgres::schema::TABLES;

/// Indexes that belong to no constraint, each with its table.
pub const INDEXES: [(&str, &str); 8] = [
    ("account_activity_batch", "account_activity_batch_day"),
    ("account_activity_realtime", "account_activity_realtime_day_idx"),
    ("corrections", "corrections_key"),
    ("corrections", "corrections_written_xid"),
    ("dead_letters", "dead_letters_open"),
    ("ingest_progress", "ingest_progress_streams"),
    ("transactions", "transactions_event_time"),
    ("transactions", "transactions_written_xid"),
];

/// Constraints, each with its table.
pub const CONSTRAINTS: [(&str, &str); 22] = [
    ("account_activity_batch", "account_activity_batch_pkey"),
    ("account_activity_realtime", "account_activity_realtime_pkey"),
    ("batch_jobs", "batch_jobs_check"),
    ("batch_jobs", "batch_jobs_job_id_key"),
    ("batch_jobs", "batch_jobs_pipeline_source_key"),
    ("batch_jobs", "batch_jobs_pkey"),
    ("batch_jobs", "batch_jobs_status_check"),
    ("corrections", "corrections_pkey"),
    ("dead_letters", "dead_letters_lane_position_key"),
    ("dead_letters", "dead_letters_pkey"),
    ("dead_letters", "dead_letters_status_check"),
    ("ingest_progress", "ingest_progress_check"),
    ("ingest_progress", "ingest_progress_check1"),
    ("ingest_progress", "ingest_progress_lane_key"),
    ("ingest_progress", "ingest_progress_pkey"),
    ("job_numbers", "job_numbers_one_check"),
    ("job_numbers", "job_numbers_pkey"),
    ("serving", "serving_one_check"),
    ("serving", "serving_pkey"),
    ("transactions", "transactions_pkey"),
    ("xid_offset", "xid_offset_one_check"),
    ("xid_offset", "xid_offset_pkey"),
];

/// Names the objects of the last migration's schema that are missing or not valid.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn missing(client: &Client) -> Result<Vec<String>, Error> {
    let sql = "\
        select 'table ' || name from unnest($1::text[]) as name where to_regclass(name) is null \
        union all \
        select 'index ' || name from unnest($2::text[], $3::text[]) as i (on_table, name) \
        where not exists ( \
            select from pg_index where indrelid = to_regclass(on_table) \
                and indexrelid = to_regclass(name) and indisvalid and indisready) \
        union all \
        select 'constraint ' || name || ' of ' || on_table \
        from unnest($4::text[], $5::text[]) as c (on_table, name) \
        where not exists ( \
            select from pg_constraint where conrelid = to_regclass(on_table) \
                and conname = name and convalidated)";
    let (index_tables, indexes): (Vec<&str>, Vec<&str>) = INDEXES.into_iter().unzip();
    let (constraint_tables, constraints): (Vec<&str>, Vec<&str>) = CONSTRAINTS.into_iter().unzip();
    let tables = TABLES.as_slice();
    let found =
        rows(client, sql, &[&tables, &index_tables, &indexes, &constraint_tables, &constraints])
            .await?;
    found.iter().map(|row: &Row| row.try_get(0)).collect::<Result<_, _>>().map_err(unread)
}

/// Whether the database was dumped and restored into another cluster, where its stored
/// transaction ids are meaningless until `lambda-db-setup` moves them.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn is_restored(client: &Client) -> Result<bool, Error> {
    let sql = "\
        select system_identifier <> (select system_identifier from pg_control_system()) \
        from xid_offset";
    row(client, sql, &[]).await?.try_get(0).map_err(unread)
}
