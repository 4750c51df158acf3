//! How many requests each tenant may make, so that one tenant's load is not everybody's: a token
//! bucket for each.
//!
//! Each warm environment counts for itself, and config-read and config-write have environments of
//! their own. A shared count would cost each request a call, and fail all requests when its store
//! is down.

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quick_cache::sync::Cache;

use crate::{
    clock::{Clock, Timestamp},
    model::tenant::TenantId,
};

/// How many tenants' buckets are kept. The least used ones make room, and start full again.
const MAX_TENANTS: usize = 10_000;
/// What a request costs. Buckets count thousandths, because a clock counts thousandths of a second.
const REQUEST: u64 = 1_000;

/// How many requests a tenant may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimit {
    /// In a second, over time. At least 1.
    pub rate: u32,
    /// At once, after a pause. At least 1.
    pub burst: u32,
}

/// A tenant that has made more requests than it may.
#[derive(Debug, thiserror::Error)]
#[error(
    "the tenant's requests come faster than the {} a second that are let through over time, and the {} at once", .limit.rate, .limit.burst
)]
pub struct OverLimit {
    limit: RequestLimit,
    /// When the next request will be let through, if there is no other before.
    pub retry_after: Duration,
}

/// The buckets of all tenants.
pub struct TenantLimits {
    limit: Option<RequestLimit>,
    clock: Clock,
    buckets: Cache<TenantId, Arc<Mutex<Bucket>>>,
}

/// What is left of what a tenant may do.
#[derive(Debug)]
struct Bucket {
    level: u64,
    at: Timestamp,
}

impl TenantLimits {
    /// The same limit for each tenant; none, if there is no limit.
    pub fn new(limit: Option<RequestLimit>, clock: Clock) -> Self {
        Self { limit, clock, buckets: Cache::new(MAX_TENANTS) }
    }

    /// Counts a request of `tenant`, if it may be made.
    pub fn admit(&self, tenant: &TenantId) -> Result<(), OverLimit> {
        let Some(limit) = self.limit else { return Ok(()) };
        let now = self.clock.now();
        let full = || Ok::<_, Infallible>(Arc::new(Mutex::new(Bucket { level: limit.capacity(), at: now })));
        let Ok(bucket) = self.buckets.get_or_insert_with(tenant, full);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(limit, now).map_err(|retry_after| OverLimit { limit, retry_after })
    }
}

impl fmt::Debug for TenantLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantLimits").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl RequestLimit {
    fn capacity(self) -> u64 {
        u64::from(self.burst) * REQUEST
    }
}

