//! A setting's key: a tag, which decides its store, and a name.

use std::fmt;

use crate::model::routing::TagRoutes;

/// The most segments a name may have. With `/root/tenant/tag` before them they stay within
/// Parameter Store's 15 levels.
pub const MAX_SEGMENTS: usize = 10;
/// The longest segment, in bytes.
pub const MAX_SEGMENT_BYTES: usize = 64;
/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = MAX_SEGMENTS * (MAX_SEGMENT_BYTES + 1) - 1;
/// The longest tag, in bytes, its final `_` included.
pub const MAX_TAG_BYTES: usize = 32;

/// The prefix of a key that decides where its value lives: `[a-z][a-z0-9]*(_[a-z0-9]+)*_`, e.g.
/// `tenant_config_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

/// A key: a tag that has a route, and a name of 1 to 10 segments of `[A-Za-z0-9_.-]{1,64}` joined
/// by `/`.
///
/// Keys are refused, never repaired: there is no decoding, case folding or path resolution. The
/// alphabet has none of the characters that Parameter Store reads as a selector (`:`), and none
/// that separates the parts of our own table's keys (`#`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConfigKey {
    text: Box<str>,
    tag_length: usize,
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// No route has a tag that the text starts with.
    #[error("the key starts with no known tag; the tags here are {known}")]
    UnknownTag {
        /// The tags that exist, comma separated.
        known: String,
    },
    /// The tag stands alone.
    #[error("the key is only a tag; a name follows it, as in {tag}limits")]
    NoName {
        /// The tag.
        tag: String,
    },
    /// More than [`MAX_SEGMENTS`] segments.
    #[error("the key's name has {segments} segments; at most {MAX_SEGMENTS} are allowed")]
    TooManySegments {
        /// How many there are.
        segments: usize,
    },
    /// A segment that is empty, too long, `.` or `..`, or holds another character.
    #[error(
        "segment {position} of the key's name is not 1 to {MAX_SEGMENT_BYTES} characters of A-Z, a-z, 0-9, '_', '.', '-' (and not '.' or '..')"
    )]
    Segment {
        /// Which segment, counted from 1.
        position: usize,
    },
}

/// Why a text is no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no tag: lower-case letters and digits in words joined by '_', ending in '_', at most {MAX_TAG_BYTES} characters"
)]
pub struct InvalidTag(pub String);

impl Tag {
    /// Parses a tag as it stands in the settings.
    pub fn parse(text: &str) -> Result<Self, InvalidTag> {
        let words = text.strip_suffix('_').map(|body| body.split('_'));
        let fits = text.len() <= MAX_TAG_BYTES
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && words.is_some_and(|mut words| {
                words.all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
            });
        if fits { Ok(Self(text.into())) } else { Err(InvalidTag(text.to_owned())) }
    }

    /// The tag as text, with its final `_`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ConfigKey {
    /// Parses a key whose tag is the longest one in `routes` that it starts with.
    pub fn parse(text: &str, routes: &TagRoutes) -> Result<Self, InvalidKey> {
        let Some(tag) = routes.longest_tag(text) else {
            let known: Vec<_> = routes.tags().map(Tag::as_str).collect();
            return Err(InvalidKey::UnknownTag { known: known.join(", ") });
        };
        let tag_length = tag.as_str().len();
        let name = &text[tag_length..];
        if name.is_empty() {
            return Err(InvalidKey::NoName { tag: tag.to_string() });
        }
        let segments = name.split('/').count();
        if segments > MAX_SEGMENTS {
            return Err(InvalidKey::TooManySegments { segments });
        }
        match name.split('/').position(|segment| !is_segment(segment)) {
            Some(index) => Err(InvalidKey::Segment { position: index + 1 }),
            None => Ok(Self { text: text.into(), tag_length }),
        }
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The tag, as text.
    pub fn tag(&self) -> &str {
        &self.text[..self.tag_length]
    }

    /// What follows the tag.
    pub fn name(&self) -> &str {
        &self.text[self.tag_length..]
    }
}

/// Whether `text` could be the beginning of a key: the alphabet of keys, without their structure.
pub fn is_key_prefix(text: &str) -> bool {
    text.len() <= MAX_TAG_BYTES + MAX_NAME_BYTES && text.bytes().all(|b| is_segment_byte(b) || b == b'/')
}

fn is_segment(segment: &str) -> bool {
    (1..=MAX_SEGMENT_BYTES).contains(&segment.len())
        && !matches!(segment, "." | "..")
        && segment.bytes().all(is_segment_byte)
}

fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) -> Result<(String, String), InvalidKey> {
        ConfigKey::parse(text, &TagRoutes::default()).map(|k| (k.tag().to_owned(), k.name().to_owned()))
    }

    /// A key splits into the longest tag and the name; nothing is changed on the way.
    #[test]
    fn good_keys_split_at_their_tag() {
        let segment = "s".repeat(64);
        let ten = ["a"; 10].join("/");
        for (tag, name) in [
            ("tenant_config_", "limits"),
            ("param_config_", "db/primary/host"),
            ("secret_config_", "..."),
            ("param_config_", "a.b-c_D/.x/x."),
            ("param_config_", segment.as_str()),
            ("param_config_", ten.as_str()),
        ] {
            assert_eq!(check(&format!("{tag}{name}")), Ok((tag.to_owned(), name.to_owned())));
        }
    }

    /// Everything else is refused with the rule it breaks, never normalised.
    #[test]
    fn bad_keys_are_refused_with_the_rule() {
        let long = format!("param_config_{}", "s".repeat(65));
        let eleven = format!("param_config_{}", ["a"; 11].join("/"));
        for (text, message) in [
            ("", "known tag"),
            ("limits", "known tag"),
            ("Tenant_config_x", "known tag"),
            ("tenant_config", "known tag"),
            ("tenant_config_", "only a tag"),
            ("tenant_config_a//b", "segment 2"),
            ("tenant_config_/a", "segment 1"),
            ("tenant_config_a/", "segment 2"),
            ("tenant_config_.", "segment 1"),
            ("tenant_config_a/../b", "segment 2"),
            ("tenant_config_a:3", "segment 1"),
            ("tenant_config_a#b", "segment 1"),
            ("tenant_config_a b", "segment 1"),
            ("tenant_config_a%2Fb", "segment 1"),
            ("tenant_config_ä", "segment 1"),
            ("tenant_config_a\0", "segment 1"),
            (long.as_str(), "segment 1"),
            (eleven.as_str(), "11 segments"),
        ] {
            let error = check(text).expect_err(text).to_string();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn tags_are_words_ending_in_an_underscore() {
        for good in ["a_", "tenant_config_", "x1_y2_"] {
            assert!(Tag::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "_", "a", "a__", "_a_", "1a_", "A_", "a-b_", "a/b_", "ab_c", &format!("{}_", "a".repeat(32))] {
            assert!(Tag::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// Whatever parses is the text that was given, and stays clear of every delimiter.
        #[test]
        fn no_text_makes_the_parser_panic_or_change_it(text in "(tenant_config_|param_config_|secret_config_)?\\PC{0,80}") {
            if let Ok(key) = ConfigKey::parse(&text, &TagRoutes::default()) {
                prop_assert_eq!(key.as_str(), &text);
                prop_assert!(is_key_prefix(&text));
                prop_assert!(!text.contains(['#', ':', '%', '\\', ' ']));
            }
        }
    }
}
