//! Flushes the outbox: on a schedule everything that is due, and on `Config Changed` the keys that
//! the event names.
//!
//! Events are hints. The function believes nothing in them; they only say where in the ledger to
//! look.

use lambda_runtime::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tenantry::{
    backend::WriteBackend,
    clock::Clock,
    event,
    model::tenant::TenantId,
    refresh::{RefreshError, RefreshService},
    settings::Settings,
    telemetry::{Invocation, Outcome, Telemetry, TraceContext},
};
use tracing::warn;

/// The longest text of an envelope, in bytes; AWS's own are far shorter. They go into the log.
const MAX_ENVELOPE_TEXT: usize = 256;
/// The longest name of a parameter, in bytes: what AWS allows with the prefix of its ARN.
const MAX_PARAMETER_NAME: usize = 1_011;
/// How much of a name is logged that cannot be one, in characters.
const MAX_SHOWN: usize = 200;

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
        let shared = &settings.shared;
        shared.require_system_role()?;
        let backend = WriteBackend::new(&shared.backend, settings.event_bus.clone(), &shared.clock)?;
        Ok(Self {
            refresh: RefreshService::new(backend, shared.clock.clone()),
            telemetry: settings.telemetry.clone(),
            clock: shared.clock.clone(),
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

impl Envelope {
    /// Whether its texts can be those of an event.
    fn is_bearable(&self) -> bool {
        let texts = [&self.id, &self.source, &self.detail_type, &self.account, &self.region];
        texts.iter().all(|text| text.len() <= MAX_ENVELOPE_TEXT)
    }
}

/// The members of a `Config Changed` event that are read.
#[derive(Deserialize)]
struct ConfigChanged {
    tenant: String,
    keys: Vec<ConfigChangedKey>,
}

#[derive(Deserialize)]
struct ConfigChangedKey {
    key: String,
}

/// The members of a `Parameter Store Change` event that are read. Not its operation: whatever was
/// done, the import finds it.
#[derive(Deserialize)]
struct ParameterStoreChange {
    name: String,
    /// Why a write that Parameter Store had taken failed afterwards.
    exception: Option<String>,
}

/// Handles one event. Fails, so that Lambda tries again, only where trying again can help.
pub async fn handle(app: &App, event: Value, context: &Context) -> Result<Value, lambda_runtime::Error> {
    let Some(envelope) = Envelope::deserialize(&event).ok().filter(Envelope::is_bearable) else {
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
            Kind::ConfigChanged => match config_changed(envelope, own_arn) {
                Ok((tenant, keys)) => worked(self.refresh.replicate_keys(&tenant, &keys).await)?,
                Err(why) => Done::Dropped(why.to_owned()),
            },
            Kind::ParameterStoreChange => match changed_parameter(envelope, own_arn) {
                Ok(name) => worked(self.refresh.import_parameter(&name).await)?,
                Err(why) => Done::Dropped(why.to_owned()),
            },
            Kind::Other => Done::Dropped("nothing is done about its kind".to_owned()),
        };
        if let Done::Dropped(why) = &done {
            let name: String = envelope.detail["name"].as_str().unwrap_or_default().chars().take(MAX_SHOWN).collect();
            warn!(envelope.source, envelope.detail_type, name, why, "an event is dropped");
        }
        Ok(done)
    }
}

/// What became of an event that could be read. An error is worth another try; what the ledger or
/// the routes know nothing of is dropped.
fn worked(looked: Result<impl Serialize, RefreshError>) -> Result<Done, lambda_runtime::Error> {
    match looked {
        Ok(report) => Ok(Done::Worked(serde_json::to_value(report)?)),
        Err(error @ RefreshError::Failed(_)) => Err(error.into()),
        Err(refusal) => Ok(Done::Dropped(refusal.to_string())),
    }
}

/// The partition, region and account of a function's ARN,
/// `arn:<partition>:lambda:<region>:<account>:function:<name>`, if the event is about the same
/// region and account.
fn origin<'a>(envelope: &Envelope, own_arn: &'a str) -> Result<[&'a str; 3], &'static str> {
    let own: Vec<_> = own_arn.split(':').collect();
    let [_, partition, _, region, account, ..] = own[..] else {
        return Err("the function does not know its own account");
    };
    if (envelope.region.as_str(), envelope.account.as_str()) != (region, account) {
        return Err("it comes from another account or region");
    }
    Ok([partition, region, account])
}

/// The tenant and the keys that a `Config Changed` event names. Ours name no resources.
fn config_changed(envelope: &Envelope, own_arn: &str) -> Result<(TenantId, Vec<String>), &'static str> {
    const NO_CHANGE: &str = "it names no tenant and keys";
    origin(envelope, own_arn)?;
    if !envelope.resources.is_empty() {
        return Err("it names resources");
    }
    let changed = ConfigChanged::deserialize(&envelope.detail).map_err(|_| NO_CHANGE)?;
    let tenant = changed.tenant.parse().map_err(|_| NO_CHANGE)?;
    let keys = changed.keys.into_iter().map(|changed| changed.key).collect();
    Ok((tenant, keys))
}

/// The name of the parameter that a `Parameter Store Change` event is about, if the event is about
/// this account and region, and agrees with itself.
fn changed_parameter(envelope: &Envelope, own_arn: &str) -> Result<String, &'static str> {
    let [partition, region, account] = origin(envelope, own_arn)?;
    let change = ParameterStoreChange::deserialize(&envelope.detail).map_err(|_| "it names no parameter")?;
    if change.exception.is_some() {
        return Err("it tells of a write that failed, and changed nothing");
    }
    if change.name.len() > MAX_PARAMETER_NAME {
        return Err("its name is longer than any parameter's");
    }
    let resource = format!("arn:{partition}:ssm:{region}:{account}:parameter{}", change.name);
    if envelope.resources != [resource] {
        return Err("its resource and its name do not agree");
    }
    Ok(change.name)
}
