//! `lambda doctor`: on a healthy set-up all is well; then each thing it looks at is
//! broken for real, and what it says is read.

mod support;

use std::process::ExitCode;

use lambda_core::postgres::inspect::schema;
use lambda_core::postgres::migrate;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::Program;
use lambda_lab::servers::{Database, SmallDiskPostgres};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use serde_json::Value;

use support::{Bench, DEADLINE};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite
            .real_kafka("a healthy set-up is all right for each role, and left as it was", healthy);
        suite.postgres("what it looks for is what the migrations make", same_as_migrations);
        suite.postgres("a server or a role's settings that do not fit are told", servers);
        suite.postgres("tables, jobs and a restore that need a hand are told", tables);
        suite.postgres("a schema that is not there or old is told with its remedy", schemas);
        suite.postgres("roles that can do too little or too much are told", roles);
        suite.plain("settings of a server that endanger data are told", settings);
        suite.plain("what fills a server's disk or holds back vacuum is told", left_behind);
        suite.docker("a full disk is told", full_disk);
        suite.pgbouncer("a pooler that shares backends is told, one of sessions is not", pooled);
        suite.real_kafka("a server that is away does not keep the others from being asked", away);
        suite.real_kafka("settings of a topic that lose messages are told", topics);
        suite.real_kafka("lag, and lanes that nobody reads or that were lost, are told", lags);
        suite.plain("partitions without a leader or with one copy are told", leaders);
    })
}

fn doctor(context: &Context, database: &Database) -> Program {
    let program = context.program(env!("CARGO_BIN_EXE_lambda")).envs(database.environment());
    program.env("LAMBDA_OUTPUT", "json").arg("doctor")
}

/// The database's checks alone.
fn of_database(context: &Context, database: &Database) -> Program {
    doctor(context, database).args(["--only", "postgres"])
}

/// The same with the topic of `bench`.
fn of_all(bench: &Bench) -> Program {
    doctor(&bench.context, &bench.database)
        .env("KAFKA_BOOTSTRAP_SERVERS", &bench.bootstrap)
        .env("KAFKA_TOPIC", &bench.topic)
        .env("KAFKA_GROUP_ID", format!("{}-group", bench.topic))
}

/// What a doctor said.
struct Report {
    checks: Vec<Value>,
    text: String,
}

impl Report {
    /// Runs one that is to end with `code`.
    async fn of(program: &Program, code: i32) -> Result<Self, Failure> {
        let ended = program.run(DEADLINE).await?.expect_code(code)?;
        let summary: Value = serde_json::from_str(&ended.stdout)?;
        assert_eq!(summary["exit_code"], code);
        let checks = summary["checks"].as_array().cloned().ok_or("no checks")?;
        Ok(Self { checks, text: ended.stdout + &ended.stderr })
    }

    /// A check that stands in `state`, whose finding and remedy hold these words.
    fn says(&self, check: &str, state: &str, found: &str, remedy: &str) {
        let of: Vec<&Value> = self.checks.iter().filter(|it| it["check"] == check).collect();
        assert_eq!(of.len(), 1, "{check}: {}", self.text);
        let text = |name: &str| of[0][name].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("state"), state, "{check}: {}", self.text);
        assert!(text("found").contains(found), "{check}: {found}: {}", self.text);
        assert!(text("remedy").contains(remedy), "{check}: {remedy}: {}", self.text);
    }

    /// The checks that are not ok.
    fn not_ok(&self) -> Vec<&str> {
        let others = self.checks.iter().filter(|it| it["state"] != "ok");
        others.filter_map(|it| it["check"].as_str()).collect()
    }
}

/// The roles that `lambda-db-setup` makes, with the password they share.
struct Roles {
    loader: String,
    reader: String,
}

impl Roles {
    const PASSWORD: &str = "a secret of roles";

    async fn set_up(context: &Context, database: &Database) -> Result<Self, Failure> {
        let name = &database.login().database;
        let (loader, reader) = (format!("{name}_loader"), format!("{name}_reader"));
        let setup = context
            .program(env!("CARGO_BIN_EXE_lambda-db-setup"))
            .envs(database.environment())
            .env("DB_LOADER_USER", &loader)
            .env("DB_LOADER_PASSWORD", Self::PASSWORD)
            .env("DB_READER_USER", &reader)
            .env("DB_READER_PASSWORD", Self::PASSWORD);
        setup.run(DEADLINE).await?.expect_code(0)?;
        Ok(Self { loader, reader })
    }

