//! Tenants whose names are as alike as names can be: none meets another anywhere.

use http::Method;
use serde_json::{Value, json};

use crate::{
    attack::TENANTS,
    harness::{Api, Tenant},
};

const KEYS: [&str; 4] = ["tenant_config_k", "param_config_k/x", "around_config_k", "secret_config_k"];

/// What a tenant's key holds: text that nobody else has.
fn canary(tenant: &str, key: &str) -> String {
    format!("canary of <{tenant}> in {key}")
}

/// That an answer holds no canary but the tenant's own.
#[track_caller]
fn holds_no_others(tenant: &str, text: &str) {
    for (start, _) in text.match_indices("canary of <") {
        let owner = text[start..].split(['<', '>']).nth(1);
        assert_eq!(owner, Some(tenant), "{text}");
    }
}

/// Promise: each of many tenants with confusable names reads, lists, follows and pages through its
/// own data only, and the cursors, entity tags and idempotency keys of one mean nothing to another.
#[tokio::test]
async fn confusable_tenants_never_meet() {
    let api = Api::start().await;
    let tenants: Vec<_> = TENANTS.iter().map(|name| api.tenant(name)).collect();
    for tenant in &tenants {
        for key in KEYS {
            let put = tenant.put(key, &json!(canary(&tenant.name, key))).header("idempotency-key", key);
            let written = put.await.expect(201);
            assert_eq!((written.number("version"), written.header("idempotency-replayed")), (1, ""), "{}", tenant.name);
        }
    }
    for tenant in &tenants {
        owns_its_data(tenant).await;
        for key in KEYS {
            let (tag, name) = key.split_at(key.find("config_").expect("a tag") + "config_".len());
            if tag != "tenant_config_" {
                let parameter = api.parameter(&tenant.parameter_name(tag, name)).await;
                assert_eq!(parameter, Some((canary(&tenant.name, key), 1)), "{}", tenant.name);
            }
        }
    }
    for (tenant, other) in tenants.iter().zip(tenants.iter().cycle().skip(1)) {
        gains_nothing(tenant, other).await;
    }
    // One tenant's delete is nobody else's.
    for key in KEYS {
        tenants[0].delete(key).await.expect(200);
    }
    api.settled().await;
    for tenant in &tenants[1..] {
        owns_its_data(tenant).await;
    }
    assert_eq!(tenants[0].list("").await.expect(200).body["entries"], json!([]));
    api.stop().await;
}

