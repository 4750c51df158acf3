//! Watching: a stream of events that goes on across connections, instances and tokens.
//!
//! A watch has one position: everything up to there has been told. Whatever happens to a
//! connection, the next one begins at that position. The [`tracker`] lets through what comes right
//! after it, once.

mod event;
pub(crate) mod tracker;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use config_proto::v1::{WatchConfigRequest, WatchConfigResponse};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tonic::{Code, Status, Streaming};

pub use self::event::{Change, Event, Heartbeat, Operation, ParsePositionError, Position, Snapshot, Update};
use self::tracker::Tracker;
use crate::{
    backoff::Pauses,
    channels::ChannelId,
    error::Error,
    token::Authorization,
    transport::{Transport, authorized},
};

/// What to watch: keys, beginnings of keys, or everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Filter {
    keys: Vec<String>,
    prefixes: Vec<String>,
}

impl Filter {
    /// Everything that the tenant has, until a key or a prefix narrows it.
    pub fn all() -> Self {
        Self::default()
    }

    /// Also this key; 100 keys and prefixes at most.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }

    /// Also the keys that begin with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefixes.push(prefix.into());
        self
    }

    /// Whether nothing narrows it.
    fn is_all(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }
}

/// Where a watch begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With all that there is.
    #[default]
    Snapshot,
    /// With what came after this position, which an earlier event had.
    After(Position),
}

/// A stream of [`Event`]s. Ask for them by [`Watch::next`], or as a [`Stream`]; asking may be given
/// up and begun again at any time without loss. Nothing runs while nobody asks.
///
/// It connects again by itself, with growing pauses, and goes on where it was; each revision is
/// told once, and none is left out without notice. It ends, with an error, only when trying again
/// would end the same: `PERMISSION_DENIED`, `INVALID_ARGUMENT`, `UNIMPLEMENTED`, or a refused token
/// that nobody renews.
pub struct Watch {
    transport: Arc<Transport>,
    filter: Filter,
    tracker: Tracker,
    pauses: Pauses,
    state: State,
}

/// What a watch does.
enum State {
    /// It pauses before it connects; first without a pause.
    Paused(Pin<Box<Sleep>>),
    /// It connects.
    Opening(BoxFuture<'static, Result<Open, Failure>>),
    /// It listens.
    Open(Box<Open>),
    /// It has ended.
    Ended,
}

/// An open connection.
struct Open {
    messages: Streaming<WatchConfigResponse>,
    call: Call,
    /// Over when the connection has been silent for too long.
    silence: Pin<Box<Sleep>>,
}

/// What a connection was made with.
#[derive(Clone)]
struct Call {
    authorization: Authorization,
    channel: ChannelId,
    /// When it was begun, or something came by it last.
    heard: Instant,
}

/// Why a connection was lost, or not made.
struct Failure {
    error: Error,
    /// `None` if there was no token to make it with.
    call: Option<Call>,
}

/// What happens to a watch.
pub(crate) enum Step {
    /// It has something to tell.
    Event(Event),
    /// It is not connected, and will try again.
    Lost,
}

impl Watch {
    pub(crate) fn new(transport: Arc<Transport>, filter: Filter, start: Start) -> Self {
        let position = match start {
            Start::Snapshot => None,
            Start::After(position) => Some(position),
        };
        let pauses = Pauses::new(transport.options.backoff);
        let tracker = Tracker::new(filter.is_all(), position);
        let mut watch = Self { transport, filter, tracker, pauses, state: State::Ended };
        watch.state = watch.opening();
        watch
    }

    /// The next event; `None` after the error that ended the watch.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|context| self.poll_next_event(context)).await
    }

    /// Where the watch is: all up to there has been told. `None` before the first snapshot, and
    /// while a new one is needed.
    pub fn position(&self) -> Option<&Position> {
        self.tracker.position()
    }

    /// The next thing that happens.
    pub(crate) async fn step(&mut self) -> Option<Result<Step, Error>> {
        poll_fn(|context| self.poll_step(context)).await
    }

