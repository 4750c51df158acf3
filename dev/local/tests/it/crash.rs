//! Processes that die between two steps, and answers that get lost: what was acknowledged stays,
//! the outbox is flushed in the end, nothing happens twice.

use emulator::Fault;
use serde_json::{Value, json};
use tenantry::ledger::GRACE;

use crate::harness::{Api, Tenant};

/// Has config-write carry out `request` and die while `operation` is under way for the first time:
/// the call came in and was not executed.
async fn die_before(api: &Api, tenant: &Tenant<'_>, operation: &str, request: Value) {
    let reached = api.suite.emulator().faults().inject(operation, Fault::NoReply, 1);
    tokio::select! {
        answer = api.suite.invoke("config-write", request) => panic!("it answered without {operation}: {answer:?}"),
        () = reached.reached() => {}
    }
    assert_eq!(reached.hits(), 1, "{} of {}", operation, tenant.name);
}

pub(crate) fn put(tenant: &Tenant<'_>, key: &str, value: &str) -> Value {
    tenant.event("PUT", &format!("/v1/config/{key}"), &json!({"value": value}))
}

/// Lets the time pass after which work counts as abandoned, and has config-refresh run twice: what
/// the first run puts off, the second does. Afterwards the outbox must be empty.
pub(crate) async fn recover(api: &Api) {
    api.sweep(2).await;
    api.pass(GRACE * 3);
    let before = api.suite.emulator().calls().snapshot();
    api.suite.run_schedules().await.expect("a sweep");
    for operation in ["PutParameter", "DeleteParameter", "PutEvents", "UpdateItem"] {
        let after = api.suite.emulator().calls().count(operation);
        assert_eq!(before.get(operation).copied().unwrap_or_default(), after, "{operation} was still to be done");
    }
}

/// Promise: a change whose writer died before publishing it is published by the sweep, once, and
/// not again.
#[tokio::test]
async fn an_event_is_never_lost() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    die_before(&api, &acme, "PutEvents", put(&acme, "tenant_config_k", "v")).await;
    let (calls, sweep) = api.calls_during("PutEvents", api.suite.run_schedules()).await;
    sweep.expect("a sweep");
    assert_eq!(calls, 0, "its writer may still be at it");
    api.pass(GRACE * 2);
    let (calls, sweep) = api.calls_during("PutEvents", api.suite.run_schedules()).await;
    sweep.expect("a sweep");
    assert_eq!(calls, 1);
    recover(&api).await;
    assert_eq!(acme.get("tenant_config_k").await.expect(200).body["value"], "v");
    api.stop().await;
}

/// Promise: what an event tells of is committed: nothing is published of a write that is not, or
/// not yet.
#[tokio::test]
async fn no_event_comes_before_its_commit() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for key in ["tenant_config_k", "param_config_k", "secret_config_k"] {
        die_before(&api, &acme, "TransactWriteItems", put(&acme, key, "v")).await;
        assert_eq!(api.suite.emulator().calls().count("PutEvents"), 0, "{key}");
    }
    api.stop().await;
}

/// Promise: an event that EventBridge refused is not lost either, and the writer's answer does not
/// suffer.
#[tokio::test]
async fn a_refused_event_is_published_later() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let refused = api.suite.emulator().faults().inject("PutEvents", Fault::InternalError, 100);
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    assert!(refused.hits() > 0);
    api.suite.emulator().faults().clear();
    api.pass(GRACE * 2);
    assert_eq!(api.calls_during("PutEvents", api.suite.run_schedules()).await.0, 1);
    recover(&api).await;
    api.stop().await;
}

/// Promise: a commit whose answer was lost took place once, and is answered as done, with or
/// without an idempotency key.
#[tokio::test]
async fn a_lost_answer_is_no_lost_race() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for (key, lost) in [("tenant_config_k", 1), ("param_config_k", 1), ("secret_config_k", 1), ("tenant_config_l", 3)] {
        let hit = api.suite.emulator().faults().inject("TransactWriteItems", Fault::ReplyLost, lost);
        let written = acme.put(key, &json!("v")).header("if-none-match", "*").await.expect(201);
        assert!(hit.hits() > 0);
        api.suite.emulator().faults().clear();
        assert_eq!(written.number("version"), 1);
        assert_eq!(acme.get(key).await.expect(200).etag(), written.etag());
        assert_eq!(acme.history(key).await.expect(200).each("versions", "version"), [1]);
    }
    assert_eq!(acme.changes("since=0").await.expect(200).each("changes", "revision"), [1, 2, 3, 4]);
    api.stop().await;
}

/// Promise: where the outcome of a commit cannot be found out, the answer says so, and the same
/// idempotency key finds out later.
#[tokio::test]
async fn an_unknown_outcome_is_said_and_found_out() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let put = || acme.put("tenant_config_k", &json!("v")).header("idempotency-key", "k1");
    api.suite.emulator().faults().inject("TransactWriteItems", Fault::ReplyLost, 1);
    api.suite.emulator().faults().inject("GetItem", Fault::InternalError, 10);
    let unknown = put().await.expect_problem(503, "unavailable");
    assert!(unknown.body["detail"].as_str().is_some_and(|detail| detail.contains("whether the write took place")));
    assert!(!unknown.header("retry-after").is_empty());
    api.suite.emulator().faults().clear();
    let found = put().await.expect(201);
    assert_eq!((found.header("idempotency-replayed"), found.number("version")), ("true", 1));
    api.stop().await;
}

