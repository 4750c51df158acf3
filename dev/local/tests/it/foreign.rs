//! Edits made in Parameter Store itself, behind the suite's back: each becomes a version by
//! `external`.

use aws_sdk_ssm::types::ParameterType;
use emulator::EventFate;
use local::Options;
use serde_json::{Value, json};
use tenantry::ledger::GRACE;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    harness::{Answer, Api, Tenant},
    operator::{edit, kind_of, remove, told_of},
};

const TAGS: [&str; 3] = ["param_config_", "back_config_", "secret_config_"];

/// A suite where a tenant has written `"ours"` under each of the tags, and Parameter Store has it.
async fn written(api: &Api) -> Tenant<'_> {
    let acme = api.tenant("acme");
    for tag in TAGS {
        acme.put(&format!("{tag}k"), &json!("ours")).await.expect(201);
    }
    api.settled().await;
    acme
}

/// The members of a version or an entry that tell the story.
fn story(one: &Value) -> Value {
    json!([one["version"], one["author"], one["value"]])
}

fn versions(history: &Answer) -> Vec<Value> {
    history.body["versions"].as_array().expect("versions").iter().map(story).collect()
}

/// Promise: an edit behind our back is the next version, by `external`, at Parameter Store's own
/// time; it stands in the change feed; and only that key is loaded again.
#[tokio::test]
async fn an_edit_is_the_next_version() {
    let api = Api::start().await;
    let acme = written(&api).await;
    acme.put("tenant_config_other", &json!(1)).await.expect(201);
    for tag in TAGS {
        let key = format!("{tag}k");
        acme.get("tenant_config_other").await.expect(200);
        let before = acme.get(&key).await.expect(200);
        edit(&api, &acme.parameter_name(tag, "k"), "theirs", kind_of(tag)).await;
        api.settled().await;

        let read = acme.get(&key).await.expect(200);
        assert_eq!(story(&read.body), json!([2, "external", "theirs"]), "{tag}");
        assert_ne!(read.etag(), before.etag());
        let parameter = api.parameter_store().get_parameter().name(acme.parameter_name(tag, "k")).send().await;
        let edited_at =
            parameter.expect("it is there").parameter.and_then(|one| one.last_modified_date).expect("a date");
        let modified_at =
            OffsetDateTime::parse(read.body["modifiedAt"].as_str().expect("a time"), &Rfc3339).expect("a time");
        assert_eq!(
            modified_at.unix_timestamp_nanos() / 1_000_000,
            i128::from(edited_at.to_millis().expect("a time")),
            "{tag}"
        );
        let since = before.revision();
        let changes = acme.changes(&format!("since={since}")).await.expect(200);
        assert_eq!(
            changes.body["changes"][0]["keys"],
            json!([{"key": key, "version": 2, "operation": "put"}]),
            "{}",
            changes.text
        );
        assert_eq!(changes.body["changes"][0]["author"], "external");
        // The other key is still in memory: one read of the head, and one of what changed since.
        let (gets, _) = api.calls_during("GetItem", acme.get("tenant_config_other")).await;
        assert_eq!(gets, 1, "{tag}");

        // And what we write goes on from there.
        acme.put(&key, &json!("ours again")).header("if-match", read.etag()).await.expect(200);
        api.settled().await;
        assert_eq!(story(&acme.get(&key).await.body), json!([3, "acme-developer", "ours again"]));
        assert_eq!(
            api.parameter(&acme.parameter_name(tag, "k")).await.map(|(text, _)| text),
            Some("ours again".to_owned())
        );
    }
    api.stop().await;
}

/// Promise: fifty edits within a moment are fifty versions, in their order.
#[tokio::test]
async fn a_burst_of_edits_is_all_there() {
    let api = Api::start().await;
    let acme = written(&api).await;
    let name = acme.parameter_name("param_config_", "k");
    for n in 1..=50 {
        edit(&api, &name, &format!("edit {n}"), ParameterType::String).await;
    }
    api.settled().await;
    let history = acme.history("param_config_k?limit=100").await.expect(200);
    let expected = (1..=50).rev().map(|n| json!([n + 1, "external", format!("edit {n}")])).chain([json!([
        1,
        "acme-developer",
        "ours"
    ])]);
    assert_eq!(versions(&history), expected.collect::<Vec<_>>());
    api.stop().await;
}

