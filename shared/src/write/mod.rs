//! Writing: preconditions, one commit, then the flush of what it put into the outbox.

mod around;
mod flush;
mod turn;

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use self::{
    around::{Around, PutAround},
    turn::{Contention, Next},
};
use crate::{
    auth::TenantScope,
    aws::{AwsFailure, Service},
    backend::WriteBackend,
    clock::Clock,
    ledger::{Basis, CommitOutcome, Current, IdempotencyClaim, LedgerError, Plan, PlannedWrite, Receipt, StoreChange},
    model::{
        comment::Comment,
        entry::{CommitId, ETag, Entry, Held, IntentId, Precondition, Revision, State, Version},
        key::ConfigKey,
        refusal::{Refusal, RefusalReason},
        routing::Strategy,
        value::ConfigValue,
    },
    read::values::ValueGone,
    store::{StoreError, ValueRefused},
};

/// The most puts and deletes of one transaction. DynamoDB takes 100 actions; each write makes two,
/// besides head, change and result.
pub const MAX_OPERATIONS: usize = 25;
/// The most bytes of values of one transaction. DynamoDB takes 4 MB, and each value is written
/// twice: to its entry and its version.
const MAX_TRANSACTION_BYTES: usize = 1_500_000;
/// How long the flush may delay the answer.
const FLUSH_BUDGET: Duration = Duration::from_secs(10);
/// How long a request may take: less than the function's timeout, and than the 30 s that API
/// Gateway waits.
const REQUEST_BUDGET: Duration = Duration::from_secs(26);
/// How much of that is kept for the answer once the commit has taken place.
const ANSWER_RESERVE: Duration = Duration::from_secs(2);

/// One write of a request.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// The key.
    pub key: ConfigKey,
    /// What must hold for its current version.
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
    /// How far the writes have reached their stores, in the order of the request.
    pub stores: Vec<StoreState>,
    /// Whether an earlier request with the same idempotency key had done it.
    pub replayed: bool,
}

/// How far a committed write has reached its tag's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// The store has it.
    Done,
    /// It is in the outbox.
    Pending,
    /// The store refuses it.
    Refused(Refusal),
}

