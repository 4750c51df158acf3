//! A store's values while others are at them, too: our own writers, operators, an earlier life,
//! another route.

use aws_sdk_ssm::types::ParameterType;
use emulator::{EventFate, Fault};
use futures_util::future::join;
use serde_json::json;
use tenantry::ledger::GRACE;

use crate::{
    harness::{Api, ROUTES, reached},
    operator::edit,
};

/// Promise: a store call waits for a commit of the same tenant that is under way. It is no failure
/// and leaves nothing pending.
#[tokio::test]
async fn a_commit_beside_a_store_call_is_waited_for() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for key in ["secret_config_k", "param_config_k"] {
        let conflicts = api.suite.emulator().faults().inject("UpdateItem", Fault::TransactionConflict, 2);
        let written = acme.put(key, &json!("v")).await.expect(201);
        assert_eq!(conflicts.hits(), 2, "{key}");
        assert_eq!(written.body.get("pending"), None, "{key}: {}", written.text);
    }
    api.stop().await;
}

/// Promise: what an operator has put where a new key's value would lie is neither overwritten as
/// another type nor removed, and the writer learns what is in the way.
#[tokio::test]
async fn a_foreign_parameter_is_left_alone() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("secret_config_", "k");
    edit(&api, &name, "theirs", ParameterType::String).await;
    let refused = acme.put("secret_config_k", &json!("ours")).await.expect_problem(422, "unprocessable");
    assert!(refused.text.contains("another type"), "{}", refused.text);
    api.sweep(1).await;
    assert_eq!(api.parameter(&name).await, Some(("theirs".to_owned(), 1)));

    // The same type, so that our first write lies on top of theirs; its answer is lost, so it is
    // never committed.
    let name = acme.parameter_name("secret_config_", "l");
    edit(&api, &name, "theirs", ParameterType::SecureString).await;
    api.suite.emulator().faults().inject("PutParameter", Fault::ReplyLost, 1);
    acme.put("secret_config_l", &json!("ours")).await.expect_problem(503, "unavailable");
    let (removals, ()) = api.calls_during("DeleteParameter", api.sweep(1)).await;
    assert_eq!(removals, 0);
    let history = api.parameter_store().get_parameter_history().name(&name).with_decryption(true).send().await;
    let values: Vec<_> = history.expect("a history").parameters().iter().filter_map(|one| one.value.clone()).collect();
    assert_eq!(values, ["theirs", "ours", "theirs"], "what nobody committed lies on top of theirs no more");
    assert_eq!(acme.get("secret_config_l").await.expect(200).body["author"], "external");
    // The outbox is empty, and the key can be written.
    let (reads, ()) = api.calls_during("GetParameterHistory", api.sweep(1)).await;
    assert_eq!(reads, 0);
    acme.put("secret_config_l", &json!("ours again")).await.expect(200);
    api.stop().await;
}

/// Promise: nor is it removed with the key that it was in the way of.
#[tokio::test]
async fn a_delete_leaves_a_foreign_parameter_alone() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    api.suite.emulator().set_event_fate(EventFate::Lost);
    edit(&api, &name, "theirs", ParameterType::SecureString).await;
    let written = acme.put("param_config_k", &json!("ours")).await.expect(201);
    assert_eq!(written.body["store"]["reason"], "type-mismatch", "{}", written.text);
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Delivered);
    acme.delete("param_config_k").await.expect(200);
    api.sweep(1).await;
    assert_eq!(api.parameter(&name).await, Some(("theirs".to_owned(), 1)));
    let kept = api.item(&acme, "ENTRY#param_config_k").await;
    assert!(!kept.contains_key("outboxShard"), "it is in no outbox: {kept:?}");
    api.stop().await;
}

