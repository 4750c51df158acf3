//! What Parameter Store refuses for good. A refusal that is known beforehand is an answer before
//! the commit. One that shows afterwards is a commit of its own, is tried again seldom, and heals
//! when the cause is gone.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_ssm::types::ParameterType;
use emulator::{EventFate, Fault};
use serde_json::{Value, json};
use tenantry::{ledger::GRACE, telemetry::Telemetry};

use crate::{
    crash::put,
    harness::{Answer, Api, ROUTES, Tenant},
    operator::{edit, remove, told_of},
    stream::Instance,
    traces::{comes_late, die_at},
};

const MINUTE: Duration = Duration::from_mins(1);
/// The tags whose values are committed before they are put.
const TAGS: [&str; 2] = ["param_config_", "back_config_"];

/// Telemetry, and the lines that it writes.
fn lines() -> (Telemetry, Arc<Mutex<Vec<Value>>>) {
    let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
    let written = Arc::clone(&lines);
    let write = move |line: &str| {
        let line = serde_json::from_str(line).expect("JSON");
        written.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    };
    (Telemetry::to(write, None), lines)
}

/// Does something that no event tells of.
async fn unseen(api: &Api, doing: impl Future<Output = ()>) {
    api.suite.emulator().set_event_fate(EventFate::Lost);
    doing.await;
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Delivered);
}

/// What an entry, a version or a write says of its store: none, or the reason for which it is
/// refused.
#[track_caller]
fn refusal(one: &Value) -> Option<&str> {
    let store = one.get("store")?;
    assert_eq!(store["state"], "refused");
    assert!(store["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{store}");
    Some(store["reason"].as_str().expect("a reason"))
}

fn operations(changes: &Answer) -> Vec<Value> {
    let changes = changes.body["changes"].as_array().expect("changes");
    changes.iter().map(|change| change["keys"][0]["operation"].clone()).collect()
}

/// What an operator's parameter of another type is in the way of, which the ledger does not know
/// yet.
async fn refused_write(api: &Api, acme: &Tenant<'_>, tag: &str) -> Answer {
    let name = acme.parameter_name(tag, "l");
    unseen(api, edit(api, &name, "a,b", ParameterType::StringList)).await;
    let written = acme.put(&format!("{tag}l"), &json!("ours")).await.expect(201);
    api.settled().await;
    written
}

/// Promise: a write that a known obstacle would have refused is a 422 with the reason, and commits
/// nothing. Once the obstacle is gone the key is written as ever, even if no event told of that.
#[tokio::test]
async fn what_is_known_to_be_in_the_way_is_said_before_the_commit() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for tag in TAGS {
        let (key, name) = (format!("{tag}l"), acme.parameter_name(tag, "l"));
        for is_told in [true, false] {
            edit(&api, &name, "a,b", ParameterType::StringList).await;
            api.settled().await;
            let adopted = acme.get(&key).await.expect(200);
            assert_eq!((&adopted.body["value"], &adopted.body["author"]), (&json!("a,b"), &json!("external")), "{tag}");
            let version = adopted.number("version");
            let transaction = json!([
                {"op": "put", "key": "tenant_config_x", "value": 1},
                {"op": "put", "key": key, "value": "ours"},
            ]);
            for refused in [
                acme.put(&key, &json!("ours")).await,
                acme.roll_back(&key, version).await,
                acme.transaction(&transaction).await,
            ] {
                let refused = refused.expect_problem(422, "unprocessable");
                assert_eq!((&refused.body["reason"], &refused.body["key"]), (&json!("type-mismatch"), &json!(key)));
                assert!(refused.text.contains("an operator has to move it away"), "{}", refused.text);
            }
            api.settled().await;
            let now = acme.get(&key).await.expect(200);
            assert_eq!(
                (now.revision(), now.number("version")),
                (adopted.revision(), version),
                "{tag}: nothing is committed"
            );

            if is_told {
                remove(&api, &name).await;
            } else {
                unseen(&api, remove(&api, &name)).await;
            }
            api.settled().await;
            let written = acme.put(&key, &json!("ours")).await;
            assert!(matches!(written.status, 200 | 201) && refusal(&written.body).is_none(), "{tag}: {}", written.text);
            api.settled().await;
            assert_eq!(api.parameter(&name).await, Some(("ours".to_owned(), 1)), "{tag}");
            acme.delete(&key).await.expect(200);
            api.settled().await;
        }
    }
    // A write that goes around the ledger is told by its own put.
    edit(&api, &acme.parameter_name("secret_config_", "l"), "a,b", ParameterType::StringList).await;
    api.settled().await;
    let refused = acme.put("secret_config_l", &json!("ours")).await.expect_problem(422, "unprocessable");
    assert_eq!((&refused.body["reason"], &refused.body["key"]), (&json!("type-mismatch"), &json!("secret_config_l")));
    api.stop().await;
}

