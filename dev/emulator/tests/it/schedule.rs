//! Faults and fates from a seed: what a seed has decided it decides again, within the bounds it was
//! given.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::types::KeysAndAttributes;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_ssm::types::ParameterType;
use emulator::{Fault, Options, Schedule};

use crate::clients::{Failure, Outcome, code, start, text};

fn schedule(seed: u64) -> Schedule {
    let kinds = [
        Fault::Throttle,
        Fault::InternalError,
        Fault::ReplyLost,
        Fault::Reset,
        Fault::TransactionConflict,
        Fault::NotYet,
        Fault::Delay(Duration::from_micros(10)),
        Fault::StalePage,
        Fault::EmptyPage,
        Fault::WholeSeconds,
    ];
    Schedule { seed, faults: kinds.map(|fault| (fault, 0.08)).to_vec(), operations: None, max: usize::MAX }
}

/// What comes of the same calls, one after another, and which faults were dealt out.
async fn outcomes(seed: u64) -> Result<(Vec<String>, BTreeMap<Fault, usize>), Failure> {
    let (emulator, aws) = start(Options::default()).await;
    let scheduled = emulator.faults().schedule(schedule(seed));
    let mut outcomes = Vec::new();
    for call in 0..120 {
        let name = format!("/p/{}", call % 5);
        let put = aws.ssm.put_parameter().name(&name).value("v").overwrite(true);
        outcomes.push(code(put.r#type(ParameterType::String).send()).await);
        let page = aws.ssm.get_parameters_by_path().path("/p").send().await;
        outcomes.push(match page {
            Ok(page) => {
                let found: Vec<_> =
                    page.parameters().iter().map(|found| (found.name().map(str::to_owned), found.version())).collect();
                format!("{found:?} {}", page.next_token().is_some())
            }
            error => code(async { error }).await,
        });
    }
    Ok((outcomes, scheduled.dealt()))
}

/// Guards: calls made one after another get the same faults for the same seed, and something else
/// for another.
#[tokio::test]
async fn the_same_seed_has_the_same_outcome() -> Outcome {
    let (first, dealt) = outcomes(7).await?;
    assert_eq!((first.clone(), dealt.clone()), outcomes(7).await?);
    assert_ne!(first, outcomes(8).await?.0);
    let without_not_yet: Vec<_> =
        schedule(7).faults.into_iter().map(|(fault, _)| fault).filter(|fault| *fault != Fault::NotYet).collect();
    let mut kinds: Vec<_> = dealt.keys().copied().collect();
    kinds.sort_unstable_by_key(|kind| without_not_yet.iter().position(|other| other == kind));
    // Neither a put nor a listing by path can be answered with `NotYet`.
    assert_eq!(kinds, without_not_yet);
    Ok(())
}

/// Guards: faults by name go before those by chance; only the operations that were asked for fail,
/// as often as allowed; ending the schedule, replacing it and clearing all faults end it.
#[tokio::test]
async fn a_schedule_keeps_to_its_bounds() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    let always = |max| Schedule {
        seed: 1,
        faults: vec![(Fault::Throttle, 1.0)],
        operations: Some(vec!["GetParameter".to_owned(), "DescribeParameters".to_owned()]),
        max,
    };
    let get = || code(aws.ssm.get_parameter().name("/p").send());
    let faults = emulator.faults();
    aws.put_parameter("/p", "v").await?;

    let bounded = faults.schedule(always(2));
    faults.inject("GetParameter", Fault::InternalError, 1);
    assert_eq!(get().await, "InternalServerError");
    aws.put_parameter("/p", "v").await?;
    assert_eq!(get().await, "ThrottlingException");
    assert_eq!(code(aws.ssm.describe_parameters().send()).await, "ThrottlingException");
    assert_eq!(get().await, "ok");
    assert_eq!(bounded.dealt(), BTreeMap::from([(Fault::Throttle, 2)]));

    let replaced = faults.schedule(always(9));
    let ended = faults.schedule(always(9));
    assert_eq!(get().await, "ThrottlingException");
    ended.end();
    assert_eq!(get().await, "ok");
    let cleared = faults.schedule(always(9));
    faults.clear();
    assert_eq!(get().await, "ok");
    let dealt = [replaced, ended, cleared].map(|scheduled| scheduled.dealt().values().sum::<usize>());
    assert_eq!(dealt, [0, 1, 0]);
    Ok(())
}

/// Guards: by chance a call gets only a fault that means something to it; the rest is neither dealt
/// nor counted.
#[tokio::test]
async fn a_turn_brings_what_fits_the_call() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.table("table").await?;
    let key = || HashMap::from([("pk".to_owned(), text("a")), ("sk".to_owned(), text("1"))]);
    for fault in [Fault::TransactionConflict, Fault::NotYet, Fault::StalePage, Fault::EmptyPage, Fault::WholeSeconds] {
        aws.put_parameter("/p", "v").await?;
        let scheduled = emulator.faults().schedule(Schedule {
            seed: 1,
            faults: vec![(fault, 1.0)],
            operations: None,
            max: usize::MAX,
        });
        let entry = PutEventsRequestEntry::builder().source("s").detail_type("t").detail("{}").build();
        assert_eq!(code(aws.events.put_events().entries(entry).send()).await, "ok");
        let get = aws.dynamodb.get_item().table_name("table").set_key(Some(key())).consistent_read(true);
        assert_eq!(code(get.send()).await, "ok");
        let one = KeysAndAttributes::builder().keys(key()).consistent_read(true).build()?;
        assert_eq!(code(aws.dynamodb.batch_get_item().request_items("table", one).send()).await, "ok");
        assert_eq!(code(aws.ssm.delete_parameter().name("/p").send()).await, "ok");
        assert_eq!(scheduled.dealt(), BTreeMap::new(), "{fault:?}");

        let query = aws.dynamodb.query().table_name("table").key_condition_expression("pk = :pk");
        let put = aws.dynamodb.put_item().table_name("table").set_item(Some(key()));
        let outcomes = [
            code(put.send()).await,
            code(query.expression_attribute_values(":pk", text("a")).send()).await,
            code(aws.ssm.get_parameter().name("/p").send()).await,
        ];
        let (expected, dealt) = match fault {
            Fault::TransactionConflict => (["TransactionConflictException", "ok", "ParameterNotFound"], 1),
            Fault::StalePage => (["ok", "ok", "ParameterNotFound"], 2),
            _ => (["ok", "ok", "ParameterNotFound"], 1),
        };
        assert_eq!(outcomes, expected, "{fault:?}");
        assert_eq!(scheduled.dealt(), BTreeMap::from([(fault, dealt)]), "{fault:?}");
        emulator.faults().clear();
    }
    Ok(())
}

/// Guards: with many callers at the same time each call gets its own fault only: retried until
/// they are done, all writes are there, once.
#[tokio::test]
async fn concurrent_callers_get_through() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    let mut random = schedule(3);
    random.faults.retain(|(fault, _)| *fault != Fault::ReplyLost);
    random.max = 40;
    let scheduled = emulator.faults().schedule(random);
    let names: Vec<_> = (0..100).map(|number| format!("/p/{number}")).collect();
    let write = |name: &String| {
        let put = aws.ssm.put_parameter().name(name).value("v").r#type(ParameterType::String);
        async move {
            // A put that was executed without its caller being told would be refused the next time.
            loop {
                match code(put.clone().send()).await.as_str() {
                    "ok" => return Ok(()),
                    "ParameterAlreadyExists" => return Err(Failure("put twice".to_owned())),
                    _ => {}
                }
            }
        }
    };
    for written in futures_util::future::join_all(names.iter().map(write)).await {
        written?;
    }
    let dealt: usize = scheduled.dealt().values().sum();
    assert!((1..=40).contains(&dealt), "{dealt}");
    emulator.faults().clear();
    for name in &names {
        assert_eq!(aws.value(name).await?, "v");
    }
    Ok(())
}
