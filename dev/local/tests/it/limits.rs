//! Limits: checked before anything is written, and named in the message.

use serde_json::{Value, json};

use crate::harness::{Api, Tenant};

/// Promise: the largest value a store takes comes back byte for byte; one byte more is refused with
/// size and limit, and changes nothing.
#[tokio::test]
async fn values_stop_at_their_stores_limit() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    // Text lies as JSON, with its quotes, in DynamoDB, and raw in Parameter Store.
    for (key, largest, limit) in [
        ("tenant_config_k", 256 * 1024 - 2, "262144"),
        ("param_config_k", 4096, "4096"),
        ("around_config_k", 4096, "4096"),
        ("secret_config_k", 4096, "4096"),
    ] {
        let value = json!("x".repeat(largest));
        acme.put(key, &value).await.expect(201);
        assert_eq!(acme.get(key).await.expect(200).body["value"], value);
        let refused = acme.put(key, &json!("x".repeat(largest + 1))).await.expect_problem(413, "too-large");
        assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains(limit)), "{}", refused.text);
        assert_eq!(acme.get(key).await.expect(200).number("version"), 1);
        // Bytes count, not characters.
        acme.put(key, &json!("é".repeat(largest / 2 + 1))).await.expect_problem(413, "too-large");
    }
    api.stop().await;
}

/// Promise: an advanced tier doubles the limit, and is asked for in the route.
#[tokio::test]
async fn the_advanced_tier_takes_eight_kibibytes() {
    let routes = r#"{"big_config_": {"store": "parameter-store", "tier": "advanced"}}"#;
    let parameters = [("TagRoutes".to_owned(), routes.to_owned())].into();
    let api = Api::with(local::Options { parameters, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    acme.put("big_config_k", &json!("x".repeat(8192))).await.expect(201);
    api.settled().await;
    let name = acme.parameter_name("big_config_", "k");
    assert_eq!(api.parameter(&name).await.map(|(text, _)| text.len()), Some(8192));
    let refused = acme.put("big_config_k", &json!("x".repeat(8193))).await.expect_problem(413, "too-large");
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("8192")));
    api.stop().await;
}

/// Promise: the longest and the deepest key work in every store; longer and deeper ones are refused
/// with the rule.
#[tokio::test]
async fn keys_stop_at_their_limits() {
    let api = Api::start().await;
    let acme = api.tenant(&"t".repeat(63));
    for tag in ["tenant_config_", "param_config_", "secret_config_"] {
        let longest = vec!["s".repeat(64); 10].join("/");
        for name in [longest.as_str(), "a/b/c/d/e/f/g/h/i/j"] {
            let key = format!("{tag}{name}");
            acme.put(&key, &json!("v")).await.expect(201);
            assert_eq!(acme.get(&key).await.expect(200).body["value"], "v");
        }
        for name in ["a/b/c/d/e/f/g/h/i/j/k", &"s".repeat(65), ""] {
            acme.put(&format!("{tag}{name}"), &json!("v")).await.expect_problem(400, "invalid-key");
        }
    }
    api.stop().await;
}

/// Promise: answers stop before Lambda's limit: a batch names what it left out, a list and a
/// history go on with a cursor.
#[tokio::test]
async fn large_answers_come_in_parts() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let large = json!("x".repeat(250_000));
    let keys: Vec<_> = (0..20).map(|n| format!("tenant_config_{n:02}")).collect();
    for key in &keys {
        acme.put(key, &large).await.expect(201);
    }
    let wanted: Vec<_> = keys.iter().map(String::as_str).collect();
    let batch = acme.batch_get(&wanted).await.expect(200);
    let left_out = batch.body["unprocessed"].as_array().expect("a list").clone();
    assert!((3_500_000..4_500_000).contains(&batch.text.len()), "{}", batch.text.len());
    assert_eq!(batch.each("found", "key").into_iter().chain(left_out.clone()).collect::<Vec<_>>(), keys);
    let left_out: Vec<_> = left_out.iter().filter_map(Value::as_str).collect();
    assert_eq!(acme.batch_get(&left_out).await.expect(200).each("found", "key"), left_out);

    let page = acme.list("").await.expect(200);
    assert!((3_500_000..4_500_000).contains(&page.text.len()), "{}", page.text.len());
    let rest = acme.list(&format!("cursor={}", page.body["cursor"].as_str().expect("more"))).await.expect(200);
    let listed: Vec<_> = page.each("entries", "key").into_iter().chain(rest.each("entries", "key")).collect();
    assert_eq!(listed, keys);
    api.stop().await;
}

