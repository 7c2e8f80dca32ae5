//! Refusals of the database: of single records (dead letters), of everything (78 and a
//! remedy), or for now (stalling, nothing lost). The real binary, a real database (rule R11
//! and the table of errors in docs/protocol.md).

mod loads;
mod support;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lambda_core::postgres::Connection;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::ledger::Ledger;
use lambda_lab::processes::{Program, Signal};
use lambda_lab::servers::SmallDiskPostgres;

use loads::{Bench, DEADLINE, HEADER, hold_id, row, rows};

/// Records of most files here: one chunk, one batch.
const RECORDS: usize = 3_000;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.postgres("records that a rule of the table refuses are dead letters", bad_records);
        suite.postgres("a table that refuses most records stops the load", refuses_most);
        suite.postgres("an existing row is no refusal, whichever key is checked first", second_key);
        suite
            .postgres("a column, a default or a grant that is missing ends with 78", misconfigured);
        suite.postgres(
            "a grant revoked during a load ends it with 78, granted again it completes",
            revoked,
        );
        suite.postgres("row security enabled during a load ends it with 78 and the name", secured);
        suite.kafka("a row locked for over a minute is waited for, and its holder named", held);
        suite.postgres("a commit that takes over a minute is halved", slow);
        suite.postgres("a login that a failover has lost is waited for", async |context| {
            stall(context, &NO_LOGIN).await
        });
        suite.postgres("a job that a failover has lost ends with 75, and is loaded again", lost);
        suite.postgres("a server that has become read-only is waited for", async |context| {
            stall(context, &READ_ONLY).await
        });
        suite.postgres("a server that admits no connection is waited for", async |context| {
            stall(context, &NO_CONNECTION).await
        });
        suite.postgres("a statement that is cancelled is tried again", async |context| {
            stall(context, &STATEMENT_TIMEOUT).await
        });
        suite.postgres("a job that another program has locked is reported as locked", locked);
        suite.postgres("a batch that is too slow for statement_timeout is halved", too_slow);
        suite.postgres("a deadlock with a foreign transaction loses nothing", deadlock);
        suite.kafka("a stream's refused messages are dead letters, and a stall loses none", stream);
        suite.docker("a full disk is waited for", full_disk);
        suite.postgres("commits run at read committed, whatever the default is", isolation);
        suite.postgres("the loader's role is enough for all that a load does", least_privilege);
    })
}

/// A role with the grants of a loader, created by the real setup.
struct Loader {
    setup: Program,
    name: String,
}

impl Loader {
    const PASSWORD: &str = "loader's secret";

    async fn new(bench: &Bench) -> Result<Self, Failure> {
        let name = format!("{}_loader", bench.database.login().database);
        let setup = bench
            .context
            .program(env!("CARGO_BIN_EXE_lambda-db-setup"))
            .envs(bench.database.environment())
            .env("DB_LOADER_USER", &name)
            .env("DB_LOADER_PASSWORD", Self::PASSWORD);
        let loader = Self { setup, name };
        loader.set_up().await?;
        Ok(loader)
    }

    /// Grants it exactly what a loader needs.
    async fn set_up(&self) -> Result<(), Failure> {
        self.setup.run(DEADLINE).await?.expect_code(0).map(drop)
    }

    fn load(&self, bench: &Bench, path: &Path) -> Program {
        let program = bench.program(&[path]);
        program.env("DB_USER", &self.name).env("DB_PASSWORD", Self::PASSWORD)
    }

    /// Roles belong to the whole server and outlive the database.
    async fn drop(self, bench: &Bench) -> Result<(), Failure> {
        let sql = "drop owned by {loader}; drop role {loader}";
        Ok(bench.sql.batch_execute(&self.named(bench, sql)).await?)
    }

    /// `sql` with the names of the database and the role filled in.
    fn named(&self, bench: &Bench, sql: &str) -> String {
        sql.replace("{loader}", &self.name).replace("{database}", &bench.database.login().database)
    }
}

/// (line, position, payload, reason, detail)
type Letter = (i64, i64, String, String, String);

