//! The change feed suffices to mirror a tenant: the example program's own modules are held against
//! full lists.

use std::{cell::Cell, collections::BTreeMap, future::IntoFuture, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_ssm::types::ParameterType;
use emulator::{EventFate, Fault};
use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::{Value, json};

use self::{
    client::{Client, MAX_PAGE},
    follower::{Event, Kept, Mirror, Next},
};
use crate::harness::{Api, CIRCUIT, Tenant};

#[path = "../../examples/mirror/client.rs"]
mod client;
#[path = "../../examples/mirror/mirror.rs"]
mod follower;

const TAGS: [&str; 5] = ["tenant_config_", "param_config_", "back_config_", "around_config_", "secret_config_"];
/// Keys of each tag; few, so that writers meet.
const KEYS: usize = 4;
/// More steps than any mirror here takes to get to the head.
const MAX_STEPS: usize = 2_000;

fn mirror(api: &Api, tenant: &Tenant<'_>, page_size: usize, kept: Option<Kept>) -> Mirror {
    let client = Client::new(api.suite.http_url(), &tenant.token).expect("a client");
    Mirror::new(client, page_size, kept)
}

/// Takes steps until nothing is left to be taken over. What the mirror told on the way, as lines.
async fn to_head(mirror: &mut Mirror) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..MAX_STEPS {
        let step = mirror.step().await.expect("a step");
        lines.extend(step.events.iter().map(Event::to_string));
        if step.next == Next::AtHead {
            return lines;
        }
    }
    panic!("not at the head after {MAX_STEPS} steps: {lines:?}");
}

/// Stops a mirror; what it kept is what the next one has of it.
fn stop(mirror: &Mirror) -> Option<Kept> {
    let kept = serde_json::to_string(mirror.kept()?).expect("JSON");
    Some(serde_json::from_str(&kept).expect("the same"))
}

/// Version, tag and value of each key, as a mirror has them.
fn copied(mirror: &Mirror) -> BTreeMap<String, Value> {
    let entries = &mirror.kept().expect("a list was taken").entries;
    entries.iter().map(|(key, entry)| (key.clone(), serde_json::to_value(entry).expect("JSON"))).collect()
}

/// The same, as a full list has them.
async fn listed(tenant: &Tenant<'_>) -> BTreeMap<String, Value> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = tenant.list(&format!("limit=100{cursor}")).await.expect(200);
        for mut entry in page.body["entries"].as_array().expect("entries").iter().cloned() {
            entry.as_object_mut().expect("an entry").remove("valueGone");
            all.insert(entry["key"].as_str().expect("a key").to_owned(), entry);
        }
        let Some(next) = page.body["cursor"].as_str() else { return all };
        cursor = format!("&cursor={next}");
    }
}

/// One of the things that happen to a tenant, whoever does them. Whether it is refused is of no
/// matter here.
async fn something(api: &Api, tenant: &Tenant<'_>, rng: &mut Rng, value: &str) {
    let tag = TAGS[rng.usize(..TAGS.len())];
    let name = format!("k{}", rng.usize(..KEYS));
    let key = format!("{tag}{name}");
    let parameter = tenant.parameter_name(tag, &name);
    let answer = match rng.u8(..10) {
        0 => tenant.put_because(&key, &json!(value), value).await,
        1..4 => tenant.put(&key, &json!(value)).await,
        4 => tenant.delete(&key).await,
        5 => tenant.roll_back(&key, rng.u64(1..4)).await,
        6 => {
            let other = format!("param_config_k{}", rng.usize(..KEYS));
            let operations = json!([
                {"op": "put", "key": format!("tenant_config_{name}"), "value": {"of": value}},
                {"op": "put", "key": other, "value": value},
                {"op": "delete", "key": format!("back_config_{name}")},
            ]);
            tenant.transaction(&operations).await
        }
        7 | 8 if tag != "tenant_config_" => {
            let kind = if tag == "secret_config_" { ParameterType::SecureString } else { ParameterType::String };
            let put = api.parameter_store().put_parameter().name(parameter).value(value).r#type(kind).overwrite(true);
            put.send().await.expect("Parameter Store takes it");
            return;
        }
        9 if tag != "tenant_config_" => {
            // There may be none.
            _ = api.parameter_store().delete_parameter().name(parameter).send().await;
            return;
        }
        _ => tenant.put(&key, &Value::Null).await,
    };
    // A write around the ledger does not survive that its parameter is removed while it is under
    // way.
    let is_overtaken = answer.status == 503 && answer.text.contains("changed behind this service's back");
    assert!(is_overtaken || matches!(answer.status, 200 | 201 | 404 | 409 | 410 | 412 | 422), "{key}: {}", answer.text);
}

