//! What the actors of the model share: Parameter Store, the key's items in the ledger, and the time
//! as far as it matters.
//!
//! Every method is one external call, with the conditions that the code gives it.

use super::{Defect, Strategy};

/// A set of intent ids, each a bit.
pub(super) type Ids = u32;

pub(super) fn bit(id: u8) -> Ids {
    1 << id
}

/// The source of a value: the nth writer's, or the nth foreign one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Value {
    Writer(u8),
    Foreign(u8),
}

/// A locator. The life is what the code cannot see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) version: u8,
    pub(super) at: u16,
    pub(super) life: u8,
}

/// A version in Parameter Store, with the id and the version that its description names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Stored {
    pub(super) place: Place,
    pub(super) mark: Option<(u8, u8)>,
    pub(super) value: Value,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Held {
    Deleted,
    Here(Value),
    Elsewhere(Place, Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) version: u8,
    pub(super) held: Held,
    pub(super) modified_at: u16,
    pub(super) is_external: bool,
}

impl Entry {
    pub(super) fn is_live(&self) -> bool {
        self.held != Held::Deleted
    }
}

/// The `ENTRY#` item. Versions count from 1; 0 is an attribute that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) exists: bool,
    pub(super) entry: Option<Entry>,
    pub(super) latest: u8,
    pub(super) replicated: u8,
    pub(super) store_version: u8,
    pub(super) intents: Ids,
    pub(super) expired_intents: Ids,
    /// The call that removes, and whether its time is over.
    pub(super) removing: Option<(u8, bool)>,
    pub(super) imported_through: Option<Place>,
    pub(super) pending: bool,
}

impl Item {
    /// `ReplicaState::is_being_removed`.
    pub(super) fn is_being_removed(&self) -> bool {
        self.removing.is_some_and(|(_, is_over)| !is_over)
    }

    /// The time of a removal is over.
    pub(super) fn end_removal(&mut self) {
        self.removing = self.removing.map(|(id, _)| (id, true));
    }

    pub(super) fn version(&self) -> u8 {
        self.entry.map_or(0, |entry| entry.version)
    }

    /// `Current::next_version`.
    pub(super) fn next_version(&self) -> u8 {
        self.version().max(self.latest) + 1
    }

    pub(super) fn value(&self) -> Option<Value> {
        match self.entry?.held {
            Held::Deleted => None,
            Held::Here(value) | Held::Elsewhere(_, value) => Some(value),
        }
    }
}

/// A `VERSION#` item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Past {
    pub(super) version: u8,
    /// None for a tombstone.
    pub(super) value: Option<Value>,
    pub(super) is_external: bool,
    pub(super) superseded: bool,
    pub(super) intent_ids: Ids,
    /// The request that wrote it; none for a foreign version.
    pub(super) writer: Option<u8>,
}

/// A foreign version: `ledger::commit::Found`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Found {
    /// None for a removal.
    pub(super) stored: Option<Stored>,
    pub(super) superseded: bool,
}

/// `ledger::commit::PutBefore`, with the locator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Around {
    pub(super) id: u8,
    pub(super) described: u8,
    pub(super) place: Place,
    pub(super) seen: u8,
}

/// What must never be, a bit each.
pub(super) mod fault {
    pub(in super::super) const LOST: u16 = 1;
    pub(in super::super) const NUMBERS: u16 = 1 << 1;
    pub(in super::super) const TWICE: u16 = 1 << 2;
    pub(in super::super) const OURS_AS_FOREIGN: u16 = 1 << 3;
    pub(in super::super) const BACKWARDS: u16 = 1 << 4;
    pub(in super::super) const APART: u16 = 1 << 5;
    pub(in super::super) const MISSED: u16 = 1 << 6;
    pub(in super::super) const STUCK: u16 = 1 << 7;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) strategy: Strategy,
    pub(super) defect: Option<Defect>,
    /// Counts what has a time: writes to Parameter Store, and commits.
    pub(super) clock: u16,
    /// How many intent ids have been given out. Those below `old` count as abandoned; those below
    /// `ancient` cannot take effect any more.
    pub(super) ids: u8,
    pub(super) old: u8,
    pub(super) ancient: u8,
    pub(super) has_paused: bool,
    pub(super) store: Vec<Stored>,
    pub(super) lives: u8,
    pub(super) foreign: u8,
    pub(super) removals: u8,
    pub(super) head: u8,
    pub(super) item: Item,
    pub(super) history: Vec<Past>,
    /// The writers whose commit took place.
    pub(super) committed: Ids,
    pub(super) faults: u16,
}