/// Promise: a parameter that is removed behind our back is a deleted key, and one that is made anew
/// is its next version, in whichever type; a secret's plaintext then stays in Parameter Store.
#[tokio::test]
async fn removals_and_new_lives_are_seen() {
    let api = Api::start().await;
    let acme = written(&api).await;
    for tag in TAGS {
        let (key, name) = (format!("{tag}k"), acme.parameter_name(tag, "k"));
        remove(&api, &name).await;
        api.settled().await;
        acme.get(&key).await.expect(404);
        let history = acme.history(&key).await.expect(200);
        assert_eq!(history.body["versions"][0]["operation"], "delete", "{tag}");
        assert_eq!(history.body["versions"][0]["author"], "external", "{tag}");

        edit(&api, &name, "a new life", ParameterType::SecureString).await;
        edit(&api, &name, "its second day", ParameterType::SecureString).await;
        api.settled().await;
        assert_eq!(story(&acme.get(&key).await.expect(200).body), json!([4, "external", "its second day"]), "{tag}");
        let item = api.item(&acme, &format!("ENTRY#{key}")).await;
        assert!(
            !item.contains_key("value") && item.contains_key("locatorVersion"),
            "{tag}: a secret stays where it is"
        );

        // Both at once, and back to where the versions stood.
        remove(&api, &name).await;
        edit(&api, &name, "another life", kind_of(tag)).await;
        edit(&api, &name, "its second day", kind_of(tag)).await;
        api.settled().await;
        assert_eq!(acme.get(&key).await.expect(200).body["value"], "its second day", "{tag}");
        let history = acme.history(&key).await.expect(200);
        assert!(versions(&history).iter().any(|one| one[2] == "another life"), "{tag}: {}", history.text);
    }
    api.stop().await;
}

/// Promise: a label changes nothing.
#[tokio::test]
async fn labels_change_nothing() {
    let api = Api::start().await;
    let acme = written(&api).await;
    let before = acme.list("").await.expect(200);
    for tag in TAGS {
        let label =
            api.parameter_store().label_parameter_version().name(acme.parameter_name(tag, "k")).labels("stable");
        label.send().await.expect("it is there");
    }
    api.settled().await;
    assert_eq!(acme.list("").await.expect(200).text, before.text);
    api.stop().await;
}

/// Promise: our own puts are recognised, with one scan. A version with a copied description is
/// foreign.
#[tokio::test]
async fn our_own_puts_are_recognised() {
    let api = Api::start().await;
    let acme = written(&api).await;
    for tag in TAGS {
        let (key, name) = (format!("{tag}k"), acme.parameter_name(tag, "k"));
        acme.put(&key, &json!("ours, the second time")).await.expect(200);
        api.settled().await;
        assert_eq!(acme.get(&key).await.expect(200).body["version"], 2, "{tag}");
        let history = api.parameter_store().get_parameter_history().name(&name).send().await.expect("a history");
        let ours = history.parameters().last().and_then(|one| one.description.clone()).expect("a description");
        let copy = api.parameter_store().put_parameter().name(&name).value("a copy").r#type(kind_of(tag));
        copy.description(ours).overwrite(true).send().await.expect("Parameter Store takes it");
        api.settled().await;
        assert_eq!(story(&acme.get(&key).await.expect(200).body), json!([3, "external", "a copy"]), "{tag}");
    }
    api.stop().await;
}

