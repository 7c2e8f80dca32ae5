//! Health and metrics of the real binaries while servers go away and come back, compared
//! with the results of plain SQL.

#![expect(clippy::cast_precision_loss, reason = "counts of a test are small")]

#[path = "health/help.rs"]
mod help;
mod loads;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use lambda_core::Stop;
use lambda_core::health::{Health, STILL_AFTER};
use lambda_core::kafka::Kafka;
use lambda_core::postgres::connect;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::probe::{Probe, Scrape};
use lambda_lab::processes::{Process, Program, Signal};
use lambda_stream::produce::{From, ProduceConfig, produce};
use rustix::time::{ClockId, clock_gettime};

use support::{Bench, DEADLINE};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.kafka("a database that is away leaves a consumer live and not ready", database_away);
        suite.real_kafka("a broker that is away leaves both ends live and not ready", broker_away);
        suite.postgres("a process that waits for a silent server stays live", no_answer);
        suite.kafka("exported counts equal what plain SQL returns", counts);
        suite.kafka("fences, claims and evictions are counted", fences);
        suite.kafka("exported metrics are those of docs/metrics.md", documented);
        suite.plain("an address that cannot be served ends with 78", bad_address);
        suite.kafka("a producer sends no message early and sleeps between two", paced);
        help::tests(suite);
    })
}

/// Starts a program with its own port for probes.
async fn probed(program: Program) -> Result<(Process, Probe), Failure> {
    let mut process = program.env("HTTP_ADDR", "127.0.0.1:0").start()?;
    let probe = Probe::of(&mut process, DEADLINE).await?;
    Ok((process, probe))
}

/// Waits until `/readyz` answers with this status and all these words. `/livez` must be good
/// throughout.
async fn until_ready(probe: &Probe, status: u16, words: &[&str]) -> Result<(), Failure> {
    let mut last = None;
    let waited = until(format!("/readyz is {status} {words:?}"), async || {
        let (live, ready) = (probe.get("/livez").await?, probe.get("/readyz").await?);
        assert_eq!((live.status, live.text.as_str()), (200, "ok\n"));
        let is_so = ready.status == status && words.iter().all(|word| ready.text.contains(word));
        last = Some(ready);
        Ok(is_so)
    });
    waited.await.map_err(|error| format!("{error}, but {last:?}").into())
}

async fn stop(process: Process) -> Result<(), Failure> {
    process.signal(Signal::TERM)?;
    process.wait(DEADLINE).await?.expect_code(0).map(drop)
}

async fn database_away(context: Context) -> Result<(), Failure> {
    let mut postgres = context.own_postgres(&[]).await?;
    let database = postgres.database().await?;
    let topic = context.topic("transactions", 3).await?;
    let bootstrap = context.bootstrap().await?;
    let bench = Bench::with(context, database, topic, bootstrap).await?;
    let (consumer, probe) = probed(bench.consumer()).await?;
    let producer = bench.traffic(200).start()?;
    bench.stored(100).await?;
    until_ready(&probe, 200, &["ok"]).await?;
    postgres.server.kill()?;
    until_ready(&probe, 503, &["PostgreSQL, for ", "not reachable"]).await?;
    // Killed between two commits the next one fails; killed within one its outcome is asked for.
    until("a commit is tried again, or settled", async || {
        let metrics = probe.scrape().await?;
        let retries = |kind| metrics.sum("lambda_retries_total", &[("kind", kind)]);
        Ok(retries("commit") > Some(0.0) || retries("settle") > Some(0.0))
    })
    .await?;
    let password = &bench.database.login().password;
    let told = probe.get("/readyz").await?.text;
    assert!(!told.contains(password.as_str()), "{told}");
    postgres.server.start_again().await?;
    until_ready(&probe, 200, &["ok"]).await?;
    stop(producer).await?;
    stop(consumer).await
}

