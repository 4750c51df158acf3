//! `EventBridge`: takes events, finds the rules that match, and hands each match over for delivery.

mod delivery;
mod fate;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use quamina::Quamina;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::faults::Fault;
use crate::shutdown::Shutdown;
use crate::wire::{AwsError, parse, required};
use delivery::{Deliveries, Match};
use fate::Fates;
pub use fate::{EventFate, EventOdds};

/// The bus that always exists, and that AWS services send their events to.
pub(crate) const DEFAULT_BUS: &str = "default";

/// Entries of one `PutEvents` (`PutEvents` in the `EventBridge` API reference).
const MAX_ENTRIES: usize = 10;

/// Bytes of all entries of one `PutEvents` ("Calculating Amazon `EventBridge` `PutEvents` event
/// entry size" in the `EventBridge` user guide: "the total entry size must be less than 256KB").
const MAX_BYTES: usize = 256 * 1024;

/// What a target returns; an error has the event delivered again, a few times.
pub type Delivered = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Takes a whole event, envelope and all, and the X-Ray trace header that it was put with. Called
/// again with the same event after an error, so it has to bear doubles.
pub type Target = Arc<dyn Fn(Value, Option<String>) -> Delivered + Send + Sync>;

/// An `EventBridge` rule: events on `bus` that match `pattern` go to `target`.
#[derive(Clone)]
pub struct Rule {
    /// Unique on its bus: a rule of the same name replaces the one before.
    pub name: String,
    /// `default` or the name of another bus.
    pub bus: String,
    /// An event pattern as the `EventBridge` user guide describes it.
    pub pattern: Value,
    /// Where matching events go.
    pub target: Target,
}

impl fmt::Debug for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Rule")
            .field("name", &self.name)
            .field("bus", &self.bus)
            .field("pattern", &self.pattern)
            .finish_non_exhaustive()
    }
}

/// Why a rule was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A rule and its bus need names.
    #[error("a rule needs a name and a bus")]
    Unnamed,
    /// The pattern is none, or uses an operator that is not supported.
    #[error("the pattern of rule {name:?} is refused: {reason}")]
    Pattern {
        /// The rule.
        name: String,
        /// What the matcher says.
        reason: String,
    },
}

/// An event that an AWS service or a caller has to tell, before it has its envelope.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) source: String,
    pub(crate) detail_type: String,
    pub(crate) resources: Vec<String>,
    pub(crate) detail: Value,
    pub(crate) time: OffsetDateTime,
    pub(crate) trace_header: Option<String>,
}

/// Rules and what is on its way to their targets.
#[derive(Debug)]
pub(crate) struct EventBridge {
    region: String,
    account: String,
    rules: RwLock<Vec<Installed>>,
    deliveries: Deliveries,
    fates: Fates,
}

struct Installed {
    rule: Rule,
    matcher: Quamina<()>,
}

impl fmt::Debug for Installed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rule.fmt(out)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutEvents {
    entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    source: Option<String>,
    detail_type: Option<String>,
    detail: Option<String>,
    event_bus_name: Option<String>,
    resources: Option<Vec<String>>,
    time: Option<f64>,
    trace_header: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    event_bus_name: Option<String>,
    name_prefix: Option<String>,
    name: Option<String>,
}

impl EventBridge {
    pub(crate) fn new(region: &str, account: &str, shutdown: Shutdown) -> Self {
        Self {
            region: region.to_owned(),
            account: account.to_owned(),
            rules: RwLock::default(),
            deliveries: Deliveries::new(shutdown),
            fates: Fates::default(),
        }
    }

    /// Decides what becomes of events from now on, and of those that wait.
    pub(crate) fn set_fate(&self, fate: EventFate) {
        let waited = self.fates.set(fate);
        self.dispatch(waited);
    }

    fn dispatch(&self, events: Vec<Match>) {
        for (events, wait) in self.fates.meet(events) {
            self.deliveries.start(events, wait);
        }
    }

