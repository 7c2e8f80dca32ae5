//! Keys of several columns and types: their order is the server's, and the protocol holds.

use std::sync::LazyLock;

use lambda_core::dead_letter::Reject;
use lambda_core::outcome::Authority;
use lambda_core::record::{
    Column, ColumnType, Decimal, RowRef, RowWriter, Scratch, Table, UnixDays, UnixMicros,
};
use lambda_core::sink::Durability;
use lambda_core::testing::draft::{ByHand, Draft};
use lambda_core::testing::sink::Subject as _;
use lambda_core::{Pipeline, Record};
use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::model::{self, Drawn};
use crate::subject::{PostgresSubject, Stored, cents};

pub(crate) fn tests(suite: &mut Suite) {
    suite.postgres("keys order as the server orders their columns", order);
    suite.postgres("keys of two columns are looked up by their index", plan);
}

/// The tests of the model, which take longer.
pub(crate) fn models(suite: &mut Suite) {
    suite.postgres("with keys of text and date too", serial::<Flight>);
    suite.postgres("with keys of bigint too", serial::<Numbered>);
    suite.postgres("with keys of uuid too", serial::<Named>);
    suite.postgres("with keys of uuid and timestamptz too", serial::<Measured>);
    suite.postgres("on partitions by range of the key too", serial::<Ranged>);
}

async fn serial<K: Key>(context: Context) -> Result<(), Failure> {
    let config = context.icu_database().await?.config().clone();
    model::outcomes_follow_from_a_serial_order::<Keyed<K>>(config).await;
    Ok(())
}

/// The columns of evidence in the DDL of a table, and an amount.
macro_rules! table {
    ($name:literal, $key:literal, $end:literal) => {
        concat!(
            "create table public.",
            $name,
            " (amount numeric(12, 2) not null, ",
            $key,
            ", job_id text, ingestion_type text not null, lane integer not null, \
              position bigint not null, checksum bigint not null, written_xid bigint not null)",
            $end
        )
    };
}

/// A key of the model.
pub(crate) trait Key: Send + Sync + Sized + 'static {
    /// Creates its table.
    const DDL: &'static str;

    fn pipeline() -> &'static Pipeline;

    /// The name of its table, and its columns.
    fn columns() -> (&'static str, Vec<Column>);

    fn put(&self, row: &mut RowWriter<'_>);

    fn of_row(row: &Row) -> Self;

    fn draw(random: &mut fastrand::Rng, round: usize) -> Self;
}

/// A record with such a key, behind another column.
pub(crate) struct Keyed<K> {
    amount: i64,
    key: K,
}

impl<K: Key> Record for Keyed<K> {
    fn table() -> Table {
        let (name, columns) = K::columns();
        let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        let kind = ColumnType::Numeric { precision: 12, scale: 2 };
        let table = Table::new(name).column(Column::new("amount", kind));
        let table = columns.into_iter().fold(table, Table::column);
        table.key(names.iter().map(String::as_str))
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.put(Decimal { unscaled: self.amount.into(), scale: 2 });
        self.key.put(row);
    }

    fn read(_: RowRef<'_>) -> Result<Self, Reject> {
        unreachable!("these tests read rows by plain SQL")
    }
}

impl<K: Key> Stored for Keyed<K> {
    const DDL: &'static str = K::DDL;

    fn pipeline() -> &'static Pipeline {
        K::pipeline()
    }

    fn of_row(row: &Row) -> Self {
        Self { amount: cents(row), key: K::of_row(row) }
    }
}

impl<K: Key> Drawn for Keyed<K> {
    fn draw(random: &mut fastrand::Rng, round: usize) -> Self {
        Self { amount: model::amount(random), key: K::draw(random, round) }
    }
}

/// Its decoders are not used.
fn pipeline<K: Key>(name: &str) -> Pipeline {
    Pipeline::builder(name, Keyed::<K>::table())
        .messages(ByHand)
        .build()
        .expect("a table that fits")
}

/// Days since the epoch, some before it.
fn day(random: &mut fastrand::Rng, round: usize) -> i32 {
    (round as i32 - 10) * 3 + random.i32(0..3)
}

/// Text and date: an airline's flights.
pub(crate) struct Flight(String, i32);

