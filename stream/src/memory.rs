//! All tenants in memory: which ones, how fresh they are, and how they are refreshed.

use std::{
    borrow::Cow,
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use tenantry::{
    auth::TenantScope,
    clock::{Clock, Timestamp},
    ledger::Ledger,
    model::{entry::Revision, tenant::TenantId},
    read::ReadError,
    tail::{Commits, Position, TailError, TailService},
};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::{
    metrics::Metrics,
    pages::Pages,
    tenant::{LoadedTenant, Tenant},
    waker::Registration,
};

/// How long memory is believed without reading the tenant's head. The index of changes should have
/// listed every change by then. If it has not, or the table was restored, this is how long it takes
/// to notice.
pub const VALIDITY: Duration = Duration::from_mins(1);
/// How long a refresh of one tenant may take before those who wait for it get an error.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);
/// How many commits one call fetches.
const PAGE: usize = 128;
/// After how many bytes of values one call fetches no further commits.
const PAGE_BYTES: usize = 4_000_000;
/// How many tenants are loaded at once, as a whole.
const MAX_LOADS: usize = 32;
/// How many tenants are expected to be in memory at most. The cache remembers so many for a while
/// after it has evicted them.
const MAX_ESTIMATE: usize = 1 << 20;

/// Tenants in memory.
#[derive(Debug)]
pub struct Memory {
    tail: TailService,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Those that are watched. They are never evicted.
    watched: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    /// The others, bounded by bytes. Those that were not read lately are evicted first.
    idle: Cache<TenantId, Weighed, Weight>,
    limits: Limits,
    /// How many bytes the watched ones took when they were last weighed.
    watched_bytes: AtomicU64,
    watchers: AtomicUsize,
    loads: Semaphore,
    /// When the last complete poll of each shard of the index of changes began, in milliseconds.
    polled: Vec<AtomicU64>,
    /// How long ago the last complete poll of a shard may be. Beyond that, memory is not believed
    /// without reading the tenant's log.
    max_poll_age: Duration,
    /// Whether watches are to end.
    is_draining: AtomicBool,
    /// When a failure was last logged, so that an outage is not a line for each tenant.
    failed_at: Mutex<Option<Timestamp>>,
}

/// Limits of what is in memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all tenants that nobody watches, of all that are watched, and of any single one,
    /// each.
    pub bytes: u64,
    /// Watchers in all.
    pub watchers: usize,
    /// Watchers of one tenant.
    pub tenant_watchers: usize,
}

/// Why a watch cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The tenant has as many watchers as it may.
    #[error("the tenant has {0} watchers, as many as it may have; let several readers share one")]
    Tenant(usize),
    /// The instance has.
    #[error("this instance has {0} watchers, as many as it may have; try again later")]
    Instance(usize),
    /// Watched tenants take all the memory that they may.
    #[error("this instance has no memory left for a further tenant; try again later")]
    Memory,
}

/// A tenant that nobody watches, and what it weighed when it was inserted: the cache subtracts the
/// same weight when it goes.
#[derive(Clone, Debug)]
struct Weighed {
    tenant: Arc<Tenant>,
    weight: u64,
}

impl From<Arc<Tenant>> for Weighed {
    fn from(tenant: Arc<Tenant>) -> Self {
        Self { weight: tenant.weight(), tenant }
    }
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<TenantId, Weighed> for Weight {
    fn weight(&self, _: &TenantId, weighed: &Weighed) -> u64 {
        weighed.weight
    }
}

/// A cache of so many bytes, in one shard: of several, each would have its part of the room, and
/// would never keep a tenant larger than that.
fn cache(bytes: u64) -> Cache<TenantId, Weighed, Weight> {
    let tenants = usize::try_from(bytes / 4_096).unwrap_or(usize::MAX).clamp(16, MAX_ESTIMATE);
    let options = OptionsBuilder::new().shards(1).estimated_items_capacity(tenants).weight_capacity(bytes).build();
    match options {
        Ok(options) => Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default()),
        // Nothing is missing from them.
        Err(_) => Cache::with_weighter(tenants, bytes, Weight),
    }
}

