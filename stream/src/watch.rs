//! A watch: what one watcher is told, message by message.
//!
//! It is a place in the tenant's log and nothing more: no task of its own, no queue. The next
//! message is made when the connection has room for it, from whatever is the newest then.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use config_proto::v1::{self, watch_config_response::Event};
use futures_util::{FutureExt, Stream, future::BoxFuture};
use tenantry::{
    auth::TenantScope,
    clock::Timestamp,
    read::ReadError,
    tail::{Commit, Position, TailError},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use crate::{
    answer::{self, View, WatchFingerprint, full, out_of_range, refusal},
    memory::{Memory, REFRESH_TIMEOUT, VALIDITY, Watched},
    tenant::{Attached, Cursor, LoadedTenant, Next, Tenant},
};

/// About how many bytes a part of a snapshot has; an entry may be larger. A watcher who does not
/// read has up to two of them waiting.
const PART_BYTES: usize = 64 * 1_024;
/// How many commits are fetched at once for a watcher who goes on from long ago, and after how many
/// bytes of values no further ones are.
const REPLAY: usize = 16;
const REPLAY_BYTES: usize = 256 * 1_024;
/// Over what time watchers are told to go elsewhere when the instance ends, so that they do not
/// come to the next one all at once.
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

/// How watches are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchOptions {
    /// After what time without a message a heartbeat is sent.
    pub(crate) heartbeat: Duration,
}

/// A watch: the stream of its messages.
pub(crate) struct Watch {
    memory: Arc<Memory>,
    watched: Watched,
    selection: Selection,
    fingerprint: WatchFingerprint,
    expires_at: Timestamp,
    heartbeat: Duration,
    stage: Stage,
    /// The revision that the watcher was last told.
    told: u64,
    /// Whether it is to be told when it has been told all that it asked for.
    initial_heartbeat: bool,
    /// When it was told what was last known, as the stores did not answer.
    stale_at: Option<Timestamp>,
    /// When it is to be told something, be it a heartbeat.
    beat_at: Instant,
    /// When the token expires, by the clock that timers go by.
    expiry: Instant,
    /// When it is to go elsewhere, if the instance ends.
    leave_at: Option<Instant>,
    /// Wakes it for the earliest of these, or before.
    timer: Pin<Box<Sleep>>,
    /// What the watch ends with; none while it has not begun, and is counted by who tried to begin
    /// it.
    code: Option<Code>,
}

/// What a watch is about to do.
enum Stage {
    /// To tell the commits after this position, from the stores.
    Replay(Position, std::vec::IntoIter<Commit>),
    /// What comes of asking the stores.
    Ask(BoxFuture<'static, Result<Stage, Status>>),
    /// To tell entries part by part, and then to go on from the cursor.
    Parts(Box<Parts>, Cursor),
    /// To tell what comes after this.
    Follow(Cursor),
    /// Nothing more.
    Over,
}

#[derive(Debug)]
struct Parts {
    loaded: LoadedTenant,
    /// For an update: the revision after which entries are news, and the keys that are gone. None
    /// for a snapshot.
    since: Option<(u64, BTreeMap<String, u64>)>,
    /// The key that the next part begins behind.
    after: Option<String>,
    is_stale: bool,
}

impl Watch {
    /// A watch that goes on from `position`, or begins with all there is. The first message is
    /// ready when this returns.
    pub(crate) async fn begin(
        memory: Arc<Memory>,
        watched: Watched,
        selection: Selection,
        position: Option<v1::Position>,
        expires_at: Timestamp,
        options: WatchOptions,
    ) -> Result<Self, Status> {
        if memory.is_draining() {
            return Err(going_away());
        }
        let scope = Arc::clone(&watched.scope);
        let fingerprint = WatchFingerprint::new(&selection.keys, &selection.prefixes, scope.may_read_secrets());
        let position = match position {
            Some(told) => {
                let read = fingerprint.read(&told);
                Some(read.ok_or_else(|| out_of_range("the position is of another watch, or of other rights"))?)
            }
            None => None,
        };
        let fresh = memory.fresh_watched(&watched.tenant, &scope).await;
        memory.make_room(&watched.tenant).map_err(full)?;
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
        let now = Instant::now();
        let (beat_at, expiry) = (now + options.heartbeat, now + expires_at.since(memory.now()));
        let mut watch = Self {
            selection,
            fingerprint,
            expires_at,
            heartbeat: options.heartbeat,
            stage: Stage::Over,
            told,
            initial_heartbeat: position.is_some(),
            stale_at: is_stale.then(|| memory.now()),
            beat_at,
            expiry,
            leave_at: None,
            timer: Box::pin(sleep_until(beat_at.min(expiry))),
            code: None,
            memory,
            watched,
        };
        watch.stage = match position {
            None => watch.snapshot(is_stale)?,
            Some(position) => watch.source().go_on_soon(position).await?,
        };
        watch.code = Some(Code::Cancelled);
        Ok(watch)
    }

