//! What every store and strategy must do alike, and where each keeps its values.

use emulator::EventFate;
use http::Method;
use local::Options;
use serde_json::{Value, json};

use crate::harness::{Answer, Api, Tenant};

/// The conformance suite: a tag's keys behave the same whatever its store and strategy.
async fn conforms(tag: &str) {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    let key = format!("{tag}db/primary.host");
    let (old, new) = (json!({"b": 1, "a": [true, null]}), json!("x.internal"));

    let missing = acme.get(&key).await.expect_problem(404, "not-found");
    assert_eq!(missing.revision(), 0);
    acme.delete(&key).await.expect_problem(404, "not-found");
    acme.roll_back(&key, 1).await.expect_problem(404, "not-found");
    acme.history(&key).await.expect_problem(404, "not-found");
    acme.put(&key, &old).header("if-match", "*").await.expect_problem(412, "precondition-failed");

    let created = acme.put(&key, &old).header("if-none-match", "*").await.expect(201);
    assert_eq!((created.number("version"), created.revision()), (1, 1));
    assert_eq!(created.etag(), created.body["etag"]);
    let read = shows(acme.get(&key).await, &old, &created);
    assert_eq!(read.body["author"], created.body["author"]);
    assert_eq!(read.body["modifiedAt"], created.body["modifiedAt"]);
    let unchanged = acme.get(&key).header("if-none-match", created.etag()).await.expect(304);
    assert_eq!((unchanged.text.as_str(), unchanged.etag()), ("", created.etag()));

    let lost = acme.put(&key, &new).header("if-none-match", "*").await.expect_problem(412, "precondition-failed");
    assert_eq!(lost.etag(), created.etag(), "the loser learns what it lost to");
    let replaced = acme.put(&key, &new).header("if-match", created.etag()).await.expect(200);
    assert_eq!((replaced.number("version"), replaced.revision()), (2, 2));
    acme.put(&key, &old).header("if-match", created.etag()).await.expect_problem(412, "precondition-failed");
    shows(acme.get(&key).header("if-none-match", created.etag()).await, &new, &replaced);

    let rolled_back = acme.roll_back(&key, 1).header("if-match", replaced.etag()).await.expect(200);
    shows(acme.get(&key).await, &old, &rolled_back);
    assert_eq!(rolled_back.number("version"), 3);
    acme.roll_back(&key, 9).await.expect_problem(404, "not-found");

    acme.delete(&key).header("if-match", created.etag()).await.expect_problem(412, "precondition-failed");
    let deleted = acme.delete(&key).header("if-match", rolled_back.etag()).await.expect(200);
    assert_eq!((deleted.number("version"), &deleted.body["deleted"]), (4, &json!(true)));
    acme.get(&key).await.expect_problem(404, "not-found");
    acme.roll_back(&key, 4).await.expect_problem(422, "unprocessable");
    history_holds(&acme, &key, tag, &[None, Some(&old), Some(&new), Some(&old)]).await;

    let again = acme.put(&key, &new).await.expect(201);
    assert_eq!((again.number("version"), again.revision()), (5, 5), "versions go on after a delete");
    shows(acme.get(&key).await, &new, &again);

    let feed = acme.changes("since=0").await.expect(200);
    assert_eq!(feed.each("changes", "revision"), [1, 2, 3, 4, 5]);
    let operations: Vec<_> = feed.each("changes", "keys").iter().map(|keys| keys[0]["operation"].clone()).collect();
    assert_eq!(operations, ["put", "put", "put", "delete", "put"]);

    globex.get(&key).await.expect_problem(404, "not-found");
    globex.history(&key).await.expect_problem(404, "not-found");
    assert_eq!(globex.list("").await.expect(200).body["entries"], json!([]));
    assert_eq!(globex.batch_get(&[&key]).await.expect(200).body["missing"], json!([key]));
    api.stop().await;
}

/// That an answer shows this value as the write wrote it.
#[track_caller]
fn shows(answer: Answer, value: &Value, written: &Answer) -> Answer {
    let answer = answer.expect(200);
    assert_eq!(answer.body["value"], *value);
    assert_eq!(answer.etag(), written.etag());
    assert_eq!(answer.body["version"], written.body["version"]);
    assert_eq!(answer.body["revision"], written.body["revision"]);
    assert!(answer.revision() >= written.revision());
    answer
}