impl World {
    pub(super) fn new(strategy: Strategy, defect: Option<Defect>) -> Self {
        Self {
            strategy,
            defect,
            clock: 0,
            ids: 0,
            old: 0,
            ancient: 0,
            has_paused: false,
            store: Vec::new(),
            lives: 0,
            foreign: 0,
            removals: 0,
            head: 0,
            item: Item::default(),
            history: Vec::new(),
            committed: 0,
            faults: 0,
        }
    }

    pub(super) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn tick(&mut self) -> u16 {
        self.clock += 1;
        self.clock
    }

    /// `IntentId::new`.
    pub(super) fn new_id(&mut self) -> u8 {
        self.ids += 1;
        self.ids - 1
    }

    /// The ids that count as abandoned.
    pub(super) fn abandoned(&self) -> Ids {
        bit(self.old) - 1
    }

    // Parameter Store.

    /// `PutParameter`.
    pub(super) fn put(&mut self, value: Value, mark: Option<(u8, u8)>) -> Place {
        let version = self.store.last().map_or(1, |newest| newest.place.version + 1);
        if version == 1 {
            self.lives += 1;
        }
        let place = Place { version, at: self.tick(), life: self.lives };
        self.store.push(Stored { place, mark, value });
        place
    }

    /// `DeleteParameter`.
    pub(super) fn delete(&mut self) {
        self.store.clear();
    }

    /// Somebody else's `PutParameter`.
    pub(super) fn edit(&mut self, mark: Option<(u8, u8)>) {
        self.foreign += 1;
        self.put(Value::Foreign(self.foreign), mark);
    }

    /// Longer than a put may be under way.
    pub(super) fn pause(&mut self) {
        self.has_paused = true;
        self.clock = super::PAUSE;
        (self.old, self.ancient) = (self.ids, self.ids);
        self.item.end_removal();
    }

    /// `ParameterStore::locate`.
    pub(super) fn locate(&self, id: u8, placed: u8) -> Option<Place> {
        let ours = |one: &&Stored| one.place.version == placed && one.mark.is_some_and(|(mark, _)| mark == id);
        self.store.iter().find(ours).map(|one| one.place)
    }

    // `ledger/outbox.rs`.

    /// `Ledger::record_intent`.
    pub(super) fn record_intent(&mut self, id: u8, seen: Ids, replaced: Ids) -> bool {
        let item = &mut self.item;
        let free = !item.is_being_removed() || self.defect == Some(Defect::RemovalAlone);
        if item.intents != seen || !free {
            return false;
        }
        item.exists = true;
        item.intents = (seen & !replaced) | bit(id);
        item.expired_intents |= replaced;
        item.pending = true;
        true
    }

    /// The first update of `Ledger::end_calls`.
    pub(super) fn end_calls(&mut self, ended: Ids) {
        self.item.intents &= !ended;
    }

    /// `Ledger::leave_calls`.
    pub(super) fn leave_calls(&mut self, ended: Ids) {
        let item = &mut self.item;
        if item.entry.is_some() && item.replicated != item.version() && item.intents == ended {
            item.intents = 0;
        }
    }

    /// `Ledger::begin_removal`.
    pub(super) fn begin_removal(&mut self, version: u8, known: Ids, store_version: u8, id: u8) -> bool {
        let is_intended = self.item.intents == known || self.has(Defect::RemovalWithOthers);
        let item = &mut self.item;
        let is_deleted = item.version() == version && !item.entry.is_some_and(|entry| entry.is_live());
        if !is_deleted || !is_intended || item.store_version != store_version || item.is_being_removed() {
            return false;
        }
        item.removing = Some((id, false));
        true
    }

    /// `Ledger::end_removal`.
    pub(super) fn end_removal(&mut self, id: u8) {
        if self.item.removing.is_some_and(|(removing, _)| removing == id) {
            self.item.removing = None;
        }
    }

    /// `Ledger::give_out` and `Ledger::take_back`.
    pub(super) fn change_intent_ids(&mut self, version: u8, id: u8, is_given: bool) {
        for past in self.history.iter_mut().filter(|past| past.version == version) {
            past.intent_ids = if is_given { past.intent_ids | bit(id) } else { past.intent_ids & !bit(id) };
        }
    }

