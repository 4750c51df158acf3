//! A watch: what one watcher is told, message by message.
//!
//! It is a place in the tenant's log and nothing more: no task of its own, no queue. The next message is made when the connection has room
//! for it, from whatever is the newest then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use config_proto::v1::{self, watch_config_response::Event};
use futures_util::{Stream, stream};
use tenantry::{
    clock::Timestamp,
    service::{Commit, Position, TailError},
};
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep_until},
};
use tonic::{Code, Status};

use crate::{
    answer::{self, Mark, View, out_of_range, refusal},
    memory::{Memory, Watched},
    tenant::{Attached, Cursor, Held, Next},
};

/// About how many bytes a part of a snapshot has. gRPC clients take messages of 4 MB unless they are told otherwise.
const PART_BYTES: usize = 1_000_000;
/// How many commits are fetched at once for a watcher who goes on from long ago.
const REPLAY: usize = 50;
/// Over what time watchers are told to go elsewhere when the instance ends, so that they do not come to the next one all at once.
const DRAIN_SPREAD: Duration = Duration::from_secs(2);

const NOT_KEPT: &str = "the changes since the position are not all kept any more, or it is of another history";

/// What a watcher wants to be told of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Keys, sorted.
    pub(crate) keys: Vec<String>,
    /// Beginnings of keys, sorted. If there are neither keys nor prefixes, all keys are watched.
    pub(crate) prefixes: Vec<String>,
}

impl Selection {
    /// Whether it holds a key.
    pub(crate) fn has(&self, key: &str) -> bool {
        (self.keys.is_empty() && self.prefixes.is_empty())
            || self.keys.binary_search_by(|one| one.as_str().cmp(key)).is_ok()
            || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

/// How watches are held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// After what time without a message a heartbeat is sent.
    pub(crate) heartbeat: Duration,
}

/// A watch.
#[derive(Debug)]
pub(crate) struct Watch {
    memory: Arc<Memory>,
    watched: Watched,
    selection: Selection,
    mark: Mark,
    expires_at: Timestamp,
    heartbeat: Duration,
    draining: Receiver<bool>,
    stage: Stage,
    /// The revision that the watcher was last told.
    told: u64,
    /// When it is to be told something, be it a heartbeat.
    beat_at: Instant,
    /// What the watch ends with; none while it has not begun, and is counted by who tried to begin it.
    code: Option<Code>,
}

/// What a watch is about to do.
#[derive(Debug)]
enum Stage {
    /// To tell the commits after this position, from the stores.
    Replay(Position, std::vec::IntoIter<Commit>),
    /// To tell entries part by part, and then to go on from the cursor.
    Parts(Box<Parts>, Cursor),
    /// To tell what comes after this.
    Follow(Cursor),
    /// To say that all that was asked for has been told.
    Greet(Cursor),
    /// Nothing more.
    Over,
}

#[derive(Debug)]
struct Parts {
    held: Held,
    /// For an update: the revision after which entries are news, and the keys that are gone. None for a snapshot.
    since: Option<(u64, BTreeMap<String, u64>)>,
    /// The key that the next part begins behind.
    after: Option<String>,
    is_stale: bool,
}

impl Watch {
    /// A watch that goes on from `position`, or begins with all there is. The first message is ready when this returns.
    pub(crate) async fn begin(
        memory: Arc<Memory>,
        watched: Watched,
        selection: Selection,
        position: Option<v1::Position>,
        expires_at: Timestamp,
        manners: Manners,
    ) -> Result<Self, Status> {
        let scope = Arc::clone(&watched.scope);
        let mark = Mark::new(&selection.keys, &selection.prefixes, scope.may_read_secrets());
        let position = match position {
            Some(told) => {
                let read = mark.read(&told);
                Some(read.ok_or_else(|| out_of_range("the position is of another watch, or of other rights"))?)
            }
            None => None,
        };
        let fresh = memory.fresh_watched(&watched.tenant, &scope).await;
        let is_stale = match (fresh, &position) {
            (Ok(is_stale), None) => is_stale,
            (Ok(false), Some(_)) => false,
            // It has its own memory, which is newer than what is known here may be.
            (Ok(true), Some(_)) => {
                return Err(Status::unavailable("the stores do not answer; try again, with increasing pauses"));
            }
            (Err(error), _) => return Err(refusal(&error)),
        };
        let told = position.as_ref().map_or(0, |position| position.revision.get());
        let mut watch = Self {
            draining: memory.draining(),
            memory,
            watched,
            selection,
            mark,
            expires_at,
            heartbeat: manners.heartbeat,
            stage: Stage::Over,
            told,
            beat_at: Instant::now() + manners.heartbeat,
            code: None,
        };
        watch.stage = match position {
            None => watch.snapshot(is_stale)?,
            Some(position) => watch.go_on(position).await?,
        };
        watch.code = Some(Code::Cancelled);
        Ok(watch)
    }