/// What is in memory of a tenant, for an answer.
#[derive(Debug)]
pub struct Fresh {
    /// Its entries.
    pub pages: Pages,
    /// The revision that they are the state at.
    pub revision: Revision,
    /// Whether the stores do not answer, so that a newer state may exist.
    pub is_stale: bool,
}

impl Fresh {
    fn of(loaded: &LoadedTenant, is_stale: bool) -> Self {
        Self { pages: loaded.pages.clone(), revision: loaded.position.revision, is_stale }
    }
}

impl Memory {
    /// An empty memory. Tenants are believed while the last poll of their shard is not older than
    /// `max_poll_age`.
    pub fn new(tail: TailService, limits: Limits, max_poll_age: Duration, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self {
            tail,
            clock,
            metrics,
            watched: RwLock::default(),
            idle: cache(limits.bytes),
            limits,
            watched_bytes: AtomicU64::new(0),
            watchers: AtomicUsize::new(0),
            loads: Semaphore::new(MAX_LOADS),
            polled: Ledger::shards().map(|_| AtomicU64::new(0)).collect(),
            max_poll_age,
            is_draining: AtomicBool::new(false),
            failed_at: Mutex::default(),
        }
    }

    /// Reads tenants.
    pub fn tail(&self) -> &TailService {
        &self.tail
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether watches are to end.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Has all watches end.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        for (_, tenant) in self.watched() {
            tenant.wake();
        }
    }

    /// A tenant, if it is in memory.
    pub fn known(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        // A watcher is counted before its tenant is watched, and until after. Without any, no
        // tenant is watched.
        let watched = if self.watchers() == 0 { None } else { self.read_watched().get(id).cloned() };
        watched.or_else(|| self.idle.get(id).map(|idle| idle.tenant))
    }

    /// All tenants in memory.
    pub fn all(&self) -> Vec<(TenantId, Arc<Tenant>)> {
        let mut all: HashMap<_, _> = self.idle.iter().map(|(id, idle)| (id, idle.tenant)).collect();
        all.extend(self.watched());
        all.into_iter().collect()
    }

    /// Those that are watched.
    pub fn watched(&self) -> Vec<(TenantId, Arc<Tenant>)> {
        self.read_watched().iter().map(|(id, tenant)| (id.clone(), Arc::clone(tenant))).collect()
    }

    /// How many bytes tenants take, those that nobody watches and those that somebody does.
    pub fn bytes(&self) -> (u64, u64) {
        (self.idle.weight(), self.weigh_watched())
    }

    /// Weighs those that are watched.
    pub fn weigh_watched(&self) -> u64 {
        self.read_watched().values().for_each(|tenant| self.weigh_one(tenant));
        self.watched_bytes.load(Ordering::Relaxed)
    }

    /// Closes the watches whose tokens have expired, also those whose peers take nothing and which
    /// do not notice themselves.
    pub fn close_expired(&self) {
        let now = self.clock.now();
        self.watched().iter().for_each(|(_, tenant)| tenant.close_expired(now));
    }

