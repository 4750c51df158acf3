use std::time::Duration;

use crate::{Backoff, backoff::Pauses};

/// Promise: pauses double up to the bound, and never pass it, however many there were.
#[test]
fn pauses_are_bounded() {
    let backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(10) };
    let mut pauses = Pauses::new(backoff);
    let bounds = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000].into_iter().chain([10_000; 100]);
    for bound in bounds {
        let pause = pauses.next();
        assert!(pause <= Duration::from_millis(bound), "{pause:?} of at most {bound} ms");
    }
    pauses.reset();
    assert!(pauses.next() <= Duration::from_millis(100), "it begins anew after success");
}

/// Promise: pauses are spread over all of their range, so that clients that lost their server
/// together do not come back together.
#[test]
fn pauses_are_jittered() {
    fastrand::seed(7);
    let max = Duration::from_secs(1);
    let mut drawn = Pauses::new(Backoff { initial: max, max });
    let mut tenths = [0; 10];
    for _ in 0..1_000 {
        let tenth = (drawn.next().as_millis() / 100).min(9);
        tenths[usize::try_from(tenth).unwrap()] += 1;
    }
    assert!(tenths.iter().all(|count| (50..200).contains(count)), "a tenth of the range each: {tenths:?}");
}