/// That the history shows these values, newest first, a page at a time, and each version on its
/// own. Where the parameter was deleted its versions went with it, and the history says so.
async fn history_holds(tenant: &Tenant<'_>, key: &str, tag: &str, newest_first: &[Option<&Value>]) {
    let gone = matches!(tag, "around_config_" | "secret_config_");
    let mut path = "limit=3".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = tenant.call(Method::GET, &format!("/v1/history/{key}?{path}")).await.expect(200);
        seen.extend(page.body["versions"].as_array().expect("versions").clone());
        let Some(cursor) = page.body["cursor"].as_str() else { break };
        path = format!("limit=3&cursor={cursor}");
    }
    assert_eq!(seen.len(), newest_first.len());
    for ((one, value), version) in seen.iter().zip(newest_first).zip((1..=seen.len()).rev()) {
        assert_eq!(one["version"], version);
        let alone = tenant.get(&format!("{key}?version={version}")).await;
        match value {
            None => {
                assert_eq!((&one["operation"], one.get("value")), (&json!("delete"), None));
                alone.expect_problem(404, "not-found");
            }
            Some(_) if gone => {
                assert_eq!((&one["valueGone"], one.get("value")), (&json!(true), None));
                alone.expect_problem(410, "gone");
            }
            Some(value) => {
                assert_eq!(one["value"], **value);
                assert_eq!(alone.expect(200).body["value"], **value);
            }
        }
    }
}

/// Promise: DynamoDB keys keep the contract of keys.
#[tokio::test]
async fn dynamodb_conforms() {
    conforms("tenant_config_").await;
}

/// Promise: Parameter Store keys keep the contract of keys, write-through.
#[tokio::test]
async fn write_through_conforms() {
    conforms("param_config_").await;
}

/// Promise: Parameter Store keys keep the contract of keys, write-back.
#[tokio::test]
async fn write_back_conforms() {
    conforms("back_config_").await;
}

/// Promise: Parameter Store keys keep the contract of keys, write-around.
#[tokio::test]
async fn write_around_conforms() {
    conforms("around_config_").await;
}

/// Promise: secrets keep the contract of keys.
#[tokio::test]
async fn secure_strings_conform() {
    conforms("secret_config_").await;
}

/// Promise: a value comes back byte for byte from every store, also where Parameter Store would
/// trim, refuse or resolve it.
#[tokio::test]
async fn values_come_back_byte_for_byte() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let values = [
        "null",
        r#""""#,
        r#"" outer spaces ""#,
        "\"\\n\"",
        r#""{{ssm:/other/tenant}}""#,
        r#"{"a":"{{x}}","b":"{{{"}"#,
        "[1.50,-0,1e2,18446744073709551615,0.1]",
        r#""\u0000\u001f""#,
        r#""ünïcödé 🦀 \" \\ ""#,
        r#"{"z":1,"a":{"y":[],"b":{}}}"#,
        "true",
        r#""true""#,
        r#""aws:ec2:image""#,
    ];
    for tag in ["tenant_config_", "param_config_", "around_config_", "secret_config_"] {
        for (index, value) in values.iter().enumerate() {
            let key = format!("{tag}v{index}");
            let put = acme.call(Method::PUT, &format!("/v1/config/{key}")).raw(format!("{{\"value\": {value} }}"));
            put.await.expect(201);
            for text in [acme.get(&key).await.expect(200).text, acme.history(&key).await.expect(200).text] {
                assert!(text.contains(&format!("\"value\":{value}")), "{key} {value}: {text}");
            }
        }
    }
    api.stop().await;
}

