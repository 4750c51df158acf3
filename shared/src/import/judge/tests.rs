//! How every order of our puts and those of others is judged.

use super::*;
use crate::model::{
    entry::{Author, CommitId, Held, Revision, State},
    key::ConfigKey,
    routing::TagRoutes,
    value::ConfigValue,
};

/// A version at this number, written at as many milliseconds.
fn place(version: u64) -> Locator {
    Locator { version, modified_at: Timestamp::from_millis(version) }
}

/// A store with these versions and their owners: `?` foreign, a number ours for that version, `0`
/// ours and never committed, `…` ours and open.
fn store(owners: &[(Locator, &str)]) -> (Vec<StoredVersion>, HashMap<Locator, Owner>) {
    let stored = owners.iter().map(|(place, _)| StoredVersion::unmarked(*place)).collect();
    let owned = owners.iter().filter_map(|(place, owner)| match *owner {
        "?" => None,
        "0" => Some((*place, Owner::Nobody)),
        "…" => Some((*place, Owner::Open)),
        version => Some((*place, Owner::Version(Version::new(version.parse().unwrap())))),
    });
    (stored, owned.collect())
}

/// A key at a version that was written at a time, and how far it is replicated.
fn key_at(version: u64, at: u64, is_live: bool, replica: ReplicaState) -> Current {
    let routes = TagRoutes::default();
    let entry = Entry {
        key: ConfigKey::parse("param_config_k", &routes).unwrap(),
        version: Version::new(version),
        revision: Revision::new(version),
        author: Author::new("a"),
        comment: None,
        modified_at: Timestamp::from_millis(at),
        commit: CommitId::from_stored("c"),
        state: if is_live { State::Live(Held::Value(ConfigValue::from_text("v"))) } else { State::Deleted },
        superseded: false,
        refusal: None,
    };
    let mut current = Current::default();
    (current.entry, current.replica) = (Some(entry), replica);
    current
}

fn replicated(version: u64, imported_through: Option<u64>) -> ReplicaState {
    ReplicaState {
        replicated: Some(Version::new(version)),
        store_version: Some(version),
        imported_through: imported_through.map(place),
        ..ReplicaState::default()
    }
}

/// The foreign versions by number, superseded ones with a star; how far the store needs no further
/// scan; and the flags.
fn judged(current: &Current, owners: &[(Locator, &str)]) -> String {
    let (stored, owners) = store(owners);
    let seen = judge(current, &stored, &owners);
    let star = |one: &Foreign| format!("{}{}", one.place.version, if one.superseded { "*" } else { "" });
    let foreign: Vec<_> = seen.foreign.iter().map(star).collect();
    let through = seen.through.map_or(0, |place| place.version);
    let flags = [(seen.is_open, "open"), (seen.misplaced, "misplaced"), (seen.has_gap, "gap")];
    let flags: Vec<_> = flags.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    format!("[{}] {through} {}", foreign.join(" "), flags.join(" ")).trim_end().to_owned()
}

