//! The use cases: reading, writing, and working off what writes still owe.

mod absorb;
mod fit;
mod follow;
#[cfg(test)]
mod model;
mod read;
mod reconcile;
mod refresh;
mod tail;
mod values;
mod verdict;
mod write;

use std::sync::Arc;

pub use read::{At, BatchFound, Fetched, Freshness, HistoryPage, ListPage, ReadError, ReadService};
pub use refresh::{AbsorbReport, RefreshError, RefreshService, SweepReport};
pub use tail::{Commit, Commits, KeyChange, Position, Snapshot, TailError, TailService, Value, Valued};
pub use values::ValueGone;
pub use write::{MAX_OPERATIONS, Operation, StoreState, WriteError, WriteRequest, WriteService, Written};

use crate::{
    auth::TenantScope,
    aws::AwsClients,
    event::EventPublisher,
    ledger::{Change, Ledger, LedgerError},
    routing::TagRoutes,
    settings::Settings,
    store::{Stores, Surroundings, Survey, UnusableRoute},
};

/// What all use cases stand on, made once from the settings.
#[derive(Clone, Debug)]
pub struct Foundation {
    /// The routes that keys are parsed against.
    pub routes: Arc<TagRoutes>,
    /// The ledgers.
    pub ledger: Ledger,
    /// The stores.
    pub stores: Stores,
    /// Looks over the parameters of all tenants.
    pub survey: Survey,
    /// Where changes are published.
    pub publisher: EventPublisher,
}

impl Foundation {
    /// Makes the clients and opens the stores. Connects to nothing yet.
    pub fn new(settings: &Settings) -> Result<Self, UnusableRoute> {
        let clients = AwsClients::new(&settings.aws, &settings.clock);
        let routes = Arc::new(settings.routes.clone());
        Ok(Self {
            ledger: Ledger::new(clients.clone(), settings.table.clone(), Arc::clone(&routes), settings.clock.clone()),
            stores: Stores::open(&routes, &Surroundings { clients: &clients, settings })?,
            survey: Survey::new(clients.clone(), settings),
            publisher: EventPublisher::new(clients, settings.event_bus.clone()),
            routes,
        })
    }

    /// Publishes a change, and notes that it has been.
    async fn publish(&self, scope: &TenantScope, change: &Change) -> Result<(), LedgerError> {
        self.publisher.publish(scope, change).await?;
        self.ledger.mark_published(scope, change.revision).await
    }
}

#[cfg(test)]
mod tests;
