//! Injected faults: each does what it says, as often as it was asked to, and tells when.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use aws_sdk_ssm::types::ParameterType;
use emulator::{Fault, Options};

use crate::clients::{Clients, Failure, Outcome, code, number, start, text};

fn put(aws: &Clients, sk: &str) -> aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder {
    aws.dynamodb.put_item().table_name("table").item("pk", text("a")).item("sk", text(sk)).item("n", number(1))
}

async fn exists(aws: &Clients, sk: &str) -> Result<bool, Failure> {
    let get = aws.dynamodb.get_item().table_name("table").key("pk", text("a")).key("sk", text(sk));
    Ok(get.send().await?.item().is_some())
}

/// Guards: refused calls have the code that the service has for it, are not executed, and are
/// consumed one by one.
#[tokio::test]
async fn refusals_speak_the_services_language() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    let faults = emulator.faults();
    for (fault, expected) in [
        (Fault::Throttle, "ProvisionedThroughputExceededException"),
        (Fault::InternalError, "InternalServerError"),
        (Fault::TransactionConflict, "TransactionConflictException"),
    ] {
        let injected = faults.inject("PutItem", fault, 2);
        for _ in 0..2 {
            assert_eq!(code(put(&aws, "1").send()).await, expected);
        }
        assert_eq!(injected.hits(), 2);
    }
    assert!(!exists(&aws, "1").await?);
    assert_eq!(code(put(&aws, "1").send()).await, "ok");

    let parameter = || aws.ssm.put_parameter().name("/p").value("v").r#type(ParameterType::String).send();
    for (fault, expected) in [
        (Fault::Throttle, "ThrottlingException"),
        (Fault::InternalError, "InternalServerError"),
        (Fault::TransactionConflict, "TooManyUpdates"),
    ] {
        faults.inject("PutParameter", fault, 1);
        assert_eq!(code(parameter()).await, expected);
    }
    assert_eq!(code(parameter()).await, "ok");

    faults.inject("PutEvents", Fault::Throttle, 1);
    faults.inject("PutEvents", Fault::InternalError, 1);
    let event =
        || aws.events.put_events().entries(aws_sdk_eventbridge::types::PutEventsRequestEntry::builder().build()).send();
    assert_eq!(code(event()).await, "ThrottlingException");
    assert_eq!(code(event()).await, "InternalException");
    Ok(())
}

/// Guards: a conflict cancels a transaction with one reason an action, as AWS does.
#[tokio::test]
async fn a_conflict_cancels_a_transaction() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    emulator.faults().inject("TransactWriteItems", Fault::TransactionConflict, 1);
    let mut transaction = aws.dynamodb.transact_write_items();
    for sk in ["1", "2"] {
        let item = HashMap::from([("pk".to_owned(), text("a")), ("sk".to_owned(), text(sk))]);
        let put = Put::builder().table_name("table").set_item(Some(item)).build()?;
        transaction = transaction.transact_items(TransactWriteItem::builder().put(put).build());
    }
    let error = transaction.clone().send().await.expect_err("conflict").into_service_error();
    let aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(
        cancelled,
    ) = error
    else {
        return Err(error.into());
    };
    let codes: Vec<_> = cancelled.cancellation_reasons().iter().map(|reason| reason.code()).collect();
    assert_eq!(codes, [Some("TransactionConflict"), Some("None")]);
    assert!(!exists(&aws, "1").await?);
    transaction.send().await?;
    assert!(exists(&aws, "1").await?);
    Ok(())
}

/// Guards: a lost reply is executed, once, and its caller gets nothing.
#[tokio::test]
async fn a_lost_reply_is_executed() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    let lost = emulator.faults().inject("PutItem", Fault::ReplyLost, 1);
    assert_eq!(code(put(&aws, "1").send()).await, "no answer");
    lost.reached().await;
    assert!(exists(&aws, "1").await?);
    assert_eq!(emulator.calls().count("PutItem"), 1);

    emulator.faults().inject("PutParameter", Fault::ReplyLost, 1);
    let parameter = aws.ssm.put_parameter().name("/p").value("v").r#type(ParameterType::String).send();
    assert_eq!(code(parameter).await, "no answer");
    assert_eq!(aws.value("/p").await?, "v");
    Ok(())
}

/// Guards: a call without a reply is not executed, and can be given up at exactly that point.
#[tokio::test]
async fn a_call_without_reply_is_not_executed() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    let silent = emulator.faults().inject("PutItem", Fault::NoReply, 1);
    tokio::select! {
        answer = put(&aws, "1").send() => return Err(Failure(format!("answered: {answer:?}"))),
        () = silent.reached() => {}
    }
    assert!(!exists(&aws, "1").await?);
    Ok(())
}

/// Guards: stopping does not wait for a call that is never answered.
#[tokio::test]
async fn a_call_without_reply_does_not_hold_up_the_end() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    let silent = emulator.faults().inject("PutItem", Fault::NoReply, 1);
    let call = tokio::spawn(put(&aws, "1").send());
    silent.reached().await;
    emulator.stop().await;
    assert!(call.await?.is_err());
    Ok(())
}

