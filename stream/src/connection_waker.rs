//! Wakes the one task that serves a connection and all its calls.
//!
//! The connection and its calls mostly wake each other, and the runtime would schedule the task
//! again for each wake, often on another thread. So a wake leaves a flag, and schedules the task
//! only while it rests. A running task looks at the flags before it rests.
//!
//! The flags and whether the task runs are bits of one atomic number, and each change of it is one
//! atomic step. So a wake comes either before the task rests, and the task sees its flag, or after,
//! and the wake sees that the task rests. The tests try all interleavings.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use self::sync::{AtomicU8, AtomicWaker, Ordering::AcqRel};

/// How many turns a connection and its calls take before other tasks do.
const MAX_TURNS: usize = if cfg!(test) { 2 } else { 16 };

/// Set while the task runs.
const RUNNING: u8 = 1;
/// Set while that part is to be polled.
const CALLS: u8 = 2;
const CONNECTION: u8 = 4;

/// What a connection's task polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Its calls, all together.
    Calls,
    /// The connection itself.
    Connection,
}

impl Part {
    fn flag(self) -> u8 {
        match self {
            Self::Calls => CALLS,
            Self::Connection => CONNECTION,
        }
    }
}

/// The state that a connection's task shares with the wakers of its parts.
struct ConnectionWaker {
    /// `RUNNING` and the flags. Zero while the task rests and nothing is to be done.
    state: AtomicU8,
    task: AtomicWaker,
}

impl ConnectionWaker {
    /// Sets the flag of `part`, and wakes the task if it rests.
    fn wake(&self, part: Part) {
        // If the task runs, it sees the flag before it rests. If another flag was set before, the
        // one who set that one wakes the task.
        if self.state.fetch_or(part.flag(), AcqRel) == 0 {
            self.task.wake();
        }
    }

    /// Clears the flag of `part`. Returns whether it was set.
    fn take(&self, part: Part) -> bool {
        self.state.fetch_and(!part.flag(), AcqRel) & part.flag() != 0
    }

    /// Lets the task rest if no flag is set.
    fn rest(&self) -> bool {
        self.state.compare_exchange(RUNNING, 0, AcqRel, sync::Ordering::Relaxed).is_ok()
    }
}

/// Wakes one part of a connection.
struct WakeFlag {
    waker: Arc<ConnectionWaker>,
    part: Part,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.waker.wake(self.part);
    }
}

/// The task's side: polls what was woken.
pub(crate) struct ConnectionTask {
    waker: Arc<ConnectionWaker>,
    calls: Waker,
    connection: Waker,
}

impl ConnectionTask {
    /// A task whose parts are both to be polled first.
    pub(crate) fn new() -> Self {
        let waker = ConnectionWaker { state: AtomicU8::new(CALLS | CONNECTION), task: AtomicWaker::default() };
        let waker = Arc::new(waker);
        let of = |part| Waker::from(Arc::new(WakeFlag { waker: Arc::clone(&waker), part }));
        Self { calls: of(Part::Calls), connection: of(Part::Connection), waker }
    }

    /// Polls by `poll` each part that was woken, until the connection is ready or nothing is left
    /// to do. `task` wakes the task.
    pub(crate) fn poll<T>(&self, task: &Waker, mut poll: impl FnMut(Part, &mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.waker.task.register(task);
        self.waker.state.fetch_or(RUNNING, AcqRel);
        for _ in 0..MAX_TURNS {
            // Calls first: what they have to say goes out with what the connection does next.
            for (part, waker) in [(Part::Calls, &self.calls), (Part::Connection, &self.connection)] {
                // Cleared before the part is polled, so that a wake from here on is seen.
                if self.waker.take(part)
                    && let Poll::Ready(ended) = poll(part, &mut Context::from_waker(waker))
                {
                    return Poll::Ready(ended);
                }
            }
            if self.waker.rest() {
                return Poll::Pending;
            }
        }
        // Other tasks get their turn.
        self.waker.state.fetch_and(!RUNNING, AcqRel);
        task.wake_by_ref();
        Poll::Pending
    }

    /// Has a part be polled in the next turn. Only while the task runs.
    pub(crate) fn poll_next(&self, part: Part) {
        self.waker.wake(part);
    }
}

#[cfg(not(test))]
mod sync {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};