async fn dead_letters(bench: &Bench) -> Result<Vec<Letter>, Failure> {
    let sql = "select line, position, payload, reason, detail from dead_letters \
               where lane in (select lane from ingest_progress) order by position";
    let rows = bench.sql.query(sql, &[]).await?;
    let payload = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(rows
        .iter()
        .map(|row| (row.get(0), row.get(1), payload(row.get(2)), row.get(3), row.get(4)))
        .collect())
}

async fn bad_records(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let rules = "
        alter table transactions add constraint no_cats check (merchant_category <> 'cats');
        create unique index second on transactions (account_id, event_time);
        create table categories (name text primary key);
        insert into categories values ('cats'), ('groceries');
        alter table transactions add constraint known foreign key (merchant_category)
            references categories deferrable initially deferred;
        create function narrow() returns trigger language plpgsql as $$
            begin
                if new.merchant_category is null then
                    raise exception using errcode = '23502', column = 'merchant_category';
                elsif length(new.location) > 20 then
                    raise exception using errcode = '22001';
                end if;
                return new;
            end $$;
        create trigger narrow before insert on transactions for each row
            execute function narrow();
        create function refuse() returns trigger language plpgsql as
            $$ begin raise exception 'not this account'; end $$;
        create trigger refuse before insert on transactions for each row
            when (new.account_id = 'ACC-poison') execute function refuse();";
    bench.sql.batch_execute(rules).await?;
    let id = |number: usize| format!("TXN-{number:012}");
    let with_category = |number, category| row(number).replace("groceries", category);
    let bad = [
        (10, with_category(10, "cats"), "23514 at no_cats"),
        (500, row(20).replace(&id(20), &id(500)), "23505 at second"),
        (1_000, with_category(1_000, "dogs"), "23503 at known"),
        (1_001, with_category(1_001, "dogs"), "23503 at known"),
        (1_500, with_category(1_500, ""), "23502 at merchant_category"),
        (2_000, row(2_000).replace("ACC-00000", "ACC-poison"), "P0001"),
        (2_999, row(2_999).replace("Paris", "Paris, Paris, Paris, Paris"), "22001"),
    ];
    let (mut text, mut expected) = (HEADER.to_owned(), Vec::new());
    for number in 0..RECORDS {
        match bad.iter().find(|(of, ..)| *of == number) {
            None => text.push_str(&row(number)),
            Some((_, record, why)) => {
                let (line, position) = (i64::try_from(number + 2)?, i64::try_from(text.len())?);
                let (payload, reason) = (record.trim_end().to_owned(), "refused".to_owned());
                let detail = format!("the database refused the row: {why}");
                expected.push((line, position, payload, reason, detail));
                text.push_str(record);
            }
        }
    }
    let path = bench.file("a.csv", text)?;
    let report = bench.load(&path, &[], 0).await?;
    assert_eq!(report["job"]["counts"]["inserted"], RECORDS - bad.len());
    assert_eq!(report["job"]["counts"]["rejected"], bad.len());
    assert_eq!(dead_letters(&bench).await?, expected);
    let stored = "select count(*) from transactions where lane is not null";
    assert_eq!(bench.number(stored).await?, i64::try_from(RECORDS - bad.len())?);
    let refused = bad.each_ref().map(|(number, ..)| id(*number));
    let sql = "select count(*) from transactions where transaction_id = any($1)";
    let row = bench.sql.query_one(sql, &[&refused.as_slice()]).await?;
    assert_eq!(row.try_get::<_, i64>(0)?, 0);
    bench.until("select bool_and(position = end_position) from ingest_progress").await
}

