//! Reading: from memory while it is valid, else from the ledger; never from the past.

mod fit;
pub(crate) mod values;

use std::{cmp::Ordering, collections::HashMap, sync::Arc, time::Duration};

pub use self::values::ValueGone;
use self::{
    fit::{MAX_ANSWER_BYTES, fit, fitting},
    values::{Absent, MAX_ATTEMPTS, pause_before, report},
};
use crate::{
    auth::{Permission, TenantScope},
    backend::Backend,
    cache::{Cache, Known, Observed, Resolved, Validity},
    clock::Clock,
    ledger::{Change, Head, LedgerError},
    model::{
        entry::{Entry, Revision, Version},
        key::ConfigKey,
        value::ConfigValue,
    },
    store::StoreError,
    telemetry::{self, CacheResult},
};

/// How many changes a warm environment catches up on. If it is further behind, it forgets the
/// tenant.
const MAX_DELTA: u64 = 200;
/// How long a read of entries may take with all its calls. After that the last known entries are
/// the answer, if the caller allows it.
const READ_BUDGET: Duration = Duration::from_secs(10);
/// How often a read is repeated that was overtaken by writes.
const MAX_ROUNDS: usize = 8;

/// How fresh an answer must be. By default: as fresh as can be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Freshness {
    /// How long ago the answer may have been validated.
    pub max_age: Duration,
    /// How long ago it may have been validated if the store is down.
    pub stale_if_error: Duration,
    /// The answer must be valid at this revision or later.
    pub min_revision: Option<Revision>,
}

/// An answer, and what is known of its age.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// A revision that the answer is valid at.
    pub revision: Revision,
    /// How long ago it was known to be valid, where that may be longer than now: from memory within
    /// `max-age`, or stale.
    pub age: Option<Duration>,
    /// Whether it is the last known answer, because the store is down.
    pub stale: bool,
    /// The answer.
    pub found: T,
}

impl<T> At<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> At<U> {
        At { revision: self.revision, age: self.age, stale: self.stale, found: change(self.found) }
    }
}

/// What a batch found.
#[derive(Debug)]
pub struct BatchFound {
    /// Entries, in the order of the request.
    pub found: Vec<Arc<Resolved>>,
    /// Keys that have no value.
    pub missing: Vec<ConfigKey>,
    /// Keys that did not fit into the answer.
    pub unprocessed: Vec<ConfigKey>,
    /// Keys whose value its store no longer has.
    pub unavailable: Vec<ConfigKey>,
}

/// A page of entries.
#[derive(Debug)]
pub struct ListPage {
    /// The head that it was read at. It may show a later commit in part.
    pub head: Head,
    /// Live entries in key order.
    pub entries: Vec<Fetched>,
    /// The key after which the next page begins.
    pub next: Option<String>,
}

/// One version of a key, the current or an earlier one.
#[derive(Debug)]
pub struct Fetched {
    /// The version.
    pub entry: Entry,
    /// Its value; none for a tombstone, for a version that the store does not keep any more, and if
    /// it is withheld.
    pub value: Option<ConfigValue>,
    /// Whether it has a value that the caller may not read.
    pub withheld: bool,
}

