//! Finds out which tenants have changed, all at once: polls the index of changes a few times a
//! second, and refreshes the watched tenants that are behind.
//!
//! The index lags behind the table, and its times are of many clocks. So each poll begins a little
//! before the newest change seen, and now and then well before it. A change that was known already
//! is recognized by its revision. The index only advertises revisions: the tenant's own log
//! confirms them.

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

/// How far before the newest change a poll begins: more than the index lags and well-kept clocks
/// differ.
const OVERLAP: Duration = Duration::from_secs(2);
/// How far before it a wide poll begins, for indexes that lag and clocks that differ by more.
const WIDE_OVERLAP: Duration = Duration::from_mins(1);
/// After how long without a change a poll begins at the newest one, and so does not read those
/// before it again and again. Watched tenants are validated as often, whatever the index lists.
const QUIET: Duration = VALIDITY;
/// How often a poll is wide.
const WIDE_EVERY: Duration = Duration::from_secs(10);
/// How long one query may take.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many changes one query returns at most. The next one goes on from there.
const POLL_LIMIT: usize = 20_000;
/// How many watched tenants are refreshed at once.
const MAX_REFRESHES: usize = 64;
/// How long a tenant that could not be refreshed is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Polls the index of changes.
#[derive(Debug)]
pub(crate) struct ChangePoller {
    memory: Arc<Memory>,
    authority: IndexAuthority,
    interval: Duration,
    /// Tenants that the queue says have changed.
    hints: mpsc::Receiver<TenantId>,
}

/// How far a shard of the index has been polled.
#[derive(Clone, Copy, Debug)]
struct Shard {
    newest: Timestamp,
    /// When the last complete wide poll began.
    wide_at: Timestamp,
    /// The poll that is not complete yet.
    poll: Option<Poll>,
}

/// A poll of a shard, which may take several queries.
#[derive(Clone, Copy, Debug)]
struct Poll {
    began: Timestamp,
    is_wide: bool,
    /// From when on the next query asks for changes.
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
            // What lags and whose clock is behind is listed by now, where nothing came for so long.
            let overlap = if now.since(self.newest) > QUIET { Duration::ZERO } else { overlap };
            // A clock that is ahead of the others must not hide what they list.
            Poll { began: now, is_wide, since: self.newest.min(now).minus(overlap) }
        });
        poll.since
    }

    /// Notes that a query returned changes up to `last`, and whether those are all. Returns when
    /// the poll began, if it is complete.
    fn end(&mut self, last: Option<Timestamp>, is_all: bool) -> Option<Timestamp> {
        self.newest = last.map_or(self.newest, |last| self.newest.max(last));
        if let (false, Some(poll), Some(last)) = (is_all, &mut self.poll, last) {
            // At least a bit further, or the poll would not end.
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

/// Refreshes watched tenants.
#[derive(Debug)]
struct Refresher {
    memory: Arc<Memory>,
    places: Semaphore,
    state: Mutex<Refreshing>,
}

#[derive(Debug, Default)]
struct Refreshing {
    /// Those that are being refreshed, or wait for it.
    under_way: HashSet<TenantId>,
    /// When those that could not be refreshed are tried again, and the pause that led there.
    pauses: HashMap<TenantId, (Timestamp, Duration)>,
}

impl ChangePoller {
    /// Polls the index every `interval`, and refreshes a tenant whenever `hints` names it.
    pub(crate) fn new(memory: Arc<Memory>, interval: Duration, hints: mpsc::Receiver<TenantId>) -> Self {
        Self { memory, authority: IndexAuthority::for_recent_changes(), interval, hints }
    }

    /// Polls until `stop` says so.
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
            // An index that does not answer delays no hint.
            _ = join(hinted, poll_index(&memory, &authority, interval, &refresher)) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Polls the index every `every`.
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
            Ok(_) if failing => info!("the index of changes can be polled again"),
            Err(error) if !failing => warn!(%error, "the index of changes cannot be polled"),
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

/// Polls one shard.
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
    // While more is waiting, it is not known yet what has changed.
    if let Some(began) = shard.end(listed.last().map(|change| change.at), listed.len() < POLL_LIMIT) {
        memory.note_poll(number, began);
    }
    Ok(())
}

impl Refresher {
    fn state(&self) -> MutexGuard<'_, Refreshing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a refresh of a watched tenant that is behind, or that was not validated lately.
    fn refresh(self: &Arc<Self>, id: TenantId, tenant: Arc<Tenant>) {
        let now = self.memory.now();
        let is_old = tenant.inspect(|loaded, _| loaded.is_restored || now.since(loaded.validated_at) > VALIDITY);
        // Secrets were withheld when it was loaded, and a later watcher may read them.
        let is_partial = tenant.is_partial();
        // Its first watcher loads a tenant that has nothing in memory. Another one may be
        // refreshing already.
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
        // They wait in the order in which they were found to be behind, so that none starves.
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

    /// Forgets the pauses of tenants that nobody watches any more.
    fn forget_others(&self, watched: &[(TenantId, Arc<Tenant>)]) {
        let mut state = self.state();
        if !state.pauses.is_empty() {
            let watched: HashSet<_> = watched.iter().map(|(id, _)| id).collect();
            state.pauses.retain(|id, _| watched.contains(id));
        }
    }
}

/// Refreshes a tenant with the rights of its watchers. Returns whether that succeeded.
async fn refresh(memory: &Memory, id: &TenantId, tenant: &Tenant) -> bool {
    let Some(scope) = tenant.scope() else { return true };
    memory.catch_up(id, tenant, &scope).await.is_ok()
}

/// Why a poll failed.
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

    /// Promise: however many changes there are, a poll comes to their end, and the next one finds
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

    /// Promise: while nothing is committed, no poll reads again what was committed before; what is
    /// committed then is found, by whichever clock within a minute.
    #[test]
    fn quiet_polls_read_nothing_again() {
        let at = |second: u64| Timestamp::from_millis(second * 1_000);
        let mut shard = Shard::new(at(1_000));
        let mut since = |now| {
            let since = shard.begin(at(now));
            assert_eq!(shard.end(Some(at(1_000)), true), Some(at(now)));
            since
        };
        assert_eq!([since(1_010), since(1_011)], [at(940), at(998)], "what lags is read again");
        assert_eq!([since(1_061), since(1_062), since(9_000)], [at(1_000); 3]);
    }
}
