//! A record of your own: files and a topic into one table, at the same time and each exactly
//! once.
//!
//! ```sh
//! export DATABASE_URL=postgresql://owner@localhost/app KAFKA_BOOTSTRAP_SERVERS=localhost:9092
//! cargo run --example own_load_and_consume -- readings in/
//! ```

use lambda_core::postgres::connect;
use lambda_core::progress::Counts;
use lambda_core::record::{Decimal, UnixMicros};
use lambda_core::{Kafka, Pipeline, Postgres, Record, Stop};

/// A sensor's measurement.
#[derive(Record)]
#[record(table = "ops.readings", key(sensor, taken_at))]
pub struct Reading {
    #[record(length = 1..=20)]
    sensor: String,
    taken_at: UnixMicros,
    #[record(numeric(6, 2), between("-90", 60))]
    degrees: Decimal,
    note: Option<String>,
}

/// The record's columns, and those in which the libraries store where a row came from.
pub const TABLE: &str = "\
    create schema if not exists ops; \
    create table if not exists ops.readings ( \
        sensor text not null, taken_at timestamptz not null, degrees numeric(6, 2) not null, \
        note text, \
        job_id text, ingestion_type text not null, lane integer not null, \
        position bigint not null, checksum bigint not null, written_xid bigint not null, \
        primary key (sensor, taken_at))";

/// Loads the files and stores the topic up to its present end, side by side. Returns what became
/// of the records of the files, and of those of the topic, in this run and the ones before it.
pub async fn run(
    postgres: &Postgres,
    kafka: &Kafka,
    files: &str,
    stop: &Stop,
) -> Result<(Counts, Counts), Box<dyn std::error::Error + Send + Sync>> {
    connect(postgres, "the example").await?.batch_execute(TABLE).await?;
    let readings = Pipeline::of::<Reading>("readings").build()?;
    postgres.set_up(&[&readings]).await?;

    let load = lambda_batch::load(&readings, [files], postgres).stop(stop.clone());
    let consume = lambda_stream::consume(&readings, kafka, postgres).exit_at_end(true);
    let (loaded, consumed) = tokio::join!(load, consume.stop(stop.clone()));
    let mut of_files = Counts::default();
    for file in loaded?.into_result()? {
        of_files += file.outcome.job().map_or_else(Counts::default, |job| job.counts);
    }
    Ok((of_files, consumed?.counts))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use std::io::Write;
    let mut arguments = std::env::args().skip(1);
    let (Some(topic), Some(files)) = (arguments.next(), arguments.next()) else {
        return Err("name the topic, and the file or folder".into());
    };
    let postgres = Postgres::new(&std::env::var("DATABASE_URL")?)?;
    let kafka = Kafka::new(&std::env::var("KAFKA_BOOTSTRAP_SERVERS")?, &topic);
    let (files, topic) = run(&postgres, &kafka, &files, &Stop::on_signals()?).await?;
    for (from, counts) in [("files", files), ("the topic", topic)] {
        let outcomes = counts.outcomes().map(|(outcome, count)| format!("{count} {outcome}"));
        writeln!(std::io::stdout(), "{} from {from}: {}", counts.read, outcomes.join(", "))?;
    }
    Ok(())
}
