//! Who refreshes a tenant: one at a time.

use std::sync::Arc;

use super::Tenant;

/// Held by one refresh at a time.
pub(crate) type RefreshLock = tokio::sync::Mutex<()>;

/// A place in the line of those who would refresh a tenant.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    tenant: &'a Tenant,
    refresh_lock: Option<Arc<RefreshLock>>,
}

impl Turn<'_> {
    /// Waits for the turn, which lasts as long as the guard.
    pub(crate) async fn wait(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match &self.refresh_lock {
            Some(refresh_lock) => Some(refresh_lock.lock().await),
            None => None,
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.tenant.state();
        self.refresh_lock = None;
        if state.refresh_lock.as_ref().is_some_and(|refresh_lock| Arc::strong_count(refresh_lock) == 1) {
            state.refresh_lock = None;
        }
    }
}

impl Tenant {
    /// A place in the line of those who would refresh the tenant.
    pub(crate) fn turn(&self) -> Turn<'_> {
        let refresh_lock = Arc::clone(self.state().refresh_lock.get_or_insert_default());
        Turn { tenant: self, refresh_lock: Some(refresh_lock) }
    }

    /// Whether the tenant is being refreshed.
    pub(crate) fn is_refreshing(&self) -> bool {
        self.state().refresh_lock.as_ref().is_some_and(|refresh_lock| refresh_lock.try_lock().is_err())
    }
}
