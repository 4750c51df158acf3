//! One tenant in memory: its entries at one revision and, while it is watched, the commits that led
//! there.
//!
//! Watchers have no queues. Each has a cursor in the tenant's log of recent commits. A watcher that
//! has fallen behind the beginning of the log is told the newest value of each key instead. So the
//! slowest watcher costs as much memory as the fastest.

mod turn;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tenantry::{
    auth::TenantScope,
    clock::Timestamp,
    ledger::ChangeOperation,
    model::entry::Revision,
    tail::{Commit, Position, Snapshot, Value},
};

use crate::{
    frames::SharedMessages,
    pages::Pages,
    waker::{Registration, Wakers},
};
use turn::RefreshLock;

/// How many commits the log of a watched tenant keeps, and how many bytes of values. The last
/// commit is kept however large it is.
const MAX_COMMITS: usize = 128;
const MAX_COMMIT_BYTES: usize = 1024 * 1024;
/// How many deleted keys are remembered beyond the log, for watchers that are far behind.
const MAX_DELETED: usize = 1_000;
/// How many bytes a tenant takes besides its entries: its place in the map, its counters, its
/// allocations.
const OVERHEAD: usize = 256;

/// A tenant.
#[derive(Debug, Default)]
pub struct Tenant {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    loaded: Option<LoadedTenant>,
    /// The highest revision that the index of changes or a hint has advertised. Only the tenant's
    /// own log confirms it.
    advertised: u64,
    group: Option<Box<WatchGroup>>,
    /// Held while the tenant is refreshed, so that one caller does it. There only while somebody
    /// does or waits.
    refresh_lock: Option<Arc<RefreshLock>>,
}

/// A tenant's entries, as they were loaded.
#[derive(Clone, Debug)]
pub struct LoadedTenant {
    /// What they are the state at.
    pub position: Position,
    /// The entries.
    pub pages: Pages,
    /// When the stores were last asked whether that is the newest.
    pub validated_at: Timestamp,
    /// Whether secrets were withheld because the rights they were read with do not cover them.
    pub lacks_secrets: bool,
    /// Whether there are values that their stores did not have.
    pub lacks_values: bool,
    /// Whether they come from the snapshot file, and no store was asked since.
    pub is_restored: bool,
}

impl LoadedTenant {
    /// Whether all of it has to be loaded again before it is shown to `scope`.
    pub fn is_partial(&self, scope: &TenantScope) -> bool {
        self.is_restored || (self.lacks_secrets && scope.may_read_secrets())
    }
}

/// What a tenant has besides, while it is watched.
#[derive(Debug)]
struct WatchGroup {
    /// The recent commits, without a gap, up to the newest.
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
    /// The newest commit as watchers are told it.
    messages: Arc<SharedMessages>,
    /// Where the tenant was before the first of them.
    from: Position,
    /// Keys that were deleted by commits before the log, with the revision and the version of the
    /// deletion.
    deleted: VecDeque<(u64, String, u64)>,
    /// From which revision on they are complete.
    deleted_from: u64,
    /// How often the state was replaced instead of advanced. A watcher of an earlier generation
    /// gets a snapshot.
    generation: u64,
    /// Whether there may be room for commits in front of the log.
    reaches_back: bool,
    /// Held by whoever fetches them.
    reaching: Arc<RefreshLock>,
    /// How many bytes the tenant took when it was last weighed.
    weighed: u64,
    /// Wakes the watchers.
    wakers: Arc<Wakers>,
    /// The rights of each watcher. The stores are read with those of one of them.
    scopes: Vec<Arc<TenantScope>>,
    /// Since when the tenant is watched.
    since: Timestamp,
}

/// A watcher's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// All commits up to this revision have been told.
    pub revision: u64,
    generation: u64,
}

/// What a watcher is to be told next.
#[derive(Debug)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// A commit.
    Commit {
        /// Of exactly the next revision.
        commit: Arc<Commit>,
        /// Whether nothing comes after it yet.
        is_newest: bool,
        /// Its messages, if it is the newest, and there are others to share them.
        messages: Option<Arc<SharedMessages>>,
    },
    /// The newest state of each key that was changed after the watcher's revision: entries of a
    /// later revision, and these deleted keys, each with the version of its deletion.
    Conflated(LoadedTenant, BTreeMap<String, u64>),
    /// All of it anew.
    Snapshot(LoadedTenant),
}

