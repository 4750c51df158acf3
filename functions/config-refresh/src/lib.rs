//! Works off what commits still owe: on a schedule everything that is due, and on `Config Changed` the keys that the event names.
//!
//! Events are hints. Nothing in them is believed; they only say where in the ledger to look.

use serde::Deserialize;
use serde_json::{Value, json};
use tenantry::{
    clock::Clock,
    event,
    function::Context,
    service::{Foundation, RefreshService},
    settings::Settings,
    telemetry::{Invocation, Outcome, Telemetry, TraceContext},
    tenant::TenantId,
};
use tracing::{info, warn};

/// The running function.
#[derive(Debug)]
pub struct App {
    refresh: RefreshService,
    telemetry: Telemetry,
    clock: Clock,
}

impl App {
    /// Makes the function from its settings. Connects to nothing yet.
    pub fn start(settings: &Settings) -> Result<Self, lambda_runtime::Error> {
        Ok(Self {
            refresh: RefreshService::new(Foundation::new(settings)?, settings),
            telemetry: settings.telemetry.clone(),
            clock: settings.clock.clone(),
        })
    }
}

/// The envelope that EventBridge delivers.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    id: String,
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
pub async fn handle(app: &App, event: Value, context: &Context) -> Result<Value, lambda_runtime::Error> {
    let Ok(envelope) = Envelope::deserialize(&event) else {
        warn!("an event that is no EventBridge event is dropped");
        return Ok(json!({"dropped": "not an EventBridge event"}));
    };
    let kind = match (envelope.source.as_str(), envelope.detail_type.as_str()) {
        ("aws.events" | "aws.scheduler", _) => Kind::Schedule,
        (event::SOURCE, event::DETAIL_TYPE) => Kind::ConfigChanged,
        _ => Kind::Other,
    };
    let invocation = Invocation {
        function: "config-refresh",
        route: kind.name(),
        id: &context.request_id,
        request_id: &envelope.id,
        trace: context.xray_trace_id.as_deref().and_then(TraceContext::parse),
    };
    let outcome = |done: &Result<_, _>| if done.is_ok() { Outcome::Done } else { Outcome::Failed };
    app.telemetry.observe(&app.clock, invocation, app.work(kind, &envelope), outcome).await
}

/// The kinds of events.
#[derive(Clone, Copy)]
enum Kind {
    Schedule,
    ConfigChanged,
    Other,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::ConfigChanged => event::DETAIL_TYPE,
            Self::Other => "other",
        }
    }
}

impl App {
    async fn work(&self, kind: Kind, envelope: &Envelope) -> Result<Value, lambda_runtime::Error> {
        match kind {
            Kind::Schedule => Ok(serde_json::to_value(self.refresh.sweep().await?)?),
            Kind::ConfigChanged => {
                let Some((tenant, keys)) = config_changed(&envelope.detail) else {
                    warn!("a Config Changed event without tenant and keys is dropped");
                    return Ok(json!({"dropped": "no tenant and keys"}));
                };
                Ok(serde_json::to_value(self.refresh.look_at(&tenant, &keys).await)?)
            }
            Kind::Other => {
                info!(envelope.source, envelope.detail_type, "an event that nothing is done about yet is dropped");
                Ok(json!({"dropped": "nothing to do"}))
            }
        }
    }
}

fn config_changed(detail: &Value) -> Option<(TenantId, Vec<String>)> {
    let changed = ConfigChanged::deserialize(detail).ok()?;
    let keys = changed.keys.into_iter().map(|changed| changed.key).collect();
    Some((changed.tenant.parse().ok()?, keys))
}
