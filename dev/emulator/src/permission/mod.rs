//! What a call needs permission for, as IAM counts it: actions on resources, each with its
//! condition keys.
//!
//! From "Actions, resources, and condition keys" of each service in the Service Authorization
//! Reference.

pub(crate) mod dynamodb;
mod key_condition;
pub(crate) mod parameter_store;
mod partiql;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::Service;
use crate::account::Account;
use crate::dynamodb::TableKeys;
use crate::iam::Need;
use crate::parameter_store::Encrypted;
use crate::sqs;
use crate::sts::AssumeRole;

/// What of the stored data decides what a call needs.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// By the table's name: those that [`dynamodb::tables`] asks for.
    pub(crate) tables: HashMap<String, Arc<TableKeys>>,
    /// What the call would decrypt.
    pub(crate) encrypted: Vec<Encrypted>,
}

/// What a call needs. The body is a JSON object; a form that cannot be read needs nothing, as it is
/// refused for that.
pub(crate) fn needed(account: &Account, service: Service, operation: &str, body: &[u8], stored: &Stored) -> Vec<Need> {
    if service == Service::Sts {
        return sts(operation, body);
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match service {
        Service::DynamoDb => dynamodb::needs(account, operation, &body, &stored.tables),
        Service::ParameterStore => parameter_store::needs(account, operation, &body, &stored.encrypted),
        Service::Sqs => vec![queue(account, operation, &body)],
        Service::EventBridge | Service::Sts => event_bridge(account, operation, &body),
    }
}

fn event_bridge(account: &Account, operation: &str, body: &Value) -> Vec<Need> {
    let action = format!("events:{operation}");
    let bus = |name: &Value| match name.as_str().unwrap_or("default") {
        arn if arn.starts_with("arn:") => arn.to_owned(),
        name => account.arn("events", &format!("event-bus/{name}")),
    };
    match operation {
        "PutEvents" => {
            let entries = body["Entries"].as_array().into_iter().flatten();
            let needs = entries.map(|entry| {
                // A list instead of an object is read by the order of its members; nobody sends
                // that in good faith.
                let bus = if entry.is_object() { bus(&entry["EventBusName"]) } else { "*".to_owned() };
                Need::new(action.as_str(), bus)
                    .with("events:source", entry["Source"].as_str())
                    .with("events:detail-type", entry["DetailType"].as_str())
            });
            needs.collect()
        }
        "DescribeEventBus" => vec![Need::new(action, bus(&body["Name"]))],
        _ => vec![Need::new(action, "*")],
    }
}

/// A batch needs what each of its entries would need alone.
fn queue(account: &Account, operation: &str, body: &Value) -> Need {
    let action = format!("sqs:{}", operation.strip_suffix("Batch").unwrap_or(operation));
    let name = match operation {
        "GetQueueUrl" => body["QueueName"].as_str(),
        _ => body["QueueUrl"].as_str().and_then(|url| sqs::name_in(account, url)),
    };
    Need::new(action, name.map_or_else(|| "*".to_owned(), |name| account.arn("sqs", name)))
}

/// Everybody may ask who they are. What trust policies say of the rest is for [`crate::iam::Iam`]
/// to find.
fn sts(operation: &str, body: &[u8]) -> Vec<Need> {
    match operation {
        "GetCallerIdentity" => Vec::new(),
        "AssumeRole" => match AssumeRole::parse(body) {
            Ok(request) => request.needs(),
            Err(_) => Vec::new(),
        },
        _ => vec![Need::new(format!("sts:{operation}"), "*")],
    }
}

impl AssumeRole {
    fn needs(&self) -> Vec<Need> {
        let need = |action: &str| {
            let mut need = Need::new(action, self.role_arn.as_str())
                .with_all("aws:TagKeys", self.tags.iter().map(|(key, _)| key.clone()));
            // The reference lists neither for TagSession.
            if action == "sts:AssumeRole" {
                need = need
                    .with("sts:RoleSessionName", Some(&self.session_name))
                    .with("sts:ExternalId", self.external_id.as_deref());
            }
            for (key, value) in &self.tags {
                need.context.set(&format!("aws:RequestTag/{key}"), value.as_str());
            }
            need
        };
        let actions: &[&str] =
            if self.tags.is_empty() { &["sts:AssumeRole"] } else { &["sts:AssumeRole", "sts:TagSession"] };
        actions.iter().map(|action| need(action)).collect()
    }
}
