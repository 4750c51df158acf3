//! Concurrent clients, with faults on: what each of them was told fits one order of all that was
//! done to a key, and each deed stands in that order between its request and its answer. Judged by
//! stateright's checker.

use std::{collections::BTreeMap, time::Duration};

use emulator::{EventFate, EventOdds, Fault, Schedule};
use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::json;
use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};
use tenantry::ledger::GRACE;

use crate::{
    crash::recover,
    harness::{Answer, Api, seeds},
};

/// How many clients are at each key, and how much each of them does.
const CLIENTS: usize = 4;
const DEEDS: usize = 10;

/// A key as it should be: its version, deletions among them, and its value.
#[derive(Clone, Debug, Default)]
struct Cell {
    version: u64,
    value: Option<u64>,
}

#[derive(Clone, Debug)]
enum Deed {
    Get,
    Put(u64),
    /// Only over this version.
    Replace(u64, u64),
    Delete,
}

#[derive(Clone, Debug, PartialEq)]
enum Told {
    /// Version and value.
    Found(u64, u64),
    Nothing,
    /// As this version.
    Written(u64),
    Refused,
}

impl Cell {
    fn write(&mut self, value: Option<u64>) -> Told {
        (self.version, self.value) = (self.version + 1, value);
        Told::Written(self.version)
    }
}

impl SequentialSpec for Cell {
    type Op = Deed;
    type Ret = Told;

    fn invoke(&mut self, deed: &Deed) -> Told {
        match (deed, self.value) {
            (Deed::Get, Some(value)) => Told::Found(self.version, value),
            (Deed::Get | Deed::Delete, None) => Told::Nothing,
            (Deed::Put(value), _) => self.write(Some(*value)),
            (Deed::Delete, Some(_)) => self.write(None),
            (Deed::Replace(version, value), Some(_)) if *version == self.version => self.write(Some(*value)),
            (Deed::Replace(..), _) => Told::Refused,
        }
    }
}

/// What a client saw of a deed.
enum Seen {
    Begun(Deed),
    Told(Told),
    /// Nothing was done.
    Undone,
    /// It may have been done, and may still be.
    Unknown,
}

/// What all clients of a key saw, in the order in which they did.
#[derive(Default)]
struct History(Vec<(usize, Seen)>);

impl History {
    /// Why the history is none that can have been, if so.
    fn judge(self) -> Result<usize, String> {
        let mut tester = LinearizabilityTester::new(Cell::default());
        let undone = self.undone();
        // Whose deed may still be under way goes on under another name.
        let mut names: BTreeMap<usize, usize> = BTreeMap::new();
        let mut shown = Vec::new();
        for (index, (client, seen)) in self.0.into_iter().enumerate() {
            let name = *names.entry(client).or_insert(client);
            match seen {
                Seen::Begun(_) if undone.contains(&index) => {}
                Seen::Begun(deed) => {
                    shown.push(format!("{name}: {deed:?} …"));
                    tester.on_invoke(name, deed)?;
                }
                Seen::Told(told) => {
                    shown.push(format!("{name}: … {told:?}"));
                    tester.on_return(name, told)?;
                }
                Seen::Undone => {}
                Seen::Unknown => _ = names.insert(client, 1000 + index),
            }
        }
        if tester.is_consistent() { Ok(tester.len()) } else { Err(shown.join("\n")) }
    }

    /// Where deeds begin that were not done.
    fn undone(&self) -> Vec<usize> {
        let mut begun = BTreeMap::new();
        let mut undone = Vec::new();
        for (index, (client, seen)) in self.0.iter().enumerate() {
            match seen {
                Seen::Begun(_) => _ = begun.insert(client, index),
                Seen::Undone => undone.extend(begun.get(client)),
                Seen::Told(_) | Seen::Unknown => {}
            }
        }
        undone
    }
}