/// Promise: a parameter lies where direct readers look for it, strings raw, other values as JSON,
/// secrets encrypted, and is gone after a delete, whatever the strategy.
#[tokio::test]
async fn parameters_lie_where_direct_readers_look() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for tag in ["param_config_", "back_config_", "around_config_", "secret_config_"] {
        let (key, name) = (format!("{tag}db/host"), acme.parameter_name(tag, "db/host"));
        let written = acme.put(&key, &json!("db.internal")).await.expect(201);
        assert_eq!(written.body.get("pending").is_some(), tag == "back_config_", "only write-back is late");
        api.settled().await;
        assert_eq!(api.parameter(&name).await, Some(("db.internal".to_owned(), 1)), "{tag}");
        acme.put(&key, &json!({"port": 5432})).await.expect(200);
        api.settled().await;
        assert_eq!(api.parameter(&name).await, Some((r#"{"port":5432}"#.to_owned(), 2)), "{tag}");

        let plain = api.parameter_store().get_parameter().name(&name).send().await.expect("it is there");
        let shown = plain.parameter.and_then(|found| found.value).expect("a value");
        assert_eq!(shown.contains("5432"), tag != "secret_config_", "secrets are encrypted");

        acme.delete(&key).await.expect(200);
        api.settled().await;
        assert_eq!(api.parameter(&name).await, None, "{tag}");
    }
    api.suite.run_schedules().await.expect("a sweep");
    api.stop().await;
}

/// Promise: each write puts its parameter exactly once, although its event reaches config-refresh,
/// too.
#[tokio::test]
async fn a_write_costs_one_put() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for tag in ["param_config_", "back_config_", "around_config_", "secret_config_"] {
        let writing = async {
            acme.put(&format!("{tag}k"), &json!(1)).await.expect(201);
            api.settled().await;
        };
        assert_eq!(api.calls_during("PutParameter", writing).await.0, 1, "{tag}");
    }
    api.pass(tenantry::ledger::GRACE * 2);
    assert_eq!(api.calls_during("PutParameter", api.suite.run_schedules()).await.0, 0, "the outbox is empty");
    api.stop().await;
}

/// Promise: lists come in byte order of their keys, without deleted ones, a page at a time, across
/// tags and stores.
#[tokio::test]
async fn lists_are_ordered_and_paged() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let names = [
        "param_config_b",
        "param_config_a/x",
        "tenant_config_Z",
        "tenant_config_a",
        "secret_config_s",
        "param_config_a",
    ];
    for name in names {
        acme.put(name, &json!(name)).await.expect(201);
    }
    acme.put("param_config_gone", &json!(1)).await.expect(201);
    acme.delete("param_config_gone").await.expect(200);

    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    for limit in [1, 2, 5, 6, 100] {
        assert_eq!(all_pages(&acme, "", limit).await, sorted, "{limit} a page");
    }
    assert_eq!(all_pages(&acme, "param_config_a", 1).await, ["param_config_a", "param_config_a/x"]);
    assert_eq!(all_pages(&acme, "tenant_config_A", 1).await, Vec::<String>::new());
    let listed = acme.list("prefix=secret_config_").await.expect(200);
    assert_eq!(
        (listed.each("entries", "value"), listed.header("cache-control")),
        (vec![json!("secret_config_s")], "no-store")
    );
    api.stop().await;
}

/// Walks all pages; the keys.
async fn all_pages(tenant: &Tenant<'_>, prefix: &str, limit: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = tenant.list(&format!("prefix={prefix}&limit={limit}{cursor}")).await.expect(200);
        let found = page.each("entries", "key");
        assert!(found.len() <= limit);
        keys.extend(found.iter().filter_map(Value::as_str).map(str::to_owned));
        match page.body["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return keys,
        }
    }
}

/// Promise: a key whose name another's begins with has nothing to do with it.
#[tokio::test]
async fn neighbouring_keys_share_no_history() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for tag in ["tenant_config_", "param_config_", "secret_config_"] {
        let names = ["k", "k2", "k/2", "k-"];
        for (n, name) in names.iter().enumerate() {
            acme.put(&format!("{tag}{name}"), &json!(format!("{n}"))).await.expect(201);
        }
        acme.delete(&format!("{tag}k")).await.expect(200);
        for (n, name) in names.iter().enumerate().skip(1) {
            let key = format!("{tag}{name}");
            assert_eq!(acme.get(&key).await.expect(200).body["value"], format!("{n}"));
            assert_eq!(acme.history(&key).await.expect(200).each("versions", "value"), [format!("{n}")]);
        }
        assert_eq!(acme.history(&format!("{tag}k")).await.expect(200).each("versions", "version"), [2, 1]);
    }
    api.stop().await;
}

/// Promise: whoever has an old version is told so by its tag, as with the current one; what there
/// is not to show is said all the same.
#[tokio::test]
async fn old_versions_are_revalidated_by_their_tags() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for tag in ["tenant_config_", "secret_config_"] {
        let key = format!("{tag}k");
        let old = acme.put(&key, &json!(1)).await.expect(201);
        let new = acme.put(&key, &json!(2)).await.expect(200);
        acme.delete(&key).await.expect(200);
        acme.put(&key, &json!(3)).await.expect(201);
        let get =
            |version: u64, tags: &str| acme.get(&format!("{key}?version={version}")).header("if-none-match", tags);
        if tag == "tenant_config_" {
            for tags in [old.etag().to_owned(), format!("W/{}", old.etag()), "*".to_owned()] {
                let known = get(1, &tags).await.expect(304);
                assert_eq!((known.text.as_str(), known.etag()), ("", old.etag()), "{tags}");
                assert!(known.revision() > 0);
            }
            assert_eq!(get(1, new.etag()).await.expect(200).body["value"], 1);
        } else {
            get(1, old.etag()).await.expect_problem(410, "gone");
            assert_eq!(get(4, "*").await.expect(304).header("cache-control"), "no-store");
        }
        get(3, "*").await.expect_problem(404, "not-found");
        get(9, "*").await.expect_problem(404, "not-found");
        get(1, "x").await.expect_problem(400, "invalid-parameter");
    }
    api.stop().await;
}

