//! What a delete takes along: values that lie in their store alone go with it, and whoever deletes
//! is told.

use emulator::Fault;
use local::Options;
use serde_json::{Value, json};
use tenantry::ledger::GRACE;

use crate::{
    harness::{Api, Tenant},
    operator::remove,
};

const TAGS: [&str; 5] = ["tenant_config_", "param_config_", "back_config_", "around_config_", "secret_config_"];

/// Whether values under the tag lie in Parameter Store alone.
fn is_around(tag: &str) -> bool {
    matches!(tag, "around_config_" | "secret_config_")
}

/// That version 1 of a key is gone, for every reader of it, because of the delete that is version
/// `deletion`.
async fn is_gone_by(tenant: &Tenant<'_>, key: &str, deletion: u64) {
    for call in [tenant.roll_back(key, 1), tenant.get(&format!("{key}?version=1"))] {
        let gone = call.await.expect_problem(410, "gone");
        let reason = format!(
            "the value of version 1 of {key} is not kept any more: it lay in its store alone, from which version {deletion}, a delete, has removed all"
        );
        assert_eq!(gone.body["detail"], reason);
        assert!(gone.revision() > 0);
    }
    let history = tenant.history(key).await.expect(200);
    assert_eq!(history.each("versions", "valueGone").last(), Some(&json!(true)), "{}", history.text);
}

/// Promise: a delete says whether the older values go with it, a repeated one and one in a
/// transaction, too; what it says is so, and who asks for such a value is told which delete removed
/// it. Where the ledger has the values they can be had and rolled back to.
#[tokio::test]
async fn a_delete_says_what_goes_with_it() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for tag in TAGS {
        let key = format!("{tag}k");
        let said = is_around(tag).then_some(json!(true));
        for value in ["a", "b"] {
            let written = acme.put(&key, &json!(value)).await;
            assert_eq!(written.body.get("removesOlderValues"), None, "{}", written.text);
        }
        api.sweep(1).await;
        let delete = || acme.delete(&key).header("idempotency-key", tag);
        let deleted = delete().await.expect(200);
        assert_eq!(deleted.body.get("removesOlderValues"), said.as_ref(), "{}", deleted.text);
        let again = delete().await.expect(200);
        assert_eq!(again.body.get("removesOlderValues"), said.as_ref(), "{}", again.text);
        api.sweep(1).await;
        assert_eq!(api.parameter(&acme.parameter_name(tag, "k")).await, None);
        if is_around(tag) {
            is_gone_by(&acme, &key, 3).await;
        } else {
            let history = acme.history(&key).await.expect(200);
            assert_eq!(history.each("versions", "value"), [Value::Null, json!("b"), json!("a")]);
            assert_eq!(acme.roll_back(&key, 1).await.expect(201).body.get("removesOlderValues"), None);
            assert_eq!(acme.get(&key).await.expect(200).body["value"], "a");
            continue;
        }
        // Nor does a new life bring them back, and what is written in it is kept.
        acme.put(&key, &json!("c")).await.expect(201);
        acme.put(&key, &json!("d")).await.expect(200);
        is_gone_by(&acme, &key, 3).await;
        acme.roll_back(&key, 4).await.expect(200);
        assert_eq!(acme.get(&key).await.expect(200).body["value"], "c");
        let deleted = acme.transaction(&json!([{"op": "delete", "key": key}])).await.expect(200);
        assert_eq!(deleted.each("results", "removesOlderValues"), [json!(true)]);
        is_gone_by(&acme, &key, 7).await;
    }
    api.stop().await;
}

/// Promise: while the removal that a delete owes is pending the older values are there, for the API
/// as for direct readers; the answer says both. A rollback keeps them; without one they go when
/// config-refresh makes up for it.
#[tokio::test]
async fn a_pending_delete_has_not_removed_anything_yet() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    for (key, is_kept) in [("secret_config_kept", true), ("secret_config_gone", false)] {
        acme.put(key, &json!("a")).await.expect(201);
        api.suite.emulator().faults().inject("DeleteParameter", Fault::Throttle, 1);
        let deleted = acme.delete(key).await.expect(200);
        assert_eq!((&deleted.body["pending"], &deleted.body["removesOlderValues"]), (&json!(true), &json!(true)));
        acme.get(key).await.expect_problem(404, "not-found");
        assert_eq!(acme.get(&format!("{key}?version=1")).await.expect(200).body["value"], "a");
        if is_kept {
            api.pass(GRACE * 2);
            acme.roll_back(key, 1).await.expect(201);
        }
        api.sweep(1).await;
        if is_kept {
            for path in [key, &format!("{key}?version=1")] {
                assert_eq!(acme.get(path).await.expect(200).body["value"], "a");
            }
        } else {
            is_gone_by(&acme, key, 2).await;
        }
    }
    api.stop().await;
}

/// Promise: an operator who removes a secret's parameter takes its older values along, too, and
/// whoever looks for them is told of the deletion that this became.
#[tokio::test]
async fn an_operators_removal_is_named_as_well() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    acme.put("secret_config_k", &json!("a")).await.expect(201);
    api.settled().await;
    api.pass(GRACE);
    remove(&api, &acme.parameter_name("secret_config_", "k")).await;
    api.settled().await;
    assert_eq!(acme.history("secret_config_k").await.expect(200).body["versions"][0]["author"], "external");
    is_gone_by(&acme, "secret_config_k", 2).await;
    api.stop().await;
}

/// Promise: what counts is where the value lies, not what the route says by now.
#[tokio::test]
async fn a_value_that_lies_around_goes_under_another_strategy_too() {
    let data = tempfile::tempdir().expect("a folder");
    let start = async |strategy: &str| {
        let routes = format!(r#"{{"x_config_": {{"store": "parameter-store", "strategy": "{strategy}"}}}}"#);
        let parameters = [("TagRoutes".to_owned(), routes)].into();
        Api::with(Options { data: Some(data.path().to_owned()), parameters, ..Options::default() }).await
    };
    let api = start("write-around").await;
    api.tenant("acme").put("x_config_k", &json!("a")).await.expect(201);
    api.stop().await;
    let api = start("write-through").await;
    let acme = api.tenant("acme");
    assert_eq!(acme.delete("x_config_k").await.expect(200).body["removesOlderValues"], true);
    is_gone_by(&acme, "x_config_k", 2).await;
    api.stop().await;
}