async fn refuses_most(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let rule = "alter table transactions add constraint never check (amount > 99999)";
    bench.sql.batch_execute(rule).await?;
    let text = rows(RECORDS);
    let path = bench.file("a.csv", &text)?;
    let ended = bench.program(&[&path]).run(DEADLINE).await?.expect_code(78)?;
    for says in ["refused 501 of the last", "23514 never", "change the rule or the source"] {
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    let letters = dead_letters(&bench).await?;
    let lines: Vec<i64> = letters.iter().map(|letter| letter.0).collect();
    assert_eq!(lines, (2..=501).collect::<Vec<i64>>());
    bench.until("select status = 'failed' and error like '%never%' from batch_jobs").await?;
    bench.sql.batch_execute("alter table transactions drop constraint never").await?;
    let report = bench.load(&path, &[], 0).await?;
    assert_eq!(report["job"]["counts"]["inserted"], RECORDS - 500);
    assert_eq!(report["job"]["counts"]["rejected"], 500);
    assert_eq!(dead_letters(&bench).await?, letters, "each once");
    assert_eq!(bench.number("select count(*) from transactions").await?, 2_500);
    Ok(())
}

/// Indexes are checked in the order of their numbers, and the id key's number is higher after
/// a rebuild: an existing row then violates the other key first.
async fn second_key(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let rebuild = "alter table transactions drop constraint transactions_pkey; \
                   create unique index second on transactions (account_id, event_time); \
                   alter table transactions add primary key (transaction_id)";
    bench.sql.batch_execute(rebuild).await?;
    bench.load(&bench.file("a.csv", rows(100))?, &[], 0).await?;
    let conflict = row(7).replace("TXN-000000000007", "TXN-other");
    let text = rows(100) + &row(101) + &row(101) + &conflict;
    let report = bench.load(&bench.file("b.csv", &text)?, &[], 0).await?;
    let counts = &report["job"]["counts"];
    assert_eq!(counts["confirmed"], 100);
    assert_eq!(counts["inserted"], 1);
    assert_eq!(counts["duplicate"], 1);
    assert_eq!(counts["rejected"], 1);
    let letters = dead_letters(&bench).await?;
    let letters: Vec<(i64, &str)> = letters.iter().map(|l| (l.0, l.4.as_str())).collect();
    assert_eq!(letters, [(104, "the database refused the row: 23505 at second")]);
    Ok(())
}

async fn misconfigured(context: Context) -> Result<(), Failure> {
    let run_setup = "run lambda-db-setup";
    let cases = [
        (
            "alter table transactions add column branch text not null",
            "transactions.branch is not null, but records do not have it; give the column a default",
            "alter table transactions alter column branch set default 'main'",
        ),
        (
            "alter table transactions drop column location",
            run_setup,
            "alter table transactions add column location text",
        ),
        (
            "alter table transactions alter column risk_score type numeric(5, 1)",
            "transactions.risk_score is numeric(5,1), the record has it as numeric(4,2)",
            "alter table transactions alter column risk_score type numeric(4, 2)",
        ),
        (
            "alter table transactions alter column location set not null",
            "transactions.location is text not null, the record has it as text that may be null",
            "alter table transactions alter column location drop not null",
        ),
        (
            "alter table transactions enable row level security",
            "row security applies to public.transactions for the role {loader}",
            "alter table transactions disable row level security",
        ),
        (
            "alter table lambda.batch_jobs enable row level security",
            "row security applies to lambda.batch_jobs for the role {loader}",
            "alter table lambda.batch_jobs disable row level security",
        ),
        ("revoke insert on transactions from {loader}", run_setup, ""),
        ("revoke insert on dead_letters from {loader}", run_setup, ""),
        ("revoke update on ingest_progress from {loader}", run_setup, ""),
        ("revoke insert on lambda.batch_jobs from {loader}", run_setup, ""),
        (
            "alter table lambda.batch_jobs add constraint no_jobs check (id < 0)",
            "look for rules and triggers added to batch_jobs and ingest_progress",
            "alter table lambda.batch_jobs drop constraint no_jobs",
        ),
        (
            "alter table ingest_progress add constraint no_counts check (read = 0)",
            "look for rules added to ingest_progress and dead_letters",
            "alter table ingest_progress drop constraint no_counts",
        ),
    ];
    for (breaks, says, mends) in cases {
        let bench = Bench::new(context.clone()).await?;
        let loader = Loader::new(&bench).await?;
        let path = bench.file("a.csv", rows(RECORDS) + "short,row\n")?;
        bench.sql.batch_execute(&loader.named(&bench, breaks)).await?;
        let ended = loader.load(&bench, &path).run(DEADLINE).await?.expect_code(78)?;
        let says = loader.named(&bench, says);
        assert!(ended.stderr.contains(&says), "{breaks}:\n{}", ended.stderr);
        assert_eq!(bench.number("select count(*) from transactions").await?, 0, "{breaks}");
        assert_eq!(bench.number("select count(*) from dead_letters").await?, 0, "{breaks}");
        let others = "select count(*) from batch_jobs where status <> 'failed' and attempt > 0";
        assert_eq!(bench.number(others).await?, 0, "{breaks}");
        bench.sql.batch_execute(&loader.named(&bench, mends)).await?;
        loader.set_up().await?;
        loader.load(&bench, &path).run(DEADLINE).await?.expect_code(0)?;
        assert_eq!(bench.number("select count(*) from transactions").await?, 3_000, "{breaks}");
        assert_eq!(bench.number("select count(*) from dead_letters").await?, 1, "{breaks}");
        loader.drop(&bench).await?;
    }
    Ok(())
}

async fn revoked(context: Context) -> Result<(), Failure> {
    let revoke = "revoke insert on transactions from {loader}";
    half_way(context, revoke, "the role lacks a grant: run lambda-db-setup", "").await
}

async fn secured(context: Context) -> Result<(), Failure> {
    let (secure, end) = (
        "alter table transactions enable row level security",
        "alter table transactions disable row level security",
    );
    half_way(context, secure, "row security applies to public.transactions for the role", end).await
}

/// A statement that stops a load which has stored something, with 78 and these words; and
/// one that repairs it, besides another setup.
async fn half_way(context: Context, breaks: &str, says: &str, mends: &str) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let loader = Loader::new(&bench).await?;
    let path = bench.file("a.csv", rows(200_000))?;
    let process = loader.load(&bench, &path).start()?;
    bench.wait_for_progress().await?;
    bench.sql.batch_execute(&loader.named(&bench, breaks)).await?;
    let ended = process.wait(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
    let row = bench.sql.query_one("select status, read from batch_jobs", &[]).await?;
    assert_eq!(row.try_get::<_, &str>(0)?, "failed");
    let stored = bench.number("select count(*) from transactions").await?;
    assert!(stored > 0 && stored < 200_000, "broken half-way: {stored}");
    assert_eq!(row.try_get::<_, i64>(1)?, stored);
    bench.sql.batch_execute(&loader.named(&bench, mends)).await?;
    loader.set_up().await?;
    loader.load(&bench, &path).run(DEADLINE).await?.expect_code(0)?;
    assert!(dead_letters(&bench).await?.is_empty());
    bench.is_exact(200_000).await?;
    loader.drop(&bench).await
}

/// Longer than a commit may take before it is halved.
const HELD: Duration = Duration::from_secs(66);

/// Holds an id of [`rows`], as a psql session with an open transaction does.
async fn hold(bench: &Bench) -> Result<Connection, Failure> {
    let holder = bench.database.connect().await?;
    holder.batch_execute("set application_name = 'psql'; begin").await?;
    hold_id(&holder, 2).await?;
    Ok(holder)
}

const NAMES_THE_HOLDER: &str = "(application_name psql, role ";

/// More than the buffers between the loader and a server that reads nothing can hold.
const MANY: usize = 20_000;

async fn held(context: Context) -> Result<(), Failure> {
    // Concurrently, or this would take three times as long.
    let loads = async {
        let bench = Bench::new(context.clone()).await?;
        let holder = hold(&bench).await?;
        let mut process = bench.program(&[&bench.file("a.csv", rows(MANY))?]).start()?;
        bench.until_blocked("batch").await?;
        tokio::time::sleep(HELD).await;
        process.says(NAMES_THE_HOLDER, DEADLINE).await?;
        process.says("a commit took too long; committing its halves", DEADLINE).await?;
        holder.batch_execute("rollback").await?;
        let ended = process.wait(DEADLINE).await?.expect_code(0)?;
        assert!(!ended.stderr.contains("not reachable"), "it was all the time: {}", ended.stderr);
        assert!(dead_letters(&bench).await?.is_empty());
        bench.is_exact(MANY).await
    };
    let streams = async |to_the_end: bool| {
        let topic = support::Bench::new(context.clone(), 4).await?;
        let bench = Bench::on(context.clone(), topic.database.clone()).await?;
        let producer = topic.program(env!("CARGO_BIN_EXE_lambda-producer-stream"));
        let producer =
            producer.args(["--rate", "0", "--from"]).arg(bench.file("a.csv", rows(MANY))?);
        producer.arg("--ledger").arg(&topic.ledger).run(DEADLINE).await?.expect_code(0)?;
        let holder = hold(&bench).await?;
        let flags: &[&str] = if to_the_end { &["--exit-at-end"] } else { &[] };
        let mut consumer = topic.consumer().args(flags).start()?;
        bench.until_blocked("stream").await?;
        tokio::time::sleep(HELD).await;
        consumer.says(NAMES_THE_HOLDER, DEADLINE).await?;
        consumer.says("a commit took too long; committing its halves", DEADLINE).await?;
        holder.batch_execute("rollback").await?;
        if !to_the_end {
            topic.stored(i64::try_from(MANY)?).await?;
            consumer.signal(Signal::TERM)?;
        }
        consumer.wait(DEADLINE).await?.expect_code(0)?;
        topic.is_exact(&Ledger::read(&topic.ledger)?).await
    };
    let (load, daemon, to_the_end) = tokio::join!(loads, streams(false), streams(true));
    load.and(daemon).and(to_the_end)
}

/// All rows at once take longer than a minute, half of them do not.
async fn slow(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let slow = "
        create function slow() returns trigger language plpgsql as
            $$ begin perform pg_sleep(3600) from added having count(*) > 150; return null; end $$;
        create trigger slow after insert on transactions referencing new table as added
            for each statement execute function slow()";
    bench.sql.batch_execute(slow).await?;
    let mut process = bench.program(&[&bench.file("a.csv", rows(300))?]).start()?;
    process.says("no lock blocks it; the server's wait event is Timeout PgSleep", DEADLINE).await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number("select count(distinct written_xid) from transactions").await?, 2);
    bench.is_exact(300).await
}

