//! `lambda dead-letters`, as an operator uses it: the real binaries, a real database.

mod loads;
mod support;

use std::process::ExitCode;

use lambda_core::postgres::{Connection, connect};
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Ended, Process, Program, Signal};
use lambda_lab::servers::Database;
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

use loads::{Bench, DEADLINE, HEADER, row};

/// Width of a table where there is no terminal.
const WIDTH: usize = 100;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(120);
        suite.postgres("dead letters are listed by their properties", lists);
        suite.postgres("a dead letter is shown with its key and payload", shows);
        suite.postgres("a dead letter is corrected, replayed and counted again", mends);
        suite.postgres(
            "records that are still bad stay and are reported, a dry run changes nothing",
            replays,
        );
        suite.postgres("dead letters are discarded and purged, their counts stay", puts_away);
        suite.postgres("several dead letters are changed only on request", asks);
        suite.postgres("readers list and loaders do not, the owner does the rest", rights);
        suite.postgres(
            "SIGTERM during a replay reports what is replayed, the next does the rest",
            sigterm,
        );
        suite.postgres("a loader gets the lanes of a replay that is frozen", frozen);
        suite.kafka("messages are replayed beside a running consumer", stream);
    })
}

/// `lambda dead-letters`, as the owner.
fn letters(bench: &Bench) -> Program {
    command(&bench.context, &bench.database)
}

fn command(context: &Context, database: &Database) -> Program {
    let lambda = context.program(env!("CARGO_BIN_EXE_lambda"));
    lambda.envs(database.environment()).arg("dead-letters")
}

async fn run(program: &Program, arguments: &[&str], code: i32) -> Result<Ended, Failure> {
    program.clone().args(arguments).run(DEADLINE).await?.expect_code(code)
}

/// Its output as JSON.
async fn told(program: &Program, arguments: &[&str], code: i32) -> Result<Value, Failure> {
    let ended = program.clone().args(arguments).args(["--output", "json"]).run(DEADLINE).await?;
    ended.expect_code(code)?.json("dead_letters")
}

/// Arguments that load a file although most of it is bad.
const REJECTS: [&str; 2] = ["--max-rejects", "1000"];

/// A row with a bad amount.
fn bad(id: &str) -> String {
    format!("{id},ACC-1,purchase,1.234,2025-06-19 10:00:00,,,,\n")
}

/// Loads a file with a good row, two of bad amounts, and a short one: dead letters 1 to 3
/// of BAT00001.
async fn loaded(context: Context) -> Result<Bench, Failure> {
    let bench = Bench::new(context).await?;
    let text = format!("{HEADER}{}{}{}short,row\n", row(1), bad("TXN-a"), bad("TXN-b"));
    bench.load(&bench.file("a.csv", text)?, &REJECTS, 0).await?;
    Ok(bench)
}

fn ids(listed: &Value) -> Vec<i64> {
    let listed = listed["dead_letters"].as_array().map(Vec::as_slice).unwrap_or_default();
    listed.iter().filter_map(|letter| letter["id"].as_i64()).collect()
}

