//! Imports what others put into a tag's store. Each foreign version becomes a version of its key,
//! by `external`, in its order and with its own time.
//!
//! Only what the store and the ledger say counts. The ledger keeps how far a store has been
//! imported. That mark only moves forward, in the commits that import versions. So no version is
//! imported twice and none is left out, however many importers scan a key.
//!
//! Keys of one tenant are imported together: what is found of different keys becomes one commit.

mod judge;

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry as MapEntry},
    slice,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tracing::{info, warn};

use crate::{
    auth::TenantScope,
    backend::WriteBackend,
    backoff::Backoff,
    clock::{Clock, Timestamp},
    ledger::{CommitOutcome, Current, Found, Head, LedgerError, Plan, PlannedWrite, StoreChange},
    model::{
        entry::{CommitId, Entry, Held, IntentId, Locator, State, TextKind, ValueFormat, Version},
        key::ConfigKey,
        refusal::RefusalReason,
        routing::Strategy,
    },
    outbox::{AT_ONCE, replicate::is_abandoned},
    store::{ExternalStore, StoreError, StoredVersion},
    telemetry,
};
pub(crate) use judge::{
    Foreign, Owner, Seen, credible, done_with, is_unmoved, is_value_lost, judge, needs_second_read, owner_of,
};
use judge::{is_another_life, newest_mark};

/// How often a key is scanned while others are at it, and the longest wait before the second scan
/// and between the last two.
const MAX_SCANS: u32 = 8;
const SCAN_BACKOFF: Backoff =
    Backoff::up_to(Duration::from_millis(50)).doubling_to(Duration::from_millis(800)).at_least_half();
/// How often what was found is committed while others commit for the tenant, and the waits in
/// between.
const MAX_COMMITS_LOST: u32 = 16;
const COMMIT_BACKOFF: Backoff = Backoff::up_to(Duration::from_millis(20)).doubling_to(Duration::from_millis(400));
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
    let mut done = import_all(backend, clock, scope, slice::from_ref(key)).await;
    done.pop().unwrap_or_else(|| Ok(Imported::default()))
}

/// Imports what is new in the stores of `keys`: no more than one commit writes, none twice. The
/// result of each, in their order: a failure of one is none of another.
pub(crate) async fn import_all(
    backend: &WriteBackend,
    clock: &Clock,
    scope: &TenantScope,
    keys: &[ConfigKey],
) -> Vec<Result<Imported, ImportError>> {
    let importer = Importer { backend, clock, scope };
    match importer.run(keys).await {
        Ok(done) => done,
        Err(error) if keys.len() == 1 => vec![Err(error.into())],
        Err(error) => {
            // One of them may be to blame. Alone it holds up no other.
            warn!(tenant.id = %scope.tenant(), %error, "the keys are imported one by one");
            let mut done = Vec::with_capacity(keys.len());
            for key in keys {
                let alone = importer.run(slice::from_ref(key)).await;
                done.extend(alone.unwrap_or_else(|error| vec![Err(error.into())]));
            }
            done
        }
    }
}

/// Imports keys of one tenant.
struct Importer<'a> {
    backend: &'a WriteBackend,
    clock: &'a Clock,
    scope: &'a TenantScope,
}

/// One key's import.
struct Import<'a> {
    key: &'a ConfigKey,
    external: &'a dyn ExternalStore,
    strategy: Strategy,
    imported: Imported,
    /// None as long as the key has to be scanned, again perhaps.
    end: Option<Result<(), ImportError>>,
}

/// What a scan found of a key, to be committed.
struct News<'i, 'a> {
    import: &'i mut Import<'a>,
    /// What the ledger knows of the key, with what is committed of this.
    known: Current,
    stored: Vec<StoredVersion>,
    left: VecDeque<Finding>,
}

/// What becomes a version of the key.
#[derive(Clone, Copy)]
enum Finding {
    /// A version of the store, by its index there.
    Foreign { index: usize, superseded: bool, is_on_top: bool },
    /// The store has nothing, or nothing of the life that held the only copy of the value.
    Removed,
}