/// A standby that is behind has neither the job nor its lanes.
async fn lost(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(RECORDS))?;
    let holder = hold(&bench).await?;
    let process = bench.program(&[&path]).start()?;
    bench.until_blocked("batch").await?;
    // Not the lanes' rows, which the commit has locked: its backend is ended first.
    let lose = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                where datname = current_database() and application_name like 'lambda-batch%'";
    bench.sql.query(lose, &[]).await?;
    bench.sql.batch_execute("delete from ingest_progress; delete from batch_jobs").await?;
    holder.batch_execute("rollback").await?;
    let ended = process.wait(DEADLINE).await?.expect_code(75)?;
    assert!(ended.stderr.contains("by a crash, a failover or a restore"), "{}", ended.stderr);
    bench.load(&path, &[], 0).await?;
    assert_eq!(bench.number("select count(*) from transactions").await?, i64::try_from(RECORDS)?);
    let unfinished =
        "select count(*) from ingest_progress where position is distinct from end_position";
    assert_eq!(bench.number(unfinished).await?, 0);
    Ok(())
}

/// A temporary obstacle to a loader.
struct Stall {
    begins: &'static str,
    says: &'static str,
    ends: &'static str,
    /// Whether it also needs a lock that another session holds.
    locked: bool,
}

const READ_ONLY: Stall = Stall {
    begins: "alter database {database} set default_transaction_read_only = on",
    says: "the server is read-only: check that this is the primary",
    ends: "alter database {database} reset default_transaction_read_only",
    locked: false,
};

