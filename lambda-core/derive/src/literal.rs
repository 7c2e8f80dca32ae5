//! Numbers and ranges as options write them.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Lit, LitInt, Token};

/// Most digits of a numeric, as in `lambda-core`.
pub(crate) const NUMERIC_DIGITS_MAX: u8 = 38;

/// The number that a literal has, if it is in `range`. `what` names it in the error.
pub(crate) fn within<N>(literal: &LitInt, range: RangeInclusive<N>, what: &str) -> syn::Result<N>
where
    N: FromStr + PartialOrd + Display,
{
    let number = literal.base10_digits().parse::<N>().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (first, last) = range.into_inner();
        Error::new(literal.span(), format!("{what} must be from {first} to {last}"))
    })
}

/// A range of counts: `1..=20`, `..=20` or `1..`.
pub(crate) struct Counts {
    first: Option<LitInt>,
    last: Option<LitInt>,
}

impl Counts {
    /// First and last count. An open end is 0 or `u32::MAX`.
    pub(crate) fn bounds(&self) -> syn::Result<(u32, u32)> {
        let Self { first, last } = self;
        let bound = |literal: Option<&LitInt>, open: u32| {
            literal.map_or(Ok(open), |literal| within(literal, 0..=u32::MAX, "an end of a range"))
        };
        let (least, most) = (bound(first.as_ref(), 0)?, bound(last.as_ref(), u32::MAX)?);
        if least > most {
            return Err(Error::new_spanned(
                quote!(#first..=#last),
                format!("the range {least}..={most} is empty"),
            ));
        }
        Ok((least, most))
    }
}

impl Parse for Counts {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let first: Option<LitInt> = input.peek(LitInt).then(|| input.parse()).transpose()?;
        // `..` also matches the beginning of `..=`.
        let last: Option<LitInt> = if input.peek(Token![..=]) {
            input.parse::<Token![..=]>()?;
            Some(input.parse()?)
        } else {
            input.parse::<Token![..]>()?;
            None
        };
        if first.is_none() && last.is_none() {
            return Err(input.error("expected an end of the range"));
        }
        Ok(Self { first, last })
    }
}

/// A bound of `between`: an integer, a float, or a decimal in quotes.
pub(crate) struct Number {
    literal: Lit,
    text: String,
}

impl Number {
    /// The number in decimal.
    pub(crate) fn decimal(&self) -> syn::Result<&str> {
        if is_decimal(&self.text) {
            return Ok(&self.text);
        }
        let message = format!(
            "a bound must be a decimal number of at most {NUMERIC_DIGITS_MAX} digits without an \
             exponent, such as -0.5"
        );
        Err(Error::new(self.literal.span(), message))
    }
}

impl Parse for Number {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let literal: Lit = input.parse()?;
        let text = match &literal {
            Lit::Int(number) => number.base10_digits().to_owned(),
            Lit::Float(number) => number.base10_digits().to_owned(),
            Lit::Str(text) => text.value(),
            _ => return Err(Error::new(literal.span(), "expected a number")),
        };
        Ok(Self { literal, text })
    }
}

/// Least and greatest value of a `between`. They are compared only if both are integers.
pub(crate) fn interval<'n>(first: &'n Number, last: &'n Number) -> syn::Result<(&'n str, &'n str)> {
    let (lower, upper) = (first.decimal()?, last.decimal()?);
    if let (Ok(from), Ok(to)) = (lower.parse::<i128>(), upper.parse::<i128>())
        && from > to
    {
        let (first, last) = (&first.literal, &last.literal);
        return Err(Error::new_spanned(
            quote!(#first, #last),
            format!("no value is between {lower} and {upper}; write the smaller bound first"),
        ));
    }
    Ok((lower, upper))
}

fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let fits =
        unsigned.bytes().filter(u8::is_ascii_digit).count() <= usize::from(NUMERIC_DIGITS_MAX);
    fits && match unsigned.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(unsigned),
    }
}
