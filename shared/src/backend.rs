//! What all use cases need: routes, ledgers, stores and events.

use std::sync::Arc;

use crate::{
    auth::TenantScope,
    aws::AwsClients,
    event::EventPublisher,
    ledger::{Change, Ledger, LedgerError},
    model::routing::TagRoutes,
    settings::Settings,
    store::{Inventory, StoreContext, Stores, UnusableRoute},
};

/// What all use cases need, made once from the settings.
#[derive(Clone, Debug)]
pub struct Backend {
    /// The routes that keys are parsed with.
    pub routes: Arc<TagRoutes>,
    /// The ledgers.
    pub ledger: Ledger,
    /// The stores.
    pub stores: Stores,
    /// Lists the parameters of all tenants.
    pub inventory: Inventory,
    /// Where changes are published.
    pub publisher: EventPublisher,
}

impl Backend {
    /// Makes the clients and opens the stores. Connects to nothing yet.
    pub fn new(settings: &Settings) -> Result<Self, UnusableRoute> {
        let clients = AwsClients::new(&settings.aws, &settings.clock);
        let routes = Arc::new(settings.routes.clone());
        Ok(Self {
            ledger: Ledger::new(clients.clone(), settings.table.clone(), Arc::clone(&routes), settings.clock.clone()),
            stores: Stores::open(&routes, &StoreContext { clients: &clients, settings })?,
            inventory: Inventory::new(clients.clone(), settings),
            publisher: EventPublisher::new(clients, settings.event_bus.clone()),
            routes,
        })
    }

    /// Publishes a change, and takes it out of the outbox.
    pub(crate) async fn publish(&self, scope: &TenantScope, change: &Change) -> Result<(), LedgerError> {
        self.publisher.publish(scope, change).await?;
        self.ledger.mark_published(scope, change.revision).await
    }
}
