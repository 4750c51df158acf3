//! Flushing the outbox after a commit: publishing its change, and replicating its values.

use tokio::time::Instant;
use tracing::warn;

use super::{StoreState, WriteService};
use crate::{
    auth::TenantScope,
    ledger::{Change, Plan, PlannedWrite, StoreChange},
    outbox::replicate::{Occasion, Replication, replicate},
};

impl WriteService {
    /// Publishes the change and replicates the values. What fails stays in the outbox for
    /// config-refresh; the commit stands.
    pub(super) async fn flush(
        &self,
        scope: &TenantScope,
        plan: &Plan,
        change: &Change,
        until: Instant,
    ) -> Vec<StoreState> {
        let publish = async {
            let left = match tokio::time::timeout_at(until, self.backend.publish(scope, change)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(late) => late.to_string(),
            };
            warn!(tenant.id = %scope.tenant(), revision = %change.revision, error = left, "a change is left for config-refresh to publish");
        };
        let (stores, ()) = tokio::join!(self.replicate_all(scope, plan, until), publish);
        stores
    }

    async fn replicate_all(&self, scope: &TenantScope, plan: &Plan, until: Instant) -> Vec<StoreState> {
        let mut stores = Vec::with_capacity(plan.writes.len());
        for PlannedWrite { key, store, version, .. } in &plan.writes {
            let state = match store {
                StoreChange::None | StoreChange::Found(_) | StoreChange::Refusal { .. } => StoreState::Done,
                StoreChange::Later => StoreState::Pending,
                StoreChange::Done(..) => {
                    // The value is in its store already; only the key's outbox mark has to go.
                    let acknowledging = self.backend.ledger.acknowledge(scope, key);
                    if let Ok(Err(error)) = tokio::time::timeout_at(until, acknowledging).await {
                        warn!(tenant.id = %scope.tenant(), config.key = %key, %error, "an outbox mark is left for config-refresh to take off");
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
                            warn!(tenant.id = %scope.tenant(), config.key = %key, %error, "a value is left for config-refresh to replicate");
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