/// Promise: a parameter that somebody else makes anew is theirs, even with the description that it
/// had, whether or not its removal was seen.
#[tokio::test]
async fn a_copy_in_another_life_is_not_ours() {
    let api = Api::start().await;
    for (tag, is_seen) in TAGS.into_iter().flat_map(|tag| [(tag, true), (tag, false)]) {
        let acme = api.tenant(&format!("acme-{is_seen}"));
        let (key, name) = (format!("{tag}k"), acme.parameter_name(tag, "k"));
        acme.put(&key, &json!("ours")).await.expect(201);
        api.settled().await;
        let history = api.parameter_store().get_parameter_history().name(&name).send().await.expect("a history");
        let ours = history.parameters().last().and_then(|one| one.description.clone()).expect("a description");
        if !is_seen {
            api.suite.emulator().set_event_fate(EventFate::Lost);
        }
        remove(&api, &name).await;
        api.settled().await;
        let copy = api.parameter_store().put_parameter().name(&name).value("theirs").r#type(kind_of(tag));
        copy.description(ours).send().await.expect("Parameter Store takes it");
        api.settled().await;
        api.suite.emulator().set_event_fate(EventFate::Delivered);
        api.suite.run_schedules().await.expect("a sweep");
        let version = if is_seen { 3 } else { 2 };
        assert_eq!(
            story(&acme.get(&key).await.expect(200).body),
            json!([version, "external", "theirs"]),
            "{tag} {is_seen}"
        );
        assert_eq!(api.parameter(&name).await.map(|(text, _)| text), Some("theirs".to_owned()), "{tag} {is_seen}");
    }
    api.stop().await;
}

/// Promise: parameters that appear under the root are adopted, each under its own tenant; what
/// cannot be a key's is left alone.
#[tokio::test]
async fn new_parameters_are_adopted() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    for tag in TAGS {
        edit(&api, &acme.parameter_name(tag, "db/host"), "found", kind_of(tag)).await;
    }
    for name in [
        "/tenantry/acme/no_such_tag_/k",
        "/tenantry/acme/tenant_config_/k",
        "/tenantry/acme/param_config_",
        "/tenantry/-/x",
    ] {
        edit(&api, name, "nobody's", ParameterType::String).await;
    }
    api.settled().await;
    for tag in TAGS {
        assert_eq!(story(&acme.get(&format!("{tag}db/host")).await.expect(200).body), json!([1, "external", "found"]));
    }
    assert_eq!(acme.list("").await.expect(200).each("entries", "key").len(), TAGS.len());
    assert_eq!(globex.list("").await.expect(200).each("entries", "key").len(), 0);
    api.stop().await;
}

/// Promise: an edit that our own newer put had replaced before it was seen is in the history, as
/// superseded; what is current stays, with its tag, and the next version goes on behind it. It can
/// be rolled back to.
#[tokio::test]
async fn a_replaced_edit_is_in_the_history() {
    let api = Api::start().await;
    for tag in TAGS {
        let acme = api.tenant(&format!("acme-{}", &tag[..4]));
        let (key, name) = (format!("{tag}k"), acme.parameter_name(tag, "k"));
        let author = &format!("{}-developer", acme.name);
        acme.put(&key, &json!("ours")).await.expect(201);
        api.settled().await;
        api.suite.emulator().set_event_fate(EventFate::Lost);
        edit(&api, &name, "theirs", kind_of(tag)).await;
        api.settled().await;
        api.suite.emulator().set_event_fate(EventFate::Delivered);
        let second = acme.put(&key, &json!("ours, newer")).await.expect(200);
        api.settled().await;
        let read = acme.get(&key).await.expect(200);
        assert_eq!((read.etag(), &read.body["value"]), (second.etag(), &json!("ours, newer")), "{tag}");
        let history = acme.history(&key).await.expect(200);
        assert_eq!(
            versions(&history),
            [json!([3, "external", "theirs"]), json!([2, author, "ours, newer"]), json!([1, author, "ours"])],
            "{tag}"
        );
        assert_eq!(history.each("versions", "superseded"), [json!(true), Value::Null, Value::Null]);
        let changes = acme.changes("since=2").await.expect(200);
        assert_eq!(changes.body["changes"][0]["keys"], json!([{"key": key, "version": 3, "operation": "supersede"}]));
        acme.roll_back(&key, 3).await.expect(200);
        assert_eq!(story(&acme.get(&key).await.body), json!([4, author, "theirs"]), "{tag}");
    }
    api.stop().await;
}

