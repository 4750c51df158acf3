//! Connections to the service: one for each endpoint, made when it is used first, and which of them is in use.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tonic::transport::{Channel, Endpoint};

/// Makes the channel of an endpoint.
pub(crate) type Dial = dyn Fn(&Endpoint) -> Channel + Send + Sync;

/// The channels of all endpoints.
pub(crate) struct Channels {
    slots: Vec<Slot>,
    dial: Arc<Dial>,
    /// The endpoint that new calls go to.
    current: AtomicUsize,
}

struct Slot {
    endpoint: Endpoint,
    channel: Mutex<Channel>,
}

impl Channels {
    /// Of these endpoints, of which there is at least one. Begins with any of them, so that many clients spread.
    pub(crate) fn new(endpoints: Vec<Endpoint>, dial: Arc<Dial>) -> Self {
        let current = AtomicUsize::new(fastrand::usize(..endpoints.len().max(1)));
        let slots =
            endpoints.into_iter().map(|endpoint| Slot { channel: Mutex::new(dial(&endpoint)), endpoint }).collect();
        Self { slots, dial, current }
    }

    /// The channel in use, and which one it is.
    pub(crate) fn current(&self) -> (Channel, usize) {
        let index = self.current.load(Ordering::Relaxed);
        (self.slots[index].channel.lock().unwrap_or_else(PoisonError::into_inner).clone(), index)
    }

    /// Notes that this endpoint did not answer: unless somebody noted it before, the next one is in use.
    pub(crate) fn failed(&self, index: usize) {
        let next = (index + 1) % self.slots.len();
        // Lost to somebody who noted the same.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes that this endpoint's connection is there, but dead: the next use of the endpoint connects anew, since behind a load balancer
    /// that may lead elsewhere.
    pub(crate) fn silent(&self, index: usize) {
        let slot = &self.slots[index];
        *slot.channel.lock().unwrap_or_else(PoisonError::into_inner) = (self.dial)(&slot.endpoint);
        self.failed(index);
    }
}
