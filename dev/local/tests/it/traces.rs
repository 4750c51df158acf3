//! Traces that the model of the protocol found (`shared/src/protocol_model`), driven through the
//! real functions: scans of a parameter that are overtaken or cut short, and puts that come when no
//! process waits for them any more.

use aws_sdk_ssm::types::ParameterType;
use emulator::{EventFate, Fault, Held};
use futures_util::future::join;
use serde_json::{Value, json};
use tenantry::ledger::GRACE;

use crate::{
    crash::put,
    harness::{Api, reached},
    operator::{edit, told_of},
};

/// Has a function die while `operation` is under way, after `passes` other calls of it. The call is
/// executed once it is let go.
pub(crate) async fn die_at(api: &Api, operation: &str, passes: usize, function: &str, event: Value) -> Held {
    let held = api.suite.emulator().faults().hold(operation, passes);
    tokio::select! {
        answer = api.suite.invoke(function, event) => panic!("it answered without {operation}: {answer:?}"),
        () = reached(&held) => {}
    }
    held
}

/// Lets a put take effect that nobody waits for.
pub(crate) async fn comes_late(api: &Api, name: &str, value: &str, held: Held) {
    held.release();
    let there = async { while api.parameter(name).await.is_none_or(|(text, _)| text != value) {} };
    tokio::time::timeout(GRACE, there).await.expect("it takes effect");
}

/// Promise: an importer that read the entry before another one imported more does not take that for
/// new. An edit is imported once.
#[tokio::test]
async fn a_scan_that_is_overtaken_takes_nothing_back() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    acme.put("param_config_k", &json!("ours")).await.expect(201);
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    // Between its reads of the entry and of the store.
    let slow = api.suite.emulator().faults().hold("GetParameterHistory", 0);
    let overtaking = async {
        reached(&slow).await;
        edit(&api, &name, "theirs", ParameterType::String).await;
        api.suite.invoke("config-refresh", told_of(&name)).await.expect("it is imported");
        slow.release();
    };
    join(api.suite.invoke("config-refresh", told_of(&name)), overtaking).await.0.expect("nothing is left to do");
    api.sweep(2).await;
    let history = acme.history("param_config_k").await.expect(200);
    assert_eq!(history.each("versions", "author"), ["external", "acme-developer"], "{}", history.text);
    api.stop().await;
}

/// Promise: a put that comes late, after a newer value, is corrected even if the scan that saw it
/// was cut short.
#[tokio::test]
async fn a_scan_that_is_cut_short_hides_no_late_put() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    let late = die_at(&api, "PutParameter", 0, "config-write", put(&acme, "param_config_k", "old")).await;
    acme.put("param_config_k", &json!("new")).await.expect(200);
    api.sweep(2).await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    comes_late(&api, &name, "old", late).await;
    // It has noted one thing, and not the other.
    let never = die_at(&api, "UpdateItem", 1, "config-refresh", told_of(&name)).await;
    api.sweep(2).await;
    assert_eq!(api.parameter(&name).await.map(|(text, _)| text), Some("new".to_owned()));
    drop(never);
    api.stop().await;
}

/// Promise: a key's very first put, never committed, is removed even if it comes late, after all
/// that was known of it is forgotten.
#[tokio::test]
async fn a_first_put_that_comes_late_is_removed() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("secret_config_", "k");
    let late = die_at(&api, "PutParameter", 0, "config-write", put(&acme, "secret_config_k", "never committed")).await;
    api.sweep(2).await;
    comes_late(&api, &name, "never committed", late).await;
    api.sweep(2).await;
    assert_eq!(api.parameter(&name).await, None);
    acme.get("secret_config_k").await.expect(404);
    acme.put("secret_config_k", &json!("committed")).await.expect(201);
    api.stop().await;
}