/// Promise: keys that are deleted cost a list little, however short its pages, and a page ends
/// after many of them, perhaps empty, with a cursor that goes on behind them.
#[tokio::test]
async fn lists_get_past_many_deleted_keys() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for first in (0..600).step_by(25) {
        let each = |op: &str| {
            let operation = |n| match op {
                "put" => json!({"op": op, "key": format!("tenant_config_{n:03}"), "value": n}),
                _ => json!({"op": op, "key": format!("tenant_config_{n:03}")}),
            };
            Value::Array((first..first + 25).map(operation).collect())
        };
        acme.transaction(&each("put")).await.expect(200);
        acme.transaction(&each("delete")).await.expect(200);
    }
    acme.put("tenant_config_left", &json!(1)).await.expect(201);
    api.settled().await;

    let (queries, page) = api.calls_during("Query", acme.list("limit=1")).await;
    let page = page.expect(200);
    assert_eq!((queries, page.each("entries", "key")), (20, vec![]), "it stops, without anything found");
    let next = format!("limit=1&cursor={}", page.body["cursor"].as_str().expect("there is more"));
    let (queries, page) = api.calls_during("Query", acme.list(&next)).await;
    let page = page.expect(200);
    assert_eq!(page.each("entries", "key"), ["tenant_config_left"]);
    assert!(queries <= 5, "100 items in {queries} queries");
    assert_eq!(page.body.get("cursor"), None);
    assert_eq!(all_pages(&acme, "", 100).await, ["tenant_config_left"]);
    api.stop().await;
}

/// Promise: a batch tells found from missing, answers each key once, and takes up to 100.
#[tokio::test]
async fn batches_tell_found_from_missing() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for key in ["tenant_config_a", "param_config_a", "secret_config_a"] {
        acme.put(key, &json!(key)).await.expect(201);
    }
    let batch =
        acme.batch_get(&["secret_config_a", "tenant_config_x", "tenant_config_a", "secret_config_a"]).await.expect(200);
    assert_eq!(batch.each("found", "key"), ["secret_config_a", "tenant_config_a"]);
    assert_eq!(batch.each("found", "value"), ["secret_config_a", "tenant_config_a"]);
    assert_eq!((&batch.body["missing"], &batch.body["unprocessed"]), (&json!(["tenant_config_x"]), &json!([])));
    let many: Vec<_> = (0..100).map(|n| format!("tenant_config_{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(acme.batch_get(&many).await.expect(200).body["missing"].as_array().map(Vec::len), Some(100));
    api.stop().await;
}

/// Promise: a value that somebody took out of its store behind our back is an outage to who asks
/// for it alone; in a list and a batch it is marked, and its neighbours come all the same. It costs
/// a few looks, and writing the key anew heals it.
#[tokio::test]
async fn a_lost_value_does_not_take_its_neighbours_along() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let (lost, kept, own) = ("secret_config_lost", "secret_config_kept", "tenant_config_own");
    for key in [lost, kept, own] {
        acme.put(key, &json!(key)).await.expect(201);
    }
    api.settled().await;
    // Before anybody tells: what is told of a removal is a deleted key.
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let name = acme.parameter_name("secret_config_", "lost");
    api.parameter_store().delete_parameter().name(name).send().await.expect("it was there");
    api.settled().await;

    let (reads, alone) = api.calls_during("GetParameters", acme.get(lost)).await;
    let alone = alone.expect_problem(503, "unavailable");
    assert!(alone.body["detail"].as_str().is_some_and(|detail| detail.contains(lost)) && reads <= 3, "{reads} reads");
    assert!(!alone.header("retry-after").is_empty());

    let (reads, batch) = api.calls_during("GetParameters", acme.batch_get(&[own, "secret_config_x", lost, kept])).await;
    let batch = batch.expect(200);
    assert_eq!(batch.each("found", "value"), [own, kept]);
    assert_eq!((&batch.body["unavailable"], &batch.body["missing"]), (&json!([lost]), &json!(["secret_config_x"])));
    assert_eq!(batch.body["unprocessed"], json!([]));
    assert!(reads <= 3, "{reads} reads");

    let (reads, page) = api.calls_during("GetParameters", acme.list("")).await;
    let page = page.expect(200);
    assert_eq!(page.each("entries", "key"), [kept, lost, own]);
    assert_eq!(page.each("entries", "value"), [json!(kept), json!(null), json!(own)]);
    assert_eq!(page.each("entries", "valueGone"), [json!(null), json!(true), json!(null)]);
    assert_eq!(page.body["entries"][1].get("value"), None, "a value of null is something else");
    assert!(reads <= 3, "{reads} reads");

    acme.put(lost, &json!("anew")).await.expect(200);
    assert_eq!(acme.list("").await.expect(200).each("entries", "value"), [kept, "anew", own]);
    assert_eq!(acme.batch_get(&[lost]).await.expect(200).body["unavailable"], json!([]));
    api.stop().await;
}