    pub(crate) fn add_rule(&self, rule: Rule) -> Result<(), RuleError> {
        if rule.name.is_empty() || rule.bus.is_empty() {
            return Err(RuleError::Unnamed);
        }
        let mut matcher = Quamina::new();
        matcher
            .add_pattern((), &rule.pattern.to_string())
            .map_err(|error| RuleError::Pattern { name: rule.name.clone(), reason: error.to_string() })?;
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        rules.retain(|installed| installed.rule.bus != rule.bus || installed.rule.name != rule.name);
        rules.push(Installed { rule, matcher });
        Ok(())
    }

    /// Resolves when no delivery is under way.
    pub(crate) async fn settled(&self) {
        self.deliveries.settled().await;
    }

    /// Gives the event its envelope and sets it on its way to every rule of `bus` that matches.
    /// Returns its id. The deliveries count as under way before this returns.
    pub(crate) fn emit(&self, bus: &str, event: &Event) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let time = event.time.replace_nanosecond(0).unwrap_or(event.time);
        let envelope = json!({
            "version": "0",
            "id": id,
            "detail-type": event.detail_type,
            "source": event.source,
            "account": self.account,
            "time": time.format(&Rfc3339).unwrap_or_default(),
            "region": self.region,
            "resources": event.resources,
            "detail": event.detail,
        });
        let text = envelope.to_string();
        for installed in self.rules.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if installed.rule.bus != bus {
                continue;
            }
            match installed.matcher.has_matches(text.as_bytes()) {
                Ok(true) => self.dispatch(vec![Match {
                    rule: installed.rule.clone(),
                    event: envelope.clone(),
                    trace: event.trace_header.clone(),
                }]),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(rule = installed.rule.name, %error, "an event could not be matched");
                }
            }
        }
        id
    }

    /// Answers a call.
    pub(crate) fn call(&self, operation: &str, body: &[u8]) -> Result<Value, AwsError> {
        match operation {
            "PutEvents" => self.put_events(parse(body)?),
            "ListRules" => Ok(self.list_rules(&parse(body)?)),
            "ListEventBuses" => Ok(self.list_buses(&parse(body)?)),
            "DescribeEventBus" => self.describe_bus(parse(body)?),
            _ => Err(AwsError::new(
                "UnknownOperationException",
                format!("The emulator does not know the EventBridge operation {operation:?}."),
            )),
        }
    }

    fn put_events(&self, request: PutEvents) -> Result<Value, AwsError> {
        let entries = required(request.entries, "entries")?;
        if entries.is_empty() {
            return Err(AwsError::constraint("[]", "entries", "have length greater than or equal to 1"));
        }
        if entries.len() > MAX_ENTRIES {
            return Err(AwsError::constraint(
                "[PutEventsRequestEntry]",
                "entries",
                &format!("have length less than or equal to {MAX_ENTRIES}"),
            ));
        }
        if entries.iter().map(Entry::bytes).sum::<usize>() >= MAX_BYTES {
            return Err(AwsError::validation("Total size of the entries in the request is over the limit."));
        }
        let mut failed = 0;
        let results: Vec<Value> = entries
            .into_iter()
            .map(|entry| match self.put_event(entry) {
                Ok(id) => json!({ "EventId": id }),
                Err(error) => {
                    failed += 1;
                    json!({ "ErrorCode": error.code(), "ErrorMessage": error.message() })
                }
            })
            .collect();
        Ok(json!({ "FailedEntryCount": failed, "Entries": results }))
    }

    fn put_event(&self, entry: Entry) -> Result<String, AwsError> {
        let argument = |member: Option<String>, name: &str| {
            member.filter(|text| !text.is_empty()).ok_or_else(|| {
                AwsError::new(
                    "InvalidArgument",
                    format!("Parameter {name} is not valid. Reason: {name} is a required argument."),
                )
            })
        };
        let time = match entry.time {
            None => OffsetDateTime::now_utc(),
            Some(seconds) => timestamp(seconds).ok_or_else(|| {
                AwsError::new("InvalidArgument", "Parameter Time is not valid. Reason: out of range.")
            })?,
        };
        let source = argument(entry.source, "Source")?;
        let detail_type = argument(entry.detail_type, "DetailType")?;
        let detail = argument(entry.detail, "Detail")?;
        if source.starts_with("aws.") {
            return Err(AwsError::new("NotAuthorizedForSourceException", "Not authorized for the source."));
        }
        let detail = serde_json::from_str(&detail)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| AwsError::new("MalformedDetail", "Detail is malformed."))?;
        let bus = entry.event_bus_name.unwrap_or_else(|| DEFAULT_BUS.to_owned());
        let bus = bus_name(&bus);
        if bus != DEFAULT_BUS && !self.has_bus(bus) {
            // AWS takes such an event and drops it, without an error.
            tracing::warn!(bus, source, "an event was put on a bus that no rule names: nobody gets it");
        }
        let resources = entry.resources.unwrap_or_default();
        let trace_header = entry.trace_header;
        Ok(self.emit(bus, &Event { source, detail_type, resources, detail, time, trace_header }))
    }

    fn list_rules(&self, request: &List) -> Value {
        let bus = bus_name(request.event_bus_name.as_deref().unwrap_or(DEFAULT_BUS));
        let prefix = request.name_prefix.as_deref().unwrap_or_default();
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let mut rules: Vec<&Rule> = rules
            .iter()
            .map(|installed| &installed.rule)
            .filter(|rule| rule.bus == bus && rule.name.starts_with(prefix))
            .collect();
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        let rules: Vec<Value> = rules
            .into_iter()
            .map(|rule| {
                let path = if bus == DEFAULT_BUS { rule.name.clone() } else { format!("{bus}/{}", rule.name) };
                json!({
                    "Name": rule.name,
                    "Arn": format!("arn:aws:events:{}:{}:rule/{path}", self.region, self.account),
                    "EventPattern": rule.pattern.to_string(),
                    "State": "ENABLED",
                    "EventBusName": rule.bus,
                })
            })
            .collect();
        json!({ "Rules": rules })
    }

    fn list_buses(&self, request: &List) -> Value {
        let prefix = request.name_prefix.as_deref().unwrap_or_default();
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<&str> = rules.iter().map(|installed| installed.rule.bus.as_str()).collect();
        names.push(DEFAULT_BUS);
        names.sort_unstable();
        names.dedup();
        let buses: Vec<Value> =
            names.into_iter().filter(|name| name.starts_with(prefix)).map(|name| self.bus(name)).collect();
        json!({ "EventBuses": buses })
    }

    fn describe_bus(&self, request: List) -> Result<Value, AwsError> {
        let name = request.name.unwrap_or_else(|| DEFAULT_BUS.to_owned());
        let name = bus_name(&name);
        if name != DEFAULT_BUS && !self.has_bus(name) {
            return Err(AwsError::new("ResourceNotFoundException", format!("Event bus {name} does not exist.")));
        }
        Ok(self.bus(name))
    }

    fn bus(&self, name: &str) -> Value {
        json!({ "Name": name, "Arn": format!("arn:aws:events:{}:{}:event-bus/{name}", self.region, self.account) })
    }

    fn has_bus(&self, name: &str) -> bool {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.iter().any(|installed| installed.rule.bus == name)
    }
}

impl Entry {
    /// As the user guide counts them.
    fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let resources: usize = self.resources.iter().flatten().map(String::len).sum();
        let time = if self.time.is_some() { 14 } else { 0 };
        time + text(&self.source) + text(&self.detail_type) + text(&self.detail) + resources
    }
}

/// What `EventBridge` answers to a call that is to fail without being executed.
pub(crate) fn failure(fault: Fault) -> AwsError {
    match fault {
        Fault::Throttle => AwsError::new("ThrottlingException", "Rate exceeded"),
        _ => AwsError::internal("InternalException", "Internal server error"),
    }
}

/// A bus is named by its name or its ARN.
fn bus_name(bus: &str) -> &str {
    if bus.starts_with("arn:") { bus.rsplit_once(":event-bus/").map_or(bus, |(_, name)| name) } else { bus }
}

/// Seconds since 1970 as the JSON protocols write them.
fn timestamp(seconds: f64) -> Option<OffsetDateTime> {
    OffsetDateTime::UNIX_EPOCH.checked_add(time::Duration::checked_seconds_f64(seconds)?)
}
