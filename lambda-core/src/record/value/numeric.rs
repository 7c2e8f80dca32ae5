//! Exact decimal numbers in PostgreSQL's `numeric`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Cell, CellRef, Field, Value};
use crate::dead_letter::Reason;
use crate::record::{ColumnType, Family};

/// Most digits.
const DIGITS_MAX: u32 = 38;

/// The first number with more digits.
const END: i128 = 10_i128.pow(DIGITS_MAX);

/// Reason why a value is rejected.
const TOO_LONG: &str = "more digits than the column has";

/// `unscaled` / 10^`scale`, for a numeric column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// The value without its point; at most 38 digits.
    pub unscaled: i128,
    /// Number of digits after the point; at most 38.
    pub scale: u8,
}

impl Decimal {
    /// The number that a literal spells: an optional sign, digits, and an optional point.
    ///
    /// # Panics
    /// For any other text, and for more than 38 digits: for constants, which are checked when
    /// they are compiled.
    ///
    /// ```
    /// use lambda_core::record::Decimal;
    ///
    /// const RATE: Decimal = Decimal::literal("-0.25");
    /// assert_eq!(RATE, Decimal { unscaled: -25, scale: 2 });
    /// ```
    pub const fn literal(text: &str) -> Self {
        match plain(text.as_bytes()) {
            Some(decimal) => decimal,
            None => panic!("a decimal number has a sign, at most 38 digits, and a point"),
        }
    }

    /// Compares by value: 1.5 equals 1.50.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        let at = |it: Self| {
            let factor = 10_i128.checked_pow(u32::from(scale - it.scale))?;
            it.unscaled.checked_mul(factor)
        };
        match (at(self), at(other)) {
            (Some(one), Some(other)) => one.cmp(&other),
            // Only a value with fewer decimals gets too large.
            (None, _) => self.unscaled.cmp(&0),
            (_, None) => 0.cmp(&other.unscaled),
        }
    }

    /// The magnitude without its point, at another scale: nothing if digits would be lost.
    fn magnitude_at(self, scale: u8) -> Result<u128, &'static str> {
        let magnitude = self.unscaled.unsigned_abs();
        if self.scale <= scale {
            let factor = 10_u128.checked_pow(u32::from(scale - self.scale));
            return factor.and_then(|factor| magnitude.checked_mul(factor)).ok_or(TOO_LONG);
        }
        let factor = 10_u128.checked_pow(u32::from(self.scale - scale)).unwrap_or(u128::MAX);
        if magnitude.is_multiple_of(factor) {
            Ok(magnitude / factor)
        } else {
            Err("more decimals than the column has")
        }
    }

    /// The same value without zeros at the end of its fraction.
    fn shortest(mut self) -> Self {
        while self.scale > 0 && self.unscaled % 10 == 0 {
            self.unscaled /= 10;
            self.scale -= 1;
        }
        self
    }
}

/// Reads an optional sign, digits and an optional point. Zeros at either end count for nothing.
const fn plain(bytes: &[u8]) -> Option<Decimal> {
    let signed = !bytes.is_empty() && matches!(bytes[0], b'-' | b'+');
    let mut at = if signed { 1 } else { 0 };
    let (mut unscaled, mut scale, mut point, mut seen) = (0_i128, 0_u8, false, false);
    while at < bytes.len() {
        match bytes[at] {
            b'.' if !point => point = true,
            // A zero that a fraction may end with once it has all digits.
            b'0' if point && (unscaled >= END / 10 || scale as u32 == DIGITS_MAX) => seen = true,
            digit @ b'0'..=b'9' => {
                if unscaled >= END / 10 || (point && scale as u32 == DIGITS_MAX) {
                    return None;
                }
                unscaled = unscaled * 10 + (digit - b'0') as i128;
                scale += point as u8;
                seen = true;
            }
            _ => return None,
        }
        at += 1;
    }
    let unscaled = if signed && bytes[0] == b'-' { -unscaled } else { unscaled };
    if seen { Some(Decimal { unscaled, scale }) } else { None }
}

/// Reason why a text is no [`Decimal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a decimal number of at most 38 digits")]
pub struct DecimalError;

impl FromStr for Decimal {
    type Err = DecimalError;

    /// Reads a decimal number, exactly; an exponent is allowed.
    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let Self { unscaled, scale } = plain(mantissa.as_bytes()).ok_or(DecimalError)?;
        let exponent: i64 = exponent.parse().map_err(|_| DecimalError)?;
        let scale = i64::from(scale).checked_sub(exponent).ok_or(DecimalError)?;
        if unscaled == 0 {
            return Ok(Self { unscaled, scale: scale.clamp(0, DIGITS_MAX.into()) as u8 });
        }
        if let Ok(zeros) = u32::try_from(-scale) {
            let unscaled = 10_i128.checked_pow(zeros).and_then(|it| unscaled.checked_mul(it));
            let unscaled = unscaled.filter(|unscaled| unscaled.abs() < END);
            return unscaled.map(|unscaled| Self { unscaled, scale: 0 }).ok_or(DecimalError);
        }
        let scale = u8::try_from(scale).map_err(|_| DecimalError)?;
        Ok(Self { unscaled, scale }.shortest())
    }
}

