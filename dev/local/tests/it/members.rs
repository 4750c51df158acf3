//! The members of answers and events: all of them, so that one too many or too few is noticed.

use http::Method;
use serde_json::{Value, json};

use crate::harness::Api;

/// The same JSON, with `"…"` in the place of what is another one each time.
fn masked(mut json: Value) -> Value {
    match &mut json {
        Value::Object(members) => {
            for (name, value) in members {
                *value = match name.as_str() {
                    "etag" | "epoch" | "modifiedAt" | "at" | "cursor" => json!("…"),
                    _ => masked(value.take()),
                };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = masked(item.take())),
        _ => {}
    }
    json
}

/// What an answer to a write of one key says; further members on top.
fn written(key: &str, version: u64, revision: u64, further: Value) -> Value {
    let mut view = json!({
        "key": key, "version": version, "revision": revision, "author": "acme-developer", "modifiedAt": "…", "etag": "…",
    });
    let Value::Object(further) = further else { panic!("members are an object") };
    view.as_object_mut().expect("an object").extend(further);
    view
}

/// Promise: answers to writes have these members and no others.
#[tokio::test]
async fn writes_answer_with_these() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let (plain, secret, back) = ("tenant_config_k", "secret_config_k", "back_config_k");
    let body = json!({"value": {"a": 1}, "comment": "why"});
    let put = acme.call(Method::PUT, &format!("/v1/config/{plain}")).json(&body).await.expect(201);
    assert_eq!(masked(put.body), written(plain, 1, 1, json!({})));
    assert_eq!(masked(acme.put(secret, &json!("a")).await.expect(201).body), written(secret, 1, 2, json!({})));
    let back_put = acme.put(back, &json!("a")).await.expect(201);
    assert_eq!(masked(back_put.body), written(back, 1, 3, json!({"pending": true})));
    assert_eq!(masked(acme.roll_back(plain, 1).await.expect(200).body), written(plain, 2, 4, json!({})));
    assert_eq!(masked(acme.delete(plain).await.expect(200).body), written(plain, 3, 5, json!({"deleted": true})));
    let expected = written(secret, 2, 6, json!({"deleted": true, "removesOlderValues": true}));
    assert_eq!(masked(acme.delete(secret).await.expect(200).body), expected);
    let operations = json!([{"op": "put", "key": plain, "value": 1}, {"op": "delete", "key": back}]);
    let body = json!({"operations": operations, "comment": "why"});
    let committed = acme.call(Method::POST, "/v1/transactions").json(&body).await.expect(200);
    let results = [written(plain, 4, 7, json!({})), written(back, 2, 7, json!({"deleted": true, "pending": true}))];
    assert_eq!(masked(committed.body), json!({"revision": 7, "results": results}));
    api.suite.stop().await;
}

/// Promise: answers to reads, and the event, have these members and no others.
#[tokio::test]
async fn reads_answer_with_these() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let heard = api.listen();
    let key = "secret_config_k";
    acme.put_because(key, &json!("a"), "why").await.expect(201);
    api.settled().await;
    let told = heard.lock().expect("no panic while noting").pop();
    let keys = json!([{"key": key, "version": 1, "operation": "put"}]);
    assert_eq!(told, Some(json!({"format": 1, "tenant": "acme", "revision": 1, "keys": keys, "comment": "why"})));

    let entry = json!({
        "key": key, "value": "a", "version": 1, "revision": 1, "author": "acme-developer", "comment": "why",
        "modifiedAt": "…", "etag": "…",
    });
    assert_eq!(masked(acme.get(key).await.expect(200).body), entry);
    let mut past = entry.clone();
    past["operation"] = json!("put");
    assert_eq!(masked(acme.get(&format!("{key}?version=1")).await.expect(200).body), past);
    assert_eq!(masked(acme.list("").await.expect(200).body), json!({"revision": 1, "entries": [entry]}));
    let batch = acme.batch_get(&[key, "tenant_config_x"]).await.expect(200);
    let expected =
        json!({"revision": 1, "found": [entry], "missing": ["tenant_config_x"], "unprocessed": [], "unavailable": []});
    assert_eq!(masked(batch.body), expected);

    acme.delete(key).await.expect(200);
    let feed = acme.changes("since=0").await.expect(200);
    let deleted = json!([{"key": key, "version": 2, "operation": "delete"}]);
    let changes = json!([
        {"revision": 1, "at": "…", "author": "acme-developer", "comment": "why", "keys": keys},
        {"revision": 2, "at": "…", "author": "acme-developer", "keys": deleted},
    ]);
    assert_eq!(masked(feed.body), json!({"revision": 2, "epoch": "…", "changes": changes}));
    let history = acme.history(key).await.expect(200);
    let versions = json!([
        {"version": 2, "revision": 2, "operation": "delete", "author": "acme-developer", "modifiedAt": "…", "etag": "…"},
        {
            "version": 1, "revision": 1, "operation": "put", "valueGone": true, "author": "acme-developer", "comment": "why",
            "modifiedAt": "…", "etag": "…",
        },
    ]);
    assert_eq!(masked(history.body), json!({"revision": 2, "key": key, "versions": versions}));
    api.suite.stop().await;
}
