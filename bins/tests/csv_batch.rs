//! `lambda-csv-batch` end to end: the real binary, a real database, real signals.

mod loads;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Process, Signal};
use serde_json::Value;

use loads::{Bench, DEADLINE, HEADER, hold_id, row, rows};

const SAMPLE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/base/batch/sample/financial_transactions.csv");

/// Enough for several chunks, and for signals to arrive during the load.
const MANY: usize = 400_000;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(240);
        suite.postgres("the sample is loaded once, whatever its name and compression", sample);
        suite.postgres("a bad row is a dead letter with line, reason and bytes", bad_rows);
        suite.postgres("a misplaced quote costs its own record only", quotes);
        suite.postgres("a file whose first records are mostly bad is not loaded", mostly_bad);
        suite.postgres(
            "a file that is not such a CSV is refused and leaves nothing behind",
            refused,
        );
        suite.postgres("nothing to load is success, a missing file is not", nothing);
        suite.postgres("too many rejects fail the job, a higher limit completes it", limit);
        suite.plain("a dry run counts and needs no database", dry_run);
        suite.postgres("another --as-of for the same content is refused", as_of);
        suite.postgres("a loaded file is moved to the archive", archived);
        suite.postgres("a file changed while it is loaded completes nothing", changed);
        suite.postgres(
            "SIGTERM during a load leaves the job pending, the next run ends it",
            sigterm,
        );
        suite.postgres("SIGTERM while a commit waits ends with 75", sigterm_blocked);
        suite.postgres(
            "a load killed at three random moments still stores each record once",
            sigkill,
        );
        suite.postgres("a frozen run is taken over, and does no harm when it wakes", frozen);
        suite.postgres("two runs of one file at once load it once", two_at_once);
    })
}

async fn sample(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let first = bench.load(Path::new(SAMPLE), &[], 0).await?;
    assert_eq!(first["outcome"], "loaded");
    assert_eq!(first["job"]["job_id"], "BAT00001");
    bench.is_exact(30).await?;

    let text = fs::read(SAMPLE)?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text)?;
    let again = [
        bench.file("other name.csv", &text)?,
        bench.file("zipped.csv.gz", gzip.finish()?)?,
        bench.file("zipped.csv.zst", zstd::encode_all(&text[..], 1)?)?,
        PathBuf::from(SAMPLE),
    ];
    // A row that was written again has the id of another transaction.
    let written = "select sum(xmin::text::bigint)::bigint from \
                   (select xmin from lambda.batch_jobs union all select xmin from ingest_progress) t";
    let before = bench.number(written).await?;
    for path in again {
        let second = bench.load(&path, &[], 0).await?;
        assert_eq!(second["outcome"], "already_loaded", "{}", path.display());
        assert_eq!(second["job"]["job_id"], "BAT00001");
    }
    assert_eq!(bench.number(written).await?, before, "the job and its lanes are untouched");
    bench.is_exact(30).await
}

async fn bad_rows(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let bad = "TXN-bad,ACC-1,purchase,\"1\n.2.3\",2025-06-19 10:00:00,,,,";
    let text = format!("{HEADER}{}{bad}\r\n{}TXN-short,ACC-1\n", row(1), row(2));
    let path = bench.file("a.csv", &text)?;
    let rejects = bench.folder.join("rejects");
    let flags = ["--rejects", &rejects.display().to_string()];
    let report = bench.load(&path, &flags, 0).await?;
    assert_eq!(report["job"]["counts"]["inserted"], 2);
    assert_eq!(report["job"]["counts"]["rejected"], 2);

    let sql = "select line, position, payload, reason, job_id from dead_letters order by position";
    let found = bench.sql.query(sql, &[]).await?;
    let found: Vec<(i64, i64, Vec<u8>, String, String)> = found
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect();
    let at = |part: &str| text.find(part).map_or(-1, |at| at as i64);
    let job = "BAT00001".to_owned();
    let expected = [
        (3, at("TXN-bad"), bad.into(), "invalid_field".into(), job.clone()),
        (6, at("TXN-short"), "TXN-short,ACC-1".into(), "ragged_row".into(), job),
    ];
    assert_eq!(found, expected);

    let mut reader = csv::Reader::from_path(rejects)?;
    let listed: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
    let column = |index: usize| listed.iter().map(|row| row[index].to_owned()).collect::<Vec<_>>();
    assert_eq!(column(0), [path.display().to_string(), path.display().to_string()]);
    assert_eq!(column(1), ["3", "6"]);
    assert_eq!(column(3), ["invalid_field", "ragged_row"]);
    assert_eq!(column(5), [bad, "TXN-short,ACC-1"]);
    Ok(())
}

