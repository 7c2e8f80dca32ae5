//! Tables as users have them: rows of their own, other schemas and names, further columns,
//! foreign keys, triggers, partitions and indexes. Records have the same outcomes on all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use lambda_core::Pipeline;
use lambda_core::Record;
use lambda_core::batch::Batch;
use lambda_core::dead_letter::Reject;
use lambda_core::delivery::bisect::{Parts, take_apart};
use lambda_core::error::Error;
use lambda_core::outcome::Authority;
use lambda_core::postgres::schema::registry;
use lambda_core::postgres::{Connection, PostgresSink};
use lambda_core::progress::{LaneName, Progress};
use lambda_core::record::{Column, ColumnType, Decimal, RowRef, RowWriter, Table};
use lambda_core::sink::{ClaimRequest, Durability, Sink as _};
use lambda_core::testing::draft::{ByHand, Draft};
use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use lambda_lab::servers::Database;

use crate::subject::job;

pub(crate) fn tests(suite: &mut Suite) {
    suite.postgres("the stream leaves rows from before the pipeline alone", stream_on_old_rows);
    suite.postgres("a job confirms and corrects rows from before the pipeline", job_on_old_rows);
    suite.postgres("names that need quotes work like others", names_in_quotes);
    suite.postgres("a table outside the search path is found in its schema", another_schema);
    suite.postgres("columns that records do not have are the table's own", own_columns);
    suite.postgres("a record without its parent is a dead letter", async |context| {
        one_refused(context, &parents(""), "23503 at parent").await
    });
    suite.postgres("with a deferred foreign key too", async |context| {
        one_refused(context, &parents("deferrable initially deferred"), "23503 at parent").await
    });
    suite.postgres("a record that a trigger refuses is a dead letter", async |context| {
        one_refused(context, REFUSING, "P0001").await
    });
    suite.postgres("an audit trigger sees each insert and each change once", audited);
    suite.postgres("a trigger can fill a column that records do not have", filled);
    suite.postgres("a record that fits no partition keeps no other one back", ranges);
    suite.postgres("a record that fits no partition has a reason of its own", no_partition);
    suite.postgres("partitions by hash hold each record once", hashes);
    suite.postgres("a violation of a partition's key is one of the table's key", partition_key);
    suite.postgres("concurrent writers on partitions by hash lose nothing", concurrent);
    suite.postgres("a violation of a second unique index is no id conflict", second_index);
    suite.postgres("a column of a type that does not fit is refused", unfit_types);
    suite.postgres("a key without an index that fits is refused", unfit_keys);
    suite.postgres("domains count as their base types", domains);
}

/// Concurrent writers of one test, and connections of each sink.
const WRITERS: u32 = 4;

/// The evidence columns in DDL.
const EVIDENCE: &str = "\
    job_id text collate \"C\", ingestion_type text not null, lane integer not null, \
    position bigint not null, checksum bigint not null, written_xid bigint not null";

/// The rows of most tables; nulls are left out.
const ROWS: &str = "select concat_ws(' ', id, amount, note, job_id) from items order by id";

/// DDL of a table with this key; `further` columns follow the record's and the evidence.
fn create(table: &str, key: &str, further: &str) -> String {
    format!(
        "create table {table} \
             ({key}, amount numeric(12, 2) not null, note text, {EVIDENCE}{further})"
    )
}

/// DDL of most tables; `then` follows it.
fn ddl(further: &str, then: &str) -> String {
    format!("{}; {then}", create("public.items", "id text collate \"C\" primary key", further))
}

/// A record of any table here. Its key is a number, a text, or both in this order.
#[derive(Debug, Clone, Copy)]
struct Item {
    number: Option<i64>,
    id: Option<&'static str>,
    cents: i64,
    note: Option<&'static str>,
}

fn item(id: &'static str, cents: i64) -> Item {
    Item { number: None, id: Some(id), cents, note: None }
}

fn numbered(number: i64, cents: i64) -> Item {
    Item { number: Some(number), id: None, cents, note: None }
}

impl Item {
    fn number(self, number: i64) -> Self {
        Self { number: Some(number), ..self }
    }

    fn note(self, note: &'static str) -> Self {
        Self { note: Some(note), ..self }
    }
}

impl Record for Item {
    /// Most tables; a test may have one with other names.
    fn table() -> Table {
        keyed("items", &[("id", ColumnType::Text)])
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        if let Some(number) = self.number {
            row.put(number);
        }
        if let Some(id) = self.id {
            row.put(id);
        }
        row.put(Decimal { unscaled: self.cents.into(), scale: 2 }).put(self.note);
    }

