//! Queues as AWS SDK clients see them: sent, received, hidden, deleted, fed by rules, and closed to
//! whoever may not.

use aws_credential_types::Credentials;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_sqs::operation::receive_message::builders::ReceiveMessageFluentBuilder;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use emulator::{Emulator, Fault, Options, Queue, Rule, Service};
use serde_json::{Value, json};

use crate::clients::{Clients, Failure, Outcome, code, start};
use crate::roles::{ACCOUNT, options, role};

const URL: &str = "https://sqs.us-east-1.amazonaws.com/000000000000/hints";

async fn queue() -> (Emulator, Clients) {
    let (emulator, aws) = start(Options::default()).await;
    assert_eq!(emulator.add_queue(Queue::named("hints")), URL);
    (emulator, aws)
}

fn receive(aws: &Clients) -> ReceiveMessageFluentBuilder {
    aws.sqs.receive_message().queue_url(URL).max_number_of_messages(10)
}

async fn send(aws: &Clients, body: &str) -> Outcome {
    let sent = aws.sqs.send_message().queue_url(URL).message_body(body).send().await?;
    assert!(sent.message_id().is_some() && sent.md5_of_message_body().is_some());
    Ok(())
}

/// Bodies and receipt handles.
async fn received(call: ReceiveMessageFluentBuilder) -> Result<Vec<(String, String)>, Failure> {
    let answer = call.send().await?;
    let messages = answer.messages().iter();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    Ok(messages.map(|message| (text(message.body()), text(message.receipt_handle()))).collect())
}

fn bodies(messages: &[(String, String)]) -> Vec<&str> {
    messages.iter().map(|(body, _)| body.as_str()).collect()
}

/// Promise: a message is received, hidden from others meanwhile, shown again where it is not
/// deleted, and gone once it is; a receipt that is not the newest deletes nothing.
#[tokio::test]
async fn a_message_is_there_until_it_is_deleted() -> Outcome {
    let (emulator, aws) = queue().await;
    for body in ["a", "b", "c"] {
        send(&aws, body).await?;
    }
    let one = received(aws.sqs.receive_message().queue_url(URL)).await?;
    assert_eq!(bodies(&one), ["a"]);
    let shown = received(receive(&aws).visibility_timeout(0)).await?;
    assert_eq!(bodies(&shown), ["b", "c"]);
    let again = received(receive(&aws)).await?;
    assert_eq!(bodies(&again), ["b", "c"]);
    assert!(received(receive(&aws)).await?.is_empty());

    let delete = |handle: &str| aws.sqs.delete_message().queue_url(URL).receipt_handle(handle).send();
    delete(&one[0].1).await?;
    delete(&one[0].1).await?;
    assert_eq!(code(delete("x")).await, "ReceiptHandleIsInvalid");
    let entry =
        |id: &str, handle: &str| DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(handle).build();
    let batch = |entries| aws.sqs.delete_message_batch().queue_url(URL).set_entries(Some(entries)).send();
    // Only the second one is the newest receipt of its message.
    let entries = vec![entry("1", &shown[0].1)?, entry("2", &again[1].1)?, entry("3", "x")?];
    let answer = batch(entries).await?;
    let done: Vec<_> = answer.successful().iter().map(|one| one.id().to_owned()).collect();
    let failed: Vec<_> = answer.failed().iter().map(|one| (one.id(), one.code(), one.sender_fault())).collect();
    assert_eq!((done, failed), (vec!["1".into(), "2".into()], vec![("3", "ReceiptHandleIsInvalid", true)]));
    delete(&again[0].1).await?;
    assert!(received(receive(&aws).wait_time_seconds(0)).await?.is_empty());

    for (entries, expected) in [
        (vec![], "AWS.SimpleQueueService.EmptyBatchRequest"),
        (vec![entry("1", "x")?, entry("1", "x")?], "AWS.SimpleQueueService.BatchEntryIdsNotDistinct"),
        (vec![entry("1", "x")?; 11], "AWS.SimpleQueueService.TooManyEntriesInBatchRequest"),
    ] {
        assert_eq!(code(batch(entries)).await, expected);
    }
    assert_eq!(emulator.calls().service_total(Service::Sqs), emulator.calls().total());
    Ok(())
}

/// Promise: what is out of AWS's bounds is refused as AWS does, and a queue that is not there as
/// one that SDKs know.
#[tokio::test]
async fn bounds_and_queues_that_are_not_there() -> Outcome {
    let (_emulator, aws) = queue().await;
    let invalid = "InvalidParameterValue";
    assert_eq!(code(receive(&aws).max_number_of_messages(0).send()).await, invalid);
    assert_eq!(code(receive(&aws).max_number_of_messages(11).send()).await, invalid);
    assert_eq!(code(receive(&aws).wait_time_seconds(21).send()).await, invalid);
    assert_eq!(code(receive(&aws).visibility_timeout(43_201).send()).await, invalid);
    let send = |url: &str, body: &str| aws.sqs.send_message().queue_url(url).message_body(body).send();
    assert_eq!(code(send(URL, "")).await, invalid);
    assert_eq!(code(send(URL, &"x".repeat(1024 * 1024 + 1))).await, invalid);
    assert_eq!(code(send(URL, &"x".repeat(1024 * 1024))).await, "ok");

    assert_eq!(aws.sqs.get_queue_url().queue_name("hints").send().await?.queue_url(), Some(URL));
    let none = aws.sqs.get_queue_url().queue_name("other").send().await;
    assert!(none.is_err_and(|error| error.into_service_error().is_queue_does_not_exist()));
    for url in [URL.replace("hints", "other"), URL.replace("000000000000", "111122223333"), "hints".to_owned()] {
        let none = send(&url, "x").await;
        assert!(none.is_err_and(|error| error.into_service_error().is_queue_does_not_exist()), "{url}");
    }
    Ok(())
}

