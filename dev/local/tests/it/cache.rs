//! What reads cost, and what a reader gets while a store is down.

use std::time::Duration;

use emulator::{EventFate, Fault};
use serde_json::json;

use crate::harness::{Api, CIRCUIT, Tenant};

/// Promise: a warm read of an unchanged tenant costs one small read of the head, whatever the
/// store, and a change costs the changed key only.
#[tokio::test]
async fn a_warm_read_costs_one_read_of_the_head() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let keys = ["tenant_config_k", "param_config_k", "around_config_k", "secret_config_k"];
    for key in keys {
        acme.put(key, &json!(key)).await.expect(201);
        acme.get(key).await.expect(200);
    }
    acme.get("tenant_config_absent").await.expect(404);
    api.settled().await;
    let calls = api.suite.emulator().calls();
    // The last write moved the tenant on; from here on nothing does.
    for key in keys {
        acme.get(key).await.expect(200);
    }
    for key in keys {
        calls.reset();
        assert_eq!(acme.get(key).await.expect(200).body["value"], key);
        assert_eq!(calls.snapshot(), [("GetItem".to_owned(), 1)].into(), "{key}");
    }
    calls.reset();
    acme.get("tenant_config_absent").await.expect(404);
    assert_eq!(calls.snapshot(), [("GetItem".to_owned(), 1)].into(), "that there is nothing is known, too");
    calls.reset();
    acme.batch_get(&keys).await.expect(200);
    assert_eq!(calls.snapshot(), [("GetItem".to_owned(), 1)].into());

    acme.put("tenant_config_k", &json!("new")).await.expect(200);
    api.settled().await;
    calls.reset();
    assert_eq!(acme.get("secret_config_k").await.expect(200).body["value"], "secret_config_k");
    assert_eq!(calls.snapshot(), [("GetItem".to_owned(), 1), ("Query".to_owned(), 1)].into(), "head and changes");
    calls.reset();
    assert_eq!(acme.get("tenant_config_k").await.expect(200).body["value"], "new");
    assert_eq!(calls.snapshot(), [("GetItem".to_owned(), 2)].into(), "head and entry");

    calls.reset();
    let accepted = acme.get("param_config_k").header("cache-control", "max-age=5").await.expect(200);
    assert_eq!((calls.total(), accepted.header("age")), (0, "0"), "who accepts an answer of just now costs nothing");
    api.stop().await;
}

/// Promise: a write and a read cost the AWS calls that docs/operations/cost.md states, and no more.
#[tokio::test]
async fn each_strategy_costs_what_is_stated() {
    let api = Api::start().await;
    let write_through = "BatchGetItem 2, GetItem 3, GetParameterHistory 1, PutEvents 1, PutParameter 1, TransactWriteItems 1, UpdateItem 3";
    let write_back = "BatchGetItem 2, GetItem 2, GetParameterHistory 1, PutEvents 1, PutParameter 1, TransactWriteItems 1, UpdateItem 5";
    let write_around = "BatchGetItem 3, GetItem 2, GetParameterHistory 3, PutEvents 1, PutParameter 1, TransactWriteItems 1, UpdateItem 4";
    for (tag, write, cold_read) in [
        ("tenant_config_", "BatchGetItem 1, PutEvents 1, TransactWriteItems 1, UpdateItem 1", "GetItem 2"),
        ("param_config_", write_through, "GetItem 2"),
        ("back_config_", write_back, "GetItem 2"),
        ("around_config_", write_around, "GetItem 2, GetParameters 1"),
        ("secret_config_", write_around, "GetItem 2, GetParameters 1"),
    ] {
        // A tenant that nobody has read yet.
        let (tenant, key) = (api.tenant(tag), format!("{tag}k"));
        let counted = || {
            let counts = api.suite.emulator().calls().snapshot();
            counts.iter().map(|(operation, count)| format!("{operation} {count}")).collect::<Vec<_>>().join(", ")
        };
        tenant.put(&key, &json!("old")).await.expect(201);
        api.settled().await;
        api.suite.emulator().calls().reset();
        // Events come when the answer is there, and one by one: what comes earlier may find a put
        // not yet committed.
        api.suite.emulator().set_event_fate(EventFate::Delayed);
        tenant.put(&key, &json!("new")).await.expect(200);
        api.suite.emulator().set_event_fate(EventFate::Delivered);
        api.settled().await;
        assert_eq!(counted(), write, "a write of {tag}, with what config-refresh does for it");
        api.suite.emulator().calls().reset();
        tenant.get(&key).await.expect(200);
        assert_eq!(counted(), format!("AssumeRole 1, {cold_read}"), "a cold read of {tag}, the tenant's first here");
        api.suite.emulator().calls().reset();
        tenant.get(&key).await.expect(200);
        assert_eq!(counted(), "GetItem 1", "a warm read of {tag}");
    }
    api.stop().await;
}

