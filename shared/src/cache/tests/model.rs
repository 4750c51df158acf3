//! Random interleavings of writers and readers, each step of a reader on its own, against a model
//! of the truth.

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::*;

const TENANTS: [&str; 2] = ["acme", "acme-2"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const READERS: usize = 3;

/// What a tenant's record in the table is at one moment: the head, each key's last write, and the
/// changes that are kept.
#[derive(Clone, Debug)]
struct Moment {
    head: Head,
    keys: [Written; NAMES.len()],
    log: Vec<Change>,
    /// How often the table had been restored.
    restorations: usize,
}

/// The last write of a key: its number, none for a deletion, and the revision that it was committed
/// at.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    number: Option<u64>,
    revision: u64,
}

/// All that ever was true of a tenant; the last moment is now.
struct Truth {
    moments: Vec<Moment>,
    writes: u64,
}

impl Truth {
    fn new() -> Self {
        let born = Moment { head: head(0), keys: [Written::default(); NAMES.len()], log: Vec::new(), restorations: 0 };
        Self { moments: vec![born], writes: 0 }
    }

    fn now(&self) -> &Moment {
        self.moments.last().unwrap()
    }

    fn commit(&mut self, chosen: u8, put: bool) {
        let mut next = self.now().clone();
        self.writes += 1;
        next.head.revision = next.head.revision.next();
        next.head.commit = CommitId::from_stored(&format!("write {}", self.writes));
        let revision = next.head.revision.get();
        let indices: Vec<_> = (0..NAMES.len()).filter(|index| chosen & (1 << index) != 0).collect();
        for index in &indices {
            next.keys[*index] = Written { number: put.then_some(self.writes), revision };
        }
        let names: Vec<_> = indices.iter().map(|index| NAMES[*index]).collect();
        next.log.push(Change { commit: next.head.commit.clone(), ..change(revision, &names) });
        self.moments.push(next);
    }

    /// The table is restored to what it was `back` commits ago, and may be marked as restored by
    /// another epoch.
    fn restore(&mut self, back: usize, mark: bool) {
        let restorations = self.now().restorations + 1;
        let mut restored = self.moments[self.moments.len().saturating_sub(back + 1)].clone();
        restored.restorations = restorations;
        if mark {
            restored.head.epoch = Epoch::from_stored(&format!("life {restorations}"));
        }
        self.moments.push(restored);
    }

    /// The changes after `since`, as far as the log holds them without a gap.
    fn changes(&self, since: u64, limit: u64) -> Vec<Change> {
        let wanted = since + 1..=since + limit;
        let held = self.now().log.iter().filter(|change| wanted.contains(&change.revision.get()));
        let gapless = held.zip(since + 1..).take_while(|(change, expected)| change.revision.get() == *expected);
        gapless.map(|(change, _)| change.clone()).collect()
    }

    /// Whether `found` may be believed of a key at `head`: it is what was true then. Once the table
    /// has been restored since, it may be from after the restoration as well, but never from before
    /// that head.
    fn allows(&self, head: &Head, name: usize, found: Option<u64>) -> bool {
        let then = self.moments.iter().rposition(|moment| moment.head == *head).expect("a head that was");
        let is_true = |moment: &Moment| moment.keys[name].number == found;
        let is_restored = self.now().restorations > self.moments[then].restorations;
        is_true(&self.moments[then]) || (is_restored && self.moments[then..].iter().any(is_true))
    }
}

/// Where a reader stands between two of its steps. Anything may happen in between.
#[derive(Clone, Debug)]
enum Reader {
    Idle,
    Asked(Asked),
    Answered(Asked, Head),
    Behind(Asked, Head, Validity),
    Informed(Asked, Head, Validity, Vec<Change>),
    Valid(Validity),
    Missed(Validity),
    Loaded(Validity, Known),
}

#[derive(Clone, Debug)]
enum Step {
    Commit { keys: u8, put: bool },
    Read { reader: usize, name: usize, accept_old: bool },
    Restore { back: usize, mark: bool },
    ForgetLog { keep: usize },
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        6 => (1..8_u8, prop::bool::weighted(0.8)).prop_map(|(keys, put)| Step::Commit { keys, put }),
        40 => (0..READERS, 0..NAMES.len(), prop::bool::weighted(0.1))
            .prop_map(|(reader, name, accept_old)| Step::Read { reader, name, accept_old }),
        1 => (0..4_usize, any::<bool>()).prop_map(|(back, mark)| Step::Restore { back, mark }),
        1 => (0..2_usize).prop_map(|keep| Step::ForgetLog { keep }),
    ];
    (prop::bool::weighted(0.2).prop_map(usize::from), step)
}

/// A cache, the truth about each tenant, and each tenant's readers.
struct World {
    cache: Cache,
    tenants: [TenantId; TENANTS.len()],
    truths: [Truth; TENANTS.len()],
    readers: [[(Reader, usize); READERS]; TENANTS.len()],
}

