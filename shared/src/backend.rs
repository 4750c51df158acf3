//! What use cases need: routes, ledgers and stores; for those that write, events, too.

use std::sync::Arc;

use crate::{
    auth::TenantScope,
    aws::{AwsClients, AwsSettings},
    clock::Clock,
    event::EventPublisher,
    ledger::{Change, Ledger, LedgerError},
    model::routing::TagRoutes,
    store::{Inventory, ParameterSettings, StoreContext, Stores, UnusableRoute},
};

/// Where ledgers and stores are.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// `TABLE_NAME`: the DynamoDB table of the ledger.
    pub table: String,
    /// `TAG_ROUTES`: JSON, tag → route.
    pub routes: TagRoutes,
    /// How parameters are named and encrypted.
    pub parameters: ParameterSettings,
    /// How AWS is reached.
    pub aws: AwsSettings,
}

/// What use cases that read need, made once from the settings.
#[derive(Clone, Debug)]
pub struct Backend {
    /// The routes that keys are parsed with.
    pub routes: Arc<TagRoutes>,
    /// The ledgers.
    pub ledger: Ledger,
    /// The stores.
    pub stores: Stores,
}

impl Backend {
    /// Makes the clients and opens the stores. Connects to nothing yet.
    pub fn new(settings: &BackendSettings, clock: &Clock) -> Result<Self, UnusableRoute> {
        Self::with_clients(settings, clock, &AwsClients::new(&settings.aws, clock))
    }

    fn with_clients(settings: &BackendSettings, clock: &Clock, clients: &AwsClients) -> Result<Self, UnusableRoute> {
        let routes = Arc::new(settings.routes.clone());
        Ok(Self {
            ledger: Ledger::new(clients.clone(), settings.table.clone(), Arc::clone(&routes), clock.clone()),
            stores: Stores::open(&routes, &StoreContext { clients, parameters: &settings.parameters })?,
            routes,
        })
    }
}

/// What use cases that write need: they also publish changes and compare the stores with the
/// ledgers.
#[derive(Clone, Debug)]
pub struct WriteBackend {
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

impl WriteBackend {
    /// Makes the clients and opens the stores; changes will be published on `event_bus`. Connects
    /// to nothing yet.
    pub fn new(settings: &BackendSettings, event_bus: String, clock: &Clock) -> Result<Self, UnusableRoute> {
        let clients = AwsClients::new(&settings.aws, clock);
        let Backend { routes, ledger, stores } = Backend::with_clients(settings, clock, &clients)?;
        Ok(Self {
            routes,
            ledger,
            stores,
            inventory: Inventory::new(clients.clone(), settings.parameters.root.clone()),
            publisher: EventPublisher::new(clients, event_bus),
        })
    }

    /// Publishes a change, and takes it out of the outbox.
    pub(crate) async fn publish(&self, scope: &TenantScope, change: &Change) -> Result<(), LedgerError> {
        self.publisher.publish(scope, change).await?;
        self.ledger.mark_published(scope, change.revision).await
    }
}
