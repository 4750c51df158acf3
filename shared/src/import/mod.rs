//! Takes over what others put into a tag's store: each version that is not ours becomes a commit by
//! `external`, in its order and with its own time.
//!
//! Nothing is believed but what the store and the ledger say. How far a store has been looked
//! through is kept in the ledger and only moves forward, in the very commits that take versions
//! over; so however often and by however many a key is looked at, no version is taken over twice,
//! and none is left out.

use std::{
    collections::{HashMap, hash_map::Entry as MapEntry},
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    auth::TenantScope,
    backend::WriteBackend,
    clock::{Clock, Timestamp},
    ledger::{CommitOutcome, Current, Found, Head, LedgerError, Plan, PlannedWrite, ReplicaState, StoreChange},
    model::{
        entry::{Author, CommitId, Entry, Held, IntentId, Locator, State, TextKind, ValueFormat, Version},
        key::ConfigKey,
        refusal::RefusalReason,
        routing::Strategy,
    },
    outbox::replicate::is_abandoned,
    store::{ExternalStore, StoreError, StoredVersion},
    telemetry,
};

/// How often a key is looked at that others are at, and the longest wait between two looks: 0.05 s
/// at first, doubling.
const MAX_SCANS: u32 = 8;
const MIN_SCAN_WAIT: Duration = Duration::from_millis(50);
const MAX_SCAN_WAIT: Duration = Duration::from_millis(800);
/// How long after a commit a parameter that is not there is looked for again, because reads of a
/// store may lag behind its writes.
const MAY_LAG: Duration = Duration::from_secs(5);
/// How far the clocks of a store and a function may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(2);
/// How long after its id was given out a put may take effect. AWS takes no request whose signature
/// is older than five minutes, by clocks that may differ as much (Signature Version 4). What bears
/// an older id is a copy.
const MAX_PUT_DELAY: Duration = Duration::from_mins(15);

/// Why a store could not be looked through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("others are at the key all the time")]
    Busy,
}

/// What came of looking through a key's store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Imported {
    /// How many versions, and removals, were taken over.
    pub(crate) committed: usize,
    /// Whether the store turned out not to show what is committed, and is owed that now.
    pub(crate) misplaced: bool,
    /// Why the store has refused what is committed, if it has. If something has happened there, it
    /// may take it now.
    pub(crate) refused: Option<RefusalReason>,
}

/// Takes over what is new in the store of `key`.
pub(crate) async fn import(
    backend: &WriteBackend,
    clock: &Clock,
    scope: &TenantScope,
    key: &ConfigKey,
) -> Result<Imported, ImportError> {
    let Some((external, strategy)) = backend.stores.of(key).external() else { return Ok(Imported::default()) };
    let one = Importer { backend, clock, scope, key, external, strategy };
    let mut imported = Imported::default();
    let mut wait = MIN_SCAN_WAIT;
    for _ in 0..MAX_SCANS {
        match one.scan(&mut imported).await? {
            Scanned::Done => return Ok(imported),
            Scanned::Again => {}
            Scanned::GoOn => continue,
        }
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(MAX_SCAN_WAIT);
    }
    Err(ImportError::Busy)
}

/// Whether there is more to look for.
enum Scanned {
    Done,
    /// What was taken over may not be all.
    GoOn,
    /// Somebody is at the key.
    Again,
}

/// One who looks through the store of one key.
struct Importer<'a> {
    backend: &'a WriteBackend,
    clock: &'a Clock,
    scope: &'a TenantScope,
    key: &'a ConfigKey,
    external: &'a dyn ExternalStore,
    strategy: Strategy,
}

