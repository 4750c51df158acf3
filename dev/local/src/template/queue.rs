//! Queues as the template has them, the rules that feed them, and the functions that they feed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

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
    #[serde(rename = "DeadLetterConfig", default)]
    _dead_letters: Value,
}

/// A queue whose messages a function is called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    /// The queue's name.
    pub queue: String,
    /// The binary of the function.
    pub function: String,
    /// The most messages of a call.
    pub batch_size: usize,
    /// The most calls at a time.
    pub max_concurrency: usize,
}

/// A function's event of type `SQS`. What is not here would change what is delivered, so it is
/// refused.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct SourceProperties {
    queue: String,
    batch_size: usize,
    function_response_types: [ResponseType; 1],
    scaling_config: ScalingConfig,
}

#[derive(Debug, Deserialize)]
enum ResponseType {
    ReportBatchItemFailures,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ScalingConfig {
    maximum_concurrency: usize,
}

impl SourceProperties {
    pub(super) fn of(self, function: String) -> EventSource {
        let Self {
            queue,
            batch_size,
            function_response_types: [ResponseType::ReportBatchItemFailures],
            scaling_config,
        } = self;
        let queue = queue.rsplit(':').next().unwrap_or_default().to_owned();
        EventSource { queue, function, batch_size, max_concurrency: scaling_config.maximum_concurrency }
    }
}