/// Promise: a description that was copied from ours makes nothing ours.
#[tokio::test]
async fn a_copied_mark_proves_nothing() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("secret_config_", "k");
    api.suite.emulator().faults().inject("PutParameter", Fault::ReplyLost, 1);
    acme.put("secret_config_k", &json!("ours")).await.expect_problem(503, "unavailable");
    let found = api.parameter_store().describe_parameters().send().await.expect("a parameter");
    let mark = found.parameters()[0].description().expect("a description");
    let edit = api.parameter_store().put_parameter().name(&name).value("theirs").overwrite(true).description(mark);
    edit.send().await.expect("Parameter Store takes it");
    api.sweep(1).await;
    assert_eq!(api.parameter(&name).await, Some(("theirs".to_owned(), 2)));
    api.stop().await;
}

/// Promise: a parameter that was removed behind our back, and so begins to count anew, is put once,
/// not over and over.
#[tokio::test]
async fn a_parameter_that_counts_anew_is_followed() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    for value in ["a", "b", "c"] {
        acme.put("param_config_k", &json!(value)).await;
    }
    api.parameter_store().delete_parameter().name(&name).send().await.expect("removed");
    let (puts, written) = api.calls_during("PutParameter", acme.put("param_config_k", &json!("d"))).await;
    assert_eq!((puts, written.expect(200).body.get("pending")), (1, None));
    assert_eq!(api.calls_during("PutParameter", api.sweep(1)).await.0, 0);
    assert_eq!(api.parameter(&name).await, Some(("d".to_owned(), 1)));
    api.stop().await;
}

/// Promise: so is one that is put again because an earlier call may have come late.
#[tokio::test]
async fn a_repeated_put_may_count_anew() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("param_config_", "k");
    acme.put("param_config_k", &json!("a")).await.expect(201);
    api.suite.emulator().faults().inject("PutParameter", Fault::ReplyLost, 1);
    assert_eq!(acme.put("param_config_k", &json!("b")).await.expect(200).body["pending"], true);
    acme.put("param_config_k", &json!("c")).await.expect(200);
    api.parameter_store().delete_parameter().name(&name).send().await.expect("removed");
    assert_eq!(api.calls_during("PutParameter", api.sweep(1)).await.0, 1, "b may have come after c");
    assert_eq!(api.parameter(&name).await, Some(("c".to_owned(), 1)));
    let noted = &api.item(&acme, "ENTRY#param_config_k").await["storeVersion"];
    assert_eq!(noted.as_n().map(String::as_str), Ok("1"));
    api.stop().await;
}

/// Promise: of two write-around writers who did not see each other, the value of the one who
/// commits last also lies in the store last.
#[tokio::test]
async fn who_commits_last_lies_there_last() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let lost = api.suite.emulator().faults().inject("TransactWriteItems", Fault::NoReply, 1);
    let slow = acme.put("secret_config_k", &json!("slow")).into_future();
    let fast = async {
        lost.reached().await;
        // So long that nobody waits for the slow one any more, which is still waiting for its
        // answer.
        api.pass(GRACE / 2);
        acme.put("secret_config_k", &json!("fast")).await.expect(201)
    };
    let (slow, _) = join(slow, fast).await;
    assert_eq!(slow.expect(200).number("version"), 2);
    assert_eq!(acme.get("secret_config_k").await.expect(200).body["value"], "slow");
    let parameter = api.parameter(&acme.parameter_name("secret_config_", "k")).await;
    assert_eq!(parameter, Some(("slow".to_owned(), 3)));
    api.stop().await;
}

/// Promise: if the puts of two writers overtake each other, the later one reads the entry again.
/// The newest value lies there when both have their answers, without any event.
#[tokio::test]
async fn the_newest_lies_there_whoever_puts_last() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let slow = api.suite.emulator().faults().hold("PutParameter", 0);
    let first = acme.put("param_config_k", &json!("older")).into_future();
    let second = async {
        reached(&slow).await;
        let written = acme.put("param_config_k", &json!("newer")).await.expect(200);
        slow.release();
        written
    };
    let (first, second) = join(first, second).await;
    assert_eq!((first.expect(201).number("version"), second.number("version")), (1, 2));
    let parameter = api.parameter(&acme.parameter_name("param_config_", "k")).await;
    assert_eq!(parameter.map(|(text, _)| text), Some("newer".to_owned()));
    api.stop().await;
}