/// Guards: a call whose connection is closed is not executed, whatever its service, and its caller
/// gets nothing.
#[tokio::test]
async fn a_reset_call_is_not_executed() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    let faults = emulator.faults();
    let reset = ["PutItem", "PutParameter", "PutEvents"].map(|operation| faults.inject(operation, Fault::Reset, 1));
    assert_eq!(code(put(&aws, "1").send()).await, "no answer");
    let parameter = aws.ssm.put_parameter().name("/p").value("v").r#type(ParameterType::String);
    assert_eq!(code(parameter.clone().send()).await, "no answer");
    let entry = aws_sdk_eventbridge::types::PutEventsRequestEntry::builder().build();
    assert_eq!(code(aws.events.put_events().entries(entry).send()).await, "no answer");
    assert!(reset.iter().all(|reset| reset.hits() == 1));
    assert!(!exists(&aws, "1").await?);
    assert_eq!(code(aws.ssm.get_parameter().name("/p").send()).await, "ParameterNotFound");
    assert_eq!((code(put(&aws, "1").send()).await, code(parameter.send()).await), ("ok".to_owned(), "ok".to_owned()));
    Ok(())
}

/// Guards: a delayed call is executed once its time has come, by Tokio's clock, and answered as if
/// nothing had been.
#[tokio::test(start_paused = true)]
async fn a_delayed_call_is_executed_later() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    let (begin, hour) = (tokio::time::Instant::now(), Duration::from_hours(1));
    let delayed = emulator.faults().inject("PutParameter", Fault::Delay(hour), 1);
    assert_eq!(aws.put_parameter("/p", "v").await?, 1);
    assert_eq!((begin.elapsed() >= hour, delayed.hits()), (true, 1));
    assert_eq!(aws.value("/p").await?, "v");
    Ok(())
}

/// Guards: while a call is delayed others are answered, and it is dropped when the emulator stops.
#[tokio::test]
async fn a_delayed_call_holds_up_nothing() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    let delayed = emulator.faults().inject("PutItem", Fault::Delay(Duration::MAX), 1);
    let call = tokio::spawn(put(&aws, "1").send());
    delayed.reached().await;
    put(&aws, "2").send().await?;
    assert!(!exists(&aws, "1").await? && exists(&aws, "2").await?);
    emulator.stop().await;
    assert!(call.await?.is_err());
    Ok(())
}

/// Guards: what was not hit can be taken back; other operations are left alone; calls are counted,
/// failed ones too.
#[tokio::test]
async fn faults_are_taken_back_and_calls_counted() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    emulator.calls().reset();
    emulator.faults().inject("PutItem", Fault::Throttle, 5);
    assert!(!exists(&aws, "1").await?);
    assert_ne!(code(put(&aws, "1").send()).await, "ok");
    emulator.faults().clear();
    assert_eq!(code(put(&aws, "1").send()).await, "ok");
    let calls = emulator.calls();
    assert_eq!((calls.count("PutItem"), calls.count("GetItem"), calls.count("Query"), calls.total()), (2, 1, 0, 3));
    assert_eq!(calls.snapshot(), [("GetItem".to_owned(), 1), ("PutItem".to_owned(), 2)].into());
    assert_eq!(calls.service_total(emulator::Service::ParameterStore), 0);
    Ok(())
}

/// Guards: a held call is executed when it is let go on, not before, and the calls before it pass.
#[tokio::test]
async fn a_held_call_is_executed_later() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    let held = emulator.faults().hold("PutItem", 1);
    put(&aws, "1").send().await?;
    let second = tokio::spawn(put(&aws, "2").send());
    held.reached().await;
    assert!(exists(&aws, "1").await? && !exists(&aws, "2").await?);
    held.release();
    second.await??;
    assert!(exists(&aws, "2").await?);
    Ok(())
}

/// Guards: reads of Parameter Store can be answered as before a put.
#[tokio::test]
async fn a_put_may_not_be_seen_yet() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.ssm.put_parameter().name("/p").value("v").r#type(ParameterType::String).send().await?;
    for operation in ["DescribeParameters", "GetParameters", "GetParameter", "GetParameterHistory"] {
        emulator.faults().inject(operation, Fault::NotYet, 1);
    }
    assert!(aws.ssm.describe_parameters().send().await?.parameters().is_empty());
    assert_eq!(aws.ssm.get_parameters().names("/p").send().await?.invalid_parameters(), ["/p"]);
    assert_eq!(code(aws.ssm.get_parameter().name("/p").send()).await, "ParameterNotFound");
    assert_eq!(code(aws.ssm.get_parameter_history().name("/p").send()).await, "ParameterNotFound");
    assert_eq!(aws.value("/p").await?, "v");
    Ok(())
}
