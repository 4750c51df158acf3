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

use bytes::Bytes;
use config_proto::v1::{self, watch_config_response::Event};
use futures_util::{FutureExt, future::BoxFuture};
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
    frames::{Addressee, Selection, SharedMessages, framed},
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
    addressee: Addressee,
    fingerprint: WatchFingerprint,
    expires_at: Timestamp,
    heartbeat: Duration,
    stage: Stage,
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

/// A message of a watch.
pub(crate) struct WatchMessage {
    /// As it is sent.
    pub(crate) frame: Bytes,
    /// Whether another one is ready, or soon will be.
    pub(crate) is_followed: bool,
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
        let addressee = Addressee {
            selection: Arc::new(selection),
            may_read_secrets: scope.may_read_secrets(),
            told: position.as_ref().map_or(0, |position| position.revision.get()),
        };
        let now = Instant::now();
        let (beat_at, expiry) = (now + options.heartbeat, now + expires_at.since(memory.now()));
        let mut watch = Self {
            addressee,
            fingerprint,
            expires_at,
            heartbeat: options.heartbeat,
            stage: Stage::Over,
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
        View { backend: self.memory.tail().backend(), may_read_secrets: self.addressee.may_read_secrets }
    }

    /// The message of a commit, if it changes something that is watched.
    fn commit(&mut self, commit: &Commit, messages: Option<&SharedMessages>) -> Option<Bytes> {
        let revision = commit.position.revision.get();
        let frame = match messages {
            Some(messages) => messages.of(revision, &self.addressee, || self.told_of(commit))?,
            None => self.told_of(commit)?,
        };
        self.addressee.told = revision;
        Some(frame)
    }

    fn told_of(&self, commit: &Commit) -> Option<Bytes> {
        let Addressee { selection, told, .. } = &self.addressee;
        let watched = commit.changes.iter().filter(|change| selection.has(change.key.as_str()));
        let changes: Vec<_> = watched.map(|change| self.view().change(change)).collect();
        if changes.is_empty() && !selection.is_all() {
            return None;
        }
        let revision = commit.position.revision.get();
        let update = v1::Update { revision, previous_revision: *told, changes, skipped: None, more: false };
        Some(self.frame(Some(&commit.position), Event::Update(update)))
    }

