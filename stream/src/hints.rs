//! Hints from a queue of `Config Changed` events: whose change to look for before the index of
//! changes has it.
//!
//! Hints only. One that is lost costs the time until the index is looked at; one that is made up
//! costs a look at a tenant's log. A queue gives each message to one reader, so of several
//! instances each hears of some changes only.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, Region, timeout::TimeoutConfig},
    types::{DeleteMessageBatchRequestEntry, Message},
};
use serde_json::Value;
use tenantry::{
    aws::{AwsSettings, error_chain},
    model::tenant::TenantId,
};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::memory::Memory;

/// How long the queue may be silent in one call, in seconds: SQS's limit.
const WAIT_SECONDS: i32 = 20;
/// How many messages come at once: SQS's limit.
const MAX_MESSAGES: i32 = 10;
/// How long after a failure the queue is asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// A client for the queue, which may keep silent for a while.
pub(crate) fn client(settings: &AwsSettings) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_timeout(Duration::from_secs(u64::from(WAIT_SECONDS.unsigned_abs()) + 10));
    let mut config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(settings.region.clone()))
        .credentials_provider(settings.credentials.provider())
        .http_client(settings.http_client())
        .timeout_config(timeouts.build());
    config.set_endpoint_url(settings.endpoint.clone());
    Client::from_conf(config.build())
}

/// Takes hints from the queue until `stop` says so, and passes on whose changes are news.
pub(crate) async fn listen(
    memory: Arc<Memory>,
    client: Client,
    queue: String,
    hints: mpsc::Sender<TenantId>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let receiving = client
            .receive_message()
            .queue_url(&queue)
            .max_number_of_messages(MAX_MESSAGES)
            .wait_time_seconds(WAIT_SECONDS)
            .send();
        let received = tokio::select! {
            received = receiving => received,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let messages = match received {
            Ok(received) => received.messages.unwrap_or_default(),
            Err(error) => {
                warn!(
                    error = error_chain(&error),
                    "the queue of hints cannot be read; changes come by the index alone"
                );
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => continue,
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        };
        for message in &messages {
            if let Some(tenant) = advertise(&memory, message.body().unwrap_or_default()) {
                // If there are more than can be seen to, the index tells the rest.
                let _ = hints.try_send(tenant);
            }
        }
        memory.metrics().hints.inc_by(messages.len() as u64);
        delete(&client, &queue, messages).await;
    }
}

/// Takes note of what an event says, if it says anything. Whose change it is, if that is news.
fn advertise(memory: &Memory, event: &str) -> Option<TenantId> {
    let event: Value = serde_json::from_str(event).ok()?;
    let tenant = event.pointer("/detail/tenant")?.as_str()?.parse().ok()?;
    let revision = event.pointer("/detail/revision")?.as_u64()?;
    memory.known(&tenant)?.advertise(revision).then_some(tenant)
}

/// Takes messages off the queue. One that stays there comes again, and is no news then.
async fn delete(client: &Client, queue: &str, messages: Vec<Message>) {
    let entries = messages.into_iter().enumerate().filter_map(|(index, message)| {
        let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
        entry.receipt_handle(message.receipt_handle?).build().ok()
    });
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() {
        return;
    }
    if let Err(error) = client.delete_message_batch().queue_url(queue).set_entries(Some(entries)).send().await {
        warn!(error = error_chain(&error), "hints could not be taken off the queue");
    }
}
