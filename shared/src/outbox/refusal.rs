//! What a store makes of a committed version becomes part of the tenant's history: that it refuses
//! it for good, and that it has taken it after all. Each is a commit, so that readers, watchers and
//! the change feed see it; once for each version and reason.

use std::time::Duration;

use tracing::{info, warn};

use crate::{
    auth::TenantScope,
    backend::WriteBackend,
    clock::Clock,
    ledger::{CommitOutcome, LedgerError, Plan, PlannedWrite, StoreChange},
    model::{
        entry::{CommitId, IntentId, Version},
        key::ConfigKey,
        refusal::{Refusal, RefusalReason},
    },
    telemetry,
};

/// How often a verdict is tried to be committed while others commit, and the longest wait between
/// two tries: 0.02 s at first, doubling.
const MAX_TRIES: usize = 6;
const MIN_WAIT: Duration = Duration::from_millis(20);

/// What the ledger says after [`note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// That the version is refused.
    Refused(Refusal),
    /// That it is not.
    Accepted,
    /// Something else: that version is not the current one any more, or somebody else has brought
    /// it there meanwhile.
    MovedOn,
    /// What it said before: others commit all the time.
    Busy,
}

/// Notes that the store refuses `version` of `key` for a reason, or, without one, that it does not
/// any more.
///
/// A version that is known to be in the store is not refused, unless `made_up` says so: the calls
/// that were announced when the refused put was to make up for abandoned ones, which may have put
/// something on top of it. While those are still the announced ones, nobody else has brought it
/// there since.
///
/// Who dies before leaves nothing behind: the version is still owed to its store, and whoever puts
/// it next finds the same.
pub(crate) async fn note(
    backend: &WriteBackend,
    clock: &Clock,
    scope: &TenantScope,
    key: &ConfigKey,
    version: Version,
    reason: Option<RefusalReason>,
    made_up: &[IntentId],
) -> Result<Noted, LedgerError> {
    let ledger = &backend.ledger;
    let mut wait = MIN_WAIT;
    for _ in 0..MAX_TRIES {
        let mut basis = ledger.basis(scope, std::slice::from_ref(key), None).await?;
        let Some(current) = basis.currents.remove(key) else { return Ok(Noted::MovedOn) };
        let Some(entry) = current.entry.filter(|entry| entry.version == version) else {
            return Ok(Noted::MovedOn);
        };
        if entry.refusal.map(|refusal| refusal.reason) == reason {
            let Some(refusal) = entry.refusal else { return Ok(Noted::Accepted) };
            ledger.put_off_refused(scope, key, version, refusal.since).await?;
            return Ok(Noted::Refused(refusal));
        }
        let is_there = current.replica.replicated == Some(version);
        if reason.is_some() && is_there && !is_same_set(&current.replica.intents, made_up) {
            return Ok(Noted::MovedOn);
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
        let plan = Plan { head, commit, at, writes: vec![write], comment: None, idempotency: None };
        if let CommitOutcome::Committed(_, change) = ledger.commit(scope, &plan).await? {
            match refusal {
                Some(Refusal { reason, .. }) => {
                    telemetry::note_refusal();
                    let (reason, advice) = (reason.name(), reason.advice());
                    warn!(tenant.id = %scope.tenant(), config.key = %key, %version, reason, "the store refuses a committed value: {advice}");
                }
                None => {
                    info!(tenant.id = %scope.tenant(), config.key = %key, %version, "a value is not refused by its store any more");
                }
            }
            if let Err(error) = backend.publish(scope, &change).await {
                warn!(tenant.id = %scope.tenant(), revision = %change.revision, %error, "a change is left for the sweep to publish");
            }
            return Ok(refusal.map_or(Noted::Accepted, Noted::Refused));
        }
        tokio::time::sleep(wait.mul_f64(fastrand::f64())).await;
        wait *= 2;
    }
    Ok(Noted::Busy)
}

/// Whether there are calls, and the same ones.
fn is_same_set(some: &[IntentId], others: &[IntentId]) -> bool {
    !some.is_empty() && some.len() == others.len() && some.iter().all(|id| others.contains(id))
}