    fn read(_: RowRef<'_>) -> Result<Self, Reject> {
        unreachable!("these tests read rows by plain SQL")
    }
}

/// Adds the columns of an [`Item`] to a table.
fn with_columns(table: Table, key: &[(&str, ColumnType)], [amount, note]: [&str; 2]) -> Table {
    let columns = key.iter().map(|(name, kind)| Column::new(name, kind.clone()));
    columns
        .fold(table, Table::column)
        .column(Column::new(amount, ColumnType::Numeric { precision: 12, scale: 2 }))
        .column(Column::new(note, ColumnType::Text).nullable())
        .key(key.iter().map(|(name, _)| *name))
}

/// A table with a key of these columns.
fn keyed(name: &str, key: &[(&str, ColumnType)]) -> Table {
    with_columns(Table::new(name), key, ["amount", "note"])
}

/// A pipeline into a table. Its decoders are not used.
fn pipeline(name: &str, table: Table) -> Result<Pipeline, Error> {
    Pipeline::builder(name, table).messages(ByHand).build()
}

/// A sink on a table.
struct Stored {
    sink: PostgresSink,
    client: Connection,
    pipeline: Pipeline,
    lanes: AtomicI32,
}

impl Stored {
    async fn new(context: &Context, table: Table, ddl: &str) -> Result<Self, Failure> {
        let database = context.database().await?;
        let client = database.connect().await?;
        client.batch_execute(ddl).await?;
        let (pipeline, config) = (pipeline("items", table)?, database.config().clone());
        registry::register(&config, &[&pipeline]).await?;
        let sink = PostgresSink::connect(config, &pipeline, "sink", WRITERS, None).await?;
        Ok(Self { sink, client, pipeline, lanes: AtomicI32::new(0) })
    }

    /// A new job; a later `as_of` takes precedence.
    async fn job(&self, as_of_micros: i64) -> Authority {
        Authority::Batch(job(&self.client, "items", as_of_micros).await)
    }

    /// Claims a new lane.
    async fn claim(&self) -> Result<Progress, Failure> {
        let partition = self.lanes.fetch_add(1, Ordering::Relaxed);
        let name = LaneName { pipeline: "items".into(), source: "test".into(), partition };
        Ok(self.sink.claim(&ClaimRequest { name, ..crate::request("g") }).await?)
    }

    /// The next records of a lane.
    fn batch(&self, authority: Authority, lane: &Progress, items: &[Item]) -> Batch {
        let end = lane.position + items.len() as i64;
        let draft = Draft::new(authority, &self.pipeline).lane(lane, end);
        let records = (lane.position..).zip(items);
        records.fold(draft, |draft, (position, item)| draft.record(position, item)).build()
    }

    /// Commits a batch. What the table refuses is taken apart as the flow does it (rule R11,
    /// docs/protocol.md).
    async fn commit(&self, batch: Batch) -> Result<(), Failure> {
        let mut left = vec![batch];
        while let Some(batch) = left.pop() {
            let (code, object) = match self.sink.commit(&batch, Durability::Visible).await {
                Ok(done) if done.fenced.is_empty() => continue,
                Ok(done) => return Err(format!("fenced: {:?}", done.fenced).into()),
                Err(Error::Refused { code, object, .. }) => (code, object),
                Err(error) => return Err(error.into()),
            };
            match take_apart(batch, &code, &object) {
                Parts::Halves(halves) => {
                    let (first, second) = *halves;
                    left.extend([second, first]);
                }
                Parts::Rejected(batch) => left.push(*batch),
                Parts::Nothing => return Err(format!("{code} {object} without a row").into()),
            }
        }
        Ok(())
    }

    /// Stores records on a new lane, and checks how many had which outcome.
    async fn store(
        &self,
        authority: Authority,
        items: &[Item],
        outcomes: &str,
    ) -> Result<(), Failure> {
        let lane = self.claim().await?;
        self.commit(self.batch(authority, &lane, items)).await?;
        let counts = "select string_agg(value || ' ' || key, ', ' order by key) \
                      from ingest_progress p, jsonb_each_text(to_jsonb(p)) \
                      where lane = $1 and value <> '0' and key in ('inserted', 'confirmed', \
                          'corrected', 'superseded', 'duplicate', 'rejected', 'skipped')";
        let found: String = self.client.query_one(counts, &[&lane.lane.0]).await?.try_get(0)?;
        assert_eq!(found, outcomes, "{items:?} of {authority:?}");
        Ok(())
    }

