//! A circuit breaker for each AWS service: while one does not answer, calls to it fail at once
//! instead of keeping their callers waiting, and it is asked again by one call at a time.
//!
//! What counts is whether the service answers, not what it answers. A throttle or a refusal shows
//! that the service is there, and may concern one tenant only. So it does not open the circuit.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
    },
    error::BoxError,
};

use tracing::{info, warn};

use super::Service;
use crate::clock::{Clock, Timestamp};

/// How many failures in a row open the circuit. A timeout counts double, since it also took its
/// caller's time.
const OPENS_AT: u32 = 6;
/// How long the circuit stays open at first, and at most. The time doubles with each failed probe.
/// Half of it is random, so that environments do not probe together.
const MIN_OPEN: Duration = Duration::from_secs(1);
const MAX_OPEN: Duration = Duration::from_secs(30);
/// How long a probe may stay without an answer before another call becomes the probe: longer than
/// an attempt may take.
const PROBE: Duration = Duration::from_secs(5);

/// A call that was not made, because its service does not answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not called, because the calls before it were not answered; to be tried again in {} ms", retry_after.as_millis())]
pub(crate) struct CircuitOpen {
    /// When a call may be let through.
    pub(crate) retry_after: Duration,
}

/// The breaker of one service.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    service: Service,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum State {
    /// Calls are made. So many failures came in a row.
    Closed { failures: u32 },
    /// No call is made before `until`, which has been put off by `open_for`; then one, as a probe.
    Open { until: Timestamp, open_for: Duration, probing: bool },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Answered,
    Failed,
    TimedOut,
}

impl Breaker {
    pub(super) fn new(service: Service, clock: Clock) -> Self {
        Self { service, clock, state: Arc::new(Mutex::new(State::Closed { failures: 0 })) }
    }

    /// Whether a call may be made now.
    fn admit(&self) -> Result<(), CircuitOpen> {
        let now = self.clock.now();
        match &mut *self.lock() {
            State::Closed { .. } => Ok(()),
            // Longer than that only if the clock went back.
            State::Open { until, .. } if now < *until && until.since(now) <= MAX_OPEN => {
                Err(CircuitOpen { retry_after: until.since(now) })
            }
            State::Open { until, probing, .. } => {
                (*until, *probing) = (now.plus(PROBE), true);
                Ok(())
            }
        }
    }

    fn note(&self, ended: Ended) {
        let mut state = self.lock();
        let weight = match ended {
            Ended::Answered => {
                if matches!(*state, State::Open { .. }) {
                    info!(service = %self.service, "the service answers again");
                }
                *state = State::Closed { failures: 0 };
                return;
            }
            Ended::Failed => 1,
            Ended::TimedOut => 2,
        };
        match *state {
            State::Closed { failures } if failures + weight < OPENS_AT => {
                *state = State::Closed { failures: failures + weight };
            }
            State::Closed { .. } => *state = self.open(MIN_OPEN),
            State::Open { open_for, probing: true, .. } => *state = self.open((open_for * 2).min(MAX_OPEN)),
            // It was under way when the circuit opened, and says nothing new.
            State::Open { probing: false, .. } => {}
        }
    }

    fn open(&self, open_for: Duration) -> State {
        let until = self.clock.now().plus(open_for.mul_f64(0.5 + fastrand::f64() / 2.0));
        warn!(service = %self.service, until = %until, "the service does not answer and is not called for a while");
        State::Open { until, open_for, probing: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for Breaker {
    fn name(&self) -> &'static str {
        "Breaker"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        Ok(self.admit()?)
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let ended = match (context.response(), context.output_or_error()) {
            // Its body, perhaps.
            (_, Some(Err(error))) if error.is_timeout_error() => Ended::TimedOut,
            (Some(answer), _) if !answer.status().is_server_error() => Ended::Answered,
            // Nothing was sent.
            (None, Some(Err(error))) if error.is_interceptor_error() => return Ok(()),
            _ => Ended::Failed,
        };
        self.note(ended);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A breaker, and the hand of its clock.
    fn breaker() -> (Breaker, impl Fn(Duration)) {
        let millis = Arc::new(AtomicU64::new(1_000_000));
        let hand = Arc::clone(&millis);
        let clock = Clock::new(move || Timestamp::from_millis(millis.load(Ordering::Relaxed)));
        let pass =
            move |time: Duration| _ = hand.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
        (Breaker::new(Service::DynamoDb, clock), pass)
    }

    fn fail(breaker: &Breaker, ended: Ended, times: usize) -> bool {
        for _ in 0..times {
            if breaker.admit().is_ok() {
                breaker.note(ended);
            }
        }
        breaker.admit().is_err()
    }

    /// Six failures in a row, or three timeouts, open the circuit. Any answer in between resets the
    /// count.
    #[test]
    fn failures_in_a_row_open_the_circuit() {
        for (ended, enough) in [(Ended::Failed, 6), (Ended::TimedOut, 3)] {
            let (breaker, _) = breaker();
            assert!(!fail(&breaker, ended, enough - 1), "{ended:?}");
            breaker.note(Ended::Answered);
            assert!(!fail(&breaker, ended, enough - 1), "{ended:?}");
            assert!(fail(&breaker, ended, 1), "{ended:?}");
        }
    }

    /// An open circuit lets one call through when its time has passed, and no other before that one
    /// has ended. Its success closes the circuit.
    #[test]
    fn one_call_at_a_time_probes() {
        let (breaker, pass) = breaker();
        assert!(fail(&breaker, Ended::Failed, 6));
        let closed_for = breaker.admit().unwrap_err().retry_after;
        assert!(closed_for >= MIN_OPEN / 2 && closed_for <= MIN_OPEN, "{closed_for:?}");
        // Somebody's call from before.
        breaker.note(Ended::TimedOut);
        assert_eq!(breaker.admit().unwrap_err().retry_after, closed_for);
        pass(closed_for);
        assert!(breaker.admit().is_ok());
        assert!(breaker.admit().is_err(), "one probe is enough");
        breaker.note(Ended::Answered);
        assert!(breaker.admit().is_ok() && breaker.admit().is_ok());
    }

    /// Each probe that fails makes the next one come later, up to a limit; one whose end nobody
    /// tells does not keep the circuit open for ever.
    #[test]
    fn probes_that_fail_come_less_often() {
        let (breaker, pass) = breaker();
        assert!(fail(&breaker, Ended::Failed, 6));
        for expected in [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs) {
            let closed_for = breaker.admit().unwrap_err().retry_after;
            assert!(closed_for >= expected / 2 && closed_for <= expected, "{closed_for:?} of {expected:?}");
            pass(closed_for);
            assert!(breaker.admit().is_ok());
            breaker.note(Ended::TimedOut);
        }
        pass(MAX_OPEN);
        assert!(breaker.admit().is_ok());
        pass(PROBE);
        assert!(breaker.admit().is_ok(), "the probe has been lost");
    }
}
