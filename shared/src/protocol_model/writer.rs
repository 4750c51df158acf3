//! A request of a writer: `write/mod.rs`.

use super::{
    Actor, Outcome, Strategy,
    replicator::Replicator,
    world::{Around, Ids, Item, Place, Value, World, bit},
};

/// How often a write-around request puts. Fewer than in the code, so that the model reaches the end
/// of its patience.
const MAX_PUTS_AROUND: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Writer {
    pub(super) who: u8,
    pub(super) is_delete: bool,
    pub(super) at: At,
    around: Option<Around>,
    puts: u8,
}

/// The call that comes next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum At {
    /// `Ledger::basis`, which is no snapshot: the entry may be older than the head.
    Entry,
    Head(Item),
    RecordIntent(Item, u8),
    Put(Item, u8, u8),
    Locate(Item, u8, u8, Place),
    Commit(Item, u8),
    Acknowledge,
    /// The put did nothing.
    EndCalls(u8),
}

impl Writer {
    pub(super) fn new(who: u8, is_delete: bool) -> Self {
        Self { who, is_delete, at: At::Entry, around: None, puts: 0 }
    }

    pub(super) fn is_at_begin(&self) -> bool {
        self.at == At::Entry && self.around.is_none() && self.puts == 0
    }

    fn to(mut self, at: At) -> Actor {
        self.at = at;
        Actor::Write(self)
    }

    fn value(&self) -> Option<Value> {
        (!self.is_delete).then_some(Value::Writer(self.who))
    }

    /// The intents that the request is responsible for.
    pub(super) fn ids(&self) -> Ids {
        let under_way = match &self.at {
            At::Put(_, _, id) | At::Locate(_, _, id, _) | At::EndCalls(id) => bit(*id),
            _ => 0,
        };
        self.around.map_or(0, |around| bit(around.id)) | under_way
    }

    /// The put that is the next call.
    pub(super) fn next_put(&self) -> Option<(u8, u8, Value)> {
        let At::Put(known, _, id) = &self.at else { return None };
        Some((*id, known.next_version(), Value::Writer(self.who)))
    }

    pub(super) fn step(mut self, world: &mut World, outcome: Outcome) -> Actor {
        match self.at.clone() {
            At::Entry => {
                let item = world.item;
                if self.is_delete && !item.entry.is_some_and(|entry| entry.is_live()) {
                    // Not found.
                    return Actor::Idle;
                }
                if world.strategy == Strategy::Around && !self.is_delete {
                    return self.to(At::Head(item));
                }
                // Whatever moves the head between its reading and the commit makes the commit lose;
                // so it is read with it.
                self.to(At::Commit(item, 0))
            }
            At::Head(item) => self.put_around(world, item),
            At::RecordIntent(item, head) => {
                let overtaken = self.around.map_or(0, |around| bit(around.id));
                let id = world.new_id();
                if !world.record_intent(id, item.intents, overtaken) {
                    world.ids -= 1;
                    return self.to(At::Entry);
                }
                self.around = None;
                self.puts += 1;
                self.to(At::Put(item, head, id))
            }
            At::Put(item, head, id) => {
                if outcome == Outcome::Refused {
                    return self.to(At::EndCalls(id));
                }
                let place = world.put(Value::Writer(self.who), Some((id, item.next_version())));
                self.to(At::Locate(item, head, id, place))
            }
            At::Locate(item, head, id, placed) => {
                // What is not there any more is an error.
                let Some(place) = world.locate(id, placed.version) else { return Actor::Idle };
                let described = item.next_version();
                self.around = Some(Around { id, described, place, seen: item.store_version });
                self.to(At::Commit(item, head))
            }
            At::Commit(item, head) => self.commit(world, &item, head),
            At::Acknowledge => {
                world.acknowledge();
                Actor::Idle
            }
            At::EndCalls(id) => {
                world.end_calls(bit(id));
                self.around = None;
                self.to(At::Acknowledge)
            }
        }
    }

    /// `WriteService::put_around` up to its first call. The model does not wait for turns: nothing
    /// rests on them.
    fn put_around(self, world: &mut World, item: Item) -> Actor {
        let head = world.head;
        if let Some(around) = self.around
            && item.intents & bit(around.id) != 0
            && is_newest(around.place, &item)
        {
            return self.to(At::Commit(item, head));
        }
        if item.is_being_removed() {
            return self.to(At::Entry);
        }
        if self.puts == MAX_PUTS_AROUND {
            return Actor::Idle;
        }
        if world.has(super::Defect::WithoutIntent) {
            let id = world.new_id();
            return self.to(At::Put(item, head, id));
        }
        self.to(At::RecordIntent(item, head))
    }

    fn commit(self, world: &mut World, known: &Item, head: u8) -> Actor {
        if let Some(around) = self.around {
            let done = world.commit_around(known, head, self.who, around);
            return self.to(if done { At::Acknowledge } else { At::Entry });
        }
        let later = world.strategy == Strategy::Back;
        let Some(id) = world.commit_first(known, self.who, self.value(), later) else { return self.to(At::Entry) };
        if later { Actor::Idle } else { Actor::Replicate(Replicator::of_commit(id, known.next_version())) }
    }
}

/// `Around::is_newest`.
fn is_newest(place: Place, item: &Item) -> bool {
    let committed = match item.entry.map(|entry| entry.held) {
        Some(super::world::Held::Elsewhere(committed, _)) => Some(committed),
        _ => None,
    };
    committed
        .into_iter()
        .chain(item.imported_through)
        .all(|other| (place.at, place.version) > (other.at, other.version))
}
