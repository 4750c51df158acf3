//! Writing: preconditions, one commit, then what the commit owes.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::{
    auth::TenantScope,
    aws::{AwsFailure, Service},
    backend::WriteBackend,
    clock::Clock,
    ledger::{
        Basis, Change, CommitOutcome, Current, IdempotencyClaim, LedgerError, Plan, PlannedWrite, PutBefore, Receipt,
        ReplicaState, StoreChange,
    },
    model::{
        comment::Comment,
        entry::{CommitId, ETag, Entry, Held, IntentId, Locator, Precondition, Revision, State, Version},
        key::ConfigKey,
        refusal::{Refusal, RefusalReason},
        routing::Strategy,
        value::ConfigValue,
    },
    outbox::replicate::{Occasion, Replication, replicate},
    read::values::ValueGone,
    store::{ExternalStore, Placed, StoreError, ValueRefused},
};

/// The most puts and deletes of one transaction: DynamoDB takes 100 actions, and each of ours makes
/// two besides head, change and result.
pub const MAX_OPERATIONS: usize = 25;
/// The most bytes of values of one transaction. DynamoDB takes 4 MB, and each value is written
/// twice, to its entry and its version.
const MAX_TRANSACTION_BYTES: usize = 1_500_000;
/// How long a write contends for the tenant's next revision.
const CONTENTION_BUDGET: Duration = Duration::from_secs(8);
/// How often a write that goes around the ledger puts again because another one came in between.
const MAX_PUTS_AROUND: usize = 6;
/// How many calls to a key's store may be open before no further value is put around the ledger.
/// Each may have put a version that is never committed, and Parameter Store drops the oldest of
/// more than 100; config-refresh puts the committed one on top again.
const MAX_OPEN_CALLS: usize = 10;
/// How long the announced call of another writer of the same key is waited for, before the key
/// counts as free: longer than a put and its commit usually take.
const AT_WORK: Duration = Duration::from_secs(3);
/// How long what a commit owes may keep its answer waiting.
const FLUSH_BUDGET: Duration = Duration::from_secs(10);
/// When a request must have been answered, counted from its begin: before the function's timeout,
/// and before the 30 s that API Gateway waits.
const REQUEST_BUDGET: Duration = Duration::from_secs(26);
/// What is left of it for the answer once a commit has taken place.
const ANSWER_RESERVE: Duration = Duration::from_secs(2);

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
    /// What the writes' stores have of them, in the order of the request.
    pub stores: Vec<StoreState>,
    /// Whether an earlier request with the same idempotency key had done it.
    pub replayed: bool,
}

/// What the store of a tag has of a write that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// All of it.
    Done,
    /// It is still to be brought there.
    Pending,
    /// Nothing: it refuses it.
    Refused(Refusal),
}

