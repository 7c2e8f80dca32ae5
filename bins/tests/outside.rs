//! A crate outside the workspace stores a record of its own, by the libraries' public names only.

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lambda_core::postgres::Connection;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Program, Signal};
use lambda_lab::servers::Database;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use support::{DEADLINE, until};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        // It is compiled first.
        suite.deadline(900);
        suite.kafka("a crate of its own stores its record from both layers exactly once", flights);
    })
}

const COMPILING: Duration = Duration::from_mins(14);

/// Flights in the topic; each is also in the file.
const FLIGHTS: usize = 60_000;

const TABLE: &str = "\
    create schema ops; \
    create type ops.cabin as enum ('economy', 'first'); \
    create table ops.flights ( \
        flight_id text not null, day date not null, departs_at timestamptz not null, \
        passenger uuid, delay_minutes smallint, occupancy float8 not null, \
        fare numeric(12, 4) not null, cabin ops.cabin not null, meta jsonb, \
        refundable boolean not null, tags text[] not null, \
        job_id text, ingestion_type text not null, lane integer not null, \
        position bigint not null, checksum bigint not null, written_xid bigint not null, \
        primary key (flight_id, day))";

async fn flights(context: Context) -> Result<(), Failure> {
    let program = compile(&context).await?;
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    sql.batch_execute(TABLE).await?;
    let topic = context.topic("flights", 3).await?;
    let bootstrap = context.bootstrap().await?;
    let outside = |arguments: &[&str]| {
        let program = context.program(&program).env("DATABASE_URL", url(&database));
        program.env("BROKERS", &bootstrap).env("TOPIC", &topic).args(arguments)
    };
    outside(&["setup"]).run(DEADLINE).await?.expect_code(0)?;
    send(&bootstrap, &topic)?;
    through_a_kill(&sql, &outside(&["consume", "--exit-at-end"])).await?;

    // A flight with a fare that is no number, and one in a cabin that the type does not have.
    let rejected = "select string_agg(concat_ws(' ', reason, field, line), ', ' order by reason) \
                    from lambda.dead_letters";
    assert_eq!(text(&sql, rejected).await?, "invalid_field fare, refused");

    let (file, lines) = (context.folder()?.join("flights.csv"), csv());
    std::fs::write(&file, lines)?;
    let load = outside(&["load", &file.to_string_lossy()]);
    load.run(DEADLINE).await?.expect_code(0)?;
    let after = "select concat_ws(' ', count(*), count(distinct (flight_id, day)), \
                     count(job_id), count(*) filter (where fare = 99.5)) from ops.flights";
    let stored = text(&sql, after).await?;
    assert_eq!(stored, format!("{FLIGHTS} {FLIGHTS} {FLIGHTS} 1"));
    let corrected = "select string_agg(concat_ws(' ', key, before ->> 'fare', after ->> 'fare', \
                         before ->> 'tags', before ->> 'meta'), ', ') from lambda.corrections";
    let correction = r#"["LH-7", "2026-06-08"] 7.2500 99.5000 {x,"y 7"} {"n": 7, "gate": "A1"}"#;
    assert_eq!(text(&sql, corrected).await?, correction);
    let rejected = "select concat_ws(' ', reason, field, line) from lambda.dead_letters \
                    where job_id is not null";
    assert_eq!(text(&sql, rejected).await?, format!("invalid_field delay_minutes {}", FLIGHTS + 2));

    // The same file again changes nothing.
    let before = text(&sql, "select md5(string_agg(f::text, '' order by f)) from ops.flights f");
    let before = before.await?;
    load.run(DEADLINE).await?.expect_code(0)?;
    let again = text(&sql, "select md5(string_agg(f::text, '' order by f)) from ops.flights f");
    assert_eq!(again.await?, before);
    let jobs = outside(&["jobs"]).run(DEADLINE).await?.expect_code(0)?.stdout;
    assert_eq!(jobs, format!("BAT00001 completed {} read\n", FLIGHTS + 1));

    // Once the type has the cabin, its flight is replayed.
    sql.batch_execute("alter type ops.cabin add value 'cargo'").await?;
    let replayed = outside(&["replay"]).run(DEADLINE).await?.expect_code(0)?.stdout;
    assert_eq!(replayed.matches("Replayed(Inserted)").count(), 1, "{replayed}");
    let cargo = "select string_agg(concat_ws(' ', flight_id, day, tags[1]), ',') \
                 from ops.flights where cabin = 'cargo'";
    assert_eq!(text(&sql, cargo).await?, "LH-cargo 2026-06-01 x");
    let balance = "select concat_ws(' ', bool_and(read = inserted + confirmed + corrected + \
                       superseded + duplicate + rejected + skipped), sum(read)) \
                   from lambda.ingest_progress";
    // Each flight by both layers, one twice in the topic, and three that were rejected at first.
    assert_eq!(text(&sql, balance).await?, format!("t {}", 2 * FLIGHTS + 4));
    Ok(())
}

