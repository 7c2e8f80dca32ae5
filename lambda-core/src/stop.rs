//! The request to stop: one kind for everything that runs.

use std::sync::Arc;

use tokio::sync::watch;

/// A request to stop. Clones share it. A run that is stopped finishes its commit in flight, and
/// another run continues where it ended.
///
/// ```
/// use lambda_core::Stop;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let stop = Stop::new();
/// let run = tokio::spawn({
///     let stop = stop.clone();
///     async move { stop.stopped().await }
/// });
/// stop.stop();
/// assert!(stop.is_stopped() && run.await.is_ok());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Stop {
    requested: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { requested: Arc::new(watch::Sender::new(false)) }
    }
}

impl Stop {
    /// A stop that is not requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the stop, once and for all.
    pub fn stop(&self) {
        self.requested.send_replace(true);
    }

    /// Whether the stop was requested.
    pub fn is_stopped(&self) -> bool {
        *self.requested.borrow()
    }

    /// Waits until the stop is requested. Cancel safe.
    pub async fn stopped(&self) {
        // The sender is alive: it is this one.
        let _ = self.requested.subscribe().wait_for(|requested| *requested).await;
    }

    /// A stop that SIGTERM and SIGINT request. A second signal ends the process at once, with
    /// exit code 75: for a program's `main`, on a tokio runtime.
    ///
    /// ```no_run
    /// use lambda_core::Stop;
    ///
    /// # async fn run() -> std::io::Result<()> {
    /// let stop = Stop::on_signals()?;
    /// stop.stopped().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the process cannot listen for signals.
    #[cfg(all(unix, feature = "signals"))]
    pub fn on_signals() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = Self::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            let signal = next().await;
            tracing::info!(signal, "stopping; a second signal ends the process at once");
            stopping.stop();
            let signal = next().await;
            tracing::warn!(signal, "stopped before the work ended; the next run continues it");
            std::process::exit(INTERRUPTED);
        });
        Ok(stop)
    }
}

/// Exit code of a process that ends before its work.
#[cfg(all(unix, feature = "signals"))]
const INTERRUPTED: i32 = 75;
