//! The replicator: `outbox/replicate.rs`. The real [`Calls`] decide what is to be done.

use super::{
    Actor, Defect, Outcome, Strategy,
    importer::Importer,
    real::Lens,
    world::{Held, Ids, Item, Place, Value, World, bit},
};
use crate::{
    model::entry::Version,
    outbox::replicate::{Calls, Due},
};

/// How often the entry may change, and how often a removal is polled. Fewer than in the code, so
/// that the model reaches the end of a replicator's patience.
const MAX_ROUNDS: u8 = 3;
const MAX_POLLS: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Replicator {
    unused: Option<(u8, u8)>,
    own: Ids,
    last_done: u8,
    makes_up: bool,
    rounds: u8,
    polls: u8,
    /// Whether the store is imported afterwards.
    imports: bool,
    at: At,
}

/// What a put is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Job {
    version: u8,
    value: Value,
    is_elsewhere: bool,
    /// What the ledger said: the intents, the abandoned ones among them, and the store's version.
    intents: Ids,
    abandoned: Ids,
    seen: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Call {
    id: u8,
    given_out_for: u8,
    ended: Ids,
}

/// The call that comes next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum At {
    Read,
    Get(Job, Place),
    RecordIntent(Job),
    GiveOut(Job, Call),
    Put(Job, Call),
    Locate(Job, Call, Place),
    Mark(Job, Call, Place),
    /// After `mark_replicated`, with other intents open.
    AcknowledgeMarked,
    TakeBack(Job, Call),
    IntendRemoval(Item),
    Begin(Item, Call),
    ScanStore(Item, Call),
    IntentIds(Item, Call, Vec<(u8, u8)>),
    Delete(Item, Call),
    MarkRemoved(Item, Call, bool),
    EndRemoval(Item, Call, bool),
    EndCalls(Ids, Then),
    Acknowledge(Then),
    LeaveCalls(Ids),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Then {
    Done,
    Later,
    Leave,
}

impl Replicator {
    fn new(unused: Option<(u8, u8)>, imports: bool) -> Self {
        Self { unused, own: 0, last_done: 0, makes_up: false, rounds: 0, polls: 0, imports, at: At::Read }
    }

    /// After a commit that recorded an intent.
    pub(super) fn of_commit(id: u8, version: u8) -> Self {
        Self::new(Some((id, version)), false)
    }

    /// `RefreshService::replicate`. Parameter Store sent the event of a write-around put before the
    /// commit, when nothing could be said about it yet. So the store is imported afterwards.
    pub(super) fn of_refresh(strategy: Strategy) -> Self {
        Self::new(None, strategy == Strategy::Around)
    }

    fn to(mut self, at: At) -> Actor {
        self.at = at;
        Actor::Replicate(self)
    }

    /// The intents that the replicator is responsible for, or is about to make a call under.
    pub(super) fn ids(&self) -> Ids {
        let under_way = match &self.at {
            At::GiveOut(_, call)
            | At::Put(_, call)
            | At::Locate(_, call, _)
            | At::Mark(_, call, _)
            | At::TakeBack(_, call)
            | At::Begin(_, call)
            | At::ScanStore(_, call)
            | At::IntentIds(_, call, _)
            | At::Delete(_, call)
            | At::MarkRemoved(_, call, _)
            | At::EndRemoval(_, call, _) => bit(call.id),
            At::EndCalls(ids, _) | At::LeaveCalls(ids) => *ids,
            _ => 0,
        };
        self.own | self.unused.map_or(0, |(id, _)| bit(id)) | under_way
    }

    pub(super) fn next_put(&self) -> Option<(u8, u8, Value)> {
        let At::Put(job, call) = &self.at else { return None };
        Some((call.id, job.version, job.value))
    }

    /// Whether the next call can be refused.
    pub(super) fn is_at_store(&self) -> bool {
        matches!(self.at, At::Put(..) | At::Delete(..))
    }

    fn calls(&self, lens: Lens) -> Calls {
        Calls {
            unused: self.unused.map(|(id, version)| (lens.id(id), (version > 0).then(|| Version::new(version.into())))),
            own: lens.ids(self.own),
            last_done: (self.last_done > 0).then(|| Version::new(self.last_done.into())),
            makes_up: self.makes_up,
        }
    }

