//! The one place that says what a server's code means and what to do about it.

use crate::error::Kind;

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What to do with the work at hand.
    pub kind: Kind,
    /// What a person can do.
    pub remedy: &'static str,
}

const fn verdict(kind: Kind, remedy: &'static str) -> Verdict {
    Verdict { kind, remedy }
}

/// Statements that a session has prepared are not there, or another session's are:
/// a pooler in between gives each transaction to any backend.
const POOLER: &str = "\
    PgBouncer or another pooler in transaction mode is between here and the server, which \
    shares prepared statements, settings and locks among its clients: connect to the server \
    itself, or set the pooler's pool_mode to session";

/// What a SQLSTATE means for a loader.
pub fn of_sqlstate(code: &str) -> Verdict {
    use Kind::{Data, Fatal, Transient};
    match code {
        "28P01" => verdict(Fatal, "check DB_USER and DB_PASSWORD"),
        "28000" => verdict(
            Fatal,
            "check DB_USER and DB_SSLMODE against the server's pg_hba.conf (hostssl wants TLS)",
        ),
        "3D000" => verdict(Fatal, "check DB_NAME, or create the database"),
        "3F000" | "42P01" | "42703" | "42704" | "42883" => {
            verdict(Fatal, "the schema is not this version's: run lambda-db-setup")
        }
        "42501" => verdict(Fatal, "the role lacks a grant: run lambda-db-setup"),
        "25P03" | "25P04" => {
            verdict(Transient, "a timeout ended the transaction: check transaction_timeout")
        }
        "54000" => verdict(Data, "a record is too large for an index: see the dead letters"),
        // Not of a record: what was sent is of another type than the column, or was cut.
        "22P03" | "22P04" => verdict(
            Fatal,
            "a column's type is not the record's: compare the table with this version's, or run \
             lambda-db-setup",
        ),
        "0A000" => {
            verdict(Fatal, "look for row security, rules and foreign tables where rows are stored")
        }
        "26000" | "42P05" => verdict(Fatal, POOLER),
        "25006" => verdict(Transient, "the server is read-only: check that this is the primary"),
        "53100" => verdict(Transient, "the disk is full: make room on the database server"),
        "53200" => verdict(Transient, "the server is out of memory"),
        "53300" => {
            verdict(Transient, "too many connections: raise max_connections or lower the pool")
        }
        "55P03" => verdict(Transient, "a lock is held for long: look at pg_stat_activity"),
        "57014" => verdict(Transient, "a timeout cancelled the statement: check statement_timeout"),
        "57P01" | "57P02" | "57P03" => verdict(Transient, "the server is starting or stopping"),
        _ => match code.get(..2).unwrap_or_default() {
            "08" => verdict(Transient, "check the network between here and the server"),
            "22" | "23" => {
                verdict(Data, "a record breaks a rule of the table: see the dead letters")
            }
            "40" => verdict(Transient, "concurrent transactions collided"),
            "53" => verdict(Transient, "the server lacks a resource"),
            "55" | "57" | "58" => verdict(Transient, "look at the database server's log"),
            "P0" => verdict(Data, "a trigger refuses the record: see the dead letters"),
            _ => verdict(Fatal, "look at the database server's log"),
        },
    }
}

#[cfg(feature = "kafka")]
pub(crate) use self::of_kafka::REACH_BROKERS;
#[cfg(feature = "kafka")]
pub use self::of_kafka::{distrusted, kafka, needs_a_person, of_kafka};

