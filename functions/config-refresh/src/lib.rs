//! Flushes the outbox: on a schedule everything that is due, and on `Config Changed` the keys that
//! the event names.
//!
//! Events are hints. The function believes nothing in them; they only say where in the ledger to
//! look.

use futures_util::future::join_all;
use lambda_runtime::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tenantry::{
    backend::WriteBackend,
    clock::Clock,
    event,
    model::{key::ConfigKey, tenant::TenantId},
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

/// What Lambda's event source mapping delivers of a queue.
#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    body: String,
    #[serde(default)]
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
struct Attributes {
    #[serde(rename = "AWSTraceHeader")]
    trace: Option<String>,
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

/// An event, as EventBridge wraps it, and the trace that it belongs to.
struct Delivery {
    envelope: Option<Envelope>,
    trace: Option<TraceContext>,
}

impl Delivery {
    fn new(event: Option<Value>, trace: Option<&str>) -> Self {
        let envelope = event.and_then(|event| Envelope::deserialize(event).ok()).filter(Envelope::is_bearable);
        Self { envelope, trace: trace.and_then(TraceContext::parse) }
    }
}

/// Handles an event of EventBridge, or a batch of them that a queue holds. An event fails, so that
/// it comes again, only where trying again can help; those of a batch one by one.
pub async fn handle(app: &App, event: Value, context: &Context) -> Result<Value, lambda_runtime::Error> {
    let Ok(Batch { records }) = Batch::deserialize(&event) else {
        let delivery = Delivery::new(Some(event), context.xray_trace_id.as_deref());
        let report = app.handle_all(&[delivery], context).await.pop().map(|done| done.map(Done::report)).transpose();
        return Ok(report?.unwrap_or_default());
    };
    let deliveries = records.iter().map(|record| {
        let trace = record.attributes.trace.as_deref().or(context.xray_trace_id.as_deref());
        Delivery::new(serde_json::from_str(&record.body).ok(), trace)
    });
    let done = app.handle_all(&deliveries.collect::<Vec<_>>(), context).await;
    let failed = records.iter().zip(done).filter(|(_, done)| done.is_err());
    let failed: Vec<_> = failed.map(|(record, _)| json!({"itemIdentifier": record.message_id})).collect();
    Ok(json!({"batchItemFailures": failed}))
}

/// What became of an event.
#[derive(Clone)]
enum Done {
    Worked(Value),
    Dropped(String),
}

impl Done {
    fn report(self) -> Value {
        match self {
            Self::Worked(report) => report,
            Self::Dropped(why) => json!({"dropped": why}),
        }
    }
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
    fn of(envelope: &Envelope) -> Self {
        match (envelope.source.as_str(), envelope.detail_type.as_str()) {
            ("aws.events" | "aws.scheduler", _) => Self::Schedule,
            (event::SOURCE, event::DETAIL_TYPE) => Self::ConfigChanged,
            ("aws.ssm", "Parameter Store Change") => Self::ParameterStoreChange,
            _ => Self::Other,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::ConfigChanged => event::DETAIL_TYPE,
            Self::ParameterStoreChange => "Parameter Store Change",
            Self::Other => "other",
        }
    }
}

/// What is to be done about one event, or about several together.
enum Task {
    Sweep,
    Replicate(TenantId, Vec<String>),
    /// Keys of one tenant. Each of the events names one of them.
    Import(TenantId, Vec<ConfigKey>),
    Drop(String),
}

/// A task, and the events that it is for.
struct Job {
    task: Task,
    kind: Kind,
    /// The number of each event, and of the part of the task that is its own: the key, where there
    /// are several.
    events: Vec<(usize, usize)>,
}

impl Job {
    /// Takes in an event of a key, if this job imports that tenant's.
    fn imports(&mut self, tenant: &TenantId, key: &ConfigKey, event: usize) -> bool {
        let Task::Import(own, keys) = &mut self.task else { return false };
        if own != tenant {
            return false;
        }
        let known = keys.iter().position(|known| known == key);
        let part = known.unwrap_or_else(|| {
            keys.push(key.clone());
            keys.len() - 1
        });
        self.events.push((event, part));
        true
    }
}

/// How an event ended: the error is worth another try.
type Ended = Result<Done, String>;

impl App {
    /// Handles events: how each ended, in their order. What changed in the parameters of one tenant
    /// is imported together.
    async fn handle_all(&self, deliveries: &[Delivery], context: &Context) -> Vec<Ended> {
        let not_an_event = || Ok(Done::Dropped("not an EventBridge event".to_owned()));
        let mut ended: Vec<Ended> = deliveries.iter().map(|_| not_an_event()).collect();
        let doing = self.jobs(deliveries, context).into_iter().map(|job| self.observe(job, deliveries, context));
        for (event, end) in join_all(doing).await.into_iter().flatten() {
            ended[event] = end;
        }
        ended
    }

    fn jobs(&self, deliveries: &[Delivery], context: &Context) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        for (index, delivery) in deliveries.iter().enumerate() {
            let Some(envelope) = &delivery.envelope else {
                warn!("an event that is no EventBridge event is dropped");
                continue;
            };
            let kind = Kind::of(envelope);
            let task = match kind {
                Kind::Schedule => Task::Sweep,
                Kind::ConfigChanged => match config_changed(envelope, &context.invoked_function_arn) {
                    Ok((tenant, keys)) => Task::Replicate(tenant, keys),
                    Err(why) => Task::Drop(why.to_owned()),
                },
                Kind::ParameterStoreChange => match changed_parameter(envelope, &context.invoked_function_arn) {
                    Ok(name) => match self.refresh.key_of(&name) {
                        Ok((tenant, key)) if jobs.iter_mut().any(|job| job.imports(&tenant, &key, index)) => continue,
                        Ok((tenant, key)) => Task::Import(tenant, vec![key]),
                        Err(refusal) => Task::Drop(refusal.to_string()),
                    },
                    Err(why) => Task::Drop(why.to_owned()),
                },
                Kind::Other => Task::Drop("nothing is done about its kind".to_owned()),
            };
            jobs.push(Job { task, kind, events: vec![(index, 0)] });
        }
        jobs
    }

    /// Does a job, and writes its line. How each of its events ended, by the event's number.
    async fn observe(&self, job: Job, deliveries: &[Delivery], context: &Context) -> Vec<(usize, Ended)> {
        let Job { task, kind, events } = job;
        // The line and the trace are those of the first.
        let first = events.first().map(|(event, _)| &deliveries[*event]);
        let Some(Delivery { envelope: Some(envelope), trace }) = first else { return Vec::new() };
        let invocation = Invocation {
            function: "config-refresh",
            route: kind.name(),
            id: &context.request_id,
            request_id: &envelope.id,
            trace: trace.clone(),
        };
        let outcome = |ended: &Vec<Ended>| {
            if ended.iter().any(Result::is_err) {
                Outcome::Failed
            } else if ended.iter().all(|end| matches!(end, Ok(Done::Dropped(_)))) {
                Outcome::Dropped
            } else {
                Outcome::Done
            }
        };
        // Boxed, because every future around it would be as large as the SDK's.
        let working = Box::pin(self.work(task, envelope));
        let ended = self.telemetry.observe(&self.clock, invocation, working, outcome).await;
        events.into_iter().filter_map(|(event, part)| Some((event, ended.get(part)?.clone()))).collect()
    }

    /// Does a task: how each of its parts ended.
    async fn work(&self, task: Task, envelope: &Envelope) -> Vec<Ended> {
        let ended: Vec<_> = match task {
            Task::Sweep => vec![worked(self.refresh.sweep().await.map_err(|error| RefreshError::Failed(error.into())))],
            Task::Replicate(tenant, keys) => vec![worked(self.refresh.replicate_keys(&tenant, &keys).await)],
            Task::Import(tenant, keys) => self.refresh.import(&tenant, &keys).await.into_iter().map(worked).collect(),
            Task::Drop(why) => vec![Ok(Done::Dropped(why))],
        };
        for end in &ended {
            if let Err(error) = end {
                warn!(error, "an event could not be handled, and comes again");
            }
            if let Ok(Done::Dropped(why)) = end {
                let name: String =
                    envelope.detail["name"].as_str().unwrap_or_default().chars().take(MAX_SHOWN).collect();
                warn!(envelope.source, envelope.detail_type, name, why, "an event is dropped");
            }
        }
        ended
    }
}

/// How an event ended that could be read. What the ledger or the routes know nothing of is dropped.
fn worked(looked: Result<impl Serialize, RefreshError>) -> Ended {
    match looked {
        Ok(report) => serde_json::to_value(report).map(Done::Worked).map_err(|error| error.to_string()),
        Err(error @ RefreshError::Failed(_)) => Err(error.to_string()),
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