impl Key for Flight {
    const DDL: &'static str = table!(
        "flights",
        "\"Flight\" text not null, day date not null",
        "; \
            create unique index on public.flights (day, \"Flight\")"
    );

    fn pipeline() -> &'static Pipeline {
        static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| pipeline::<Flight>("flights"));
        &PIPELINE
    }

    fn columns() -> (&'static str, Vec<Column>) {
        let columns =
            vec![Column::new("Flight", ColumnType::Text), Column::new("day", ColumnType::Date)];
        ("flights", columns)
    }

    fn put(&self, row: &mut RowWriter<'_>) {
        row.put(&self.0).put(UnixDays(self.1));
    }

    fn of_row(row: &Row) -> Self {
        let day: jiff::civil::Date = row.get("day");
        let days = day.since(jiff::civil::date(1970, 1, 1)).expect("a span").get_days();
        Self(row.get("Flight"), days)
    }

    fn draw(random: &mut fastrand::Rng, round: usize) -> Self {
        // Empty, with a space at its end, or the beginning of another one.
        let end = random.choice(["", " ", "a"]).unwrap_or_default();
        let text = if random.bool() { model::text(random) } else { "" };
        Self(format!("{text}{end}"), day(random, round))
    }
}

/// One number.
pub(crate) struct Numbered(i64);

impl Key for Numbered {
    const DDL: &'static str = table!("numbers", "id bigint primary key", "");

    fn pipeline() -> &'static Pipeline {
        static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| pipeline::<Numbered>("numbers"));
        &PIPELINE
    }

    fn columns() -> (&'static str, Vec<Column>) {
        ("numbers", vec![Column::new("id", ColumnType::Int8)])
    }

    fn put(&self, row: &mut RowWriter<'_>) {
        row.put(self.0);
    }

    fn of_row(row: &Row) -> Self {
        Self(row.get("id"))
    }

    fn draw(random: &mut fastrand::Rng, round: usize) -> Self {
        // Around zero, and at both ends; each round has its own.
        let number = random.i64(0..30) + (round as i64 - 10) * 30;
        Self(match random.u8(0..12) {
            0 => i64::MIN + round as i64,
            1 => i64::MAX - round as i64,
            _ => number,
        })
    }
}

/// One uuid.
pub(crate) struct Named(Uuid);

impl Key for Named {
    const DDL: &'static str = table!("names", "id uuid primary key", "");

    fn pipeline() -> &'static Pipeline {
        static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| pipeline::<Named>("names"));
        &PIPELINE
    }

    fn columns() -> (&'static str, Vec<Column>) {
        ("names", vec![Column::new("id", ColumnType::Uuid)])
    }

    fn put(&self, row: &mut RowWriter<'_>) {
        row.put(self.0);
    }

    fn of_row(row: &Row) -> Self {
        Self(row.get("id"))
    }

    fn draw(random: &mut fastrand::Rng, round: usize) -> Self {
        let high = u128::from(random.u8(0..12)) << 124;
        Self(Uuid::from_u128(high | round as u128 | u128::from(random.u8(0..2)) << 64))
    }
}

/// A sensor and a time.
pub(crate) struct Measured(Uuid, i64);

impl Key for Measured {
    const DDL: &'static str = table!(
        "measured",
        "sensor uuid not null, at timestamptz not null, primary key (sensor, at)",
        ""
    );

    fn pipeline() -> &'static Pipeline {
        static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| pipeline::<Measured>("measured"));
        &PIPELINE
    }

    fn columns() -> (&'static str, Vec<Column>) {
        let columns = vec![
            Column::new("sensor", ColumnType::Uuid),
            Column::new("at", ColumnType::TIMESTAMPTZ),
        ];
        ("measured", columns)
    }

    fn put(&self, row: &mut RowWriter<'_>) {
        row.put(self.0).put(UnixMicros(self.1));
    }

    fn of_row(row: &Row) -> Self {
        let at: jiff::Timestamp = row.get("at");
        Self(row.get("sensor"), at.as_microsecond())
    }

    fn draw(random: &mut fastrand::Rng, round: usize) -> Self {
        let sensor = Uuid::from_u128(u128::from(random.u8(0..3)) << 120);
        Self(sensor, (round as i64 - 10) * 86_400_000_000 + random.i64(-6..6))
    }
}

/// Date and text on partitions, before 1970 and after: their order is that of the key.
pub(crate) struct Ranged(Flight);