    fn snapshot(&self, is_stale: bool) -> Result<Stage, Status> {
        let begun = self.watched.tenant.begin();
        let (loaded, cursor) =
            begun.ok_or_else(|| Status::unavailable("nothing is known of the tenant yet; try again"))?;
        Ok(Stage::Parts(Box::new(Parts { loaded, since: None, after: None, is_stale }), cursor))
    }

    fn source(&self) -> Source {
        let Watched { tenant, scope, .. } = &self.watched;
        Source { memory: Arc::clone(&self.memory), tenant: Arc::clone(tenant), scope: Arc::clone(scope) }
    }

    /// Why the watch ends, if it does.
    fn end(&mut self) -> Option<Status> {
        if self.memory.now() >= self.expires_at {
            return Some(Status::unauthenticated("the token has expired; go on from the last position with a new one"));
        }
        if !self.memory.is_draining() {
            return None;
        }
        let now = Instant::now();
        let leave_at = *self.leave_at.get_or_insert_with(|| now + DRAIN_SPREAD.mul_f64(fastrand::f64()));
        (now >= leave_at).then(going_away)
    }

    /// Whether it is time for something although nothing has happened. If not, the watch is woken
    /// when it is.
    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        let due = |watch: &Self| watch.beat_at.min(watch.expiry).min(watch.leave_at.unwrap_or(watch.expiry));
        // Each message puts the heartbeat off. The timer is put off when it goes off, which is
        // seldom.
        if self.timer.deadline() > due(self) {
            let due = due(self);
            self.timer.as_mut().reset(due);
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            // The system's clock may have been set meanwhile.
            self.expiry = now + self.expires_at.since(self.memory.now());
            let due = due(self);
            if now >= due {
                return true;
            }
            self.timer.as_mut().reset(due);
        }
        false
    }

    fn over(&mut self, status: Status) -> Status {
        self.stage = Stage::Over;
        self.code = Some(status.code());
        status
    }

    fn view(&self) -> View<'_> {
        View { backend: self.memory.tail().backend(), may_read_secrets: self.watched.scope.may_read_secrets() }
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
        let slots = parts.loaded.pages.from(&from).filter(|slot| slot.key != from);
        for slot in slots.filter(|slot| slot.revision > news && self.selection.has(slot.key)) {
            if bytes > 0 && bytes + answer::size(&slot) > PART_BYTES {
                more = true;
                break;
            }
            bytes += answer::size(&slot);
            entries.push(self.view().entry(&slot));
        }
        let position = parts.loaded.position.clone();
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
        self.beat_at = Instant::now() + self.heartbeat;
        // If it has moved on just now, or was replaced, that is what there is to be told.
        let (loaded, _) = self.watched.tenant.begin().filter(|(_, newest)| *newest == cursor)?;
        self.told = cursor.revision;
        self.initial_heartbeat = false;
        self.stale_at = self.stale_at.filter(|at| loaded.validated_at <= *at);
        let (scope, now) = (&self.watched.scope, self.memory.now());
        // The follower sees to it that it is validated again in time, if the stores answer.
        let is_old = now.since(loaded.validated_at) > 2 * VALIDITY;
        let is_doubtful = loaded.is_restored || self.stale_at.is_some() || is_old;
        let stale = is_doubtful || self.watched.tenant.is_behind() || !self.memory.is_polled(scope.tenant());
        let event = Event::Heartbeat(v1::Heartbeat { revision: cursor.revision, stale });
        Some(self.message(Some(&loaded.position), event))
    }

    fn message(&mut self, position: Option<&Position>, event: Event) -> v1::WatchConfigResponse {
        self.beat_at = Instant::now() + self.heartbeat;
        v1::WatchConfigResponse {
            position: position.map(|position| self.fingerprint.tell(position)),
            event: Some(event),
        }
    }
}

