//! Wakes all watchers of a tenant.
//!
//! A watcher leaves its waker here once, and not again for each change. With a thousand watchers,
//! that would be most of what a change costs besides sending it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;
use tenantry::clock::Timestamp;

use crate::connections::AbortFlag;

/// How long a watch has to end by itself after it was woken for that.
const GRACE: Duration = Duration::from_secs(1);

/// The wakers of a tenant's watchers.
#[derive(Debug, Default)]
pub struct Wakers(Mutex<Slab<Watcher>>);

#[derive(Debug)]
struct Watcher {
    waker: Waker,
    end: Option<End>,
    /// When it was woken because its token had expired.
    overdue_since: Option<Instant>,
}

/// When a watch is to end, and what aborts it if it has not.
#[derive(Clone, Debug)]
pub struct End {
    /// When its token expires.
    pub at: Timestamp,
    /// What ends it.
    pub abort: AbortFlag,
}

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, Slab<Watcher>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes them all.
    pub fn wake_all(&self) {
        self.lock().iter().for_each(|(_, watcher)| watcher.waker.wake_by_ref());
    }

    /// Wakes the watches whose token has expired at `now`. Aborts those that do not end although
    /// they were woken: their peers take nothing.
    pub fn close_expired(&self, now: Timestamp) {
        for (_, watcher) in &mut *self.lock() {
            if let Some(end) = watcher.end.as_ref().filter(|end| end.at <= now) {
                if watcher.overdue_since.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                    end.abort.abort();
                }
                watcher.waker.wake_by_ref();
            }
        }
    }
}

/// A watcher's place among them. Once it is dropped, the watcher is woken no more.
#[derive(Debug)]
pub struct Registration {
    wakers: Arc<Wakers>,
    own: Option<(usize, Waker)>,
    end: Option<End>,
}

impl Registration {
    /// A place without a waker yet.
    pub fn new(wakers: Arc<Wakers>) -> Self {
        Self { wakers, own: None, end: None }
    }

    /// Has the watch that will register aborted if it has not ended by then.
    pub fn end(&mut self, end: End) {
        self.end = Some(end);
    }

    /// From now on, each change wakes `waker`.
    pub fn register(&mut self, waker: &Waker) {
        match &mut self.own {
            Some((_, own)) if own.will_wake(waker) => {}
            Some((place, own)) => {
                own.clone_from(waker);
                self.wakers.lock()[*place].waker.clone_from(waker);
            }
            None => {
                let watcher = Watcher { waker: waker.clone(), end: self.end.take(), overdue_since: None };
                self.own = Some((self.wakers.lock().insert(watcher), waker.clone()));
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some((place, _)) = &self.own {
            self.wakers.lock().remove(*place);
        }
    }
}
