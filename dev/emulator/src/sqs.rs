//! Simple Queue Service: standard queues in memory, with long polling and visibility timeouts, by
//! Tokio's clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::account::Account;
use crate::eventbridge::Target;
use crate::faults::Fault;
use crate::shutdown::Shutdown;
use crate::wire::{AwsError, parse};

/// Bytes of a message ("Amazon SQS message quotas": 1 MiB).
const MAX_BODY: usize = 1024 * 1024;
/// Seconds, messages and entries of one call (`ReceiveMessage` and `DeleteMessageBatch` in the SQS
/// API reference).
const MAX_WAIT: u64 = 20;
const MAX_VISIBILITY: u64 = 43_200;
const MAX_MESSAGES: usize = 10;

/// A queue, as its attributes have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name, unique in the account.
    pub name: String,
    /// How long a message that was received is hidden where the call does not say:
    /// `VisibilityTimeout`.
    pub visibility_timeout: Duration,
    /// How long a message is kept: `MessageRetentionPeriod`.
    pub retention: Duration,
}

impl Queue {
    /// A queue with AWS's defaults: 30 seconds hidden, four days kept.
    pub fn named(name: impl Into<String>) -> Self {
        let retention = Duration::from_hours(4 * 24);
        Self { name: name.into(), visibility_timeout: Duration::from_secs(30), retention }
    }
}

/// The queues of the account.
#[derive(Debug)]
pub(crate) struct Queues {
    account: Account,
    by_name: Mutex<BTreeMap<String, Arc<Open>>>,
    shutdown: Shutdown,
}

/// A queue and what is in it.
#[derive(Debug)]
struct Open {
    queue: Queue,
    messages: Mutex<VecDeque<Message>>,
    /// Changes with each message that is sent.
    sent: watch::Sender<()>,
}

#[derive(Debug)]
struct Message {
    id: Uuid,
    body: String,
    sent: Instant,
    visible: Instant,
    /// What the newest receipt was answered with; an older one deletes nothing.
    receipt: Option<Uuid>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    queue_url: Option<String>,
    queue_name: Option<String>,
    message_body: Option<String>,
    max_number_of_messages: Option<usize>,
    visibility_timeout: Option<u64>,
    wait_time_seconds: Option<u64>,
    receipt_handle: Option<String>,
    entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    id: String,
    receipt_handle: String,
}

impl Queues {
    pub(crate) fn new(account: Account, shutdown: Shutdown) -> Self {
        Self { account, by_name: Mutex::default(), shutdown }
    }

    /// Adds a queue, unless one of its name is there. Returns its address.
    pub(crate) fn add(&self, queue: Queue) -> String {
        let url = self.url(&queue.name);
        let mut queues = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |queue| Arc::new(Open { queue, messages: Mutex::default(), sent: watch::Sender::new(()) });
        queues.entry(queue.name.clone()).or_insert_with(|| open(queue));
        url
    }

    /// Takes events as messages: the event as JSON text.
    pub(crate) fn target(&self, name: &str) -> Option<Target> {
        let open = self.find(name)?;
        Some(Arc::new(move |event, _| {
            open.send(event.to_string());
            Box::pin(async { Ok(()) })
        }))
    }

    /// Answers a call.
    pub(crate) async fn call(&self, operation: &str, body: &[u8]) -> Result<Value, AwsError> {
        if !["SendMessage", "ReceiveMessage", "DeleteMessage", "DeleteMessageBatch", "GetQueueUrl"].contains(&operation)
        {
            let message = format!("The emulator does not know the SQS operation {operation:?}.");
            return Err(AwsError::new("UnknownOperationException", message));
        }
        let request: Request = parse(body)?;
        if operation == "GetQueueUrl" {
            let name = given(request.queue_name, "QueueName")?;
            let open = self.find(&name).ok_or_else(no_queue)?;
            return Ok(json!({ "QueueUrl": self.url(&open.queue.name) }));
        }
        let url = given(request.queue_url.clone(), "QueueUrl")?;
        let open = name_in(&self.account, &url).and_then(|name| self.find(name)).ok_or_else(no_queue)?;
        match operation {
            "SendMessage" => {
                let body = given(request.message_body, "MessageBody")?;
                if body.is_empty() || body.len() > MAX_BODY {
                    return Err(invalid(&format!("MessageBody must have 1 to {MAX_BODY} bytes.")));
                }
                let digest = digest(&body);
                Ok(json!({ "MessageId": open.send(body), "MD5OfMessageBody": digest }))
            }
            "ReceiveMessage" => self.receive(&open, &request).await,
            "DeleteMessage" => {
                open.delete(&given(request.receipt_handle, "ReceiptHandle")?)?;
                Ok(json!({}))
            }
            _ => delete_batch(&open, &request.entries.unwrap_or_default()),
        }
    }

