//! Stores that are down or half down: nobody waits long, no store is asked more than it must be,
//! and all is well again soon after.

use emulator::{EventFate, Fault, Schedule};
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{Api, CIRCUIT};

/// Promise: while a store does not answer, calls to it stop: requests are refused at once, with 503
/// and when to come back, and one call at a time finds out whether it is there again. The other
/// stores go on.
#[tokio::test]
async fn a_store_that_is_down_is_left_alone() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    for key in ["secret_config_k", "param_config_k"] {
        acme.put(key, &json!("v")).await.expect(201);
    }
    api.settled().await;
    api.suite.emulator().faults().inject("GetParameters", Fault::InternalError, 1000);
    let ask = || acme.get("secret_config_k");
    for _ in 0..5 {
        ask().await.expect_problem(503, "unavailable");
    }
    let (calls, refused) = api.calls_during("GetParameters", ask()).await;
    let refused = refused.expect_problem(503, "unavailable");
    assert_eq!((calls, refused.header("retry-after")), (0, "1"));
    acme.get("param_config_k").await.expect(200);

    // A probe that fails: one call, not the three that a call may take.
    api.pass(CIRCUIT);
    let (calls, refused) = api.calls_during("GetParameters", ask()).await;
    refused.expect_problem(503, "unavailable");
    assert_eq!(calls, 1);
    assert_eq!(api.calls_during("GetParameters", ask()).await.0, 0);

    api.suite.emulator().faults().clear();
    assert_eq!(api.calls_during("GetParameters", ask()).await.0, 0, "nobody knows yet");
    api.pass(CIRCUIT);
    assert_eq!(ask().await.expect(200).body["value"], "v");
    api.stop().await;
}

/// Promise: a throttle says that the store is there, and concerns one tenant perhaps: others go on.
#[tokio::test]
async fn one_throttled_tenant_stands_in_nobodys_way() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    globex.put("tenant_config_k", &json!("v")).await.expect(201);
    api.suite.emulator().faults().inject("GetItem", Fault::Throttle, 60);
    for _ in 0..20 {
        let answer = acme.get("tenant_config_k").await;
        assert!(matches!(answer.status, 404 | 429), "{}", answer.text);
    }
    api.suite.emulator().faults().clear();
    globex.get("tenant_config_k").await.expect(200);
    api.stop().await;
}

/// Promise: neither a tenant's hot partition nor Parameter Store's limits, which are the whole
/// account's, take away what still gets through: however many calls in a row were throttled, the
/// next one is made.
#[tokio::test]
async fn throttles_open_no_circuit() {
    let api = Api::frozen().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    for tenant in [&acme, &globex] {
        tenant.put("tenant_config_k", &json!("v")).await.expect(201);
        tenant.put("secret_config_k", &json!("v")).await.expect(201);
    }
    api.settled().await;
    let secret = || acme.get("secret_config_k");
    let write = || acme.put("tenant_config_k", &json!("w"));
    let history = || acme.history("tenant_config_k");
    for operation in ["GetItem", "Query", "TransactWriteItems", "GetParameters"] {
        let faults = api.suite.emulator().faults();
        faults.inject(operation, Fault::Throttle, 1000);
        for _ in 0..4 {
            let throttled = match operation {
                "TransactWriteItems" => write().await,
                "Query" => history().await,
                _ => secret().await,
            };
            assert!(matches!(throttled.status, 409 | 429), "{operation}: {}", throttled.text);
        }
        faults.clear();
        globex.get("secret_config_k").await.expect(200);
        globex.put("tenant_config_k", &json!("w")).await.expect(200);
        globex.history("tenant_config_k").await.expect(200);
    }
    api.stop().await;
}

/// Promise: when the ledger is down, whoever allows it gets the last known values, at once and
/// marked, one by one or as a batch; nobody is told that there is nothing.
#[tokio::test]
async fn last_known_values_come_at_once() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let keys = ["tenant_config_k", "param_config_k", "secret_config_k"];
    for key in keys {
        acme.put(key, &json!(key)).await.expect(201);
    }
    acme.batch_get(&keys).await.expect(200);
    for operation in ["GetItem", "BatchGetItem", "Query"] {
        api.suite.emulator().faults().inject(operation, Fault::InternalError, 1000);
    }
    let allowed = "stale-if-error=600";
    for _ in 0..8 {
        let batch = acme.batch_get(&keys).header("cache-control", allowed).await.expect(200);
        assert_eq!((batch.header("tenantry-stale"), batch.each("found", "value").len()), ("true", 3));
        for key in keys {
            let one = acme.get(key).header("cache-control", allowed).await.expect(200);
            assert_eq!((one.header("tenantry-stale"), &one.body["value"]), ("true", &json!(key)));
            acme.get(key).await.expect_problem(503, "unavailable");
        }
        // All or nothing: what is not known cannot be told from what is not there.
        acme.batch_get(&[keys[0], "tenant_config_never_read"])
            .header("cache-control", allowed)
            .await
            .expect_problem(503, "unavailable");
        acme.list("").await.expect_problem(503, "unavailable");
        acme.history(keys[0]).await.expect_problem(503, "unavailable");
        acme.changes("since=0").await.expect_problem(503, "unavailable");
    }
    assert_eq!(api.calls_during("GetItem", acme.get(keys[0]).header("cache-control", allowed)).await.0, 0);
    api.suite.emulator().faults().clear();
    api.pass(CIRCUIT);
    assert_eq!(acme.get(keys[0]).header("cache-control", allowed).await.expect(200).header("tenantry-stale"), "");
    api.stop().await;
}

/// How many calls to AWS 40 warm reads and 10 writes take while calls fail with this probability;
/// none is given up by its sender.
async fn calls_in_a_brown_out(fault: Fault, probability: f64) -> (u64, u64) {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!("v")).await.expect(201);
    acme.get("tenant_config_k").await.expect(200);
    api.settled().await;
    // config-refresh makes calls of its own.
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let faults = vec![(fault, probability)];
    api.suite.emulator().faults().schedule(Schedule { seed: 1, faults, operations: None, max: usize::MAX });
    let calls = api.suite.emulator().calls();
    calls.reset();
    for _ in 0..40 {
        acme.get("tenant_config_k").await;
    }
    let reading = calls.total();
    for n in 0..10 {
        api.tenant(&format!("tenant-{n}")).put("param_config_k", &json!(n)).await;
    }
    let writing = calls.total() - reading;
    api.suite.emulator().faults().clear();
    api.stop().await;
    (reading, writing)
}

/// Promise: a service that fails a part of its calls, or all, is not called more than twice as
/// often for that.
#[tokio::test]
async fn retries_have_a_budget() {
    let undisturbed = calls_in_a_brown_out(Fault::Throttle, 0.0).await;
    let faults = [Fault::Throttle, Fault::InternalError, Fault::ReplyLost];
    let brown_outs = faults.into_iter().flat_map(|fault| [0.3, 0.7, 1.0].map(|probability| (fault, probability)));
    let counted = join_all(brown_outs.map(async |(fault, probability)| {
        let (reading, writing) = calls_in_a_brown_out(fault, probability).await;
        eprintln!("{fault:?} {probability}: {reading} and {writing} calls instead of {undisturbed:?}");
        (fault, probability, reading, writing)
    }));
    for (fault, probability, reading, writing) in counted.await {
        assert!(
            reading <= 2 * undisturbed.0 && writing <= 2 * undisturbed.1,
            "{fault:?} {probability}: {reading}, {writing}"
        );
    }
}
