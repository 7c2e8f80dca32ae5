//! Setup for tests of the stream: a topic, a database, the real binaries, and the check that
//! everything was stored once.

#![allow(dead_code, reason = "no file of tests uses all of it")]

use std::path::PathBuf;
use std::time::Duration;

use lambda_core::postgres::Connection;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::ledger::Ledger;
use lambda_lab::liveness::{self, LIVENESS};
use lambda_lab::processes::{Process, Program, Signal};
use lambda_lab::servers::Database;
use serde_json::Value;

/// Deadline of a process, including a session that must time out first.
pub(crate) const DEADLINE: Duration = LIVENESS;

/// Waits until a query returns this number.
pub(crate) async fn until(sql: &Connection, question: &str, answer: i64) -> Result<(), Failure> {
    let what = format!("it is {answer}: {question}");
    let ask = async || Ok(sql.query_one(question, &[]).await?.try_get::<_, i64>(0)? == answer);
    liveness::until(what, ask).await
}

/// The setup of every test.
pub(crate) struct Bench {
    pub(crate) context: Context,
    pub(crate) database: Database,
    pub(crate) sql: Connection,
    pub(crate) topic: String,
    pub(crate) bootstrap: String,
    pub(crate) ledger: PathBuf,
}

impl Bench {
    pub(crate) async fn new(context: Context, partitions: i32) -> Result<Self, Failure> {
        let topic = context.topic("transactions", partitions).await?;
        Self::on(context, topic).await
    }

    pub(crate) async fn on(context: Context, topic: String) -> Result<Self, Failure> {
        let database = context.database().await?;
        let bootstrap = context.bootstrap().await?;
        Self::with(context, database, topic, bootstrap).await
    }

    /// A bench on the test's own database and broker.
    pub(crate) async fn with(
        context: Context,
        database: Database,
        topic: String,
        bootstrap: String,
    ) -> Result<Self, Failure> {
        let sql = database.connect().await?;
        let ledger = context.folder()?.join("ledger.jsonl");
        Ok(Self { context, database, sql, topic, bootstrap, ledger })
    }