/// Whether a watch can go on from a position.
#[derive(Debug, PartialEq, Eq)]
pub enum Attached {
    /// Here.
    At(Cursor),
    /// Not from the log in memory, which begins later.
    Before,
    /// Not yet: the tenant in memory is of an earlier revision.
    Ahead,
    /// Never: it is of another history.
    Foreign,
}

impl Tenant {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in memory.
    pub fn loaded(&self) -> Option<LoadedTenant> {
        self.state().loaded.clone()
    }

    /// What `inspect` makes of what is in memory and of the advertised revision, if anything is in
    /// memory.
    pub fn inspect<T>(&self, inspect: impl FnOnce(&LoadedTenant, u64) -> T) -> Option<T> {
        let state = self.state();
        state.loaded.as_ref().map(|loaded| inspect(loaded, state.advertised))
    }

    /// About how many bytes the tenant takes.
    pub fn weight(&self) -> u64 {
        self.state().weight()
    }

    /// Weighs a tenant that is watched. Returns how many bytes it took when it was last weighed,
    /// and how many it takes now.
    pub fn weigh(&self) -> Option<(u64, u64)> {
        let mut state = self.state();
        let weight = state.weight();
        let group = state.group.as_mut()?;
        Some((std::mem::replace(&mut group.weighed, weight), weight))
    }

    /// Notes that the tenant should be at `revision`. Returns whether that is news.
    pub fn advertise(&self, revision: u64) -> bool {
        let mut state = self.state();
        let known = state.loaded.as_ref().map_or(0, |loaded| loaded.position.revision.get());
        state.advertised = state.advertised.max(revision);
        revision > known
    }

    /// The revision that the tenant should be at, as far as it was advertised.
    pub fn advertised_revision(&self) -> u64 {
        self.state().advertised
    }

    /// Clears the advertised revision: the stores, read after it was advertised, have no more than
    /// memory has. One that was advertised since stays.
    pub fn clear_advertised(&self, advertised: u64) {
        let mut state = self.state();
        if state.advertised == advertised {
            state.advertised = 0;
        }
    }

    /// Makes the next reader ask the stores.
    pub fn invalidate(&self) {
        if let Some(loaded) = &mut self.state().loaded {
            loaded.validated_at = Timestamp::from_millis(0);
        }
    }

    /// Whether a later revision is advertised than memory has.
    pub fn is_behind(&self) -> bool {
        let state = self.state();
        state.loaded.as_ref().is_some_and(|loaded| loaded.position.revision.get() < state.advertised)
    }

    /// Whether memory lacks secrets that a watcher may read.
    pub fn is_partial(&self) -> bool {
        let state = self.state();
        state.loaded.as_ref().is_some_and(|loaded| loaded.lacks_secrets) && state.shows_secrets()
    }

    /// Replaces what is in memory by a snapshot that was read after `asked`. Returns false, and
    /// does nothing, if it lacks secrets that a watcher may read. Watchers are not woken if nothing
    /// changes.
    #[must_use]
    pub fn replace(&self, snapshot: &Snapshot, asked: Timestamp) -> bool {
        let entries = snapshot.entries.iter().map(|(key, entry)| (key.as_str(), entry));
        let loaded = LoadedTenant {
            position: snapshot.position.clone(),
            pages: Pages::new(entries),
            validated_at: asked,
            lacks_secrets: snapshot.entries.values().any(|entry| entry.value == Value::Withheld),
            lacks_values: snapshot.entries.values().any(|entry| entry.value == Value::Unavailable),
            is_restored: false,
        };
        let mut state = self.state();
        let is_enough = !loaded.lacks_secrets || !state.shows_secrets();
        let is_same =
            |own: &LoadedTenant| !own.is_restored && own.position == loaded.position && own.pages == loaded.pages;
        if !is_enough {
            return false;
        }
        if state.loaded.as_ref().is_some_and(is_same) {
            state.loaded = Some(loaded);
        } else {
            state.put(loaded);
            wake(state);
        }
        true
    }

