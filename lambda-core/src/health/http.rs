//! `/livez`, `/readyz` and `/metrics` over HTTP, for Kubernetes and Prometheus.
//!
//! ```text
//!   GET /livez    200 "ok", or 503 with a line for each loop that does not move
//!   GET /readyz   200 "ok", or 503 with a line for each need that is not met
//!   GET /metrics  Prometheus' text format, version 0.0.4
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use crate::error::Error;
use crate::health::{Health, Trouble};
use crate::metrics;

/// The format's name, which Prometheus requires.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Interval at which samples are folded: otherwise they would wait in memory for a scrape,
/// even where nothing scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Answers probes and scrapes, once it runs.
///
/// ```
/// use lambda_core::health::Health;
/// use lambda_core::health::http::Server;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lambda_core::Error> {
/// let health = Health::default();
/// let server = Server::bind("127.0.0.1:0", health.clone()).await?;
/// assert!(server.address().is_some_and(|address| address.port() > 0));
/// tokio::spawn(server.run());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    health: Health,
    metrics: PrometheusHandle,
}

impl Server {
    /// Listens on `address` (`host:port`; port 0: any), and records this process's metrics
    /// from now on.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when the address cannot be used, or another recorder of
    /// metrics is installed in this process.
    pub async fn bind(address: &str, health: Health) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.map_err(|error| Error::Misconfigured {
            what: format!("could not listen on {address}"),
            remedy: "set HTTP_ADDR to an address of this machine and a free port, such as \
                     0.0.0.0:9464, or leave it out"
                .into(),
            source: Some(error.into()),
        })?;
        Ok(Self { listener, health, metrics: record()? })
    }

    /// The address it listens on; `None` if the system does not report it.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves requests for as long as it is polled.
    pub async fn run(self) -> Infallible {
        let Self { listener, health, metrics } = self;
        let ready = health.clone();
        let scraped = metrics.clone();
        let routes = Router::new()
            .route("/livez", get(async move || answer(&health.standing_still())))
            .route("/readyz", get(async move || answer(&ready.lacking())))
            .route("/metrics", get(async move || scrape(&scraped)));
        let upkeep = async {
            let mut every = tokio::time::interval(UPKEEP_EVERY);
            loop {
                every.tick().await;
                metrics.run_upkeep();
            }
        };
        tokio::select! {
            // It never ends with an error: axum waits a second when no descriptor is left.
            _ = axum::serve(listener, routes).into_future() => std::future::pending().await,
            never = upkeep => never,
        }
    }
}

/// Installs the recorder of [`metrics`].
fn record() -> Result<PrometheusHandle, Error> {
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| Error::Misconfigured {
        what: "could not install the recorder of metrics".into(),
        remedy: "install only one recorder of metrics in a process".into(),
        source: Some(error),
    };
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in metrics::buckets() {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
            .map_err(|error| unusable(error.into()))?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|error| unusable(error.to_string().into()))?;
    metrics::describe();
    Ok(handle)
}

fn answer(troubles: &[Trouble]) -> (StatusCode, String) {
    if troubles.is_empty() {
        return (StatusCode::OK, "ok\n".into());
    }
    let lines: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines.join("\n") + "\n")
}

fn scrape(metrics: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], without_ended(&metrics.render()))
}

/// Removes gauges without a number, which belong to something that has ended (see
/// [`crate::metrics`]): they must not count where another process has that series now.
fn without_ended(rendered: &str) -> String {
    let lines = rendered.split_inclusive('\n');
    lines.filter(|line| !line.trim_end().ends_with(" NaN")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_of_an_ended_lane_or_job_is_not_exported() {
        let rendered = "# TYPE lag gauge\nlag{partition=\"0\"} NaN\nlag{partition=\"1\"} 3\n";
        assert_eq!(without_ended(rendered), "# TYPE lag gauge\nlag{partition=\"1\"} 3\n");
    }
}
