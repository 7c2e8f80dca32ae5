//! Values of every column type come back as they were sent: a repeat is a duplicate, and a
//! change of one column is corrected.

use std::fmt::Write as _;

use lambda_core::Pipeline;
use lambda_core::Record;
use lambda_core::dead_letter::Reject;
use lambda_core::job::JobRef;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::postgres::schema::registry;
use lambda_core::postgres::{Connection, PostgresSink};
use lambda_core::progress::{LaneName, Progress};
use lambda_core::record::{
    Cell, CivilMicros, Column, ColumnType, DayMicros, Decimal, Jsonb, RowRef, RowWriter, Table,
    UnixDays, UnixMicros, Value,
};
use lambda_core::sink::{ClaimRequest, Durability, Sink as _};
use lambda_core::testing::draft::{ByHand, Draft};
use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use uuid::Uuid;

use crate::subject::job;

pub(crate) fn tests(suite: &mut Suite) {
    suite.postgres("values of every type come back as they were sent", round_trip);
    suite.postgres("what an application wrote has the form of a record's values", as_written);
}

/// Records in each commit.
const RECORDS: i64 = 200;

/// Every type that a column can have, but for arrays.
fn scalars() -> Vec<ColumnType> {
    vec![
        ColumnType::Bool,
        ColumnType::Int2,
        ColumnType::Int4,
        ColumnType::Int8,
        ColumnType::Float4,
        ColumnType::Float8,
        ColumnType::Numeric { precision: 38, scale: 0 },
        ColumnType::Numeric { precision: 38, scale: 38 },
        ColumnType::Numeric { precision: 12, scale: 4 },
        ColumnType::UnconstrainedNumeric,
        ColumnType::Text,
        ColumnType::Varchar { length: 5 },
        ColumnType::Bytea,
        ColumnType::Uuid,
        ColumnType::Date,
        ColumnType::TIME,
        ColumnType::Time { precision: 2 },
        ColumnType::TIMESTAMP,
        ColumnType::Timestamp { precision: 0 },
        ColumnType::TIMESTAMPTZ,
        ColumnType::Timestamptz { precision: 3 },
        ColumnType::Jsonb,
    ]
}

/// A value of any type.
#[derive(Debug, Clone)]
enum Any {
    Null,
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    Decimal(Decimal),
    Text(String),
    Bytea(Vec<u8>),
    Uuid(Uuid),
    Date(UnixDays),
    Time(DayMicros),
    Timestamp(CivilMicros),
    Timestamptz(UnixMicros),
    Jsonb(Jsonb),
    Array(Vec<Any>),
}

impl Value for Any {
    fn write(&self, cell: &mut Cell<'_>) {
        match self {
            Self::Null => {}
            Self::Bool(value) => value.write(cell),
            Self::Int2(value) => value.write(cell),
            Self::Int4(value) => value.write(cell),
            Self::Int8(value) => value.write(cell),
            Self::Float4(value) => value.write(cell),
            Self::Float8(value) => value.write(cell),
            Self::Decimal(value) => value.write(cell),
            Self::Text(value) => value.write(cell),
            Self::Bytea(value) => value.write(cell),
            Self::Uuid(value) => value.write(cell),
            Self::Date(value) => value.write(cell),
            Self::Time(value) => value.write(cell),
            Self::Timestamp(value) => value.write(cell),
            Self::Timestamptz(value) => value.write(cell),
            Self::Jsonb(value) => value.write(cell),
            Self::Array(values) => values.write(cell),
        }
    }
}