/// That all a tenant can see is its own.
async fn owns_its_data(tenant: &Tenant<'_>) {
    let mine = |key: &str| json!(canary(&tenant.name, key));
    for key in KEYS {
        let answer = tenant.get(key).await.expect(200);
        assert_eq!((&answer.body["value"], answer.number("version")), (&mine(key), 1));
        assert_eq!(tenant.history(key).await.expect(200).each("versions", "value"), [mine(key)]);
    }
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = tenant.list(&format!("limit=3{cursor}")).await.expect(200);
        listed.extend(page.each("entries", "value"));
        let Some(next) = page.body["cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let mut expected: Vec<_> = KEYS.to_vec();
    expected.sort_unstable();
    assert_eq!(listed, expected.into_iter().map(mine).collect::<Vec<_>>());
    assert_eq!(tenant.batch_get(&KEYS).await.expect(200).each("found", "value"), KEYS.map(mine));
    let feed = tenant.changes("since=0").await.expect(200);
    assert_eq!((feed.each("changes", "revision").len(), feed.revision()), (KEYS.len(), KEYS.len() as u64));
}

/// That what `other` was given is of no use to `tenant`.
async fn gains_nothing(tenant: &Tenant<'_>, other: &Tenant<'_>) {
    let their_tag = other.get("tenant_config_k").await.expect(200).etag().to_owned();
    let my_tag = tenant.get("tenant_config_k").header("if-none-match", &their_tag).await.expect(200).etag().to_owned();
    assert_ne!(my_tag, their_tag, "the same version of the same key");
    let lost = tenant.put("tenant_config_k", &json!("x")).header("if-match", &their_tag).await;
    holds_no_others(&tenant.name, &lost.expect_problem(412, "precondition-failed").text);

    let their_cursor = other.list("limit=1").await.expect(200).body["cursor"].as_str().expect("more").to_owned();
    let refused = tenant.list(&format!("limit=1&cursor={their_cursor}")).await.expect_problem(400, "invalid-parameter");
    holds_no_others(&tenant.name, &refused.text);

    // Every way to name another tenant that a path, a query, a header or a body offers.
    let name = &other.name;
    let paths = [
        format!("/v1/config/param_config_../../{name}/param_config_/k/x"),
        format!("/v1/config/param_config_%2e%2e%2f%2e%2e%2f{name}%2fparam_config_%2fk%2fx"),
        format!("/v1/config//tenantry/{name}/param_config_/k/x"),
        format!("/v1/config/TENANT%23{name}%23ENTRY%23tenant_config_k"),
        format!("/v1/config/tenant_config_k%23..%2f{name}"),
        format!("/v1/config/param_config_k/x?tenant={name}"),
        format!("/v1/config/param_config_k/x%3ftenant={name}"),
        format!("/v1/config?prefix=TENANT%23{name}"),
        format!("/v1/config?prefix=tenant_config_&tenantId={name}"),
        format!("/v1/history/param_config_..%2f{name}"),
        format!("/v1/changes?since=0&tenant={name}"),
        "/v1/config/param_config_k/x:1".to_owned(),
        format!("/v1/config/secret_config_k%00{name}"),
    ];
    for path in paths {
        let answer = tenant.call(Method::GET, &path).await;
        assert!((400..500).contains(&answer.status), "{path}: {} {}", answer.status, answer.text);
        holds_no_others(&tenant.name, &answer.text);
    }
    for header in ["x-tenant-id", "tenant", "x-amz-tenant", "x-forwarded-tenant", "custom:tenantid"] {
        let answer = tenant.get("tenant_config_k").header(&header.replace(':', "-"), name).await.expect(200);
        assert_eq!(answer.body["value"], canary(&tenant.name, "tenant_config_k"));
    }
    let keys = [format!("../{name}/tenant_config_k"), format!("tenant_config_k#{name}")];
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    tenant.batch_get(&keys).await.expect_problem(400, "invalid-key");
    let with_tenant = json!({"keys": ["tenant_config_k"], "tenant": name});
    tenant.call(Method::POST, "/v1/batch-get").json(&with_tenant).await.expect_problem(400, "invalid-body");
    let with_tenant = json!({"value": 1, "tenantId": name});
    tenant.call(Method::PUT, "/v1/config/tenant_config_k").json(&with_tenant).await.expect_problem(400, "invalid-body");
    let smuggled = json!([{"op": "put", "key": "tenant_config_k", "value": Value::Null, "tenant": name}]);
    tenant.transaction(&smuggled).await.expect_problem(400, "invalid-body");
}

/// Promise: a token for one tenant with only one scope does only that, and a token without tenant
/// does nothing.
#[tokio::test]
async fn scopes_and_tenants_come_from_the_token_alone() {
    let api = Api::start().await;
    api.tenant("acme").put("tenant_config_k", &json!(1)).await.expect(201);
    let bearer = |tenant: &str, scope: &str| format!("Bearer {}", api.suite.token(tenant, scope).expect("a token"));
    for (tenant, scope, read, write) in [
        ("acme", "config/read", 200, 403),
        ("acme", "config/write", 403, 200),
        ("acme", "", 403, 403),
        ("acme", "config/readx xconfig/write", 403, 403),
        ("acme/..", "config/read config/write", 403, 403),
        ("", "config/read config/write", 403, 403),
        ("ac me", "config/read config/write", 403, 403),
    ] {
        let token = bearer(tenant, scope);
        let answer = api.call(Method::GET, "/v1/config/tenant_config_k").header("authorization", &token).await;
        assert_eq!(answer.status, read, "{tenant} {scope}: {}", answer.text);
        let put = api.call(Method::PUT, "/v1/config/tenant_config_k").header("authorization", &token);
        let answer = put.json(&json!({"value": 1})).await;
        assert_eq!(answer.status, write, "{tenant} {scope}: {}", answer.text);
    }
    for header in ["", "Bearer", "Bearer x", "Basic YTpi", "Bearer a.b.c"] {
        let answer = api.call(Method::GET, "/v1/config/tenant_config_k").header("authorization", header).await;
        assert_eq!(answer.status, 401, "{header}: {}", answer.text);
    }
    api.call(Method::GET, "/healthz").await.expect(200);
    api.stop().await;
}

/// Promise: where no authorizer stands in front (`sam local`, a direct call), the function verifies
/// the bearer token itself.
#[tokio::test]
async fn functions_verify_tokens_themselves_where_nobody_else_does() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!("v")).await.expect(201);
    let mut event = acme.event("GET", "/v1/config/tenant_config_k", &Value::Null);
    event["requestContext"].as_object_mut().expect("an object").remove("authorizer");
    for (token, status) in [
        (format!("Bearer {}", api.suite.token("acme", "config/read").expect("a token")), 200),
        (format!("bearer {}", api.suite.token("globex", "config/read").expect("a token")), 404),
        (format!("Bearer {}", api.suite.token("acme", "config/write").expect("a token")), 403),
        ("Bearer eyJhbGciOiJub25lIn0.eyJjdXN0b206dGVuYW50SWQiOiJhY21lIn0.".to_owned(), 401),
        (String::new(), 401),
    ] {
        event["headers"]["authorization"] = json!(token);
        let answer = api.suite.invoke("config-read", event.clone()).await.expect("an answer");
        assert_eq!(answer["statusCode"], status, "{answer}");
    }
    api.stop().await;
}
