//! Waiting for one's turn to commit, once another writer has come first.
//!
//! A writer that lost a race takes a ticket, and waits about as long as those ahead need. Few
//! attempts are in vain then, and nobody is overtaken for long. A ticket whose writer died costs
//! those behind it a short wait. A writer that meets nobody takes no ticket.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    auth::TenantScope,
    backoff::Backoff,
    clock::Clock,
    ledger::{Ledger, LedgerError, Queue},
    model::entry::Revision,
};

/// How long a writer contends for the tenant's next revision. After that its ticket is nobody's.
const CONTENTION_BUDGET: Duration = Duration::from_secs(8);
/// How long it waits where no ticket says it: its turn has come, or it waits for a store.
const CONTENTION_BACKOFF: Backoff = Backoff::up_to(Duration::from_millis(20)).doubling_to(Duration::from_millis(400));
/// With how many ahead a writer plans on top of their commits, instead of looking once more. Each
/// makes the guess less sure.
const NEAR: u32 = 2;
/// The longest wait between two looks at the queue; before the first one, half of it. Who would
/// wait longer may have taken a busy moment of DynamoDB for its usual pace.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// After how many commits' time without one those ahead count as dead. To this come as many as are
/// ahead, so that the next in line notices first.
const PATIENCE: u32 = 3;

/// What one request knows of the others.
#[derive(Debug)]
pub(super) struct Contention<'a> {
    ledger: &'a Ledger,
    scope: &'a TenantScope,
    clock: &'a Clock,
    give_up_at: Instant,
    backoff: Backoff,
    turn: Option<Turn>,
    /// Whether others' commits are likely to leave this writer's keys alone.
    guesses: bool,
}

/// A place in the tenant's queue.
#[derive(Debug)]
struct Turn {
    ticket: u64,
    queue: Queue,
    /// DynamoDB's fastest answer since the ticket.
    fastest: Duration,
    revision: Revision,
    /// When the revision was first seen.
    moved_at: Instant,
    /// The longest that the next wait may take.
    longest: Duration,
}

/// What a writer does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It looks again after a while.
    Look(Duration),
    /// It commits after a while, on top of so many commits that are still to come.
    Commit(Duration, u32),
}

impl<'a> Contention<'a> {
    pub(super) fn new(ledger: &'a Ledger, scope: &'a TenantScope, clock: &'a Clock) -> Self {
        let give_up_at = Instant::now() + CONTENTION_BUDGET;
        Self { ledger, scope, clock, give_up_at, backoff: CONTENTION_BACKOFF, turn: None, guesses: true }
    }

    /// Whether the writer is in the queue.
    pub(super) fn is_queued(&self) -> bool {
        self.turn.is_some()
    }

    /// Takes note of what the ledger says, and of how long it took to say it.
    pub(super) fn note(&mut self, revision: Revision, queue: Queue, took: Duration) {
        if let Some(turn) = &mut self.turn {
            turn.note(revision, queue, took);
        }
    }

    /// What to do next, with the ledger at `revision`. Where others wait, newcomers go behind them.
    pub(super) async fn next(&mut self, revision: Revision, queue: Queue) -> Result<Next, LedgerError> {
        if self.turn.is_none() && queue.is_busy() {
            self.enter(revision, queue).await?;
        }
        Ok(match self.turn.as_ref().map_or(Next::Commit(Duration::ZERO, 0), Turn::next) {
            Next::Commit(wait, 1..) if !self.guesses => Next::Look(wait),
            next => next,
        })
    }

    /// How long to wait after a conflict, at the head or on top of commits that were still to come.
    /// Whoever has no ticket takes one.
    pub(super) async fn after_conflict(
        &mut self,
        revision: Revision,
        queue: Queue,
        ahead: u32,
    ) -> Result<Duration, LedgerError> {
        if self.turn.is_none() {
            self.enter(revision, queue).await?;
            return Ok(Duration::ZERO);
        }
        // Whoever only guessed wrong asks its ticket again.
        Ok(if ahead > 0 { Duration::ZERO } else { self.pause() })
    }

    /// Others write the same keys, or get in the way at DynamoDB. No commit is worth planning upon
    /// others that are still to come.
    pub(super) fn stop_guessing(&mut self) {
        self.guesses = false;
    }

    /// How long to wait where no ticket says it.
    pub(super) fn pause(&mut self) -> Duration {
        self.backoff.next()
    }

