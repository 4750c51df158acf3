//! Follows all tenants at once: looks at the index of changes a few times a second, and brings those after that are watched.
//!
//! The index lags behind the table, and the times in it are of many clocks. So each look begins a little before the newest change seen, now
//! and then well before it, and what was known already is known by its revision. Nothing that the index says is believed further than the
//! tenant's own log confirms.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tenantry::{
    auth::IndexAuthority,
    clock::Timestamp,
    ledger::{Ledger, LedgerError},
    tenant::TenantId,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use crate::{
    memory::{Memory, VALIDITY},
    tenant::Tenant,
};

/// How far before the newest change a look begins: what the index lags behind, and how much clocks that are kept right differ.
const OVERLAP: Duration = Duration::from_secs(2);
/// How far before it some looks begin, for indexes that lag and clocks that are wrong by more.
const WIDE_OVERLAP: Duration = Duration::from_mins(1);
/// How often those do.
const WIDE_EVERY: Duration = Duration::from_secs(10);
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How many changes a look takes in; the next one goes on from there.
const LOOK_LIMIT: usize = 20_000;
/// How many watched tenants are brought after at once.
const MAX_ASKING: usize = 64;
/// How long a tenant that could not be brought after is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Follows the index of changes.
#[derive(Debug)]
pub(crate) struct Follower {
    memory: Arc<Memory>,
    authority: IndexAuthority,
    interval: Duration,
    /// Whose changes are news, as the queue says.
    hints: mpsc::Receiver<TenantId>,
    asking: Arc<Semaphore>,
}

/// How far a shard has been looked at.
#[derive(Clone, Copy, Debug)]
struct Shard {
    newest: Timestamp,
    wide_at: Timestamp,
}

/// When a tenant that could not be brought after is tried again.
type Pauses = HashMap<TenantId, (Timestamp, Duration)>;

impl Follower {
    /// Looks at the index every `interval`, and at the log of a tenant whenever `hints` says so.
    pub(crate) fn new(memory: Arc<Memory>, interval: Duration, hints: mpsc::Receiver<TenantId>) -> Self {
        let asking = Arc::new(Semaphore::new(MAX_ASKING));
        Self { memory, authority: IndexAuthority::for_recent_changes(), interval, hints, asking }
    }

    /// Follows until `stop` says so.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let begin = self.memory.now().minus(WIDE_OVERLAP);
        let mut shards: Vec<_> =
            Ledger::shards().map(|_| Shard { newest: begin, wide_at: Timestamp::from_millis(0) }).collect();
        let pauses = Arc::new(Mutex::new(Pauses::new()));
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(id) = self.hints.recv() => {
                    let hinted = self.memory.known(&id).filter(|tenant| tenant.watchers() > 0);
                    self.bring_after(hinted.map(|tenant| (id, tenant)), &pauses);
                    continue;
                }
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let looks = Ledger::shards().zip(&mut shards).map(|(number, shard)| self.look(number, shard));
            let outcomes = join_all(looks).await;
            self.memory
                .metrics()
                .failed_looks
                .inc_by(outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64);
            let outcome: Result<Vec<()>, _> = outcomes.into_iter().collect();
            match &outcome {
                Ok(_) if failing => info!("the index of changes can be looked at again"),
                Err(error) if !failing => warn!(%error, "the index of changes cannot be looked at"),
                _ => {}
            }
            failing = outcome.is_err();
            self.memory.weigh_watched();
            self.bring_after(self.memory.watched(), &pauses);
        }
    }

    /// Looks at what has been listed in a shard.
    async fn look(&self, number: u32, shard: &mut Shard) -> Result<(), LookError> {
        let ledger = &self.memory.tail().foundation().ledger;
        let now = self.memory.now();
        let is_wide = now.since(shard.wide_at) >= WIDE_EVERY;
        // A clock that goes before the others must not hide what they list.
        let since = shard.newest.min(now).minus(if is_wide { WIDE_OVERLAP } else { OVERLAP });
        let looking = ledger.recent_changes(&self.authority, number, since, LOOK_LIMIT);
        let listed = timeout(LOOK_TIMEOUT, looking).await.map_err(|_| LookError::Timeout)??;
        for change in &listed {
            shard.newest = shard.newest.max(change.at);
            if let Some(tenant) = self.memory.known(&change.tenant) {
                tenant.hear(change.revision.get());
            }
        }
        self.memory.metrics().listed.inc_by(listed.len() as u64);
        // More is waiting: then it is not known yet what has changed.
        if listed.len() < LOOK_LIMIT {
            self.memory.note_look(number, now);
            if is_wide {
                shard.wide_at = now;
            }
        }
        Ok(())
    }

    /// Brings those of these tenants after that are behind, or that nobody has asked for lately.
    fn bring_after(&self, watched: impl IntoIterator<Item = (TenantId, Arc<Tenant>)>, pauses: &Arc<Mutex<Pauses>>) {
        let now = self.memory.now();
        for (id, tenant) in watched {
            let is_old = tenant.look(|held, _| held.is_restored || now.since(held.validated_at) > VALIDITY);
            // Secrets that could not be read when somebody came who may.
            let is_partial = tenant.is_partial();
            // One that has nothing in memory is being loaded by whoever watches it.
            if !(tenant.is_behind() || is_partial || is_old.unwrap_or(false)) {
                continue;
            }
            let is_paused = lock(pauses).get(&id).is_some_and(|(until, _)| now < *until);
            // Somebody is at it.
            if is_paused || tenant.is_asking() {
                continue;
            }
            let Ok(place) = Arc::clone(&self.asking).try_acquire_owned() else { return };
            let (memory, pauses) = (Arc::clone(&self.memory), Arc::clone(pauses));
            tokio::spawn(async move {
                let outcome = bring(&memory, &id, &tenant).await;
                let mut pauses = lock(&pauses);
                if outcome {
                    pauses.remove(&id);
                } else {
                    let longer = pauses.get(&id).map_or(FIRST_PAUSE, |(_, pause)| (*pause * 2).min(MAX_PAUSE));
                    pauses.insert(id, (memory.now().plus(longer.mul_f64(0.5 + fastrand::f64() / 2.0)), longer));
                }
                drop(place);
            });
        }
    }
}

/// Whether it is as the stores have it now.
async fn bring(memory: &Memory, id: &TenantId, tenant: &Tenant) -> bool {
    let Some(scope) = tenant.scope() else { return true };
    memory.catch_up(id, tenant, &scope).await.is_ok()
}

fn lock(pauses: &Mutex<Pauses>) -> MutexGuard<'_, Pauses> {
    pauses.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("no answer within {} s", LOOK_TIMEOUT.as_secs())]
    Timeout,
}
