//! A model of the protocol that keeps Parameter Store and the ledger together, explored
//! exhaustively for small sizes.
//!
//! It has one key of one tenant, writers, runs of config-refresh, an operator who edits the
//! parameter directly, deaths between any two calls, a put that takes effect long after its process
//! died, and the time that passes. Every external call is one atomic step. The code itself takes
//! the decisions (`judge`, `owner_of`, `is_unmoved`, `Calls::due`, …). The model mirrors the order
//! of the calls and the conditions of the updates, and each place names what it mirrors.
//!
//! The model does not cover: lost answers of DynamoDB (tests of their own cover a commit's
//! repetition), versions that Parameter Store has dropped because there were more than 100, reads
//! of it that lag behind, and clocks that differ.

mod importer;
mod real;
mod replicator;
mod rest;
mod tests;
mod world;
mod writer;

use stateright::{Model, Property};

use self::{
    importer::Importer,
    replicator::Replicator,
    world::{Ids, Value, World, bit, fault},
    writer::Writer,
};

/// How many ticks of the model's clock there are before the long pause.
const PAUSE: u16 = 64;

/// The cache strategy of the key's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Strategy {
    Through,
    Back,
    Around,
}

/// What can be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Defect {
    /// A commit does not check that its version is new.
    AnyVersion,
    /// `note_imported` does not check the mark that it replaces.
    ImportedAnyhow,
    /// `note_imported` does not check the version that the store was compared with.
    NotedAnyVersion,
    /// A foreign version is committed wherever the mark stands.
    FoundAnyhow,
    /// A removal begins beside open intents.
    RemovalWithOthers,
    /// Intents are recorded beside a removal.
    RemovalAlone,
    /// A copied description is believed.
    CopiesBelieved,
    /// An abandoned call is taken for one that did nothing.
    NothingMadeUpFor,
    /// A put is noted whatever version it was made for.
    MarksAnyVersion,
    /// A write-around put has no intent.
    WithoutIntent,
    /// Foreign changes are committed without a second read of the entry after the scan.
    OneRead,
    /// The import is noted before the key is put back into the outbox.
    NotedFirst,
    /// The import mark is removed although foreign versions are left there.
    LeftForgotten,
    /// A foreign version is committed if no removal is under way, although one has been since.
    RemovalOverlooked,
    /// The intents of calls that were made up for are forgotten.
    MadeUpForForgotten,
}

/// A process that makes calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Actor {
    /// Nothing to do, or dead.
    Idle,
    Write(Writer),
    Replicate(Replicator),
    Import(Importer),
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It did nothing, and says so.
    Refused,
}

impl Actor {
    /// It has not begun, or it is over.
    fn is_at_rest(&self) -> bool {
        match self {
            Self::Idle => true,
            Self::Write(writer) => writer.is_at_begin(),
            Self::Replicate(_) | Self::Import(_) => false,
        }
    }

    fn ids(&self) -> Ids {
        match self {
            Self::Write(writer) => writer.ids(),
            Self::Replicate(replicator) => replicator.ids(),
            Self::Idle | Self::Import(_) => 0,
        }
    }

    /// The put that is the next call: id, version and value.
    fn next_put(&self) -> Option<(u8, u8, Value)> {
        match self {
            Self::Write(writer) => writer.next_put(),
            Self::Replicate(replicator) => replicator.next_put(),
            Self::Idle | Self::Import(_) => None,
        }
    }

    fn is_at_store(&self) -> bool {
        match self {
            Self::Replicate(replicator) => replicator.is_at_store(),
            _ => self.next_put().is_some(),
        }
    }

    fn step(self, world: &mut World, outcome: Outcome) -> Self {
        match self {
            Self::Idle => self,
            Self::Write(writer) => writer.step(world, outcome),
            Self::Replicate(replicator) => replicator.step(world, outcome),
            Self::Import(importer) => importer.step(world),
        }
    }
}

/// What may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    edits: u8,
    copies: u8,
    removals: u8,
    deaths: u8,
    refusals: u8,
    /// Runs of config-refresh that an event or the schedule begins.
    runs: u8,
    pauses: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    world: World,
    writers: Vec<Actor>,
    /// In order, because it does not matter which is which.
    runs: Vec<Actor>,
    /// A put of a dead process that has not taken effect yet.
    late: Option<(u8, u8, Value)>,
    budget: Budget,
}

/// What happens. Writers come first in the numbering of actors, runs behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// An actor's next call.
    Call(usize),
    /// An actor's call to Parameter Store is refused.
    Refuse(usize),
    /// An actor dies before its next call.
    Die(usize),
    /// An actor dies, and its put is under way.
    DieWithPut(usize),
    /// The put that was under way takes effect.
    Late,
    /// Somebody overwrites or makes the parameter.
    Edit,
    /// Somebody overwrites it, and leaves the description as it is.
    Copy,
    /// Somebody deletes it.
    Remove,
    /// A dead process's oldest call counts as abandoned.
    Abandon,
    /// The time of a dead process's removal is over.
    RemovalOver,
    /// So much time passes that no put can take effect any more that was signed before.
    Pause,
    /// An event or the schedule has config-refresh replicate or import the key.
    Replicate,
    Import,
}

/// One size of the model.
#[derive(Clone, Debug)]
struct Protocol {
    strategy: Strategy,
    /// Whether each writer deletes.
    writers: Vec<bool>,
    /// How many runs of config-refresh there are at once.
    runs: usize,
    budget: Budget,
    defect: Option<Defect>,
    /// Whether the key has been written, replicated and imported before.
    written: bool,
}

