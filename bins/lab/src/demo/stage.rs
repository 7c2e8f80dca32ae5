//! The demo's servers, topic, database and programs, and the narrator that prints what
//! happens.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::demo::{Options, Verdict};
use crate::processes::{Ended, Program};
use crate::servers::{Database, KafkaServer, PostgresServer, Scratch};

/// Partitions of the demo's topic; the in-process broker keeps 5 MiB of each.
const PARTITIONS: i32 = 12;

/// The loader's role, and its password on the demo's own server.
const LOADER: &str = "lambda_demo_loader";
const LOADER_PASSWORD: &str = "only-for-the-demo";

/// Deadline of a program that ends by itself.
const PATIENCE: Duration = Duration::from_mins(1);

/// Servers, topic, database and programs.
#[derive(Debug)]
pub(super) struct Stage {
    // Dropped in this order: servers before the folder they write to.
    kafka: KafkaServer,
    postgres: PostgresServer,
    database: Database,
    topic: String,
    programs: PathBuf,
    scratch: Arc<Scratch>,
}

impl Stage {
    /// Builds the programs, starts the servers and sets up the schema.
    pub(super) async fn set(
        options: &Options,
        narrator: &mut Narrator<'_>,
    ) -> Result<Self, Failure> {
        let programs = match &options.programs {
            Some(folder) => folder.clone(),
            None => build()?,
        };
        let scratch = Arc::new(Scratch::new()?);
        let postgres = match &options.database_url {
            Some(url) => PostgresServer::at(url).await?,
            None => PostgresServer::local(&scratch).await?,
        };
        let kafka = match &options.bootstrap_servers {
            Some(servers) => KafkaServer::at(servers),
            None => KafkaServer::in_process()?,
        };
        let database = postgres.empty_database().await?;
        let topic = kafka.topic("transactions", PARTITIONS).await?;
        let stage = Self { kafka, postgres, database, topic, programs, scratch };
        let login = stage.database.login();
        narrator.tell(
            "servers",
            format_args!(
                "PostgreSQL {} at {}:{}, Kafka at {}{}",
                stage.version().await?,
                login.host,
                login.port,
                stage.kafka.bootstrap(),
                if options.bootstrap_servers.is_none() { " (in this process)" } else { "" },
            ),
        )?;
        let setup = stage.program("lambda-db-setup").envs(login.environment());
        let setup = setup.env("DB_LOADER_USER", LOADER).env("DB_LOADER_PASSWORD", LOADER_PASSWORD);
        narrator.output("lambda-db-setup", &stage.run(&setup).await?)?;
        Ok(stage)
    }

    async fn version(&self) -> Result<String, Failure> {
        let sql = "select split_part(current_setting('server_version'), ' ', 1)";
        Ok(self.database.connect().await?.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// The database, as its owner.
    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// The folder that is removed with the demo.
    pub(super) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// One of the platform's programs, with the environment that a deployment sets: the
    /// database with the loader's role, topic and brokers.
    pub(super) fn loader(&self, name: &str) -> Program {
        let login = self.database.login().with_user(LOADER, LOADER_PASSWORD);
        self.program(name)
            .envs(login.environment())
            .env("KAFKA_BOOTSTRAP_SERVERS", self.kafka.bootstrap())
            .env("KAFKA_TOPIC", &self.topic)
    }

    /// One of the platform's programs, as the schema's owner.
    pub(super) fn operator(&self, name: &str) -> Program {
        self.program(name).envs(self.database.login().environment())
    }

    fn program(&self, name: &str) -> Program {
        Program::new(self.programs.join(name), &self.scratch)
    }

    /// Runs a program that must succeed, and returns its output.
    pub(super) async fn run(&self, program: &Program) -> Result<String, Failure> {
        let Ended { stdout, .. } = program.run(PATIENCE).await?.expect_code(0)?;
        Ok(stdout)
    }

    /// Ends everything; removes database, role and topic from servers that are not the
    /// demo's.
    pub(super) async fn clear(self) {
        let admin = self.database.clone();
        if let Ok(connection) = admin.connect().await {
            let _ = connection.batch_execute(&format!("drop owned by {LOADER}")).await;
            let _ = connection.batch_execute(&format!("drop role {LOADER}")).await;
        }
        let _ = self.database.drop().await;
        self.kafka.close(&[self.topic]).await;
        self.postgres.close().await;
    }
}

/// Builds the platform's programs beside this one, in the same way.
fn build() -> Result<PathBuf, Failure> {
    let this = env::current_exe()?;
    let folder = this.parent().ok_or("this program is in no folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // The variables that `cargo run` sets for this package would make cargo rebuild what
    // depends on them.
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"CARGO_PKG_")
            || name.as_encoded_bytes().starts_with(b"CARGO_MANIFEST_")
        {
            build.env_remove(name);
        }
    }
    let status = build
        // Named together, so that their dependencies have the same features and are built once.
        .args(["build", "--package", "lambda-bins", "--package", "lambda-lab", "--bins"])
        .args(["--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("could not run cargo: {error}"))?;
    if status.success() {
        Ok(folder.to_owned())
    } else {
        Err("the platform's programs could not be built".into())
    }
}

/// Prints what happens, and when.
pub(super) struct Narrator<'a> {
    out: &'a mut (dyn Write + Send),
    began: Instant,
}

impl<'a> Narrator<'a> {
    /// Prints to `out`, with seconds since `began`.
    pub(super) fn new(out: &'a mut (dyn Write + Send), began: Instant) -> Self {
        Self { out, began }
    }

    /// Prints one line: time, subject, text.
    pub(super) fn tell(&mut self, about: &str, what: std::fmt::Arguments<'_>) -> io::Result<()> {
        let seconds = self.began.elapsed().as_secs_f64();
        writeln!(self.out, "{seconds:6.1} s  {about:<18}{what}")?;
        self.out.flush()
    }

    /// Prints a line that continues the one before.
    pub(super) fn more(&mut self, what: std::fmt::Arguments<'_>) -> io::Result<()> {
        writeln!(self.out, "{:28}{what}", "")?;
        self.out.flush()
    }

    /// Prints a program's output.
    pub(super) fn output(&mut self, program: &str, output: &str) -> io::Result<()> {
        for (number, line) in output.lines().enumerate() {
            if number == 0 {
                self.tell(program, format_args!("{line}"))?;
            } else {
                self.more(format_args!("{line}"))?;
            }
        }
        Ok(())
    }

    /// Prints what was compared, and whether it agrees.
    pub(super) fn verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        self.tell("ledger and SQL", format_args!("the producer's ledger and the tables"))?;
        for check in verdict.checks() {
            let sign = if check.holds { "ok    " } else { "BROKEN" };
            self.more(format_args!("{sign}  {}: {}", check.promise, check.found))?;
        }
        Ok(())
    }

    /// Prints the last line.
    pub(super) fn end(&mut self, holds: bool, took: Duration) -> io::Result<()> {
        let what = if holds { "every promise held" } else { "A PROMISE WAS BROKEN" };
        self.tell("done", format_args!("{what}; this took {:.0} s", took.as_secs_f64()))
    }
}