impl Importer<'_> {
    async fn run(&self, keys: &[ConfigKey]) -> Result<Vec<Result<Imported, ImportError>>, LedgerError> {
        let mut imports: Vec<_> = keys.iter().map(|key| self.begin(key)).collect();
        let mut backoff = SCAN_BACKOFF;
        for scan in 1.. {
            let is_open = |import: &&mut Import<'_>| import.end.is_none();
            let open: Vec<_> = imports.iter_mut().flatten().filter(is_open).collect();
            if open.is_empty() || scan > MAX_SCANS {
                break;
            }
            if scan > 1 {
                backoff.wait().await;
            }
            self.scan(open).await?;
        }
        let end = |import: Option<Import<'_>>| {
            let Some(Import { end, imported, .. }) = import else { return Ok(Imported::default()) };
            end.unwrap_or(Err(ImportError::Busy)).map(|()| imported)
        };
        Ok(imports.into_iter().map(end).collect())
    }

    /// None if no other store holds the key's values.
    fn begin<'a>(&'a self, key: &'a ConfigKey) -> Option<Import<'a>> {
        let (external, strategy) = self.backend.stores.of(key).external()?;
        Some(Import { key, external, strategy, imported: Imported::default(), end: None })
    }

    /// One scan of each key's store, and what follows from it. A key whose import has no end then
    /// is to be scanned again: another process is at it.
    async fn scan(&self, open: Vec<&mut Import<'_>>) -> Result<(), LedgerError> {
        let (ledger, scope) = (&self.backend.ledger, self.scope);
        let keys: Vec<_> = open.iter().map(|import| import.key.clone()).collect();
        // Before the stores: what happens meanwhile shows at the second read.
        let before = ledger.currents(scope, &keys).await?;
        let reads: Vec<_> = open.iter().map(|import| import.external.versions(scope, import.key, false)).collect();
        let reads: Vec<_> = stream::iter(reads).buffered(AT_ONCE).collect().await;
        let mut found = Vec::new();
        for ((import, stored), (_, known)) in open.into_iter().zip(reads).zip(before) {
            let stored = match stored {
                Ok(stored) => stored,
                Err(error) => {
                    import.end = Some(Err(error.into()));
                    continue;
                }
            };
            import.imported.refused =
                known.entry.as_ref().and_then(|entry| entry.refusal).map(|refusal| refusal.reason);
            if known.replica.is_being_removed(self.clock.now()) {
                continue;
            }
            let seen = judge(&known, &stored, &self.owners(import.key, &known, &stored).await?);
            if needs_second_read(&known, &stored, &seen) {
                found.push((News { import, known, stored, left: VecDeque::new() }, seen));
            } else {
                self.note(import, &known, &stored, &seen).await?;
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = found.iter().map(|(news, _)| news.import.key.clone()).collect();
        let mut basis = ledger.basis(scope, &keys, None, false).await?;
        let mut all_news = Vec::new();
        for (mut news, seen) in found {
            let now = basis.currents.remove(news.import.key).unwrap_or_default();
            if is_unmoved(&news.known, &now) && self.find(&mut news, &seen).await? {
                all_news.push(news);
            }
        }
        self.commit_all(basis.head, all_news).await
    }

    /// Whether something is to be committed of what a scan saw between two equal reads of the
    /// entry.
    async fn find(&self, news: &mut News<'_, '_>, seen: &Seen) -> Result<bool, LedgerError> {
        let News { import, known, stored, left } = news;
        if !seen.foreign.is_empty() {
            if seen.has_gap {
                warn!(tenant.id = %self.scope.tenant(), config.key = %import.key, "the store dropped versions before they were imported");
            }
            let is_foreign = |one: &StoredVersion| seen.foreign.iter().any(|foreign| foreign.place == one.place);
            if stored.iter().any(|one| one.is_secret && is_foreign(one)) {
                // Only now, so that a secret is decrypted only if there is something to commit.
                match import.external.versions(self.scope, import.key, true).await {
                    Ok(with_values) => *stored = with_values,
                    Err(error) => {
                        import.end = Some(Err(error.into()));
                        return Ok(false);
                    }
                }
            }
            for foreign in &seen.foreign {
                let Some(index) = stored.iter().position(|one| one.place == foreign.place) else {
                    return Ok(false);
                };
                let Foreign { superseded, is_on_top, .. } = *foreign;
                left.push_back(Finding::Foreign { index, superseded, is_on_top });
            }
        } else if stored.is_empty() || is_value_lost(known, stored) {
            let now = self.clock.now();
            match known.entry.as_ref().filter(|entry| may_be_gone(entry, known, now)) {
                // There is no value, or it is yet to be put.
                None => import.end = Some(Ok(())),
                // After the last scan it is left to the next import: the event comes again, or the
                // comparison finds it.
                Some(entry) if now.since(entry.modified_at) < MAY_LAG => {}
                Some(_) => left.push_back(Finding::Removed),
            }
        } else {
            self.note(import, known, stored, seen).await?;
        }
        Ok(!left.is_empty())
    }

    /// Notes how far the store was imported, which ends the key's import.
    async fn note(
        &self,
        import: &mut Import<'_>,
        known: &Current,
        stored: &[StoredVersion],
        seen: &Seen,
    ) -> Result<(), LedgerError> {
        let (ledger, scope, key) = (&self.backend.ledger, self.scope, import.key);
        // A writer with an open put commits it, and its event causes another import; or it dies,
        // and the replicator corrects its put.
        if seen.misplaced {
            // Before the import is noted: if the process dies in between, the next one scans this
            // version again.
            let version = known.entry.as_ref().map(|entry| entry.version);
            if !ledger.requeue(scope, key, version).await? {
                return Ok(());
            }
            import.imported.misplaced = true;
        }
        if let Some(to) = seen.through.filter(|to| known.replica.imported_through != Some(*to)) {
            let done = done_with(&known.replica, stored, self.clock.now());
            let noted = (to, newest_mark(stored, to));
            if !ledger.note_imported(scope, key, known, noted, &done).await? {
                return Ok(());
            }
        }
        import.end = Some(Ok(()));
        Ok(())
    }

    /// The owner of each version that bears a mark.
    async fn owners(
        &self,
        key: &ConfigKey,
        current: &Current,
        stored: &[StoredVersion],
    ) -> Result<HashMap<Locator, Owner>, LedgerError> {
        let mut owners: HashMap<Locator, Owner> = HashMap::new();
        let mut given_out: HashMap<Version, Vec<IntentId>> = HashMap::new();
        for marked in credible(current, stored) {
            let ids = match given_out.entry(marked.version) {
                MapEntry::Occupied(known) => known.into_mut(),
                MapEntry::Vacant(one) => {
                    one.insert(self.backend.ledger.intent_ids(self.scope, key, marked.version).await?)
                }
            };
            if let Some(owner) = owner_of(current, marked, ids, self.clock.now()) {
                owners.insert(marked.place, owner);
            }
        }
        Ok(owners)
    }

    /// Commits what was found: of each key the first, then of each the second, and so on. When
    /// another commit comes first, it goes on with the keys that that one left as they were; the
    /// others are to be scanned again.
    async fn commit_all(&self, mut head: Head, mut left: Vec<News<'_, '_>>) -> Result<(), LedgerError> {
        let (ledger, scope) = (&self.backend.ledger, self.scope);
        let (mut lost, mut backoff) = (0, COMMIT_BACKOFF);
        while !left.is_empty() && lost <= MAX_COMMITS_LOST {
            let (at, commit) = (self.clock.now(), CommitId::random());
            let writes = left.iter().filter_map(|news| Some(news.planned(*news.left.front()?, at))).collect();
            let plan = Plan { head: head.clone(), commit, at, writes, comment: None, idempotency: None, queue: None };
            let moved = match ledger.commit(scope, &plan).await? {
                CommitOutcome::Committed(receipt, change) => {
                    if let Err(error) = self.backend.publish(scope, &change).await {
                        warn!(tenant.id = %scope.tenant(), revision = %receipt.revision, %error, "a change is left for the sweep to publish");
                    }
                    head =
                        Head { revision: receipt.revision, commit: plan.commit.clone(), has_parameters: true, ..head };
                    left = self.committed(&plan, left).await?;
                    continue;
                }
                CommitOutcome::HeadMoved(moved, _) => Some(moved),
                CommitOutcome::Conflict => None,
            };
            lost += 1;
            if let Some(moved) = moved.filter(|_| lost == 1) {
                // The conditions on the keys held.
                head = moved;
                continue;
            }
            backoff.wait().await;
            let keys: Vec<_> = left.iter().map(|news| news.import.key.clone()).collect();
            let mut basis = ledger.basis(scope, &keys, None, false).await?;
            head = basis.head;
            left.retain(|news| is_unmoved(&news.known, &basis.currents.remove(news.import.key).unwrap_or_default()));
        }
        Ok(())
    }

    /// Goes on after a commit of the first finding of each key. Returns the keys with more.
    async fn committed<'i, 'a>(&self, plan: &Plan, all: Vec<News<'i, 'a>>) -> Result<Vec<News<'i, 'a>>, LedgerError> {
        let scope = self.scope;
        let mut left = Vec::new();
        for (mut news, write) in all.into_iter().zip(&plan.writes) {
            let (StoreChange::Found(found), Some(finding)) = (&write.store, news.left.pop_front()) else { continue };
            let (key, entry) = (news.import.key, plan.entry(scope, write));
            info!(tenant.id = %scope.tenant(), config.key = %key, revision = %entry.revision, version = %entry.version, "a change that others made in the store is committed");
            news.warn_if_unparsed(scope, finding);
            if !found.superseded && news.known.entry.as_ref().is_some_and(|entry| entry.refusal.is_some()) {
                // The refused version was in the outbox.
                self.backend.ledger.acknowledge(scope, key).await?;
            }
            news.import.imported.committed += 1;
            news.known = std::mem::take(&mut news.known).with_found(entry, found);
            let News { import, known, stored, left: more } = &mut news;
            if !more.is_empty() {
                left.push(news);
            } else if matches!(finding, Finding::Removed) {
                import.end = Some(Ok(()));
            } else {
                let seen = judge(known, stored, &self.owners(key, known, stored).await?);
                // What came while a secret was read is scanned again.
                if seen.foreign.is_empty() {
                    self.note(import, known, stored, &seen).await?;
                }
            }
        }
        Ok(left)
    }
}

impl News<'_, '_> {
    /// The write that a finding becomes.
    fn planned(&self, finding: Finding, now: Timestamp) -> PlannedWrite {
        let News { import, known, stored, .. } = self;
        let (state, found) = match finding {
            Finding::Removed => {
                let known = known.replica.clone();
                let found =
                    Found { at: now, place: None, mark: None, superseded: false, fits: true, is_anew: false, known };
                (State::Deleted, found)
            }
            Finding::Foreign { index, superseded, is_on_top } => {
                let version = &stored[index];
                let (value, kind) = import.external.interpret(&version.text, known.format);
                // Secrets stay in the store, whatever the tag's route says.
                let held = if version.is_secret || import.strategy == Strategy::WriteAround {
                    Held::Elsewhere(version.place, kind)
                } else {
                    Held::Value(value)
                };
                let found = Found {
                    at: version.place.modified_at,
                    place: Some(version.place),
                    mark: newest_mark(stored, version.place).cloned(),
                    superseded,
                    fits: version.fits,
                    is_anew: is_on_top && is_another_life(&known.replica, stored, version.place),
                    known: known.replica.clone(),
                };
                (State::Live(held), found)
            }
        };
        PlannedWrite {
            key: import.key.clone(),
            previous: known.entry.as_ref().map(|entry| entry.version),
            version: known.next_version(),
            creates: !known.entry.as_ref().is_some_and(Entry::is_live),
            state,
            format: None,
            store: StoreChange::Found(found),
            // No request asked for it, so no answer has to say it.
            removes_older_values: false,
        }
    }

    fn warn_if_unparsed(&self, scope: &TenantScope, finding: Finding) {
        let Finding::Foreign { index, .. } = finding else { return };
        let (stored, format) = (&self.stored[index], self.known.format);
        if format != ValueFormat::Json || self.import.external.interpret(&stored.text, format).1 == TextKind::Json {
            return;
        }
        warn!(tenant.id = %scope.tenant(), config.key = %self.import.key, store.version = stored.place.version, "an edit of a key whose values are JSON is not JSON, and is taken for a string");
        telemetry::note_unparsed_edit();
    }
}

/// Whether the store had the value, so that it is gone if the store does not show it: no put of it
/// is under way.
fn may_be_gone(entry: &Entry, known: &Current, now: Timestamp) -> bool {
    let replica = &known.replica;
    let was_there =
        entry.place().is_some() || replica.replicated == Some(entry.version) && replica.store_version.is_some();
    entry.is_live() && was_there && replica.intents.iter().all(|id| is_abandoned(id, now))
}
