//! Imports what others put into a tag's store. Each foreign version becomes a commit by `external`,
//! in its order and with its own time.
//!
//! Only what the store and the ledger say counts. The ledger keeps how far a store has been
//! imported. That mark only moves forward, in the commits that import versions. So no version is
//! imported twice and none is left out, however many importers scan a key.

use std::{
    collections::{HashMap, hash_map::Entry as MapEntry},
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    auth::TenantScope,
    backend::WriteBackend,
    backoff::Backoff,
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

/// How often a key is scanned while others are at it, and the longest wait before the second scan
/// and between the last two.
const MAX_SCANS: u32 = 8;
const SCAN_BACKOFF: Backoff =
    Backoff::up_to(Duration::from_millis(50)).doubling_to(Duration::from_millis(800)).at_least_half();
/// How long after a commit a missing parameter is scanned for again, because a store's reads may
/// lag behind its writes.
const MAY_LAG: Duration = Duration::from_secs(5);
/// How far the clocks of a store and a function may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(2);
/// How long after its id was given out a put may take effect. AWS refuses requests whose signature
/// is older than five minutes, by clocks that may differ as much (Signature Version 4). A version
/// that bears an older id is a copy.
const MAX_PUT_DELAY: Duration = Duration::from_mins(15);

/// Why a store could not be imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("other processes are at the key all the time")]
    Busy,
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Imported {
    /// How many versions and removals were committed.
    pub(crate) committed: usize,
    /// Whether the store did not show what is committed. The key is in the outbox then.
    pub(crate) misplaced: bool,
    /// Why the store refuses what is committed, if it does. After a change there it may take it.
    pub(crate) refused: Option<RefusalReason>,
}

/// Imports what is new in the store of `key`.
pub(crate) async fn import(
    backend: &WriteBackend,
    clock: &Clock,
    scope: &TenantScope,
    key: &ConfigKey,
) -> Result<Imported, ImportError> {
    let Some((external, strategy)) = backend.stores.of(key).external() else { return Ok(Imported::default()) };
    let one = Importer { backend, clock, scope, key, external, strategy };
    let mut imported = Imported::default();
    let mut backoff = SCAN_BACKOFF;
    for _ in 0..MAX_SCANS {
        match one.scan(&mut imported).await? {
            Scanned::Done => return Ok(imported),
            Scanned::Again => {}
            Scanned::GoOn => continue,
        }
        backoff.wait().await;
    }
    Err(ImportError::Busy)
}

/// How to go on after a scan.
enum Scanned {
    Done,
    /// Scan at once: there may be more.
    GoOn,
    /// Wait and scan again: another process is at the key.
    Again,
}

/// What came of committing a foreign version.
enum Attempted {
    /// It was committed, and this is what the ledger knows then.
    Committed(Box<Current>),
    /// Another commit came first. This is how to go on.
    Stopped(Scanned),
}

/// Imports one key's store.
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
        // After the store, so that every call of ours that the store may show has its intent by
        // then.
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
                return self.import_foreign(after, &stored, &seen, imported).await;
            }
            if is_value_lost(&after, &stored) {
                return self.removed(after, imported).await;
            }
        }
        // A writer with an open put commits it, and its event causes another import; or it dies,
        // and the replicator corrects its put.
        if seen.misplaced {
            // Before the import is noted: if the process dies in between, the next one scans this
            // version again.
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

    /// Commits foreign versions.
    async fn import_foreign(
        &self,
        current: Current,
        stored: &[StoredVersion],
        seen: &Seen,
        imported: &mut Imported,
    ) -> Result<Scanned, ImportError> {
        if seen.has_gap {
            warn!(tenant.id = %self.scope.tenant(), config.key = %self.key, "the store dropped versions before they were imported");
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
                Attempted::Committed(after) => known = *after,
                Attempted::Stopped(scanned) => return Ok(scanned),
            }
            imported.committed += 1;
        }
        // There may be more behind them, or newer ones.
        Ok(Scanned::GoOn)
    }

    /// The owner of each version that bears a mark.
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

    /// Commits one foreign version.
    async fn commit_version(
        &self,
        known: Current,
        head: &mut Head,
        stored: &StoredVersion,
        found: Found,
    ) -> Result<Attempted, ImportError> {
        let (value, kind) = self.external.interpret(&stored.text, known.format);
        let is_unparsed = known.format == ValueFormat::Json && kind != TextKind::Json;
        // Secrets stay in the store, whatever the tag's route says.
        let kept = if stored.is_secret || self.strategy == Strategy::WriteAround {
            Held::Elsewhere(stored.place, kind)
        } else {
            Held::Value(value)
        };
        let committed = self.commit(known, head, State::Live(kept), found).await?;
        if is_unparsed && matches!(committed, Attempted::Committed(_)) {
            warn!(tenant.id = %self.scope.tenant(), config.key = %self.key, store.version = stored.place.version, "an edit of a key whose values are JSON is not JSON, and is taken for a string");
            telemetry::note_unparsed_edit();
        }
        Ok(committed)
    }

    /// The store has nothing, or nothing of the life that held the only copy of the value. Commits
    /// a deletion.
    async fn removed(&self, current: Current, imported: &mut Imported) -> Result<Scanned, ImportError> {
        let Some(entry) = current.entry.as_ref().filter(|entry| entry.is_live()) else { return Ok(Scanned::Done) };
        let replica = &current.replica;
        let was_there =
            entry.place().is_some() || replica.replicated == Some(entry.version) && replica.store_version.is_some();
        let now = self.clock.now();
        if !was_there || replica.intents.iter().any(|id| !is_abandoned(id, now)) {
            // The value is yet to be put.
            return Ok(Scanned::Done);
        }
        if now.since(entry.modified_at) < MAY_LAG {
            // After the last scan it is left to the next import: the event comes again, or the
            // comparison finds it.
            return Ok(Scanned::Again);
        }
        let known = replica.clone();
        let found = Found { at: now, place: None, mark: None, superseded: false, fits: true, is_anew: false, known };
        let mut head = self.backend.ledger.head(self.scope).await?;
        match self.commit(current, &mut head, State::Deleted, found).await? {
            Attempted::Committed(_) => imported.committed += 1,
            Attempted::Stopped(scanned) => return Ok(scanned),
        }
        Ok(Scanned::Done)
    }

    async fn commit(
        &self,
        known: Current,
        head: &mut Head,
        state: State,
        found: Found,
    ) -> Result<Attempted, ImportError> {
        let WriteBackend { ledger, .. } = self.backend;
        let (scope, key) = (self.scope, self.key);
        let version = known.next_version();
        let write = PlannedWrite {
            key: key.clone(),
            previous: known.entry.as_ref().map(|entry| entry.version),
            version,
            creates: !known.entry.as_ref().is_some_and(Entry::is_live),
            state,
            format: None,
            store: StoreChange::Found(found.clone()),
            // No request asked for it, so no answer has to say it.
            removes_older_values: false,
        };
        let (at, commit) = (self.clock.now(), CommitId::random());
        let writes = vec![write];
        let plan = Plan { head: head.clone(), commit, at, writes, comment: None, idempotency: None, queue: None };
        let CommitOutcome::Committed(receipt, change) = ledger.commit(scope, &plan).await? else {
            let current = ledger.current(scope, key).await?.unwrap_or_default();
            let is_imported = is_imported_meanwhile(&known, &current);
            return Ok(Attempted::Stopped(if is_imported { Scanned::Done } else { Scanned::Again }));
        };
        info!(tenant.id = %scope.tenant(), config.key = %key, revision = %receipt.revision, %version, "a change that others made in the store is committed");
        if let Err(error) = self.backend.publish(scope, &change).await {
            warn!(tenant.id = %scope.tenant(), revision = %receipt.revision, %error, "a change is left for the sweep to publish");
        }
        if !found.superseded && known.entry.as_ref().is_some_and(|entry| entry.refusal.is_some()) {
            // The refused version was in the outbox.
            ledger.acknowledge(scope, key).await?;
        }
        *head = Head { revision: receipt.revision, commit: plan.commit.clone(), ..head.clone() };
        let entries = plan.writes.iter().map(|write| plan.entry(scope, write));
        let known = entries.fold(known, |known, entry| known.with_found(entry, &found));
        Ok(Attempted::Committed(Box::new(known)))
    }
}

/// Whether another importer has just committed a version of the same store. It scans again
/// afterwards and finds all that is there by now. If it dies, its event comes again.
pub(crate) fn is_imported_meanwhile(known: &Current, current: &Current) -> bool {
    let newest = current.entry.as_ref().filter(|entry| entry.author == Author::external());
    known.replica.imported_through != current.replica.imported_through
        && newest.is_some_and(|entry| known.entry.as_ref().is_none_or(|known| entry.version > known.version))
}

/// Whether the scan is acted upon only if a second scan, between two equal reads of the entry, sees
/// the same. So it is if:
///
/// - others seem to have done something, or the store seems not to show what is committed, which
///   may have been put after the scan;
///
/// - the store does not show how far it was imported. Then it is another life of the name; or it
///   was read before another importer went further, whose versions would seem new.
pub(crate) fn needs_another_scan(current: &Current, stored: &[StoredVersion], seen: &Seen) -> bool {
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
fn newest_mark(stored: &[StoredVersion], place: Locator) -> Option<&IntentId> {
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
fn is_another_life(known: &ReplicaState, stored: &[StoredVersion], place: Locator) -> bool {
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
