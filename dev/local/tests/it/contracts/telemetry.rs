//! The lines of invocations, which are log and metrics: one for each function, kind and outcome.

use aws_sdk_ssm::types::ParameterType;
use emulator::{EventFate, Fault};
use http::Method;
use serde_json::{Value, json};

use super::{Record, assert_recorded};
use crate::{
    harness::{Api, CIRCUIT},
    operator::{edit, told_of},
    telemetry::Lines,
};

/// Notes the lines that have been written since the last look, in an order of their own: functions
/// work side by side.
async fn note(api: &Api, lines: &Lines, record: &mut Record, what: &str) {
    api.settled().await;
    let mut lines = lines.take();
    lines.sort_by_key(|line| (line["Function"].to_string(), line["Route"].to_string(), line["calls"].to_string()));
    for line in &lines {
        record.note(what, line);
    }
}

async fn start() -> (Api, Lines) {
    let lines = Lines::default();
    let telemetry = lines.telemetry(None);
    (Api::frozen_with(local::Options { telemetry, ..local::Options::default() }).await, lines)
}

/// Contract: what operators see of requests.
#[tokio::test]
async fn requests() {
    let (api, lines) = start().await;
    let acme = api.tenant("acme");
    let mut record = Record::default();
    let trace = "Root=1-5759e988-bd862e3fe1be46a994272793";
    let key = "tenant_config_k";
    // What writes set off is a contract of its own.
    api.suite.emulator().set_event_fate(EventFate::Lost);
    acme.put(key, &json!(1)).header("x-amzn-trace-id", trace).await.expect(201);
    note(&api, &lines, &mut record, "A put").await;
    let operations = json!([{"op": "put", "key": key, "value": 2}, {"op": "put", "key": "param_config_k", "value": 2}]);
    acme.transaction(&operations).await.expect(200);
    note(&api, &lines, &mut record, "A transaction").await;
    acme.roll_back(key, 1).await.expect(200);
    note(&api, &lines, &mut record, "A rollback").await;
    acme.delete("param_config_k").await.expect(200);
    note(&api, &lines, &mut record, "A delete").await;
    acme.put("secret_config_k", &json!("hush")).await.expect(201);
    note(&api, &lines, &mut record, "A put of a secret").await;
    for (what, control) in [("A read", ""), ("A read of what is known", ""), ("A read from memory", "max-age=60")] {
        acme.get(key).header("cache-control", control).await.expect(200);
        note(&api, &lines, &mut record, what).await;
    }
    acme.call(Method::HEAD, "/v1/config/tenant_config_k").await.expect(200);
    note(&api, &lines, &mut record, "A HEAD").await;
    for (what, call, status) in [
        ("A list", acme.list(""), 200),
        ("A batch", acme.batch_get(&[key]), 200),
        ("A history", acme.history(key), 200),
        ("Changes", acme.changes("since=0"), 200),
        ("Health", api.call(Method::GET, "/healthz"), 200),
        ("Nothing there", acme.get("tenant_config_x"), 404),
        ("A key that is none", acme.get("x"), 400),
        ("A precondition that does not hold", acme.put(key, &json!(1)).header("if-none-match", "*"), 412),
    ] {
        call.await.expect(status);
        note(&api, &lines, &mut record, what).await;
    }
    let nowhere = acme.event("GET", "/v1/nothing", &Value::Null);
    api.suite.invoke("config-read", nowhere).await.expect("an answer");
    note(&api, &lines, &mut record, "No such route").await;
    let faults = api.suite.emulator().faults();
    faults.inject("GetItem", Fault::InternalError, 1_000);
    acme.get(key).header("cache-control", "stale-if-error=600").await.expect(200);
    note(&api, &lines, &mut record, "A read of what may be stale, while the ledger is down").await;
    faults.clear();
    api.pass(CIRCUIT);
    faults.inject("GetItem", Fault::InternalError, 1_000);
    acme.get(key).await.expect(503);
    note(&api, &lines, &mut record, "A read while the ledger is down").await;
    assert_recorded!("telemetry_of_requests", record);
    api.stop().await;
}

/// Contract: what operators see of events and schedules.
#[tokio::test]
async fn events() {
    let (api, lines) = start().await;
    let acme = api.tenant("acme");
    let mut record = Record::default();
    acme.put("param_config_k", &json!(8080)).await.expect(201);
    api.settled().await;
    lines.take();

    edit(&api, &acme.parameter_name("param_config_", "k"), "no number", ParameterType::String).await;
    note(&api, &lines, &mut record, "An edit that does not parse").await;
    // What is refused is found by who takes care of the write later.
    let name = acme.parameter_name("back_config_", "l");
    api.suite.emulator().set_event_fate(EventFate::Lost);
    edit(&api, &name, "a,b", ParameterType::StringList).await;
    acme.put("back_config_l", &json!("ours")).await.expect(201);
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Delivered);
    lines.take();
    api.suite.run_schedules().await.expect("a sweep");
    note(&api, &lines, &mut record, "A sweep").await;
    let mut event: Value = serde_json::from_str(include_str!("../../../../../events/schedule.json")).expect("JSON");
    event["detail-type"] = json!("Something Else");
    event["source"] = json!("somebody");
    api.suite.invoke("config-refresh", event).await.expect("it is dropped");
    note(&api, &lines, &mut record, "An event of another kind").await;
    api.suite.invoke("config-refresh", told_of("/elsewhere/k")).await.expect("it is dropped");
    note(&api, &lines, &mut record, "A parameter of somebody else").await;
    let faults = api.suite.emulator().faults();
    faults.inject("BatchGetItem", Fault::InternalError, 1_000);
    api.suite.invoke("config-refresh", told_of(&name)).await.expect_err("the ledger is down");
    note(&api, &lines, &mut record, "An event while the ledger is down").await;
    assert_recorded!("telemetry_of_events", record);
    api.stop().await;
}
