//! The promise: what the memory gives back at a revision is never older than that revision.

mod model;

use std::sync::LazyLock;

use super::*;
use crate::{
    ledger::{ChangeOperation, ChangedKey},
    model::{
        comment::Comment,
        entry::{Author, CommitId, Epoch, Held as HeldValue, State, Version},
        routing::TagRoutes,
    },
};

const PLENTY: u64 = 1024 * 1024;

fn tenant(id: &str) -> TenantId {
    id.parse().unwrap()
}

fn key(name: &str) -> ConfigKey {
    static ROUTES: LazyLock<TagRoutes> = LazyLock::new(TagRoutes::default);
    ConfigKey::parse(&format!("tenant_config_{name}"), &ROUTES).unwrap()
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A head in the ledger's only life, whose commit follows from its revision.
fn head(revision: u64) -> Head {
    other_head(revision, "life", &format!("commit {revision}"))
}

fn other_head(revision: u64, epoch: &str, commit: &str) -> Head {
    let (epoch, commit) = (Epoch::from_stored(epoch), CommitId::from_stored(commit));
    Head { revision: Revision::new(revision), epoch, commit, has_parameters: false }
}

/// The change at `revision`, which wrote `names`.
fn change(revision: u64, names: &[&str]) -> Change {
    let changed = |name: &&str| ChangedKey {
        key: key(name).as_str().to_owned(),
        version: Version::FIRST,
        operation: ChangeOperation::Put,
        refusal: None,
    };
    Change {
        revision: Revision::new(revision),
        author: Author::new("alice"),
        comment: None,
        at: at(0),
        commit: head(revision).commit,
        expires_at: at(u64::MAX),
        keys: names.iter().map(changed).collect(),
    }
}

/// A live entry that was written at `revision`.
fn entry(key: &ConfigKey, revision: u64, text: &str) -> Arc<Resolved> {
    let value = ConfigValue::from_text(text);
    let entry = Entry {
        key: key.clone(),
        version: Version::FIRST,
        revision: Revision::new(revision),
        author: Author::new("alice"),
        comment: None,
        modified_at: at(0),
        commit: head(revision).commit,
        state: State::Live(HeldValue::Value(value.clone())),
        superseded: false,
        refusal: None,
    };
    Arc::new(Resolved { entry, value })
}

/// One tenant's memory, with the steps of a reader.
struct Memory {
    cache: Cache,
    tenant: TenantId,
}

impl Memory {
    /// A memory at revision 5 that holds the keys a, b and c, and that d has no value.
    fn warm() -> (Self, Validity) {
        let memory = Self { cache: Cache::new(PLENTY), tenant: tenant("acme") };
        let valid = memory.see(&head(5));
        for name in ["a", "b", "c"] {
            memory.insert(&valid, name, Some(entry(&key(name), 3, &format!("{name} of 3"))));
        }
        memory.insert(&valid, "d", None);
        (memory, valid)
    }

    /// Asks for the head, gets `head`, and takes the changes since if `changes` are needed.
    fn follow(&self, head: &Head, changes: &[Change]) -> Validity {
        let asked = self.cache.ask(at(0));
        match self.cache.observe(&self.tenant, asked, head) {
            Observed::Valid(valid) => valid,
            Observed::Behind(from) => self.cache.advance(&self.tenant, &from, asked, head, changes),
        }
    }

    /// Asks for the head and gets one that tells everything.
    fn see(&self, head: &Head) -> Validity {
        match self.cache.observe(&self.tenant, self.cache.ask(at(0)), head) {
            Observed::Valid(valid) => valid,
            Observed::Behind(from) => panic!("behind at {from:?}"),
        }
    }

    fn insert(&self, valid: &Validity, name: &str, known: Known) {
        self.cache.insert(&self.tenant, valid, &key(name), known);
    }

    /// What is known of a key: its text, `-` for no value, `?` for nothing.
    fn get(&self, valid: &Validity, name: &str) -> String {
        match self.cache.get(&self.tenant, valid, &key(name)) {
            Some(Some(resolved)) => resolved.value.to_text().unwrap(),
            Some(None) => "-".to_owned(),
            None => "?".to_owned(),
        }
    }

    /// What is known of a, b, c and d.
    fn all(&self, valid: &Validity) -> String {
        ["a", "b", "c", "d"].map(|name| self.get(valid, name)).join(", ")
    }
}

const WARM: &str = "a of 3, b of 3, c of 3, -";
const NOTHING: &str = "?, ?, ?, ?";

/// At an unmoved head everything is still known, values and misses alike.
#[test]
fn an_unmoved_head_keeps_everything() {
    let (memory, valid) = Memory::warm();
    assert_eq!(memory.all(&valid), WARM);
    assert_eq!(memory.all(&memory.see(&head(5))), WARM);
}

/// THE trap: a load that began before a change may have read the value of before it. Kept beside
/// the newer revision it would be stale for ever, so it is not kept, whatever it was that moved the
/// tenant on.
#[test]
fn a_load_that_was_overtaken_is_not_kept() {
    type Overtake = fn(&Memory) -> Validity;
    let cases: [(&str, Overtake); 5] = [
        ("a change of the key", |memory| memory.follow(&head(6), &[change(5, &[]), change(6, &["x"])])),
        ("a change of another key", |memory| memory.follow(&head(6), &[change(5, &[]), change(6, &["a"])])),
        ("a gap", |memory| memory.follow(&head(9), &[])),
        ("a restored table", |memory| memory.see(&other_head(5, "another life", "commit 5"))),
        ("a restored table, and the old one again", |memory| {
            memory.see(&other_head(5, "another life", "commit 5"));
            memory.see(&head(5))
        }),
    ];
    for (name, overtake) in cases {
        let (memory, began) = Memory::warm();
        let now = overtake(&memory);
        memory.insert(&began, "x", Some(entry(&key("x"), 4, "overtaken")));
        memory.insert(&began, "y", None);
        for valid in [&now, &began, &memory.cache.validity(&memory.tenant).unwrap()] {
            assert_eq!((memory.get(valid, "x").as_str(), memory.get(valid, "y").as_str()), ("?", "?"), "{name}");
        }
        memory.insert(&now, "x", Some(entry(&key("x"), 5, "in time")));
        assert_eq!(memory.get(&now, "x"), "in time", "{name}");
    }
}

/// A load that found an entry from after its head has been overtaken too, though nobody has noticed
/// yet. Kept, it would stand beside neighbours that the same commit has changed.
#[test]
fn an_entry_from_after_the_head_is_not_kept() {
    let (memory, valid) = Memory::warm();
    memory.insert(&valid, "x", Some(entry(&key("x"), 6, "of 6")));
    assert_eq!(memory.get(&valid, "x"), "?");
    memory.insert(&valid, "x", Some(entry(&key("x"), 5, "of 5")));
    assert_eq!(memory.get(&valid, "x"), "of 5");
}

/// A reader who is still at an earlier revision gets nothing that was found at a later one, and
/// goes on getting what did not change.
#[test]
fn an_earlier_reader_gets_nothing_later() {
    let (memory, earlier) = Memory::warm();
    let later = memory.follow(&head(6), &[change(5, &[]), change(6, &["a", "b"])]);
    memory.insert(&later, "a", Some(entry(&key("a"), 6, "a of 6")));
    memory.insert(&later, "b", None);
    assert_eq!(memory.all(&later), "a of 6, -, c of 3, -");
    assert_eq!(memory.all(&earlier), "?, ?, c of 3, -");
}

/// Catching up drops the keys that the changes name, a miss as well as a value, and keeps all
/// others.
#[test]
fn a_delta_drops_exactly_the_keys_it_names() {
    for (changes, expected) in [
        (vec![change(5, &[]), change(6, &["a"])], "?, b of 3, c of 3, -"),
        (vec![change(5, &[]), change(6, &["d"])], "a of 3, b of 3, c of 3, ?"),
        (vec![change(5, &[]), change(6, &["b", "c"])], "a of 3, ?, ?, -"),
        (vec![change(5, &[]), change(6, &["a"]), change(7, &["d", "a"])], "?, b of 3, c of 3, ?"),
        (vec![change(5, &[]), change(6, &["elsewhere"])], WARM),
        // What our own revision's change names was known when we got there.
        (vec![change(5, &["a", "b", "c", "d"]), change(6, &[])], WARM),
    ] {
        let (memory, _) = Memory::warm();
        let newest = changes.last().unwrap().revision.get();
        let valid = memory.follow(&head(newest), &changes);
        assert_eq!(valid.head, head(newest));
        assert_eq!(memory.all(&valid), expected, "{changes:?}");
    }
}

/// Changes that do not lead from our own commit to the head, each one and in order, prove nothing:
/// the whole tenant is dropped.
#[test]
fn a_doubtful_delta_drops_the_tenant() {
    let foreign = Change { commit: CommitId::from_stored("another commit"), ..change(5, &[]) };
    let misplaced = Change { commit: head(5).commit, ..change(4, &[]) };
    for (name, changes) in [
        ("nothing", vec![]),
        ("our own commit is missing", vec![change(6, &[]), change(7, &[])]),
        ("our own commit and the next are missing", vec![change(7, &[])]),
        ("a gap", vec![change(5, &[]), change(7, &[])]),
        ("the last one is missing", vec![change(5, &[]), change(6, &[])]),
        ("only our own", vec![change(5, &[])]),
        ("one too many", vec![change(5, &[]), change(6, &[]), change(7, &[]), change(8, &[])]),
        ("one twice", vec![change(5, &[]), change(6, &[]), change(6, &[]), change(7, &[])]),
        ("the wrong order", vec![change(5, &[]), change(7, &[]), change(6, &[])]),
        ("one too early", vec![change(4, &[]), change(5, &[]), change(6, &[]), change(7, &[])]),
        ("our commit at another revision", vec![misplaced, change(6, &[]), change(7, &[])]),
        ("another commit at our revision", vec![foreign, change(6, &[]), change(7, &[])]),
    ] {
        let (memory, earlier) = Memory::warm();
        let valid = memory.follow(&head(7), &changes);
        assert_eq!(memory.all(&valid), NOTHING, "{name}");
        assert_eq!(valid.head, head(7), "{name}");
        assert_eq!(memory.cache.validity(&memory.tenant).unwrap().head, head(7), "{name}");
        // Neither does anything come back with later heads, or go in by way of the earlier
        // revision.
        memory.insert(&earlier, "a", Some(entry(&key("a"), 3, "a of 3")));
        assert_eq!(memory.all(&memory.see(&head(7))), NOTHING, "{name}");
    }
}

/// A head that went back, or of another life or another commit, tells that the table was restored:
/// the whole tenant is dropped.
#[test]
fn another_history_drops_the_tenant() {
    for seen in [
        head(4),
        head(0),
        other_head(5, "life", "another commit"),
        other_head(5, "another life", "commit 5"),
        other_head(4, "another life", "commit 4"),
        other_head(6, "another life", "commit 6"),
        Head::empty(),
    ] {
        let (memory, _) = Memory::warm();
        let valid = memory.see(&seen);
        assert_eq!(memory.all(&valid), NOTHING, "{seen:?}");
        assert_eq!(valid.head, seen);
        // The way back is as much another history.
        assert_eq!(memory.all(&memory.follow(&head(5), &[])), NOTHING, "{seen:?}");
    }
}

/// A tenant that never committed has no commit of its own for a delta to begin with.
#[test]
fn the_first_commits_need_none_before_them() {
    for (changes, expected) in [
        (vec![change(1, &["a"]), change(2, &[])], "?, -"),
        (vec![change(2, &[])], "?, ?"),
        (vec![change(0, &[]), change(1, &[]), change(2, &[])], "?, ?"),
    ] {
        let memory = Memory { cache: Cache::new(PLENTY), tenant: tenant("acme") };
        let valid = memory.see(&head(0));
        memory.insert(&valid, "a", None);
        memory.insert(&valid, "b", None);
        let valid = memory.follow(&head(2), &changes);
        assert_eq!([memory.get(&valid, "a"), memory.get(&valid, "b")].join(", "), expected, "{changes:?}");
    }
}

/// Of two reads at the same time, the one that asked earlier may arrive later, with an older head.
/// It says nothing about now: the tenant stays where it is, and the late reader is served from
/// there.
#[test]
fn a_late_older_head_does_not_take_the_tenant_back() {
    let (memory, _) = Memory::warm();
    let early = memory.cache.ask(at(1));
    let now = memory.follow(&head(6), &[change(5, &[]), change(6, &["a"])]);
    let Observed::Valid(valid) = memory.cache.observe(&memory.tenant, early, &head(5)) else { panic!("behind") };
    assert_eq!(valid.head, head(6));
    for valid in [&valid, &now, &memory.cache.validity(&memory.tenant).unwrap()] {
        assert_eq!(memory.all(valid), "?, b of 3, c of 3, -");
    }
    // Asked for after the newer one had arrived, the same head means that the table went back.
    assert_eq!(memory.all(&memory.see(&head(5))), NOTHING);
}

/// Of two readers that catch up at the same time, the one that finishes last does not undo the
/// other's work.
#[test]
fn catching_up_twice_at_once_goes_forward_only() {
    let changes = [change(5, &[]), change(6, &["a"]), change(7, &["b"])];
    for (first, second, expected) in [
        (6, 7, "?, ?, c of 3, -"),
        (7, 6, "?, ?, c of 3, -"),
        (7, 7, "?, ?, c of 3, -"),
        (6, 6, "?, b of 3, c of 3, -"),
    ] {
        let (memory, _) = Memory::warm();
        let behind = |revision| {
            let asked = memory.cache.ask(at(0));
            match memory.cache.observe(&memory.tenant, asked, &head(revision)) {
                Observed::Behind(from) => (revision, from, asked),
                Observed::Valid(valid) => panic!("valid at {valid:?}"),
            }
        };
        for (revision, from, asked) in [behind(first), behind(second)] {
            let until = usize::try_from(revision).unwrap() - 4;
            let valid = memory.cache.advance(&memory.tenant, &from, asked, &head(revision), &changes[..until]);
            assert!(valid.head.revision.get() >= revision);
            memory.insert(&valid, "a", Some(entry(&key("a"), valid.head.revision.get(), "fresh")));
        }
        let valid = memory.cache.validity(&memory.tenant).unwrap();
        assert_eq!(valid.head, head(first.max(second)));
        assert_eq!(memory.all(&valid).replace("fresh", "?"), expected, "{first} and {second}");
    }
}

/// A reader that catches up from before a drop cannot bring the dropped entries back.
#[test]
fn catching_up_from_before_a_drop_starts_anew() {
    let (memory, _) = Memory::warm();
    let asked = memory.cache.ask(at(0));
    let Observed::Behind(from) = memory.cache.observe(&memory.tenant, asked, &head(6)) else { panic!("valid") };
    let restored = memory.see(&other_head(2, "another life", "commit 2"));
    memory.insert(&restored, "a", Some(entry(&key("a"), 1, "restored")));
    let valid = memory.cache.advance(&memory.tenant, &from, asked, &head(6), &[change(5, &[]), change(6, &["c"])]);
    assert_eq!(memory.all(&valid), NOTHING);
}

/// The tenant is part of every entry's name: the same key of two tenants is two entries, however
/// alike the tenants' names are, and what happens to one tenant does not happen to the other.
#[test]
fn tenants_share_nothing() {
    let cache = Cache::new(PLENTY);
    let tenants = ["acme", "Acme", "ACME", "acme-2", "acm", "e", "acme.tenant_config_a", "a"].map(tenant);
    let valid = |one| match cache.observe(one, cache.ask(at(0)), &head(5)) {
        Observed::Valid(valid) => valid,
        Observed::Behind(from) => panic!("behind at {from:?}"),
    };
    let text = |one: &TenantId, valid: &Validity| {
        cache.get(one, valid, &key("a")).map(|known| known.unwrap().value.to_text().unwrap())
    };
    for one in &tenants {
        assert!(cache.validity(one).is_none(), "{one}");
        let valid = valid(one);
        assert_eq!(text(one, &valid), None, "{one}");
        cache.insert(one, &valid, &key("a"), Some(entry(&key("a"), 3, one.as_str())));
    }
    for one in &tenants {
        for other in &tenants {
            // Even with another tenant's validity in hand, nothing but one's own comes out.
            let expected = (one == other).then(|| one.to_string());
            assert_eq!(text(one, &cache.validity(other).unwrap()), expected, "{one} with the validity of {other}");
        }
    }
    cache.observe(&tenants[0], cache.ask(at(0)), &other_head(5, "another life", "commit 5"));
    assert_eq!(text(&tenants[0], &cache.validity(&tenants[0]).unwrap()), None);
    assert_eq!(text(&tenants[1], &cache.validity(&tenants[1]).unwrap()).as_deref(), Some("Acme"));
}

/// The age of an answer counts from the question, not from the answer, and no late answer makes it
/// older again.
#[test]
fn entries_are_as_old_as_the_question_for_their_head() {
    let (memory, _) = Memory::warm();
    let age = || memory.cache.validity(&memory.tenant).unwrap().age(at(1_000)).as_millis();
    assert_eq!(age(), 1_000);
    let (first, second) = (memory.cache.ask(at(300)), memory.cache.ask(at(400)));
    for asked in [second, first] {
        memory.cache.observe(&memory.tenant, asked, &head(5));
        assert_eq!(age(), 600);
    }
    let asked = memory.cache.ask(at(700));
    let Observed::Behind(from) = memory.cache.observe(&memory.tenant, asked, &head(6)) else { panic!("valid") };
    assert_eq!(age(), 600, "a head that we have not caught up with has validated nothing");
    memory.cache.advance(&memory.tenant, &from, asked, &head(6), &[change(5, &[]), change(6, &[])]);
    assert_eq!(age(), 300);
    assert_eq!(memory.cache.validity(&memory.tenant).unwrap().age(at(0)).as_millis(), 0);
}

/// However much goes in, values, misses, long keys and authors, the entries weigh at most what the
/// cache was given.
#[test]
fn memory_stays_bounded() {
    for max in [0, 1_000, 64 * 1024, PLENTY] {
        let cache = Cache::new(max);
        for number in 0..800_usize {
            let tenant = tenant(&format!("tenant-{}", number % 7));
            let Observed::Valid(valid) = cache.observe(&tenant, cache.ask(at(0)), &head(5)) else { panic!("behind") };
            let key = key(&format!("{}/{number}", "k".repeat(number % 60 + 1)));
            let known = if number % 3 == 0 { None } else { Some(entry(&key, 3, &"v".repeat(number % 17 * 200))) };
            cache.insert(&tenant, &valid, &key, known);
            assert!(cache.bytes() <= max, "{} of {max} bytes after {number}", cache.bytes());
        }
        assert!(cache.bytes() >= max / 4 || max < 64 * 1024, "{} of {max} bytes are used", cache.bytes());
    }
}

/// An entry weighs at least the text that it holds, wherever the text stands.
#[test]
fn an_entry_weighs_its_texts() {
    let cache = Cache::new(PLENTY);
    let tenant = tenant(&"t".repeat(60));
    let Observed::Valid(valid) = cache.observe(&tenant, cache.ask(at(0)), &head(5)) else { panic!("behind") };
    let key = key(&"k".repeat(60));
    let weight = |author: &str, comment: &str| {
        let mut resolved = Arc::unwrap_or_clone(entry(&key, 3, &"v".repeat(5_000)));
        resolved.entry.author = Author::new(author);
        resolved.entry.comment = Some(Comment::from_stored(comment));
        cache.insert(&tenant, &valid, &key, Some(Arc::new(resolved)));
        cache.bytes()
    };
    // The value, the tenant, the key twice, and the author's bytes.
    let texts = 5_000 + 60 + 2 * 60 + 1;
    let least = weight("a", "");
    assert!((texts..texts + 1_000).contains(&least), "{least}");
    assert_eq!(weight(&"ä".repeat(128), "") - least, 255);
    assert_eq!(weight("a", &"ä".repeat(256)) - least, 512);
}
