//! The payloads in `events/`: each is what it claims to be, and the function it is meant for takes
//! it.

use std::{collections::BTreeMap, fs, path::PathBuf};

use local::{
    Options, Suite,
    template::{Deployment, Stack, TEMPLATE},
};
use serde_json::Value;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn events() -> Result<BTreeMap<String, Value>, Box<dyn std::error::Error>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../events");
    let mut events = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        events.insert(name.ok_or("a file without a name")?, serde_json::from_slice(&fs::read(&path)?)?);
    }
    Ok(events)
}

fn stack() -> Result<Stack, local::template::StackError> {
    let given = [("TokenIssuer", "http://issuer"), ("TokenAudience", "a")];
    let deployment = Deployment {
        region: "eu-central-1".into(),
        account: "123456789012".into(),
        stack: "tenantry".into(),
        parameters: given.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    };
    Stack::read(TEMPLATE, &deployment)
}

/// Promise: every route of the template has a payload, and every payload of the API is for a route.
/// Those of GET do for HEAD.
#[test]
fn payloads_and_routes_belong_together() -> TestResult {
    let keys: std::collections::BTreeSet<_> = stack()?
        .api
        .routes
        .iter()
        .map(|route| format!("{} {}", route.method.replace("HEAD", "GET"), route.path))
        .collect();
    let mut found = std::collections::BTreeSet::new();
    for (name, event) in events()? {
        let Some(key) = event["routeKey"].as_str() else {
            continue;
        };
        assert!(keys.contains(key), "{name}: {key}");
        assert_eq!(event["requestContext"]["routeKey"], key, "{name}");
        assert_eq!(event["requestContext"]["http"]["path"], event["rawPath"], "{name}");
        found.insert(key.to_owned());
    }
    assert_eq!(found, keys);
    Ok(())
}

/// Promise: the payloads work, one after the other, on an empty suite.
#[tokio::test]
async fn functions_take_their_payloads() -> TestResult {
    let suite = Suite::start(Options::default()).await?;
    let stack = stack()?;
    let mut events = events()?;
    for (name, status) in [
        ("get-health", 200),
        ("get-entry", 404),
        ("put-entry", 201),
        ("put-entry-parameter", 201),
        ("get-entry", 200),
        ("get-entry-version", 200),
        ("get-entry-if-none-match", 200),
        ("list-entries", 200),
        ("batch-get", 200),
        ("get-history", 200),
        ("get-changes", 200),
        ("roll-back-entry", 200),
        ("commit-transaction", 200),
        ("delete-entry", 404),
        ("put-entry", 201),
        ("delete-entry", 200),
    ] {
        let event = events.get(name).ok_or(name)?.clone();
        let route =
            stack.api.routes.iter().find(|route| event["routeKey"] == format!("{} {}", route.method, route.path));
        let answer = suite.invoke(&route.ok_or(name)?.function, event).await?;
        assert_eq!(answer["statusCode"], status, "{name}: {answer}");
    }
    // That of the user pool, which is not run locally, is tried where it is handled.
    events.remove("token-generation").ok_or("token-generation")?;
    events.retain(|_, event| event.get("routeKey").is_none());
    let names: Vec<_> = events.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "config-changed",
            "parameter-created",
            "parameter-deleted",
            "parameter-labelled",
            "parameter-update-failed",
            "parameter-updated",
            "schedule",
        ]
    );
    for (name, event) in events {
        suite.invoke("config-refresh", event).await.map_err(|error| format!("{name}: {error}"))?;
    }
    suite.stop().await;
    Ok(())
}
