//! A request to the server, its time limit, and its error.

use std::time::Duration;

use crate::error::{Error, Server};
use crate::postgres::{remedy, timing};

/// A request to the server: what it does, and how long the answer may take. TCP detects a
/// dead peer, but not a proxy in between that has forgotten the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// As errors say it: "claim a lane in PostgreSQL".
    what: &'static str,
    within: Duration,
    refused: fn(tokio_postgres::Error, &'static str) -> Error,
}

/// Prepares a session.
pub(crate) const PREPARE: Request = Request::to("prepare a session in PostgreSQL");

impl Request {
    /// A plain request to do `what`.
    pub(crate) const fn to(what: &'static str) -> Self {
        Self { what, within: timing::ANSWER, refused: remedy::explain }
    }

    /// The same request with another limit.
    pub(crate) const fn within(self, limit: Duration) -> Self {
        Self { within: limit, ..self }
    }

    /// The same request, which waits for locks.
    pub(crate) const fn with_locks(self) -> Self {
        self.within(timing::LOCKS)
    }

    /// The same request, which writes to the platform's own tables only.
    pub(crate) const fn of_own_tables(self) -> Self {
        Self { refused: remedy::own_tables, ..self }
    }

    /// The error for the server's refusal of this request.
    pub(crate) fn failed(self, error: tokio_postgres::Error) -> Error {
        (self.refused)(error, self.what)
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// `Transient` without an answer; that of a refusal.
    pub(crate) fn ask<T>(
        self,
        asking: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        self.limit(async move { asking.await.map_err(|error| self.failed(error)) })
    }

    /// Waits for the end of several requests that are one to their caller.
    ///
    /// # Errors
    /// `Transient` without an answer; otherwise those of `work`.
    pub(crate) fn limit<T>(
        self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        let Self { what, within, .. } = self;
        // Boxed, and before the future of this function begins: a login is large, and would be
        // in every future that asks.
        let work = tokio::time::timeout(within, Box::pin(work));
        async move {
            work.await.map_err(|_| Error::Unreachable {
                server: Server::Postgres,
                source: format!("no answer within {within:?}; the request was to {what}").into(),
            })?
        }
    }
}
