//! Replicates the ledger's entries to their tags' stores, without locks.
//!
//! The replicator puts the committed value, then reads the entry again. It repeats this until the
//! value that it put last is the committed one. Each call has an intent in the ledger before it is
//! made. So a call that takes effect late, after its process died, is known to be possible, and is
//! corrected.

use std::{collections::HashSet, time::Duration};

use tracing::{debug, warn};

use crate::{
    auth::TenantScope,
    backend::WriteBackend,
    backoff::Backoff,
    clock::{Clock, Timestamp},
    ledger::{Current, GRACE, LedgerError, Stored},
    model::{
        entry::{Entry, Held, IntentId, State, Version},
        key::ConfigKey,
        refusal::{Refusal, RefusalReason},
    },
    outbox::refusal::{self, Recorded},
    store::{ExternalStore, StoreError},
};

/// How often the entry may change under a replicator before it leaves the rest to the next one.
const MAX_ROUNDS: usize = 6;
/// How long a removal has the store to itself: longer than any work that it is part of may run.
const REMOVAL: Duration = Duration::from_secs(30);
/// How often a replicator polls whether a removal has ended, and the longest wait between two
/// polls.
const MAX_POLLS: usize = 16;
const POLL_BACKOFF: Backoff = Backoff::up_to(Duration::from_millis(120));

/// How a replication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replication {
    /// The store holds what is committed.
    Done,
    /// Another process is at the key. config-refresh comes back to it.
    Later,
    /// The store refuses what is committed, and the ledger says so. config-refresh tries again now
    /// and then.
    Refused(Refusal),
    /// The key was never written, so there is nothing to replicate.
    NeverWritten,
}

impl ReplicateError {
    /// Whether the call certainly did nothing to the store.
    fn did_nothing(&self) -> bool {
        match self {
            Self::Ledger(_) => true,
            Self::Store(error) => error.did_nothing(),
        }
    }
}

/// Why a value could not be replicated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicateError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a replicator was called.
#[derive(Clone, Debug)]
pub(crate) enum Occasion {
    /// The commit of this version, with the intent that it recorded for the first call.
    Commit(IntentId, Version),
    /// An event told of a change. A refused version waits until it is due, because its refusal is
    /// such a change, too.
    Notified,
    /// The key is due, or something has happened in the store.
    Due,
}

/// Makes the store of `key` hold what is committed.
pub(crate) async fn replicate(
    backend: &WriteBackend,
    clock: &Clock,
    scope: &TenantScope,
    key: &ConfigKey,
    occasion: Occasion,
) -> Result<Replication, ReplicateError> {
    let Some((external, _)) = backend.stores.of(key).external() else { return Ok(Replication::Done) };
    let waits = matches!(occasion, Occasion::Notified);
    let unused = if let Occasion::Commit(id, version) = occasion { Some((id, Some(version))) } else { None };
    let calls = Calls { unused, ..Calls::default() };
    let mut replicator = Replicator { backend, clock, external, scope, key, calls };
    let (mut rounds, mut polls, mut backoff) = (0, 0, POLL_BACKOFF);
    while rounds < MAX_ROUNDS && polls < MAX_POLLS {
        let Some(current) = backend.ledger.current(scope, key).await? else { return Ok(Replication::NeverWritten) };
        if let Some(refusal) = current.entry.as_ref().and_then(|entry| entry.refusal).filter(|_| waits) {
            return Ok(Replication::Refused(refusal));
        }
        if current.replica.is_being_removed(clock.now()) {
            polls += 1;
            backoff.wait().await;
            continue;
        }
        rounds += 1;
        match replicator.step(&current).await? {
            Step::Again => debug!(config.key = %key, rounds, "the key changed while it was replicated"),
            Step::Done => return Ok(Replication::Done),
            Step::Refused(refusal) => return Ok(Replication::Refused(refusal)),
            Step::Yield => break,
        }
    }
    replicator.leave().await?;
    Ok(Replication::Later)
}

/// Replicates one key to its store.
struct Replicator<'a> {
    backend: &'a WriteBackend,
    clock: &'a Clock,
    external: &'a dyn ExternalStore,
    scope: &'a TenantScope,
    key: &'a ConfigKey,
    calls: Calls,
}