/// Why nothing was written, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
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
    /// The store would refuse the value for good.
    #[error("the store of {key} does not take a value: {advice}; nothing was written", advice = .reason.advice())]
    InTheWay {
        /// The key.
        key: ConfigKey,
        /// Why.
        reason: RefusalReason,
    },
    /// A precondition does not hold.
    #[error("the precondition on {key} does not hold")]
    Precondition {
        /// The key.
        key: ConfigKey,
        /// Its current entity tag, if it has a value.
        current: Option<ETag>,
        /// The tenant's head.
        head: Revision,
        /// Whether `If-Match` names that tag, but as a weak one.
        only_weakly: bool,
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
    #[error(transparent)]
    VersionGone(#[from] ValueGone),
    /// The version's value is in a store that its tag's route does not lead to any more.
    #[error("the route of the tag {tag} no longer leads to the store that holds that version of {key}", tag = .0.tag(), key = .0)]
    RouteChanged(ConfigKey),
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
    /// Refused after a look at the ledger.
    #[error("{error}")]
    At {
        /// The tenant's head.
        head: Revision,
        /// Why.
        error: Box<Self>,
    },
    /// The key's value is being removed from its store.
    #[error("the value of {0} is just being removed from its store")]
    Removing(ConfigKey),
}

/// Writes entries.
#[derive(Debug)]
pub struct WriteService {
    backend: WriteBackend,
    clock: Clock,
}

impl WriteService {
    /// A writer.
    pub fn new(backend: WriteBackend, clock: Clock) -> Self {
        Self { backend, clock }
    }

    /// Carries out all of `requests`, which name no key twice, or none; the comment is the
    /// commit's.
    pub async fn write(
        &self,
        scope: &TenantScope,
        requests: &[WriteRequest],
        comment: Option<Comment>,
        idempotency: Option<IdempotencyClaim>,
    ) -> Result<Written, WriteError> {
        self.check(requests)?;
        let answer_by = Instant::now() + REQUEST_BUDGET;
        let writing = Box::pin(self.write_until(scope, requests, comment, idempotency.as_ref(), answer_by));
        tokio::time::timeout_at(answer_by, writing).await.unwrap_or_else(|_| {
            let slow = AwsFailure::unexpected(Service::DynamoDb, "TransactWriteItems", "the request took too long");
            Err(LedgerError::OutcomeUnknown(slow).into())
        })
    }

    async fn write_until(
        &self,
        scope: &TenantScope,
        requests: &[WriteRequest],
        comment: Option<Comment>,
        idempotency: Option<&IdempotencyClaim>,
        answer_by: Instant,
    ) -> Result<Written, WriteError> {
        let keys: Vec<_> = requests.iter().map(|request| request.key.clone()).collect();
        let hash = idempotency.map(|claim| claim.key_hash.as_str());
        let mut attempt = Attempt { commit: CommitId::random(), rolled_back: None, around: None, puts: 0 };
        let give_up_at = Instant::now() + CONTENTION_BUDGET;
        let mut ceiling = Duration::from_millis(20);
        loop {
            let basis = self.backend.ledger.basis(scope, &keys, hash).await?;
            if let Some(earlier) = basis.earlier {
                return replay(earlier, idempotency);
            }
            let in_the_way = match self.plan(scope, requests, &basis, &mut attempt).await {
                Ok(Planned::Writes(writes)) => {
                    let plan = Plan {
                        head: basis.head,
                        commit: attempt.commit.clone(),
                        at: self.clock.now(),
                        writes,
                        comment: comment.clone(),
                        idempotency: idempotency.cloned(),
                    };
                    if let CommitOutcome::Committed(receipt, change) = self.backend.ledger.commit(scope, &plan).await? {
                        let flush_until = (Instant::now() + FLUSH_BUDGET).min(answer_by - ANSWER_RESERVE);
                        let stores = Box::pin(self.flush(scope, &plan, &change, flush_until)).await;
                        return Ok(Written { receipt, stores, replayed: false });
                    }
                    WriteError::Contention
                }
                Ok(Planned::Wait(in_the_way)) => in_the_way,
                Err(error) => {
                    // A twin of this request may have come between the look at its result and the
                    // look at the entries: then it was its success that made this one fail.
                    if let Some(hash) = hash
                        && let Some(earlier) = self.backend.ledger.earlier(scope, hash).await?
                    {
                        return replay(earlier, idempotency);
                    }
                    return Err(error.at(basis.head.revision));
                }
            };
            if Instant::now() >= give_up_at {
                return Err(in_the_way);
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
            let store = self.backend.stores.of(key);
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
    ) -> Result<Planned, WriteError> {
        for request in requests {
            let current = basis
                .currents
                .get(&request.key)
                .and_then(|current| current.entry.as_ref())
                .filter(|entry| entry.is_live());
            let etag = current.map(Entry::etag);
            if !request.precondition.holds(etag.as_ref()) {
                let if_match = request.precondition.if_match.as_ref();
                return Err(WriteError::Precondition {
                    key: request.key.clone(),
                    only_weakly: if_match.is_some_and(|tags| tags.matches_only_weakly(etag.as_ref())),
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
            if let (Some(current), true) = (current, value.is_some()) {
                self.look_for_what_is_in_the_way(scope, key, current).await?;
            }
            let format = value.as_ref().map(|value| self.backend.stores.of(key).format_of(value));
            let lies_there_alone = matches!(entry.map(|entry| &entry.state), Some(State::Live(Held::Elsewhere(..))));
            let (state, store) = match (value, self.backend.stores.of(key).external()) {
                (value, None) => (state_of(value), StoreChange::None),
                (value, Some((_, Strategy::WriteBack))) => (state_of(value), StoreChange::Later),
                (value @ Some(_), Some((_, Strategy::WriteThrough))) | (value @ None, Some(_)) => {
                    (state_of(value), StoreChange::Intent(IntentId::new(self.clock.now())))
                }
                (Some(value), Some((external, Strategy::WriteAround))) => {
                    match self.put_around(scope, external, key, &value, current, attempt).await? {
                        Ok(put) => put,
                        Err(in_the_way) => return Ok(Planned::Wait(in_the_way)),
                    }
                }
            };
            writes.push(PlannedWrite {
                key: key.clone(),
                previous: entry.map(|entry| entry.version),
                version: current.map_or(Version::FIRST, Current::next_version),
                creates: !entry.is_some_and(Entry::is_live),
                removes_older_values: lies_there_alone
                    && matches!(store, StoreChange::Intent(_))
                    && state == State::Deleted,
                state,
                format,
                store,
            });
        }
        Ok(Planned::Writes(writes))
    }

    /// Refuses a write that the store would refuse after its commit, where the ledger knows that
    /// something lies there that no put fits on. Whether it still does, the store is asked; where
    /// it does not answer, the commit takes place, and what comes of it shows.
    async fn look_for_what_is_in_the_way(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        current: &Current,
    ) -> Result<(), WriteError> {
        let refusal = current.entry.as_ref().and_then(|entry| entry.refusal);
        if !current.has_other_type && !refusal.is_some_and(|refusal| refusal.reason.can_be_seen()) {
            return Ok(());
        }
        // A put around the ledger is made before the commit anyway.
        let Some((external, Strategy::WriteThrough | Strategy::WriteBack)) = self.backend.stores.of(key).external()
        else {
            return Ok(());
        };
        match external.in_the_way(scope, key).await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(WriteError::InTheWay { key: key.clone(), reason }),
            Err(error) => {
                warn!(tenant.id = %scope.tenant(), config.key = %key, %error, "whether something is in a write's way cannot be seen now");
                Ok(())
            }
        }
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
        let WriteBackend { ledger, stores, .. } = &self.backend;
        let Some(entry) = ledger.version(scope, key, version).await? else {
            return Err(WriteError::NoSuchVersion(key.clone(), version));
        };
        let store = stores.of(key);
        let value = match entry.state {
            State::Deleted => return Err(WriteError::VersionIsTombstone(key.clone(), version)),
            State::Live(Held::Value(value)) => Some(value),
            State::Live(Held::Elsewhere(locator, kind)) => match store.external() {
                Some((external, _)) => external.get_history(scope, key, &[(locator, &kind)]).await?.pop().flatten(),
                None => return Err(WriteError::RouteChanged(key.clone())),
            },
        };
        let Some(value) = value else { return Err(ValueGone::of(ledger, scope, key, version).await?.into()) };
        // The tag's store may have been another one when the version was written.
        store.check(key, &value)?;
        attempt.rolled_back = Some(value.clone());
        Ok(value)
    }

    /// Puts a value to its store before the commit; again if a later put has been committed since.
    /// The inner error says what has to be waited for.
    ///
    /// Writers of one key take turns as far as they see each other, because what a later put
    /// replaces may be lost to Parameter Store's history before it is read. Nothing rests on it:
    /// whoever is not seen is found out by the commit's conditions.
    async fn put_around(
        &self,
        scope: &TenantScope,
        external: &dyn ExternalStore,
        key: &ConfigKey,
        value: &ConfigValue,
        current: Option<&Current>,
        attempt: &mut Attempt,
    ) -> Result<Result<(State, StoreChange), WriteError>, WriteError> {
        let ledger = &self.backend.ledger;
        let follow = current.map(|current| current.replica.clone()).unwrap_or_default();
        let entry = current.and_then(|current| current.entry.as_ref());
        if let Some(around) = &attempt.around
            && follow.intents.contains(&around.id)
            && around.is_newest(entry, &follow)
        {
            return Ok(Ok(around.write()));
        }
        let now = self.clock.now();
        if follow.is_being_removed(now) {
            return Ok(Err(WriteError::Removing(key.clone())));
        }
        // An earlier put of this request is over, and what has been committed since lies on top of
        // it.
        let overtaken: Vec<_> = attempt.around.iter().map(|around| around.id.clone()).collect();
        let is_at_work = |id: &IntentId| !overtaken.contains(id) && now.since(id.given_out_at()) < AT_WORK;
        let is_crowded = attempt.puts == MAX_PUTS_AROUND || follow.intents.len() >= MAX_OPEN_CALLS;
        if is_crowded || follow.intents.iter().any(is_at_work) {
            return Ok(Err(WriteError::Contention));
        }
        let id = IntentId::new(now);
        if !ledger.record_intent(scope, key, &id, &follow.intents, &overtaken).await? {
            return Ok(Err(WriteError::Contention));
        }
        attempt.around = None;
        attempt.puts += 1;
        let version = current.map_or(Version::FIRST, Current::next_version);
        let placed = match external.put(scope, key, value, &id, version).await {
            Ok(placed) => placed,
            Err(error) => {
                if error.did_nothing() {
                    ledger.end_calls(scope, key, &[id]).await?;
                }
                return Err(match error {
                    StoreError::Refused { reason, .. } => WriteError::InTheWay { key: key.clone(), reason },
                    other => other.into(),
                });
            }
        };
        let locator = external.locate(scope, key, &id, placed.version).await?;
        let around =
            attempt.around.insert(Around { id, described: version, placed, locator, seen: follow.store_version });
        Ok(Ok(around.write()))
    }

    /// Does what a commit owes. What fails is left to config-refresh, which finds it in the ledger;
    /// the commit stands.
    async fn flush(&self, scope: &TenantScope, plan: &Plan, change: &Change, until: Instant) -> Vec<StoreState> {
        let publish = async {
            let left = match tokio::time::timeout_at(until, self.backend.publish(scope, change)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(late) => late.to_string(),
            };
            warn!(tenant.id = %scope.tenant(), revision = %change.revision, error = left, "a change is left for config-refresh to publish");
        };
        let (stores, ()) = tokio::join!(self.bring_stores_after(scope, plan, until), publish);
        stores
    }

    async fn bring_stores_after(&self, scope: &TenantScope, plan: &Plan, until: Instant) -> Vec<StoreState> {
        let mut stores = Vec::with_capacity(plan.writes.len());
        for PlannedWrite { key, store, version, .. } in &plan.writes {
            let state = match store {
                StoreChange::None | StoreChange::Found(_) | StoreChange::Refusal { .. } => StoreState::Done,
                StoreChange::Later => StoreState::Pending,
                StoreChange::Done(..) => {
                    // The value is where it belongs; only the mark that somebody was at it comes
                    // off.
                    let settling = self.backend.ledger.acknowledge(scope, key);
                    if let Ok(Err(error)) = tokio::time::timeout_at(until, settling).await {
                        warn!(tenant.id = %scope.tenant(), config.key = %key, %error, "a mark is left for config-refresh to take off");
                    }
                    StoreState::Done
                }
                StoreChange::Intent(id) => {
                    let occasion = Occasion::Commit(id.clone(), *version);
                    let replicating = replicate(&self.backend, &self.clock, scope, key, occasion);
                    match tokio::time::timeout_at(until, replicating).await {
                        Ok(Ok(Replication::Refused(refusal))) => StoreState::Refused(refusal),
                        Ok(Ok(Replication::Done | Replication::NeverWritten)) => StoreState::Done,
                        Ok(Err(error)) => {
                            warn!(tenant.id = %scope.tenant(), config.key = %key, %error, "a store is left for config-refresh to bring after");
                            StoreState::Pending
                        }
                        Ok(Ok(Replication::Later)) | Err(_) => StoreState::Pending,
                    }
                }
            };
            stores.push(state);
        }
        stores
    }
}

/// What came of planning.
enum Planned {
    /// What is to be committed.
    Writes(Vec<PlannedWrite>),
    /// Somebody is at one of the keys, which may pass; said why, should it not.
    Wait(WriteError),
}

impl WriteError {
    /// The refusal, with the revision at which the ledger was looked at. Failures say nothing about
    /// a revision.
    fn at(self, head: Revision) -> Self {
        match self {
            Self::NotFound(_)
            | Self::NoSuchVersion(..)
            | Self::VersionIsTombstone(..)
            | Self::VersionGone(_)
            | Self::InTheWay { .. }
            | Self::Refused(_) => Self::At { head, error: Box::new(self) },
            other => other,
        }
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
    id: IntentId,
    described: Version,
    placed: Placed,
    locator: Locator,
    /// The store's version that the ledger had noted before the put.
    seen: Option<u64>,
}

impl Around {
    /// Whether the value was put after the committed one, and after what has been seen in the store
    /// since. Within one life of a parameter its versions tell; between two lives, the time.
    fn is_newest(&self, committed: Option<&Entry>, follow: &ReplicaState) -> bool {
        let committed = match committed.map(|entry| &entry.state) {
            Some(State::Live(Held::Elsewhere(locator, _))) => Some(*locator),
            _ => None,
        };
        let order = |place: Locator| (place.modified_at, place.version);
        committed.into_iter().chain(follow.imported_through).all(|other| order(self.locator) > order(other))
    }

    fn write(&self) -> (State, StoreChange) {
        (
            State::Live(Held::Elsewhere(self.locator, self.placed.kind.clone())),
            StoreChange::Done(PutBefore {
                id: self.id.clone(),
                described: self.described,
                placed: self.placed.version,
                seen: self.seen,
            }),
        )
    }
}

fn state_of(value: Option<ConfigValue>) -> State {
    value.map_or(State::Deleted, |value| State::Live(Held::Value(value)))
}

fn replay((request_hash, receipt): (String, Receipt), claim: Option<&IdempotencyClaim>) -> Result<Written, WriteError> {
    if claim.is_some_and(|claim| claim.request_hash == request_hash) {
        let stores = vec![StoreState::Done; receipt.writes.len()];
        Ok(Written { receipt, stores, replayed: true })
    } else {
        Err(WriteError::IdempotencyMismatch)
    }
}
