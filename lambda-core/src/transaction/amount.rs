//! Money as exact cents.

use std::fmt;

use super::Expected;
use crate::decode::decimal::Number;
use crate::record::{Cell, Decimal, Value};

/// The first amount that is too large, in cents: `numeric(10,2)` holds less.
const CENTS_END: u64 = 10_000_000_000;

/// An amount of money in cents, of either sign, below 10^8 units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

impl Amount {
    const EXPECTED: Expected =
        Expected("a decimal number with at most 2 decimals, below 100000000 in magnitude");

    /// The amount that `text` spells, exponents and trailing zeros allowed.
    ///
    /// # Errors
    /// If it is not a decimal number, not a whole number of cents, or too large.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let cents = Number::parse(text).and_then(|number| number.exact(2));
        Self::from_cents(cents.map_err(|_| Self::EXPECTED)?)
    }

    /// Creates an amount from cents.
    ///
    /// # Errors
    /// If it is too large.
    pub const fn from_cents(cents: i64) -> Result<Self, Expected> {
        if cents.unsigned_abs() < CENTS_END { Ok(Self(cents)) } else { Err(Self::EXPECTED) }
    }

    /// The amount in cents.
    pub const fn cents(self) -> i64 {
        self.0
    }
}

impl Value for Amount {
    fn write(&self, cell: &mut Cell<'_>) {
        Decimal { unscaled: self.cents().into(), scale: 2 }.write(cell);
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let cents = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", cents / 100, cents % 100)
    }
}
