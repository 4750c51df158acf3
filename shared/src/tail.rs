//! A tenant's whole configuration, and the commits since: for services that hold it in memory and
//! read the log.
//!
//! Both are of exactly one revision, although neither DynamoDB's pages nor its batches are
//! snapshots. The values of a change come from the key's immutable version, never from the entry,
//! which may be newer already.

use std::collections::{BTreeMap, HashMap};

use crate::{
    auth::TenantScope,
    backend::Backend,
    clock::Timestamp,
    ledger::{Change, ChangeOperation, Head},
    model::{
        entry::{CommitId, Entry, Revision, Version},
        key::ConfigKey,
        value::{ConfigValue, answer_bytes},
    },
    read::{
        ReadError,
        values::{Absent, MAX_ATTEMPTS, pause_before, report},
    },
};

/// How many entries or changes are fetched at once.
const PAGE: usize = 100;
/// The most bytes of a page of entries, as [`answer_bytes`] counts them.
const PAGE_BYTES: usize = 4_000_000;
/// How often the entries are read again because the log does not tell what happened meanwhile.
const MAX_ROUNDS: usize = 4;
/// The values of how many commits are fetched at once. A commit has up to 1.5 MB of them.
const VALUES_PAGE: usize = 16;

/// Reads tenants as a whole.
#[derive(Clone, Debug)]
pub struct TailService {
    backend: Backend,
}

/// A value, or why it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Here it is.
    Present(ConfigValue),
    /// It is a secret, and the caller may not read secrets.
    Withheld,
    /// Its store does not have it any more, or the route of its tag leads elsewhere.
    Unavailable,
}

/// A key's version with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valued {
    /// The version.
    pub version: Version,
    /// The commit that wrote it.
    pub revision: Revision,
    /// Its value.
    pub value: Value,
}

/// A point in a tenant's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The revision.
    pub revision: Revision,
    /// The commit that made it. Without it, another history may go unnoticed.
    pub commit: Option<CommitId>,
}

impl Position {
    /// Before the first commit.
    pub const BEGINNING: Self = Self { revision: Revision::ZERO, commit: None };

    /// Whether this is where the head is.
    fn is_at(&self, head: &Head) -> bool {
        self.revision == head.revision && self.is_of(&head.commit)
    }

    /// Whether `commit`, the commit of this position's revision in the history at hand, made this
    /// position.
    fn is_of(&self, commit: &CommitId) -> bool {
        self.commit.as_ref().is_none_or(|own| own == commit)
    }
}

impl From<Head> for Position {
    fn from(head: Head) -> Self {
        let commit = (head.revision > Revision::ZERO).then_some(head.commit);
        Self { revision: head.revision, commit }
    }
}

/// All live entries of a tenant, at one revision.
#[derive(Debug)]
pub struct Snapshot {
    /// The point in history that they are the state at.
    pub position: Position,
    /// The entries.
    pub entries: BTreeMap<ConfigKey, Valued>,
}

/// What a commit did to one key.
#[derive(Clone, Debug)]
pub struct KeyChange {
    /// The key.
    pub key: ConfigKey,
    /// The version that was written.
    pub version: Version,
    /// What was done.
    pub operation: ChangeOperation,
    /// What it wrote, if it was a put.
    pub entry: Option<Valued>,
}

/// One commit, with the values that it wrote.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Where the tenant is after it.
    pub position: Position,
    /// When it was committed, by the writer's clock.
    pub at: Timestamp,
    /// What it did, without keys whose tags have no route any more.
    pub changes: Vec<KeyChange>,
}

/// Commits that follow each other.
#[derive(Clone, Debug)]
pub struct Commits {
    /// The commits, without a gap.
    pub commits: Vec<Commit>,
    /// Whether the last one is the newest, or was when it was read.
    pub is_all: bool,
}

impl Commit {
    /// How many bytes of values it wrote.
    pub fn value_bytes(&self) -> usize {
        let values = self.changes.iter().filter_map(|change| match &change.entry.as_ref()?.value {
            Value::Present(value) => Some(value.as_json().len()),
            Value::Withheld | Value::Unavailable => None,
        });
        values.sum()
    }
}

/// Why the changes are not available.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The log does not continue from there: it is not kept that long, or it is of another history.
    /// The entries have to be read again.
    #[error("the change log does not continue from there")]
    Broken,
    /// They cannot be read now.
    #[error(transparent)]
    Read(#[from] ReadError),
}

macro_rules! from_read_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for TailError {
            fn from(error: $error) -> Self {
                Self::Read(error.into())
            }
        }
    )*};
}
from_read_errors!(crate::ledger::LedgerError, crate::store::StoreError);

impl TailService {
    /// A reader of whole tenants.
    pub fn new(backend: Backend) -> Self {
        Self { backend }
    }