    /// `Ledger::intent_ids`.
    pub(super) fn intent_ids(&self, version: u8) -> Ids {
        self.history.iter().find(|past| past.version == version).map_or(0, |past| past.intent_ids)
    }

    /// [`STORE_IS_NOT_FURTHER`](crate::ledger).
    fn is_not_further(&self, placed: u8, seen: u8) -> bool {
        let known = self.item.store_version;
        known == 0 || known < placed || known == seen
    }

    /// `Ledger::mark_replicated` without the acknowledgement; none if it is refused, and whether
    /// other intents are open.
    pub(super) fn mark_replicated(
        &mut self,
        version: u8,
        placed: Place,
        seen: u8,
        ended: Ids,
        others: Ids,
    ) -> Option<bool> {
        let further = !self.is_not_further(placed.version, seen);
        let same = self.item.version() == version || self.has(Defect::MarksAnyVersion);
        if !same || further {
            return None;
        }
        let others = if self.has(Defect::MadeUpForForgotten) { 0 } else { others };
        let item = &mut self.item;
        item.replicated = version;
        item.store_version = placed.version;
        if let Some(Entry { held: Held::Elsewhere(place, _), .. }) = &mut item.entry {
            *place = placed;
        }
        item.expired_intents |= others;
        let is_open = item.intents != ended;
        item.intents &= !ended;
        item.pending &= is_open;
        Some(is_open)
    }

    /// `Ledger::mark_removed`.
    pub(super) fn mark_removed(&mut self, version: u8, ended: Ids, is_left: bool) -> bool {
        if self.item.version() != version || self.item.intents != ended {
            return false;
        }
        let forgets = self.has(Defect::LeftForgotten);
        let item = &mut self.item;
        item.replicated = version;
        item.store_version = 0;
        item.removing = None;
        item.intents = 0;
        item.pending = false;
        item.imported_through = item.imported_through.filter(|_| is_left && !forgets);
        item.expired_intents |= ended;
        true
    }

    /// `Ledger::acknowledge`.
    pub(super) fn acknowledge(&mut self) {
        let item = &mut self.item;
        if item.intents == 0 && (item.entry.is_none() || item.replicated == item.version()) {
            item.pending = false;
        }
    }

    fn import_to(&mut self, to: Option<Place>) {
        if let (Some(before), Some(to)) = (self.item.imported_through, to)
            && before.life == to.life
            && to.version < before.version
        {
            self.faults |= fault::BACKWARDS;
        }
        self.item.imported_through = to;
    }

    /// `Ledger::note_imported`.
    pub(super) fn note_imported(&mut self, known: &Item, now: Place, done: Ids) -> bool {
        let same = self.item.imported_through == known.imported_through || self.has(Defect::ImportedAnyhow);
        let same = same && (self.item.version() == known.version() || self.has(Defect::NotedAnyVersion));
        if !self.item.exists || !same {
            return false;
        }
        self.import_to(Some(now));
        self.item.expired_intents &= !done;
        true
    }

    /// `Ledger::requeue`.
    pub(super) fn requeue(&mut self, version: u8) -> bool {
        let item = &mut self.item;
        if item.version() != version || item.intents != 0 {
            return false;
        }
        item.pending = true;
        item.replicated = 0;
        true
    }

    // `ledger/commit.rs`.

    /// The conditions that every commit has. `head` is the one that it was planned upon; none where
    /// that was read just before.
    fn may_commit(&self, known: &Item, head: Option<u8>) -> bool {
        let version = known.next_version();
        let is_head = head.is_none_or(|head| head == self.head);
        let is_new = self.history.iter().all(|past| past.version != version);
        let same = known.version() == self.item.version();
        is_head && same && (is_new || self.has(Defect::AnyVersion))
    }