/// Draws a value that a column of this type holds, at the edges as often as between them.
fn draw(kind: &ColumnType, random: &mut fastrand::Rng) -> Any {
    let edge = random.bool();
    match kind {
        ColumnType::Bool => Any::Bool(random.bool()),
        ColumnType::Int2 => {
            Any::Int2(pick(random, edge, &[0, -1, i16::MIN, i16::MAX], |r| r.i16(..)))
        }
        ColumnType::Int4 => {
            Any::Int4(pick(random, edge, &[0, -1, i32::MIN, i32::MAX], |r| r.i32(..)))
        }
        ColumnType::Int8 => {
            Any::Int8(pick(random, edge, &[0, -1, i64::MIN, i64::MAX], |r| r.i64(..)))
        }
        ColumnType::Float4 => {
            let edges =
                [0.0, -0.0, f32::NAN, f32::INFINITY, f32::MIN, f32::MIN_POSITIVE, 0.1, 1e-45];
            Any::Float4(pick(random, edge, &edges, |r| f32::from_bits(r.u32(..))))
        }
        ColumnType::Float8 => {
            let edges = [0.0, -0.0, f64::NAN, f64::NEG_INFINITY, f64::MAX, 5e-324, 0.1, 1e23];
            Any::Float8(pick(random, edge, &edges, |r| f64::from_bits(r.u64(..))))
        }
        ColumnType::Numeric { precision, scale } => {
            let scale = *scale;
            Any::Decimal(Decimal { unscaled: unscaled(random, u32::from(*precision)), scale })
        }
        ColumnType::UnconstrainedNumeric => {
            Any::Decimal(Decimal { unscaled: unscaled(random, 30), scale: random.u8(0..9) })
        }
        ColumnType::Text => {
            Any::Text(pick(random, edge, &["", " ", "NULL", "\"", "\\", "{a,b}", "ä\n\r\t'"], text))
        }
        ColumnType::Varchar { .. } => {
            Any::Text(pick(random, edge, &["", "äöüß ", "a    "], |r| {
                text(r).chars().take(5).collect()
            }))
        }
        ColumnType::Bytea => {
            let length = random.usize(0..9);
            Any::Bytea((0..length).map(|_| random.u8(..)).collect())
        }
        ColumnType::Uuid => Any::Uuid(Uuid::from_u128(random.u128(..))),
        // Up to 4713 BC and to the year 5874897.
        ColumnType::Date => {
            let edges = [0, -1, -719_162, -2_440_588, 2_145_042_905];
            Any::Date(UnixDays(pick(random, edge, &edges, |r| r.i32(-800_000..3_000_000))))
        }
        ColumnType::Time { .. } => {
            let micros = pick(random, edge, &[0_i64, 86_399_999_999], |r| r.i64(0..86_400_000_000));
            Any::Time(DayMicros(micros))
        }
        ColumnType::Timestamp { .. } => Any::Timestamp(CivilMicros(micros(random, edge))),
        ColumnType::Timestamptz { .. } => Any::Timestamptz(UnixMicros(micros(random, edge))),
        ColumnType::Jsonb => Any::Jsonb(Jsonb::parse(&json(random, 0)).expect("its own JSON")),
        ColumnType::Enum { .. } => Any::Text(pick(random, true, &["first", "Second class"], text)),
        ColumnType::Array(element) => {
            let count = random.usize(0..4);
            let element = |random: &mut fastrand::Rng| match random.u8(0..4) {
                0 => Any::Null,
                _ => draw(element, random),
            };
            Any::Array((0..count).map(|_| element(random)).collect())
        }
        other => panic!("no values of {other}"),
    }
}

fn pick<T, E: Clone + Into<T>>(
    random: &mut fastrand::Rng,
    edge: bool,
    edges: &[E],
    between: impl Fn(&mut fastrand::Rng) -> T,
) -> T {
    if edge { edges[random.usize(..edges.len())].clone().into() } else { between(random) }
}

fn unscaled(random: &mut fastrand::Rng, digits: u32) -> i128 {
    let end = 10_i128.pow(random.u32(0..=digits));
    let number = pick(random, false, &[0_i128], |r| r.i128(1 - end..end));
    [number, end - 1, 1 - end, end / 10][random.usize(0..4)]
}

/// From 4713 BC to the year 294276.
fn micros(random: &mut fastrand::Rng, edge: bool) -> i64 {
    let edges = [0_i64, -1, 1, -210_866_803_200_000_000, i64::MAX];
    pick(random, edge, &edges, |r| r.i64(-200_000_000_000_000_000..300_000_000_000_000_000))
}