    fn weigh_one(&self, tenant: &Tenant) {
        if let Some((before, now)) = tenant.weigh() {
            self.watched_bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// Weighs a tenant whose watch begins. Fails if this is its only watch, and there is no room
    /// for it.
    pub fn make_room(&self, tenant: &Tenant) -> Result<(), Full> {
        self.weigh_one(tenant);
        let is_too_much = self.watched_bytes.load(Ordering::Relaxed) > self.limits.bytes;
        if is_too_much && tenant.watchers() <= 1 { Err(Full::Memory) } else { Ok(()) }
    }

    /// How many tenants there are, those that nobody watches and those that somebody does.
    pub fn tenants(&self) -> (usize, usize) {
        (self.idle.len(), self.read_watched().len())
    }

    /// How many watches there are.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::SeqCst)
    }

    /// Notes when a complete poll of a shard of the index of changes began.
    pub fn note_poll(&self, shard: u32, began: Timestamp) {
        if let Some(polled) = usize::try_from(shard).ok().and_then(|shard| self.polled.get(shard)) {
            polled.store(began.millis(), Ordering::Relaxed);
        }
    }

    /// When the last complete poll began, of the shard where that is longest ago.
    pub fn oldest_poll(&self) -> Timestamp {
        Timestamp::from_millis(self.polled.iter().map(|polled| polled.load(Ordering::Relaxed)).min().unwrap_or(0))
    }

    /// Whether the index of changes was polled so lately that a change of the tenant would be
    /// known.
    pub fn is_polled(&self, id: &TenantId) -> bool {
        self.was_polled(id, self.clock.now())
    }

    fn was_polled(&self, id: &TenantId, now: Timestamp) -> bool {
        let polled = usize::try_from(Ledger::shard_of(id)).ok().and_then(|shard| self.polled.get(shard));
        let at = Timestamp::from_millis(polled.map_or(0, |polled| polled.load(Ordering::Relaxed)));
        now.since(at) <= self.max_poll_age
    }

    /// A tenant for an answer: from memory if that is fresh enough, else as the stores have it. If
    /// they do not answer, as it was last known, and marked stale.
    pub async fn fresh(&self, scope: &TenantScope, least: Revision) -> Result<Fresh, ReadError> {
        let id = scope.tenant();
        let known = self.known(id);
        if let Some(fresh) = known.as_ref().and_then(|tenant| self.believed(id, tenant, scope, least)) {
            return Ok(fresh);
        }
        let tenant = known.unwrap_or_else(|| self.admit(id));
        // Boxed, because it is as large as the SDK's futures, and would be moved about even where
        // memory answers.
        let outcome = Box::pin(self.catch_up(id, &tenant, scope)).await;
        if self.known(id).is_none_or(|known| !Arc::ptr_eq(&known, &tenant)) {
            // It was evicted meanwhile, and may have missed an advertised revision.
            tenant.invalidate();
        }
        self.weigh(id, &tenant);
        let loaded = tenant.inspect(|loaded, _| Fresh::of(loaded, outcome.is_err()));
        let newest = loaded.as_ref().map_or(Revision::ZERO, |loaded| loaded.revision);
        match (outcome, loaded.filter(|loaded| loaded.revision >= least)) {
            (Ok(()), Some(fresh)) => Ok(fresh),
            (Ok(()), None) => Err(ReadError::NotReached { head: newest, asked: least }),
            (Err(error), Some(stale)) if error.is_outage() => Ok(stale),
            (Err(error), _) => Err(error),
        }
    }

    /// Makes a watched tenant as fresh as an answer would be. Returns whether the stores do not
    /// answer, so that it is only what was last known.
    pub async fn fresh_watched(&self, tenant: &Tenant, scope: &TenantScope) -> Result<bool, ReadError> {
        let id = scope.tenant();
        if self.believed(id, tenant, scope, Revision::ZERO).is_some() {
            return Ok(false);
        }
        match Box::pin(self.catch_up(id, tenant, scope)).await {
            Ok(()) => Ok(false),
            Err(error) if error.is_outage() && tenant.inspect(|_, _| ()).is_some() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// What is in memory, if the stores need not be asked.
    fn believed(&self, id: &TenantId, tenant: &Tenant, scope: &TenantScope, least: Revision) -> Option<Fresh> {
        let now = self.clock.now();
        let is_polled = self.was_polled(id, now);
        let believed = tenant.inspect(|loaded, advertised| {
            let is_enough = loaded.position.revision >= least && !loaded.is_partial(scope);
            let is_newest = advertised <= loaded.position.revision.get() && is_polled;
            (is_enough && is_newest && now.since(loaded.validated_at) <= VALIDITY).then(|| Fresh::of(loaded, false))
        });
        believed.flatten()
    }

    fn admit(&self, id: &TenantId) -> Arc<Tenant> {
        let Ok(idle) = self.idle.get_or_insert_with(id, || Ok::<_, Infallible>(Arc::<Tenant>::default().into()));
        idle.tenant
    }

    /// Updates the weight of a tenant that nobody watches.
    fn weigh(&self, id: &TenantId, tenant: &Arc<Tenant>) {
        if !self.read_watched().contains_key(id) {
            self.idle.insert(id.clone(), Arc::clone(tenant).into());
        }
    }

    /// Puts a tenant into memory as the snapshot file has it.
    pub fn restore(&self, id: TenantId, loaded: LoadedTenant) {
        let tenant = Arc::new(Tenant::default());
        tenant.put(loaded);
        self.idle.insert(id, tenant.into());
    }

    /// Refreshes a tenant from the stores. One caller reads them; those who come meanwhile wait for
    /// it, and read again only if that had begun before they came.
    pub async fn catch_up(&self, id: &TenantId, tenant: &Tenant, scope: &TenantScope) -> Result<(), ReadError> {
        let came = self.clock.now();
        let refreshing = async {
            let turn = tenant.turn();
            let _turn = turn.wait().await;
            let needs = tenant.inspect(|loaded, advertised| {
                let is_newest = loaded.validated_at > came && advertised <= loaded.position.revision.get();
                !is_newest || loaded.is_partial(scope)
            });
            if needs.unwrap_or(true) { self.refresh(tenant, scope).await } else { Ok(()) }
        };
        let outcome = tokio::time::timeout(REFRESH_TIMEOUT, refreshing).await.unwrap_or(Err(ReadError::TooSlow));
        if let Err(error) = &outcome {
            self.report(id, error);
        }
        outcome
    }

    async fn refresh(&self, tenant: &Tenant, scope: &TenantScope) -> Result<(), ReadError> {
        // Values that the stores did not have are read again once memory is not believed any more,
        // which is now and then.
        let now = self.clock.now();
        let is_whole = |loaded: &LoadedTenant| !loaded.lacks_values || now.since(loaded.validated_at) <= VALIDITY;
        let loaded = tenant.loaded().filter(|loaded| !loaded.is_partial(&rights(tenant, scope)) && is_whole(loaded));
        let Some(loaded) = loaded else { return self.load(tenant, scope).await };
        let mut position = loaded.position;
        let mut newest = None;
        loop {
            let asked = self.clock.now();
            let Commits { commits, is_all } =
                match self.tail.since(&rights(tenant, scope), &position, PAGE, PAGE_BYTES).await {
                    Ok(commits) => commits,
                    Err(TailError::Broken) => return self.load(tenant, scope).await,
                    Err(TailError::Read(error)) => return Err(error),
                };
            let last = commits.last().map(|last| last.position.clone());
            self.metrics.note_commits(&commits, tenant.watched_since(), self.clock.now());
            // If not, a watcher who may read secrets has come meanwhile. The commits are read again
            // with its rights.
            if !tenant.advance(commits, is_all.then_some(asked)) {
                continue;
            }
            position = last.unwrap_or(position);
            if !is_all {
                continue;
            }
            match newest {
                // The log ends before the head that was there when it was read: it has a gap.
                Some(newest) if newest > position.revision => return self.load(tenant, scope).await,
                Some(_) => return Ok(()),
                None if !tenant.is_behind() => return Ok(()),
                None => {}
            }
            // Advertised beyond the end of its log: a commit came meanwhile, the advertised
            // revision is wrong, or the log has a gap.
            let advertised = tenant.advertised_revision();
            let known = self.tail.head(scope).await?.revision;
            if known <= position.revision {
                tenant.clear_advertised(advertised);
                return Ok(());
            }
            newest = Some(known);
        }
    }

    async fn load(&self, tenant: &Tenant, scope: &TenantScope) -> Result<(), ReadError> {
        let _load = self.loads.acquire().await.map_err(|_| ReadError::TooSlow)?;
        let revision = loop {
            let asked = self.clock.now();
            let snapshot = self.tail.snapshot(&rights(tenant, scope), self.limits.bytes).await?;
            self.metrics.loads.inc();
            if tenant.replace(&snapshot, asked) {
                break snapshot.position.revision;
            }
        };
        let advertised = tenant.advertised_revision();
        if tenant.is_behind() && self.tail.head(scope).await?.revision <= revision {
            tenant.clear_advertised(advertised);
        }
        Ok(())
    }

    /// Extends the log of a watched tenant back to `position`, if that is not far.
    pub async fn reach_back(&self, tenant: &Tenant, scope: &TenantScope, position: &Position) -> Result<(), ReadError> {
        let Some((_, reaching)) = tenant.lacks_before(position) else { return Ok(()) };
        // Not the lock for refreshing, which is for what is new.
        let _reaching = reaching.lock().await;
        let Some((lacks, _)) = tenant.lacks_before(position) else { return Ok(()) };
        match self.tail.since(&rights(tenant, scope), position, lacks, PAGE_BYTES).await {
            Ok(back) => tenant.prepend(position, back.commits),
            Err(TailError::Read(error)) => return Err(error),
            // The caller notices that the log does not reach so far.
            Err(_) => {}
        }
        Ok(())
    }

    /// Begins a watch of a tenant with these rights.
    pub fn watch(self: &Arc<Self>, scope: &Arc<TenantScope>) -> Result<Watched, Full> {
        let id = scope.tenant();
        let in_all = self.watchers.fetch_add(1, Ordering::SeqCst);
        // Gives the place back when it is dropped.
        let place = Place { memory: Arc::clone(self) };
        if in_all >= self.limits.watchers {
            return Err(Full::Instance(self.limits.watchers));
        }
        let mut watched = self.write_watched();
        let tenant = match watched.get(id) {
            Some(tenant) if tenant.watchers() >= self.limits.tenant_watchers => {
                return Err(Full::Tenant(self.limits.tenant_watchers));
            }
            Some(tenant) => Arc::clone(tenant),
            None => {
                if self.watched_bytes.load(Ordering::Relaxed) > self.limits.bytes {
                    return Err(Full::Memory);
                }
                let tenant = self.idle.remove(id).map_or_else(Arc::default, |(_, idle)| idle.tenant);
                watched.insert(id.clone(), Arc::clone(&tenant));
                tenant
            }
        };
        let registration = tenant.join(Arc::clone(scope), self.clock.now());
        Ok(Watched { tenant, scope: Arc::clone(scope), registration, place })
    }

    fn unwatch(&self, scope: &Arc<TenantScope>, tenant: &Arc<Tenant>) {
        let id = scope.tenant();
        let mut watched = self.write_watched();
        if let Some(weighed) = tenant.leave(scope) {
            self.watched_bytes.fetch_sub(weighed, Ordering::Relaxed);
            watched.remove(id);
            if tenant.inspect(|_, _| ()).is_some() {
                self.idle.insert(id.clone(), Arc::clone(tenant).into());
            }
        }
    }

    /// Logs that a tenant could not be refreshed. An outage, which all tenants share, is logged
    /// once in a while.
    fn report(&self, id: &TenantId, error: &ReadError) {
        self.metrics.failures.inc();
        let now = self.clock.now();
        let mut failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_outage() && failed_at.is_some_and(|at| now.since(at) < VALIDITY) {
            return;
        }
        *failed_at = Some(now);
        warn!(tenant.id = %id, %error, "a tenant could not be refreshed");
    }

    fn read_watched(&self) -> RwLockReadGuard<'_, HashMap<TenantId, Arc<Tenant>>> {
        self.watched.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_watched(&self) -> RwLockWriteGuard<'_, HashMap<TenantId, Arc<Tenant>>> {
        self.watched.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rights that the stores are read with. What is read is told to all watchers. So if one of
/// them may read secrets and the caller may not, it is read with the watcher's rights.
fn rights<'a>(tenant: &Tenant, scope: &'a TenantScope) -> Cow<'a, TenantScope> {
    match tenant.scope().filter(|watcher| watcher.may_read_secrets() && !scope.may_read_secrets()) {
        Some(watcher) => Cow::Owned((*watcher).clone()),
        None => Cow::Borrowed(scope),
    }
}

/// A watched tenant. While this is kept, it stays in memory and is refreshed.
#[derive(Debug)]
pub struct Watched {
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// The watcher's rights.
    pub scope: Arc<TenantScope>,
    /// Where the watcher registers to be woken.
    pub registration: Registration,
    place: Place,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.place.memory.unwatch(&self.scope, &self.tenant);
    }
}

/// A place among all watchers of the instance.
#[derive(Debug)]
struct Place {
    memory: Arc<Memory>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.memory.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a tenant that fits into memory is kept, even a large one.
    #[test]
    fn a_large_tenant_is_kept() {
        let cache = cache(1 << 20);
        let id: TenantId = "acme".parse().unwrap();
        cache.insert(id.clone(), Weighed { tenant: Arc::default(), weight: 900_000 });
        assert!(cache.get(&id).is_some());
    }
}
