//! Keys, tags and tenant ids: taken exactly when the documented grammar takes them, and never
//! changed on the way.

use std::sync::LazyLock;

use tenantry::model::{
    key::{ConfigKey, Tag, is_key_prefix},
    routing::TagRoutes,
    tenant::TenantId,
};

use crate::{Outcome, ROUTES, assert_blames_the_request};

/// Tags that are beginnings of each other.
static NESTED: LazyLock<TagRoutes> = LazyLock::new(|| {
    let routes = r#"{"a_": {"store": "x"}, "a_b_": {"store": "x"}, "a_b_c_": {"store": "x"}, "b1_": {"store": "x"}}"#;
    TagRoutes::parse(routes).expect("the nested routes parse")
});

/// The input as a key, a tag and a tenant id.
pub fn check(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else { return Outcome::Refused };
    let taken = [&*ROUTES, &*NESTED].map(|routes| is_key(text, routes));
    check_tag(text);
    check_tenant(text);
    if taken.contains(&true) { Outcome::Accepted } else { Outcome::Refused }
}

fn is_key(text: &str, routes: &TagRoutes) -> bool {
    let tag = routes.tags().map(Tag::as_str).filter(|tag| text.starts_with(tag)).max_by_key(|tag| tag.len());
    let expected = tag.is_some_and(|tag| is_name(&text[tag.len()..]));
    match ConfigKey::parse(text, routes) {
        Ok(key) => {
            assert!(expected, "{text:?} is no key, and was taken");
            assert_eq!(key.as_str(), text);
            assert_eq!(key.to_string(), text);
            assert_eq!(Some(key.tag()), tag);
            assert_eq!([key.tag(), key.name()].concat(), text);
            assert_eq!(ConfigKey::parse(key.as_str(), routes).as_ref(), Ok(&key));
            assert!((0..=text.len()).all(|end| is_key_prefix(&text[..end])), "a list cannot ask for {text:?}");
            assert!(!text.contains(['#', ':', '%', '\\']), "{text:?} holds a delimiter");
        }
        Err(error) => {
            assert!(!expected, "{text:?} is a key, and was refused: {error}");
            assert_blames_the_request(error.into());
        }
    }
    expected
}

/// The grammar in DESIGN's words: 1 to 10 segments of `[A-Za-z0-9_.-]{1,64}` joined by `/`; none is
/// `.` or `..`.
fn is_name(name: &str) -> bool {
    let segments: Vec<_> = name.split('/').collect();
    segments.len() <= 10
        && segments.iter().all(|segment| {
            !segment.is_empty()
                && segment.len() <= 64
                && *segment != "."
                && *segment != ".."
                && segment.chars().all(|c| matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '.' | '-'))
        })
}

/// What is a tag can have a route, and keys under it.
fn check_tag(text: &str) {
    let Ok(tag) = Tag::parse(text) else { return };
    assert_eq!(tag.as_str(), text);
    let routes = serde_json::json!({ text: { "store": "x" } }).to_string();
    let routes = TagRoutes::parse(&routes).expect("a tag can have a route");
    let key = ConfigKey::parse(&format!("{text}x"), &routes).expect("a tag can have keys");
    assert_eq!((key.tag(), key.name()), (text, "x"));
}

fn check_tenant(text: &str) {
    let mut characters = text.chars();
    let fits = text.len() <= 63
        && characters.next().is_some_and(|c| matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9'))
        && characters.all(|c| matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '.' | '-'));
    match text.parse::<TenantId>() {
        Ok(tenant) => assert!(fits && tenant.as_str() == text, "{text:?} is no tenant id, and was taken as {tenant}"),
        Err(_) => assert!(!fits, "{text:?} is a tenant id, and was refused"),
    }
}
