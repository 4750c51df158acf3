//! A warm environment's memory: entries of many tenants, each tenant's valid at one revision.
//!
//! The rule that keeps it from being stale: an entry goes in only if the tenant's revision is still
//! the one at which its load began. A load that a change has overtaken may have read the value
//! before the change. Beside the newer revision it would be believed for ever.
//!
//! It is never mixed either: an entry from after the revision does not go in, and is not given to a
//! reader at an earlier one. Beside its neighbours it might show half a transaction.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{Weighter, sync::Cache as WeightedCache};

use crate::{
    clock::Timestamp,
    ledger::{Change, Head},
    model::{
        entry::{Entry, Revision},
        key::ConfigKey,
        tenant::TenantId,
        value::ConfigValue,
    },
};

/// What an entry weighs besides key and value: its own fields and the cache's, in bytes, rounded
/// up.
const ENTRY_OVERHEAD: usize = 352;
/// How many tenants' revisions are kept.
const MAX_TENANTS: usize = 10_000;

/// A live entry with its value at hand.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The entry.
    pub entry: Entry,
    /// Its value, from the ledger or a store.
    pub value: ConfigValue,
}

/// What is known of a key: its entry, or that it has none.
pub type Known = Option<Arc<Resolved>>;

/// At which revision a tenant's cached entries are valid.
#[derive(Clone, Debug)]
pub struct Validity {
    /// The head that they are valid at.
    pub head: Head,
    /// When that head was asked for.
    pub validated_at: Timestamp,
    generation: u64,
    sequence: u64,
}

/// Entries of many tenants, bounded by bytes.
#[derive(Debug)]
pub struct Cache {
    tenants: WeightedCache<TenantId, Arc<Mutex<Option<Validity>>>>,
    entries: WeightedCache<EntryId, Held, Bytes>,
    counter: AtomicU64,
}

/// The tenant is part of the key itself. The generation makes all entries of a dropped tenant
/// unreachable at once.
type EntryId = (TenantId, u64, Box<str>);
/// What is known, and the revision at which it was found.
type Held = (Revision, Known);

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<EntryId, Held> for Bytes {
    fn weight(&self, (tenant, _, key): &EntryId, (_, known): &Held) -> u64 {
        let held = known.as_ref().map_or(0, |resolved| {
            let entry = &resolved.entry;
            let comment = entry.comment.as_ref().map_or(0, |comment| comment.as_str().len());
            resolved.value.as_json().len() + entry.key.as_str().len() + entry.author.as_str().len() + comment
        });
        (ENTRY_OVERHEAD + tenant.as_str().len() + key.len() + held) as u64
    }
}

/// The moment at which a head was asked for, in the order of all such moments.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    sequence: u64,
    at: Timestamp,
}

/// What a freshly read head means for a tenant's cached entries.
#[derive(Debug)]
pub enum Observed {
    /// They are valid.
    Valid(Validity),
    /// They are valid at an older revision. The changes since then decide.
    Behind(Validity),
}