    fn snapshot(&self, is_stale: bool) -> Result<Stage, Status> {
        let begun = self.watched.tenant.begin();
        let (held, cursor) =
            begun.ok_or_else(|| Status::unavailable("nothing is known of the tenant yet; try again"))?;
        Ok(Stage::Parts(Box::new(Parts { held, since: None, after: None, is_stale }), cursor))
    }

    async fn go_on(&self, position: Position) -> Result<Stage, Status> {
        let (tenant, scope) = (&self.watched.tenant, &self.watched.scope);
        if tenant.attach(&position) == Attached::Ahead {
            // Another instance was further. The stores know whether there is more.
            self.memory.catch_up(scope.tenant(), tenant, scope).await.map_err(|error| refusal(&error))?;
        }
        if let Attached::Before(_) = tenant.attach(&position) {
            self.memory.reach_back(tenant, scope, &position).await.map_err(|error| refusal(&error))?;
        }
        match tenant.attach(&position) {
            Attached::At(cursor) => Ok(Stage::Greet(cursor)),
            Attached::Ahead => Err(out_of_range("the position is ahead of the newest revision")),
            Attached::Foreign => Err(out_of_range("the position is of another history")),
            Attached::Before(_) => {
                let commits = self.replay(&position).await?;
                if commits.is_empty() {
                    // There is more in memory, so the log has lost what lies between.
                    return Err(out_of_range(NOT_KEPT));
                }
                Ok(Stage::Replay(position, commits.into_iter()))
            }
        }
    }

    /// The commits after a position that the tenant's log in memory does not reach back to.
    async fn replay(&self, position: &Position) -> Result<Vec<Commit>, Status> {
        match self.memory.tail().since(&self.watched.scope, position, REPLAY).await {
            Ok(commits) => Ok(commits),
            Err(TailError::Broken) => Err(out_of_range(NOT_KEPT)),
            Err(TailError::Read(error)) => Err(refusal(&error)),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    /// Its messages.
    pub(crate) fn messages(self) -> impl Stream<Item = Result<v1::WatchConfigResponse, Status>> {
        stream::unfold(self, |mut watch| async move {
            let message = watch.next().await?;
            Some((message, watch))
        })
    }

    async fn next(&mut self) -> Option<Result<v1::WatchConfigResponse, Status>> {
        loop {
            if matches!(self.stage, Stage::Over) {
                return None;
            }
            if let Some(end) = self.end() {
                return Some(Err(self.over(end)));
            }
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Over => return None,
                Stage::Replay(position, mut commits) => {
                    if let Some(commit) = commits.next() {
                        let position = commit.position.clone();
                        let message = self.commit(&commit);
                        self.stage = Stage::Replay(position, commits);
                        if let Some(message) = message {
                            return Some(Ok(message));
                        }
                    } else {
                        match self.go_on(position).await {
                            Ok(stage) => self.stage = stage,
                            Err(status) => return Some(Err(self.over(status))),
                        }
                    }
                }
                Stage::Parts(parts, cursor) => return Some(Ok(self.part(parts, cursor))),
                Stage::Greet(cursor) => {
                    self.stage = Stage::Follow(cursor);
                    // Only if there is nothing else to be said.
                    if cursor.revision == self.told
                        && matches!(self.watched.tenant.next(cursor), (Next::Nothing, _))
                        && let Some(message) = self.beat(cursor)
                    {
                        return Some(Ok(message));
                    }
                }
                Stage::Follow(cursor) => {
                    if let Some(message) = self.follow(cursor).await {
                        return Some(message);
                    }
                }
            }
        }
    }

    /// Waits for what comes after the cursor. None if that is to be looked at anew.
    async fn follow(&mut self, cursor: Cursor) -> Option<Result<v1::WatchConfigResponse, Status>> {
        let (next, then) = self.watched.tenant.next(cursor);
        self.stage = Stage::Follow(then);
        match next {
            Next::Commit(commit) => return self.commit(&commit).map(Ok),
            Next::Snapshot(held) => {
                let parts = Parts { is_stale: held.is_restored, held, since: None, after: None };
                self.stage = Stage::Parts(Box::new(parts), then);
                return None;
            }
            Next::Conflated(held, deleted) => {
                self.memory.metrics().conflated.inc();
                let parts = Parts { held, since: Some((cursor.revision, deleted)), after: None, is_stale: false };
                self.stage = Stage::Parts(Box::new(parts), then);
                return None;
            }
            Next::Nothing => {}
        }
        let expiry = Instant::now() + self.expires_at.since(self.memory.now());
        tokio::select! {
            // If the sender is gone, so is the tenant's hub, which this watch keeps.
            _ = self.watched.wake.changed() => None,
            _ = self.draining.changed() => {
                tokio::time::sleep(DRAIN_SPREAD.mul_f64(fastrand::f64())).await;
                None
            }
            () = sleep_until(self.beat_at.min(expiry)) => {
                if self.end().is_some() { None } else { self.beat(cursor).map(Ok) }
            }
        }
    }

    /// Why the watch ends, if it does.
    fn end(&self) -> Option<Status> {
        if self.memory.now() >= self.expires_at {
            return Some(Status::unauthenticated("the token has expired; go on from the last position with a new one"));
        }
        let is_draining = *self.draining.borrow();
        is_draining
            .then(|| Status::unavailable("the instance is going away; connect again, and go on from the last position"))
    }

    fn over(&mut self, status: Status) -> Status {
        self.stage = Stage::Over;
        self.code = Some(status.code());
        status
    }

    fn view(&self) -> View<'_> {
        View { foundation: self.memory.tail().foundation(), may_read_secrets: self.watched.scope.may_read_secrets() }
    }