#[cfg(feature = "kafka")]
mod of_kafka {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};

    use super::{Kind, Verdict, verdict};
    use crate::error::{Error, Server};

    /// What to look at when no broker answers.
    pub(crate) const REACH_BROKERS: &str =
        "check KAFKA_BOOTSTRAP_SERVERS and the network to the brokers";

    /// What a code of librdkafka or of a broker means for a reader or a producer.
    ///
    /// What is not known to need a person is transient: brokers come and go, and a
    /// client that gives up helps nobody.
    pub fn of_kafka(code: RDKafkaErrorCode) -> Verdict {
        use Kind::{Data, Fatal, Transient};
        use RDKafkaErrorCode as Code;
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset => verdict(
                Fatal,
                "the topic no longer holds what was to be read next: it was recreated, or messages \
                 expired unread; look at the topic's retention before you start anew",
            ),
            Code::Authentication | Code::SaslAuthenticationFailed | Code::IllegalSASLState => {
                verdict(Fatal, "check sasl.username and sasl.password in KAFKA_CONFIG")
            }
            Code::UnsupportedSASLMechanism => {
                verdict(Fatal, "set sasl.mechanism in KAFKA_CONFIG to one that the brokers offer")
            }
            Code::TopicAuthorizationFailed => {
                verdict(Fatal, "grant this user Read (a producer: Write) and Describe on the topic")
            }
            Code::GroupAuthorizationFailed => {
                verdict(Fatal, "grant this user Read on the consumer group")
            }
            Code::ClusterAuthorizationFailed => {
                verdict(Fatal, "grant this user IdempotentWrite on the cluster")
            }
            Code::InconsistentGroupProtocol => verdict(
                Fatal,
                "another member of this consumer group uses another assignor: stop it, or use \
                 another KAFKA_GROUP_ID",
            ),
            Code::FencedInstanceId => verdict(
                Fatal,
                "another member of this consumer group has the same group.instance.id: give each \
                 its own in KAFKA_CONFIG (the pod's name), or leave it out",
            ),
            Code::UnreleasedInstanceId => verdict(
                Transient,
                "another member of this consumer group has the same group.instance.id: stop it, \
                 or give each its own in KAFKA_CONFIG (the pod's name)",
            ),
            Code::InvalidTopic | Code::InvalidGroupId | Code::InvalidSessionTimeout => {
                verdict(Fatal, "check KAFKA_TOPIC, KAFKA_GROUP_ID and session.timeout.ms")
            }
            Code::UnsupportedVersion | Code::UnsupportedFeature | Code::UnsupportedAssignor => {
                verdict(Fatal, "the brokers are too old for a setting in KAFKA_CONFIG")
            }
            Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessageSize => {
                verdict(Data, "the brokers refuse the message: compare message.max.bytes")
            }
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                verdict(Transient, "create the topic, or check KAFKA_TOPIC")
            }
            // Of one broker of several perhaps, whose certificate is about to be replaced:
            // the others are gone on with.
            Code::SSL => verdict(
                Transient,
                "set ssl.ca.location in KAFKA_CONFIG to the authority that signed the brokers' \
                 certificates, and KAFKA_BOOTSTRAP_SERVERS to names that these hold",
            ),
            Code::Resolve
            | Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::OperationTimedOut => verdict(Transient, REACH_BROKERS),
            _ => verdict(Transient, "look at the brokers' logs"),
        }
    }

    /// Whether librdkafka would try for ever what only a person can mend.
    pub fn needs_a_person(code: RDKafkaErrorCode) -> bool {
        of_kafka(code).kind == Kind::Fatal
    }

    /// Brokers at `bootstrap` and we did not agree on TLS: librdkafka's `reason`, which
    /// does not tell an unknown authority from another host's certificate.
    pub fn distrusted(bootstrap: &str, reason: String) -> Error {
        Error::Misconfigured {
            what: format!("a certificate of the brokers at {bootstrap} cannot be verified"),
            remedy: of_kafka(RDKafkaErrorCode::SSL).remedy.into(),
            source: Some(reason.into()),
        }
    }

    /// An error met while doing `what` ("read the topic's metadata").
    pub fn kafka(error: KafkaError, what: &'static str) -> Error {
        use RDKafkaErrorCode as Code;
        let code = match &error {
            // The binding's own accessor gives none for these.
            KafkaError::AdminOp(code) => Some(*code),
            error => error.rdkafka_error_code(),
        };
        let Verdict { kind, remedy } =
            code.map_or(verdict(Kind::Transient, "look at the brokers' logs"), of_kafka);
        match (kind, code) {
            (Kind::Fatal | Kind::Data, _) => Error::Misconfigured {
                what: format!("Kafka cannot {what}"),
                remedy: remedy.into(),
                source: Some(Box::new(error)),
            },
            (
                _,
                Some(
                    Code::Resolve
                    | Code::AllBrokersDown
                    | Code::BrokerTransportFailure
                    | Code::OperationTimedOut,
                ),
            ) => {
                let source = format!("{error}; {remedy}").into();
                Error::Unreachable { server: Server::Kafka, source }
            }
            _ => Error::Temporary { server: Server::Kafka, what, remedy, source: Box::new(error) },
        }
    }
}

#[cfg(feature = "postgres")]
pub use self::of_postgres::{connecting, own_tables, postgres};

#[cfg(feature = "postgres")]
mod of_postgres {
    use std::error::Error as _;

    use super::{Kind, POOLER, Verdict, of_sqlstate};
    use crate::error::{Error, Server, causes};
    use crate::postgres::config::DatabaseConfig;

    /// An error met while doing `what` ("store a batch").
    ///
    /// The server's detail and context hold values of rows, so only its code,
    /// message and the constraint's or column's name are kept; and no message where
    /// it may quote a value (`invalid input syntax`) or is a trigger's own.
    pub fn postgres(error: tokio_postgres::Error, what: &'static str) -> Error {
        let Some(db) = error.as_db_error() else { return without_code(error, what) };
        let code = db.code().code().to_owned();
        let Verdict { kind, remedy } = verdict_of(&code, db.message());
        let cause = if quotes_values(&code) {
            format!("its log says more (SQLSTATE {code})")
        } else {
            format!("{} (SQLSTATE {code})", db.message())
        };
        match kind {
            Kind::Fatal if code == "0A000" => Error::Unsupported { what, source: cause.into() },
            // It is there and lets nobody in.
            Kind::Transient if matches!(code.as_str(), "53300" | "57P01" | "57P02" | "57P03") => {
                let source = format!("{cause}; {remedy}").into();
                Error::Unreachable { server: Server::Postgres, source }
            }
            Kind::Data => Error::Refused {
                code,
                object: db.constraint().or(db.column()).unwrap_or_default().to_owned(),
                source: cause.into(),
            },
            Kind::Transient | Kind::Fenced => {
                Error::Temporary { server: Server::Postgres, what, remedy, source: cause.into() }
            }
            Kind::Fatal => Error::Misconfigured {
                what: format!("PostgreSQL cannot {what}"),
                remedy: remedy.into(),
                source: Some(cause.into()),
            },
        }
    }

