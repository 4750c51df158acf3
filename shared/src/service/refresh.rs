//! Working off what commits still owe: events that were not published, stores that were not brought after.

use std::time::Duration;

use serde::Serialize;
use tracing::{info, warn};

use super::{
    Foundation,
    follow::{FollowError, Followed, follow},
};
use crate::{
    auth::SystemAuthority,
    clock::Clock,
    key::{ConfigKey, InvalidKey},
    ledger::{Ledger, LedgerError, OwedItem},
    settings::Settings,
    tenant::TenantId,
};

/// How many pieces of work are looked up at once.
const PAGE: i32 = 25;
/// How long one run may take: well under the function's timeout and the schedule's period.
const RUN_BUDGET: Duration = Duration::from_secs(40);
/// How long a piece of work that failed waits before it is tried again.
const BACKOFF: Duration = Duration::from_mins(2);

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// Changes published.
    pub published: usize,
    /// Stores brought after.
    pub followed: usize,
    /// Pieces of work that failed and were put off.
    pub failed: usize,
}

/// Works off what is owed.
#[derive(Debug)]
pub struct RefreshService {
    foundation: Foundation,
    clock: Clock,
    authority: SystemAuthority,
}

#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error(transparent)]
    Key(#[from] InvalidKey),
}

impl RefreshService {
    /// A worker.
    pub fn new(foundation: Foundation, settings: &Settings) -> Self {
        Self { foundation, clock: settings.clock.clone(), authority: SystemAuthority::for_owed_work() }
    }

    /// Works off everything that is due, until nothing is or the time is up. What fails is put off and holds up nothing else.
    pub async fn sweep(&self) -> Result<SweepReport, LedgerError> {
        let give_up_at = tokio::time::Instant::now() + RUN_BUDGET;
        let mut report = SweepReport::default();
        for shard in Ledger::work_shards() {
            let mut seen = std::collections::HashSet::new();
            loop {
                let due = self.foundation.ledger.owed(&self.authority, shard, PAGE).await?;
                // The index lags: what was done a moment ago may still be listed. Seen once a run is enough.
                let new: Vec<_> = due.into_iter().filter(|owed| seen.insert(owed.clone())).collect();
                if new.is_empty() {
                    break;
                }
                for owed in new {
                    if tokio::time::Instant::now() >= give_up_at {
                        return Ok(report);
                    }
                    self.work(&owed, &mut report).await;
                }
            }
        }
        Ok(report)
    }

    /// Looks at keys that a `Config Changed` event named, and brings their stores after if they are owed it. Nothing in the event is
    /// believed: the ledger says whether there is anything to do.
    pub async fn look_at(&self, tenant: &TenantId, keys: &[String]) -> SweepReport {
        let mut report = SweepReport::default();
        for key in keys {
            self.work(&OwedItem::Follow(tenant.clone(), key.clone()), &mut report).await;
        }
        report
    }

    async fn work(&self, owed: &OwedItem, report: &mut SweepReport) {
        let (OwedItem::Publish(tenant, _) | OwedItem::Follow(tenant, _)) = owed;
        let scope = self.authority.act_for(tenant.clone());
        let done = match owed {
            OwedItem::Publish(_, revision) => match self.foundation.ledger.change(&scope, *revision).await {
                Ok(Some(change)) => self.publish(&scope, &change).await.map(|()| report.published += 1),
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            },
            OwedItem::Follow(_, key) => self.follow(&scope, key).await.map(|()| report.followed += 1),
        };
        if let Err(error) = done {
            report.failed += 1;
            warn!(tenant.id = %tenant, ?owed, %error, "owed work failed and is put off");
            if let Err(error) = self.foundation.ledger.defer(&scope, owed, self.clock.now().plus(BACKOFF)).await {
                warn!(tenant.id = %tenant, ?owed, %error, "owed work could not be put off");
            }
        }
    }

    async fn publish(&self, scope: &crate::auth::TenantScope, change: &crate::ledger::Change) -> Result<(), WorkError> {
        self.foundation.publisher.publish(scope, change).await.map_err(LedgerError::from)?;
        Ok(self.foundation.ledger.mark_published(scope, change.revision).await?)
    }

    async fn follow(&self, scope: &crate::auth::TenantScope, key: &str) -> Result<(), WorkError> {
        let key = ConfigKey::parse(key, &self.foundation.routes)?;
        if follow(&self.foundation, &self.clock, scope, &key, None).await? == Followed::Later {
            info!(tenant.id = %scope.tenant(), config.key = %key, "somebody else is bringing the store after");
        }
        Ok(())
    }
}