const NO_CONNECTION: Stall = Stall {
    begins: "alter role {loader} connection limit 0",
    says: "too many connections",
    ends: "alter role {loader} connection limit -1",
    locked: false,
};

/// A standby that is behind does not have the role yet.
const NO_LOGIN: Stall = Stall {
    begins: "alter role {loader} rename to {loader}_later",
    says: "could not log in to PostgreSQL as before",
    ends: "alter role {loader}_later rename to {loader}",
    locked: false,
};

const STATEMENT_TIMEOUT: Stall = Stall {
    begins: "alter database {database} set statement_timeout = '1s'",
    says: "a timeout cancelled the statement: check statement_timeout",
    ends: "",
    locked: true,
};

/// The obstacle appears while a batch is being stored, and applies to new sessions.
async fn stall(context: Context, stall: &Stall) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let loader = Loader::new(&bench).await?;
    let path = bench.file("a.csv", rows(RECORDS))?;
    let holder = bench.database.connect().await?;
    holder.batch_execute("begin").await?;
    hold_id(&holder, 2).await?;
    let mut process = loader.load(&bench, &path).start()?;
    bench.until_blocked("batch").await?;
    bench.sql.batch_execute(&loader.named(&bench, stall.begins)).await?;
    let sessions = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                    where datname = current_database() \
                      and application_name in ('lambda-batch', 'lambda-lease')";
    bench.sql.query(sessions, &[]).await?;
    if !stall.locked {
        holder.batch_execute("rollback").await?;
    }
    process.says(stall.says, DEADLINE).await?;
    assert_eq!(bench.number("select count(*) from transactions").await?, 0);
    bench.until("select status = 'running' from batch_jobs").await?;
    if stall.locked {
        holder.batch_execute("rollback").await?;
    }
    bench.sql.batch_execute(&loader.named(&bench, stall.ends)).await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    assert!(dead_letters(&bench).await?.is_empty());
    assert_eq!(bench.number("select attempt::bigint from batch_jobs").await?, 1);
    bench.is_exact(RECORDS).await?;
    loader.drop(&bench).await
}