    pub(super) use futures_util::task::AtomicWaker;
}

/// Loom's, which exist only within a model.
#[cfg(test)]
mod sync {
    use std::task::Waker;

    pub(super) use loom::sync::atomic::{AtomicU8, Ordering};

    #[derive(Default)]
    pub(super) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(super) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(super) fn wake(&self) {
            self.0.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc};

    use loom::{
        future::block_on,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        thread,
    };

    use super::*;

    /// How often a thread may be interrupted where it need not be: all interleavings of so few.
    const PREEMPTIONS: usize = 3;

    fn model(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS);
        builder.check(model);
    }

    /// Something that a part waits for. It orders nothing itself: that is what wakes are for.
    #[derive(Default)]
    struct Input(AtomicUsize);

    impl Input {
        fn give(&self, waker: &Waker) {
            self.0.store(self.0.load(Relaxed) + 1, Relaxed);
            waker.wake_by_ref();
        }

        fn has(&self, count: usize) -> bool {
            self.0.load(Relaxed) == count
        }
    }

    /// Serves until both inputs were given so often. Hangs, which loom reports, if a wake is lost.
    fn serve(task: &ConnectionTask, calls: (&Input, usize), connection: (&Input, usize)) {
        let mut has = [false; 2];
        block_on(poll_fn(|context| {
            task.poll(context.waker(), |part, _| {
                match part {
                    Part::Calls => has[0] = calls.0.has(calls.1),
                    Part::Connection => has[1] = connection.0.has(connection.1),
                }
                if has == [true; 2] { Poll::Ready(()) } else { Poll::Pending }
            })
        }));
    }

    /// Promise: whenever the two parts are woken, by two threads at once, each is polled after its
    /// wake, and sees what came before it.
    #[test]
    fn no_wake_is_lost() {
        model(|| {
            let task = ConnectionTask::new();
            let inputs = Arc::new([Input::default(), Input::default()]);
            for (number, waker) in [&task.calls, &task.connection].into_iter().cloned().enumerate() {
                let inputs = Arc::clone(&inputs);
                thread::spawn(move || inputs[number].give(&waker));
            }
            serve(&task, (&inputs[0], 1), (&inputs[1], 1));
        });
    }

    /// Promise: the same for a part that is woken again and again while the task begins to run,
    /// rests, or lets others run.
    #[test]
    fn no_wake_is_lost_among_several() {
        model(|| {
            let task = ConnectionTask::new();
            let inputs = Arc::new([Input::default(), Input::default()]);
            let (waker, given) = (task.calls.clone(), Arc::clone(&inputs));
            thread::spawn(move || (0..2).for_each(|_| given[0].give(&waker)));
            serve(&task, (&inputs[0], 2), (&inputs[1], 0));
        });
    }

    /// Promise: what a part wakes while it is polled is polled in the next turn, without the
    /// runtime; and after so many turns other tasks run.
    #[test]
    fn parts_wake_each_other() {
        model(|| {
            let task = ConnectionTask::new();
            let (mut runs, mut polled) = (0, Vec::new());
            block_on(poll_fn(|context| {
                runs += 1;
                task.poll(context.waker(), |part, _| {
                    polled.push(part);
                    if polled.len() == 5 {
                        return Poll::Ready(());
                    }
                    task.poll_next(if part == Part::Calls { Part::Connection } else { Part::Calls });
                    Poll::Pending
                })
            }));
            let expected = [Part::Calls, Part::Connection, Part::Calls, Part::Connection, Part::Calls];
            assert_eq!((runs, polled), (2, expected.to_vec()));
        });
    }
}
