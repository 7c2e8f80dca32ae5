//! Stores flights from files and from a topic, each exactly once.

use jiff::{Timestamp, civil::Date};
use lambda_core::decode::Serde;
use lambda_core::postgres::Jobs;
use lambda_core::postgres::dead_letters::{DeadLetters, Filter, Replay};
use lambda_core::record::{Decimal, Jsonb, Label};
use lambda_core::{Kafka, Pipeline, Postgres, Record, Stop};
use uuid::Uuid;

#[derive(Record, serde::Deserialize)]
#[record(table = "ops.flights", key(flight_id, day))]
struct Flight {
    #[record(length = 1..=20)]
    flight_id: String,
    day: Date,
    passenger: Option<Uuid>,
    departs_at: Timestamp,
    delay_minutes: Option<i16>,
    occupancy: f64,
    #[record(numeric(12, 4), between(0, 100_000))]
    fare: Decimal,
    #[record(sql = "ops.cabin")]
    cabin: Label,
    meta: Option<Jsonb>,
    refundable: bool,
    tags: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flights = Pipeline::of::<Flight>("flights").files(Serde::<Flight>::csv()).build()?;
    let postgres = Postgres::new(&std::env::var("DATABASE_URL")?)?;
    let (stop, mut arguments) = (Stop::on_signals()?, std::env::args().skip(1));
    match arguments.next().as_deref() {
        Some("setup") => postgres.set_up(&[&flights]).await?,
        Some("load") => {
            let load = lambda_batch::load(&flights, arguments, &postgres).stop(stop);
            load.await?.into_result()?;
        }
        Some("consume") => {
            let kafka = Kafka::new(&std::env::var("BROKERS")?, &std::env::var("TOPIC")?);
            let consume = lambda_stream::consume(&flights, &kafka, &postgres);
            println!("{}", consume.exit_at_end(arguments.len() > 0).stop(stop).await?);
        }
        Some("replay") => {
            let (letters, filter) = (DeadLetters::new(postgres), Filter::default());
            let told = |letter, verdict| println!("{letter}: {verdict:?}");
            letters.replay(&flights, &filter, &Replay::default(), told, &stop).await?;
        }
        Some("jobs") => {
            for job in Jobs::new(postgres).list(None, None, 10).await? {
                println!("{} {} {} read", job.job_id(), job.status, job.counts.read);
            }
        }
        _ => return Err("setup, load PATHS, consume [--exit-at-end], replay or jobs".into()),
    }
    Ok(())
}