async fn quotes(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let at = |number: usize, location: &str| row(number).replace("\"Paris, FR\"", location);
    // A lenient reader would take the second and third row as one, and store the fourth as
    // `Joe\s Bar"`.
    let bad = [at(2, "\"Memphis"), at(4, "\"Joe\\\"s Bar\""), at(5, "5\" pipe")];
    let good = [row(1), at(3, "\"Paris\""), row(6)];
    let text = [HEADER, &good[0], &bad[0], &good[1], &bad[1], &bad[2], &good[2]].concat();
    let report = bench.load(&bench.file("a.csv", &text)?, &[], 0).await?;
    assert_eq!(report["job"]["counts"]["read"], 6);
    assert_eq!(report["job"]["counts"]["inserted"], 3);
    assert_eq!(report["job"]["counts"]["rejected"], 3);

    let column = at(2, "|").find('|').map_or(0, |at| at + 1);
    let expected = [
        (3, column, "the quote that opens here is not closed"),
        (5, column + 6, "expected a delimiter or the line's end after a closing quote"),
        (6, column + 1, "a quote in a field that does not begin with one"),
    ];
    let sql = "select line, reason, detail, payload from dead_letters order by position";
    let found = bench.sql.query(sql, &[]).await?;
    assert_eq!(found.len(), expected.len());
    for ((found, bad), (line, column, why)) in found.iter().zip(&bad).zip(expected) {
        assert_eq!(found.get::<_, i64>(0), line);
        assert_eq!(found.get::<_, &str>(1), "invalid_csv");
        assert_eq!(found.get::<_, &str>(2), format!("line {line} column {column}: {why}"));
        assert_eq!(found.get::<_, &[u8]>(3), bad.trim_end().as_bytes());
    }
    let stored = "select string_agg(location, '|' order by transaction_id) from transactions";
    let stored: String = bench.sql.query_one(stored, &[]).await?.try_get(0)?;
    assert_eq!(stored, "Paris, FR|Paris|Paris, FR");
    Ok(())
}

async fn mostly_bad(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let archive = bench.folder.join("archive").display().to_string();
    let good = |from, count| (from..from + count).map(row).collect::<String>();
    let bad = "short,row\n";
    // More bad records follow, which do not stop the load.
    let half = HEADER.to_owned() + &good(0, 500) + &bad.repeat(2_000);
    let report = bench.load(&bench.file("half.csv", half)?, &[], 0).await?;
    assert_eq!(report["job"]["counts"]["rejected"], 2_000);

    let letters = "select count(*) from dead_letters";
    let more = [HEADER, &bad.repeat(501), &good(500, 30_000)].concat();
    let few = [HEADER, &good(40_000, 1), &bad.repeat(2)].concat();
    for (name, text, says, stored) in [
        ("more.csv", more, "501 of the first 1000 records", 30_000),
        ("few.csv", few, "2 of the first 3 records", 1),
    ] {
        let (path, before) = (bench.file(name, text)?, bench.number(letters).await?);
        for flags in [&["--archive", &archive][..], &["--archive", &archive], &["--dry-run"]] {
            let report = bench.load(&path, flags, 65).await?;
            let error = report["error"].as_str().unwrap_or_default();
            assert!(error.contains(says) && error.contains("--max-rejects"), "{error}");
            assert!(error.contains("expected 9 fields, found 2"), "{error}");
            if flags[0] == "--archive" {
                assert_eq!(report["job"]["status"], "failed");
                assert_eq!(report["job"]["counts"]["read"], 0);
            }
        }
        assert!(path.exists(), "{name} was archived");
        assert_eq!(bench.number(letters).await?, before);
        let report = bench.load(&path, &["--max-rejects", "501", "--archive", &archive], 0).await?;
        assert_eq!(report["job"]["status"], "completed");
        assert_eq!(report["job"]["attempt"], 3);
        assert_eq!(report["job"]["counts"]["inserted"], stored);
        assert!(!path.exists());
    }
    Ok(())
}

async fn refused(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let mut endless = format!("{HEADER}{}TXN-2,\"open\n", row(1));
    endless.extend(std::iter::repeat_n("x\n", 3 << 20));
    let mut truncated = zstd::encode_all(rows(100).as_bytes(), 1)?;
    truncated.truncate(truncated.len() - 5);
    let files = [
        ("columns.csv", b"transaction_id,account_id\n1,2\n".to_vec(), "transaction_type"),
        ("endless.csv", endless.into_bytes(), "line 3"),
        ("truncated.csv.zst", truncated, "byte"),
        ("plain.csv.gz", rows(1).into_bytes(), "gz"),
    ];
    for (name, bytes, says) in files {
        let report = bench.load(&bench.file(name, bytes)?, &[], 65).await?;
        let error = report["error"].as_str().unwrap_or_default();
        assert!(error.contains(says), "{name}: {error}");
    }
    bench.is_empty().await
}

