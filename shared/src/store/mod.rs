//! The stores of values, the strategy of each tag, and the one registry of stores.
//!
//! A new store is one file here that implements [`ValueStore`], and one line in [`STORES`].

mod dynamodb;
mod inventory;
mod parameter_store;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
pub use inventory::{Inventory, InventoryPage, MAX_DESCRIBED};
pub use parameter_store::NotAKey;
use serde_json::Value;

use crate::{
    auth::TenantScope,
    aws::{AwsClients, AwsFailure, Service},
    model::{
        entry::{IntentId, Locator, TextKind, ValueFormat, Version},
        key::{ConfigKey, Tag},
        refusal::RefusalReason,
        routing::{Route, Strategy, TagRoutes},
        value::{ConfigValue, InvalidValue},
    },
};

/// Every store there is, by the name that routes use.
const STORES: &[(&str, OpenStore)] = &[("dynamodb", dynamodb::open), ("parameter-store", parameter_store::open)];

/// Makes the store of one route.
type OpenStore = fn(&StoreContext<'_>, &mut RouteOptions) -> Result<Arc<dyn ValueStore>, UnusableRoute>;

/// What a store is made from, besides its route.
#[derive(Debug)]
pub struct StoreContext<'a> {
    /// The AWS clients.
    pub clients: &'a AwsClients,
    /// How parameters are named and encrypted.
    pub parameters: &'a ParameterSettings,
}

/// The longest `PARAMETER_ROOT`, in bytes: two segments of 64.
pub const MAX_PARAMETER_ROOT_BYTES: usize = 2 * 65;

/// How parameters are named and encrypted.
#[derive(Clone, Debug)]
pub struct ParameterSettings {
    /// `PARAMETER_ROOT`: the path above all tenants' parameters; `/tenantry` by default.
    pub root: String,
    /// `PARAMETER_KMS_KEY_ID`: the KMS key for SecureString parameters; by default the account's
    /// `aws/ssm`, which every principal of the account may use. Only puts need it.
    pub kms_key: Option<String>,
}

/// What every store knows about values before it holds any.
pub trait ValueStore: Send + Sync + fmt::Debug {
    /// Whether the store can hold `value` under `key`. Checked before anything is written.
    fn check(&self, key: &ConfigKey, value: &ConfigValue) -> Result<(), ValueRefused>;

    /// The store outside the ledger and its strategy; none if the ledger itself is the store.
    fn external(&self) -> Option<(&dyn ExternalStore, Strategy)>;

    /// The format that a key's values get by an API write of `value`.
    fn format_of(&self, value: &ConfigValue) -> ValueFormat {
        if value.is_text() { ValueFormat::Text } else { ValueFormat::Json }
    }

    /// Whether values are secrets: never cached outside this service, never logged.
    fn is_secret(&self) -> bool;
}

/// A store outside the ledger. It counts the versions of each value itself, and never takes one
/// back.
#[async_trait]
pub trait ExternalStore: Send + Sync {
    /// Puts a value as the newest, marked with `id` and our `version`. It is one call, never
    /// repeated under the same id unless it certainly did nothing.
    async fn put(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        value: &ConfigValue,
        id: &IntentId,
        version: Version,
    ) -> Result<Placed, StoreError>;

    /// The locator of what was put under `id` as the store's own `version`; [`StoreError::Gone`] if
    /// it is not there any more.
    async fn locate(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        id: &IntentId,
        version: u64,
    ) -> Result<Locator, StoreError>;

    /// The values at these places, in the same order; none if the store no longer has exactly that
    /// version.
    async fn get(
        &self,
        scope: &TenantScope,
        places: &[(&ConfigKey, Locator, &TextKind)],
    ) -> Result<Vec<Option<ConfigValue>>, StoreError>;

    /// Earlier values of one key, in the order of `places`; none if the store no longer has exactly
    /// that version.
    async fn get_history(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        places: &[(Locator, &TextKind)],
    ) -> Result<Vec<Option<ConfigValue>>, StoreError>;

    /// Removes the key's value with all its versions. It may be gone already.
    async fn remove(&self, scope: &TenantScope, key: &ConfigKey) -> Result<(), StoreError>;

    /// All versions that the store keeps, the oldest first; their text only `with_values`.
    async fn versions(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        with_values: bool,
    ) -> Result<Vec<StoredVersion>, StoreError>;

    /// Why a put would be refused because of what lies there now, if that can be seen.
    async fn in_the_way(&self, scope: &TenantScope, key: &ConfigKey) -> Result<Option<RefusalReason>, StoreError>;

    /// How to read a text that others wrote under a key with values of this format, and how it is
    /// written. A text that does not fit the format is a string.
    fn interpret(&self, text: &StoredText, format: ValueFormat) -> (ConfigValue, TextKind);
}

