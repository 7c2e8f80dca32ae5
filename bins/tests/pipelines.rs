//! A table of one's own without Rust: a file defines its pipeline, and the binaries do the rest.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lambda_core::postgres::Connection;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::Program;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use support::DEADLINE;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.kafka("a pipeline of a file has its own table, topic and files", readings);
        suite.postgres("a pipeline that is not defined is refused", undefined);
    })
}

const TABLE: &str = "\
    create schema ops; \
    create table ops.readings ( \
        device text not null, recorded_at timestamptz not null, millidegrees integer not null, \
        ratio numeric(4, 2), note text, \
        job_id text, ingestion_type text not null, lane integer not null, \
        position bigint not null, checksum bigint not null, written_xid bigint not null, \
        primary key (device, recorded_at))";

fn file(topic: &str) -> String {
    format!(
        "[pipeline.readings]\n\
         table = \"ops.readings\"\n\
         topic = \"{topic}\"\n\
         only  = {{ type = \"reading\" }}\n\
         files = {{ delimiter = \";\", null = '\\N' }}\n\
         [pipeline.readings.columns]\n\
         device       = {{ from = \"key\" }}\n\
         recorded_at  = {{ field = \"meta.ts\" }}\n\
         millidegrees = {{ between = [-90000, 60000] }}\n\
         note         = {{ from = \"header:note\" }}\n\
         ratio        = {{ round = \"half_away\" }}\n"
    )
}

async fn readings(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    sql.batch_execute(TABLE).await?;
    let topic = context.topic("sensors", 2).await?;
    let bootstrap = context.bootstrap().await?;
    let folder = context.folder()?;
    let pipelines = folder.join("pipelines.toml");
    std::fs::write(&pipelines, file(&topic))?;
    let program = |binary: &str| {
        let program = context.program(binary).envs(database.environment());
        program
            .env("LAMBDA_PIPELINES", &pipelines)
            .env("LAMBDA_PIPELINE", "readings")
            .env("KAFKA_BOOTSTRAP_SERVERS", &bootstrap)
    };
    program(env!("CARGO_BIN_EXE_lambda-db-setup")).run(DEADLINE).await?.expect_code(0)?;
    let others = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                  where n.nspname = 'public'";
    assert_eq!(sql.query_one(others, &[]).await?.try_get::<_, i64>(0)?, 0, "public is left alone");

    let reading = |ts: &str, value: &str, ratio: &str| {
        format!(
            r#"{{"type":"reading","meta":{{"ts":"{ts}"}},"millidegrees":{value},"ratio":{ratio}}}"#
        )
    };
    send(
        &bootstrap,
        &topic,
        &[
            reading("2026-01-01T00:00:00Z", "21500", "0.125"),
            reading("2026-01-01T00:01:00Z", "21600", "null"),
            reading("2026-01-01T00:01:00Z", "21600", "null"),
            reading("2026-01-01T00:02:00Z", "99999", "null"),
            r#"{"type":"heartbeat"}"#.into(),
        ],
    )?;
    let consumer = program(env!("CARGO_BIN_EXE_lambda-consumer")).arg("--exit-at-end");
    consumer.run(DEADLINE).await?.expect_code(0)?;
    assert_eq!(
        rows(&sql).await?,
        "d1 2026-01-01 00:00:00 21500 0.13 live STREAM, \
         d1 2026-01-01 00:01:00 21600 live STREAM"
    );
    let counts = "select concat_ws(' ', sum(read), sum(inserted), sum(duplicate), sum(rejected), \
                      sum(skipped)) from lambda.ingest_progress where pipeline = 'readings'";
    assert_eq!(text(&sql, counts).await?, "5 2 1 1 1");

    let csv = folder.join("readings.csv");
    std::fs::write(
        &csv,
        "device;meta.ts;ratio;note;millidegrees\n\
         d1;2026-01-01 00:00:00;0.13;\\N;21500\n\
         d1;2026-01-01 00:01:00;\\N;mended;21600\n\
         d2;2026-01-01 00:00:00;\\N;\\N;1\n\
         d2;2026-01-01 00:00:01;\\N;\\N;cold\n",
    )?;
    let load = program(env!("CARGO_BIN_EXE_lambda-csv-batch")).arg(&csv);
    let dry = program(env!("CARGO_BIN_EXE_lambda-csv-batch")).arg("--dry-run").arg(&csv);
    dry.run(DEADLINE).await?.expect_code(0)?;
    load.run(DEADLINE).await?.expect_code(0)?;
    assert_eq!(
        rows(&sql).await?,
        "d1 2026-01-01 00:00:00 21500 0.13 BATCH, d1 2026-01-01 00:01:00 21600 mended BATCH, \
         d2 2026-01-01 00:00:00 1 BATCH"
    );
    assert_eq!(
        text(&sql, "select dialect::text from lambda.batch_jobs").await?,
        r#"{"null": "\\N", "delimiter": ";"}"#
    );
    // Other marks could end records elsewhere than the job has it.
    let other = std::fs::read_to_string(&pipelines)?.replace("null = ", "quote = \"~\", null = ");
    std::fs::write(&pipelines, other)?;
    let refused = program(env!("CARGO_BIN_EXE_lambda-csv-batch")).arg(&csv).run(DEADLINE).await?;
    let refused = refused.expect_code(78)?;
    assert!(refused.stderr.contains("of this content has the dialect"), "{}", refused.stderr);
    let letters = "select string_agg(concat_ws(' ', reason, field, line), ', ' order by id) \
                   from lambda.dead_letters";
    assert_eq!(
        text(&sql, letters).await?,
        "invalid_field millidegrees, invalid_field millidegrees 5"
    );
    let operator = program(env!("CARGO_BIN_EXE_lambda"));
    replay(&operator, &folder, 2, "d2;2026-01-01 00:00:01;\\N;\\N;5\n").await?;
    assert!(rows(&sql).await?.contains("d2 2026-01-01 00:00:01 5 BATCH"));
    // Key and header are those of the message.
    replay(&operator, &folder, 1, &reading("2026-01-01T00:02:00Z", "30000", "null")).await?;
    assert!(rows(&sql).await?.contains("d1 2026-01-01 00:02:00 30000 live STREAM"));
    let show = operator.args(["dead-letters", "show", "1"]).run(DEADLINE).await?.expect_code(0)?;
    assert!(show.stdout.contains("\n  header   note: live\n"), "{}", show.stdout);
    Ok(())
}

