//! `PutEvents`.

use aws_sdk_eventbridge::types::PutEventsRequestEntry;

use super::{Aws, cases};
use crate::clients::{Outcome, code, same};

cases! {
    good_events_get_ids: [],
    bad_events_fail_alone: [Moto: "takes aws.* sources", Ministack: "takes aws.* sources"],
    an_event_needs_source_type_and_detail: [Ministack: "takes events without them"],
    at_most_ten_events: [],
    at_least_one_event: [Moto: "takes an empty list", Ministack: "takes an empty list"],
    events_have_a_size_limit: [Moto: "has no size limit", Ministack: "has no size limit"],
    an_unknown_bus_takes_events_and_drops_them: [Moto: "answers ResourceNotFoundException"],
}

fn entry(source: &str, detail: &str) -> PutEventsRequestEntry {
    PutEventsRequestEntry::builder().source(source).detail_type("Something Happened").detail(detail).build()
}

/// Guards: every good event is answered with an id of its own.
async fn good_events_get_ids(aws: &Aws) -> Outcome {
    let put = aws.events.put_events().entries(entry("a", "{}")).entries(entry("b", r#"{"c":1}"#));
    let answer = put.send().await?;
    same!("failed", answer.failed_entry_count(), 0)?;
    let ids: std::collections::BTreeSet<_> = answer.entries().iter().filter_map(|entry| entry.event_id()).collect();
    same!("ids", ids.len(), 2)
}

/// Guards: a bad event has an error of its own in a good answer, at its place; the others go
/// through.
async fn bad_events_fail_alone(aws: &Aws) -> Outcome {
    let put = aws.events.put_events().entries(entry("a", "{}")).entries(entry("a", "{")).entries(entry("aws.s3", "{}"));
    let answer = put.send().await?;
    same!("failed", answer.failed_entry_count(), 2)?;
    let codes: Vec<_> = answer.entries().iter().map(|entry| entry.error_code()).collect();
    same!("codes", codes, [None, Some("MalformedDetail"), Some("NotAuthorizedForSourceException"),],)
}

/// Guards: what an event needs is said by name.
async fn an_event_needs_source_type_and_detail(aws: &Aws) -> Outcome {
    let bare = PutEventsRequestEntry::builder;
    let put = aws
        .events
        .put_events()
        .entries(bare().detail_type("t").detail("{}").build())
        .entries(bare().source("s").detail("{}").build())
        .entries(bare().source("s").detail_type("t").build());
    let answer = put.send().await?;
    let codes: Vec<_> = answer.entries().iter().filter_map(|entry| entry.error_code()).collect();
    same!("codes", codes, ["InvalidArgument"; 3])
}

/// Guards: `Entries` has 1 to 10 members (API reference).
async fn at_most_ten_events(aws: &Aws) -> Outcome {
    let put = |count: usize| aws.events.put_events().set_entries(Some(vec![entry("a", "{}"); count])).send();
    same!("ten", code(put(10)).await, "ok")?;
    same!("eleven", code(put(11)).await, "ValidationException")
}

/// Guards: `Entries` has 1 to 10 members (API reference).
async fn at_least_one_event(aws: &Aws) -> Outcome {
    let put = aws.events.put_events().set_entries(Some(Vec::new())).send();
    same!("none", code(put).await, "ValidationException")
}

/// Guards: "The total entry size must be less than 256KB" (user guide).
async fn events_have_a_size_limit(aws: &Aws) -> Outcome {
    let put = |bytes: usize| {
        let detail = format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes));
        aws.events.put_events().entries(entry("a", &detail)).send()
    };
    same!("just under", code(put(256 * 1024 - 100)).await, "ok")?;
    same!("over", code(put(256 * 1024)).await, "ValidationException")
}

/// Guards: as AWS does, an event for a bus that does not exist is answered like any other.
async fn an_unknown_bus_takes_events_and_drops_them(aws: &Aws) -> Outcome {
    let nowhere = PutEventsRequestEntry::builder().source("a").detail_type("t").detail("{}").event_bus_name("nowhere");
    let answer = aws.events.put_events().entries(nowhere.build()).send().await?;
    same!("failed", answer.failed_entry_count(), 0)
}