    pub(super) fn step(mut self, world: &mut World, outcome: Outcome) -> Actor {
        match self.at.clone() {
            At::Read => self.scan(world),
            At::Get(job, place) => {
                let found = world.store.iter().find(|one| one.place == place).map(|one| one.value);
                // What is not there any more is an error.
                found.map_or(Actor::Idle, |value| self.record_intent(world, Job { value, ..job }))
            }
            At::RecordIntent(job) => {
                let replaced = self.own | job.abandoned;
                let id = world.new_id();
                if !world.record_intent(id, job.intents, replaced) {
                    world.ids -= 1;
                    return self.again();
                }
                // `Calls::ended` without the replaced, which are all of them.
                self.own &= !replaced;
                self.makes_up |= replaced != 0;
                self.to(At::GiveOut(job, Call { id, given_out_for: 0, ended: bit(id) }))
            }
            At::GiveOut(job, call) => {
                world.change_intent_ids(job.version, call.id, true);
                self.to(At::Put(job, call))
            }
            At::Put(job, call) => {
                if outcome == Outcome::Refused {
                    return self.to(At::TakeBack(job, call));
                }
                let place = world.put(job.value, Some((call.id, job.version)));
                self.to(if job.is_elsewhere { At::Locate(job, call, place) } else { At::Mark(job, call, place) })
            }
            At::Locate(job, call, placed) => match world.locate(call.id, placed.version) {
                Some(place) => self.to(At::Mark(job, call, place)),
                None => Actor::Idle,
            },
            At::Mark(job, call, place) => {
                let others = call.ended & !bit(call.id) & !self.own;
                let marked = world.mark_replicated(job.version, place, job.seen, call.ended, others);
                self.own |= bit(call.id);
                self.last_done = job.version;
                match marked {
                    // `Ledger::relocate` changes nothing that matters here.
                    Some(false) => self.done(),
                    Some(true) => self.to(At::AcknowledgeMarked),
                    None => self.again(),
                }
            }
            At::AcknowledgeMarked => {
                world.acknowledge();
                self.done()
            }
            // `Replicator::give_up`
            At::TakeBack(job, call) => {
                world.change_intent_ids(job.version, call.id, false);
                if self.makes_up {
                    self.own |= bit(call.id);
                    return self.leave();
                }
                self.to(At::EndCalls(bit(call.id), Then::Leave))
            }
            At::EndCalls(ids, then) => {
                world.end_calls(ids);
                self.to(At::Acknowledge(then))
            }
            At::Acknowledge(then) => {
                world.acknowledge();
                match then {
                    Then::Done => self.done(),
                    Then::Later => Actor::Idle,
                    Then::Leave => self.leave(),
                }
            }
            At::LeaveCalls(ids) => {
                world.leave_calls(ids);
                Actor::Idle
            }
            _ => self.remove(world, outcome),
        }
    }

    /// `Replicator::remove`.
    fn remove(mut self, world: &mut World, outcome: Outcome) -> Actor {
        match self.at.clone() {
            At::IntendRemoval(item) => {
                let ended = self.ended(world, &item);
                let id = world.new_id();
                if !world.record_intent(id, item.intents, 0) {
                    world.ids -= 1;
                    return self.again();
                }
                self.to(At::Begin(item, Call { id, given_out_for: 0, ended: ended | bit(id) }))
            }
            At::Begin(item, call) => {
                if !world.begin_removal(item.version(), call.ended, item.store_version, call.id) {
                    self.unused = Some((call.id, call.given_out_for));
                    return self.again();
                }
                self.to(if item.store_version > 0 { At::Delete(item, call) } else { At::ScanStore(item, call) })
            }
            // `Replicator::remove_if_ours`
            At::ScanStore(item, call) => {
                let marks: Option<Vec<_>> = world.store.iter().map(|one| one.mark).collect();
                match marks {
                    Some(marks) if !marks.is_empty() => self.to(At::IntentIds(item, call, marks)),
                    marks => self.to(At::MarkRemoved(item, call, marks.is_none())),
                }
            }
            At::IntentIds(item, call, marks) => {
                let known = call.ended | item.expired_intents;
                let mut seen = 0;
                let all_ours = marks.iter().all(|(id, version)| {
                    let is_first = seen & bit(*id) == 0;
                    seen |= bit(*id);
                    is_first && (known | world.intent_ids(*version)) & bit(*id) != 0
                });
                self.to(if all_ours { At::Delete(item, call) } else { At::MarkRemoved(item, call, true) })
            }
            At::Delete(item, call) => {
                if outcome == Outcome::Refused {
                    return self.to(At::EndRemoval(item, call, true));
                }
                world.delete();
                self.to(At::MarkRemoved(item, call, false))
            }
            At::MarkRemoved(item, call, is_left) => {
                if !world.mark_removed(item.version(), call.ended, is_left) {
                    return self.to(At::EndRemoval(item, call, false));
                }
                self.done()
            }
            At::EndRemoval(item, call, refused) => {
                world.end_removal(call.id);
                self.own |= bit(call.id);
                if refused {
                    return self.leave();
                }
                self.last_done = item.version();
                self.again()
            }
            other => self.to(other),
        }
    }