/// Promise: a refusal that shows after the commit is a commit of its own. The entry shows it
/// everywhere, the feed has it once, and it heals, with a commit, when the cause is gone.
#[tokio::test]
async fn what_turns_out_after_the_commit_is_told_everywhere() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for tag in TAGS {
        let key = format!("{tag}l");
        let before = acme.list("").await.expect(200).revision();
        let written = refused_write(&api, &acme, tag).await;
        // Who puts at once says it at once.
        let at_once = (tag == "param_config_").then_some("type-mismatch");
        assert_eq!(refusal(&written.body), at_once, "{}", written.text);
        assert_eq!(written.body.get("pending").is_some(), at_once.is_none(), "{}", written.text);

        let read = acme.get(&key).await.expect(200);
        assert_eq!((read.number("version"), &read.body["value"], read.revision()), (1, &json!("ours"), before + 2));
        let listed = acme.list(&format!("prefix={key}")).await.expect(200);
        let found = acme.batch_get(&[&key]).await.expect(200);
        let history = acme.history(&key).await.expect(200);
        let version = acme.get(&format!("{key}?version=1")).await.expect(200);
        for (where_shown, one) in [
            ("entry", &read.body),
            ("list", &listed.body["entries"][0]),
            ("batch", &found.body["found"][0]),
            ("history", &history.body["versions"][0]),
            ("version", &version.body),
        ] {
            assert_eq!(refusal(one), Some("type-mismatch"), "{where_shown}: {one}");
        }
        let changes = acme.changes(&format!("since={before}")).await.expect(200);
        assert_eq!(operations(&changes), ["put", "refuse"], "{}", changes.text);
        let told = &changes.body["changes"][1]["keys"][0];
        assert_eq!((refusal(told), &told["version"]), (Some("type-mismatch"), &json!(1)));
        assert_eq!(changes.body["changes"][1]["author"], "external");

        // It shows something else than the write's tag stands for; for writes it is the same
        // version.
        assert_ne!(read.etag(), written.etag());
        assert_eq!(read.body["etag"], written.etag());
        acme.get(&key).header("if-none-match", written.etag()).await.expect(200);
        acme.get(&key).header("if-none-match", read.etag()).await.expect(304);
        for tag in [read.etag(), written.etag()] {
            let known = acme.put(&key, &json!("more")).header("if-match", tag).await;
            assert_eq!(known.expect_problem(422, "unprocessable").body["reason"], "type-mismatch");
            acme.put(&key, &json!("more"))
                .header("if-none-match", tag)
                .await
                .expect_problem(412, "precondition-failed");
        }

        remove(&api, &acme.parameter_name(tag, "l")).await;
        api.settled().await;
        let healed = acme.get(&key).await.expect(200);
        assert_eq!((refusal(&healed.body), healed.etag(), healed.number("version")), (None, written.etag(), 1));
        acme.get(&key).header("if-none-match", read.etag()).await.expect(200);
        assert_eq!(refusal(&acme.history(&key).await.expect(200).body["versions"][0]), None);
        assert_eq!(api.parameter(&acme.parameter_name(tag, "l")).await, Some(("ours".to_owned(), 1)));
        let changes = acme.changes(&format!("since={before}")).await.expect(200);
        assert_eq!(operations(&changes), ["put", "refuse", "accept"], "{}", changes.text);
        // And the outbox is empty.
        let (puts, ()) = api.calls_during("PutParameter", api.sweep(5)).await;
        assert_eq!((puts, acme.get(&key).await.revision()), (0, healed.revision()));
    }
    api.stop().await;
}

