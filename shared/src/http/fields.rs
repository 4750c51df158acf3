//! How the maps of an event are read: what API Gateway, `sam local` and `cargo lambda watch` make
//! of headers, parameters and claims.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::redact::Redacted;

/// More headers, or claims, than most requests have, so that their map does not have to grow. Every
/// call pays for this parsing.
const USUAL_FIELDS: usize = 24;

pub(super) fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// API Gateway sends the names of headers in lower case; `sam local` leaves them as the client
/// spelt them.
pub(super) fn names_in_lower_case<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Redacted<HashMap<String, String>>, D::Error> {
    struct Headers;

    impl<'de> Visitor<'de> for Headers {
        type Value = HashMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("headers or null")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(HashMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Self::Value, A::Error> {
            let mut headers: HashMap<String, String> = HashMap::with_capacity(USUAL_FIELDS);
            while let Some((mut name, value)) = given.next_entry::<String, String>()? {
                name.make_ascii_lowercase();
                match headers.entry(name) {
                    Entry::Vacant(vacant) => _ = vacant.insert(value),
                    Entry::Occupied(mut several) => several.get_mut().extend([",", &value]),
                }
            }
            Ok(headers)
        }
    }

    deserializer.deserialize_any(Headers).map(Redacted)
}

/// Claims arrive as text; other JSON is no claim that is used here. A claim that stands twice is
/// ambiguous, and API Gateway never sends one.
pub(super) fn texts_only<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Redacted<HashMap<String, String>>, D::Error> {
    struct Claims;

    impl<'de> Visitor<'de> for Claims {
        type Value = HashMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("claims or null")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(HashMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Self::Value, A::Error> {
            let mut claims = HashMap::with_capacity(USUAL_FIELDS);
            let mut others = HashSet::new();
            while let Some((name, value)) = given.next_entry::<String, _>()? {
                let stands_twice = match value {
                    Text(Some(value)) => others.contains(&name) || claims.insert(name, value).is_some(),
                    Text(None) => claims.contains_key(&name) || !others.insert(name),
                };
                if stands_twice {
                    return Err(de::Error::custom("a claim stands twice"));
                }
            }
            Ok(claims)
        }
    }

    deserializer.deserialize_any(Claims).map(Redacted)
}

/// A text, or none where something else stands.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Text, E> {
                Ok(Text(Some(text)))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Text, A::Error> {
                while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