    /// What an error means. PgBouncer has one code for all that it says itself.
    fn verdict_of(code: &str, message: &str) -> Verdict {
        if code == "08P01" && message.contains("pooling mode") {
            return Verdict { kind: Kind::Fatal, remedy: POOLER };
        }
        of_sqlstate(code)
    }

    /// Whether the message with this code may hold a value of a row: it is about data,
    /// or of a class that only triggers use.
    fn quotes_values(code: &str) -> bool {
        const OF_THE_SERVER: [&str; 16] = [
            "08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58",
            "F0", "XX",
        ];
        !code.get(..2).is_some_and(|class| OF_THE_SERVER.contains(&class))
    }

    /// As [`postgres`], for what is written to the platform's own tables: no record
    /// is to blame for a refusal there.
    pub fn own_tables(error: tokio_postgres::Error, what: &'static str) -> Error {
        match postgres(error, what) {
            Error::Refused { code, object, source } => Error::Misconfigured {
                what: format!("PostgreSQL refuses to {what}: {code} {object}"),
                remedy: "look for rules and triggers added to batch_jobs and ingest_progress"
                    .into(),
                source: Some(source),
            },
            other => other,
        }
    }

    /// An error that the server did not tell: the connection broke, or what came
    /// was not what was expected.
    fn without_code(error: tokio_postgres::Error, what: &'static str) -> Error {
        let broken = error.is_closed()
            || error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
        if broken {
            return Error::Unreachable { server: Server::Postgres, source: Box::new(error) };
        }
        Error::Misconfigured {
            what: format!("PostgreSQL cannot {what}"),
            remedy: "the schema is not this version's: run lambda-db-setup".into(),
            source: Some(Box::new(error)),
        }
    }

    /// An error met while connecting.
    pub fn connecting(error: tokio_postgres::Error, config: &DatabaseConfig) -> Error {
        if let Some(refusal) = config.refusal(&error) {
            return refusal;
        }
        let unsaid = error.as_db_error().is_none();
        match postgres(error, "let us log in") {
            Error::Misconfigured { what, source, .. } if unsaid => Error::Misconfigured {
                what: format!("{what} at {config}"),
                remedy: "check DB_USER, DB_PASSWORD and how the server wants us to log in".into(),
                source,
            },
            Error::Misconfigured { what, remedy, source } => {
                Error::Misconfigured { what: format!("{what} at {config}"), remedy, source }
            }
            Error::Unreachable { server, source } => {
                // Else the server itself has told why.
                let remedy = if source.is::<tokio_postgres::Error>() {
                    "; check that it runs, and that DB_HOST and DB_PORT lead to it"
                } else {
                    ""
                };
                let source = format!("{config}: {}{remedy}", causes(&*source)).into();
                Error::Unreachable { server, source }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_code_of_the_server_means_is_this_table() {
        use Kind::{Data, Fatal, Transient};
        let table = [
            // The record breaks a rule.
            ("22001", Data),
            ("22003", Data),
            ("23502", Data),
            ("23503", Data),
            ("23505", Data),
            ("23514", Data),
            ("23P01", Data),
            ("22P02", Data),
            ("54000", Data),
            ("P0001", Data),
            // Something must be set up differently.
            ("28P01", Fatal),
            ("3D000", Fatal),
            ("42501", Fatal),
            ("42703", Fatal),
            ("42P01", Fatal),
            // What is sent does not fit the table, or cannot be done with it.
            ("22P03", Fatal),
            ("22P04", Fatal),
            ("0A000", Fatal),
            ("42804", Fatal),
            ("42809", Fatal),
            // A pooler is between.
            ("26000", Fatal),
            ("42P05", Fatal),
            ("XX001", Fatal),
            // It will pass: read-only (a standby too), collisions, no room, timeouts, restarts.
            ("08006", Transient),
            ("25006", Transient),
            ("40001", Transient),
            ("40P01", Transient),
            ("53100", Transient),
            ("53200", Transient),
            ("53300", Transient),
            ("55P03", Transient),
            ("57014", Transient),
            ("57P01", Transient),
            ("57P03", Transient),
            ("58030", Transient),
        ];
        for (code, kind) in table {
            assert_eq!(of_sqlstate(code).kind, kind, "{code}");
        }
    }

    #[test]
    #[cfg(feature = "kafka")]
    fn an_administrative_request_that_times_out_means_unreachable_brokers() {
        use rdkafka::error::{KafkaError, RDKafkaErrorCode};

        let timed_out = KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut);
        assert_eq!(kafka(timed_out, "change the topic").exit_code(), 69);
        let forbidden = KafkaError::AdminOp(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert_eq!(kafka(forbidden, "change the topic").exit_code(), 78);
    }
}
