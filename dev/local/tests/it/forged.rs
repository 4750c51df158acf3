//! Events that nobody of ours has sent: what they can have config-refresh do, and to whom.

use std::collections::BTreeMap;

use aws_sdk_ssm::types::ParameterType;
use emulator::EventFate;
use local::suite::{ACCOUNT, REGION};
use serde_json::{Value, json};

use crate::{
    harness::{Api, Tenant},
    operator::{edit, told_of},
};

/// The event that tells of keys that a tenant has written.
pub(crate) fn changed(tenant: &str, keys: &[&str]) -> Value {
    let mut event: Value = serde_json::from_str(include_str!("../../../../events/config-changed.json")).expect("JSON");
    let keys: Vec<_> = keys.iter().map(|key| json!({"key": key, "version": 1, "operation": "put"})).collect();
    event["account"] = json!(ACCOUNT);
    event["region"] = json!(REGION);
    event["detail"] = json!({"format": 1, "tenant": tenant, "revision": 1, "keys": keys});
    event
}

/// The calls to AWS that an event costs, by operation, but for the one that a tenant's credentials
/// cost the first time. It is worked off or dropped: either way nobody tries it again.
async fn cost(api: &Api, event: &Value) -> BTreeMap<String, u64> {
    api.suite.emulator().calls().reset();
    api.suite.invoke("config-refresh", event.clone()).await.expect("nobody tries it again");
    let mut calls = api.suite.emulator().calls().snapshot();
    assert!(calls.remove("AssumeRole").is_none_or(|count| count == 1), "an event concerns one tenant");
    calls
}

fn calls(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(operation, count)| ((*operation).to_owned(), *count)).collect()
}

/// Two tenants who have written the same keys, of which Parameter Store has heard nothing yet.
async fn behind(api: &Api) -> [Tenant<'_>; 2] {
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let tenants = [api.tenant("acme"), api.tenant("globex")];
    for tenant in &tenants {
        tenant.put("back_config_k", &json!(tenant.name)).await.expect(201);
        tenant.put("back_config_other", &json!(tenant.name)).await.expect(201);
        tenant.put("tenant_config_k", &json!(tenant.name)).await.expect(201);
    }
    tenants
}

async fn is_put(api: &Api, tenant: &Tenant<'_>, name: &str) -> bool {
    api.parameter(&tenant.parameter_name("back_config_", name)).await.is_some()
}

/// Promise: an event of keys that nobody ever wrote costs one read, or none where no store could be
/// behind, and does nothing; be it of a tenant that never was there, or of one that is.
#[tokio::test]
async fn a_change_that_never_was_costs_one_read() {
    let api = Api::start().await;
    let tenants = behind(&api).await;
    let names: Vec<_> = (0..25).map(|n| format!("around_config_{n}")).collect();
    let many: Vec<_> = names.iter().map(String::as_str).collect();
    for (tenant, keys, reads) in [
        ("nobody", &["back_config_k"][..], 1),
        ("nobody", &["param_config_k"], 1),
        ("nobody", &["secret_config_k"], 1),
        ("nobody", &many, 1),
        ("ACME", &["back_config_k"], 1),
        ("acme", &["back_config_k/k"], 1),
        ("acme", &many, 1),
        ("acme", &["tenant_config_k"], 0),
        ("nobody", &["tenant_config_k"], 0),
    ] {
        let cost = cost(&api, &changed(tenant, keys)).await;
        let expected = if reads == 0 { calls(&[]) } else { calls(&[("GetItem", reads)]) };
        assert_eq!(cost, expected, "{tenant} {keys:?}");
    }
    for tenant in &tenants {
        assert!(!is_put(&api, tenant, "k").await && !is_put(&api, tenant, "other").await, "{}", tenant.name);
        assert_eq!(tenant.list("").await.expect(200).revision(), 3, "{}", tenant.name);
    }
    assert_eq!(api.tenant("nobody").list("").await.expect(200).revision(), 0);
    assert!(api.item(&api.tenant("nobody"), "HEAD").await.is_empty());
    api.stop().await;
}

/// Promise: an event replicates each key that it names once, however often it names it, in the
/// tenant that it names. No other key, and no other tenant, is touched. The second time there is
/// nothing left to do, and keys that were never written cost one read each.
#[tokio::test]
async fn a_change_is_handled_in_its_tenant() {
    let api = Api::start().await;
    let [acme, globex] = behind(&api).await;
    let event = changed("acme", &["back_config_k", "back_config_k", "back_config_k"]);
    assert_eq!(cost(&api, &event).await.get("PutParameter"), Some(&1));
    assert!(is_put(&api, &acme, "k").await && !is_put(&api, &acme, "other").await);
    assert!(!is_put(&api, &globex, "k").await && !is_put(&api, &globex, "other").await);
    assert_eq!(cost(&api, &event).await, calls(&[("GetItem", 1)]));
    let names: Vec<_> = (0..24).map(|n| format!("around_config_{n}")).collect();
    let mixed: Vec<_> = ["back_config_k"].into_iter().chain(names.iter().map(String::as_str)).collect();
    assert_eq!(cost(&api, &changed("acme", &mixed)).await, calls(&[("GetItem", 25)]));
    assert_eq!(acme.list("").await.expect(200).revision(), 3);
    api.stop().await;
}

