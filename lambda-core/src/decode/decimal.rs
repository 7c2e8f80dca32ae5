//! The one parser of decimal numbers. The value decides, not the spelling:
//! `1e2`, `100.00` and `+100` are one number, and none passes through a float.

/// Significant digits that a [`Number`] keeps: enough for any `numeric` of 18 digits.
const DIGITS_MAX: u32 = 18;

/// Reason why a text is not such a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// The text does not spell a decimal number.
    #[error("expected a decimal number")]
    Syntax,
    /// Digits other than zeros follow the last decimal allowed.
    #[error("expected fewer decimals")]
    Decimals,
    /// The value has more than 18 digits at the scale asked for.
    #[error("expected fewer digits")]
    Range,
}

/// A decimal number: `mantissa` · 10^`exponent`, without trailing zeros in the
/// mantissa.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    negative: bool,
    mantissa: u64,
    exponent: i64,
    /// Whether digits other than zeros follow the mantissa's.
    more: bool,
}

impl Number {
    /// Parses an optional sign, digits with at most one point, and an optional exponent.
    /// Its time depends on the text's length only, whatever the exponent.
    ///
    /// # Errors
    /// [`NumberError::Syntax`] for anything else, spaces included.
    pub fn parse(text: &str) -> Result<Self, NumberError> {
        let bytes = text.as_bytes();
        let (negative, bytes) = sign(bytes);
        let mut number = Self { negative, mantissa: 0, exponent: 0, more: false };
        let mut digits = 0_u32; // kept in the mantissa
        let mut zeros = 0_u32; // read after it, and dropped unless a digit follows
        let mut last = 0_i64; // index of the mantissa's last digit
        let mut seen = 0_i64;
        let mut point = None;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'0' => {
                    zeros = zeros.saturating_add(u32::from(digits > 0));
                    seen += 1;
                }
                b'1'..=b'9' => {
                    let wanted = digits.saturating_add(zeros).saturating_add(1);
                    if number.more || wanted > DIGITS_MAX {
                        number.more = true;
                    } else {
                        number.mantissa =
                            number.mantissa * 10_u64.pow(zeros + 1) + u64::from(byte - b'0');
                        (digits, zeros, last) = (wanted, 0, seen);
                    }
                    seen += 1;
                }
                b'.' if point.is_none() => point = Some(seen),
                _ => break,
            }
            at += 1;
        }
        if seen == 0 {
            return Err(NumberError::Syntax);
        }
        let exponent = exponent(&bytes[at..])?;
        if digits > 0 {
            number.exponent = exponent.saturating_add(point.unwrap_or(seen) - 1 - last);
        }
        Ok(number)
    }

    /// The value times 10^`scale`, exactly.
    ///
    /// # Errors
    /// If the value has more decimals, or 10^18 is reached.
    pub fn exact(self, scale: u8) -> Result<i64, NumberError> {
        if self.mantissa == 0 {
            return Ok(0);
        }
        let power = self.exponent.saturating_add(i64::from(scale));
        if power.saturating_add(i64::from(self.digits())) > i64::from(DIGITS_MAX) {
            return Err(NumberError::Range);
        }
        if self.more || power < 0 {
            return Err(NumberError::Decimals);
        }
        let power = u32::try_from(power).map_err(|_| NumberError::Range)?;
        Ok(self.signed(self.mantissa * 10_u64.pow(power)))
    }

    /// The value times 10^`scale`, rounded half away from zero.
    ///
    /// # Errors
    /// If 10^18 is reached.
    pub fn rounded(self, scale: u8) -> Result<i64, NumberError> {
        let power = self.exponent.saturating_add(i64::from(scale));
        let padding = if self.more { DIGITS_MAX - self.digits() } else { 0 };
        // With more digits after it, eighteen are known: zeros follow the mantissa.
        let (mantissa, power) =
            (self.mantissa * 10_u64.pow(padding), power.saturating_sub(i64::from(padding)));
        if self.more && power >= 0 {
            return Err(NumberError::Range);
        }
        if mantissa == 0 || power >= 0 {
            return self.exact(scale);
        }
        let dropped = u32::try_from(power.unsigned_abs()).unwrap_or(u32::MAX);
        if dropped > self.digits() + padding {
            return Ok(0);
        }
        // The rest of the dropped digits is below one half exactly when the first of them
        // is below five.
        let tenths = mantissa / 10_u64.pow(dropped - 1);
        Ok(self.signed(tenths / 10 + u64::from(tenths % 10 >= 5)))
    }

    /// Whether 0 ≤ value ≤ 1, before any rounding.
    pub fn is_fraction(self) -> bool {
        if self.mantissa == 0 {
            return true;
        }
        let above_point = self.exponent.saturating_add(i64::from(self.digits()));
        let is_one = self.mantissa == 1 && self.exponent == 0 && !self.more;
        !self.negative && (above_point <= 0 || is_one)
    }

    fn digits(self) -> u32 {
        self.mantissa.checked_ilog10().map_or(0, |log| log + 1)
    }

    fn signed(self, magnitude: u64) -> i64 {
        let magnitude = magnitude.cast_signed();
        if self.negative { -magnitude } else { magnitude }
    }
}

fn sign(bytes: &[u8]) -> (bool, &[u8]) {
    match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, bytes),
    }
}

