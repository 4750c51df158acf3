//! What the versions in a store mean: whose each is, which of them are foreign, and how far the
//! store has been imported. Nothing here calls anything.

use std::{collections::HashMap, time::Duration};

use crate::{
    clock::Timestamp,
    ledger::{Current, ReplicaState},
    model::entry::{Entry, IntentId, Locator, Version},
    outbox::replicate::is_abandoned,
    store::StoredVersion,
};

/// How far the clocks of a store and a function may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(2);
/// How long after its id was given out a put may take effect. AWS refuses requests whose signature
/// is older than five minutes, by clocks that may differ as much (Signature Version 4). A version
/// that bears an older id is a copy.
const MAX_PUT_DELAY: Duration = Duration::from_mins(15);

/// Whether the scan is acted upon only if the entry, read again after it, is as it was before it.
/// Then what is judged was so at one moment. So it is if:
///
/// - others seem to have done something, or the store seems not to show what is committed, which
///   may have been put after the first read;
///
/// - the store does not show how far it was imported. Then it is another life of the name; or its
///   reads lag.
pub(crate) fn needs_second_read(current: &Current, stored: &[StoredVersion], seen: &Seen) -> bool {
    let is_life_known = current.replica.imported_through.is_none_or(|last| is_same_life(last, stored));
    let is_value_there = !is_value_lost(current, stored);
    stored.is_empty() || !seen.foreign.is_empty() || seen.misplaced || !is_life_known || !is_value_there
}

/// Whose put made a version in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Ours: put for this version of the key.
    Version(Version),
    /// Ours, and never committed.
    Nobody,
    /// Ours, and not committed yet.
    Open,
}

/// A version in the store that bears a mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marked<'a> {
    pub(crate) place: Locator,
    pub(crate) id: &'a IntentId,
    pub(crate) version: Version,
}

/// The versions after those imported whose marks count, if the ledger knows their ids.
pub(crate) fn credible<'a>(current: &Current, stored: &'a [StoredVersion]) -> Vec<Marked<'a>> {
    let mut first = HashMap::new();
    let marked = stored.iter().filter_map(|one| {
        let (id, version) = one.mark.as_ref()?;
        // Whoever edits a parameter, or makes it anew, without giving a description may copy ours.
        let is_copy = *first.entry(id).or_insert(one.place) != one.place
            || current.replica.imported_through_id.as_ref() == Some(id);
        let is_credible = !is_copy && is_in_time(id, one.place) && is_behind(&current.replica, stored, one.place);
        is_credible.then_some(Marked { place: one.place, id, version: *version })
    });
    marked.collect()
}

/// Whose a version is, given the intent ids of the version that its mark names.
pub(crate) fn owner_of(current: &Current, marked: Marked<'_>, given_out: &[IntentId], now: Timestamp) -> Option<Owner> {
    let Marked { place, id, version } = marked;
    if given_out.contains(id) {
        Some(Owner::Version(version))
    } else if is_committed_at(current, place) {
        Some(Owner::Version(current.entry.as_ref().map_or(version, |entry| entry.version)))
    } else if current.replica.expired_intents.contains(id) {
        Some(Owner::Nobody)
    } else if current.replica.intents.contains(id) {
        // The process that could commit an abandoned put is gone.
        Some(if is_abandoned(id, now) { Owner::Nobody } else { Owner::Open })
    } else {
        None
    }
}

/// What a scan of a store comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Foreign versions to import, in their order.
    pub(crate) foreign: Vec<Foreign>,
    /// How far the store needs no further scan.
    pub(crate) through: Option<Locator>,
    /// Whether an open put keeps the scan from going further.
    pub(crate) is_open: bool,
    /// Whether the store does not show what is committed, and no process is about to correct that.
    pub(crate) misplaced: bool,
    /// Whether the store has dropped versions that were not imported.
    pub(crate) has_gap: bool,
}

/// A version that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) place: Locator,
    pub(crate) superseded: bool,
    /// Whether no put for a version of ours came after it.
    pub(crate) is_on_top: bool,
}

/// What is to be done about `stored`, all versions that the store keeps, given what the ledger
/// knows.
pub(crate) fn judge(current: &Current, stored: &[StoredVersion], owners: &HashMap<Locator, Owner>) -> Seen {
    let replica = &current.replica;
    let mut seen = Seen { has_gap: has_gap(replica, stored), ..Seen::default() };
    let new: Vec<_> = stored.iter().map(|one| one.place).filter(|place| is_behind(replica, stored, *place)).collect();
    let upto = new.iter().position(|place| owners.get(place) == Some(&Owner::Open)).unwrap_or(new.len());
    seen.is_open = upto < new.len();
    let new = &new[..upto];
    let is_put_for_a_version = |place: &Locator| matches!(owners.get(place), Some(Owner::Version(_)));
    for (index, place) in new.iter().enumerate() {
        if !owners.contains_key(place) {
            let is_on_top = !new[index + 1..].iter().any(is_put_for_a_version);
            let superseded = !is_on_top || is_newer(current, place.modified_at);
            seen.foreign.push(Foreign { place: *place, superseded, is_on_top });
        }
    }
    let is_at_rest = !replica.pending && replica.intents.is_empty();
    if let Some((last, before)) = new.split_last() {
        let shown = current.entry.as_ref().filter(|entry| entry.is_live()).map(|entry| Owner::Version(entry.version));
        let is_shown = shown.is_some_and(|shown| owners.get(last) == Some(&shown));
        // While another process is at the key, it is open whether the newest version is in its
        // place. It has to be scanned again.
        let is_judged = is_shown || is_at_rest || seen.is_open;
        seen.through = if is_judged { Some(*last) } else { before.last().copied() };
        seen.misplaced = is_at_rest && !seen.is_open && seen.foreign.is_empty() && !is_shown;
    }
    seen
}