impl State {
    fn actor(&mut self, index: usize) -> &mut Actor {
        let writers = self.writers.len();
        if index < writers { &mut self.writers[index] } else { &mut self.runs[index - writers] }
    }

    fn actors(&self) -> impl Iterator<Item = &Actor> {
        self.writers.iter().chain(&self.runs)
    }

    /// The intents of living processes.
    fn alive(&self) -> Ids {
        self.actors().fold(0, |all, actor| all | actor.ids())
    }

    /// Up to which id intents are abandoned, once the oldest open one is. No older one is a living
    /// process's.
    fn abandoned_next(&self) -> Option<u8> {
        let next = (self.world.old..self.world.ids).find(|id| self.world.item.intents & bit(*id) != 0)?;
        (self.alive() & (bit(next + 1) - 1) == 0).then_some(next + 1)
    }

    fn is_at_rest(&self) -> bool {
        self.actors().all(Actor::is_at_rest)
    }

    fn is_removing(&self, id: u8) -> bool {
        self.alive() & bit(id) != 0
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut world = World::new(self.strategy, self.defect);
        if self.written {
            rest::write(&mut world, rest::FIRST);
            rest::recover(&mut world);
        }
        let writers = self.writers.iter().zip(1..);
        let writers = writers.map(|(is_delete, who)| Actor::Write(Writer::new(who, *is_delete))).collect();
        vec![State { world, writers, runs: vec![Actor::Idle; self.runs], late: None, budget: self.budget }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let budget = &state.budget;
        for (index, actor) in state.actors().enumerate() {
            if *actor == Actor::Idle {
                continue;
            }
            actions.push(Action::Call(index));
            if budget.refusals > 0 && actor.is_at_store() {
                actions.push(Action::Refuse(index));
            }
            if budget.deaths > 0 {
                actions.push(Action::Die(index));
                if state.late.is_none() && actor.next_put().is_some() {
                    actions.push(Action::DieWithPut(index));
                }
            }
        }
        let may = [
            (state.late.is_some(), Action::Late),
            (budget.edits > 0, Action::Edit),
            (budget.copies > 0 && state.world.store.last().is_some_and(|one| one.mark.is_some()), Action::Copy),
            (budget.removals > 0 && !state.world.store.is_empty(), Action::Remove),
            (state.abandoned_next().is_some(), Action::Abandon),
            (
                state.world.item.removing.is_some_and(|(id, is_over)| !is_over && !state.is_removing(id)),
                Action::RemovalOver,
            ),
            (budget.pauses > 0 && state.is_at_rest(), Action::Pause),
            (budget.runs > 0 && state.runs.contains(&Actor::Idle) && state.world.item.exists, Action::Replicate),
            (budget.runs > 0 && state.runs.contains(&Actor::Idle), Action::Import),
        ];
        actions.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, action)| action));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let world = &mut state.world;
        match action {
            Action::Call(index) | Action::Refuse(index) => {
                let refused = matches!(action, Action::Refuse(_));
                let actor = std::mem::replace(state.actor(index), Actor::Idle);
                state.budget.refusals -= u8::from(refused);
                let outcome = if refused { Outcome::Refused } else { Outcome::Done };
                *state.actor(index) = actor.step(&mut state.world, outcome);
            }
            Action::Die(index) => {
                state.budget.deaths -= 1;
                *state.actor(index) = Actor::Idle;
            }
            Action::DieWithPut(index) => {
                state.budget.deaths -= 1;
                state.late = std::mem::replace(state.actor(index), Actor::Idle).next_put();
            }
            Action::Late => {
                let (id, version, value) = state.late.take()?;
                world.put(value, Some((id, version)));
            }
            Action::Edit => {
                state.budget.edits -= 1;
                world.edit(None);
            }
            Action::Copy => {
                state.budget.copies -= 1;
                world.edit(world.store.last()?.mark);
            }
            Action::Remove => {
                state.budget.removals -= 1;
                world.removals += 1;
                world.delete();
            }
            Action::Abandon => state.world.old = last.abandoned_next()?,
            Action::RemovalOver => world.item.end_removal(),
            Action::Pause => {
                state.budget.pauses -= 1;
                state.late = None;
                world.pause();
            }
            Action::Replicate | Action::Import => {
                state.budget.runs -= 1;
                let run = if action == Action::Replicate {
                    Actor::Replicate(Replicator::of_refresh(self.strategy))
                } else {
                    Actor::Import(Importer::of_event(self.strategy))
                };
                *state.runs.iter_mut().find(|run| **run == Actor::Idle)? = run;
            }
        }
        state.runs.sort_unstable();
        if state == *last {
            return None;
        }
        if state.is_at_rest() && state.world.faults == 0 {
            state.world.faults = rest::faults(&state.world);
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn never(state: &State, fault: u16) -> bool {
            state.world.faults & fault == 0
        }
        vec![
            Property::always("no acknowledged write is lost", |_, state| never(state, fault::LOST)),
            Property::always("versions and revisions have no gap and no double", |_, state| {
                never(state, fault::NUMBERS)
            }),
            Property::always("foreign versions are imported once, in order", |_, state| never(state, fault::TWICE)),
            Property::always("what is ours is not taken for another's", |_, state| {
                never(state, fault::OURS_AS_FOREIGN)
            }),
            Property::always("how far a life is imported only moves forward", |_, state| {
                never(state, fault::BACKWARDS)
            }),
            Property::always("at rest, Parameter Store shows what is committed", |_, state| never(state, fault::APART)),
            Property::always("at rest, all foreign versions are in the history", |_, state| {
                never(state, fault::MISSED)
            }),
            Property::always("the key comes to rest, and can be written", |_, state| never(state, fault::STUCK)),
        ]
    }
}
