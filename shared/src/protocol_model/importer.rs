//! The importer: `import/mod.rs`. The real code judges what lies in the store.

use super::{
    Actor, Defect, Strategy,
    real::Lens,
    replicator::Replicator,
    world::{Found, Held, Ids, Item, Place, Stored, World},
};
use crate::import::Seen;

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
    Versions,
    Current(Vec<Stored>),
    Owners(Vec<Stored>, Item),
    VersionsAgain(Item),
    CurrentAgain(Item, Vec<Stored>),
    OwnersAgain(Item, Vec<Stored>),
    /// What is known by now, its head, and what is left to commit.
    Commit(Item, Option<u8>, Vec<Found>),
    Lost(Item),
    Requeue(Item, Option<(Place, Ids)>),
    Note(Item, Place, Ids, bool),
}

impl Importer {
    fn new(replicates: Option<Strategy>) -> Self {
        Self { scans: 1, misplaced: false, replicates, at: At::Versions }
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
            At::Versions => self.to(At::Current(world.store.clone())),
            At::Current(stored) => {
                let item = world.item;
                if item.is_being_removed() {
                    return self.again();
                }
                if lens.has_credible(&item, &stored) {
                    return self.to(At::Owners(stored, item));
                }
                self.scan(world, &stored, item)
            }
            At::Owners(stored, item) => self.scan(world, &stored, item),
            At::VersionsAgain(item) => self.to(At::CurrentAgain(item, world.store.clone())),
            At::CurrentAgain(item, stored) => {
                let after = world.item;
                if !lens.is_unmoved(&item, &after) {
                    return self.again();
                }
                if stored.is_empty() {
                    return self.removed(world, after);
                }
                if lens.has_credible(&after, &stored) {
                    return self.to(At::OwnersAgain(after, stored));
                }
                self.judge_again(world, after, &stored)
            }
            At::OwnersAgain(item, stored) => self.judge_again(world, item, &stored),
            At::Commit(known, head, mut left) => {
                let found = left.remove(0);
                if !world.commit_found(&known, head, found) {
                    return self.to(At::Lost(known));
                }
                if left.is_empty() {
                    return if found.stored.is_some() { self.go_on() } else { self.done() };
                }
                let known = with_found(world, known, found);
                self.to(At::Commit(known, Some(world.head), left))
            }
            At::Lost(known) => {
                if lens.is_imported_meanwhile(&known, &world.item) {
                    self.done()
                } else {
                    self.again()
                }
            }
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
                if !world.note_imported(item.imported_through, to, done) {
                    return self.again();
                }
                if requeues { self.to(At::Requeue(item, None)) } else { self.done() }
            }
        }
    }

    /// `Importer::scan`, once the owners are known.
    fn scan(self, world: &World, stored: &[Stored], item: Item) -> Actor {
        let lens = Lens::of(world);
        let seen = lens.judge(world, &item, stored);
        let has_news = stored.is_empty() || !seen.foreign.is_empty();
        let needs_another = match world.defect {
            Some(Defect::OneScan) if stored.is_empty() => return self.removed(world, item),
            Some(Defect::OneScan) if has_news => return self.import_foreign(item, stored, &seen),
            _ => lens.needs_another_scan(&item, stored, &seen),
        };
        if needs_another { self.to(At::VersionsAgain(item)) } else { self.note(world, item, stored, &seen) }
    }

    /// The same, at the second scan.
    fn judge_again(self, world: &World, item: Item, stored: &[Stored]) -> Actor {
        let lens = Lens::of(world);
        let seen = lens.judge(world, &item, stored);
        if !seen.foreign.is_empty() {
            self.import_foreign(item, stored, &seen)
        } else if lens.is_value_lost(&item, stored) {
            self.removed(world, item)
        } else {
            self.note(world, item, stored, &seen)
        }
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

    /// `Importer::import_foreign`.
    fn import_foreign(self, item: Item, stored: &[Stored], seen: &Seen) -> Actor {
        let found =
            seen.foreign.iter().map(|one| Found { stored: Lens::place(stored, one.place), superseded: one.superseded });
        self.to(At::Commit(item, None, found.collect()))
    }

    /// `Importer::removed`. The model has no reads that lag, so nothing is waited for.
    fn removed(self, world: &World, item: Item) -> Actor {
        let is_live = item.entry.is_some_and(|entry| entry.is_live());
        let is_elsewhere = item.entry.is_some_and(|entry| matches!(entry.held, Held::Elsewhere(..)));
        let was_there = is_elsewhere || item.replicated == item.version() && item.store_version > 0;
        if !is_live || !was_there || item.intents & !world.abandoned() != 0 {
            return self.done();
        }
        self.to(At::Commit(item, None, vec![Found { stored: None, superseded: false }]))
    }

    /// `Scanned::Again`.
    fn again(self) -> Actor {
        self.go_on()
    }

    /// `Scanned::GoOn`.
    fn go_on(mut self) -> Actor {
        if self.scans == MAX_SCANS {
            // `ImportError::Busy`
            return Actor::Idle;
        }
        self.scans += 1;
        self.to(At::Versions)
    }

    /// `Scanned::Done`.
    fn done(self) -> Actor {
        match self.replicates.filter(|_| self.misplaced) {
            Some(strategy) => Actor::Replicate(Replicator::of_refresh(strategy)),
            None => Actor::Idle,
        }
    }
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
