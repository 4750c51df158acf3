//! Failures on demand: tests see what a caller does when AWS throttles, fails, conflicts, lags, or
//! leaves it without an answer.

mod schedule;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::{sync::watch, time::Instant};

pub(crate) use schedule::pick;
pub use schedule::{Schedule, Scheduled};

/// Stands for whatever operation.
pub const ANY: &str = "*";

/// How a call fails, or differs from what its caller would like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Refused, not executed: `ProvisionedThroughputExceededException` from `DynamoDB`,
    /// `Throttling` from STS, `ThrottlingException` elsewhere. SDK clients retry it on their own,
    /// as often as their retry setting says.
    Throttle,
    /// Refused, not executed: a 500. SDK clients retry it on their own, as often as their retry
    /// setting says.
    InternalError,
    /// Executed, then the connection is closed without an answer. SDK clients may retry it on their
    /// own.
    ReplyLost,
    /// Not executed and never answered: the caller waits until it gives up, or until the emulator
    /// stops.
    NoReply,
    /// Refused, not executed, as if another writer was at it: `TransactWriteItems` and
    /// `TransactGetItems` are cancelled with reason `TransactionConflict` on their first item,
    /// single writes of `DynamoDB` get `TransactionConflictException`, Parameter Store answers
    /// `TooManyUpdates`.
    TransactionConflict,
    /// Not executed, and answered as if no parameter had been put yet: Parameter Store promises no
    /// reader that it sees a put at once. `DescribeParameters` and `GetParameters` find none,
    /// `GetParameter` and `GetParameterHistory` refuse, everything else is a 500.
    NotYet,
    /// Executed after this long, by Tokio's clock; not at all if the emulator stops before.
    Delay(Duration),
    /// Not executed: the connection is closed without an answer. SDK clients may retry it on their
    /// own.
    Reset,
    /// Executed, but the answer does not show the newest writes yet.
    ///
    /// - `GetParameter`, `GetParameters`, `GetParametersByPath`, `DescribeParameters` and
    ///   `GetParameterHistory` answer as if the newest put of each parameter had not happened yet:
    ///   with the version before, and not at all if there is none. Versions that are asked for by
    ///   number or label are there all the same.
    /// - `GetItem`, `BatchGetItem`, `Query` and `Scan` find nothing, as if all had been written
    ///   just now, and go on to no further page. That is for eventually consistent reads, so for
    ///   every query of a global index. With `ConsistentRead` AWS shows every write that was
    ///   answered, and so does this: such a read is executed as usual, in a `BatchGetItem` for each
    ///   table by itself.
    ///
    /// Every other call is executed as usual.
    StalePage,
    /// Executed, but what is answered is less than it could be, and says how to go on.
    ///
    /// - `GetParametersByPath`, `DescribeParameters` and `GetParameterHistory` answer an empty
    ///   page, and a token that goes on where this page would have begun.
    /// - `Query` and `Scan` end after the first item that they look at, as with `Limit` 1: before
    ///   it there is no key to go on from. The page is empty if a filter passes over that item.
    ///   From the second page on (with `ExclusiveStartKey`) the page is empty and its
    ///   `LastEvaluatedKey` is the key that came in. AWS does that only with a filter, and with
    ///   another key: SDK paginators take it for the end unless they are built with
    ///   `stop_on_duplicate_token(false)`.
    /// - `BatchGetItem` reads the first half of the keys and hands the rest back as
    ///   `UnprocessedKeys`. One key alone is read: AWS hands back all of them only by refusing the
    ///   call ([`Fault::Throttle`]).
    ///
    /// Every other call is executed as usual.
    EmptyPage,
    /// Executed, but `GetParameter`, `GetParameters` and `GetParametersByPath` show the time of a
    /// version as the last whole second before it: AWS promises nobody that they show it as exactly
    /// as `GetParameterHistory` does. Every other call is executed as usual.
    WholeSeconds,
}

