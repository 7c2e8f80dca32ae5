//! `lambda jobs`, as an operator uses it.

mod loads;

use std::process::ExitCode;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Program, Signal};
use serde_json::Value;

use loads::{Bench, DEADLINE, HEADER, row, rows};

/// Columns that a table may be wide where there is no terminal.
const WIDTH: usize = 100;

/// Enough for several chunks.
const MANY: usize = 300_000;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(120);
        suite.postgres("jobs are listed in few columns, and one with all its counts", lists);
        suite.postgres("a job whose run died is seen as such", lease_ended);
        suite.postgres("a running job is watched to its end", watched);
    })
}

fn jobs(bench: &Bench) -> Program {
    let lambda = bench.context.program(env!("CARGO_BIN_EXE_lambda"));
    lambda.envs(bench.database.environment()).arg("jobs")
}

async fn lists(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let text = format!("{HEADER}{}{}short,row\n", row(1), row(2));
    let name = "a-file-with-a-name-that-is-long-enough-to-be-wrapped-in-any-table.csv";
    bench.load(&bench.file(name, text)?, &[], 0).await?;
    bench.load(&bench.file("b.csv", rows(5))?, &["--max-rejects", "0"], 0).await?;
    let human = jobs(&bench).run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(human.lines().all(|line| line.chars().count() <= WIDTH), "{human}");
    let second = human.find("BAT00002").ok_or("BAT00002 is not listed")?;
    assert!(human.find("BAT00001").is_some_and(|first| second < first), "{human}");
    assert!(human.contains("completed"), "{human}");

    let one = jobs(&bench).arg("BAT00001").run(DEADLINE).await?.expect_code(0)?.stdout;
    for part in [name, "3 of 3 stored, 100%", "inserted    2", "rejected    1", "SHA-256 "] {
        assert!(one.contains(part), "{part} is not in\n{one}");
    }
    let json = jobs(&bench).args(["1", "--output", "json"]);
    let one: Value = serde_json::from_str(&json.run(DEADLINE).await?.expect_code(0)?.stdout)?;
    assert_eq!(one["job_id"], "BAT00001");
    assert_eq!(one["counts"]["rejected"], 1);
    let json = jobs(&bench).args(["--status", "completed", "--limit", "1", "--output", "json"]);
    let all: Value = serde_json::from_str(&json.run(DEADLINE).await?.expect_code(0)?.stdout)?;
    assert_eq!(all.as_array().map(Vec::len), Some(1));
    assert_eq!(all[0]["job_id"], "BAT00002");

    let unknown = jobs(&bench).arg("BAT00077").run(DEADLINE).await?.expect_code(65)?;
    assert!(unknown.stderr.contains("there is no job BAT00077"), "{}", unknown.stderr);
    jobs(&bench).arg("JOB1").run(DEADLINE).await?.expect_code(2)?;
    jobs(&bench).args(["1", "--limit", "3"]).run(DEADLINE).await?.expect_code(2)?;
    Ok(())
}

async fn lease_ended(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(MANY))?;
    let process = bench.program(&[&path]).start()?;
    bench.wait_for_progress().await?;
    let running = jobs(&bench).arg("1").run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(running.contains("status      running\n"), "{running}");
    process.kill().await?;
    bench.end_lease().await?;
    let dead = jobs(&bench).arg("1").run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(dead.contains("running (lease ended)"), "{dead}");
    let listed = jobs(&bench).run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(listed.contains("running ") && listed.contains("its lease ended"), "{listed}");
    // Nothing is to be waited for.
    jobs(&bench).arg("--watch").run(DEADLINE).await?.expect_code(0)?;
    Ok(())
}

async fn watched(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(MANY))?;
    let process = bench.program(&[&path]).start()?;
    bench.wait_for_progress().await?;
    process.freeze().await?;
    let watching = jobs(&bench).args(["1", "--watch"]).start()?;
    let other = jobs(&bench).arg("--watch").start()?;
    let said = async {
        while [&watching, &other].iter().any(|process| !process.stdout().contains("BAT00001 ")) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, said).await.map_err(|_| "nothing was said")?;
    other.signal(Signal::INT)?;
    other.wait(DEADLINE).await?.expect_code(0)?;
    process.thaw()?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    let ended = watching.wait(DEADLINE).await?.expect_code(0)?;
    let first = ended.stdout.lines().next().unwrap_or_default();
    assert!(first.contains(&format!("of {MANY} records, 0 rejected")), "{first}");
    assert!(ended.stdout.contains("status      completed"), "{}", ended.stdout);
    bench.is_exact(MANY).await
}
