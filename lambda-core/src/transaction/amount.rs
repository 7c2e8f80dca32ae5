//! Money as exact cents.

/// An amount of money in cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

impl Amount {
    /// The amount in cents.
    pub const fn cents(self) -> i64 {
        self.0
    }
}
