//! A test harness for promises that only real servers can show.
//!
//! A test binary with `harness = false` consists of one `main`:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     lambda_lab::harness::main(|suite| {
//!         suite.postgres("a new database is empty", async |context| {
//!             let connection = context.database().await?.connect().await?;
//!             let row = connection.query_one("select count(*) from transactions", &[]).await?;
//!             assert_eq!(row.get::<_, i64>(0), 0);
//!             Ok(())
//!         });
//!     })
//! }
//! ```
//!
//! Servers are started when the first selected test needs them, once for the binary. A test
//! that needs something that this machine lacks is reported as ignored, never as
//! passed.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::processes::Program;
use crate::servers::certificates::Identity;
use crate::servers::postgres::Collation;
use crate::servers::{
    Database, OwnKafka, OwnPostgres, PgBouncer, SecuredKafka, Servers, SmallDiskPostgres, docker,
    pgbouncer, shared,
};

/// Deadline of a test, after which it counts as hung.
const DEADLINE: Duration = Duration::from_mins(1);

/// Number of concurrent tests, unless the command line sets it: tests wait for servers,
/// timeouts and each other's sessions more than they compute.
const AT_ONCE: usize = 3;

/// Requirement of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Postgres,
    Kafka,
    RealKafka,
    Docker,
    PgBouncer,
}

/// State that all tests of a binary share.
struct Shared {
    servers: Servers,
    runtime: Runtime,
}

/// Collects tests. Each has a name that reads as a promise and a body
/// `async |context| { …; Ok(()) }`. A panic, an error and a missed deadline are
/// failures.
pub struct Suite {
    shared: Arc<Shared>,
    deadline: Duration,
    trials: Vec<Trial>,
}

impl Suite {
    /// Gives tests added from here on this many seconds instead of 60.
    pub fn deadline(&mut self, seconds: u64) {
        self.deadline = Duration::from_secs(seconds);
    }

    /// Adds a test that needs no server, or starts what it needs by itself.
    pub fn plain<B>(&mut self, name: &str, body: B)
    where
        B: AsyncFnOnce(Context) -> Result<(), Failure> + Send + 'static,
    {
        self.add(Need::Nothing, name, body);
    }

    /// Adds a test that needs PostgreSQL.
    pub fn postgres<B>(&mut self, name: &str, body: B)
    where
        B: AsyncFnOnce(Context) -> Result<(), Failure> + Send + 'static,
    {
        self.add(Need::Postgres, name, body);
    }

    /// Adds a test that needs Kafka, or a broker that speaks its protocol; it may ask for a
    /// database too.
    pub fn kafka<B>(&mut self, name: &str, body: B)
    where
        B: AsyncFnOnce(Context) -> Result<(), Failure> + Send + 'static,
    {
        self.add(Need::Kafka, name, body);
    }

    /// Adds a test that needs a real Kafka broker; ignored where there is none.
    pub fn real_kafka<B>(&mut self, name: &str, body: B)
    where
        B: AsyncFnOnce(Context) -> Result<(), Failure> + Send + 'static,
    {
        self.add(Need::RealKafka, name, body);
    }

    /// Adds a test that starts its own containers; ignored where no Docker engine
    /// answers.
    pub fn docker<B>(&mut self, name: &str, body: B)
    where
        B: AsyncFnOnce(Context) -> Result<(), Failure> + Send + 'static,
    {
        self.add(Need::Docker, name, body);
    }

    /// Adds a test that needs PostgreSQL and the program of PgBouncer; ignored where there is
    /// none.
    pub fn pgbouncer<B>(&mut self, name: &str, body: B)
    where
        B: AsyncFnOnce(Context) -> Result<(), Failure> + Send + 'static,
    {
        self.add(Need::PgBouncer, name, body);
    }

    /// Adds a test that these programs cannot pass as built; it is reported as ignored.
    pub fn ignored(&mut self, name: &str, why: &'static str) {
        let ignored = move || Ok(Completion::ignored_with(why));
        self.trials.push(Trial::ignorable_test(name, ignored));
    }

