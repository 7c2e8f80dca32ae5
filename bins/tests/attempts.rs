//! Concurrent runs of one content, and their job: the real binary, a real database, real
//! signals (rules R21 to R23 in docs/protocol.md).

mod loads;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Process, Signal};
use serde_json::Value;

use loads::{Bench, DEADLINE, HEADER, all_but_the_end, gzip, hold_id, rows, zstandard};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.plain("a stopped run waits for no server", no_server);
        suite.plain("a stopped run waits for no dead server either", dead_server);
        suite.postgres("one content under three names at once is loaded once", three_at_once);
        suite.postgres("fifty starts of one file at once are one load of one job", fifty);
        suite.postgres("a run that wakes after its job was completed changes nothing", woken);
        suite.postgres("a run that wakes leaves its job to the run that took it over", woken_early);
        suite.postgres(
            "after a restore a run leaves a job with its own attempt number alone",
            restored,
        );
        suite.postgres("a job taken over just before its end is not completed twice", at_the_end);
        suite.postgres("a job whose database lost commits is released", rewound);
        suite.postgres("job 100000 comes after job 99999", number_100000);
        suite.plain("no number is skipped by a crash or given twice after a delete", numbers);
    })
}

async fn no_server(context: Context) -> Result<(), Failure> {
    let path = context.folder()?.join("a.csv");
    fs::write(&path, rows(10))?;
    let nowhere = [("DB_HOST", "127.0.0.1"), ("DB_PORT", "1"), ("DB_NAME", "n"), ("DB_USER", "u")];
    let program = context.program(env!("CARGO_BIN_EXE_lambda-csv-batch"));
    let mut process = program.envs(nowhere).arg(&path).start()?;
    process.says("waiting for PostgreSQL", DEADLINE).await?;
    process.signal(Signal::TERM)?;
    process.wait(DEADLINE).await?.expect_code(75)?;
    Ok(())
}

/// Kubernetes gives a process 30 s; a job that is not ended by then is ended by its lease.
async fn dead_server(context: Context) -> Result<(), Failure> {
    let mut own = context.own_postgres(&[]).await?;
    let bench = Bench::on(context, own.database().await?).await?;
    let path = bench.file("a.csv", rows(100_000))?;
    let holder = bench.database.connect().await?;
    holder.batch_execute("begin").await?;
    hold_id(&holder, 2).await?;
    let mut process = bench.program(&[&path]).start()?;
    bench.until_blocked("batch").await?;
    own.server.kill()?;
    process.says("a commit failed; retrying", DEADLINE).await?;
    process.signal(Signal::TERM)?;
    let ended = process.wait(Duration::from_secs(30)).await?;
    assert!(matches!(ended.code(), Some(69 | 75)), "{:?}:\n{}", ended.code(), ended.stderr);
    // The server did not answer, so the report has no status of the job.
    let job = &ended.json("files")?["files"][0]["job"];
    assert_eq!((&job["job_id"], &job["status"]), (&"BAT00001".into(), &Value::Null), "{job}");
    own.server.start_again().await?;
    let bench = Bench { sql: bench.database.connect().await?, ..bench };
    bench.end_lease().await?;
    bench.load(&path, &[], 0).await?;
    bench.is_exact(100_000).await
}

async fn three_at_once(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let text = rows(120_000);
    let runs = [
        bench.file("a.csv", &text)?,
        bench.file("b.gz", gzip(text.as_bytes())?)?,
        bench.file("c.zst", zstandard(text.as_bytes())?)?,
    ]
    .map(|path| bench.program(&[&path]).start());
    let mut outcomes = Vec::new();
    for run in runs {
        let ended = run?.wait(DEADLINE).await?.expect_code(0)?;
        let summary: Value = serde_json::from_str(&ended.stdout)?;
        outcomes.push(summary["files"][0]["outcome"].as_str().unwrap_or_default().to_owned());
    }
    outcomes.sort();
    assert_eq!(outcomes, ["already_loaded", "already_loaded", "loaded"]);
    bench.is_exact(120_000).await
}

