//! Working off what commits still owe: events that were not published, stores that were not brought after.

use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};
use serde::Serialize;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Foundation,
    follow::{FollowError, Followed, follow},
};
use crate::{
    auth::{SystemAuthority, TenantScope},
    clock::Clock,
    entry::Revision,
    key::{ConfigKey, InvalidKey},
    ledger::{Ledger, LedgerError, OwedItem},
    settings::Settings,
    tenant::TenantId,
};

/// How many pieces of work a run takes from a shard.
const MAX_OWED: usize = 1000;
/// How long one run may take: well under the function's timeout and the schedule's period.
const RUN_BUDGET: Duration = Duration::from_secs(40);
/// How long one piece of work may take.
const ITEM_BUDGET: Duration = Duration::from_secs(10);
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
    #[error("it took too long")]
    TooLong,
}

impl RefreshService {
    /// A worker.
    pub fn new(foundation: Foundation, settings: &Settings) -> Self {
        Self { foundation, clock: settings.clock.clone(), authority: SystemAuthority::for_owed_work() }
    }

    /// Works off everything that is due, until nothing is or the time is up. What fails is put off and holds up nothing else.
    pub async fn sweep(&self) -> Result<SweepReport, LedgerError> {
        let give_up_at = Instant::now() + RUN_BUDGET;
        // Boxed, because the compiler gives up on types nested as deeply as futures around the SDK's.
        let shards = join_all(Ledger::work_shards().map(|shard| self.sweep_shard(shard, give_up_at).boxed())).await;
        shards.into_iter().try_fold(SweepReport::default(), |all, shard| Ok(all + shard?))
    }

    async fn sweep_shard(&self, shard: u32, give_up_at: Instant) -> Result<SweepReport, LedgerError> {
        let mut owed = self.foundation.ledger.owed(&self.authority, shard, MAX_OWED).await?;
        // Events first: a slow store must not keep readers from hearing of changes.
        owed.sort_by_key(|owed| matches!(owed, OwedItem::Follow(..)));
        Ok(self.work_off(&owed, give_up_at).await)
    }

    /// Looks at keys that a `Config Changed` event named, and brings their stores after if they are owed it. Nothing in the event is
    /// believed: the ledger says whether there is anything to do.
    pub async fn look_at(&self, tenant: &TenantId, keys: &[String]) -> SweepReport {
        let external = |key: &&String| {
            let key = ConfigKey::parse(key, &self.foundation.routes);
            key.is_ok_and(|key| self.foundation.stores.of(&key).external().is_some())
        };
        let named = keys.iter().filter(external).map(|key| OwedItem::Follow(tenant.clone(), key.clone()));
        let named: Vec<_> = named.collect();
        self.work_off(&named, Instant::now() + RUN_BUDGET).boxed().await
    }

    async fn work_off(&self, owed: &[OwedItem], give_up_at: Instant) -> SweepReport {
        let mut report = SweepReport::default();
        for owed in owed {
            if Instant::now() >= give_up_at {
                break;
            }
            self.work(owed, &mut report).await;
        }
        report
    }

    async fn work(&self, owed: &OwedItem, report: &mut SweepReport) {
        let (OwedItem::Publish(tenant, _) | OwedItem::Follow(tenant, _)) = owed;
        let scope = self.authority.act_for(tenant.clone());
        let working = async {
            match owed {
                OwedItem::Publish(_, revision) => {
                    self.publish(&scope, *revision).await.map(|done| report.published += done)
                }
                OwedItem::Follow(_, key) => self.follow(&scope, key).await.map(|()| report.followed += 1),
            }
        };
        let done = tokio::time::timeout(ITEM_BUDGET, working).await.unwrap_or(Err(WorkError::TooLong));
        if let Err(error) = done {
            report.failed += 1;
            warn!(tenant.id = %tenant, ?owed, %error, "owed work failed and is put off");
            if let Err(error) = self.foundation.ledger.defer(&scope, owed, self.clock.now().plus(BACKOFF)).await {
                warn!(tenant.id = %tenant, ?owed, %error, "owed work could not be put off");
            }
        }
    }

    /// How many changes were published: none where the log does not have the change any more.
    async fn publish(&self, scope: &TenantScope, revision: Revision) -> Result<usize, WorkError> {
        let Some(change) = self.foundation.ledger.change(scope, revision).await? else { return Ok(0) };
        self.foundation.publisher.publish(scope, &change).await.map_err(LedgerError::from)?;
        self.foundation.ledger.mark_published(scope, revision).await?;
        Ok(1)
    }

    async fn follow(&self, scope: &TenantScope, key: &str) -> Result<(), WorkError> {
        let key = ConfigKey::parse(key, &self.foundation.routes)?;
        if self.foundation.stores.of(&key).external().is_none() {
            return Ok(self.foundation.ledger.forget_store(scope, &key).await?);
        }
        if follow(&self.foundation, &self.clock, scope, &key, None).await? == Followed::Later {
            info!(tenant.id = %scope.tenant(), config.key = %key, "somebody else is bringing the store after");
        }
        Ok(())
    }
}

impl std::ops::Add for SweepReport {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            published: self.published + other.published,
            followed: self.followed + other.followed,
            failed: self.failed + other.failed,
        }
    }
}