async fn lists(context: Context) -> Result<(), Failure> {
    let bench = loaded(context).await?;
    let second = format!("{HEADER}{}", bad("TXN-c"));
    bench.load(&bench.file("b.csv", second)?, &REJECTS, 0).await?;
    let lambda = letters(&bench);
    let human = run(&lambda, &["list"], 0).await?.stdout;
    for part in [
        "a.csv:3",
        "a.csv:5",
        "b.csv:2",
        "amount: ",
        "     3  invalid_field",
        "     1  ragged_row",
        "4 of 4 listed",
    ] {
        assert!(human.contains(part), "{part} is not in\n{human}");
    }
    assert!(human.lines().all(|line| line.chars().count() <= WIDTH), "{human}");
    let source: String =
        bench.sql.query_one("select source from batch_jobs where id = 2", &[]).await?.try_get(0)?;
    let table: [(&[&str], &[i64]); 11] = [
        (&[], &[4, 3, 2, 1]),
        (&["--limit", "2"], &[4, 3]),
        (&["--reason", "ragged_row"], &[3]),
        (&["--job", "BAT00002"], &[4]),
        (&["--job", "1", "--reason", "invalid_field"], &[2, 1]),
        (&["--source", &source], &[4]),
        (&["--topic", "transactions"], &[]),
        (&["--partition", "0"], &[4, 3, 2, 1]),
        (&["--partition", "1"], &[]),
        (&["--since", "2025-01-01 00:00:00", "--until", "2025-01-02 00:00:00"], &[]),
        (&["--status", "replayed"], &[]),
    ];
    for (arguments, expected) in table {
        let listed = told(&lambda, &[&["list"], arguments].concat(), 0).await?;
        assert_eq!(ids(&listed), expected, "{arguments:?}");
    }
    let listed = told(&lambda, &["list", "--job", "BAT00001"], 0).await?;
    assert_eq!(listed["reasons"], json!({ "invalid_field": 2, "ragged_row": 1 }));
    let letter = &listed["dead_letters"][0];
    assert_eq!((&letter["place"], &letter["status"]), (&json!("a.csv:5"), &json!("open")));
    assert_eq!((&letter["job_id"], &letter["attempts"]), (&json!("BAT00001"), &json!(0)));
    let limited = run(&lambda, &["list", "--limit", "1"], 0).await?.stdout;
    assert!(limited.contains("1 of 4 listed"), "{limited}");
    let none = run(&lambda, &["list", "--reason", "nul_character"], 0).await?.stdout;
    assert_eq!(none, "no dead letters\n");
    Ok(())
}

async fn shows(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let mut bytes = format!("{HEADER}{}", bad("TXN-\u{1b}[31mred")).into_bytes();
    bytes.extend(b"\xff\xfe,binary\n");
    bench.load(&bench.file("a.csv", bytes)?, &REJECTS, 0).await?;
    let lambda = letters(&bench);
    for id in ["1", "2"] {
        let human = run(&lambda, &["show", id], 0).await?.stdout;
        assert!(!human.contains('\u{1b}'), "a terminal would obey: {human:?}");
        assert!(human.contains("BAT00001") && human.contains("00000000  "), "{human}");
    }
    let payload = run(&lambda, &["show", "1", "--payload"], 0).await?.stdout;
    assert_eq!(payload, bad("TXN-\u{1b}[31mred").trim_end());
    let shown = &told(&lambda, &["show", "2"], 0).await?["dead_letters"][0];
    assert_eq!(shown["payload_hex"], "fffe2c62696e617279");
    assert_eq!((&shown["reason"], &shown["line"]), (&json!("invalid_utf8"), &json!(3)));
    let unknown = run(&lambda, &["show", "77"], 65).await?;
    assert!(
        unknown.stderr.contains("no dead letter of transactions has the number 77"),
        "{}",
        unknown.stderr
    );
    Ok(())
}