    fn add<B>(&mut self, need: Need, name: &str, body: B)
    where
        B: AsyncFnOnce(Context) -> Result<(), Failure> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let deadline = self.deadline;
        let thread_name = name.to_owned();
        self.trials.push(Trial::ignorable_test(name, move || {
            if let Some(reason) = shared.runtime.block_on(prepare(&shared.servers, need))? {
                return Ok(Completion::ignored_with(reason));
            }
            run(&shared, thread_name, deadline, body)?;
            Ok(Completion::Completed)
        }));
    }
}

/// Runs the tests that `define` adds, as the command line selects them.
pub fn main(define: impl FnOnce(&mut Suite)) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    // Logs errors only, unless RUST_LOG asks for more.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .try_init();
    let shared = match start() {
        Ok(shared) => Arc::new(shared),
        Err(error) => {
            tracing::error!("{}", crate::chain(&*error));
            return ExitCode::FAILURE;
        }
    };
    let mut suite = Suite { shared: Arc::clone(&shared), deadline: DEADLINE, trials: Vec::new() };
    define(&mut suite);
    let conclusion = libtest_mimic::run(&arguments, suite.trials);
    drop(suite.shared);
    end(shared);
    conclusion.exit_code()
}

fn start() -> Result<Shared, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(Shared { servers: Servers::new()?, runtime })
}

/// Ends the servers. A test that hangs may still hold them: they then end with the process,
/// by their guard.
fn end(shared: Arc<Shared>) {
    shared.runtime.block_on(shared.servers.close());
    if let Some(Shared { servers, runtime }) = Arc::into_inner(shared) {
        let _inside = runtime.enter();
        drop(servers);
    }
}

/// Starts what a test needs; `Some` is the reason why it must be ignored.
async fn prepare(servers: &Servers, need: Need) -> Result<Option<&'static str>, Failed> {
    let prepared = async {
        match need {
            Need::Nothing => {}
            Need::Postgres => {
                servers.postgres().await?;
            }
            Need::Kafka => {
                servers.kafka().await?;
            }
            Need::RealKafka => {
                if !shared::real_kafka_is_available().await? {
                    return Ok(Some("needs a real Kafka broker, and no Docker engine answers"));
                }
                servers.kafka().await?;
            }
            Need::Docker => {
                if !docker::available().await? {
                    return Ok(Some("needs containers, and no Docker engine answers"));
                }
            }
            Need::PgBouncer => {
                if pgbouncer::find().is_none() {
                    return Ok(Some("needs pgbouncer, which is not installed"));
                }
                servers.postgres().await?;
            }
        }
        Ok(None)
    };
    prepared.await.map_err(|error: Failure| Failed::from(crate::chain(&*error)))
}

/// Runs a body on a thread of its own, so that the deadline also applies to a body that
/// blocks.
fn run<B>(shared: &Arc<Shared>, name: String, deadline: Duration, body: B) -> Result<(), Failed>
where
    B: AsyncFnOnce(Context) -> Result<(), Failure> + Send + 'static,
{
    let (tell, told) = mpsc::channel();
    let inside = Arc::clone(shared);
    let spawned = thread::Builder::new().name(name).spawn(move || {
        let context = Context { shared: inside, used: Arc::default() };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            context.shared.runtime.block_on(body(context.clone()))
        }));
        context.shared.runtime.block_on(context.clean_up());
        let outcome = match outcome {
            Ok(outcome) => outcome.map_err(|error| crate::chain(&*error)),
            Err(panic) => Err(panic_text(&*panic)),
        };
        drop(context);
        let _ = tell.send(outcome);
    });
    spawned.map_err(|error| Failed::from(format!("could not start the test's thread: {error}")))?;
    match told.recv_timeout(deadline) {
        Ok(outcome) => outcome.map_err(Failed::from),
        Err(_) => Err(format!("not done within {} s", deadline.as_secs()).into()),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panicked".into())
}

/// Resources for a test. Everything it gets is its own and is removed with it.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    used: Arc<Mutex<Used>>,
}

/// Resources to be removed after a test.
#[derive(Default)]
struct Used {
    databases: Vec<Database>,
    topics: Vec<String>,
    folders: Vec<PathBuf>,
}

impl Context {
    /// A fresh database with the current schema.
    ///
    /// # Errors
    /// When PostgreSQL cannot be started, or refuses.
    pub async fn database(&self) -> Result<Database, Failure> {
        let postgres = self.shared.servers.postgres().await?;
        Ok(self.keep(postgres.database(Collation::Default).await?))
    }

