//! `lambda doctor` on the schema, its rows and the roles.

use std::collections::BTreeSet;

use lambda_core::postgres::inspect::schema;
use lambda_core::postgres::schema::migrate::PROTOCOL;
use lambda_core::transaction::schema::{OBJECTS, migrate};
use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};

use crate::{Case, Report, Roles, break_each, of_database};

pub(super) fn tests(suite: &mut Suite) {
    suite.postgres("the checks expect exactly what the migrations create", same_as_migrations);
    suite.postgres("tables, jobs and a restore that need a person are reported", tables);
    suite.postgres("a missing or old schema is reported with its remedy", schemas);
    suite.postgres("roles with too few or too many grants are reported", roles);
}

async fn same_as_migrations(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let sql = database.connect().await?;
    let listed = async |sql_text: &str| {
        let rows = sql.query(sql_text, &[]).await?;
        let names: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        Ok::<_, Failure>(names)
    };
    let all = [schema::PROTOCOL, OBJECTS];
    let pairs = |of: fn(&schema::Objects) -> &'static [(&'static str, &'static str)]| {
        let pairs = all.iter().flat_map(of);
        pairs.map(|(on, it)| format!("{on}.{it}")).collect::<BTreeSet<String>>()
    };
    let relations = "\
        select relnamespace::regnamespace || '.' || relname from pg_class \
        where relnamespace::regnamespace in ('lambda', 'public') \
          and relkind in ('r', 'v') and relname not like '%migrations'";
    let expected = all.iter().flat_map(|objects| objects.relations);
    assert_eq!(listed(relations).await?, expected.map(|it| (*it).to_owned()).collect());
    let indexes = "\
        select t.relnamespace::regnamespace || '.' || t.relname || '.' || i.relname \
        from pg_index join pg_class t on t.oid = indrelid join pg_class i on i.oid = indexrelid \
        where t.relnamespace::regnamespace in ('lambda', 'public') \
          and not exists (select from pg_constraint where conindid = indexrelid)";
    assert_eq!(listed(indexes).await?, pairs(|objects| objects.indexes));
    let constraints = "\
        select relnamespace::regnamespace || '.' || relname || '.' || conname \
        from pg_constraint join pg_class c on c.oid = conrelid \
        where relnamespace::regnamespace in ('lambda', 'public') and contype <> 'n' \
          and relname not like '%migrations'";
    assert_eq!(listed(constraints).await?, pairs(|objects| objects.constraints));
    Ok(())
}

async fn tables(context: Context) -> Result<(), Failure> {
    let job = "insert into batch_jobs (pipeline, source, status, file_name, header, bytes, records, \
               chunks, lease_until) values ('transactions', 's', ";
    let cases: [Case; 5] = [
        (
            "drop view account_activity; drop index transactions_event_time; \
             alter table lambda.batch_jobs drop constraint batch_jobs_status_check"
                .into(),
            (
                "tables",
                "problem",
                "constraint batch_jobs_status_check of lambda.batch_jobs, \
                 table public.account_activity, index transactions_event_time of public.transactions",
                "create them again as",
            ),
            78,
        ),
        (
            "alter table transactions drop column location cascade".into(),
            ("tables", "problem", "transactions.location is missing", "run lambda-db-setup"),
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
        report.says(check, "skipped", "the schema is missing", "");
    }
    PROTOCOL.migrate_to(database.config(), PROTOCOL.latest() - 1).await?;
    let report = Report::of(&of_database(&context, &database), 0).await?;
    report.says("schema", "warning", "loaders run, some commands do not", "run lambda-db-setup");
    PROTOCOL.migrate(database.config()).await?;
    migrate(database.config()).await?;
    Report::of(&of_database(&context, &database), 0).await?.says("schema", "ok", "version", "");
    let newer = format!(
        "insert into lambda.migrations (version, name, applied_on, checksum) \
         values ({}, 'future', '2027-01-01T00:00:00Z', '1')",
        PROTOCOL.latest() + 1
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
            "lacks insert on lambda.corrections",
            "DB_LOADER_USER",
        ),
        (
            loader,
            "revoke update on lambda.batch_jobs from",
            "lacks update (status) on lambda.batch_jobs",
            "run lambda-db-setup",
        ),
        (
            loader,
            "grant delete on transactions to",
            "can also delete on public.transactions",
            "revoke it",
        ),
        (
            loader,
            "grant update on transactions to",
            "update (written_xid) on public.transactions",
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
            "select (payload) on lambda.dead_letters",
            "no raw payload",
        ),
        (
            reader,
            "revoke select on lambda.batch_jobs from",
            "lacks select on lambda.batch_jobs",
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
        // A setup grants what is missing, and revokes nothing.
        let mend = breaks.strip_prefix("grant ").and_then(|grant| grant.strip_suffix(" to"));
        let mend = mend.map(|grant| format!("revoke {grant} from {role}"));
        let program = Roles::log_in(of_database(&context, &database), role);
        let report = Report::of(&program, 78).await?;
        report.says("role", "problem", found, remedy);
        if found.contains("neither") {
            report.says("jobs", "skipped", "may not read", "");
        }
        sql.batch_execute(&mend.unwrap_or_default()).await?;
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