    /// The commit, as far as it is watched.
    fn commit(&mut self, commit: &Commit) -> Option<v1::WatchConfigResponse> {
        let watched = commit.changes.iter().filter(|change| self.selection.has(change.key.as_str()));
        let changes: Vec<_> = watched.map(|change| self.view().change(change)).collect();
        let is_all = self.selection.keys.is_empty() && self.selection.prefixes.is_empty();
        if changes.is_empty() && !is_all {
            return None;
        }
        let revision = commit.position.revision.get();
        let previous_revision = std::mem::replace(&mut self.told, revision);
        let update = v1::Update { revision, previous_revision, changes, skipped: None, more: false };
        Some(self.message(Some(&commit.position), Event::Update(update)))
    }

    /// The next part, after which come further parts, or what is after the cursor.
    fn part(&mut self, mut parts: Box<Parts>, cursor: Cursor) -> v1::WatchConfigResponse {
        let (mut entries, mut bytes, mut more) = (Vec::new(), 0, false);
        let from = parts.after.take().unwrap_or_default();
        let news = parts.since.as_ref().map_or(0, |(revision, _)| *revision);
        // The key itself was in the part before; none is empty.
        let slots = parts.held.pages.from(&from).filter(|slot| slot.key != from);
        for slot in slots.filter(|slot| slot.revision > news && self.selection.has(slot.key)) {
            if bytes > 0 && bytes + answer::size(&slot) > PART_BYTES {
                more = true;
                break;
            }
            bytes += answer::size(&slot);
            entries.push(self.view().entry(&slot));
        }
        let position = parts.held.position.clone();
        let revision = position.revision.get();
        let last = entries.last().map(|entry| entry.key.clone());
        let event = match &mut parts.since {
            None => Event::Snapshot(v1::Snapshot { entries, revision, more, stale: parts.is_stale }),
            Some((since, deleted)) => {
                let put = |entry: v1::Entry| v1::KeyChange {
                    key: entry.key.clone(),
                    operation: v1::Operation::Put.into(),
                    version: entry.version,
                    entry: Some(entry),
                };
                let gone = if more { BTreeMap::new() } else { std::mem::take(deleted) };
                let gone = gone.into_iter().filter(|(key, _)| self.selection.has(key));
                let gone = gone.map(|(key, version)| v1::KeyChange {
                    key,
                    operation: v1::Operation::Delete.into(),
                    version,
                    entry: None,
                });
                let changes = entries.into_iter().map(put).chain(gone).collect();
                let skipped = v1::SkippedRevisions { first: *since + 1, last: revision - 1 };
                let skipped = (skipped.first <= skipped.last).then_some(skipped);
                Event::Update(v1::Update { revision, previous_revision: self.told, changes, skipped, more })
            }
        };
        if more {
            parts.after = last;
            self.stage = Stage::Parts(parts, cursor);
            return self.message(None, event);
        }
        self.told = revision;
        self.stage = Stage::Follow(cursor);
        self.message(Some(&position), event)
    }

    /// Where the watch is, if it is anywhere.
    fn beat(&mut self, cursor: Cursor) -> Option<v1::WatchConfigResponse> {
        // If it has moved on just now, or was replaced, that is what there is to be told.
        let (held, _) = self.watched.tenant.begin().filter(|(_, newest)| *newest == cursor)?;
        self.told = cursor.revision;
        let scope = &self.watched.scope;
        let stale = held.is_restored || self.watched.tenant.is_behind() || !self.memory.is_followed(scope.tenant());
        let event = Event::Heartbeat(v1::Heartbeat { revision: cursor.revision, stale });
        Some(self.message(Some(&held.position), event))
    }

    fn message(&mut self, position: Option<&Position>, event: Event) -> v1::WatchConfigResponse {
        self.beat_at = Instant::now() + self.heartbeat;
        v1::WatchConfigResponse { position: position.map(|position| self.mark.tell(position)), event: Some(event) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(code) = self.code {
            self.memory.metrics().note_call("WatchConfig", code);
        }
    }
}
