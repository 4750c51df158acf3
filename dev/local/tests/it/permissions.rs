//! What the template's roles allow: enough, in every test here, because what is not allowed is
//! refused; and no more.

use std::{collections::BTreeSet, future::IntoFuture};

use emulator::{EventFate, Fault};
use futures_util::future::join;
use local::template::{Deployment, Stack, TEMPLATE};
use serde_json::json;
use tenantry::ledger::GRACE;

use crate::{
    harness::Api,
    stream::{Instance, until},
};

/// Actions that IAM cannot limit to resources (Service Authorization Reference).
const OF_NO_RESOURCE: [&str; 4] =
    ["ecr:GetAuthorizationToken", "ssm:DescribeParameters", "xray:PutTelemetryRecords", "xray:PutTraceSegments"];

/// Promise: every action that a role allows is used by its function, and allowed on named resources
/// where there are any. Actions of services that the emulator has not are left to the template's
/// linters.
#[tokio::test]
async fn roles_allow_nothing_that_is_not_used() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for key in ["tenant_config_k", "param_config_k", "secret_config_k"] {
        acme.put(key, &json!(1)).header("idempotency-key", key).await.expect(201);
        acme.put(key, &json!(2)).await.expect(200);
        acme.roll_back(key, 1).await.expect(200);
        acme.get(key).await.expect(200);
        acme.history(key).await.expect(200);
    }
    acme.batch_get(&["tenant_config_k", "tenant_config_l"]).await.expect(200);
    acme.list("").await.expect(200);
    acme.changes("since=0").await.expect(200);
    acme.delete("param_config_k").await.expect(200);
    // What config-refresh has to do: puts, restorations, removals, events.
    let lose = |operation, times| drop(api.suite.emulator().faults().inject(operation, Fault::ReplyLost, times));
    lose("PutParameter", 2);
    acme.put("secret_config_k", &json!(3)).await.expect_problem(503, "unavailable");
    acme.put("secret_config_new", &json!(3)).await.expect_problem(503, "unavailable");
    lose("PutEvents", 10);
    acme.put("back_config_k", &json!(4)).await.expect(201);
    api.suite.emulator().faults().clear();
    let edit = api.parameter_store().put_parameter().name(acme.parameter_name("back_config_", "k")).value("theirs");
    edit.overwrite(true).send().await.expect("Parameter Store takes it");
    api.settled().await;
    // And config-write, while config-refresh hears of nothing, where it finds the key alive that it
    // has deleted, and an older put that may have come late.
    api.suite.emulator().set_event_fate(EventFate::Lost);
    acme.put("secret_config_d", &json!(5)).await.expect(201);
    lose("PutParameter", 1);
    acme.put("secret_config_d", &json!(6)).await.expect_problem(503, "unavailable");
    api.pass(GRACE * 2);
    let held = api.suite.emulator().faults().hold("GetItem", 0);
    let meanwhile = async {
        held.reached().await;
        api.pass(GRACE / 10);
        acme.put("secret_config_d", &json!(7)).await.expect(201);
        held.release();
    };
    join(acme.delete("secret_config_d").into_future(), meanwhile).await.0.expect(200);
    for _ in 0..2 {
        api.pass(GRACE * 3);
        api.suite.run_schedules().await.expect("a sweep");
    }
    // The streaming service: a state, secrets among it, changes by the index and by hints.
    api.suite.emulator().set_event_fate(EventFate::Delivered);
    // Where a time is shown less exactly, it looks at the history.
    api.suite.emulator().faults().inject("GetParameters", Fault::WholeSeconds, 1);
    let instance = Instance::start(&api, &[]).await;
    let (mut watching, _) = instance.tenant(&acme).watch().await;
    acme.put("secret_config_k", &json!(8)).await.expect(200);
    assert_eq!(watching.update().await.changes.len(), 1);
    api.settled().await;
    until(|| instance.stream.memory().metrics().hints.get() > 0).await;
    instance.stream.stop().await;
    let used = api.suite.emulator().permissions_used();
    api.stop().await;

    let deployment = Deployment {
        region: local::suite::REGION.to_owned(),
        account: local::suite::ACCOUNT.to_owned(),
        stack: "tenantry".to_owned(),
        parameters: [("TokenIssuer", "http://issuer"), ("TokenAudience", "a"), ("StreamImage", "local")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    };
    let stack = Stack::read(TEMPLATE, &deployment).expect("a template");
    let roles = || stack.roles.iter().flat_map(|role| role.allowed().map(move |allowed| (role.name.as_str(), allowed)));
    for (name, (action, resource)) in roles() {
        let is_named =
            resource.starts_with("arn:") && resource.split(':').nth(5).is_some_and(|name| !name.starts_with('*'));
        assert!(is_named || OF_NO_RESOURCE.contains(&action.as_str()), "{name}: {action} on {resource}");
    }
    let seen = ["dynamodb:", "ssm:", "events:", "sts:", "sqs:ReceiveMessage", "sqs:DeleteMessage"];
    let allowed: BTreeSet<_> = roles()
        .map(|(name, (action, _))| (name.to_owned(), action))
        .filter(|(_, action)| seen.iter().any(|service| action.starts_with(service)))
        .collect();
    assert!(allowed.len() > 30, "roles are read: {allowed:?}");
    // Functions open their connections before their first call, in their `main`, which does not run
    // here.
    let at_start = ["tenantry-ConfigReadRole", "tenantry-ConfigWriteRole"]
        .map(|role| (role.to_owned(), "dynamodb:GetItem".to_owned()));
    // Lambda's pollers take the events from the queue in the function's role.
    let in_its_role = ["sqs:DeleteMessage", "sqs:ReceiveMessage"]
        .map(|action| ("tenantry-ConfigRefreshRole".to_owned(), action.to_owned()));
    let used = used.into_iter().chain(at_start).chain(in_its_role).collect();
    assert_eq!(allowed, used, "allowed on the left, used on the right");
}
