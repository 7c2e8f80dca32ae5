//! `lambda jobs`, as an operator uses it.

mod loads;

use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Process, Program, Signal};
use lambda_lab::proxy;

use loads::{Bench, DEADLINE, HEADER, row, rows};

/// Width of a table where there is no terminal.
const WIDTH: usize = 100;

/// Enough for several chunks.
const MANY: usize = 300_000;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(120);
        suite.postgres("jobs are listed in few columns, and one with all its counts", lists);
        suite.postgres("a job whose run died is shown as such", lease_ended);
        suite.postgres("a running job is watched to its end", watched);
        suite.plain(
            "a read of a server that refuses, hangs or has no address ends with one line",
            one_line,
        );
        suite.plain("a change says once that it waits for the database", one_notice);
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
    let one = json.run(DEADLINE).await?.expect_code(0)?.json("jobs")?;
    assert_eq!(one["jobs"][0]["job_id"], "BAT00001");
    assert_eq!(one["jobs"][0]["counts"]["rejected"], 1);
    let json = jobs(&bench).args(["--status", "completed", "--limit", "1", "--output", "json"]);
    let all = json.run(DEADLINE).await?.expect_code(0)?.json("jobs")?;
    assert_eq!(all["jobs"].as_array().map(Vec::len), Some(1));
    assert_eq!(all["jobs"][0]["job_id"], "BAT00002");

    let unknown = jobs(&bench).arg("BAT00077").run(DEADLINE).await?.expect_code(65)?;
    assert!(
        unknown.stderr.contains("pipeline transactions has no job BAT00077"),
        "{}",
        unknown.stderr
    );
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
    // There is nothing to wait for.
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
            tokio::time::sleep(Duration::from_millis(20)).await;
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

/// Commands that only read PostgreSQL, and one that only reads Kafka.
const OF_POSTGRES: [&[&str]; 4] =
    [&["jobs"], &["jobs", "BAT00001"], &["dead-letters", "list"], &["dead-letters", "show", "1"]];
const OF_KAFKA: &[&str] = &["topic", "ensure", "--partitions", "3", "--dry-run"];

/// Ends with 69 and a line on standard error that holds `says`, and no other.
async fn ends_with_one_line(process: Process, says: &[&str]) -> Result<(), Failure> {
    // Well below the minute that a change waits.
    let ended = process.wait(Duration::from_secs(40)).await?.expect_code(69)?;
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.starts_with("lambda: "), "{}", ended.stderr);
    for part in says {
        assert!(ended.stderr.contains(part), "{part} is not in {}", ended.stderr);
    }
    Ok(())
}

async fn one_line(context: Context) -> Result<(), Failure> {
    let silent = proxy::silent().await?.to_string();
    let lambda = context.program(env!("CARGO_BIN_EXE_lambda"));
    let lambda = lambda.envs([("DB_NAME", "bank"), ("DB_USER", "u")]);
    let at = |host: &str, port: &str, command: &[&str]| {
        let kafka = ("KAFKA_BOOTSTRAP_SERVERS", format!("{host}:{port}"));
        let database = [("DB_HOST", host), ("DB_PORT", port)];
        lambda.clone().envs(database).envs([kafka]).args(command)
    };
    let hurried = |program: Program| program.args(["--timeout", "2"]);
    let nowhere = "nowhere.invalid";
    let mut all = Vec::new();
    for command in OF_POSTGRES {
        let refused = at("127.0.0.1", "1", command);
        all.push((refused, vec!["PostgreSQL", "127.0.0.1:1/bank", "Connection refused"]));
        let hangs = hurried(at("127.0.0.1", &silent, command));
        all.push((hangs, vec!["PostgreSQL at 127.0.0.1:", "no answer within 2 s", "--timeout"]));
        all.push((at(nowhere, "5432", command), vec!["PostgreSQL", "nowhere.invalid:5432/bank"]));
    }
    let refused = at("127.0.0.1", "1", OF_KAFKA);
    all.push((refused, vec!["Kafka", "127.0.0.1:1", "Connection refused"]));
    let hangs = hurried(at("127.0.0.1", &silent, OF_KAFKA));
    all.push((hangs, vec!["Kafka at 127.0.0.1:", "no answer within 2 s", "--timeout"]));
    all.push((
        at("127.0.0.1", &silent, OF_KAFKA),
        vec!["Kafka", "127.0.0.1:", "no answer within 5s"],
    ));
    all.push((at(nowhere, "9092", OF_KAFKA), vec!["Kafka", "nowhere.invalid:9092", "resolve"]));
    let started: Vec<(Process, Vec<&str>)> = all
        .into_iter()
        .map(|(program, says)| Ok::<_, Failure>((program.start()?, says)))
        .collect::<Result<_, _>>()?;
    for (process, says) in started {
        ends_with_one_line(process, &says).await?;
    }
    Ok(())
}

async fn one_notice(context: Context) -> Result<(), Failure> {
    let lambda = context.program(env!("CARGO_BIN_EXE_lambda"));
    let lambda = lambda.envs([("DB_HOST", "127.0.0.1"), ("DB_PORT", "1")]);
    let lambda = lambda.envs([("DB_NAME", "bank"), ("DB_USER", "u")]);
    let changes: [&[&str]; 3] =
        [&["replay", "1"], &["discard", "1"], &["purge", "--older-than", "90d"]];
    for change in changes {
        let program = lambda.clone().arg("dead-letters").args(change).args(["--timeout", "2"]);
        let ended = program.run(DEADLINE).await?.expect_code(69)?;
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", ended.stderr);
        let notice = "waiting up to 2 s for PostgreSQL at 127.0.0.1:1/bank";
        assert!(lines[0].ends_with(notice) && lines[0].len() < 140, "{}", lines[0]);
        assert!(lines[1].contains("PostgreSQL is not reachable: 127.0.0.1:1/bank"), "{}", lines[1]);
    }
    Ok(())
}
