//! The platform's roles, and a restored database.

use std::fs;
use std::process::ExitCode;

use lambda_core::job::JobRef;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::postgres::connection::{Connection, connect};
use lambda_core::postgres::schema::migrate::PROTOCOL;
use lambda_core::postgres::schema::roles::{Access, Change, Role, ensure};
use lambda_core::postgres::schema::{registry, restore};
use lambda_core::postgres::{Postgres, PostgresSink};
use lambda_core::progress::{LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Durability, Sink};
use lambda_core::testing::draft::{Draft, SAMPLE_DDL, SAMPLES, Sample};
use lambda_core::transaction;
use lambda_core::transaction::schema::READABLE;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::servers::Database;
use lambda_lab::servers::login::Login;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::error::SqlState;

/// Marker that each session of a loader keeps.
const LOADER: &str = "select pg_advisory_lock_shared(1818324322, 1);";

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.postgres("a loader stores batches of both layers", loader_stores);
        suite.postgres("a loader can do nothing else", loader_does_nothing_else);
        suite.postgres("a reader sees everything but raw payloads", reader_sees);
        suite.postgres("setting roles again changes the password and no grant", again);
        suite.postgres("names and passwords may be any text", any_text);
        suite.postgres("a role that can do more is refused", mighty);
        suite.postgres("two setups at once both succeed", at_once);
        suite.postgres("a restored database continues above its stored ids", restored);
        suite.postgres("a frozen loader is ended by one of another login", other_login);
        suite.postgres("a password file is read at every login, and again when refused", rotated);
    })
}

/// A role with a unique name: roles belong to the whole server.
fn role(database: &Database, access: Access) -> Role {
    let name = format!("{}_{access}", database.login().database);
    Role { access, name, password: "pass word".into() }
}

/// A database with the table of samples and one role, and how to log in as it.
async fn set_up(context: &Context, access: Access) -> Result<(Database, Role, Postgres), Failure> {
    let database = context.database().await?;
    database.connect().await?.batch_execute(SAMPLE_DDL).await?;
    registry::register(database.config(), &[&SAMPLES, &transaction::pipeline()]).await?;
    let role = role(&database, access);
    ensure(database.config(), std::slice::from_ref(&role), &READABLE).await?;
    let config = database.login().with_user(&role.name, &role.password).config();
    Ok((database, role, config))
}

/// Drops a test's role: databases are dropped by themselves, roles are not.
async fn drop_role(database: &Database, role: &Role) -> Result<(), Failure> {
    let name = format!("\"{}\"", role.name.replace('"', "\"\""));
    let sql = format!("drop owned by {name}; drop role {name}");
    Ok(database.connect().await?.batch_execute(&sql).await?)
}

async fn claim(sink: &PostgresSink, source: &str) -> Result<Progress, Failure> {
    let name = LaneName { pipeline: SAMPLES.name().into(), source: source.into(), partition: 0 };
    let (owner, group) = ("a test".into(), None);
    let request = ClaimRequest {
        name,
        first_position: 0.into(),
        format: "json".into(),
        owner,
        group,
        take_over: false,
        given_up: None,
    };
    Ok(sink.claim(&request).await?)
}