/// Promise: a refusal ends with whatever makes another value current: a delete, and an operator's
/// edit.
#[tokio::test]
async fn what_replaces_a_refused_version_is_not_refused() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    refused_write(&api, &acme, "param_config_").await;
    let name = acme.parameter_name("param_config_", "l");
    // Nor does an event tell of the commit, whose receiver would see that the outbox is empty.
    unseen(&api, async {
        edit(&api, &name, "a,b,c", ParameterType::StringList).await;
        api.suite.invoke("config-refresh", told_of(&name)).await.expect("an import");
    })
    .await;
    let edited = acme.get("param_config_l").await.expect(200);
    assert_eq!((refusal(&edited.body), &edited.body["value"]), (None, &json!("a,b,c")), "{}", edited.text);
    let kept = api.item(&acme, "ENTRY#param_config_l").await;
    assert!(!kept.contains_key("outboxShard"), "it is in no outbox any more: {kept:?}");
    // What never got there goes on saying so in the history.
    let history = acme.history("param_config_l").await.expect(200);
    let ours = history.body["versions"].as_array().expect("versions").iter().find(|one| one["value"] == "ours");
    assert_eq!(ours.and_then(refusal), Some("type-mismatch"), "{}", history.text);

    refused_write(&api, &acme, "back_config_").await;
    acme.delete("back_config_l").await.expect(200);
    acme.get("back_config_l").await.expect(404);
    let (puts, ()) = api.calls_during("PutParameter", api.sweep(6)).await;
    assert_eq!(puts, 0);
    let theirs = api.parameter(&acme.parameter_name("back_config_", "l")).await.map(|(text, _)| text);
    assert_eq!(theirs.as_deref(), Some("a,b"), "an operator's parameter is not removed");
    api.stop().await;
}

/// Promise: a label on the oldest of the 100 versions refuses the next put. Once the label has
/// moved the value is put at once.
#[tokio::test]
async fn a_label_on_the_oldest_version_is_waited_for() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    unseen(&api, async {
        for n in 1..100 {
            edit(&api, &name, &format!("edit {n}"), ParameterType::String).await;
        }
    })
    .await;
    edit(&api, &name, "edit 100", ParameterType::String).await;
    api.settled().await;
    let label = |version| {
        let request = api.parameter_store().label_parameter_version().name(&name).labels("stable");
        request.parameter_version(version).send()
    };
    label(1).await.expect("it is there");
    api.settled().await;

    let written = acme.put("param_config_k", &json!("ours")).await.expect(200);
    assert_eq!(refusal(&written.body), Some("oldest-version-labelled"), "{}", written.text);
    let known = acme.put("param_config_k", &json!("ours again")).await.expect_problem(422, "unprocessable");
    assert_eq!(known.body["reason"], "oldest-version-labelled");
    api.settled().await;
    label(50).await.expect("it is there");
    api.settled().await;
    let healed = acme.get("param_config_k").await.expect(200);
    assert_eq!((refusal(&healed.body), &healed.body["value"]), (None, &json!("ours")), "{}", healed.text);
    assert_eq!(api.parameter(&name).await, Some(("ours".to_owned(), 101)));
    acme.put("param_config_k", &json!("ours again")).await.expect(200);
    assert_eq!(api.parameter(&name).await, Some(("ours again".to_owned(), 102)));
    api.stop().await;
}