/// How a call that is executed is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum View {
    /// With what is there.
    #[default]
    Whole,
    /// [`Fault::StalePage`]
    Stale,
    /// [`Fault::EmptyPage`]
    EmptyPage,
    /// [`Fault::WholeSeconds`]
    WholeSeconds,
}

/// The faults that are waiting for a call, by name or by chance. An operation's faults are consumed
/// in the order in which they were injected.
#[derive(Debug, Default)]
pub struct Faults {
    waiting: Mutex<HashMap<String, VecDeque<Waiting>>>,
    scheduled: Mutex<Option<Scheduled>>,
    limits: Mutex<HashMap<String, Limit>>,
}

/// How many calls of an operation are let through.
#[derive(Debug)]
struct Limit {
    per_second: f64,
    /// How many may come now; never more than of one second, one at least.
    left: f64,
    since: Instant,
}

impl Limit {
    /// Takes one, if there is one left at `now`.
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_secs_f64() * self.per_second;
        (self.left, self.since) = ((self.left + earned).min(self.per_second.max(1.0)), now);
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

#[derive(Debug)]
struct Waiting {
    what: What,
    /// How many calls pass before.
    passes: usize,
    left: usize,
    hits: watch::Sender<usize>,
}

#[derive(Debug, Clone)]
enum What {
    Fail(Fault),
    /// Wait until this changes, or nobody can change it any more.
    Hold(watch::Receiver<Release>),
}

/// What becomes of a call that was held, once it is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    Now,
    Never,
}

/// Tells when a call is held, and lets it go on.
#[derive(Debug)]
pub struct Held {
    hits: watch::Receiver<usize>,
    release: watch::Sender<Release>,
}

impl Held {
    /// Whether the call has come in.
    pub fn is_reached(&self) -> bool {
        *self.hits.borrow() > 0
    }

    /// Has the call never be executed, if it is held by now.
    pub fn forget(self) {
        self.release.send_replace(Release::Never);
    }

    /// Resolves once the call has come in.
    pub async fn reached(&self) {
        Injected { hits: self.hits.clone() }.reached().await;
    }

    /// Lets the call go on. So does dropping this.
    pub fn release(self) {}
}

/// Tells when an injected fault was hit.
#[derive(Debug, Clone)]
pub struct Injected {
    hits: watch::Receiver<usize>,
}

impl Injected {
    /// Resolves once the fault was hit: for [`Fault::ReplyLost`] after the call was executed, for
    /// the others when the call came in. Resolves at once if that was before, and never if the
    /// fault was cleared without a hit.
    pub async fn reached(&self) {
        self.reached_times(1).await;
    }

    /// The same for the `times`th hit.
    pub async fn reached_times(&self, times: usize) {
        let mut hits = self.hits.clone();
        if hits.wait_for(|hits| *hits >= times).await.is_err() && *hits.borrow() < times {
            std::future::pending::<()>().await;
        }
    }

    /// Hits so far.
    pub fn hits(&self) -> usize {
        *self.hits.borrow()
    }
}

impl Faults {
    /// The next `times` calls of `operation` (for example `TransactWriteItems`, of whatever
    /// service) fail with `fault`.
    pub fn inject(&self, operation: &str, fault: Fault, times: usize) -> Injected {
        let (hits, seen) = watch::channel(0);
        if times > 0 {
            self.waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(operation.to_owned())
                .or_default()
                .push_back(Waiting { what: What::Fail(fault), passes: 0, left: times, hits });
        }
        Injected { hits: seen }
    }

    /// Holds a call of `operation`, or of any with [`ANY`], before it is executed: the one after
    /// `passes` others from now on. Its caller waits, as if the call took long to arrive. It is
    /// executed even if the caller gives up, once it is released.
    pub fn hold(&self, operation: &str, passes: usize) -> Held {
        let (hits, seen) = watch::channel(0);
        let (release, held) = watch::channel(Release::Now);
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(operation.to_owned())
            .or_default()
            .push_back(Waiting { what: What::Hold(held), passes, left: 1, hits });
        Held { hits: seen, release }
    }

