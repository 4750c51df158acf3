//! The fuzz targets without a fuzzer: over their seeds, and over inputs made from these, the same
//! ones on every run.

use std::{fs, panic, path::Path};

use tenantry_fuzz::{Check, Mutator, Outcome, TARGETS};

/// How many inputs are made for each target.
const MADE: usize = 5_000;
/// How many of these must be accepted, and refused, for the run to have tested anything.
const WORTH_MENTIONING: usize = MADE / 50;

/// The files of a folder, in the order of their names.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What stands in `seeds/`, and for requests the sample events too.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = files(&here.join("seeds").join(target));
    if target == "requests" {
        seeds.extend(files(&here.join("../../events")));
    }
    seeds
}

fn run(target: &str, check: Check, input: &[u8]) -> Outcome {
    panic::catch_unwind(|| check(input)).unwrap_or_else(|_| {
        panic!("{target} fails, as said above, on b\"{}\"; keep that in dev/fuzz/seeds", input.escape_ascii())
    })
}

#[test]
fn no_input_breaks_an_invariant() {
    for (target, check) in TARGETS {
        let seeds = seeds(target);
        for seed in &seeds {
            run(target, check, seed);
        }
        let mut mutator = Mutator::new(&seeds);
        let outcomes: Vec<_> = (0..MADE).map(|_| run(target, check, &mutator.next_input())).collect();
        for outcome in [Outcome::Accepted, Outcome::Refused] {
            let count = outcomes.iter().filter(|one| **one == outcome).count();
            assert!(count >= WORTH_MENTIONING, "{target}: only {count} of {MADE} inputs were {outcome:?}");
        }
    }
}
