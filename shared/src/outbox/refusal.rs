//! Refusal commits. That a store refuses a committed version for good, or has taken it after all,
//! becomes part of the tenant's history. Readers, watchers and the change feed see it, once for
//! each version and reason.

use std::time::Duration;

use tracing::{info, warn};

use crate::{
    auth::TenantScope,
    backend::WriteBackend,
    backoff::Backoff,
    clock::Clock,
    ledger::{CommitOutcome, LedgerError, Plan, PlannedWrite, StoreChange},
    model::{
        entry::{CommitId, IntentId, Version},
        key::ConfigKey,
        refusal::{Refusal, RefusalReason},
    },
    telemetry,
};

/// How often a refusal commit is tried while others commit, and the longest wait after the first
/// try. The wait doubles.
const MAX_TRIES: usize = 6;
const BACKOFF: Backoff = Backoff::up_to(Duration::from_millis(20)).doubling_to(Duration::MAX);

/// What the ledger says after [`record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The version is refused.
    Refused(Refusal),
    /// The version is not refused.
    Accepted,
    /// That version is not the current one any more, or another process has replicated it
    /// meanwhile.
    MovedOn,
    /// What it said before: other commits came first each time.
    Busy,
}

/// Commits that the store refuses `version` of `key` for a reason, or, without one, that it does
/// not any more.
///
/// A version that is known to be in the store is not refused, except with `made_up`: the intents of
/// a put that was to make up for abandoned calls. Those calls may have put something on top of the
/// version. While the intents are still the recorded ones, no other process has replicated it
/// since.
///
/// A process that dies before the commit loses nothing: the version is still in the outbox, and the
/// next put finds the same.
pub(crate) async fn record(
    backend: &WriteBackend,
    clock: &Clock,
    scope: &TenantScope,
    key: &ConfigKey,
    version: Version,
    reason: Option<RefusalReason>,
    made_up: &[IntentId],
) -> Result<Recorded, LedgerError> {
    let ledger = &backend.ledger;
    let mut backoff = BACKOFF;
    for _ in 0..MAX_TRIES {
        let mut basis = ledger.basis(scope, std::slice::from_ref(key), None, false).await?;
        let Some(current) = basis.currents.remove(key) else { return Ok(Recorded::MovedOn) };
        let Some(entry) = current.entry.filter(|entry| entry.version == version) else {
            return Ok(Recorded::MovedOn);
        };
        if entry.refusal.map(|refusal| refusal.reason) == reason {
            let Some(refusal) = entry.refusal else { return Ok(Recorded::Accepted) };
            ledger.defer_refused(scope, key, version, refusal.since).await?;
            return Ok(Recorded::Refused(refusal));
        }
        let is_there = current.replica.replicated == Some(version);
        if reason.is_some() && is_there && !is_same_set(&current.replica.intents, made_up) {
            return Ok(Recorded::MovedOn);
        }
        let at = clock.now();
        let refusal = reason.map(|reason| Refusal { reason, since: at });
        let write = PlannedWrite {
            key: key.clone(),
            previous: Some(version),
            version,
            creates: false,
            state: entry.state,
            format: None,
            store: StoreChange::Refusal { refusal, made_up: made_up.to_vec() },
            removes_older_values: false,
        };
        let (head, commit) = (basis.head, CommitId::random());
        let plan = Plan { head, commit, at, writes: vec![write], comment: None, idempotency: None, queue: None };
        if let CommitOutcome::Committed(_, change) = ledger.commit(scope, &plan).await? {
            match refusal {
                Some(Refusal { reason, .. }) => {
                    telemetry::note_refusal();
                    let (reason, advice) = (reason.name(), reason.advice());
                    warn!(tenant.id = %scope.tenant(), config.key = %key, %version, reason, "the store refuses a committed value: {advice}");
                }
                None => {
                    info!(tenant.id = %scope.tenant(), config.key = %key, %version, "the store has taken a value that it had refused");
                }
            }
            if let Err(error) = backend.publish(scope, &change).await {
                warn!(tenant.id = %scope.tenant(), revision = %change.revision, %error, "a change is left for the sweep to publish");
            }
            return Ok(refusal.map_or(Recorded::Accepted, Recorded::Refused));
        }
        backoff.wait().await;
    }
    Ok(Recorded::Busy)
}

/// Whether both are the same set, and not empty.
fn is_same_set(some: &[IntentId], others: &[IntentId]) -> bool {
    !some.is_empty() && some.len() == others.len() && some.iter().all(|id| others.contains(id))
}