/// Some writers at once, each with so many deeds.
async fn writers(api: &Api, tenant: &Tenant<'_>, deeds: usize, seed: u64) {
    join_all((0..4).map(async |writer| {
        let mut rng = Rng::with_seed(seed * 10 + writer);
        for nth in 0..deeds {
            something(api, tenant, &mut rng, &format!("deed {nth} of {writer}, seed {seed}")).await;
        }
    }))
    .await;
}

/// Lets mirrors follow as long as `others` are at it.
async fn follow_during<T>(mirrors: Vec<&mut Mirror>, others: impl IntoFuture<Output = T>) -> T {
    let is_over = Cell::new(false);
    let others = async {
        let done = others.into_future().await;
        is_over.set(true);
        done
    };
    let follow = async |mirror: &mut Mirror| {
        while !is_over.get() {
            mirror.step().await.expect("a step");
        }
    };
    futures_util::future::join(others, join_all(mirrors.into_iter().map(follow))).await.0
}

/// Promise: a mirror that follows from the beginning, one that begins while others write, one that
/// was stopped, and one that fell behind what is kept all end equal to a full list: keys, versions,
/// values, tags; whoever writes, under every tag.
#[tokio::test]
async fn mirrors_end_equal_to_a_full_list() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    // Somebody else's keys must not come in.
    api.tenant("globex").put("tenant_config_theirs", &json!(1)).await.expect(201);
    let mut early = mirror(&api, &acme, MAX_PAGE, None);
    let mut stopped = mirror(&api, &acme, MAX_PAGE, None);
    follow_during(vec![&mut early, &mut stopped], writers(&api, &acme, 8, 1)).await;
    let resting = stop(&stopped);
    let mut late = mirror(&api, &acme, 3, None);
    follow_during(vec![&mut early, &mut late], writers(&api, &acme, 8, 2)).await;
    api.sweep(3).await;

    // An edit that a newer put had replaced before it was seen.
    acme.put("param_config_k0", &json!("ours")).await;
    api.sweep(3).await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let name = acme.parameter_name("param_config_", "k0");
    let edit = api.parameter_store().put_parameter().name(name).value("theirs").overwrite(true);
    edit.send().await.expect("Parameter Store takes it");
    api.suite.emulator().set_event_fate(EventFate::Delivered);
    acme.put("param_config_k0", &json!("ours, newer")).await.expect(200);
    api.sweep(3).await;

    let mut resumed = mirror(&api, &acme, MAX_PAGE, resting);
    let expected = listed(&acme).await;
    for (which, mirror) in [("early", &mut early), ("late", &mut late), ("resumed", &mut resumed)] {
        let lines = to_head(mirror).await;
        assert!(!lines.iter().any(|line| line.starts_with("list")), "{which} needs no further list: {lines:?}");
        assert_eq!(copied(mirror), expected, "{which}");
    }
    let behind = stop(&resumed);

    api.pass(Duration::from_hours(8 * 24));
    assert_eq!(to_head(&mut early).await, [""; 0], "nothing happened, so that nothing is missing");
    writers(&api, &acme, 4, 3).await;
    api.sweep(3).await;
    api.pass(Duration::from_hours(8 * 24));
    writers(&api, &acme, 4, 4).await;
    api.sweep(3).await;
    let expected = listed(&acme).await;
    let mut behind = mirror(&api, &acme, 7, behind);
    for (which, mirror) in [("early", &mut early), ("behind", &mut behind)] {
        let lines = to_head(mirror).await;
        assert!(lines[0].starts_with("list    the changes since the copy are not kept"), "{which}: {lines:?}");
        assert_eq!(copied(mirror), expected, "{which}");
    }
    for operation in ["put", "delete", "supersede"] {
        let history = join_all((0..KEYS).map(|n| acme.history(&format!("param_config_k{n}")).into_future())).await;
        let told = |one: &Value| one["operation"] == operation || one["superseded"] == (operation == "supersede");
        let versions = history.iter().filter_map(|answer| answer.body["versions"].as_array()).flatten();
        assert!(versions.filter(|one| told(one)).count() > 0, "{operation} was not tried");
    }
    api.stop().await;
}