/// Promise: at the account's limit of parameters a secret's write fails; any other value is
/// committed and shows the refusal. It is tried again after as long as it has been refused, 10
/// minutes at least and 6 hours at most. That counts as no failure and adds no age to the outbox;
/// and it heals.
#[tokio::test]
async fn what_nobody_tells_of_is_tried_again_seldom() {
    let (telemetry, lines) = lines();
    let api = Api::frozen_with(local::Options { telemetry, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    acme.put("param_config_first", &json!(1)).await.expect(201);
    api.settled().await;
    api.suite.emulator().limit_parameters(1);
    let secret = acme.put("secret_config_s", &json!("s")).await.expect_problem(422, "unprocessable");
    assert_eq!(secret.body["reason"], "parameter-limit");
    acme.get("secret_config_s").await.expect(404);
    let written = acme.put("param_config_k", &json!("v")).await.expect(201);
    assert_eq!(refusal(&written.body), Some("parameter-limit"), "{}", written.text);
    // The limit cannot be asked for: the next version is committed as well, and refused as well.
    let written = acme.put("param_config_k", &json!("w")).await.expect(200);
    assert_eq!(refusal(&written.body), Some("parameter-limit"), "{}", written.text);
    api.settled().await;
    let refused = acme.get("param_config_k").await.expect(200);

    // How many puts there are when so much time has passed; never a failure, never old work, never
    // another commit.
    let sweep = async |time: Duration| {
        api.pass(time);
        lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let (puts, swept) = api.calls_during("PutParameter", api.suite.run_schedules()).await;
        swept.expect("a sweep");
        api.settled().await;
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.iter().find(|line| line["Route"] == "schedule").expect("a line of the sweep");
        assert_eq!((&line["failed"], &line["refused"]), (&json!(0), &json!(puts)), "{line}");
        (puts, line["OutboxAge"].as_f64().expect("an age"))
    };
    let mut puts = Vec::new();
    for minute in 1..=45 {
        let (count, age) = sweep(MINUTE).await;
        assert!(age < 60.0, "{age} in minute {minute}");
        if count > 0 {
            puts.push(minute);
        }
    }
    assert_eq!(puts, [10, 20, 40]);
    api.pass(Duration::from_secs(100 * 3_600 - 30));
    assert_eq!(sweep(Duration::ZERO).await.0, 1, "due long ago");
    assert_eq!(sweep(Duration::from_secs(6 * 3_600 - 30)).await.0, 0);
    assert_eq!(sweep(MINUTE / 2).await.0, 1);
    let still = acme.get("param_config_k").await.expect(200);
    assert_eq!((still.revision(), &still.body["store"]), (refused.revision(), &refused.body["store"]));

    api.suite.emulator().limit_parameters(10);
    api.pass(Duration::from_hours(6));
    api.suite.run_schedules().await.expect("a sweep");
    api.settled().await;
    assert_eq!(refusal(&acme.get("param_config_k").await.expect(200).body), None);
    assert_eq!(api.parameter(&acme.parameter_name("param_config_", "k")).await, Some(("w".to_owned(), 1)));
    api.stop().await;
}

/// Promise: a process that dies before a refusal, or its end, is committed leaves it to be found
/// again.
#[tokio::test]
async fn a_refusal_that_was_not_committed_is_found_again() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    api.suite.emulator().limit_parameters(0);
    unseen(&api, async { _ = acme.put("back_config_k", &json!("v")).await.expect(201) }).await;
    let faults = api.suite.emulator().faults();
    for (limit, operations_then) in [(0, vec!["put", "refuse"]), (10, vec!["put", "refuse", "accept"])] {
        api.suite.emulator().limit_parameters(limit);
        faults.inject("TransactWriteItems", Fault::InternalError, 1_000);
        api.pass(GRACE * 11);
        api.suite.run_schedules().await.expect("a sweep");
        let known = acme.changes("since=0").await.expect(200);
        assert_eq!(operations(&known).len(), operations_then.len() - 1, "{limit}: {}", known.text);
        faults.clear();
        api.sweep(6).await;
        let told = acme.changes("since=0").await.expect(200);
        assert_eq!(operations(&told), operations_then, "{limit}");
    }
    assert_eq!(
        api.parameter(&acme.parameter_name("back_config_", "k")).await.map(|(text, _)| text),
        Some("v".to_owned())
    );
    assert_eq!(refusal(&acme.get("back_config_k").await.expect(200).body), None);
    api.stop().await;
}

/// Promise: a watcher sees a refusal and its end as commits that change no value. A watcher that
/// begins later has the value.
#[tokio::test]
async fn a_watcher_keeps_the_value() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_a", &json!(1)).await.expect(201);
    let instance = Instance::start(&api, &[]).await;
    let (mut watching, _) = instance.tenant(&acme).watch().await;
    refused_write(&api, &acme, "param_config_").await;
    remove(&api, &acme.parameter_name("param_config_", "l")).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        for change in watching.update().await.changes {
            let operation = change.operation();
            told.push((operation.as_str_name(), change.version, change.entry.is_some()));
        }
    }
    assert_eq!(told, [("OPERATION_PUT", 1, true), ("OPERATION_REFUSE", 1, false), ("OPERATION_ACCEPT", 1, false)]);
    assert_eq!(instance.tenant(&acme).value("param_config_l").await.0, r#""ours""#);
    instance.stream.stop().await;
}

