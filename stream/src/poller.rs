//! Follows all tenants at once: looks at the index of changes a few times a second, and brings
//! those after that are watched.
//!
//! The index lags behind the table, and the times in it are of many clocks. So each look begins a
//! little before the newest change seen, now and then well before it, and what was known already is
//! known by its revision. Nothing that the index says is believed further than the tenant's own log
//! confirms.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{join, join_all};
use tenantry::{
    auth::IndexAuthority,
    clock::Timestamp,
    ledger::{Ledger, LedgerError},
    model::tenant::TenantId,
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

/// How far before the newest change a look begins: what the index lags behind, and how much clocks
/// that are kept right differ.
const OVERLAP: Duration = Duration::from_secs(2);
/// How far before it some looks begin, for indexes that lag and clocks that are wrong by more.
const WIDE_OVERLAP: Duration = Duration::from_mins(1);
/// How often those do.
const WIDE_EVERY: Duration = Duration::from_secs(10);
/// How long a look may take.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many changes a look takes in at once; it goes on from there at the next.
const POLL_LIMIT: usize = 20_000;
/// How many watched tenants are brought after at once.
const MAX_REFRESHES: usize = 64;
/// How long a tenant that could not be brought after is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Follows the index of changes.
#[derive(Debug)]
pub(crate) struct ChangePoller {
    memory: Arc<Memory>,
    authority: IndexAuthority,
    interval: Duration,
    /// Whose changes are news, as the queue says.
    hints: mpsc::Receiver<TenantId>,
}

/// How far a shard of the index has been looked at.
#[derive(Clone, Copy, Debug)]
struct Shard {
    newest: Timestamp,
    /// When the last look began that went back far, and was complete.
    wide_at: Timestamp,
    /// The look that is not complete yet.
    poll: Option<Poll>,
}

/// A look at a shard, which may take several queries.
#[derive(Clone, Copy, Debug)]
struct Poll {
    began: Timestamp,
    is_wide: bool,
    /// From when on changes are asked for next.
    since: Timestamp,
}

impl Shard {
    fn new(newest: Timestamp) -> Self {
        Self { newest, wide_at: Timestamp::from_millis(0), poll: None }
    }

    /// From when on changes are asked for at `now`.
    fn begin(&mut self, now: Timestamp) -> Timestamp {
        let poll = self.poll.get_or_insert_with(|| {
            let is_wide = now.since(self.wide_at) >= WIDE_EVERY;
            let overlap = if is_wide { WIDE_OVERLAP } else { OVERLAP };
            // A clock that goes before the others must not hide what they list.
            Poll { began: now, is_wide, since: self.newest.min(now).minus(overlap) }
        });
        poll.since
    }

    /// Takes note of changes up to `last`, in the order of the index, and whether those are all.
    /// When the look began, if it is complete.
    fn end(&mut self, last: Option<Timestamp>, is_all: bool) -> Option<Timestamp> {
        self.newest = last.map_or(self.newest, |last| self.newest.max(last));
        if let (false, Some(poll), Some(last)) = (is_all, &mut self.poll, last) {
            // At least a bit further, or it would not end.
            poll.since = last.max(poll.since.plus(Duration::from_millis(1)));
            return None;
        }
        let poll = self.poll.take()?;
        if poll.is_wide {
            self.wide_at = poll.began;
        }
        Some(poll.began)
    }
}

/// Brings watched tenants after.
#[derive(Debug)]
struct Refresher {
    memory: Arc<Memory>,
    places: Semaphore,
    state: Mutex<Refreshing>,
}

#[derive(Debug, Default)]
struct Refreshing {
    /// Those that are being brought after, or wait for that.
    under_way: HashSet<TenantId>,
    /// When those that could not be are tried again.
    pauses: HashMap<TenantId, (Timestamp, Duration)>,
}

impl ChangePoller {
    /// Looks at the index every `interval`, and at the log of a tenant whenever `hints` says so.
    pub(crate) fn new(memory: Arc<Memory>, interval: Duration, hints: mpsc::Receiver<TenantId>) -> Self {
        Self { memory, authority: IndexAuthority::for_recent_changes(), interval, hints }
    }

    /// Follows until `stop` says so.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let Self { memory, authority, interval, mut hints } = self;
        let places = Semaphore::new(MAX_REFRESHES);
        let refresher = Arc::new(Refresher { memory: Arc::clone(&memory), places, state: Mutex::default() });
        let hinted = async {
            while let Some(id) = hints.recv().await {
                if let Some(tenant) = memory.known(&id).filter(|tenant| tenant.watchers() > 0) {
                    refresher.refresh(id, tenant);
                }
            }
        };
        tokio::select! {
            // An index that does not answer holds up no hint.
            _ = join(hinted, poll_index(&memory, &authority, interval, &refresher)) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Looks at the index every `interval`.
async fn poll_index(memory: &Memory, authority: &IndexAuthority, every: Duration, refresher: &Arc<Refresher>) {
    let begin = memory.now().minus(WIDE_OVERLAP);
    let mut shards: Vec<_> = Ledger::shards().map(|_| Shard::new(begin)).collect();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let polls =
            Ledger::shards().zip(&mut shards).map(|(number, shard)| poll_shard(memory, authority, number, shard));
        let outcomes = join_all(polls).await;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        memory.metrics().failed_polls.inc_by(failed as u64);
        let outcome: Result<Vec<()>, _> = outcomes.into_iter().collect();
        match &outcome {
            Ok(_) if failing => info!("the index of changes can be looked at again"),
            Err(error) if !failing => warn!(%error, "the index of changes cannot be looked at"),
            _ => {}
        }
        failing = outcome.is_err();
        memory.weigh_watched();
        memory.close_expired();
        let watched = memory.watched();
        refresher.forget_others(&watched);
        for (id, tenant) in watched {
            refresher.refresh(id, tenant);
        }
    }
}

/// Looks at what has been listed in a shard.
async fn poll_shard(
    memory: &Memory,
    authority: &IndexAuthority,
    number: u32,
    shard: &mut Shard,
) -> Result<(), PollError> {
    let ledger = &memory.tail().backend().ledger;
    let since = shard.begin(memory.now());
    let listing = ledger.recent_changes(authority, number, since, POLL_LIMIT);
    let listed = timeout(POLL_TIMEOUT, listing).await.map_err(|_| PollError::Timeout)??;
    for change in &listed {
        if let Some(tenant) = memory.known(&change.tenant) {
            tenant.advertise(change.revision.get());
        }
    }
    memory.metrics().listed.inc_by(listed.len() as u64);
    // More is waiting: then it is not known yet what has changed.
    if let Some(began) = shard.end(listed.last().map(|change| change.at), listed.len() < POLL_LIMIT) {
        memory.note_poll(number, began);
    }
    Ok(())
}

impl Refresher {
    fn state(&self) -> MutexGuard<'_, Refreshing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a watched tenant be brought after if it is behind, or if nobody has asked for it lately.
    fn refresh(self: &Arc<Self>, id: TenantId, tenant: Arc<Tenant>) {
        let now = self.memory.now();
        let is_old = tenant.inspect(|loaded, _| loaded.is_restored || now.since(loaded.validated_at) > VALIDITY);
        // Secrets that could not be read when somebody came who may.
        let is_partial = tenant.is_partial();
        // One that has nothing in memory is being loaded by whoever watches it; else somebody may
        // be at it.
        if !(tenant.is_behind() || is_partial || is_old.unwrap_or(false)) || tenant.is_refreshing() {
            return;
        }
        {
            let mut state = self.state();
            let is_paused = state.pauses.get(&id).is_some_and(|(until, _)| now < *until);
            if is_paused || !state.under_way.insert(id.clone()) {
                return;
            }
        }
        let refresher = Arc::clone(self);
        // They wait in the order in which they were found to be behind, so that none is passed over
        // for ever.
        tokio::spawn(async move {
            let outcome = match refresher.places.acquire().await {
                Ok(_place) => refresh(&refresher.memory, &id, &tenant).await,
                Err(_) => return,
            };
            let mut state = refresher.state();
            state.under_way.remove(&id);
            if outcome {
                state.pauses.remove(&id);
            } else {
                let longer = state.pauses.get(&id).map_or(FIRST_PAUSE, |(_, pause)| (*pause * 2).min(MAX_PAUSE));
                let pause = longer.mul_f64(0.5 + fastrand::f64() / 2.0);
                state.pauses.insert(id, (refresher.memory.now().plus(pause), longer));
            }
        });
    }

    /// Forgets the pauses of tenants that are not watched any more.
    fn forget_others(&self, watched: &[(TenantId, Arc<Tenant>)]) {
        let mut state = self.state();
        if !state.pauses.is_empty() {
            let watched: HashSet<_> = watched.iter().map(|(id, _)| id).collect();
            state.pauses.retain(|id, _| watched.contains(id));
        }
    }
}

/// Whether it is as the stores have it now.
async fn refresh(memory: &Memory, id: &TenantId, tenant: &Tenant) -> bool {
    let Some(scope) = tenant.scope() else { return true };
    memory.catch_up(id, tenant, &scope).await.is_ok()
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("no answer within {} s", POLL_TIMEOUT.as_secs())]
    Timeout,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: however many changes there are, a look comes to their end, and the next one follows
    /// what is new.
    #[test]
    fn a_poll_comes_to_an_end() {
        let at = |second: u64| Timestamp::from_millis(second * 1_000);
        // More within the overlap than are taken in at once.
        let changes: Vec<_> = (100..160).map(at).collect();
        let mut shard = Shard::new(at(159));
        let poll = |shard: &mut Shard, now| {
            let since = shard.begin(now);
            let listed: Vec<_> = changes.iter().copied().filter(|change| *change >= since).take(25).collect();
            shard.end(listed.last().copied(), listed.len() < 25)
        };
        let polls: Vec<_> = (160..164).map(|now| poll(&mut shard, at(now))).collect();
        assert_eq!(polls, [None, None, Some(at(160)), Some(at(163))]);
        assert_eq!((shard.newest, shard.wide_at), (at(159), at(160)));
    }
}
