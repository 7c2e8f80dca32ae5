//! Arguments, logging, shutdown and exit codes for the platform's binaries. A binary
//! parses its arguments and passes a future to [`run`].
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use clap::Parser;
//! use lambda_bins::args::DatabaseArgs;
//!
//! #[derive(Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     database: DatabaseArgs,
//! }
//!
//! fn main() -> ExitCode {
//!     let args = Args::parse();
//!     lambda_bins::run("lambda-example", async |shutdown| {
//!         let database = args.database.config()?;
//!         lambda_bins::print(format_args!("would connect to {database}"))?;
//!         shutdown.stopped().await;
//!         Ok(())
//!     })
//! }
//! ```

pub mod args;
pub mod json;
pub mod loading;
mod logging;
pub mod operate;
pub mod pipelines;
pub mod serving;

use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use lambda_core::Error;
pub use lambda_core::Stop;

/// Exit code of an unexpected failure.
const UNEXPECTED: u8 = 1;

/// Failure of a program.
#[derive(Debug)]
pub enum Failure {
    /// An error of the platform, with its own exit code and remedy.
    Platform(Error),
    /// The work was done, and its result is a failure.
    Found {
        /// The result.
        what: String,
        /// The exit code.
        code: u8,
    },
    /// Any other error, met while doing `what` ("write the summary").
    Unexpected {
        /// The action, such as "write the summary".
        what: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Failure {
    /// An [`Self::Unexpected`] failure while doing `what`.
    pub fn unexpected(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unexpected { what: what.into(), source: source.into() }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Platform(error) => error.exit_code(),
            Self::Found { code, .. } => *code,
            Self::Unexpected { .. } => UNEXPECTED,
        }
    }

    fn chain(&self) -> String {
        match self {
            Self::Platform(error) => error.chain(),
            Self::Found { what, .. } => what.clone(),
            Self::Unexpected { what, source } => format!("could not {what}: {source}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Platform(error)
    }
}

/// Runs a program: it logs to standard error, stops on SIGTERM or SIGINT, prints
/// a failure once, and returns its exit code (0, 1, 65, 69, 75 or 78). A second signal ends
/// the process at once.
pub fn run<W>(name: &'static str, work: W) -> ExitCode
where
    W: AsyncFnOnce(Stop) -> Result<(), Failure>,
{
    let outcome = logging::install().map_err(Failure::from).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::unexpected("start the runtime", error))?;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let stop = Stop::on_signals();
                let listen = |error| Failure::unexpected("listen for SIGTERM and SIGINT", error);
                work(stop.map_err(listen)?).await
            })
        }));
        // A thread that is blocked (reading from a terminal) must not delay the exit.
        runtime.shutdown_background();
        outcome.unwrap_or_else(|panic| {
            let text = logging::panic_text(panic.as_ref());
            Err(Failure::unexpected("continue; this is a bug, please report it", text))
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Not through the log, which may be off: this line is always visible.
            let _ = writeln!(io::stderr(), "{name}: {}", failure.chain());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Writes a line to standard output. A reader that has closed the pipe is no error.
///
/// # Errors
/// [`Failure::Unexpected`] when the line could not be written.
pub fn print(line: impl fmt::Display) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::unexpected("write to standard output", error))
        }
        _ => Ok(()),
    }
}
