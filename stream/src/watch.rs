//! A watch: what one watcher is told, message by message.
//!
//! It is a cursor in the tenant's log and nothing more, without a task or a queue. The next message
//! is made when the connection has room for it, from what is the newest then.

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
    answer::{self, CallError, View, WatchFingerprint, full, out_of_range},
    memory::{Memory, REFRESH_TIMEOUT, VALIDITY, Watched},
    tenant::{Attached, Cursor, LoadedTenant, Next, Tenant},
};

/// About how many bytes a part of a snapshot has; an entry may be larger. A watcher that does not
/// read has up to two parts waiting.
const PART_BYTES: usize = 64 * 1_024;
/// How many commits are fetched at once for a watcher that goes on from long ago, and after how
/// many bytes of values no further ones are.
const REPLAY: usize = 16;
const REPLAY_BYTES: usize = 256 * 1_024;
/// Over what time watches end when the instance stops, so that the watchers do not come to the next
/// one all at once.
const DRAIN_SPREAD: Duration = Duration::from_secs(2);

const NOT_KEPT: &str = "the changes since the position are not all kept any more, or it is of another history";

/// What a watcher watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Keys, sorted.
    pub(crate) keys: Vec<String>,
    /// Prefixes of keys, sorted. Without keys and prefixes, all keys are watched.
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
    /// The last revision that the watcher was told.
    told: u64,
    /// Whether a heartbeat is sent as soon as the watcher has everything after its position.
    initial_heartbeat: bool,
    /// When it was sent stale entries, as the stores did not answer.
    stale_at: Option<Timestamp>,
    /// When it is to be sent something, at least a heartbeat.
    beat_at: Instant,
    /// When the token expires, by the clock of timers.
    expiry: Instant,
    /// When it is to end, if the instance stops.
    leave_at: Option<Instant>,
    /// Wakes it for the earliest of these times, or before.
    timer: Pin<Box<Sleep>>,
    /// The code that the watch ends with. None before it has begun: then the caller counts it.
    code: Option<Code>,
}

/// What a watch does next.
enum Stage {
    /// Send the commits after this position, which the stores gave.
    Replay(Position, std::vec::IntoIter<Commit>),
    /// Wait for the stores.
    Ask(BoxFuture<'static, Result<Stage, CallError>>),
    /// Send entries part by part, and then follow the log from the cursor.
    Parts(Box<Parts>, Cursor),
    /// Follow the log from the cursor.
    Follow(Cursor),
    /// The watch has ended.
    Over,
}

#[derive(Debug)]
struct Parts {
    loaded: LoadedTenant,
    /// For an update: the revision after which entries are news, and the deleted keys. None for a
    /// snapshot.
    since: Option<(u64, BTreeMap<String, u64>)>,
    /// The last key of the part before.
    after: Option<String>,
    is_stale: bool,
}

impl Watch {
    /// A watch that goes on from `position`, or begins with a snapshot. The first message is ready
    /// when this returns.
    pub(crate) async fn begin(
        memory: Arc<Memory>,
        watched: Watched,
        selection: Selection,
        position: Option<v1::Position>,
        expires_at: Timestamp,
        options: WatchOptions,
    ) -> Result<Self, CallError> {
        if memory.is_draining() {
            return Err(going_away().into());
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
            // The watcher has entries of its own, which may be newer than what is known here.
            (Ok(true), Some(_)) => {
                return Err(Status::unavailable("the stores do not answer; try again, with increasing pauses").into());
            }
            (Err(error), _) => return Err(error.into()),
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

    /// Whether it is time for something although nothing has happened. If not, the timer wakes the
    /// watch when it is.
    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        let due = |watch: &Self| watch.beat_at.min(watch.expiry).min(watch.leave_at.unwrap_or(watch.expiry));
        // Each message defers the heartbeat. The timer is reset only when it fires, which is
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

    /// The message of a commit, if it changes something that is watched.
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

    /// The next part. Then come further parts, or the log from the cursor on.
    fn part(&mut self, mut parts: Box<Parts>, cursor: Cursor) -> v1::WatchConfigResponse {
        let (mut entries, mut bytes, mut more) = (Vec::new(), 0, false);
        let from = parts.after.take().unwrap_or_default();
        let news = parts.since.as_ref().map_or(0, |(revision, _)| *revision);
        // That key was in the part before; no key is empty.
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

    /// A heartbeat, unless something else is to be sent.
    fn beat(&mut self, cursor: Cursor) -> Option<v1::WatchConfigResponse> {
        self.beat_at = Instant::now() + self.heartbeat;
        // If the tenant has just changed, that is sent instead.
        let (loaded, _) = self.watched.tenant.begin().filter(|(_, newest)| *newest == cursor)?;
        self.told = cursor.revision;
        self.initial_heartbeat = false;
        self.stale_at = self.stale_at.filter(|at| loaded.validated_at <= *at);
        let (scope, now) = (&self.watched.scope, self.memory.now());
        // The poller has it validated again in time, if the stores answer.
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
        // Registered before the log is read, so that no change after that goes unnoticed.
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
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(watch.over(error.into_status())))),
                    Poll::Pending => {
                        watch.stage = Stage::Ask(asking);
                        if !watch.is_due(context) {
                            return Poll::Pending;
                        }
                        // A heartbeat would have no position.
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
    /// [`Source::go_on`] with a timeout.
    async fn go_on_soon(self, position: Position) -> Result<Stage, CallError> {
        let going_on = tokio::time::timeout(REFRESH_TIMEOUT, self.go_on(position)).await;
        going_on.unwrap_or_else(|_| Err(ReadError::TooSlow.into()))
    }

    /// What a watcher is sent that was told everything up to `position`.
    async fn go_on(self, position: Position) -> Result<Stage, CallError> {
        let (tenant, scope) = (&self.tenant, &self.scope);
        if tenant.attach(&position) == Attached::Ahead {
            // Another instance was ahead. The stores know whether there is more.
            self.memory.catch_up(scope.tenant(), tenant, scope).await?;
        }
        if tenant.attach(&position) == Attached::Before {
            self.memory.reach_back(tenant, scope, &position).await?;
        }
        match tenant.attach(&position) {
            Attached::At(cursor) => Ok(Stage::Follow(cursor)),
            Attached::Ahead => Err(out_of_range("the position is ahead of the newest revision").into()),
            Attached::Foreign => Err(out_of_range("the position is of another history").into()),
            Attached::Before => {
                let commits = self.replay(&position).await?;
                if commits.is_empty() {
                    // Memory has later commits, so the log has lost what lies between.
                    return Err(out_of_range(NOT_KEPT).into());
                }
                Ok(Stage::Replay(position, commits.into_iter()))
            }
        }
    }

    /// The commits after a position that the log in memory does not reach back to.
    async fn replay(&self, position: &Position) -> Result<Vec<Commit>, CallError> {
        match self.memory.tail().since(&self.scope, position, REPLAY, REPLAY_BYTES).await {
            Ok(replay) => Ok(replay.commits),
            Err(TailError::Broken) => Err(out_of_range(NOT_KEPT).into()),
            Err(TailError::Read(error)) => Err(error.into()),
        }
    }
}