    async fn receive(&self, open: &Open, request: &Request) -> Result<Value, AwsError> {
        let most = request.max_number_of_messages.unwrap_or(1);
        let wait = request.wait_time_seconds.unwrap_or(0);
        let hidden = request.visibility_timeout;
        if !(1..=MAX_MESSAGES).contains(&most) {
            return Err(invalid("MaxNumberOfMessages must be from 1 to 10."));
        }
        if wait > MAX_WAIT || hidden.is_some_and(|hidden| hidden > MAX_VISIBILITY) {
            return Err(invalid("WaitTimeSeconds must be from 0 to 20, VisibilityTimeout from 0 to 43200."));
        }
        let hidden = hidden.map_or(open.queue.visibility_timeout, Duration::from_secs);
        let end = Instant::now() + Duration::from_secs(wait);
        let mut sent = open.sent.subscribe();
        loop {
            sent.mark_unchanged();
            let (messages, next) = open.take(most, hidden);
            if !messages.is_empty() {
                return Ok(json!({ "Messages": messages }));
            }
            if Instant::now() >= end {
                return Ok(json!({}));
            }
            tokio::select! {
                () = self.shutdown.requested() => return Ok(json!({})),
                // The sender lives as long as the queue, so this cannot fail.
                _ = sent.changed() => {}
                () = sleep_until(next.map_or(end, |next| next.min(end))) => {}
            }
        }
    }

    fn find(&self, name: &str) -> Option<Arc<Open>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn url(&self, name: &str) -> String {
        format!("https://sqs.{}.amazonaws.com/{}/{name}", self.account.region, self.account.id)
    }
}

impl Open {
    fn send(&self, body: String) -> String {
        let (id, now) = (Uuid::new_v4(), Instant::now());
        self.lock().push_back(Message { id, body, sent: now, visible: now, receipt: None });
        self.sent.send_replace(());
        id.to_string()
    }

    /// Messages that may be seen, and when the next of the others may.
    fn take(&self, most: usize, hidden: Duration) -> (Vec<Value>, Option<Instant>) {
        let now = Instant::now();
        let mut messages = self.lock();
        messages.retain(|message| now.duration_since(message.sent) < self.queue.retention);
        let taken = messages.iter_mut().filter(|message| message.visible <= now).take(most);
        let taken = taken.map(|message| {
            let receipt = Uuid::new_v4();
            message.visible = now + hidden;
            message.receipt = Some(receipt);
            json!({
                "MessageId": message.id.to_string(),
                "ReceiptHandle": receipt.to_string(),
                "MD5OfBody": digest(&message.body),
                "Body": message.body,
            })
        });
        let taken = taken.collect();
        (taken, messages.iter().map(|message| message.visible).min())
    }