/// The exponent that `rest` spells, saturated; 0 for nothing at all.
fn exponent(rest: &[u8]) -> Result<i64, NumberError> {
    let [b'e' | b'E', rest @ ..] = rest else {
        return if rest.is_empty() { Ok(0) } else { Err(NumberError::Syntax) };
    };
    let (negative, digits) = sign(rest);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NumberError::Syntax);
    }
    let value = digits.iter().fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "a test of short texts"
    )]

    use proptest::prelude::*;

    use super::*;

    /// The value as schoolbook digits: sign, digits without leading and trailing
    /// zeros, and the power of ten of the last one.
    fn reference(text: &str) -> Option<(bool, String, i64)> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, power) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], rest[at + 1..].parse::<i64>().ok()?),
            None => (rest, 0),
        };
        let (whole, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{behind}");
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let kept = digits.trim_end_matches('0');
        let power = power - behind.len() as i64 + (digits.len() - kept.len()) as i64;
        let kept = kept.trim_start_matches('0');
        let power = if kept.is_empty() { 0 } else { power };
        Some((negative, kept.to_owned(), power))
    }

    /// The value times 10^scale: its digits before and after the point.
    fn shifted((_, digits, power): &(bool, String, i64), scale: i64) -> (String, String) {
        let power = power + scale;
        if digits.is_empty() {
            return (String::new(), String::new());
        }
        if power >= 0 {
            return (format!("{digits}{}", "0".repeat(power as usize)), String::new());
        }
        let behind = power.unsigned_abs() as usize;
        let padded = format!("{}{digits}", "0".repeat(behind.saturating_sub(digits.len())));
        let (whole, fraction) = padded.split_at(padded.len() - behind);
        (whole.to_owned(), fraction.to_owned())
    }

    fn number(digits: &str) -> Option<i64> {
        let digits = digits.trim_start_matches('0');
        let digits = if digits.is_empty() { "0" } else { digits };
        (digits.len() <= 18).then(|| digits.parse().ok()).flatten()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn agrees_with_schoolbook_arithmetic(
            text in "[+-]?[0-9]{0,12}0{0,12}[0-9]{0,9}(\\.0{0,12}[0-9]{0,12}0{0,9}[0-9]{0,2})?([eE][+-]?[0-9]{1,2})?",
            scale in 0..=6_u8,
        ) {
            let Some(value) = reference(&text) else {
                prop_assert_eq!(Number::parse(&text), Err(NumberError::Syntax));
                return Ok(());
            };
            let parsed = Number::parse(&text).unwrap();
            let (whole, behind) = shifted(&value, i64::from(scale));
            let sign = if value.0 { -1 } else { 1 };
            let exact = number(&whole).filter(|_| behind.is_empty()).map(|digits| sign * digits);
            prop_assert_eq!(parsed.exact(scale).ok(), exact, "{} at {}", text, scale);
            let up = i64::from(behind.starts_with(|digit| digit >= '5'));
            let one = value.1 == "1" && value.2 == 0;
            let below_one = shifted(&value, 0).0.bytes().all(|digit| digit == b'0');
            let inside = value.1.is_empty() || !value.0 && (one || below_one);
            prop_assert_eq!(parsed.is_fraction(), inside, "{}", text);
            if inside {
                let rounded = number(&whole).map(|digits| digits + up);
                prop_assert_eq!(parsed.rounded(scale).ok(), rounded, "{} at {}", text, scale);
            }
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eE]{0,40}", scale in 0..=18_u8) {
            let parsed = Number::parse(&text);
            prop_assert_eq!(parsed.is_ok(), reference(&text).is_some() || huge(&text));
            if let Ok(number) = parsed {
                let (exact, rounded) = (number.exact(scale), number.rounded(scale));
                prop_assert!(exact.is_err() || exact == rounded);
            }
        }
    }

    /// Whether only the exponent is too large for the reference.
    fn huge(text: &str) -> bool {
        text.find(['e', 'E']).is_some_and(|at| {
            let exponent = text[at + 1..].trim_start_matches(['-', '+']);
            let one_sign = text[at + 1..].len() - exponent.len() <= 1;
            one_sign
                && exponent.len() > 18
                && exponent.bytes().all(|byte| byte.is_ascii_digit())
                && reference(&text[..at]).is_some()
        })
    }

    #[test]
    fn a_fraction_is_at_most_one_however_many_decimals_it_has() {
        let inside = |text: &str| Number::parse(text).unwrap().is_fraction();
        assert!(
            inside("1") && inside("1.000000000000000000000") && inside("0.9999999999999999999999")
        );
        assert!(!inside("1.000000000000000001") && !inside("1.00000000000000000000000000000001"));
    }

    #[test]
    fn huge_exponents_neither_overflow_nor_loop() {
        let exact = |text: &str| Number::parse(text).unwrap().exact(2);
        assert_eq!(exact("0e999999999"), Ok(0));
        assert_eq!(exact("-0.000e-99999999999999999999999"), Ok(0));
        assert_eq!(exact("1e-400"), Err(NumberError::Decimals));
        assert_eq!(exact("1e99999999999999999999999999"), Err(NumberError::Range));
        assert_eq!(exact("1e-99999999999999999999999999"), Err(NumberError::Decimals));
        let rounded = |text: &str| Number::parse(text).unwrap().rounded(2);
        assert_eq!(rounded("9e-99999999999999999999999999"), Ok(0));
        assert_eq!(rounded("1e99999999999999999999999999"), Err(NumberError::Range));
    }
}
