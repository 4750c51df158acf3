//! Comments: why something was written, kept with the commit and shown wherever it is.

use aws_sdk_ssm::types::ParameterType;
use emulator::Fault;
use http::Method;
use serde_json::{Value, json};
use tenantry::ledger::GRACE;

use crate::{
    harness::{Api, Call, Tenant},
    operator::{edit, remove},
};

const TAGS: [&str; 5] = ["tenant_config_", "param_config_", "back_config_", "around_config_", "secret_config_"];

fn roll_back<'a>(tenant: &Tenant<'a>, key: &str, version: u64, comment: &str) -> Call<'a> {
    let body = json!({"version": version, "comment": comment});
    tenant.call(Method::POST, &format!("/v1/rollback/{key}")).json(&body)
}

/// A page's list without the members that have nothing to do with comments.
fn comments(page: &Value, list: &str) -> Vec<Option<Value>> {
    page[list].as_array().expect("a list").iter().map(|one| one.get("comment").cloned()).collect()
}

/// Promise: under every tag, a comment is shown with the version that it was given for, as the
/// current one and as an old one, in lists, batches, the history, the feed and the event, by
/// whoever that is published; and never with another version.
#[tokio::test]
async fn a_comment_belongs_to_its_commit() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let heard = api.listen();
    for tag in TAGS {
        let key = format!("{tag}k");
        let of = |text: &str| Some(json!(text));
        let begin = acme.changes("since=0").await.expect(200).revision();
        let first = acme.put_because(&key, &json!("a"), "größer, \"as\" asked \\o/").await.expect(201);
        let shown = acme.get(&key).await.expect(200);
        assert_eq!(shown.body["comment"], "größer, \"as\" asked \\o/");
        assert_eq!(shown.etag(), first.etag());
        assert_eq!(
            comments(&acme.list(&format!("prefix={tag}")).await.body, "entries"),
            [shown.body.get("comment").cloned()]
        );
        assert_eq!(comments(&acme.batch_get(&[&key]).await.body, "found"), [shown.body.get("comment").cloned()]);

        acme.put(&key, &json!("b")).await.expect(200);
        let shown = acme.get(&key).await.expect(200);
        assert_eq!((shown.body.get("comment"), &shown.body["value"]), (None, &json!("b")), "no other version's");
        acme.put_because(&key, &json!("c"), " ").await.expect(200);
        assert_eq!(acme.get(&key).await.expect(200).body.get("comment"), None, "a blank one is none");
        roll_back(&acme, &key, 1, "c was wrong").await.expect(200);
        assert_eq!(acme.get(&key).await.expect(200).body["comment"], "c was wrong");
        assert_eq!(acme.get(&format!("{key}?version=1")).await.expect(200).body["comment"], first_comment());
        // The event of this one is lost at first, and published by the sweep.
        api.suite.emulator().faults().inject("PutEvents", Fault::InternalError, 100);
        acme.delete(&format!("{key}?comment=no+longer%20used%21")).await.expect(200);
        api.suite.emulator().faults().clear();
        api.pass(GRACE * 3);
        api.sweep(1).await;

        let expected = [of("no longer used!"), of("c was wrong"), None, None, Some(first_comment())];
        assert_eq!(comments(&acme.history(&key).await.expect(200).body, "versions"), expected, "{tag}");
        let feed = acme.changes(&format!("since={begin}")).await.expect(200);
        let mut told = comments(&feed.body, "changes");
        told.reverse();
        assert_eq!(told, expected, "{tag}");
        let mut told = heard.lock().expect("no panic while noting").split_off(0);
        told.sort_by_key(|detail| detail["revision"].as_u64());
        told.dedup();
        let told: Vec<_> = told.iter().rev().map(|detail| detail.get("comment").cloned()).collect();
        assert_eq!(told, expected, "{tag}");
    }
    api.stop().await;
}

fn first_comment() -> Value {
    json!("größer, \"as\" asked \\o/")
}

/// Promise: a transaction has one comment, which each of its keys shows; what others do in
/// Parameter Store has none, also where the version before had one.
#[tokio::test]
async fn a_transaction_has_one_and_an_operator_has_none() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let operations = json!([
        {"op": "put", "key": "tenant_config_a", "value": 1},
        {"op": "put", "key": "param_config_b", "value": "ours"},
    ]);
    let body = json!({"comment": "a and b belong together", "operations": operations});
    acme.call(Method::POST, "/v1/transactions").json(&body).await.expect(200);
    for key in ["tenant_config_a", "param_config_b"] {
        assert_eq!(acme.get(key).await.expect(200).body["comment"], "a and b belong together");
    }
    acme.put_because("secret_config_c", &json!("ours"), "set up").await.expect(201);
    api.settled().await;
    for (tag, name, kind) in
        [("param_config_", "b", ParameterType::String), ("secret_config_", "c", ParameterType::SecureString)]
    {
        edit(&api, &acme.parameter_name(tag, name), "theirs", kind).await;
        api.settled().await;
        let read = acme.get(&format!("{tag}{name}")).await.expect(200);
        assert_eq!((&read.body["author"], read.body.get("comment")), (&json!("external"), None));
        remove(&api, &acme.parameter_name(tag, name)).await;
        api.settled().await;
        let history = acme.history(&format!("{tag}{name}")).await.expect(200);
        let [deleted, edited, ours] = &comments(&history.body, "versions")[..] else { panic!("{}", history.text) };
        assert_eq!((deleted, edited), (&None, &None), "{}", history.text);
        assert!(ours.is_some(), "{}", history.text);
    }
    let feed = acme.changes("since=2").await.expect(200);
    assert_eq!(comments(&feed.body, "changes"), [None, None, None, None], "{}", feed.text);
    api.stop().await;
}

