//! What becomes of a key when no process is at it any more: sweeps and comparisons run until
//! nothing is left to do.

use super::{
    Actor, Outcome,
    importer::Importer,
    replicator::Replicator,
    world::{Held, Value, World, bit, fault},
    writer::Writer,
};

/// The first writer, and the last.
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

/// Runs sweeps and comparisons; whether they come to an end.
pub(super) fn recover(world: &mut World) -> bool {
    for _ in 0..MAX_ROUNDS {
        // `GRACE`, and the time of a removal.
        world.old = world.ids;
        world.item.end_removal();
        // `RefreshService::sweep`
        let is_pending = world.item.pending;
        if is_pending {
            run(world, Actor::Replicate(Replicator::of_refresh(world.strategy)));
        }
        let differs = differs(world);
        if differs {
            run(world, Actor::Import(Importer::alone()));
        }
        if !is_pending && !differs {
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

/// The faults of a key that comes to rest from here, and is then written once more.
pub(super) fn faults(world: &World) -> u16 {
    let mut world = world.clone();
    let mut faults = if recover(&mut world) { 0 } else { fault::STUCK };
    faults |= apart(&world) | missed(&world) | lost(&world);
    let is_intended = world.item.intents != 0 || world.item.pending;
    let before = world.item.version();
    write(&mut world, LAST);
    let is_written = world.item.version() > before && world.item.value() == Some(Value::Writer(LAST));
    if is_intended || !is_written || !recover(&mut world) {
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
        // Foreign versions are not removed. They are in the history.
        (Some(_), None) => world.store.iter().any(|one| matches!(one.value, Value::Foreign(_))),
    };
    let is_there = match world.item.entry.map(|entry| entry.held) {
        Some(Held::Elsewhere(place, value)) => world.store.iter().any(|one| one.place == place && one.value == value),
        _ => true,
    };
    if is_same && is_there { 0 } else { fault::APART }
}

/// Whether a foreign version is in Parameter Store and not in the history.
fn missed(world: &World) -> u16 {
    let times = |value| world.history.iter().filter(|past| past.value == Some(value)).count();
    let foreign = world.store.iter().filter(|one| matches!(one.value, Value::Foreign(_)));
    if foreign.into_iter().all(|one| times(one.value) == 1) { 0 } else { fault::MISSED }
}

/// Whether a committed request is missing from the history, or there twice.
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
