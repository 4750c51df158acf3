//! Brings a tag's store after the ledger. No locks: whoever follows puts what is committed, then looks again, until what it put
//! last is what is committed. Every call is announced in the ledger before it is made, so one that arrives late, after its process
//! died, is known to be possible and put right.

use std::time::Duration;

use tracing::{debug, warn};

use super::Foundation;
use crate::{
    auth::TenantScope,
    clock::Clock,
    entry::{Entry, Held, PutId, State, Version},
    key::ConfigKey,
    ledger::{Current, GRACE, LedgerError},
    store::{ExternalStore, StoreError},
};

/// How often the ledger may move on under a follower before it leaves the rest to the next one.
const MAX_ROUNDS: usize = 6;
/// How long a removal has the field to itself: longer than the one call it makes may take.
const REMOVAL: Duration = Duration::from_secs(30);
/// How often a follower looks whether somebody's removal has ended, and the longest wait between two looks.
const MAX_LOOKS: usize = 16;
const MAX_LOOK_WAIT: Duration = Duration::from_millis(120);

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

/// Makes the store of `key` hold what is committed. `announced` is the id that the commit of a version gave out for the first call.
pub(crate) async fn follow(
    foundation: &Foundation,
    clock: &Clock,
    scope: &TenantScope,
    key: &ConfigKey,
    announced: Option<(PutId, Version)>,
) -> Result<Followed, FollowError> {
    let Some((external, _)) = foundation.stores.of(key).external() else { return Ok(Followed::Done) };
    let unused = announced.map(|(id, version)| (id, Some(version)));
    let mut follower =
        Follower { foundation, clock, external, scope, key, unused, own: Vec::new(), last_done: None, makes_up: false };
    let (mut rounds, mut looks) = (0, 0);
    while rounds < MAX_ROUNDS && looks < MAX_LOOKS {
        let Some(current) = foundation.ledger.current(scope, key).await? else { return Ok(Followed::Done) };
        if current.follow.removing_until.is_some_and(|until| until > clock.now()) {
            looks += 1;
            tokio::time::sleep(MAX_LOOK_WAIT.mul_f64(fastrand::f64())).await;
            continue;
        }
        rounds += 1;
        match follower.step(&current).await? {
            Step::Again => debug!(config.key = %key, rounds, "the key moved on while its store was brought after"),
            Step::Done => return Ok(Followed::Done),
            Step::Leave => break,
        }
    }
    follower.leave().await?;
    Ok(Followed::Later)
}

/// One who brings the store of one key after.
struct Follower<'a> {
    foundation: &'a Foundation,
    clock: &'a Clock,
    external: &'a dyn ExternalStore,
    scope: &'a TenantScope,
    key: &'a ConfigKey,
    /// An announced id that no call has been made under yet, with the version that it was given out for.
    unused: Option<(PutId, Option<Version>)>,
    /// The announced ids of calls that have been made.
    own: Vec<PutId>,
    /// The version that the last call was made for.
    last_done: Option<Version>,
    /// Whether the ids here also stand for abandoned or overtaken calls that the next call makes up for.
    makes_up: bool,
}

/// What one look at the ledger, and the call that followed from it, came to.
enum Step {
    Done,
    Again,
    Leave,
}

/// A call to the store that has been announced.
struct Call {
    id: PutId,
    given_out_for: Option<Version>,
    /// The announced calls that are over once this one is: itself, and those that it makes up for.
    ended: Vec<PutId>,
}

