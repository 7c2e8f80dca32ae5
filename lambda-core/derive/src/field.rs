//! `#[derive(Field)]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Data, DeriveInput, Error, Field, Index, Member};

use crate::errors::refuse_generics;

/// Implements `Value` and `Field` for a struct with one field, by that field.
pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    refuse_generics(
        &input.generics,
        "a derived field type cannot be generic: remove the parameters, or implement `Value` and \
         `Field` by hand",
    )?;
    let Field { ident: name, ty: inner, .. } = only_field(input)?;
    let (ident, member) = (&input.ident, name.clone().map_or_else(first, Member::Named));
    let at = Span::call_site().located_at(inner.span());
    let of = quote_spanned!(at=> <#inner as ::lambda_core::record::Field>);
    Ok(quote! {
        #[automatically_derived]
        impl ::lambda_core::record::Value for #ident {
            fn write(&self, cell: &mut ::lambda_core::record::Cell<'_>) {
                ::lambda_core::record::Value::write(&self.#member, cell);
            }
        }

        #[automatically_derived]
        impl ::lambda_core::record::Field for #ident {
            const FAMILY: ::lambda_core::record::Family = #of::FAMILY;
            const NULLABLE: bool = #of::NULLABLE;

            fn column_type() -> ::lambda_core::record::ColumnType {
                #of::column_type()
            }

            fn read(
                cell: ::lambda_core::record::CellRef<'_>,
            ) -> ::core::option::Option<Self> {
                ::core::option::Option::map(#of::read(cell), |value| Self { #member: value })
            }
        }
    })
}

fn only_field(input: &DeriveInput) -> syn::Result<&Field> {
    let field = match &input.data {
        Data::Struct(data) if data.fields.len() == 1 => data.fields.iter().next(),
        _ => None,
    };
    let ident = &input.ident;
    let message = || format!("`Field` is derived for a struct with one field; `{ident}` is not");
    field.ok_or_else(|| Error::new(ident.span(), message()))
}

fn first() -> Member {
    Member::Unnamed(Index::from(0))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use syn::{DeriveInput, parse_quote};

    use super::expand;

    fn without_spaces(text: &str) -> String {
        text.split_whitespace().collect()
    }

    #[test]
    fn a_newtype_is_written_and_read_as_its_field() {
        let cases: [(DeriveInput, &str, &str); 2] = [
            (
                parse_quote!(
                    struct SensorId(Uuid);
                ),
                "&self.0, cell",
                "Self { 0: value }",
            ),
            (
                parse_quote!(
                    struct SensorId {
                        id: Uuid,
                    }
                ),
                "&self.id, cell",
                "Self { id: value }",
            ),
        ];
        for (input, write, read) in cases {
            let expansion = without_spaces(&expand(&input).unwrap().to_string());
            for piece in [
                "impl ::lambda_core::record::Value for SensorId",
                "impl ::lambda_core::record::Field for SensorId",
                "Family = <Uuid as ::lambda_core::record::Field>::FAMILY;",
                "bool = <Uuid as ::lambda_core::record::Field>::NULLABLE;",
                "{ <Uuid as ::lambda_core::record::Field>::column_type() }",
                "map(<Uuid as ::lambda_core::record::Field>::read(cell), |value|",
                write,
                read,
            ] {
                assert!(expansion.contains(&without_spaces(piece)), "{piece} in {expansion}");
            }
        }
    }

    #[test]
    fn a_type_that_is_no_newtype_is_refused() {
        let one_field = "`Field` is derived for a struct with one field; `T` is not";
        let cases: [(DeriveInput, &str); 6] = [
            (
                parse_quote!(
                    enum T {
                        A(i32),
                    }
                ),
                one_field,
            ),
            (parse_quote!(union T { a: i32 }), one_field),
            (
                parse_quote!(
                    struct T;
                ),
                one_field,
            ),
            (
                parse_quote!(
                    struct T(i32, i32);
                ),
                one_field,
            ),
            (
                parse_quote!(
                    struct T {
                        a: i32,
                        b: i32,
                    }
                ),
                one_field,
            ),
            (
                parse_quote!(
                    struct T<A>(A);
                ),
                "a derived field type cannot be generic: remove the parameters, or implement \
                 `Value` and `Field` by hand",
            ),
        ];
        for (input, expected) in cases {
            assert_eq!(expand(&input).unwrap_err().to_string(), expected);
        }
    }
}
