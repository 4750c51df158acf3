//! The ledger itself as a store: the value lies in the entry, one transaction writes it, and
//! nothing has to be replicated.

use std::sync::Arc;

use super::{ExternalStore, RouteOptions, StoreContext, UnusableRoute, ValueRefused, ValueStore};
use crate::model::{key::ConfigKey, routing::Strategy, value::ConfigValue};

/// The largest value, in bytes of JSON. An item may have 400 KB (DynamoDB's limit), of which key,
/// author and counters need some.
const MAX_VALUE_BYTES: usize = 256 * 1024;

#[derive(Debug)]
struct DynamoDb;

pub(super) fn open(_: &StoreContext<'_>, options: &mut RouteOptions) -> Result<Arc<dyn ValueStore>, UnusableRoute> {
    if let Some(strategy) = options.strategy {
        return Err(options.unusable(format!(
            "the store dynamodb takes no strategy, since its values are in the ledger; leave {strategy} out"
        )));
    }
    options.finish()?;
    Ok(Arc::new(DynamoDb))
}

impl ValueStore for DynamoDb {
    fn check(&self, key: &ConfigKey, value: &ConfigValue) -> Result<(), ValueRefused> {
        let bytes = value.as_json().len();
        if bytes <= MAX_VALUE_BYTES {
            return Ok(());
        }
        Err(ValueRefused::TooLarge { store: "DynamoDB", tag: key.tag().to_owned(), bytes, limit: MAX_VALUE_BYTES })
    }

    fn external(&self) -> Option<(&dyn ExternalStore, Strategy)> {
        None
    }

    fn is_secret(&self) -> bool {
        false
    }
}
