//! What becomes of a key at which nobody is any more: the sweep and the comparison go on until
//! there is nothing left to do.

use super::{
    Actor, Outcome,
    importer::Importer,
    replicator::Replicator,
    world::{Held, Value, World, bit, fault},
    writer::Writer,
};

/// The writer before all others, and the one behind them.
pub(super) const FIRST: u8 = 0;
const LAST: u8 = 15;
/// How many rounds of sweep and comparison a key may take.
const MAX_ROUNDS: usize = 6;

fn run(world: &mut World, mut actor: Actor) {
    while actor != Actor::Idle {
        actor = actor.step(world, Outcome::Done);
    }
}

/// A write that nobody disturbs.
pub(super) fn write(world: &mut World, who: u8) {
    run(world, Actor::Write(Writer::new(who, false)));
}

/// Lets the sweep and the comparison do what there is to do; whether that comes to an end.
pub(super) fn recover(world: &mut World) -> bool {
    for _ in 0..MAX_ROUNDS {
        // `GRACE`, and the time of a removal.
        world.old = world.ids;
        world.item.end_removal();
        // `RefreshService::sweep`
        let is_owed = world.item.pending;
        if is_owed {
            run(world, Actor::Replicate(Replicator::of_refresh(world.strategy)));
        }
        let differs = differs(world);
        if differs {
            run(world, Actor::Import(Importer::alone()));
        }
        if !is_owed && !differs {
            return true;
        }
    }
    false
}

/// `Reconciler::parameters` and `Reconciler::entries`.
fn differs(world: &World) -> bool {
    let item = &world.item;
    match world.store.last() {
        Some(newest) => item.imported_through != Some(newest.place),
        None => item.store_version > 0 && item.entry.is_some_and(|entry| entry.is_live()),
    }
}

/// What is wrong with a key that comes to rest from here, and is written once more.
pub(super) fn faults(world: &World) -> u16 {
    let mut world = world.clone();
    let mut faults = if recover(&mut world) { 0 } else { fault::STUCK };
    faults |= apart(&world) | missed(&world) | lost(&world);
    let announced = world.item.intents != 0 || world.item.pending;
    let before = world.item.version();
    write(&mut world, LAST);
    let is_written = world.item.version() > before && world.item.value() == Some(Value::Writer(LAST));
    if announced || !is_written || !recover(&mut world) {
        faults |= fault::STUCK;
    }
    faults | apart(&world) | world.faults
}

/// Whether Parameter Store shows something else than what is committed.
fn apart(world: &World) -> u16 {
    let is_same = match (world.store.last(), world.item.value()) {
        (None, None) => true,
        (Some(newest), Some(value)) => newest.value == value,
        (None, Some(_)) => false,
        // What is not all ours is not removed. It is in the history.
        (Some(_), None) => world.store.iter().any(|one| matches!(one.value, Value::Foreign(_))),
    };
    let is_there = match world.item.entry.map(|entry| entry.held) {
        Some(Held::Elsewhere(place, value)) => world.store.iter().any(|one| one.place == place && one.value == value),
        _ => true,
    };
    if is_same && is_there { 0 } else { fault::APART }
}

/// Whether something that others put is in Parameter Store and not in the history.
fn missed(world: &World) -> u16 {
    let times = |value| world.history.iter().filter(|past| past.value == Some(value)).count();
    let foreign = world.store.iter().filter(|one| matches!(one.value, Value::Foreign(_)));
    if foreign.into_iter().all(|one| times(one.value) == 1) { 0 } else { fault::MISSED }
}

/// Whether a request that was committed is not in the history, once.
fn lost(world: &World) -> u16 {
    let times = |who| world.history.iter().filter(|past| past.writer == Some(who)).count();
    let committed = (0..16).filter(|who| world.committed & bit(*who) != 0);
    let others = (0..16).filter(|who| world.committed & bit(*who) == 0);
    if committed.into_iter().all(|who| times(who) == 1) && others.into_iter().all(|who| times(who) == 0) {
        0
    } else {
        fault::LOST
    }
}