/// Promise: that a store refuses a value, or has taken it, changes nothing in a copy, which goes on
/// behind it.
#[tokio::test]
async fn a_copy_passes_over_what_a_store_refuses() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    let mut copy = mirror(&api, &acme, 7, None);
    to_head(&mut copy).await;
    api.suite.emulator().limit_parameters(0);
    for limit in [0, 10] {
        api.suite.emulator().limit_parameters(limit);
        acme.put("param_config_k", &json!(limit)).await;
        api.settled().await;
        to_head(&mut copy).await;
        let mut listed = listed(&acme).await;
        for entry in listed.values_mut() {
            let refused = entry.as_object_mut().expect("an entry").remove("store");
            assert_eq!(refused.is_some(), limit == 0 && entry["key"] == "param_config_k");
        }
        assert_eq!(copied(&copy), listed);
    }
    // Of a value that was refused for a while.
    api.suite.emulator().limit_parameters(1);
    acme.put("param_config_l", &json!(1)).await.expect(201);
    to_head(&mut copy).await;
    api.suite.emulator().limit_parameters(10);
    let (batches, _) = api
        .calls_during("BatchGetItem", async {
            api.sweep(4).await;
            to_head(&mut copy).await
        })
        .await;
    assert!(batches > 0, "the store has taken it");
    assert_eq!(copied(&copy), listed(&acme).await);
    api.stop().await;
}

/// Promise: a list that is read page by page while others write misses none of it: neither in what
/// was read already, nor between.
#[tokio::test]
async fn a_list_that_writes_overtake_is_made_up_for() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for name in ["b", "c", "d", "e", "f"] {
        acme.put(&format!("tenant_config_{name}"), &json!({"digits": 1.50})).await.expect(201);
    }
    let mut mirror = mirror(&api, &acme, 2, None);
    for _ in ["the epoch", "the first page"] {
        assert_eq!(mirror.step().await.expect("a step").next, Next::Continue);
    }
    acme.put("tenant_config_a", &json!("new, before the page")).await.expect(201);
    acme.put("tenant_config_b", &json!("newer")).await.expect(200);
    acme.delete("tenant_config_c").await.expect(200);
    acme.put("tenant_config_d", &Value::Null).await.expect(200);
    acme.delete("tenant_config_f").await.expect(200);
    let lines = to_head(&mut mirror).await;
    assert_eq!(copied(&mirror), listed(&acme).await, "{lines:?}");
    assert_eq!(copied(&mirror)["tenant_config_d"]["value"], Value::Null, "null is a value");
    let mut resumed = super::mirror::mirror(&api, &acme, 2, stop(&mirror));
    assert_eq!(to_head(&mut resumed).await, [""; 0]);
    assert_eq!(copied(&resumed), copied(&mirror));
    api.stop().await;
}

/// Promise: a change costs a load of the keys that it names, and not more; what was loaded with an
/// earlier change is not loaded again.
#[tokio::test]
async fn a_change_loads_what_it_names() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for tag in TAGS {
        acme.put(&format!("{tag}k"), &json!("old")).await.expect(201);
    }
    api.sweep(3).await;
    let mut mirror = mirror(&api, &acme, 2, None);
    to_head(&mut mirror).await;
    for n in 0..3 {
        acme.put("tenant_config_k", &json!(n)).await.expect(200);
    }
    // Its put stands in an earlier page than its deletion: it is looked for, and not there any
    // more.
    acme.put("tenant_config_gone", &json!(1)).await.expect(201);
    acme.delete("tenant_config_gone").await.expect(200);
    // Each answer costs a look at the head: five pages, each with one change that is new, and two
    // loads.
    let (answers, lines) = api.calls_during("GetItem", async { to_head(&mut mirror).await }).await;
    assert_eq!((answers, lines.as_slice()), (5 + 2, &["put     tenant_config_k version 4, revision 8".to_owned()][..]));
    let (answers, lines) = api.calls_during("GetItem", async { to_head(&mut mirror).await }).await;
    assert_eq!((answers, lines.len()), (1, 0), "at the head nothing is loaded");
    api.stop().await;
}

/// Promise: a failure in the middle leaves the copy as it was; the step says how long to wait, at
/// least as long as the service asks for, with jitter; and taken again it goes on.
#[tokio::test]
async fn failures_are_waited_out() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    let mut mirror = mirror(&api, &acme, MAX_PAGE, None);
    let faults = api.suite.emulator().faults();
    let check = async |mirror: &mut Mirror, operation: &str, fault: Fault, asked: u64, times: u32| {
        faults.inject(operation, fault, 1_000);
        for failures in 0..times {
            let step = mirror.step().await.expect("a step");
            let Next::Wait(time) = step.next else { panic!("{operation}: {:?}", step.next) };
            let (asked, jitter) = (Duration::from_secs(asked), Duration::from_millis(200 << failures));
            assert!((asked..=asked + jitter).contains(&time) && step.events.is_empty(), "{operation}: {time:?}");
        }
        faults.clear();
        api.pass(CIRCUIT);
    };
    check(&mut mirror, "GetItem", Fault::InternalError, 2, 2).await;
    assert_eq!(mirror.step().await.expect("a step").next, Next::Continue);
    check(&mut mirror, "Query", Fault::Throttle, 1, 1).await;
    to_head(&mut mirror).await;
    let before = copied(&mirror);
    acme.put("tenant_config_k", &json!(2)).await.expect(200);
    acme.put("secret_config_k", &json!("s")).await.expect(201);
    check(&mut mirror, "GetParameters", Fault::Throttle, 1, 1).await;
    assert_eq!(copied(&mirror), before);
    assert_eq!(to_head(&mut mirror).await.len(), 2);
    assert_eq!(copied(&mirror), listed(&acme).await);

    let client = Client::new(api.suite.http_url(), "no token").expect("a client");
    let refused = Mirror::new(client, MAX_PAGE, None).step().await.map(|step| step.next);
    let error = refused.expect_err("nobody without a token").to_string();
    assert!(error.contains("/v1/changes answered 401"), "{error}");
    api.stop().await;
}