/// Why nothing was written, unless the variant says otherwise.
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
    /// The store would go on refusing the value.
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
    /// The version's value is in a store that its tag's route no longer leads to.
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
    /// Other writes always came first.
    #[error("too many others write at the same time; nothing was written")]
    Contention,
    /// Refused after the ledger was read.
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

    /// Carries out all of `requests`, or none. They name no key twice. The comment is the commit's.
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
        let ledger = &self.backend.ledger;
        let mut contention = Contention::new(ledger, scope, &self.clock);
        let mut known = None;
        loop {
            let mut basis = if let Some(basis) = known.take() {
                basis
            } else {
                let asked = Instant::now();
                let basis = ledger.basis(scope, &keys, hash, contention.is_queued()).await?;
                contention.note(basis.head.revision, basis.queue, asked.elapsed());
                basis
            };
            if let Some(earlier) = basis.earlier {
                return replay(earlier, idempotency);
            }
            let mut ahead = 0;
            let planned = match contention.next(basis.head.revision, basis.queue).await? {
                Next::Look(wait) => check_preconditions(requests, &basis).map(|()| Planned::NotYet(wait)),
                Next::Commit(wait, on_top_of) => {
                    ahead = on_top_of;
                    contention.wait(wait).await;
                    self.plan(scope, requests, &basis, &mut attempt).await
                }
            };
            let (wait, in_the_way) = match planned {
                Ok(Planned::Writes(writes)) => {
                    let plan = Plan {
                        head: basis.head.after(ahead),
                        commit: attempt.commit.clone(),
                        at: self.clock.now(),
                        writes,
                        comment: comment.clone(),
                        idempotency: idempotency.cloned(),
                        queue: contention.served(),
                    };
                    let asked = Instant::now();
                    let wait = match ledger.commit(scope, &plan).await? {
                        CommitOutcome::Committed(receipt, change) => {
                            let flush_until = (Instant::now() + FLUSH_BUDGET).min(answer_by - ANSWER_RESERVE);
                            let stores = Box::pin(self.flush(scope, &plan, &change, flush_until)).await;
                            return Ok(Written { receipt, stores, replayed: false });
                        }
                        CommitOutcome::HeadMoved(head, queue) => {
                            contention.note(head.revision, queue, asked.elapsed());
                            let wait = contention.after_conflict(head.revision, queue, ahead).await?;
                            // What was planned is still good; only the head is another. It is stale
                            // after a wait, and a put before the commit has changed the entry.
                            (basis.head, basis.queue) = (head, queue);
                            let is_good = (wait.is_zero() || ahead > 0) && attempt.around.is_none();
                            known = is_good.then_some(basis);
                            wait
                        }
                        CommitOutcome::Conflict => {
                            contention.stop_guessing();
                            contention.after_conflict(basis.head.revision, basis.queue, ahead).await?
                        }
                    };
                    (wait, WriteError::Contention)
                }
                Ok(Planned::NotYet(wait)) => (wait, WriteError::Contention),
                Ok(Planned::Wait(in_the_way)) => (contention.pause(), in_the_way),
                Err(error) => {
                    // A repetition of this request may have committed between the reads of its
                    // result and of the entries. Then that success made this attempt fail.
                    if let Some(hash) = hash
                        && let Some(earlier) = ledger.earlier(scope, hash).await?
                    {
                        return replay(earlier, idempotency);
                    }
                    return Err(error.at(basis.head.revision));
                }
            };
            if !contention.wait(wait).await {
                return Err(in_the_way);
            }
        }
    }

    /// Refuses what can be refused before anything is read.
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
        check_preconditions(requests, basis)?;
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
                self.check_nothing_is_in_the_way(scope, key, current).await?;
            }
            let format = value.as_ref().map(|value| self.backend.stores.of(key).format_of(value));
            let lies_there_alone = entry.and_then(Entry::place).is_some();
            let (state, store) = match (value, self.backend.stores.of(key).external()) {
                (value, None) => (state_of(value), StoreChange::None),
                (value, Some((_, Strategy::WriteBack))) => (state_of(value), StoreChange::Later),
                (value @ Some(_), Some((_, Strategy::WriteThrough))) | (value @ None, Some(_)) => {
                    (state_of(value), StoreChange::Intent(IntentId::new(self.clock.now())))
                }
                (Some(value), Some((external, Strategy::WriteAround))) => {
                    match self.put_around(scope, external, key, &value, current, attempt).await? {
                        PutAround::Placed(state, store) => (state, store),
                        PutAround::Wait(in_the_way) => return Ok(Planned::Wait(in_the_way)),
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

    /// Refuses a write that the store would refuse after its commit, if the ledger knows of an
    /// obstacle there. The store is asked whether the obstacle is still there. If it does not
    /// answer, the commit takes place.
    async fn check_nothing_is_in_the_way(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        current: &Current,
    ) -> Result<(), WriteError> {
        let refusal = current.entry.as_ref().and_then(|entry| entry.refusal);
        if !current.has_other_type && !refusal.is_some_and(|refusal| refusal.reason.can_be_seen()) {
            return Ok(());
        }
        // A write-around put is made before the commit anyway.
        let Some((external, Strategy::WriteThrough | Strategy::WriteBack)) = self.backend.stores.of(key).external()
        else {
            return Ok(());
        };
        match external.in_the_way(scope, key).await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(WriteError::InTheWay { key: key.clone(), reason }),
            Err(error) => {
                warn!(tenant.id = %scope.tenant(), config.key = %key, %error, "whether the store would take a write cannot be seen now");
                Ok(())
            }
        }
    }

    /// The value of an earlier version. It never changes, so one read serves all attempts.
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
        // The tag may have had another store when the version was written.
        store.check(key, &value)?;
        attempt.rolled_back = Some(value.clone());
        Ok(value)
    }
}

/// What came of planning.
enum Planned {
    /// What is to be committed.
    Writes(Vec<PlannedWrite>),
    /// Others are first, for about so long.
    NotYet(Duration),
    /// Another process is at one of the keys, which may pass. If it does not, this is the error.
    Wait(WriteError),
}

impl WriteError {
    /// The refusal, with the revision at which the ledger was read. Failures say nothing about a
    /// revision.
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

/// What lasts over all attempts of one request.
struct Attempt {
    commit: CommitId,
    rolled_back: Option<ConfigValue>,
    around: Option<Around>,
    puts: usize,
}

/// Refuses a request whose preconditions do not hold, and a deletion of nothing.
fn check_preconditions(requests: &[WriteRequest], basis: &Basis) -> Result<(), WriteError> {
    for request in requests {
        let current =
            basis.currents.get(&request.key).and_then(|current| current.entry.as_ref()).filter(|entry| entry.is_live());
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
    Ok(())
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
