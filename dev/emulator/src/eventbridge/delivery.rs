//! Brings events to their targets: beside the caller, again after an error, and counted, so that
//! tests can wait for it.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::Rule;
use crate::shutdown::Shutdown;

/// How long to wait before delivering again. AWS goes on for 24 hours; while developing, giving up
/// soon is more use.
const BACKOFF: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];

/// An event, and the rule that it matches.
#[derive(Clone, Debug)]
pub(super) struct Match {
    pub(super) rule: Rule,
    pub(super) event: Value,
    pub(super) trace: Option<String>,
}

/// The deliveries under way.
#[derive(Debug)]
pub(super) struct Deliveries {
    under_way: watch::Sender<usize>,
    shutdown: Shutdown,
}

impl Deliveries {
    pub(super) fn new(shutdown: Shutdown) -> Self {
        Self { under_way: watch::Sender::new(0), shutdown }
    }

    /// Sets events on their way, one after another, the first after `wait`.
    pub(super) fn start(&self, matches: Vec<Match>, wait: Duration) {
        let under_way = UnderWay::begin(&self.under_way);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let _under_way = under_way;
            let delivering = async {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                for one in matches {
                    deliver(&one.rule, &one.event, one.trace).await;
                }
            };
            tokio::select! {
                () = shutdown.requested() => {}
                () = delivering => {}
            }
        });
    }

    /// Resolves when nothing is under way.
    pub(super) async fn settled(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.under_way.subscribe().wait_for(|count| *count == 0).await;
    }
}

async fn deliver(rule: &Rule, event: &Value, trace: Option<String>) {
    for wait in BACKOFF.map(Some).into_iter().chain([None]) {
        let Err(error) = (rule.target)(event.clone(), trace.clone()).await else {
            return;
        };
        match wait {
            Some(wait) => {
                tracing::debug!(rule = rule.name, error, "an event is delivered again");
                tokio::time::sleep(wait).await;
            }
            None => {
                tracing::warn!(rule = rule.name, event = %event["id"], error, "an event was dropped");
            }
        }
    }
}

/// Counted off when dropped, so that a target that panics is not waited for.
struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
