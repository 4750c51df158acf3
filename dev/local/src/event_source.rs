//! Lambda's event source mapping of a queue: calls a function with batches of what a rule puts into
//! it.
//!
//! It differs from AWS in when an event that failed comes again: here after less than a second,
//! three times at most, as all that `EventBridge` delivers; there after the queue's visibility
//! timeout, until the queue's redrive policy makes it a dead letter.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use emulator::{Delivered, Target};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use crate::{
    account::{ACCOUNT, REGION},
    functions::EventFunction,
    template::EventSource,
};

/// An event that waits for a batch.
struct Waiting {
    record: Value,
    id: String,
    end: oneshot::Sender<Result<(), String>>,
}

/// A queue, and the function that is called with what is in it.
struct Mapping {
    source: EventSource,
    function: EventFunction,
    waiting: Mutex<VecDeque<Waiting>>,
    /// As many as there may be calls at a time.
    calls: Semaphore,
}

/// What takes a rule's events into the queue. Each counts as delivered once a call has handled it.
pub(crate) fn target(source: EventSource, function: EventFunction) -> Target {
    let calls = Semaphore::new(source.max_concurrency);
    let mapping = Arc::new(Mapping { source, function, waiting: Mutex::default(), calls });
    Arc::new(move |event, trace| Arc::clone(&mapping).deliver(&event, trace))
}

impl Mapping {
    fn deliver(self: Arc<Self>, event: &Value, trace: Option<String>) -> Delivered {
        let (end, ended) = oneshot::channel();
        let id = Uuid::new_v4().to_string();
        let record = self.record(&id, event, trace);
        self.lock().push_back(Waiting { record, id, end });
        Box::pin(async move {
            let call = self.calls.acquire().await.map_err(|closed| closed.to_string())?;
            // No window: whatever is there by now. Nothing, if another call took this event along.
            let batch: Vec<_> = {
                let mut waiting = self.lock();
                let size = self.source.batch_size.min(waiting.len());
                waiting.drain(..size).collect()
            };
            if !batch.is_empty() {
                self.call(batch).await;
            }
            drop(call);
            ended.await.unwrap_or_else(|_| Err("the call panicked".to_owned()))
        })
    }

    async fn call(&self, batch: Vec<Waiting>) {
        let records: Vec<_> = batch.iter().map(|one| &one.record).collect();
        let answer = (self.function)(json!({ "Records": records }), None).await;
        for Waiting { id, end, .. } in batch {
            let failed = match &answer {
                Err(error) => Some(error.clone()),
                Ok(answer) => {
                    let failures = answer["batchItemFailures"].as_array().into_iter().flatten();
                    let is_failed = failures.into_iter().any(|one| one["itemIdentifier"] == id.as_str());
                    is_failed.then(|| "the function did not manage it".to_owned())
                }
            };
            // Whoever waited for it may be gone.
            let _ = end.send(failed.map_or(Ok(()), Err));
        }
    }

    /// The message as Lambda shows it ("Using Lambda with Amazon SQS" in its developer guide).
    fn record(&self, id: &str, event: &Value, trace: Option<String>) -> Value {
        let mut attributes = json!({ "ApproximateReceiveCount": "1" });
        if let Some(trace) = trace {
            attributes["AWSTraceHeader"] = trace.into();
        }
        json!({
            "messageId": id,
            "receiptHandle": id,
            "body": event.to_string(),
            "attributes": attributes,
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{}", self.source.queue),
            "awsRegion": REGION,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    /// Promise: a call gets what waits, a batch at most; events beyond that wait for their turn;
    /// one that the function does not manage fails alone.
    #[tokio::test]
    async fn calls_take_batches() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&sizes);
        let function: EventFunction = Arc::new(move |event: Value, _| {
            let records = event["Records"].as_array().cloned().unwrap_or_default();
            noted.lock().expect("no panic while noting").push(records.len());
            let failed = records.iter().filter(|record| record["body"] == "7");
            let failed: Vec<_> = failed.map(|record| json!({ "itemIdentifier": record["messageId"] })).collect();
            async move { Ok(json!({ "batchItemFailures": failed })) }.boxed()
        });
        let (queue, binary) = ("queue".to_owned(), "function".to_owned());
        let source = EventSource { queue, function: binary, batch_size: 10, max_concurrency: 1 };
        let target = target(source, function);
        let ended = join_all((0..25).map(|event| target(json!(event), None))).await;
        let failed: Vec<_> = ended.iter().enumerate().filter(|(_, end)| end.is_err()).map(|(event, _)| event).collect();
        assert_eq!(failed, [7]);
        assert_eq!(*sizes.lock().expect("no panic while noting"), [10, 10, 5]);
    }
}
