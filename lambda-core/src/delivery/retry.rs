//! Delays between attempts.

use std::time::Duration;

/// Delays that double from one attempt to the next up to a bound. Each is shortened by a
/// random part of up to a half, so that many waiters do not return at once.
///
/// ```
/// use std::time::Duration;
///
/// use lambda_core::delivery::retry::Backoff;
///
/// let second = Duration::from_secs(1);
/// let mut backoff = Backoff::new(second, 3 * second, fastrand::Rng::with_seed(7));
/// assert!((second / 2..=second).contains(&backoff.next_delay()));
/// assert!((second..=2 * second).contains(&backoff.next_delay()));
/// backoff.reset();
/// assert!(backoff.next_delay() <= second);
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// Creates delays from `first` up to `longest`; `random` decides the jitter.
    pub fn new(first: Duration, longest: Duration, random: fastrand::Rng) -> Self {
        Self { next: first, first, longest, random }
    }

    /// Delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next.mul_f64(1.0 - self.random.f64() / 2.0);
        self.next = (self.next * 2).min(self.longest);
        delay
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// From 100 ms up to 10 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10), fastrand::Rng::new())
    }
}