async fn refuses(connection: &Connection, sql: &str) {
    let refused = connection.batch_execute(sql).await;
    let code = refused.err().and_then(|error| error.code().cloned());
    assert_eq!(code, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{sql}");
}

async fn count(connection: &Connection, table: &str) -> Result<i64, Failure> {
    Ok(connection.query_one(&format!("select count(*) from {table}"), &[]).await?.get(0))
}

async fn loader_stores(context: Context) -> Result<(), Failure> {
    let (database, role, config) = set_up(&context, Access::Loader).await?;
    let sink = PostgresSink::connect(config, &SAMPLES, "sink", 1, None).await?;
    let lane = claim(&sink, "a topic").await?;
    let streamed = Draft::new(Authority::Stream, &SAMPLES)
        .lane(&lane, 3)
        .record(0, &Sample::new("a", 100))
        .record(1, &Sample::new("b", 200))
        .rejected(2, b"nonsense");
    sink.commit(&streamed.build(), Durability::Durable).await?;

    let owner = database.connect().await?;
    let sql = "insert into batch_jobs (pipeline, source, file_name, header, bytes, records, chunks) \
               values ('samples', 's', 'f', 'h', 0, 0, 0) returning id, \
               (extract(epoch from as_of) * 1000000)::bigint";
    let job = owner.query_one(sql, &[]).await?;
    let job = JobRef { number: job.get(0), as_of_micros: job.get(1) };
    let lane = claim(&sink, "a file").await?;
    let loaded = Draft::new(Authority::Batch(job), &SAMPLES)
        .lane(&lane, 3)
        .record(0, &Sample::new("a", 100))
        .record(1, &Sample::new("b", 201))
        .record(2, &Sample::new("c", 300));
    let committed = sink.commit(&loaded.build(), Durability::Durable).await?;

    let counts = committed.stored[0].counts;
    assert_eq!(
        (counts[Outcome::Confirmed], counts[Outcome::Corrected], counts[Outcome::Inserted]),
        (1, 1, 1)
    );
    assert_eq!(count(&owner, "samples").await?, 3);
    assert_eq!(count(&owner, "corrections").await?, 1);
    assert_eq!(count(&owner, "dead_letters").await?, 1);
    drop(sink);
    drop_role(&database, &role).await
}

async fn loader_does_nothing_else(context: Context) -> Result<(), Failure> {
    let (database, role, config) = set_up(&context, Access::Loader).await?;
    let loader = connect(&config, "test").await?;
    for table in [
        "samples",
        "ingest_progress",
        "lambda.batch_jobs",
        "dead_letters",
        "corrections",
        "xid_offset",
    ] {
        refuses(&loader, &format!("delete from {table}")).await;
        refuses(&loader, &format!("truncate {table}")).await;
    }
    refuses(&loader, "update samples set written_xid = 0").await;
    refuses(&loader, "update samples set id = 'another'").await;
    refuses(&loader, "update lambda.batch_jobs set as_of = now()").await;
    refuses(&loader, "update corrections set before = after").await;
    refuses(&loader, "update xid_offset set value = 1").await;
    refuses(&loader, "select key from dead_letters").await;
    refuses(&loader, "update dead_letters set reason = ''").await;
    refuses(&loader, "create table mine ()").await;
    refuses(&loader, "create role another").await;
    drop_role(&database, &role).await
}

async fn reader_sees(context: Context) -> Result<(), Failure> {
    let (database, role, config) = set_up(&context, Access::Reader).await?;
    let reader = connect(&config, "test").await?;
    for table in ["samples", "transactions", "ingest_progress", "lambda.batch_jobs", "corrections"]
    {
        assert_eq!(count(&reader, table).await?, 0, "{table}");
        refuses(&reader, &format!("delete from {table}")).await;
    }
    reader.query("select lane, position, reason, detail, status from dead_letters", &[]).await?;
    refuses(&reader, "select payload from dead_letters").await;
    refuses(&reader, "select edited_payload from dead_letters").await;
    refuses(&reader, "select headers from dead_letters").await;
    refuses(&reader, "select key from dead_letters").await;
    refuses(&reader, "insert into samples (id) values ('x')").await;
    drop_role(&database, &role).await
}

async fn again(context: Context) -> Result<(), Failure> {
    let (database, mut role, _) = set_up(&context, Access::Reader).await?;
    let owner = database.connect().await?;
    let grants = "select string_agg(acl::text, ',' order by acl::text) from ( \
                      select unnest(relacl) from pg_class where relnamespace = 'public'::regnamespace \
                      union all select unnest(attacl) from pg_attribute) a(acl)";
    let before: Option<String> = owner.query_one(grants, &[]).await?.get(0);
    "another".clone_into(&mut role.password);
    let changes = ensure(database.config(), std::slice::from_ref(&role), &READABLE).await?;
    assert_eq!(changes, [Change::Updated]);
    let after: Option<String> = owner.query_one(grants, &[]).await?.get(0);
    assert!(before.is_some());
    assert_eq!(before, after);
    let config = database.login().with_user(&role.name, "another").config();
    connect(&config, "test").await?;
    drop_role(&database, &role).await
}

async fn any_text(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let name = format!("o\"d'd; -- \\ {}", std::process::id());
    let role = Role { access: Access::Loader, name, password: "'; drop \\ \" ü".into() };
    let changes = ensure(database.config(), std::slice::from_ref(&role), &READABLE).await?;
    assert_eq!(changes, [Change::Created]);
    connect(&database.login().with_user(&role.name, &role.password).config(), "test").await?;
    assert!(!format!("{role:?}").contains("drop"));
    drop_role(&database, &role).await
}

async fn mighty(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let owner = database.login().user.clone();
    let own = Role { access: Access::Loader, name: owner, password: "x".into() };
    let refused = ensure(database.config(), std::slice::from_ref(&own), &READABLE).await;
    assert_eq!(refused.err().map(|error| error.exit_code()), Some(78));

    let reader = Role { access: Access::Reader, name: "twice".into(), password: "x".into() };
    let loader = Role { access: Access::Loader, ..reader.clone() };
    let refused = ensure(database.config(), &[loader, reader], &READABLE).await;
    assert_eq!(refused.err().map(|error| error.exit_code()), Some(78));
    Ok(())
}

async fn at_once(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let role = role(&database, Access::Loader);
    let setup = || ensure(database.config(), std::slice::from_ref(&role), &READABLE);
    let (first, second) = tokio::join!(setup(), setup());
    let mut changes = [first?, second?].concat();
    changes.sort_by_key(|change| *change == Change::Updated);
    assert_eq!(changes, [Change::Created, Change::Updated]);
    drop_role(&database, &role).await
}

async fn restored(context: Context) -> Result<(), Failure> {
    let (database, role, config) = set_up(&context, Access::Loader).await?;
    let sink = PostgresSink::connect(config, &SAMPLES, "sink", 1, None).await?;
    let lane = claim(&sink, "a topic").await?;
    let batch = Draft::new(Authority::Stream, &SAMPLES)
        .lane(&lane, 1)
        .record(0, &Sample::new("a", 100))
        .build();
    sink.commit(&batch, Durability::Durable).await?;
    assert_eq!(restore::adopt(database.config()).await?, None);

    // As after a restore: the identifier of another cluster, and ids far ahead of this one's.
    let owner = database.connect().await?;
    owner.batch_execute("update samples set written_xid = 5000000000").await?;
    owner.batch_execute("update xid_offset set system_identifier = 1").await?;
    let next = Draft::new(Authority::Stream, &SAMPLES)
        .lane(&claim(&sink, "a topic").await?, 2)
        .record(1, &Sample::new("b", 100))
        .build();
    let refused = sink.commit(&next, Durability::Durable).await;
    assert_eq!(refused.err().map(|error| error.exit_code()), Some(78));

    let adopted = restore::adopt(database.config()).await?;
    assert_eq!(adopted.map(|adopted| adopted.claims_cleared), Some(1));
    assert_eq!(restore::adopt(database.config()).await?, None);
    let fenced = sink.commit(&next, Durability::Durable).await?;
    assert_eq!(fenced.fenced, [lane.lane]);

    let next = Draft::new(Authority::Stream, &SAMPLES)
        .lane(&claim(&sink, "a topic").await?, 2)
        .record(1, &Sample::new("b", 100))
        .build();
    sink.commit(&next, Durability::Durable).await?;
    let row = owner.query_one("select written_xid from samples where id = 'b'", &[]).await?;
    assert!(row.get::<_, i64>(0) > 5_000_000_000);
    drop(sink);
    drop_role(&database, &role).await
}

/// The schema's owner may create roles and no more. It created one login, and the same role
/// is granted to another one.
async fn other_login(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let name = database.login().database.clone();
    let [owner, second] = ["owner", "second"].map(|it| format!("{name}_{it}"));
    let admin = database.connect().await?;
    let own = format!(
        "create role {owner} login createrole password 'x'; alter database {name} owner to {owner}"
    );
    admin.batch_execute(&own).await?;
    let owning = database.login().with_user(&owner, "x").config();
    PROTOCOL.migrate(&owning).await?;
    let mine = connect(&owning, "test").await?;
    mine.batch_execute(SAMPLE_DDL).await?;
    registry::register(&owning, &[&SAMPLES]).await?;
    let loader = role(&database, Access::Loader);
    let set_up = async || ensure(&owning, std::slice::from_ref(&loader), &[]).await;
    set_up().await?;
    let login = format!("create role {second} login password 'y' in role {}", loader.name);
    mine.batch_execute(&login).await?;
    set_up().await?;

    let first = database.login().with_user(&loader.name, &loader.password).config();
    let second = database.login().with_user(&second, "y").config();
    for (frozen, claiming) in [(&first, &second), (&second, &first)] {
        let frozen = connect(frozen, "stream").await?;
        let sink = PostgresSink::connect(claiming.clone(), &SAMPLES, "sink", 1, None).await?;
        let before = claim(&sink, "a topic").await?;
        let hold = format!("{LOADER} begin; select from ingest_progress for update");
        frozen.batch_execute(&hold).await?;
        assert_ne!(claim(&sink, "a topic").await?.claim, before.claim);
        assert!(frozen.batch_execute("commit").await.is_err(), "the frozen session was ended");
    }
    // Only a loader is ended, and nothing in another transaction.
    let loader_session = connect(&first, "test").await?;
    for (marks, transaction) in [("", "virtualtransaction"), (LOADER, "'9/9'")] {
        let pid = connect(&owning, "test").await?;
        pid.batch_execute(&format!("{marks} begin; select 1")).await?;
        let end = format!(
            "select count(end_loader(pid, {transaction})) from pg_locks \
             where locktype = 'virtualxid' and pid = $1"
        );
        let of: i32 = pid.query_one("select pg_backend_pid()", &[]).await?.get(0);
        assert_eq!(loader_session.query_one(&end, &[&of]).await?.get::<_, i64>(0), 0, "{marks}");
        pid.batch_execute("commit").await?;
    }
    let superuser = &database.login().user;
    let sql = format!(
        "alter database {name} owner to {superuser}; \
         drop owned by {owner}, {0}, {name}_second cascade; drop role {owner}, {0}, {name}_second",
        loader.name
    );
    Ok(admin.batch_execute(&sql).await?)
}

/// Replaces the password between two logins, and between a login and its refusal.
async fn rotated(context: Context) -> Result<(), Failure> {
    let (database, role, _) = set_up(&context, Access::Reader).await?;
    let admin = database.connect().await?;
    let file = context.folder()?.join("password");
    let login = database.login().with_user(&role.name, "not this one");
    let set = async |password: &str| {
        admin.batch_execute(&format!("alter role {} password '{password}'", role.name)).await
    };
    fs::write(&file, "pass word\n")?;
    let config = login.config().with_password_file(file.clone());
    let untried = login.config().with_password_file(file.clone());
    connect(&config, "test").await?;
    set("second").await?;
    fs::write(&file, "second\n")?;
    connect(&config, "test").await?;

    set("third").await?;
    let replaced = file.clone();
    let port =
        refusals(login.host.clone(), login.port, move || fs::write(&replaced, "third")).await?;
    let late = Login { host: "127.0.0.1".into(), port, ..login }.config();
    connect(&late.with_password_file(file.clone()), "test").await?;

    fs::write(&file, "wrong")?;
    let refused = async |config| connect(config, "test").await.err().map(|it| it.exit_code());
    assert_eq!(refused(&untried).await, Some(78));
    // A standby that has just taken over may not have the password yet.
    assert_eq!(refused(&config).await, Some(75), "it worked before");
    fs::remove_file(&file)?;
    let unreadable = connect(&config, "test").await.err().map(|error| error.chain());
    assert!(unreadable.is_some_and(|it| it.contains("could not read the password")));
    drop_role(&database, &role).await
}

/// Forwards connections to a server, and runs a callback before each refusal of a password.
async fn refusals(
    host: String,
    port: u16,
    before: impl Fn() -> std::io::Result<()> + Send + 'static,
) -> Result<u16, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect((host.as_str(), port)).await?;
            let ((mut asked, mut told), (mut answers, mut server)) =
                (client.into_split(), server.into_split());
            let asking = tokio::spawn(async move { copy(&mut asked, &mut server).await });
            let mut answer = vec![0; 1 << 16];
            loop {
                let read = answers.read(&mut answer).await?;
                if read == 0 {
                    break;
                }
                if answer[..read].windows(5).any(|bytes| bytes == b"28P01") {
                    before()?;
                }
                told.write_all(&answer[..read]).await?;
            }
            asking.abort();
        }
        Ok::<_, std::io::Error>(())
    });
    Ok(at)
}
