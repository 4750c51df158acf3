//! Works off what commits still owe: on a schedule everything that is due, and on `Config Changed` the keys that the event names.
//!
//! Events are hints. Nothing in them is believed; they only say where in the ledger to look.

use serde::Deserialize;
use serde_json::{Value, json};
use tenantry::{
    clock::Clock,
    event,
    function::Context,
    service::{Foundation, RefreshError, RefreshService},
    settings::Settings,
    telemetry::{Invocation, Outcome, Telemetry, TraceContext},
    tenant::TenantId,
};
use tracing::warn;

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
    account: String,
    #[serde(default)]
    region: String,
    #[serde(default)]
    resources: Vec<String>,
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

/// What a `Parameter Store Change` event says, as far as it is looked at: not its operation, because whatever was done, the same look
/// finds it.
#[derive(Deserialize)]
struct ParameterStoreChange {
    name: String,
    /// Why a write that Parameter Store had taken failed afterwards.
    exception: Option<String>,
}

/// Handles one event. Fails, so that Lambda tries again, only where trying again can help.
pub async fn handle(app: &App, event: Value, context: &Context) -> Result<Value, lambda_runtime::Error> {
    let Ok(envelope) = Envelope::deserialize(&event) else {
        warn!("an event that is no EventBridge event is dropped");
        return Ok(dropped("not an EventBridge event"));
    };
    let kind = match (envelope.source.as_str(), envelope.detail_type.as_str()) {
        ("aws.events" | "aws.scheduler", _) => Kind::Schedule,
        (event::SOURCE, event::DETAIL_TYPE) => Kind::ConfigChanged,
        ("aws.ssm", "Parameter Store Change") => Kind::ParameterStoreChange,
        _ => Kind::Other,
    };
    let invocation = Invocation {
        function: "config-refresh",
        route: kind.name(),
        id: &context.request_id,
        request_id: &envelope.id,
        trace: context.xray_trace_id.as_deref().and_then(TraceContext::parse),
    };
    let outcome = |done: &Result<Done, _>| match done {
        Ok(Done::Worked(_)) => Outcome::Done,
        Ok(Done::Dropped(_)) => Outcome::Dropped,
        Err(_) => Outcome::Failed,
    };
    // Boxed, because every future around it would be as large as the SDK's.
    let working = Box::pin(app.work(kind, &envelope, &context.invoked_function_arn));
    match app.telemetry.observe(&app.clock, invocation, working, outcome).await? {
        Done::Worked(report) => Ok(report),
        Done::Dropped(why) => Ok(dropped(&why)),
    }
}

/// What became of an event.
enum Done {
    Worked(Value),
    Dropped(String),
}

fn dropped(why: &str) -> Value {
    json!({"dropped": why})
}

/// The kinds of events.
#[derive(Clone, Copy)]
enum Kind {
    Schedule,
    ConfigChanged,
    ParameterStoreChange,
    Other,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::ConfigChanged => event::DETAIL_TYPE,
            Self::ParameterStoreChange => "Parameter Store Change",
            Self::Other => "other",
        }
    }
}

impl App {
    async fn work(&self, kind: Kind, envelope: &Envelope, own_arn: &str) -> Result<Done, lambda_runtime::Error> {
        let done = match kind {
            Kind::Schedule => Done::Worked(serde_json::to_value(self.refresh.sweep().await?)?),
            Kind::ConfigChanged => match config_changed(&envelope.detail) {
                Some((tenant, keys)) => Done::Worked(serde_json::to_value(self.refresh.look_at(&tenant, &keys).await)?),
                None => Done::Dropped("it names no tenant and keys".to_owned()),
            },
            Kind::ParameterStoreChange => match changed_parameter(envelope, own_arn) {
                Ok(name) => match self.refresh.look_at_parameter(&name).await {
                    Ok(report) => Done::Worked(serde_json::to_value(report)?),
                    Err(error @ RefreshError::NotOurs(_)) => Done::Dropped(error.to_string()),
                    Err(error) => return Err(error.into()),
                },
                Err(why) => Done::Dropped(why.to_owned()),
            },
            Kind::Other => Done::Dropped("nothing is done about its kind".to_owned()),
        };
        if let Done::Dropped(why) = &done {
            let name = &envelope.detail["name"];
            warn!(envelope.source, envelope.detail_type, %name, why, "an event is dropped");
        }
        Ok(done)
    }
}

fn config_changed(detail: &Value) -> Option<(TenantId, Vec<String>)> {
    let changed = ConfigChanged::deserialize(detail).ok()?;
    let keys = changed.keys.into_iter().map(|changed| changed.key).collect();
    Some((changed.tenant.parse().ok()?, keys))
}

/// The name of the parameter that a `Parameter Store Change` event is about, if the event is about this account and region, and agrees
/// with itself. `own_arn` is the function's: `arn:<partition>:lambda:<region>:<account>:function:<name>`.
fn changed_parameter(envelope: &Envelope, own_arn: &str) -> Result<String, &'static str> {
    let own: Vec<_> = own_arn.split(':').collect();
    let [_, partition, _, region, account, ..] = own[..] else {
        return Err("the function does not know its own account");
    };
    if (envelope.region.as_str(), envelope.account.as_str()) != (region, account) {
        return Err("it comes from another account or region");
    }
    let change = ParameterStoreChange::deserialize(&envelope.detail).map_err(|_| "it names no parameter")?;
    if change.exception.is_some() {
        return Err("it tells of a write that failed, and changed nothing");
    }
    let resource = format!("arn:{partition}:ssm:{region}:{account}:parameter{}", change.name);
    if envelope.resources != [resource] {
        return Err("its resource and its name do not agree");
    }
    Ok(change.name)
}