impl Stream for Watch {
    type Item = Result<v1::WatchConfigResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let watch = self.get_mut();
        // Before it looks, so that nothing goes unnoticed that comes after.
        watch.watched.registration.register(context.waker());
        loop {
            if matches!(watch.stage, Stage::Over) {
                return Poll::Ready(None);
            }
            if let Some(end) = watch.end() {
                return Poll::Ready(Some(Err(watch.over(end))));
            }
            let message = match std::mem::replace(&mut watch.stage, Stage::Over) {
                Stage::Over => None,
                Stage::Replay(position, mut commits) => {
                    if let Some(commit) = commits.next() {
                        watch.stage = Stage::Replay(commit.position.clone(), commits);
                        watch.commit(&commit)
                    } else {
                        watch.stage = Stage::Ask(watch.source().go_on_soon(position).boxed());
                        None
                    }
                }
                Stage::Ask(mut asking) => match asking.poll_unpin(context) {
                    Poll::Ready(Ok(stage)) => {
                        watch.stage = stage;
                        None
                    }
                    Poll::Ready(Err(status)) => return Poll::Ready(Some(Err(watch.over(status)))),
                    Poll::Pending => {
                        watch.stage = Stage::Ask(asking);
                        if !watch.is_due(context) {
                            return Poll::Pending;
                        }
                        // There is no place that a heartbeat could be of.
                        watch.beat_at = Instant::now() + watch.heartbeat;
                        None
                    }
                },
                Stage::Parts(parts, cursor) => Some(watch.part(parts, cursor)),
                Stage::Follow(cursor) => {
                    let (next, then) = watch.watched.tenant.next(cursor);
                    watch.stage = Stage::Follow(then);
                    match next {
                        Next::Commit(commit) => watch.commit(&commit),
                        Next::Snapshot(loaded) => {
                            let parts = Parts { is_stale: loaded.is_restored, loaded, since: None, after: None };
                            watch.stage = Stage::Parts(Box::new(parts), then);
                            None
                        }
                        Next::Conflated(loaded, deleted) => {
                            watch.memory.metrics().conflated.inc();
                            let since = Some((cursor.revision, deleted));
                            let parts = Parts { loaded, since, after: None, is_stale: false };
                            watch.stage = Stage::Parts(Box::new(parts), then);
                            None
                        }
                        Next::Nothing if watch.initial_heartbeat => watch.beat(then),
                        Next::Nothing if !watch.is_due(context) => return Poll::Pending,
                        Next::Nothing => match watch.end() {
                            Some(end) => return Poll::Ready(Some(Err(watch.over(end)))),
                            None => watch.beat(then),
                        },
                    }
                }
            };
            if let Some(message) = message {
                return Poll::Ready(Some(Ok(message)));
            }
        }
    }
}

fn going_away() -> Status {
    Status::unavailable("the instance is going away; connect again, and go on from the last position")
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(code) = self.code {
            self.memory.metrics().note_call("WatchConfig", code);
        }
    }
}

/// Where a watch gets what is not in the tenant's log in memory.
struct Source {
    memory: Arc<Memory>,
    tenant: Arc<Tenant>,
    scope: Arc<TenantScope>,
}

impl Source {
    /// As [`Source::go_on`], but not for ever.
    async fn go_on_soon(self, position: Position) -> Result<Stage, Status> {
        let going_on = tokio::time::timeout(REFRESH_TIMEOUT, self.go_on(position)).await;
        going_on.unwrap_or_else(|_| Err(refusal(&ReadError::TooSlow)))
    }

    /// What a watcher is told who was told everything up to `position`.
    async fn go_on(self, position: Position) -> Result<Stage, Status> {
        let (tenant, scope) = (&self.tenant, &self.scope);
        if tenant.attach(&position) == Attached::Ahead {
            // Another instance was further. The stores know whether there is more.
            self.memory.catch_up(scope.tenant(), tenant, scope).await.map_err(|error| refusal(&error))?;
        }
        if tenant.attach(&position) == Attached::Before {
            self.memory.reach_back(tenant, scope, &position).await.map_err(|error| refusal(&error))?;
        }
        match tenant.attach(&position) {
            Attached::At(cursor) => Ok(Stage::Follow(cursor)),
            Attached::Ahead => Err(out_of_range("the position is ahead of the newest revision")),
            Attached::Foreign => Err(out_of_range("the position is of another history")),
            Attached::Before => {
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
        match self.memory.tail().since(&self.scope, position, REPLAY, REPLAY_BYTES).await {
            Ok(replay) => Ok(replay.commits),
            Err(TailError::Broken) => Err(out_of_range(NOT_KEPT)),
            Err(TailError::Read(error)) => Err(refusal(&error)),
        }
    }
}