async fn mends(context: Context) -> Result<(), Failure> {
    let bench = loaded(context).await?;
    let lambda = letters(&bench);
    let read = run(&lambda, &["show", "1", "--payload"], 0).await?.stdout;
    // As an editor saves it.
    let mended = bench.file("mended", read.replace("1.234", "1.23") + "\n")?;
    let mended = mended.display().to_string();
    let done = run(&lambda, &["replay", "1", "--payload", &mended], 0).await?;
    assert_eq!(done.stdout, "1 of 1 replayed, 1 inserted\n");
    let row = "select amount::text, ingestion_type, job_id, position from transactions \
               where transaction_id = 'TXN-a'";
    let row = bench.sql.query_one(row, &[]).await?;
    assert_eq!(row.try_get::<_, &str>(0)?, "1.23");
    assert_eq!((row.try_get::<_, &str>(1)?, row.try_get::<_, &str>(2)?), ("BATCH", "BAT00001"));
    let letter = "select position from dead_letters where id = 1 and status = 'replayed'";
    assert_eq!(row.try_get::<_, i64>(3)?, bench.number(letter).await?);
    let counts = "select count(*) from batch_jobs j, ingest_progress p \
                  where (j.read, j.inserted, j.rejected) = (4, 2, 2) \
                    and (p.read, p.inserted, p.rejected) = (4, 2, 2)";
    assert_eq!(bench.number(counts).await?, 1);
    let shown = &told(&lambda, &["show", "1"], 0).await?["dead_letters"][0];
    assert_eq!(shown["payload"], read.as_str());
    assert_eq!(shown["edited_payload"], read.replace("1.234", "1.23"));
    let original = run(&lambda, &["show", "1", "--payload", "--original"], 0).await?.stdout;
    assert_eq!(original, read);
    // A second replay reports that it was done before.
    let before = bench.everything().await?;
    let again = told(&lambda, &["replay", "1"], 0).await?;
    assert_eq!((&again["replayed"], &again["replayed_before"]), (&json!(0), &json!(1)));
    assert_eq!(bench.everything().await?, before);
    // A second run of the load lists the remaining rejects.
    let rejects = bench.folder.join("rejects").display().to_string();
    bench.load(&bench.folder.join("a.csv"), &["--rejects", &rejects], 0).await?;
    Ok(())
}

async fn replays(context: Context) -> Result<(), Failure> {
    let bench = loaded(context).await?;
    let lambda = letters(&bench);
    // Simulates a changed rule, such as one that allows three decimals: corrects the payloads
    // of two letters directly.
    let mend = "update dead_letters set edited_payload = \
                convert_to(replace(convert_from(payload, 'utf8'), '1.234', '1.23'), 'utf8') \
                where id < 3";
    bench.sql.execute(mend, &[]).await?;
    let before = bench.everything().await?;
    let dry = run(&lambda, &["replay", "--all", "--dry-run"], 65).await?;
    assert!(
        dry.stdout.contains("2 of 3 would be replayed, 2 inserted; nothing was changed"),
        "{}",
        dry.stdout
    );
    assert!(dry.stdout.contains("still bad: ragged_row: "), "{}", dry.stdout);
    assert_eq!(bench.everything().await?, before);
    let done = told(&lambda, &["replay", "1", "2", "3", "99"], 65).await?;
    let expected = json!([
        { "id": 1, "verdict": "replayed", "outcome": "inserted" },
        { "id": 2, "verdict": "replayed", "outcome": "inserted" },
        { "id": 3, "verdict": "still_bad", "reason": "ragged_row",
          "detail": "expected 9 fields, found 2" },
        { "id": 99, "verdict": "unknown" },
    ]);
    assert_eq!(done["dead_letters"], expected);
    assert_eq!((&done["replayed"], &done["unknown"]), (&json!(2), &json!(1)));
    let failed = run(&lambda, &["replay", "1", "3", "99"], 65).await?;
    assert!(failed.stderr.contains("2 of 3 dead letters are not replayed"), "{}", failed.stderr);
    assert!(
        failed.stdout.contains("no dead letter of transactions has the number 99"),
        "{}",
        failed.stdout
    );
    let listed = told(&lambda, &["list"], 0).await?;
    assert_eq!(listed["dead_letters"][0]["attempts"], 2);
    let existing = "select count(*) from transactions where job_id = 'BAT00001'";
    assert_eq!(bench.number(existing).await?, 3);
    Ok(())
}

