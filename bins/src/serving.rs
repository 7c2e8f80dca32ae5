//! Health and metrics of a long-running program, if it is told where to serve them.

use lambda_core::Error;
use lambda_core::health::Health;
use lambda_core::health::http::Server;
use lambda_core::postgres::{DatabaseConfig, watch};

use crate::CancellationToken;
use crate::args::HttpArgs;

/// What a program tells of itself. Where it is told to nobody, it costs next to
/// nothing.
#[derive(Debug)]
pub struct Serving {
    health: Health,
    is_on: bool,
}

impl Serving {
    /// Serves `/livez`, `/readyz` and `/metrics` on `HTTP_ADDR` from now on, if it is
    /// set. The program is not ready any more once `shutdown` is cancelled.
    ///
    /// # Errors
    /// `Fatal` when the address cannot be used.
    pub async fn start(args: &HttpArgs, shutdown: &CancellationToken) -> Result<Self, Error> {
        let health = Health::default();
        let Some(address) = args.address() else { return Ok(Self { health, is_on: false }) };
        let server = Server::bind(address, health.clone()).await?;
        let address = server.address().map(tracing::field::display);
        tracing::info!(address, "serving /livez, /readyz and /metrics");
        tokio::spawn(server.run());
        let (stopped, told) = (shutdown.clone(), health.clone());
        tokio::spawn(async move {
            stopped.cancelled().await;
            told.stop();
        });
        Ok(Self { health, is_on: true })
    }

    /// To be told by whatever is at work.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Watches the database that the program needs for `pipeline`, beside its work.
    pub fn watch(&self, database: &DatabaseConfig, pipeline: &'static str) {
        if self.is_on {
            let (database, health) = (database.clone(), self.health());
            tokio::spawn(async move { watch(&database, pipeline, &health).await });
        }
    }
}
