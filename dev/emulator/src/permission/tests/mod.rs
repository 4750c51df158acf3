//! What calls need, in tables: actions, resources and condition keys.

mod dynamodb;
mod parameter_store;

use serde_json::{Value, json};

use super::{Stored, needed};
use crate::Service;
use crate::account::Account;
use crate::iam::{Context, Need};

/// An action, a resource, and the call's own condition keys.
type Expected = (String, String, Vec<(&'static str, Vec<String>)>);

fn account() -> Account {
    Account { region: "eu-central-1".to_owned(), id: "1".to_owned() }
}

fn expect(action: &str, resource: &str, keys: &[(&'static str, &[&str])]) -> Expected {
    let keys = keys.iter().map(|(key, values)| (*key, values.iter().map(|value| (*value).to_owned()).collect()));
    (action.to_owned(), resource.to_owned(), keys.collect())
}

fn check(service: Service, operation: &str, body: &Value, stored: &Stored, expected: &[Expected]) {
    let found = needed(&account(), service, operation, body.to_string().as_bytes(), stored);
    assert_needs(&found, expected, &format!("{operation} {body}"));
}

fn assert_needs(found: &[Need], expected: &[Expected], what: &str) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(action, resource, keys)| {
            let mut context = Context::default();
            for (key, values) in keys {
                context.set_all(key, values.iter().cloned());
            }
            Need { action: action.clone(), resource: resource.clone(), context }
        })
        .collect();
    assert_eq!(found, expected, "{what}");
}

/// Promise: an event needs its bus, and says source and kind, each entry for itself ("Using IAM
/// policy conditions in Amazon `EventBridge`").
#[test]
fn events_need_their_bus() {
    let bus = |name: &str| format!("arn:aws:events:eu-central-1:1:event-bus/{name}");
    for (operation, body, expected) in [
        (
            "PutEvents",
            json!({ "Entries": [
                { "EventBusName": "b", "Source": "tenantry", "DetailType": "Config Changed" },
                { "Source": "other" },
                { "EventBusName": "arn:aws:events:eu-central-1:2:event-bus/c" }
            ] }),
            vec![
                expect(
                    "events:PutEvents",
                    &bus("b"),
                    &[("events:source", &["tenantry"]), ("events:detail-type", &["Config Changed"])],
                ),
                expect("events:PutEvents", &bus("default"), &[("events:source", &["other"])]),
                expect("events:PutEvents", "arn:aws:events:eu-central-1:2:event-bus/c", &[]),
            ],
        ),
        ("PutEvents", json!({ "Entries": [["tenantry"]] }), vec![expect("events:PutEvents", "*", &[])]),
        ("DescribeEventBus", json!({}), vec![expect("events:DescribeEventBus", &bus("default"), &[])]),
        ("DescribeEventBus", json!({ "Name": "b" }), vec![expect("events:DescribeEventBus", &bus("b"), &[])]),
        ("ListRules", json!({ "EventBusName": "b" }), vec![expect("events:ListRules", "*", &[])]),
        ("DeleteEverything", json!({ "Entries": [] }), vec![expect("events:DeleteEverything", "*", &[])]),
    ] {
        check(Service::EventBridge, operation, &body, &Stored::default(), &expected);
    }
}

/// Promise: assuming a role needs that role, with the session's name and tags to judge by; tags
/// need a permission of their own ("Passing session tags in AWS STS"). Everybody may ask who they
/// are.
#[test]
fn assuming_needs_the_role() {
    let role = "arn:aws:iam::111122223333:role/r";
    let call = |operation: &str, rest: &str| {
        let body = format!("Action={operation}&RoleArn={role}&RoleSessionName=ab{rest}");
        needed(&account(), Service::Sts, operation, body.as_bytes(), &Stored::default())
    };
    assert_needs(
        &call("AssumeRole", ""),
        &[expect("sts:AssumeRole", role, &[("sts:RoleSessionName", &["ab"])])],
        "no tags",
    );
    let keys: &[(&str, &[&str])] = &[
        ("sts:RoleSessionName", &["ab"]),
        ("sts:ExternalId", &["x"]),
        ("aws:TagKeys", &["TenantId", "b"]),
        ("aws:RequestTag/TenantId", &["acme"]),
        ("aws:RequestTag/b", &[""]),
    ];
    let tags =
        "&Tags.member.1.Key=TenantId&Tags.member.1.Value=acme&Tags.member.2.Key=b&Tags.member.2.Value=&ExternalId=x";
    assert_needs(
        &call("AssumeRole", tags),
        // The reference lists neither session name nor external id for TagSession.
        &[expect("sts:AssumeRole", role, keys), expect("sts:TagSession", role, &keys[2..])],
        "tags",
    );
    assert_needs(&call("GetCallerIdentity", ""), &[], "identity");
    assert_needs(&call("GetSessionToken", ""), &[expect("sts:GetSessionToken", "*", &[])], "another");
}
