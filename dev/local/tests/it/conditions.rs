//! Conditional requests (RFC 9110, 13): what is known is not sent again, and what is not meant is
//! not shown.

use aws_sdk_dynamodb::types::AttributeValue;
use emulator::EventFate;
use http::Method;
use serde_json::json;

use crate::harness::{Answer, Api, Tenant};

/// A tenant with a few keys, one of them a secret.
async fn with_keys(api: &Api) -> Tenant<'_> {
    let acme = api.tenant("acme");
    for key in ["tenant_config_a", "tenant_config_b", "param_config_c", "secret_config_d"] {
        acme.put(key, &json!(key)).await.expect(201);
    }
    api.settled().await;
    acme
}

/// The pages that have tags: a list by each of its parameters, a history, changes.
const PAGES: [&str; 7] = [
    "/v1/config",
    "/v1/config?prefix=tenant",
    "/v1/config?limit=2",
    "/v1/config?limit=99",
    "/v1/history/secret_config_d",
    "/v1/history/tenant_config_a",
    "/v1/changes?since=0",
];

/// Asks for a page that may be known.
async fn ask(tenant: &Tenant<'_>, path: &str, known: &str) -> Answer {
    tenant.call(Method::GET, path).header("if-none-match", known).await
}

/// Promise: a caller who has the page of an unchanged tenant gets 304 after one read of its head:
/// no query, no parameter.
#[tokio::test]
async fn an_unchanged_page_costs_one_read() {
    let api = Api::start().await;
    let acme = with_keys(&api).await;
    let cursor = acme.list("limit=2").await.expect(200).body["cursor"].as_str().expect("a cursor").to_owned();
    let next = format!("/v1/config?limit=2&cursor={cursor}");
    for path in PAGES.into_iter().chain([next.as_str()]) {
        let page = acme.call(Method::GET, path).await.expect(200);
        assert!(page.etag().starts_with("W/\"4-"), "{path}: {}", page.etag());
        api.tenant("globex").put("tenant_config_a", &json!(path)).await;
        for known in [page.etag(), page.etag().trim_start_matches("W/"), &format!("\"x\", ,{},", page.etag())] {
            let before = api.suite.emulator().calls().total();
            let (reads, answer) = api.calls_during("GetItem", ask(&acme, path, known)).await;
            let answer = answer.expect(304);
            assert_eq!((reads, api.suite.emulator().calls().total() - before), (1, 1), "{path}");
            assert_eq!((answer.text.as_str(), answer.etag(), answer.revision()), ("", page.etag(), 4));
        }
        assert_eq!(ask(&acme, path, "*").await.expect(304).etag(), page.etag(), "{path}");
        acme.call(Method::GET, path).header("if-match", "*").await.expect(200);
        let refused = acme.call(Method::GET, path).header("if-match", page.etag()).await;
        let refused = refused.expect_problem(412, "precondition-failed");
        assert!(refused.text.contains("pages have weak tags") && refused.etag() == page.etag(), "{}", refused.text);
    }
    acme.history("tenant_config_x").header("if-none-match", "*").await.expect_problem(404, "not-found");
    acme.changes("since=9").header("if-none-match", "*").await.expect_problem(410, "gone");
    api.stop().await;
}

/// Promise: a tag stands for one tenant, query, right, revision and history; whoever has another is
/// sent the page.
#[tokio::test]
async fn a_pages_tag_fits_nothing_else() {
    let api = Api::start().await;
    let acme = with_keys(&api).await;
    let globex = api.tenant("globex");
    let mut without_secrets = acme.clone();
    without_secrets.token = api.suite.token("acme", "config/read").expect("a token");
    for key in ["tenant_config_a", "tenant_config_b", "param_config_c", "secret_config_d"] {
        globex.put(key, &json!(key)).await.expect(201);
    }
    let mut tags = Vec::new();
    for path in PAGES {
        tags.push(acme.call(Method::GET, path).await.expect(200).etag().to_owned());
        ask(&globex, path, tags.last().expect("a tag")).await.expect(200);
    }
    for (index, path) in PAGES.into_iter().enumerate() {
        let others: Vec<_> =
            tags.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, tag)| &**tag).collect();
        ask(&acme, path, &others.join(", ")).await.expect(200);
        if !path.contains("secret") {
            ask(&without_secrets, path, &tags[index]).await.expect(200);
        }
    }
    let hidden = ask(&without_secrets, "/v1/config", &tags[0]).await.expect(200);
    assert!(hidden.text.contains("valueWithheld"), "{}", hidden.text);

    // A table that was restored may be at the same revision, by another commit.
    let commit = |id: &str| AttributeValue::S(id.to_owned());
    let before = api.item(&acme, "HEAD").await["commitId"].clone();
    api.set(&acme, "HEAD", "commitId", commit("0123456789abcdef0123456789abcdef")).await;
    for (path, tag) in PAGES.into_iter().zip(&tags) {
        ask(&acme, path, tag).await.expect(200);
    }
    api.set(&acme, "HEAD", "commitId", before).await;
    ask(&acme, "/v1/config", &tags[0]).await.expect(304);

    acme.put("tenant_config_a", &json!(2)).await.expect(200);
    for (path, tag) in PAGES.into_iter().zip(&tags) {
        assert!(ask(&acme, path, tag).await.expect(200).etag().starts_with("W/\"5-"), "{path}");
    }
    api.stop().await;
}

