//! The SQL of the commit for one table, prepared once for each connection.

use postgres_protocol::escape::escape_literal;
use tokio_postgres::Statement;

use crate::pipeline::Pipeline;
use crate::postgres::connection::Connection;
use crate::postgres::{counts, progress};
use crate::record::{Column, ColumnType, Table, table};

/// Number of evidence columns that each given row has: lane, position and checksum.
const ORIGIN_COLUMNS: usize = 3;

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

/// The unique indexes on exactly the key `$2` of the table `$1`, of its partitions too: a
/// violation of the key names one of these. A collation that is not deterministic takes other
/// texts for the same key.
const KEY_INDEXES: &str = "\
    with recursive part (oid) as ( \
        select $1::text::regclass::oid \
        union select inhrelid from pg_inherits join part on inhparent = part.oid) \
    select c.relname::text, i.indrelid = $1::text::regclass as whole \
    from part join pg_index i on i.indrelid = part.oid join pg_class c on c.oid = i.indexrelid \
    where i.indisunique and i.indimmediate and i.indisvalid \
      and i.indpred is null and i.indexprs is null \
      and (select array_agg(attname::text order by attname::text collate \"C\") \
           from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k \
           join pg_attribute on attrelid = i.indrelid and attnum = k) \
          = (select array_agg(name order by name collate \"C\") from unnest($2::text[]) name) \
      and not exists (select from unnest(i.indcollation::oid[]) k \
                      join pg_collation p on p.oid = k where not p.collisdeterministic)";

/// Reads their names: none if no index is on the whole table. A partition, with an index of its
/// own, may be added at any time.
pub(crate) async fn key_indexes(
    connection: &Connection,
    table: &Table,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = connection.query(KEY_INDEXES, &[&table.to_string(), &table.key_names()]).await?;
    let whole = rows.iter().map(|row| row.try_get("whole")).collect::<Result<Vec<bool>, _>>()?;
    let names = rows.iter().filter(|_| whole.contains(&true));
    names.map(|row| row.try_get(0)).collect()
}

const JOBS: &str = "\
    select job_id, id, (extract(epoch from as_of) * 1000000)::bigint \
    from lambda.batch_jobs where job_id = any($1)";

