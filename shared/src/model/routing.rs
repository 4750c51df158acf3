//! Which tag goes to which store, and with which cache strategy: the table of routes, as the
//! settings give it.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::model::key::{InvalidTag, Tag};

/// The routes that apply where the settings name none.
pub const DEFAULT_ROUTES: &str = r#"{
  "tenant_config_": {"store": "dynamodb"},
  "param_config_":  {"store": "parameter-store"},
  "secret_config_": {"store": "parameter-store", "type": "SecureString"}
}"#;

/// How a write reaches a store outside the ledger, and where a read finds the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The value is committed in the ledger, then put to the store before the answer.
    WriteThrough,
    /// The value is committed in the ledger; config-refresh puts it to the store soon after.
    WriteBack,
    /// The value is put to the store, then only its locator is committed.
    WriteAround,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteThrough => "write-through",
            Self::WriteBack => "write-back",
            Self::WriteAround => "write-around",
        })
    }
}

/// One tag's route as the settings give it. What the store's own `options` mean is the store's
/// business.
#[derive(Clone, Debug, Deserialize)]
pub struct Route {
    /// The store's registered name.
    pub store: String,
    /// The cache strategy; without one the store's default.
    pub strategy: Option<Strategy>,
    /// The rest of the route's members.
    #[serde(flatten)]
    pub options: BTreeMap<String, serde_json::Value>,
}

/// The routes of all tags.
#[derive(Clone, Debug)]
pub struct TagRoutes {
    // Longest tag first, so that the first match is the longest.
    routes: Vec<(Tag, Route)>,
}

/// Why a text holds no usable routes.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRoutes {
    /// Not JSON of the documented form.
    #[error("the tag routes are not a JSON object of the form {{\"tag_\": {{\"store\": \"dynamodb\"}}}}: {0}")]
    Form(#[source] serde_json::Error),
    /// A member name that is no tag.
    #[error("tag routes: {0}")]
    Tag(#[from] InvalidTag),
    /// One tag twice: which of the two routes was meant?
    #[error("tag routes: {0} has two routes; keep one")]
    Ambiguous(Tag),
    /// No tag at all.
    #[error("tag routes: there is none; give at least one tag a store")]
    None,
}

impl TagRoutes {
    /// Parses a JSON object of tag → route.
    pub fn parse(json: &str) -> Result<Self, InvalidRoutes> {
        let Members(members) = serde_json::from_str(json).map_err(InvalidRoutes::Form)?;
        let mut routes: Vec<(Tag, Route)> = Vec::with_capacity(members.len());
        for (name, route) in members {
            let tag = Tag::parse(&name)?;
            if routes.iter().any(|(other, _)| *other == tag) {
                return Err(InvalidRoutes::Ambiguous(tag));
            }
            routes.push((tag, route));
        }
        if routes.is_empty() {
            return Err(InvalidRoutes::None);
        }
        routes.sort_by_key(|(tag, _)| std::cmp::Reverse(tag.as_str().len()));
        Ok(Self { routes })
    }

    /// The longest tag that `key` starts with.
    pub fn longest_tag(&self, key: &str) -> Option<&Tag> {
        self.routes.iter().map(|(tag, _)| tag).find(|tag| key.starts_with(tag.as_str()))
    }

    /// All tags, longest first.
    pub fn tags(&self) -> impl Iterator<Item = &Tag> {
        self.routes.iter().map(|(tag, _)| tag)
    }

    /// All tags with their routes, longest first.
    pub fn iter(&self) -> impl Iterator<Item = (&Tag, &Route)> {
        self.routes.iter().map(|(tag, route)| (tag, route))
    }
}

#[cfg(test)]
impl Default for TagRoutes {
    fn default() -> Self {
        Self::parse(DEFAULT_ROUTES).expect("the default routes parse")
    }
}

/// An object's members in order, doubles kept: `serde_json`'s own maps would let the last one win
/// silently.
struct Members(Vec<(String, Route)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tags")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest tag wins, whatever the order of the settings.
    #[test]
    fn the_longest_tag_wins() {
        let routes =
            TagRoutes::parse(r#"{"a_": {"store": "x"}, "a_b_c_": {"store": "z"}, "a_b_": {"store": "y"}}"#).unwrap();
        for (key, tag) in [("a_x", Some("a_")), ("a_b_x", Some("a_b_")), ("a_b_c_x", Some("a_b_c_")), ("b_x", None)] {
            assert_eq!(routes.longest_tag(key).map(Tag::as_str), tag, "{key}");
        }
    }

    /// Routes that could be read in two ways are refused at start, with what is wrong.
    #[test]
    fn unusable_routes_are_refused() {
        for (json, message) in [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            ("{}", "there is none"),
            (r#"{"a_": {}}"#, "missing field `store`"),
            (r#"{"a_": {"store": "x", "strategy": "write-never"}}"#, "unknown variant `write-never`"),
            (r#"{"a": {"store": "x"}}"#, "\"a\" is no tag"),
            (r#"{"a_": {"store": "x"}, "a_": {"store": "y"}}"#, "a_ has two routes"),
        ] {
            let error = TagRoutes::parse(json).expect_err(json).to_string();
            assert!(error.contains(message), "{json}: {error}");
        }
    }
}
