//! Wakes all who watch a tenant.
//!
//! A watcher leaves its waker here once, and need not come again for each change: with a thousand watchers, that is most of what a change
//! would cost besides what they are sent.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use slab::Slab;

/// The wakers of a tenant's watchers.
#[derive(Debug, Default)]
pub struct Wakers(Mutex<Slab<Waker>>);

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes them all.
    pub fn wake_all(&self) {
        self.lock().iter().for_each(|(_, waker)| waker.wake_by_ref());
    }
}

/// A watcher's place among them; dropped, it is woken no more.
#[derive(Debug)]
pub struct Registration {
    wakers: Arc<Wakers>,
    own: Option<(usize, Waker)>,
}

impl Registration {
    /// A place that nobody is woken from yet.
    pub fn new(wakers: Arc<Wakers>) -> Self {
        Self { wakers, own: None }
    }

    /// Has `waker` be woken from now on, for each change that comes after this.
    pub fn register(&mut self, waker: &Waker) {
        match &mut self.own {
            Some((_, own)) if own.will_wake(waker) => {}
            Some((place, own)) => {
                own.clone_from(waker);
                self.wakers.lock()[*place].clone_from(waker);
            }
            None => self.own = Some((self.wakers.lock().insert(waker.clone()), waker.clone())),
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