/// Promise: where the route of a tag was changed and its values are still in the former store,
/// whoever reads one is told that, and its neighbours come all the same; the key can be written
/// anew, and reading goes on as the route comes back.
#[tokio::test]
async fn a_changed_route_is_named_as_the_reason() {
    let data = tempfile::tempdir().expect("a folder");
    let start = async |route: &str| {
        let routes = format!(r#"{{"tenant_config_": {{"store": "dynamodb"}}, "secret_config_": {route}}}"#);
        let parameters = [("TagRoutes".to_owned(), routes)].into();
        Api::with(Options { data: Some(data.path().to_owned()), parameters, ..Options::default() }).await
    };
    let secure = r#"{"store": "parameter-store", "type": "SecureString"}"#;
    let api = start(secure).await;
    for key in ["secret_config_a", "secret_config_b", "tenant_config_c"] {
        api.tenant("acme").put(key, &json!(key)).await.expect(201);
    }
    api.settled().await;
    let known = api.tenant("acme").list("").await.expect(200).etag().to_owned();
    api.stop().await;

    let api = start(r#"{"store": "dynamodb"}"#).await;
    let acme = api.tenant("acme");
    acme.list("").header("if-none-match", &known).await.expect(200);
    let reads = ["secret_config_a", "secret_config_a?version=1"].map(|path| acme.get(path));
    for call in reads.into_iter().chain([acme.roll_back("secret_config_a", 1)]) {
        let refused = call.await.expect_problem(503, "unavailable");
        let detail = refused.body["detail"].as_str().expect("a detail");
        assert!(detail.contains("the tag secret_config_ no longer leads") && detail.contains("restore"), "{detail}");
    }
    let list = acme.list("").await.expect(200);
    assert_eq!(list.each("entries", "valueGone"), [json!(true), json!(true), json!(null)]);
    let batch = acme.batch_get(&["secret_config_a", "tenant_config_c"]).await.expect(200);
    assert_eq!(
        (batch.each("found", "key"), &batch.body["unavailable"]),
        (vec![json!("tenant_config_c")], &json!(["secret_config_a"]))
    );
    assert_eq!(acme.history("secret_config_a").await.expect(200).each("versions", "valueGone"), [true]);
    acme.put("secret_config_a", &json!("anew")).await.expect(200);
    assert_eq!(acme.get("secret_config_a").await.expect(200).body["value"], "anew");
    api.stop().await;

    let api = start(secure).await;
    let values = api.tenant("acme").list("").await.expect(200).each("entries", "value");
    assert_eq!(values, ["anew", "secret_config_b", "tenant_config_c"]);
    api.stop().await;
}

/// Promise: all of it is still there after a restart on the same data, and goes on where it was.
#[tokio::test]
async fn a_restart_keeps_everything() {
    let data = tempfile::tempdir().expect("a folder");
    let options = || Options { data: Some(data.path().to_owned()), ..Options::default() };
    let keys = ["tenant_config_a", "param_config_a", "around_config_a", "secret_config_a"];
    let api = Api::with(options()).await;
    let mut etags = Vec::new();
    for key in keys {
        etags.push(api.tenant("acme").put(key, &json!(key)).await.expect(201).etag().to_owned());
    }
    api.stop().await;

    let api = Api::with(options()).await;
    let acme = api.tenant("acme");
    for (key, etag) in keys.iter().zip(&etags) {
        assert_eq!(acme.get(key).await.expect(200).body["value"], **key);
        acme.get(key).header("if-none-match", etag).await.expect(304);
    }
    assert_eq!(acme.put(keys[0], &json!(2)).header("if-match", &etags[0]).await.expect(200).revision(), 5);
    api.stop().await;
}
