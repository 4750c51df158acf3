//! Rules and events: what matches is delivered, whole, again after an error, and can be waited for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_ssm::types::ParameterType;
use emulator::{Emulator, EventFate, EventOdds, Options, Rule, Target};
use serde_json::{Value, json};

use crate::clients::{Failure, Outcome, start};

/// Collects what it is given.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Vec<Value>>>);

impl Inbox {
    fn target(&self) -> Target {
        let inbox = self.clone();
        Arc::new(move |event, _| {
            let inbox = inbox.clone();
            Box::pin(async move {
                inbox.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                Ok(())
            })
        })
    }

    /// What came since the last look, sorted by operation or text, as no order is promised.
    async fn take(&self, emulator: &Emulator) -> Vec<Value> {
        emulator.settled().await;
        let mut events = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        events.sort_by_key(|event| event["detail"].to_string());
        events
    }
}

fn rule(name: &str, bus: &str, pattern: Value, target: Target) -> Rule {
    Rule { name: name.to_owned(), bus: bus.to_owned(), pattern, target }
}

fn entry(bus: &str, source: &str, detail: &Value) -> PutEventsRequestEntry {
    PutEventsRequestEntry::builder()
        .event_bus_name(bus)
        .source(source)
        .detail_type("Config Changed")
        .detail(detail.to_string())
        .resources("arn:aws:thing")
        .build()
}

/// Guards: a rule gets the events of its own bus that match its pattern, and no others.
#[tokio::test]
async fn a_rule_gets_what_matches_on_its_bus() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    let (mine, all) = (Inbox::default(), Inbox::default());
    let pattern = json!({ "source": ["tenantry"], "detail": { "tenant": [{ "prefix": "a" }] } });
    emulator.add_rule(rule("mine", "suite", pattern, mine.target()))?;
    emulator.add_rule(rule("all", "suite", json!({ "source": [{ "exists": true }] }), all.target()))?;
    let sent = [
        ("suite", "tenantry", json!({ "tenant": "acme" })),
        ("suite", "tenantry", json!({ "tenant": "bolt" })),
        ("suite", "other", json!({ "tenant": "acme" })),
        ("default", "tenantry", json!({ "tenant": "acme" })),
    ];
    let mut put = aws.events.put_events();
    for (bus, source, detail) in &sent {
        put = put.entries(entry(bus, source, detail));
    }
    assert_eq!(put.send().await?.failed_entry_count(), 0);
    let got = mine.take(&emulator).await;
    assert_eq!(got.len(), 1);
    assert_eq!(got[0]["detail"], json!({ "tenant": "acme" }));
    assert_eq!(all.take(&emulator).await.len(), 3);
    Ok(())
}

/// Guards: an event arrives with the whole envelope that AWS gives it.
#[tokio::test]
async fn an_event_has_its_envelope() -> Outcome {
    let (emulator, aws) = start(Options { account: "111122223333".to_owned(), ..Options::default() }).await;
    let inbox = Inbox::default();
    emulator.add_rule(rule("r", "default", json!({ "source": ["s"] }), inbox.target()))?;
    let answer = aws.events.put_events().entries(entry("default", "s", &json!({ "k": [1, null] }))).send().await?;
    let id = answer.entries()[0].event_id().map(str::to_owned);
    let mut event = inbox.take(&emulator).await.remove(0);
    let time = event["time"].take();
    let time = time.as_str().unwrap_or_default();
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    let expected = json!({
        "version": "0", "id": id, "detail-type": "Config Changed", "source": "s", "account": "111122223333", "time": null,
        "region": "us-east-1", "resources": ["arn:aws:thing"], "detail": { "k": [1, null] },
    });
    assert_eq!(event, expected);
    Ok(())
}

/// Guards: each change of a parameter is told once, with what AWS tells and no value; refused
/// writes are not told.
#[tokio::test]
async fn parameter_changes_are_told() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    let inbox = Inbox::default();
    let pattern = json!({ "source": ["aws.ssm"], "detail-type": ["Parameter Store Change"] });
    emulator.add_rule(rule("changes", "default", pattern, inbox.target()))?;
    let put = || aws.ssm.put_parameter().name("/a/b").value("secret").r#type(ParameterType::String).overwrite(true);

    put().send().await?;
    let event = inbox.take(&emulator).await.remove(0);
    assert_eq!(event["detail"], json!({ "operation": "Create", "name": "/a/b", "type": "String" }));
    assert_eq!(event["resources"], json!(["arn:aws:ssm:us-east-1:000000000000:parameter/a/b"]));
    assert_eq!((&event["source"], &event["account"]), (&json!("aws.ssm"), &json!("000000000000")));
    assert!(!event.to_string().contains("secret"));

    put().description("why").send().await?;
    aws.ssm.label_parameter_version().name("/a/b").labels("l").send().await?;
    aws.ssm.put_parameter().name("/a/b").value("x").r#type(ParameterType::String).send().await.expect_err("exists");
    aws.ssm.delete_parameter().name("/a/b").send().await?;
    let details: Vec<_> = inbox.take(&emulator).await.into_iter().map(|event| event["detail"].clone()).collect();
    let told =
        |operation: &str| json!({ "operation": operation, "name": "/a/b", "type": "String", "description": "why" });
    assert_eq!(details, ["Delete", "LabelParameterVersion", "Update"].map(told));
    Ok(())
}