async fn nothing(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    bench.file("unfinished.csv.part", rows(1))?;
    bench.program(&[&bench.folder]).run(DEADLINE).await?.expect_code(0)?;
    bench.program(&[&bench.folder.join("missing.csv")]).run(DEADLINE).await?.expect_code(78)?;
    bench.is_empty().await?;
    let only_header = bench.file("header.csv", HEADER)?;
    let report = bench.load(&only_header, &[], 0).await?;
    assert_eq!(report["job"]["status"], "completed");
    let human = bench.human(&[&only_header]);
    let said = human.run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(said.contains("already loaded by job BAT00001"), "{said}");
    // Standard input counts like any file, and the worst file decides the code.
    let path = bench.file("stdin.csv", rows(3))?;
    let bad = bench.file("bad.csv", "no,columns\n")?;
    let program = bench.program(&[&bad, Path::new("-")]).input(path);
    program.run(DEADLINE).await?.expect_code(65)?;
    assert_eq!(bench.number("select count(*) from transactions").await?, 3);
    Ok(())
}

async fn limit(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(50_000) + &"short,row\n".repeat(3))?;
    let report = bench.load(&path, &["--max-rejects", "2"], 65).await?;
    assert_eq!(report["job"]["status"], "failed");
    assert_eq!(report["job"]["counts"]["rejected"], 3);
    let human = bench.human(&[&path]).args(["--max-rejects", "2"]);
    let ended = human.run(DEADLINE).await?.expect_code(65)?;
    // Printed once, not in the log or the summary as well.
    let said = format!("{}{}", ended.stdout, ended.stderr);
    let expected = format!(
        "lambda-csv-batch: {}: job BAT00001 failed: 3 of 50003 records rejected, limit 2. \
         Stored rows stay; run again with a higher --max-rejects to finish.\n",
        path.display()
    );
    assert!(ended.stderr.ends_with(&expected), "{}", ended.stderr);
    assert_eq!(said.matches("rejected, limit").count(), 1, "{said}");
    let stored = bench.number("select count(*) from transactions").await?;
    assert_eq!(stored, 50_000, "what was stored stays");
    // The limit applies to the job, not to a single run.
    bench.load(&path, &["--max-rejects", "2"], 65).await?;
    let report = bench.load(&path, &["--max-rejects", "3"], 0).await?;
    assert_eq!(report["job"]["status"], "completed");
    assert_eq!(report["job"]["attempt"], 4);
    assert_eq!(report["job"]["counts"]["inserted"], 50_000);
    Ok(())
}

async fn dry_run(context: Context) -> Result<(), Failure> {
    let folder = context.folder()?;
    let (path, rejects) = (folder.join("a.csv"), folder.join("rejects"));
    fs::write(&path, rows(1_000) + "short,row\n")?;
    let program = context
        .program(env!("CARGO_BIN_EXE_lambda-csv-batch"))
        .args(["--output", "json", "--dry-run", "--rejects"])
        .args([&rejects, &path]);
    let ended = program.run(DEADLINE).await?.expect_code(0)?;
    let summary: Value = serde_json::from_str(&ended.stdout)?;
    assert_eq!(summary["files"][0]["counts"]["read"], 1_001);
    assert_eq!(summary["files"][0]["counts"]["rejected"], 1);
    assert!(fs::read_to_string(rejects)?.contains(",1002,"));
    program.arg("--max-rejects=0").run(DEADLINE).await?.expect_code(65)?;
    Ok(())
}

async fn as_of(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(2))?;
    let report = bench.load(&path, &["--as-of", "2025-06-19T02:00:00+02:00"], 0).await?;
    assert_eq!(report["job"]["as_of"], "2025-06-19T00:00:00Z");
    bench.load(&path, &["--as-of", "2025-06-19 00:00:00"], 0).await?;
    bench.load(&path, &[], 0).await?;
    bench.load(&path, &["--as-of", "2025-06-20 00:00:00"], 78).await?;
    bench.is_exact(2).await
}

async fn archived(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let archive = bench.folder.join("archive");
    let flags = ["--archive", &archive.display().to_string()];
    for name in ["a.csv", "again.csv"] {
        let path = bench.file(name, rows(5))?;
        bench.load(&path, &flags, 0).await?;
        assert!(!path.exists());
        assert!(archive.join(name).exists());
    }
    let bad = bench.file("bad.csv", "no,columns\n")?;
    bench.load(&bad, &flags, 65).await?;
    assert!(bad.exists());
    bench.is_exact(5).await
}

