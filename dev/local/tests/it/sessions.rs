//! The tenants' AWS credentials: how often they are asked for, and what happens where there are
//! none.

use std::time::Duration;

use emulator::{Fault, Role, Service};
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{Api, CIRCUIT};

/// So old a session is renewed, and serves on if it cannot be.
const NEARLY_OVER: Duration = Duration::from_mins(55);
/// After this much more it serves no longer.
const THE_REST: Duration = Duration::from_mins(5);

/// Promise: a function environment asks for a tenant's credentials once, whatever is asked of it
/// and by how many at the same time, and for each tenant's by themselves.
#[tokio::test]
async fn credentials_are_asked_for_once() {
    let api = Api::frozen().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    let (calls, _) = api.calls_during("AssumeRole", acme.put("tenant_config_k", &json!(1))).await;
    assert_eq!(calls, 1, "config-write has none yet");
    api.settled().await;
    let reads = || join_all((0..20).map(|_| acme.get("tenant_config_k").into_future()));
    let (calls, answers) = api.calls_during("AssumeRole", reads()).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(calls, 1, "twenty cold reads at once");
    let (calls, _) = api.calls_during("AssumeRole", reads()).await;
    assert_eq!(calls, 0, "twenty warm ones");
    let (calls, _) = api.calls_during("AssumeRole", acme.get("secret_config_none")).await;
    assert_eq!(calls, 0, "another service");
    let (calls, _) = api.calls_during("AssumeRole", globex.get("tenant_config_k")).await;
    assert_eq!(calls, 1, "another tenant");
    api.stop().await;
}

/// Promise: credentials are renewed before they end, by one of those who use them. While that fails
/// the old ones go on serving until shortly before their end, and STS is asked now and then only;
/// from then on nothing is done at all, least of all with other rights.
#[tokio::test]
async fn credentials_are_renewed_ahead_of_their_end() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let read = || acme.get("tenant_config_k");
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    read().await.expect(200);

    api.pass(NEARLY_OVER);
    let many = || join_all((0..20).map(|_| read().into_future()));
    let (calls, answers) = api.calls_during("AssumeRole", many()).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(calls, 1, "one of twenty renews");
    assert_eq!(api.calls_during("AssumeRole", read()).await.0, 0);

    api.pass(NEARLY_OVER);
    api.suite.emulator().faults().inject("AssumeRole", Fault::InternalError, 1000);
    let (calls, answer) = api.calls_during("AssumeRole", read()).await;
    answer.expect(200);
    assert!(calls > 0, "a renewal was tried");
    let (calls, answer) = api.calls_during("AssumeRole", read()).await;
    answer.expect(200);
    assert_eq!(calls, 0, "the next try waits");

    api.pass(THE_REST);
    api.suite.emulator().calls().reset();
    let refused = read().await.expect_problem(503, "unavailable");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(api.suite.emulator().calls().service_total(Service::DynamoDb), 0, "nothing was read with other rights");

    api.suite.emulator().faults().clear();
    api.pass(CIRCUIT);
    assert_eq!(read().await.expect(200).body["value"], 1);
    api.stop().await;
}

/// Promise: a tenant whose credentials cannot be had gets 503 and when to come back, whatever it
/// asks for and for whatever reason STS gives, and its request reaches no store; a tenant whose
/// credentials are there goes on.
#[tokio::test]
async fn without_credentials_nothing_is_done() {
    let api = Api::frozen().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    for key in ["tenant_config_k", "param_config_k", "secret_config_k"] {
        acme.put(key, &json!(1)).await.expect(201);
        acme.get(key).await.expect(200);
    }
    api.settled().await;
    for fault in [Fault::InternalError, Fault::Throttle, Fault::Reset] {
        api.suite.emulator().faults().inject("AssumeRole", fault, 1000);
        api.suite.emulator().calls().reset();
        for call in [
            globex.get("tenant_config_k"),
            globex.get("secret_config_k"),
            globex.list(""),
            globex.changes("since=0"),
            globex.history("param_config_k"),
            globex.batch_get(&["tenant_config_k"]),
            globex.put("tenant_config_k", &json!(2)),
            globex.put("secret_config_k", &json!(2)),
            globex.delete("param_config_k"),
        ] {
            let refused = call.await.expect_problem(503, "unavailable");
            assert!(!refused.header("retry-after").is_empty(), "{fault:?}");
        }
        let calls = api.suite.emulator().calls();
        let stores = [Service::DynamoDb, Service::ParameterStore].map(|service| calls.service_total(service));
        assert_eq!(stores, [0, 0], "{fault:?}");
        acme.get("param_config_k").await.expect(200);
        acme.put("tenant_config_k", &json!(2)).await.expect(200);
        api.suite.emulator().faults().clear();
        api.pass(CIRCUIT);
    }
    globex.get("tenant_config_k").await.expect_problem(404, "not-found");

    // A role that may not be taken on any more: allowed to nobody who is here, or denied to
    // everybody.
    for (effect, principal) in [("Allow", "arn:aws:iam::000000000000:role/nobody"), ("Deny", "*")] {
        let statement = json!({"Effect": effect, "Principal": {"AWS": principal}, "Action": "sts:AssumeRole"});
        let trust = json!({"Version": "2012-10-17", "Statement": statement});
        let (name, policies) = ("tenantry-ConfigReadTenantRole".to_owned(), Vec::new());
        api.suite.emulator().add_role(Role { name, trust, policies }).expect("a role");
        api.suite.emulator().calls().reset();
        let refused = api.tenant("initech").get("tenant_config_k").await.expect_problem(503, "unavailable");
        assert_eq!(refused.header("retry-after"), "60", "operators have to see to it");
        assert_eq!(api.suite.emulator().calls().service_total(Service::DynamoDb), 0);
        api.pass(CIRCUIT);
    }
    api.stop().await;
}

/// Promise: those who wait for credentials that cannot be had hear so together, and do not ask one
/// after the other.
#[tokio::test]
async fn a_crowd_hears_of_one_failure() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    api.suite.emulator().faults().inject("AssumeRole", Fault::InternalError, 1000);
    let crowd = join_all((0..20).map(|_| acme.get("tenant_config_k").into_future()));
    let (calls, answers) = api.calls_during("AssumeRole", crowd).await;
    assert!(answers.iter().all(|answer| answer.status == 503), "{answers:?}");
    assert_eq!(calls, 3, "one call, tried three times");
    api.suite.emulator().faults().clear();
    api.pass(Duration::from_secs(1));
    acme.get("tenant_config_k").await.expect_problem(404, "not-found");
    api.stop().await;
}

/// Promise: who asks for it runs without tenants' credentials, and by nothing else: then no role is
/// taken on.
#[tokio::test]
async fn tenants_credentials_are_an_option() {
    let parameters = [("TenantCredentials".to_owned(), "false".to_owned())].into();
    let api = Api::with(local::Options { parameters, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    for key in ["tenant_config_k", "param_config_k", "back_config_k", "secret_config_k"] {
        acme.put(key, &json!(1)).await.expect(201);
        acme.get(key).await.expect(200);
    }
    api.sweep(1).await;
    assert!(api.parameter(&acme.parameter_name("back_config_", "k")).await.is_some(), "config-refresh has its rights");
    assert_eq!(api.suite.emulator().calls().count("AssumeRole"), 0);
    api.stop().await;
}
