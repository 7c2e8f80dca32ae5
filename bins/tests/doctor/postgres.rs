//! `lambda doctor` on a server, its settings and a pooler.

use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use lambda_lab::servers::SmallDiskPostgres;

use crate::{Case, Report, break_each, of_database};

pub(super) fn tests(suite: &mut Suite) {
    suite.postgres("unsuitable settings of a server or a role are reported", servers);
    suite.plain("settings of a server that endanger data are reported", settings);
    suite.plain(
        "slots that fill the disk and transactions that hold back vacuum are reported",
        left_behind,
    );
    suite.docker("a full disk is reported", full_disk);
    suite
        .pgbouncer("a pooler that shares backends is reported, one in session mode is not", pooled);
}

/// A server function that returns something else in this database.
fn spoofed(signature: &str, returns: &str, body: &str) -> String {
    format!(
        "create schema spoof;
         create function spoof.{signature} returns {returns} language sql as $$ {body} $$;
         alter database {{database}} set search_path = spoof, pg_catalog, public"
    )
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
            ("primary", "problem", "standby", "point DB_HOST at the primary"),
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
            ("clock", "warning", "differs by -", "let NTP set the clocks"),
            0,
        ),
    ];
    break_each(&context, cases).await?;
    let database = context.database().await?;
    let program = of_database(&context, &database).env("TMPDIR", "/nonexistent");
    Report::of(&program, 78).await?.says("tmpdir", "problem", "/nonexistent", "set TMPDIR");
    Ok(())
}

async fn settings(context: Context) -> Result<(), Failure> {
    let own = context.own_postgres(&["fsync=off", "max_connections=12"]).await?;
    let database = own.database().await?;
    let report = Report::of(&of_database(&context, &database), 78).await?;
    report.says("durability", "problem", "fsync is off", "set fsync = on");
    report.says("connections", "warning", "of 12 are free", "raise max_connections");
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
    report.says("slots", "ok", "1 slots, none holds too much", "");
    report.says("vacuum", "ok", "no transaction is open for more than 300 s", "");
    let fill = "create table filled as select repeat('x', 1000) from generate_series(1, 60000); \
                begin; create table never (n int); prepare transaction 'forgotten'";
    sql.batch_execute(fill).await?;
    let program = program.args(["--age-max", "0"]);
    let report = Report::of(&program, 0).await?;
    report.says("slots", "warning", "left_behind holds", "pg_drop_replication_slot");
    report.says("vacuum", "warning", "prepared transaction forgotten", "rollback prepared");
    sql.batch_execute("rollback prepared 'forgotten'").await?;
    sql.batch_execute("begin; select count(*) from transactions").await?;
    let report = Report::of(&program, 0).await?;
    report.says("vacuum", "warning", "(lambda-lab) has been open", "pg_terminate_backend");
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
    report.says("disk", "ok", "writing 8 MiB more succeeded", "");
    let sql = database.connect().await?;
    let ballast = "create table ballast (bytes text); \
                   alter table ballast alter column bytes set storage plain";
    sql.batch_execute(ballast).await?;
    // Until the disk is full: each insert commits by itself, so that stored rows stay.
    let more = "insert into ballast select repeat('x', 8000) from generate_series(1, 100)";
    while sql.batch_execute(more).await.is_ok() {}
    let report = Report::of(&program, 75).await?;
    report.says("disk", "problem", "could not extend file", "the disk is full: make room");
    sql.batch_execute("drop table ballast; checkpoint").await?;
    Report::of(&program, 0).await?.says("disk", "ok", "more succeeded", "");
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
            report.says("pooling", "problem", "shares one backend", "(PgBouncer: pool_mode)");
            report.says("schema", "skipped", "a pooler in transaction mode", "");
        } else {
            report.says("pooling", "ok", "its own backend", "");
            assert_eq!(report.not_ok(), ["role"], "{}", report.text);
        }
    }
    Ok(())
}