/// Promise: nothing is removed beside a call that may be a put: a value that is put while the one
/// before is about to be removed stays.
#[tokio::test]
async fn a_removal_makes_way_for_a_put() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("secret_config_k", &json!("before")).await.expect(201);
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let faults = api.suite.emulator().faults();
    // So that no event's note comes between the updates that are looked at.
    faults.inject("PutEvents", Fault::NoReply, 1);
    let beginning = faults.hold("UpdateItem", 0);
    let deleted = tokio::sync::Notify::new();
    let deleting = async {
        acme.delete("secret_config_k").await.expect(200);
        deleted.notify_one();
    };
    let writing = async {
        reached(&beginning).await;
        // So long that the writer waits no more for who has deleted the key and is about to remove
        // its value.
        api.pass(GRACE / 15);
        let commit = faults.hold("TransactWriteItems", 0);
        let meanwhile = async {
            reached(&commit).await;
            beginning.release();
            deleted.notified().await;
            commit.release();
        };
        join(acme.put("secret_config_k", &json!("after")).into_future(), meanwhile).await.0
    };
    join(deleting, writing).await.1.expect(201);
    assert_eq!(acme.get("secret_config_k").await.expect(200).body["value"], "after");
    let parameter = api.parameter(&acme.parameter_name("secret_config_", "k")).await;
    assert_eq!(parameter, Some(("after".to_owned(), 2)));
    api.stop().await;
}

/// Promise: a sweep that is slow to put an older value back hides no newer commit.
#[tokio::test]
async fn a_late_restoration_hides_no_commit() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let faults = api.suite.emulator().faults();
    acme.put("secret_config_k", &json!("a")).await.expect(201);
    faults.inject("PutParameter", Fault::ReplyLost, 1);
    acme.put("secret_config_k", &json!("never committed")).await.expect_problem(503, "unavailable");
    api.settled().await;
    api.pass(GRACE * 2);

    // The sweep has recorded the intent to put a; then it takes long.
    let slow = faults.hold("UpdateItem", 1);
    let swept = tokio::sync::Notify::new();
    let sweeping = async {
        api.suite.run_schedules().await.expect("a sweep");
        swept.notify_one();
    };
    let writing = async {
        reached(&slow).await;
        api.pass(GRACE / 2);
        let put = faults.hold("GetParameterHistory", 0);
        let meanwhile = async {
            // The writer has put b, and now the sweep puts a on top of it.
            reached(&put).await;
            slow.release();
            swept.notified().await;
            put.release();
        };
        let (written, ()) = join(acme.put("secret_config_k", &json!("b")).into_future(), meanwhile).await;
        assert_eq!(written.expect(200).number("version"), 2);
        // Not only when somebody has put it right.
        let parameter = api.parameter(&acme.parameter_name("secret_config_", "k")).await;
        assert_eq!(parameter.map(|(text, _)| text), Some("b".to_owned()));
    };
    join(sweeping, writing).await;
    api.sweep(1).await;
    assert_eq!(acme.get("secret_config_k").await.expect(200).body["value"], "b");
    let parameter = api.parameter(&acme.parameter_name("secret_config_", "k")).await;
    assert_eq!(parameter.map(|(text, _)| text), Some("b".to_owned()));
    api.stop().await;
}

