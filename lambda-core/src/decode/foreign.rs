//! Detects messages that are wrapped in something else, so that a reject says so.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::dead_letter::Reject;

/// A schema registry's header: a zero and the schema's number.
const REGISTRY_HEADER_BYTES: usize = 5;

/// Adds to a reject what its message looks like, if recognised.
pub(super) fn explain(reject: Reject, payload: &[u8]) -> Reject {
    match describe(payload) {
        Some(what) => {
            let detail = format!("{}; {what}", reject.detail);
            Reject { field: reject.field, ..Reject::new(reject.reason, detail) }
        }
        None => reject,
    }
}

fn describe(payload: &[u8]) -> Option<&'static str> {
    match payload {
        [0x1f, 0x8b, ..] => Some(
            "it is compressed with gzip: let the producer's compression.type compress messages",
        ),
        [0, ..] if payload.len() > REGISTRY_HEADER_BYTES => Some(
            "it begins with a schema registry's header: have it produced as plain JSON, without a \
             registry",
        ),
        _ => describe_object(payload),
    }
}

fn describe_object(payload: &[u8]) -> Option<&'static str> {
    let Keys(keys) = serde_json::from_slice(payload).ok()?;
    let has = |key: &str| keys.contains(key);
    if has("schema") && has("payload") {
        return Some(
            "it is an envelope of Kafka Connect: set value.converter.schemas.enable=false there",
        );
    }
    (has("op") && (has("before") || has("after")))
        .then_some("it is a change event of Debezium: unwrap it there with ExtractNewRecordState")
}

/// The keys of an object.
struct Keys<'a>(BTreeSet<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Keys<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = BTreeSet<Cow<'de, str>>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut keys = BTreeSet::new();
                while let Some((key, _)) = map.next_entry::<Cow<'de, str>, IgnoredAny>()? {
                    keys.insert(key);
                }
                Ok(keys)
            }
        }

        deserializer.deserialize_map(Object).map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reject_of_a_wrapped_message_names_the_wrapping() {
        let table: [(&[u8], Option<&str>); 8] = [
            (b"\x1f\x8b\x08\0", Some("gzip")),
            (b"\0\0\0\0\x07{}", Some("schema registry")),
            (br#"{"schema":{"type":"struct"},"payload":{"id":1}}"#, Some("Kafka Connect")),
            (br#"{"before":null,"after":{"id":1},"op":"c","ts_ms":1}"#, Some("Debezium")),
            (br#"{"id":1,"op":"c"}"#, None),
            (br#"["schema","payload"]"#, None),
            (b"", None),
            (b"none", None),
        ];
        for (payload, what) in table {
            let found = describe(payload);
            assert_eq!(found.is_some(), what.is_some(), "{payload:?}: {found:?}");
            assert!(found.unwrap_or_default().contains(what.unwrap_or_default()), "{found:?}");
        }
    }
}
