//! What becomes of events on their way to targets: tests see what a program does when they are
//! lost, late or doubled.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::delivery::Match;
use crate::faults::pick;

/// What becomes of the events that match a rule. `EventBridge` promises to deliver each at least
/// once, in no order; that AWS sends those of Parameter Store at all it does not promise.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub enum EventFate {
    /// Each is delivered once.
    #[default]
    Delivered,
    /// Each is delivered twice, at the same time.
    Doubled,
    /// They wait until they have another fate, and then come one by one, in the opposite order.
    Delayed,
    /// None is delivered.
    Lost,
    /// Each has a fate of its own, by chance.
    Random(EventOdds),
}

/// How likely an event is to be lost, doubled or delayed. Probabilities are from 0 to 1; what is
/// left of 1 is for events that are delivered once, at once. If they add up to more than 1, the
/// later ones come short.
///
/// Each event takes one turn with each rule that it matches, and what its turn brings depends on
/// the seed alone: the same seed brings the same fates in the same order. As soon as events are
/// caused at the same time, which event takes which turn may differ from run to run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventOdds {
    /// What the fates are drawn from, anew each time this becomes the fate of events.
    pub seed: u64,
    /// Never delivered.
    pub lost: f64,
    /// Delivered at once, and again after a wait.
    pub doubled: f64,
    /// Delivered after a wait, so that events behind it overtake it.
    pub delayed: f64,
    /// How long a wait is at most, by Tokio's clock; how long exactly is drawn, too. Events that
    /// wait are on their way: who waits until all is settled waits for them.
    pub longest: Duration,
}

/// Decides what becomes of each event.
#[derive(Debug, Default)]
pub(super) struct Fates(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    now: EventFate,
    random: fastrand::Rng,
    /// Events that wait for another fate.
    waiting: Vec<Match>,
}

/// Events to be delivered one after another, and how long to wait before.
pub(super) type Departure = (Vec<Match>, Duration);

#[derive(Clone, Copy)]
enum Chance {
    Lost,
    Doubled,
    Delayed,
}

impl Fates {
    /// Sets the fate of events from now on, and hands back those that have waited for it, the
    /// newest first.
    pub(super) fn set(&self, fate: EventFate) -> Vec<Match> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = fate;
        if let EventFate::Random(odds) = fate {
            state.random = fastrand::Rng::with_seed(odds.seed);
        }
        let mut waited = std::mem::take(&mut state.waiting);
        waited.reverse();
        waited
    }

    /// What becomes of these events.
    pub(super) fn meet(&self, events: Vec<Match>) -> Vec<Departure> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.now {
            EventFate::Lost => Vec::new(),
            EventFate::Delivered => vec![(events, Duration::ZERO)],
            EventFate::Doubled => vec![(events.clone(), Duration::ZERO), (events, Duration::ZERO)],
            EventFate::Delayed => {
                state.waiting.extend(events);
                Vec::new()
            }
            EventFate::Random(odds) => events
                .into_iter()
                .flat_map(|event| {
                    let waits = odds.draw(&mut state.random);
                    waits.into_iter().map(move |wait| (vec![event.clone()], wait))
                })
                .collect(),
        }
    }
}

impl EventOdds {
    /// Takes the turn of an event: after which waits it is delivered.
    fn draw(&self, random: &mut fastrand::Rng) -> Vec<Duration> {
        // Both are drawn in any case, so that a turn does not depend on what those before have
        // brought.
        let (chance, wait) = (random.f64(), self.longest.mul_f64(random.f64()));
        let choices = [(Chance::Lost, self.lost), (Chance::Doubled, self.doubled), (Chance::Delayed, self.delayed)];
        match pick(chance, &choices) {
            Some(Chance::Lost) => Vec::new(),
            Some(Chance::Doubled) => vec![Duration::ZERO, wait],
            Some(Chance::Delayed) => vec![wait],
            None => vec![Duration::ZERO],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards: the seed alone decides, every fate has its part, and waits are as long as allowed.
    #[test]
    fn a_seed_makes_its_decisions_again() {
        let longest = Duration::from_millis(100);
        let odds = |seed| EventOdds { seed, lost: 0.25, doubled: 0.25, delayed: 0.25, longest };
        let fates = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..400).map(|_| odds(seed).draw(&mut random)).collect::<Vec<_>>()
        };
        let drawn = fates(1);
        assert_eq!(drawn, fates(1));
        assert_ne!(drawn, fates(2));
        let at_once = |waits: &Vec<Duration>| waits.iter().map(Duration::is_zero).collect::<Vec<_>>();
        for kind in [vec![], vec![true, false], vec![false], vec![true]] {
            assert!(drawn.iter().any(|waits| at_once(waits) == kind), "{kind:?}");
        }
        assert!(drawn.iter().flatten().all(|wait| *wait < longest));
    }
}