async fn stream(context: Context) -> Result<(), Failure> {
    let topic = support::Bench::new(context.clone(), 3).await?;
    let bench = Bench::on(context, topic.database.clone()).await?;
    let rules = "
        alter table transactions add constraint no_cats check (merchant_category <> 'cats');
        create table categories (name text primary key);
        insert into categories values ('cats'), ('groceries');
        alter table transactions add constraint known foreign key (merchant_category)
            references categories deferrable initially deferred";
    bench.sql.batch_execute(rules).await?;
    let refused = [(10, "cats", "23514 at no_cats"), (700, "dogs", "23503 at known")];
    let mut text = HEADER.to_owned();
    for number in 0..RECORDS {
        let other = refused.iter().find(|(of, ..)| *of == number);
        let category = other.map_or("groceries", |(_, category, _)| *category);
        text.push_str(&row(number).replace("groceries", category));
    }
    let path = bench.file("a.csv", text + "TXN-bad,ACC-1,purchase,much,,,,,\n")?;
    let producer = topic.program(env!("CARGO_BIN_EXE_lambda-producer-stream"));
    let producer = producer.args(["--rate", "0", "--from"]).arg(path);
    producer.arg("--ledger").arg(&topic.ledger).run(DEADLINE).await?.expect_code(0)?;
    // The producer counts the messages that the table refuses as valid.
    let mut ledger = fs::read_to_string(&topic.ledger)?;
    for (number, ..) in refused {
        let id = format!("TXN-{number:012}");
        let line = ledger.lines().find(|line| line.contains(&id)).ok_or("a line of the ledger")?;
        ledger = ledger.replace(line, &line.replace("\"valid\"", "\"invalid\""));
    }
    fs::write(&topic.ledger, ledger)?;
    let ledger = Ledger::read(&topic.ledger)?;
    assert_eq!(ledger.kinds().invalid, 3);

    let holder = bench.database.connect().await?;
    holder.batch_execute("begin").await?;
    hold_id(&holder, 2).await?;
    let mut consumer = topic.consumer().arg("--exit-at-end").start()?;
    bench.until_blocked("stream").await?;
    let name = &bench.database.login().database;
    let read_only = READ_ONLY.begins.replace("{database}", name);
    bench.sql.batch_execute(&read_only).await?;
    let sessions = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                    where datname = current_database() and application_name like 'lambda-stream%'";
    bench.sql.query(sessions, &[]).await?;
    holder.batch_execute("rollback").await?;
    consumer.says(READ_ONLY.says, DEADLINE).await?;
    bench.sql.batch_execute(&READ_ONLY.ends.replace("{database}", name)).await?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    topic.is_exact(&ledger).await?;
    for (number, _, why) in refused {
        let sql = "select convert_from(key, 'UTF8'), detail from dead_letters \
                   where convert_from(payload, 'UTF8') like '%' || $1 || '%' and reason = 'refused'";
        let letter = bench.sql.query_one(sql, &[&format!("TXN-{number:012}")]).await?;
        assert_eq!(letter.try_get::<_, String>(0)?, format!("ACC-{number:05}"));
        let detail = format!("the database refused the row: {why}");
        assert_eq!(letter.try_get::<_, String>(1)?, detail);
    }
    Ok(())
}