    /// How far the queue has come with this writer's commit, if it waited there.
    pub(super) fn served(&self) -> Option<Queue> {
        let turn = self.turn.as_ref()?;
        Some(Queue { served: turn.queue.served.max(turn.ticket), last: turn.queue.last })
    }

    /// Waits; no longer than the writer contends. Whether there was any time left.
    pub(super) async fn wait(&self, wait: Duration) -> bool {
        let now = Instant::now();
        if now >= self.give_up_at {
            return false;
        }
        if !wait.is_zero() {
            tokio::time::sleep_until((now + wait).min(self.give_up_at)).await;
        }
        true
    }

    /// Takes a ticket.
    async fn enter(&mut self, revision: Revision, mut queue: Queue) -> Result<(), LedgerError> {
        let (now, asked) = (self.clock.now(), Instant::now());
        let ticket = self.ledger.take_ticket(self.scope, now).await?;
        if ticket.previous_at.is_none_or(|previous| now.since(previous) > CONTENTION_BUDGET) {
            // Whoever took the tickets before has committed or given up.
            queue.served = queue.served.max(ticket.number - 1);
        }
        queue.last = queue.last.max(ticket.number);
        let (fastest, moved_at) = (asked.elapsed(), Instant::now());
        let longest = LONGEST_WAIT / 2;
        self.turn = Some(Turn { ticket: ticket.number, queue, fastest, revision, moved_at, longest });
        Ok(())
    }
}

impl Turn {
    fn note(&mut self, revision: Revision, queue: Queue, took: Duration) {
        self.fastest = self.fastest.min(took);
        self.longest = LONGEST_WAIT;
        self.queue.served = self.queue.served.max(queue.served);
        self.queue.last = self.queue.last.max(queue.last);
        if self.revision != revision {
            (self.revision, self.moved_at) = (revision, Instant::now());
        }
    }

    fn next(&self) -> Next {
        let ahead = self.ticket.saturating_sub(self.queue.served + 1);
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        // A commit takes a call, and half of one until the next in line has noticed.
        let pace = self.fastest * 3 / 2;
        let patience = pace.saturating_mul(ahead.saturating_add(PATIENCE)).min(LONGEST_WAIT);
        if ahead == 0 || self.moved_at.elapsed() >= patience {
            return Next::Commit(Duration::ZERO, 0);
        }
        let wait = pace.saturating_mul(ahead).saturating_sub(self.fastest);
        // At random, so that those who come back early come back spread out.
        let longest = self.longest.mul_f64(1.0 - fastrand::f64() / 2.0);
        if ahead <= NEAR && wait < longest { Next::Commit(wait, ahead) } else { Next::Look(wait.min(longest)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(ticket: u64, served: u64) -> Turn {
        let (fastest, moved_at) = (Duration::from_millis(100), Instant::now());
        let queue = Queue { served, last: ticket };
        Turn { ticket, queue, fastest, revision: Revision::ZERO, moved_at, longest: LONGEST_WAIT }
    }

    /// A commit and a half are waited for each one ahead; only the nearest are built upon; and
    /// nobody waits very long without a look.
    #[test]
    fn those_ahead_are_waited_for() {
        let millis = Duration::from_millis;
        for served in [7, 8, 20] {
            assert_eq!(turn(8, served).next(), Next::Commit(Duration::ZERO, 0), "{served} served");
        }
        assert_eq!(turn(8, 6).next(), Next::Commit(millis(50), 1));
        assert_eq!(turn(8, 5).next(), Next::Commit(millis(200), 2));
        assert_eq!(turn(8, 4).next(), Next::Look(millis(350)));
        for _ in 0..100 {
            let Next::Look(wait) = turn(u64::MAX, 0).next() else { panic!("it commits") };
            assert!((LONGEST_WAIT / 2..=LONGEST_WAIT).contains(&wait), "{wait:?}");
        }
    }

    /// Where nothing moves, those ahead count as dead: the next in line notices first.
    #[test]
    fn the_dead_are_not_waited_for() {
        let after = |millis, ahead: u64| {
            let moved_at = Instant::now().checked_sub(Duration::from_millis(millis)).unwrap();
            Turn { moved_at, ..turn(1 + ahead, 0) }.next() == Next::Commit(Duration::ZERO, 0)
        };
        assert_eq!([after(100, 1), after(650, 1), after(610, 2), after(800, 2)], [false, true, false, true]);
        assert_eq!([after(1_000, 50), after(2_100, 50)], [false, true]);
    }
}
