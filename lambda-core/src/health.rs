//! Whether a process is alive, and whether it can do its work: its answers on `/livez` and
//! `/readyz` ([`http`], with the feature of that name).
//!
//! Each loop that must keep moving beats a [`Pulse`]; each dependency of the work is a
//! [`Need`]. The two never mix: a process whose database is away is alive, and not ready. A
//! restart would not help.
//!
//! An unused [`Health`] costs a few atomic writes a second.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

// Tokio's, whose clock a test can move.
use tokio::time::Instant;

#[cfg(feature = "http")]
pub mod http;

/// Maximum time between two beats of a loop: longer than any wait within one turn of a loop
/// (20 s in all for answers of Kafka, 10 s between two attempts).
pub const STILL_AFTER: Duration = Duration::from_mins(1);

/// The state of a process for probes. Clones share it.
///
/// ```
/// use lambda_core::health::Health;
///
/// let health = Health::default();
/// let kafka = health.need("Kafka");
/// assert_eq!(health.lacking().len(), 1, "not ready: Kafka was not reached yet");
/// kafka.met();
/// assert!(health.lacking().is_empty(), "ready");
/// kafka.missing("no broker answers");
/// assert_eq!(health.lacking()[0].why, "no broker answers");
/// ```
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

/// Reason why a need is not met.
#[derive(Debug)]
struct Lack {
    since: Instant,
    why: String,
}

/// Time of a loop's last beat.
#[derive(Debug)]
struct Beat {
    begun: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

impl Beat {
    fn ago(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }
}

/// A problem, as reported to probes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trouble {
    /// The loop, or the need.
    pub name: &'static str,
    /// Description of the problem, without secrets and without values of records.
    pub why: String,
    /// Duration of the problem.
    pub lasted: Duration,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, for {} s: {}", self.name, self.lasted.as_secs(), self.why)
    }
}

impl Health {
    /// Registers a loop; the pulse's drop removes it.
    pub fn pulse(&self, name: &'static str) -> Pulse {
        let beat = Arc::new(Beat { begun: Instant::now(), last: AtomicU64::default() });
        let mut vitals = self.lock();
        let key = vitals.key();
        vitals.pulses.insert(key, (name, Arc::clone(&beat)));
        Pulse { health: self.clone(), key, beat }
    }

    /// Registers a dependency, until the need is dropped. It is missing at first.
    pub fn need(&self, name: &'static str) -> Need {
        let mut vitals = self.lock();
        let key = vitals.key();
        let lack = Lack { since: Instant::now(), why: "not reached yet".into() };
        vitals.needs.insert(key, (name, Some(lack)));
        Need { health: self.clone(), key }
    }

    /// Marks the process as stopping: it finishes its current work, and takes no more.
    pub fn stop(&self) {
        self.lock().stopping.get_or_insert_with(Instant::now);
    }

    /// The loops that have not moved for [`STILL_AFTER`]. Empty: the process is alive.
    pub fn standing_still(&self) -> Vec<Trouble> {
        let vitals = self.lock();
        let beats = vitals.pulses.values().map(|(name, beat)| (*name, beat.ago()));
        let still = beats.filter(|(_, ago)| *ago >= STILL_AFTER);
        let why = "the loop has not moved".to_owned();
        still.map(|(name, lasted)| Trouble { name, why: why.clone(), lasted }).collect()
    }

    /// The needs that are not met. Empty: the process is ready.
    pub fn lacking(&self) -> Vec<Trouble> {
        let vitals = self.lock();
        let trouble = |name, since: Instant, why: &str| Trouble {
            name,
            why: why.to_owned(),
            lasted: since.elapsed(),
        };
        if let Some(since) = vitals.stopping {
            return vec![trouble("stopping", since, "finishing its current work")];
        }
        if vitals.needs.is_empty() {
            return vec![trouble("starting", Instant::now(), "no work has begun yet")];
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

/// A loop's heartbeat. Dropping it means that the loop has ended, which is no problem here:
/// its result is reported elsewhere.
///
/// ```
/// use lambda_core::health::Health;
///
/// let health = Health::default();
/// let pulse = health.pulse("the reader");
/// for _turn in 0..3 {
///     pulse.beat();
/// }
/// assert!(health.standing_still().is_empty());
/// ```
#[derive(Debug)]
pub struct Pulse {
    health: Health,
    key: u64,
    beat: Arc<Beat>,
}

impl Pulse {
    /// Marks that the loop moves.
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

/// A dependency of the work. Once dropped, it is no longer needed.
#[derive(Debug)]
pub struct Need {
    health: Health,
    key: u64,
}

impl Need {
    /// Marks the dependency as available.
    pub fn met(&self) {
        if let Some((_, lack)) = self.health.lock().needs.get_mut(&self.key) {
            *lack = None;
        }
    }

    /// Marks the dependency as missing, with the reason `why` (no secret: any client of the
    /// port reads it). The start time is kept until it is available again.
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
    async fn a_loop_that_does_not_move_is_named_until_it_moves_or_ends() {
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
