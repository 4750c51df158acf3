//! Failures on demand: tests see what a caller does when AWS throttles, fails, conflicts, or leaves it without an answer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Refused, not executed: `ProvisionedThroughputExceededException` from `DynamoDB`, `ThrottlingException` elsewhere.
    /// SDK clients retry it on their own, as often as their retry setting says.
    Throttle,
    /// Refused, not executed: a 500. SDK clients retry it on their own, as often as their retry setting says.
    InternalError,
    /// Executed, then the connection is closed without an answer. SDK clients may retry it on their own.
    ReplyLost,
    /// Not executed and never answered: the caller waits until it gives up, or until the emulator stops.
    NoReply,
    /// Refused, not executed, as if another writer was at it: `TransactWriteItems` and `TransactGetItems` are
    /// cancelled with reason `TransactionConflict` on their first item, single writes of `DynamoDB` get
    /// `TransactionConflictException`, Parameter Store answers `TooManyUpdates`.
    TransactionConflict,
    /// Not executed, and answered as if no parameter had been put yet: Parameter Store promises no reader that it sees a put at
    /// once. `DescribeParameters` and `GetParameters` find none, `GetParameter` and `GetParameterHistory` refuse, everything else
    /// is a 500.
    NotYet,
}

/// The faults that are waiting for a call. An operation's faults are consumed in the order in which they were injected.
#[derive(Debug, Default)]
pub struct Faults {
    waiting: Mutex<HashMap<String, VecDeque<Waiting>>>,
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
    Hold(watch::Receiver<()>),
}

/// Tells when a call is held, and lets it go on.
#[derive(Debug)]
pub struct Held {
    hits: watch::Receiver<usize>,
    _release: watch::Sender<()>,
}

impl Held {
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
    /// Resolves once the fault was hit: for [`Fault::ReplyLost`] after the call was executed, for the others when the
    /// call came in. Resolves at once if that was before, and never if the fault was cleared without a hit.
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
    /// The next `times` calls of `operation` (for example `TransactWriteItems`, of whatever service) fail with `fault`.
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

    /// Holds a call of `operation` before it is executed: the one after `passes` others from now on. Its caller waits, as if the call
    /// took long to arrive. It is executed even if the caller gives up.
    pub fn hold(&self, operation: &str, passes: usize) -> Held {
        let (hits, seen) = watch::channel(0);
        let (release, held) = watch::channel(());
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(operation.to_owned())
            .or_default()
            .push_back(Waiting { what: What::Hold(held), passes, left: 1, hits });
        Held { hits: seen, _release: release }
    }

    /// Takes back every fault that was not hit yet.
    pub fn clear(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes the fault for a call of `operation` that has just come in.
    pub(crate) fn take(&self, operation: &str) -> Option<Hit> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = waiting.get_mut(operation)?;
        let first = queue.front_mut()?;
        if first.passes > 0 {
            first.passes -= 1;
            return None;
        }
        first.left -= 1;
        let hit = Hit { what: first.what.clone(), hits: first.hits.clone() };
        if first.left == 0 {
            queue.pop_front();
        }
        Some(hit)
    }
}

/// What a call is to suffer.
#[derive(Debug)]
pub(crate) struct Hit {
    what: What,
    hits: watch::Sender<usize>,
}

impl Hit {
    /// Wakes those who wait for the fault.
    pub(crate) fn announce(&self) {
        self.hits.send_modify(|hits| *hits += 1);
    }

    /// How the call fails, once it was held as long as it is to be.
    pub(crate) async fn fault(&self) -> Option<Fault> {
        match &self.what {
            What::Fail(fault) => Some(*fault),
            What::Hold(held) => {
                self.announce();
                // An error says that whoever held the call is gone.
                let _released = held.clone().changed().await;
                None
            }
        }
    }
}