/// As after a forgotten commit in psql.
async fn locked(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let holder = bench.database.connect().await?;
    holder.batch_execute("begin; lock table batch_jobs in exclusive mode").await?;
    let mut process = bench.program(&[&bench.file("a.csv", rows(RECORDS))?]).start()?;
    let says = "could not create a job in PostgreSQL: canceling statement due to lock timeout \
                (SQLSTATE 55P03); another session holds a lock: look at pg_stat_activity";
    process.says(says, DEADLINE).await?;
    holder.batch_execute("rollback").await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    bench.is_exact(RECORDS).await
}

/// All rows at once take longer than a statement may, half of them do not.
async fn too_slow(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let slow = "
        create function slow() returns trigger language plpgsql as
            $$ begin perform pg_sleep(60) from added having count(*) > 150; return null; end $$;
        create trigger slow after insert on transactions referencing new table as added
            for each statement execute function slow();
        alter database {database} set statement_timeout = '1s'";
    let slow = slow.replace("{database}", &bench.database.login().database);
    bench.sql.batch_execute(&slow).await?;
    bench.load(&bench.file("a.csv", rows(300))?, &[], 0).await?;
    assert_eq!(bench.number("select count(distinct written_xid) from transactions").await?, 2);
    bench.is_exact(300).await
}

async fn deadlock(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let name = &bench.database.login().database;
    // A session that has waited this long checks for a deadlock, once: it must be the loader.
    let patience = format!("alter database {name} set deadlock_timeout = '3s'");
    bench.sql.batch_execute(&patience).await?;
    let path = bench.file("a.csv", rows(RECORDS))?;
    let foreign = bench.database.connect().await?;
    foreign.batch_execute("set deadlock_timeout = '10min'; begin").await?;
    hold_id(&foreign, 2).await?;
    let mut process = bench.program(&[&path]).start()?;
    bench.until_blocked("batch").await?;
    // The loader has inserted id 1 before it came to id 2.
    hold_id(&foreign, 1).await?;
    process.says("locked the same rows in another order", DEADLINE).await?;
    assert_eq!(bench.number("select count(*) from transactions").await?, 0);
    foreign.batch_execute("rollback").await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    assert!(dead_letters(&bench).await?.is_empty());
    bench.is_exact(RECORDS).await
}

