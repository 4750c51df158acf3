//! Each problem, from each place that it comes from.

use aws_sdk_ssm::types::ParameterType;
use emulator::{EventFate, Fault};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tenantry::model::comment::MAX_COMMENT_CHARS;

use super::{Record, assert_recorded};
use crate::{
    harness::{Api, CIRCUIT, come_with},
    operator::{edit, remove},
};

/// Contract: what is said to a request that breaks a rule.
#[tokio::test]
async fn rules() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let mut record = Record::default();
    for (path, problem) in [
        ("/v1/config/limits", "invalid-key"),
        ("/v1/config/tenant_config_", "invalid-key"),
        ("/v1/config/tenant_config_a//b", "invalid-key"),
        ("/v1/config/tenant_config_a%00", "invalid-key"),
        ("/v1/config/tenant_config_a?versoin=1", "invalid-parameter"),
        ("/v1/config/tenant_config_a?version=0", "invalid-parameter"),
        ("/v1/config/tenant_config_a?version=1&version=1", "invalid-parameter"),
        ("/v1/config/tenant_config_a?minRevision=1.5", "invalid-parameter"),
        ("/v1/config?limit=101", "invalid-parameter"),
        ("/v1/config?prefix=a%20b", "invalid-parameter"),
        ("/v1/config?cursor=abc", "invalid-parameter"),
        ("/v1/changes", "invalid-parameter"),
    ] {
        record.ask(problem, acme.call(Method::GET, path)).await.expect_problem(400, problem);
    }
    for (header, value) in [("if-match", "3"), ("idempotency-key", "a b")] {
        let call = acme.put("tenant_config_k", &json!(1)).header(header, value);
        record.ask("A malformed header", call).await.expect_problem(400, "invalid-parameter");
    }
    let put = || acme.call(Method::PUT, "/v1/config/tenant_config_k");
    for (body, problem) in [
        ("", "invalid-body"),
        ("{", "invalid-body"),
        ("{}", "invalid-body"),
        (r#"{"value":1,"ttl":2}"#, "invalid-body"),
        (r#"{"value":1,"comment":"\n"}"#, "invalid-body"),
        (r#"{"value":{"a":1,"a":2}}"#, "invalid-value"),
        (r#"{"value":0.10000000000000000555}"#, "invalid-value"),
    ] {
        record.ask(problem, put().raw(body)).await.expect_problem(400, problem);
    }
    let delete = acme.delete("tenant_config_k").json(&json!({}));
    record.ask("A delete with a body", delete).await.expect_problem(400, "invalid-body");
    let batch = acme.batch_get(&[]);
    record.ask("A batch of nothing", batch).await.expect_problem(400, "invalid-body");
    let batch = acme.batch_get(&["tenant_config_a", "x"]);
    record.ask("A batch with a key that is none", batch).await.expect_problem(400, "invalid-key");
    let twice = json!([
        {"op": "put", "key": "tenant_config_a", "value": 1},
        {"op": "delete", "key": "tenant_config_a"},
    ]);
    let call = acme.transaction(&twice);
    record.ask("A transaction that writes a key twice", call).await.expect_problem(400, "invalid-body");
    let call = acme.transaction(&twice).header("if-match", "*");
    record.ask("A transaction with a condition", call).await.expect_problem(400, "invalid-parameter");
    let compressed = put().raw("x").header("content-encoding", "gzip");
    record.ask("A compressed body", compressed).await.expect_problem(415, "unsupported-media-type");

    let long = put().json(&json!({"value": 1, "comment": "c".repeat(MAX_COMMENT_CHARS + 1)}));
    record.ask("A comment that is too long", long).await.expect_problem(413, "too-large");
    let large = acme.put("tenant_config_k", &json!("v".repeat(262_143)));
    record.ask("A value that is too large for the ledger", large).await.expect_problem(413, "too-large");
    let large = acme.put("param_config_k", &json!("v".repeat(4_097)));
    record.ask("A value that is too large for Parameter Store", large).await.expect_problem(413, "too-large");
    assert_recorded!("problems_of_rules", record);
    api.stop().await;
}

/// Contract: what is said to who may not do what was asked.
#[tokio::test]
async fn rights() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let mut record = Record::default();
    let event = |method: &str| acme.event(method, "/v1/config/secret_config_k", &json!({"value": 1}));
    for (what, claims) in [
        ("No scope", json!({"custom:tenantId": "acme"})),
        ("No tenant", json!({"scope": "config/read config/write"})),
        ("No scope for secrets", json!({"custom:tenantId": "acme", "scope": "config/read"})),
    ] {
        let mut event = event("GET");
        come_with(&mut event, &claims);
        let answer = api.suite.invoke("config-read", event).await.expect("an answer");
        assert_eq!(answer["statusCode"], 403, "{answer}");
        record.answered(what, &answer);
    }
    let mut reads_alone = event("PUT");
    come_with(&mut reads_alone, &json!({"custom:tenantId": "acme", "scope": "config/read"}));
    record.answered("No scope to write", &api.suite.invoke("config-write", reads_alone).await.expect("an answer"));
    for (what, authorization) in [("No token", Value::Null), ("No Bearer", json!("Basic eA=="))] {
        let mut event = event("GET");
        event["requestContext"]["authorizer"] = Value::Null;
        event["headers"]["authorization"] = authorization;
        if event["headers"]["authorization"].is_null() {
            event["headers"].as_object_mut().expect("headers").remove("authorization");
        }
        let answer = api.suite.invoke("config-read", event).await.expect("an answer");
        assert_eq!(answer["statusCode"], 401, "{answer}");
        record.answered(what, &answer);
    }
    let mut no_token = event("GET");
    no_token["requestContext"]["authorizer"] = Value::Null;
    no_token["headers"]["authorization"] = json!("Bearer not.a.token");
    record.answered("A token that is none", &api.suite.invoke("config-read", no_token).await.expect("an answer"));
    let nowhere = acme.event("GET", "/v1/nothing", &Value::Null);
    record.answered("No such route", &api.suite.invoke("config-read", nowhere).await.expect("an answer"));
    assert_recorded!("problems_of_rights", record);
    api.stop().await;
}

/// Contract: what is said where the state of a key stands against the request.
#[tokio::test]
async fn states() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let mut record = Record::default();
    let key = "tenant_config_k";
    record.ask("No value", acme.get(key)).await.expect_problem(404, "not-found");
    record.ask("Never written", acme.history(key)).await.expect_problem(404, "not-found");
    record.ask("Nothing to delete", acme.delete(key)).await.expect_problem(404, "not-found");
    let written = acme.put(key, &json!(1)).await.expect(201);
    record.know(&written);
    acme.delete(key).await.expect(200);
    record.ask("No such version", acme.get("tenant_config_k?version=9")).await.expect_problem(404, "not-found");
    record.ask("A deletion", acme.get("tenant_config_k?version=2")).await.expect_problem(404, "not-found");
    record.ask("No such version to roll back to", acme.roll_back(key, 9)).await.expect_problem(404, "not-found");
    let deletion = acme.roll_back(key, 2);
    record.ask("A rollback to a deletion", deletion).await.expect_problem(422, "unprocessable");

    let gone = acme.put(key, &json!(2)).header("if-match", written.etag());
    record.ask("If-Match where there is nothing", gone).await.expect_problem(412, "precondition-failed");
    let current = acme.put(key, &json!(2)).await.expect(201);
    let old = acme.put(key, &json!(3)).header("if-match", written.etag());
    record.ask("If-Match with an old tag", old).await.expect_problem(412, "precondition-failed");
    let weak = acme.put(key, &json!(3)).header("if-match", &format!("W/{}", current.etag()));
    record.ask("If-Match with a weak tag", weak).await.expect_problem(412, "precondition-failed");
    let new = acme.put(key, &json!(3)).header("if-none-match", "*");
    record.ask("If-None-Match where there is something", new).await.expect_problem(412, "precondition-failed");
    let read = acme.get(key).header("if-match", written.etag());
    record.ask("A read with an old tag", read).await.expect_problem(412, "precondition-failed");
    let page = acme.list("").header("if-match", "\"x\"");
    record.ask("A page with another tag", page).await.expect_problem(412, "precondition-failed");
    let operations = json!([{"op": "put", "key": key, "value": 3, "ifMatch": written.etag()}]);
    let lost = acme.transaction(&operations);
    record.ask("A transaction with an old tag", lost).await.expect_problem(412, "precondition-failed");

    let once = |value: u64| acme.put(key, &json!(value)).header("idempotency-key", "once");
    once(4).await.expect(200);
    record.ask("Another request with the same Idempotency-Key", once(5)).await.expect_problem(422, "unprocessable");
    let ahead = acme.get("tenant_config_k?minRevision=1000");
    record.ask("A revision that is not reached", ahead).await.expect_problem(422, "unprocessable");
    record.ask("Changes since the future", acme.changes("since=1000")).await.expect_problem(410, "gone");

    acme.put("secret_config_k", &json!("a")).await.expect(201);
    acme.delete("secret_config_k").await.expect(200);
    api.settled().await;
    let gone = acme.get("secret_config_k?version=1");
    record.ask("A version whose value is gone", gone).await.expect_problem(410, "gone");
    let gone = acme.roll_back("secret_config_k", 1);
    record.ask("A rollback to a value that is gone", gone).await.expect_problem(410, "gone");

    let name = acme.parameter_name("secret_config_", "l");
    edit(&api, &name, "a,b", ParameterType::StringList).await;
    api.settled().await;
    let refused = acme.put("secret_config_l", &json!("ours"));
    record.ask("Another type is in the way", refused).await.expect_problem(422, "unprocessable");
    acme.put("param_config_k", &json!("a")).await.expect(201);
    api.settled().await;
    edit(&api, &acme.parameter_name("param_config_", "l"), "a,b", ParameterType::StringList).await;
    api.settled().await;
    let operations = json!([{"op": "put", "key": "param_config_l", "value": "a"}]);
    let refused = acme.transaction(&operations);
    record.ask("Another type is in the way of a transaction", refused).await.expect_problem(422, "unprocessable");
    let operations = json!([
        {"op": "put", "key": "secret_config_m", "value": "a"},
        {"op": "put", "key": "tenant_config_m", "value": "b"},
    ]);
    let joined = acme.transaction(&operations);
    record.ask("A secret in a transaction", joined).await.expect_problem(422, "unprocessable");
    api.suite.emulator().limit_parameters(1);
    let refused = acme.put("secret_config_n", &json!("a"));
    record.ask("No more parameters", refused).await.expect_problem(422, "unprocessable");
    assert_recorded!("problems_of_states", record);
    api.stop().await;
}

/// Contract: what is said while a store does not do its part.
#[tokio::test]
async fn stores() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let mut record = Record::default();
    for key in ["tenant_config_k", "secret_config_k", "param_config_k"] {
        acme.put(key, &json!("v")).await.expect(201);
    }
    api.settled().await;
    let faults = api.suite.emulator().faults();
    let again = |operation: &str, fault: Fault| {
        faults.clear();
        api.pass(CIRCUIT);
        faults.inject(operation, fault, 1_000);
    };
    for (what, operation, fault, status) in [
        ("The ledger is down", "GetItem", Fault::InternalError, 503),
        ("The ledger takes no more", "GetItem", Fault::Throttle, 429),
    ] {
        again(operation, fault);
        record.ask(what, acme.get("tenant_config_k")).await.expect(status);
    }
    again("GetParameters", Fault::InternalError);
    for _ in 0..5 {
        acme.get("secret_config_k").await.expect_problem(503, "unavailable");
    }
    record.ask("A store is left alone", acme.get("secret_config_k")).await.expect_problem(503, "unavailable");
    again("TransactWriteItems", Fault::TransactionConflict);
    let write = acme.put("tenant_config_k", &json!("w"));
    record.ask("Too many write", write).await.expect_problem(409, "contention");
    again("TransactWriteItems", Fault::ReplyLost);
    faults.inject("GetItem", Fault::InternalError, 1_000);
    let write = acme.put("tenant_config_k", &json!("w"));
    record.ask("Nobody knows what became of a write", write).await.expect_problem(503, "unavailable");
    faults.clear();
    api.pass(CIRCUIT);

    api.suite.emulator().set_event_fate(EventFate::Lost);
    remove(&api, &acme.parameter_name("secret_config_", "k")).await;
    let missing = acme.get("secret_config_k?minRevision=1").header("cache-control", "no-cache");
    record.ask("A value was taken out of its store", missing).await.expect_problem(503, "unavailable");
    assert_recorded!("problems_of_stores", record);
    api.stop().await;
}

/// Contract: what is said to a tenant that asks too often.
#[tokio::test]
async fn rates() {
    let parameters = [("TenantRateLimit".to_owned(), "1".to_owned())].into();
    let api = Api::frozen_with(local::Options { parameters, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    let mut record = Record::default();
    // More than are let through at once.
    let crowd = (0..300).map(|_| acme.get("tenant_config_k").into_future());
    let answers = join_all(crowd).await;
    assert!(answers.iter().any(|answer| answer.status == 429), "there is a limit");
    record.ask("Too many requests of one tenant", acme.get("tenant_config_k")).await.expect_problem(429, "throttled");
    assert_recorded!("problems_of_rates", record);
    api.stop().await;
}
