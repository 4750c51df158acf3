//! Watching: a stream of events that goes on across connections, instances and tokens.
//!
//! A watch has one position: what it has told is all up to there. Whatever happens to a connection, the next one begins at that position,
//! and the [`tracker`] lets through what comes right after it, once.

mod event;
pub(crate) mod tracker;

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use config_proto::v1::{WatchConfigRequest, WatchConfigResponse};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tonic::{Code, Status, Streaming};

pub use self::event::{Change, Event, Heartbeat, Operation, ParsePositionError, Position, Snapshot, Update};
use self::tracker::Tracker;
use crate::{backoff::Pauses, client::Client, error::Error, token::Authorization};

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

/// A stream of [`Event`]s. Ask for them by [`Watch::next`], or as a [`Stream`]; asking may be given up and begun again at any time without
/// loss. Nothing runs while nobody asks.
///
/// It connects again by itself, with growing pauses, and goes on where it was; each revision is told once, and none is left out without notice. It ends, with an error, only when
/// trying again would end the same: `PERMISSION_DENIED`, `INVALID_ARGUMENT`, `UNIMPLEMENTED`, or a refused token that nobody renews.
pub struct Watch {
    client: Client,
    filter: Filter,
    tracker: Tracker,
    pauses: Pauses,
    state: State,
}

/// What a watch is about.
enum State {
    /// It pauses before it connects; first without a pause.
    Paused(Pin<Box<Sleep>>),
    /// It connects.
    Opening(BoxFuture<'static, Result<Open, Failure>>),
    /// It listens.
    Open(Box<Open>),
    /// It waits to be told whether a refused token can be renewed.
    Refused(BoxFuture<'static, (Error, bool)>),
    /// It has ended.
    Ended,
}

/// An open connection.
struct Open {
    messages: Streaming<WatchConfigResponse>,
    authorization: Authorization,
    index: usize,
    /// Over when the connection has been silent for too long.
    silence: Pin<Box<Sleep>>,
}

/// Why a connection was lost.
struct Failure {
    error: Error,
    /// The token that it was made with.
    authorization: Option<Authorization>,
    index: usize,
}

/// What happens to a watch.
pub(crate) enum Step {
    /// It has something to tell.
    Event(Event),
    /// It is not connected, and will try again.
    Lost,
}

impl Watch {
    pub(crate) fn new(client: Client, filter: Filter, start: Start) -> Self {
        let position = match start {
            Start::Snapshot => None,
            Start::After(position) => Some(position),
        };
        let pauses = Pauses::new(client.options().backoff);
        let tracker = Tracker::new(filter.is_all(), position);
        let mut watch = Self { client, filter, tracker, pauses, state: State::Ended };
        watch.state = watch.opening();
        watch
    }

    /// The next event; `None` after the error that ended the watch.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|context| self.poll_next_event(context)).await
    }

    /// Where the watch is: all up to there has been told. `None` before the first snapshot, and while a new one is needed.
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
                    Err(failure) => self.lost(failure),
                },
                State::Refused(refused) => {
                    let (error, may_renew) = ready!(refused.poll_unpin(context));
                    Some(if may_renew { Ok(self.pause(&error)) } else { Err(error) })
                }
                State::Open(open) => {
                    let silence = self.client.options().silence();
                    let message = match open.messages.poll_next_unpin(context) {
                        Poll::Ready(message) => message,
                        Poll::Pending => {
                            ready!(open.silence.poll_unpin(context));
                            self.client.channels().silent(open.index);
                            return Poll::Ready(Some(Ok(self.pause(&Error::Silent))));
                        }
                    };
                    open.silence.as_mut().reset(Instant::now() + silence);
                    self.heard(message)
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

    /// Takes what a connection said.
    fn heard(&mut self, message: Option<Result<WatchConfigResponse, Status>>) -> Option<Result<Step, Error>> {
        let State::Open(open) = &self.state else { return None };
        let (authorization, index) = (Some(open.authorization.clone()), open.index);
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(status)) => return self.lost(Failure { error: status.into(), authorization, index }),
            None => {
                let error = Status::unavailable("the service ended the watch").into();
                return self.lost(Failure { error, authorization, index });
            }
        };
        match self.tracker.take(message) {
            Ok(Some(event)) => {
                // A snapshot is dear to make: who gets no further than that does not come back at once.
                if !matches!(event, Event::Snapshot(_)) && !self.tracker.is_suspicious() {
                    self.pauses.reset();
                }
                Some(Ok(Step::Event(event)))
            }
            Ok(None) => None,
            Err(refusal) => {
                self.tracker.refused(refusal);
                self.lost(Failure { error: Error::Protocol(refusal.reason()), authorization, index })
            }
        }
    }

    /// Goes on after a lost connection, or says that the watch ends.
    fn lost(&mut self, failure: Failure) -> Option<Result<Step, Error>> {
        let Failure { error, authorization, index } = failure;
        if error.ends_watch() {
            return Some(Err(error));
        }
        match &error {
            Error::Unauthenticated(_) => {
                let client = self.client.clone();
                self.state = State::Refused(Box::pin(async move {
                    let may_renew = match &authorization {
                        Some(authorization) => client.tokens().refused(authorization).await,
                        None => true,
                    };
                    (error, may_renew)
                }));
                return None;
            }
            Error::Other(status) if status.code() == Code::OutOfRange => {
                self.tracker.start_anew();
            }
            _ => self.client.channels().failed(index),
        }
        Some(Ok(self.pause(&error)))
    }

    /// Pauses, then connects again.
    fn pause(&mut self, error: &Error) -> Step {
        let pause = self.pauses.next();
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
        let client = self.client.clone();
        State::Opening(Box::pin(async move {
            let silence = client.options().silence();
            let (mut service, index) = client.service();
            let mut used = None;
            let open = async {
                let authorization = client.tokens().authorization().await?;
                used = Some(authorization.clone());
                let answer = service.watch_config(Client::authorized(message, &authorization)).await?;
                let messages = answer.into_inner();
                Ok(Open { messages, authorization, index, silence: Box::pin(sleep(silence)) })
            };
            let opened = timeout(silence, open).await.unwrap_or_else(|_| {
                client.channels().silent(index);
                Err(Error::Silent)
            });
            opened.map_err(|error| Failure { error, authorization: mem::take(&mut used), index })
        }))
    }
}

impl Stream for Watch {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_next_event(context)
    }
}