/// Replays a dead letter with another payload.
async fn replay(
    operator: &Program,
    folder: &Path,
    letter: i64,
    payload: &str,
) -> Result<(), Failure> {
    let file = folder.join("payload");
    std::fs::write(&file, payload)?;
    let replay = operator.clone().args(["dead-letters", "replay", &letter.to_string()]);
    let replay = replay.arg("--payload").arg(&file);
    let replayed = replay.arg("--yes").run(DEADLINE).await?.expect_code(0)?;
    assert!(replayed.stdout.contains("1 of 1 replayed"), "{}", replayed.stdout);
    Ok(())
}

async fn undefined(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let folder = context.folder()?;
    let pipelines = folder.join("pipelines.toml");
    let program = |text: &str, name: &str| {
        std::fs::write(&pipelines, text)?;
        let program = context.program(env!("CARGO_BIN_EXE_lambda-csv-batch"));
        Ok::<_, Failure>(
            program
                .envs(database.environment())
                .args(["--pipeline", name, "--pipelines"])
                .arg(&pipelines)
                .arg(folder.join("none.csv")),
        )
    };
    std::fs::write(folder.join("none.csv"), "a\n1\n")?;
    for (text, name, says) in [
        ("[pipeline.a]\ntable = \"t\"\n", "b", "defines no pipeline b"),
        ("[pipeline.a]\ntable = \"t\"\n", "a", "line 2: there is no table t"),
        (
            "[pipeline.transactions]\ntable = \"t\"\n",
            "a",
            "defines transactions, which is built in",
        ),
        ("[pipeline.a]\ntable = 5\n", "a", "line 2: invalid type"),
    ] {
        let refused = program(text, name)?.run(DEADLINE).await?.expect_code(78)?;
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    Ok(())
}

fn send(bootstrap: &str, topic: &str, messages: &[String]) -> Result<(), Failure> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    for message in messages {
        let note = Header { key: "note", value: Some("live") };
        let headers = OwnedHeaders::new().insert(note);
        let record = BaseRecord::to(topic).key("d1").payload(message).headers(headers);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
    }
    Ok(producer.flush(DEADLINE)?)
}

/// The rows, in the order of their key.
async fn rows(sql: &Connection) -> Result<String, Failure> {
    let query = "select string_agg(concat_ws(' ', device, recorded_at at time zone 'utc', \
                     millidegrees, ratio, note, ingestion_type), ', ' \
                     order by device, recorded_at) from ops.readings";
    text(sql, query).await
}

async fn text(sql: &Connection, query: &str) -> Result<String, Failure> {
    Ok(sql.query_one(query, &[]).await?.try_get(0)?)
}
