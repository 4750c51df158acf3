//! The importer: `import/mod.rs`. The real code judges what lies in the store.

use super::{
    Actor, Defect, Strategy,
    real::Lens,
    replicator::Replicator,
    world::{Found, Held, Ids, Item, Place, Stored, World},
};
use crate::import::{Foreign, Seen};

/// How often a key is scanned while others are at it. Fewer than in the code.
const MAX_SCANS: u8 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Importer {
    scans: u8,
    misplaced: bool,
    /// Whether the key is replicated if the store did not show what is committed.
    replicates: Option<Strategy>,
    at: At,
}

/// The call that comes next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum At {
    Current,
    Versions(Item),
    Owners(Item, Vec<Stored>),
    CurrentAgain(Item, Vec<Stored>),
    /// What is known by now, the head, what is left to commit, and what the store showed.
    Commit(Item, u8, Vec<Found>, Vec<Stored>),
    Lost(Item, Vec<Found>, Vec<Stored>),
    OwnersAfter(Item, Vec<Stored>),
    Requeue(Item, Option<(Place, Ids)>),
    Note(Item, Place, Ids, bool),
}

impl Importer {
    fn new(replicates: Option<Strategy>) -> Self {
        Self { scans: 1, misplaced: false, replicates, at: At::Current }
    }

    /// `RefreshService::import_parameter`.
    pub(super) fn of_event(strategy: Strategy) -> Self {
        Self::new(Some(strategy))
    }

    /// `Reconciler::import_one`, and `RefreshService::replicate` after `replicate`.
    pub(super) fn alone() -> Self {
        Self::new(None)
    }

    fn to(mut self, at: At) -> Actor {
        self.at = at;
        Actor::Import(self)
    }

    pub(super) fn step(self, world: &mut World) -> Actor {
        let lens = Lens::of(world);
        match self.at.clone() {
            At::Current if world.item.is_being_removed() => self.again(),
            At::Current => self.to(At::Versions(world.item)),
            At::Versions(item) => {
                let stored = world.store.clone();
                if lens.has_credible(&item, &stored) {
                    return self.to(At::Owners(item, stored));
                }
                self.scanned(world, item, stored)
            }
            At::Owners(item, stored) => self.scanned(world, item, stored),
            At::CurrentAgain(item, stored) if lens.is_unmoved(&item, &world.item) => self.find(world, item, stored),
            At::Commit(known, head, mut left, stored) => {
                if !world.commit_found(&known, head, left[0]) {
                    return self.to(At::Lost(known, left, stored));
                }
                let found = left.remove(0);
                if found.stored.is_none() {
                    return self.done();
                }
                let known = with_found(world, known, found);
                if !left.is_empty() {
                    return self.to(At::Commit(known, world.head, left, stored));
                }
                if lens.has_credible(&known, &stored) {
                    return self.to(At::OwnersAfter(known, stored));
                }
                self.judge_after(world, known, &stored)
            }
            At::Lost(known, left, stored) if lens.is_unmoved(&known, &world.item) => {
                self.to(At::Commit(known, world.head, left, stored))
            }
            // The key has moved.
            At::CurrentAgain(..) | At::Lost(..) => self.again(),
            At::OwnersAfter(known, stored) => self.judge_after(world, known, &stored),
            At::Requeue(item, through) => {
                if !world.requeue(item.version()) {
                    return self.again();
                }
                let replicator = Self { misplaced: true, ..self };
                match through {
                    Some((to, done)) => replicator.to(At::Note(item, to, done, false)),
                    None => replicator.done(),
                }
            }
            At::Note(item, to, done, requeues) => {
                if !world.note_imported(&item, to, done) {
                    return self.again();
                }
                if requeues { self.to(At::Requeue(item, None)) } else { self.done() }
            }
        }
    }

    /// `Importer::scan`, once the owners are known.
    fn scanned(self, world: &World, item: Item, stored: Vec<Stored>) -> Actor {
        let lens = Lens::of(world);
        let seen = lens.judge(world, &item, &stored);
        if !lens.needs_second_read(&item, &stored, &seen) {
            return self.note(world, item, &stored, &seen);
        }
        if world.has(Defect::OneRead) {
            self.find(world, item, stored)
        } else {
            self.to(At::CurrentAgain(item, stored))
        }
    }

    /// `Importer::find`. The model has no reads that lag, so nothing is waited for.
    fn find(self, world: &World, item: Item, stored: Vec<Stored>) -> Actor {
        let lens = Lens::of(world);
        let seen = lens.judge(world, &item, &stored);
        let found = |one: &Foreign| Found { stored: Lens::place(&stored, one.place), superseded: one.superseded };
        let mut left: Vec<_> = seen.foreign.iter().map(found).collect();
        if left.is_empty() {
            if !stored.is_empty() && !lens.is_value_lost(&item, &stored) {
                return self.note(world, item, &stored, &seen);
            }
            if !may_be_gone(world, &item) {
                return self.done();
            }
            left.push(Found { stored: None, superseded: false });
        }
        self.to(At::Commit(item, world.head, left, stored))
    }

    /// `Importer::committed`, after the last finding.
    fn judge_after(self, world: &World, known: Item, stored: &[Stored]) -> Actor {
        let seen = Lens::of(world).judge(world, &known, stored);
        if seen.foreign.is_empty() { self.note(world, known, stored, &seen) } else { self.again() }
    }

    fn note(self, world: &World, item: Item, stored: &[Stored], seen: &Seen) -> Actor {
        let through = seen.through.and_then(|to| Lens::place(stored, to)).map(|one| one.place);
        let through = through.filter(|to| item.imported_through != Some(*to));
        let through = through.map(|to| (to, Lens::of(world).done_with(&item, stored)));
        match through {
            Some((to, done)) if !seen.misplaced || world.has(Defect::NotedFirst) => {
                self.to(At::Note(item, to, done, seen.misplaced))
            }
            _ if seen.misplaced => self.to(At::Requeue(item, through)),
            _ => self.done(),
        }
    }

    /// The import has no end: it scans again.
    fn again(mut self) -> Actor {
        if self.scans == MAX_SCANS {
            // `ImportError::Busy`
            return Actor::Idle;
        }
        self.scans += 1;
        self.to(At::Current)
    }

    /// The import's end.
    fn done(self) -> Actor {
        match self.replicates.filter(|_| self.misplaced) {
            Some(strategy) => Actor::Replicate(Replicator::of_refresh(strategy)),
            None => Actor::Idle,
        }
    }
}

fn may_be_gone(world: &World, item: &Item) -> bool {
    let is_live = item.entry.is_some_and(|entry| entry.is_live());
    let is_elsewhere = item.entry.is_some_and(|entry| matches!(entry.held, Held::Elsewhere(..)));
    let was_there = is_elsewhere || item.replicated == item.version() && item.store_version > 0;
    is_live && was_there && item.intents & !world.abandoned() == 0
}

/// `Current::with_found`.
fn with_found(world: &World, mut known: Item, found: Found) -> Item {
    known.imported_through = found.stored.map(|one| one.place);
    if found.superseded {
        known.latest = known.next_version();
    } else {
        known.entry = world.item.entry;
        known.replicated = world.item.replicated;
        known.store_version = world.item.store_version;
    }
    known
}