/// Promise: the comment is a part of the request: with the same idempotency key it is the same one
/// or refused, a DELETE's, too.
#[tokio::test]
async fn a_repeated_request_has_the_same_comment() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let key = "tenant_config_k";
    let put = |comment: &str| acme.put_because(key, &json!(1), comment).header("idempotency-key", "p");
    let delete = |query: &str| acme.delete(&format!("{key}{query}")).header("idempotency-key", "d");
    let written = put("why").await.expect(201);
    assert_eq!(put("why").await.expect(201).text, written.text);
    put("why not").await.expect_problem(422, "unprocessable");
    acme.put(key, &json!(1)).header("idempotency-key", "p").await.expect_problem(422, "unprocessable");
    let deleted = delete("?comment=why").await.expect(200);
    assert_eq!(delete("?comment=%77hy").await.expect(200).text, deleted.text, "however it is encoded");
    delete("?comment=why+not").await.expect_problem(422, "unprocessable");
    delete("").await.expect_problem(422, "unprocessable");
    assert_eq!(
        comments(&acme.history(key).await.expect(200).body, "versions"),
        [Some(json!("why")), Some(json!("why"))]
    );
    api.stop().await;
}

/// Promise: what is no comment, or stands where none is taken, is refused before anything is
/// written, with what to do.
#[tokio::test]
async fn a_bad_comment_writes_nothing() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let (key, put) = ("tenant_config_k", json!({"op": "put", "key": "tenant_config_k", "value": 1}));
    let long = "é".repeat(257);
    let transaction = |comment: &str| {
        acme.call(Method::POST, "/v1/transactions").json(&json!({"operations": [put], "comment": comment}))
    };
    for call in [
        acme.put_because(key, &json!(1), &long),
        roll_back(&acme, key, 1, &long),
        transaction(&long),
        acme.delete(&format!("{key}?comment={}", "x".repeat(257))),
    ] {
        let refused = call.await.expect_problem(413, "too-large");
        assert_eq!((refused.number("limitCharacters"), refused.number("characters")), (256, 257), "{}", refused.text);
    }
    let mut operation = put.clone();
    operation["comment"] = json!("why");
    for (call, problem, detail) in [
        (acme.put_because(key, &json!(1), "a\u{1b}[2Jb"), "invalid-body", "U+001B"),
        (transaction("a\nb"), "invalid-body", "U+000A"),
        (acme.delete(&format!("{key}?comment=a%0Db")), "invalid-parameter", "U+000D"),
        (acme.delete(key).json(&json!({"comment": "why"})), "invalid-body", "?comment="),
        (acme.transaction(&json!([operation])), "invalid-body", "unknown field `comment`"),
        (acme.put(&format!("{key}?comment=why"), &json!(1)), "invalid-parameter", "unknown query parameter"),
        (acme.get(&format!("{key}?comment=why")), "invalid-parameter", "unknown query parameter"),
    ] {
        let refused = call.await.expect_problem(400, problem);
        assert!(refused.body["detail"].as_str().is_some_and(|text| text.contains(detail)), "{}", refused.text);
    }
    assert_eq!(acme.changes("since=0").await.expect(200).revision(), 0);
    api.stop().await;
}

/// Promise: the longest comment fits beside everything else that is as large as it may be.
#[tokio::test]
async fn the_longest_comment_fits_the_largest_writes() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let longest = "🦀".repeat(256);
    let largest = json!("x".repeat(256 * 1024 - 2));
    acme.put_because("tenant_config_large", &largest, &longest).await.expect(201);
    let name = |n: u32| format!("tenant_config_{n:02}{}", format!("/{}", "n".repeat(64)).repeat(9));
    let operations: Vec<_> =
        (0..25).map(|n| json!({"op": "put", "key": name(n), "value": "x".repeat(59_998)})).collect();
    let body = json!({"operations": operations, "comment": longest});
    acme.call(Method::POST, "/v1/transactions").json(&body).header("idempotency-key", "k").await.expect(200);
    for key in ["tenant_config_large", &name(24)] {
        assert_eq!(acme.get(key).await.expect(200).body["comment"], longest);
    }
    api.stop().await;
}
