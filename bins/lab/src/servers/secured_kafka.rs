//! A test's own Kafka broker, reached over `SASL_SSL` with SCRAM.

use std::sync::Arc;
use std::time::Duration;

use testcontainers_modules::testcontainers::core::{ExecCommand, IntoContainerPort, WaitFor};
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, GenericImage, ImageExt};

use crate::Failure;
use crate::servers::KafkaServer;
use crate::servers::certificates::Identity;
use crate::servers::local_postgres::free_port;
use crate::servers::owner::{OWNER, owner};
use crate::servers::scratch::Scratch;

/// The listener for the tests' own requests, the brokers' own, and the one under test.
const PLAIN: u16 = 9092;
const INTERNAL: u16 = 9093;
const CONTROLLER: u16 = 9094;
const SECURE: u16 = 9095;

/// The broker.
pub struct SecuredKafka {
    container: ContainerAsync<GenericImage>,
    port: u16,
    topics: KafkaServer,
}

impl SecuredKafka {
    /// A broker with this certificate and the name `localhost`.
    pub(crate) async fn start(
        scratch: &Arc<Scratch>,
        identity: &Identity,
    ) -> Result<Self, Failure> {
        scratch.watch_containers()?;
        let (plain, port) = (free_port()?, free_port()?);
        let settings = [
            ("NODE_ID", "1".to_owned()),
            ("PROCESS_ROLES", "broker,controller".into()),
            ("CONTROLLER_QUORUM_VOTERS", format!("1@localhost:{CONTROLLER}")),
            ("CONTROLLER_LISTENER_NAMES", "CONTROLLER".into()),
            ("INTER_BROKER_LISTENER_NAME", "INTERNAL".into()),
            (
                "LISTENERS",
                format!(
                    "PLAIN://:{PLAIN},INTERNAL://:{INTERNAL},CONTROLLER://:{CONTROLLER},\
                     SECURE://:{SECURE}"
                ),
            ),
            (
                "ADVERTISED_LISTENERS",
                format!(
                    "PLAIN://127.0.0.1:{plain},INTERNAL://localhost:{INTERNAL},\
                     SECURE://localhost:{port}"
                ),
            ),
            (
                "LISTENER_SECURITY_PROTOCOL_MAP",
                "PLAIN:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL".into(),
            ),
            ("SASL_ENABLED_MECHANISMS", "SCRAM-SHA-512".into()),
            (
                "LISTENER_NAME_SECURE_SCRAM___SHA___512_SASL_JAAS_CONFIG",
                "org.apache.kafka.common.security.scram.ScramLoginModule required;".into(),
            ),
            ("SSL_KEYSTORE_TYPE", "PEM".into()),
            ("SSL_KEYSTORE_LOCATION", "/tls/server.pem".into()),
            ("OFFSETS_TOPIC_REPLICATION_FACTOR", "1".into()),
            ("TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1".into()),
            ("TRANSACTION_STATE_LOG_MIN_ISR", "1".into()),
            ("GROUP_INITIAL_REBALANCE_DELAY_MS", "0".into()),
            ("AUTO_CREATE_TOPICS_ENABLE", "false".into()),
        ];
        let keystore = format!("{}{}", identity.key, identity.certificate);
        let mut image = GenericImage::new("apache/kafka", "4.3.1")
            .with_wait_for(WaitFor::message_on_stdout("Kafka Server started"))
            .with_mapped_port(plain, PLAIN.tcp())
            .with_mapped_port(port, SECURE.tcp())
            .with_copy_to("/tls/server.pem", keystore.into_bytes())
            .with_label(OWNER, owner())
            .with_startup_timeout(Duration::from_mins(2));
        for (name, value) in settings {
            image = image.with_env_var(format!("KAFKA_{name}"), value);
        }
        let container = image.start().await?;
        Ok(Self { container, port, topics: KafkaServer::at(&format!("127.0.0.1:{plain}")) })
    }

    /// Its address for TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The broker, for topics.
    pub fn broker(&self) -> &KafkaServer {
        &self.topics
    }

    /// Creates a user for SCRAM-SHA-512.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn add_user(&self, name: &str, password: &str) -> Result<(), Failure> {
        let server = format!("localhost:{INTERNAL}");
        let credential = format!("SCRAM-SHA-512=[password={password}]");
        let command = [
            "/opt/kafka/bin/kafka-configs.sh",
            "--bootstrap-server",
            &server,
            "--alter",
            "--add-config",
            &credential,
            "--entity-type",
            "users",
            "--entity-name",
            name,
        ];
        let mut told = self.container.exec(ExecCommand::new(command)).await?;
        let said = String::from_utf8_lossy(&told.stdout_to_vec().await?).into_owned();
        match told.exit_code().await? {
            Some(0) => Ok(()),
            code => Err(format!("kafka-configs.sh ended with {code:?}: {said}").into()),
        }
    }
}