impl Importer<'_> {
    async fn scan(&self, imported: &mut Imported) -> Result<Scanned, ImportError> {
        let (ledger, scope, key) = (&self.backend.ledger, self.scope, self.key);
        let mut stored = self.external.versions(scope, key, false).await?;
        // Behind the look at the store, so that every call of ours that it may show has been
        // announced by then.
        let current = ledger.current(scope, key).await?.unwrap_or_default();
        imported.refused = current.entry.as_ref().and_then(|entry| entry.refusal).map(|refusal| refusal.reason);
        if current.replica.is_being_removed(self.clock.now()) {
            return Ok(Scanned::Again);
        }
        let mut seen = judge(&current, &stored, &self.owners(&current, &stored).await?);
        if needs_another_scan(&current, &stored, &seen) {
            // What is judged now must have been so at one moment.
            stored = self.external.versions(scope, key, true).await?;
            let after = ledger.current(scope, key).await?.unwrap_or_default();
            if !is_unmoved(&current, &after) {
                return Ok(Scanned::Again);
            }
            if stored.is_empty() {
                return self.removed(after, imported).await;
            }
            seen = judge(&after, &stored, &self.owners(&after, &stored).await?);
            if !seen.foreign.is_empty() {
                return self.take_over(after, &stored, &seen, imported).await;
            }
            if is_value_lost(&after, &stored) {
                return self.removed(after, imported).await;
            }
        }
        // Whoever has a put open commits it, and its event brings another look; or leaves it, and
        // it is put right as owed work.
        if seen.misplaced {
            // Before it is noted that this version was looked at: whoever dies in between leaves it
            // to be looked at again.
            let version = current.entry.as_ref().map(|entry| entry.version);
            if !ledger.requeue(scope, key, version).await? {
                return Ok(Scanned::Again);
            }
            imported.misplaced = true;
        }
        if let Some(to) = seen.through.filter(|to| current.replica.imported_through != Some(*to)) {
            let done = done_with(&current.replica, &stored, self.clock.now());
            let noted = (to, newest_mark(&stored, to));
            if !ledger.note_imported(scope, key, current.replica.imported_through, noted, &done).await? {
                return Ok(Scanned::Again);
            }
        }
        Ok(Scanned::Done)
    }

    /// Commits what others put.
    async fn take_over(
        &self,
        current: Current,
        stored: &[StoredVersion],
        seen: &Seen,
        imported: &mut Imported,
    ) -> Result<Scanned, ImportError> {
        if seen.has_gap {
            warn!(tenant.id = %self.scope.tenant(), config.key = %self.key, "versions that nobody looked at in time are not kept by the store any more");
        }
        let mut known = current;
        let mut head = self.backend.ledger.head(self.scope).await?;
        for foreign in &seen.foreign {
            let Some(version) = stored.iter().find(|one| one.place == foreign.place) else { break };
            let mark = newest_mark(stored, foreign.place).cloned();
            let is_anew = foreign.is_on_top && is_another_life(&known.replica, stored, foreign.place);
            let found = Found {
                at: version.place.modified_at,
                place: Some(version.place),
                mark,
                superseded: foreign.superseded,
                fits: version.fits,
                is_anew,
                known: known.replica.clone(),
            };
            match self.commit_version(known, &mut head, version, found).await? {
                Ok(after) => known = after,
                Err(scanned) => return Ok(scanned),
            }
            imported.committed += 1;
        }
        // What is behind them, and what has come meanwhile.
        Ok(Scanned::GoOn)
    }

    /// Whose each version is that bears a mark.
    async fn owners(
        &self,
        current: &Current,
        stored: &[StoredVersion],
    ) -> Result<HashMap<Locator, Owner>, LedgerError> {
        let mut owners: HashMap<Locator, Owner> = HashMap::new();
        let mut given_out: HashMap<Version, Vec<IntentId>> = HashMap::new();
        for marked in credible(current, stored) {
            let ids = match given_out.entry(marked.version) {
                MapEntry::Occupied(known) => known.into_mut(),
                MapEntry::Vacant(one) => {
                    one.insert(self.backend.ledger.intent_ids(self.scope, self.key, marked.version).await?)
                }
            };
            if let Some(owner) = owner_of(current, marked, ids, self.clock.now()) {
                owners.insert(marked.place, owner);
            }
        }
        Ok(owners)
    }

    /// Commits a version of the store's. What the ledger knows then, or what there is to do where
    /// something came in between.
    async fn commit_version(
        &self,
        known: Current,
        head: &mut Head,
        stored: &StoredVersion,
        found: Found,
    ) -> Result<Result<Current, Scanned>, ImportError> {
        let (value, kind) = self.external.interpret(&stored.text, known.format);
        let is_unparsed = known.format == ValueFormat::Json && kind != TextKind::Json;
        // Secrets stay where they are, whatever the tag's route says.
        let kept = if stored.is_secret || self.strategy == Strategy::WriteAround {
            Held::Elsewhere(stored.place, kind)
        } else {
            Held::Value(value)
        };
        let committed = self.commit(known, head, State::Live(kept), found).await?;
        if is_unparsed && committed.is_ok() {
            warn!(tenant.id = %self.scope.tenant(), config.key = %self.key, store.version = stored.place.version, "an edit of a key whose values are JSON is none, and is a string until the next edit that is");
            telemetry::note_unparsed_edit();
        }
        Ok(committed)
    }

    /// Nothing lies in the store, or nothing of the life that the value was in, which nobody else
    /// has.
    async fn removed(&self, current: Current, imported: &mut Imported) -> Result<Scanned, ImportError> {
        let Some(entry) = current.entry.as_ref().filter(|entry| entry.is_live()) else { return Ok(Scanned::Done) };
        let replica = &current.replica;
        let is_elsewhere = matches!(entry.state, State::Live(Held::Elsewhere(..)));
        let was_there = is_elsewhere || replica.replicated == Some(entry.version) && replica.store_version.is_some();
        let now = self.clock.now();
        if !was_there || replica.intents.iter().any(|id| !is_abandoned(id, now)) {
            // It is yet to be put.
            return Ok(Scanned::Done);
        }
        if now.since(entry.modified_at) < MAY_LAG {
            // At last it is left to whoever looks next: the event comes again, or the comparison
            // finds it.
            return Ok(Scanned::Again);
        }
        let known = replica.clone();
        let found = Found { at: now, place: None, mark: None, superseded: false, fits: true, is_anew: false, known };
        let mut head = self.backend.ledger.head(self.scope).await?;
        match self.commit(current, &mut head, State::Deleted, found).await? {
            Ok(_) => imported.committed += 1,
            Err(scanned) => return Ok(scanned),
        }
        Ok(Scanned::Done)
    }

    async fn commit(
        &self,
        known: Current,
        head: &mut Head,
        state: State,
        found: Found,
    ) -> Result<Result<Current, Scanned>, ImportError> {
        let WriteBackend { ledger, .. } = self.backend;
        let (scope, key) = (self.scope, self.key);
        let (version, place, mark) = (known.next_version(), found.place, found.mark.clone());
        let (fits, is_anew, is_superseded) = (found.fits, found.is_anew, found.superseded);
        let write = PlannedWrite {
            key: key.clone(),
            previous: known.entry.as_ref().map(|entry| entry.version),
            version,
            creates: !known.entry.as_ref().is_some_and(Entry::is_live),
            state,
            format: None,
            store: StoreChange::Found(found),
            // Nobody asked for it, so nobody is told in an answer.
            removes_older_values: false,
        };
        let (at, commit) = (self.clock.now(), CommitId::random());
        let writes = vec![write];
        let plan = Plan { head: head.clone(), commit, at, writes, comment: None, idempotency: None };
        let CommitOutcome::Committed(receipt, change) = ledger.commit(scope, &plan).await? else {
            let current = ledger.current(scope, key).await?.unwrap_or_default();
            return Ok(Err(if is_taken_over(&known, &current) { Scanned::Done } else { Scanned::Again }));
        };
        info!(tenant.id = %scope.tenant(), config.key = %key, revision = %receipt.revision, %version, "what somebody else did to the store is committed");
        if let Err(error) = self.backend.publish(scope, &change).await {
            warn!(tenant.id = %scope.tenant(), revision = %receipt.revision, %error, "a change is left for the sweep to publish");
        }
        if !is_superseded && known.entry.as_ref().is_some_and(|entry| entry.refusal.is_some()) {
            // What was put off is not owed any more.
            ledger.acknowledge(scope, key).await?;
        }
        *head = Head { revision: receipt.revision, commit: plan.commit.clone(), ..head.clone() };
        let entries = plan.writes.iter().map(|write| plan.entry(scope, write));
        Ok(Ok(entries.fold(known, |known, entry| known.with_found(entry, place, mark.clone(), fits, is_anew))))
    }
}

