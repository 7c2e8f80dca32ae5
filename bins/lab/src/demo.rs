//! `cargo demo`: both layers on its own servers. A consumer is frozen inside COPY and
//! killed, a file is loaded twice, a batch record corrects a streamed one, and dead letters
//! are corrected and replayed. Then plain SQL is compared with the producer's ledger.

mod files;
mod letters;
mod stage;
mod stream;
mod verdict;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;

use self::stage::{Narrator, Stage};
pub use self::verdict::Verdict;
use crate::Failure;

/// Options of the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the platform's programs; without it, they are built first.
    pub programs: Option<PathBuf>,
    /// Transactions produced per second.
    pub rate: u64,
    /// Damage to do before the comparison, to see that it is found.
    pub damage: Option<Damage>,
    /// A PostgreSQL server to use, with the demo's own database.
    pub database_url: Option<String>,
    /// A Kafka cluster to use, with the demo's own topic.
    pub bootstrap_servers: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        let (programs, damage, database_url, bootstrap_servers) = (None, None, None, None);
        Self { programs, rate: 20_000, damage, database_url, bootstrap_servers }
    }
}

/// Damage that breaks one invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Damage {
    /// A streamed row is deleted.
    LostRow,
    /// A row is planted.
    PlantedRow,
    /// A dead letter is deleted.
    LostDeadLetter,
    /// A lane counts one record too many.
    WrongCount,
}

/// Runs the demo and prints it to `out`.
///
/// # Errors
/// When something could not be shown. A broken invariant is no error: it is in the
/// verdict.
pub async fn play(options: &Options, out: &mut (dyn Write + Send)) -> Result<Verdict, Failure> {
    let began = Instant::now();
    let mut narrator = Narrator::new(out, began);
    let stage = Stage::set(options, &mut narrator).await?;
    let verdict = act(options, &stage, &mut narrator).await;
    stage.clear().await;
    let verdict = verdict?;
    narrator.end(verdict.holds(), began.elapsed())?;
    Ok(verdict)
}

async fn act(
    options: &Options,
    stage: &Stage,
    narrator: &mut Narrator<'_>,
) -> Result<Verdict, Failure> {
    let sql = stage.database().connect().await?;
    let ledger = stream::act(options, stage, &sql, narrator).await?;
    files::act(stage, &sql, narrator).await?;
    let mended = letters::act(stage, &sql, narrator).await?;
    if let Some(damage) = options.damage {
        verdict::damage(damage, &sql, narrator).await?;
    }
    let verdict = Verdict::of(&ledger, &mended, &sql).await?;
    narrator.verdict(&verdict)?;
    Ok(verdict)
}