/// The calls to a key's store that a replicator is responsible for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    /// A recorded intent under which no call has been made yet, with the version that has the id.
    pub(crate) unused: Option<(IntentId, Option<Version>)>,
    /// The intents of calls that have been made.
    pub(crate) own: Vec<IntentId>,
    /// The version that the last call was made for.
    pub(crate) last_done: Option<Version>,
    /// Whether these intents have replaced others, and so stand for what those calls may have done.
    pub(crate) makes_up: bool,
}

/// What one read of the entry, and the call that followed from it, came to.
enum Step {
    Done,
    Again,
    Yield,
    Refused(Refusal),
}

/// A call to the store whose intent is recorded.
struct Call {
    id: IntentId,
    given_out_for: Option<Version>,
    /// The intents that are over once this call is: its own, and those that it makes up for.
    ended: Vec<IntentId>,
    /// All intents that are recorded then.
    open: Vec<IntentId>,
}

/// What is to be done to a key's store.
#[derive(Debug)]
pub(crate) enum Due<'a> {
    /// Nothing.
    Nothing,
    /// Nothing by this replicator: another process is at the key.
    Yield,
    /// Put the committed version's value, which makes up for these abandoned calls.
    Put(Version, &'a Held, Vec<IntentId>),
    /// Remove the value of a key that was deleted at this version, or never got one.
    Remove(Option<Version>),
}

impl Calls {
    /// What is to be done at `now`, according to the ledger.
    pub(crate) fn due<'a>(&self, current: &'a Current, now: Timestamp) -> Due<'a> {
        let unused = self.unused.as_ref().map(|(id, _)| id);
        let others = current.replica.intents.iter().filter(|id| !self.own.contains(id) && unused != Some(id)).cloned();
        let (abandoned, open): (Vec<_>, Vec<_>) = others.partition(|id| is_abandoned(id, now));
        if unused.is_none() && self.own.is_empty() && !open.is_empty() {
            // The process that recorded the intent reads the entry again after its call. If it
            // died, its intent soon counts as abandoned.
            return Due::Yield;
        }
        let version = current.entry.as_ref().map(|entry| entry.version);
        let behind = match version {
            Some(_) => current.replica.replicated != version,
            // A first write that was never committed may have put a value late. The key is then in
            // the outbox until all intents are over.
            None => current.replica.pending && current.replica.intents.is_empty(),
        };
        let undone = self.last_done.is_some() && self.last_done != version;
        if !behind && !undone && abandoned.is_empty() {
            return Due::Nothing;
        }
        match &current.entry {
            Some(Entry { state: State::Live(held), version, .. }) => Due::Put(*version, held, abandoned),
            // While another process's call is open nothing is removed: its put may be about to be
            // committed.
            _ if !open.is_empty() => Due::Yield,
            // Without a version, the key's first write has put its value and was never committed.
            _ => Due::Remove(version),
        }
    }

    /// The intents that are over once the next call is: the replicator's own, and abandoned ones.
    pub(crate) fn ended(&self, intents: &[IntentId], now: Timestamp) -> Vec<IntentId> {
        intents.iter().filter(|id| self.own.contains(id) || is_abandoned(id, now)).cloned().collect()
    }

    /// All intents that the replicator is responsible for.
    fn ids(&self) -> Vec<IntentId> {
        self.own.iter().chain(self.unused.iter().map(|(id, _)| id)).cloned().collect()
    }
}

/// Whether an intent is abandoned: too old for its process to be still alive.
pub(crate) fn is_abandoned(id: &IntentId, now: Timestamp) -> bool {
    now.since(id.given_out_at()) > GRACE
}

