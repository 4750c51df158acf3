//! Parameter Store: the operations of Systems Manager that the suite uses, and those that help to
//! look around.

mod metadata;
mod name;
mod page;
mod put;
mod read;
mod store;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::StartError;
use crate::account::Account;
use crate::eventbridge::{DEFAULT_BUS, Event, EventBridge};
use crate::faults::{Fault, View};
use crate::wire::{AwsError, parse, required};
use name::{Place, Selector};
use read::Reader;
use store::{Store, Version};

/// Names of one `DeleteParameters` (API reference).
const MAX_DELETED: usize = 10;

/// The key of Systems Manager itself: every user of Parameter Store may use it.
const MANAGED_KEY: &str = "alias/aws/ssm";

/// The service: its data, and where its events go.
#[derive(Debug, Clone)]
pub(crate) struct ParameterStore {
    store: Arc<Store>,
    place: Place,
    empty_pages: bool,
    events: Arc<EventBridge>,
}

/// A parameter whose value lies encrypted under a key of the account's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encrypted {
    /// The parameter's ARN.
    pub(crate) parameter: String,
    /// The key as it was named when the value was put.
    pub(crate) key: String,
}

/// What a `Parameter Store Change` event calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Create,
    Update,
    Delete,
    LabelParameterVersion,
}

/// A change that is to be told.
#[derive(Debug)]
struct Change {
    operation: Operation,
    name: String,
    kind: String,
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Names {
    name: Option<String>,
    names: Option<Vec<String>>,
}

impl ParameterStore {
    /// Opens the parameters in `file`, or in memory.
    pub(crate) fn open(
        file: Option<&Path>,
        region: &str,
        account: &str,
        empty_pages: bool,
        events: Arc<EventBridge>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            store: Arc::new(Store::open(file)?),
            place: Place { region: region.to_owned(), account: account.to_owned() },
            empty_pages,
            events,
        })
    }

    /// Limits how many standard parameters there may be.
    pub(crate) fn limit(&self, most: u32) {
        self.store.limit(most);
    }

    /// Answers a call, and tells what it changed.
    pub(crate) async fn call(&self, operation: &str, body: Bytes, view: View) -> Result<Value, AwsError> {
        let service = self.clone();
        let operation = operation.to_owned();
        // The database waits for the disk; that must not hold up a worker that serves others.
        let done = tokio::task::spawn_blocking(move || service.execute(&operation, &body, view)).await;
        let (answer, changes) = done.map_err(|error| {
            tracing::error!(%error, "a Parameter Store call failed");
            AwsError::internal("InternalServerError", "The emulator failed; its log says why.")
        })??;
        for change in changes {
            self.tell(change);
        }
        Ok(answer)
    }

    fn execute(&self, operation: &str, body: &[u8], view: View) -> Result<(Value, Vec<Change>), AwsError> {
        let (store, place) = (&*self.store, &self.place);
        let reader = Reader { store, place, view, empty_pages: self.empty_pages };
        let unchanged = |answer: Value| (answer, Vec::new());
        match operation {
            "PutParameter" => put::put(store, place, body).map(|(answer, change)| (answer, vec![change])),
            "GetParameter" => read::one(&reader, body).map(unchanged),
            "GetParameters" => read::some(&reader, body).map(unchanged),
            "GetParametersByPath" => read::by_path(&reader, body).map(unchanged),
            "GetParameterHistory" => read::history(&reader, body).map(unchanged),
            "DescribeParameters" => read::describe(&reader, body).map(unchanged),
            "DeleteParameter" => self.delete_one(body),
            "DeleteParameters" => self.delete_some(body),
            "LabelParameterVersion" => {
                metadata::label(store, place, body).map(|(answer, change)| (answer, change.into_iter().collect()))
            }
            "UnlabelParameterVersion" => metadata::unlabel(store, place, body).map(unchanged),
            "AddTagsToResource" => metadata::add(store, place, body).map(unchanged),
            "RemoveTagsFromResource" => metadata::remove(store, place, body).map(unchanged),
            "ListTagsForResource" => metadata::list(store, place, body).map(unchanged),
            _ => Err(AwsError::new(
                "UnknownOperationException",
                format!("The emulator does not know the Systems Manager operation {operation:?}."),
            )),
        }
    }

    /// Whether a fault means something to a call. For faults that are not for every call.
    pub(crate) fn fits(&self, fault: Fault, operation: &str, body: &[u8]) -> bool {
        match (fault, operation) {
            // The operations whose errors include TooManyUpdates in the API reference.
            (
                Fault::TransactionConflict,
                "PutParameter"
                | "LabelParameterVersion"
                | "UnlabelParameterVersion"
                | "AddTagsToResource"
                | "RemoveTagsFromResource",
            )
            | (
                Fault::StalePage | Fault::EmptyPage,
                "GetParametersByPath" | "DescribeParameters" | "GetParameterHistory",
            )
            | (Fault::WholeSeconds, "GetParameter" | "GetParameters" | "GetParametersByPath") => true,
            (Fault::StalePage, "GetParameter" | "GetParameters") => self.asks_for_newest(body),
            (Fault::NotYet, _) => nothing(operation, body).is_some(),
            _ => false,
        }
    }

    /// Whether one of the names stands without a version or label.
    fn asks_for_newest(&self, body: &[u8]) -> bool {
        let newest = |name: &String| self.place.asked(name).is_ok_and(|asked| asked.selector == Selector::Latest);
        parse::<Names>(body).is_ok_and(|asked| asked.name.iter().chain(asked.names.iter().flatten()).any(newest))
    }

    /// The parameters that a call would decrypt with a key of the account's own. All that lie under
    /// a path, not those of one page alone. None where the call fails anyway.
    pub(crate) async fn encrypted(&self, operation: &str, body: Bytes) -> Vec<Encrypted> {
        if !read::decrypts(&body) {
            return Vec::new();
        }
        let service = self.clone();
        let operation = operation.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let reader = Reader { store: &service.store, place: &service.place, view: View::Whole, empty_pages: false };
            read::encrypted(&reader, &operation, &body).unwrap_or_default()
        });
        found.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the keys of parameters could not be looked up");
            Vec::new()
        })
    }

    fn delete_one(&self, body: &[u8]) -> Result<(Value, Vec<Change>), AwsError> {
        let request: Names = parse(body)?;
        let name = self.place.asked(required(request.name.as_deref(), "name")?)?.name;
        self.store.transaction(|tables| {
            let version = tables.latest(&name)?.ok_or_else(|| not_found(&name))?;
            tables.delete(&name)?;
            Ok((json!({}), vec![Change::of(Operation::Delete, &version)]))
        })
    }

    fn delete_some(&self, body: &[u8]) -> Result<(Value, Vec<Change>), AwsError> {
        let request: Names = parse(body)?;
        let names = required(request.names, "names")?;
        if names.is_empty() || names.len() > MAX_DELETED {
            return Err(AwsError::constraint(
                &format!("[{}]", names.join(", ")),
                "names",
                &format!("have length between 1 and {MAX_DELETED}"),
            ));
        }
        self.store.transaction(|tables| {
            let (mut deleted, mut invalid, mut changes) = (Vec::new(), Vec::new(), Vec::new());
            for name in &names {
                match tables.latest(&self.place.asked(name)?.name)? {
                    Some(version) => {
                        tables.delete(&version.name)?;
                        changes.push(Change::of(Operation::Delete, &version));
                        deleted.push(name);
                    }
                    None => invalid.push(name),
                }
            }
            Ok((json!({ "DeletedParameters": deleted, "InvalidParameters": invalid }), changes))
        })
    }

    /// Sends the `Parameter Store Change` event; it holds no value and no version.
    fn tell(&self, change: Change) {
        let mut detail = json!({
            "operation": format!("{:?}", change.operation),
            "name": change.name,
            "type": change.kind,
        });
        if let Some(description) = change.description {
            detail["description"] = json!(description);
        }
        let event = Event {
            source: "aws.ssm".to_owned(),
            detail_type: "Parameter Store Change".to_owned(),
            resources: vec![self.place.arn(&change.name)],
            detail,
            time: OffsetDateTime::now_utc(),
            trace_header: None,
        };
        self.events.emit(DEFAULT_BUS, &event);
    }
}

