//! The event that a tenant's configuration changed. A hint: the change log is the truth.

use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use serde_json::json;

use crate::{
    auth::TenantScope,
    aws::{AwsClients, AwsFailure, Service},
    ledger::Change,
    telemetry,
};

/// The event's `source`.
pub const SOURCE: &str = "tenantry";
/// The event's `detail-type`.
pub const DETAIL_TYPE: &str = "Config Changed";

/// Publishes changes on the event bus.
#[derive(Clone, Debug)]
pub struct EventPublisher {
    clients: AwsClients,
    bus: String,
}

impl EventPublisher {
    /// A publisher on `bus`.
    pub fn new(clients: AwsClients, bus: String) -> Self {
        Self { clients, bus }
    }

    /// Publishes a change: tenant, revision, keys and comment, never a value.
    pub async fn publish(&self, scope: &TenantScope, change: &Change) -> Result<(), AwsFailure> {
        let keys: Vec<_> = change
            .keys
            .iter()
            .map(|changed| json!({"key": changed.key, "version": changed.version, "operation": changed.operation}))
            .collect();
        let mut detail =
            json!({"format": 1, "tenant": scope.tenant().as_str(), "revision": change.revision, "keys": keys});
        if let Some(comment) = &change.comment {
            detail["comment"] = comment.as_str().into();
        }
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(&self.bus)
            .source(SOURCE)
            .detail_type(DETAIL_TYPE)
            .detail(detail.to_string())
            // The receivers of the event continue this trace.
            .set_trace_header(telemetry::trace_header())
            .build();
        let answer = self
            .clients
            .eventbridge(scope)
            .put_events()
            .entries(entry)
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::EventBridge, "PutEvents", &error))?;
        // PutEvents answers 200 even if it took nothing; each entry has its own result.
        match answer.entries().iter().find_map(|one| one.error_code()) {
            Some(code) => Err(AwsFailure::unexpected(
                Service::EventBridge,
                "PutEvents",
                format!("the event was not taken: {code}"),
            )),
            None => Ok(()),
        }
    }
}