impl Follower<'_> {
    async fn step(&mut self, current: &Current) -> Result<Step, FollowError> {
        let unused = self.unused.as_ref().map(|(id, _)| id);
        let others = current.follow.announced.iter().filter(|id| !self.own.contains(id) && unused != Some(id)).cloned();
        let (abandoned, open): (Vec<_>, Vec<_>) =
            others.partition(|id| self.clock.now().since(id.given_out_at()) > GRACE);
        if unused.is_none() && self.own.is_empty() && !open.is_empty() {
            // Who announced a call looks again after it. Should they die, their call counts as abandoned soon.
            return Ok(Step::Leave);
        }
        let version = current.entry.as_ref().map(|entry| entry.version);
        let behind = version.is_some() && current.follow.followed != version;
        let undone = self.last_done.is_some() && self.last_done != version;
        if !behind && !undone && abandoned.is_empty() {
            let ended: Vec<_> = self.own.iter().chain(unused).cloned().collect();
            if current.follow.owed || !ended.is_empty() {
                self.foundation.ledger.end_calls(self.scope, self.key, &ended).await?;
            }
            return Ok(Step::Done);
        }
        match &current.entry {
            Some(entry) => match &entry.state {
                State::Live(held) => self.put(current, entry, held, &abandoned).await,
                // While a call of somebody else is open nothing is removed: it may be a put that is yet to be committed.
                State::Deleted if !open.is_empty() => Ok(Step::Leave),
                State::Deleted => self.remove(current, entry.version, &abandoned).await,
            },
            None if !open.is_empty() => Ok(Step::Leave),
            None => self.remove_unborn(&abandoned).await,
        }
    }

    /// Puts the committed value.
    async fn put(
        &mut self,
        current: &Current,
        entry: &Entry,
        held: &Held,
        abandoned: &[PutId],
    ) -> Result<Step, FollowError> {
        let (scope, key, ledger, version) = (self.scope, self.key, &self.foundation.ledger, entry.version);
        let value = match held {
            Held::Value(value) => value.clone(),
            Held::Elsewhere(locator, kind) => {
                let mut found = self.external.get(scope, &[(key, *locator, *kind)]).await?;
                found.pop().flatten().ok_or(StoreError::Gone)?
            }
        };
        let Some(call) = self.announce(current, abandoned).await? else { return Ok(Step::Again) };
        if call.given_out_for != Some(version) {
            ledger.give_out(scope, key, version, &call.id).await?;
        }
        let placed = match self.external.put(scope, key, &value, &call.id, version).await {
            Ok(placed) => placed,
            Err(error) => {
                if error.did_nothing() && !self.makes_up {
                    ledger.end_calls(scope, key, std::slice::from_ref(&call.id)).await?;
                    ledger.take_back(scope, key, version, &call.id).await?;
                }
                return Err(error.into());
            }
        };
        let seen = current.follow.store_version;
        let marked = ledger.mark_followed(scope, key, version, placed.version, seen, &call.ended).await?;
        Ok(self.after(call, version, marked))
    }

    /// Removes the value of a deleted key.
    async fn remove(&mut self, current: &Current, version: Version, abandoned: &[PutId]) -> Result<Step, FollowError> {
        let (scope, key, ledger) = (self.scope, self.key, &self.foundation.ledger);
        let Some(call) = self.announce(current, abandoned).await? else { return Ok(Step::Again) };
        let until = self.clock.now().plus(REMOVAL);
        if !ledger.begin_removal(scope, key, Some(version), &call.ended, until).await? {
            self.unused = Some((call.id, call.given_out_for));
            return Ok(Step::Again);
        }
        if let Err(error) = self.external.remove(scope, key).await {
            if error.did_nothing() {
                ledger.end_removal(scope, key, until).await?;
            }
            return Err(error.into());
        }
        let marked = ledger.mark_removed(scope, key, version, &call.ended).await?;
        if !marked {
            ledger.end_removal(scope, key, until).await?;
        }
        Ok(self.after(call, version, marked))
    }

    /// Removes what the first write of a key has put before its commit, which never came to be.
    async fn remove_unborn(&self, abandoned: &[PutId]) -> Result<Step, FollowError> {
        let (scope, key, ledger) = (self.scope, self.key, &self.foundation.ledger);
        let until = self.clock.now().plus(REMOVAL);
        if !ledger.begin_removal(scope, key, None, abandoned, until).await? {
            return Ok(Step::Again);
        }
        if !self.external.remove_if_put_as(scope, key, abandoned).await? {
            warn!(tenant.id = %scope.tenant(), config.key = %key, "what lies in the store under the key's name is not all ours; it is left alone");
        }
        if ledger.mark_nothing_left(scope, key, abandoned).await? {
            return Ok(Step::Done);
        }
        ledger.end_removal(scope, key, until).await?;
        Ok(Step::Again)
    }

    /// Announces the next call: under the id that the commit gave out, or under a new one in the place of those that the call makes
    /// up for. None where others announced calls meanwhile.
    async fn announce(&mut self, current: &Current, abandoned: &[PutId]) -> Result<Option<Call>, FollowError> {
        let made_up_for = [self.own.as_slice(), abandoned].concat();
        if let Some((id, given_out_for)) = self.unused.take() {
            self.makes_up |= !made_up_for.is_empty();
            let ended = [made_up_for, vec![id.clone()]].concat();
            return Ok(Some(Call { id, given_out_for, ended }));
        }
        let id = PutId::new(self.clock.now());
        let seen = &current.follow.announced;
        if !self.foundation.ledger.announce(self.scope, self.key, &id, seen, &made_up_for).await? {
            return Ok(None);
        }
        self.makes_up |= !made_up_for.is_empty();
        self.own.clear();
        Ok(Some(Call { ended: vec![id.clone()], id, given_out_for: None }))
    }

    fn after(&mut self, call: Call, version: Version, marked: bool) -> Step {
        self.own.push(call.id);
        self.last_done = Some(version);
        if marked { Step::Done } else { Step::Again }
    }

    /// Leaves the rest to others. An id that nothing was called under, and that stands for nothing else, must keep nobody waiting.
    async fn leave(self) -> Result<(), FollowError> {
        if let Some((id, _)) = self.unused.filter(|_| !self.makes_up) {
            self.foundation.ledger.end_calls(self.scope, self.key, &[id]).await?;
        }
        Ok(())
    }
}