/// Promise: a conflict or a throttle that passes is not the writer's problem; one that stays is 429
/// or 409, says when to come back, and wrote nothing.
#[tokio::test]
async fn what_passes_is_waited_for() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for fault in [Fault::TransactionConflict, Fault::Throttle] {
        api.suite.emulator().faults().inject("TransactWriteItems", fault, 2);
        acme.put("tenant_config_k", &json!(1)).await;
    }
    assert_eq!(acme.get("tenant_config_k").await.expect(200).number("version"), 2);
    api.suite.emulator().faults().inject("TransactWriteItems", Fault::Throttle, 100);
    let refused = acme.put("tenant_config_k", &json!(1)).await.expect_problem(429, "throttled");
    assert!(!refused.header("retry-after").is_empty());
    api.suite.emulator().faults().clear();
    assert_eq!(acme.get("tenant_config_k").await.expect(200).revision(), 2);
    api.stop().await;
}

/// Promise: a write-through whose put fails is committed, says `pending`, and is put later; around
/// the ledger it fails as a whole.
#[tokio::test]
async fn a_store_that_is_down_makes_a_write_pending() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let down = || api.suite.emulator().faults().inject("PutParameter", Fault::InternalError, 100);
    down();
    let pending = acme.put("param_config_k", &json!("v")).await.expect(201);
    assert_eq!(pending.body["pending"], true);
    assert_eq!(acme.get("param_config_k").await.expect(200).body["value"], "v");
    acme.put("secret_config_k", &json!("v")).await.expect_problem(503, "unavailable");
    acme.get("secret_config_k").await.expect_problem(404, "not-found");
    api.suite.emulator().faults().clear();
    api.settled().await;
    assert_eq!(api.parameter(&acme.parameter_name("param_config_", "k")).await, None);
    recover(&api).await;
    assert_eq!(api.parameter(&acme.parameter_name("param_config_", "k")).await, Some(("v".to_owned(), 1)));
    assert_eq!(api.parameter(&acme.parameter_name("secret_config_", "k")).await, None);
    api.stop().await;
}

/// Promise: a put whose answer was lost leaves nothing behind that anybody reads, and the value is
/// where it belongs in the end.
#[tokio::test]
async fn a_put_whose_answer_was_lost_comes_right() {
    for tag in ["param_config_", "around_config_", "secret_config_"] {
        let api = Api::start().await;
        let acme = api.tenant("acme");
        let (key, name) = (format!("{tag}k"), acme.parameter_name(tag, "k"));
        acme.put(&key, &json!("before")).await.expect(201);
        api.suite.emulator().faults().inject("PutParameter", Fault::ReplyLost, 1);
        let answer = acme.put(&key, &json!("after")).await;
        if tag == "param_config_" {
            assert_eq!(answer.expect(200).body["pending"], true);
        } else {
            answer.expect_problem(503, "unavailable");
        }
        recover(&api).await;
        let committed = acme.get(&key).await.expect(200).body["value"].as_str().map(str::to_owned);
        assert_eq!(committed.as_deref(), Some(if tag == "param_config_" { "after" } else { "before" }));
        assert_eq!(api.parameter(&name).await.map(|(text, _)| text), committed, "{tag}");
        api.stop().await;
    }
}

/// Promise: an event that cannot be published is not tried again by the very next sweep.
#[tokio::test]
async fn a_failed_event_is_put_off() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    die_before(&api, &acme, "PutEvents", put(&acme, "tenant_config_k", "v")).await;
    api.pass(GRACE * 2);
    api.suite.emulator().faults().inject("PutEvents", Fault::InternalError, 3);
    assert_eq!(api.calls_during("PutEvents", api.suite.run_schedules()).await.0, 3);
    assert_eq!(api.calls_during("PutEvents", api.suite.run_schedules()).await.0, 0, "what failed is put off");
    recover(&api).await;
    api.stop().await;
}

/// Promise: work that fails is put off and holds up no other.
#[tokio::test]
async fn failing_work_holds_up_nothing() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for key in ["param_config_a", "param_config_b"] {
        die_before(&api, &acme, "PutParameter", put(&acme, key, key)).await;
    }
    api.settled().await;
    api.pass(GRACE * 2);
    // Whichever comes first fails; the SDK is told not to repeat a put.
    api.suite.emulator().faults().inject("PutParameter", Fault::InternalError, 1);
    api.suite.run_schedules().await.expect("a sweep that goes on");
    let mut there = 0;
    for name in ["a", "b"] {
        there += usize::from(api.parameter(&acme.parameter_name("param_config_", name)).await.is_some());
    }
    assert_eq!(there, 1);
    let (calls, sweep) = api.calls_during("PutParameter", api.suite.run_schedules()).await;
    sweep.expect("a sweep");
    assert_eq!(calls, 0, "what failed is put off");
    recover(&api).await;
    for name in ["a", "b"] {
        let parameter = api.parameter(&acme.parameter_name("param_config_", name)).await;
        assert_eq!(parameter.map(|(text, _)| text), Some(format!("param_config_{name}")));
    }
    api.stop().await;
}