    pub(crate) fn program(&self, path: &str) -> Program {
        self.context
            .program(path)
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.bootstrap)
            .env("KAFKA_TOPIC", &self.topic)
            .env("KAFKA_GROUP_ID", format!("{}-group", self.topic))
            .args(["--output", "json"])
    }

    pub(crate) fn consumer(&self) -> Program {
        let program = self.program(env!("CARGO_BIN_EXE_lambda-consumer"));
        program.envs(self.database.environment())
    }

    /// A producer of repeatable traffic with repeated and invalid messages.
    pub(crate) fn producer(&self, count: u32, rate: u32) -> Program {
        self.traffic(rate).args(["--count", &count.to_string()])
    }

    /// Like [`Self::producer`], but endless: it stops on a signal.
    pub(crate) fn traffic(&self, rate: u32) -> Program {
        self.program(env!("CARGO_BIN_EXE_lambda-producer-stream"))
            .args(["--seed", "7", "--duplicate-ratio", "0.02", "--invalid-ratio", "0.01"])
            .args(["--rate", &rate.to_string(), "--ledger"])
            .arg(&self.ledger)
    }

    /// Sends more messages, others for each `seed`, at full speed, beside the other
    /// producers.
    pub(crate) async fn burst(&self, seed: u32, count: u32) -> Result<(), Failure> {
        let producer = self.program(env!("CARGO_BIN_EXE_lambda-producer-stream"));
        let producer = producer
            .args(["--duplicate-ratio", "0.02", "--invalid-ratio", "0.01", "--rate", "0"])
            .args(["--seed", &seed.to_string(), "--count", &count.to_string(), "--ledger"])
            .arg(self.ledger.with_extension(format!("burst-{seed}")));
        producer.run(DEADLINE).await?.expect_code(0)?;
        Ok(())
    }

    /// The ledger of all producers.
    fn delivered(&self) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::default();
        let folder = self.ledger.parent().ok_or("the ledger has no folder")?;
        for entry in std::fs::read_dir(folder)? {
            ledger.read_on(&entry?.path())?;
        }
        Ok(ledger)
    }

    /// Stops an endless producer, waits until all its messages are stored, stops the consumers,
    /// and checks the result.
    pub(crate) async fn ends_exact(
        &self,
        producer: Process,
        consumers: impl IntoIterator<Item = Process>,
    ) -> Result<(), Failure> {
        producer.signal(Signal::TERM)?;
        producer.wait(DEADLINE).await?.expect_code(0)?;
        let ledger = self.delivered()?;
        let consumers: Vec<Process> = consumers.into_iter().collect();
        if let Err(error) = self.stored(ledger.kinds().all()).await {
            let said: Vec<String> = consumers.iter().map(Process::stderr).collect();
            let (positions, ends) = (self.positions().await?, ledger.ends());
            let places = format!("positions {positions:?} of {ends:?}");
            return Err(format!("{error}; {places}\n{}", said.join("\n")).into());
        }
        for consumer in consumers {
            consumer.signal(Signal::TERM)?;
            consumer.wait(DEADLINE).await?.expect_code(0)?;
        }
        self.is_exact(&ledger).await
    }

    /// Waits until a query returns this number.
    pub(crate) async fn until(&self, question: &str, answer: i64) -> Result<(), Failure> {
        until(&self.sql, question, answer).await
    }

    pub(crate) async fn produce(&self, count: u32) -> Result<Ledger, Failure> {
        self.producer(count, 0).run(DEADLINE).await?.expect_code(0)?;
        let ledger = Ledger::read(&self.ledger)?;
        assert_eq!(ledger.kinds().all(), i64::from(count));
        Ok(ledger)
    }

    pub(crate) async fn consume_to_end(&self) -> Result<Value, Failure> {
        let ended = self.consumer().arg("--exit-at-end").run(DEADLINE).await?.expect_code(0)?;
        Ok(ended.json("topics")?["topics"][0].clone())
    }

    pub(crate) async fn number(&self, sql: &str) -> Result<i64, Failure> {
        Ok(self.sql.query_one(sql, &[]).await?.try_get(0)?)
    }

    pub(crate) async fn read(&self) -> Result<i64, Failure> {
        self.number("select coalesce(sum(read), 0)::bigint from ingest_progress").await
    }

    /// Waits until at least this many messages are stored.
    pub(crate) async fn stored(&self, at_least: i64) -> Result<(), Failure> {
        let what = format!("{at_least} messages were stored");
        let waited = liveness::until(what, async || Ok(self.read().await? >= at_least)).await;
        match waited {
            Err(error) => Err(format!("{error}; stored: {}", self.read().await?).into()),
            done => done,
        }
    }

    /// Waits until the process holds lanes, by the owner stored beside its claims.
    pub(crate) async fn holds_lanes(&self, process: &Process) -> Result<(), Failure> {
        let sql = format!(
            "select count(*) from ingest_progress where owner like '% pid {}'",
            process.pid()
        );
        let held =
            liveness::until("it holds a lane", async || Ok(self.number(&sql).await? > 0)).await;
        held.map_err(|error| format!("{error}:\n{}", process.stderr()).into())
    }

    /// Checks that everything delivered is stored once, and nothing else: by the counts, the
    /// ids, the dead letters' places and bytes, and the positions.
    pub(crate) async fn is_exact(&self, ledger: &Ledger) -> Result<(), Failure> {
        let sum = "select sum(read)::bigint, sum(inserted)::bigint, sum(duplicate)::bigint, \
                   sum(rejected)::bigint from ingest_progress";
        let row = self.sql.query_one(sum, &[]).await?;
        let counts: [i64; 4] = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
        let kinds = ledger.kinds();
        assert_eq!(counts, [kinds.all(), kinds.valid, kinds.duplicate, kinds.invalid]);
        let differences = ledger.compare(&self.sql).await?;
        assert!(differences.is_empty(), "{differences}");
        let unexplained = "select count(*) from dead_letters where reason = '' or detail = ''";
        assert_eq!(self.number(unexplained).await?, 0);
        for (partition, position) in self.positions().await? {
            assert_eq!(position, ledger.ends().get(&partition).copied().unwrap_or_default());
        }
        Ok(())
    }

    /// Stored position of each lane, by its partition.
    async fn positions(&self) -> Result<Vec<(i32, i64)>, Failure> {
        let sql = "select partition, position from ingest_progress";
        let rows = self.sql.query(sql, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