/// Promise: a key that is refused, and whose tag moves into the ledger, is not refused any more,
/// and never counts as refused again.
#[tokio::test]
async fn a_tag_without_a_store_is_not_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (telemetry, lines) = lines();
    let with = |routes: &str| {
        let parameters = [("TagRoutes".to_owned(), routes.to_owned())].into();
        let (data, telemetry) = (Some(folder.path().to_owned()), telemetry.clone());
        Api::with(local::Options { data, parameters, telemetry, ..local::Options::default() })
    };
    let api = with(ROUTES).await;
    let acme = api.tenant("acme");
    refused_write(&api, &acme, "param_config_").await;
    let refused = acme.get("param_config_l").await.expect(200);
    assert_eq!(refusal(&refused.body), Some("type-mismatch"));
    api.stop().await;

    let api = with(
        &ROUTES
            .replace(r#""param_config_": {"store": "parameter-store"}"#, r#""param_config_": {"store": "dynamodb"}"#),
    )
    .await;
    let acme = api.tenant("acme");
    lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
    api.suite.run_schedules().await.expect("a sweep");
    let counted: Vec<_> = {
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter_map(|line| line.get("RefusedKeys").cloned()).collect()
    };
    assert_eq!(counted, [json!(0)], "nobody can do anything about it");
    // When it is due again.
    api.sweep(5).await;
    let kept = acme.get("param_config_l").await.expect(200);
    assert_eq!((refusal(&kept.body), &kept.body["value"]), (None, &json!("ours")), "{}", kept.text);
    assert!(!api.item(&acme, "ENTRY#param_config_l").await.contains_key("outboxShard"));
    let changes = acme.changes(&format!("since={}", refused.revision() - 2)).await.expect(200);
    assert_eq!(operations(&changes), ["put", "refuse", "accept"], "{}", changes.text);
    api.stop().await;
}

