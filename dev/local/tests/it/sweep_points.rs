//! The crash points of config-refresh: a sweep that has all kinds of work to do dies at each of its
//! calls in turn, and the call takes effect at once, late, or never. The next sweeps do the rest,
//! and nothing twice.

use emulator::{ANY, EventFate, Fault};
use fastrand::Rng;
use serde_json::{Value, json};
use tenantry::ledger::GRACE;

use crate::{
    crash::recover,
    crash_points::{Call, let_go},
    harness::{Api, Tenant, seeds},
    operator::{edit, kind_of},
};

/// With each seed every twelfth crash point is tried, so with twelve of them all.
const STRIDE: usize = 12;
/// More calls than a sweep makes.
const MANY: usize = 150;

const SCHEDULE: &str = include_str!("../../../../events/schedule.json");

/// Fills a tenant's outbox with one key for each kind of work: a value to put, one to remove, a
/// change to publish, and an edit to import.
async fn fill_outbox(api: &Api, tenant: &Tenant<'_>, tag: &str) {
    let faults = api.suite.emulator().faults();
    let key = |name: &str| format!("{tag}{name}");
    for name in ["put", "remove", "edit"] {
        tenant.put(&key(name), &json!("before")).await.expect(201);
    }
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    match tag {
        "around_config_" | "secret_config_" => {
            // A put whose commit never comes.
            let dead = faults.inject("TransactWriteItems", Fault::NoReply, 1);
            let put = tenant.event("PUT", &format!("/v1/config/{}", key("put")), &json!({"value": "never committed"}));
            tokio::select! {
                answer = api.suite.invoke("config-write", put) => panic!("{answer:?}"),
                () = dead.reached() => {}
            }
        }
        _ => {
            faults.inject("PutParameter", Fault::InternalError, 1);
            let put = tenant.put(&key("put"), &json!("after")).await.expect(200);
            assert_eq!(put.body["pending"], true);
            faults.clear();
        }
    }
    faults.inject("DeleteParameter", Fault::InternalError, 1);
    tenant.delete(&key("remove")).await.expect(200);
    faults.clear();
    faults.inject("PutEvents", Fault::InternalError, 3);
    tenant.put("tenant_config_publish", &json!("v")).await.expect(201);
    faults.clear();
    edit(api, &tenant.parameter_name(tag, "edit"), "theirs", kind_of(tag)).await;
    api.settled().await;
    // Now all of it is due.
    api.pass(GRACE * 3);
}

/// Everything is done, once.
async fn is_done(api: &Api, tenant: &Tenant<'_>, tag: &str, case: &str) {
    let around = matches!(tag, "around_config_" | "secret_config_");
    let put = if around { json!("before") } else { json!("after") };
    for (name, value, versions) in
        [("put", put, if around { 1 } else { 2 }), ("remove", Value::Null, 2), ("edit", json!("theirs"), 2)]
    {
        let key = format!("{tag}{name}");
        assert_eq!(tenant.get(&key).await.body["value"], value, "{case}: {key}");
        let history = tenant.history(&key).await.expect(200);
        assert_eq!(history.each("versions", "version").len(), versions, "{case}: {key}: {}", history.text);
        let parameter = api.parameter(&tenant.parameter_name(tag, name)).await.map(|(text, _)| text);
        assert_eq!(parameter.as_deref(), value.as_str(), "{case}: {key}");
        let next = tenant.put(&key, &json!("next")).await;
        assert!(matches!(next.status, 200 | 201), "{case}: {key}: {}", next.text);
        api.settled().await;
        let parameter = api.parameter(&tenant.parameter_name(tag, name)).await.map(|(text, _)| text);
        assert_eq!(parameter.as_deref(), Some("next"), "{case}: {key}");
    }
    let revisions = tenant.changes("since=0").await.expect(200).each("changes", "revision");
    assert_eq!(revisions, (1..=revisions.len()).collect::<Vec<_>>(), "{case}");
}

/// Promise: wherever a sweep dies, and whatever becomes of its last call, the next sweeps do the
/// rest: each value is put or removed, each change published, each edit imported, once.
#[tokio::test]
async fn a_sweep_may_die_anywhere() {
    let schedule: Value = serde_json::from_str(SCHEDULE).expect("JSON");
    let mut cases = 0;
    for tag in ["param_config_", "back_config_", "around_config_", "secret_config_"] {
        for seed in seeds() {
            let mut random = Rng::with_seed(seed);
            let api = Api::start().await;
            for point in (0..MANY).skip(usize::try_from(seed).expect("small") % STRIDE).step_by(STRIDE) {
                let tenant = api.tenant(&format!("case-{point}"));
                fill_outbox(&api, &tenant, tag).await;
                let held = api.suite.emulator().faults().hold(ANY, point);
                let has_died = tokio::select! {
                    done = api.suite.invoke("config-refresh", schedule.clone()) => { done.expect("a sweep"); false }
                    () = held.reached() => true,
                };
                if !has_died {
                    api.suite.emulator().faults().clear();
                }
                let (call, late) = let_go(held, &[Call::AtOnce, Call::Late, Call::Never], &mut random);
                api.suite.emulator().set_event_fate(EventFate::Delivered);
                if late.is_some() {
                    api.pass(GRACE * 3);
                    api.suite.run_schedules().await.expect("a sweep");
                }
                drop(late);
                recover(&api).await;
                let case = format!("{tag}: a sweep dies at call {point}, which takes effect {call:?}, seed {seed}");
                is_done(&api, &tenant, tag, &case).await;
                if !has_died {
                    break;
                }
                cases += 1;
            }
            api.stop().await;
        }
    }
    eprintln!("{cases} deaths of config-refresh in a sweep");
    assert!(cases >= 12 * seeds().count(), "no crash point is left out by mistake: {cases}");
}
