//! The log on standard error. Secrets and values of records never get into it, whatever
//! `RUST_LOG` says.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use lambda_core::Error;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

/// The progress bar on the terminal, if there is one.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Writes log lines above `bar`, so that they do not share its line.
pub(crate) fn show_above(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Writes to a terminal that may have a progress bar on its last line.
pub(crate) struct AboveBar<W>(pub(crate) W);

impl<W: Write> Write for AboveBar<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(|| self.0.write_all(text))?,
            None => self.0.write_all(text)?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Sets the log up, by `RUST_LOG` and `LOG_FORMAT`; panics are logged.
pub(crate) fn install() -> Result<(), Error> {
    let filter = match env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(directives).map_err(|error| {
                setting("RUST_LOG", "write it as level or target=level", Some(error.into()))
            })?
        }
        _ => EnvFilter::new("info"),
    };
    let log = fmt::layer().with_writer(|| AboveBar(io::stderr()));
    let log = match env::var("LOG_FORMAT").as_deref() {
        Ok("json") => log.json().flatten_event(true).boxed(),
        Ok("pretty" | "") | Err(_) => log.with_ansi(io::stderr().is_terminal()).boxed(),
        Ok(_) => return Err(setting("LOG_FORMAT", "set it to json or pretty", None)),
    };
    let installed =
        registry().with(log.with_filter(filter_fn(is_discreet))).with(filter).try_init();
    installed.map_err(|error| {
        setting("the log", "install one subscriber only", Some(Box::new(error)))
    })?;
    panic::set_hook(Box::new(tell_panic));
    Ok(())
}

/// Whether an event can hold no record's value and no secret. tokio-postgres logs
/// statements with their parameters, including a new role's password verifier, and passes
/// on the notices of triggers, which may quote the row.
fn is_discreet(event: &Metadata<'_>) -> bool {
    let crate_name = event.target().split("::").next().unwrap_or_default();
    crate_name != "tokio_postgres" || *event.level() <= Level::WARN
}

fn tell_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let panic = panic_text(panic.payload());
    tracing::error!(at, panic, backtrace, "this is a bug, please report it");
}

/// The message of a panic, if it is a literal in the code. A message formatted at run time
/// may quote a record: for example the message about a string cut in the middle of a
/// character.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(its message may hold values)")
}

fn setting(name: &str, remedy: &str, source: Option<lambda_core::error::Source>) -> Error {
    Error::Misconfigured {
        what: format!("{name} has an invalid value"),
        remedy: remedy.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_literal_panic_messages_are_logged() {
        let said = |payload: Box<dyn Any + Send>| panic_text(payload.as_ref());
        assert_eq!(said(Box::new("written down")), "written down");
        let quoting = format!("cannot cut {:?}", "4711 EUR");
        assert!(!said(Box::new(quoting)).contains("4711"));
    }
}
