//! What a call needs permission for, as IAM counts it: actions on resources, in the name of whoever signed.
//!
//! Signatures are not checked. Whether a call is allowed is for a [`Guard`] to say; without one all are.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::Value;

use crate::Service;

/// An action on a resource, in somebody's name. A call may need several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission {
    /// The access key id that the call was signed with.
    pub principal: String,
    /// The action, for example `dynamodb:GetItem`.
    pub action: String,
    /// The resource's ARN, or `*` where the action knows no resources.
    pub resource: String,
}

/// Says whether something is allowed.
pub type Guard = Arc<dyn Fn(&Permission) -> bool + Send + Sync>;

/// The guard, once there is one.
#[derive(Default)]
pub(crate) struct Guarded(RwLock<Option<Guard>>);

impl Guarded {
    pub(crate) fn set(&self, guard: Guard) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    }

    /// The first of the permissions that is not given.
    pub(crate) fn denied(&self, needed: impl FnOnce() -> Vec<Permission>) -> Option<Permission> {
        let guard = self.0.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        needed().into_iter().find(|permission| !guard(permission))
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Guarded")
    }
}

/// Where resources lie.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) region: String,
    pub(crate) id: String,
}

impl Account {
    fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.region, self.id)
    }
}

/// What a call needs. A body that cannot be read needs nothing: it is refused for that.
pub(crate) fn needed(
    account: &Account,
    service: Service,
    operation: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Vec<Permission> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let needs = match service {
        Service::DynamoDb => dynamodb(account, operation, &body),
        Service::ParameterStore => parameter_store(account, operation, &body),
        Service::EventBridge => event_bridge(account, operation, &body),
        Service::Sts => vec![(format!("sts:{operation}"), "*".to_owned())],
    };
    let principal = principal(headers);
    needs.into_iter().map(|(action, resource)| Permission { principal: principal.clone(), action, resource }).collect()
}

/// `AWS4-HMAC-SHA256 Credential=<access key id>/<day>/<region>/<service>/aws4_request, …`
fn principal(headers: &HeaderMap) -> String {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let credential = header.split_once("Credential=").map_or("", |(_, rest)| rest);
    credential.split('/').next().unwrap_or_default().to_owned()
}

type Need = (String, String);

/// Transactions need what their items need; a query of an index needs the index.
fn dynamodb(account: &Account, operation: &str, body: &Value) -> Vec<Need> {
    let table = |name: &Value| account.arn("dynamodb", &format!("table/{}", name.as_str().unwrap_or_default()));
    let need = |action: &str, resource| (format!("dynamodb:{action}"), resource);
    match operation {
        "TransactWriteItems" | "TransactGetItems" => {
            let items = body["TransactItems"].as_array().into_iter().flatten().filter_map(Value::as_object);
            let actions = items.flatten().map(|(kind, item)| {
                let action = match kind.as_str() {
                    "ConditionCheck" => "ConditionCheckItem".to_owned(),
                    kind => format!("{kind}Item"),
                };
                need(&action, table(&item["TableName"]))
            });
            actions.collect()
        }
        "BatchGetItem" | "BatchWriteItem" => {
            let tables = body["RequestItems"].as_object().into_iter().flat_map(|tables| tables.keys());
            tables.map(|name| need(operation, table(&Value::from(name.as_str())))).collect()
        }
        "ListTables" => vec![need(operation, "*".to_owned())],
        _ => {
            let table = table(&body["TableName"]);
            let resource = match body["IndexName"].as_str() {
                Some(index) => format!("{table}/index/{index}"),
                None => table,
            };
            vec![need(operation, resource)]
        }
    }
}

/// Parameters are named without the version behind their name.
fn parameter_store(account: &Account, operation: &str, body: &Value) -> Vec<Need> {
    let action = format!("ssm:{operation}");
    let parameter = |name: &str| {
        let name = name.trim_start_matches('/').split(':').next().unwrap_or_default();
        (action.clone(), account.arn("ssm", &format!("parameter/{name}")))
    };
    if let Some(name) = body["Name"].as_str().or(body["Path"].as_str()) {
        return vec![parameter(name)];
    }
    match body["Names"].as_array() {
        Some(names) => names.iter().filter_map(Value::as_str).map(parameter).collect(),
        None => vec![(action, "*".to_owned())],
    }
}

fn event_bridge(account: &Account, operation: &str, body: &Value) -> Vec<Need> {
    let action = format!("events:{operation}");
    let Some(entries) = body["Entries"].as_array() else { return vec![(action, "*".to_owned())] };
    let buses = entries.iter().map(|entry| entry["EventBusName"].as_str().unwrap_or("default"));
    buses.map(|bus| (action.clone(), account.arn("events", &format!("event-bus/{bus}")))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The permissions that IAM's documentation asks for.
    #[test]
    fn calls_need_what_iam_says() {
        let account = Account { region: "eu-central-1".to_owned(), id: "1".to_owned() };
        let mut headers = HeaderMap::new();
        let signed = "AWS4-HMAC-SHA256 Credential=config-read/20261121/eu-central-1/ssm/aws4_request, SignedHeaders=x";
        headers.insert(AUTHORIZATION, signed.parse().expect("a header"));
        for (service, operation, body, expected) in [
            (
                Service::DynamoDb,
                "TransactWriteItems",
                json!({"TransactItems": [{"Put": {"TableName": "t"}}, {"ConditionCheck": {"TableName": "t"}}]}),
                vec![
                    "dynamodb:PutItem arn:aws:dynamodb:eu-central-1:1:table/t",
                    "dynamodb:ConditionCheckItem arn:aws:dynamodb:eu-central-1:1:table/t",
                ],
            ),
            (
                Service::DynamoDb,
                "BatchGetItem",
                json!({"RequestItems": {"t": {}}}),
                vec!["dynamodb:BatchGetItem arn:aws:dynamodb:eu-central-1:1:table/t"],
            ),
            (
                Service::DynamoDb,
                "Query",
                json!({"TableName": "t", "IndexName": "work"}),
                vec!["dynamodb:Query arn:aws:dynamodb:eu-central-1:1:table/t/index/work"],
            ),
            (
                Service::ParameterStore,
                "GetParameters",
                json!({"Names": ["/a/b:3", "c"]}),
                vec![
                    "ssm:GetParameters arn:aws:ssm:eu-central-1:1:parameter/a/b",
                    "ssm:GetParameters arn:aws:ssm:eu-central-1:1:parameter/c",
                ],
            ),
            (Service::ParameterStore, "DescribeParameters", json!({}), vec!["ssm:DescribeParameters *"]),
            (
                Service::EventBridge,
                "PutEvents",
                json!({"Entries": [{"EventBusName": "b"}]}),
                vec!["events:PutEvents arn:aws:events:eu-central-1:1:event-bus/b"],
            ),
        ] {
            let found = needed(&account, service, operation, &headers, body.to_string().as_bytes());
            assert!(found.iter().all(|permission| permission.principal == "config-read"), "{found:?}");
            let found: Vec<_> = found.iter().map(|one| format!("{} {}", one.action, one.resource)).collect();
            assert_eq!(found, expected);
        }
    }
}
