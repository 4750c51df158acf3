//! Imports what others put into a tag's store. Each foreign version becomes a commit by `external`,
//! in its order and with its own time.
//!
//! Only what the store and the ledger say counts. The ledger keeps how far a store has been
//! imported. That mark only moves forward, in the commits that import versions. So no version is
//! imported twice and none is left out, however many importers scan a key.

mod judge;

use std::{
    collections::{HashMap, hash_map::Entry as MapEntry},
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    auth::TenantScope,
    backend::WriteBackend,
    backoff::Backoff,
    clock::Clock,
    ledger::{CommitOutcome, Current, Found, Head, LedgerError, Plan, PlannedWrite, StoreChange},
    model::{
        entry::{CommitId, Entry, Held, IntentId, Locator, State, TextKind, ValueFormat, Version},
        key::ConfigKey,
        refusal::RefusalReason,
        routing::Strategy,
    },
    outbox::replicate::is_abandoned,
    store::{ExternalStore, StoreError, StoredVersion},
    telemetry,
};
#[cfg(test)]
pub(crate) use judge::Seen;
pub(crate) use judge::{
    Owner, credible, done_with, is_imported_meanwhile, is_unmoved, is_value_lost, judge, needs_another_scan, owner_of,
};
use judge::{Seen, is_another_life, newest_mark};

/// How often a key is scanned while others are at it, and the longest wait before the second scan
/// and between the last two.
const MAX_SCANS: u32 = 8;
const SCAN_BACKOFF: Backoff =
    Backoff::up_to(Duration::from_millis(50)).doubling_to(Duration::from_millis(800)).at_least_half();
/// How long after a commit a missing parameter is scanned for again, because a store's reads may
/// lag behind its writes.
const MAY_LAG: Duration = Duration::from_secs(5);

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
        let plan = Plan { head: head.clone(), commit, at, writes, comment: None, idempotency: None };
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