async fn fifty(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(500))?;
    let program = bench.program(&[&path]).args(["--workers", "1"]);
    // All have looked for the job and found none before the first can create it.
    let blocker = bench.database.connect().await?;
    blocker.batch_execute("begin; lock table batch_jobs in exclusive mode").await?;
    let runs: Vec<Process> = (0..50).map(|_| program.start()).collect::<Result<_, _>>()?;
    let all = "select count(*) = 50 from pg_stat_activity where datname = current_database() \
               and application_name = 'lambda-job' and wait_event_type = 'Lock'";
    bench.until(all).await?;
    blocker.batch_execute("commit").await?;
    let mut loads = 0;
    for run in runs {
        let ended = run.wait(DEADLINE).await?;
        assert!(matches!(ended.code(), Some(0 | 75)), "{:?}:\n{}", ended.code(), ended.stderr);
        loads += i32::from(ended.stdout.contains("\"outcome\":\"loaded\""));
    }
    assert_eq!(loads, 1);
    bench.is_exact(500).await?;
    assert_eq!(bench.number("select attempt::bigint from batch_jobs").await?, 1);
    let report = bench.load(&bench.file("b.csv", rows(1))?, &[], 0).await?;
    assert_eq!(report["job"]["job_id"], "BAT00002", "a number was burnt");
    Ok(())
}

async fn woken(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(200_000) + "short,row\n")?;
    let frozen = bench.program(&[&path]).start()?;
    bench.wait_for_progress().await?;
    frozen.freeze().await?;
    bench.end_lease().await?;
    let report = bench.load(&path, &[], 0).await?;
    assert_eq!(report["job"]["attempt"], 2);
    assert_eq!(report["job"]["counts"]["read"], 200_001);
    assert_eq!(report["job"]["counts"]["inserted"], 200_000);
    let before = bench.everything().await?;
    frozen.thaw()?;
    let ended = frozen.wait(DEADLINE).await?.expect_code(75)?;
    assert!(ended.stderr.contains("another process holds"), "{}", ended.stderr);
    assert_eq!(bench.everything().await?, before);
    Ok(())
}

/// Like [`woken`], while the other run is still loading.
async fn woken_early(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(200_000))?;
    let frozen = bench.program(&[&path]).start()?;
    bench.wait_for_progress().await?;
    frozen.freeze().await?;
    let sessions = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                    where datname = current_database() and application_name = 'lambda-batch'";
    bench.sql.query(sessions, &[]).await?;
    let take_over = "update batch_jobs set attempt = 2, owner = 'another', \
                            lease_until = now() + interval '1 hour'; \
                     update ingest_progress set claim = gen_random_uuid(), owner = 'another'";
    bench.sql.batch_execute(take_over).await?;
    let before = bench.everything().await?;
    frozen.thaw()?;
    frozen.wait(DEADLINE).await?.expect_code(75)?;
    assert_eq!(bench.everything().await?, before);
    bench.end_lease().await?;
    let report = bench.load(&path, &[], 0).await?;
    assert_eq!(report["job"]["attempt"], 3);
    bench.is_exact(200_000).await
}

/// The database went back to before this run's start, and then another run started the job:
/// both have attempt number 1.
async fn restored(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(200_000))?;
    let old = bench.program(&[&path]).start()?;
    bench.wait_for_progress().await?;
    old.freeze().await?;
    let sessions = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                    where datname = current_database() and application_name like 'lambda-%' \
                      and pid <> pg_backend_pid() and application_name <> 'lambda-lab'";
    bench.sql.query(sessions, &[]).await?;
    let another = "update batch_jobs set owner = 'another', lease_until = now() + interval '1 hour'; \
                   update ingest_progress set claim = gen_random_uuid(), owner = 'another'";
    bench.sql.batch_execute(another).await?;
    assert_eq!(bench.number("select attempt::bigint from batch_jobs").await?, 1);
    let before = bench.everything().await?;
    old.thaw()?;
    old.wait(DEADLINE).await?.expect_code(75)?;
    assert_eq!(bench.everything().await?, before);
    bench.end_lease().await?;
    bench.load(&path, &[], 0).await?;
    bench.is_exact(200_000).await
}