impl Replicator<'_> {
    async fn step(&mut self, current: &Current) -> Result<Step, ReplicateError> {
        match self.calls.due(current, self.clock.now()) {
            Due::Nothing => {
                let ended = self.calls.ids();
                if current.replica.pending || !ended.is_empty() {
                    self.backend.ledger.end_calls(self.scope, self.key, &ended).await?;
                }
                Ok(Step::Done)
            }
            Due::Yield => Ok(Step::Yield),
            Due::Put(version, held, abandoned) => self.put(current, version, held, &abandoned).await,
            Due::Remove(version) => self.remove(current, version).await,
        }
    }

    /// Puts the committed value.
    async fn put(
        &mut self,
        current: &Current,
        version: Version,
        held: &Held,
        abandoned: &[IntentId],
    ) -> Result<Step, ReplicateError> {
        let (scope, key, ledger) = (self.scope, self.key, &self.backend.ledger);
        let value = match held {
            Held::Value(value) => value.clone(),
            Held::Elsewhere(locator, kind) => {
                let mut found = self.external.get(scope, &[(key, *locator, kind)]).await?;
                found.pop().flatten().ok_or(StoreError::Gone)?
            }
        };
        let replaced = [self.calls.own.as_slice(), abandoned].concat();
        let Some(call) = self.record_intent(current, &replaced).await? else { return Ok(Step::Again) };
        if call.given_out_for != Some(version) {
            ledger.give_out(scope, key, version, &call.id).await?;
        }
        let placed = match self.external.put(scope, key, &value, &call.id, version).await {
            Ok(placed) => placed,
            Err(error) => {
                let open = call.open.clone();
                if error.did_nothing() {
                    self.give_up(call, version).await?;
                }
                let StoreError::Refused { reason, .. } = error else { return Err(error.into()) };
                let made_up = if self.calls.makes_up { open.as_slice() } else { &[] };
                let noted = self.record_refusal(version, Some(reason), made_up).await?;
                // If the version was known to be in the store, the refusal commit has put the key
                // into the outbox only now.
                self.leave().await?;
                return Ok(match noted {
                    Recorded::Refused(refusal) => Step::Refused(refusal),
                    Recorded::Busy => Step::Yield,
                    Recorded::Accepted | Recorded::MovedOn => Step::Again,
                });
            }
        };
        let mut stored = Stored { placed: placed.version, seen: current.replica.store_version, locator: None };
        if matches!(held, Held::Elsewhere(..)) {
            // The store will drop the committed version some day; this one is newer.
            let locator = self.external.locate(scope, key, &call.id, placed.version).await?;
            stored.locator = Some((locator, placed.kind));
        }
        if current.entry.as_ref().is_some_and(|entry| entry.refusal.is_some()) {
            // Before the key leaves the outbox: if the process dies in between, the key is put
            // again.
            if self.record_refusal(version, None, &[]).await? == Recorded::Busy {
                self.after(call, Some(version), false);
                return Ok(Step::Yield);
            }
        }
        let is_others = |id: &&IntentId| **id != call.id && !self.calls.own.contains(id);
        let made_up_for: Vec<_> = call.ended.iter().filter(is_others).cloned().collect();
        let marked = ledger.mark_replicated(scope, key, version, &stored, &call.ended, &made_up_for).await?;
        if let Some(place) = stored.locator.as_ref().filter(|_| marked) {
            ledger.relocate(scope, key, version, place).await?;
        }
        Ok(self.after(call, Some(version), marked))
    }

    /// Removes the value of a key that was deleted at `version`, or that never got one.
    async fn remove(&mut self, current: &Current, version: Option<Version>) -> Result<Step, ReplicateError> {
        let (scope, key, ledger) = (self.scope, self.key, &self.backend.ledger);
        let Some(call) = self.record_intent(current, &[]).await? else { return Ok(Step::Again) };
        let until = self.clock.now().plus(REMOVAL);
        let known = current.replica.store_version;
        if !ledger.begin_removal(scope, key, version, &call.ended, known, until).await? {
            self.calls.unused = Some((call.id, call.given_out_for));
            return Ok(Step::Again);
        }
        let removed = if current.replica.store_version.is_some() {
            self.external.remove(scope, key).await.map(|()| true).map_err(ReplicateError::from)
        } else {
            // Nothing of ours is known to lie there. What does may be an operator's.
            let known: Vec<_> = call.ended.iter().chain(&current.replica.expired_intents).cloned().collect();
            self.remove_if_ours(&known).await
        };
        let is_left = match removed {
            Ok(true) => false,
            Ok(false) => {
                warn!(tenant.id = %scope.tenant(), config.key = %key, "the store has versions under the key's name that are not ours; they are left alone");
                true
            }
            Err(error) => {
                if error.did_nothing() {
                    ledger.end_removal(scope, key, until).await?;
                    self.calls.own.push(call.id);
                    self.leave().await?;
                }
                return Err(error);
            }
        };
        let marked = ledger.mark_removed(scope, key, version, &call.ended, is_left).await?;
        if !marked {
            ledger.end_removal(scope, key, until).await?;
        }
        Ok(self.after(call, version, marked))
    }

    /// Removes the value if every version of it is ours: put under one of `known`, or an id that
    /// the ledger keeps with the version.
    async fn remove_if_ours(&self, known: &[IntentId]) -> Result<bool, ReplicateError> {
        let versions = self.external.versions(self.scope, self.key, false).await?;
        let mut ids = HashSet::new();
        for one in &versions {
            let Some((id, version)) = &one.mark else { return Ok(false) };
            let is_given_out = known.contains(id)
                || self.backend.ledger.intent_ids(self.scope, self.key, *version).await?.contains(id);
            // An id that comes twice was copied.
            if !is_given_out || !ids.insert(id) {
                return Ok(false);
            }
        }
        if !versions.is_empty() {
            self.external.remove(self.scope, self.key).await?;
        }
        Ok(true)
    }

    /// Records the intent of the next call: the one that the commit recorded, or a new one in place
    /// of `replaced`, which the call makes up for. None if others recorded intents meanwhile.
    async fn record_intent(
        &mut self,
        current: &Current,
        replaced: &[IntentId],
    ) -> Result<Option<Call>, ReplicateError> {
        let seen = &current.replica.intents;
        // All other intents are over once this call is, except the open ones.
        let mut ended = self.calls.ended(seen, self.clock.now());
        if let Some((id, given_out_for)) = self.calls.unused.take() {
            ended.retain(|one| *one != id);
            ended.push(id.clone());
            return Ok(Some(Call { id, given_out_for, ended, open: seen.clone() }));
        }
        let id = IntentId::new(self.clock.now());
        if !self.backend.ledger.record_intent(self.scope, self.key, &id, seen, replaced).await? {
            return Ok(None);
        }
        ended.retain(|id| !replaced.contains(id));
        ended.push(id.clone());
        let mut open: Vec<_> = seen.iter().filter(|id| !replaced.contains(id)).cloned().collect();
        open.push(id.clone());
        self.calls.own.retain(|id| !replaced.contains(id));
        self.calls.makes_up |= !replaced.is_empty();
        Ok(Some(Call { id, given_out_for: None, ended, open }))
    }

    async fn record_refusal(
        &self,
        version: Version,
        reason: Option<RefusalReason>,
        made_up: &[IntentId],
    ) -> Result<Recorded, LedgerError> {
        refusal::record(self.backend, self.clock, self.scope, self.key, version, reason, made_up).await
    }

    /// Takes back the intent of a put that did nothing.
    async fn give_up(&mut self, call: Call, version: Version) -> Result<(), ReplicateError> {
        let ledger = &self.backend.ledger;
        ledger.take_back(self.scope, self.key, version, &call.id).await?;
        if self.calls.makes_up {
            self.calls.own.push(call.id);
        } else {
            ledger.end_calls(self.scope, self.key, &[call.id]).await?;
        }
        self.leave().await
    }

    fn after(&mut self, call: Call, version: Option<Version>, marked: bool) -> Step {
        self.calls.own.push(call.id);
        self.calls.last_done = version;
        if marked { Step::Done } else { Step::Again }
    }

    /// Leaves the rest to others, and lets them begin at once.
    async fn leave(&self) -> Result<(), ReplicateError> {
        let ledger = &self.backend.ledger;
        let ended = self.calls.ids();
        if ended.is_empty() {
            return Ok(());
        }
        if self.calls.own.is_empty() && !self.calls.makes_up {
            ledger.end_calls(self.scope, self.key, &ended).await?;
        } else {
            ledger.leave_calls(self.scope, self.key, &ended).await?;
        }
        Ok(())
    }
}