/// One version of a value, as its store has it.
#[derive(Debug)]
pub struct StoredVersion {
    /// Where it lies.
    pub place: Locator,
    /// The id and our version that it was put with; none if it bears no mark of ours. A mark proves
    /// nothing, because anybody may have copied it.
    pub mark: Option<(IntentId, Version)>,
    /// Its text.
    pub text: StoredText,
    /// Whether the store keeps it as a secret.
    pub is_secret: bool,
    /// Whether it is of the type that the route's puts have. A put does not fit on another type.
    pub fits: bool,
}

#[cfg(test)]
impl StoredVersion {
    /// A version that bears no mark.
    pub(crate) fn unmarked(place: Locator) -> Self {
        Self { place, mark: None, text: StoredText(String::new()), is_secret: false, fits: true }
    }
}

/// A text from a store, which may be a secret.
pub struct StoredText(String);

impl fmt::Debug for StoredText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredText(…)")
    }
}

/// What a put came to.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The store's own version of the value.
    pub version: u64,
    /// How the value is written there.
    pub kind: TextKind,
}

/// Why a store does not take a value. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ValueRefused {
    /// Too large.
    #[error(
        "the value takes {bytes} bytes as it would be stored; {store} keeps at most {limit} bytes a value under the tag {tag}"
    )]
    TooLarge {
        /// The store, for people.
        store: &'static str,
        /// The tag.
        tag: String,
        /// The value's size in the store, in bytes.
        bytes: usize,
        /// The most that the store takes, in bytes.
        limit: usize,
    },
}

/// Why a store outside the ledger could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The service failed.
    #[error(transparent)]
    Aws(#[from] AwsFailure),
    /// The service refuses the value until somebody has changed something. Nothing was written.
    #[error("{service} does not take the value: {advice}", advice = .reason.advice())]
    Refused {
        /// The service.
        service: Service,
        /// Why.
        reason: RefusalReason,
    },
    /// What was put is not there any more.
    #[error("the store does not have the value any more")]
    Gone,
    /// The text does not fit its record.
    #[error("the stored text is not of the recorded kind")]
    Unreadable(#[source] InvalidValue),
}

impl StoreError {
    /// Whether the call that failed certainly did nothing.
    pub fn did_nothing(&self) -> bool {
        match self {
            Self::Aws(failure) => failure.kind.did_nothing(),
            Self::Refused { .. } => true,
            Self::Gone | Self::Unreadable(_) => false,
        }
    }
}

/// A route that makes no usable store. Found at start.
#[derive(Debug, thiserror::Error)]
#[error("the route of the tag {tag}: {rule}")]
pub struct UnusableRoute {
    tag: Tag,
    rule: String,
}

/// A route's own settings. They are taken one by one, so that none is left unread.
#[derive(Debug)]
pub struct RouteOptions {
    tag: Tag,
    strategy: Option<Strategy>,
    rest: BTreeMap<String, Value>,
}

impl RouteOptions {
    fn new(tag: &Tag, route: &Route) -> Self {
        Self { tag: tag.clone(), strategy: route.strategy, rest: route.options.clone() }
    }

    fn unusable(&self, rule: impl Into<String>) -> UnusableRoute {
        UnusableRoute { tag: self.tag.clone(), rule: rule.into() }
    }

    /// Takes an option that is one of `allowed`.
    fn take(&mut self, name: &str, allowed: &[&'static str]) -> Result<Option<&'static str>, UnusableRoute> {
        let Some(value) = self.rest.remove(name) else { return Ok(None) };
        let found = value.as_str().and_then(|text| allowed.iter().find(|one| **one == text));
        match found {
            Some(found) => Ok(Some(found)),
            None => Err(self.unusable(format!("{name} is {value}; it must be one of {}", allowed.join(", ")))),
        }
    }

    /// Refuses options that were not taken.
    fn finish(&self) -> Result<(), UnusableRoute> {
        match self.rest.keys().next() {
            Some(name) => Err(self.unusable(format!("the store knows no option {name:?}"))),
            None => Ok(()),
        }
    }
}

/// The store of each tag.
#[derive(Clone, Debug)]
pub struct Stores(Arc<BTreeMap<String, Arc<dyn ValueStore>>>);

impl Stores {
    /// Opens the store of every route, or says which route is unusable.
    pub fn open(routes: &TagRoutes, context: &StoreContext<'_>) -> Result<Self, UnusableRoute> {
        let opened = routes.iter().map(|(tag, route)| {
            let mut options = RouteOptions::new(tag, route);
            let Some((_, open)) = STORES.iter().find(|(name, _)| *name == route.store) else {
                let known: Vec<_> = STORES.iter().map(|(name, _)| *name).collect();
                return Err(options.unusable(format!(
                    "there is no store {:?}; the stores are {}",
                    route.store,
                    known.join(", ")
                )));
            };
            Ok((tag.to_string(), open(context, &mut options)?))
        });
        Ok(Self(Arc::new(opened.collect::<Result<_, _>>()?)))
    }

    /// The store of a key's tag.
    pub fn of(&self, key: &ConfigKey) -> &dyn ValueStore {
        // Keys are parsed with the same routes that the stores were opened from.
        &*self.0[key.tag()]
    }
}

#[cfg(test)]
mod tests;
