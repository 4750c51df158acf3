//! How much fits into one answer.

use std::{collections::HashMap, sync::Arc};

use crate::{
    cache::Known,
    model::{
        key::ConfigKey,
        value::{ConfigValue, answer_bytes},
    },
    read::BatchFound,
};

/// The most bytes of entries in one answer, as [`answer_bytes`] counts them. Lambda's limit is 6 MB
/// with everything around them.
pub(crate) const MAX_ANSWER_BYTES: usize = 4_000_000;

/// How many entries with these values fit into an answer, from the first on; at least one, if there
/// is one.
///
/// The ledger stops at the same limit, but it does not count the values in other stores, and goes
/// one entry beyond it.
pub(crate) fn fitting<'a>(values: impl ExactSizeIterator<Item = Option<&'a ConfigValue>>) -> usize {
    let (at_least, mut bytes) = (values.len().min(1), 0);
    let fits = |size: &usize| {
        bytes += size;
        bytes <= MAX_ANSWER_BYTES
    };
    values.map(answer_bytes).take_while(fits).count().max(at_least)
}

/// As many of the known entries as fit into an answer, in the order of the request; at least one.
pub(crate) fn fit(
    keys: &[ConfigKey],
    known: &HashMap<&ConfigKey, Known>,
    is_absent: impl Fn(&ConfigKey) -> bool,
) -> BatchFound {
    let mut batch =
        BatchFound { found: Vec::new(), missing: Vec::new(), unprocessed: Vec::new(), unavailable: Vec::new() };
    let mut bytes = 0;
    for key in keys {
        match known.get(key) {
            Some(Some(resolved)) => {
                bytes += answer_bytes(Some(&resolved.value));
                if bytes > MAX_ANSWER_BYTES && !batch.found.is_empty() {
                    batch.unprocessed.push(key.clone());
                } else {
                    batch.found.push(Arc::clone(resolved));
                }
            }
            Some(None) => batch.missing.push(key.clone()),
            None if is_absent(key) => batch.unavailable.push(key.clone()),
            None => batch.unprocessed.push(key.clone()),
        }
    }
    batch
}