impl Bucket {
    /// Takes a request's worth out, or says how long it will be until there is that much.
    fn take(&mut self, limit: RequestLimit, now: Timestamp) -> Result<(), Duration> {
        // Of a clock that went back nothing is known but that it goes on from here.
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.at = now;
        self.level = self.level.saturating_add(passed.saturating_mul(limit.rate.into())).min(limit.capacity());
        match self.level.checked_sub(REQUEST) {
            Some(left) => {
                self.level = left;
                Ok(())
            }
            None => Err(Duration::from_millis((REQUEST - self.level).div_ceil(limit.rate.max(1).into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Limits, and the hand of their clock.
    fn limits(rate: u32, burst: u32) -> (TenantLimits, Arc<AtomicU64>) {
        let millis = Arc::new(AtomicU64::new(1_795_226_400_000));
        let shown = Arc::clone(&millis);
        let clock = Clock::new(move || Timestamp::from_millis(shown.load(Ordering::Relaxed)));
        (TenantLimits::new(Some(RequestLimit { rate, burst }), clock), millis)
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    /// How many requests are let through now, one after the other, and how long the next has to
    /// wait.
    fn let_through(limits: &TenantLimits, name: &str) -> (u32, Duration) {
        for count in 0..=1_000 {
            if let Err(over) = limits.admit(&tenant(name)) {
                return (count, over.retry_after);
            }
        }
        panic!("there is no end to it");
    }

    /// Promise: a tenant may make so many requests at once, and so many a second after that; one
    /// that waits as long as it is told gets through, and a long pause saves up no more than a
    /// burst.
    #[test]
    fn requests_come_back_with_time() {
        const MILLI: Duration = Duration::from_millis(1);
        for (rate, burst, passes) in [
            (100, 200, &[(0, 200, 10), (9, 0, 1), (1, 1, 10), (100, 10, 10), (999, 99, 1), (3_600_000, 200, 10)][..]),
            (1, 1, &[(0, 1, 1000), (999, 0, 1), (1, 1, 1000), (86_400_000, 1, 1000)]),
            (3, 2, &[(0, 2, 334), (333, 0, 1), (1, 1, 333), (1_000, 2, 334)]),
            (1_000, 1, &[(0, 1, 1), (1, 1, 1), (5, 1, 1)]),
            (u32::MAX, u32::MAX, &[]),
        ] {
            let (limits, millis) = limits(rate, burst);
            for (wait, count, retry_millis) in passes {
                millis.fetch_add(*wait, Ordering::Relaxed);
                let (counted, retry_after) = let_through(&limits, "acme");
                assert_eq!((counted, retry_after), (*count, MILLI * *retry_millis), "{rate}, {burst}: after {wait} ms");
            }
            assert!(limits.admit(&tenant("globex")).is_ok(), "{rate}, {burst}");
        }
    }

    /// Promise: what one tenant does takes nothing from another, and who has been turned away pays
    /// nothing for asking.
    #[test]
    fn tenants_have_buckets_of_their_own() {
        let (limits, millis) = limits(10, 5);
        assert_eq!(let_through(&limits, "acme").0, 5);
        for _ in 0..1_000 {
            assert!(limits.admit(&tenant("acme")).is_err());
        }
        assert_eq!(let_through(&limits, "Acme").0, 5);
        assert_eq!(let_through(&limits, "acme-2").0, 5);
        millis.fetch_add(100, Ordering::Relaxed);
        assert_eq!(let_through(&limits, "acme").0, 1);
    }

    /// Promise: a clock that goes back, however far, gives nothing and takes nothing: requests come
    /// back with the time from there on. One that leaps ahead gives a burst at most.
    #[test]
    fn a_clock_that_leaps_does_no_harm() {
        for there in [0, 1, 1_795_226_399_999, 1_795_226_400_000, u64::MAX - 1_000_000] {
            let (limits, millis) = limits(10, 5);
            assert_eq!(let_through(&limits, "acme").0, 5);
            millis.store(there, Ordering::Relaxed);
            let expected = if there > 1_795_226_400_000 { 5 } else { 0 };
            assert_eq!(let_through(&limits, "acme"), (expected, Duration::from_millis(100)), "{there}");
            millis.fetch_add(250, Ordering::Relaxed);
            assert_eq!(let_through(&limits, "acme"), (2, Duration::from_millis(50)), "{there}");
        }
    }

    /// Promise: however many tenants there are, memory stays bounded; one that was forgotten starts
    /// anew.
    #[test]
    fn memory_is_bounded() {
        let (limits, _) = limits(1, 1);
        for n in 0..3 * MAX_TENANTS {
            assert!(limits.admit(&tenant(&format!("t{n}"))).is_ok());
        }
        assert!(limits.buckets.len() <= MAX_TENANTS, "{}", limits.buckets.len());
        let forgotten = (0..MAX_TENANTS).filter(|n| limits.admit(&tenant(&format!("t{n}"))).is_ok());
        assert!(forgotten.count() > 0);
    }

    /// Promise: requests that come at the same time are counted one by one.
    #[test]
    fn no_request_is_left_uncounted() {
        let (limits, _) = limits(1, 500);
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        admitted.fetch_add(u64::from(limits.admit(&tenant("acme")).is_ok()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.load(Ordering::Relaxed), 500);
    }

    /// Promise: without a limit nobody is turned away, and nothing is kept.
    #[test]
    fn no_limit_is_no_limit() {
        let limits = TenantLimits::new(None, Clock::system());
        for _ in 0..1_000 {
            assert!(limits.admit(&tenant("acme")).is_ok());
        }
        assert!(limits.buckets.is_empty());
    }
}