/// Promise: a page that lacks a value has no tag, so that whoever polls gets the value once it is
/// there.
#[tokio::test]
async fn a_page_that_lacks_a_value_has_no_tag() {
    let api = Api::start().await;
    let acme = with_keys(&api).await;
    let (list, history) = ("/v1/config", "/v1/history/secret_config_d");
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let name = acme.parameter_name("secret_config_", "d");
    api.parameter_store().delete_parameter().name(name).send().await.expect("it was there");
    for path in [list, history] {
        let page = ask(&acme, path, "*").await.expect(200);
        assert!(page.text.contains("\"valueGone\":true"), "{}", page.text);
        assert_eq!(page.etag(), "", "{path}");
    }
    api.stop().await;
}

/// Promise: a read of an entry that is not the one that the caller means is 412, before anything is
/// said of what the caller knows (RFC 9110, 13.2.2); of an entry that is not there it is 404 all
/// the same.
#[tokio::test]
async fn reads_keep_the_order_of_conditions() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let key = "tenant_config_k";
    let old = acme.put(key, &json!(1)).await.expect(201);
    let new = acme.put(key, &json!(2)).await.expect(200);
    let weak = format!("W/{}", new.etag());
    for (path, if_match, if_none_match, status) in [
        (key, new.etag(), "", 200),
        (key, "*", "", 200),
        (key, &format!("\"x\",,{}", new.etag()), "", 200),
        (key, old.etag(), "", 412),
        (key, weak.as_str(), "", 412),
        (key, old.etag(), new.etag(), 412),
        (key, new.etag(), new.etag(), 304),
        (key, new.etag(), old.etag(), 200),
        (key, "", &format!(",{weak}"), 304),
        ("tenant_config_k?version=1", old.etag(), "", 200),
        ("tenant_config_k?version=1", new.etag(), "", 412),
        ("tenant_config_x", "*", "", 404),
        ("tenant_config_x", old.etag(), "*", 404),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let mut call = acme.call(method.clone(), &format!("/v1/config/{path}"));
            for (name, tags) in [("if-match", if_match), ("if-none-match", if_none_match)] {
                if !tags.is_empty() {
                    call = call.header(name, tags);
                }
            }
            let answer = call.await;
            assert_eq!(answer.status, status, "{method} {path} {if_match} {if_none_match}: {}", answer.text);
            if status == 412 {
                assert_eq!(answer.etag(), if path == key { new.etag() } else { old.etag() });
            }
        }
    }
    api.stop().await;
}

/// Promise: whoever sends the current tag as a weak one is told that this is why nothing was
/// written, alone and in a transaction.
#[tokio::test]
async fn a_weak_tag_of_a_write_is_explained() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let written = acme.put("tenant_config_k", &json!(1)).await.expect(201);
    let weak = format!("W/{}", written.etag());
    let put = json!([{"op": "put", "key": "tenant_config_k", "value": 2, "ifMatch": weak}]);
    for call in [acme.put("tenant_config_k", &json!(2)).header("if-match", &weak), acme.transaction(&put)] {
        let refused = call.await.expect_problem(412, "precondition-failed");
        let detail = refused.body["detail"].as_str().expect("a detail");
        assert!(detail.contains("never matches in If-Match: send the tag as it is"), "{detail}");
        assert_eq!(refused.etag(), written.etag());
    }
    assert_eq!(acme.get("tenant_config_k").await.expect(200).body["value"], 1);
    api.stop().await;
}