    /// Fails calls at random from now on, in place of any earlier schedule. It ends at its bound,
    /// when it is ended, or when the faults are cleared. A call takes no turn if an injected fault
    /// or a hold waits for it by name, or if it is not allowed. A turn brings nothing if its fault
    /// would mean nothing to the call: [`Fault::TransactionConflict`] is for
    /// writes and transactions of `DynamoDB` and writes of Parameter Store that AWS documents it
    /// for, and [`Fault::NotYet`], [`Fault::StalePage`], [`Fault::EmptyPage`] and
    /// [`Fault::WholeSeconds`] are for the reads they name.
    pub fn schedule(&self, schedule: Schedule) -> Scheduled {
        let scheduled = Scheduled::new(schedule);
        let before = self.scheduled.lock().unwrap_or_else(PoisonError::into_inner).replace(scheduled.clone());
        if let Some(before) = before {
            // A call may be about to take its turn there.
            before.end();
        }
        scheduled
    }

    /// Throttles calls of `operation` beyond so many a second from now on, by Tokio's clock, as AWS
    /// does for all of an account and region.
    pub fn limit(&self, operation: &str, per_second: f64) {
        let limit = Limit { per_second, left: per_second.max(1.0), since: Instant::now() };
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).insert(operation.to_owned(), limit);
    }

    /// Takes back every fault that was not hit yet, ends the schedule and lifts the limits.
    pub fn clear(&self) {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(scheduled) = self.scheduled.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // As above.
            scheduled.end();
        }
    }

    /// Takes the fault for a call of `operation` that has just come in. `fits` says whether a
    /// fault means something to the call.
    pub(crate) fn take(&self, operation: &str, fits: impl FnOnce(Fault) -> bool) -> Option<Hit> {
        self.take_named(operation).or_else(|| self.take_limited(operation)).or_else(|| {
            let scheduled = self.scheduled.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
            scheduled.turn(operation, fits).map(|fault| Hit { what: What::Fail(fault), hits: None })
        })
    }

    fn take_limited(&self, operation: &str) -> Option<Hit> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let is_let = limits.get_mut(operation)?.take(Instant::now());
        (!is_let).then_some(Hit { what: What::Fail(Fault::Throttle), hits: None })
    }

    fn take_named(&self, operation: &str) -> Option<Hit> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let named = waiting.get(operation).is_some_and(|queue| !queue.is_empty());
        let queue = waiting.get_mut(if named { operation } else { ANY })?;
        let first = queue.front_mut()?;
        if first.passes > 0 {
            first.passes -= 1;
            return None;
        }
        first.left -= 1;
        let hit = Hit { what: first.what.clone(), hits: Some(first.hits.clone()) };
        if first.left == 0 {
            queue.pop_front();
        }
        Some(hit)
    }
}

/// What happens to a call: it fails, or it is held.
#[derive(Debug)]
pub(crate) struct Hit {
    what: What,
    /// None if nobody waits for it.
    hits: Option<watch::Sender<usize>>,
}

impl Hit {
    /// Wakes those who wait for the fault.
    pub(crate) fn announce(&self) {
        if let Some(hits) = &self.hits {
            hits.send_modify(|hits| *hits += 1);
        }
    }

    /// How the call fails, once it was held as long as it is to be.
    pub(crate) async fn fault(&self) -> Option<Fault> {
        match &self.what {
            What::Fail(fault) => Some(*fault),
            What::Hold(held) => {
                self.announce();
                // An error says that the holder has let the call go.
                let mut held = held.clone();
                let _released = held.changed().await;
                // Closed without an answer: the caller is gone, or has waited for it.
                (*held.borrow() == Release::Never).then_some(Fault::Reset)
            }
        }
    }
}