impl Key for Ranged {
    const DDL: &'static str = table!(
        "ranged",
        "day date not null, \"Flight\" text collate \"C\" not null, primary key (day, \"Flight\")",
        " partition by range (day); \
         create table public.ranged_before partition of public.ranged \
             for values from (minvalue) to ('1970-01-01'); \
         create table public.ranged_after partition of public.ranged \
             for values from ('1970-01-01') to (maxvalue)"
    );

    fn pipeline() -> &'static Pipeline {
        static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| pipeline::<Ranged>("ranged"));
        &PIPELINE
    }

    fn columns() -> (&'static str, Vec<Column>) {
        let (_, mut columns) = Flight::columns();
        columns.reverse();
        ("ranged", columns)
    }

    fn put(&self, row: &mut RowWriter<'_>) {
        let Flight(flight, day) = &self.0;
        row.put(UnixDays(*day)).put(flight);
    }

    fn of_row(row: &Row) -> Self {
        Self(Flight::of_row(row))
    }

    fn draw(random: &mut fastrand::Rng, round: usize) -> Self {
        Self(Flight::draw(random, round))
    }
}

/// Stores keys, and compares the server's order with that of the bytes.
async fn order(context: Context) -> Result<(), Failure> {
    ordered::<Flight>(&context, "\"Flight\" collate \"C\", day").await?;
    ordered::<Numbered>(&context, "id").await?;
    ordered::<Named>(&context, "id").await?;
    ordered::<Measured>(&context, "sensor, at").await?;
    ordered::<Ranged>(&context, "day, \"Flight\" collate \"C\"").await
}

async fn ordered<K: Key>(context: &Context, order: &str) -> Result<(), Failure> {
    let database = context.icu_database().await?;
    let subject = PostgresSubject::<Keyed<K>>::new(database.config(), 1).await;
    let mut random = fastrand::Rng::with_seed(7);
    let table = K::pipeline().table();
    let request = crate::request_of(K::pipeline(), "g");
    let mut lane = subject.sink().claim(&request).await?;
    for round in 0..20 {
        let mut draft = Draft::new(Authority::Stream, K::pipeline());
        draft = draft.lane(&lane, lane.position + 50);
        for index in 0..50 {
            draft = draft.record(lane.position + index, &Keyed::<K>::draw(&mut random, round));
        }
        lane = subject.sink().commit(&draft.build(), Durability::Visible).await?.stored.remove(0);
    }
    let sql =
        format!("select *, (amount * 100)::bigint as cents from {} order by {order}", table.sql());
    let rows = subject.client.query(&sql, &[]).await?;
    let keys: Vec<Vec<u8>> = rows
        .iter()
        .map(|row| {
            let mut bytes = Vec::new();
            let mut scratch = Scratch::default();
            let mut writer = RowWriter::new(table, &mut bytes, &mut scratch);
            Keyed::<K>::of_row(row).write(&mut writer);
            let row = writer.finish().expect("a stored row is a row");
            bytes[row.key].to_vec()
        })
        .collect();
    assert!(keys.len() > 50, "{} keys", keys.len());
    assert!(keys.is_sorted_by(|one, other| one < other), "{table}: each key once, in order");
    Ok(())
}

/// With 20,000 keys and a table that is larger, neither a scan nor a sort of the table.
async fn plan(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let subject = PostgresSubject::<Keyed<Flight>>::new(database.config(), 1).await;
    let fill = "insert into flights select 1, number::text, date '2026-01-01' + number % 300, \
                    null, 'STREAM', 1, number, 0, 1 from generate_series(1, 300000) number; \
                analyze flights";
    subject.client.batch_execute(fill).await?;
    let explain = "explain (costs off) select t.amount from flights t \
         join unnest((select array_agg(number::text) from generate_series(1, 20000) number), \
                     (select array_agg(date '2026-01-01' + number % 300) \
                      from generate_series(1, 20000) number)) as k(\"Flight\", day) \
           on t.\"Flight\" = k.\"Flight\" and t.day = k.day \
         order by t.\"Flight\" collate \"C\", t.day for update of t";
    let rows = subject.client.query(explain, &[]).await?;
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Scan") && !plan.contains("Seq Scan on flights"), "{plan}");
    Ok(())
}