    /// Takes records through all outcomes but a rejection: afterwards each amount is a cent more,
    /// and the rows belong to the second job, which is returned.
    async fn cycle(&self, items: &[Item]) -> Result<Authority, Failure> {
        let more = |item: &Item| Item { cents: item.cents + 1, ..*item };
        let changed: Vec<Item> = items.iter().map(more).collect();
        let (stream, first, second) = (Authority::Stream, self.job(1).await, self.job(2).await);
        let count = items.len();
        self.store(stream, items, &format!("{count} inserted")).await?;
        self.store(stream, items, &format!("{count} duplicate")).await?;
        self.store(first, &changed, &format!("{count} corrected")).await?;
        self.store(first, &changed, &format!("{count} duplicate")).await?;
        self.store(second, &changed, &format!("{count} confirmed")).await?;
        self.store(stream, items, &format!("{count} superseded")).await?;
        Ok(second)
    }

    /// Checks the first column of a query's rows, which is text.
    async fn has(&self, sql: &str, expected: &[&str]) -> Result<(), Failure> {
        let rows = self.client.query(sql, &[]).await?;
        let found: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        assert_eq!(found, expected, "{sql}");
        Ok(())
    }

    /// Checks position, reason, and what the server refused, of each dead letter.
    async fn has_letters(&self, expected: &[&str]) -> Result<(), Failure> {
        let letters = "select concat_ws(' ', position, reason, substring(detail from ': (.*)')) \
                       from dead_letters order by lane, position";
        self.has(letters, expected).await
    }
}

/// A table with rows as it is adopted: they have no evidence, and their transactions are older
/// than every snapshot. A row that the application inserts later has its transaction's id.
const ADOPTED: &str = "\
    create table public.items \
        (id text collate \"C\" primary key, amount numeric(12, 2) not null, note text); \
    insert into public.items values ('a', 1), ('b', 2); \
    alter table public.items \
        add job_id text collate \"C\", add ingestion_type text, add lane integer, \
        add position bigint, add checksum bigint, add written_xid bigint default 0; \
    alter table public.items alter written_xid set default lambda.current_id(); \
    insert into public.items (id, amount) values ('c', 3)";

/// Each row with the number of its evidence columns that are null, and whether it is old.
const ADOPTED_ROWS: &str = "\
    select concat_ws(' ', id, amount, coalesce(job_id, 'no job'), \
                     num_nulls(ingestion_type, lane, position, checksum), written_xid = 0) \
    from items order by id";

async fn stream_on_old_rows(context: Context) -> Result<(), Failure> {
    let stored = Stored::new(&context, Item::table(), ADOPTED).await?;
    let items = [item("a", 100), item("b", 250), item("c", 300), item("d", 400)];
    stored.store(Authority::Stream, &items, "2 duplicate, 1 inserted, 1 rejected").await?;
    stored.has_letters(&["1 id_conflict"]).await?;
    let rows = ["a 1.00 no job 4 t", "b 2.00 no job 4 t", "c 3.00 no job 4 f", "d 4.00 no job 0 f"];
    stored.has(ADOPTED_ROWS, &rows).await
}

async fn job_on_old_rows(context: Context) -> Result<(), Failure> {
    let stored = Stored::new(&context, Item::table(), ADOPTED).await?;
    let (first, second) = (stored.job(1).await, stored.job(2).await);
    let items = [item("a", 100), item("b", 250)];
    // A row without a checksum counts as zero in every sum.
    stored.store(first, &items[..1], "1 confirmed").await?;
    let sums = "select concat_ws(' ', written, owned, displaced) from ingest_progress";
    stored.has(sums, &["0 0 0"]).await?;
    stored.store(first, &items[1..], "1 corrected").await?;
    let correction = "\
        select concat_ws(' ', c.before ->> 'amount', c.before ->> 'checksum', c.before_xid, \
                         c.after ->> 'amount', p.owned = i.checksum) \
        from corrections c, items i join ingest_progress p on p.lane = i.lane where i.id = 'b'";
    stored.has(correction, &["2.00 0 2.50 t"]).await?;
    stored.store(first, &items, "2 duplicate").await?;
    stored.store(second, &items, "2 confirmed").await?;
    // A confirmation gives a row its job and type, and no other evidence.
    let rows = ["a 1.00 BAT00002 3 t", "b 2.50 BAT00002 0 t", "c 3.00 no job 4 f"];
    stored.has(ADOPTED_ROWS, &rows).await
}

