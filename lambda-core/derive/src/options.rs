//! The options of a record's field, and the methods of a column that they call.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Ident, Lit, LitInt, LitStr};

use crate::attributes::{Known, Name, Setting};
use crate::literal::{Counts, NUMERIC_DIGITS_MAX, Number, interval, within};

// The limits that columns have in `lambda-core`.
const VARCHAR_LENGTH_MAX: u32 = 10_485_760;
const FRACTION_DIGITS_MAX: u8 = 6;

/// What an option says about its field.
pub(crate) enum Part {
    /// The column's name.
    Column(Name),
    /// The name or path in messages and files.
    Path(LitStr),
    /// The column's type, or its modifier.
    Type(Call),
    /// A rule for the values.
    Rule(Call),
    /// A call for a column of any type.
    Plain(TokenStream),
}

/// A method that is called on the column.
pub(crate) struct Call {
    /// The option, as it was written.
    pub(crate) option: Ident,
    /// The types that the option is for.
    pub(crate) family: Family,
    /// The call, from its point on.
    pub(crate) tokens: TokenStream,
}

/// The types that an option is for.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    Text,
    Decimal,
    Number,
    Time,
}

impl Family {
    /// The method of `lambda_core::record::Family` that answers whether a type is one of these.
    pub(crate) fn test(self) -> &'static str {
        match self {
            Self::Text => "is_text",
            Self::Decimal => "is_numeric",
            Self::Number => "is_number",
            Self::Time => "is_time",
        }
    }

    /// The types, in an error.
    pub(crate) fn types(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Decimal => "decimals",
            Self::Number => "numbers",
            Self::Time => "times and timestamps",
        }
    }
}

/// Every option that a field may have.
pub(crate) const OPTIONS: [Known<Part>; 14] = [
    Known::optional("column", r#"column = "name""#, column),
    Known::optional("path", r#"path = "times.departure""#, path),
    Known::optional("numeric", "numeric(12, 4)", numeric),
    Known::optional("varchar", "varchar(20)", varchar),
    Known::optional("precision", "precision = 3", precision),
    Known::optional("sql", r#"sql = "ops.cabin""#, sql),
    Known::optional("length", "length = 1..=20", length),
    Known::optional("bytes", "bytes = 1..=64", bytes),
    Known::optional("one_of", r#"one_of("a", "b")"#, one_of),
    Known::optional("between", "between(0, 100)", between),
    Known::optional("round", r#"round = "half_away""#, round),
    Known::optional("empty_is_null", "empty_is_null", empty_is_null),
    Known::optional("default", r#"default = "0""#, default),
    Known::optional("from", r#"from = "key" (or "header:NAME", "message", "timestamp")"#, from),
];

fn column(setting: &Setting) -> syn::Result<Part> {
    Ok(Part::Column(Name::quoted(&setting.assigned()?)))
}

fn path(setting: &Setting) -> syn::Result<Part> {
    Ok(Part::Path(setting.assigned()?))
}

fn numeric(setting: &Setting) -> syn::Result<Part> {
    let [precision, scale] = setting.exactly::<2, LitInt>()?;
    let precision = within(&precision, 1..=NUMERIC_DIGITS_MAX, "the precision of `numeric`")?;
    let scale = within(&scale, 0..=precision, "the scale of `numeric`")?;
    Ok(typed(setting, Family::Decimal, quote!(.numeric(#precision, #scale))))
}

fn varchar(setting: &Setting) -> syn::Result<Part> {
    let [length] = setting.exactly::<1, LitInt>()?;
    let length = within(&length, 1..=VARCHAR_LENGTH_MAX, "the length of `varchar`")?;
    Ok(typed(setting, Family::Text, quote!(.varchar(#length))))
}

fn precision(setting: &Setting) -> syn::Result<Part> {
    let digits = within(&setting.assigned()?, 0..=FRACTION_DIGITS_MAX, "`precision`")?;
    Ok(typed(setting, Family::Time, quote!(.precision(#digits))))
}

fn sql(setting: &Setting) -> syn::Result<Part> {
    let name = setting.assigned::<LitStr>()?;
    Ok(typed(setting, Family::Text, quote!(.enumeration(#name))))
}

fn length(setting: &Setting) -> syn::Result<Part> {
    let (first, last) = setting.assigned::<Counts>()?.bounds()?;
    Ok(rule(setting, Family::Text, &quote!(length(#first, #last))))
}

fn bytes(setting: &Setting) -> syn::Result<Part> {
    let (first, last) = setting.assigned::<Counts>()?.bounds()?;
    Ok(rule(setting, Family::Text, &quote!(bytes(#first, #last))))
}

fn one_of(setting: &Setting) -> syn::Result<Part> {
    let values = setting.list::<LitStr>()?;
    Ok(rule(setting, Family::Text, &quote!(one_of([#(#values),*]))))
}

fn between(setting: &Setting) -> syn::Result<Part> {
    let [first, last] = setting.exactly::<2, Number>()?;
    let (first, last) = interval(&first, &last)?;
    // `literal` panics for no text that `interval` lets through.
    let decimal = quote!(::lambda_core::record::Decimal::literal);
    Ok(rule(setting, Family::Number, &quote!(between(#decimal(#first), #decimal(#last)))))
}

fn round(setting: &Setting) -> syn::Result<Part> {
    if setting.assigned::<LitStr>()?.value() != "half_away" {
        return Err(setting.misused());
    }
    let rounding = quote!(::lambda_core::record::Rounding::HalfAway);
    let tokens = quote!(.rounded(#rounding));
    Ok(Part::Rule(Call { option: setting.name.clone(), family: Family::Decimal, tokens }))
}

fn empty_is_null(setting: &Setting) -> syn::Result<Part> {
    setting.flag()?;
    Ok(Part::Plain(quote!(.empty_is_null())))
}

fn default(setting: &Setting) -> syn::Result<Part> {
    let text = match setting.assigned::<Lit>()? {
        Lit::Str(text) => text.value(),
        Lit::Bool(value) => value.value.to_string(),
        Lit::Int(number) => number.base10_digits().to_owned(),
        Lit::Float(number) => number.base10_digits().to_owned(),
        _ => return Err(setting.misused()),
    };
    Ok(Part::Plain(quote!(.or_default(#text))))
}

fn from(setting: &Setting) -> syn::Result<Part> {
    let from = setting.assigned::<LitStr>()?.value();
    let origin = match (from.as_str(), from.strip_prefix("header:")) {
        ("key", _) => quote!(Key),
        ("message", _) => quote!(Message),
        ("timestamp", _) => quote!(Timestamp),
        (_, Some(name)) if !name.is_empty() => {
            quote!(Header(::std::string::String::from(#name)))
        }
        _ => return Err(setting.misused()),
    };
    Ok(Part::Plain(quote!(.from_origin(::lambda_core::record::Origin::#origin))))
}

fn typed(setting: &Setting, family: Family, tokens: TokenStream) -> Part {
    Part::Type(Call { option: setting.name.clone(), family, tokens })
}

fn rule(setting: &Setting, family: Family, rule: &TokenStream) -> Part {
    let tokens = quote!(.rule(::lambda_core::record::Rule::#rule));
    Part::Rule(Call { option: setting.name.clone(), family, tokens })
}
