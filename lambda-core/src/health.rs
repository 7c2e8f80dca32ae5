//! Whether a process lives, and whether it can do its work: what it answers on
//! `/livez` and `/readyz` ([`http`], with the feature of that name).
//!
//! A loop that must never stand still beats a [`Pulse`]; what the work depends on is
//! a [`Need`]. The two never mix: a process whose database is away lives, and is not
//! ready. Restarting it would mend nothing.
//!
//! A [`Health`] that nobody asks costs a few atomic writes a second.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

// Tokio's, whose clock a test can move.
use tokio::time::Instant;

#[cfg(feature = "http")]
pub mod http;

/// How long a loop may go without a beat: longer than anything that one turn of a
/// loop waits for (20 s in all for answers of Kafka, 10 s between two tries).
pub const STILL_AFTER: Duration = Duration::from_mins(1);

/// What a process knows of itself. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Health {
    vitals: Arc<Mutex<Vitals>>,
}

#[derive(Debug, Default)]
struct Vitals {
    next: u64,
    pulses: BTreeMap<u64, (&'static str, Arc<Beat>)>,
    needs: BTreeMap<u64, (&'static str, Option<Lack>)>,
    stopping: Option<Instant>,
}

/// Why a need is not met.
#[derive(Debug)]
struct Lack {
    since: Instant,
    why: String,
}

/// When a loop last moved.
#[derive(Debug)]
struct Beat {
    begun: Instant,
    /// Milliseconds from then.
    last: AtomicU64,
}

impl Beat {
    fn ago(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }
}

/// What is wrong, for whoever probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The loop, or what is needed.
    pub name: &'static str,
    /// What is the matter with it: no secret, no record's value.
    pub why: String,
    /// For how long.
    pub lasted: Duration,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, for {} s: {}", self.name, self.lasted.as_secs(), self.why)
    }
}

impl Health {
    /// A loop begins; the pulse ends with it.
    pub fn pulse(&self, name: &'static str) -> Pulse {
        let beat = Arc::new(Beat { begun: Instant::now(), last: AtomicU64::default() });
        let mut vitals = self.lock();
        let key = vitals.key();
        vitals.pulses.insert(key, (name, Arc::clone(&beat)));
        Pulse { health: self.clone(), key, beat }
    }

    /// Something is needed from now on, until the need is dropped, and is not there
    /// yet.
    pub fn need(&self, name: &'static str) -> Need {
        let mut vitals = self.lock();
        let key = vitals.key();
        let lack = Lack { since: Instant::now(), why: "not reached yet".into() };
        vitals.needs.insert(key, (name, Some(lack)));
        Need { health: self.clone(), key }
    }

    /// The process is to stop: it finishes what it is at, and takes nothing new.
    pub fn stop(&self) {
        self.lock().stopping.get_or_insert_with(Instant::now);
    }

    /// The loops that have not moved for [`STILL_AFTER`]. None: the process lives.
    pub fn standing_still(&self) -> Vec<Trouble> {
        let vitals = self.lock();
        let beats = vitals.pulses.values().map(|(name, beat)| (*name, beat.ago()));
        let still = beats.filter(|(_, ago)| *ago >= STILL_AFTER);
        let why = "the loop has not moved".to_owned();
        still.map(|(name, lasted)| Trouble { name, why: why.clone(), lasted }).collect()
    }

    /// What the work waits for. None: the process is ready.
    pub fn lacking(&self) -> Vec<Trouble> {
        let vitals = self.lock();
        let trouble = |name, since: Instant, why: &str| Trouble {
            name,
            why: why.to_owned(),
            lasted: since.elapsed(),
        };
        if let Some(since) = vitals.stopping {
            return vec![trouble("stopping", since, "it finishes what it is at")];
        }
        if vitals.needs.is_empty() {
            return vec![trouble("starting", Instant::now(), "nothing is being done yet")];
        }
        let lacks = vitals.needs.values();
        let lacks = lacks.filter_map(|(name, lack)| lack.as_ref().map(|lack| (*name, lack)));
        lacks.map(|(name, lack)| trouble(name, lack.since, &lack.why)).collect()
    }

    /// Every change under the lock is one assignment, so a panic leaves it whole.
    fn lock(&self) -> MutexGuard<'_, Vitals> {
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vitals {
    fn key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// A loop's sign of life. Dropped, the loop has ended, which is no trouble: how it
/// ended is told otherwise.
#[derive(Debug)]
pub struct Pulse {
    health: Health,
    key: u64,
    beat: Arc<Beat>,
}

impl Pulse {
    /// The loop moves.
    pub fn beat(&self) {
        let millis = self.beat.begun.elapsed().as_millis() as u64;
        self.beat.last.store(millis, Ordering::Relaxed);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.health.lock().pulses.remove(&self.key);
    }
}

/// Something that the work depends on. Dropped, it is not needed any more.
#[derive(Debug)]
pub struct Need {
    health: Health,
    key: u64,
}

impl Need {
    /// It is there.
    pub fn met(&self) {
        if let Some((_, lack)) = self.health.lock().needs.get_mut(&self.key) {
            *lack = None;
        }
    }

    /// It is missing, and `why` (no secret: whoever reaches the port reads it). Since
    /// when, is kept until it is there again.
    pub fn missing(&self, why: impl Into<String>) {
        if let Some((_, lack)) = self.health.lock().needs.get_mut(&self.key) {
            let since = lack.as_ref().map_or_else(Instant::now, |lack| lack.since);
            *lack = Some(Lack { since, why: why.into() });
        }
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        self.health.lock().needs.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_is_named_until_it_moves_or_ends() {
        let health = Health::default();
        let (flow, poll) = (health.pulse("the flow"), health.pulse("the poll thread"));
        tokio::time::advance(STILL_AFTER.mul_f64(0.9)).await;
        assert_eq!(health.standing_still(), []);
        poll.beat();
        tokio::time::advance(Duration::from_secs(8)).await;
        let still = health.standing_still();
        assert_eq!(still.len(), 1, "{still:?}");
        assert_eq!(still[0].to_string(), "the flow, for 62 s: the loop has not moved");
        flow.beat();
        assert_eq!(health.standing_still(), []);
        tokio::time::advance(STILL_AFTER).await;
        assert_eq!(health.standing_still().len(), 2);
        drop((flow, poll));
        assert_eq!(health.standing_still(), [], "what has ended is not still");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_ready_once_all_its_needs_are_met_and_until_it_stops() {
        let health = Health::default();
        assert_eq!(health.lacking()[0].name, "starting");
        let (database, kafka) = (health.need("PostgreSQL"), health.need("Kafka"));
        database.met();
        assert_eq!(health.lacking().len(), 1);
        kafka.met();
        assert_eq!(health.lacking(), []);
        database.missing("gone");
        tokio::time::advance(Duration::from_secs(7)).await;
        database.missing("still gone");
        let lacking = health.lacking();
        assert_eq!(lacking.len(), 1, "{lacking:?}");
        assert_eq!(lacking[0].to_string(), "PostgreSQL, for 7 s: still gone");
        assert_eq!(health.standing_still(), [], "no dependency makes a process dead");
        drop(database);
        assert_eq!(health.lacking(), [], "what is not needed any more is not missed");
        health.stop();
        assert_eq!(health.lacking()[0].name, "stopping");
    }
}