    /// Replaces what is in memory.
    pub fn put(&self, loaded: LoadedTenant) {
        let mut state = self.state();
        state.put(loaded);
        wake(state);
    }

    /// Wakes all watchers.
    pub fn wake(&self) {
        wake(self.state());
    }

    /// Applies the commits that follow what is in memory; others are left out. If they are all that
    /// the stores had at `asked`, memory is the newest as of then. Returns false, and does nothing,
    /// if they lack secrets that a watcher may read: it would be told of them without their values.
    #[must_use]
    pub fn advance(&self, commits: Vec<Commit>, asked: Option<Timestamp>) -> bool {
        let mut state = self.state();
        if state.shows_secrets() && lack_secrets(&commits) {
            return false;
        }
        let State { loaded: Some(loaded), group, .. } = &mut *state else { return true };
        let begin = loaded.position.revision;
        let mut changes = BTreeMap::new();
        let mut position = loaded.position.clone();
        let new = commits.into_iter().filter(|commit| commit.position.revision > begin).map(Arc::new);
        let new: Vec<_> = new.collect();
        for commit in &new {
            for change in &commit.changes {
                loaded.lacks_secrets |= change.entry.as_ref().is_some_and(|entry| entry.value == Value::Withheld);
                loaded.lacks_values |= change.entry.as_ref().is_some_and(|entry| entry.value == Value::Unavailable);
                match change.operation {
                    ChangeOperation::Put => _ = changes.insert(change.key.as_str(), change.entry.as_ref()),
                    ChangeOperation::Delete => _ = changes.insert(change.key.as_str(), None),
                    ChangeOperation::Supersede | ChangeOperation::Refuse | ChangeOperation::Accept => {}
                }
            }
            position = commit.position.clone();
        }
        if !changes.is_empty() {
            loaded.pages = loaded.pages.with(&changes);
        }
        loaded.position = position;
        loaded.validated_at = asked.map_or(loaded.validated_at, |asked| loaded.validated_at.max(asked));
        let is_news = !new.is_empty();
        if let Some(group) = group {
            group.append(new);
        }
        if is_news {
            wake(state);
        }
        true
    }

    /// Puts commits in front of the log, if they lead to where it begins, have room in it, and lack
    /// no secrets that memory has. If they do not, none are put there again.
    pub fn prepend(&self, from: &Position, commits: Vec<Commit>) {
        let mut state = self.state();
        let may_lack = state.loaded.as_ref().is_some_and(|loaded| loaded.lacks_secrets) && !state.shows_secrets();
        let lacks_secrets = !may_lack && lack_secrets(&commits);
        let Some(group) = &mut state.group else { return };
        let bytes = group.bytes + commits.iter().map(size).sum::<usize>();
        let is_fit = group.commits.len() + commits.len() <= MAX_COMMITS && bytes <= MAX_COMMIT_BYTES;
        if lacks_secrets || !is_fit || commits.last().is_none_or(|last| last.position != group.from) {
            group.reaches_back = false;
            return;
        }
        for commit in commits.into_iter().rev().map(Arc::new) {
            group.bytes += size(&commit);
            group.commits.push_front(commit);
        }
        group.from = from.clone();
    }

    /// How many commits the log lacks to reach back to `position`, if there may be room for them,
    /// and the lock to hold while they are fetched.
    pub fn lacks_before(&self, position: &Position) -> Option<(usize, Arc<RefreshLock>)> {
        let state = self.state();
        let group = state.group.as_ref()?;
        // Without the commit's id it may be of another history.
        let is_known = position.commit.is_some() || position.revision == Revision::ZERO;
        let lacks = group.from.revision.get().checked_sub(position.revision.get())?;
        let lacks = usize::try_from(lacks).ok().filter(|lacks| (1..=MAX_COMMITS).contains(lacks))?;
        (is_known && group.reaches_back).then(|| (lacks, Arc::clone(&group.reaching)))
    }

    /// Closes the watches whose tokens have expired at `now`.
    pub fn close_expired(&self, now: Timestamp) {
        let wakers = self.state().wakers();
        if let Some(wakers) = wakers {
            wakers.close_expired(now);
        }
    }

