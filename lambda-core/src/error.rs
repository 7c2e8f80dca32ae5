//! The error of this crate, by meaning.

use std::fmt;
use std::time::Duration;

/// A boxed cause.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Meaning of an error.
///
/// ```
/// use lambda_core::Error;
/// use lambda_core::error::Kind;
///
/// /// Whether a supervisor should start the program again.
/// fn is_worth_a_restart(error: &Error) -> bool {
///     match error.kind() {
///         Kind::Transient | Kind::Fenced => true,
///         Kind::Data | Kind::Fatal => false,
///     }
/// }
///
/// assert!(is_worth_a_restart(&Error::Fenced { what: "job BAT00001".into() }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// This record, or this file, is wrong: reject it.
    Data,
    /// The environment is wrong: stall, back off, retry, reject nothing.
    Transient,
    /// Another process holds the lane or the job: let go of it.
    Fenced,
    /// Misconfigured: stop, with a remedy.
    Fatal,
}

/// Meaning of a server's error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(feature = "kafka", feature = "postgres")),
    expect(dead_code, reason = "no server")
)]
pub(crate) struct Verdict {
    /// Decision about the current work.
    pub(crate) kind: Kind,
    /// Advice to a person.
    pub(crate) remedy: &'static str,
}

/// A verdict, in short.
#[cfg(any(feature = "kafka", feature = "postgres"))]
pub(crate) const fn verdict(kind: Kind, remedy: &'static str) -> Verdict {
    Verdict { kind, remedy }
}

/// A server this platform talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Server {
    /// PostgreSQL
    Postgres,
    /// Kafka
    Kafka,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Kafka => "Kafka",
        })
    }
}

/// An error, by meaning. Its text does not repeat its source's; print the chain once, at
/// the edge, with [`Error::chain`].
///
/// ```
/// use lambda_core::Error;
/// use lambda_core::error::Kind;
///
/// let error = Error::misconfigured("KAFKA_TOPIC is empty", "set KAFKA_TOPIC");
/// assert_eq!((error.kind(), error.exit_code()), (Kind::Fatal, 78));
/// assert_eq!(error.chain(), "KAFKA_TOPIC is empty; set KAFKA_TOPIC");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server cannot be reached, or broke the connection.
    #[error("{server} is not reachable")]
    Unreachable {
        /// The server.
        server: Server,
        /// The cause.
        #[source]
        source: Source,
    },
    /// The server answered that it cannot do this at present.
    #[error("could not {what}")]
    Temporary {
        /// The server.
        server: Server,
        /// The request ("store a batch in PostgreSQL").
        what: &'static str,
        /// Advice if it lasts.
        remedy: &'static str,
        /// The cause.
        #[source]
        source: Source,
    },
    /// A source or a sink of your own cannot do this at present: trying again may help.
    #[error("{what}")]
    Unavailable {
        /// Description of the problem.
        what: String,
        /// The cause.
        #[source]
        source: Source,
    },
    /// The database refuses a batch's rows.
    #[error("the database refused rows: {code} {object}")]
    Refused {
        /// The SQLSTATE.
        code: String,
        /// The constraint or column that the server named, or nothing.
        object: String,
        /// The cause.
        #[source]
        source: Source,
    },
    /// Other transactions kept inserting the ids of this batch: commit its halves.
    #[error("other transactions kept inserting ids of this batch, tried {tries} times")]
    Contended {
        /// Number of attempts.
        tries: u32,
    },
    /// The server ended a transaction that waited for another one, which waited for it: the same
    /// batch can be stored when it is tried again (SQLSTATE 40P01).
    #[error("could not {what}: other transactions locked the same rows in another order")]
    Deadlock {
        /// The request.
        what: &'static str,
        /// The cause.
        #[source]
        source: Source,
    },
    /// The server answers but has not stored a batch in time: commit its halves.
    #[error("could not store a batch within {} s: {holdup}", waited.as_secs())]
    Slow {
        /// Time since the start of the commit.
        waited: Duration,
        /// Description of the holdup, without values of rows.
        holdup: String,
    },
    /// The server cannot do this with the present schema (SQLSTATE 0A000): it has changed
    /// since a statement was prepared, or the table is of another kind.
    #[error("could not {what}: PostgreSQL does not support this operation here")]
    Unsupported {
        /// The request.
        what: &'static str,
        /// The cause.
        #[source]
        source: Source,
    },
    /// Another process holds a lane or a job.
    #[error("another process holds {what}")]
    Fenced {
        /// The lane or job.
        what: String,
    },
    /// The input as a whole is refused.
    #[error("{what}")]
    Input {
        /// Description of the problem, and its place.
        what: String,
    },
    /// Wrong setup or configuration.
    #[error("{what}")]
    Misconfigured {
        /// Description of the problem.
        what: String,
        /// Advice.
        remedy: String,
        /// The cause, if there is another error.
        #[source]
        source: Option<Source>,
    },
    /// Stopped before the end, on request or because something changed during the run;
    /// another run continues.
    #[error("{what}")]
    Interrupted {
        /// Description of the stop and its reason.
        what: String,
    },
}

impl Error {
    /// A [`Error::Misconfigured`] without a cause.
    pub fn misconfigured(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Misconfigured { what: what.into(), remedy: remedy.into(), source: None }
    }

    /// Meaning of the error.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } | Self::Input { .. } => Kind::Data,
            Self::Unreachable { .. }
            | Self::Temporary { .. }
            | Self::Unavailable { .. }
            | Self::Contended { .. }
            | Self::Deadlock { .. }
            | Self::Slow { .. }
            | Self::Interrupted { .. } => Kind::Transient,
            Self::Fenced { .. } => Kind::Fenced,
            Self::Misconfigured { .. } | Self::Unsupported { .. } => Kind::Fatal,
        }
    }

    /// Advice to a person.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Temporary { remedy, .. } => Some(remedy),
            Self::Misconfigured { remedy, .. } => Some(remedy),
            Self::Slow { .. } => Some("end what blocks it, or look at what makes the server slow"),
            Self::Unsupported { .. } => {
                Some("look for row security, rules and foreign tables where rows are stored")
            }
            Self::Fenced { .. } => {
                Some("let its holder finish it; run this again to see that it is done")
            }
            _ => None,
        }
    }

    /// The process exit code for a program that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Input { .. } => 65,
            Self::Unreachable { .. } => 69,
            Self::Temporary { .. }
            | Self::Unavailable { .. }
            | Self::Contended { .. }
            | Self::Deadlock { .. }
            | Self::Slow { .. }
            | Self::Fenced { .. }
            | Self::Interrupted { .. } => 75,
            Self::Misconfigured { .. } | Self::Unsupported { .. } => 78,
        }
    }

    /// The error, its causes and its remedy on one line.
    pub fn chain(&self) -> String {
        let mut text = causes(self);
        if let Some(remedy) = self.remedy() {
            text.push_str("; ");
            text.push_str(remedy);
        }
        text
    }
}

/// An error and its causes on one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
