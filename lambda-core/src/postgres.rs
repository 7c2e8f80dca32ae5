//! The sink on PostgreSQL and its parts: connections, the schema, ownership of lanes, the
//! commit, jobs with their attempts, dead letters.

mod commit;
pub mod connection;
mod counts;
pub mod dead_letters;
pub mod inspect;
pub mod jobs;
mod ownership;
mod progress;
pub(crate) mod remedy;
pub mod schema;
pub mod sink;
mod timing;
mod wire;

pub use self::connection::config::Postgres;
pub use self::connection::namespace::Schema;
pub use self::connection::tls::{SslMode, TlsSettings};
pub use self::connection::{Connection, connect};
pub use self::dead_letters::DeadLetters;
pub use self::inspect::watch::watch;
pub use self::jobs::{Job, Jobs};
pub use self::progress::{stream_lanes, stream_lanes_durably};
pub use self::sink::PostgresSink;

/// Compiles only if each public future can be spawned.
#[cfg(test)]
const _: fn(&Postgres, &DeadLetters, &Jobs, &crate::Pipeline) =
    |postgres, letters, jobs, pipeline| {
        fn spawnable(_: impl Send) {}
        let stop = crate::Stop::new();
        let (filter, replay) = (dead_letters::Filter::default(), dead_letters::Replay::default());
        spawnable(postgres.set_up(&[pipeline]));
        spawnable(connect(postgres, "a test"));
        spawnable(PostgresSink::connect(postgres.clone(), pipeline, "a test", 1, None));
        spawnable(schema::roles::ensure(postgres, &[], &[]));
        spawnable(letters.list(&filter, 1));
        spawnable(letters.replay(pipeline, &filter, &replay, |_, _| {}, &stop));
        spawnable(jobs.list(None, None, 1));
    };
