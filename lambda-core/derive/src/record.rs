//! `#[derive(Record)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DataStruct, DeriveInput, Error, Fields, FieldsNamed, Ident, LitStr};

use crate::attributes::{self, Known, Name, Setting};
use crate::column::Column;
use crate::errors::{self, Errors, refuse_generics};

/// What an option says about the struct.
enum Part {
    Table(LitStr),
    Key(Vec<Name>),
    Serde,
}

/// Every option that the struct has.
const OPTIONS: [Known<Part>; 3] = [
    Known::required("table", r#"table = "ops.flights""#, table),
    Known::required("key", "key(flight_id, day)", key),
    Known::optional("serde", "serde", serde),
];

fn table(setting: &Setting) -> syn::Result<Part> {
    Ok(Part::Table(setting.assigned()?))
}

fn key(setting: &Setting) -> syn::Result<Part> {
    Ok(Part::Key(setting.list()?))
}

fn serde(setting: &Setting) -> syn::Result<Part> {
    setting.flag().map(|()| Part::Serde)
}

/// Implements `Record` for the struct.
pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let fields = named_fields(input)?;
    let mut errors = Errors::default();
    errors.take(refuse_generics(
        &input.generics,
        "a record cannot be generic, since its table has fixed columns: remove the parameters",
    ));
    let (mut table, mut key, mut by_serde) = (None, Vec::new(), false);
    for part in attributes::read(&input.attrs, &input.ident, &OPTIONS, &mut errors) {
        match part {
            Part::Table(name) => table = Some(name),
            Part::Key(names) => key = names,
            Part::Serde => by_serde = true,
        }
    }
    if !by_serde {
        refuse_serde(&input.attrs, &mut errors);
        fields.named.iter().for_each(|field| refuse_serde(&field.attrs, &mut errors));
    }
    let columns: Vec<_> =
        fields.named.iter().filter_map(|field| Column::of(field, &mut errors)).collect();
    check_names(&columns, &key, &mut errors);
    errors.into_result()?;
    // The table is there: a missing one is among the errors.
    let record = implementation(&input.ident, table.as_ref(), &columns, &key, by_serde);
    let options = columns.iter().flat_map(Column::option_checks);
    let in_key = columns.iter().filter(|column| key.contains(&column.name));
    let keys = in_key.flat_map(Column::key_checks);
    Ok(quote!(#record #(#options)* #(#keys)*))
}

/// Refuses attributes that a decoder by the columns alone would ignore.
fn refuse_serde(attributes: &[Attribute], errors: &mut Errors) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let message = "serde does not decode this record, so its attributes have no effect: use \
                       options of `#[record(…)]`, or add `#[record(serde)]` to the struct";
        errors.push(Error::new_spanned(attribute, message));
    }
}

fn named_fields(input: &DeriveInput) -> syn::Result<&FieldsNamed> {
    let found = match &input.data {
        Data::Struct(DataStruct { fields: Fields::Named(fields), .. }) => return Ok(fields),
        Data::Struct(_) => "a struct without named fields",
        Data::Enum(_) => "an enum",
        Data::Union(_) => "a union",
    };
    let ident = &input.ident;
    let message = format!("a record is a struct with named fields, but `{ident}` is {found}");
    Err(Error::new(ident.span(), message))
}

/// Refuses columns of one name, and a key that does not name each of its columns once.
fn check_names(columns: &[Column<'_>], key: &[Name], errors: &mut Errors) {
    for (index, Column { name, .. }) in columns.iter().enumerate() {
        if columns[..index].iter().any(|earlier| earlier.name == *name) {
            errors.push(name.error(&format!("two fields have the column `{}`", name.text)));
        }
    }
    for (index, name) in key.iter().enumerate() {
        let text = &name.text;
        if key[..index].contains(name) {
            errors.push(name.error(&format!("the key has the column `{text}` twice")));
        } else if !columns.iter().any(|column| column.name == *name) {
            let names = errors::list(columns.iter().map(|column| &*column.name.text));
            let message = format!("the key names `{text}`, but the columns are {names}");
            errors.push(name.error(&message));
        }
    }
}

fn implementation(
    record: &Ident,
    table: Option<&LitStr>,
    columns: &[Column<'_>],
    key: &[Name],
    by_serde: bool,
) -> TokenStream {
    let decode = quote!(::lambda_core::decode);
    let decoders = by_serde.then(|| {
        quote! {
            fn messages() -> ::std::boxed::Box<dyn #decode::Decode> {
                ::std::boxed::Box::new(#decode::Serde::<Self>::json())
            }

            fn files() -> #decode::Csv {
                #decode::Serde::<Self>::csv()
            }
        }
    });
    let definitions = columns.iter().map(Column::definition);
    let puts = columns.iter().map(Column::put);
    let takes = columns.iter().map(Column::take);
    let key = key.iter().map(|name| &name.text);
    quote! {
        #[automatically_derived]
        impl ::lambda_core::Record for #record {
            fn table() -> ::lambda_core::record::Table {
                ::lambda_core::record::Table::new(#table)
                    #(.column(#definitions))*
                    .key([#(#key),*])
            }

            fn write(&self, row: &mut ::lambda_core::record::RowWriter<'_>) {
                #(#puts)*
            }

            fn read(
                mut row: ::lambda_core::record::RowRef<'_>,
            ) -> ::core::result::Result<Self, ::lambda_core::dead_letter::Reject> {
                ::core::result::Result::Ok(Self { #(#takes),* })
            }

            #decoders
        }
    }
}

#[cfg(test)]
mod tests;
