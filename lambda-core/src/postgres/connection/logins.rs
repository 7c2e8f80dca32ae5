//! Outcome of the logins to a database: a login that once worked may be refused for a while.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::error::{Error, Server};
use crate::postgres::timing;

/// Outcome of the logins to a database.
#[derive(Debug, Default)]
pub(crate) struct Logins(Mutex<Login>);

#[derive(Debug, Default, Clone, Copy)]
pub(crate) enum Login {
    #[default]
    Untried,
    Worked,
    /// It worked once, and has been refused since then.
    Refused(Instant),
}

impl Logins {
    pub(crate) fn note(&self, now: Login) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Start of the refusals of a login that worked before.
    fn refused_since(&self) -> Option<Instant> {
        let mut login = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Login::Worked = *login {
            *login = Login::Refused(Instant::now());
        }
        match *login {
            Login::Refused(since) => Some(since),
            Login::Untried | Login::Worked => None,
        }
    }

    /// Treats a recent refusal of a login that once worked as transient.
    pub(crate) fn judge(&self, error: Error) -> Error {
        let Error::Misconfigured { what, remedy, source } = error else { return error };
        match self.refused_since() {
            Some(since) if since.elapsed() < timing::LOGIN_REFUSED => Error::Temporary {
                server: Server::Postgres,
                what: "log in to PostgreSQL as before",
                remedy: "after a failover, check that the new server has the role, its password \
                         and the database; if the login was changed, start with the new one",
                source: source.unwrap_or_else(|| what.into()),
            },
            _ => Error::Misconfigured { what, remedy, source },
        }
    }
}