/// A page of versions, newest first.
#[derive(Debug)]
pub struct HistoryPage {
    /// The versions.
    pub versions: Vec<Fetched>,
    /// The version before which the next page begins.
    pub next: Option<Version>,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A committed value is not in its store.
    #[error("the value of {0} is not in its store any more, and nothing newer is committed")]
    ValueMissing(ConfigKey),
    /// A committed value is in a store that its tag's route no longer leads to.
    #[error("the route of the tag {tag} no longer leads to the store that holds the value of {key}", tag = .0.tag(), key = .0)]
    RouteChanged(ConfigKey),
    /// The value of an earlier version is not kept any more.
    #[error("{gone}")]
    VersionGone {
        /// Which.
        gone: ValueGone,
        /// The newest revision.
        head: Revision,
    },
    /// It is a secret, and the caller may not read secrets.
    #[error("{0} is a secret; to read it, the token needs the scope {scope} as well", scope = Permission::ReadSecrets.scope())]
    Secret(ConfigKey),
    /// The tenant is not yet at the revision that was asked for.
    #[error("the tenant's newest revision is {head}; {asked} was asked for")]
    NotReached {
        /// The newest revision.
        head: Revision,
        /// What was asked for.
        asked: Revision,
    },
    /// Writes came faster than the read.
    #[error("the keys changed faster than they could be read together")]
    Contention,
    /// The stores were too slow.
    #[error("the stores did not answer in time")]
    TooSlow,
    /// The tenant has more than the caller can hold.
    #[error("the tenant's entries are more than {limit} bytes together; read them a page at a time")]
    TooLarge {
        /// How many bytes the caller can hold.
        limit: u64,
    },
    /// The log does not reach back that far.
    #[error("the changes after revision {since} are not all kept any more")]
    Compacted {
        /// After which revision changes were asked for.
        since: Revision,
        /// The newest revision.
        head: Revision,
    },
    /// A revision that the log has not reached: the caller knows it from another life of the table.
    #[error("since is ahead of the newest revision {head}; {since} is of no history that is kept here")]
    Ahead {
        /// After which revision changes were asked for.
        since: Revision,
        /// The newest revision.
        head: Revision,
    },
}

impl ReadError {
    /// Whether the store, or the way to it, is down. An earlier answer is then better than none.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Ledger(LedgerError::Aws(failure)) | Self::Store(StoreError::Aws(failure)) => failure.kind.is_outage(),
            Self::TooSlow => true,
            _ => false,
        }
    }
}

/// Reads entries.
#[derive(Debug)]
pub struct ReadService {
    backend: Backend,
    cache: Cache,
    clock: Clock,
}

impl ReadService {
    /// A reader with an empty memory.
    pub fn new(backend: Backend, cache_max_bytes: u64, clock: Clock) -> Self {
        Self { backend, cache: Cache::new(cache_max_bytes), clock }
    }

    /// Checks that the scope permits to read the value of `key`. This comes before any lookup, so
    /// that a caller without the right does not learn whether there is a value.
    pub fn permit(&self, scope: &TenantScope, key: &ConfigKey) -> Result<(), ReadError> {
        self.backend.permit(scope, key)
    }

    /// The current entry of a key.
    pub async fn get(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        freshness: Freshness,
    ) -> Result<At<Known>, ReadError> {
        self.permit(scope, key)?;
        if let Some((valid, age)) = self.recent(scope, freshness)
            && let Some(found) = self.cache.get(scope.tenant(), &valid, key)
        {
            telemetry::note_cache(CacheResult::Hit);
            return Ok(At { revision: valid.head.revision, age: Some(age), stale: false, found });
        }
        // Boxed, because it is as large as the SDK's futures, and would be moved about even when
        // memory answers.
        match Box::pin(in_time(self.get_fresh(scope, key, freshness))).await {
            Err(error) if error.is_outage() => {
                let last_known = self.last_known(scope, &[key], freshness).ok_or(error)?;
                Ok(last_known.map(|mut known| known.remove(key).flatten()))
            }
            answer => answer,
        }
    }

    async fn get_fresh(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        mut freshness: Freshness,
    ) -> Result<At<Known>, ReadError> {
        for attempt in 0..MAX_ATTEMPTS {
            pause_before(attempt).await;
            let (valid, age) = self.validate(scope, freshness).await?;
            if let Some(known) = self.cache.get(scope.tenant(), &valid, key) {
                telemetry::note_cache(from_memory(age));
                return Ok(At { revision: valid.head.revision, age, stale: false, found: known });
            }
            telemetry::note_cache(CacheResult::Miss);
            let entry = self.backend.ledger.current(scope, key).await?.and_then(|current| current.entry);
            let written_at = entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
            let revision = written_at.max(valid.head.revision);
            let live: Vec<_> = entry.into_iter().filter(Entry::is_live).collect();
            let known: Known = match self.backend.resolve(scope, live).await?.pop() {
                None => None,
                Some((entry, Ok(value))) => Some(Arc::new(Resolved { entry, value })),
                Some((_, Err(Absent::RouteChanged))) => return Err(ReadError::RouteChanged(key.clone())),
                Some((_, Err(Absent::Withheld))) => return Err(ReadError::Secret(key.clone())),
                // The store no longer has it, probably because a newer version is committed.
                Some((_, Err(Absent::Gone))) => {
                    freshness.max_age = Duration::ZERO;
                    continue;
                }
            };
            if written_at <= valid.head.revision {
                self.cache.insert(scope.tenant(), &valid, key, known.clone());
            }
            return Ok(At { revision, age: None, stale: false, found: known });
        }
        Err(ReadError::ValueMissing(key.clone()))
    }

