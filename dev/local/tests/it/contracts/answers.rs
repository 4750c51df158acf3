//! Each kind of answer of each route, and the event.

use aws_sdk_ssm::types::ParameterType;
use emulator::{EventFate, Fault};
use http::Method;
use serde_json::{Value, json};

use super::{Record, assert_recorded};
use crate::{
    harness::{Api, Tenant},
    operator::{edit, kind_of, remove},
};

/// Does something of which no event tells.
async fn unseen(api: &Api, doing: impl Future<Output = ()>) {
    api.suite.emulator().set_event_fate(EventFate::Lost);
    doing.await;
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Delivered);
}

/// Contract: what writes answer, with one, with several keys, and for each state of a store.
#[tokio::test]
async fn writes() {
    let api = Api::frozen().await;
    let heard = api.listen();
    let acme = api.tenant("acme");
    let mut record = Record::default();
    let (plain, secret) = ("tenant_config_k", "secret_config_k");
    let why = json!({"value": {"a": 1}, "comment": "why"});
    let put = |key: &str| acme.call(Method::PUT, &format!("/v1/config/{key}"));

    let made = record.ask("A put makes a key", put(plain).json(&why)).await.expect(201);
    let over = put(plain).json(&json!({"value": 2})).header("if-match", made.etag());
    record.ask("A put over it, as its If-Match asks", over).await.expect(200);
    for (what, status) in [("A put with an Idempotency-Key", 200), ("The same again", 200)] {
        let again = put(plain).json(&json!({"value": 3})).header("idempotency-key", "once");
        record.ask(what, again).await.expect(status);
    }
    record.ask("A put of a secret", put(secret).json(&json!({"value": "hush"}))).await.expect(201);
    record.ask("A put through to its store", put("param_config_k").json(&why)).await.expect(201);
    record.ask("A put whose store comes later", put("back_config_k").json(&why)).await.expect(201);
    api.settled().await;
    let name = acme.parameter_name("param_config_", "l");
    unseen(&api, edit(&api, &name, "a,b", ParameterType::StringList)).await;
    record.ask("A put that its store refuses", put("param_config_l").json(&why)).await.expect(201);
    remove(&api, &name).await;
    api.settled().await;
    record.ask("A rollback", acme.roll_back(plain, 1)).await.expect(200);
    let because = json!({"version": 2, "comment": "back"});
    let back = acme.call(Method::POST, "/v1/rollback/tenant_config_k").json(&because);
    record.ask("A rollback with a comment", back).await.expect(200);
    unseen(&api, edit(&api, &acme.parameter_name("param_config_", "k"), "theirs", ParameterType::String)).await;
    acme.put("param_config_k", &json!(3)).await.expect(200);
    api.settled().await;
    record.ask("A delete", acme.delete("tenant_config_k?comment=gone")).await.expect(200);
    record.ask("A delete of a secret", acme.delete(secret)).await.expect(200);
    let operations = json!([
        {"op": "put", "key": plain, "value": 4, "ifNoneMatch": "*"},
        {"op": "delete", "key": "back_config_k"},
    ]);
    let body = json!({"operations": operations, "comment": "both"});
    let both = || acme.call(Method::POST, "/v1/transactions").json(&body).header("idempotency-key", "both");
    record.ask("A transaction", both()).await.expect(200);
    record.ask("The same again", both()).await.expect(200);
    api.settled().await;
    assert_recorded!("writes", record);

    let mut heard = std::mem::take(&mut *heard.lock().expect("no panic while noting"));
    heard.sort_by_key(|event| event["revision"].as_u64());
    let mut record = Record::default();
    for event in heard {
        record.note("Config Changed: detail", &event);
    }
    assert_recorded!("events", record);
    api.stop().await;
}

/// A tenant with a value in each kind of store, and one whose store refuses it.
async fn with_values(api: &Api) -> Tenant<'_> {
    let acme = api.tenant("acme");
    acme.put_because("tenant_config_k", &json!({"a": 1}), "why").await.expect(201);
    acme.put("tenant_config_k", &json!([2])).await.expect(200);
    acme.put("param_config_k", &json!("plain")).await.expect(201);
    acme.put("secret_config_k", &json!("hush")).await.expect(201);
    api.settled().await;
    let name = acme.parameter_name("param_config_", "l");
    unseen(api, edit(api, &name, "a,b", ParameterType::StringList)).await;
    acme.put("param_config_l", &json!("ours")).await.expect(201);
    api.settled().await;
    acme
}