async fn names_in_quotes(context: Context) -> Result<(), Failure> {
    let ddl = format!(
        r#"create schema "My Ops";
           create table "My Ops"."Order Items; drop" ("select" text collate "C", "Größe" bigint,
               "a""b" numeric(12, 2) not null, "Note" text, {EVIDENCE},
               primary key ("select", "Größe"))"#
    );
    let table = Table::in_schema("My Ops", "Order Items; drop");
    let key = [("Größe", ColumnType::Int8), ("select", ColumnType::Text)];
    let stored = Stored::new(&context, with_columns(table, &key, ["a\"b", "Note"]), &ddl).await?;
    stored.cycle(&[item("x", 100).number(1), item("X \"y\"", 200).number(-2).note("n")]).await?;
    let rows = r#"select concat_ws(' ', "Größe", "select", "a""b", "Note", job_id)
                  from "My Ops"."Order Items; drop" order by "a""b""#;
    stored.has(rows, &["1 x 1.01 BAT00002", "-2 X \"y\" 2.01 n BAT00002"]).await?;
    let corrections = r#"select concat_ws(' ', key, before ->> 'a"b', after ->> 'a"b')
                         from corrections order by after ->> 'a"b'"#;
    let expected = [r#"["1", "x"] 1.00 1.01"#, r#"["-2", "X \"y\""] 2.00 2.01"#];
    stored.has(corrections, &expected).await
}

/// A table of the same name is in `public`. Neither schema is in the search path.
async fn another_schema(context: Context) -> Result<(), Failure> {
    let path = ", path text not null default current_setting('search_path')";
    let then = format!(
        "create schema ops; {}; \
         do $$ begin \
             execute format('alter database %I set search_path = pg_catalog', current_database()); \
         end $$",
        create("ops.items", "id text collate \"C\" primary key", path)
    );
    let table = keyed("ops.items", &[("id", ColumnType::Text)]);
    let stored = Stored::new(&context, table, &ddl("", &then)).await?;
    stored.cycle(&[item("a", 100), item("b", 200).note("n")]).await?;
    let rows = "select concat_ws(' ', id, amount, note, job_id, path) from ops.items order by id";
    stored.has(rows, &["a 1.01 BAT00002 pg_catalog", "b 2.01 n BAT00002 pg_catalog"]).await?;
    stored.has("select id from public.items", &[]).await
}

async fn own_columns(context: Context) -> Result<(), Failure> {
    let further = ", \
        number bigint generated always as identity, \
        by_default bigint generated by default as identity, \
        ticket bigint not null default nextval('tickets'), \
        state text not null default 'new', \
        created_at timestamptz not null default now(), \
        remark text, \
        doubled numeric generated always as (amount * 2) stored";
    let ddl = format!("create sequence public.tickets; {}", ddl(further, ""));
    let stored = Stored::new(&context, Item::table(), &ddl).await?;
    let items = [item("a", 100), item("b", 200)];
    stored.store(Authority::Stream, &items, "2 inserted").await?;
    let rows = "select concat_ws(' ', id, state, doubled, remark) from items order by id";
    stored.has(rows, &["a new 2.00", "b new 4.00"]).await?;
    // Both rows are of one transaction, whose time is now().
    let distinct = "select concat_ws(' ', count(distinct number), count(distinct by_default), \
                        count(distinct ticket), count(distinct created_at)) from items";
    stored.has(distinct, &["2 2 2 1"]).await?;
    let change = "update items set state = 'seen', remark = 'by hand'; \
                  create table former as select * from items";
    stored.client.batch_execute(change).await?;
    let (job, items) = (stored.job(1).await, [item("a", 150), item("b", 200)]);
    stored.store(job, &items, "1 confirmed, 1 corrected").await?;
    stored.store(job, &items, "2 duplicate").await?;
    let kept = "\
        select concat_ws(' ', i.id, i.doubled, \
            (i.number, i.by_default, i.ticket, i.state, i.created_at, i.remark) \
            = (f.number, f.by_default, f.ticket, f.state, f.created_at, f.remark)) \
        from items i join former f on f.id = i.id order by i.id";
    stored.has(kept, &["a 3.00 t", "b 4.00 t"]).await
}

/// The note names a parent. A deferred key is checked just before the commit.
fn parents(deferral: &str) -> String {
    format!(
        "create table public.parents (name text primary key); \
         insert into public.parents values ('good'); \
         alter table public.items add constraint parent \
             foreign key (note) references public.parents {deferral}"
    )
}

const REFUSING: &str = "\
    create function public.refuse() returns trigger language plpgsql as \
        $$ begin raise exception 'not this note'; end $$; \
    create trigger refuse before insert or update on public.items \
        for each row when (new.note = 'bad') execute function public.refuse()";

/// A rule of the table refuses the note `bad`, of a correction as of a new row.
async fn one_refused(context: Context, rule: &str, why: &str) -> Result<(), Failure> {
    let stored = Stored::new(&context, Item::table(), &ddl("", rule)).await?;
    let [a, b, c, d] = [item("a", 100), item("b", 200), item("c", 300), item("d", 400)];
    let items = [a.note("good"), b, c.note("bad"), d.note("good")];
    stored.store(Authority::Stream, &items, "3 inserted, 1 rejected").await?;
    stored.has_letters(&[&format!("2 refused {why}")]).await?;
    let (job, items) = (stored.job(1).await, [item("a", 150).note("bad"), item("b", 250)]);
    stored.store(job, &items, "1 corrected, 1 rejected").await?;
    stored.has_letters(&[&format!("2 refused {why}"), &format!("0 refused {why}")]).await?;
    stored.has(ROWS, &["a 1.00 good", "b 2.50 BAT00001", "d 4.00 good"]).await
}

/// The trigger finds its table by the session's search path, which is the database's.
async fn audited(context: Context) -> Result<(), Failure> {
    let then = "\
        create table public.audit (line text); \
        create function public.audited() returns trigger language plpgsql as $$ begin \
            insert into audit select concat_ws(' ', tg_op, new.id, new.amount, new.job_id); \
            return null; \
        end $$; \
        create trigger audited after insert or update on public.items \
            for each row execute function public.audited()";
    let stored = Stored::new(&context, Item::table(), &ddl("", then)).await?;
    stored.cycle(&[item("a", 100), item("b", 200)]).await?;
    let lane = stored.claim().await?;
    let batch = stored.batch(Authority::Stream, &lane, &[item("a", 100), item("c", 300)]);
    stored.commit(batch.clone()).await?;
    let again = stored.sink.commit(&batch, Durability::Visible).await?;
    assert_eq!(again.fenced, [lane.lane], "the lane has moved");
    let lines = [
        "INSERT a 1.00",
        "INSERT b 2.00",
        "INSERT c 3.00",
        "UPDATE a 1.01 BAT00001",
        "UPDATE a 1.01 BAT00002",
        "UPDATE b 2.01 BAT00001",
        "UPDATE b 2.01 BAT00002",
    ];
    stored.has("select line from audit order by line collate \"C\"", &lines).await
}

/// The column has no default, so the trigger must have filled it before the server checks it.
async fn filled(context: Context) -> Result<(), Failure> {
    let then = "\
        create function public.fill() returns trigger language plpgsql as $$ begin \
            new.label := upper(new.id) || ' for ' || new.amount; \
            return new; \
        end $$; \
        create trigger fill before insert or update on public.items \
            for each row execute function public.fill()";
    let ddl = ddl(", label text not null", then);
    let stored = Stored::new(&context, Item::table(), &ddl).await?;
    stored.cycle(&[item("a", 100), item("b", 200)]).await?;
    let rows = "select concat_ws(' ', id, amount, label) from items order by id";
    stored.has(rows, &["a 1.01 A for 1.01", "b 2.01 B for 2.01"]).await
}

/// Three partitions by range of the key's first column.
async fn ranged(context: &Context) -> Result<Stored, Failure> {
    let key = "shop bigint, id text collate \"C\", primary key (shop, id)";
    let ddl = format!(
        "{} partition by range (shop); \
         create table public.low partition of public.items for values from (minvalue) to (0); \
         create table public.middle partition of public.items for values from (0) to (10); \
         create table public.high partition of public.items for values from (10) to (20)",
        create("public.items", key, "")
    );
    let key = [("shop", ColumnType::Int8), ("id", ColumnType::Text)];
    Stored::new(context, keyed("items", &key), &ddl).await
}

async fn ranges(context: Context) -> Result<(), Failure> {
    let stored = ranged(&context).await?;
    let items = [15, -5, 5].map(|shop| item("a", shop * 100).number(shop));
    stored.cycle(&items).await?;
    let items = [5, 25, 6].map(|shop| item("b", shop * 100).number(shop));
    stored.store(Authority::Stream, &items, "2 inserted, 1 rejected").await?;
    stored.has("select position::text from dead_letters", &["1"]).await?;
    // Partitions are added while loaders run.
    let add = "create table public.higher partition of public.items for values from (20) to (30)";
    stored.client.batch_execute(add).await?;
    stored.store(Authority::Stream, &items, "2 duplicate, 1 inserted").await?;
    stored.store(Authority::Stream, &items, "3 duplicate").await?;
    let rows = "select concat_ws(' ', tableoid::regclass, shop, id, amount, job_id) from items \
                order by shop, id";
    let expected = [
        "low -5 a -4.99 BAT00002",
        "middle 5 a 5.01 BAT00002",
        "middle 5 b 5.00",
        "middle 6 b 6.00",
        "high 15 a 15.01 BAT00002",
        "higher 25 b 25.00",
    ];
    stored.has(rows, &expected).await
}

/// The record is not wrong: a partition was not added in time.
async fn no_partition(context: Context) -> Result<(), Failure> {
    let stored = ranged(&context).await?;
    stored.store(Authority::Stream, &[item("a", 100).number(25)], "1 rejected").await?;
    stored.has("select reason from dead_letters", &["no_partition"]).await
}

/// Four partitions by hash of the key. Deadlocks may happen there, and are found soon.
async fn hashed(context: &Context) -> Result<Stored, Failure> {
    let ddl = format!(
        "{} partition by hash (id); \
         do $$ begin \
             for part in 0..3 loop \
                 execute format('create table public.items_%s partition of public.items \
                                 for values with (modulus 4, remainder %s)', part, part); \
             end loop; \
             execute format('alter database %I set deadlock_timeout = ''100ms''', \
                            current_database()); \
         end $$",
        create("public.items", "id bigint primary key", "")
    );
    Stored::new(context, keyed("items", &[("id", ColumnType::Int8)]), &ddl).await
}

async fn hashes(context: Context) -> Result<(), Failure> {
    let stored = hashed(&context).await?;
    let items: Vec<Item> = (0..40).map(|id| numbered(id, id * 100)).collect();
    stored.cycle(&items).await?;
    let rows = "select concat_ws(' ', count(*), count(distinct id), count(distinct tableoid), \
                                 sum(amount), min(job_id), max(job_id)) from items";
    stored.has(rows, &["40 40 4 780.40 BAT00002 BAT00002"]).await
}

/// A trigger takes the id whenever the record is inserted, as a concurrent writer would. If the
/// violation counted as one of another key, the record would be refused.
async fn partition_key(context: Context) -> Result<(), Failure> {
    let stored = hashed(&context).await?;
    let race = "\
        create function public.race() returns trigger language plpgsql as $$ begin \
            insert into public.items select new.*; \
            return new; \
        end $$; \
        create trigger race before insert on public.items \
            for each row when (pg_trigger_depth() = 0) execute function public.race()";
    stored.client.batch_execute(race).await?;
    let insert = "insert into items values (1, 1, null, null, 'STREAM', 0, 0, 0, 0)";
    let error = stored.client.batch_execute(insert).await.expect_err("its own insert");
    let violated = error.as_db_error().and_then(|error| error.constraint()).unwrap_or_default();
    assert!(violated.starts_with("items_") && violated != "items_pkey", "{violated}");
    let lane = stored.claim().await?;
    let batch = stored.batch(Authority::Stream, &lane, &[numbered(1, 100)]);
    let error = stored.sink.commit(&batch, Durability::Visible).await.expect_err("taken");
    assert!(matches!(error, Error::Contended { .. }), "{}", error.chain());
    stored.client.batch_execute("drop trigger race on items").await?;
    stored.commit(batch).await?;
    stored.has("select concat_ws(' ', id, amount) from items", &["1 1.00"]).await
}

/// Commits of each writer, and records in each commit.
const COMMITS: i64 = 25;
const RECORDS: i64 = 60;

#[expect(clippy::print_stdout, reason = "a failure is repeated by its seed")]
async fn concurrent(context: Context) -> Result<(), Failure> {
    let stored = Arc::new(hashed(&context).await?);
    let ranks = [Authority::Stream, stored.job(1).await, stored.job(2).await];
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let write = |_| tokio::spawn(write(Arc::clone(&stored), ranks, random.fork()));
    let writers: Vec<_> = (0..WRITERS).map(write).collect();
    let (mut highest, mut deadlocks) = (BTreeMap::new(), 0);
    for writer in writers {
        let (written, met) = writer.await??;
        deadlocks += met;
        for (id, rank) in written {
            let of_id = highest.entry(id).or_insert(rank);
            *of_id = rank.max(*of_id);
        }
    }
    println!("seed {seed}: {deadlocks} deadlocks");
    // The row is that of the highest authority, whatever the order of the commits was.
    let rows = stored.client.query("select id, (amount * 100)::bigint from items order by id", &[]);
    let rows: Vec<(i64, i64)> = rows.await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, highest.into_iter().collect::<Vec<_>>());
    let balance = "\
        select concat_ws(' ', sum(read), sum(confirmed + rejected), \
                         sum(inserted) = (select count(*) from items), \
                         sum(corrected) = (select count(*) from corrections)) \
        from ingest_progress";
    stored.has(balance, &["6000 0 t t"]).await
}

