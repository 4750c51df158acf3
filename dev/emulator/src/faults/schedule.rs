//! Faults at random, from a seed: a schedule decides for each call in its turn whether and how it
//! fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Fault;

/// Which calls fail at random, how, and how often.
///
/// Each call takes one turn, and what its turn brings depends on the seed alone: the same seed
/// brings the same decisions in the same order. Which call takes which turn is another matter: as
/// soon as calls are made at the same time, their order, and so what comes of them, may differ from
/// run to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// What the decisions are drawn from.
    pub seed: u64,
    /// Kinds of faults, each with its probability from 0 to 1. One call gets one at most: if
    /// they add up to more than 1, the later ones come short.
    pub faults: Vec<(Fault, f64)>,
    /// The operations whose calls take a turn; `None` is for all, of whatever service.
    pub operations: Option<Vec<String>>,
    /// How many faults are dealt out at most; then calls are left alone. Those who go on until they
    /// succeed never end without a bound, if a fault is all but certain.
    pub max: usize,
}

/// Tells what a [`Schedule`] has dealt out, and ends it. Dropping this lets it go on.
#[derive(Debug, Clone)]
pub struct Scheduled {
    deal: Arc<Mutex<Deal>>,
}

#[derive(Debug)]
struct Deal {
    faults: Vec<(Fault, f64)>,
    operations: Option<Vec<String>>,
    random: fastrand::Rng,
    left: usize,
    dealt: BTreeMap<Fault, usize>,
}

impl Scheduled {
    pub(super) fn new(schedule: Schedule) -> Self {
        let Schedule { seed, faults, operations, max } = schedule;
        let random = fastrand::Rng::with_seed(seed);
        Self { deal: Arc::new(Mutex::new(Deal { faults, operations, random, left: max, dealt: BTreeMap::new() })) }
    }

    /// How many faults of each kind were dealt so far; kinds that were not dealt are not there. A
    /// fault that means nothing to its call (see [`Faults::schedule`](super::Faults::schedule)) is
    /// not counted.
    pub fn dealt(&self) -> BTreeMap<Fault, usize> {
        self.lock().dealt.clone()
    }

    /// No call takes a turn any more. What was dealt out before takes its course.
    pub fn end(&self) {
        self.lock().left = 0;
    }

    /// Takes the turn of a call. `fits` says whether a fault means something to the call.
    pub(super) fn turn(&self, operation: &str, fits: impl FnOnce(Fault) -> bool) -> Option<Fault> {
        let mut deal = self.lock();
        if deal.left == 0 || deal.operations.as_ref().is_some_and(|all| all.iter().all(|one| one != operation)) {
            return None;
        }
        let drawn = deal.random.f64();
        let fault = pick(drawn, &deal.faults).filter(|fault| fits(*fault))?;
        deal.left -= 1;
        *deal.dealt.entry(fault).or_default() += 1;
        tracing::debug!(operation, ?fault, "a fault was dealt out");
        Some(fault)
    }

    fn lock(&self) -> MutexGuard<'_, Deal> {
        self.deal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a number from 0 to 1 stands for, if each choice takes as much of that as its probability
/// says.
pub(crate) fn pick<T: Copy>(mut drawn: f64, choices: &[(T, f64)]) -> Option<T> {
    for (choice, probability) in choices {
        if drawn < *probability {
            return Some(*choice);
        }
        drawn -= probability.max(0.0);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn turns(seed: u64, operations: Option<&[&str]>, max: usize, fits: bool) -> (Vec<Option<Fault>>, Scheduled) {
        let scheduled = Scheduled::new(Schedule {
            seed,
            faults: vec![(Fault::Throttle, 0.25), (Fault::Delay(Duration::ZERO), 0.25)],
            operations: operations.map(|all| all.iter().map(|one| (*one).to_owned()).collect()),
            max,
        });
        let turns = (0..400).map(|_| scheduled.turn("GetItem", |_| fits)).collect();
        (turns, scheduled)
    }

    /// Guards: the seed alone decides, and every kind has its part.
    #[test]
    fn a_seed_makes_its_decisions_again() {
        let (first, scheduled) = turns(1, None, usize::MAX, true);
        assert_eq!(first, turns(1, Some(&["PutItem", "GetItem"]), usize::MAX, true).0);
        assert_ne!(first, turns(2, None, usize::MAX, true).0);
        let dealt = scheduled.dealt();
        assert_eq!(dealt.keys().copied().collect::<Vec<_>>(), [Fault::Throttle, Fault::Delay(Duration::ZERO)]);
        assert_eq!(dealt.values().sum::<usize>(), first.iter().flatten().count());
        assert!(first.contains(&None));
    }

    /// Guards: the bound holds, and what is not asked for or does not fit is neither dealt nor
    /// counted.
    #[test]
    fn a_schedule_is_bounded() {
        let (all, _) = turns(1, None, usize::MAX, true);
        let (some, scheduled) = turns(1, None, 3, true);
        let until = all.iter().position(Option::is_some).expect("a fault");
        assert_eq!(all[..=until], some[..=until]);
        assert_eq!(some.iter().flatten().count(), 3);
        assert_eq!(scheduled.dealt().values().sum::<usize>(), 3);
        for (turns, scheduled) in [turns(1, Some(&["PutItem"]), 3, true), turns(1, None, 3, false)] {
            assert!(turns.iter().all(Option::is_none) && scheduled.dealt().is_empty());
        }
    }

    /// Guards: probabilities that are none do no harm, and those that add up to more than 1 cut the
    /// later ones short.
    #[test]
    fn odd_probabilities_do_no_harm() {
        for drawn in [0.0, 0.5, 0.999] {
            assert_eq!(pick(drawn, &[('a', 0.0), ('b', -1.0), ('c', f64::NAN), ('d', 2.0), ('e', 1.0)]), Some('d'));
        }
        assert_eq!(pick(0.7, &[('a', 0.5)]), None);
    }
}
