//! Tenants that ask for more than their share: they wait, and nobody else does.

use std::time::Duration;

use http::Method;
use local::Options;
use serde_json::{Value, json};

use crate::harness::{Api, Tenant, come_with};

/// Two requests a second, five at once, by a clock that the test moves.
async fn limited() -> Api {
    let parameters = [("TenantRateLimit", "2"), ("TenantBurstLimit", "5")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Api::frozen_with(Options { parameters, ..Options::default() }).await
}

/// Spends what a tenant may ask of either function.
async fn exhaust(tenant: &Tenant<'_>) {
    for n in 0..5 {
        tenant.get("tenant_config_k").await.expect(if n == 0 { 404 } else { 200 });
        tenant.put("tenant_config_k", &json!(n)).await.expect(if n == 0 { 201 } else { 200 });
    }
}

/// Promise: a tenant that asks too much is told when to come back, without a call to any store;
/// others go on as if nothing were. Its share comes back with time, and config-write counts for
/// itself.
#[tokio::test]
async fn a_tenant_that_asks_too_much_waits_alone() {
    let api = limited().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    for _ in 0..5 {
        acme.get("tenant_config_k").await.expect(404);
    }
    for _ in 0..3 {
        let before = api.suite.emulator().calls().total();
        let refused = acme.get("tenant_config_k").await.expect_problem(429, "throttled");
        assert_eq!((refused.header("retry-after"), api.suite.emulator().calls().total()), ("1", before));
        let detail = refused.body["detail"].as_str().expect("a detail");
        assert!(detail.contains("2 a second") && detail.contains("Retry-After"), "{detail}");
    }
    for _ in 0..5 {
        globex.get("tenant_config_k").await.expect(404);
    }
    globex.get("tenant_config_k").await.expect_problem(429, "throttled");
    for n in 0..5 {
        acme.put("tenant_config_k", &json!(n)).await.expect(if n == 0 { 201 } else { 200 });
    }
    acme.put("tenant_config_k", &json!(5)).await.expect_problem(429, "throttled");

    api.pass(Duration::from_millis(499));
    acme.get("tenant_config_k").await.expect_problem(429, "throttled");
    api.pass(Duration::from_millis(1));
    assert_eq!(acme.get("tenant_config_k").await.expect(200).body["value"], 4, "what was refused was not written");
    acme.get("tenant_config_k").await.expect_problem(429, "throttled");
    api.pass(Duration::from_secs(1));
    for status in [200, 200, 429] {
        acme.get("tenant_config_k").await.expect(status);
    }
    api.pass(Duration::from_hours(1));
    for status in [200, 200, 200, 200, 200, 429] {
        acme.get("tenant_config_k").await.expect(status);
    }
    api.stop().await;
}

/// Promise: each route but the one for health counts, whatever it is asked for.
#[tokio::test]
async fn each_route_counts() {
    let api = limited().await;
    let acme = api.tenant("acme");
    exhaust(&acme).await;
    for route in config_read::ROUTES.into_iter().chain(config_write::ROUTES) {
        let (method, path) = route.split_once(' ').expect("a method");
        let path = path.replace("{key+}", "no key at all").replace(' ', "%20");
        let answer = acme.call(method.parse::<Method>().expect("a method"), &path).raw("rubbish").await;
        assert_eq!(answer.status, if path == "/healthz" { 200 } else { 429 }, "{route}: {}", answer.text);
    }
    api.stop().await;
}

/// Promise: who cannot act for a tenant does not use up what it may do: not with a forged token in
/// its name, not with a real one that does not permit the request.
#[tokio::test]
async fn strangers_cost_a_tenant_nothing() {
    let api = limited().await;
    let acme = api.tenant("acme");
    let mut by_token = acme.event("GET", "/v1/config/tenant_config_k", &Value::Null);
    by_token["requestContext"].as_object_mut().expect("an object").remove("authorizer");
    let token = api.suite.token("acme", "config/read").expect("a token");
    let forged = format!("{}.{}", token.rsplit_once('.').expect("a signature").0, "AAAA");
    by_token["headers"]["authorization"] = json!(format!("Bearer {forged}"));
    let mut by_claims = acme.event("GET", "/v1/config/tenant_config_k", &Value::Null);
    come_with(&mut by_claims, &json!({"custom:tenantId": "acme", "scope": "config/write"}));
    for _ in 0..20 {
        for (event, status) in [(&by_token, 401), (&by_claims, 403)] {
            let answer = api.suite.invoke("config-read", event.clone()).await.expect("an answer");
            assert_eq!(answer["statusCode"], status, "{answer}");
        }
        api.call(Method::GET, "/healthz").await.expect(200);
    }
    for status in [404, 404, 404, 404, 404, 429] {
        acme.get("tenant_config_k").await.expect(status);
    }
    api.stop().await;
}
