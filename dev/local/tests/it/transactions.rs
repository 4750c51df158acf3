//! Several writes as one: all or nothing, one revision, each key once.

use serde_json::{Value, json};

use crate::harness::Api;

/// Promise: puts and deletes across tags and stores happen at one revision, each with the version
/// its key is at.
#[tokio::test]
async fn all_happen_at_one_revision() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let old = acme.put("tenant_config_old", &json!(1)).await.expect(201);
    let done = acme
        .transaction(&json!([
            {"op": "put", "key": "tenant_config_new", "value": null, "ifNoneMatch": "*"},
            {"op": "put", "key": "param_config_db/host", "value": "db.internal"},
            {"op": "put", "key": "back_config_x", "value": [1]},
            {"op": "delete", "key": "tenant_config_old", "ifMatch": old.etag()},
        ]))
        .await
        .expect(200);
    assert_eq!(done.number("revision"), 2);
    assert_eq!(done.each("results", "revision"), [2, 2, 2, 2]);
    assert_eq!(done.each("results", "version"), [1, 1, 1, 2]);
    assert_eq!(done.each("results", "pending"), [Value::Null, Value::Null, json!(true), Value::Null]);
    assert_eq!(acme.get("tenant_config_new").await.expect(200).body["value"], Value::Null);
    acme.get("tenant_config_old").await.expect_problem(404, "not-found");
    let parameter = api.parameter(&acme.parameter_name("param_config_", "db/host")).await;
    assert_eq!(parameter, Some(("db.internal".to_owned(), 1)));
    api.stop().await;
}

/// Promise: one operation that cannot be done leaves nothing of the others.
#[tokio::test]
async fn nothing_happens_unless_all_can() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_taken", &json!(1)).await.expect(201);
    let good = json!({"op": "put", "key": "tenant_config_good", "value": 1});
    let param = json!({"op": "put", "key": "param_config_good", "value": 1});
    for (bad, status, problem) in [
        (
            json!({"op": "put", "key": "tenant_config_taken", "value": 2, "ifNoneMatch": "*"}),
            412,
            "precondition-failed",
        ),
        (
            json!({"op": "put", "key": "tenant_config_taken", "value": 2, "ifMatch": "\"9-no\""}),
            412,
            "precondition-failed",
        ),
        (json!({"op": "delete", "key": "tenant_config_absent"}), 404, "not-found"),
        (json!({"op": "put", "key": "secret_config_s", "value": "s"}), 422, "unprocessable"),
        (json!({"op": "delete", "key": "around_config_s"}), 422, "unprocessable"),
        (json!({"op": "put", "key": "tenant_config_good", "value": 2}), 400, "invalid-body"),
        (json!({"op": "put", "key": "tenant_config_x"}), 400, "invalid-body"),
        (json!({"op": "delete", "key": "tenant_config_taken", "value": 1}), 400, "invalid-body"),
        (json!({"op": "patch", "key": "tenant_config_x", "value": 1}), 400, "invalid-body"),
        (json!({"op": "put", "key": "tenant_config_x", "value": 1, "if_match": "*"}), 400, "invalid-body"),
        (json!({"op": "put", "key": "tenant_config_x", "value": 1, "ifMatch": "x"}), 400, "invalid-body"),
        (json!({"op": "put", "key": "nobody_x", "value": 1}), 400, "invalid-key"),
        (json!({"op": "put", "key": "param_config_x", "value": "x".repeat(5000)}), 413, "too-large"),
    ] {
        let refused = acme.transaction(&json!([good, param, bad])).await;
        assert_eq!(refused.status, status, "{bad}: {}", refused.text);
        let refused = refused.expect_problem(status, problem);
        // What is found before the ledger is asked says which operation it is.
        if matches!(status, 400 | 413) {
            assert_eq!((&refused.body["index"], &refused.body["key"]), (&json!(2), &bad["key"]), "{}", refused.text);
        }
    }
    acme.transaction(&json!([good])).header("if-match", "*").await.expect_problem(400, "invalid-parameter");
    assert_eq!(acme.list("").await.expect(200).each("entries", "key"), ["tenant_config_taken"]);
    assert_eq!(acme.list("").await.expect(200).revision(), 1);
    assert_eq!(api.parameter(&acme.parameter_name("param_config_", "good")).await, None);
    api.stop().await;
}

/// Promise: a secret may be written by a transaction of one, which is no transaction.
#[tokio::test]
async fn a_transaction_of_one_is_a_write() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.transaction(&json!([{"op": "put", "key": "secret_config_s", "value": "s"}])).await.expect(200);
    assert_eq!(acme.get("secret_config_s").await.expect(200).body["value"], "s");
    api.stop().await;
}

/// Promise: 25 operations are taken, 26 refused; 1.5 MB of values are taken, more refused, with the
/// limit in the message.
#[tokio::test]
async fn limits_of_transactions_are_named() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let puts = |count: usize, bytes: usize| {
        let put = |n| json!({"op": "put", "key": format!("tenant_config_{n}"), "value": "x".repeat(bytes - 2)});
        Value::Array((0..count).map(put).collect())
    };
    for (operations, limit) in [(json!([]), "1 to 25"), (puts(26, 10), "1 to 25")] {
        let refused = acme.transaction(&operations).await.expect_problem(400, "invalid-body");
        assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains(limit)));
    }
    acme.transaction(&puts(25, 10)).await.expect(200);
    acme.transaction(&puts(6, 250_000)).await.expect(200);
    let refused = acme.transaction(&puts(6, 250_001)).await.expect_problem(413, "too-large");
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("1500000")));
    assert_eq!(acme.list("limit=1").await.expect(200).revision(), 2);
    api.stop().await;
}

/// Promise: a repeated transaction is answered with its first result.
#[tokio::test]
async fn repeated_transactions_get_their_first_result() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let operations = json!([{"op": "put", "key": "tenant_config_a", "value": 1}, {"op": "put", "key": "tenant_config_b", "value": 1}]);
    let send = || acme.transaction(&operations).header("idempotency-key", "k");
    let first = send().await.expect(200);
    let again = send().await.expect(200);
    assert_eq!((&first.text, again.header("idempotency-replayed")), (&again.text, "true"));
    acme.transaction(&json!([{"op": "delete", "key": "tenant_config_a"}]))
        .header("idempotency-key", "k")
        .await
        .expect_problem(422, "unprocessable");
    api.stop().await;
}
