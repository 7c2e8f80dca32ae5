//! Exact decimal numbers in PostgreSQL's `numeric`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Cell, CellRef, Field, Value};
use crate::dead_letter::Reason;
use crate::record::{ColumnType, Family, Rounding, Rule};

/// Most digits.
const DIGITS_MAX: u32 = 38;

/// The first number with more digits.
const END: i128 = POWERS[DIGITS_MAX as usize];

/// Powers of ten.
const POWERS: [i128; DIGITS_MAX as usize + 1] = {
    let mut powers = [1; DIGITS_MAX as usize + 1];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

/// 10^`exponent`, if it is in range.
fn power(exponent: u32) -> Option<i128> {
    POWERS.get(exponent as usize).copied()
}

/// `unscaled` / 10^`scale`, for a numeric column.
///
/// ```
/// use lambda_core::record::Decimal;
///
/// let price: Decimal = "12.5".parse()?;
/// assert_eq!(price, Decimal { unscaled: 125, scale: 1 });
/// assert_eq!(price.to_string(), "12.5");
/// # Ok::<(), lambda_core::record::DecimalError>(())
/// ```
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
        if self.scale == other.scale {
            return self.unscaled.cmp(&other.unscaled);
        }
        if let (Ok(one), Ok(two)) = (i64::try_from(self.unscaled), i64::try_from(other.unscaled))
            && self.scale.max(other.scale) <= 18
        {
            let at = |unscaled: i64, scale: u8| i128::from(unscaled) * POWERS[18 - scale as usize];
            return at(one, self.scale).cmp(&at(two, other.scale));
        }
        let scale = self.scale.max(other.scale);
        let at = |it: Self| it.unscaled.checked_mul(power(u32::from(scale - it.scale))?);
        match (at(self), at(other)) {
            (Some(one), Some(other)) => one.cmp(&other),
            // Only a value with fewer decimals gets too large.
            (None, _) => self.unscaled.cmp(&0),
            (_, None) => 0.cmp(&other.unscaled),
        }
    }

    /// The magnitude without its point, at another scale; nothing if digits would be lost.
    fn magnitude_at(self, scale: u8) -> Option<u128> {
        let magnitude = self.unscaled.unsigned_abs();
        let factor = |digits: u8| power(u32::from(digits)).map(i128::unsigned_abs);
        match self.scale.cmp(&scale) {
            Ordering::Equal => Some(magnitude),
            Ordering::Less => magnitude.checked_mul(factor(scale - self.scale)?),
            Ordering::Greater => {
                let factor = factor(self.scale - scale).unwrap_or(u128::MAX);
                magnitude.is_multiple_of(factor).then(|| magnitude / factor)
            }
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
        Number::parse(text)
            .filter(|number| number.cut.is_none())
            .map(|it| it.kept)
            .ok_or(DecimalError)
    }
}

/// A number of any length: as many of its digits as a [`Decimal`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    /// The number, cut.
    kept: Decimal,
    /// Number of decimals before the digits that were cut, if any but zeros were.
    cut: Option<i64>,
    /// Whether it is below zero, or what was kept of it would be.
    negative: bool,
}