/// Promise: under every tag, a change costs a warm environment one read of what changed and one
/// load of that key: nothing for its neighbours, nothing for any other tenant, and nothing the
/// second time.
#[tokio::test]
async fn a_change_costs_its_own_key_once() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    let tags = ["tenant_config_", "param_config_", "back_config_", "around_config_", "secret_config_"];
    let keys = tags.map(|tag| [format!("{tag}changed"), format!("{tag}neighbour")]).concat();
    for tenant in [&acme, &globex] {
        for key in &keys {
            tenant.put(key, &json!("old")).await.expect(201);
        }
        api.settled().await;
        for key in &keys {
            tenant.get(key).await.expect(200);
        }
    }
    let check = async |tenant: &Tenant<'_>, key: &str, value: &str, calls: &str| {
        api.suite.emulator().calls().reset();
        assert_eq!(tenant.get(key).await.expect(200).body["value"], value, "{key} of {}", tenant.name);
        let counts = api.suite.emulator().calls().snapshot();
        let counts: Vec<_> = counts.iter().map(|(operation, count)| format!("{operation} {count}")).collect();
        assert_eq!(counts.join(", "), calls, "{key} of {}", tenant.name);
    };
    for (tag, others) in tags.into_iter().zip(1..) {
        let changed = format!("{tag}changed");
        check(&globex, &changed, "old", "GetItem 1").await;
        acme.put(&changed, &json!("new")).await.expect(200);
        api.settled().await;
        let is_around = matches!(tag, "around_config_" | "secret_config_");
        check(
            &acme,
            &changed,
            "new",
            if is_around { "GetItem 2, GetParameters 1, Query 1" } else { "GetItem 2, Query 1" },
        )
        .await;
        check(&acme, &changed, "new", "GetItem 1").await;
        for key in keys.iter().filter(|key| **key != changed) {
            let value = if keys.iter().step_by(2).take(others).any(|one| one == key) { "new" } else { "old" };
            check(&acme, key, value, "GetItem 1").await;
            check(&globex, key, "old", "GetItem 1").await;
        }
        check(&globex, &changed, "old", "GetItem 1").await;
    }
    api.stop().await;
}

/// Promise: `max-age` is a bound: what was validated longer ago is validated again, and without it
/// every read sees the newest.
#[tokio::test]
async fn max_age_is_a_bound() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    acme.get("tenant_config_k").await.expect(200);
    acme.put("tenant_config_k", &json!(2)).await.expect(200);
    let old = acme.get("tenant_config_k").header("cache-control", "max-age=60").await.expect(200);
    assert_eq!((&old.body["value"], old.revision()), (&json!(1), 1));
    let other_directive = acme.get("tenant_config_k").header("cache-control", "max-age=60, no-cache").await.expect(200);
    assert_eq!(other_directive.body["value"], 2);
    acme.put("tenant_config_k", &json!(3)).await.expect(200);
    api.pass(Duration::from_secs(61));
    assert_eq!(acme.get("tenant_config_k").header("cache-control", "max-age=60").await.expect(200).body["value"], 3);
    acme.put("tenant_config_k", &json!(4)).await.expect(200);
    assert_eq!(acme.get("tenant_config_k").await.expect(200).body["value"], 4);
    api.stop().await;
}

/// Promise: while a store is down, who accepts it gets the last known value, marked and with its
/// age; who does not, a 503 that says when to come back; and the newest value again soon after the
/// store is back.
#[tokio::test]
async fn an_outage_is_survived_by_those_who_allow_it() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for key in ["tenant_config_k", "secret_config_k"] {
        acme.put(key, &json!("known")).await.expect(201);
    }
    for key in ["tenant_config_k", "secret_config_k"] {
        acme.get(key).await.expect(200);
    }
    let down = || api.suite.emulator().faults().inject("GetItem", Fault::InternalError, 1000);
    down();
    api.pass(Duration::from_secs(30));
    for key in ["tenant_config_k", "secret_config_k"] {
        let stale = acme.get(key).header("cache-control", "stale-if-error=600").await.expect(200);
        assert_eq!((&stale.body["value"], stale.header("tenantry-stale")), (&json!("known"), "true"));
        let age: u64 = stale.header("age").parse().expect("seconds");
        assert!((30..60).contains(&age), "{age}");
        let refused = acme.get(key).await.expect_problem(503, "unavailable");
        assert!(!refused.header("retry-after").is_empty());
        acme.get(key).header("cache-control", "stale-if-error=10").await.expect_problem(503, "unavailable");
    }
    let elsewhere = acme.get("tenant_config_never_read").header("cache-control", "stale-if-error=600").await;
    elsewhere.expect_problem(503, "unavailable");
    let other = api.tenant("globex").get("tenant_config_k").header("cache-control", "stale-if-error=600").await;
    other.expect_problem(503, "unavailable");
    api.suite.emulator().faults().clear();
    api.pass(CIRCUIT);
    let fresh = acme.get("tenant_config_k").header("cache-control", "stale-if-error=600").await.expect(200);
    assert_eq!((fresh.header("tenantry-stale"), fresh.header("age")), ("", ""));
    api.stop().await;
}

/// Promise: a secret whose store is down is 503, the ledger's own values are not affected.
#[tokio::test]
async fn one_store_down_is_not_all_down() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for key in ["tenant_config_k", "param_config_k", "secret_config_k"] {
        acme.put(key, &json!("v")).await.expect(201);
    }
    api.suite.emulator().faults().inject("GetParameters", Fault::InternalError, 1000);
    for key in ["tenant_config_k", "param_config_k"] {
        acme.get(key).await.expect(200);
    }
    acme.get("secret_config_k").await.expect_problem(503, "unavailable");
    api.suite.emulator().faults().clear();
    api.suite.emulator().faults().inject("GetParameters", Fault::Throttle, 1000);
    acme.get("secret_config_k").await.expect_problem(429, "throttled");
    api.stop().await;
}

/// Promise: a cache of no bytes changes costs, never answers.
#[tokio::test]
async fn without_memory_every_answer_is_the_same() {
    let parameters = [("CacheMaxBytes".to_owned(), "0".to_owned())].into();
    let api = Api::with(local::Options { parameters, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    for n in 0..3 {
        acme.put("tenant_config_k", &json!(n)).await;
        assert_eq!(acme.get("tenant_config_k").await.expect(200).body["value"], n);
    }
    api.stop().await;
}