    /// Adds a watcher with these rights. Returns the place where it registers to be woken.
    pub fn join(&self, scope: Arc<TenantScope>, now: Timestamp) -> Registration {
        let mut state = self.state();
        let State { loaded, group, .. } = &mut *state;
        let group = group.get_or_insert_with(|| {
            let from = loaded.as_ref().map_or(Position::BEGINNING, |loaded| loaded.position.clone());
            Box::new(WatchGroup::at(from, now))
        });
        group.scopes.push(scope);
        Registration::new(Arc::clone(&group.wakers))
    }

    /// Removes a watcher. If it was the last one, returns how many bytes the tenant took when it
    /// was last weighed.
    pub fn leave(&self, scope: &Arc<TenantScope>) -> Option<u64> {
        let mut state = self.state();
        let Some(group) = &mut state.group else { return Some(0) };
        if let Some(index) = group.scopes.iter().position(|one| Arc::ptr_eq(one, scope)) {
            group.scopes.swap_remove(index);
        }
        if !group.scopes.is_empty() {
            return None;
        }
        let weighed = group.weighed;
        state.group = None;
        Some(weighed)
    }

    /// Since when it is watched without a break, if it is watched.
    pub fn watched_since(&self) -> Option<Timestamp> {
        self.state().group.as_ref().map(|group| group.since)
    }

    /// How many watch it.
    pub fn watchers(&self) -> usize {
        self.state().group.as_ref().map_or(0, |group| group.scopes.len())
    }

    /// The rights of a watcher, of one who may read secrets if there is one.
    pub fn scope(&self) -> Option<Arc<TenantScope>> {
        let state = self.state();
        let scopes = &state.group.as_ref()?.scopes;
        scopes.iter().find(|scope| scope.may_read_secrets()).or_else(|| scopes.first()).cloned()
    }

    /// What is in memory, and the cursor after it.
    pub fn begin(&self) -> Option<(LoadedTenant, Cursor)> {
        let state = self.state();
        let (loaded, group) = (state.loaded.as_ref()?, state.group.as_ref()?);
        Some((loaded.clone(), group.cursor(&loaded.position)))
    }

    /// Where a watcher goes on that was told everything up to `position`.
    pub fn attach(&self, position: &Position) -> Attached {
        let state = self.state();
        let (Some(loaded), Some(group)) = (&state.loaded, &state.group) else { return Attached::Ahead };
        if position.revision > loaded.position.revision {
            return Attached::Ahead;
        }
        if position.revision < group.from.revision {
            return Attached::Before;
        }
        let index = position.revision.get() - group.from.revision.get();
        let before = usize::try_from(index).ok().and_then(|index| index.checked_sub(1));
        let own = before.and_then(|before| group.commits.get(before)).map_or(&group.from, |commit| &commit.position);
        match (&position.commit, &own.commit) {
            (Some(told), Some(own)) if told != own => Attached::Foreign,
            _ => Attached::At(group.cursor(position)),
        }
    }

    /// What a watcher is told next, and its cursor after that.
    pub fn next(&self, cursor: Cursor) -> (Next, Cursor) {
        let state = self.state();
        let (Some(loaded), Some(group)) = (&state.loaded, &state.group) else { return (Next::Nothing, cursor) };
        let newest = group.cursor(&loaded.position);
        if cursor.generation != group.generation {
            return (Next::Snapshot(loaded.clone()), newest);
        }
        if cursor.revision >= newest.revision {
            return (Next::Nothing, cursor);
        }
        if let Some(index) = cursor.revision.checked_sub(group.from.revision.get()) {
            let commit = usize::try_from(index).ok().and_then(|index| group.commits.get(index));
            if let Some(commit) = commit {
                let then = group.cursor(&commit.position);
                let is_newest = then == newest;
                let messages = (is_newest && group.scopes.len() > 1).then(|| Arc::clone(&group.messages));
                return (Next::Commit { commit: Arc::clone(commit), is_newest, messages }, then);
            }
        }
        if cursor.revision < group.deleted_from {
            return (Next::Snapshot(loaded.clone()), newest);
        }
        let gone = group.deleted.iter().filter(|(revision, ..)| *revision > cursor.revision);
        let mut deleted: BTreeMap<_, _> = gone.map(|(_, key, version)| (key.clone(), *version)).collect();
        for change in group.commits.iter().flat_map(|commit| &commit.changes) {
            if change.operation == ChangeOperation::Delete {
                deleted.insert(change.key.to_string(), change.version.get());
            }
        }
        deleted.retain(|key, _| loaded.pages.get(key).is_none());
        (Next::Conflated(loaded.clone(), deleted), newest)
    }
}