/// Kills a consumer once it has stored a part, and lets another one finish.
async fn through_a_kill(sql: &Connection, consumer: &Program) -> Result<(), Failure> {
    let running = consumer.start()?;
    until(sql, "select sign(count(*))::bigint from ops.flights", 1).await?;
    running.signal(Signal::KILL)?;
    let killed = running.wait(DEADLINE).await?;
    assert_eq!(killed.code(), None, "it ended by itself: {}", killed.stdout);
    let left = format!("select (count(*) < {FLIGHTS})::text from ops.flights");
    assert_eq!(text(sql, &left).await?, "true", "it was killed in the middle");
    consumer.run(DEADLINE).await?.expect_code(0)?;
    let stored =
        "select concat_ws(' ', count(*), count(distinct (flight_id, day))) from ops.flights";
    assert_eq!(text(sql, stored).await?, format!("{FLIGHTS} {FLIGHTS}"));
    Ok(())
}

/// Builds the crate with the workspace's lock file, profile and target folder, and returns its
/// program.
async fn compile(context: &Context) -> Result<PathBuf, Failure> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let outside = workspace.join("lambda-core/tests/outside");
    std::fs::copy(workspace.join("Cargo.lock"), outside.join("Cargo.lock"))?;
    let manifest = std::fs::read_to_string(workspace.join("Cargo.toml"))?;
    let profile = manifest.split_once("[profile.dev]").ok_or("no profile")?.1;
    let profile = profile.split_once("[profile.release]").ok_or("no second profile")?.0;
    let config = context.folder()?.join("profile.toml");
    std::fs::write(&config, format!("[profile.dev]{profile}"))?;
    let programs = Path::new(env!("CARGO_BIN_EXE_lambda")).parent().ok_or("no folder")?;
    let target = programs.parent().ok_or("no target folder")?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let build = context.program(cargo).args(["build", "--offline", "--quiet", "--config"]);
    let build = build.arg(config).arg("--manifest-path").arg(outside.join("Cargo.toml"));
    let build = build.arg("--target-dir").arg(target);
    // Where crates and compilers are may be set by the environment.
    let prefixes = ["CARGO_HOME", "CARGO_INCREMENTAL", "CARGO_SOURCE_", "CARGO_REGISTR", "RUSTUP_"];
    let inherited =
        std::env::vars().filter(|(name, _)| prefixes.iter().any(|it| name.starts_with(it)));
    build.envs(inherited).run(COMPILING).await?.expect_code(0)?;
    Ok(programs.join("outside"))
}

fn url(database: &Database) -> String {
    let login = database.login();
    format!(
        "postgresql://{}:{}@{}:{}/{}",
        login.user, login.password, login.host, login.port, login.database
    )
}

fn day(number: usize) -> String {
    format!("2026-06-{:02}", number % 28 + 1)
}

/// The message of a flight.
fn message(id: &str, number: usize, fare: &str, cabin: &str) -> String {
    let (day, passenger) = (day(number), uuid(number));
    format!(
        r#"{{"flight_id":"LH-{id}","day":"{day}","departs_at":"{day}T12:00:00.123456+02:00",
            "passenger":{passenger},"delay_minutes":{delay},"occupancy":0.{number}1,"fare":{fare},
            "cabin":"{cabin}","meta":{{"gate":"A1","n":{number}}},"refundable":{refundable},
            "tags":["x","y {number}"]}}"#,
        delay =
            if number.is_multiple_of(3) { "null".into() } else { format!("-{}", number % 99 + 1) },
        refundable = number.is_multiple_of(2),
    )
}

fn uuid(number: usize) -> String {
    match number % 4 {
        0 => "null".into(),
        _ => format!("\"00000000-0000-4000-8000-{number:012}\""),
    }
}

fn fare(number: usize) -> String {
    format!("{number}.25")
}

/// Sends all flights, one of them twice, and two that are rejected.
fn send(bootstrap: &str, topic: &str) -> Result<(), Failure> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("max.in.flight", "1")
        .create()?;
    let all = (0..FLIGHTS).chain([5]);
    let flights = all.map(|number| message(&number.to_string(), number, &fare(number), "first"));
    let rejected = [message("wrong", 0, "\"much\"", "first"), message("cargo", 0, "1", "cargo")];
    for (index, payload) in flights.chain(rejected).enumerate() {
        let record = BaseRecord::<str, str>::to(topic).partition(index as i32 % 3);
        producer.send(record.payload(&payload)).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
    }
    Ok(producer.flush(DEADLINE)?)
}

/// The same flights as rows, of which one has another fare, and a last one that is rejected.
fn csv() -> String {
    let mut rows = String::from(
        "flight_id,day,departs_at,passenger,delay_minutes,occupancy,fare,cabin,meta,refundable,tags\n",
    );
    for number in (0..FLIGHTS).chain([FLIGHTS]) {
        let (day, fare) = (day(number), if number == 7 { "99.5".into() } else { fare(number) });
        let delay = match number {
            FLIGHTS => "late".into(),
            number if number.is_multiple_of(3) => String::new(),
            number => format!("-{}", number % 99 + 1),
        };
        let passenger = uuid(number).replace("null", "").replace('"', "");
        let _ = writeln!(
            rows,
            "LH-{number},{day},{day}T10:00:00.123456Z,{passenger},{delay},0.{number}1,{fare},first,\
             \"{{\"\"n\"\":{number},\"\"gate\"\":\"\"A1\"\"}}\",{refundable},\
             \"[\"\"x\"\",\"\"y {number}\"\"]\"",
            refundable = number.is_multiple_of(2),
        );
    }
    rows
}

async fn text(sql: &Connection, query: &str) -> Result<String, Failure> {
    Ok(sql.query_one(query, &[]).await?.try_get(0)?)
}