/// Every order of our puts and those of others has its outcome.
#[test]
fn versions_are_judged() {
    let one = |owners: &[&'static str]| -> Vec<_> { (1..).map(place).zip(owners.iter().copied()).collect() };
    let at_rest = |version| key_at(version, 0, true, replicated(version, Some(1)));
    for (what, current, stored, expected) in [
        ("nothing new", at_rest(1), one(&["1"]), "[] 0"),
        ("our own newer put", at_rest(2), one(&["1", "2"]), "[] 2"),
        ("an edit", at_rest(1), one(&["1", "?"]), "[2] 2"),
        ("two edits", at_rest(1), one(&["1", "?", "?"]), "[2 3] 3"),
        ("an edit that our put replaced", at_rest(3), one(&["1", "?", "3"]), "[2*] 3"),
        ("an edit on each side of it", at_rest(3), one(&["1", "?", "3", "?"]), "[2* 4] 4"),
        ("a put that nobody committed, on top", at_rest(1), one(&["1", "0"]), "[] 2 misplaced"),
        ("an edit below it", at_rest(1), one(&["1", "?", "0"]), "[2] 3"),
        ("an older put that came late", at_rest(2), one(&["1", "2", "1"]), "[] 3 misplaced"),
        ("an open put", at_rest(1), one(&["1", "…"]), "[] 0 open"),
        ("an edit behind an open put", at_rest(1), one(&["1", "…", "?"]), "[] 0 open"),
        ("an edit before an open put", at_rest(1), one(&["1", "?", "…"]), "[2] 2 open"),
        ("nothing known so far", key_at(1, 0, true, replicated(1, None)), one(&["1", "?"]), "[2] 2"),
        ("never written", Current::default(), one(&["?", "?"]), "[1 2] 2"),
        ("a first put that nobody committed", Current::default(), one(&["0"]), "[] 1 misplaced"),
    ] {
        assert_eq!(judged(&current, &stored), expected, "{what}");
    }
}

/// While another process is at the key, it is open whether the newest version is in its place.
/// Unless it shows what is committed, it is scanned again.
#[test]
fn what_cannot_be_judged_yet_is_scanned_again() {
    let id = IntentId::new(Timestamp::from_millis(1));
    let calls_open = |version| ReplicaState { intents: vec![id.clone()], ..replicated(version, Some(1)) };
    let pending = |version| ReplicaState { pending: true, ..replicated(version, Some(1)) };
    for replica in [calls_open(2), pending(2)] {
        let current = key_at(2, 0, true, replica);
        assert_eq!(judged(&current, &[(place(1), "1"), (place(2), "2")]), "[] 2");
        assert_eq!(judged(&current, &[(place(1), "1"), (place(2), "2"), (place(3), "1")]), "[] 2");
        assert_eq!(judged(&current, &[(place(1), "1"), (place(2), "0")]), "[] 0");
    }
    // What was never committed is misplaced.
    let never = ReplicaState { imported_through: Some(place(1)), ..ReplicaState::default() };
    let mut current = Current::default();
    current.replica = never;
    assert_eq!(judged(&current, &[(place(1), "0"), (place(2), "0")]), "[] 2 misplaced");
}

/// An expired intent is kept as long as its put may come, or is there.
#[test]
fn ids_are_forgotten_when_nothing_bears_them() {
    let (now, old) = (Timestamp::from_millis(10_000_000), IntentId::new(Timestamp::from_millis(1)));
    let replica = ReplicaState { expired_intents: vec![old.clone(), IntentId::new(now)], ..ReplicaState::default() };
    let bearing = StoredVersion { mark: Some((old.clone(), Version::FIRST)), ..StoredVersion::unmarked(place(1)) };
    assert_eq!(done_with(&replica, &[StoredVersion::unmarked(place(1))], now), [old]);
    assert_eq!(done_with(&replica, &[bearing], now), []);
}

/// If the key was written and its store does not show that yet, the later of the two writes wins,
/// by the clock.
#[test]
fn what_is_pending_competes_by_time() {
    let behind = |at| key_at(2, at, true, ReplicaState { imported_through: Some(place(1)), ..replicated(1, None) });
    assert_eq!(judged(&behind(9), &[(place(1), "1"), (place(5), "?")]), "[5*] 5");
    assert_eq!(judged(&behind(4), &[(place(1), "1"), (place(5), "?")]), "[5] 5");
    let skew = u64::try_from(CLOCK_SKEW.as_millis()).unwrap();
    let deleted = |at| key_at(2, at, false, ReplicaState { store_version: None, ..replicated(2, None) });
    assert_eq!(judged(&deleted(5 + skew), &[(place(5), "?")]), "[5] 5 gap", "made anew");
    assert_eq!(judged(&deleted(6 + skew), &[(place(5), "?")]), "[5*] 5 gap", "left where it was");
}

/// A version that bears an id long after that was given out is a copy, made when the original had
/// left the store's history.
#[test]
fn old_ids_are_not_believed() {
    let given_out_at = Timestamp::from_millis(1_000_000);
    let id = IntentId::new(given_out_at);
    let made = |after: Duration| Locator { version: 1, modified_at: given_out_at.plus(after) };
    assert!(is_in_time(&id, made(Duration::from_secs(1))) && is_in_time(&id, place(1)));
    assert!(!is_in_time(&id, made(MAX_PUT_DELAY + Duration::from_secs(1))));
}

/// The same number at another time is another life of the name, and all of it is new. A number that
/// is merely gone is not.
#[test]
fn lives_are_told_apart_by_time() {
    let known = key_at(1, 0, true, replicated(3, Some(3)));
    let later = |version| Locator { version, modified_at: Timestamp::from_millis(version + 100) };
    assert_eq!(judged(&known, &[(later(1), "?"), (later(2), "?")]), "[1 2] 2");
    assert_eq!(judged(&known, &[(later(1), "?"), (later(2), "?"), (later(3), "?"), (later(4), "?")]), "[1 2 3 4] 4");
    assert_eq!(judged(&known, &[(later(4), "?"), (later(5), "?")]), "[4 5] 5");
    assert_eq!(judged(&known, &[(later(7), "?")]), "[7] 7 gap");
}

/// An old view of the store, of this life of the name or of the one before, holds nothing new.
#[test]
fn old_views_are_recognised() {
    let known = key_at(1, 0, true, replicated(3, Some(3)));
    assert_eq!(judged(&known, &[(place(1), "1"), (place(2), "?")]), "[] 0");
    assert_eq!(judged(&known, &[]), "[] 0");
    let second_life = Locator { version: 2, modified_at: Timestamp::from_millis(200) };
    let known = key_at(1, 0, true, ReplicaState { imported_through: Some(second_life), ..replicated(3, None) });
    let first_life: Vec<_> = (1..=3).map(|version| (place(version), "?")).collect();
    assert!(judged(&known, &first_life).starts_with("[] 0"));
    assert!(judged(&known, &first_life[2..]).starts_with("[] 0"), "with its oldest dropped");
}
