//! What one watcher was told, held against the tenant's change log and its list.
//!
//! What can be seen from the messages alone is checked as they come: that revisions only go on,
//! without gap or overlap, and that nothing is told of another tenant, of keys that were not asked
//! for, or of secrets to who may not read them. The rest is checked at the end.

use std::collections::BTreeMap;

use config_client::{Entry, Event as ClientEvent, Operation, Value, View};
use config_proto::v1::{self, watch_config_response::Event};

use super::deeds::names;

/// A key's version as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) version: u64,
    pub(super) revision: u64,
    pub(super) value: Shown,
}

/// A value, or why it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Present(String),
    Withheld,
    Unavailable,
}

/// What a commit did to a key: key, version, operation.
pub(super) type Done = (String, u64, &'static str);

/// The keys and prefixes that a watcher asks for, and whether it may read secrets.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) keys: Vec<String>,
    pub(super) prefixes: Vec<String>,
    pub(super) may_read_secrets: bool,
}

impl Part {
    pub(super) fn is_all(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }

    fn has(&self, key: &str) -> bool {
        self.is_all()
            || self.keys.iter().any(|one| one == key)
            || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn hides(&self, key: &str) -> bool {
        !self.may_read_secrets && key.starts_with("secret_config_")
    }
}

/// A step of a watcher, from one revision to another.
#[derive(Clone, Debug)]
enum Step {
    /// All there is, as versions and the revisions that wrote them.
    Snapshot(u64, BTreeMap<String, (u64, u64)>),
    /// One commit, after others of which nothing is watched.
    Commit(u64, u64, Vec<Done>),
    /// Several, the first of which is named, after others of which nothing is watched.
    Skipped(u64, u64, u64, Vec<Done>),
    /// Nothing of what lies between is watched.
    Quiet(u64, u64),
}

/// What is collected of an update that comes in parts.
type Parts = (Vec<v1::Entry>, Vec<v1::KeyChange>);

/// What a watcher was told.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) tenant: String,
    pub(super) part: Part,
    /// Which watcher this is, for messages.
    who: String,
    /// All up to there was told.
    pub(super) at: Option<u64>,
    state: BTreeMap<String, Seen>,
    steps: Vec<Step>,
    /// The values of versions.
    values: BTreeMap<(String, u64), String>,
    parts: Parts,
    pub(super) connections: usize,
}

/// What a tenant really is.
#[derive(Debug)]
pub(super) struct Truth {
    /// The commits, from the first revision on.
    pub(super) log: Vec<Vec<Done>>,
    /// The list.
    pub(super) entries: BTreeMap<String, Seen>,
    /// The values that writers were told to have written, as far as they were told.
    pub(super) written: BTreeMap<(String, u64), String>,
}

impl Truth {
    pub(super) fn head(&self) -> u64 {
        self.log.len() as u64
    }

    /// The commits after `from`, up to `to`, with their revisions.
    fn commits(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &Vec<Done>)> {
        (1..).zip(&self.log).filter(move |(revision, _)| *revision > from && *revision <= to)
    }

    /// What the commits after `from`, up to `to`, did last to each key.
    fn last(&self, from: u64, to: u64, part: &Part) -> BTreeMap<&str, (u64, u64, &'static str)> {
        let mut last = BTreeMap::new();
        for (revision, done) in self.commits(from, to) {
            let current = done.iter().filter(|(key, _, operation)| *operation != "supersede" && part.has(key));
            last.extend(current.map(|(key, version, operation)| (key.as_str(), (*version, revision, *operation))));
        }
        last
    }
}

impl Account {
    pub(super) fn new(who: String, tenant: String, part: Part) -> Self {
        let (state, steps, values, parts) = Default::default();
        Self { tenant, part, who, at: None, state, steps, values, parts, connections: 0 }
    }

    /// Forgets parts: a new connection begins.
    pub(super) fn connected(&mut self) {
        self.parts = Parts::default();
        self.connections += 1;
    }

    /// How many revisions were named as skipped, and how many snapshots came.
    pub(super) fn counts(&self) -> (u64, usize) {
        let skipped =
            self.steps.iter().map(|step| if let Step::Skipped(_, first, to, _) = step { to - first } else { 0 });
        (skipped.sum(), self.steps.iter().filter(|step| matches!(step, Step::Snapshot(..))).count())
    }