    fn log_in(program: Program, name: &str) -> Program {
        program.env("DB_USER", name).env("DB_PASSWORD", Self::PASSWORD)
    }

    async fn drop(self, database: &Database) -> Result<(), Failure> {
        let Self { loader, reader } = self;
        let sql = format!("drop owned by {loader}, {reader}; drop role {loader}, {reader}");
        Ok(database.connect().await?.batch_execute(&sql).await?)
    }
}

async fn healthy(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 3).await?;
    let roles = Roles::set_up(&bench.context, &bench.database).await?;
    let ledger = bench.produce(1_000).await?;
    bench.consume_to_end().await?;
    let rows = "select sum(xmin::text::bigint)::bigint from ingest_progress";
    let before = bench.number(rows).await?;
    for (name, says) in [(&roles.loader, "grants of a loader"), (&roles.reader, "of a reader")] {
        let report = Report::of(&Roles::log_in(of_all(&bench), name), 0).await?;
        assert!(report.not_ok().is_empty(), "{}", report.text);
        assert_eq!(report.checks.len(), 29, "{}", report.text);
        report.says("role", "ok", says, "");
        report.says("lag", "ok", "all messages are stored", "");
        assert!(!report.text.contains(Roles::PASSWORD), "{}", report.text);
    }
    let report = Report::of(&of_all(&bench), 0).await?;
    assert_eq!(report.not_ok(), ["role"], "{}", report.text);
    report.says("role", "warning", "is a superuser", "DB_LOADER_USER");

    let people = of_all(&bench).args(["--output", "human"]);
    let table = people.run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert!(table.contains("check") && table.contains("message-size"), "{table}");
    assert_eq!(bench.number(rows).await?, before, "nothing was written");
    bench.is_exact(&ledger).await?;
    roles.drop(&bench.database).await
}

async fn same_as_migrations(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let sql = database.connect().await?;
    let listed = async |sql_text: &str| {
        let rows = sql.query(sql_text, &[]).await?;
        let mut names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        names.sort();
        Ok::<_, Failure>(names)
    };
    let ours = |pairs: &[(&str, &str)]| {
        let mut names: Vec<String> = pairs.iter().map(|(on, it)| format!("{on}.{it}")).collect();
        names.sort();
        names
    };
    let tables = "select relname::text from pg_class where relnamespace = 'public'::regnamespace \
                  and relkind in ('r', 'v') and relname <> 'refinery_schema_history'";
    assert_eq!(listed(tables).await?, schema::TABLES);
    let indexes = "\
        select indrelid::regclass || '.' || indexrelid::regclass from pg_index \
        join pg_class on oid = indexrelid \
        where relnamespace = 'public'::regnamespace \
          and not exists (select from pg_constraint where conindid = indexrelid)";
    assert_eq!(listed(indexes).await?, ours(&schema::INDEXES));
    let constraints = "\
        select conrelid::regclass || '.' || conname from pg_constraint \
        where connamespace = 'public'::regnamespace and contype <> 'n' \
          and conrelid <> 'refinery_schema_history'::regclass";
    assert_eq!(listed(constraints).await?, ours(&schema::CONSTRAINTS));
    Ok(())
}

/// A function of the server's that gives something else in this database.
fn spoofed(signature: &str, returns: &str, body: &str) -> String {
    format!(
        "create schema spoof;
         create function spoof.{signature} returns {returns} language sql as $$ {body} $$;
         alter database {{database}} set search_path = spoof, pg_catalog, public"
    )
}

/// What breaks a database, the check that notices with its state, finding and remedy,
/// and the exit code.
type Case = (String, (&'static str, &'static str, &'static str, &'static str), i32);

/// Breaks a database of its own for each case.
async fn break_each(
    context: &Context,
    cases: impl IntoIterator<Item = Case>,
) -> Result<(), Failure> {
    for (breaks, (check, state, found, remedy), code) in cases {
        let database = context.database().await?;
        let breaks = breaks.replace("{database}", &database.login().database);
        database.connect().await?.batch_execute(&breaks).await?;
        let report = Report::of(&of_database(context, &database), code).await?;
        report.says(check, state, found, remedy);
        let mut others = report.not_ok();
        // It cannot try to write where only reading is allowed.
        others.retain(|other| *other != check && (check, *other) != ("primary", "disk"));
        assert_eq!(others, ["role"], "{breaks}: {}", report.text);
    }
    Ok(())
}