    /// Like [`Context::database`], with text ordered by ICU's `en-US`.
    ///
    /// # Errors
    /// As for [`Context::database`].
    pub async fn icu_database(&self) -> Result<Database, Failure> {
        let postgres = self.shared.servers.postgres().await?;
        Ok(self.keep(postgres.database(Collation::Icu).await?))
    }

    /// A fresh database without a schema.
    ///
    /// # Errors
    /// As for [`Context::database`].
    pub async fn empty_database(&self) -> Result<Database, Failure> {
        let postgres = self.shared.servers.postgres().await?;
        Ok(self.keep(postgres.empty_database().await?))
    }

    /// Address of Kafka, for `bootstrap.servers`.
    ///
    /// # Errors
    /// When Kafka cannot be started.
    pub async fn bootstrap(&self) -> Result<String, Failure> {
        Ok(self.shared.servers.kafka().await?.bootstrap().to_owned())
    }

    /// A new topic with a unique name, which begins with `prefix`.
    ///
    /// # Errors
    /// When Kafka cannot be started, or refuses.
    pub async fn topic(&self, prefix: &str, partitions: i32) -> Result<String, Failure> {
        let topic = self.shared.servers.kafka().await?.topic(prefix, partitions).await?;
        self.used().topics.push(topic.clone());
        Ok(topic)
    }

    /// This test's own PostgreSQL, to be broken: a local one, with `settings`
    /// (`name=value`) beside the usual ones.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn own_postgres(&self, settings: &[&str]) -> Result<OwnPostgres, Failure> {
        OwnPostgres::start(self.shared.servers.scratch(), settings, &[]).await
    }

    /// Like [`Context::own_postgres`], with TLS by this certificate; `access` are the lines
    /// of its `pg_hba.conf`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn tls_postgres(
        &self,
        identity: &Identity,
        access: &str,
    ) -> Result<OwnPostgres, Failure> {
        let files = [
            ("server.crt", identity.certificate.as_str()),
            ("server.key", identity.key.as_str()),
            ("pg_hba.conf", access),
        ];
        OwnPostgres::start(self.shared.servers.scratch(), &["ssl=on", "log_connections=on"], &files)
            .await
    }

    /// This test's own PostgreSQL with a tablespace on a disk of this many bytes.
    /// For tests that need a Docker engine only.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn small_disk_postgres(&self, bytes: i64) -> Result<SmallDiskPostgres, Failure> {
        SmallDiskPostgres::start(self.shared.servers.scratch(), bytes).await
    }

    /// PgBouncer in front of a database, with `settings` (`name=value`). Only for tests that
    /// need it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn pgbouncer(
        &self,
        database: &Database,
        settings: &[&str],
    ) -> Result<PgBouncer, Failure> {
        PgBouncer::start(self.shared.servers.scratch(), database.login(), settings).await
    }

    /// This test's own Kafka cluster, to be broken, with its own id; on `port` if it is given.
    /// Only for tests that need the real one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn own_kafka(&self, port: Option<u16>) -> Result<OwnKafka, Failure> {
        OwnKafka::start(self.shared.servers.scratch(), port).await
    }

    /// This test's own Kafka broker, reached over TLS. Only for tests that need a Docker
    /// engine.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn secured_kafka(&self, identity: &Identity) -> Result<SecuredKafka, Failure> {
        SecuredKafka::start(self.shared.servers.scratch(), identity).await
    }

    /// A new empty folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        let folder = self.shared.servers.scratch().folder("test")?;
        self.used().folders.push(folder.clone());
        Ok(folder)
    }

    /// A program to start, whose environment names nothing yet.
    pub fn program(&self, path: impl Into<PathBuf>) -> Program {
        Program::new(path, self.shared.servers.scratch())
    }

    fn keep(&self, database: Database) -> Database {
        self.used().databases.push(database.clone());
        database
    }

    fn used(&self) -> std::sync::MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn clean_up(&self) {
        let used = std::mem::take(&mut *self.used());
        for database in used.databases {
            if let Err(error) = database.drop().await {
                tracing::warn!("could not drop a test's database: {error}");
            }
        }
        if !used.topics.is_empty()
            && let Ok(kafka) = self.shared.servers.kafka().await
        {
            kafka.close(&used.topics).await;
        }
        for folder in used.folders {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