    /// Takes a message of the interface.
    pub(super) fn record(&mut self, event: Event, position: Option<&v1::Position>) {
        let who = &self.who;
        let at = position.map(|position| position.revision);
        match event {
            Event::Snapshot(part) => {
                assert!(self.parts.1.is_empty(), "{who}: a snapshot within an update");
                assert_eq!(at, (!part.more).then_some(part.revision), "{who}: the position of a snapshot");
                self.parts.0.extend(part.entries);
                if !part.more {
                    let entries = std::mem::take(&mut self.parts.0);
                    self.snapshot(part.revision, entries.into_iter().map(|entry| (entry.key.clone(), entry.into())));
                }
            }
            Event::Update(part) => {
                assert!(self.parts.0.is_empty(), "{who}: an update within a snapshot");
                assert_eq!(at, (!part.more).then_some(part.revision), "{who}: the position of an update");
                self.parts.1.extend(part.changes);
                if !part.more {
                    let changes = std::mem::take(&mut self.parts.1);
                    assert_eq!(Some(part.previous_revision), self.at, "{who}: before {}", part.revision);
                    let skipped = part.skipped.map(|skipped| (skipped.first, skipped.last));
                    self.update(part.revision, changes.into_iter().map(done).collect(), skipped);
                }
            }
            Event::Heartbeat(beat) => {
                assert_eq!(at, Some(beat.revision), "{who}: the position of a heartbeat");
                self.quiet(beat.revision);
            }
        }
    }

    /// Takes an event of the client.
    pub(super) fn take(&mut self, event: ClientEvent) {
        let at = event.position().revision;
        match event {
            ClientEvent::Snapshot(snapshot) => self.snapshot(at, snapshot.entries.iter().map(|entry| seen(entry))),
            ClientEvent::Update(update) => {
                let skipped = update.skipped.map(|skipped| (*skipped.start(), *skipped.end()));
                let changes = update.changes.into_iter().map(|change| match change.operation {
                    Operation::Put(entry) => ((change.key, change.version, "put"), Some(seen(&entry).1)),
                    Operation::Delete => ((change.key, change.version, "delete"), None),
                    _ => ((change.key, change.version, "supersede"), None),
                });
                self.update(at, changes.collect(), skipped);
            }
            ClientEvent::Heartbeat(_) => self.quiet(at),
            other => panic!("{}: {other:?}", self.who),
        }
    }

    /// Takes what a live configuration shows, which must not go back.
    pub(super) fn record_view(&mut self, view: &View) {
        self.snapshot(view.revision(), view.iter().map(|entry| seen(entry)));
    }

    fn snapshot(&mut self, revision: u64, entries: impl Iterator<Item = (String, Seen)>) {
        assert!(self.at.is_none_or(|at| at <= revision), "{}: back from {:?} to {revision}", self.who, self.at);
        self.state.clear();
        for (key, seen) in entries {
            assert!(seen.revision <= revision, "{}: {key} of {} in {revision}", self.who, seen.revision);
            self.see(&key, &seen);
            assert!(self.state.insert(key, seen).is_none(), "{}: a key comes twice", self.who);
        }
        let versions = self.state.iter().map(|(key, seen)| (key.clone(), (seen.version, seen.revision)));
        self.steps.push(Step::Snapshot(revision, versions.collect()));
        self.at = Some(revision);
    }

    fn update(&mut self, revision: u64, changes: Vec<(Done, Option<Seen>)>, skipped: Option<(u64, u64)>) {
        let who = &self.who;
        let previous = self.at.unwrap_or_else(|| panic!("{who}: an update to {revision} without a snapshot"));
        assert!(revision > previous, "{who}: {revision} after {previous}");
        let first = skipped.map_or(revision, |(first, _)| first);
        assert!(first > previous, "{who}: {first} to {revision} after {previous}");
        assert!(!self.part.is_all() || first == previous + 1, "{who}: from {previous} to {first}");
        if let Some((first, last)) = skipped {
            assert!(last == revision - 1 && first <= last, "{who}: {first} to {last} skipped before {revision}");
        }
        let mut all = Vec::with_capacity(changes.len());
        for ((key, version, operation), seen) in changes {
            assert_eq!(operation == "put", seen.is_some(), "{}: {operation} of {key}", self.who);
            match seen {
                Some(seen) => {
                    assert_eq!(version, seen.version, "{}: {key}", self.who);
                    assert!((first..=revision).contains(&seen.revision), "{}: {key}: {seen:?}", self.who);
                    self.see(&key, &seen);
                    self.state.insert(key.clone(), seen);
                }
                None if operation == "delete" => drop(self.state.remove(&key)),
                None => {}
            }
            assert!(self.part.has(&key), "{}: {key} was not asked for", self.who);
            all.push((key, version, operation));
        }
        all.sort_unstable();
        self.steps.push(match skipped {
            None => Step::Commit(previous, revision, all),
            Some((first, _)) => Step::Skipped(previous, first, revision, all),
        });
        self.at = Some(revision);
    }

    fn quiet(&mut self, revision: u64) {
        let at = self.at.unwrap_or_else(|| panic!("{}: a heartbeat before a snapshot", self.who));
        assert!(revision >= at, "{}: back from {at} to {revision}", self.who);
        assert!(!self.part.is_all() || revision == at, "{}: {at} to {revision} was not told", self.who);
        if revision > at {
            self.steps.push(Step::Quiet(at, revision));
            self.at = Some(revision);
        }
    }

