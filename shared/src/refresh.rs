//! What config-refresh does: works off the outbox, and imports what events tell of.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, future::try_join_all, stream};
use serde::Serialize;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    auth::{SystemAuthority, TenantScope},
    aws::FailureKind,
    backend::WriteBackend,
    clock::Clock,
    import::{ImportError, Imported, import, import_all},
    ledger::{Ledger, LedgerError, OutboxItem, OutboxTask},
    model::{
        entry::Revision,
        key::{ConfigKey, InvalidKey},
        routing::Strategy,
        tenant::TenantId,
    },
    outbox::{
        AT_ONCE, ITEM_BUDGET,
        refusal::{self, Recorded},
        replicate::{Occasion, ReplicateError, Replication, replicate},
    },
    reconcile::Reconciler,
    store::{NotAKey, StoreError},
    telemetry::{self, SweepReport},
    write::MAX_OPERATIONS,
};

/// How many outbox items of each kind a run takes from a shard.
const MAX_ITEMS: usize = 1000;
/// How long a run may begin further items, and then compare. With the time that the last ones take
/// it stays under the function's timeout. However full the outbox is, there is time left to
/// compare.
const WORK_BUDGET: Duration = Duration::from_secs(15);
const RUN_BUDGET: Duration = Duration::from_secs(30);
/// How long an item that failed is put off; and one that was only throttled, which so comes up in
/// the next run.
const BACKOFF: Duration = Duration::from_mins(2);
const THROTTLED_BACKOFF: Duration = Duration::from_secs(10);

/// What came of importing a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Foreign versions and removals that were committed.
    pub committed: usize,
    /// Keys replicated because their stores did not show what is committed.
    pub replicated: usize,
}

/// Works off the outbox, and imports.
#[derive(Debug)]
pub struct RefreshService {
    backend: WriteBackend,
    clock: Clock,
    authority: SystemAuthority,
}