/// Stores random ids on a lane, with the rank of their authority as the amount in cents. Returns
/// both for each record, and the number of deadlocks.
async fn write(
    stored: Arc<Stored>,
    ranks: [Authority; 3],
    mut random: fastrand::Rng,
) -> Result<(Vec<(i64, i64)>, usize), Failure> {
    let (mut written, mut deadlocks) = (Vec::new(), 0);
    let mut lane = stored.claim().await?;
    for number in 0..COMMITS {
        let rank = random.usize(..ranks.len());
        // Most ids are new to each commit, and near those of the other writers.
        let ids = (0..RECORDS).map(|_| number * RECORDS + random.i64(0..100));
        let items: Vec<Item> = ids.map(|id| numbered(id, rank as i64)).collect();
        let batch = stored.batch(ranks[rank], &lane, &items);
        lane = loop {
            match stored.sink.commit(&batch, Durability::Visible).await {
                Ok(mut done) => break done.stored.remove(0),
                // A flow tries the first again, and halves of the second.
                Err(error) if error.chain().contains("40P01") => deadlocks += 1,
                Err(Error::Contended { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        };
        written.extend(items.iter().filter_map(|item| Some((item.number?, item.cents))));
    }
    Ok((written, deadlocks))
}

/// The primary key is the table's own. The server checks the index on the note first.
async fn second_index(context: Context) -> Result<(), Failure> {
    let key = "number bigint generated always as identity primary key, \
               id text collate \"C\" not null";
    let ddl = format!(
        "{}; create unique index by_note on public.items (note); \
         create unique index by_id on public.items (id)",
        create("public.items", key, "")
    );
    let stored = Stored::new(&context, Item::table(), &ddl).await?;
    let items = [item("a", 100).note("x"), item("b", 200).note("y"), item("c", 300)];
    let job = stored.cycle(&items).await?;
    let taken = [item("d", 400).note("x"), item("e", 500)];
    stored.store(Authority::Stream, &taken, "1 inserted, 1 rejected").await?;
    stored.store(job, &[item("c", 999)], "1 rejected").await?;
    let later = stored.job(3).await;
    stored.store(later, &[item("b", 250).note("x")], "1 rejected").await?;
    let refused = "0 refused 23505 at by_note";
    stored.has_letters(&[refused, "0 id_conflict", refused]).await?;
    let rows = ["a 1.01 x BAT00002", "b 2.01 y BAT00002", "c 3.01 BAT00002", "e 5.00"];
    stored.has(ROWS, &rows).await
}

/// Connects a sink to a table, which is in a schema of its own. Returns why it is refused.
async fn refusal(database: &Database, table: Table, ddl: &str) -> Result<Option<String>, Failure> {
    let schema = table.schema().to_owned();
    let create = format!("create schema {schema}; set search_path = {schema}; {ddl}");
    database.connect().await?.batch_execute(&create).await?;
    let pipeline = pipeline(&schema, table)?;
    registry::register(database.config(), &[&pipeline]).await?;
    let sink = PostgresSink::connect(database.config().clone(), &pipeline, "sink", 1, None).await;
    Ok(sink.err().map(|error| {
        assert_eq!(error.exit_code(), 78, "{ddl}: {}", error.chain());
        error.chain()
    }))
}

async fn unfit_types(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let types = "create type public.cabin as enum ('first'); \
                 create type public.seat as enum ('first'); \
                 create schema ops; create type ops.cabin as enum ('first'); \
                 create domain public.label as text";
    database.connect().await?.batch_execute(types).await?;
    let varchar = ColumnType::Varchar { length: 20 };
    let cabin = || ColumnType::enumeration("cabin");
    let zoned = "timestamp with time zone";
    // The record's type, the column's, and both as the error shows them.
    let cases = [
        (varchar, "varchar(10)", "character varying(10)", "character varying(20)"),
        (ColumnType::UnconstrainedNumeric, "numeric(12, 4)", "numeric(12,4)", "numeric"),
        (ColumnType::Float8, "float4", "real", "double precision"),
        (ColumnType::Float4, "float8", "double precision", "real"),
        (ColumnType::Bytea, "text", "text", "bytea"),
        (ColumnType::Uuid, "text", "text", "uuid"),
        (ColumnType::Date, "timestamp", "timestamp without time zone", "date"),
        (ColumnType::TIME, "timetz", "time with time zone", "time without time zone"),
        (ColumnType::TIMESTAMP, "date", "date", "timestamp without time zone"),
        (ColumnType::TIMESTAMPTZ, "timestamptz(0)", "timestamp(0) with time zone", zoned),
        (ColumnType::Jsonb, "json", "json", "jsonb"),
        (cabin(), "public.seat", "seat", "public.cabin"),
        (cabin(), "ops.cabin", "ops.cabin", "public.cabin"),
        (ColumnType::Text.array(), "varchar[]", "character varying[]", "text[]"),
        (ColumnType::Text.array(), "public.label[]", "label[]", "text[]"),
        (ColumnType::Int4.array(), "integer", "integer", "integer[]"),
        (ColumnType::Int4, "integer[]", "integer[]", "integer"),
    ];
    for (number, (kind, column, found, wanted)) in cases.into_iter().enumerate() {
        let table = Table::new(&format!("case{number}.items"))
            .column(Column::new("id", ColumnType::Text))
            .column(Column::new("c", kind).nullable());
        let ddl = format!("create table items (id text primary key, c {column}, {EVIDENCE})");
        let refused = refusal(&database, table, &ddl).await?.ok_or(column)?;
        let says = format!("case{number}.items.c is {found}, the record has it as {wanted};");
        assert!(refused.contains(&says), "{column}: {refused}");
    }
    Ok(())
}

async fn unfit_keys(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let collation = "create collation public.ignoring_case \
                         (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    database.connect().await?.batch_execute(collation).await?;
    let refused = [
        "create index on items (id)",
        "alter table items add unique (id) deferrable",
        "create unique index on items (id) where note is null",
        "create unique index on items (id, amount)",
        "create unique index on items (lower(id))",
        "alter table items rename to plain; create table items (like plain) partition by list (note); \
         create table part partition of items default; create unique index on part (id)",
        "create unique index on items (id collate public.ignoring_case)",
        "alter table items alter id type text collate public.ignoring_case, add primary key (id)",
        "alter table items alter id type char(10), add primary key (id)",
        // The index distinguishes A from a, and the statements that look for an id do not.
        "alter table items alter id type text collate public.ignoring_case; \
         create unique index on items (id collate \"C\")",
    ];
    let fits = [
        "create unique index on items (id) include (note)",
        "alter table items alter id type text collate \"en-x-icu\", add primary key (id)",
        "alter table items alter id type varchar, add primary key (id)",
    ];
    for (number, change) in refused.into_iter().chain(fits).enumerate() {
        let table = keyed(&format!("case{number}.items"), &[("id", ColumnType::Text)]);
        let ddl = format!("{}; {change}", create("items", "id text", ""));
        let says = refusal(&database, table, &ddl).await?;
        assert_eq!(says.is_none(), number >= refused.len(), "{change}: {says:?}");
        let names_it = |says: &String| says.contains("(id)") || says.contains("items.id is ");
        assert!(says.iter().all(names_it), "{change}: {says:?}");
    }
    Ok(())
}

async fn domains(context: Context) -> Result<(), Failure> {
    let ddl = format!(
        "create domain public.code as text collate \"C\" check (value <> 'bad'); \
         create domain public.price as numeric(14, 2); create domain public.remark as varchar; \
         create table public.items (id public.code primary key, amount public.price not null, \
             note public.remark, {EVIDENCE})"
    );
    let stored = Stored::new(&context, Item::table(), &ddl).await?;
    stored.cycle(&[item("a", 100), item("b", 200).note("n")]).await?;
    let items = [item("bad", 300), item("c", 400)];
    stored.store(Authority::Stream, &items, "1 inserted, 1 rejected").await?;
    stored.has_letters(&["0 refused 23514 at code_check"]).await?;
    stored.has(ROWS, &["a 1.01 BAT00002", "b 2.01 n BAT00002", "c 4.00"]).await
}
