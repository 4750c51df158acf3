//! The values of entries, from the ledger or from the store of their tag.

use std::{collections::HashMap, fmt, time::Duration};

use tracing::error;

use crate::{
    auth::TenantScope,
    backend::Backend,
    backoff::Backoff,
    ledger::{Ledger, LedgerError},
    model::{
        entry::{Entry, Locator, TextKind, Version},
        key::ConfigKey,
        value::ConfigValue,
    },
    read::ReadError,
    store::StoreError,
};

/// How often a value is asked for that its store does not have. A newer version may have been
/// committed meanwhile, and its commit comes before the old value goes. Further attempts would only
/// cost calls.
pub(crate) const MAX_ATTEMPTS: usize = 3;
/// The wait between two attempts, for a store whose reads lag behind its writes.
const RETRY_BACKOFF: Backoff = Backoff::up_to(Duration::from_millis(40));

/// Why a committed value is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// Its store does not have it any more.
    Gone,
    /// The route of its tag leads to another store.
    RouteChanged,
    /// It is a secret, and the caller may not read secrets.
    Withheld,
}

/// The value of a version is not kept any more.
#[derive(Debug, thiserror::Error)]
pub struct ValueGone {
    /// The key.
    pub key: ConfigKey,
    /// The version.
    pub version: Version,
    /// The later deletion that took the value along, if there is one.
    pub deletion: Option<Version>,
}

impl fmt::Display for ValueGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, version, deletion } = self;
        write!(f, "the value of version {version} of {key} is not kept any more")?;
        match deletion {
            Some(deletion) => {
                write!(f, ": it lay in its store alone, from which version {deletion}, a delete, has removed all")
            }
            None => Ok(()),
        }
    }
}

impl ValueGone {
    /// Describes that the value of a version is gone, and whether a deletion took it along.
    pub(crate) async fn of(
        ledger: &Ledger,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Self, LedgerError> {
        let current = ledger.current(scope, key).await?;
        let deletion = current.and_then(|current| current.deleted).filter(|deletion| *deletion > version);
        Ok(Self { key: key.clone(), version, deletion })
    }
}

impl Backend {
    /// Whether values under this key's tag are secrets, by the routes. A text that is no key has
    /// none.
    pub fn is_secret(&self, key: &str) -> bool {
        ConfigKey::parse(key, &self.routes).is_ok_and(|key| self.stores.of(&key).is_secret())
    }

    /// Checks that the scope permits to read the value of `key`.
    pub fn permit(&self, scope: &TenantScope, key: &ConfigKey) -> Result<(), ReadError> {
        if self.is_withheld(scope, key) { Err(ReadError::Secret(key.clone())) } else { Ok(()) }
    }

    /// Whether the scope may not read the value of `key`.
    pub(crate) fn is_withheld(&self, scope: &TenantScope, key: &ConfigKey) -> bool {
        !scope.may_read_secrets() && self.stores.of(key).is_secret()
    }

    /// Whether the entry's value is in a store that its tag's route no longer leads to.
    pub(crate) fn is_off_route(&self, entry: &Entry) -> bool {
        entry.place().is_some() && self.stores.of(&entry.key).external().is_none()
    }

    /// The values of live entries of different keys, in the same order.
    pub(crate) async fn resolve(
        &self,
        scope: &TenantScope,
        entries: Vec<Entry>,
    ) -> Result<Vec<(Entry, Result<ConfigValue, Absent>)>, StoreError> {
        let mut elsewhere: HashMap<&str, Vec<(&ConfigKey, Locator, &TextKind)>> = HashMap::new();
        for entry in entries.iter().filter(|entry| !self.is_withheld(scope, &entry.key)) {
            if let Some((locator, kind)) = entry.place() {
                elsewhere.entry(entry.key.tag()).or_default().push((&entry.key, locator, kind));
            }
        }
        let mut fetched: HashMap<ConfigKey, ConfigValue> = HashMap::new();
        for places in elsewhere.into_values() {
            let Some((first, ..)) = places.first() else { continue };
            let Some((external, _)) = self.stores.of(first).external() else { continue };
            let values = external.get(scope, &places).await?;
            fetched.extend(places.iter().zip(values).filter_map(|((key, ..), value)| Some(((*key).clone(), value?))));
        }
        let resolved = entries.into_iter().map(|entry| {
            // Even if the ledger has the value, from before its tag came to hold secrets.
            if self.is_withheld(scope, &entry.key) {
                return (entry, Err(Absent::Withheld));
            }
            let absent = if self.is_off_route(&entry) { Absent::RouteChanged } else { Absent::Gone };
            let value = entry.value().cloned().or_else(|| fetched.remove(&entry.key)).ok_or(absent);
            (entry, value)
        });
        Ok(resolved.collect())
    }
}

/// Gives the store time after an attempt that found nothing.
pub(crate) async fn pause_before(attempt: usize) {
    if attempt > 0 {
        let mut backoff = RETRY_BACKOFF;
        backoff.wait().await;
    }
}

/// Logs the values that an answer has to do without.
pub(crate) fn report(scope: &TenantScope, absent: &[(ConfigKey, Absent)]) {
    for (key, why) in absent.iter().filter(|(_, why)| *why != Absent::Withheld) {
        error!(tenant.id = %scope.tenant(), config.key = %key, ?why, "a committed value is not in its store");
    }
}
