//! Brings a tag's store after the ledger. No locks: whoever follows puts what is committed, then looks again, until what it put
//! last is what is committed. Every call is announced in the ledger before it is made, so one that arrives late, after its process
//! died, is known to be possible and put right.

use std::time::Duration;

use tracing::debug;

use super::Foundation;
use crate::{
    auth::TenantScope,
    clock::Clock,
    entry::{Held, PutId, State, Version},
    key::ConfigKey,
    ledger::{Current, GRACE, LedgerError},
    store::{ExternalStore, StoreError},
};

/// How often the ledger may move on under a follower before it leaves the rest to the next one.
const MAX_ROUNDS: usize = 6;
/// How long a removal has the field to itself: longer than the one call it makes may take, and what AWS asks for between the
/// deletion of a parameter and its creation.
const REMOVAL: Duration = Duration::from_secs(30);

/// How following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    /// The store holds what is committed.
    Done,
    /// Somebody else is at it; config-refresh looks again later.
    Later,
}

/// Why a store could not be brought after.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the store of `key` hold what is committed. `announced` is the id that the commit gave out for the first call.
pub(crate) async fn follow(
    foundation: &Foundation,
    clock: &Clock,
    scope: &TenantScope,
    key: &ConfigKey,
    mut announced: Option<PutId>,
) -> Result<Followed, FollowError> {
    let Some((external, _)) = foundation.stores.of(key).external() else { return Ok(Followed::Done) };
    let ledger = &foundation.ledger;
    let mut own: Vec<PutId> = Vec::new();
    let mut last_done: Option<Version> = None;
    for round in 0..MAX_ROUNDS {
        let Some(current) = ledger.current(scope, key).await? else { return Ok(Followed::Done) };
        let (abandoned, open): (Vec<_>, Vec<_>) =
            current.follow.announced.iter().cloned().partition(|id| clock.now().since(id.given_out_at()) > GRACE);
        if announced.is_none() && own.is_empty() && !open.is_empty() {
            // Who announced a call looks again after it. Should they die, their call counts as abandoned soon.
            return Ok(Followed::Later);
        }
        let version = current.entry.as_ref().map(|entry| entry.version);
        let undone = last_done.is_some() && last_done != version;
        let behind = version.is_some() && current.follow.followed != version;
        if !behind && abandoned.is_empty() && !undone {
            if current.follow.owed {
                ledger.settle(scope, key).await?;
            }
            return Ok(Followed::Done);
        }
        let id = if let Some(id) = announced.take() {
            id
        } else {
            let id = PutId::new(clock.now());
            if !ledger.announce(scope, key, &id).await? {
                return Ok(Followed::Later);
            }
            if let Some(version) = version {
                ledger.give_out(scope, key, version, &id).await?;
            }
            id
        };
        own.push(id.clone());
        let ended = [own.as_slice(), abandoned.as_slice()].concat();
        if bring_after(foundation, external, scope, &current, key, &Call { id, ended }).await? {
            return Ok(Followed::Done);
        }
        debug!(config.key = %key, round, "the key moved on while its store was brought after");
        last_done = version;
    }
    Ok(Followed::Later)
}

/// A call to the store.
struct Call {
    /// The id that it is announced under.
    id: PutId,
    /// All announced calls that are over once it is: its own and the abandoned ones that it makes up for.
    ended: Vec<PutId>,
}

/// One call to the store, for what is committed now; whether the ledger took note of it.
async fn bring_after(
    foundation: &Foundation,
    external: &dyn ExternalStore,
    scope: &TenantScope,
    current: &Current,
    key: &ConfigKey,
    Call { id, ended }: &Call,
) -> Result<bool, FollowError> {
    let ledger = &foundation.ledger;
    let Some(entry) = &current.entry else {
        // The key's first write never came to be; nobody reads what it may have put.
        if !ledger.begin_removal(scope, key, None, ended, REMOVAL).await? {
            return Ok(false);
        }
        external.remove(scope, key).await?;
        return Ok(ledger.mark_nothing_left(scope, key, ended).await?);
    };
    let store_version = match &entry.state {
        State::Live(held) => {
            let value = match held {
                Held::Value(value) => value.clone(),
                Held::Elsewhere(locator, kind) => {
                    let mut found = external.get(scope, &[(key, *locator, *kind)]).await?;
                    found.pop().flatten().ok_or(StoreError::Gone)?
                }
            };
            Some(external.put(scope, key, &value, id, entry.version).await?.version)
        }
        State::Deleted => {
            if !ledger.begin_removal(scope, key, Some(entry.version), ended, REMOVAL).await? {
                return Ok(false);
            }
            external.remove(scope, key).await?;
            None
        }
    };
    Ok(ledger.mark_followed(scope, key, entry.version, store_version, ended).await?)
}