async fn changed(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(MANY))?;
    let process = bench.program(&[&path]).start()?;
    bench.wait_for_progress().await?;
    fs::OpenOptions::new().append(true).open(&path)?.write_all(row(MANY).as_bytes())?;
    let ended = process.wait(DEADLINE).await?.expect_code(75)?;
    assert!(ended.stderr.contains("changed"), "{}", ended.stderr);
    let completed = "select count(*) from batch_jobs where status = 'completed'";
    assert_eq!(bench.number(completed).await?, 0);
    Ok(())
}

async fn sigterm(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(MANY))?;
    let process = bench.program(&[&path]).start()?;
    bench.wait_for_progress().await?;
    process.signal(Signal::TERM)?;
    process.wait(DEADLINE).await?.expect_code(75)?;
    let job = "select status, lease_until is null as released, read from batch_jobs";
    let row = bench.sql.query_one(job, &[]).await?;
    assert_eq!(row.try_get::<_, &str>("status")?, "pending");
    assert!(row.try_get::<_, bool>("released")?);
    let stored: i64 = row.try_get("read")?;
    assert!(stored > 0 && stored < MANY as i64, "stopped half-way: {stored}");
    assert_eq!(bench.number("select count(*) from transactions").await?, stored);
    let report = bench.load(&path, &["--workers", "3"], 0).await?;
    assert_eq!(report["job"]["attempt"], 2);
    bench.is_exact(MANY).await
}

async fn sigterm_blocked(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(100))?;
    let holder = bench.database.connect().await?;
    holder.batch_execute("begin").await?;
    hold_id(&holder, 50).await?;
    let process = bench.program(&[&path]).start()?;
    bench.until_blocked("batch").await?;
    process.signal(Signal::TERM)?;
    // The server accepts connections but does not answer, so it is not unreachable.
    let ended = process.wait(DEADLINE).await?.expect_code(75)?;
    let said = ended.stderr.contains("stopped before the commit in flight finished");
    assert!(said, "{}", ended.stderr);
    bench.until("select status = 'pending' from batch_jobs").await?;
    holder.batch_execute("rollback").await?;
    bench.load(&path, &[], 0).await?;
    bench.is_exact(100).await
}

async fn sigkill(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(MANY))?;
    let read = "select coalesce(sum(read), 0)::bigint from ingest_progress";
    let mut before = 0;
    for workers in ["1", "3", "2"] {
        let mut process = bench.program(&[&path]).args(["--workers", workers]).start()?;
        // At a random moment after its first commit.
        while bench.number(read).await? == before && !process.has_ended()? {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..150))).await;
        process.kill().await?;
        let stored = bench.number("select count(*) from transactions").await?;
        assert!(stored > before && stored < MANY as i64, "{before}, then {stored} rows");
        before = stored;
        bench.end_lease().await?;
    }
    let report = bench.load(&path, &["--workers", "4"], 0).await?;
    assert_eq!(report["job"]["attempt"], 4);
    bench.is_exact(MANY).await
}

async fn frozen(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(MANY))?;
    let process = bench.program(&[&path]).start()?;
    freeze_inside_copy(&bench, &process).await?;
    // The test ends no lease here: the next run waits for it.
    let report = bench.load(&path, &[], 0).await?;
    assert_eq!(report["job"]["attempt"], 2);
    bench.is_exact(MANY).await?;
    process.thaw()?;
    process.wait(DEADLINE).await?.expect_code(75)?;
    bench.is_exact(MANY).await
}

/// Freezes a loader when one of its backends waits for more rows.
async fn freeze_inside_copy(bench: &Bench, process: &Process) -> Result<(), Failure> {
    let inside = "select count(*) from pg_stat_activity where datname = current_database() \
                  and application_name = 'lambda-batch' and state = 'active' \
                  and query ilike 'copy %' and wait_event = 'ClientRead'";
    bench.wait_for_progress().await?;
    for _ in 0..500 {
        process.freeze().await?;
        // By then, data in transit has arrived.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if bench.number(inside).await? > 0 {
            return Ok(());
        }
        process.thaw()?;
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    Err("the loader was never caught inside COPY".into())
}

async fn two_at_once(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(MANY / 2))?;
    let program = bench.program(&[&path]);
    let (first, second) = (program.start()?, program.start()?);
    let (first, second) = (first.wait(DEADLINE).await?, second.wait(DEADLINE).await?);
    let (first, second) = (first.expect_code(0)?, second.expect_code(0)?);
    let outcomes = first.stdout + &second.stdout;
    assert!(outcomes.contains("\"outcome\":\"loaded\""), "{outcomes}");
    assert!(outcomes.contains("\"outcome\":\"already_loaded\""), "{outcomes}");
    bench.is_exact(MANY / 2).await
}