impl Number {
    /// The number that a text spells: an optional sign, digits with at most one point, and an
    /// optional exponent. Nothing for another text, and for a number of more than 38 digits
    /// before its point. The value decides, not the spelling: `1e2`, `100.00` and `+100` are one
    /// number, and none passes through a float.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        short(bytes).map(Self::from).or_else(|| long(bytes))
    }

    /// The number, if it has no decimals but zeros.
    pub(crate) fn whole(self) -> Option<i128> {
        let Decimal { unscaled, scale } = self.kept.shortest();
        (scale == 0 && self.cut.is_none()).then_some(unscaled)
    }

    /// Compares with a decimal, exactly.
    fn compare(self, other: Decimal) -> Ordering {
        // What was cut is below the other's last decimal, or its first digit decides.
        let cut = if self.negative { Ordering::Less } else { Ordering::Greater };
        self.kept.compare(other).then(self.cut.map_or(Ordering::Equal, |_| cut))
    }

    /// The number with at most this many decimals, rounded half away from zero; nothing if they
    /// are too many digits.
    fn rounded(self, scale: u8) -> Option<Decimal> {
        let Decimal { unscaled, scale: found } = self.kept;
        if found <= scale {
            // A digit at the first decimal that is cut could be a half.
            let is_near = self.cut.is_none_or(|cut| cut > i64::from(scale));
            return is_near.then_some(self.kept);
        }
        let Some(unit) = power(u32::from(found - scale)) else {
            return Some(Decimal { unscaled: 0, scale });
        };
        // The digits that were cut come after the half.
        let up = (unscaled % unit).unsigned_abs() >= unit.unsigned_abs() / 2;
        let away = if up { unscaled.signum() } else { 0 };
        Some(Decimal { unscaled: unscaled / unit + away, scale })
    }
}

/// Reads a number of at most 18 digits, and no exponent.
fn short(bytes: &[u8]) -> Option<Decimal> {
    let (negative, digits) = sign(bytes);
    if digits.len() > 19 {
        return None;
    }
    let (mut magnitude, mut point) = (0_u64, None);
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => magnitude = magnitude * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let scale = point.map_or(0, |at| digits.len() - 1 - at);
    let count = digits.len() - usize::from(point.is_some());
    let unscaled = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
    (1..=18).contains(&count).then_some(Decimal { unscaled, scale: scale as u8 })
}

/// Reads a number of any length.
fn long(bytes: &[u8]) -> Option<Number> {
    let (negative, bytes) = sign(bytes);
    let length = bytes.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(bytes.len());
    let (mantissa, exponent) = bytes.split_at(length);
    let (mut unscaled, mut scale, mut cut) = (0_i128, 0_i64, None);
    let (mut point, mut seen) = (false, false);
    // Zeros that count only if a digit follows: `1.50000` has one decimal.
    let mut zeros = 0_u32;
    for byte in mantissa {
        match byte {
            b'.' if !point => point = true,
            b'0'..=b'9' => {
                seen = true;
                scale += i64::from(point);
                let digit = i128::from(byte - b'0');
                if digit == 0 || cut.is_some() {
                    zeros += u32::from(unscaled != 0);
                    continue;
                }
                let longer = power(zeros + 1);
                let longer = longer.and_then(|factor| unscaled.checked_mul(factor));
                if let Some(longer) = longer.filter(|longer| *longer < END) {
                    (unscaled, zeros) = (longer + digit, 0);
                } else {
                    cut = Some(scale - i64::from(point));
                    zeros += 1;
                }
            }
            _ => return None,
        }
    }
    let exponent = exponent_of(exponent)?;
    let scale = scale.saturating_sub(i64::from(zeros)).saturating_sub(exponent);
    let cut = cut.map(|cut| cut.saturating_sub(exponent));
    if !seen {
        return None;
    }
    let unscaled = if negative { -unscaled } else { unscaled };
    Number { kept: Decimal { unscaled, scale: 0 }, cut, negative }.at(scale)
}

