//! Wakes all who watch a tenant.
//!
//! A watcher leaves its waker here once, and need not come again for each change: with a thousand
//! watchers, that is most of what a change would cost besides what they are sent.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;
use tenantry::clock::Timestamp;

use crate::connections::Cut;

/// How long a watch has to end by itself once it was woken for that.
const GRACE: Duration = Duration::from_secs(1);

/// The wakers of a tenant's watchers.
#[derive(Debug, Default)]
pub struct Wakers(Mutex<Slab<Watcher>>);

#[derive(Debug)]
struct Watcher {
    waker: Waker,
    end: Option<End>,
    /// When it was woken because it was to have ended.
    overdue_since: Option<Instant>,
}

/// When a watch is to have ended, and what ends it if it has not.
#[derive(Clone, Debug)]
pub struct End {
    /// When its token expires.
    pub at: Timestamp,
    /// What ends it.
    pub cut: Cut,
}

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, Slab<Watcher>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes them all.
    pub fn wake_all(&self) {
        self.lock().iter().for_each(|(_, watcher)| watcher.waker.wake_by_ref());
    }

    /// Wakes those that are to have ended by `now`, and cuts off those that have not although they
    /// were woken.
    pub fn close_expired(&self, now: Timestamp) {
        for (_, watcher) in &mut *self.lock() {
            if let Some(end) = watcher.end.as_ref().filter(|end| end.at <= now) {
                if watcher.overdue_since.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                    end.cut.cut();
                }
                watcher.waker.wake_by_ref();
            }
        }
    }
}

/// A watcher's place among them; dropped, it is woken no more.
#[derive(Debug)]
pub struct Registration {
    wakers: Arc<Wakers>,
    own: Option<(usize, Waker)>,
    end: Option<End>,
}

impl Registration {
    /// A place that nobody is woken from yet.
    pub fn new(wakers: Arc<Wakers>) -> Self {
        Self { wakers, own: None, end: None }
    }

    /// Has the watch that will register be cut off if it has not ended by then.
    pub fn end(&mut self, end: End) {
        self.end = Some(end);
    }

    /// Has `waker` be woken from now on, for each change that comes after this.
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