/// Contract: what is answered to who asks for one key, or for several by their names.
#[tokio::test]
async fn reads_of_keys() {
    let api = Api::frozen().await;
    let acme = with_values(&api).await;
    let mut record = Record::default();
    record.ask("Health", api.call(Method::GET, "/healthz")).await.expect(200);
    let read = record.ask("A read", acme.get("tenant_config_k")).await.expect(200);
    let old = acme.get("tenant_config_k").header("cache-control", "max-age=60");
    record.ask("A read that may be old", old).await.expect(200);
    let head = acme.call(Method::HEAD, "/v1/config/tenant_config_k");
    record.ask("A HEAD", head).await.expect(200);
    let known = acme.get("tenant_config_k").header("if-none-match", read.etag());
    record.ask("A read of what is known", known).await.expect(304);
    record.ask("A read of a version", acme.get("tenant_config_k?version=1")).await.expect(200);
    record.ask("A read of a secret", acme.get("secret_config_k")).await.expect(200);
    let known = acme.get("secret_config_k?version=1").header("if-none-match", "*");
    record.ask("A read of a secret that is known", known).await.expect(304);
    record.ask("A read of what its store refuses", acme.get("param_config_l")).await.expect(200);
    record.ask("A read of a refused version", acme.get("param_config_l?version=1")).await.expect(200);
    let keys = ["tenant_config_k", "param_config_l", "tenant_config_x"];
    record.ask("A batch", acme.batch_get(&keys)).await.expect(200);
    record.ask("A batch with a secret", acme.batch_get(&["secret_config_k"])).await.expect(200);

    edit(&api, &acme.parameter_name("param_config_", "k"), "theirs", kind_of("param_config_")).await;
    api.settled().await;
    record.ask("A read of an edit past the service", acme.get("param_config_k")).await.expect(200);

    acme.put("secret_config_l", &json!("hush")).await.expect(201);
    unseen(&api, remove(&api, &acme.parameter_name("secret_config_", "l"))).await;
    let batch = acme.batch_get(&["secret_config_l", "tenant_config_k"]);
    record.ask("A batch with a value that was taken out of its store", batch).await.expect(200);
    api.suite.emulator().faults().inject("GetItem", Fault::InternalError, 1_000);
    let stale = acme.get("tenant_config_k").header("cache-control", "stale-if-error=600");
    record.ask("A read that may be stale, while the ledger is down", stale).await.expect(200);
    assert_recorded!("reads_of_keys", record);
    api.stop().await;
}

/// Contract: what is answered to who asks for pages: lists, histories, changes.
#[tokio::test]
async fn reads_of_pages() {
    let api = Api::frozen().await;
    let acme = with_values(&api).await;
    let mut reader = acme.clone();
    reader.token = api.suite.token("acme", "config/read").expect("a token");
    let mut record = Record::default();
    let list = record.ask("A list", acme.list("")).await.expect(200);
    record.ask("A list that is known", acme.list("").header("if-none-match", list.etag())).await.expect(304);
    let page = record.ask("A page of a list", acme.list("limit=1&prefix=param")).await.expect(200);
    let cursor = page.body["cursor"].as_str().expect("there is more");
    let next = acme.list(&format!("limit=1&prefix=param&cursor={cursor}"));
    record.ask("Its next page", next).await.expect(200);
    record.ask("A list without the right to secrets", reader.list("prefix=secret")).await.expect(200);
    record.ask("A list without entries", acme.list("prefix=x")).await.expect(200);

    let name = acme.parameter_name("param_config_", "k");
    unseen(&api, edit(&api, &name, "theirs", kind_of("param_config_"))).await;
    acme.put("param_config_k", &json!("ours")).await.expect(200);
    api.settled().await;
    record.ask("A history with a superseded edit", acme.history("param_config_k")).await.expect(200);
    let name = acme.parameter_name("secret_config_", "k");
    edit(&api, &name, "theirs", kind_of("secret_config_")).await;
    api.settled().await;
    record.ask("A history with an edit past the service", acme.history("secret_config_k")).await.expect(200);
    unseen(&api, remove(&api, &name)).await;
    record.ask("A list with a value that is gone", acme.list("prefix=secret")).await.expect(200);
    acme.delete("tenant_config_k").await.expect(200);
    let page = record.ask("A page of a history", acme.history("tenant_config_k?limit=2")).await.expect(200);
    let known = acme.history("tenant_config_k?limit=2").header("if-none-match", page.etag());
    record.ask("A page of a history that is known", known).await.expect(304);
    let cursor = page.body["cursor"].as_str().expect("there is more");
    let next = acme.history(&format!("tenant_config_k?limit=2&cursor={cursor}"));
    record.ask("Its next page", next).await.expect(200);
    record.ask("A history of what its store refuses", acme.history("param_config_l")).await.expect(200);
    remove(&api, &acme.parameter_name("param_config_", "l")).await;
    api.settled().await;
    let values_gone = acme.history("secret_config_k?limit=1");
    record.ask("A history whose values are gone", values_gone).await.expect(200);
    let changes = record.ask("Changes", acme.changes("since=0")).await.expect(200);
    let known = acme.changes("since=0").header("if-none-match", changes.etag());
    record.ask("Changes that are known", known).await.expect(304);
    record.ask("Some changes", acme.changes("since=1&limit=1")).await.expect(200);
    let none: Value = changes.body["revision"].clone();
    record.ask("No changes", acme.changes(&format!("since={none}"))).await.expect(200);
    assert_recorded!("reads_of_pages", record);
    api.stop().await;
}