/// Promise: a committed secret is not pushed out of Parameter Store's history by puts that are
/// never committed: the committed value is put on top of them, is read from there, and too many of
/// them are refused.
#[tokio::test]
async fn uncommitted_puts_push_nothing_out() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    acme.put("secret_config_k", &json!("v")).await.expect(201);
    for n in 0..10 {
        // So that Parameter Store does not seem to be down.
        globex.put("param_config_k", &json!(n)).await;
        api.suite.emulator().faults().inject("PutParameter", Fault::ReplyLost, 1);
        acme.put("secret_config_k", &json!("never committed")).await.expect_problem(503, "unavailable");
        api.pass(GRACE / 10);
    }
    let (puts, refused) = api.calls_during("PutParameter", acme.put("secret_config_k", &json!("w"))).await;
    refused.expect_problem(409, "contention");
    assert_eq!(puts, 0);
    api.sweep(1).await;
    for sort_key in ["ENTRY#secret_config_k", "VERSION#secret_config_k#00000000000000000001"] {
        let kept = api.item(&acme, sort_key).await;
        assert_eq!(kept["locatorVersion"].as_n().map(String::as_str), Ok("12"), "{sort_key}");
    }
    assert_eq!(acme.get("secret_config_k").await.expect(200).body["value"], "v");
    assert_eq!(acme.history("secret_config_k").await.expect(200).each("versions", "value"), ["v"]);
    acme.put("secret_config_k", &json!("w")).await.expect(200);
    api.stop().await;
}

/// Promise: a put that Parameter Store does not show yet is waited for.
#[tokio::test]
async fn a_put_that_is_not_seen_yet_is_waited_for() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    api.suite.emulator().faults().inject("GetParameterHistory", Fault::NotYet, 2);
    acme.put("secret_config_k", &json!("v")).await.expect(201);
    api.stop().await;
}

/// Promise: an update of the ledger whose answer was lost is not taken for another process's.
#[tokio::test]
async fn lost_answers_of_notes_keep_nobody_waiting() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let lose_one = || api.suite.emulator().faults().inject("UpdateItem", Fault::ReplyLost, 1);
    for key in ["secret_config_k", "param_config_k"] {
        let lost = lose_one();
        let written = acme.put(key, &json!("v")).await.expect(201);
        assert_eq!((lost.hits(), written.body.get("pending")), (1, None), "{key}");
        let lost = lose_one();
        let deleted = acme.delete(key).await.expect(200);
        assert_eq!((lost.hits(), deleted.body.get("pending")), (1, None), "{key}");
        let kept = api.item(&acme, &format!("ENTRY#{key}")).await;
        for note in ["intents", "removingUntil"] {
            assert!(!kept.contains_key(note), "{key}: {kept:?}");
        }
    }
    api.stop().await;
}

/// Promise: a replicator that has been overtaken and is then refused does not delay the next one,
/// and leaves no intent behind.
#[tokio::test]
async fn a_refused_replicator_makes_way() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let name = acme.parameter_name("back_config_", "k");
    acme.put("back_config_k", &json!("1")).await.expect(201);
    api.settled().await;
    let faults = api.suite.emulator().faults();
    let slow = faults.hold("PutParameter", 0);
    acme.put("back_config_k", &json!("2")).await.expect(200);
    reached(&slow).await;
    acme.put("back_config_k", &json!("3")).await.expect(200);
    // It has put 2, and is refused as it puts 3.
    faults.inject("PutParameter", Fault::Throttle, 3);
    slow.release();
    api.settled().await;
    assert_eq!(api.parameter(&name).await, Some(("2".to_owned(), 2)));
    let kept = api.item(&acme, "VERSION#back_config_k#00000000000000000003").await;
    assert!(!kept.contains_key("intentIds"), "{kept:?}");
    acme.put("back_config_k", &json!("4")).await.expect(200);
    api.settled().await;
    assert_eq!(api.parameter(&name).await, Some(("4".to_owned(), 3)));
    api.stop().await;
}

