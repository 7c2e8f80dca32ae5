//! The SQL of the commit for one table, prepared once for each connection.

use postgres_protocol::escape::escape_literal;
use tokio_postgres::Statement;

use crate::pipeline::Pipeline;
use crate::postgres::connection::Connection;
use crate::postgres::{counts, progress};
use crate::record::{Column, Table, table};

/// The names of a table's evidence columns, which follow the record's.
fn evidence_names() -> String {
    table::evidence().map(|column| column.name).join(", ")
}

/// Step 5: sets positions, counts and sums instead of adding to them: the rows are locked,
/// and `bigint` does not wrap. Parameters: lanes, claims, positions before and after, the
/// counts, and the columns of [`AFTER_COUNTS`].
fn set_progress() -> String {
    let set = |name: &str| format!("{name} = n.{name}");
    let rest = AFTER_COUNTS.map(set).join(", ");
    format!(
        "update lambda.ingest_progress p set updated_at = now(), position = n.position, {}, {rest} \
         from unnest($1::int4[], $2::uuid[], $3::int8[], $4::int8[], {}) \
             as n(lane, claim, from_position, position, {}, {}) \
         where p.lane = n.lane and p.claim = n.claim and p.position = n.from_position",
        counts::list(set),
        counts::arrays(5, counts::names().count() + AFTER_COUNTS.len()),
        counts::list(str::to_owned),
        AFTER_COUNTS.join(", "),
    )
}

/// Columns of a lane's progress that follow the counts.
const AFTER_COUNTS: [&str; 8] = [
    "written",
    "owned",
    "displaced",
    "high",
    "hash",
    "last_position",
    "last_timestamp_ms",
    "last_checksum",
];

/// Step 1: locks the lanes. Returns the transaction's id, and whether the stored ids belong
/// to this cluster.
fn lock_lanes() -> String {
    format!(
        "select {}, \
                lambda.current_id() as xid, \
                (select system_identifier from lambda.xid_offset) \
                    = (select system_identifier from pg_control_system()) as same_cluster \
         from lambda.ingest_progress where lane = any($1) order by lane for update",
        progress::columns()
    )
}

/// The unique indexes on the key alone, in byte order and not deferrable: a violation of
/// the id key names one of these.
const KEY_INDEXES: &str = "\
    select c.relname::text from pg_index i \
    join pg_class c on c.oid = i.indexrelid \
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] \
    where i.indrelid = $1::text::regclass and i.indisunique and i.indimmediate \
      and i.indnatts = 1 and i.indpred is null and a.attname = $2::text \
      and i.indcollation[0] = '\"C\"'::regcollation";

const JOBS: &str = "\
    select job_id, id, (extract(epoch from as_of) * 1000000)::bigint \
    from lambda.batch_jobs where job_id = any($1)";

const COPY_DEAD_LETTERS: &str = "\
    copy lambda.dead_letters \
        (lane, position, line, key, payload, field, reason, detail, job_id) \
    from stdin (format binary)";

/// The prepared statements of a session.
#[derive(Debug)]
pub(crate) struct Statements {
    /// Locks lanes: `$1` their numbers.
    pub(crate) lock_lanes: Statement,
    /// Stores progress.
    pub(crate) set_progress: Statement,
    /// Binary COPY into the table.
    pub(crate) copy_rows: Statement,
    /// Inserts given rows, with the transaction's id, the job and the type after them.
    pub(crate) insert_rows: Statement,
    /// Binary COPY into the dead letters.
    pub(crate) copy_dead_letters: Statement,
    /// Reads the rows under the keys `$1`, in order.
    pub(crate) probe: Statement,
    /// Reads and locks them.
    pub(crate) probe_for_update: Statement,
    /// Reads the jobs named `$1`.
    pub(crate) jobs: Statement,
    /// Assigns rows to a job.
    pub(crate) confirm: Statement,
    /// Replaces rows and keeps their former content as corrections.
    pub(crate) correct: Statement,
    /// Names of the unique indexes on the key.
    pub(crate) key_indexes: Vec<String>,
}

impl Statements {
    /// Prepares all statements for the table of `pipeline`.
    pub(crate) async fn prepare(
        connection: &Connection,
        pipeline: &Pipeline,
    ) -> Result<Self, tokio_postgres::Error> {
        let table = pipeline.table();
        let key_indexes =
            connection.query(KEY_INDEXES, &[&table.to_string(), &table.key_column().name]).await?;
        Ok(Self {
            key_indexes: key_indexes.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
            lock_lanes: connection.prepare(&lock_lanes()).await?,
            set_progress: connection.prepare(&set_progress()).await?,
            copy_rows: connection.prepare(&copy_rows(table)).await?,
            insert_rows: connection.prepare(&insert_rows(table)).await?,
            copy_dead_letters: connection.prepare(COPY_DEAD_LETTERS).await?,
            probe: connection.prepare(&probe(table)).await?,
            probe_for_update: connection.prepare(&format!("{} for update", probe(table))).await?,
            jobs: connection.prepare(JOBS).await?,
            confirm: connection.prepare(&confirm(table)).await?,
            correct: connection.prepare(&correct(pipeline)).await?,
        })
    }
}