/// Promise: a value that its store has lost is told as such, with its version; and what becomes of
/// it in the end, too.
#[tokio::test]
async fn a_lost_value_is_told() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("secret_config_k", &json!("old")).await.expect(201);
    acme.put("secret_config_k/below", &json!("stays")).await.expect(201);
    api.sweep(3).await;
    let mut mirror = mirror(&api, &acme, MAX_PAGE, None);
    to_head(&mut mirror).await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    acme.put("secret_config_k", &json!("new")).await.expect(200);
    let name = acme.parameter_name("secret_config_", "k");
    api.parameter_store().delete_parameter().name(name).send().await.expect("it was there");
    let lines = to_head(&mut mirror).await;
    assert_eq!(lines, ["put     secret_config_k version 2, revision 3, its value is lost"]);
    assert_eq!(copied(&mirror), listed(&acme).await);
    assert_eq!(to_head(&mut mirror).await, [""; 0]);
    api.sweep(3).await;
    assert_eq!(to_head(&mut mirror).await, ["delete  secret_config_k"]);
    assert_eq!(copied(&mirror), listed(&acme).await);
    api.stop().await;
}

/// Promise: changes of a tag that lost its route hold up nothing.
#[tokio::test]
async fn keys_that_are_not_served_any_more_are_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let routes = r#"{"tenant_config_": {"store": "dynamodb"}, "lost_config_": {"store": "dynamodb"}}"#;
    let start = async |routes: &str| {
        let parameters = [("TagRoutes".to_owned(), routes.to_owned())].into();
        let data = Some(folder.path().to_owned());
        Api::with(local::Options { data, parameters, ..local::Options::default() }).await
    };
    let api = start(routes).await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    let mut first = mirror(&api, &acme, MAX_PAGE, None);
    to_head(&mut first).await;
    for n in 0..3 {
        acme.put(&format!("lost_config_{n}"), &json!(n)).await.expect(201);
    }
    acme.put("tenant_config_k", &json!(2)).await.expect(200);
    api.stop().await;

    let api = start(r#"{"tenant_config_": {"store": "dynamodb"}}"#).await;
    let acme = api.tenant("acme");
    let mut resumed = mirror(&api, &acme, MAX_PAGE, stop(&first));
    assert_eq!(to_head(&mut resumed).await, ["put     tenant_config_k version 2, revision 5"]);
    assert_eq!(copied(&resumed), listed(&acme).await);
    api.stop().await;
}

/// Promise: a table that was restored is not followed as if nothing had happened, whether it got a
/// new epoch, or its newest revision or its last change is another one; nor is a list believed that
/// was read half before and half after.
#[tokio::test]
async fn a_restored_table_is_listed_anew() {
    let api = Api::start().await;
    let last_change = "CHANGE#00000000000000000003";
    for (case, sort_key, attribute, reason) in [
        ("another epoch", "HEAD", "epoch", "began a new life"),
        ("another history", last_change, "author", "last change is not in the feed"),
        ("an earlier head", "HEAD", "revision", "last change is not in the feed"),
        ("an earlier head, and a full page", "HEAD", "revision", "went back while it was listed"),
    ] {
        let acme = &api.tenant(&case.replace([' ', ','], "-"));
        for n in 1..=3 {
            acme.put(&format!("tenant_config_{n}"), &json!(n)).await.expect(201);
        }
        let mut mirror = mirror(&api, acme, 2, None);
        if attribute == "revision" && reason.contains("listed") {
            for _ in ["the epoch", "the first page"] {
                mirror.step().await.expect("a step");
            }
        } else {
            to_head(&mut mirror).await;
        }
        let number = |text: &str| AttributeValue::N(text.to_owned());
        let value = if attribute == "revision" { number("2") } else { AttributeValue::S("restored".to_owned()) };
        api.set(acme, sort_key, attribute, value).await;
        let lines = to_head(&mut mirror).await;
        assert!(lines[0].starts_with("list") && lines[0].contains(reason), "{case}: {lines:?}");
        assert_eq!(copied(&mirror), listed(acme).await, "{case}");
    }
    api.stop().await;
}