/// What Lambda takes of a function's answer, in bytes of its JSON.
const LAMBDA_LIMIT: usize = 6_291_556;

/// A page of config-read's answer, which Lambda would have passed on.
async fn page(api: &Api, tenant: &Tenant<'_>, method: &str, path: &str, query: &str, body: &Value) -> Value {
    let mut event = tenant.event(method, path, body);
    event["rawQueryString"] = json!(query);
    let answer = api.suite.invoke("config-read", event).await.expect("an answer");
    assert!(answer.to_string().len() < LAMBDA_LIMIT, "{path}: {} bytes", answer.to_string().len());
    assert_eq!(answer["statusCode"], 200);
    serde_json::from_str(answer["body"].as_str().expect("a body")).expect("JSON")
}

/// Walks all pages of a list or history; its members called `member`.
async fn walk(api: &Api, tenant: &Tenant<'_>, path: &str, list: &str, member: &str) -> Vec<Value> {
    let (mut found, mut query) = (Vec::new(), String::new());
    loop {
        let page = page(api, tenant, "GET", path, &query, &Value::Null).await;
        let entries = page[list].as_array().expect("a list");
        assert!(!entries.is_empty(), "every page gets on");
        found.extend(entries.iter().map(|entry| entry[member].clone()));
        match page["cursor"].as_str() {
            Some(cursor) => query = format!("cursor={cursor}"),
            None => return found,
        }
    }
}

/// Promise: answers stay below Lambda's limit as Lambda measures it: the body as a JSON string, in
/// which quotes and backslashes take twice their bytes, and values from every store counted.
#[tokio::test]
async fn answers_are_measured_as_they_are_escaped() {
    let routes = r#"{"around_config_": {"store": "parameter-store", "tier": "advanced", "strategy": "write-around"},
        "tenant_config_": {"store": "dynamodb"}}"#;
    let parameters = [("TagRoutes".to_owned(), routes.to_owned())].into();
    let api = Api::with(local::Options { parameters, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    // 240 KB in the ledger and 480 KB in an answer; as many as would have counted as less than 4
    // MB.
    let doubled = [json!("\"".repeat(120_000)), json!("\\".repeat(120_000))];
    for (n, value) in (0..15).zip(doubled.iter().cycle()) {
        if n < 9 {
            acme.put(&format!("tenant_config_{n:02}"), value).await.expect(201);
        }
        acme.put("tenant_config_many", value).await;
    }
    let inner = json!("\"".repeat(8_192));
    let mut keys: Vec<_> = (0..65).map(|n| format!("around_config_{n:02}")).collect();
    for key in &keys {
        acme.put(key, &inner).await.expect(201);
    }
    keys.extend((0..9).map(|n| format!("tenant_config_{n:02}")));
    keys.push("tenant_config_many".to_owned());
    assert_eq!(walk(&api, &acme, "/v1/config", "entries", "key").await, keys);

    let (mut wanted, mut found) = (json!(keys), Vec::new());
    while wanted != json!([]) {
        let mut batch = page(&api, &acme, "POST", "/v1/batch-get", "", &json!({"keys": wanted})).await;
        let entries = batch["found"].as_array().expect("a list");
        assert!(!entries.is_empty(), "every batch gets on");
        found.extend(entries.iter().map(|entry| entry["key"].clone()));
        wanted = batch["unprocessed"].take();
    }
    assert_eq!(found, keys);
    let versions = walk(&api, &acme, "/v1/history/tenant_config_many", "versions", "version").await;
    assert_eq!(versions, (1..=15).rev().collect::<Vec<_>>());
    api.stop().await;
}