impl Change {
    fn of(operation: Operation, version: &Version) -> Self {
        Self {
            operation,
            name: version.name.clone(),
            kind: version.kind.clone(),
            description: version.description.clone(),
        }
    }
}

/// Whether a key takes permissions to use.
pub(crate) fn is_own_key(key: &str) -> bool {
    !key.ends_with(MANAGED_KEY)
}

/// The ARN of the parameter that a name names: with a selector, as an ARN or plain. `*` if that is
/// no name.
pub(crate) fn resource(account: &Account, name: &str) -> String {
    let place = Place { region: account.region.clone(), account: account.id.clone() };
    match place.asked(name) {
        Ok(asked) if asked.name.starts_with("arn:") => asked.name,
        Ok(asked) => place.arn(&asked.name),
        Err(_) => "*".to_owned(),
    }
}

/// What Parameter Store answers to a call that is to fail without being executed.
pub(crate) fn failure(fault: Fault) -> AwsError {
    match fault {
        Fault::Throttle => AwsError::new("ThrottlingException", "Rate exceeded"),
        Fault::TransactionConflict => AwsError::new(
            "TooManyUpdates",
            "There are concurrent updates for a resource that supports one update at a time.",
        ),
        _ => AwsError::internal("InternalServerError", "Internal server error"),
    }
}

/// What a read answers that does not see any parameter yet; none for what is no read.
pub(crate) fn nothing(operation: &str, body: &[u8]) -> Option<Result<Value, AwsError>> {
    let request: Value = serde_json::from_slice(body).ok()?;
    match operation {
        "DescribeParameters" => Some(Ok(json!({ "Parameters": [] }))),
        "GetParameters" => Some(Ok(json!({ "Parameters": [], "InvalidParameters": request["Names"] }))),
        "GetParameter" | "GetParameterHistory" => Some(Err(not_found(request["Name"].as_str().unwrap_or_default()))),
        _ => None,
    }
}

fn not_found(name: &str) -> AwsError {
    AwsError::new("ParameterNotFound", format!("Parameter {name} not found."))
}

/// Epoch seconds with three decimals, as the JSON protocols write a time.
fn milliseconds(time: i64) -> Value {
    let seconds = format!("{}.{:03}", time.div_euclid(1_000), time.rem_euclid(1_000));
    seconds.parse::<f64>().map_or(Value::Null, Value::from)
}