async fn broker_away(context: Context) -> Result<(), Failure> {
    let kafka = context.own_kafka(None).await?;
    let topic = kafka.broker().topic("transactions", 3).await?;
    let database = context.database().await?;
    let bootstrap = kafka.broker().bootstrap().to_owned();
    let bench = Bench::with(context, database, topic, bootstrap).await?;
    let (producer, sending) = probed(bench.traffic(50)).await?;
    let (consumer, reading) = probed(bench.consumer()).await?;
    bench.stored(50).await?;
    until_ready(&reading, 200, &["ok"]).await?;
    until_ready(&sending, 200, &["ok"]).await?;
    kafka.kill().await?;
    until_ready(&reading, 503, &["Kafka, for ", "no connection to the brokers"]).await?;
    until_ready(&sending, 503, &["Kafka, for ", "no delivery report"]).await?;
    kafka.start_again().await?;
    until_ready(&reading, 200, &["ok"]).await?;
    until_ready(&sending, 200, &["ok"]).await?;
    stop(producer).await?;
    stop(consumer).await
}

/// A port whose queued connections are never accepted, for as long as it is held.
fn nowhere() -> Result<(std::net::TcpListener, String), Failure> {
    let held = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = held.local_addr()?.port();
    Ok((held, port.to_string()))
}

async fn no_answer(context: Context) -> Result<(), Failure> {
    let (_held, port) = nowhere()?;
    let kafka = [("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{port}"))];
    let consumer = context.program(env!("CARGO_BIN_EXE_lambda-consumer")).envs(kafka.clone());
    let producer = context.program(env!("CARGO_BIN_EXE_lambda-producer-stream")).envs(kafka);
    let database = context.database().await?.environment();
    let (brokerless, reading) = probed(consumer.clone().envs(database.clone())).await?;
    let silent = consumer.envs(database).env("DB_HOST", "127.0.0.1").env("DB_PORT", port);
    let (baseless, storing) = probed(silent).await?;
    let (producer, sending) = probed(producer).await?;
    for _ in 0..2 {
        until_ready(&reading, 503, &["Kafka, for "]).await?;
        assert!(!reading.get("/readyz").await?.text.contains("PostgreSQL"));
        until_ready(&storing, 503, &["PostgreSQL, for ", "no answer", "the start, for "]).await?;
        until_ready(&sending, 503, &["Kafka, for "]).await?;
        // Longer than a loop may go without a pulse: these loops give pulses while they wait.
        tokio::time::sleep(STILL_AFTER).await;
    }
    for process in [brokerless, baseless, producer] {
        stop(process).await?;
    }
    Ok(())
}

async fn counts(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 3).await?;
    let (consumer, probe) = probed(bench.consumer()).await?;
    bench.holds_lanes(&consumer).await?;
    let scrape = probe.scrape().await?;
    assert_eq!(scrape.sum("lambda_records_total", &[]), Some(0.0));
    let ledger = bench.produce(10_000).await?;
    bench.stored(10_000).await?;
    let open = "select count(*) from dead_letters where status = 'open'";
    let (open, lanes) = (bench.number(open).await?, bench.read().await?);
    assert_eq!((open, lanes), (ledger.kinds().invalid, 10_000));
    let scrape = settled(&probe, open).await?;
    for outcome in ["inserted", "confirmed", "corrected", "superseded", "duplicate", "rejected"] {
        let sql = format!("select sum({outcome})::bigint from ingest_progress");
        let counted = scrape.sum("lambda_records_total", &[("outcome", outcome)]);
        assert_eq!(counted, Some(bench.number(&sql).await? as f64), "{outcome}");
    }
    assert_eq!(scrape.sum("lambda_batch_records_sum", &[]), Some(10_000.0));
    let batches = scrape.sum("lambda_batch_records_count", &[]);
    assert!(batches >= Some(1.0), "{batches:?}");
    assert_eq!(scrape.sum("lambda_commit_seconds_count", &[]), batches);
    // Each commit that inserted anything used one COPY.
    let copies = "select count(distinct written_xid) from transactions";
    let copies = Some(bench.number(copies).await? as f64);
    assert_eq!(scrape.sum("lambda_copy_seconds_count", &[]), copies);
    assert_eq!(scrape.sum("lambda_claims_total", &[]), Some(3.0));
    for partition in ["0", "1", "2"] {
        let lag = scrape.sum("lambda_lag_records", &[("partition", partition)]);
        assert_eq!(lag, Some(0.0), "partition {partition}");
    }
    stop(consumer).await
}