async fn full_disk(context: Context) -> Result<(), Failure> {
    const RECORDS: usize = 40_000;
    let server = context.small_disk_postgres(24 << 20).await?;
    let database = server.database().await?;
    let bench = Bench::on(context, database).await?;
    let small = SmallDiskPostgres::TABLESPACE;
    let fill = format!(
        "alter table transactions set tablespace {small};
         create table ballast (bytes text) tablespace {small};
         alter table ballast alter column bytes set storage plain;
         insert into ballast select repeat('x', 8000) from generate_series(1, 2500)"
    );
    bench.sql.batch_execute(&fill).await?;
    let mut process = bench.program(&[&bench.file("a.csv", rows(RECORDS))?]).start()?;
    process.says("the disk is full: make room on the database server", DEADLINE).await?;
    bench.until("select status = 'running' from batch_jobs").await?;
    bench.sql.batch_execute("drop table ballast").await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    assert!(dead_letters(&bench).await?.is_empty());
    bench.is_exact(RECORDS).await
}

async fn isolation(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let watch = "
        alter database {database} set default_transaction_isolation = 'serializable';
        create function at_read_committed() returns trigger language plpgsql as $$
            begin
                if current_setting('transaction_isolation') <> 'read committed' then
                    raise exception 'at %', current_setting('transaction_isolation');
                end if;
                return null;
            end $$;"
        .replace("{database}", &bench.database.login().database);
    bench.sql.batch_execute(&watch).await?;
    for table in ["transactions", "ingest_progress", "batch_jobs", "dead_letters", "corrections"] {
        let watch = format!(
            "create trigger at_read_committed after insert or update on {table} \
             for each statement execute function at_read_committed()"
        );
        bench.sql.batch_execute(&watch).await?;
    }
    bench.load(&bench.file("a.csv", rows(100) + "short,row\n")?, &[], 0).await?;
    let text = rows(99) + &row(99).replace("Paris", "Rome") + &row(100);
    let report = bench.load(&bench.file("b.csv", text)?, &[], 0).await?;
    assert_eq!(report["job"]["counts"]["confirmed"], 99);
    assert_eq!(report["job"]["counts"]["corrected"], 1);
    assert_eq!(report["job"]["counts"]["inserted"], 1);
    Ok(())
}

async fn least_privilege(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let loader = Loader::new(&bench).await?;
    let rejects = bench.folder.join("rejects");
    let (archive, listed) = (bench.folder.join("archive"), rejects.display().to_string());
    let load = |path: &Path| {
        let flags = ["--rejects", &listed, "--archive", &archive.display().to_string()];
        loader.load(&bench, path).args(flags)
    };
    // Takes over from a run that was frozen with locks held, and ends its backend.
    let text = rows(RECORDS) + "short,row\n";
    let path = bench.file("a.csv", &text)?;
    let holder = bench.database.connect().await?;
    holder.batch_execute("begin").await?;
    hold_id(&holder, 2).await?;
    let frozen = load(&path).start()?;
    bench.until_blocked("batch").await?;
    frozen.freeze().await?;
    // Its COPY continues in the server until it waits for more data.
    holder.batch_execute("rollback").await?;
    bench.end_lease().await?;
    // Shorter than a run waits before it ends the backend that holds its lanes.
    let impatient = loader.named(&bench, "alter role {loader} set lock_timeout = '500ms'");
    bench.sql.batch_execute(&impatient).await?;
    let report = load(&path).run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(report.contains("\"attempt\":2"), "{report}");
    frozen.thaw()?;
    frozen.wait(DEADLINE).await?.expect_code(75)?;
    assert!(archive.join("a.csv").exists());
    let listed = fs::read_to_string(&rejects)?;
    assert!(listed.contains(",3002,") && listed.contains("ragged_row"), "{listed}");

    let text = rows(RECORDS - 1) + &row(RECORDS - 1).replace("Paris", "Rome") + &row(RECORDS);
    let report = load(&bench.file("b.csv", text)?).run(DEADLINE).await?.expect_code(0)?;
    let summary: serde_json::Value = serde_json::from_str(&report.stdout)?;
    let counts = &summary["files"][0]["job"]["counts"];
    assert_eq!(counts["confirmed"], RECORDS - 1);
    assert_eq!(counts["corrected"], 1);
    assert_eq!(counts["inserted"], 1);
    loader.drop(&bench).await
}