/// Promise: a writer that saw no removal cannot put while one is under way.
#[tokio::test]
async fn a_put_waits_for_a_removal_that_it_did_not_see() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("secret_config_k", &json!("before")).await.expect(201);
    api.settled().await;
    api.suite.emulator().set_event_fate(EventFate::Lost);
    let faults = api.suite.emulator().faults();
    // So that no event's note comes between the updates that are looked at.
    faults.inject("PutEvents", Fault::NoReply, 1);
    let beginning = faults.hold("UpdateItem", 0);
    let writing = async {
        reached(&beginning).await;
        // So long that the writer waits no more for who has deleted the key and is about to remove
        // its value.
        api.pass(GRACE / 15);
        let (intending, removing) = (faults.hold("UpdateItem", 0), faults.hold("DeleteParameter", 0));
        let meanwhile = async {
            reached(&intending).await;
            beginning.release();
            reached(&removing).await;
            let reading_again = faults.hold("BatchGetItem", 0);
            intending.release();
            reached(&reading_again).await;
            reading_again.release();
            removing.release();
        };
        join(acme.put("secret_config_k", &json!("after")).into_future(), meanwhile).await.0
    };
    let (deleted, written) = join(acme.delete("secret_config_k").into_future(), writing).await;
    deleted.expect(200);
    assert_eq!(written.expect(201).number("version"), 3);
    assert_eq!(acme.get("secret_config_k").await.expect(200).body["value"], "after");
    let parameter = api.parameter(&acme.parameter_name("secret_config_", "k")).await;
    assert_eq!(parameter, Some(("after".to_owned(), 1)));
    api.stop().await;
}

/// Promise: a value that is committed while the one before is being removed is put as soon as that
/// is over.
#[tokio::test]
async fn a_value_follows_a_removal_at_once() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("param_config_k", &json!("before")).await.expect(201);
    let faults = api.suite.emulator().faults();
    let removing = faults.hold("DeleteParameter", 0);
    let writing = async {
        reached(&removing).await;
        let committed = faults.hold("GetItem", 0);
        let meanwhile = async {
            reached(&committed).await;
            removing.release();
            committed.release();
        };
        join(acme.put("param_config_k", &json!("after")).into_future(), meanwhile).await.0
    };
    let (deleted, written) = join(acme.delete("param_config_k").into_future(), writing).await;
    assert_eq!(deleted.expect(200).number("version"), 2);
    assert_eq!(written.expect(201).number("version"), 3);
    api.settled().await;
    // By the writer, by who removed and found the key alive again, or by both.
    let parameter = api.parameter(&acme.parameter_name("param_config_", "k")).await;
    assert_eq!(parameter.map(|(text, _)| text), Some("after".to_owned()));
    let kept = api.item(&acme, "ENTRY#param_config_k").await;
    assert!(!kept.contains_key("outboxShard"), "it is in no outbox any more: {kept:?}");
    api.stop().await;
}

/// Promise: a put never meets the removal of the value before it. A writer waits for a removal that
/// is not known to have ended; meanwhile the write is committed and says `pending`.
#[tokio::test]
async fn a_put_after_a_lost_removal_stays() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("param_config_k", &json!("before")).await.expect(201);
    api.suite.emulator().faults().inject("DeleteParameter", Fault::ReplyLost, 1);
    assert_eq!(acme.delete("param_config_k").await.expect(200).body["pending"], true);
    let (puts, written) = api.calls_during("PutParameter", acme.put("param_config_k", &json!("after"))).await;
    assert_eq!((puts, &written.expect(201).body["pending"]), (0, &json!(true)));
    api.sweep(1).await;
    assert_eq!(api.parameter(&acme.parameter_name("param_config_", "k")).await, Some(("after".to_owned(), 1)));
    assert_eq!(api.calls_during("PutParameter", api.sweep(1)).await.0, 0);
    api.stop().await;
}