/// Whether another one who looks through the same store has just committed a version of it. They
/// look again behind that, and so find whatever was there to be found by now; should they die,
/// their event comes again.
pub(crate) fn is_taken_over(known: &Current, current: &Current) -> bool {
    let newest = current.entry.as_ref().filter(|entry| entry.author == Author::external());
    known.replica.imported_through != current.replica.imported_through
        && newest.is_some_and(|entry| known.entry.as_ref().is_none_or(|known| entry.version > known.version))
}

/// Whether what was seen is acted upon only if another look at the store, between two at the entry
/// that agree, sees it too: because others seem to have done something, or the store does not seem
/// to show what is committed, which may have come behind the look; or because the store does not
/// show how far it has been looked through. Then it is another life of the name; or it was read
/// before somebody else looked further, and what was taken over since would seem to be new.
pub(crate) fn needs_another_scan(current: &Current, stored: &[StoredVersion], seen: &Seen) -> bool {
    let is_life_known = current.replica.imported_through.is_none_or(|last| is_same_life(last, stored));
    let is_value_there = !is_value_lost(current, stored);
    stored.is_empty() || !seen.foreign.is_empty() || seen.misplaced || !is_life_known || !is_value_there
}

/// Whose a version in the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Ours: put for this version of the key.
    Version(Version),
    /// Ours, and never committed.
    Nobody,
    /// Ours, and yet to be committed.
    Open,
}

