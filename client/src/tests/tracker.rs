use config_proto::v1::{self, WatchConfigResponse, watch_config_response::Message};

use super::{commit, delete, heartbeat, in_parts, put, short, skipping, snapshot, update};
use crate::watch::tracker::{Refusal, Tracker};

/// What these messages come to, for a watch of everything or of a part.
fn told(all: bool, messages: impl IntoIterator<Item = WatchConfigResponse>) -> Vec<String> {
    let mut tracker = Tracker::new(all, None);
    let take = |message| match tracker.take(message) {
        Ok(Some(event)) => short(&Ok(event)),
        Ok(None) => "-".to_owned(),
        Err(refusal) => format!("{refusal:?}"),
    };
    messages.into_iter().map(take).collect()
}

/// Promise: each revision is let through once, in order; one that is missing is noticed where everything is watched.
#[test]
fn doubles_are_dropped_and_gaps_refused() {
    assert_eq!(
        told(true, [snapshot(5, &[]), commit(5), commit(6), commit(6), commit(7)]),
        ["=5:0", "-", "+6:1", "-", "+7:1"]
    );
    assert_eq!(told(true, [snapshot(5, &[]), commit(7)]), ["=5:0", "Gap"]);
    assert_eq!(told(true, [snapshot(5, &[]), heartbeat(5), heartbeat(6)]), ["=5:0", "~5", "Gap"]);
    assert_eq!(
        told(false, [snapshot(5, &[]), commit(7), heartbeat(9), commit(9), commit(12)]),
        ["=5:0", "+7:1", "~9", "-", "+12:1"]
    );
}

/// Promise: an update that names what it skipped is no gap, if nothing is missing before what it names.
#[test]
fn skipped_revisions_are_no_gap() {
    let changes = || vec![put("tenant_config_a", 8), delete("tenant_config_b")];
    assert_eq!(told(true, [snapshot(5, &[]), skipping(6, 9, changes()), commit(10)]), ["=5:0", "+9:2", "+10:1"]);
    assert_eq!(told(true, [snapshot(5, &[]), skipping(4, 9, changes())]), ["=5:0", "+9:2"], "it may reach back");
    assert_eq!(told(true, [snapshot(5, &[]), skipping(7, 9, changes())]), ["=5:0", "Gap"], "6 is missing");
}

/// Promise: what is told in parts is let through as one, with its last part, and moves the position only then. Parts that do not belong together
/// are refused.
#[test]
fn parts_are_put_together() {
    let first = || in_parts(update(6, vec![put("tenant_config_a", 6)]), Some(5));
    let mut tracker = Tracker::new(true, None);
    tracker.take(snapshot(5, &[])).unwrap();
    assert_eq!(tracker.take(first()), Ok(None));
    assert_eq!(tracker.position().map(|position| position.revision), Some(5));
    let whole = tracker.take(update(6, vec![put("tenant_config_b", 6)])).unwrap().unwrap();
    assert_eq!((short(&Ok(whole.clone())).as_str(), whole.position().revision), ("+6:2", 6));

    let whole = [in_parts(snapshot(5, &["tenant_config_a"]), None), heartbeat(5), snapshot(5, &["tenant_config_b"])];
    assert_eq!(told(true, whole), ["-", "-", "=5:2"]);
    let broken = r#"Broken("its parts do not match")"#;
    assert_eq!(told(true, [in_parts(snapshot(5, &[]), None), snapshot(6, &[])]), ["-", broken]);
    assert_eq!(told(true, [snapshot(5, &[]), first(), commit(7)]), ["=5:0", "-", broken]);
    assert_eq!(told(true, [snapshot(5, &[]), first(), snapshot(6, &[])]), ["=5:0", "-", broken]);
}

/// Promise: parts of a broken connection are not put together with those of the next.
#[test]
fn parts_do_not_outlive_their_connection() {
    let mut tracker = Tracker::new(true, None);
    assert_eq!(tracker.take(in_parts(snapshot(5, &["tenant_config_a"]), None)), Ok(None));
    assert_eq!(tracker.connecting(), None);
    let whole = tracker.take(snapshot(5, &["tenant_config_b"])).unwrap().unwrap();
    assert_eq!(short(&Ok(whole)), "=5:1");
}

/// Promise: a snapshot replaces all, but what is known never goes back: neither to an older snapshot of the same history, nor by a heartbeat.
#[test]
fn nothing_goes_back() {
    let mut restored = snapshot(3, &[]);
    restored.position = Some(v1::Position { revision: 3, epoch: "e2".to_owned() });
    let mut foreign = commit(6);
    foreign.position = Some(v1::Position { revision: 6, epoch: "e2".to_owned() });
    assert_eq!(told(true, [snapshot(5, &[]), snapshot(9, &[]), commit(10)]), ["=5:0", "=9:0", "+10:1"]);
    assert_eq!(told(true, [snapshot(5, &[]), snapshot(4, &[])]), ["=5:0", "Behind"]);
    assert_eq!(told(true, [snapshot(5, &[]), heartbeat(4), commit(5)]), ["=5:0", "~5", "-"]);
    assert_eq!(told(true, [snapshot(5, &[]), restored]), ["=5:0", "=3:0"], "a restored table has another epoch");
    assert_eq!(told(true, [snapshot(5, &[]), foreign]), ["=5:0", "OtherHistory"]);
}

/// Promise: what cannot be understood is refused rather than guessed at.
#[test]
fn nonsense_is_refused() {
    let mut without_entry = put("tenant_config_a", 6);
    without_entry.entry = None;
    let mut unknown = put("tenant_config_a", 6);
    unknown.operation = 77;
    let mut elsewhere = commit(6);
    elsewhere.position = Some(super::position(8));
    for message in [update(6, vec![without_entry]), update(6, vec![unknown]), elsewhere] {
        assert!(told(true, [snapshot(5, &[]), message])[1].starts_with("Broken"));
    }
    assert!(told(true, [commit(6)])[0].starts_with("Broken"), "there was no snapshot");
}

/// Promise: what is refused twice at the same position makes the watch begin with a snapshot; an instance that is only behind does not.
#[test]
fn refused_twice_begins_anew() {
    let mut tracker = Tracker::new(true, None);
    tracker.take(snapshot(5, &[])).unwrap();
    tracker.refused(Refusal::Behind);
    tracker.refused(Refusal::Behind);
    tracker.refused(Refusal::Gap);
    assert!(tracker.position().is_some());
    tracker.take(heartbeat(5)).unwrap();
    tracker.refused(Refusal::Gap);
    assert_eq!(tracker.position(), None);

    tracker.take(snapshot(5, &[])).unwrap();
    tracker.refused(Refusal::Gap);
    tracker.take(commit(6)).unwrap();
    tracker.refused(Refusal::Gap);
    assert!(tracker.position().is_some(), "it got on in between");
    tracker.refused(Refusal::OtherHistory);
    assert_eq!(tracker.position(), None);
}

/// Promise: a message of a kind that a later service sends changes nothing.
#[test]
fn unknown_messages_are_passed_over() {
    let unknown = WatchConfigResponse { position: Some(super::position(9)), message: None };
    let heartbeat = v1::Heartbeat { revision: 5, stale: true };
    let stale = WatchConfigResponse { position: None, message: Some(Message::Heartbeat(heartbeat)) };
    assert_eq!(told(true, [snapshot(5, &[]), unknown, stale, commit(6)]), ["=5:0", "-", "~5", "+6:1"]);
}