/// Guards: a target that fails is given the same event again; one that goes on failing or panics
/// holds up nothing.
#[tokio::test]
async fn a_failing_target_gets_the_event_again() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let target: Target = {
        let seen = Arc::clone(&seen);
        Arc::new(move |event, _| {
            let seen = Arc::clone(&seen);
            Box::pin(async move {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(event["id"].clone());
                if seen.len() < 3 { Err("not yet".to_owned()) } else { Ok(()) }
            })
        })
    };
    let panics: Target = Arc::new(|_, _| Box::pin(async { panic!("a target that panics, on purpose") }));
    emulator.add_rule(rule("flaky", "default", json!({ "source": ["s"] }), target))?;
    emulator.add_rule(rule("panics", "default", json!({ "source": ["s"] }), panics))?;
    aws.events.put_events().entries(entry("default", "s", &json!({}))).send().await?;
    emulator.settled().await;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|id| *id == seen[0]));
    Ok(())
}

/// Guards: a rule that can never work is refused when it is added; one of the same name takes the
/// other's place.
#[tokio::test]
async fn rules_are_checked_and_replaced() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    let (old, new) = (Inbox::default(), Inbox::default());
    for pattern in [json!("source"), json!({ "source": "s" }), json!({ "source": [{ "no-such-operator": 1 }] })] {
        let refused = emulator.add_rule(rule("r", "default", pattern.clone(), old.target()));
        assert!(refused.is_err(), "{pattern}");
    }
    emulator.add_rule(rule("", "default", json!({}), old.target())).expect_err("unnamed");
    emulator.add_rule(rule("r", "default", json!({ "source": ["s"] }), old.target()))?;
    emulator.add_rule(rule("r", "default", json!({ "source": ["s"] }), new.target()))?;
    aws.events.put_events().entries(entry("default", "s", &json!({}))).send().await?;
    assert_eq!((old.take(&emulator).await.len(), new.take(&emulator).await.len()), (0, 1));
    let rules = aws.events.list_rules().send().await?;
    assert_eq!(rules.rules().iter().filter_map(|rule| rule.name()).collect::<Vec<_>>(), ["r"]);
    Ok(())
}

/// Guards: the trace that an event was put in comes with it, as it does with a function's
/// invocation.
#[tokio::test]
async fn a_trace_goes_with_its_event() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let target: Target = {
        let seen = Arc::clone(&seen);
        Arc::new(move |_, trace| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(trace);
            Box::pin(async { Ok(()) })
        })
    };
    emulator.add_rule(rule("traced", "default", json!({ "source": ["s"] }), target))?;
    let mut traced = entry("default", "s", &json!({}));
    traced.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned());
    for entry in [traced, entry("default", "s", &json!({}))] {
        aws.events.put_events().entries(entry).send().await?;
        emulator.settled().await;
    }
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(seen, [Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned()), None]);
    Ok(())
}

/// The numbers of 100 events, as they come when they are sent all at once with this fate.
async fn arrivals(fate: EventFate) -> Result<Vec<u64>, Failure> {
    let (emulator, aws) = start(Options::default()).await;
    let inbox = Inbox::default();
    emulator.add_rule(rule("r", "default", json!({ "source": ["s"] }), inbox.target()))?;
    // Held back until all are there, so that none has to wait for the calls of others.
    emulator.set_event_fate(EventFate::Delayed);
    for call in 0..10 {
        let entries = (0..10).map(|number| entry("default", "s", &json!({ "number": call * 10 + number })));
        aws.events.put_events().set_entries(Some(entries.collect())).send().await?;
    }
    emulator.set_event_fate(fate);
    emulator.settled().await;
    let events = inbox.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(events.iter().filter_map(|event| event["detail"]["number"].as_u64()).collect())
}

/// Guards: a seed has some events lost, some doubled, some late, and others as they are; the same
/// seed has the same ones, and all is settled in the end.
#[tokio::test(start_paused = true)]
async fn a_seed_decides_the_fate_of_events() -> Outcome {
    let longest = Duration::from_mins(1);
    let odds = |seed| EventFate::Random(EventOdds { seed, lost: 0.2, doubled: 0.2, delayed: 0.2, longest });
    let first = arrivals(odds(1)).await?;
    assert_eq!(first, arrivals(odds(1)).await?);
    assert_ne!(first, arrivals(odds(2)).await?);
    let times = |number| first.iter().filter(|came| **came == number).count();
    for expected in [0, 1, 2] {
        assert!((0..100).any(|number| times(number) == expected), "{expected} times");
    }
    assert!((0..100).all(|number| times(number) <= 2));

    let none = EventOdds { seed: 1, lost: 0.0, doubled: 0.0, delayed: 0.0, longest };
    let newest_first: Vec<u64> = (0..100).rev().collect();
    assert_eq!(arrivals(EventFate::Random(none)).await?, newest_first);
    let mut late = arrivals(EventFate::Random(EventOdds { delayed: 1.0, ..none })).await?;
    assert_ne!(late, newest_first);
    late.sort_unstable();
    assert!(late.into_iter().eq(0..100));
    Ok(())
}