impl<'de> Deserialize<'de> for Decimal {
    /// Reads a number or a text, exactly: never through a float.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = usize::from(self.scale);
        let digits = format!("{:0>1$}", self.unscaled.unsigned_abs(), scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let sign = if self.unscaled < 0 { "-" } else { "" };
        let point = if scale > 0 { "." } else { "" };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

impl Value for Decimal {
    /// A value with more digits or decimals than the column has is rejected, not rounded.
    fn write(&self, cell: &mut Cell<'_>) {
        let (precision, scale) = match *cell.kind() {
            ColumnType::Numeric { precision, scale } => (u32::from(precision), scale),
            ColumnType::UnconstrainedNumeric => (DIGITS_MAX, self.shortest().scale),
            _ => return cell.misfit("a decimal number"),
        };
        let magnitude = self.magnitude_at(scale).and_then(|magnitude| {
            let end = 10_u128.checked_pow(precision).unwrap_or(u128::MAX);
            let fits = magnitude < end && u32::from(scale) <= DIGITS_MAX;
            if fits { Ok(magnitude) } else { Err(TOO_LONG) }
        });
        match magnitude {
            Ok(magnitude) => put(cell, self.unscaled < 0, magnitude, scale),
            Err(defect) => cell.reject(Reason::InvalidField, defect),
        }
    }
}

/// Puts PostgreSQL's numeric: digits of base 10,000 around the point, without leading or
/// trailing zeros, and the display scale. At most 38 digits.
fn put(cell: &mut Cell<'_>, negative: bool, magnitude: u128, scale: u8) {
    // Whole groups of four digits after the point; the lowest may lack some.
    let groups_behind = scale.div_ceil(4);
    let padding = u32::from(groups_behind * 4 - scale);
    // From the lowest group to the highest.
    let mut groups = [0_u16; 12];
    let lowest = 10_u128.pow(4 - padding);
    groups[0] = (magnitude % lowest) as u16 * 10_u16.pow(padding);
    let (mut rest, mut count) = (magnitude / lowest, 1);
    while rest > u128::from(u64::MAX) {
        groups[count] = (rest % 10_000) as u16;
        rest /= 10_000;
        count += 1;
    }
    let mut rest = rest as u64;
    while rest > 0 {
        groups[count] = (rest % 10_000) as u16;
        rest /= 10_000;
        count += 1;
    }
    let zeros = groups[..count].iter().take_while(|group| **group == 0).count();
    let digits = &groups[zeros..count];
    let weight = if digits.is_empty() { 0 } else { count as i16 - i16::from(groups_behind) - 1 };
    let sign: u16 = if negative && !digits.is_empty() { 0x4000 } else { 0 };
    let mut bytes = [0_u8; 8 + 2 * 12];
    bytes[0..2].copy_from_slice(&(digits.len() as u16).to_be_bytes());
    bytes[2..4].copy_from_slice(&weight.to_be_bytes());
    bytes[4..6].copy_from_slice(&sign.to_be_bytes());
    bytes[6..8].copy_from_slice(&u16::from(scale).to_be_bytes());
    for (place, group) in bytes[8..].chunks_exact_mut(2).zip(digits.iter().rev()) {
        place.copy_from_slice(&group.to_be_bytes());
    }
    cell.put(&bytes[..8 + digits.len() * 2]);
}

impl Field for Decimal {
    const FAMILY: Family = Family::NUMERIC;

    fn column_type() -> ColumnType {
        ColumnType::UnconstrainedNumeric
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        match cell.kind() {
            ColumnType::Numeric { .. } | ColumnType::UnconstrainedNumeric => get(cell.bytes()?),
            _ => None,
        }
    }
}

/// Reads PostgreSQL's numeric; nothing for what is no number, or has more than 38 digits.
pub(crate) fn get(bytes: &[u8]) -> Option<Decimal> {
    let (head, digits) = bytes.split_first_chunk::<8>()?;
    let [_, _, weight_high, weight_low, sign, _, scale_high, scale] = *head;
    let sign = match sign {
        0 => 1,
        0x40 => -1,
        _ => return None,
    };
    let groups = digits.as_chunks::<2>().0;
    if groups.is_empty() || scale_high != 0 {
        return (scale_high == 0).then_some(Decimal { unscaled: 0, scale });
    }
    // Digits after those of the groups, up to the last decimal; fewer if the last group ends with
    // zeros that are no decimals.
    let weight = i32::from(i16::from_be_bytes([weight_high, weight_low]));
    let missing = (weight + 1 - groups.len() as i32) * 4 + i32::from(scale);
    let padding = missing.min(0).unsigned_abs();
    let mut unscaled = 0_i128;
    for (index, group) in groups.iter().enumerate() {
        let group = i128::from(u16::from_be_bytes(*group));
        let padding = if index + 1 == groups.len() { padding } else { 0 };
        let digits = 4_u32.checked_sub(padding)?;
        unscaled = unscaled.checked_mul(10_i128.pow(digits))?;
        unscaled = unscaled.checked_add(group / 10_i128.pow(padding))?;
    }
    let factor = 10_i128.checked_pow(missing.max(0).unsigned_abs())?;
    Some(Decimal { unscaled: sign * unscaled.checked_mul(factor)?, scale })
}