fn text(random: &mut fastrand::Rng) -> String {
    let length = random.usize(0..9);
    let character = |random: &mut fastrand::Rng| match random.u8(0..4) {
        0 => random.char('\u{1}'..='\u{7f}'),
        1 => random.char('\u{80}'..='\u{ffff}'),
        2 => random.char('\u{10000}'..='\u{10ffff}'),
        _ => random.alphanumeric(),
    };
    (0..length).map(|_| character(random)).collect()
}

/// A JSON text with any white space, order of keys, escapes and spelling of numbers.
fn json(random: &mut fastrand::Rng, depth: u32) -> String {
    let space = |random: &mut fastrand::Rng| *random.choice(&["", "", " ", "\n\t"]).expect("one");
    let end = if depth > 3 { 5 } else { 7 };
    match random.u8(0..end) {
        0 => "null".into(),
        1 => random.bool().to_string(),
        2 => format!(
            "{}{}",
            random.i32(-99..99),
            ["", ".50", ".0", "e2", ".125e-3", "E+20"][random.usize(0..6)]
        ),
        3 => random.f64().to_string(),
        4 => serde_json::to_string(&text(random)).expect("a text"),
        5 => {
            let count = random.usize(0..4);
            let mut array = String::from("[");
            for index in 0..count {
                array += if index > 0 { "," } else { "" };
                array += space(random);
                array += &json(random, depth + 1);
                array += space(random);
            }
            array + "]"
        }
        _ => {
            let count = random.usize(0..4);
            let mut object = String::from("{");
            for index in 0..count {
                object += if index > 0 { "," } else { "" };
                object += space(random);
                // Each key once, of different lengths.
                let key = format!("{}{index}", text(random));
                object += &serde_json::to_string(&key).expect("a text");
                object += space(random);
                object += ":";
                object += &json(random, depth + 1);
            }
            object + "}"
        }
    }
}

/// A record with a column of each type.
struct Wide {
    id: i64,
    values: Vec<Any>,
}

impl Wide {
    fn draw(id: i64, random: &mut fastrand::Rng) -> Self {
        let columns = Self::table().columns()[1..].to_vec();
        let value = |column: &Column| match random.u8(0..6) {
            0 => Any::Null,
            _ => draw(&column.kind, random),
        };
        Self { id, values: columns.iter().map(value).collect() }
    }
}

impl Record for Wide {
    fn table() -> Table {
        let arrays = scalars().into_iter().map(ColumnType::array);
        let kinds = scalars().into_iter().chain(arrays).chain([ColumnType::enumeration("cabin")]);
        let table = Table::new("wide").column(Column::new("id", ColumnType::Int8));
        kinds.enumerate().fold(table, |table, (number, kind)| {
            table.column(Column::new(&format!("c{number}"), kind).nullable())
        })
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.put(self.id);
        for value in &self.values {
            row.put(value);
        }
    }

    fn read(_: RowRef<'_>) -> Result<Self, Reject> {
        unreachable!("these tests compare rows by their bytes")
    }
}

/// The table of [`Wide`], an enum included.
fn ddl() -> String {
    let mut columns = String::new();
    for column in Wide::table().columns() {
        let _ = write!(columns, "{} {}, ", column.sql(), column.kind);
    }
    format!(
        "create type public.cabin as enum ('first', 'Second class'); \
         create table public.wide ({columns} primary key (id), job_id text, \
             ingestion_type text not null, lane integer not null, position bigint not null, \
             checksum bigint not null, written_xid bigint not null)"
    )
}

struct Stored {
    sink: PostgresSink,
    client: Connection,
    pipeline: Pipeline,
}