    fn poll_next_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        loop {
            return Poll::Ready(match ready!(self.poll_step(context)) {
                Some(Ok(Step::Lost)) => continue,
                Some(Ok(Step::Event(event))) => Some(Ok(event)),
                Some(Err(error)) => Some(Err(error)),
                None => None,
            });
        }
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Step, Error>>> {
        loop {
            let step = match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Paused(pause) => {
                    ready!(pause.poll_unpin(context));
                    self.state = self.opening();
                    continue;
                }
                State::Opening(opening) => match ready!(opening.poll_unpin(context)) {
                    Ok(open) => {
                        self.state = State::Open(Box::new(open));
                        continue;
                    }
                    Err(failure) => Some(self.lost(failure)),
                },
                State::Open(open) => {
                    let silence = self.transport.options.silence();
                    match open.messages.poll_next_unpin(context) {
                        Poll::Ready(message) => {
                            let now = Instant::now();
                            open.silence.as_mut().reset(now + silence);
                            self.heard(message, now)
                        }
                        Poll::Pending => {
                            ready!(open.silence.poll_unpin(context));
                            let call = Some(open.call.clone());
                            Some(self.lost(Failure { error: Error::Silent, call }))
                        }
                    }
                }
            };
            match step {
                None => {}
                Some(Ok(step)) => return Poll::Ready(Some(Ok(step))),
                Some(Err(error)) => {
                    self.state = State::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Takes what a connection said at this time.
    fn heard(
        &mut self,
        message: Option<Result<WatchConfigResponse, Status>>,
        now: Instant,
    ) -> Option<Result<Step, Error>> {
        let State::Open(open) = &mut self.state else { return None };
        let message = match message {
            Some(Ok(message)) => message,
            ended => {
                let error = ended.and_then(Result::err).unwrap_or_else(without_status).into();
                let call = Some(open.call.clone());
                return Some(self.lost(Failure { error, call }));
            }
        };
        open.call.heard = now;
        self.transport.channels.heard(open.call.channel, now);
        match self.tracker.take(message) {
            Ok(Some(event)) => {
                // A snapshot is expensive. A watch that gets no further than that does not
                // reconnect at once.
                if !matches!(event, Event::Snapshot(_)) && !self.tracker.is_suspicious() {
                    self.pauses.reset();
                }
                Some(Ok(Step::Event(event)))
            }
            Ok(None) => None,
            Err(refusal) => {
                self.tracker.refused(refusal);
                let State::Open(open) = &self.state else { return None };
                let call = Some(open.call.clone());
                Some(self.lost(Failure { error: Error::Protocol(refusal.reason()), call }))
            }
        }
    }

    /// Goes on after a lost connection, or says that the watch ends.
    fn lost(&mut self, failure: Failure) -> Result<Step, Error> {
        let Failure { error, call } = failure;
        if error.ends_watch() {
            return Err(error);
        }
        // Without one there was no token, and another endpoint would not help.
        if let Some(Call { authorization, channel, heard }) = call {
            let channels = &self.transport.channels;
            match &error {
                Error::Unauthenticated(_) => {
                    if !self.transport.tokens.refused(&authorization) {
                        return Err(error);
                    }
                }
                Error::Other(status) if status.code() == Code::OutOfRange => self.tracker.start_anew(),
                Error::Silent => channels.silent(channel, heard),
                _ => channels.failed(channel),
            }
        }
        Ok(self.pause(&error))
    }

    /// Pauses, then connects again.
    fn pause(&mut self, error: &Error) -> Step {
        // All watches that were open there lost it at the same instant. What the service says
        // itself, it says to one after the other.
        let is_shared = matches!(self.state, State::Open(_)) && error.is_of_connection();
        let pause = if is_shared {
            self.pauses.next_spread(self.transport.options.reconnect_spread)
        } else {
            self.pauses.next()
        };
        match error {
            // What happens whenever an instance goes away or a token ends.
            Error::Unavailable(_) | Error::Silent | Error::Unauthenticated(_) => {
                tracing::debug!(%error, pause_ms = pause.as_millis(), "a watch connects again");
            }
            _ => tracing::warn!(%error, pause_ms = pause.as_millis(), "a watch connects again"),
        }
        self.state = State::Paused(Box::pin(sleep(pause)));
        Step::Lost
    }

    /// Connects, at the position.
    fn opening(&mut self) -> State {
        let position = self.tracker.connecting().cloned();
        let Filter { keys, prefixes } = self.filter.clone();
        let message = WatchConfigRequest { keys, prefixes, position: position.map(Into::into) };
        let transport = Arc::clone(&self.transport);
        State::Opening(Box::pin(async move {
            // Waiting for a token says nothing of the connection.
            let authorization = match transport.tokens.authorization().await {
                Ok(authorization) => authorization,
                Err(error) => return Err(Failure { error, call: None }),
            };
            let request = authorized(message, &authorization);
            let (mut service, channel) = transport.service();
            let mut call = Call { authorization, channel, heard: Instant::now() };
            let silence = transport.options.silence();
            let error = match timeout(silence, service.watch_config(request)).await {
                Ok(Ok(answer)) => {
                    call.heard = Instant::now();
                    transport.channels.heard(channel, call.heard);
                    return Ok(Open { messages: answer.into_inner(), call, silence: Box::pin(sleep(silence)) });
                }
                Ok(Err(status)) => Error::from(status),
                Err(_) => Error::Silent,
            };
            if !error.is_of_connection() {
                transport.channels.heard(channel, Instant::now());
            }
            Err(Failure { error, call: Some(call) })
        }))
    }
}

/// The status of a watch that ends without one. The service always gives one, so something in
/// between has cut it off.
fn without_status() -> Status {
    let mut status = Status::unavailable("the watch ended without a status");
    status.set_source(Arc::new(io::Error::from(io::ErrorKind::UnexpectedEof)));
    status
}

impl Stream for Watch {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_next_event(context)
    }
}