/// Promise: without any event the next comparison finds everything: edits, removals, new
/// parameters. It sees no values, and does not scan again what is imported.
#[tokio::test]
async fn what_no_event_tells_is_found() {
    let api = Api::start().await;
    let acme = written(&api).await;
    let globex = api.tenant("globex");
    globex.put("secret_config_gone", &json!("ours")).await.expect(201);
    globex.put("param_config_kept", &json!("ours")).await.expect(201);
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    for tag in TAGS {
        edit(&api, &acme.parameter_name(tag, "k"), "theirs", kind_of(tag)).await;
        edit(&api, &acme.parameter_name(tag, "new"), "found", kind_of(tag)).await;
    }
    // More than a page of parameters, and of entries.
    for n in 0..60 {
        edit(&api, &acme.parameter_name("param_config_", &format!("many/{n}")), "found", ParameterType::String).await;
    }
    edit(&api, "/tenantry/globex/no_such_tag_/k", "nobody's", ParameterType::String).await;
    remove(&api, &globex.parameter_name("secret_config_", "gone")).await;
    api.pass(GRACE);
    api.suite.run_schedules().await.expect("a sweep");
    for tag in TAGS {
        assert_eq!(story(&acme.get(&format!("{tag}k")).await.body), json!([2, "external", "theirs"]), "{tag}");
        assert_eq!(story(&acme.get(&format!("{tag}new")).await.body), json!([1, "external", "found"]), "{tag}");
    }
    for n in 0..60 {
        acme.get(&format!("param_config_many/{n}")).await.expect(200);
    }
    globex.get("secret_config_gone").await.expect(404);
    assert_eq!(story(&globex.get("param_config_kept").await.body)[2], "ours");
    let (reads, swept) = api.calls_during("GetParameterHistory", api.suite.run_schedules()).await;
    swept.expect("a sweep");
    assert_eq!(reads, 0);
    api.stop().await;
}

