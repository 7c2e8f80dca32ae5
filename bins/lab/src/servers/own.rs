//! A test's own servers, to be killed, frozen and started again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lambda_core::postgres::connection::connect;
use testcontainers_modules::kafka::apache::{self, KAFKA_PORT};
use testcontainers_modules::testcontainers::core::Mount;
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ImageExt};
use uuid::Uuid;

use crate::Failure;
use crate::servers::local_postgres::{LocalPostgres, free_port};
use crate::servers::postgres::Collation;
use crate::servers::scratch::Scratch;
use crate::servers::{Database, KafkaServer, PostgresServer, containers};

/// A test's own PostgreSQL.
#[derive(Debug)]
pub struct OwnPostgres {
    databases: PostgresServer,
    /// The server's processes.
    pub server: LocalPostgres,
}

impl OwnPostgres {
    pub(crate) async fn start(
        scratch: &Arc<Scratch>,
        settings: &[&str],
        files: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let server = LocalPostgres::start(scratch, settings, files).await?;
        Ok(Self { databases: PostgresServer::borrowed(server.admin().clone()), server })
    }

    /// A fresh database with the current schema.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn database(&self) -> Result<Database, Failure> {
        self.databases.database(Collation::Default).await
    }
}

/// A test's own PostgreSQL, in a container, with a small disk.
#[derive(Debug)]
pub struct SmallDiskPostgres {
    databases: PostgresServer,
}

impl SmallDiskPostgres {
    /// The tablespace on the small disk.
    pub const TABLESPACE: &str = "small";

    pub(crate) async fn start(scratch: &Arc<Scratch>, bytes: i64) -> Result<Self, Failure> {
        let disk = Mount::tmpfs_mount("/small").with_size_bytes(bytes).with_mode(0o1777);
        let request = containers::postgres().with_mount(disk);
        let databases = containers::start_postgres(scratch, request).await?;
        let admin = connect(&databases.admin().config(), "lab").await?;
        // Created by the server itself, which must own the folder.
        admin.batch_execute("copy (select) to program 'mkdir /small/tables'").await?;
        let create = format!("create tablespace {} location '/small/tables'", Self::TABLESPACE);
        admin.batch_execute(&create).await?;
        Ok(Self { databases })
    }

    /// A fresh database with the current schema, on the large disk.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn database(&self) -> Result<Database, Failure> {
        self.databases.database(Collation::Default).await
    }
}

/// Folder of the logs in a broker's container.
const LOGS: &str = "/var/lib/lambda-lab";

/// Offsets in a record batch of a log: its first offset, its length, and the distance of its
/// last offset from the first.
const BASE_OFFSET: u64 = 0;
const BATCH_LENGTH: u64 = 8;
const LAST_OFFSET_DELTA: u64 = 23;

/// Bytes of a batch up to and including its length.
const BATCH_HEAD: u64 = 12;

/// A test's own Kafka broker, in a container.
pub struct OwnKafka {
    container: ContainerAsync<apache::Kafka>,
    port: u16,
    topics: KafkaServer,
    logs: PathBuf,
}

impl OwnKafka {
    /// A new cluster with its own id, on `port` if it is given: the earlier listener on that
    /// port must be gone.
    pub(crate) async fn start(scratch: &Arc<Scratch>, port: Option<u16>) -> Result<Self, Failure> {
        scratch.watch_containers()?;
        let port = port.map_or_else(free_port, Ok)?;
        let mut id = Uuid::new_v4().simple().to_string();
        id.truncate(22);
        let logs = scratch.folder("kafka")?;
        // The broker runs as another user.
        fs::set_permissions(&logs, fs::Permissions::from_mode(0o777))?;
        let container = containers::kafka()
            .with_env_var("CLUSTER_ID", id)
            .with_env_var("KAFKA_LOG_DIRS", LOGS)
            .with_mount(Mount::bind_mount(logs.to_string_lossy(), LOGS))
            .with_mapped_port(port, KAFKA_PORT)
            .start()
            .await?;
        Ok(Self { container, port, topics: KafkaServer::at(&format!("127.0.0.1:{port}")), logs })
    }

    /// Truncates a partition's log, as a power failure does with what was not yet on disk: at
    /// the first batch that has `offset` or a later one. Call it while the broker is killed.
    /// Returns the offset at which the log ends.
    ///
    /// # Errors
    /// When there is no such log.
    pub fn cut(&self, topic: &str, partition: i32, offset: i64) -> io::Result<i64> {
        let path = self.first_segment(topic, partition);
        let log = OpenOptions::new().read(true).write(true).open(path)?;
        let length = log.metadata()?.len();
        let (mut at, mut end) = (0, 0);
        while at + BATCH_HEAD < length {
            let base = i64::from_be_bytes(read_at(&log, at + BASE_OFFSET)?);
            let last = base + i64::from(i32::from_be_bytes(read_at(&log, at + LAST_OFFSET_DELTA)?));
            if last >= offset {
                break;
            }
            let length = i32::from_be_bytes(read_at(&log, at + BATCH_LENGTH)?);
            at += BATCH_HEAD + u64::from(length.unsigned_abs());
            end = last + 1;
        }
        log.set_len(at)?;
        log.sync_all()?;
        Ok(end)
    }

    /// The file of a partition's first segment.
    pub fn first_segment(&self, topic: &str, partition: i32) -> PathBuf {
        self.logs.join(format!("{topic}-{partition}")).join(format!("{:020}.log", 0))
    }

    /// Its address on the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The broker, for topics and clients.
    pub fn broker(&self) -> &KafkaServer {
        &self.topics
    }

    /// Kills it.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn kill(&self) -> Result<(), Failure> {
        Ok(self.container.stop_with_timeout(Some(0)).await?)
    }

    /// Starts it again after [`OwnKafka::kill`], on the same port and data.
    ///
    /// # Errors
    /// When the engine refuses, or it does not get ready.
    pub async fn start_again(&self) -> Result<(), Failure> {
        // The log line that a start waits for was already written by the first start.
        self.container.start().await?;
        self.topics.until_answering(Duration::from_mins(2)).await
    }

    /// Freezes all its processes, so that it runs but does not answer.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn freeze(&self) -> Result<(), Failure> {
        Ok(self.container.pause().await?)
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn thaw(&self) -> Result<(), Failure> {
        Ok(self.container.unpause().await?)
    }

    /// Removes it with all its data.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn remove(self) -> Result<(), Failure> {
        Ok(self.container.rm().await?)
    }
}

fn read_at<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