const COPY_DEAD_LETTERS: &str = "\
    copy lambda.dead_letters \
        (lane, position, line, key, payload, headers, message_time, field, reason, detail, job_id) \
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
        Ok(Self {
            key_indexes: key_indexes(connection, table).await?,
            lock_lanes: connection.prepare(&lock_lanes()).await?,
            set_progress: connection.prepare(&set_progress()).await?,
            copy_rows: connection.prepare(&copy_rows(table)).await?,
            insert_rows: connection.prepare(&insert_rows(table)).await?,
            copy_dead_letters: connection.prepare(COPY_DEAD_LETTERS).await?,
            probe: connection.prepare(&probe(table)).await?,
            probe_for_update: connection
                .prepare(&format!("{} for update of t", probe(table)))
                .await?,
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
    let columns = table.columns().iter().map(|column| format!("t.{}", column.sql()));
    let evidence = table::evidence().map(|column| format!("t.{}", column.name));
    let columns: Vec<String> = columns.chain(evidence).collect();
    let (columns, name, order) = (columns.join(", "), table.sql(), key_order(table, "t"));
    let mut key = table.key_columns();
    match (key.next(), key.next()) {
        (Some(column), None) => format!(
            "select {columns} from {name} t where t.{} = any($1::{}[]) order by {order}",
            column.sql(),
            column.kind.sql()
        ),
        // It reads parameters, not a table.
        _ => format!(
            "select {columns} from {name} t join {} on {} order by {order}",
            given("k", table.key_columns().map(named_with_type)),
            same_key(table, "t", "k")
        ),
    }
}

/// The columns of a key in its order.
fn key_order(table: &Table, row: &str) -> String {
    let order = table.key_columns().map(|column| {
        let collate = if column.kind.is_text() { " collate \"C\"" } else { "" };
        format!("{row}.{}{collate}", column.sql())
    });
    order.collect::<Vec<_>>().join(", ")
}

fn same_key(table: &Table, one: &str, other: &str) -> String {
    let same = table.key_columns().map(|column| {
        let column = column.sql();
        format!("{one}.{column} = {other}.{column}")
    });
    same.collect::<Vec<_>>().join(" and ")
}

/// Parameters from `$1` on as the rows of `alias`: one array for each column, given with its
/// type.
fn given(alias: &str, columns: impl Iterator<Item = (String, String)>) -> String {
    let (names, kinds): (Vec<String>, Vec<String>) = columns.unzip();
    let arrays: Vec<String> =
        kinds.iter().enumerate().map(|(index, kind)| format!("${}::{kind}[]", index + 1)).collect();
    format!("unnest({}) as {alias}({})", arrays.join(", "), names.join(", "))
}

fn named_with_type(column: &Column) -> (String, String) {
    (column.sql(), column.kind.sql())
}

/// Assigns rows to a job. Parameters: the columns of keys, the checksum of each with the job,
/// the job's id. No column of a key is called `checksum`, since that is evidence.
fn confirm(table: &Table) -> String {
    let checksum = ("checksum".to_owned(), ColumnType::Int8.sql());
    format!(
        "update {} t set job_id = ${}, ingestion_type = 'BATCH', checksum = k.checksum \
         from {} where {}",
        table.sql(),
        table.key_indexes().len() + 2,
        given("k", table.key_columns().map(named_with_type).chain([checksum])),
        same_key(table, "t", "k")
    )
}

/// Rows as parameters: one array for each column, then lanes, positions, checksums. A column of
/// arrays is given as texts, since an array of arrays would be unnested down to its elements.
fn given_rows(table: &Table) -> String {
    let origin = table::evidence().into_iter().take(ORIGIN_COLUMNS);
    let columns: Vec<Column> = table.columns().iter().cloned().chain(origin).collect();
    let given_as = |column: &Column| match column.kind {
        ColumnType::Array(_) => Column { kind: ColumnType::Text, ..column.clone() },
        _ => column.clone(),
    };
    let values = columns.iter().map(|column| match column.kind {
        ColumnType::Array(_) => format!("{0}::{1} as {0}", column.sql(), column.kind.sql()),
        _ => column.sql(),
    });
    let values = values.collect::<Vec<_>>().join(", ");
    let given = given("g", columns.iter().map(|column| named_with_type(&given_as(column))));
    format!("(select {values} from {given}) n")
}

/// Number of parameters of [`given_rows`].
fn given_parameters(table: &Table) -> usize {
    table.columns().len() + ORIGIN_COLUMNS
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
    let sets: Vec<String> = table
        .columns()
        .iter()
        .enumerate()
        .filter(|(index, _)| !table.key_indexes().contains(index))
        .map(|(_, column)| format!("{0} = n.{0}", column.sql()))
        .chain(["lane", "position", "checksum"].map(|name| format!("{name} = n.{name}")))
        .collect();
    let [job, xid] = [1, 2].map(|offset| given_parameters(table) + offset);
    format!(
        "with n as (select * from {given}), \
         before as (select t.* from {name} t join n on {given_key}), \
         after as ( \
             update {name} t set {sets}, job_id = ${job}::text, ingestion_type = 'BATCH' \
             from n where {given_key} returning t.*) \
         insert into lambda.corrections (pipeline, key, job_id, before, after, before_xid, written_xid) \
         select {pipeline}, {key}, ${job}::text, {before}, {after}, coalesce(before.written_xid, 0), ${xid}::bigint \
         from before join after on {same_key} order by {order}",
        name = table.sql(),
        pipeline = escape_literal(pipeline.name()),
        given = given_rows(table),
        given_key = same_key(table, "t", "n"),
        same_key = same_key(table, "before", "after"),
        sets = sets.join(", "),
        key = key_as_texts(table, "before"),
        order = key_order(table, "before"),
        before = as_texts(table, "before"),
        after = as_texts(table, "after"),
    )
}

/// A key as a JSON array of texts that do not depend on the session.
fn key_as_texts(table: &Table, row: &str) -> String {
    let texts = table.key_columns().map(|column| {
        let name = column.sql();
        match column.kind {
            ColumnType::Timestamptz { .. } => {
                format!("({row}.{name} at time zone 'UTC')::text || '+00'")
            }
            _ => format!("{row}.{name}::text"),
        }
    });
    format!("jsonb_build_array({})", texts.collect::<Vec<_>>().join(", "))
}

/// A row's record and evidence columns as JSON, each value in its text form: a JSON number
/// would lose -0, and one of another type would depend on the session.
fn as_texts(table: &Table, row: &str) -> String {
    let evidence = table::evidence();
    let (names, values): (Vec<String>, Vec<String>) = table
        .columns()
        .iter()
        .chain(&evidence)
        .map(|column| (escape_literal(&column.name), format!("{row}.{}::text", column.sql())))
        .unzip();
    // A function takes at most 100 arguments.
    format!("jsonb_object(array[{}], array[{}])", names.join(", "), values.join(", "))
}