async fn servers(context: Context) -> Result<(), Failure> {
    let cases: [Case; 8] = [
        (
            spoofed(
                "current_setting(text)",
                "text",
                "select case $1 when 'server_version_num' then '160004' \
                 else pg_catalog.current_setting($1) end",
            ),
            ("version", "problem", "PostgreSQL 16.4 is too old", "upgrade the server"),
            78,
        ),
        (
            "alter database {database} set default_transaction_read_only = on".into(),
            ("primary", "problem", "read-only by default", "point DB_HOST at the primary"),
            75,
        ),
        (
            spoofed("pg_is_in_recovery()", "boolean", "select true"),
            ("primary", "problem", "a standby", "point DB_HOST at the primary"),
            75,
        ),
        (
            "alter database {database} set synchronous_commit = off".into(),
            ("durability", "warning", "synchronous_commit is off", "set synchronous_commit = on"),
            0,
        ),
        (
            "alter database {database} set statement_timeout = '5s'".into(),
            (
                "timeouts",
                "warning",
                "statement_timeout is 5000 ms",
                "at least: statement_timeout 30 s",
            ),
            0,
        ),
        (
            "alter database {database} set idle_in_transaction_session_timeout = '1s'".into(),
            ("timeouts", "warning", "idle_in_transaction_session_timeout is 1000 ms", "alter role"),
            0,
        ),
        (
            "alter database {database} set transaction_timeout = '20s'".into(),
            ("timeouts", "warning", "transaction_timeout is 20000 ms", "transaction_timeout 60 s"),
            0,
        ),
        (
            spoofed(
                "clock_timestamp()",
                "timestamptz",
                "select pg_catalog.clock_timestamp() - interval '3 seconds'",
            ),
            ("clock", "warning", "the server's is -", "let NTP set the clocks"),
            0,
        ),
    ];
    break_each(&context, cases).await?;
    let database = context.database().await?;
    let program = of_database(&context, &database).env("TMPDIR", "/nonexistent");
    Report::of(&program, 78).await?.says("tmpdir", "problem", "/nonexistent", "set TMPDIR");
    Ok(())
}

async fn tables(context: Context) -> Result<(), Failure> {
    let job = "insert into batch_jobs (pipeline, source, status, file_name, header, bytes, records, \
               chunks, lease_until) values ('transactions', 's', ";
    let cases: [Case; 5] = [
        (
            "drop view account_activity; drop index transactions_event_time; \
             alter table batch_jobs drop constraint batch_jobs_status_check"
                .into(),
            (
                "tables",
                "problem",
                "table account_activity, index transactions_event_time, \
                 constraint batch_jobs_status_check of batch_jobs",
                "make them again as",
            ),
            78,
        ),
        (
            "alter table transactions drop column location cascade".into(),
            ("tables", "problem", "column \"location\"", "run lambda-db-setup"),
            78,
        ),
        (
            "update xid_offset set system_identifier = system_identifier + 1".into(),
            ("restored", "problem", "restored into another cluster", "run lambda-db-setup"),
            78,
        ),
        (
            format!("{job} 'running', 'a.csv', 'h', 1, 1, 1, now() - interval '1 second')"),
            ("jobs", "problem", "BAT00001 (a.csv)", "run lambda-csv-batch again"),
            75,
        ),
        (
            format!("{job} 'failed', 'b.csv', 'h', 1, 1, 1, null)"),
            ("jobs", "warning", "failed: BAT00001 (b.csv)", "lambda jobs --status failed"),
            0,
        ),
    ];
    break_each(&context, cases).await
}

async fn schemas(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let report = Report::of(&of_database(&context, &database), 75).await?;
    report.says("schema", "problem", "has no schema yet", "run lambda-db-setup");
    for check in ["tables", "restored", "jobs"] {
        report.says(check, "skipped", "the schema is not there", "");
    }
    migrate::migrate_to(database.config(), migrate::latest() - 1).await?;
    let report = Report::of(&of_database(&context, &database), 0).await?;
    report.says("schema", "warning", "loaders run, not all commands", "run lambda-db-setup");
    migrate::migrate(database.config()).await?;
    Report::of(&of_database(&context, &database), 0).await?.says("schema", "ok", "version", "");
    let newer = format!(
        "insert into refinery_schema_history (version, name, applied_on, checksum) \
         values ({}, 'future', '2027-01-01T00:00:00Z', '1')",
        migrate::latest() + 1
    );
    database.connect().await?.batch_execute(&newer).await?;
    let report = Report::of(&of_database(&context, &database), 0).await?;
    report.says("schema", "ok", "newer than this program", "");
    Ok(())
}

