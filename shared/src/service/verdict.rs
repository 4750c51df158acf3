//! What a store makes of a committed version becomes part of the tenant's history: that it refuses it for good, and that it has taken it
//! after all. Each is a commit, so that readers, watchers and the change feed see it; once for each version and reason.

use std::time::Duration;

use tracing::{info, warn};

use super::Foundation;
use crate::{
    auth::TenantScope,
    clock::Clock,
    entry::{CommitId, Version},
    key::ConfigKey,
    ledger::{CommitOutcome, LedgerError, Plan, PlannedWrite, StoreWork},
    refusal::{Refusal, RefusalReason},
    telemetry,
};

/// How often a verdict is tried to be committed while others commit, and the longest wait between two tries: 0.02 s at first, doubling.
const MAX_TRIES: usize = 6;
const MIN_WAIT: Duration = Duration::from_millis(20);

/// Notes that the store refuses `version` of `key` for a reason, or, without one, that it does not any more. The refusal that the ledger
/// knows then; none if that version is not the current one any more, if somebody else has brought it there meanwhile, or if others commit
/// all the time.
///
/// Who dies before leaves nothing behind: the version is still owed to its store, and whoever puts it next finds the same.
pub(super) async fn note(
    foundation: &Foundation,
    clock: &Clock,
    scope: &TenantScope,
    key: &ConfigKey,
    version: Version,
    reason: Option<RefusalReason>,
) -> Result<Option<Refusal>, LedgerError> {
    let ledger = &foundation.ledger;
    let mut wait = MIN_WAIT;
    for _ in 0..MAX_TRIES {
        let mut basis = ledger.basis(scope, std::slice::from_ref(key), None).await?;
        let Some(current) = basis.currents.remove(key) else { return Ok(None) };
        let Some(entry) = current.entry.filter(|entry| entry.version == version) else { return Ok(None) };
        if entry.refusal.map(|refusal| refusal.reason) == reason {
            if let Some(refusal) = &entry.refusal {
                ledger.put_off_refused(scope, key, version, refusal.since).await?;
            }
            return Ok(entry.refusal);
        }
        if reason.is_some() && current.follow.followed == Some(version) {
            return Ok(None);
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
            store: StoreWork::Verdict(refusal),
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
                    info!(tenant.id = %scope.tenant(), config.key = %key, %version, "the store has taken a value that it had refused");
                }
            }
            if let Err(error) = foundation.publish(scope, &change).await {
                warn!(tenant.id = %scope.tenant(), revision = %change.revision, %error, "a change is left for the sweep to publish");
            }
            return Ok(refusal);
        }
        tokio::time::sleep(wait.mul_f64(fastrand::f64())).await;
        wait *= 2;
    }
    Ok(None)
}
