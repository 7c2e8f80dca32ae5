//! A service of your own that also consumes a topic, in one process and one database.
//!
//! The service keeps its migrations, tables and routes; the libraries keep theirs in the schema
//! `lambda`. One stop ends both.
//!
//! ```sh
//! export DATABASE_URL=postgresql://owner@localhost/app KAFKA_BOOTSTRAP_SERVERS=localhost:9092
//! cargo run --example embedded -- orders &
//! curl localhost:3000/customers/C-1/total localhost:3000/readyz
//! ```

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use lambda_core::health::{Health, Trouble};
use lambda_core::record::Decimal;
use lambda_core::{Kafka, Pipeline, Postgres, Record, Stop};
use lambda_stream::Summary;
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An order, as another team's topic has it.
#[derive(Record)]
#[record(table = "shop.orders", key(id))]
pub struct Order {
    id: String,
    customer: String,
    #[record(numeric(10, 2))]
    total: Decimal,
}

/// The service's migrations. Orders have the columns in which the libraries store where a row
/// came from.
const MIGRATIONS: [&str; 2] = [
    "create schema shop; \
     create table shop.customers (customer text primary key, name text not null); \
     insert into shop.customers values ('C-1', 'Ada'), ('C-2', 'Grace')",
    "create table shop.orders ( \
         id text primary key, customer text not null, total numeric(10, 2) not null, \
         job_id text, ingestion_type text not null, lane integer not null, \
         position bigint not null, checksum bigint not null, written_xid bigint not null); \
     create index on shop.orders (customer)",
];

/// Applies the service's migrations that are not in its own history yet. Yours does it in its
/// own way.
async fn migrate(client: &Client) -> Result<(), tokio_postgres::Error> {
    let history = "create table if not exists public.schema_history (version bigint primary key)";
    client.batch_execute(history).await?;
    let last = "select coalesce(max(version), 0) from public.schema_history";
    let last: i64 = client.query_one(last, &[]).await?.try_get(0)?;
    for (version, sql) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > last) {
        let note = format!("insert into public.schema_history values ({version})");
        client.batch_execute(&format!("begin; {sql}; {note}; commit")).await?;
    }
    Ok(())
}

/// A customer's name and the sum of their orders.
async fn total(client: Arc<Client>, Path(customer): Path<String>) -> Result<String, StatusCode> {
    let sql = "select c.name || ': ' || coalesce(sum(o.total), 0) \
               from shop.customers c left join shop.orders o using (customer) \
               where customer = $1 group by c.name";
    let found = client.query_opt(sql, &[&customer]).await;
    match found.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)? {
        Some(row) => row.try_get(0).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR),
        None => Err(StatusCode::NOT_FOUND),
    }
}

/// The answer to a probe.
fn probe(troubles: &[Trouble]) -> (StatusCode, String) {
    let lines: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    let status = if lines.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, lines.join("\n"))
}

/// Serves and consumes until the stop is requested, or one of the two ends. Returns once the
/// requests in progress are answered and everything that was read is stored.
pub async fn run(
    database_url: &str,
    kafka: &Kafka,
    listener: TcpListener,
    stop: Stop,
) -> Result<Summary, Failure> {
    // The service's own connection; a real one has a pool, and TLS.
    let (client, connection) = tokio_postgres::connect(database_url, NoTls).await?;
    let connection = tokio::spawn(connection);
    migrate(&client).await?;
    let orders = Pipeline::of::<Order>("orders").build()?;
    let postgres = Postgres::new(database_url)?;
    postgres.set_up(&[&orders]).await?;

    let (client, health) = (Arc::new(client), Health::default());
    let (live, ready) = (health.clone(), health.clone());
    let routes = Router::new()
        .route("/customers/{customer}/total", get(move |path| total(Arc::clone(&client), path)))
        .route("/livez", get(async move || probe(&live.standing_still())))
        .route("/readyz", get(async move || probe(&ready.lacking())));
    let stopped = stop.clone();
    let serving = async {
        let service = axum::serve(listener, routes);
        let served = service.with_graceful_shutdown(async move { stopped.stopped().await }).await;
        stop.stop();
        served
    };
    let consuming = async {
        let consume = lambda_stream::consume(&orders, kafka, &postgres);
        let consumed = consume.health(&health).stop(stop.clone()).await;
        stop.stop();
        consumed
    };
    let (served, consumed) = tokio::join!(serving, consuming);
    served?;
    // It ends because its client is gone with the routes.
    connection.await??;
    Ok(consumed?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    use std::io::Write;
    let topic = std::env::args().nth(1).ok_or("name the topic")?;
    let kafka = Kafka::new(&std::env::var("KAFKA_BOOTSTRAP_SERVERS")?, &topic);
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let database_url = std::env::var("DATABASE_URL")?;
    let summary = run(&database_url, &kafka, listener, Stop::on_signals()?).await?;
    writeln!(std::io::stdout(), "{summary}")?;
    Ok(())
}