async fn puts_away(context: Context) -> Result<(), Failure> {
    let bench = loaded(context).await?;
    let lambda = letters(&bench);
    let counts = "select sum(read + 10 * rejected)::bigint from ingest_progress";
    let counted = bench.number(counts).await?;
    let before = bench.everything().await?;
    let dry = run(&lambda, &["discard", "1", "--dry-run"], 0).await?;
    assert_eq!(dry.stdout, "1 would be discarded; nothing was changed\n");
    assert_eq!(bench.everything().await?, before);
    let done = told(&lambda, &["discard", "1", "99"], 65).await?;
    let expected = json!([
        { "id": 1, "verdict": "discarded" },
        { "id": 99, "verdict": "unknown" },
    ]);
    assert_eq!(done["dead_letters"], expected);
    let again = run(&lambda, &["discard", "1"], 0).await?;
    assert_eq!(again.stdout, "1 already discarded\n0 discarded\n");
    let replay = run(&lambda, &["replay", "1"], 65).await?;
    assert!(replay.stdout.contains("not tried: it was discarded"), "{}", replay.stdout);

    // Too young, then old enough; the open ones are kept.
    let purge = ["purge", "--older-than", "1h"];
    let done = told(&lambda, &purge, 0).await?;
    assert_eq!(done, json!({ "version": 1, "dry_run": false, "dead_letters": [] }));
    let before = bench.everything().await?;
    let dry = run(&lambda, &["purge", "--older-than", "0s", "--dry-run"], 0).await?;
    assert_eq!(dry.stdout, "1 would be purged; nothing was changed\n");
    assert_eq!(bench.everything().await?, before);
    let purge = ["purge", "--older-than", "0s"];
    assert_eq!(run(&lambda, &purge, 0).await?.stdout, "1 purged\n");
    assert_eq!(run(&lambda, &purge, 0).await?.stdout, "0 purged\n");
    let open = ["purge", "--older-than", "0s", "--status", "open", "--yes"];
    assert_eq!(run(&lambda, &open, 0).await?.stdout, "2 purged\n");
    let held = "select count(*) from dead_letters \
                where coalesce(key, payload, edited_payload) is not null or purged_at is null";
    assert_eq!(bench.number(held).await?, 0);
    assert_eq!(bench.number("select count(*) from dead_letters").await?, 3);
    assert_eq!(bench.number(counts).await?, counted);
    let shown = run(&lambda, &["show", "2"], 0).await?.stdout;
    assert!(shown.contains("the payload of dead letter 2 was purged at 2"), "{shown}");
    run(&lambda, &["show", "2", "--payload"], 65).await?;
    let purged = run(&lambda, &["replay", "2"], 65).await?;
    assert!(purged.stdout.contains("give one with --payload"), "{}", purged.stdout);
    let given = bench.file("given", bad("TXN-a").replace("1.234", "1"))?;
    run(&lambda, &["replay", "2", "--payload", &given.display().to_string()], 0).await?;
    Ok(())
}

async fn asks(context: Context) -> Result<(), Failure> {
    let bench = loaded(context).await?;
    let lambda = letters(&bench);
    let before = bench.everything().await?;
    let several: [&[&str]; 4] = [
        &["replay", "--all"],
        &["replay", "--job", "BAT00001"],
        &["discard", "--reason", "invalid_field"],
        &["purge", "--older-than", "0s", "--status", "any"],
    ];
    for arguments in several {
        let refused = run(&lambda, arguments, 2).await?;
        assert!(refused.stderr.contains("add --yes"), "{}", refused.stderr);
    }
    let unclear: [&[&str]; 8] = [
        &["replay"],
        &["discard"],
        &["purge"],
        &["replay", "1", "--all"],
        &["replay", "1", "--reason", "x"],
        &["replay", "1", "2", "--payload", "-"],
        &["replay", "--all", "--payload", "-"],
        &["list", "--since", "yesterday"],
    ];
    for arguments in unclear {
        run(&lambda, arguments, 2).await?;
    }
    run(&lambda, &["replay", "1", "--payload", "/nowhere"], 78).await?;
    assert_eq!(bench.everything().await?, before);
    // A single match needs no confirmation, and neither do numbers.
    run(&lambda, &["discard", "--reason", "ragged_row"], 0).await?;
    run(&lambda, &["discard", "1", "2"], 0).await?;
    Ok(())
}

