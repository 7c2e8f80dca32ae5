//! The options inside `#[record(…)]`: which there are, how they are written, and the errors for
//! those that are wrong.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::quote;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream, Parser as _};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Ident, LitStr, Token, parenthesized};

use crate::errors::{self, Errors};

/// An option that an attribute may have, read as a `T`.
pub(crate) struct Known<T> {
    name: &'static str,
    usage: &'static str,
    read: fn(&Setting) -> syn::Result<T>,
    required: bool,
}

impl<T> Known<T> {
    /// An option that may be left out. `usage` shows how it is written, for errors.
    pub(crate) const fn optional(
        name: &'static str,
        usage: &'static str,
        read: fn(&Setting) -> syn::Result<T>,
    ) -> Self {
        Self { name, usage, read, required: false }
    }

    /// An option that must be there.
    pub(crate) const fn required(
        name: &'static str,
        usage: &'static str,
        read: fn(&Setting) -> syn::Result<T>,
    ) -> Self {
        Self { name, usage, read, required: true }
    }
}

/// An option as it was written.
pub(crate) struct Setting {
    /// Its name.
    pub(crate) name: Ident,
    /// Everything after the name.
    value: TokenStream,
    usage: &'static str,
}

impl Setting {
    /// The value in `name = value`.
    pub(crate) fn assigned<T: Parse>(&self) -> syn::Result<T> {
        assigned::<T>.parse2(self.value.clone()).map_err(|_| self.misused())
    }

    /// Checks that there is nothing after the name.
    pub(crate) fn flag(&self) -> syn::Result<()> {
        if self.value.is_empty() { Ok(()) } else { Err(self.misused()) }
    }

    /// The values in `name(value, …)`, at least one.
    pub(crate) fn list<T: Parse>(&self) -> syn::Result<Vec<T>> {
        let values = parenthesized_list::<T>.parse2(self.value.clone());
        values.ok().filter(|values| !values.is_empty()).ok_or_else(|| self.misused())
    }

    /// The values in `name(value, …)`, exactly `N` of them.
    pub(crate) fn exactly<const N: usize, T: Parse>(&self) -> syn::Result<[T; N]> {
        <[T; N]>::try_from(self.list()?).map_err(|_| self.misused())
    }

    /// The error for another form than the usage.
    pub(crate) fn misused(&self) -> Error {
        let Self { name, value, usage } = self;
        Error::new_spanned(quote!(#name #value), format!("expected `{usage}`"))
    }
}

fn assigned<T: Parse>(input: ParseStream<'_>) -> syn::Result<T> {
    input.parse::<Token![=]>()?;
    input.parse()
}

fn parenthesized_list<T: Parse>(input: ParseStream<'_>) -> syn::Result<Vec<T>> {
    let content;
    parenthesized!(content in input);
    let values = Punctuated::<T, Token![,]>::parse_terminated(&content)?;
    Ok(values.into_iter().collect())
}

/// The name of a column, and where it was written.
pub(crate) struct Name {
    /// The name.
    pub(crate) text: String,
    span: Span,
}

impl Name {
    /// The name that this identifier has without `r#`.
    pub(crate) fn of(ident: &Ident) -> Self {
        Self { text: ident.unraw().to_string(), span: ident.span() }
    }

    /// The name in these quotes.
    pub(crate) fn quoted(literal: &LitStr) -> Self {
        Self { text: literal.value(), span: literal.span() }
    }

    /// An error at the name.
    pub(crate) fn error(&self, message: &str) -> Error {
        Error::new(self.span, message)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Parse for Name {
    /// Parses an identifier or a string.
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.peek(LitStr) {
            return Ok(Self::quoted(&input.parse()?));
        }
        Ok(Self::of(&input.call(Ident::parse_any)?))
    }
}

/// Reads the options in the `record` attributes of `owner`, which is a struct or a field. What
/// is wrong becomes an error, and the other options are still read.
pub(crate) fn read<T>(
    attributes: &[Attribute],
    owner: &Ident,
    known: &[Known<T>],
    errors: &mut Errors,
) -> Vec<T> {
    let mut seen = Vec::new();
    let mut options = Vec::new();
    for Written { name, value } in written(attributes, errors) {
        let option = match known.iter().find(|known| name == known.name) {
            None => {
                let names = errors::list(known.iter().map(|known| known.name));
                let message = format!("unknown option `{name}`; the options here are {names}");
                Err(Error::new(name.span(), message))
            }
            Some(_) if seen.contains(&name) => {
                Err(Error::new(name.span(), format!("the option `{name}` is given twice")))
            }
            Some(known) => (known.read)(&Setting { name: name.clone(), value, usage: known.usage }),
        };
        options.extend(errors.take(option));
        seen.push(name);
    }
    for Known { name, usage, .. } in known.iter().filter(|known| known.required) {
        if !seen.iter().any(|seen| seen == name) {
            let message = format!("`{owner}` has no {name}; add `#[record({usage})]`");
            errors.push(Error::new(owner.span(), message));
        }
    }
    options
}

/// An option before its name is looked up.
struct Written {
    name: Ident,
    value: TokenStream,
}

impl Parse for Written {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name = input
            .call(Ident::parse_any)
            .map_err(|error| Error::new(error.span(), "expected the name of an option"))?;
        let mut value = TokenStream::new();
        while !input.is_empty() && !input.peek(Token![,]) {
            value.extend([input.parse::<TokenTree>()?]);
        }
        Ok(Self { name, value })
    }
}

/// Splits the `record` attributes into options.
fn written(attributes: &[Attribute], errors: &mut Errors) -> Vec<Written> {
    let mut options = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("record")) {
        let list = Punctuated::<Written, Token![,]>::parse_terminated;
        options.extend(errors.take(attribute.parse_args_with(list)).into_iter().flatten());
    }
    options
}