/// Promise: if an operator made a parameter anew of another type, and it was imported beneath a
/// newer value that is refused, a delete of the key leaves the parameter alone. Once the parameter
/// is gone, nothing says any more that it is there.
#[tokio::test]
async fn what_an_operator_made_anew_is_not_removed() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for (tag, is_told, is_deleted) in [
        ("param_config_", true, true),
        ("back_config_", true, true),
        ("back_config_", false, true),
        ("param_config_", true, false),
    ] {
        let base = format!("{is_told}{is_deleted}");
        let (key, name) = (format!("{tag}{base}"), acme.parameter_name(tag, &base));
        if is_told {
            acme.put(&key, &json!("ours")).await.expect(201);
            api.settled().await;
        } else {
            // Our put is never imported.
            unseen(&api, async { _ = acme.put(&key, &json!("ours")).await.expect(201) }).await;
            api.sweep(1).await;
            api.remove_attribute(&acme, &format!("ENTRY#{key}"), "importedThrough").await;
            api.remove_attribute(&acme, &format!("ENTRY#{key}"), "importedThroughModifiedAt").await;
        }
        unseen(&api, async {
            remove(&api, &name).await;
            edit(&api, &name, "a,b", ParameterType::StringList).await;
        })
        .await;
        acme.put(&key, &json!("more")).await.expect(200);
        api.settled().await;
        assert_eq!(refusal(&acme.get(&key).await.expect(200).body), Some("type-mismatch"));
        api.suite.invoke("config-refresh", told_of(&name)).await.expect("an import");
        let read = acme.get(&key).await.expect(200);
        assert_eq!((refusal(&read.body), &read.body["value"]), (Some("type-mismatch"), &json!("more")));
        let history = acme.history(&key).await.expect(200);
        assert_eq!(history.each("versions", "value"), ["a,b", "more", "ours"], "{}", history.text);
        assert!(api.item(&acme, &format!("ENTRY#{key}")).await.contains_key("otherType"));

        if is_deleted {
            acme.delete(&key).await.expect(200);
            api.sweep(3).await;
            let left = api.parameter(&name).await.map(|(text, _)| text);
            assert_eq!(left.as_deref(), Some("a,b"), "{key}: an operator's parameter is not removed");
            acme.get(&key).await.expect(404);
        } else {
            remove(&api, &name).await;
            api.settled().await;
            assert_eq!(api.parameter(&name).await, Some(("more".to_owned(), 1)));
            assert!(!api.item(&acme, &format!("ENTRY#{key}")).await.contains_key("otherType"));
        }
    }
    api.stop().await;
}

/// Promise: a late put may lie on top of a value that was in its place, and that cannot be put on
/// top again. That is a refusal as well, is shown as one, and heals.
#[tokio::test]
async fn what_cannot_be_put_back_on_top_is_refused() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    unseen(&api, async {
        for n in 1..98 {
            edit(&api, &name, &format!("edit {n}"), ParameterType::String).await;
        }
    })
    .await;
    edit(&api, &name, "edit 98", ParameterType::String).await;
    api.settled().await;
    let late = die_at(&api, "PutParameter", 0, "config-write", put(&acme, "param_config_k", "first")).await;
    let before = acme.put("param_config_k", &json!("second")).await.expect(200);
    api.settled().await;
    assert_eq!(api.parameter(&name).await, Some(("second".to_owned(), 99)));
    comes_late(&api, &name, "first", late).await;
    let label = |version| {
        let request = api.parameter_store().label_parameter_version().name(&name).labels("stable");
        request.parameter_version(version).send()
    };
    label(1).await.expect("it is there");
    api.sweep(1).await;
    let refused = acme.get("param_config_k").await.expect(200);
    let shown = (refusal(&refused.body), &refused.body["value"]);
    assert_eq!(shown, (Some("oldest-version-labelled"), &json!("second")), "{}", refused.text);
    let changes = acme.changes(&format!("since={}", before.revision())).await.expect(200);
    assert_eq!(operations(&changes), ["refuse"], "{}", changes.text);
    // From then on it is tried again as seldom as whatever is refused.
    let (puts, ()) = api.calls_during("PutParameter", api.sweep(2)).await;
    assert_eq!(puts, 0);
    label(50).await.expect("it is there");
    api.settled().await;
    let healed = acme.get("param_config_k").await.expect(200);
    assert_eq!((refusal(&healed.body), healed.etag()), (None, before.etag()), "{}", healed.text);
    assert_eq!(api.parameter(&name).await, Some(("second".to_owned(), 101)));
    let kept = api.item(&acme, "ENTRY#param_config_k").await;
    assert!(!kept.contains_key("outboxShard") && !kept.contains_key("intents"), "{kept:?}");
    api.stop().await;
}