/// Promise: an event that is not of the form of ours is dropped without a call: odd types, sizes,
/// names of no tenant, keys that are none or too many, another account or region, or resources,
/// which ours has none of.
#[tokio::test]
async fn malformed_changes_cost_nothing() {
    let api = Api::start().await;
    let tenants = behind(&api).await;
    let long = "k".repeat(300);
    let keys = |count: usize| vec![json!({"key": "back_config_k"}); count];
    let key = |key: &str| json!([{"key": "back_config_k"}, {"key": key}]);
    let huge = "x".repeat(200_000);
    for (path, value) in [
        ("/account", json!("999999999999")),
        ("/account", json!("")),
        ("/account", json!(ACCOUNT.parse::<u64>().expect("a number"))),
        ("/region", json!("eu-north-1")),
        ("/resources", json!(["arn:aws:ssm:us-east-1:000000000000:parameter/tenantry/globex/back_config_/k"])),
        ("/resources", json!([""])),
        ("/resources", json!("")),
        ("/id", json!(7)),
        ("/id", json!(long)),
        ("/source", json!("aws.ssm")),
        ("/source", json!(["tenantry"])),
        ("/source", json!("Tenantry")),
        ("/detail-type", json!("Parameter Store Change")),
        ("/detail-type", json!("Config Changed ")),
        ("/detail-type", json!(huge)),
        ("/detail", json!(null)),
        ("/detail", json!([])),
        ("/detail", json!("{}")),
        ("/detail/tenant", json!(null)),
        ("/detail/tenant", json!(7)),
        ("/detail/tenant", json!(["acme"])),
        ("/detail/tenant", json!({"acme": true})),
        ("/detail/tenant", json!("")),
        ("/detail/tenant", json!("acme ")),
        ("/detail/tenant", json!("acme/../globex")),
        ("/detail/tenant", json!("acme#ENTRY")),
        ("/detail/tenant", json!("SYSTEM#RECONCILE")),
        ("/detail/tenant", json!(huge)),
        ("/detail/keys", json!(null)),
        ("/detail/keys", json!("back_config_k")),
        ("/detail/keys", json!({"key": "back_config_k"})),
        ("/detail/keys", json!([])),
        ("/detail/keys", json!(["back_config_k"])),
        ("/detail/keys", json!([{"key": 7}])),
        ("/detail/keys", json!([{"key": null}])),
        ("/detail/keys", json!([{"name": "back_config_k"}])),
        ("/detail/keys", json!(keys(26))),
        ("/detail/keys", json!(keys(10_000))),
        ("/detail/keys", key("")),
        ("/detail/keys", key("back_config_")),
        ("/detail/keys", key("nobody_config_k")),
        ("/detail/keys", key("back_config_../../globex/back_config_/k")),
        ("/detail/keys", key("back_config_k#1")),
        ("/detail/keys", key("back_config_k:1")),
        ("/detail/keys", key(" back_config_k")),
        ("/detail/keys", key(&huge)),
    ] {
        let mut forged = changed("acme", &["back_config_k"]);
        *forged.pointer_mut(path).expect(path) = value.clone();
        assert_eq!(cost(&api, &forged).await, calls(&[]), "{path} = {value:.200}");
    }
    for member in ["account", "region", "source", "detail-type", "detail"] {
        let mut forged = changed("acme", &["back_config_k"]);
        forged.as_object_mut().expect("an object").remove(member);
        assert_eq!(cost(&api, &forged).await, calls(&[]), "without {member}");
    }
    for odd in [json!(null), json!([]), json!("x"), json!(7), json!({}), json!({"Records": []})] {
        assert_eq!(cost(&api, &odd).await, calls(&[]), "{odd}");
    }
    for tenant in &tenants {
        assert!(!is_put(&api, tenant, "k").await, "{}", tenant.name);
    }
    // What is left is a good one.
    cost(&api, &changed("acme", &["back_config_k"])).await;
    assert!(is_put(&api, &tenants[0], "k").await);
    api.stop().await;
}