/// The expired intents that can be forgotten: their puts cannot take effect any more, and no
/// version bears them.
pub(crate) fn done_with(replica: &ReplicaState, stored: &[StoredVersion], now: Timestamp) -> Vec<IntentId> {
    let is_borne = |id: &IntentId| stored.iter().any(|one| one.mark.as_ref().is_some_and(|(borne, _)| borne == id));
    let is_done = |id: &&IntentId| now.since(id.given_out_at()) > MAX_PUT_DELAY && !is_borne(id);
    replica.expired_intents.iter().filter(is_done).cloned().collect()
}

/// The newest intent id among the versions up to `place`.
pub(super) fn newest_mark(stored: &[StoredVersion], place: Locator) -> Option<&IntentId> {
    let upto = stored.iter().filter(|one| one.place.version <= place.version);
    upto.rev().find_map(|one| one.mark.as_ref()).map(|(id, _)| id)
}

/// Whether a put under `id` can have made the version.
fn is_in_time(id: &IntentId, place: Locator) -> bool {
    place.modified_at.since(id.given_out_at()) <= MAX_PUT_DELAY
}

/// Whether the key was written after `at` and its store does not show that yet. Then what others
/// put at that time is older.
fn is_newer(current: &Current, at: Timestamp) -> bool {
    let Some(entry) = &current.entry else { return false };
    if current.replica.replicated != Some(entry.version) {
        return entry.modified_at > at;
    }
    // What was left in place of a deleted key's value, because it was not all ours.
    !entry.is_live() && entry.modified_at > at.plus(CLOCK_SKEW)
}

/// Whether a version comes after the last imported one. Within one life of a name its versions
/// tell. Between two lives the time does: a store whose reads lag may show an earlier life.
fn is_behind(replica: &ReplicaState, stored: &[StoredVersion], place: Locator) -> bool {
    replica.imported_through.is_none_or(|last| {
        if is_same_life(last, stored) { place.version > last.version } else { place.modified_at > last.modified_at }
    })
}

/// Whether `last` is of the life that the store shows: it is still there, or was dropped with all
/// before it.
fn is_same_life(last: Locator, stored: &[StoredVersion]) -> bool {
    match stored.iter().find(|one| one.place.version == last.version) {
        Some(found) => found.place == last,
        None => stored.first().is_some_and(|first| {
            first.place.version > last.version.max(1) && first.place.modified_at >= last.modified_at
        }),
    }
}

/// Whether the foreign version at `place` is of another life of the name than the ledger knows.
pub(super) fn is_another_life(known: &ReplicaState, stored: &[StoredVersion], place: Locator) -> bool {
    match (known.imported_through, known.store_version) {
        (Some(last), _) => !is_same_life(last, stored),
        // What we put was never imported. It is gone if its number, or none as high, is a foreign
        // version's now.
        (None, Some(ours)) => place.version == ours || stored.iter().all(|one| one.place.version < ours),
        (None, None) => false,
    }
}

/// Whether the store had the only copy of the current value and lost it with that life of the name.
/// A store that shows only older versions does not show it yet.
pub(crate) fn is_value_lost(current: &Current, stored: &[StoredVersion]) -> bool {
    let Some((value, _)) = current.entry.as_ref().and_then(Entry::place) else { return false };
    let is_old =
        |newest: &StoredVersion| newest.place.version < value.version && newest.place.modified_at <= value.modified_at;
    !is_same_life(value, stored) && !stored.last().is_some_and(is_old)
}

/// Whether the store dropped versions before they were imported.
fn has_gap(replica: &ReplicaState, stored: &[StoredVersion]) -> bool {
    let Some(first) = stored.first() else { return false };
    match replica.imported_through.filter(|last| is_same_life(*last, stored)) {
        Some(last) => first.place.version > last.version + 1,
        None => first.place.version > 1,
    }
}

/// Whether the current version's value lies at `place`.
fn is_committed_at(current: &Current, place: Locator) -> bool {
    current.entry.as_ref().and_then(Entry::place).is_some_and(|(locator, _)| locator == place)
}

/// Whether a key has not changed between two reads of its entry.
pub(crate) fn is_unmoved(before: &Current, after: &Current) -> bool {
    let version = |current: &Current| current.entry.as_ref().map(|entry| (entry.version, entry.commit.clone()));
    version(before) == version(after)
        && before.next_version() == after.next_version()
        && before.replica == after.replica
}

#[cfg(test)]
mod tests;