/// Everything is stored and only the end of the job remains to be written when another run
/// takes the job over.
async fn at_the_end(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(100_000))?;
    let (process, holder) = all_but_the_end(&bench, &path, &[]).await?;
    let other = "update batch_jobs set attempt = attempt + 1, owner = 'another', lease_until = null, \
                 status = 'completed', finished_at = now(), read = 100000, inserted = 100000; commit";
    holder.batch_execute(other).await?;
    let before = bench.everything().await?;
    process.wait(DEADLINE).await?.expect_code(75)?;
    assert_eq!(bench.everything().await?, before);
    bench.is_exact(100_000).await
}

/// As after a crash or a failover that lost commits that were not durable: a chunk's
/// position and rows are those of before, under the same claim.
async fn rewound(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(200_000))?;
    let process = bench.program(&[&path]).args(["--workers", "1"]).start()?;
    bench.wait_for_progress().await?;
    process.freeze().await?;
    let ended = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                 where datname = current_database() and application_name = 'lambda-batch'";
    bench.sql.query(ended, &[]).await?;
    let first = i64::try_from(HEADER.len())?;
    let lose = format!(
        "delete from transactions; update ingest_progress set read = 0, inserted = 0, written = 0, \
         owned = 0, position = {first} where partition = 0"
    );
    bench.sql.batch_execute(&lose).await?;
    process.thaw()?;
    let ended = process.wait(DEADLINE).await?.expect_code(75)?;
    // The run's own report.
    let summary: Value = serde_json::from_str(&ended.stdout)?;
    let error = summary["files"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("the database lost commits"), "{summary}");
    let job =
        "select status = 'pending' and lease_until is null and error is not null from batch_jobs";
    assert!(bench.sql.query_one(job, &[]).await?.try_get::<_, bool>(0)?);
    bench.load(&path, &[], 0).await?;
    bench.is_exact(200_000).await
}

async fn number_100000(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    bench.sql.batch_execute("update job_numbers set last = 99998").await?;
    let as_of = ["--as-of", "2025-06-19 00:00:00"];
    let amounts = ["1.00", "2.00", "3.00"];
    for (amount, job_id) in amounts.iter().zip(["BAT99999", "BAT100000", "BAT100001"]) {
        let text = format!("{HEADER}TXN-1,ACC-1,purchase,{amount},2025-06-19 10:00:00,,,,\n");
        let report = bench.load(&bench.file("a.csv", text)?, &as_of, 0).await?;
        assert_eq!(report["job"]["job_id"], job_id);
    }
    // All have the same effective time, so the number decides: as text, 100000 is less.
    let row = bench.sql.query_one("select job_id, amount::text from transactions", &[]).await?;
    assert_eq!(row.try_get::<_, &str>(0)?, "BAT100001");
    assert_eq!(row.try_get::<_, &str>(1)?, "3.00");
    let corrections = "select string_agg(job_id, ' ' order by id) from corrections";
    let corrections = bench.sql.query_one(corrections, &[]).await?;
    assert_eq!(corrections.try_get::<_, &str>(0)?, "BAT100000 BAT100001");
    let lambda = bench.context.program(env!("CARGO_BIN_EXE_lambda"));
    let lambda = lambda.envs(bench.database.environment()).arg("jobs");
    let listed = lambda.run(DEADLINE).await?.expect_code(0)?.stdout;
    let at = |job_id| listed.find(job_id).ok_or(format!("{job_id} is not in\n{listed}"));
    assert!(at("BAT100001")? < at("BAT100000")? && at("BAT100000")? < at("BAT99999")?);
    Ok(())
}

async fn numbers(context: Context) -> Result<(), Failure> {
    let mut own = context.own_postgres(&[]).await?;
    let bench = Bench::on(context, own.database().await?).await?;
    let loaded = async |bench: &Bench, name: &str, count: usize| {
        let report = bench.load(&bench.file(name, rows(count))?, &[], 0).await?;
        Ok::<_, Failure>(report["job"]["job_id"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(loaded(&bench, "a.csv", 1).await?, "BAT00001");
    own.server.kill()?;
    own.server.start_again().await?;
    let bench = Bench { sql: bench.database.connect().await?, ..bench };
    assert_eq!(loaded(&bench, "b.csv", 2).await?, "BAT00002");
    bench.sql.batch_execute("delete from batch_jobs where id = 2").await?;
    bench.sql.batch_execute("delete from ingest_progress; delete from transactions").await?;
    assert_eq!(loaded(&bench, "c.csv", 3).await?, "BAT00003");
    Ok(())
}