/// Promise: a parameter's event imports the key of the tenant that its path names. Changes in the
/// same key of another tenant are not imported, and an unknown tenant is not made.
#[tokio::test]
async fn a_parameter_is_handled_in_its_tenant() {
    let api = Api::start().await;
    let [acme, globex] = [api.tenant("acme"), api.tenant("globex")];
    for tenant in [&acme, &globex] {
        tenant.put("param_config_k", &json!("ours")).await.expect(201);
    }
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    for tenant in [&acme, &globex] {
        edit(&api, &tenant.parameter_name("param_config_", "k"), "theirs", ParameterType::String).await;
    }
    let cost_of_acme = cost(&api, &told_of(&acme.parameter_name("param_config_", "k"))).await;
    assert_eq!(cost_of_acme.get("TransactWriteItems"), Some(&1), "{cost_of_acme:?}");
    assert_eq!(acme.get("param_config_k").await.expect(200).body["value"], "theirs");
    assert_eq!(globex.get("param_config_k").await.expect(200).body["value"], "ours");

    // One look at the store, between two at the ledger.
    for name in
        ["/tenantry/nobody/param_config_/k", "/tenantry/nobody/secret_config_/k", "/tenantry/ACME/param_config_/k"]
    {
        let cost = cost(&api, &told_of(name)).await;
        assert_eq!(cost, calls(&[("BatchGetItem", 2), ("GetParameterHistory", 1)]), "{name}");
    }
    for nobody in ["nobody", "ACME"] {
        assert!(api.item(&api.tenant(nobody), "HEAD").await.is_empty(), "{nobody}");
    }
    api.stop().await;
}

/// Promise: a name that is no parameter of a key's costs nothing, however it tries to lead
/// elsewhere, and though its resource agrees.
#[tokio::test]
async fn names_of_no_key_cost_nothing() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("param_config_k", &json!("ours")).await.expect(201);
    api.settled().await;
    let long = format!("/tenantry/acme/param_config_/{}", "a/".repeat(600));
    for name in [
        "",
        "/",
        "/tenantry",
        "/tenantry/",
        "/tenantry/acme",
        "/tenantry/acme/",
        "/tenantry/acme/param_config_",
        "/tenantry/acme/param_config_/",
        "/tenantry//param_config_/k",
        "/tenantry/acme//k",
        "/tenantry/acme/param_config_//k",
        "/tenantry/acme/param_config_/k/",
        "/tenantry/acme/../globex/param_config_/k",
        "/tenantry/../tenantry/globex/param_config_/k",
        "/tenantry/acme/param_config_/../../globex/param_config_/k",
        "/tenantry/acme/param_config_/..",
        "/tenantry/acme/param_config_/%2e%2e/k",
        "/tenantry/acme/param_config_/k:1",
        "/tenantry/acme/param_config_/k#1",
        "/tenantry/acme/param_config_/k\0",
        "/tenantry/acme/param_config_/ k",
        "/tenantry/acme /param_config_/k",
        "/tenantry/ac\u{200b}me/param_config_/k",
        "/tenantry/acme/param_config_k",
        "/tenantry/acme/param/config_/k",
        "/tenantry/acme/PARAM_CONFIG_/k",
        "/tenantry/acme/tenant_config_/k",
        "/tenantry/acme/nobody_/k",
        "tenantry/acme/param_config_/k",
        "//tenantry/acme/param_config_/k",
        "/Tenantry/acme/param_config_/k",
        "/x/tenantry/acme/param_config_/k",
        "arn:aws:ssm:us-east-1:000000000000:parameter/tenantry/acme/param_config_/k",
        long.as_str(),
    ] {
        assert_eq!(cost(&api, &told_of(name)).await, calls(&[]), "{name:.80}");
    }
    let genuine = told_of(&acme.parameter_name("param_config_", "k"));
    for (path, value) in [
        ("/resources", json!([genuine["resources"][0], genuine["resources"][0]])),
        ("/resources", json!([genuine["resources"][0], "arn:aws:ssm:us-east-1:000000000000:parameter/x"])),
        ("/resources", json!(genuine["resources"][0])),
        ("/resources/0", json!("arn:aws:ssm:us-east-1:000000000000:parameter/tenantry/acme/param_config_/K")),
        ("/resources/0", json!("arn:aws-cn:ssm:us-east-1:000000000000:parameter/tenantry/acme/param_config_/k")),
        ("/detail/name", json!(["/tenantry/acme/param_config_/k"])),
        ("/detail/name", json!(null)),
        ("/detail-type", json!("Parameter Store Policy Action")),
        ("/source", json!("custom.ssm")),
        ("/id", json!("i".repeat(300))),
    ] {
        let mut forged = genuine.clone();
        *forged.pointer_mut(path).expect(path) = value.clone();
        assert_eq!(cost(&api, &forged).await, calls(&[]), "{path} = {value}");
    }
    assert!(!cost(&api, &genuine).await.is_empty(), "there is something to look at");
    api.stop().await;
}
