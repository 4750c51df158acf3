//! Connections to the service: a channel for each endpoint, which connects when it is first used,
//! and which of them is in use.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// Makes the channel of an endpoint.
pub(crate) type Dial = dyn Fn(&Endpoint) -> Channel + Send + Sync;

/// The channels of all endpoints.
pub(crate) struct Channels {
    slots: Vec<Slot>,
    dial: Arc<Dial>,
    connect_timeout: Duration,
    /// The endpoint that new calls go to.
    current: AtomicUsize,
}

struct Slot {
    endpoint: Endpoint,
    dialled: Mutex<Dialled>,
}

struct Dialled {
    channel: Channel,
    /// Counts the channels of this endpoint, so that what calls notice of an old one does not throw
    /// away the new one.
    generation: u64,
    life: Life,
}

/// What is known of the connection behind a channel.
#[derive(Clone, Copy)]
enum Life {
    /// It was not used yet, so it is not connected.
    Unused,
    /// It has been used since then, and nothing has come yet: perhaps it still connects.
    Connecting(Instant),
    /// When something came over it last.
    Heard(Instant),
}

/// Which channel a call goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelId {
    index: usize,
    generation: u64,
}

impl Channels {
    /// For these endpoints, at least one. Begins with a random one, so that many clients spread.
    pub(crate) fn new(endpoints: Vec<Endpoint>, connect_timeout: Duration, dial: Arc<Dial>) -> Self {
        let current = AtomicUsize::new(fastrand::usize(..endpoints.len().max(1)));
        let slot = |endpoint| {
            let dialled = Dialled { channel: dial(&endpoint), generation: 0, life: Life::Unused };
            Slot { endpoint, dialled: Mutex::new(dialled) }
        };
        let slots = endpoints.into_iter().map(slot).collect();
        Self { slots, dial, connect_timeout, current }
    }

    /// The channel in use, and which one it is.
    pub(crate) fn current(&self) -> (Channel, ChannelId) {
        let index = self.current.load(Ordering::Relaxed);
        let mut dialled = self.dialled(index);
        if let Life::Unused = dialled.life {
            dialled.life = Life::Connecting(Instant::now());
        }
        (dialled.channel.clone(), ChannelId { index, generation: dialled.generation })
    }

    /// Notes that something came over this channel at this time.
    pub(crate) fn heard(&self, id: ChannelId, at: Instant) {
        let mut dialled = self.dialled(id.index);
        if dialled.generation == id.generation {
            dialled.life = Life::Heard(at);
        }
    }

    /// Notes that this endpoint failed. The next one is in use then, unless another call noted that
    /// before.
    pub(crate) fn failed(&self, id: ChannelId) {
        if self.dialled(id.index).generation == id.generation {
            self.leave(id.index);
        }
    }

    /// Notes that a call over this channel has had no answer since this time, although it waited as
    /// long as an answer may take.
    ///
    /// If nothing at all came over the channel in that time, its connection counts as dead. The
    /// next use of the endpoint connects anew, which may lead elsewhere behind a load balancer. If
    /// anything came, for any call, the service is slow and the connection good. A channel that has
    /// never brought anything may still be connecting, which must not begin anew for every
    /// impatient call.
    ///
    /// A connection may be taken for dead wrongly, when a slow service was asked nothing else
    /// meanwhile. That costs another connection, and no call: what is open on the old one goes on
    /// there.
    pub(crate) fn silent(&self, id: ChannelId, since: Instant) {
        let slot = &self.slots[id.index];
        let mut dialled = self.dialled(id.index);
        if dialled.generation != id.generation {
            return;
        }
        let is_dead = match dialled.life {
            Life::Unused => false,
            Life::Connecting(used) => used.elapsed() >= self.connect_timeout,
            Life::Heard(at) => at <= since,
        };
        if is_dead {
            let generation = dialled.generation + 1;
            *dialled = Dialled { channel: (self.dial)(&slot.endpoint), generation, life: Life::Unused };
        }
        drop(dialled);
        self.leave(id.index);
    }

    /// Goes to the next endpoint if this one is in use.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.slots.len();
        // Another call may have noted the same.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn dialled(&self, index: usize) -> MutexGuard<'_, Dialled> {
        self.slots[index].dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