impl Stored {
    async fn new(context: &Context) -> Result<Self, Failure> {
        let database = context.database().await?;
        let client = database.connect().await?;
        client.batch_execute(&ddl()).await?;
        let table = Wide::table();
        let pipeline = Pipeline::builder("wide", table).messages(ByHand).build()?;
        registry::register(database.config(), &[&pipeline]).await?;
        let sink = PostgresSink::connect(database.config().clone(), &pipeline, "sink", 1, None);
        Ok(Self { sink: sink.await?, client, pipeline })
    }

    async fn claim(&self, partition: i32) -> Result<Progress, Failure> {
        let name = LaneName { pipeline: "wide".into(), source: "test".into(), partition };
        Ok(self.sink.claim(&ClaimRequest { name, ..crate::request("g") }).await?)
    }

    /// Stores records on a new lane, and returns how many had the outcome.
    async fn store(
        &self,
        partition: i32,
        authority: Authority,
        records: &[Wide],
        outcome: Outcome,
    ) -> Result<i64, Failure> {
        let lane = self.claim(partition).await?;
        let mut draft = Draft::new(authority, &self.pipeline).lane(&lane, records.len() as i64);
        for (position, record) in records.iter().enumerate() {
            draft = draft.record(position as i64, record);
        }
        let committed = self.sink.commit(&draft.build(), Durability::Durable).await?;
        Ok(committed.stored[0].counts[outcome])
    }

    async fn job(&self, as_of_micros: i64) -> JobRef {
        job(&self.client, "wide", as_of_micros).await
    }
}

async fn round_trip(context: Context) -> Result<(), Failure> {
    let wide = Stored::new(&context).await?;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut records: Vec<Wide> = (0..RECORDS).map(|id| Wide::draw(id, &mut random)).collect();
    let stored = wide.store(0, Authority::Stream, &records, Outcome::Inserted).await?;
    assert_eq!(stored, RECORDS, "seed {seed}");
    let again = wide.store(1, Authority::Stream, &records, Outcome::Duplicate).await?;
    if again != RECORDS {
        let sql = "select position from dead_letters order by position limit 1";
        let position: i64 = wide.client.query_one(sql, &[]).await?.get(0);
        let values = &records[position as usize].values;
        panic!("seed {seed}: {again} of {RECORDS} are duplicates, and not {values:?}");
    }
    let job = Authority::Batch(wide.job(1).await);
    assert_eq!(wide.store(2, job, &records, Outcome::Confirmed).await?, RECORDS, "seed {seed}");
    assert_eq!(wide.store(3, job, &records, Outcome::Duplicate).await?, RECORDS, "seed {seed}");
    // One column of each record changes.
    let columns = Wide::table().columns()[1..].to_vec();
    for (record, index) in records.iter_mut().zip((0..columns.len()).cycle()) {
        let before = format!("{:?}", record.values[index]);
        while matches!(record.values[index], Any::Null)
            || format!("{:?}", record.values[index]) == before
        {
            record.values[index] = draw(&columns[index].kind, &mut random);
        }
    }
    let table = "create table former as select * from wide";
    wide.client.batch_execute(table).await?;
    let job = Authority::Batch(wide.job(2).await);
    let corrected = wide.store(4, job, &records, Outcome::Corrected).await?;
    let unchanged = unchanged(&wide).await?;
    assert_eq!(corrected + unchanged, RECORDS, "seed {seed}");
    assert!(unchanged < RECORDS / 10, "cut or rounded to the same value: {unchanged}");
    assert_eq!(wide.store(5, job, &records, Outcome::Duplicate).await?, RECORDS, "seed {seed}");
    // A correction keeps both rows whole, each value in its text form.
    let same = |side: &str, row: &str| {
        let table = Wide::table();
        let same = table.columns().iter().map(|Column { name, kind, .. }| {
            format!("(c.{side} ->> '{name}')::{kind}::text is not distinct from {row}.{name}::text")
        });
        same.collect::<Vec<_>>().join(" and ")
    };
    let whole = format!(
        "select count(*) from corrections c \
         join former on c.key = jsonb_build_array(former.id::text) join wide on wide.id = former.id \
         where {} and {}",
        same("before", "former"),
        same("after", "wide"),
    );
    let whole: i64 = wide.client.query_one(&whole, &[]).await?.get(0);
    assert_eq!(whole, corrected, "seed {seed}");
    Ok(())
}