/// Promise: a removal that was certainly not done keeps no writer waiting.
#[tokio::test]
async fn a_refused_removal_is_in_nobodys_way() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("param_config_k", &json!("before")).await.expect(201);
    api.suite.emulator().faults().inject("DeleteParameter", Fault::Throttle, 1);
    assert_eq!(acme.delete("param_config_k").await.expect(200).body["pending"], true);
    let written = acme.put("param_config_k", &json!("after")).await.expect(201);
    assert_eq!(written.body.get("pending"), None);
    assert_eq!(api.parameter(&acme.parameter_name("param_config_", "k")).await, Some(("after".to_owned(), 2)));
    api.stop().await;
}

/// Promise: however often a put is refused, what the ledger keeps of it does not grow.
#[tokio::test]
async fn refused_puts_leave_nothing_behind() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    api.suite.emulator().faults().inject("PutParameter", Fault::Throttle, 1_000);
    assert_eq!(acme.put("param_config_k", &json!("v")).await.expect(201).body["pending"], true);
    acme.put("secret_config_k", &json!("v")).await.expect_problem(429, "throttled");
    let kept = api.item(&acme, "ENTRY#secret_config_k").await;
    assert!(!kept.contains_key("intents"), "it keeps no other writer waiting: {kept:?}");
    for _ in 0..5 {
        api.sweep(1).await;
    }
    for sort_key in ["ENTRY#param_config_k", "ENTRY#secret_config_k", "VERSION#param_config_k#00000000000000000001"] {
        let kept = api.item(&acme, sort_key).await;
        assert!(!kept.contains_key("intents") && !kept.contains_key("intentIds"), "{sort_key}: {kept:?}");
    }
    api.stop().await;
}

/// Promise: changed routes block nothing. The outbox forgets a key whose tag has no store any more,
/// a key whose tag has no route waits, and neither holds up others.
#[tokio::test]
async fn changed_routes_hold_up_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    let with = |routes: String| {
        let parameters = [("TagRoutes".to_owned(), routes)].into();
        Api::with(local::Options { data: Some(data.path().to_owned()), parameters, ..local::Options::default() })
    };
    let api = with(ROUTES.to_owned()).await;
    let acme = api.tenant("acme");
    api.suite.emulator().faults().inject("PutParameter", Fault::InternalError, 1_000);
    for n in 0..120 {
        let tag = if n % 2 == 0 { "back_config_" } else { "param_config_" };
        acme.put(&format!("{tag}{n}"), &json!(n)).await.expect(201);
    }
    api.suite.emulator().faults().inject("PutEvents", Fault::InternalError, 100);
    acme.put("tenant_config_behind", &json!(1)).await.expect(201);
    // With what is in the outbox.
    api.suite.stop().await;

    // back_config_ now lies in the ledger alone, and param_config_ has no route.
    let api =
        with(r#"{"tenant_config_": {"store": "dynamodb"}, "back_config_": {"store": "dynamodb"}}"#.to_owned()).await;
    let acme = api.tenant("acme");
    let (published, ()) = api.calls_during("PutEvents", api.sweep(1)).await;
    assert_eq!(published, 1);
    let puts = api.suite.emulator().calls().count("PutParameter");
    assert_eq!(acme.get("back_config_0").await.expect(200).body["value"], 0);
    for n in [0, 118] {
        let kept = api.item(&acme, &format!("ENTRY#back_config_{n}")).await;
        assert!(!kept.contains_key("outboxShard"), "{n}: {kept:?}");
    }
    assert!(api.item(&acme, "ENTRY#param_config_119").await.contains_key("outboxShard"), "it waits for its route");
    assert_eq!(puts, 0);
    api.suite.stop().await;

    let api = with(ROUTES.to_owned()).await;
    // It was put off by the clock of the suite before, which was minutes ahead.
    api.pass(GRACE * 3);
    api.sweep(1).await;
    let acme = api.tenant("acme");
    let parameter = api.parameter(&acme.parameter_name("param_config_", "119")).await;
    assert_eq!(parameter, Some(("119".to_owned(), 1)));
    api.stop().await;
}
