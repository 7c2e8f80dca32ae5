//! The SQL of the commit for one table, prepared once for each connection.

use tokio_postgres::{Client, Statement};

use crate::postgres::{counts, progress};
use crate::record::Table;

/// The evidence columns in COPY's order, after the record's own. Lane and position come
/// first, so that the checksum covers contiguous bytes.
const EVIDENCE: &str = "lane, position, checksum, written_xid, job_id, ingestion_type";

/// Number of columns in [`EVIDENCE`].
pub(crate) const EVIDENCE_COLUMNS: usize = 6;

/// Step 5: sets positions, counts and sums instead of adding to them: the rows are locked,
/// and `bigint` does not wrap. Parameters: lanes, claims, positions before and after, the
/// counts, and the columns of [`AFTER_COUNTS`].
fn set_progress() -> String {
    let set = |name: &str| format!("{name} = n.{name}");
    let rest = AFTER_COUNTS.map(set).join(", ");
    format!(
        "update ingest_progress p set updated_at = now(), position = n.position, {}, {rest} \
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
const AFTER_COUNTS: [&str; 6] =
    ["written", "owned", "displaced", "last_position", "last_timestamp_ms", "last_checksum"];

/// Step 1: locks the lanes. Returns the transaction's id, and whether the stored ids belong
/// to this cluster.
fn lock_lanes() -> String {
    format!(
        "select {}, \
                (select pg_current_xact_id()::text::bigint + value from xid_offset) as xid, \
                (select system_identifier from xid_offset) \
                    = (select system_identifier from pg_control_system()) as same_cluster \
         from ingest_progress where lane = any($1) order by lane for update",
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
    from batch_jobs where job_id = any($1)";

const COPY_DEAD_LETTERS: &str = "\
    copy dead_letters (lane, position, line, key, payload, reason, detail, job_id) \
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
    /// Assigns the rows under the keys `$1` to the job `$2`.
    pub(crate) confirm: Statement,
    /// Replaces rows and keeps their former content as corrections.
    pub(crate) correct: Statement,
    /// Names of the unique indexes on the key.
    pub(crate) key_indexes: Vec<String>,
}

impl Statements {
    /// Prepares all statements for `table`.
    pub(crate) async fn prepare(
        client: &Client,
        table: &Table,
    ) -> Result<Self, tokio_postgres::Error> {
        let key_indexes =
            client.query(KEY_INDEXES, &[&table.name, &table.key_column().name]).await?;
        Ok(Self {
            key_indexes: key_indexes.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
            lock_lanes: client.prepare(&lock_lanes()).await?,
            set_progress: client.prepare(&set_progress()).await?,
            copy_rows: client.prepare(&copy_rows(table)).await?,
            insert_rows: client.prepare(&insert_rows(table)).await?,
            copy_dead_letters: client.prepare(COPY_DEAD_LETTERS).await?,
            probe: client.prepare(&probe(table)).await?,
            probe_for_update: client.prepare(&format!("{} for update", probe(table))).await?,
            jobs: client.prepare(JOBS).await?,
            confirm: client.prepare(&confirm(table)).await?,
            correct: client.prepare(&correct(table)).await?,
        })
    }
}

fn columns(table: &Table) -> String {
    table.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

fn copy_rows(table: &Table) -> String {
    format!("copy {} ({}, {EVIDENCE}) from stdin (format binary)", table.name, columns(table))
}

/// Selects rows by key, never joined to another table: after waiting for a lock, a join
/// would keep the other table's old row (rule R4, docs/protocol.md).
fn probe(table: &Table) -> String {
    let key = table.key_column().name;
    format!(
        "select {}, {EVIDENCE} from {} where {key} = any($1) order by {key}",
        columns(table),
        table.name
    )
}

fn confirm(table: &Table) -> String {
    format!(
        "update {} set job_id = $2, ingestion_type = 'BATCH' where {} = any($1)",
        table.name,
        table.key_column().name
    )
}

/// Rows as parameters: one array for each column, then lanes, positions, checksums.
fn given_rows(table: &Table) -> String {
    let count = table.columns.len();
    let arrays: Vec<String> = table
        .columns
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
    table.columns.len() + 3
}

/// Inserts rows. Parameters: given rows, the transaction's id, the job's and the type. The
/// order of the given rows, by id, is that of the inserts (rule R4, docs/protocol.md).
fn insert_rows(table: &Table) -> String {
    let [xid, job, ingestion_type] = [1, 2, 3].map(|offset| given_parameters(table) + offset);
    format!(
        "insert into {} ({}, {EVIDENCE}) \
         select n.*, ${xid}::bigint, ${job}::text, ${ingestion_type}::text from {}",
        table.name,
        columns(table),
        given_rows(table),
    )
}

/// Corrects rows. Parameters: given rows, the job's id and the transaction's. The probe has
/// locked the rows, so all parts see the same ones.
fn correct(table: &Table) -> String {
    let (name, key) = (table.name, table.key_column().name);
    let sets: Vec<String> = table
        .columns
        .iter()
        .filter(|column| column.name != key)
        .map(|column| format!("{0} = n.{0}", column.name))
        .collect();
    let [job, xid] = [1, 2].map(|offset| given_parameters(table) + offset);
    format!(
        "with n as (select * from {given}), \
         before as (select t.* from {name} t join n using ({key})), \
         after as ( \
             update {name} t set {sets}, lane = n.lane, position = n.position, checksum = n.checksum, \
                 job_id = ${job}::text, ingestion_type = 'BATCH' \
             from n where t.{key} = n.{key} returning t.*) \
         insert into corrections (pipeline, key, job_id, before, after, before_xid, written_xid) \
         select '{name}', before.{key}, ${job}::text, to_jsonb(before), to_jsonb(after), \
                before.written_xid, ${xid}::bigint \
         from before join after using ({key}) order by before.{key}",
        given = given_rows(table),
        sets = sets.join(", "),
    )
}
