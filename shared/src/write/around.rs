//! The write-around path: the value is put to its store, then only its locator is committed.

use std::time::Duration;

use super::{Attempt, WriteError, WriteService};
use crate::{
    auth::TenantScope,
    ledger::{Current, PutBefore, ReplicaState, StoreChange},
    model::{
        entry::{Entry, Held, IntentId, Locator, State, Version},
        key::ConfigKey,
        value::ConfigValue,
    },
    store::{ExternalStore, Placed, StoreError},
};

/// How often a write-around request puts again because another write came in between.
const MAX_PUTS_AROUND: usize = 6;
/// How many calls to a key's store may be open before no further value is put before its commit.
/// Each may have put a version that is never committed, and Parameter Store drops the oldest of
/// more than 100. config-refresh puts the committed value on top again.
const MAX_OPEN_CALLS: usize = 10;
/// How long a writer waits for another writer's open call, before the key counts as free: longer
/// than a put and its commit usually take.
const AT_WORK: Duration = Duration::from_secs(3);

/// What came of a put before its commit.
pub(super) enum PutAround {
    /// The value lies in its store, and this is what to commit.
    Placed(State, StoreChange),
    /// Another process is at the key, which may pass. If it does not, this is the error.
    Wait(WriteError),
}

impl WriteService {
    /// Puts a value to its store before the commit; again if a later put has been committed since.
    ///
    /// Writers of one key take turns if they see each other, because Parameter Store may drop what
    /// a later put replaces before it is read. Correctness does not depend on turns: the commit's
    /// conditions reveal a writer that was not seen.
    pub(super) async fn put_around(
        &self,
        scope: &TenantScope,
        external: &dyn ExternalStore,
        key: &ConfigKey,
        value: &ConfigValue,
        current: Option<&Current>,
        attempt: &mut Attempt,
    ) -> Result<PutAround, WriteError> {
        let ledger = &self.backend.ledger;
        let replica = current.map(|current| current.replica.clone()).unwrap_or_default();
        let entry = current.and_then(|current| current.entry.as_ref());
        if let Some(around) = &attempt.around
            && replica.intents.contains(&around.id)
            && around.is_newest(entry, &replica)
        {
            return Ok(around.placed());
        }
        let now = self.clock.now();
        if replica.is_being_removed(now) {
            return Ok(PutAround::Wait(WriteError::Removing(key.clone())));
        }
        // An earlier put of this request is over; what has been committed since lies on top of it.
        let overtaken: Vec<_> = attempt.around.iter().map(|around| around.id.clone()).collect();
        let is_at_work = |id: &IntentId| !overtaken.contains(id) && now.since(id.given_out_at()) < AT_WORK;
        let is_crowded = attempt.puts == MAX_PUTS_AROUND || replica.intents.len() >= MAX_OPEN_CALLS;
        if is_crowded || replica.intents.iter().any(is_at_work) {
            return Ok(PutAround::Wait(WriteError::Contention));
        }
        let id = IntentId::new(now);
        if !ledger.record_intent(scope, key, &id, &replica.intents, &overtaken).await? {
            return Ok(PutAround::Wait(WriteError::Contention));
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
            attempt.around.insert(Around { id, described: version, placed, locator, seen: replica.store_version });
        Ok(around.placed())
    }
}

/// A put that was made before its commit.
pub(super) struct Around {
    id: IntentId,
    described: Version,
    placed: Placed,
    locator: Locator,
    /// The store's version that the ledger had noted before the put.
    seen: Option<u64>,
}

impl Around {
    /// Whether the value was put after the committed one, and after all that has been imported
    /// since. Within one life of a parameter its versions tell; between two lives, the time.
    fn is_newest(&self, committed: Option<&Entry>, replica: &ReplicaState) -> bool {
        let committed = committed.and_then(Entry::place).map(|(locator, _)| locator);
        let order = |place: Locator| (place.modified_at, place.version);
        committed.into_iter().chain(replica.imported_through).all(|other| order(self.locator) > order(other))
    }

    fn placed(&self) -> PutAround {
        let state = State::Live(Held::Elsewhere(self.locator, self.placed.kind.clone()));
        let put =
            PutBefore { id: self.id.clone(), described: self.described, placed: self.placed.version, seen: self.seen };
        PutAround::Placed(state, StoreChange::Done(put))
    }
}
