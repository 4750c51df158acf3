//! What operators are told of refused callers: why, and never the token.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tenantry::auth::AuthError;
use tracing::{info, warn};

/// How many lines there are in a second at most.
const LINES: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// Logs each refused caller, as long as they are few.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    begin: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Refusals {
    /// Logs why a caller is refused.
    pub(crate) fn note(&self, failure: &AuthError) {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner).line(Instant::now());
        let Some(left_out) = counted else { return };
        if left_out > 0 {
            info!(left_out, "more calls were refused than there are lines");
        }
        match failure {
            AuthError::InvalidToken(reason) => info!(%reason, "a call was refused"),
            AuthError::KeysUnavailable { reason, .. } => {
                warn!(%reason, "a call was refused: the issuer's keys cannot be had");
            }
            reason => info!(%reason, "a call was refused"),
        }
    }
}

impl Counted {
    /// Whether another refusal gets a line, and how many had none since the last line.
    fn line(&mut self, now: Instant) -> Option<u64> {
        if self.begin.is_none_or(|begin| now.duration_since(begin) >= SECOND) {
            (self.begin, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flood of bad tokens does not flood the log. The next line says how many were left out.
    #[test]
    fn a_flood_is_a_few_lines() {
        let mut counted = Counted::default();
        let begin = Instant::now();
        let mut lines = |millis: u64, calls: usize| {
            let now = begin + Duration::from_millis(millis);
            (0..calls).filter_map(|_| counted.line(now)).collect::<Vec<_>>()
        };
        assert_eq!(lines(0, 3), [0; 3]);
        assert_eq!(lines(999, 1_000), [0; 7]);
        assert_eq!(lines(1_000, 2), [993, 0]);
        assert_eq!(lines(1_999, 8), [0; 8]);
        assert_eq!(lines(5_000, 1), [0]);
    }
}