/// Sets up a loader and a reader, whose password is x, and returns their names.
async fn roles(bench: &Bench) -> Result<(String, String), Failure> {
    let name = &bench.database.login().database;
    let (loader, reader) = (format!("{name}_loader"), format!("{name}_reader"));
    let setup = bench.context.program(env!("CARGO_BIN_EXE_lambda-db-setup"));
    let setup = setup
        .envs(bench.database.environment())
        .env("DB_LOADER_USER", &loader)
        .env("DB_LOADER_PASSWORD", "x")
        .env("DB_READER_USER", &reader)
        .env("DB_READER_PASSWORD", "x");
    setup.run(DEADLINE).await?.expect_code(0)?;
    Ok((loader, reader))
}

async fn drop_roles(bench: &Bench, loader: &str, reader: &str) -> Result<(), Failure> {
    let sql = format!("drop owned by {loader}, {reader}; drop role {loader}, {reader}");
    Ok(bench.sql.batch_execute(&sql).await?)
}

async fn rights(context: Context) -> Result<(), Failure> {
    let bench = loaded(context).await?;
    let (loader, reader) = roles(&bench).await?;
    let before = bench.everything().await?;
    let of = |role: &str| letters(&bench).env("DB_USER", role).env("DB_PASSWORD", "x");
    let listed = told(&of(&reader), &["list"], 0).await?;
    assert_eq!(ids(&listed), [3, 2, 1]);
    let changes: [&[&str]; 5] = [
        &["show", "1"],
        &["replay", "1"],
        &["replay", "1", "--dry-run"],
        &["discard", "1"],
        &["purge", "--older-than", "0s", "--status", "any", "--yes"],
    ];
    for role in [&reader, &loader] {
        for arguments in changes {
            let refused = run(&of(role), arguments, 78).await?.stderr;
            assert!(refused.contains("log in as the"), "{refused}");
        }
    }
    let refused = run(&of(&loader), &["list"], 78).await?.stderr;
    assert!(refused.contains("log in as the reader"), "{refused}");
    assert_eq!(bench.everything().await?, before);
    drop_roles(&bench, &loader, &reader).await
}

/// A replay of 500 dead letters of one file, in three transactions. The second one has
/// locked its lanes and waits for a dead letter that the connection has locked.
async fn held(bench: &Bench) -> Result<(Process, Connection), Failure> {
    let bad: String = (0..500).map(|number| bad(&format!("TXN-{number:03}"))).collect();
    bench.load(&bench.file("a.csv", format!("{HEADER}{bad}"))?, &REJECTS, 0).await?;
    let mend = "update dead_letters set edited_payload = \
                convert_to(replace(convert_from(payload, 'utf8'), '1.234', '1.23'), 'utf8')";
    bench.sql.execute(mend, &[]).await?;
    let holder = bench.database.connect().await?;
    let lock = "begin; select from dead_letters where id = 300 for update";
    holder.batch_execute(lock).await?;
    let process = letters(bench).args(["replay", "--all", "--yes"]).start()?;
    bench.until_blocked("replay").await?;
    Ok((process, holder))
}

/// All of them are stored as rows, once.
async fn is_replayed(bench: &Bench) -> Result<(), Failure> {
    let counts = "select count(*) from batch_jobs j, ingest_progress p \
                  where (j.read, j.inserted, j.rejected) = (500, 500, 0) \
                    and (p.read, p.inserted, p.rejected) = (500, 500, 0)";
    assert_eq!(bench.number(counts).await?, 1);
    let rows = "select count(*) from transactions where job_id = 'BAT00001'";
    assert_eq!(bench.number(rows).await?, 500);
    Ok(())
}

async fn sigterm(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let (process, holder) = held(&bench).await?;
    process.signal(Signal::TERM)?;
    // It stops waiting for the lock and begins no other transaction.
    let ended = process.wait(DEADLINE).await?.expect_code(75)?;
    assert_eq!(ended.stdout, "200 of 500 replayed, 200 inserted\n");
    assert!(ended.stderr.contains("stopped; run it again"), "{}", ended.stderr);
    let replayed = "select count(*) from dead_letters where status = 'replayed'";
    assert_eq!(bench.number(replayed).await?, 200);
    holder.batch_execute("rollback").await?;
    let rest = run(&letters(&bench), &["replay", "--all", "--yes"], 0).await?;
    assert_eq!(rest.stdout, "300 of 300 replayed, 300 inserted\n");
    is_replayed(&bench).await
}

