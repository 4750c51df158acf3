//! What a route may say, and how large a value each store takes. Nothing here connects to anything.

use super::*;
use crate::{clock::Timestamp, fixture};

/// Opens the stores of `routes` and gives them, or what the operator is told.
fn open(routes: &str) -> Result<(TagRoutes, Stores), String> {
    open_below("/tenantry", routes)
}

fn open_below(root: &str, routes: &str) -> Result<(TagRoutes, Stores), String> {
    let settings = fixture::settings(&[("PARAMETER_ROOT", root), ("TAG_ROUTES", routes)]);
    let settings = settings.map_err(|error| error.to_string())?;
    let clients = AwsClients::new(&settings.backend.aws, &settings.clock);
    let settings = settings.backend;
    let stores = Stores::open(&settings.routes, &StoreContext { clients: &clients, parameters: &settings.parameters });
    stores.map(|stores| (settings.routes, stores)).map_err(|error| error.to_string())
}

/// The store of a single route, under the tag `x_`, with a key of it.
fn open_one(route: &str, name: &str) -> (Stores, ConfigKey) {
    let (routes, stores) = open(&format!(r#"{{"x_": {route}}}"#)).unwrap();
    let key = ConfigKey::parse(&format!("x_{name}"), &routes).unwrap();
    (stores, key)
}

/// Without further words a route gets what the design says: parameters are written through, secrets
/// around the ledger, and only secrets are secret.
#[test]
fn each_store_has_its_defaults() {
    for (route, strategy, is_secret) in [
        (r#"{"store": "dynamodb"}"#, None, false),
        (r#"{"store": "parameter-store"}"#, Some(Strategy::WriteThrough), false),
        (r#"{"store": "parameter-store", "type": "String"}"#, Some(Strategy::WriteThrough), false),
        (r#"{"store": "parameter-store", "strategy": "write-through"}"#, Some(Strategy::WriteThrough), false),
        (r#"{"store": "parameter-store", "strategy": "write-back"}"#, Some(Strategy::WriteBack), false),
        (r#"{"store": "parameter-store", "strategy": "write-around"}"#, Some(Strategy::WriteAround), false),
        (r#"{"store": "parameter-store", "type": "SecureString"}"#, Some(Strategy::WriteAround), true),
        (
            r#"{"store": "parameter-store", "type": "SecureString", "strategy": "write-around", "tier": "advanced"}"#,
            Some(Strategy::WriteAround),
            true,
        ),
    ] {
        let (stores, key) = open_one(route, "a");
        let store = stores.of(&key);
        assert_eq!(store.external().map(|(_, strategy)| strategy), strategy, "{route}");
        assert_eq!(store.is_secret(), is_secret, "{route}");
    }
}

/// A route that no store can follow is refused at start, by its tag, with what to change. A
/// misspelt option would otherwise be the default, and a secret in plain text.
#[test]
fn unusable_routes_are_refused_at_start() {
    for (route, message) in [
        (r#"{"store": "s3"}"#, r#"there is no store "s3"; the stores are dynamodb, parameter-store"#),
        (r#"{"store": ""}"#, r#"there is no store """#),
        (r#"{"store": "DynamoDB"}"#, r#"there is no store "DynamoDB""#),
        (r#"{"store": "dynamodb", "type": "String"}"#, r#"the store knows no option "type""#),
        (r#"{"store": "dynamodb", "strategy": "write-through"}"#, "leave write-through out"),
        (r#"{"store": "dynamodb", "strategy": "write-around"}"#, "takes no strategy"),
        (r#"{"store": "parameter-store", "Type": "SecureString"}"#, r#"the store knows no option "Type""#),
        (r#"{"store": "parameter-store", "kms": "alias/mine"}"#, r#"the store knows no option "kms""#),
        (
            r#"{"store": "parameter-store", "type": "securestring"}"#,
            r#"type is "securestring"; it must be one of String, SecureString"#,
        ),
        (r#"{"store": "parameter-store", "type": "StringList"}"#, r#"type is "StringList""#),
        (r#"{"store": "parameter-store", "type": null}"#, "type is null"),
        (r#"{"store": "parameter-store", "type": ["SecureString"]}"#, r#"type is ["SecureString"]"#),
        (
            r#"{"store": "parameter-store", "tier": "Advanced"}"#,
            r#"tier is "Advanced"; it must be one of standard, advanced"#,
        ),
        (r#"{"store": "parameter-store", "tier": 8}"#, "tier is 8"),
        (
            r#"{"store": "parameter-store", "type": "SecureString", "strategy": "write-through"}"#,
            "write-through would keep the plaintext in the ledger",
        ),
        (
            r#"{"store": "parameter-store", "type": "SecureString", "strategy": "write-back"}"#,
            "write-back would keep the plaintext in the ledger",
        ),
    ] {
        let error = open(&format!(r#"{{"fine_": {{"store": "dynamodb"}}, "x_": {route}}}"#)).expect_err(route);
        assert!(error.starts_with("the route of the tag x_: ") && error.contains(message), "{route}: {error}");
    }
}

/// Each key goes to the store of its own tag, the longest that fits.
#[test]
fn a_key_finds_the_store_of_its_tag() {
    let (routes, stores) = open(
        r#"{"x_": {"store": "dynamodb"}, "x_y_": {"store": "parameter-store", "type": "SecureString"}, "z_": {"store": "parameter-store"}}"#,
    )
    .unwrap();
    for (text, external, is_secret) in
        [("x_a", false, false), ("x_y_a", true, true), ("x_ya", false, false), ("z_a", true, false)]
    {
        let key = ConfigKey::parse(text, &routes).unwrap();
        let store = stores.of(&key);
        assert_eq!((store.external().is_some(), store.is_secret()), (external, is_secret), "{text}");
    }
}

const DYNAMODB: &str = r#"{"store": "dynamodb"}"#;
const STANDARD: &str = r#"{"store": "parameter-store"}"#;
const SECURE: &str = r#"{"store": "parameter-store", "type": "SecureString"}"#;
const ADVANCED: &str = r#"{"store": "parameter-store", "tier": "advanced"}"#;
const SECURE_ADVANCED: &str = r#"{"store": "parameter-store", "tier": "advanced", "type": "SecureString"}"#;

/// Makes a value that takes so many bytes in its store.
type Make<'a> = &'a dyn Fn(usize) -> ConfigValue;

/// A value may be as large as the store takes it, to the byte as it would lie there, and a refusal
/// says how large that is.
#[test]
fn values_are_measured_as_they_would_be_stored() {
    // How `length` bytes of a kind of value are made: JSON's quotes count where the text lies as
    // JSON, and not where it lies raw.
    let quoted = |length: usize| ConfigValue::from_text(&"v".repeat(length - 2));
    let raw = |length: usize| ConfigValue::from_text(&"v".repeat(length));
    let raw_wide = |length: usize| ConfigValue::from_text(&format!("{}{}", "ä".repeat(length / 2), &"v"[..length % 2]));
    let raw_emoji =
        |length: usize| ConfigValue::from_text(&format!("{}{}", "🦀".repeat(length / 4), "v".repeat(length % 4)));
    let quoted_wide =
        |length: usize| ConfigValue::from_text(&format!("{}{}", "ä".repeat((length - 2) / 2), &"v"[..length % 2]));
    let list = |length: usize| ConfigValue::parse(&format!(r#"["{}"]"#, "v".repeat(length - 4))).unwrap();
    // White space around a text lies in the ledger. What Parameter Store would take for a reference
    // lies there as JSON, its quotes and escapes counted.
    let padded = |length: usize| ConfigValue::from_text(&format!("\n {}\n", "v".repeat(length)));
    let escaped = |length: usize| ConfigValue::from_text(&format!("{{{{{}", "v".repeat(length - 9)));
    let cases: [(&str, &str, usize, Make<'_>); 14] = [
        (DYNAMODB, "DynamoDB", 262_144, &quoted),
        (DYNAMODB, "DynamoDB", 262_144, &quoted_wide),
        (DYNAMODB, "DynamoDB", 262_144, &list),
        (STANDARD, "Parameter Store", 4_096, &raw),
        (STANDARD, "Parameter Store", 4_096, &raw_wide),
        (STANDARD, "Parameter Store", 4_096, &raw_emoji),
        (STANDARD, "Parameter Store", 4_096, &list),
        (STANDARD, "Parameter Store", 4_096, &padded),
        (STANDARD, "Parameter Store", 4_096, &escaped),
        (SECURE, "Parameter Store", 4_096, &raw),
        (ADVANCED, "Parameter Store", 8_192, &raw),
        (ADVANCED, "Parameter Store", 8_192, &raw_wide),
        (ADVANCED, "Parameter Store", 8_192, &list),
        (SECURE_ADVANCED, "Parameter Store", 8_192, &raw),
    ];
    for (index, (route, store, limit, make)) in cases.into_iter().enumerate() {
        let (stores, key) = open_one(route, "a");
        stores.of(&key).check(&key, &make(limit)).unwrap_or_else(|error| panic!("{index}, {route}: {error}"));
        let error = stores.of(&key).check(&key, &make(limit + 1)).expect_err(route);
        assert!(
            matches!(error, ValueRefused::TooLarge { bytes, limit: told, .. } if bytes == limit + 1 && told == limit)
        );
        let expected = format!(
            "the value takes {} bytes as it would be stored; {store} keeps at most {limit} bytes a value under the tag x_",
            limit + 1
        );
        assert_eq!(error.to_string(), expected, "{index}, {route}");
    }
}

/// The shortest and the emptiest of values fit into every store.
#[test]
fn small_values_fit_everywhere() {
    for route in [DYNAMODB, STANDARD, SECURE, ADVANCED] {
        let (stores, key) = open_one(route, "a");
        for json in ["null", "0", "\"\"", "\" \"", "[]", "{}", "\"{{x}}\""] {
            let value = ConfigValue::parse(json).unwrap();
            assert!(stores.of(&key).check(&key, &value).is_ok(), "{json} into {route}");
        }
    }
}

/// Promise: what a store says is not shown for debugging: it may be a secret.
#[test]
fn stored_text_stays_hidden() {
    let place = Locator { version: 1, modified_at: Timestamp::from_millis(0) };
    let stored = StoredVersion { text: StoredText("canary".to_owned()), ..StoredVersion::unmarked(place) };
    assert!(!format!("{stored:?} {stored:#?}").contains("canary"));
}
