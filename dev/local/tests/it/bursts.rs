//! Bursts: what is edited behind our back faster than one by one is imported together, and costs
//! less for each edit than a single one.

use std::{collections::BTreeMap, sync::Arc};

use aws_sdk_ssm::types::ParameterType;
use emulator::{EventFate, Service};
use serde_json::{Value, json};

use crate::{
    harness::{Api, Tenant},
    operator::{edit, told_of},
};

/// A batch as Lambda's event source mapping delivers it: one message for each event.
fn batch(events: &[Value]) -> Value {
    let record = |(index, event): (usize, &Value)| json!({"messageId": index.to_string(), "body": event.to_string()});
    json!({ "Records": events.iter().enumerate().map(record).collect::<Vec<_>>() })
}

/// Has config-refresh handle a batch; returns the messages that it did not manage.
async fn refresh(api: &Api, events: &[Value]) -> Value {
    let answer = api.suite.invoke("config-refresh", batch(events)).await.expect("an answer");
    let failures = answer["batchItemFailures"].as_array().expect("a list").iter();
    failures.map(|one| one["itemIdentifier"].clone()).collect()
}

/// Edits ten parameters of a tenant that config-refresh does not hear of; returns what it would
/// hear.
async fn ten_edits(api: &Api, acme: &Tenant<'_>, value: &str) -> Vec<Value> {
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let mut events = Vec::new();
    for n in 0..10 {
        let name = acme.parameter_name("param_config_", &format!("k{n}"));
        edit(api, &name, value, ParameterType::String).await;
        events.push(told_of(&name));
    }
    events
}

/// The calls that the functions made since.
fn calls_since(api: &Api, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let now = api.suite.emulator().calls().snapshot().into_iter();
    let since = now.map(|(operation, count)| (operation.clone(), count - before.get(&operation).unwrap_or(&0)));
    since.filter(|(operation, count)| *count > 0 && operation != "AssumeRole").collect()
}

async fn values(acme: &Tenant<'_>) -> Vec<Value> {
    let listed = acme.list("prefix=param_config_k").await.expect(200);
    listed.body["entries"].as_array().expect("entries").iter().map(|entry| entry["value"].clone()).collect()
}

/// Promise: edits of different keys of a tenant that are found together are one commit, at one call
/// of Parameter Store for each and four of DynamoDB for all; so it is for keys that are new and for
/// those that are known.
#[tokio::test]
async fn edits_of_one_tenant_become_one_commit() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for (revision, value) in [(1, "first"), (2, "second")] {
        let events = ten_edits(&api, &acme, value).await;
        let before = api.suite.emulator().calls().snapshot();
        assert_eq!(refresh(&api, &events).await, json!([]));
        let expected = [
            ("BatchGetItem", 2),
            ("GetParameterHistory", 10),
            ("PutEvents", 1),
            ("TransactWriteItems", 1),
            ("UpdateItem", 1),
        ];
        assert_eq!(calls_since(&api, &before), expected.map(|(operation, count)| (operation.to_owned(), count)).into());
        assert_eq!(values(&acme).await, vec![json!(value); 10]);
        let changes = acme.changes(&format!("since={}", revision - 1)).await.expect(200);
        assert_eq!(changes.body["changes"][0]["keys"].as_array().map(Vec::len), Some(10), "{}", changes.text);
        assert_eq!(changes.body["changes"][1], Value::Null);
    }
    api.stop().await;
}

/// Promise: in a batch each event stands for itself. One whose parameter cannot be read comes
/// again, what is no event is dropped, and neither holds up another, of this tenant or the next.
#[tokio::test]
async fn one_event_of_a_batch_fails_alone() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    let mut events = ten_edits(&api, &acme, "edited").await;
    let other = globex.parameter_name("param_config_", "k");
    edit(&api, &other, "theirs", ParameterType::String).await;
    events.extend([json!("no event"), told_of(&other), events[0].clone(), told_of("/elsewhere/k")]);
    // A call for another tenant's parameter is refused.
    let (own, others) = (acme.parameter_name("param_config_", "k7"), globex.parameter_name("param_config_", "k7"));
    api.suite.emulator().rewrite(Arc::new(move |service, operation: &str, body: &str| {
        let is_hit = service == Service::ParameterStore && operation == "GetParameterHistory" && body.contains(&own);
        is_hit.then(|| body.replace(&own, &others))
    }));
    assert_eq!(refresh(&api, &events).await, json!(["7"]));
    assert_eq!(values(&acme).await, vec![json!("edited"); 9]);
    assert_eq!(globex.get("param_config_k").await.expect(200).body["value"], "theirs");

    api.suite.emulator().rewrite(Arc::new(|_, _: &str, _: &str| None));
    assert_eq!(refresh(&api, &events[7..8]).await, json!([]));
    assert_eq!(values(&acme).await, vec![json!("edited"); 10]);
    api.stop().await;
}

/// Promise: an import that loses the race for the next revision goes on where it was. It reads no
/// parameter again, except of a key that was written meanwhile.
#[tokio::test]
async fn a_lost_race_costs_no_second_scan() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let events = ten_edits(&api, &acme, "edited").await;
    for (key, scans) in [("tenant_config_other", 10), ("param_config_k3", 11)] {
        let events = if key == "tenant_config_other" { events.clone() } else { ten_edits(&api, &acme, "again").await };
        let held = api.suite.emulator().faults().hold("TransactWriteItems", 0);
        let overtaken = async {
            held.reached().await;
            // One that has no store of its own to be put to, or whose put is held up by nothing.
            acme.put(key, &json!("ours")).await;
            held.release();
        };
        let importing = async { tokio::join!(refresh(&api, &events), overtaken).0 };
        let (read, failed) = api.calls_during("GetParameterHistory", importing).await;
        assert_eq!(failed, json!([]), "{key}");
        assert_eq!(read, scans, "{key}");
    }
    api.stop().await;
}
