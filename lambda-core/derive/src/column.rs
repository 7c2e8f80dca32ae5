//! A field of a record, and the code for its column.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Error, Field, Ident, LitStr, Type};

use crate::attributes::{self, Name};
use crate::errors::Errors;
use crate::options::{Call, OPTIONS, Part};

/// A field of a record.
pub(crate) struct Column<'a> {
    /// The column's name.
    pub(crate) name: Name,
    field: &'a Ident,
    ty: &'a Type,
    path: Option<LitStr>,
    types: Vec<Call>,
    rules: Vec<Call>,
    plain: Vec<TokenStream>,
}

impl<'a> Column<'a> {
    /// Reads a field; nothing if it has no name.
    pub(crate) fn of(field: &'a Field, errors: &mut Errors) -> Option<Self> {
        let (ident, ty) = (field.ident.as_ref()?, &field.ty);
        let (mut name, mut path) = (Name::of(ident), None);
        let (mut types, mut rules, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        for part in attributes::read(&field.attrs, ident, &OPTIONS, errors) {
            match part {
                Part::Column(column) => name = column,
                Part::Path(text) => path = Some(text),
                Part::Type(call) => types.push(call),
                Part::Rule(call) => rules.push(call),
                Part::Plain(call) => plain.push(call),
            }
        }
        if let [first, second, ..] = &types[..] {
            let (first, second) = (&first.option, &second.option);
            let message = format!("`{first}` and `{second}` both set the column's type; keep one");
            errors.push(Error::new(second.span(), message));
        }
        Some(Self { name, field: ident, ty, path, types, rules, plain })
    }

    /// The expression that makes the column.
    pub(crate) fn definition(&self) -> TokenStream {
        let (at, ty, name) = (self.at(), self.ty, &self.name.text);
        let from_field = self.path.as_ref().map(|path| quote_spanned!(at=> .from_field(#path)));
        let calls = self.calls().map(|call| &call.tokens).chain(&self.plain);
        quote_spanned!(at=> ::lambda_core::record::Column::of::<#ty>(#name) #from_field #(#calls)*)
    }

    /// The statement that puts the field's value into a row.
    pub(crate) fn put(&self) -> TokenStream {
        let (at, field) = (self.at(), self.field);
        quote_spanned!(at=> row.put(&self.#field);)
    }

    /// The initializer that takes the field's value from a row.
    pub(crate) fn take(&self) -> TokenStream {
        let (at, field, ty) = (self.at(), self.field, self.ty);
        quote_spanned!(at=> #field: row.take::<#ty>()?)
    }

    /// Checks while compiling that the field's type is one that its options are for.
    pub(crate) fn option_checks(&self) -> impl Iterator<Item = TokenStream> {
        self.calls().map(move |Call { option, family, .. }| {
            let (at, of) = (self.at(), self.implementation());
            let test = Ident::new(family.test(), at);
            let message = format!(
                "the option `{option}` of the field `{}` is for {} only: remove it, or change the \
                 field's type",
                self.field.unraw(),
                family.types()
            );
            self.check(&quote_spanned!(at=> #of::FAMILY.#test()), &message)
        })
    }

    /// Checks while compiling that the field's type can be part of a key.
    pub(crate) fn key_checks(&self) -> [TokenStream; 2] {
        let (at, of, name) = (self.at(), self.implementation(), &self.name.text);
        let required = format!(
            "the key column `{name}` is an Option: a key cannot be null, so remove the Option or \
             take the column out of the key"
        );
        let is_key = format!(
            "the key column `{name}` is of a type that cannot be a key: use text, an integer, \
             bool, uuid, date or timestamptz"
        );
        [
            self.check(&quote_spanned!(at=> !#of::NULLABLE), &required),
            self.check(&quote_spanned!(at=> #of::FAMILY.is_key()), &is_key),
        ]
    }

    fn check(&self, condition: &TokenStream, message: &str) -> TokenStream {
        // The message is a format string.
        let message = message.replace('{', "{{").replace('}', "}}");
        quote_spanned!(self.at()=> const _: () = { ::core::assert!(#condition, #message); };)
    }

    fn calls(&self) -> impl Iterator<Item = &Call> {
        self.types.iter().chain(&self.rules)
    }

    /// The implementation of `Field` for the field's type.
    fn implementation(&self) -> TokenStream {
        let ty = self.ty;
        quote_spanned!(self.at()=> <#ty as ::lambda_core::record::Field>)
    }

    /// The place of the field's type, where the compiler shows errors. Names resolve as in the
    /// rest of the expansion, also if the struct comes from another macro.
    fn at(&self) -> Span {
        Span::call_site().located_at(self.ty.span())
    }
}
