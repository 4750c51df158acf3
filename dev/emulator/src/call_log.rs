//! What was called, and how often: tests count the AWS calls a request costs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Service;

/// Counts every call by service and operation, the moment it has been told apart; calls that an
/// injected fault fails are counted too. An operation name that no AWS service could have is
/// counted as `Unknown`.
#[derive(Debug, Default)]
pub struct CallLog {
    counts: Mutex<BTreeMap<(Service, String), u64>>,
}

impl CallLog {
    /// Calls of `operation` (for example `GetItem`) since the start or the last reset, over all
    /// services.
    pub fn count(&self, operation: &str) -> u64 {
        self.lock().iter().filter(|((_, name), _)| name == operation).map(|(_, count)| count).sum()
    }

    /// Calls of every service together.
    pub fn total(&self) -> u64 {
        self.lock().values().sum()
    }

    /// Calls of one service.
    pub fn service_total(&self, service: Service) -> u64 {
        self.lock().iter().filter(|((of, _), _)| *of == service).map(|(_, count)| count).sum()
    }

    /// Operation → calls.
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let mut snapshot = BTreeMap::new();
        for ((_, operation), count) in self.lock().iter() {
            *snapshot.entry(operation.clone()).or_default() += count;
        }
        snapshot
    }

    /// Starts again at nothing.
    pub fn reset(&self) {
        self.lock().clear();
    }

    pub(crate) fn record(&self, service: Service, operation: &str) {
        *self.lock().entry((service, operation.to_owned())).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Service, String), u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