fn columns(table: &Table) -> String {
    table.columns().iter().map(Column::sql).collect::<Vec<_>>().join(", ")
}

fn copy_rows(table: &Table) -> String {
    let (name, columns, evidence) = (table.sql(), columns(table), evidence_names());
    format!("copy {name} ({columns}, {evidence}) from stdin (format binary)")
}

/// Selects rows by key, never joined to another table: after waiting for a lock, a join
/// would keep the other table's old row (rule R4, docs/protocol.md).
fn probe(table: &Table) -> String {
    let key = table.key_column().sql();
    format!(
        "select {}, {} from {} where {key} = any($1) order by {key}",
        columns(table),
        evidence_names(),
        table.sql()
    )
}

/// Assigns rows to a job. Parameters: keys, the checksum of each with the job, the job's id.
fn confirm(table: &Table) -> String {
    format!(
        "update {} t set job_id = $3, ingestion_type = 'BATCH', checksum = n.checksum \
         from unnest($1::text[], $2::int8[]) as n(key, checksum) where t.{} = n.key",
        table.sql(),
        table.key_column().sql()
    )
}

/// Rows as parameters: one array for each column, then lanes, positions, checksums.
fn given_rows(table: &Table) -> String {
    let count = table.columns().len();
    let arrays: Vec<String> = table
        .columns()
        .iter()
        .enumerate()
        .map(|(index, column)| format!("${}::{}[]", index + 1, column.kind.sql()))
        .collect();
    let [lane, position, checksum] = [1, 2, 3].map(|offset| count + offset);
    format!(
        "unnest({}, ${lane}::int4[], ${position}::int8[], ${checksum}::int8[]) \
         as n({}, lane, position, checksum)",
        arrays.join(", "),
        columns(table),
    )
}

/// Number of parameters of [`given_rows`].
fn given_parameters(table: &Table) -> usize {
    table.columns().len() + 3
}

/// Inserts rows. Parameters: given rows, the transaction's id, the job's and the type. The
/// order of the given rows, by id, is that of the inserts (rule R4, docs/protocol.md).
fn insert_rows(table: &Table) -> String {
    let [xid, job, ingestion_type] = [1, 2, 3].map(|offset| given_parameters(table) + offset);
    format!(
        "insert into {} ({}, {}) \
         select n.*, ${xid}::bigint, ${job}::text, ${ingestion_type}::text from {}",
        table.sql(),
        columns(table),
        evidence_names(),
        given_rows(table),
    )
}

/// Corrects rows. Parameters: given rows, the job's id and the transaction's. The probe has
/// locked the rows, so all parts see the same ones.
fn correct(pipeline: &Pipeline) -> String {
    let table = pipeline.table();
    let (name, key) = (table.sql(), table.key_column().sql());
    let sets: Vec<String> = table
        .columns()
        .iter()
        .map(Column::sql)
        .filter(|column| *column != key)
        .map(|column| format!("{column} = n.{column}"))
        .collect();
    let [job, xid] = [1, 2].map(|offset| given_parameters(table) + offset);
    format!(
        "with n as (select * from {given}), \
         before as (select t.* from {name} t join n using ({key})), \
         after as ( \
             update {name} t set {sets}, lane = n.lane, position = n.position, checksum = n.checksum, \
                 job_id = ${job}::text, ingestion_type = 'BATCH' \
             from n where t.{key} = n.{key} returning t.*) \
         insert into lambda.corrections (pipeline, key, job_id, before, after, before_xid, written_xid) \
         select {pipeline}, jsonb_build_array(before.{key}::text), ${job}::text, \
                {before}, {after}, before.written_xid, ${xid}::bigint \
         from before join after using ({key}) order by before.{key}",
        pipeline = escape_literal(pipeline.name()),
        given = given_rows(table),
        sets = sets.join(", "),
        before = as_texts(table, "before"),
        after = as_texts(table, "after"),
    )
}

/// A row's record and evidence columns as JSON, each value in its text form: a JSON number
/// would lose -0, and one of another type would depend on the session.
fn as_texts(table: &Table, row: &str) -> String {
    let evidence = table::evidence();
    let pairs: Vec<String> = table
        .columns()
        .iter()
        .chain(&evidence)
        .map(|column| format!("{}, {row}.{}::text", escape_literal(&column.name), column.sql()))
        .collect();
    format!("jsonb_build_object({})", pairs.join(", "))
}
