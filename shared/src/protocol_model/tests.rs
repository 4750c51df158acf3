//! The sizes that are explored, and the defects that are found.

use std::fmt::Write as _;

use stateright::{Checker, HasDiscoveries, Model};

use super::{
    Budget, Defect, Protocol, State, Strategy,
    world::{Ids, Stored, Value, World, bit},
};

const NONE: Budget = Budget { edits: 0, copies: 0, removals: 0, deaths: 0, refusals: 0, runs: 0, pauses: 0 };
const PUT: bool = false;
const DELETE: bool = true;

/// What came of exploring one size: the number of states, and the shortest trace to each violation.
struct Explored {
    what: String,
    states: usize,
    found: Vec<(&'static str, String)>,
}

fn explore(protocol: Protocol) -> Explored {
    let Protocol { strategy, writers, runs, budget, written, .. } = &protocol;
    let deletes: String = writers.iter().map(|is_delete| if *is_delete { " delete" } else { " put" }).collect();
    let key = if *written { "a key that was written" } else { "a new key" };
    let what = format!("{strategy:?}, {key}:{deletes}, {runs} runs at once, {budget:?}");
    // The tests run beside each other anyway, and some of them want the shortest trace.
    let threads = if is_large() { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let checker = protocol.checker().threads(threads).finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let found = checker.discoveries().into_iter().map(|(name, path)| {
        let mut trace = String::new();
        for (state, action) in path.into_vec() {
            let _ = writeln!(trace, "    {}", shown(&state));
            let _ = action.map(|action| writeln!(trace, "  {action:?}"));
        }
        (name, trace)
    });
    let found: Vec<_> = found.collect();
    let states = checker.unique_state_count();
    // Shown with --nocapture.
    eprintln!("{states:>9} states, {:>9} steps, depth {:>2}: {what}", checker.state_count(), checker.max_depth());
    Explored { what, states, found }
}

/// Explores a size in which nothing may be wrong.
fn holds(protocol: Protocol) -> usize {
    let Explored { what, states, found } = explore(protocol);
    if let Some((name, trace)) = found.first() {
        panic!("{what}\nviolates: {name}\n{trace}");
    }
    states
}

/// A state in a line: the store's versions, the entry, and what is noted of the store.
fn shown(state: &State) -> String {
    let World { store, item, .. } = &state.world;
    let value = |value: Value| match value {
        Value::Writer(who) => format!("w{who}"),
        Value::Foreign(n) => format!("foreign{n}"),
    };
    let mark = |(id, version): (u8, u8)| format!("(id {id} for v{version})");
    let version = |one: &Stored| {
        format!("{}@{} {}{}", one.place.version, one.place.at, value(one.value), one.mark.map(mark).unwrap_or_default())
    };
    let store: Vec<_> = store.iter().map(version).collect();
    let entry = item.entry.map_or("never written".to_owned(), |entry| {
        let held = item.value().map_or("deleted".to_owned(), value);
        format!("v{} {held} at {}", entry.version, entry.modified_at)
    });
    let imported_through =
        item.imported_through.map_or("-".to_owned(), |place| format!("{}@{}", place.version, place.at));
    let ids =
        |ids: Ids| (0..32).filter(|id| ids & bit(*id) != 0).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    format!(
        "store [{}] entry {entry}, latest v{}, replicated v{} at {}, intents {{{}}}, expired intents {{{}}}, imported_through {imported_through}{}{}{}",
        store.join(", "),
        item.latest,
        item.replicated,
        item.store_version,
        ids(item.intents),
        ids(item.expired_intents),
        item.removing.map_or_else(String::new, |(id, over)| format!(
            ", removing under {id}{}",
            if over { " is over" } else { "" }
        )),
        if item.pending { ", pending" } else { "" },
        state.late.map_or_else(String::new, |(id, ..)| format!(", late put {id}")),
    )
}

/// The sizes of a strategy. The cost depends on the number of actors at once; so there are many
/// small sizes, and larger ones only with `cargo model`, which takes long.
fn sizes(strategy: Strategy) -> Vec<Protocol> {
    let mut sizes = vec![
        (true, vec![PUT, PUT], 1, Budget { deaths: 1, runs: 1, ..NONE }),
        (true, vec![PUT, DELETE], 1, Budget { refusals: 1, runs: 1, ..NONE }),
        (true, vec![], 2, Budget { edits: 2, removals: 1, runs: 2, ..NONE }),
        (false, vec![], 2, Budget { edits: 2, removals: 1, deaths: 1, runs: 2, ..NONE }),
        (false, vec![PUT], 2, Budget { edits: 1, runs: 2, ..NONE }),
        (false, vec![PUT, DELETE], 1, Budget { deaths: 1, ..NONE }),
    ];
    for written in [true, false] {
        sizes.extend([
            (written, vec![PUT], 1, Budget { edits: 1, removals: 1, deaths: 1, runs: 1, ..NONE }),
            (written, vec![DELETE], 1, Budget { edits: 1, removals: 1, deaths: 1, runs: 1, ..NONE }),
            (written, vec![PUT], 1, Budget { copies: 1, edits: 1, deaths: 1, runs: 1, ..NONE }),
            (written, vec![PUT], 1, Budget { deaths: 1, copies: 1, runs: 1, pauses: 1, ..NONE }),
        ]);
        if is_large() {
            // A known gap: a first write-around write dies with its put under way, somebody else
            // puts and removes the parameter, and the late put comes between two runs that scan
            // that. Then the put stays although the key is deleted, until its next write.
            let removals = u8::from(written || strategy != Strategy::Around);
            sizes.extend([
                (written, vec![PUT, PUT], 1, Budget { edits: 1, deaths: 1, runs: 1, ..NONE }),
                (written, vec![PUT, DELETE], 1, Budget { edits: 1, removals: 1, deaths: 1, runs: 1, ..NONE }),
                (written, vec![PUT], 2, Budget { edits: 1, removals, deaths: 1, runs: 2, ..NONE }),
                (written, vec![DELETE], 2, Budget { edits: 1, removals: 1, deaths: 1, runs: 2, ..NONE }),
                (written, vec![PUT, DELETE], 1, Budget { copies: 1, deaths: 2, runs: 1, pauses: 1, ..NONE }),
            ]);
        }
        // Everything at once; of the other strategies that is too much for a machine.
        if is_large() && strategy == Strategy::Back {
            sizes.push((written, vec![PUT, PUT], 2, Budget { edits: 1, deaths: 1, runs: 2, ..NONE }));
        }
    }
    let sizes = sizes.into_iter().map(|(written, writers, runs, budget)| Protocol {
        strategy,
        writers,
        runs,
        budget,
        defect: None,
        written,
    });
    sizes.collect()
}

/// Whether the larger sizes are asked for, as `cargo model` does.
fn is_large() -> bool {
    std::env::var_os("TENANTRY_LARGE_MODEL").is_some()
}

/// Explores all sizes of a strategy, in none of which anything may be wrong.
fn all_hold(strategy: Strategy) {
    let states: usize = sizes(strategy).into_iter().map(holds).sum();
    eprintln!("{states:>9} states of {strategy:?} in all");
}

/// Promise: whatever writers, operators, config-refresh and the death of any of them do to a
/// write-through key, in whatever order, no acknowledged write is lost, foreign versions are
/// imported once, and Parameter Store ends with what is committed.
#[test]
fn write_through_holds() {
    all_hold(Strategy::Through);
}

/// Promise: the same of a write-back key.
#[test]
fn write_back_holds() {
    all_hold(Strategy::Back);
}

/// Promise: the same of a write-around key.
#[test]
fn write_around_holds() {
    all_hold(Strategy::Around);
}

/// Each of these defects breaks a promise: the model sees what the conditions are for.
#[test]
fn what_is_broken_is_found() {
    use Strategy::{Around, Back, Through};
    const EDIT: Budget = Budget { edits: 1, runs: 1, ..NONE };
    const DEATH: Budget = Budget { deaths: 1, runs: 1, ..NONE };
    let apart = "at rest, Parameter Store shows what is committed";
    let missed = "at rest, all foreign versions are in the history";
    let ours = "what is ours is not taken for another's";
    let numbers = "versions and revisions have no gap and no double";
    let backwards = "how far a life is imported only moves forward";
    let stuck = "the key comes to rest, and can be written";
    let many = Budget { removals: 1, deaths: 1, runs: 2, ..EDIT };
    for (defect, breaks, strategy, written, writers, runs, budget) in [
        (Defect::AnyVersion, numbers, Back, true, vec![PUT], 1, many),
        (Defect::ImportedAnyhow, backwards, Around, true, vec![PUT], 2, Budget { runs: 2, ..DEATH }),
        (Defect::FoundAnyhow, ours, Through, true, vec![DELETE], 1, EDIT),
        (Defect::RemovalWithOthers, ours, Around, true, vec![PUT, DELETE], 0, NONE),
        (Defect::RemovalAlone, ours, Around, true, vec![PUT, DELETE], 0, NONE),
        (Defect::CopiesBelieved, missed, Back, true, vec![PUT], 1, Budget { copies: 1, ..EDIT }),
        (Defect::NothingMadeUpFor, ours, Around, true, vec![PUT], 1, DEATH),
        (Defect::MarksAnyVersion, apart, Through, true, vec![PUT], 1, many),
        (Defect::WithoutIntent, ours, Around, true, vec![PUT], 1, Budget { runs: 1, ..NONE }),
        (Defect::OneRead, ours, Around, true, vec![PUT], 1, Budget { runs: 1, ..NONE }),
        (Defect::NotedAnyVersion, apart, Through, true, vec![PUT, PUT], 1, DEATH),
        (Defect::NotedFirst, apart, Around, true, vec![PUT], 1, Budget { deaths: 2, ..DEATH }),
        (Defect::LeftForgotten, stuck, Back, false, vec![PUT, DELETE], 1, EDIT),
        (Defect::RemovalOverlooked, ours, Around, true, vec![DELETE], 1, Budget { deaths: 1, ..EDIT }),
        (Defect::MadeUpForForgotten, ours, Around, false, vec![PUT, PUT], 1, DEATH),
    ] {
        let explored = explore(Protocol { strategy, writers, runs, budget, defect: Some(defect), written });
        let found: Vec<_> = explored.found.iter().map(|(name, _)| *name).collect();
        assert!(found.contains(&breaks), "{defect:?} breaks {found:?}");
    }
}