impl World {
    fn new() -> Self {
        Self {
            cache: Cache::new(PLENTY),
            tenants: TENANTS.map(tenant),
            truths: [Truth::new(), Truth::new()],
            readers: std::array::from_fn(|_| std::array::from_fn(|_| (Reader::Idle, 0))),
        }
    }

    fn take(&mut self, whose: usize, step: &Step) {
        let truth = &mut self.truths[whose];
        match step {
            Step::Commit { keys, put } => truth.commit(*keys, *put),
            Step::ForgetLog { keep } => {
                let log = &mut truth.moments.last_mut().unwrap().log;
                log.drain(..log.len().saturating_sub(*keep));
            }
            Step::Restore { back, mark } => {
                truth.restore(*back, *mark);
                // To restore a table takes longer than any read lasts.
                self.readers[whose] = std::array::from_fn(|_| (Reader::Idle, 0));
            }
            Step::Read { reader, name, accept_old } => {
                let (state, wanted) = self.readers[whose][*reader].clone();
                let name = if matches!(state, Reader::Idle) { *name } else { wanted };
                self.readers[whose][*reader] = (self.read(whose, state, name, *accept_old), name);
            }
        }
    }

    /// One step of a reader, as the read service takes it.
    fn read(&self, whose: usize, state: Reader, name: usize, accept_old: bool) -> Reader {
        let (cache, tenant, truth) = (&self.cache, &self.tenants[whose], &self.truths[whose]);
        let key = key(NAMES[name]);
        match state {
            Reader::Idle => match cache.validity(tenant).filter(|_| accept_old) {
                Some(valid) => Reader::Valid(valid),
                None => Reader::Asked(cache.ask(at(0))),
            },
            Reader::Asked(asked) => Reader::Answered(asked, truth.now().head.clone()),
            Reader::Answered(asked, head) => match cache.observe(tenant, asked, &head) {
                Observed::Valid(valid) => Reader::Valid(valid),
                Observed::Behind(from) => Reader::Behind(asked, head, from),
            },
            Reader::Behind(asked, head, from) => {
                let since = from.head.revision.get().saturating_sub(1);
                let changes = truth.changes(since, head.revision.get() - since);
                Reader::Informed(asked, head, from, changes)
            }
            Reader::Informed(asked, head, from, changes) => {
                Reader::Valid(cache.advance(tenant, &from, asked, &head, &changes))
            }
            Reader::Valid(valid) => match cache.get(tenant, &valid, &key) {
                Some(_) => Reader::Idle,
                None => Reader::Missed(valid),
            },
            Reader::Missed(valid) => match truth.now().keys[name] {
                // Only the reader can see that a deletion is from after its head.
                Written { number: None, revision } if revision > valid.head.revision.get() => Reader::Idle,
                Written { number, revision } => {
                    Reader::Loaded(valid, number.map(|number| entry(&key, revision, &number.to_string())))
                }
            },
            Reader::Loaded(valid, known) => {
                cache.insert(tenant, &valid, &key, known);
                Reader::Idle
            }
        }
    }

    /// Looks up every key of every tenant, as it is valid now and as each reader believes it to be.
    fn audit(&self) -> Result<usize, TestCaseError> {
        let mut known_keys = 0;
        for ((tenant, truth), readers) in self.tenants.iter().zip(&self.truths).zip(&self.readers) {
            let held = readers.iter().filter_map(|(reader, _)| match reader {
                Reader::Valid(valid) | Reader::Missed(valid) | Reader::Loaded(valid, _) => Some(valid.clone()),
                _ => None,
            });
            for valid in held.chain(self.cache.validity(tenant)) {
                for (index, name) in NAMES.iter().enumerate() {
                    let Some(known) = self.cache.get(tenant, &valid, &key(name)) else { continue };
                    let found = known.map(|resolved| resolved.value.to_text().unwrap().parse().unwrap());
                    prop_assert!(
                        truth.allows(&valid.head, index, found),
                        "{name} of {tenant} at {:?} is said to be from write {found:?}; the truth was {:#?}",
                        valid.head,
                        truth.moments
                    );
                    known_keys += 1;
                }
            }
        }
        Ok(known_keys)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Whatever writers, readers, restorations and a shrinking log do between each other's steps:
    /// what the memory holds at a revision is what was true at that revision, and never anything
    /// older.
    #[test]
    fn no_interleaving_makes_the_memory_stale(steps in vec(step(), 1..160)) {
        let mut world = World::new();
        for (whose, step) in &steps {
            world.take(*whose, step);
            world.audit()?;
        }
    }
}

/// The model above means something only if its readers do find things in the memory, and do fall
/// behind.
#[test]
fn the_models_readers_meet_what_they_are_there_for() {
    let mut world = World::new();
    let mut known = 0;
    let mut informed = 0;
    let mut random = TestRunner::deterministic();
    for _ in 0..2_000 {
        let (whose, step) = step().new_tree(&mut random).unwrap().current();
        world.take(whose, &step);
        known += world.audit().unwrap();
        informed +=
            usize::from(world.readers.iter().flatten().any(|(reader, _)| matches!(reader, Reader::Informed(..))));
    }
    assert!(known > 1_000 && informed > 50, "{known} and {informed}");
}
