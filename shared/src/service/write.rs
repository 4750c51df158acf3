//! Writing: preconditions, one commit, then what the commit owes.

use std::time::Duration;

use tracing::warn;

use super::{
    Foundation,
    follow::{Followed, follow},
};
use crate::{
    auth::TenantScope,
    clock::Clock,
    entry::{CommitId, ETag, Held, Locator, Precondition, PutId, Revision, State, Version},
    key::ConfigKey,
    ledger::{
        Basis, Change, CommitOutcome, Current, IdempotencyClaim, LedgerError, Plan, PlannedWrite, Receipt, StoreWork,
    },
    routing::Strategy,
    settings::Settings,
    store::{ExternalStore, Placed, StoreError, ValueRefused},
    value::ConfigValue,
};

/// The most puts and deletes of one transaction: DynamoDB takes 100 actions, and each of ours makes two besides head, change and result.
pub const MAX_OPERATIONS: usize = 25;
/// The most bytes of values of one transaction. DynamoDB takes 4 MB, and each value is written twice, to its entry and its version.
const MAX_TRANSACTION_BYTES: usize = 1_500_000;
/// How long a write contends for the tenant's next revision.
const CONTENTION_BUDGET: Duration = Duration::from_secs(8);
/// How often a write that goes around the ledger puts again because another one came in between.
const MAX_PUTS_AROUND: usize = 6;
/// How long what a commit owes may keep its answer waiting.
const FOLLOW_BUDGET: Duration = Duration::from_secs(10);

/// One write of a request.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// The key.
    pub key: ConfigKey,
    /// What must be true of its current version.
    pub precondition: Precondition,
    /// What to do.
    pub operation: Operation,
}

/// What to do with a key.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Give it a value.
    Put(ConfigValue),
    /// Delete it.
    Delete,
    /// Give it the value that it had at a version.
    Rollback(Version),
}

/// What a write did.
#[derive(Debug)]
pub struct Written {
    /// What was committed.
    pub receipt: Receipt,
    /// Which of the writes' stores are still to be brought after, in the order of the request.
    pub pending: Vec<bool>,
    /// Whether an earlier request with the same idempotency key had done it.
    pub replayed: bool,
}

/// Why nothing was written, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store failed before the commit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store does not take the value.
    #[error(transparent)]
    Refused(#[from] ValueRefused),
    /// A precondition does not hold.
    #[error("the precondition on {key} does not hold")]
    Precondition {
        /// The key.
        key: ConfigKey,
        /// Its current entity tag, if it has a value.
        current: Option<ETag>,
        /// The tenant's head.
        head: Revision,
    },
    /// There is nothing to delete.
    #[error("{0} has no value")]
    NotFound(ConfigKey),
    /// There is no such version to roll back to.
    #[error("{0} has no version {1}")]
    NoSuchVersion(ConfigKey, Version),
    /// The version to roll back to is a tombstone.
    #[error("version {1} of {0} is a deletion, which has no value to roll back to; use DELETE")]
    VersionIsTombstone(ConfigKey, Version),
    /// The store does not keep the version's value any more.
    #[error("the value of version {1} of {0} is not kept any more")]
    VersionGone(ConfigKey, Version),
    /// The idempotency key belongs to another request.
    #[error("the Idempotency-Key was used with another request")]
    IdempotencyMismatch,
    /// The tag cannot take part in a transaction.
    #[error(
        "the tag {tag} cannot take part in a transaction: its values are put to their store before the commit, and several puts are not one; write {key} on its own"
    )]
    CannotJoin {
        /// The tag.
        tag: String,
        /// The key.
        key: ConfigKey,
    },
    /// The values of the transaction are too large together.
    #[error("the values of the transaction take {0} bytes together; at most {MAX_TRANSACTION_BYTES} are allowed")]
    TransactionTooLarge(usize),
    /// Others were always faster.
    #[error("too many others write at the same time; nothing was written")]
    Contention,
    /// The key's value is being removed from its store.
    #[error("the value of {0} is just being removed from its store")]
    Removing(ConfigKey),
}

/// Writes entries.
#[derive(Debug)]
pub struct WriteService {
    foundation: Foundation,
    clock: Clock,
}

impl WriteService {
    /// A writer.
    pub fn new(foundation: Foundation, settings: &Settings) -> Self {
        Self { foundation, clock: settings.clock.clone() }
    }