/// Promise of the checker: it takes histories that can have been, and no others.
#[test]
fn the_checker_knows_good_from_bad() {
    let told = |client: usize, deed: Deed, told: Told| [(client, Seen::Begun(deed)), (client, Seen::Told(told))];
    let judge = |seen: Vec<(usize, Seen)>| History(seen).judge().is_ok();
    let put = |client| told(client, Deed::Put(7), Told::Written(1));
    let get = |client| told(client, Deed::Get, Told::Found(1, 7));
    let nothing = |client| told(client, Deed::Get, Told::Nothing);
    let all = |parts: Vec<[(usize, Seen); 2]>| parts.into_iter().flatten().collect::<Vec<_>>();

    assert!(judge(all(vec![nothing(1), put(1), get(2)])));
    assert!(!judge(all(vec![put(1), nothing(2)])), "a stale read");
    assert!(!judge(all(vec![put(1), get(2), nothing(2)])), "a reader goes back");
    assert!(!judge(all(vec![put(1), told(2, Deed::Put(8), Told::Written(1))])), "a version twice");
    assert!(!judge(all(vec![put(1), told(2, Deed::Put(8), Told::Written(3))])), "a version left out");
    assert!(!judge(all(vec![put(1), told(2, Deed::Get, Told::Found(1, 8))])), "a value that nobody wrote");
    let replace = |client, value| told(client, Deed::Replace(1, value), Told::Written(2));
    assert!(!judge(all(vec![put(1), replace(1, 8), replace(2, 9)])), "a lost update");
    assert!(judge(all(vec![put(1), replace(1, 8), told(2, Deed::Replace(1, 9), Told::Refused)])));

    // While a write is under way, it may be seen or not; once seen it stays seen; and without an
    // answer it may come at any time or never.
    let begun = || (1, Seen::Begun(Deed::Put(7)));
    let told_of = || (1, Seen::Told(Told::Written(1)));
    let beside = |reads: Vec<[(usize, Seen); 2]>, end| {
        [begun()].into_iter().chain(reads.into_iter().flatten()).chain([end]).collect::<Vec<_>>()
    };
    assert!(judge(beside(vec![nothing(2), get(3)], told_of())));
    assert!(!judge(beside(vec![get(2), nothing(3)], told_of())));
    assert!(judge(beside(vec![nothing(2), get(3)], (1, Seen::Unknown))));
    assert!(judge(beside(vec![nothing(2), nothing(3)], (1, Seen::Unknown))));
    assert!(!judge(beside(vec![get(2)], (1, Seen::Undone))), "what was not done is seen");
}

/// What an answer tells of a deed.
fn told(deed: &Deed, answer: &Answer) -> Seen {
    match (deed, answer.status) {
        (Deed::Get, 200) => {
            Seen::Told(Told::Found(answer.number("version"), answer.body["value"].as_u64().expect("a number")))
        }
        (Deed::Get | Deed::Delete, 404) => Seen::Told(Told::Nothing),
        (Deed::Put(_) | Deed::Replace(..) | Deed::Delete, 200 | 201) => {
            Seen::Told(Told::Written(answer.number("version")))
        }
        (Deed::Replace(..), 412) => Seen::Told(Told::Refused),
        (Deed::Get, 409 | 429 | 503) | (_, 409 | 429) => Seen::Undone,
        (_, 503) => Seen::Unknown,
        _ => panic!("{deed:?}: {}", answer.text),
    }
}

