//! A table of one's own without Rust: a file defines its pipeline, and the binaries do the rest.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lambda_core::postgres::Connection;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Program, Signal};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use support::{DEADLINE, until};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.kafka("a pipeline of a file has its own table, topic and files", readings);
        suite.real_kafka("the commands of the README work as they are written", readme);
        suite.postgres("rows from before are kept, and adoption runs once", adopted);
        suite.kafka("no command reaches the dead letters or jobs of another pipeline", apart);
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

/// The folder of the workspace, where the README's commands run.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The lines of the README's block of commands that begins with `first`.
fn block(first: &str) -> Result<Vec<String>, Failure> {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md"))?;
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut found = blocks.filter(|block| block.starts_with(first));
    let block = found.next().ok_or_else(|| format!("the README has no block with {first}"))?;
    Ok(block.lines().map(ToOwned::to_owned).collect())
}

async fn readme(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    let topic = context.topic("readings", 3).await?;
    let bootstrap = context.bootstrap().await?;
    let folder = context.folder()?;
    copy(&Path::new(ROOT).join("bins/examples"), &folder.join("bins/examples"))?;

    let lines = block("psql -f")?;
    let is_consumer = |line: &String| line.starts_with("lambda-consumer &");
    let consumer = lines.iter().position(is_consumer).ok_or("no consumer is started")?;
    // No machine of the tests needs psql.
    let table = lines[0].strip_prefix("psql -f ").ok_or("no table is created")?;
    sql.batch_execute(&std::fs::read_to_string(folder.join(table))?).await?;
    let exports = lines.iter().filter(|line| line.starts_with("export "));
    let exports: String = exports.flat_map(|line| [line, "\n"]).collect();
    let binaries = Path::new(env!("CARGO_BIN_EXE_lambda")).parent().ok_or("no folder")?;
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH")?);
    let shell = |commands: &str| {
        let script = format!("set -eu\ncd '{}'\n{exports}{commands}", folder.display());
        let program = context.program("/bin/sh").envs(database.environment()).env("PATH", &path);
        let program = program.env("KAFKA_BOOTSTRAP_SERVERS", &bootstrap);
        // The broker is shared with other tests.
        program.env("KAFKA_TOPIC", &topic).arg("-c").arg(script)
    };
    let before = shell(&lines[1..consumer].join("\n")).run(DEADLINE).await?.expect_code(0)?;
    assert!(before.stdout.contains("readings: ops.readings fits"), "{}", before.stdout);
    assert_eq!(number(&sql, "select count(*) from ops.readings").await?, 3);

    let consumer_runs = shell("exec lambda-consumer").start()?;
    send(
        &bootstrap,
        &topic,
        &[
            r#"{"type":"reading","meta":{"ts":"2026-01-02T00:00:00Z"},"millidegrees":5,"site":"0b9fdc1e-6d0c-4a2b-9d5e-1f2a3b4c5d6e","humidity":"45.125","labels":["a"]}"#.into(),
            r#"{"type":"heartbeat"}"#.into(),
        ],
    )?;
    let live = "select count(*) from ops.readings \
                where ingestion_type = 'STREAM' and humidity = 45.13 and not charging";
    until(&sql, live, 1).await?;
    let after = shell(&lines[consumer + 1..].join("\n")).run(DEADLINE).await?.expect_code(0)?;
    assert!(after.stdout.contains("1 of 1 replayed"), "{}", after.stdout);
    let mended = "select count(*) from ops.readings where device = 'd-3' and millidegrees = -1200";
    assert_eq!(number(&sql, mended).await?, 1);
    consumer_runs.signal(Signal::TERM)?;
    consumer_runs.wait(DEADLINE).await?.expect_code(0).map(drop)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

async fn number(sql: &Connection, query: &str) -> Result<i64, Failure> {
    Ok(sql.query_one(query, &[]).await?.try_get(0)?)
}

async fn adopted(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    let application = format!("application_{}", std::process::id());
    sql.batch_execute(&format!(
        "create table things (id text primary key, size integer); \
         insert into things values ('a', 1), ('b', 2); \
         create table own (id text primary key, position bigint, lane text); \
         create role {application}; grant insert, select on things to {application}"
    ))
    .await?;
    let folder = context.folder()?;
    let pipelines = folder.join("pipelines.toml");
    std::fs::write(
        &pipelines,
        "[pipeline.things]\ntable = \"things\"\n[pipeline.own]\ntable = \"own\"\n",
    )?;
    let program = |binary: &str| {
        let program = context.program(binary).envs(database.environment());
        program.env("LAMBDA_PIPELINES", &pipelines).env("LAMBDA_PIPELINE", "things")
    };
    let command = |name: &str, code| {
        let run = program(env!("CARGO_BIN_EXE_lambda")).args(["pipelines", name, "things"]);
        async move { run.run(DEADLINE).await?.expect_code(code) }
    };
    let check = command("check", 78).await?;
    assert!(check.stdout.contains("lambda pipelines adopt things adds them"), "{}", check.stdout);
    let shown = command("sql", 0).await?.stdout;
    assert!(
        shown.contains("add column if not exists \"written_xid\" bigint not null default 0"),
        "{shown}"
    );
    assert_eq!(command("adopt", 0).await?.stdout, shown);
    assert!(command("adopt", 0).await?.stdout.starts_with("-- the tables have all"));
    command("check", 0).await?;
    program(env!("CARGO_BIN_EXE_lambda-db-setup")).run(DEADLINE).await?.expect_code(0)?;

    // Columns of its own are none of the evidence's.
    let own = program(env!("CARGO_BIN_EXE_lambda")).args(["pipelines", "adopt", "own"]);
    let own = own.run(DEADLINE).await?.expect_code(78)?;
    let says = "public.own has columns with names of the evidence: lane, position";
    assert!(own.stderr.contains(says), "{}", own.stderr);
    assert_eq!(number(&sql, "select count(*) from lambda.pipelines where name = 'own'").await?, 0);

    // The application still inserts rows, without any right on the platform's schema.
    sql.batch_execute(&format!(
        "set role {application}; insert into things values ('c', 3); reset role"
    ))
    .await?;
    let csv = folder.join("things.csv");
    std::fs::write(&csv, "id,size\na,1\nb,5\nd,4\n")?;
    let load = program(env!("CARGO_BIN_EXE_lambda-csv-batch")).arg(&csv);
    load.run(DEADLINE).await?.expect_code(0)?;
    let rows = "select string_agg(concat_ws(' ', id, size, ingestion_type, written_xid = 0), ', ' \
                                  order by id) from things";
    assert_eq!(text(&sql, rows).await?, "a 1 BATCH t, b 5 BATCH t, c 3 f, d 4 BATCH f");
    let counts = "select concat_ws(' ', sum(confirmed), sum(corrected), sum(inserted)) \
                  from lambda.ingest_progress";
    assert_eq!(text(&sql, counts).await?, "1 1 1");
    sql.batch_execute(&format!("drop owned by {application}; drop role {application}")).await?;
    Ok(())
}

/// Two pipelines of one database, each with a dead letter and a job.
async fn apart(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    sql.batch_execute(
        "create table a (id integer primary key); create table b (id integer primary key)",
    )
    .await?;
    let folder = context.folder()?;
    let pipelines = folder.join("pipelines.toml");
    let file = "[pipeline.a]\ntable = \"a\"\n[pipeline.b]\ntable = \"b\"\n";
    std::fs::write(&pipelines, file)?;
    let csv = folder.join("file.csv");
    std::fs::write(&csv, "id\n1\nx\n2\n")?;
    let program = |binary: &str, pipeline: &str| {
        let program = context.program(binary).envs(database.environment());
        program.env("LAMBDA_PIPELINES", &pipelines).env("LAMBDA_PIPELINE", pipeline)
    };
    let operator = |pipeline: &str, arguments: &[&str]| {
        program(env!("CARGO_BIN_EXE_lambda"), pipeline).args(arguments)
    };
    operator("a", &["pipelines", "adopt"]).run(DEADLINE).await?.expect_code(0)?;
    for pipeline in ["a", "b"] {
        let load = program(env!("CARGO_BIN_EXE_lambda-csv-batch"), pipeline).arg(&csv);
        load.run(DEADLINE).await?.expect_code(0)?;
    }
    let listed = operator("b", &["dead-letters", "list", "--output", "json"]);
    let listed = listed.run(DEADLINE).await?.expect_code(0)?.json("dead_letters")?;
    let ids = |list: &serde_json::Value| list.as_array().map(Vec::len);
    assert_eq!(ids(&listed["dead_letters"]), Some(1), "{listed}");
    assert_eq!(listed["dead_letters"][0]["pipeline"], "b");
    let jobs = operator("b", &["jobs", "--output", "json"]).run(DEADLINE).await?.expect_code(0)?;
    assert_eq!(ids(&jobs.json("jobs")?["jobs"]), Some(1), "{}", jobs.stdout);
    // Letter 1 is of pipeline a.
    let by_number = operator("b", &["dead-letters", "discard", "1"]).run(DEADLINE).await?;
    let by_number = by_number.expect_code(65)?;
    let says = "no dead letter of b has the number 1";
    assert!(by_number.stdout.contains(says), "{}", by_number.stdout);
    let replay = operator("b", &["dead-letters", "replay", "1"]).run(DEADLINE).await?;
    replay.expect_code(65)?;
    let all = operator("b", &["dead-letters", "discard", "--all", "--yes"]);
    all.run(DEADLINE).await?.expect_code(0)?;
    let purge = operator("a", &["dead-letters", "purge", "--older-than", "0s", "--status", "any"]);
    purge.arg("--yes").run(DEADLINE).await?.expect_code(0)?;
    let letters = "select string_agg(concat_ws(' ', pipeline, status, purged_at is null), ', ' \
                                     order by d.id) \
                   from lambda.dead_letters d join lambda.ingest_progress using (lane)";
    assert_eq!(text(&sql, letters).await?, "a open f, b discarded t");
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
