//! Works off what commits still owe: on a schedule everything that is due, and on `Config Changed` the keys that the event names.
//!
//! Events are hints. Nothing in them is believed; they only say where in the ledger to look.

use serde::Deserialize;
use serde_json::{Value, json};
use tenantry::{
    event,
    service::{Foundation, RefreshService},
    settings::Settings,
    tenant::TenantId,
};
use tracing::{info, warn};

/// The running function.
#[derive(Debug)]
pub struct App {
    refresh: RefreshService,
}

impl App {
    /// Makes the function from its settings. Connects to nothing yet.
    pub fn start(settings: &Settings) -> Result<Self, lambda_runtime::Error> {
        Ok(Self { refresh: RefreshService::new(Foundation::new(settings)?, settings) })
    }
}

/// The envelope that EventBridge delivers.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    source: String,
    #[serde(rename = "detail-type", default)]
    detail_type: String,
    #[serde(default)]
    detail: Value,
}

/// What a `Config Changed` event says, as far as it is looked at.
#[derive(Deserialize)]
struct ConfigChanged {
    tenant: String,
    keys: Vec<ConfigChangedKey>,
}

#[derive(Deserialize)]
struct ConfigChangedKey {
    key: String,
}

/// Handles one event. Fails, so that Lambda tries again, only where trying again can help.
pub async fn handle(app: &App, event: Value) -> Result<Value, lambda_runtime::Error> {
    let Ok(envelope) = Envelope::deserialize(&event) else {
        warn!("an event that is no EventBridge event is dropped");
        return Ok(json!({"dropped": "not an EventBridge event"}));
    };
    match (envelope.source.as_str(), envelope.detail_type.as_str()) {
        ("aws.events" | "aws.scheduler", _) => Ok(serde_json::to_value(app.refresh.sweep().await?)?),
        (event::SOURCE, event::DETAIL_TYPE) => {
            let looked = if let Some((tenant, keys)) = config_changed(&envelope.detail) {
                serde_json::to_value(app.refresh.look_at(&tenant, &keys).await)?
            } else {
                warn!("a Config Changed event without tenant and keys is dropped");
                json!({"dropped": "no tenant and keys"})
            };
            Ok(looked)
        }
        (source, detail_type) => {
            info!(source, detail_type, "an event that nothing is done about yet is dropped");
            Ok(json!({"dropped": "nothing to do"}))
        }
    }
}

fn config_changed(detail: &Value) -> Option<(TenantId, Vec<String>)> {
    let changed = ConfigChanged::deserialize(detail).ok()?;
    let keys = changed.keys.into_iter().map(|changed| changed.key).collect();
    Some((changed.tenant.parse().ok()?, keys))
}
