//! A tenant's configuration in memory, always the newest, kept so by a watch in the background.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    entry::Entry,
    error::Error,
    watch::{Event, Operation, Position, Step, Watch},
};

/// The newest state of what a [`Filter`](crate::Filter) names. Cheap to clone; the watch behind it
/// ends with its last clone.
///
/// Reading never waits. A commit becomes visible as a whole: [`LiveConfig::view`] never shows half
/// of one. When the service cannot be reached, the last state stays, and [`LiveConfig::is_stale`]
/// says so.
#[derive(Clone)]
pub struct LiveConfig {
    state: watch::Receiver<State>,
    /// The count of changes that [`LiveConfig::changed`] has reported.
    seen: u64,
    _task: Arc<WatchTask>,
}

/// Ends the watch with the last handle.
struct WatchTask(JoinHandle<()>);

impl Drop for WatchTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All entries at one revision. It stays as it is while the configuration goes on.
#[derive(Clone, Debug)]
pub struct View {
    entries: Arc<Entries>,
    revision: u64,
}

type Entries = BTreeMap<Arc<str>, Arc<Entry>>;

impl View {
    /// The entry of a key, if it has a value.
    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(key)
    }

    /// All entries, in byte order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tenant's revision that this is of.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

/// What the handles see.
#[derive(Debug, Default)]
struct State {
    /// Changed in place unless a view holds it.
    entries: Arc<Entries>,
    position: Option<Position>,
    /// Whether the connection is there and has said that nothing is missing.
    fresh: bool,
    /// Counts snapshots and updates.
    changes: u64,
    /// Why the watch ended.
    ended: Option<Error>,
}

impl State {
    fn revision(&self) -> Option<u64> {
        self.position.as_ref().map(|position| position.revision)
    }

    /// Applies one event, as a whole: nobody sees the state while this runs.
    fn apply(&mut self, event: Event) {
        self.position = Some(event.position().clone());
        match event {
            Event::Snapshot(snapshot) => {
                let entries = snapshot.entries.into_iter().map(|entry| (Arc::from(entry.key.as_str()), entry));
                self.entries = Arc::new(entries.collect());
                self.fresh = !snapshot.stale;
                self.changes += 1;
            }
            Event::Update(update) => {
                let entries = Arc::make_mut(&mut self.entries);
                for change in update.changes {
                    match change.operation {
                        Operation::Put(entry) => {
                            entries.insert(Arc::from(change.key), entry);
                        }
                        Operation::Delete => {
                            entries.remove(change.key.as_str());
                        }
                        Operation::Supersede | Operation::Refuse | Operation::Accept => {}
                    }
                }
                self.changes += 1;
            }
            Event::Heartbeat(heartbeat) => self.fresh = !heartbeat.stale,
        }
    }
}

impl LiveConfig {
    /// Follows this watch, in a task of its own.
    pub(crate) fn start(mut watch: Watch) -> Self {
        let (sender, state) = watch::channel(State::default());
        let task = tokio::spawn(async move {
            while let Some(step) = watch.step().await {
                sender.send_modify(|state| match step {
                    Ok(Step::Event(event)) => state.apply(event),
                    // What the old connection said last may not be the newest any more.
                    Ok(Step::Lost) => state.fresh = false,
                    Err(error) => {
                        tracing::warn!(%error, "a configuration is not followed any more");
                        state.fresh = false;
                        state.ended = Some(error);
                    }
                });
            }
        });
        Self { state, seen: 0, _task: Arc::new(WatchTask(task)) }
    }

    /// The newest known entry of a key; `None` if it has no value, or nothing is known yet (see
    /// [`LiveConfig::ready`]).
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.borrow().entries.get(key).cloned()
    }

    /// Everything, at one revision; `None` if nothing is known yet. While a view is held, the next
    /// change copies the map of the entries, though not the entries.
    pub fn view(&self) -> Option<View> {
        let state = self.state.borrow();
        Some(View { revision: state.revision()?, entries: Arc::clone(&state.entries) })
    }

    /// The tenant's revision that is known; `None` if nothing is known yet.
    pub fn revision(&self) -> Option<u64> {
        self.state.borrow().revision()
    }

    /// Whether something newer may exist that is not known here: there is no connection, what came
    /// while there was none has not been told in full yet, or the service's stores do not answer.
    pub fn is_stale(&self) -> bool {
        !self.state.borrow().fresh
    }

    /// Waits until something is known. Fails if the watch ended before that.
    pub async fn ready(&self) -> Result<(), Error> {
        self.wait(|state| state.position.is_some()).await
    }

    /// Waits until this revision or a later one is known: that of a write that must be seen. It
    /// waits as long as it takes; bound it by a timeout. Fails if the watch ended before that.
    pub async fn wait_for(&self, revision: u64) -> Result<(), Error> {
        self.wait(|state| state.revision().is_some_and(|known| known >= revision)).await
    }

    /// Waits until something has changed that this handle did not report yet; several changes are
    /// reported as one. What is known when it is called first counts as a change. Fails if the
    /// watch has ended.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let seen = self.seen;
        self.wait(|state| state.changes != seen).await?;
        self.seen = self.state.borrow().changes;
        Ok(())
    }

    async fn wait(&self, mut until: impl FnMut(&State) -> bool) -> Result<(), Error> {
        let mut state = self.state.clone();
        let found = state.wait_for(|state| until(state) || state.ended.is_some()).await;
        match found {
            Ok(state) if until(&state) => Ok(()),
            Ok(state) => Err(state.ended.clone().unwrap_or(Error::Stopped)),
            Err(_) => Err(Error::Stopped),
        }
    }
}