/// Promise: while other commits come first all the time, a refusal cannot be committed. The value
/// is put once in a run and no more, and nothing counts as failed; the next run commits the
/// refusal.
#[tokio::test]
async fn a_refusal_that_finds_no_room_is_left_for_the_next_run() {
    let (telemetry, lines) = lines();
    let api = Api::with(local::Options { telemetry, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    unseen(&api, async { _ = acme.put("back_config_k", &json!("v")).await.expect(201) }).await;
    let faults = api.suite.emulator().faults();
    for (limit, operations_then) in [(0, vec!["put", "refuse"]), (10, vec!["put", "refuse", "accept"])] {
        api.suite.emulator().limit_parameters(limit);
        faults.inject("TransactWriteItems", Fault::TransactionConflict, 1_000);
        api.pass(GRACE * 11);
        lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let (puts, swept) = api.calls_during("PutParameter", api.suite.run_schedules()).await;
        swept.expect("a sweep");
        assert_eq!(puts, 1, "{limit}");
        {
            let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            let line = lines.iter().find(|line| line["Route"] == "schedule").expect("a line of the sweep");
            assert_eq!(line["failed"], 0, "{limit}: {line}");
        }
        faults.clear();
        api.sweep(1).await;
        let told = acme.changes("since=0").await.expect(200);
        assert_eq!(operations(&told), operations_then, "{limit}");
    }
    assert_eq!(refusal(&acme.get("back_config_k").await.expect(200).body), None);
    api.stop().await;
}

/// Promise: the comparison meets a refused key whose parameter is gone in each round. It does not
/// try the put while the cause cannot be seen to be gone; once that can be seen, it does.
#[tokio::test]
async fn the_comparison_tries_nothing_in_vain() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    acme.put("param_config_k", &json!("v")).await.expect(201);
    api.settled().await;
    unseen(&api, remove(&api, &name)).await;
    api.suite.emulator().limit_parameters(0);
    let written = acme.put("param_config_k", &json!("w")).await.expect(200);
    assert_eq!(refusal(&written.body), Some("parameter-limit"), "{}", written.text);
    api.settled().await;
    let mut tried = Vec::new();
    for minute in 1..=21 {
        api.pass(MINUTE);
        let (puts, swept) = api.calls_during("PutParameter", api.suite.run_schedules()).await;
        swept.expect("a sweep");
        api.settled().await;
        tried.extend((puts > 0).then_some((minute, puts)));
    }
    assert_eq!(tried, [(10, 1), (20, 1)]);
    api.suite.emulator().limit_parameters(10);

    let name = acme.parameter_name("param_config_", "l");
    acme.put("param_config_l", &json!("v")).await.expect(201);
    api.settled().await;
    unseen(&api, async {
        remove(&api, &name).await;
        edit(&api, &name, "a,b", ParameterType::StringList).await;
        let written = acme.put("param_config_l", &json!("w")).await.expect(200);
        assert_eq!(refusal(&written.body), Some("type-mismatch"), "{}", written.text);
        remove(&api, &name).await;
    })
    .await;
    api.pass(MINUTE);
    api.suite.run_schedules().await.expect("a sweep");
    assert_eq!(api.parameter(&name).await, Some(("w".to_owned(), 1)));
    api.stop().await;
}
