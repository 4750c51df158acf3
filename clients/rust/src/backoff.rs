//! Pauses between attempts: they double up to a bound, and each is drawn evenly from zero up to
//! there ("full jitter"), so that clients that lost their server together do not come back
//! together.

use std::time::Duration;

/// How long pauses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest that the first pause may be.
    pub initial: Duration,
    /// The longest that any pause may be.
    pub max: Duration,
}

impl Default for Backoff {
    /// 100 ms, at most 10 s.
    fn default() -> Self {
        Self { initial: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}

/// One pause after the other.
#[derive(Debug)]
pub(crate) struct Pauses {
    backoff: Backoff,
    attempts: u32,
}

impl Pauses {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, attempts: 0 }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        self.next_spread(Duration::ZERO)
    }

    /// The next pause, drawn from zero up to this at least, also beyond what the backoff allows.
    pub(crate) fn next_spread(&mut self, spread: Duration) -> Duration {
        let most = self.backoff.initial.saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX));
        self.attempts = self.attempts.saturating_add(1);
        most.min(self.backoff.max).max(spread).mul_f64(fastrand::f64())
    }

    /// What was tried worked: the next pause is a first one.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}