async fn roles(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let roles = Roles::set_up(&context, &database).await?;
    let sql = database.connect().await?;
    let Roles { loader, reader } = &roles;
    let cases = [
        (
            loader,
            "revoke insert on corrections from",
            "lacks insert on corrections",
            "DB_LOADER_USER",
        ),
        (
            loader,
            "revoke update on batch_jobs from",
            "lacks update (status) on batch_jobs",
            "run lambda-db-setup",
        ),
        (loader, "grant delete on transactions to", "can also delete on transactions", "revoke it"),
        (
            loader,
            "grant update on transactions to",
            "update (written_xid) on transactions",
            "revoke it",
        ),
        (
            loader,
            "grant create on schema public to",
            "can also create in schema public",
            "revoke it",
        ),
        (
            reader,
            "grant select on dead_letters to",
            "select (payload) on dead_letters",
            "no raw payload",
        ),
        (
            reader,
            "revoke select on batch_jobs from",
            "lacks select on batch_jobs",
            "DB_READER_USER",
        ),
        (
            reader,
            "revoke all on all tables in schema public from",
            "neither store nor read",
            "run lambda-db-setup",
        ),
    ];
    for (role, breaks, found, remedy) in cases {
        sql.batch_execute(&format!("{breaks} {role}")).await?;
        let program = Roles::log_in(of_database(&context, &database), role);
        let report = Report::of(&program, 78).await?;
        report.says("role", "problem", found, remedy);
        if found.contains("neither") {
            report.says("jobs", "skipped", "may not read", "");
        }
        Roles::set_up(&context, &database).await?;
        let report = Report::of(&program, 0).await?;
        assert!(report.not_ok().is_empty(), "{breaks}: {}", report.text);
    }
    let temporary =
        format!("revoke temporary on database {} from public", database.login().database);
    sql.batch_execute(&temporary).await?;
    let program = Roles::log_in(of_database(&context, &database), reader);
    Report::of(&program, 0).await?.says("disk", "skipped", "no temporary table", "");
    roles.drop(&database).await
}

async fn settings(context: Context) -> Result<(), Failure> {
    let own = context.own_postgres(&["fsync=off", "max_connections=12"]).await?;
    let database = own.database().await?;
    let report = Report::of(&of_database(&context, &database), 78).await?;
    report.says("durability", "problem", "fsync is off", "set fsync = on");
    report.says("connections", "warning", "of 12 are left", "raise max_connections");
    drop(own);
    let own = context.own_postgres(&["full_page_writes=off"]).await?;
    let database = own.database().await?;
    let report = Report::of(&of_database(&context, &database), 0).await?;
    report.says("durability", "warning", "full_page_writes is off", "set full_page_writes = on");
    Ok(())
}

async fn left_behind(context: Context) -> Result<(), Failure> {
    let settings = ["max_wal_size=32MB", "min_wal_size=32MB", "max_prepared_transactions=2"];
    let own = context.own_postgres(&settings).await?;
    let database = own.database().await?;
    let sql = database.connect().await?;
    sql.batch_execute("select pg_create_physical_replication_slot('left_behind', true)").await?;
    let program = of_database(&context, &database);
    let report = Report::of(&program, 0).await?;
    report.says("slots", "ok", "1 slots, none left behind", "");
    report.says("vacuum", "ok", "no transaction is open for more than 300 s", "");
    let fill = "create table filled as select repeat('x', 1000) from generate_series(1, 60000); \
                begin; create table never (n int); prepare transaction 'forgotten'";
    sql.batch_execute(fill).await?;
    let program = program.args(["--age-max", "0"]);
    let report = Report::of(&program, 0).await?;
    report.says("slots", "warning", "left_behind keeps", "pg_drop_replication_slot");
    report.says("vacuum", "warning", "prepared transaction forgotten", "rollback prepared");
    sql.batch_execute("rollback prepared 'forgotten'").await?;
    sql.batch_execute("begin; select count(*) from transactions").await?;
    let report = Report::of(&program, 0).await?;
    report.says("vacuum", "warning", "(lambda-lab) is open", "pg_terminate_backend");
    Ok(())
}

