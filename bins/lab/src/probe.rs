//! Reads a program's health and metrics, as Kubernetes and Prometheus do.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;
use crate::processes::Process;

/// Deadline of an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Text of the log before the address.
const SERVING: &str = "serving /livez, /readyz and /metrics address=";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub text: String,
}

/// Address at which a program answers.
#[derive(Debug, Clone)]
pub struct Probe {
    address: String,
}

impl Probe {
    /// A probe of the program that listens at `address`.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into() }
    }

    /// A probe of a program that was started with `HTTP_ADDR` set to port 0 and so logs
    /// its port.
    ///
    /// # Errors
    /// If it does not log the port.
    pub async fn of(process: &mut Process, deadline: Duration) -> Result<Self, Failure> {
        process.says(SERVING, deadline).await?;
        let said = process.stderr();
        let (_, rest) = said.split_once(SERVING).ok_or("the address was lost")?;
        let address = rest.split_whitespace().next().unwrap_or_default();
        Ok(Self::at(address))
    }

    /// Sends `GET` for a path.
    ///
    /// # Errors
    /// If it does not answer in time, or not by HTTP.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        let asked = tokio::time::timeout(TIMEOUT, async {
            let mut stream = TcpStream::connect(&self.address).await?;
            // HTTP/1.0: the answer ends with the connection.
            let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, Failure>(answer)
        });
        let answer = asked.await.map_err(|_| format!("no answer to GET {path}"))??;
        let (head, text) = answer.split_once("\r\n\r\n").ok_or("this is not HTTP")?;
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no status: {head}"))?;
        Ok(Answer { status, text: text.to_owned() })
    }

    /// Reads its metrics.
    ///
    /// # Errors
    /// As for [`Probe::get`], and if the metrics cannot be parsed.
    pub async fn scrape(&self) -> Result<Scrape, Failure> {
        let answer = self.get("/metrics").await?;
        if answer.status != 200 {
            return Err(format!("/metrics answers {answer:?}").into());
        }
        Scrape::parse(&answer.text)
    }
}

/// One series: its name, and its labels by name.
pub type Series = (String, BTreeMap<String, String>);

/// Metrics of a program.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scrape {
    /// `TYPE` and `HELP` by the metric's name.
    pub metrics: BTreeMap<String, (String, String)>,
    /// Values by series.
    pub values: BTreeMap<Series, String>,
}

impl Scrape {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let comment = line.strip_prefix("# ").and_then(|line| line.split_once(' '));
            if let Some((keyword, rest)) = comment {
                let (name, what) = rest.split_once(' ').ok_or("a comment of no metric")?;
                let (kind, help) = scrape.metrics.entry(name.to_owned()).or_default();
                what.clone_into(if keyword == "TYPE" { kind } else { help });
                continue;
            }
            let (series, value) = line.rsplit_once(' ').ok_or("a line without a value")?;
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.trim_end_matches('}')),
                None => (series, ""),
            };
            // No value of ours holds a comma or an equals sign.
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            let labels = labels.map(|(name, value)| (name.into(), value.trim_matches('"').into()));
            scrape.values.insert((name.to_owned(), labels.collect()), value.to_owned());
        }
        Ok(scrape)
    }

    /// The sum over all series of this name that have all these labels; `None` if there is no
    /// such series.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| of.get(*name).is_some_and(|of| of == value))
        };
        let found = self.values.iter().filter(|((of, labels), _)| of == name && has(labels));
        let values: Vec<f64> = found.filter_map(|(_, value)| value.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}