    /// The current entries of some keys, all valid at one revision.
    pub async fn batch_get(
        &self,
        scope: &TenantScope,
        keys: &[ConfigKey],
        freshness: Freshness,
    ) -> Result<At<BatchFound>, ReadError> {
        for key in keys {
            self.permit(scope, key)?;
        }
        match in_time(self.batch_get_fresh(scope, keys, freshness)).await {
            Err(error) if error.is_outage() => {
                let last_known = self.last_known(scope, &keys.iter().collect::<Vec<_>>(), freshness).ok_or(error)?;
                Ok(last_known.map(|known| fit(keys, &known, |_| false)))
            }
            answer => answer,
        }
    }

    async fn batch_get_fresh(
        &self,
        scope: &TenantScope,
        keys: &[ConfigKey],
        mut freshness: Freshness,
    ) -> Result<At<BatchFound>, ReadError> {
        let mut attempts = 0;
        for _ in 0..MAX_ROUNDS {
            pause_before(attempts).await;
            let (valid, age) = self.validate(scope, freshness).await?;
            freshness.max_age = Duration::ZERO;
            let mut known: HashMap<&ConfigKey, Known> = HashMap::with_capacity(keys.len());
            for key in keys {
                if let Some(cached) = self.cache.get(scope.tenant(), &valid, key) {
                    known.insert(key, cached);
                }
            }
            let wanted: Vec<_> = keys.iter().filter(|key| !known.contains_key(key)).cloned().collect();
            telemetry::note_cache(if wanted.is_empty() { from_memory(age) } else { CacheResult::Miss });
            let (mut loaded, unread) = self.backend.ledger.entries(scope, &wanted, MAX_ANSWER_BYTES).await?;
            if loaded.values().any(|entry| entry.revision > valid.head.revision) {
                // Some are newer than the head that the others are valid at. Together they might
                // show half a transaction.
                continue;
            }
            let live: Vec<_> = wanted.iter().filter_map(|key| loaded.remove(key)).filter(Entry::is_live).collect();
            let (mut resolved, mut absent) = (HashMap::new(), Vec::new());
            for (entry, value) in self.backend.resolve(scope, live).await? {
                let key = entry.key.clone();
                match value {
                    Ok(value) => _ = resolved.insert(key, Arc::new(Resolved { entry, value })),
                    Err(why) => absent.push((key, why)),
                }
            }
            let is_absent = |key: &ConfigKey| absent.iter().any(|(one, _)| one == key);
            for key in keys.iter().filter(|key| wanted.contains(key) && !unread.contains(key) && !is_absent(key)) {
                let one = resolved.remove(key);
                self.cache.insert(scope.tenant(), &valid, key, one.clone());
                known.insert(key, one);
            }
            attempts += 1;
            if attempts < MAX_ATTEMPTS && absent.iter().any(|(_, why)| *why == Absent::Gone) {
                continue;
            }
            report(scope, &absent);
            let found = fit(keys, &known, is_absent);
            return Ok(At { revision: valid.head.revision, age, stale: false, found });
        }
        Err(ReadError::Contention)
    }

    /// The tenant's head: the revision that lists, histories and changes are read at.
    pub async fn head(&self, scope: &TenantScope) -> Result<Head, ReadError> {
        Ok(self.backend.ledger.head(scope).await?)
    }