/// A version in the store that bears a mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marked<'a> {
    pub(crate) place: Locator,
    pub(crate) id: &'a IntentId,
    pub(crate) version: Version,
}

/// The versions behind what was looked at whose marks say something, if the ledger knows their ids.
pub(crate) fn credible<'a>(current: &Current, stored: &'a [StoredVersion]) -> Vec<Marked<'a>> {
    let mut first = HashMap::new();
    let marked = stored.iter().filter_map(|one| {
        let (id, version) = one.mark.as_ref()?;
        // A description is copied with whatever edits a parameter without giving another one, or
        // makes it anew.
        let is_copy = *first.entry(id).or_insert(one.place) != one.place
            || current.replica.imported_through_id.as_ref() == Some(id);
        let is_credible = !is_copy && is_in_time(id, one.place) && is_behind(&current.replica, stored, one.place);
        is_credible.then_some(Marked { place: one.place, id, version: *version })
    });
    marked.collect()
}

/// Whose a version is, given the ids that were given out for the one that its mark names.
pub(crate) fn owner_of(current: &Current, marked: Marked<'_>, given_out: &[IntentId], now: Timestamp) -> Option<Owner> {
    let Marked { place, id, version } = marked;
    if given_out.contains(id) {
        Some(Owner::Version(version))
    } else if is_committed_at(current, place) {
        Some(Owner::Version(current.entry.as_ref().map_or(version, |entry| entry.version)))
    } else if current.replica.expired_intents.contains(id) {
        Some(Owner::Nobody)
    } else if current.replica.intents.contains(id) {
        // Who could still commit an abandoned put is gone.
        Some(if is_abandoned(id, now) { Owner::Nobody } else { Owner::Open })
    } else {
        None
    }
}

/// What a look at a store comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Versions to take over, in their order.
    pub(crate) foreign: Vec<Foreign>,
    /// How far nothing is to be done.
    pub(crate) through: Option<Locator>,
    /// Whether somebody's put, not yet committed, stands in the way of looking further.
    pub(crate) is_open: bool,
    /// Whether the store does not show what is committed, and nobody is about to put that right.
    pub(crate) misplaced: bool,
    /// Whether the store has dropped versions that were not looked at.
    pub(crate) has_gap: bool,
}

/// A version that others put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) place: Locator,
    pub(crate) superseded: bool,
    /// Whether nothing lies on it that was put for a version of ours.
    pub(crate) is_on_top: bool,
}

/// What there is to do about `stored`, all versions that the store keeps, given what the ledger
/// knows of it.
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
        // Whether the newest version is in its place cannot be said while somebody is at the key,
        // so it is to be looked at again.
        let is_judged = is_shown || is_at_rest || seen.is_open;
        seen.through = if is_judged { Some(*last) } else { before.last().copied() };
        seen.misplaced = is_at_rest && !seen.is_open && seen.foreign.is_empty() && !is_shown;
    }
    seen
}

/// The retired ids that need not be known any more: their puts cannot take effect now, and nothing
/// in the store bears them.
pub(crate) fn done_with(replica: &ReplicaState, stored: &[StoredVersion], now: Timestamp) -> Vec<IntentId> {
    let is_borne = |id: &IntentId| stored.iter().any(|one| one.mark.as_ref().is_some_and(|(borne, _)| borne == id));
    let is_done = |id: &&IntentId| now.since(id.given_out_at()) > MAX_PUT_DELAY && !is_borne(id);
    replica.expired_intents.iter().filter(is_done).cloned().collect()
}