/// Rows that the last job did not change.
async fn unchanged(wide: &Stored) -> Result<i64, Failure> {
    let sql = "select count(*) from wide where not exists \
                   (select from corrections where key = jsonb_build_array(wide.id::text))";
    Ok(wide.client.query_one(sql, &[]).await?.get(0))
}

/// Rows as another program writes them: every value in a form that PostgreSQL takes and that no
/// record has. A record of the same values is a duplicate.
async fn as_written(context: Context) -> Result<(), Failure> {
    let wide = Stored::new(&context).await?;
    let widened = Wide::table().columns().iter().find_map(|column| {
        let millis = ColumnType::Timestamptz { precision: 3 };
        (column.kind == millis)
            .then(|| format!("alter table wide alter {} type timestamptz", column.sql()))
    });
    wide.client.batch_execute(&widened.ok_or("no such column")?).await?;
    let decimal = |unscaled, scale| Any::Decimal(Decimal { unscaled, scale });
    let cases: Vec<(ColumnType, &str, Any)> = vec![
        (ColumnType::Float4, "'-0'", Any::Float4(0.0)),
        (ColumnType::Float8, "'-0'", Any::Float8(0.0)),
        (ColumnType::Float8, "-'NaN'::float8", Any::Float8(f64::NAN)),
        (ColumnType::UnconstrainedNumeric, "1.5000", decimal(15, 1)),
        (ColumnType::UnconstrainedNumeric, "100.00", decimal(100, 0)),
        (ColumnType::UnconstrainedNumeric, "0.000", decimal(0, 0)),
        (ColumnType::Jsonb, r#"'{"b":1e2,"a":"\u00e4"}'"#, json_of(r#"{"a":"ä","b":100}"#)),
        (ColumnType::Jsonb, "'null'", Any::Null),
        (
            ColumnType::Timestamptz { precision: 3 },
            "'1999-12-31 23:59:59.1239+00'",
            Any::Timestamptz(UnixMicros(946_684_799_123_000)),
        ),
        (ColumnType::Int4.array(), "'[5:6]={1,2}'", Any::Array(vec![Any::Int4(1), Any::Int4(2)])),
        (
            ColumnType::Int4.array(),
            "array_remove(array[1, null], null)",
            Any::Array(vec![Any::Int4(1)]),
        ),
        (ColumnType::Float8.array(), "'{-0}'", Any::Array(vec![Any::Float8(0.0)])),
        (ColumnType::UnconstrainedNumeric.array(), "'{1.50}'", Any::Array(vec![decimal(15, 1)])),
        (ColumnType::Text.array(), "array[]::text[]", Any::Array(Vec::new())),
    ];
    let table = Wide::table();
    let mut records = Vec::new();
    for (id, (kind, sql, value)) in cases.into_iter().enumerate() {
        let columns = &table.columns()[1..];
        let index = columns.iter().position(|column| column.kind == kind).expect("a column of it");
        let insert = format!(
            "insert into wide (id, {}, ingestion_type, lane, position, checksum, written_xid) \
             values ({id}, {sql}, 'STREAM', 1, 0, 0, 0)",
            columns[index].sql()
        );
        wide.client.batch_execute(&insert).await?;
        let mut values = vec![Any::Null; columns.len()];
        values[index] = value;
        records.push(Wide { id: id as i64, values });
    }
    let duplicates = wide.store(0, Authority::Stream, &records, Outcome::Duplicate).await?;
    let conflicts = "select string_agg(convert_from(payload, 'LATIN1'), ' ') from dead_letters";
    let conflicts: Option<String> = wide.client.query_one(conflicts, &[]).await?.get(0);
    assert_eq!(duplicates, records.len() as i64, "{conflicts:?}");
    Ok(())
}

fn json_of(text: &str) -> Any {
    Any::Jsonb(Jsonb::parse(text).expect("JSON"))
}
