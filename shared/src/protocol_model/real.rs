//! The model's small state in the code's own types.

use std::{collections::HashMap, sync::LazyLock};

use super::{
    Defect,
    world::{Held, Ids, Item, Place, Stored, World, bit},
};
use crate::{
    clock::Timestamp,
    import::{Owner, Seen, credible, done_with, is_unmoved, is_value_lost, judge, needs_second_read, owner_of},
    ledger::{Current, Found, ReplicaState},
    model::{
        entry::{
            Author, CommitId, Entry, Held as RealHeld, IntentId, Locator, Revision, State, TextKind, Trimmed, Version,
        },
        key::ConfigKey,
        routing::TagRoutes,
        value::ConfigValue,
    },
    store::StoredVersion,
};

static KEY: LazyLock<ConfigKey> =
    LazyLock::new(|| ConfigKey::parse("param_config_k", &TagRoutes::default()).expect("a key"));

/// One tick of the model's clock: more than the clocks' skew, so few that all of them are within a
/// put's delay.
const TICK: u64 = 5_000;
/// When a life of the model begins, and how much later it is after the long pause.
const BEGIN: u64 = 10_000_000;
/// How long after that it is now: so long that what was given out at the beginning is abandoned,
/// and may still take effect.
const NOW: u64 = 800_000;

/// How the model's numbers look to the code at one moment.
#[derive(Clone, Copy)]
pub(super) struct Lens {
    has_paused: bool,
    old: u8,
    ancient: u8,
}

impl Lens {
    pub(super) fn of(world: &World) -> Self {
        Self { has_paused: world.has_paused, old: world.old, ancient: world.ancient }
    }

    fn begin(self) -> u64 {
        if self.has_paused { 2 * BEGIN } else { BEGIN }
    }

    pub(super) fn now(self) -> Timestamp {
        Timestamp::from_millis(self.begin() + NOW)
    }

    /// Ticks behind [`PAUSE`](super::PAUSE) are those after the long pause.
    fn time(at: u16) -> Timestamp {
        let (pauses, ticks) = (u64::from(at / super::PAUSE), u64::from(at % super::PAUSE));
        Timestamp::from_millis((pauses + 1) * BEGIN + ticks * TICK)
    }

    pub(super) fn id(self, id: u8) -> IntentId {
        let given_out_at = match id {
            _ if id < self.ancient => BEGIN,
            _ if id < self.old => self.begin(),
            _ => self.begin() + NOW,
        };
        IntentId::from_stored(&format!("{given_out_at:011x}-{id}"))
    }

    pub(super) fn ids(self, ids: Ids) -> Vec<IntentId> {
        (0..16).filter(|id| ids & bit(*id) != 0).map(|id| self.id(id)).collect()
    }

    pub(super) fn bits(ids: &[IntentId]) -> Ids {
        let number = |id: &IntentId| id.as_str().split('-').next_back().and_then(|number| number.parse().ok());
        ids.iter().filter_map(number).fold(0, |all, id: u8| all | bit(id))
    }

    fn locator(place: Place) -> Locator {
        Locator { version: place.version.into(), modified_at: Self::time(place.at) }
    }

    pub(super) fn current(self, item: &Item) -> Current {
        let version = |version: u8| (version > 0).then(|| Version::new(version.into()));
        let entry = |version: u8, superseded| Entry {
            key: KEY.clone(),
            version: Version::new(version.into()),
            revision: Revision::ZERO,
            author: item.entry.filter(|entry| !entry.is_external).map_or_else(Author::external, |_| Author::new("a")),
            comment: None,
            modified_at: Self::time(item.entry.map_or(0, |entry| entry.modified_at)),
            commit: CommitId::from_stored(""),
            state: match item.entry.map(|entry| entry.held) {
                Some(Held::Here(_)) => State::Live(RealHeld::Value(ConfigValue::from_text("v"))),
                Some(Held::Elsewhere(place, _)) => {
                    State::Live(RealHeld::Elsewhere(Self::locator(place), TextKind::Text(Trimmed::default())))
                }
                Some(Held::Deleted) | None => State::Deleted,
            },
            superseded,
            refusal: None,
        };
        let mut current = Current::default();
        if item.latest > 0 {
            let found = Found {
                at: Timestamp::from_millis(0),
                place: None,
                mark: None,
                superseded: true,
                fits: true,
                is_anew: false,
                known: ReplicaState::default(),
            };
            current = current.with_found(entry(item.latest, true), &found);
        }
        current.entry = item.entry.map(|one| entry(one.version, false));
        current.replica = ReplicaState {
            replicated: version(item.replicated),
            store_version: version(item.store_version).map(Version::get),
            intents: self.ids(item.intents),
            removing_until: item
                .removing
                .map(|(id, is_over)| Timestamp::from_millis(if is_over { 0 } else { u64::MAX / 2 } + u64::from(id))),
            expired_intents: self.ids(item.expired_intents),
            imported_through: item.imported_through.map(Self::locator),
            pending: item.pending,
            ..ReplicaState::default()
        };
        current
    }

    fn stored(self, stored: &[Stored]) -> Vec<StoredVersion> {
        let one = |one: &Stored| StoredVersion {
            mark: one.mark.map(|(id, version)| (self.id(id), Version::new(version.into()))),
            ..StoredVersion::unmarked(Self::locator(one.place))
        };
        stored.iter().map(one).collect()
    }

    /// Whether an owner of a version has to be read.
    pub(super) fn has_credible(self, item: &Item, stored: &[Stored]) -> bool {
        !credible(&self.current(item), &self.stored(stored)).is_empty()
    }

    /// `Importer::owners` and `judge`.
    pub(super) fn judge(self, world: &World, item: &Item, stored: &[Stored]) -> Seen {
        let (current, real) = (self.current(item), self.stored(stored));
        let mut owners: HashMap<Locator, Owner> = HashMap::new();
        for marked in credible(&current, &real) {
            let version = u8::try_from(marked.version.get()).unwrap_or_default();
            if let Some(owner) = owner_of(&current, marked, &self.ids(world.intent_ids(version)), self.now()) {
                owners.insert(marked.place, owner);
            }
        }
        if world.has(Defect::CopiesBelieved) {
            let mut by_id = HashMap::new();
            for one in stored {
                let Some((id, _)) = one.mark else { continue };
                let place = Self::locator(one.place);
                let owner = *by_id.entry(id).or_insert_with(|| owners.get(&place).copied());
                if let Some(owner) = owner {
                    owners.insert(place, owner);
                }
            }
        }
        judge(&current, &real, &owners)
    }

    /// `needs_second_read`.
    pub(super) fn needs_second_read(self, item: &Item, stored: &[Stored], seen: &Seen) -> bool {
        needs_second_read(&self.current(item), &self.stored(stored), seen)
    }

    /// `is_value_lost`.
    pub(super) fn is_value_lost(self, item: &Item, stored: &[Stored]) -> bool {
        is_value_lost(&self.current(item), &self.stored(stored))
    }

    pub(super) fn place(stored: &[Stored], locator: Locator) -> Option<Stored> {
        stored.iter().find(|one| Self::locator(one.place) == locator).copied()
    }

    /// `done_with`.
    pub(super) fn done_with(self, item: &Item, stored: &[Stored]) -> Ids {
        Self::bits(&done_with(&self.current(item).replica, &self.stored(stored), self.now()))
    }

    /// `is_unmoved`.
    pub(super) fn is_unmoved(self, before: &Item, after: &Item) -> bool {
        is_unmoved(&self.current(before), &self.current(after))
    }
}
