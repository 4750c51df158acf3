//! Waits between attempts, at random lengths, so that many that failed together come back spread
//! out.

use std::time::Duration;

/// The waits between the attempts of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// The longest that the next wait may take.
    longest: Duration,
    max: Duration,
    /// The shortest wait, as a part of the longest one.
    least: f64,
}

impl Backoff {
    /// Waits of anything up to `longest`.
    pub(crate) const fn up_to(longest: Duration) -> Self {
        Self { longest, max: longest, least: 0.0 }
    }

    /// The same, but of half as long at least: what is waited for needs the time.
    pub(crate) const fn at_least_half(self) -> Self {
        Self { least: 0.5, ..self }
    }

    /// The same, but twice as long after each wait, until they may take `max`.
    pub(crate) const fn doubling_to(self, max: Duration) -> Self {
        Self { max, ..self }
    }

    /// Waits before the next attempt.
    pub(crate) async fn wait(&mut self) {
        let wait = self.next();
        tokio::time::sleep(wait).await;
    }

    /// How long the next wait takes.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.longest.mul_f64(self.least + (1.0 - self.least) * fastrand::f64());
        self.longest = self.longest.saturating_mul(2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each wait is within its bounds, which double up to the last.
    #[test]
    fn waits_stay_within_their_bounds() {
        let millis = Duration::from_millis;
        let full = Backoff::up_to(millis(20)).doubling_to(millis(70));
        for (mut backoff, least) in [(full, 0.0), (full.at_least_half(), 0.5)] {
            for most in [20, 40, 70, 70].map(millis) {
                let wait = backoff.next();
                assert!((most.mul_f64(least)..=most).contains(&wait), "{wait:?} of {most:?}");
            }
        }
        let mut constant = Backoff::up_to(millis(5));
        assert!((0..100).all(|_| constant.next() <= millis(5)));
    }
}