    /// Deletes what the handle was given for, if that is still the newest receipt. To delete twice
    /// is no error.
    fn delete(&self, handle: &str) -> Result<(), AwsError> {
        let handle = Uuid::parse_str(handle).map_err(|_| {
            AwsError::new("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
                .with_query_code("ReceiptHandleIsInvalid")
        })?;
        self.lock().retain(|message| message.receipt != Some(handle));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delete_batch(open: &Open, entries: &[Entry]) -> Result<Value, AwsError> {
    let refused = |code: &'static str, query: &'static str, message: &str| {
        Err(AwsError::new(code, message).with_query_code(query))
    };
    let ids: BTreeSet<_> = entries.iter().map(|entry| &entry.id).collect();
    match entries.len() {
        0 => {
            let query = "AWS.SimpleQueueService.EmptyBatchRequest";
            return refused("EmptyBatchRequest", query, "There should be at least one entry in the request.");
        }
        many if many > MAX_MESSAGES => {
            let query = "AWS.SimpleQueueService.TooManyEntriesInBatchRequest";
            return refused("TooManyEntriesInBatchRequest", query, "A batch has ten entries at most.");
        }
        all if all != ids.len() => {
            let query = "AWS.SimpleQueueService.BatchEntryIdsNotDistinct";
            return refused("BatchEntryIdsNotDistinct", query, "Two entries have the same Id.");
        }
        _ => {}
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for Entry { id, receipt_handle } in entries {
        match open.delete(receipt_handle) {
            Ok(()) => successful.push(json!({ "Id": id })),
            Err(error) => {
                failed.push(json!({ "Id": id, "Code": error.code(), "Message": error.message(), "SenderFault": true }));
            }
        }
    }
    Ok(json!({ "Successful": successful, "Failed": failed }))
}

/// What SQS answers to a call that is to fail without being executed.
pub(crate) fn failure(fault: Fault) -> AwsError {
    match fault {
        Fault::Throttle => AwsError::new("RequestThrottled", "Rate exceeded").with_query_code("RequestThrottled"),
        _ => AwsError::internal("InternalFailure", "Internal server error"),
    }
}

/// The queue's name in its address, whatever host stands there: the account's own queues only.
pub(crate) fn name_in<'a>(account: &Account, url: &'a str) -> Option<&'a str> {
    let (before, name) = url.rsplit_once('/')?;
    before.ends_with(&format!("/{}", account.id)).then_some(name)
}

fn given(member: Option<String>, name: &str) -> Result<String, AwsError> {
    let missing = || AwsError::new("MissingParameter", format!("The request must contain the parameter {name}."));
    member.ok_or_else(missing)
}

fn invalid(reason: &str) -> AwsError {
    AwsError::new("InvalidParameterValue", reason)
}

fn no_queue() -> AwsError {
    AwsError::new("QueueDoesNotExist", "The specified queue does not exist.")
        .with_query_code("AWS.SimpleQueueService.NonExistentQueue")
}

/// SDKs compare it with what they sent or got.
fn digest(body: &str) -> String {
    format!("{:x}", md5::compute(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues() -> (watch::Sender<bool>, Queues) {
        let (stop, shutdown) = Shutdown::channel();
        let account = Account { region: "eu-central-1".to_owned(), id: "111122223333".to_owned() };
        (stop, Queues::new(account, shutdown))
    }

    async fn receive(queues: &Queues, url: &str, more: &Value) -> Vec<String> {
        let mut request = json!({ "QueueUrl": url });
        request.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let answer = queues.call("ReceiveMessage", request.to_string().as_bytes()).await.expect("an answer");
        let messages = answer["Messages"].as_array().into_iter().flatten();
        messages.map(|message| message["Body"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Promise: a message that was received and not deleted is there again after its visibility
    /// timeout, and not before; a poll that waits gets it at that very moment; after the queue's
    /// retention period it is gone.
    #[tokio::test(start_paused = true)]
    async fn messages_come_again_until_they_are_too_old() {
        let (_stop, queues) = queues();
        let minute = Duration::from_mins(1);
        let url = queues.add(Queue { retention: 2 * minute, ..Queue::named("q") });
        assert_eq!(url, "https://sqs.eu-central-1.amazonaws.com/111122223333/q");
        let began = Instant::now();
        queues.find("q").expect("a queue").send("m".to_owned());
        assert_eq!(receive(&queues, &url, &json!({})).await, ["m"]);
        assert!(receive(&queues, &url, &json!({ "WaitTimeSeconds": 20 })).await.is_empty());
        assert_eq!(began.elapsed().as_secs(), 20);
        assert_eq!(receive(&queues, &url, &json!({ "WaitTimeSeconds": 20, "VisibilityTimeout": 60 })).await, ["m"]);
        assert_eq!(began.elapsed().as_secs(), 30);
        tokio::time::advance(minute).await;
        assert_eq!(receive(&queues, &url, &json!({ "VisibilityTimeout": 0 })).await, ["m"]);
        tokio::time::advance(minute / 2).await;
        assert!(receive(&queues, &url, &json!({})).await.is_empty());
    }

    /// Promise: who waits for a message does not hold up the end of the emulator.
    #[tokio::test(start_paused = true)]
    async fn a_poll_ends_with_the_emulator() {
        let (stop, queues) = queues();
        let url = queues.add(Queue::named("q"));
        let began = Instant::now();
        stop.send_replace(true);
        assert!(receive(&queues, &url, &json!({ "WaitTimeSeconds": 20 })).await.is_empty());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