async fn full_disk(context: Context) -> Result<(), Failure> {
    let server = context.small_disk_postgres(24 << 20).await?;
    let database = server.database().await?;
    let (name, small) = (&database.login().database, SmallDiskPostgres::TABLESPACE);
    let admin = database.config().with_database("postgres");
    let admin = lambda_core::postgres::connect(&admin, "lab").await?;
    admin.batch_execute(&format!("alter database {name} set tablespace {small}")).await?;
    let program = of_database(&context, &database);
    let report = Report::of(&program, 0).await?;
    report.says("disk", "ok", "8 MiB more were written", "");
    let sql = database.connect().await?;
    let ballast = "create table ballast (bytes text); \
                   alter table ballast alter column bytes set storage plain";
    sql.batch_execute(ballast).await?;
    // Until there is no more: each one by itself, so that what was stored stays.
    let more = "insert into ballast select repeat('x', 8000) from generate_series(1, 100)";
    while sql.batch_execute(more).await.is_ok() {}
    let report = Report::of(&program, 75).await?;
    report.says("disk", "problem", "could not extend file", "the disk is full: make room");
    sql.batch_execute("drop table ballast; checkpoint").await?;
    Report::of(&program, 0).await?.says("disk", "ok", "more were written", "");
    Ok(())
}

async fn pooled(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let cases: [(&[&str], bool); 4] = [
        (&["pool_mode = session"], false),
        (&["pool_mode = transaction"], true),
        (&["pool_mode = statement"], true),
        (&["pool_mode = transaction", "server_round_robin = 1", "min_pool_size = 4"], true),
    ];
    for (settings, shares) in cases {
        let pooler = context.pgbouncer(&database, settings).await?;
        let program = of_database(&context, &database).envs(pooler.login().environment());
        let report = Report::of(&program, if shares { 78 } else { 0 }).await?;
        if shares {
            report.says(
                "pooling",
                "problem",
                "one backend answers several",
                "pool_mode) to session",
            );
            report.says("schema", "skipped", "a pooler in between", "");
        } else {
            report.says("pooling", "ok", "a backend of its own", "");
            assert_eq!(report.not_ok(), ["role"], "{}", report.text);
        }
    }
    Ok(())
}

async fn away(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    bench.produce(100).await?;
    bench.consume_to_end().await?;
    let no_kafka = of_all(&bench).env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
    let report = Report::of(&no_kafka, 69).await?;
    report.says("kafka", "problem", "Kafka is not reachable", "check the address");
    report.says("schema", "ok", "version", "");
    report.says("topic", "skipped", "there is no connection", "");
    report.says("lag", "skipped", "the topic could not be asked", "");

    let no_postgres = of_all(&bench).env("DB_PORT", "1");
    let report = Report::of(&no_postgres, 69).await?;
    report.says("postgres", "problem", "PostgreSQL is not reachable", "check the address");
    report.says("topic", "ok", "2 partitions", "");
    report.says("lag", "skipped", "could not be read", "");

    let wrong = of_all(&bench).env("DB_PASSWORD", "a wrong secret");
    let report = Report::of(&wrong, 78).await?;
    report.says("postgres", "problem", "password", "check DB_USER and DB_PASSWORD");
    report.says("topic", "ok", "2 partitions", "");
    assert!(!report.text.contains("a wrong secret"), "{}", report.text);

    // What only a person mends counts more than what may come back.
    let both = no_kafka.env("DB_NAME", "nowhere");
    let report = Report::of(&both, 78).await?;
    report.says("postgres", "problem", "nowhere", "create the database");
    report.says("kafka", "problem", "not reachable", "");

    let unset = bench.context.program(env!("CARGO_BIN_EXE_lambda")).arg("doctor");
    let ended = unset.args(["--only", "postgres"]).run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stdout.contains("set DB_NAME, or DATABASE_URL"), "{}", ended.stdout);
    Ok(())
}

