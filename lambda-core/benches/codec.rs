//! Speed of the decoders, on one core: records a second, from the bytes of a message or of a
//! file's row to the bytes of COPY.
//!
//! `cargo bench --bench codec`

#![expect(clippy::expect_used, reason = "a bench")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lambda_core::Pipeline;
use lambda_core::batch::Body;
use lambda_core::decode::{Decode, Message};
use lambda_core::record::{Column, ColumnType, Decimal, Rule, Scratch, Table};
use lambda_core::transaction;
use lambda_core::transaction::synthetic::{Format, Synthetic};

const RECORDS: usize = 10_000;

/// A table like one that is read from a catalog: a key of three columns, eight in all.
fn readings() -> Pipeline {
    let table = Table::new("ops.readings")
        .column(Column::new("site", ColumnType::Text))
        .column(Column::new("device", ColumnType::Int4))
        .column(Column::new("at", ColumnType::TIMESTAMPTZ).from_field("meta.at"))
        .column(
            Column::new("celsius", ColumnType::Numeric { precision: 6, scale: 3 })
                .rule(Rule::between(Decimal::literal("-90"), Decimal::literal("60"))),
        )
        .column(Column::new("humidity", ColumnType::Float8).nullable())
        .column(Column::new("ok", ColumnType::Bool))
        .column(Column::new("count", ColumnType::Int8))
        .column(Column::new("note", ColumnType::Text).nullable())
        .key(["site", "device", "at"]);
    Pipeline::builder("readings", table).build().expect("a table that fits")
}

/// A reading as a message, and as a row.
fn reading(random: &mut fastrand::Rng) -> (Vec<u8>, Vec<u8>) {
    let (site, device) = (format!("site-{:04}", random.u16(..)), random.i32(0..1_000_000));
    let at = format!("2026-{:02}-{:02}T10:11:12.{:06}Z", random.u8(1..13), random.u8(1..29), 7);
    let celsius = format!("{}.{:03}", random.i8(-50..50), random.u16(..1_000));
    let (humidity, ok, count) = (random.f32(), random.bool(), random.u32(..));
    let json = format!(
        "{{\"site\":\"{site}\",\"device\":{device},\"meta\":{{\"at\":\"{at}\",\"v\":2}},\
         \"celsius\":{celsius},\"humidity\":{humidity},\"ok\":{ok},\"count\":{count},\"note\":null}}"
    );
    let csv = format!("{site},{device},{at},{celsius},{humidity},{ok},{count},");
    (json.into(), csv.into())
}

fn bench(
    c: &mut Criterion,
    name: &str,
    pipeline: &Pipeline,
    decoder: &dyn Decode,
    records: &[Vec<u8>],
) {
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(records.len() as u64));
    let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            rows.clear();
            for record in records {
                let message = Message::of(Some(record));
                let body =
                    Body::decode(decoder, pipeline.table(), &message, &mut rows, &mut scratch);
                assert!(matches!(body, Body::Row { .. }), "{body:?}");
            }
            rows.len()
        });
    });
    group.finish();
}

fn codec(c: &mut Criterion) {
    let lines = |format| -> Vec<Vec<u8>> {
        let mut traffic = Synthetic::new(1);
        (0..RECORDS).map(|_| traffic.line(format).payload).collect()
    };
    let transactions = transaction::pipeline();
    let csv = transactions.files().open(transaction::CSV_HEADER.as_bytes(), transactions.table());
    let csv = csv.expect("the header");
    bench(c, "transactions json", &transactions, &**transactions.decoder(), &lines(Format::Json));
    bench(c, "transactions csv", &transactions, &csv, &lines(Format::Csv));

    let mut random = fastrand::Rng::with_seed(1);
    let (json, rows): (Vec<_>, Vec<_>) = (0..RECORDS).map(|_| reading(&mut random)).unzip();
    let readings = readings();
    let header = b"site,device,meta.at,celsius,humidity,ok,count,note";
    let csv = readings.files().open(header, readings.table()).expect("the header");
    bench(c, "readings json", &readings, &**readings.decoder(), &json);
    bench(c, "readings csv", &readings, &csv, &rows);
}

criterion_group!(benches, codec);
criterion_main!(benches);