/// Why an event was not handled.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// It is no parameter of a key.
    #[error("the parameter is left alone: {0}")]
    NotOurs(#[from] NotAKey),
    /// More keys than a commit can write, or none.
    #[error("it names {0} keys; a commit writes 1 to {MAX_OPERATIONS}")]
    KeyCount(usize),
    /// What it names is no key.
    #[error("it names what is no key: {0}")]
    Key(#[from] InvalidKey),
    /// The ledger does not know it.
    #[error("the key {0} was never written")]
    NeverWritten(ConfigKey),
    /// A failure that may pass.
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Replicate(#[from] ReplicateError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Key(#[from] InvalidKey),
    #[error("it took too long")]
    TooLong,
    #[error("other commits come first all the time")]
    Busy,
}

impl TaskError {
    /// How long the item is put off.
    fn backoff(&self) -> Duration {
        let (Self::Replicate(ReplicateError::Store(error)) | Self::Import(ImportError::Store(error))) = self else {
            return BACKOFF;
        };
        match error {
            StoreError::Aws(failure) if failure.kind == FailureKind::Throttled => THROTTLED_BACKOFF,
            _ => BACKOFF,
        }
    }
}

impl RefreshService {
    /// A worker.
    pub fn new(backend: WriteBackend, clock: Clock) -> Self {
        Self { backend, clock, authority: SystemAuthority::for_outbox() }
    }

    /// Works off all items that are due, until none is left or the time is up. An item that fails
    /// is put off and holds up no other.
    pub async fn sweep(&self) -> Result<SweepReport, LedgerError> {
        let begun = Instant::now();
        let ledger = &self.backend.ledger;
        // Events first: a slow store must not delay them.
        let events = Ledger::shards().map(|shard| ledger.unpublished(&self.authority, shard, MAX_ITEMS));
        let events = try_join_all(events).await?.concat();
        let since = events.iter().map(|item| item.since).min();
        let published = self.run_all(events, &Occasion::Due, begun + WORK_BUDGET).await;
        let puts = Ledger::shards().map(|shard| ledger.unreplicated(&self.authority, shard, MAX_ITEMS));
        let mut puts = try_join_all(puts).await?.concat();
        // Not by its age in the outbox: an item that fails again and again must not always come
        // first.
        puts.sort_unstable_by_key(|item| item.due);
        let oldest = since.into_iter().chain(puts.iter().map(|item| item.since)).min();
        let mut report = published + self.run_all(puts, &Occasion::Due, begun + WORK_BUDGET).await;
        let age = oldest.map_or(Duration::ZERO, |since| self.clock.now().since(since));
        match Box::pin(self.reconciler(begun + RUN_BUDGET).run()).await {
            Ok(reconciled) => report = report + reconciled,
            // The next run continues from there.
            Err(error) => {
                warn!(%error, "the stores could not be compared with the ledgers");
                report.failed += 1;
            }
        }
        telemetry::note_sweep(report, age);
        Ok(report)
    }

    fn reconciler(&self, give_up_at: Instant) -> Reconciler<'_> {
        Reconciler { backend: &self.backend, clock: &self.clock, authority: &self.authority, give_up_at }
    }

    /// Replicates keys that a `Config Changed` event named, if they are in the outbox. The event is
    /// a hint only: the ledger says whether there is anything to do. If the ledger does not know
    /// the first key, it is not asked for the others. So a made-up event for a tenant that does not
    /// exist costs one read.
    pub async fn replicate_keys(&self, tenant: &TenantId, keys: &[String]) -> Result<SweepReport, RefreshError> {
        if !(1..=MAX_OPERATIONS).contains(&keys.len()) {
            return Err(RefreshError::KeyCount(keys.len()));
        }
        let mut named: Vec<ConfigKey> = Vec::with_capacity(keys.len());
        for key in keys {
            let key = ConfigKey::parse(key, &self.backend.routes)?;
            if !named.contains(&key) {
                named.push(key);
            }
        }
        telemetry::note_tenant(tenant);
        named.retain(|key| self.backend.stores.of(key).external().is_some());
        let since = self.clock.now();
        let item = |key: &ConfigKey| {
            let task = OutboxTask::Replicate(tenant.clone(), key.to_string());
            OutboxItem { task, since, due: since }
        };
        let Some((first, others)) = named.split_first() else { return Ok(SweepReport::default()) };
        let give_up_at = Instant::now() + WORK_BUDGET;
        let done = self.run_all(vec![item(first)], &Occasion::Notified, give_up_at).boxed().await;
        if done == SweepReport::default() {
            return Err(RefreshError::NeverWritten(first.clone()));
        }
        let others = others.iter().map(item).collect();
        Ok(done + self.run_all(others, &Occasion::Notified, give_up_at).boxed().await)
    }

    /// The key that a parameter holds.
    pub fn key_of(&self, name: &str) -> Result<(TenantId, ConfigKey), RefreshError> {
        Ok(self.backend.inventory.key_of(&self.backend.routes, name)?)
    }

    /// Imports keys of one tenant, none twice, whose parameters others may have changed. The result
    /// of each, in their order. What is found of several keys becomes one commit.
    pub async fn import(&self, tenant: &TenantId, keys: &[ConfigKey]) -> Vec<Result<ImportReport, RefreshError>> {
        telemetry::note_tenant(tenant);
        keys.iter().for_each(telemetry::note_key);
        let scope = self.authority.act_for(tenant.clone());
        let begun = Instant::now();
        let mut done = Vec::with_capacity(keys.len());
        for some in keys.chunks(MAX_OPERATIONS) {
            let importing = import_all(&self.backend, &self.clock, &scope, some);
            let Ok(imported) = tokio::time::timeout_at(begun + WORK_BUDGET, importing).await else {
                done.extend(some.iter().map(|_| Err(RefreshError::Failed(TaskError::TooLong.into()))));
                continue;
            };
            for (key, imported) in some.iter().zip(imported) {
                let put_back = self.put_back(&scope, key, imported, begun + RUN_BUDGET).await;
                done.push(put_back.map_err(|error| RefreshError::Failed(error.into())));
            }
        }
        done
    }

    /// Replicates an imported key if its store did not show what is committed, or may take now what
    /// it has refused.
    async fn put_back(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        imported: Result<Imported, ImportError>,
        give_up_at: Instant,
    ) -> Result<ImportReport, TaskError> {
        let imported = imported?;
        let mut report = ImportReport { committed: imported.committed, replicated: 0 };
        if imported.misplaced || imported.refused.is_some() {
            let replicating = self.replicate(scope, key.as_str(), &Occasion::Due);
            let done = tokio::time::timeout_at(give_up_at, replicating).await.unwrap_or(Err(TaskError::TooLong));
            report.replicated = done?.replicated;
        }
        Ok(report)
    }

    async fn run_all(&self, items: Vec<OutboxItem>, occasion: &Occasion, give_up_at: Instant) -> SweepReport {
        let in_time = |_: &OutboxItem| std::future::ready(Instant::now() < give_up_at);
        let working = stream::iter(items).take_while(in_time).map(|item| self.run(item, occasion));
        let working = working.buffer_unordered(AT_ONCE);
        working.fold(SweepReport::default(), async |all, one| all + one).await
    }

    async fn run(&self, item: OutboxItem, occasion: &Occasion) -> SweepReport {
        let (OutboxTask::Publish(tenant, _) | OutboxTask::Replicate(tenant, _)) = &item.task;
        let scope = self.authority.act_for(tenant.clone());
        let working = async {
            match &item.task {
                OutboxTask::Publish(_, revision) => self.publish(&scope, *revision).await,
                OutboxTask::Replicate(_, key) => self.replicate(&scope, key, occasion).await,
            }
        };
        let error = match tokio::time::timeout(ITEM_BUDGET, working).await.unwrap_or(Err(TaskError::TooLong)) {
            Ok(report) => return report,
            Err(error) => error,
        };
        warn!(tenant.id = %tenant, task = ?item.task, %error, "an outbox item failed and is put off");
        if let Err(error) = self.backend.ledger.defer(&scope, &item, self.clock.now().plus(error.backoff())).await {
            warn!(tenant.id = %tenant, task = ?item.task, %error, "an outbox item could not be put off");
        }
        SweepReport { failed: 1, ..SweepReport::default() }
    }

    async fn publish(&self, scope: &TenantScope, revision: Revision) -> Result<SweepReport, TaskError> {
        let Some(change) = self.backend.ledger.change(scope, revision).await? else {
            return Ok(SweepReport::default());
        };
        self.backend.publish(scope, &change).await?;
        Ok(SweepReport { published: 1, ..SweepReport::default() })
    }

    async fn replicate(&self, scope: &TenantScope, key: &str, occasion: &Occasion) -> Result<SweepReport, TaskError> {
        let key = ConfigKey::parse(key, &self.backend.routes)?;
        match self.backend.stores.of(&key).external() {
            None => {
                self.accept_what_no_store_refuses(scope, &key).await?;
                self.backend.ledger.forget_store(scope, &key).await?;
            }
            Some((_, strategy)) => match replicate(&self.backend, &self.clock, scope, &key, occasion.clone()).await? {
                Replication::NeverWritten => return Ok(SweepReport::default()),
                Replication::Refused(_) => return Ok(SweepReport { refused: 1, ..SweepReport::default() }),
                Replication::Later => {
                    info!(tenant.id = %scope.tenant(), config.key = %key, "another process is replicating the key");
                }
                // Parameter Store sent the event of the put before the commit, when nothing could
                // be said about it yet.
                Replication::Done if strategy == Strategy::WriteAround => {
                    import(&self.backend, &self.clock, scope, &key).await?;
                }
                Replication::Done => {}
            },
        }
        Ok(SweepReport { replicated: 1, ..SweepReport::default() })
    }

    /// Takes back a refusal by a tag that has no store any more.
    async fn accept_what_no_store_refuses(&self, scope: &TenantScope, key: &ConfigKey) -> Result<(), TaskError> {
        let current = self.backend.ledger.current(scope, key).await?;
        let Some(entry) = current.and_then(|current| current.entry).filter(|entry| entry.refusal.is_some()) else {
            return Ok(());
        };
        match refusal::record(&self.backend, &self.clock, scope, key, entry.version, None, &[]).await? {
            // It is still in the outbox, so the next sweep finds it again.
            Recorded::Busy => Err(TaskError::Busy),
            Recorded::Accepted | Recorded::Refused(_) | Recorded::MovedOn => Ok(()),
        }
    }
}
