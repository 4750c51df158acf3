//! The streaming service as the template has it: its container's settings and its role, the queue
//! of its hints, and the rule that feeds it. The load balancer, networks and the service's numbers
//! have no local counterpart.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;

/// The streaming service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamService {
    /// The environment variables that the template sets.
    pub environment: BTreeMap<String, String>,
    /// Environment variables whose values ECS would take from elsewhere, with the ARN of where.
    pub secrets: BTreeMap<String, String>,
    /// The name of the task's role.
    pub role: String,
}

/// An SQS queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// How long a message that was received is hidden.
    pub visibility_timeout: Duration,
    /// How long a message is kept.
    pub retention: Duration,
}

/// `AWS::SQS::Queue`: its properties that mean something here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct QueueProperties {
    fifo_queue: bool,
    visibility_timeout: u64,
    message_retention_period: u64,
}

impl Default for QueueProperties {
    /// What SQS has where the template says nothing.
    fn default() -> Self {
        Self { fifo_queue: false, visibility_timeout: 30, message_retention_period: 345_600 }
    }
}

impl QueueProperties {
    /// None if it is of the kind that is not run here.
    pub(super) fn named(&self, name: String) -> Option<Queue> {
        let (hidden, kept) = (self.visibility_timeout, self.message_retention_period);
        let queue =
            Queue { name, visibility_timeout: Duration::from_secs(hidden), retention: Duration::from_secs(kept) };
        (!self.fifo_queue).then_some(queue)
    }
}

/// `AWS::Events::Rule`. What is not here would change what is delivered, so it is refused.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RuleProperties {
    pub(super) event_bus_name: Option<String>,
    pub(super) event_pattern: Value,
    pub(super) targets: Vec<RuleTarget>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RuleTarget {
    #[serde(rename = "Id")]
    _id: String,
    pub(super) arn: String,
    #[serde(rename = "RetryPolicy", default)]
    _retry_policy: Value,
}

/// `AWS::ECS::TaskDefinition`: its properties that mean something here. The role is read from the
/// template itself, by its name there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaskProperties {
    pub(super) container_definitions: Vec<Container>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    #[serde(default)]
    environment: Vec<Variable>,
    #[serde(default)]
    secrets: Vec<Secret>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Secret {
    name: String,
    value_from: String,
}

impl Container {
    /// The service in this container. The error is a variable that is given twice.
    pub(super) fn service(self, role: String) -> Result<StreamService, String> {
        let mut service = StreamService { environment: BTreeMap::new(), secrets: BTreeMap::new(), role };
        for Variable { name, value } in self.environment {
            if service.environment.insert(name.clone(), value).is_some() {
                return Err(name);
            }
        }
        for Secret { name, value_from } in self.secrets {
            let is_set = service.environment.contains_key(&name);
            if is_set || service.secrets.insert(name.clone(), value_from).is_some() {
                return Err(name);
            }
        }
        Ok(service)
    }
}
