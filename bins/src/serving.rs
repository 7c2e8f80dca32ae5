//! Health and metrics of a long-running program, served on `HTTP_ADDR` if that is set.

use lambda_core::Error;
use lambda_core::health::Health;
use lambda_core::health::http::Server;
use lambda_core::postgres::{Postgres, watch};

use crate::Stop;
use crate::args::HttpArgs;

/// A program's health and metrics. They cost almost nothing where they are not served.
#[derive(Debug)]
pub struct Serving {
    health: Health,
    is_on: bool,
}

impl Serving {
    /// Starts serving `/livez`, `/readyz` and `/metrics` if `HTTP_ADDR` is set. The program
    /// reports that it is not ready once `shutdown` is cancelled.
    ///
    /// # Errors
    /// `Fatal` if the address cannot be used.
    pub async fn start(args: &HttpArgs, shutdown: &Stop) -> Result<Self, Error> {
        let health = Health::default();
        let Some(address) = args.address() else { return Ok(Self { health, is_on: false }) };
        let server = Server::bind(address, health.clone()).await?;
        let address = server.address().map(tracing::field::display);
        tracing::info!(address, "serving /livez, /readyz and /metrics");
        tokio::spawn(server.run());
        let (stopped, stopping) = (shutdown.clone(), health.clone());
        tokio::spawn(async move {
            stopped.stopped().await;
            stopping.stop();
        });
        Ok(Self { health, is_on: true })
    }

    /// Health to which the work reports.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Watches the database that the program needs for `pipeline`, in the background.
    pub fn watch(&self, database: &Postgres, pipeline: &str) {
        if self.is_on {
            let (database, health) = (database.clone(), self.health());
            let pipeline = pipeline.to_owned();
            tokio::spawn(async move { watch(&database, &pipeline, &health).await });
        }
    }
}