    /// The next part. Then come further parts, or the log from the cursor on.
    fn part(&mut self, mut parts: Box<Parts>, cursor: Cursor) -> Bytes {
        let (mut entries, mut bytes, mut more) = (Vec::new(), 0, false);
        let from = parts.after.take().unwrap_or_default();
        let news = parts.since.as_ref().map_or(0, |(revision, _)| *revision);
        // That key was in the part before; no key is empty.
        let slots = parts.loaded.pages.from(&from).filter(|slot| slot.key != from);
        for slot in slots.filter(|slot| slot.revision > news && self.addressee.selection.has(slot.key)) {
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
                let gone = gone.into_iter().filter(|(key, _)| self.addressee.selection.has(key));
                let gone = gone.map(|(key, version)| v1::KeyChange {
                    key,
                    operation: v1::Operation::Delete.into(),
                    version,
                    entry: None,
                });
                let changes = entries.into_iter().map(put).chain(gone).collect();
                let skipped = v1::SkippedRevisions { first: *since + 1, last: revision - 1 };
                let skipped = (skipped.first <= skipped.last).then_some(skipped);
                Event::Update(v1::Update { revision, previous_revision: self.addressee.told, changes, skipped, more })
            }
        };
        if more {
            parts.after = last;
            self.stage = Stage::Parts(parts, cursor);
            return self.frame(None, event);
        }
        self.addressee.told = revision;
        self.stage = Stage::Follow(cursor);
        self.frame(Some(&position), event)
    }

    /// A heartbeat, unless something else is to be sent.
    fn beat(&mut self, cursor: Cursor) -> Option<Bytes> {
        self.beat_at = Instant::now() + self.heartbeat;
        // If the tenant has just changed, that is sent instead.
        let (loaded, _) = self.watched.tenant.begin().filter(|(_, newest)| *newest == cursor)?;
        self.addressee.told = cursor.revision;
        self.initial_heartbeat = false;
        self.stale_at = self.stale_at.filter(|at| loaded.validated_at <= *at);
        let (scope, now) = (&self.watched.scope, self.memory.now());
        // The poller has it validated again in time, if the stores answer.
        let is_old = now.since(loaded.validated_at) > 2 * VALIDITY;
        let is_doubtful = loaded.is_restored || self.stale_at.is_some() || is_old;
        let stale = is_doubtful || self.watched.tenant.is_behind() || !self.memory.is_polled(scope.tenant());
        let event = Event::Heartbeat(v1::Heartbeat { revision: cursor.revision, stale });
        Some(self.frame(Some(&loaded.position), event))
    }

    fn frame(&self, position: Option<&Position>, event: Event) -> Bytes {
        let position = position.map(|position| self.fingerprint.tell(position));
        framed(&v1::WatchConfigResponse { position, event: Some(event) })
    }

    /// The next message, or the status that the watch ends with, after which it is not to be
    /// polled.
    pub(crate) fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<WatchMessage, Status>> {
        // Registered before the log is read, so that no change after that goes unnoticed.
        self.watched.registration.register(context.waker());
        loop {
            if let Some(end) = self.end() {
                return Poll::Ready(Err(self.over(end)));
            }
            let mut is_followed = false;
            let frame = match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Over => return Poll::Pending,
                Stage::Replay(position, mut commits) => {
                    if let Some(commit) = commits.next() {
                        is_followed = true;
                        self.stage = Stage::Replay(commit.position.clone(), commits);
                        self.commit(&commit, None)
                    } else {
                        self.stage = Stage::Ask(self.source().go_on_soon(position).boxed());
                        None
                    }
                }
                Stage::Ask(mut asking) => match asking.poll_unpin(context) {
                    Poll::Ready(Ok(stage)) => {
                        self.stage = stage;
                        None
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(self.over(error.into_status()))),
                    Poll::Pending => {
                        self.stage = Stage::Ask(asking);
                        if !self.is_due(context) {
                            return Poll::Pending;
                        }
                        // A heartbeat would have no position.
                        self.beat_at = Instant::now() + self.heartbeat;
                        None
                    }
                },
                Stage::Parts(parts, cursor) => Some(self.part(parts, cursor)),
                Stage::Follow(cursor) => {
                    let (next, then) = self.watched.tenant.next(cursor);
                    self.stage = Stage::Follow(then);
                    match next {
                        Next::Commit { commit, is_newest, messages } => {
                            is_followed = !is_newest;
                            self.commit(&commit, messages.as_deref())
                        }
                        Next::Snapshot(loaded) => {
                            let parts = Parts { is_stale: loaded.is_restored, loaded, since: None, after: None };
                            self.stage = Stage::Parts(Box::new(parts), then);
                            None
                        }
                        Next::Conflated(loaded, deleted) => {
                            self.memory.metrics().conflated.inc();
                            let since = Some((cursor.revision, deleted));
                            let parts = Parts { loaded, since, after: None, is_stale: false };
                            self.stage = Stage::Parts(Box::new(parts), then);
                            None
                        }
                        Next::Nothing if self.initial_heartbeat => self.beat(then),
                        Next::Nothing if !self.is_due(context) => return Poll::Pending,
                        Next::Nothing => match self.end() {
                            Some(end) => return Poll::Ready(Err(self.over(end))),
                            None => self.beat(then),
                        },
                    }
                }
            };
            if let Some(frame) = frame {
                self.beat_at = Instant::now() + self.heartbeat;
                return Poll::Ready(Ok(WatchMessage { frame, is_followed }));
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