/// The metrics after lag and dead letters were measured again.
async fn settled(probe: &Probe, open: i64) -> Result<Scrape, Failure> {
    let mut last = Scrape::default();
    until(format!("{open} open dead letters and no lag are exported"), async || {
        last = probe.scrape().await?;
        Ok(last.sum("lambda_lag_records", &[]) == Some(0.0)
            && last.sum("lambda_dead_letters_open", &[]) == Some(open as f64))
    })
    .await?;
    Ok(last)
}

/// Waits until a metric reaches a value.
async fn until_counted(
    probe: &Probe,
    name: &str,
    labels: &[(&str, &str)],
    at_least: f64,
) -> Result<(), Failure> {
    until(format!("{name} {labels:?} is {at_least}"), async || {
        Ok(probe.scrape().await?.sum(name, labels) >= Some(at_least))
    })
    .await
}

async fn fences(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let (consumer, probe) = probed(bench.consumer()).await?;
    bench.produce(1_000).await?;
    bench.stored(1_000).await?;
    assert_eq!(probe.scrape().await?.sum("lambda_fences_total", &[]), Some(0.0));
    // Another process takes both lanes over and leaves them idle.
    bench.sql.batch_execute("update ingest_progress set claim = gen_random_uuid()").await?;
    bench.burst(8, 1_000).await?;
    until_counted(&probe, "lambda_fences_total", &[("pipeline", "transactions")], 2.0).await?;
    until_counted(&probe, "lambda_claims_total", &[("pipeline", "transactions")], 4.0).await?;
    bench.stored(2_000).await?;
    stop(consumer).await?;
    // A loader that froze inside a transaction blocks the next one.
    let frozen = connect(bench.database.config(), "stream").await?;
    // With the marker that a loader's session keeps.
    let mark = "select pg_advisory_lock_shared(1818324322, 1)";
    frozen.batch_execute(mark).await?;
    frozen.batch_execute("begin; select from ingest_progress for update").await?;
    let (consumer, probe) = probed(bench.consumer()).await?;
    let evicted = until_counted(&probe, "lambda_evictions_total", &[("kind", "blocker")], 1.0);
    evicted.await.map_err(|error| format!("{error}\n{}", consumer.stderr()))?;
    bench.holds_lanes(&consumer).await?;
    stop(consumer).await
}

/// A row of the table in `docs/metrics.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Documented {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    by: BTreeSet<String>,
}

fn documentation() -> Result<BTreeMap<String, Documented>, Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let names = |cell: &str| {
        let names = cell.split([' ', ',']).filter(|name| !name.is_empty());
        names.map(|name| name.trim_matches('`').to_owned()).collect::<BTreeSet<_>>()
    };
    let mut rows = BTreeMap::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [name, kind, unit, labels, by, help, _] = cells.as_slice()
            && let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'))
        {
            let base = name.strip_suffix("_total").unwrap_or(name);
            let unit_less = unit.is_empty() || ["records", "tries"].contains(unit);
            let in_name = unit_less || base.ends_with(unit) || ["lanes", "backends"].contains(unit);
            assert!(in_name, "{name} does not say that it is in {unit}");
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{name}");
            let row = Documented {
                kind: (*kind).to_owned(),
                help: (*help).to_owned(),
                labels: names(labels),
                by: names(by),
            };
            assert!(rows.insert(name.to_owned(), row).is_none(), "{name} is listed twice");
        }
    }
    Ok(rows)
}

/// The exported metrics in the documentation's terms; `by` is the binary's letter.
fn exported(scrape: &Scrape, by: &str) -> BTreeMap<String, Documented> {
    let mut rows = BTreeMap::new();
    for (series, labels) in scrape.values.keys() {
        let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            series.strip_suffix(suffix).filter(|name| scrape.metrics.contains_key(*name))
        });
        let name = suffix.unwrap_or(series);
        let (kind, help) = scrape.metrics.get(name).cloned().unwrap_or_default();
        let labels = labels.keys().filter(|label| *label != "le").cloned().collect();
        let by = [by.to_owned()].into();
        let row = Documented { kind, help, labels, by };
        let before = rows.insert(name.to_owned(), row.clone());
        assert!(before.is_none_or(|before| before == row), "{name} has other labels elsewhere");
    }
    rows
}

