//! Working off what commits still owe: events that were not published, stores that were not brought
//! after.

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
    import::{ImportError, import},
    ledger::{Ledger, LedgerError, OutboxItem, OutboxTask},
    model::{
        entry::Revision,
        key::{ConfigKey, InvalidKey},
        routing::Strategy,
        tenant::TenantId,
    },
    outbox::{
        refusal::{self, Noted},
        replicate::{Occasion, ReplicateError, Replication, replicate},
    },
    reconcile::Reconciler,
    store::{NotAKey, StoreError},
    telemetry::{self, SweepReport},
    write::MAX_OPERATIONS,
};

/// How many pieces of work of a kind a run takes from a shard.
const MAX_OWED: usize = 1000;
/// How many pieces of work are done at once: about as many as Parameter Store takes puts a second,
/// so that none waits long for its turn where the client has to slow down.
pub(crate) const AT_ONCE: usize = 4;
/// How long a run may begin further pieces of owed work, and then compare. With what the last ones
/// take it stays under the function's timeout, and however much is owed, there is time left to
/// compare.
const WORK_BUDGET: Duration = Duration::from_secs(15);
const RUN_BUDGET: Duration = Duration::from_secs(30);
/// How long one piece of work may take.
pub(crate) const ITEM_BUDGET: Duration = Duration::from_secs(10);
/// How long a piece of work that failed waits before it is tried again; and one that was only
/// refused for the moment, which so is done in the next run.
const BACKOFF: Duration = Duration::from_mins(2);
const THROTTLED_BACKOFF: Duration = Duration::from_secs(10);

/// What came of looking at a parameter that somebody changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Versions and removals of others that were committed.
    pub committed: usize,
    /// Stores brought after because they did not show what is committed.
    pub replicated: usize,
}

/// Works off what is owed.
#[derive(Debug)]
pub struct RefreshService {
    backend: WriteBackend,
    clock: Clock,
    authority: SystemAuthority,
}

/// Why nothing was looked at.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// It is no parameter of a key; it is left alone.
    #[error("the parameter is left alone: {0}")]
    NotOurs(#[from] NotAKey),
    /// More keys than a commit can write, or none.
    #[error("it names {0} keys; a commit writes 1 to {MAX_OPERATIONS}")]
    KeyCount(usize),
    /// What it names is no key.
    #[error("it names what is no key: {0}")]
    Key(#[from] InvalidKey),
    /// The ledger knows nothing of it.
    #[error("nobody has ever written the key {0}")]
    NeverWritten(ConfigKey),
    /// Something failed that may pass.
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
    #[error("others commit all the time")]
    Busy,
}

impl TaskError {
    /// How long the work waits before it is tried again.
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

    /// Works off everything that is due, until nothing is or the time is up. What fails is put off
    /// and holds up nothing else.
    pub async fn sweep(&self) -> Result<SweepReport, LedgerError> {
        let begun = Instant::now();
        let ledger = &self.backend.ledger;
        // Events first: a slow store must not keep readers from hearing of changes.
        let events = Ledger::shards().map(|shard| ledger.unpublished(&self.authority, shard, MAX_OWED));
        let events = try_join_all(events).await?.concat();
        let since = events.iter().map(|owed| owed.since).min();
        let published = self.run_all(events, &Occasion::Due, begun + WORK_BUDGET).await;
        let puts = Ledger::shards().map(|shard| ledger.unreplicated(&self.authority, shard, MAX_OWED));
        let mut puts = try_join_all(puts).await?.concat();
        // Not by how long it has been owed: what fails again and again must not always come first.
        puts.sort_unstable_by_key(|owed| owed.due);
        let oldest = since.into_iter().chain(puts.iter().map(|owed| owed.since)).min();
        let mut report = published + self.run_all(puts, &Occasion::Due, begun + WORK_BUDGET).await;
        let age = oldest.map_or(Duration::ZERO, |since| self.clock.now().since(since));
        match Box::pin(self.reconciler(begun + RUN_BUDGET).run()).await {
            Ok(reconciled) => report = report + reconciled,
            // It goes on where it was.
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

    /// Looks at keys that a `Config Changed` event named, and brings their stores after if they are
    /// owed it. Nothing in the event is believed: the ledger says whether there is anything to do.
    /// Where it does not know the first key, it is asked for no other, so that an event that
    /// somebody made up, of a tenant that never was there, costs one read.
    pub async fn look_at(&self, tenant: &TenantId, keys: &[String]) -> Result<SweepReport, RefreshError> {
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
        let owed = |key: &ConfigKey| {
            let task = OutboxTask::Replicate(tenant.clone(), key.to_string());
            OutboxItem { task, since, due: since }
        };
        let Some((first, others)) = named.split_first() else { return Ok(SweepReport::default()) };
        let give_up_at = Instant::now() + WORK_BUDGET;
        let looked = self.run_all(vec![owed(first)], &Occasion::Told, give_up_at).boxed().await;
        if looked == SweepReport::default() {
            return Err(RefreshError::NeverWritten(first.clone()));
        }
        let others = others.iter().map(owed).collect();
        Ok(looked + self.run_all(others, &Occasion::Told, give_up_at).boxed().await)
    }

    /// Looks through a parameter that somebody may have changed, and commits what is not ours.
    pub async fn import_parameter(&self, name: &str) -> Result<ImportReport, RefreshError> {
        let (tenant, key) = self.backend.inventory.key_of(&self.backend.routes, name)?;
        telemetry::note_tenant(&tenant);
        telemetry::note_key(&key);
        let scope = self.authority.act_for(tenant);
        let looking = async {
            let imported = import(&self.backend, &self.clock, &scope, &key).await?;
            let mut report = ImportReport { committed: imported.committed, replicated: 0 };
            if imported.misplaced || imported.refused.is_some() {
                report.replicated = self.replicate(&scope, key.as_str(), &Occasion::Due).await?.replicated;
            }
            Ok(report)
        };
        let looked = tokio::time::timeout(WORK_BUDGET, looking).await.unwrap_or(Err(TaskError::TooLong));
        looked.map_err(|error| RefreshError::Failed(error.into()))
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
            // The log does not have it any more.
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
                    info!(tenant.id = %scope.tenant(), config.key = %key, "somebody else is bringing the store after");
                }
                // Parameter Store told of the put before it was committed, when nothing could be
                // said of it yet.
                Replication::Done if strategy == Strategy::WriteAround => {
                    import(&self.backend, &self.clock, scope, &key).await?;
                }
                Replication::Done => {}
            },
        }
        Ok(SweepReport { replicated: 1, ..SweepReport::default() })
    }

    /// Takes back that a version is refused: the key's tag has no store any more that could.
    async fn accept_what_no_store_refuses(&self, scope: &TenantScope, key: &ConfigKey) -> Result<(), TaskError> {
        let current = self.backend.ledger.current(scope, key).await?;
        let Some(entry) = current.and_then(|current| current.entry).filter(|entry| entry.refusal.is_some()) else {
            return Ok(());
        };
        match refusal::note(&self.backend, &self.clock, scope, key, entry.version, None, &[]).await? {
            // It is still marked as owed, by which it is found again.
            Noted::Busy => Err(TaskError::Busy),
            Noted::Accepted | Noted::Refused(_) | Noted::MovedOn => Ok(()),
        }
    }
}