/// The id that the newest version up to `place` bears that bears one.
fn newest_mark(stored: &[StoredVersion], place: Locator) -> Option<&IntentId> {
    let upto = stored.iter().filter(|one| one.place.version <= place.version);
    upto.rev().find_map(|one| one.mark.as_ref()).map(|(id, _)| id)
}

/// Whether a put under `id` can have come when the version was made.
fn is_in_time(id: &IntentId, place: Locator) -> bool {
    place.modified_at.since(id.given_out_at()) <= MAX_PUT_DELAY
}

/// Whether the key was written after `at`, and its store does not show that yet: then what was put
/// there at that time is older.
fn is_newer(current: &Current, at: Timestamp) -> bool {
    let Some(entry) = &current.entry else { return false };
    if current.replica.replicated != Some(entry.version) {
        return entry.modified_at > at;
    }
    // What was left where a deleted key's value had been, because it was not all ours.
    !entry.is_live() && entry.modified_at > at.plus(CLOCK_SKEW)
}

/// Whether a version lies behind the last one that was looked at. Within one life of a name its
/// versions tell; between two lives, the time: what is shown may be an earlier life, because reads
/// of a store may lag behind its writes.
fn is_behind(replica: &ReplicaState, stored: &[StoredVersion], place: Locator) -> bool {
    replica.imported_through.is_none_or(|last| {
        if is_same_life(last, stored) { place.version > last.version } else { place.modified_at > last.modified_at }
    })
}

/// Whether `last` is of the life that the store shows: it is still there, or has been dropped with
/// all before it.
fn is_same_life(last: Locator, stored: &[StoredVersion]) -> bool {
    match stored.iter().find(|one| one.place.version == last.version) {
        Some(found) => found.place == last,
        None => stored.first().is_some_and(|first| {
            first.place.version > last.version.max(1) && first.place.modified_at >= last.modified_at
        }),
    }
}

/// Whether `place`, where others put something, is of another life of the name than what the ledger
/// knows of the store.
fn is_another_life(known: &ReplicaState, stored: &[StoredVersion], place: Locator) -> bool {
    match (known.imported_through, known.store_version) {
        (Some(last), _) => !is_same_life(last, stored),
        // What we put was never looked at. It is gone where it was the number that something of
        // others has now, or a higher one.
        (None, Some(ours)) => place.version == ours || stored.iter().all(|one| one.place.version < ours),
        (None, None) => false,
    }
}

/// Whether the store alone had the current value, and that went with the life of the name that it
/// was in. A store that shows older versions only does not show it yet.
pub(crate) fn is_value_lost(current: &Current, stored: &[StoredVersion]) -> bool {
    let Some(State::Live(Held::Elsewhere(value, _))) = current.entry.as_ref().map(|entry| &entry.state) else {
        return false;
    };
    let is_old =
        |newest: &StoredVersion| newest.place.version < value.version && newest.place.modified_at <= value.modified_at;
    !is_same_life(*value, stored) && !stored.last().is_some_and(is_old)
}

/// Whether versions have been dropped that nobody has looked at.
fn has_gap(replica: &ReplicaState, stored: &[StoredVersion]) -> bool {
    let Some(first) = stored.first() else { return false };
    match replica.imported_through.filter(|last| is_same_life(*last, stored)) {
        Some(last) => first.place.version > last.version + 1,
        None => first.place.version > 1,
    }
}

/// Whether the current version's value lies at `place`.
fn is_committed_at(current: &Current, place: Locator) -> bool {
    current
        .entry
        .as_ref()
        .is_some_and(|entry| matches!(&entry.state, State::Live(Held::Elsewhere(locator, _)) if *locator == place))
}

/// Whether nothing has happened to a key between two looks at its entry.
pub(crate) fn is_unmoved(before: &Current, after: &Current) -> bool {
    let version = |current: &Current| current.entry.as_ref().map(|entry| (entry.version, entry.commit.clone()));
    version(before) == version(after)
        && before.next_version() == after.next_version()
        && before.replica == after.replica
}

#[cfg(test)]
mod tests;