async fn documented(context: Context) -> Result<(), Failure> {
    let stream = Bench::new(context.clone(), 1).await?;
    let (consumer, consuming) = probed(stream.consumer()).await?;
    let (producer, producing) = probed(stream.traffic(100)).await?;
    stream.stored(10).await?;
    until_counted(&consuming, "lambda_lag_records", &[], 0.0).await?;
    until_counted(&consuming, "lambda_dead_letters_open", &[], 0.0).await?;

    let files = loads::Bench::new(context).await?;
    let path = files.file("rows.csv", loads::rows(100))?;
    // Blocks the only commit, so that the load is still running at the scrape.
    files.sql.batch_execute("begin").await?;
    loads::hold_id(&files.sql, 50).await?;
    let (load, loading) = probed(files.program(&[&path])).await?;
    until_counted(&loading, "lambda_job_status", &[("status", "running")], 1.0).await?;
    until_counted(&loading, "lambda_dead_letters_open", &[], 0.0).await?;
    let job = loading.scrape().await?;
    let of_job = |name| job.sum(name, &[("job_id", "BAT00001")]);
    assert_eq!(of_job("lambda_job_records"), Some(100.0));
    assert_eq!(of_job("lambda_job_stored_records"), Some(0.0));
    until_ready(&loading, 200, &["ok"]).await?;

    let mut all: BTreeMap<String, Documented> = BTreeMap::new();
    for (by, scrape) in
        [("C", consuming.scrape().await?), ("P", producing.scrape().await?), ("B", job)]
    {
        for (name, mut row) in exported(&scrape, by) {
            if let Some(before) = all.get(&name) {
                row.by.extend(before.by.iter().cloned());
            }
            all.insert(name, row);
        }
    }
    let documentation = documentation()?;
    assert!(!documentation.is_empty(), "the table is not found");
    let names = |rows: &BTreeMap<String, Documented>| rows.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&documentation), names(&all), "documented, exported");
    for (name, row) in &documentation {
        assert_eq!(Some(row), all.get(name), "{name}");
    }
    files.sql.batch_execute("rollback").await?;
    load.wait(DEADLINE).await?.expect_code(0)?;
    stop(producer).await?;
    stop(consumer).await
}

async fn bad_address(context: Context) -> Result<(), Failure> {
    let (_held, taken) = nowhere()?;
    let programs = [
        context.program(env!("CARGO_BIN_EXE_lambda-consumer")),
        context.program(env!("CARGO_BIN_EXE_lambda-producer-stream")),
        context.program(env!("CARGO_BIN_EXE_lambda-csv-batch")).arg("rows.csv"),
    ];
    for program in programs {
        for address in ["nonsense", "127.0.0.1:99999", &format!("127.0.0.1:{taken}")] {
            let ended = program.clone().env("HTTP_ADDR", address).run(DEADLINE).await?;
            let said = ended.expect_code(78)?.stderr;
            assert!(said.contains(&format!("could not listen on {address}")), "{said}");
            assert!(said.contains("set HTTP_ADDR to an address of this machine"), "{said}");
        }
    }
    Ok(())
}

/// CPU time of this thread so far, in seconds.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn paced(context: Context) -> Result<(), Failure> {
    const COUNT: u64 = 3_000;
    let topic = context.topic("transactions", 3).await?;
    let kafka = Kafka::new(&context.bootstrap().await?, &topic).group("group");
    let from = From::Traffic { seed: Some(7), duplicate_ratio: 0.0, invalid_ratio: 0.0 };
    let (ledger, health) = (None, Health::default());
    let config = ProduceConfig { kafka, from, rate: 1_000, count: Some(COUNT), ledger, health };
    let producing = tokio::task::spawn_blocking(move || {
        let before = cpu_seconds();
        produce(&config, &Stop::new()).map(|produced| (produced, cpu_seconds() - before))
    });
    let (produced, used) = producing.await??;
    assert_eq!(produced.delivered, COUNT);
    // The first message is due at once, the last one a millisecond before the third second.
    assert!(produced.seconds >= 2.999, "{produced}");
    // A thread that polls while it waits takes all three seconds.
    assert!(used < 1.0, "{used} s of CPU time: {produced}");
    Ok(())
}