/// Promise: a put that failed, and was made up for under another intent, is not taken for an
/// operator's when it comes late.
#[tokio::test]
async fn a_failed_put_never_becomes_current() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("secret_config_", "k");
    let late = die_at(&api, "PutParameter", 0, "config-write", put(&acme, "secret_config_k", "failed")).await;
    api.pass(GRACE * 2);
    // The sweep has recorded the intent to remove what the first write left; then there is another
    // write.
    let removing = api.suite.emulator().faults().hold("UpdateItem", 1);
    let writing = async {
        reached(&removing).await;
        // So long that the writer does not wait for it.
        api.pass(GRACE / 15);
        acme.put("secret_config_k", &json!("committed")).await.expect(201);
        removing.release();
    };
    join(api.suite.run_schedules(), writing).await.0.expect("a sweep");
    api.sweep(2).await;
    comes_late(&api, &name, "failed", late).await;
    api.sweep(2).await;
    assert_eq!(acme.get("secret_config_k").await.expect(200).body["value"], "committed");
    assert_eq!(acme.history("secret_config_k").await.expect(200).each("versions", "author"), ["acme-developer"]);
    assert_eq!(api.parameter(&name).await.map(|(text, _)| text), Some("committed".to_owned()));
    api.stop().await;
}

/// Promise: what an operator has put beneath a deleted value, and is left there, is imported once,
/// however often it is compared.
#[tokio::test]
async fn what_is_left_alone_is_taken_over_once() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    api.suite.emulator().set_event_fate(EventFate::Lost);
    edit(&api, &name, "theirs", ParameterType::String).await;
    // It has put its value, and not noted that.
    let never = die_at(&api, "UpdateItem", 0, "config-write", put(&acme, "param_config_k", "ours")).await;
    acme.delete("param_config_k").await.expect(200);
    for _ in 0..3 {
        api.sweep(2).await;
    }
    let history = acme.history("param_config_k").await.expect(200);
    let authors = ["external", "acme-developer", "crash-test"];
    assert_eq!(history.each("versions", "author"), authors, "{}", history.text);
    acme.get("param_config_k").await.expect(404);
    drop(never);
    api.stop().await;
}

/// Promise: if an operator removes a value of which the store has the only copy, while a write is
/// failing, that is a deletion; and the value of the failed write is removed.
#[tokio::test]
async fn a_removal_beside_a_failed_put_is_a_deletion() {
    for comes in [false, true] {
        let api = Api::start().await;
        let acme = api.tenant("acme");
        let name = acme.parameter_name("secret_config_", "k");
        acme.put("secret_config_k", &json!("ours")).await.expect(201);
        api.settled().await;
        let late = die_at(&api, "PutParameter", 0, "config-write", put(&acme, "secret_config_k", "failed")).await;
        api.parameter_store().delete_parameter().name(&name).send().await.expect("it was there");
        if comes {
            comes_late(&api, &name, "failed", late).await;
        }
        api.sweep(2).await;
        api.sweep(2).await;
        acme.get("secret_config_k").await.expect(404);
        let history = acme.history("secret_config_k").await.expect(200);
        assert_eq!(history.each("versions", "author"), ["external", "acme-developer"], "{comes}: {}", history.text);
        assert_eq!(api.parameter(&name).await, None, "{comes}");
        let kept = api.item(&acme, "ENTRY#secret_config_k").await;
        assert!(!kept.contains_key("outboxShard") && !kept.contains_key("intents"), "{comes}: {kept:?}");
        acme.put("secret_config_k", &json!("ours again")).await.expect(201);
        api.stop().await;
    }
}

/// Promise: a value that Parameter Store does not show yet is not taken for a removed one, least of
/// all a secret, which is nowhere else.
#[tokio::test]
async fn what_lags_is_not_removed() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for (key, fault) in [("secret_config_new", Fault::NotYet), ("secret_config_known", Fault::StalePage)] {
        if fault == Fault::StalePage {
            acme.put(key, &json!("first")).await.expect(201);
            api.settled().await;
        }
        // The writer sees its own put, and those do not who look afterwards because of the events.
        api.suite.emulator().set_event_fate(EventFate::Delayed);
        let written = acme.put(key, &json!("newest")).await;
        assert!(matches!(written.status, 200 | 201), "{}", written.text);
        api.suite.emulator().faults().inject("GetParameterHistory", fault, 12);
        api.suite.emulator().set_event_fate(EventFate::Delivered);
        api.settled().await;
        api.suite.emulator().faults().clear();
        api.sweep(2).await;
        assert_eq!(acme.get(key).await.expect(200).body["value"], "newest", "{key}");
    }
    api.stop().await;
}