/// One client of a key: does this and that, and notes what it sees.
async fn client(api: &Api, key: &str, name: usize, mut random: Rng, history: &std::sync::Mutex<History>) {
    let tenant = api.tenant(key);
    let note = |seen| history.lock().expect("nobody panicked").0.push((name, seen));
    let mut known: Option<(u64, String)> = None;
    for n in 0..DEEDS {
        let value = (name * DEEDS + n) as u64;
        let deed = match (random.u8(..10), &known) {
            (0..4, _) => Deed::Get,
            (4..7, _) | (7..9, None) => Deed::Put(value),
            (7..9, Some((version, _))) => Deed::Replace(*version, value),
            _ => Deed::Delete,
        };
        note(Seen::Begun(deed.clone()));
        let answer = match (&deed, &known) {
            (Deed::Get, _) => tenant.get(key).await,
            (Deed::Replace(..), Some((_, etag))) => tenant.put(key, &json!(value)).header("if-match", etag).await,
            (Deed::Delete, _) => tenant.delete(key).await,
            _ => tenant.put(key, &json!(value)).await,
        };
        if matches!(deed, Deed::Get) && answer.status == 200 {
            known = Some((answer.number("version"), answer.etag().to_owned()));
        }
        note(told(&deed, &answer));
        // The functions' clock goes a little faster, so that nobody waits long for those who are
        // gone.
        api.pass(Duration::from_millis(100));
    }
}

/// Promise: each key is linearizable, under every store and strategy, while calls are delayed,
/// throttled, refused, cut off before or after they took effect, reads of Parameter Store lag, and
/// events are lost, doubled and late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_is_linearizable() {
    let (mut deeds, mut dealt) = (0, BTreeMap::new());
    for seed in seeds() {
        let api = Api::start().await;
        let (lost, doubled, delayed, longest) = (0.2, 0.2, 0.2, Duration::from_millis(20));
        api.suite.emulator().set_event_fate(EventFate::Random(EventOdds { seed, lost, doubled, delayed, longest }));
        let rare = [
            Fault::Throttle,
            Fault::InternalError,
            Fault::Reset,
            Fault::ReplyLost,
            Fault::TransactionConflict,
            Fault::StalePage,
            Fault::EmptyPage,
        ];
        let delay = (Fault::Delay(Duration::from_millis(3)), 0.2);
        let faults = rare.map(|fault| (fault, 0.02)).into_iter().chain([delay]).collect();
        let schedule =
            api.suite.emulator().faults().schedule(Schedule { seed, faults, operations: None, max: usize::MAX });
        let keys = ["tenant_config_k", "param_config_k", "back_config_k", "around_config_k", "secret_config_k"];
        let histories: Vec<_> = keys.iter().map(|_| std::sync::Mutex::<History>::default()).collect();
        let mut random = Rng::with_seed(seed);
        let mut clients = Vec::new();
        for (key, history) in keys.iter().zip(&histories) {
            for name in 0..CLIENTS {
                clients.push(client(&api, key, name, random.fork(), history));
            }
        }
        join_all(clients).await;
        for (fault, count) in schedule.dealt() {
            *dealt.entry(fault).or_insert(0) += count;
        }
        api.suite.emulator().faults().clear();
        api.suite.emulator().set_event_fate(EventFate::Delivered);
        api.pass(GRACE);
        recover(&api).await;
        for (key, history) in keys.iter().zip(histories) {
            // What was acknowledged is there in the end, and Parameter Store has it, too.
            let mut history = history.into_inner().expect("nobody panicked");
            let tenant = api.tenant(key);
            let newest = tenant.get(key).await;
            history.0.push((CLIENTS, Seen::Begun(Deed::Get)));
            history.0.push((CLIENTS, told(&Deed::Get, &newest)));
            deeds +=
                history.judge().unwrap_or_else(|shown| panic!("{key} with seed {seed} is not linearizable:\n{shown}"));
            let (tag, name) = key.split_at(key.len() - 1);
            if tag != "tenant_config_" {
                let parameter = api.parameter(&tenant.parameter_name(tag, name)).await.map(|(text, _)| text);
                assert_eq!(
                    parameter,
                    (newest.status == 200).then(|| newest.body["value"].to_string()),
                    "{key} with seed {seed}"
                );
            }
        }
        api.stop().await;
    }
    // Reads that lag are few, because those of DynamoDB are strongly consistent.
    assert!(deeds > CLIENTS * DEEDS && dealt.len() >= 7, "{deeds} deeds, {dealt:?}");
    eprintln!("{deeds} deeds, among them {dealt:?}");
}