impl Number {
    /// Divides by 10^`scale`, which may be negative. Nothing for more than 38 digits before the
    /// point.
    fn at(self, scale: i64) -> Option<Self> {
        let unscaled = self.kept.unscaled;
        if unscaled == 0 {
            return Some(self);
        }
        if let Ok(scale) = u8::try_from(scale)
            && u32::from(scale) <= DIGITS_MAX
        {
            return Some(Self { kept: Decimal { unscaled, scale }, ..self });
        }
        if scale > 0 {
            let excess = u32::try_from(scale - i64::from(DIGITS_MAX)).ok();
            let factor = excess.and_then(power);
            let kept = factor.map_or(0, |factor| unscaled / factor);
            let is_exact = factor.is_some_and(|factor| unscaled % factor == 0);
            let cut = if is_exact { self.cut } else { Some(i64::from(DIGITS_MAX)) };
            let kept = Decimal { unscaled: kept, scale: DIGITS_MAX as u8 };
            return Some(Self { kept, cut, ..self });
        }
        let zeros = u32::try_from(scale.unsigned_abs()).ok().filter(|_| self.cut.is_none())?;
        let longer = power(zeros).and_then(|factor| unscaled.checked_mul(factor))?;
        (longer.abs() < END)
            .then_some(Self { kept: Decimal { unscaled: longer, scale: 0 }, ..self })
    }
}

impl From<Decimal> for Number {
    fn from(kept: Decimal) -> Self {
        Self { kept, cut: None, negative: kept.unscaled < 0 }
    }
}

fn sign(bytes: &[u8]) -> (bool, &[u8]) {
    match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, bytes),
    }
}

/// The exponent that `text` spells, saturated; 0 for nothing at all.
fn exponent_of(text: &[u8]) -> Option<i64> {
    let Some((_, rest)) = text.split_first() else { return Some(0) };
    let (negative, digits) = sign(rest);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    Some(if negative { -value } else { value })
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
    /// A value with more digits than the column has is rejected; one with more decimals is, unless
    /// the column rounds.
    fn write(&self, cell: &mut Cell<'_>) {
        Number::from(*self).write(cell);
    }
}

impl Value for Number {
    fn write(&self, cell: &mut Cell<'_>) {
        let (precision, scale) = match *cell.kind() {
            ColumnType::Numeric { precision, scale } => (u32::from(precision), scale),
            ColumnType::UnconstrainedNumeric => (DIGITS_MAX, self.kept.shortest().scale),
            _ => return cell.misfit("a decimal number"),
        };
        let value = match cell.column.rounding {
            None if self.cut.is_some() => None,
            None => Some(self.kept),
            Some(Rounding::HalfAway) => {
                for rule in &cell.column.rules {
                    if let Rule::Between(from, to) = rule
                        && (self.compare(*from).is_lt() || self.compare(*to).is_gt())
                    {
                        cell.reject(Reason::InvalidField, format_args!("expected {rule}"));
                    }
                }
                self.rounded(scale)
            }
        };
        let magnitude = value.and_then(|value| value.magnitude_at(scale));
        let magnitude = magnitude.and_then(|magnitude| {
            let end = power(precision).map_or(u128::MAX, i128::unsigned_abs);
            (magnitude < end && u32::from(scale) <= DIGITS_MAX).then_some(magnitude)
        });
        match magnitude {
            Some(magnitude) => put(cell, self.kept.unscaled < 0, magnitude, scale),
            None => cell.reject(Reason::InvalidField, expected(cell.kind())),
        }
    }
}

/// Describes the numbers that a column holds.
fn expected(kind: &ColumnType) -> String {
    match kind {
        ColumnType::Numeric { precision, scale } => format!(
            "expected a number of at most {} digits before the point and {scale} after it",
            precision - scale
        ),
        _ => format!("expected a number of at most {DIGITS_MAX} digits"),
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
    let mut count = 0;
    let lowest = 10_u64.pow(4 - padding);
    let mut rest = if let Ok(magnitude) = u64::try_from(magnitude) {
        groups[0] = (magnitude % lowest) as u16 * 10_u16.pow(padding);
        magnitude / lowest
    } else {
        groups[0] = (magnitude % u128::from(lowest)) as u16 * 10_u16.pow(padding);
        let mut rest = magnitude / u128::from(lowest);
        while rest > u128::from(u64::MAX) {
            count += 1;
            groups[count] = (rest % 10_000) as u16;
            rest /= 10_000;
        }
        rest as u64
    };
    count += 1;
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
