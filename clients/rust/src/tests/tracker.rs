use config_proto::v1::{self, WatchConfigResponse, watch_config_response};

use super::{commit, commit_after, delete, heartbeat, in_parts, put, short, skipping, snapshot, update};
use crate::{
    Event,
    watch::tracker::{Refusal, Tracker},
};

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

/// Promise: each revision is let through once, in order; one that is missing is noticed, whatever
/// is watched.
#[test]
fn doubles_are_dropped_and_gaps_refused() {
    for all in [true, false] {
        assert_eq!(
            told(all, [snapshot(5, &[]), commit(5), commit(6), commit(6), commit(7), commit_after(5, 7)]),
            ["=5:0", "-", "+6:1", "-", "+7:1", "-"]
        );
        assert_eq!(told(all, [snapshot(5, &[]), commit(7)]), ["=5:0", "Gap"]);
        assert_eq!(told(all, [snapshot(5, &[]), commit_after(5, 9), commit_after(10, 12)]), ["=5:0", "+9:1", "Gap"]);
        assert_eq!(told(all, [snapshot(5, &[]), commit_after(4, 7)]), ["=5:0", "+7:1"], "it may reach back");
    }
}

/// Promise: a heartbeat tells the revisions that a filter leaves out; where it leaves out none, one
/// that is ahead tells of a gap.
#[test]
fn heartbeats_are_for_what_is_not_watched() {
    let messages = || [snapshot(5, &[]), heartbeat(5), heartbeat(9), commit(9), commit(10)];
    assert_eq!(told(false, messages()), ["=5:0", "~5", "~9", "-", "+10:1"]);
    assert_eq!(told(true, messages())[..3], ["=5:0", "~5", "Gap"]);
}

/// Promise: a position is the one that the service gave for that very revision: no token is kept
/// for another one, and none is made up.
#[test]
fn positions_are_taken_as_they_come() {
    let mut tracker = Tracker::new(false, None);
    for message in [snapshot(5, &[]), commit(6), heartbeat(9), in_parts(commit_after(9, 12), None), heartbeat(4)] {
        let told = message.position.clone();
        tracker.take(message).unwrap();
        let held = tracker.position().cloned().map(v1::Position::from).unwrap();
        if told.as_ref().is_some_and(|told| told.revision > 4) {
            assert_eq!(Some(held), told);
        } else {
            assert_eq!(held, super::position(9));
        }
    }
}

/// Promise: what an update names as skipped is passed on, and decides nothing.
#[test]
fn skipped_revisions_are_told() {
    let changes = || vec![put("tenant_config_a", 8), delete("tenant_config_b")];
    let mut tracker = Tracker::new(true, None);
    tracker.take(snapshot(5, &[])).unwrap();
    let Ok(Some(Event::Update(update))) = tracker.take(skipping(6, 9, changes())) else { panic!("it is an update") };
    assert_eq!((update.position.revision, update.changes.len(), update.skipped), (9, 2, Some(6..=9)));
    assert_eq!(told(true, [snapshot(5, &[]), skipping(7, 9, changes())]), ["=5:0", "Gap"], "6 is missing");
}

/// Promise: what is told in parts is let through as one, with its last part, and moves the position
/// only then. Parts that do not belong together are refused.
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
    assert_eq!(told(true, [snapshot(5, &[]), first(), commit_after(4, 6)]), ["=5:0", "-", broken]);
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

/// Promise: a snapshot replaces all, also by an earlier revision, as after the restoring of a
/// table. What is known does not go back for less: neither to the last that an instance knew when
/// the stores stopped answering, nor by a heartbeat.
#[test]
fn nothing_goes_back_by_mistake() {
    let stale = |revision| {
        let mut stale = snapshot(revision, &[]);
        let Some(watch_config_response::Event::Snapshot(snapshot)) = &mut stale.event else { panic!("it is one") };
        snapshot.stale = true;
        stale
    };
    assert_eq!(told(true, [snapshot(5, &[]), snapshot(9, &[]), commit(10)]), ["=5:0", "=9:0", "+10:1"]);
    assert_eq!(told(true, [snapshot(5, &[]), snapshot(3, &[]), commit(4)]), ["=5:0", "=3:0", "+4:1"]);
    assert_eq!(told(true, [snapshot(5, &[]), stale(4)]), ["=5:0", "Behind"]);
    assert_eq!(told(true, [snapshot(5, &[]), stale(5), stale(6)]), ["=5:0", "=5:0", "=6:0"]);
    assert_eq!(told(true, [stale(5), snapshot(4, &[])]), ["=5:0", "=4:0"]);
    assert_eq!(told(true, [snapshot(5, &[]), heartbeat(4), commit(5)]), ["=5:0", "~5", "-"]);
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
    let mut nowhere = commit(6);
    nowhere.position = None;
    for message in [update(6, vec![without_entry]), update(6, vec![unknown]), elsewhere, nowhere] {
        assert!(told(true, [snapshot(5, &[]), message])[1].starts_with("Broken"));
    }
    assert!(told(true, [commit(6)])[0].starts_with("Broken"), "there was no snapshot");
}

/// Promise: what is refused twice at the same position makes the watch begin with a snapshot; an
/// instance that is only behind does not.
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
}

/// Promise: a message of a kind that a later service sends changes nothing.
#[test]
fn unknown_messages_are_passed_over() {
    let unknown = WatchConfigResponse { position: Some(super::position(9)), event: None };
    assert_eq!(told(true, [snapshot(5, &[]), unknown, commit(6)]), ["=5:0", "-", "+6:1"]);
}