    /// Carries out all of `requests`, which name no key twice, or none.
    pub async fn write(
        &self,
        scope: &TenantScope,
        requests: &[WriteRequest],
        idempotency: Option<IdempotencyClaim>,
    ) -> Result<Written, WriteError> {
        self.check(requests)?;
        let keys: Vec<_> = requests.iter().map(|request| request.key.clone()).collect();
        let hash = idempotency.as_ref().map(|claim| claim.key_hash.as_str());
        let mut attempt = Attempt { commit: CommitId::random(), rolled_back: None, around: None, puts: 0 };
        let give_up_at = tokio::time::Instant::now() + CONTENTION_BUDGET;
        let mut ceiling = Duration::from_millis(20);
        loop {
            let basis = self.foundation.ledger.basis(scope, &keys, hash).await?;
            if let Some(earlier) = basis.earlier {
                return replay(earlier, idempotency.as_ref());
            }
            let writes = match self.plan(scope, requests, &basis, &mut attempt).await {
                Ok(writes) => writes,
                Err(error) => {
                    // A twin of this request may have come between the look at its result and the look at the entries: then it was its
                    // success that made this one fail.
                    if let Some(hash) = hash
                        && let Some(earlier) = self.foundation.ledger.earlier(scope, hash).await?
                    {
                        return replay(earlier, idempotency.as_ref());
                    }
                    return Err(error);
                }
            };
            let plan = Plan {
                head: basis.head,
                commit: attempt.commit.clone(),
                at: self.clock.now(),
                writes,
                idempotency: idempotency.clone(),
            };
            if let CommitOutcome::Committed(receipt, change) = self.foundation.ledger.commit(scope, &plan).await? {
                let pending = self.pay(scope, &plan, &change).await;
                return Ok(Written { receipt, pending, replayed: false });
            }
            if tokio::time::Instant::now() >= give_up_at {
                return Err(WriteError::Contention);
            }
            // Full jitter: the many that lost come back spread out.
            tokio::time::sleep(ceiling.mul_f64(fastrand::f64())).await;
            ceiling = (ceiling * 2).min(Duration::from_millis(400));
        }
    }

    /// What can be refused before anything is read.
    fn check(&self, requests: &[WriteRequest]) -> Result<(), WriteError> {
        let mut bytes = 0;
        for WriteRequest { key, operation, .. } in requests {
            let store = self.foundation.stores.of(key);
            if requests.len() > 1 && matches!(store.external(), Some((_, Strategy::WriteAround))) {
                return Err(WriteError::CannotJoin { tag: key.tag().to_owned(), key: key.clone() });
            }
            if let Operation::Put(value) = operation {
                store.check(key, value)?;
                bytes += value.as_json().len();
            }
        }
        if bytes > MAX_TRANSACTION_BYTES { Err(WriteError::TransactionTooLarge(bytes)) } else { Ok(()) }
    }

    async fn plan(
        &self,
        scope: &TenantScope,
        requests: &[WriteRequest],
        basis: &Basis,
        attempt: &mut Attempt,
    ) -> Result<Vec<PlannedWrite>, WriteError> {
        for request in requests {
            let current = basis
                .currents
                .get(&request.key)
                .and_then(|current| current.entry.as_ref())
                .filter(|entry| entry.is_live());
            let etag = current.map(crate::entry::Entry::etag);
            if !request.precondition.holds(etag.as_ref()) {
                return Err(WriteError::Precondition {
                    key: request.key.clone(),
                    current: etag,
                    head: basis.head.revision,
                });
            }
            if matches!(request.operation, Operation::Delete) && current.is_none() {
                return Err(WriteError::NotFound(request.key.clone()));
            }
        }
        let mut writes = Vec::with_capacity(requests.len());
        for WriteRequest { key, operation, .. } in requests {
            let current = basis.currents.get(key);
            let entry = current.and_then(|current| current.entry.as_ref());
            let value = match operation {
                Operation::Put(value) => Some(value.clone()),
                Operation::Delete => None,
                Operation::Rollback(version) => Some(self.value_at(scope, key, *version, attempt).await?),
            };
            let (state, store) = match (value, self.foundation.stores.of(key).external()) {
                (value, None) => (state_of(value), StoreWork::None),
                (value, Some((_, Strategy::WriteBack))) => (state_of(value), StoreWork::Later),
                (value @ Some(_), Some((_, Strategy::WriteThrough))) | (value @ None, Some(_)) => {
                    (state_of(value), StoreWork::Announced(PutId::new(self.clock.now())))
                }
                (Some(value), Some((external, Strategy::WriteAround))) => {
                    self.put_around(scope, external, key, &value, current, attempt).await?
                }
            };
            writes.push(PlannedWrite {
                key: key.clone(),
                previous: entry.map(|entry| entry.version),
                creates: !entry.is_some_and(crate::entry::Entry::is_live),
                state,
                store,
            });
        }
        Ok(writes)
    }

    /// The value of an earlier version. It never changes, so one look is enough for all attempts.
    async fn value_at(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        attempt: &mut Attempt,
    ) -> Result<ConfigValue, WriteError> {
        if let Some(value) = &attempt.rolled_back {
            return Ok(value.clone());
        }
        let Some(entry) = self.foundation.ledger.version(scope, key, version).await? else {
            return Err(WriteError::NoSuchVersion(key.clone(), version));
        };
        let store = self.foundation.stores.of(key);
        let value = match entry.state {
            State::Deleted => return Err(WriteError::VersionIsTombstone(key.clone(), version)),
            State::Live(Held::Value(value)) => Some(value),
            State::Live(Held::Elsewhere(locator, kind)) => match store.external() {
                Some((external, _)) => external.get_history(scope, key, &[(locator, kind)]).await?.pop().flatten(),
                None => None,
            },
        };
        let value = value.ok_or_else(|| WriteError::VersionGone(key.clone(), version))?;
        // The tag's store may have been another one when the version was written.
        store.check(key, &value)?;
        attempt.rolled_back = Some(value.clone());
        Ok(value)
    }