impl Cache {
    /// A cache of at most `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        let expected = usize::try_from(max_bytes / 1024).unwrap_or(usize::MAX).max(16);
        Self {
            tenants: WeightedCache::new(MAX_TENANTS),
            entries: WeightedCache::with_weighter(expected, max_bytes, Bytes),
            counter: AtomicU64::new(1),
        }
    }

    /// Notes that a head is about to be asked for.
    pub fn ask(&self, now: Timestamp) -> Asked {
        Asked { sequence: self.count(), at: now }
    }

    /// At which revision a tenant's entries were last known to be valid.
    pub fn validity(&self, tenant: &TenantId) -> Option<Validity> {
        self.tenants.get(tenant).and_then(|state| lock(&state).clone())
    }

    /// Takes note of a head.
    pub fn observe(&self, tenant: &TenantId, asked: Asked, head: &Head) -> Observed {
        let state = self.state(tenant);
        let mut state = lock(&state);
        let fresh = || Validity {
            head: head.clone(),
            validated_at: asked.at,
            generation: self.count(),
            sequence: self.count(),
        };
        let valid = match state.take() {
            // This head was asked for before the known one had arrived. It may be the older of the
            // two, and says nothing about now.
            Some(known) if asked.sequence < known.sequence && head.revision < known.head.revision => known,
            Some(known) if known.head == *head => {
                Validity { validated_at: known.validated_at.max(asked.at), sequence: self.count(), ..known }
            }
            Some(known) if known.head.epoch == head.epoch && known.head.revision < head.revision => {
                *state = Some(known.clone());
                return Observed::Behind(known);
            }
            // Unknown, gone back, or another life of the table.
            _ => fresh(),
        };
        *state = Some(valid.clone());
        Observed::Valid(valid)
    }

    /// Moves a tenant from the revision of `from` to `head`. If `changes` holds the change at that
    /// revision, unaltered, and every one since, only the keys that they name are dropped.
    /// Otherwise all of the tenant's entries are.
    pub fn advance(
        &self,
        tenant: &TenantId,
        from: &Validity,
        asked: Asked,
        head: &Head,
        changes: &[Change],
    ) -> Validity {
        let state = self.state(tenant);
        let mut state = lock(&state);
        if let Some(known) = state.as_ref()
            && known.sequence > from.sequence
            && known.head.epoch == head.epoch
            && known.head.revision >= head.revision
        {
            // Another read has moved the tenant at least as far meanwhile.
            return known.clone();
        }
        // Within a generation the tenant only moves forward. If it has moved beyond `from`, the
        // changes name more keys than needed.
        let same_line = state.as_ref().is_some_and(|known| known.generation == from.generation);
        let generation = match changes_since(from, head, changes).filter(|_| same_line) {
            Some(new) => {
                for changed in new.iter().flat_map(|change| &change.keys) {
                    self.entries.remove(&(tenant.clone(), from.generation, changed.key.as_str().into()));
                }
                from.generation
            }
            None => self.count(),
        };
        let valid = Validity { head: head.clone(), validated_at: asked.at, generation, sequence: self.count() };
        *state = Some(valid.clone());
        valid
    }

    /// What is known of a key at `valid`.
    pub fn get(&self, tenant: &TenantId, valid: &Validity, key: &ConfigKey) -> Option<Known> {
        let (found_at, known) = self.entries.get(&(tenant.clone(), valid.generation, key.as_str().into()))?;
        (found_at <= valid.head.revision).then_some(known)
    }

    /// Keeps what a load found that began at `valid`, unless the tenant has moved on since. An
    /// entry from after `valid` shows that, too. A deletion from after `valid` would as well, but
    /// as `None` it cannot be told from others, so it must not be passed in.
    pub fn insert(&self, tenant: &TenantId, valid: &Validity, key: &ConfigKey, known: Known) {
        let state = self.state(tenant);
        let state = lock(&state);
        let unmoved = state.as_ref().is_some_and(|now| now.generation == valid.generation && now.head == valid.head);
        let is_newer = known.as_ref().is_some_and(|resolved| resolved.entry.revision > valid.head.revision);
        if unmoved && !is_newer {
            let found = (valid.head.revision, known);
            self.entries.insert((tenant.clone(), valid.generation, key.as_str().into()), found);
        }
    }

    /// How many bytes the entries weigh now.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    fn state(&self, tenant: &TenantId) -> Arc<Mutex<Option<Validity>>> {
        let made: Result<_, std::convert::Infallible> = self.tenants.get_or_insert_with(tenant, || Ok(Arc::default()));
        match made {
            Ok(state) => state,
            Err(never) => match never {},
        }
    }

    fn count(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

impl Validity {
    /// How long ago the head was asked for.
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.validated_at)
    }
}

/// The changes after `from`, if `changes` leads from there to `head` without a gap and begins with
/// `from`'s own commit.
fn changes_since<'a>(from: &Validity, head: &Head, changes: &'a [Change]) -> Option<&'a [Change]> {
    let new = if from.head.revision == Revision::ZERO {
        changes
    } else {
        let (own, new) = changes.split_first()?;
        // A restored table that has grown past our revision again shows another commit here.
        if own.revision != from.head.revision || own.commit != from.head.commit {
            return None;
        }
        new
    };
    let mut expected = from.head.revision;
    let gapless = new.iter().all(|change| {
        expected = expected.next();
        change.revision == expected
    });
    (gapless && expected == head.revision).then_some(new)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