async fn frozen(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let (name, reader) = roles(&bench).await?;
    let (process, holder) = held(&bench).await?;
    process.freeze().await?;
    // It gets its locks now, while it is frozen.
    holder.batch_execute("rollback").await?;
    let backend = "from pg_stat_activity where datname = current_database() \
                   and application_name = 'lambda-replay' and state = 'idle in transaction'";
    bench.until(&format!("select count(*) = 1 {backend}")).await?;
    let pid = bench.number(&format!("select pid::bigint {backend}")).await?;
    let login = bench.database.login().with_user(&name, "x");
    let loader = connect(&login.config(), "test").await?;
    let end = format!("select pg_terminate_backend({pid})");
    let refused = loader.batch_execute(&end).await;
    let refused = refused.expect_err("a loader may not end the owner's backend");
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{refused}");
    let waits = "begin; set local lock_timeout = '60s'; \
                 select from ingest_progress for update; rollback";
    loader.batch_execute(waits).await?;
    process.thaw()?;
    let ended = process.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(ended.stdout, "500 of 500 replayed, 500 inserted\n");
    is_replayed(&bench).await?;
    drop(loader);
    drop_roles(&bench, &name, &reader).await
}

/// The producer's invalid messages stay bad; the test corrects them as messages with their
/// own ids, while more arrive.
async fn stream(context: Context) -> Result<(), Failure> {
    let bench = support::Bench::new(context, 3).await?;
    let consumer = bench.consumer().start()?;
    let producer = bench.traffic(2_000).start()?;
    bench.stored(3_000).await?;
    let mend = "update dead_letters set edited_payload = convert_to(json_build_object( \
                    'transaction_id', 'mended-' || id, 'account_id', 'ACC', \
                    'transaction_type', 'refund', 'amount', '1.00', \
                    'timestamp', '2025-06-19 10:00:00')::text, 'utf8') where id <= 20";
    bench.until("select least(count(*), 20) from dead_letters", 20).await?;
    bench.sql.execute(mend, &[]).await?;
    let lambda = command(&bench.context, &bench.database);
    let topic = ["--topic", bench.topic.as_str()];
    let done = told(&lambda, &[&["replay", "--yes"], &topic[..]].concat(), 65).await?;
    assert_eq!(done["replayed"], 20, "{done}");
    assert_eq!(done["skipped"], 0, "{done}");
    assert!(done["still_bad"].as_i64() > Some(0), "{done}");
    let listed = told(&lambda, &["list", "--status", "replayed", "--limit", "1"], 0).await?;
    let place = listed["dead_letters"][0]["place"].as_str().unwrap_or_default();
    assert!(place.starts_with(&format!("{}[", bench.topic)), "{place}");

    producer.signal(Signal::TERM)?;
    producer.wait(DEADLINE).await?.expect_code(0)?;
    let ledger = lambda_lab::ledger::Ledger::read(&bench.ledger)?;
    bench.stored(ledger.kinds().all()).await?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    let kinds = ledger.kinds();
    let sum = "select sum(read)::bigint, sum(inserted)::bigint, sum(duplicate)::bigint, \
               sum(rejected)::bigint from ingest_progress";
    let row = bench.sql.query_one(sum, &[]).await?;
    let counts: [i64; 4] = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
    let expected = [kinds.all(), kinds.valid + 20, kinds.duplicate, kinds.invalid - 20];
    assert_eq!(counts, expected);
    let mended = "select count(*) from transactions t join dead_letters d using (lane, position) \
                  where t.transaction_id = 'mended-' || d.id and t.ingestion_type = 'STREAM'";
    assert_eq!(bench.number(mended).await?, 20);
    let mut differences = ledger.compare(&bench.sql).await?;
    differences.foreign_ids.retain(|id| !id.starts_with("mended-"));
    assert!(differences.is_empty(), "{differences}");
    Ok(())
}