    /// The ledger and the stores.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The newest revision, read strongly.
    pub async fn head(&self, scope: &TenantScope) -> Result<Head, ReadError> {
        Ok(self.backend.ledger.head(scope).await?)
    }

    /// All live entries, at the newest revision at the time of the call or a later one.
    ///
    /// Secrets are withheld without the scope for them. It is an error if the entries are more than
    /// `limit` bytes together.
    pub async fn snapshot(&self, scope: &TenantScope, limit: u64) -> Result<Snapshot, ReadError> {
        let ledger = &self.backend.ledger;
        for _ in 0..MAX_ROUNDS {
            let before = ledger.head(scope).await?;
            let mut entries: BTreeMap<ConfigKey, Entry> = BTreeMap::new();
            let (mut bytes, mut after) = (0, None);
            if before.revision > Revision::ZERO {
                loop {
                    let page = ledger.list(scope, "", after.as_deref(), PAGE, PAGE_BYTES).await?;
                    bytes += page.entries.iter().map(|entry| answer_bytes(entry.value()) as u64).sum::<u64>();
                    if bytes > limit {
                        return Err(ReadError::TooLarge { limit });
                    }
                    entries.extend(page.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
                    after = page.last;
                    if after.is_none() {
                        break;
                    }
                }
            }
            // Read after the entries, so none of them is newer. If one is, its commit was still
            // being applied.
            let head = ledger.head(scope).await?;
            if entries.values().any(|entry| entry.revision > head.revision) {
                continue;
            }
            if head != before {
                let behind = head.revision.get().saturating_sub(before.revision.get());
                match self.log(scope, &before.into(), behind).await {
                    Ok(changes) if leads_to(&changes, &head) => {
                        if !self.apply(scope, &mut entries, &changes).await? {
                            continue;
                        }
                    }
                    Ok(_) | Err(TailError::Broken) => continue,
                    Err(TailError::Read(error)) => return Err(error),
                }
            }
            let (keys, entries): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
            let entries = keys.into_iter().zip(self.valued(scope, entries).await?).collect();
            return Ok(Snapshot { position: head.into(), entries });
        }
        Err(ReadError::Contention)
    }

    /// The commits after `from`, in order and without a gap; none if `from` is the newest. At most
    /// `limit`, and no more once they have `bytes` bytes of values.
    pub async fn since(
        &self,
        scope: &TenantScope,
        from: &Position,
        limit: usize,
        bytes: usize,
    ) -> Result<Commits, TailError> {
        let changes = self.log(scope, from, limit as u64).await?;
        let mut is_all = changes.len() < limit;
        let (mut commits, mut taken) = (Vec::with_capacity(changes.len()), 0);
        for changes in changes.chunks(VALUES_PAGE) {
            if taken >= bytes {
                is_all = false;
                break;
            }
            let page = self.commits(scope, changes).await?;
            taken += page.iter().map(Commit::value_bytes).sum::<usize>();
            commits.extend(page);
        }
        Ok(Commits { commits, is_all })
    }

    /// Changes, with the values that they wrote.
    async fn commits(&self, scope: &TenantScope, changes: &[Change]) -> Result<Vec<Commit>, TailError> {
        let versions = self.versions(scope, changes.iter().flat_map(written)).await?;
        let mut commits = Vec::with_capacity(changes.len());
        for change in changes {
            let parsed = change.keys.iter().filter_map(|changed| {
                Some((ConfigKey::parse(&changed.key, &self.backend.routes).ok()?, changed.version, changed.operation))
            });
            let parsed: Vec<_> = parsed.collect();
            let found = |key: &ConfigKey, version| versions.get(&(key.clone(), version)).cloned();
            let puts = parsed.iter().filter(|(_, _, operation)| *operation == ChangeOperation::Put);
            // A version that the log names and that is missing must not pass for a deleted key.
            let entries: Option<Vec<Entry>> = puts.map(|(key, version, _)| found(key, *version)).collect();
            let entries = entries.ok_or(TailError::Broken)?;
            // One commit at a time, because it names each key once: a store's answers about several
            // versions of a key could not be told apart.
            let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
            let mut valued: HashMap<_, _> = keys.into_iter().zip(self.valued(scope, entries).await?).collect();
            let changes = parsed.into_iter().map(|(key, version, operation)| {
                let entry = valued.remove(&key);
                KeyChange { key, version, operation, entry }
            });
            let changes = changes.collect();
            let position = Position { revision: change.revision, commit: Some(change.commit.clone()) };
            commits.push(Commit { position, at: change.at, changes });
        }
        Ok(commits)
    }

    /// The changes after `from`, at most `limit`, if the log continues from there.
    async fn log(&self, scope: &TenantScope, from: &Position, limit: u64) -> Result<Vec<Change>, TailError> {
        let ledger = &self.backend.ledger;
        let mut changes: Vec<Change> = Vec::new();
        // From its own revision on, so that the change there shows whether it is still the same
        // history.
        let mut since = Revision::new(from.revision.get().saturating_sub(1));
        let mut is_ours = from.revision == Revision::ZERO;
        while (changes.len() as u64) < limit {
            let rest = usize::try_from(limit - changes.len() as u64).unwrap_or(usize::MAX);
            let wanted = rest.min(PAGE) + usize::from(!is_ours);
            let page = ledger.changes(scope, since, wanted).await?;
            let is_last = page.len() < wanted;
            let mut page = page.into_iter();
            if !is_ours {
                match page.next() {
                    Some(own) if from.is_of(&own.commit) => is_ours = true,
                    // It is not kept any more, which is fine if nothing has happened since; or it
                    // never existed.
                    None if from.is_at(&ledger.head(scope).await?) => return Ok(changes),
                    Some(_) | None => return Err(TailError::Broken),
                }
            }
            changes.extend(page);
            since = changes.last().map_or(from.revision, |change| change.revision);
            if is_last {
                break;
            }
        }
        // The log is empty: the tenant is new, or the log does not reach back that far.
        let is_unknown = from.revision == Revision::ZERO && changes.is_empty();
        if is_unknown && limit > 0 && ledger.head(scope).await?.revision > Revision::ZERO {
            return Err(TailError::Broken);
        }
        Ok(changes)
    }

    /// Applies `changes` to the entries. False if a version that they wrote is missing.
    async fn apply(
        &self,
        scope: &TenantScope,
        entries: &mut BTreeMap<ConfigKey, Entry>,
        changes: &[Change],
    ) -> Result<bool, ReadError> {
        let mut last: HashMap<ConfigKey, (Version, ChangeOperation)> = HashMap::new();
        for changed in changes.iter().flat_map(|change| &change.keys) {
            if changed.operation.is_write()
                && let Ok(key) = ConfigKey::parse(&changed.key, &self.backend.routes)
            {
                last.insert(key, (changed.version, changed.operation));
            }
        }
        let puts = last.iter().filter(|(_, (_, operation))| *operation == ChangeOperation::Put);
        let versions = self.versions(scope, puts.map(|(key, (version, _))| (key.as_str(), *version))).await?;
        for (key, (version, operation)) in last {
            match versions.get(&(key.clone(), version)) {
                Some(entry) => _ = entries.insert(key, entry.clone()),
                None if operation == ChangeOperation::Delete => _ = entries.remove(&key),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn versions<'a>(
        &self,
        scope: &TenantScope,
        wanted: impl Iterator<Item = (&'a str, Version)>,
    ) -> Result<HashMap<(ConfigKey, Version), Entry>, ReadError> {
        let parsed =
            wanted.filter_map(|(key, version)| Some((ConfigKey::parse(key, &self.backend.routes).ok()?, version)));
        let parsed: Vec<_> = parsed.collect();
        let found = self.backend.ledger.versions(scope, &parsed).await?;
        Ok(found.into_iter().map(|entry| ((entry.key.clone(), entry.version), entry)).collect())
    }

    /// The values of live entries, in the same order.
    async fn valued(&self, scope: &TenantScope, entries: Vec<Entry>) -> Result<Vec<Valued>, ReadError> {
        for attempt in 1.. {
            let resolved = self.backend.resolve(scope, entries.clone()).await?;
            let absent =
                |(entry, value): &(Entry, Result<_, Absent>)| Some((entry.key.clone(), value.as_ref().err().copied()?));
            let absent: Vec<_> = resolved.iter().filter_map(absent).collect();
            if attempt < MAX_ATTEMPTS && absent.iter().any(|(_, why)| *why == Absent::Gone) {
                pause_before(attempt).await;
                continue;
            }
            report(scope, &absent);
            let valued = resolved.into_iter().map(|(entry, value)| {
                let value = match value {
                    Ok(value) => Value::Present(value),
                    Err(Absent::Withheld) => Value::Withheld,
                    Err(Absent::Gone | Absent::RouteChanged) => Value::Unavailable,
                };
                Valued { version: entry.version, revision: entry.revision, value }
            });
            return Ok(valued.collect());
        }
        Ok(Vec::new())
    }
}

/// Whether `changes` lead to this head.
fn leads_to(changes: &[Change], head: &Head) -> bool {
    changes.last().is_some_and(|last| last.revision == head.revision && last.commit == head.commit)
}

/// What a change put.
fn written(change: &Change) -> impl Iterator<Item = (&str, Version)> {
    let puts = change.keys.iter().filter(|changed| changed.operation == ChangeOperation::Put);
    puts.map(|changed| (changed.key.as_str(), changed.version))
}