    /// `replicate`: one read of the entry, and `Replicator::step`.
    fn scan(mut self, world: &mut World) -> Actor {
        let item = world.item;
        if !item.exists {
            return self.done();
        }
        if item.is_being_removed() {
            self.polls += 1;
            return self.again();
        }
        self.rounds += 1;
        let lens = Lens::of(world);
        let current = lens.current(&item);
        let calls = self.calls(lens);
        match calls.due(&current, lens.now()) {
            Due::Yield => self.leave(),
            Due::Nothing => self.acknowledge(&item),
            Due::Put(..)
                if world.has(Defect::NothingMadeUpFor) && item.replicated == item.version() && self.last_done == 0 =>
            {
                self.own |= item.intents & world.abandoned();
                self.acknowledge(&item)
            }
            Due::Put(version, _, abandoned) => {
                let (Some(value), Some(entry)) = (item.value(), item.entry) else { return self.done() };
                let version = u8::try_from(version.get()).unwrap_or_default();
                let (intents, abandoned) = (item.intents, Lens::bits(&abandoned));
                let is_elsewhere = matches!(entry.held, Held::Elsewhere(..));
                let job = Job { version, value, is_elsewhere, intents, abandoned, seen: item.store_version };
                match entry.held {
                    Held::Elsewhere(place, _) => self.to(At::Get(job, place)),
                    _ => self.record_intent(world, job),
                }
            }
            Due::Remove(_) => match self.unused.take() {
                Some((id, given_out_for)) => {
                    let ended = self.ended(world, &item) | bit(id);
                    self.to(At::Begin(item, Call { id, given_out_for, ended }))
                }
                None => self.to(At::IntendRemoval(item)),
            },
        }
    }

    /// `Calls::ended`.
    fn ended(&self, world: &World, item: &Item) -> Ids {
        let lens = Lens::of(world);
        Lens::bits(&self.calls(lens).ended(&lens.ids(item.intents), lens.now()))
    }

    /// `Replicator::record_intent` of a put, as far as it calls nothing.
    fn record_intent(mut self, world: &World, job: Job) -> Actor {
        let Some((id, given_out_for)) = self.unused else { return self.to(At::RecordIntent(job)) };
        let ended = (job.intents & (self.own | world.abandoned())) | bit(id);
        self.unused = None;
        let call = Call { id, given_out_for, ended };
        self.to(if given_out_for == job.version { At::Put(job, call) } else { At::GiveOut(job, call) })
    }

    /// Nothing is left to do.
    fn acknowledge(self, item: &Item) -> Actor {
        let ids = self.own | self.unused.map_or(0, |(id, _)| bit(id));
        match (item.pending, ids) {
            (false, 0) => self.done(),
            (true, 0) => self.to(At::Acknowledge(Then::Done)),
            _ => self.to(At::EndCalls(ids, Then::Done)),
        }
    }

    fn again(self) -> Actor {
        if self.rounds < MAX_ROUNDS && self.polls < MAX_POLLS { self.to(At::Read) } else { self.leave() }
    }

    /// `Replicator::leave`.
    fn leave(self) -> Actor {
        let ids = self.own | self.unused.map_or(0, |(id, _)| bit(id));
        if ids == 0 {
            Actor::Idle
        } else if self.own == 0 && !self.makes_up {
            self.to(At::EndCalls(ids, Then::Later))
        } else {
            self.to(At::LeaveCalls(ids))
        }
    }

    /// `Replication::Done`.
    fn done(self) -> Actor {
        if self.imports { Actor::Import(Importer::alone()) } else { Actor::Idle }
    }
}