    /// Puts a value to its store before the commit; again if the key has moved on since the last put.
    async fn put_around(
        &self,
        scope: &TenantScope,
        external: &dyn ExternalStore,
        key: &ConfigKey,
        value: &ConfigValue,
        current: Option<&Current>,
        attempt: &mut Attempt,
    ) -> Result<(State, StoreWork), WriteError> {
        let previous = current.and_then(|current| current.entry.as_ref()).map(|entry| entry.version);
        if let Some(around) = attempt.around.as_ref().filter(|around| {
            around.previous == previous && current.is_some_and(|current| current.follow.announced.contains(&around.id))
        }) {
            return Ok(around.write());
        }
        if attempt.puts == MAX_PUTS_AROUND {
            return Err(WriteError::Contention);
        }
        attempt.puts += 1;
        let id = PutId::new(self.clock.now());
        if !self.foundation.ledger.announce(scope, key, &id).await? {
            return Err(WriteError::Removing(key.clone()));
        }
        let version = previous.map_or(Version::FIRST, Version::next);
        let placed = external.put(scope, key, value, &id, version).await?;
        let locator = external.locate(scope, key, &id, placed).await?;
        let around = attempt.around.insert(Around { id, placed, locator, previous });
        Ok(around.write())
    }

    /// Does what a commit owes. What fails is left to config-refresh, which finds it in the ledger; the commit stands.
    async fn pay(&self, scope: &TenantScope, plan: &Plan, change: &Change) -> Vec<bool> {
        let publish = async {
            if let Err(error) = self.publish(scope, change).await {
                warn!(tenant.id = %scope.tenant(), revision = %change.revision, %error, "a change is left for config-refresh to publish");
            }
        };
        let (pending, ()) = tokio::join!(self.bring_stores_after(scope, plan), publish);
        pending
    }

    async fn publish(&self, scope: &TenantScope, change: &Change) -> Result<(), LedgerError> {
        self.foundation.publisher.publish(scope, change).await?;
        self.foundation.ledger.mark_published(scope, change.revision).await
    }

    async fn bring_stores_after(&self, scope: &TenantScope, plan: &Plan) -> Vec<bool> {
        let give_up_at = tokio::time::Instant::now() + FOLLOW_BUDGET;
        let mut pending = Vec::with_capacity(plan.writes.len());
        for PlannedWrite { key, store, .. } in &plan.writes {
            let is_pending = match store {
                StoreWork::None => false,
                StoreWork::Later => true,
                StoreWork::Done(..) => {
                    // The value is where it belongs; only the mark that somebody was at it comes off.
                    if let Err(error) = self.foundation.ledger.settle(scope, key).await {
                        warn!(tenant.id = %scope.tenant(), config.key = %key, %error, "a mark is left for config-refresh to take off");
                    }
                    false
                }
                StoreWork::Announced(id) => {
                    let following = follow(&self.foundation, &self.clock, scope, key, Some(id.clone()));
                    match tokio::time::timeout_at(give_up_at, following).await {
                        Ok(Ok(followed)) => followed == Followed::Later,
                        Ok(Err(error)) => {
                            warn!(tenant.id = %scope.tenant(), config.key = %key, %error, "a store is left for config-refresh to bring after");
                            true
                        }
                        Err(_) => true,
                    }
                }
            };
            pending.push(is_pending);
        }
        pending
    }
}

/// What stays the same over all attempts of one request.
struct Attempt {
    commit: CommitId,
    rolled_back: Option<ConfigValue>,
    around: Option<Around>,
    puts: usize,
}

/// A put that went before its commit.
struct Around {
    id: PutId,
    placed: Placed,
    locator: Locator,
    /// The version that the key was at.
    previous: Option<Version>,
}

impl Around {
    fn write(&self) -> (State, StoreWork) {
        (
            State::Live(Held::Elsewhere(self.locator, self.placed.kind)),
            StoreWork::Done(self.id.clone(), self.placed.version),
        )
    }
}

fn state_of(value: Option<ConfigValue>) -> State {
    value.map_or(State::Deleted, |value| State::Live(Held::Value(value)))
}

fn replay((request_hash, receipt): (String, Receipt), claim: Option<&IdempotencyClaim>) -> Result<Written, WriteError> {
    if claim.is_some_and(|claim| claim.request_hash == request_hash) {
        let pending = vec![false; receipt.writes.len()];
        Ok(Written { receipt, pending, replayed: true })
    } else {
        Err(WriteError::IdempotencyMismatch)
    }
}