/// Promise: an edit of a known key is found even where Parameter Store does not go on with its
/// listing.
#[tokio::test]
async fn known_keys_need_no_token() {
    let api = Api::start().await;
    let acme = written(&api).await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    for tag in TAGS {
        edit(&api, &acme.parameter_name(tag, "k"), "theirs", kind_of(tag)).await;
    }
    let cursor = [
        ("pk", "SYSTEM#RECONCILE"),
        ("sk", "CURSOR"),
        ("cursor", r#"{"phase": "parameters", "token": "not good any more"}"#),
    ];
    api.put_item(&cursor).await;
    api.suite.run_schedules().await.expect("a sweep");
    for tag in TAGS {
        assert_eq!(story(&acme.get(&format!("{tag}k")).await.body), json!([2, "external", "theirs"]), "{tag}");
    }
    api.stop().await;
}

/// Promise: events may come twice, and in any order.
#[tokio::test]
async fn events_may_come_in_any_order() {
    let api = Api::start().await;
    let acme = written(&api).await;
    for fate in [EventFate::Delayed, EventFate::Doubled] {
        api.suite.emulator().set_event_fate(fate);
        for tag in TAGS {
            for n in 1..=3 {
                edit(&api, &acme.parameter_name(tag, "k"), &format!("{fate:?} {n}"), kind_of(tag)).await;
            }
        }
        api.suite.emulator().set_event_fate(EventFate::Doubled);
        api.settled().await;
        for tag in TAGS {
            let history = acme.history(&format!("{tag}k?limit=3")).await.expect(200);
            let values = (1..=3).rev().map(|n| json!(format!("{fate:?} {n}")));
            assert_eq!(history.each("versions", "value"), values.collect::<Vec<_>>(), "{tag}");
        }
    }
    assert_eq!(acme.history("param_config_k").await.body["versions"][0]["version"], 7);
    api.stop().await;
}

/// Promise: an event that does not fit is dropped, and makes nothing happen: of another account or
/// region, one that disagrees with itself, one of a write that failed, one without a name.
#[tokio::test]
async fn forged_events_do_nothing() {
    let api = Api::start().await;
    let acme = written(&api).await;
    let name = acme.parameter_name("param_config_", "k");
    let (reads, done) =
        api.calls_during("GetParameterHistory", api.suite.invoke("config-refresh", told_of(&name))).await;
    done.expect("it is worked off");
    assert_eq!(reads, 1, "a genuine one costs a scan");
    for (path, value) in [
        ("/account", json!("999999999999")),
        ("/region", json!("eu-north-1")),
        ("/resources", json!([])),
        ("/resources", json!(["arn:aws:ssm:us-east-1:123456789012:parameter/tenantry/globex/param_config_/k"])),
        ("/detail/name", json!("/tenantry/globex/param_config_/k")),
        ("/detail/name", json!(7)),
        ("/detail/exception", json!("it failed")),
        ("/detail", json!(null)),
        ("/source", json!("tenantry")),
    ] {
        let mut forged = told_of(&name);
        if path == "/detail/exception" {
            forged["detail"]["exception"] = value.clone();
        } else {
            *forged.pointer_mut(path).expect(path) = value.clone();
        }
        let before = api.suite.emulator().calls().total();
        api.suite.invoke("config-refresh", forged).await.expect("it is dropped");
        assert_eq!(api.suite.emulator().calls().total(), before, "{path} = {value}");
    }
    api.stop().await;
}

/// Promise: a page of Parameter Store's may be empty and is not the last one for that.
#[tokio::test]
async fn empty_pages_end_nothing() {
    let api = Api::with(Options { empty_pages: true, ..Options::default() }).await;
    let acme = api.tenant("acme");
    api.suite.emulator().set_event_fate(EventFate::Lost);
    for n in 0..60 {
        edit(&api, &acme.parameter_name("param_config_", &format!("many/{n}")), "found", ParameterType::String).await;
    }
    let name = acme.parameter_name("param_config_", "k");
    for n in 1..=60 {
        edit(&api, &name, &format!("{n}"), ParameterType::String).await;
    }
    api.suite.run_schedules().await.expect("a sweep");
    for n in 0..60 {
        acme.get(&format!("param_config_many/{n}")).await.expect(200);
    }
    assert_eq!(story(&acme.get("param_config_k").await.expect(200).body), json!([60, "external", "60"]));
    api.stop().await;
}

/// Promise: what lies beside the suite's root, or beside a tenant's folder, is nobody's, however
/// its name begins.
#[tokio::test]
async fn neighbours_of_the_root_are_left_alone() {
    let api = Api::start().await;
    let (acme, neighbour) = (api.tenant("acme"), api.tenant("acme-2"));
    for name in ["/tenantry-2/acme/param_config_/k", "/tenantry2/acme/param_config_/k", "/acme/param_config_/k"] {
        edit(&api, name, "nobody's", ParameterType::String).await;
        // The rule lets no such event through; should another one be made.
        api.suite.invoke("config-refresh", told_of(name)).await.expect("it is dropped");
    }
    edit(&api, &neighbour.parameter_name("param_config_", "k"), "the neighbour's", ParameterType::String).await;
    api.settled().await;
    api.suite.run_schedules().await.expect("a sweep");
    acme.get("param_config_k").await.expect(404);
    assert_eq!(neighbour.get("param_config_k").await.expect(200).body["value"], "the neighbour's");
    api.stop().await;
}

/// What others did before config-refresh came and died, and the texts that they put.
const CHANGES: [(&str, &[&str]); 4] =
    [("edit", &["a"]), ("three edits", &["a", "b", "c"]), ("removal", &[]), ("new life", &["a new life", "goes on"])];

/// Promise: wherever config-refresh dies during an import, and its last call takes effect
/// afterwards, the next import does the rest: each version once, in order, without a gap, and each
/// change is published in the end.
#[tokio::test]
async fn a_scan_that_dies_is_taken_up() {
    let mut cases = 0;
    for (tag, (change, edits)) in TAGS.into_iter().flat_map(|tag| CHANGES.map(|change| (tag, change))) {
        let api = Api::start().await;
        let mut died = Vec::new();
        for operation in ["GetParameterHistory", "BatchGetItem", "TransactWriteItems", "PutEvents", "UpdateItem"] {
            for nth in 0..3 {
                let acme = api.tenant(&format!("{operation}-{nth}"));
                if !dies(&api, &acme, (tag, change, edits), operation, nth).await {
                    break;
                }
                died.push(acme);
            }
        }
        api.pass(GRACE * 2);
        api.suite.run_schedules().await.expect("a sweep");
        let (published, swept) = api.calls_during("PutEvents", api.suite.run_schedules()).await;
        swept.expect("a sweep");
        assert_eq!(published, 0, "{tag}: {change}: all is published");
        api.suite.emulator().set_event_fate(EventFate::Delivered);
        for acme in &died {
            is_imported(&api, acme, (tag, change, edits)).await;
        }
        cases += died.len();
        api.stop().await;
    }
    assert_eq!(cases, 102, "no case is left out by mistake");
}

/// Has config-refresh import what others did, and die at a call, which is executed afterwards; then
/// calls it again, as Lambda does. Whether there was such a call.
async fn dies(
    api: &Api,
    acme: &Tenant<'_>,
    (tag, change, edits): (&str, &str, &[&str]),
    operation: &str,
    nth: usize,
) -> bool {
    let name = acme.parameter_name(tag, "k");
    api.suite.emulator().set_event_fate(EventFate::Delivered);
    acme.put(&format!("{tag}k"), &json!("ours")).await.expect(201);
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    // A removal soon after a write is scanned for twice.
    api.pass(GRACE);
    if matches!(change, "removal" | "new life") {
        remove(api, &name).await;
    }
    for value in edits {
        edit(api, &name, value, kind_of(tag)).await;
    }
    let held = api.suite.emulator().faults().hold(operation, nth);
    let has_died = tokio::select! {
        _ = api.suite.invoke("config-refresh", told_of(&name)) => false,
        () = held.reached() => true,
    };
    held.release();
    api.suite.emulator().faults().clear();
    api.suite.invoke("config-refresh", told_of(&name)).await.expect("it is taken up");
    has_died
}

/// Everything that others did is there, once.
async fn is_imported(api: &Api, acme: &Tenant<'_>, (tag, change, edits): (&str, &str, &[&str])) {
    let (key, name) = (format!("{tag}k"), acme.parameter_name(tag, "k"));
    let case = format!("{tag}: {change}, dies at {}", acme.name);
    // What was in Parameter Store alone went with the parameter.
    let is_gone = tag == "secret_config_" && matches!(change, "removal" | "new life");
    let ours = if is_gone { Value::Null } else { json!("ours") };
    let last = if change == "removal" { Some(Value::Null) } else { None };
    let expected: Vec<_> = [ours].into_iter().chain(edits.iter().map(|value| json!(value))).chain(last).collect();
    let history = acme.history(&format!("{key}?limit=100")).await.expect(200);
    let values: Vec<_> = history.each("versions", "value").into_iter().rev().collect();
    assert_eq!(values, expected, "{case}");
    assert_eq!(history.each("versions", "version"), (1..=expected.len()).rev().collect::<Vec<_>>(), "{case}");
    let revisions = acme.changes("since=0").await.expect(200).each("changes", "revision");
    assert_eq!(revisions, (1..=expected.len()).collect::<Vec<_>>(), "{case}");
    acme.put(&key, &json!("ours again")).await;
    api.settled().await;
    assert_eq!(api.parameter(&name).await.map(|(text, _)| text), Some("ours again".to_owned()), "{case}");
}
