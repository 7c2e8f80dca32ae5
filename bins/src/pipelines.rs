//! The pipeline that a program works for.

use std::path::PathBuf;

use clap::Args;
use lambda_core::config::Definitions;
use lambda_core::postgres::connection::connect_waiting;
use lambda_core::postgres::inspect::schema::Objects;
use lambda_core::transaction::schema::{OBJECTS, READABLE};
use lambda_core::{Error, Pipeline, Postgres, Stop, transaction};

use crate::args::TRANSACTIONS;

/// Heading of the options.
const PIPELINE: &str = "Pipeline";

/// The name of a pipeline.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// Name of the pipeline
    #[arg(
        long,
        env = "LAMBDA_PIPELINE",
        default_value = TRANSACTIONS,
        hide_env_values = true,
        value_name = "NAME",
        help_heading = PIPELINE
    )]
    pub pipeline: String,
}

/// The name of a pipeline, and the file that defines it.
#[derive(Debug, Clone, Args)]
pub struct PipelineArgs {
    #[command(flatten)]
    name: NameArgs,
    /// File that defines it
    #[arg(
        long,
        env = "LAMBDA_PIPELINES",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = PIPELINE
    )]
    pipelines: Option<PathBuf>,
}

/// A pipeline whose table is not read yet.
#[derive(Debug, Clone)]
pub enum Chosen {
    /// The one that is built in.
    Transactions,
    /// One of a file.
    Defined {
        /// Its name.
        name: String,
        /// The file.
        definitions: Box<Definitions>,
    },
}

impl PipelineArgs {
    /// The name of the pipeline.
    pub fn name(&self) -> &str {
        &self.name.pipeline
    }

    /// The pipeline that the arguments name.
    ///
    /// # Errors
    /// `Fatal` for a file that cannot be read or lacks the pipeline.
    pub fn chosen(&self) -> Result<Chosen, Error> {
        let Some(path) = &self.pipelines else {
            return match self.name() {
                TRANSACTIONS => Ok(Chosen::Transactions),
                name => Err(Error::misconfigured(
                    format!("pipeline {name} is not built in, and no file defines it"),
                    "set LAMBDA_PIPELINES or --pipelines to the file that defines it",
                )),
            };
        };
        let definitions = Box::new(Definitions::read(path)?);
        if definitions.names().any(|name| name == TRANSACTIONS) {
            return Err(Error::misconfigured(
                format!("{} defines {TRANSACTIONS}, which is built in", path.display()),
                "give it another name",
            ));
        }
        match self.name() {
            TRANSACTIONS => Ok(Chosen::Transactions),
            name => {
                definitions.check(name)?;
                Ok(Chosen::Defined { name: name.to_owned(), definitions })
            }
        }
    }
}

impl Chosen {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Transactions => TRANSACTIONS,
            Self::Defined { name, .. } => name,
        }
    }

    /// What its own migrations create, if it has some.
    pub fn objects(&self) -> Option<&'static Objects> {
        match self {
            Self::Transactions => Some(&OBJECTS),
            Self::Defined { .. } => None,
        }
    }

    /// The relations that its readers see beside its table and the protocol's.
    pub fn readable(&self) -> &'static [&'static str] {
        match self {
            Self::Transactions => &READABLE,
            Self::Defined { .. } => &[],
        }
    }

    /// Its topic, if the file names one.
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::Transactions => None,
            Self::Defined { name, definitions } => definitions.topic(name),
        }
    }

    /// The pipeline, with its table as the database has it; waits for the database until a stop.
    ///
    /// # Errors
    /// `Interrupted` by a stop; otherwise as for [`Definitions::pipeline`].
    pub async fn pipeline_unless_stopped(
        &self,
        database: &Postgres,
        stop: &Stop,
    ) -> Result<Pipeline, Error> {
        tokio::select! {
            pipeline = self.pipeline(database) => pipeline,
            () = stop.stopped() => Err(Error::Interrupted { what: "reading the table".into() }),
        }
    }

    /// The pipeline, with its table as the database has it; waits for the database.
    ///
    /// # Errors
    /// As for [`Definitions::pipeline`].
    pub async fn pipeline(&self, database: &Postgres) -> Result<Pipeline, Error> {
        match self {
            Self::Transactions => Ok(transaction::pipeline()),
            Self::Defined { name, definitions } => {
                drop(connect_waiting(database, "catalog", None).await?);
                definitions.pipeline(name, database).await
            }
        }
    }
}