impl State {
    /// The wakers of the watchers, to be used once the state is unlocked.
    fn wakers(&self) -> Option<Arc<Wakers>> {
        self.group.as_ref().map(|group| Arc::clone(&group.wakers))
    }

    fn weight(&self) -> u64 {
        let pages = self.loaded.as_ref().map_or(0, |loaded| loaded.pages.bytes());
        let log = self.group.as_ref().map_or(0, |group| group.bytes + group.messages.bytes());
        (OVERHEAD + pages + log) as u64
    }

    fn put(&mut self, loaded: LoadedTenant) {
        if let Some(group) = &mut self.group {
            group.restart(loaded.position.clone());
        }
        self.loaded = Some(loaded);
    }

    /// Whether a watcher may read secrets.
    fn shows_secrets(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.scopes.iter().any(|scope| scope.may_read_secrets()))
    }
}

/// Wakes the watchers once the state is unlocked.
fn wake(state: MutexGuard<'_, State>) {
    let wakers = state.wakers();
    drop(state);
    if let Some(wakers) = wakers {
        wakers.wake_all();
    }
}

/// Whether a secret was withheld in one of them.
fn lack_secrets(commits: &[Commit]) -> bool {
    let mut changes = commits.iter().flat_map(|commit| &commit.changes);
    changes.any(|change| change.entry.as_ref().is_some_and(|entry| entry.value == Value::Withheld))
}

impl WatchGroup {
    fn at(from: Position, since: Timestamp) -> Self {
        Self {
            commits: VecDeque::new(),
            bytes: 0,
            messages: Arc::default(),
            deleted: VecDeque::new(),
            deleted_from: from.revision.get(),
            from,
            generation: 0,
            reaches_back: true,
            reaching: Arc::default(),
            weighed: 0,
            wakers: Arc::default(),
            scopes: Vec::new(),
            since,
        }
    }

    fn cursor(&self, position: &Position) -> Cursor {
        Cursor { revision: position.revision.get(), generation: self.generation }
    }

    fn restart(&mut self, from: Position) {
        self.commits.clear();
        self.bytes = 0;
        // Another history may have another commit of the same revision.
        self.messages = Arc::default();
        self.deleted.clear();
        self.deleted_from = from.revision.get();
        self.from = from;
        self.reaches_back = true;
        self.generation += 1;
    }

    fn append(&mut self, commits: Vec<Arc<Commit>>) {
        for commit in commits {
            self.bytes += size(&commit);
            self.commits.push_back(commit);
        }
        self.trim();
    }

    /// Drops the oldest commits that are too many.
    fn trim(&mut self) {
        while self.commits.len() > 1 && (self.commits.len() > MAX_COMMITS || self.bytes > MAX_COMMIT_BYTES) {
            let Some(commit) = self.commits.pop_front() else { return };
            self.bytes -= size(&commit);
            self.from = commit.position.clone();
            let revision = commit.position.revision.get();
            for change in commit.changes.iter().filter(|change| change.operation == ChangeOperation::Delete) {
                self.deleted.push_back((revision, change.key.to_string(), change.version.get()));
            }
        }
        while self.deleted.len() > MAX_DELETED {
            // All of one revision go together, or a watcher would be told of half of them.
            let Some((revision, ..)) = self.deleted.pop_front() else { return };
            self.deleted_from = self.deleted_from.max(revision);
        }
    }
}

/// About how many bytes a commit takes.
fn size(commit: &Commit) -> usize {
    let changes = commit.changes.iter().map(|change| {
        let value = match change.entry.as_ref().map(|entry| &entry.value) {
            Some(Value::Present(value)) => value.as_json().len(),
            _ => 0,
        };
        value + change.key.as_str().len() + 128
    });
    changes.sum::<usize>() + 128
}

#[cfg(test)]
mod tests;