async fn topics(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let missing = of_all(&bench).env("KAFKA_TOPIC", "nobody-made-this");
    let report = Report::of(&missing, 78).await?;
    report.says("topic", "problem", "nobody-made-this is not there", "lambda topic ensure");
    report.says("retention", "skipped", "there is no topic", "");

    let settings = |settings: &[&str]| {
        let ensure = bench.context.program(env!("CARGO_BIN_EXE_lambda"));
        let ensure = ensure
            .env("KAFKA_BOOTSTRAP_SERVERS", &bench.bootstrap)
            .env("KAFKA_TOPIC", &bench.topic)
            .args(["topic", "ensure", "--partitions", "2"]);
        settings.iter().fold(ensure, |ensure, setting| ensure.args(["--config", setting]))
    };
    let warns = ["cleanup.policy=compact", "retention.ms=3600000"];
    settings(&warns).run(DEADLINE).await?.expect_code(0)?;
    let report = Report::of(&of_all(&bench), 0).await?;
    report.says("cleanup", "warning", "cleanup.policy is compact", "set cleanup.policy=delete");
    report.says("retention", "warning", "expire after 1 h", "set retention.ms to 3 days");

    let fails = [
        ("min.insync.replicas=2", "in-sync", "2 of 1 copies", "lower min.insync.replicas"),
        (
            "unclean.leader.election.enable=true",
            "election",
            "acknowledged messages can be lost",
            "set unclean.leader.election.enable=false",
        ),
        ("max.message.bytes=200000000", "message-size", "more than a consumer takes", "lower"),
    ];
    let back = ["min.insync.replicas=1", "unclean.leader.election.enable=false"];
    for (setting, check, found, remedy) in fails {
        settings(&back).args(["--config", setting]).run(DEADLINE).await?.expect_code(0)?;
        let report = Report::of(&of_all(&bench), 78).await?;
        report.says(check, "problem", found, remedy);
    }

    settings(&back)
        .args(["--config", "max.message.bytes=1048588"])
        .run(DEADLINE)
        .await?
        .expect_code(0)?;
    Report::of(&of_all(&bench), 0).await?;
    let eager: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("group.id", format!("{}-group", bench.topic))
        .set("partition.assignment.strategy", "range")
        .create()?;
    eager.subscribe(&[&bench.topic])?;
    while eager.assignment()?.count() < 2 {
        eager.poll(std::time::Duration::from_millis(50));
    }
    let report = Report::of(&of_all(&bench), 78).await?;
    report.says("group", "problem", "range", "stop the members that use it");
    Ok(())
}

async fn lags(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    bench.produce(1_000).await?;
    let report = Report::of(&of_all(&bench).args(["--lag-max", "10"]), 75).await?;
    report.says("lag", "problem", "1000 messages are not stored", "start more lambda-consumer");
    report.says("consumers", "problem", "2 partitions have messages", "start lambda-consumer");
    bench.consume_to_end().await?;
    let report = Report::of(&of_all(&bench).args(["--lag-max", "0"]), 0).await?;
    assert_eq!(report.not_ok(), ["role"], "{}", report.text);

    // Messages came while the lanes stood still.
    bench.burst(8, 500).await?;
    let report = Report::of(&of_all(&bench), 0).await?;
    report.says("lag", "ok", "500 messages are not stored", "");
    bench
        .sql
        .batch_execute("update ingest_progress set updated_at = now() - interval '1 h'")
        .await?;
    let report = Report::of(&of_all(&bench), 75).await?;
    report.says("consumers", "problem", "for 36", "start lambda-consumer");

    let lost = "update ingest_progress set position = position + 1000000 where partition = 1";
    bench.sql.batch_execute(lost).await?;
    let report = Report::of(&of_all(&bench), 78).await?;
    report.says("positions", "problem", "is not what was read", "--on-source-change restart");

    bench
        .sql
        .batch_execute("update ingest_progress set source = 'other/' || split_part(source, '/', 2)")
        .await?;
    let report = Report::of(&of_all(&bench), 75).await?;
    report.says("positions", "warning", "but of other/", "check KAFKA_BOOTSTRAP_SERVERS");
    Ok(())
}

/// librdkafka's broker can be told that nobody leads a partition.
async fn leaders(context: Context) -> Result<(), Failure> {
    let producer: BaseProducer =
        ClientConfig::new().set("test.mock.num.brokers", "3").set("log_level", "2").create()?;
    let cluster = producer.client().mock_cluster().ok_or("no broker in this process")?;
    cluster.create_topic("led", 3, 1)?;
    let program = context
        .program(env!("CARGO_BIN_EXE_lambda"))
        .env("KAFKA_BOOTSTRAP_SERVERS", cluster.bootstrap_servers())
        .env("KAFKA_TOPIC", "led")
        .env("LAMBDA_OUTPUT", "json")
        .args(["doctor", "--only", "kafka"]);
    let report = Report::of(&program, 0).await?;
    report.says("replication", "warning", "1 copy on 3 brokers", "kafka-reassign-partitions.sh");
    report.says("topic", "ok", "3 partitions, all led", "");
    cluster.partition_leader("led", 1, None)?;
    let report = Report::of(&program, 75).await?;
    report.says("topic", "problem", "[1] of led have no leader", "start the brokers");
    Ok(())
}