    fn commit(&mut self, past: Past, entry: Option<Entry>) {
        self.committed |= past.writer.map_or(0, bit);
        let found = |value: Value| self.history.iter().filter(move |past| past.value == Some(value)).count();
        let external = |past: &&Past| past.is_external && past.value.is_none();
        let mut faults = 0;
        match past.value {
            Some(Value::Writer(_)) if past.is_external => faults |= fault::OURS_AS_FOREIGN,
            Some(value @ Value::Foreign(n)) => {
                let later = (n + 1..=self.foreign).any(|later| found(Value::Foreign(later)) > 0);
                if later || found(value) > 0 {
                    faults |= fault::TWICE;
                }
            }
            None if past.is_external && self.history.iter().filter(external).count() >= usize::from(self.removals) => {
                faults |= fault::OURS_AS_FOREIGN;
            }
            _ => {}
        }
        if self.history.last().map_or(0, |last| last.version) + 1 != past.version {
            faults |= fault::NUMBERS;
        }
        self.faults |= faults;
        self.head += 1;
        self.history.push(past);
        self.item.exists = true;
        if let Some(entry) = entry {
            self.item.entry = Some(entry);
        }
        if self.history.len() != usize::from(self.head) {
            self.faults |= fault::NUMBERS;
        }
    }

    /// A commit with `StoreChange::Intent` (an id is given out) or `StoreChange::Later`; with the
    /// id.
    pub(super) fn commit_first(&mut self, known: &Item, who: u8, value: Option<Value>, later: bool) -> Option<u8> {
        if !self.may_commit(known, None) {
            return None;
        }
        let id = if later { None } else { Some(self.new_id()) };
        let (version, intent_ids) = (known.next_version(), id.map_or(0, bit));
        let held = value.map_or(Held::Deleted, Held::Here);
        let entry = Entry { version, held, modified_at: self.tick(), is_external: false };
        let past = Past { version, value, is_external: false, superseded: false, intent_ids, writer: Some(who) };
        self.commit(past, Some(entry));
        self.item.intents |= intent_ids;
        self.item.pending = true;
        Some(id.unwrap_or_default())
    }

    /// A commit with `StoreChange::Done`.
    pub(super) fn commit_around(&mut self, known: &Item, head: u8, who: u8, around: Around) -> bool {
        let stands = self.item.intents & bit(around.id) != 0 || self.has(Defect::WithoutIntent);
        let further = !self.is_not_further(around.place.version, around.seen);
        if !self.may_commit(known, Some(head)) || !stands || further {
            return false;
        }
        let (version, value) = (known.next_version(), Value::Writer(who));
        let state = Held::Elsewhere(around.place, value);
        let entry = Entry { version, held: state, modified_at: self.tick(), is_external: false };
        let (value, intent_ids, writer) = (Some(value), bit(around.id), Some(who));
        self.commit(Past { version, value, is_external: false, superseded: false, intent_ids, writer }, Some(entry));
        if around.described != version {
            self.item.expired_intents |= bit(around.id);
        }
        self.item.replicated = version;
        self.item.store_version = around.place.version;
        self.item.intents &= !bit(around.id);
        true
    }

    /// A commit with `StoreChange::Found`: `Expression::note_found`.
    pub(super) fn commit_found(&mut self, known: &Item, head: u8, found: Found) -> bool {
        let same = known.imported_through == self.item.imported_through || self.has(Defect::FoundAnyhow);
        let same = same && (known.store_version == self.item.store_version || self.has(Defect::FoundAnyhow));
        // A removal that has begun since has its mark there, whether or not its time is over.
        let is_removed = match self.defect {
            Some(Defect::RemovalOverlooked) => self.item.is_being_removed(),
            _ => self.item.removing != known.removing,
        };
        let is_alone = !is_removed && (found.stored.is_some() || self.item.intents == known.intents);
        let free = found.superseded || is_alone;
        if !self.may_commit(known, Some(head)) || !same || !free {
            return false;
        }
        let version = known.next_version();
        let modified_at = found.stored.map_or_else(|| self.tick(), |one| one.place.at);
        let state = found.stored.map_or(Held::Deleted, |one| match self.strategy {
            Strategy::Around => Held::Elsewhere(one.place, one.value),
            Strategy::Through | Strategy::Back => Held::Here(one.value),
        });
        let entry = Entry { version, held: state, modified_at, is_external: true };
        let (value, superseded) = (found.stored.map(|one| one.value), found.superseded);
        let past = Past { version, value, is_external: true, superseded, intent_ids: 0, writer: None };
        self.commit(past, (!superseded).then_some(entry));
        self.import_to(found.stored.map(|one| one.place));
        if superseded {
            self.item.latest = version;
        } else {
            self.item.replicated = version;
            self.item.store_version = found.stored.map_or(0, |one| one.place.version);
        }
        true
    }
}