/// Promise: who waits gets a message at once when it is sent, and one that gave up waiting takes
/// none with it.
#[tokio::test]
async fn a_poll_waits_and_takes_nothing_when_it_is_given_up() -> Outcome {
    let (emulator, aws) = queue().await;
    let held = emulator.faults().hold("ReceiveMessage", 0);
    let given_up = tokio::spawn(receive(&aws).wait_time_seconds(20).send());
    held.reached().await;
    held.release();
    given_up.abort();
    assert!(given_up.await.is_err_and(|error| error.is_cancelled()));

    let held = emulator.faults().hold("ReceiveMessage", 0);
    let poll = async { received(receive(&aws).wait_time_seconds(20)).await };
    let sending = async {
        // Sent while it waits, or just before: it is the same to whoever polls.
        held.reached().await;
        held.release();
        send(&aws, "m").await
    };
    let (poll, sending) = futures_util::future::join(poll, sending).await;
    sending?;
    assert_eq!(bodies(&poll?), ["m"]);
    Ok(())
}

/// Promise: a rule's target puts the whole event into its queue, as JSON text; only what matches,
/// and as the event's fate has it.
#[tokio::test]
async fn a_rule_feeds_a_queue() -> Outcome {
    let (emulator, aws) = queue().await;
    assert!(emulator.queue_target("other").is_none());
    let target = emulator.queue_target("hints").ok_or_else(|| Failure("no target".to_owned()))?;
    let pattern = json!({ "source": ["tenantry"] });
    emulator.add_rule(Rule { name: "hints".to_owned(), bus: "suite".to_owned(), pattern, target })?;
    let put = async |source: &str| {
        let entry = PutEventsRequestEntry::builder().event_bus_name("suite").source(source).detail_type("d");
        aws.events.put_events().entries(entry.detail(r#"{"revision":7}"#).build()).send().await
    };
    put("other").await?;
    put("tenantry").await?;
    emulator.settled().await;
    let messages = received(receive(&aws)).await?;
    assert_eq!(messages.len(), 1);
    let event: Value = serde_json::from_str(&messages[0].0)?;
    assert_eq!((&event["source"], &event["detail"]), (&json!("tenantry"), &json!({ "revision": 7 })));
    emulator.set_event_fate(emulator::EventFate::Lost);
    put("tenantry").await?;
    emulator.settled().await;
    assert!(received(receive(&aws)).await?.is_empty());
    Ok(())
}

/// Promise: faults and permissions are those of the other services. A task's role has credentials
/// where ECS may assume it, for this account; it may do to its own queue what its policies say, and
/// a batch as they say of one.
#[tokio::test]
async fn faults_and_permissions_apply() -> Outcome {
    let (emulator, admin) = start(options()).await;
    let url = emulator.add_queue(Queue::named("hints"));
    let other = emulator.add_queue(Queue::named("other"));
    emulator.faults().inject("SendMessage", Fault::Throttle, 1);
    emulator.faults().inject("SendMessage", Fault::InternalError, 1);
    for expected in ["RequestThrottled", "InternalFailure", "ok"] {
        assert_eq!(code(admin.sqs.send_message().queue_url(&url).message_body("m").send()).await, expected);
    }

    let trust = |account: &str| {
        json!({
            "Effect": "Allow",
            "Principal": { "Service": "ecs-tasks.amazonaws.com" },
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": { "aws:SourceAccount": account },
                "ArnLike": { "aws:SourceArn": format!("arn:aws:ecs:us-east-1:{account}:*") }
            }
        })
    };
    let may = json!({
        "Effect": "Allow",
        "Action": ["sqs:ReceiveMessage", "sqs:DeleteMessage"],
        "Resource": format!("arn:aws:sqs:us-east-1:{ACCOUNT}:hints")
    });
    emulator.add_role(role("elsewhere", trust("999922223333"), may.clone()))?;
    assert_eq!(emulator.credentials_of("elsewhere"), None);
    emulator.add_role(role("task", trust(ACCOUNT), may))?;
    let own = emulator.credentials_of("task").ok_or_else(|| Failure("no credentials".to_owned()))?;
    let own = Credentials::from_keys(own.access_key_id, own.secret_access_key, Some(own.session_token));
    let task = Clients::with(emulator.url(), own).sqs;
    let handle = "00000000-0000-0000-0000-000000000000";
    let entry = DeleteMessageBatchRequestEntry::builder().id("1").receipt_handle(handle).build()?;
    for (url, expected) in [(&url, "ok"), (&other, "AccessDeniedException")] {
        assert_eq!(code(task.receive_message().queue_url(url).send()).await, expected);
        assert_eq!(code(task.delete_message().queue_url(url).receipt_handle(handle).send()).await, expected);
        let batch = task.delete_message_batch().queue_url(url).entries(entry.clone());
        assert_eq!(code(batch.send()).await, expected);
    }
    let denied = "AccessDeniedException";
    assert_eq!(code(task.send_message().queue_url(&url).message_body("m").send()).await, denied);
    assert_eq!(code(task.get_queue_url().queue_name("hints").send()).await, denied);
    Ok(())
}