    /// Live entries whose key begins with `prefix`, after the key `after`, read at `head` or a
    /// newer one. Each is at least as new as the answer's revision. Values that the scope may not
    /// read are neither shown nor fetched.
    pub async fn list(
        &self,
        scope: &TenantScope,
        mut head: Head,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<At<ListPage>, ReadError> {
        let mut attempts = 0;
        for round in 1..=MAX_ROUNDS {
            pause_before(attempts).await;
            if round > 1 {
                head = self.head(scope).await?;
            }
            let page = self.backend.ledger.list(scope, prefix, after, limit, MAX_ANSWER_BYTES).await?;
            let torn = page.entries.iter().any(|entry| entry.revision > head.revision);
            if torn && round < MAX_ROUNDS {
                continue;
            }
            let resolved = self.backend.resolve(scope, page.entries).await?;
            let absent =
                |(entry, value): &(Entry, Result<_, Absent>)| Some((entry.key.clone(), value.as_ref().err().copied()?));
            let absent: Vec<_> = resolved.iter().filter_map(absent).collect();
            attempts += 1;
            if attempts < MAX_ATTEMPTS && round < MAX_ROUNDS && absent.iter().any(|(_, why)| *why == Absent::Gone) {
                continue;
            }
            report(scope, &absent);
            let fetched = |(entry, value): (_, Result<_, _>)| {
                let withheld = value.as_ref().is_err_and(|why| *why == Absent::Withheld);
                Fetched { entry, value: value.ok(), withheld }
            };
            let mut entries: Vec<_> = resolved.into_iter().map(fetched).collect();
            let fitting = fitting(entries.iter().map(|one| one.value.as_ref()));
            let cut = entries.drain(fitting..).next().is_some();
            let next = if cut { entries.last().map(|one| one.entry.key.to_string()) } else { page.last };
            let revision = head.revision;
            let found = ListPage { head, entries, next };
            return Ok(At { revision, age: None, stale: false, found });
        }
        Err(ReadError::Contention)
    }

    /// One version of a key; none if there never was such a version.
    pub async fn version(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        min_revision: Option<Revision>,
    ) -> Result<At<Option<Fetched>>, ReadError> {
        self.permit(scope, key)?;
        let head = self.backend.ledger.head(scope).await?;
        if let Some(asked) = min_revision.filter(|asked| *asked > head.revision) {
            return Err(ReadError::NotReached { head: head.revision, asked });
        }
        let found = match self.backend.ledger.version(scope, key, version).await? {
            Some(entry) if self.backend.is_off_route(&entry) => return Err(ReadError::RouteChanged(key.clone())),
            Some(entry) => self.past_values(scope, key, vec![entry]).await?.pop(),
            None => None,
        };
        if found.as_ref().is_some_and(|past| past.entry.is_live() && past.value.is_none()) {
            let gone = ValueGone::of(&self.backend.ledger, scope, key, version).await?;
            return Err(ReadError::VersionGone { gone, head: head.revision });
        }
        Ok(At { revision: head.revision, age: None, stale: false, found })
    }

    /// A key's versions before `before`, newest first, read at `head`.
    pub async fn history(
        &self,
        scope: &TenantScope,
        head: &Head,
        key: &ConfigKey,
        before: Option<Version>,
        limit: usize,
    ) -> Result<At<HistoryPage>, ReadError> {
        self.permit(scope, key)?;
        let (entries, more) = self.backend.ledger.history(scope, key, before, limit, MAX_ANSWER_BYTES).await?;
        let mut versions = self.past_values(scope, key, entries).await?;
        let fitting = fitting(versions.iter().map(|past| past.value.as_ref()));
        let cut = versions.drain(fitting..).next().is_some();
        let next = versions.last().filter(|_| more || cut).map(|past| past.entry.version);
        Ok(At { revision: head.revision, age: None, stale: false, found: HistoryPage { versions, next } })
    }

    /// The changes after `since`, in order, read at `head`; empty if there are none yet.
    pub async fn changes(
        &self,
        scope: &TenantScope,
        head: &Head,
        since: Revision,
        limit: usize,
    ) -> Result<At<Vec<Change>>, ReadError> {
        let changes = match since.cmp(&head.revision) {
            Ordering::Equal => Vec::new(),
            Ordering::Greater => return Err(ReadError::Ahead { since, head: head.revision }),
            Ordering::Less => self.backend.ledger.changes(scope, since, limit).await?,
        };
        if changes.is_empty() && since < head.revision {
            return Err(ReadError::Compacted { since, head: head.revision });
        }
        Ok(At { revision: head.revision, age: None, stale: false, found: changes })
    }

    /// At which revision the tenant's cached entries were valid, and how long ago, if that is fresh
    /// enough.
    fn recent(&self, scope: &TenantScope, freshness: Freshness) -> Option<(Validity, Duration)> {
        let valid = self.cache.validity(scope.tenant()).filter(|_| !freshness.max_age.is_zero())?;
        let age = valid.age(self.clock.now());
        let reached = freshness.min_revision.is_none_or(|asked| asked <= valid.head.revision);
        (age <= freshness.max_age && reached).then_some((valid, age))
    }

    /// The revision at which the tenant's cached entries are valid, as freshly as `freshness` asks.
    async fn validate(
        &self,
        scope: &TenantScope,
        freshness: Freshness,
    ) -> Result<(Validity, Option<Duration>), ReadError> {
        if let Some((valid, age)) = self.recent(scope, freshness) {
            return Ok((valid, Some(age)));
        }
        let tenant = scope.tenant();
        let asked = self.cache.ask(self.clock.now());
        let head = self.backend.ledger.head(scope).await?;
        let valid = match self.cache.observe(tenant, asked, &head) {
            Observed::Valid(valid) => valid,
            Observed::Behind(from) => {
                // From its own revision on, so that the change there shows whether it is still the
                // same history.
                let since = Revision::new(from.head.revision.get().saturating_sub(1));
                let wanted = head.revision.get() - since.get();
                let changes = if wanted > MAX_DELTA {
                    Vec::new()
                } else {
                    self.backend.ledger.changes(scope, since, usize::try_from(wanted).unwrap_or(usize::MAX)).await?
                };
                self.cache.advance(tenant, &from, asked, &head, &changes)
            }
        };
        match freshness.min_revision {
            Some(asked) if asked > valid.head.revision => {
                Err(ReadError::NotReached { head: valid.head.revision, asked })
            }
            _ => Ok((valid, None)),
        }
    }

    /// What was last known of all these keys, at one revision, if it is recent enough to stand in
    /// while a store is down.
    fn last_known<'a>(
        &self,
        scope: &TenantScope,
        keys: &[&'a ConfigKey],
        freshness: Freshness,
    ) -> Option<At<HashMap<&'a ConfigKey, Known>>> {
        let valid = self.cache.validity(scope.tenant())?;
        let age = valid.age(self.clock.now());
        let reached = freshness.min_revision.is_none_or(|asked| asked <= valid.head.revision);
        if freshness.stale_if_error.is_zero() || age > freshness.stale_if_error || !reached {
            return None;
        }
        let known = keys.iter().map(|key| Some((*key, self.cache.get(scope.tenant(), &valid, key)?)));
        let found = known.collect::<Option<_>>()?;
        telemetry::note_cache(CacheResult::Stale);
        Some(At { revision: valid.head.revision, age: Some(age), stale: true, found })
    }

    async fn past_values(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        entries: Vec<Entry>,
    ) -> Result<Vec<Fetched>, ReadError> {
        let places: Vec<_> = entries.iter().filter_map(Entry::place).collect();
        let mut elsewhere = match self.backend.stores.of(key).external() {
            Some((external, _)) if !places.is_empty() => external.get_history(scope, key, &places).await?.into_iter(),
            _ => Vec::new().into_iter(),
        };
        let versions = entries.into_iter().map(|entry| {
            let value = if entry.place().is_some() { elsewhere.next().flatten() } else { entry.value().cloned() };
            Fetched { entry, value, withheld: false }
        });
        Ok(versions.collect())
    }
}

/// The answer, if it comes within [`READ_BUDGET`].
async fn in_time<T>(reading: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
    tokio::time::timeout(READ_BUDGET, reading).await.unwrap_or(Err(ReadError::TooSlow))
}

/// How memory answered: within `max-age` it has an age, else it was validated.
fn from_memory(age: Option<Duration>) -> CacheResult {
    if age.is_some() { CacheResult::Hit } else { CacheResult::Validated }
}

#[cfg(test)]
mod tests;