    /// Looks at a key's version that was told.
    fn see(&mut self, key: &str, seen: &Seen) {
        let who = &self.who;
        assert!(self.part.has(key), "{who}: {key} was not asked for");
        assert_eq!(self.part.hides(key), seen.value == Shown::Withheld, "{who}: {key}: {:?}", seen.value);
        if let Shown::Present(text) = &seen.value {
            assert!(names(text, &self.tenant, key), "{who}: {key} has another's value: {text:.80}");
            let of_version = self.values.entry((key.to_owned(), seen.version)).or_insert_with(|| text.clone());
            assert_eq!(of_version, text, "{who}: two values of {key}, version {}", seen.version);
        }
    }

    /// Holds everything against what is true.
    pub(super) fn check(&self, truth: &Truth) {
        let (who, part) = (&self.who, &self.part);
        let none_between = |from: u64, to: u64| {
            let told = truth.commits(from, to).find(|(_, done)| done.iter().any(|(key, ..)| part.has(key)));
            assert!(told.is_none(), "{who}: {told:?} was not told between {from} and {to}");
        };
        for step in &self.steps {
            match step {
                Step::Snapshot(revision, versions) => {
                    let mut last = truth.last(0, *revision, part);
                    last.retain(|_, (_, _, operation)| *operation == "put");
                    let told =
                        versions.iter().map(|(key, (version, revision))| (key.as_str(), (*version, *revision, "put")));
                    assert_eq!(told.collect::<BTreeMap<_, _>>(), last, "{who}: the snapshot of {revision}");
                }
                Step::Commit(previous, revision, all) => {
                    none_between(*previous, revision - 1);
                    let (_, commit) = truth.commits(revision - 1, *revision).next().expect("it is in the log");
                    let watched: Vec<_> = commit.iter().filter(|(key, ..)| part.has(key)).cloned().collect();
                    assert_eq!(*all, watched, "{who}: revision {revision}");
                }
                Step::Skipped(previous, first, revision, all) => {
                    none_between(*previous, first - 1);
                    let last = truth.last(first - 1, *revision, part);
                    let last =
                        last.into_iter().map(|(key, (version, _, operation))| (key.to_owned(), version, operation));
                    assert_eq!(*all, last.collect::<Vec<_>>(), "{who}: skipped from {first} to {revision}");
                }
                Step::Quiet(from, to) => none_between(*from, *to),
            }
        }
        for (version, text) in &self.values {
            let written = truth.written.get(version).unwrap_or(text);
            assert_eq!(text, written, "{who}: {version:?}");
        }
        let shown = |(key, seen): (&String, &Seen)| {
            let value = if part.hides(key) { Shown::Withheld } else { seen.value.clone() };
            (key.clone(), Seen { value, ..seen.clone() })
        };
        let expected = truth.entries.iter().filter(|(key, _)| part.has(key)).map(shown);
        assert_eq!(self.state, expected.collect(), "{who}: its state at the end");
        assert_eq!(self.at, Some(truth.head()), "{who}: its revision at the end");
    }
}

impl From<v1::Entry> for Seen {
    fn from(entry: v1::Entry) -> Self {
        let value = match entry.value_status() {
            v1::ValueStatus::Present => Shown::Present(text(&entry.value)),
            v1::ValueStatus::Withheld => Shown::Withheld,
            _ => Shown::Unavailable,
        };
        assert!(
            matches!(value, Shown::Present(_)) || entry.value.is_empty(),
            "a value that is not there: {}",
            entry.key
        );
        Self { version: entry.version, revision: entry.revision, value }
    }
}

fn text(json: &[u8]) -> String {
    serde_json::from_slice(json).expect("all values are texts")
}

fn done(change: v1::KeyChange) -> (Done, Option<Seen>) {
    let operation = match change.operation() {
        v1::Operation::Put => "put",
        v1::Operation::Delete => "delete",
        v1::Operation::Supersede => "supersede",
        // Nothing of an operator's is in the way here.
        v1::Operation::Refuse | v1::Operation::Accept => panic!("{}: its store refuses nothing", change.key),
        v1::Operation::Unspecified => panic!("{}: nothing was done", change.key),
    };
    ((change.key, change.version, operation), change.entry.map(Into::into))
}

fn seen(entry: &Entry) -> (String, Seen) {
    let value = match &entry.value {
        Value::Present(json) => Shown::Present(text(json)),
        Value::Withheld => Shown::Withheld,
        _ => Shown::Unavailable,
    };
    (entry.key.clone(), Seen { version: entry.version, revision: entry.revision, value })
}
