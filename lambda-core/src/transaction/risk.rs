//! Risk scores of transactions.

use std::fmt;

use super::Expected;
use crate::decode::decimal::Number;
use crate::record::{Cell, Decimal, Value};

/// A score from 0 to 1, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RiskScore(u8);

impl RiskScore {
    const EXPECTED: Expected = Expected("a decimal number from 0 to 1");

    /// The score that `text` spells, rounded half away from zero to hundredths.
    /// The range holds before rounding: 1.001 is outside.
    ///
    /// # Errors
    /// If it is not a decimal number, or outside the range.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let number = Number::parse(text).map_err(|_| Self::EXPECTED)?;
        if !number.is_fraction() {
            return Err(Self::EXPECTED);
        }
        let hundredths = number.rounded(2).map_err(|_| Self::EXPECTED)?;
        Self::from_hundredths(u8::try_from(hundredths).map_err(|_| Self::EXPECTED)?)
    }

    /// Creates a score from hundredths.
    ///
    /// # Errors
    /// If it is above 100.
    pub const fn from_hundredths(hundredths: u8) -> Result<Self, Expected> {
        if hundredths <= 100 { Ok(Self(hundredths)) } else { Err(Self::EXPECTED) }
    }

    /// The score in hundredths.
    pub const fn hundredths(self) -> u8 {
        self.0
    }
}

impl fmt::Display for RiskScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl Value for RiskScore {
    fn write(&self, cell: &mut Cell<'_>) {
        Decimal { unscaled: self.0.into(), scale: 2 }.write(cell);
    }
}
