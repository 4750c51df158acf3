//! The template's schedules: timers that call a function with a scheduled event.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval_at},
};

use crate::{
    account::{ACCOUNT, REGION},
    functions::EventFunction,
    template::Schedule,
};

/// All schedules, running or not.
#[derive(Default)]
pub(crate) struct Schedules {
    schedules: Vec<(Schedule, EventFunction)>,
    timers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Schedules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.schedules.iter().map(|(schedule, _)| schedule)).finish()
    }
}

impl Schedules {
    /// Adds one, and starts its timer if it `runs`. The first call comes after one period, as on
    /// AWS.
    pub(crate) fn add(&mut self, schedule: Schedule, function: EventFunction, runs: bool) {
        if runs {
            let (timer, function) = (schedule.clone(), function.clone());
            self.timers.push(tokio::spawn(async move {
                let mut ticks = interval_at(tokio::time::Instant::now() + timer.every, timer.every);
                // A call that takes longer than the period delays the next one; it is not made up
                // for.
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    // A task of its own: a panic must not end the schedule.
                    match tokio::spawn(function(scheduled_event(&timer.name), None)).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => tracing::error!(schedule = timer.name, error, "a scheduled call failed"),
                        Err(error) => tracing::error!(schedule = timer.name, %error, "a scheduled call panicked"),
                    }
                }
            }));
        }
        self.schedules.push((schedule, function));
    }

    /// Calls every function once.
    pub(crate) async fn run_once(&self) -> Result<(), String> {
        for (schedule, function) in &self.schedules {
            function(scheduled_event(&schedule.name), None).await?;
        }
        Ok(())
    }

    /// Ends all timers.
    pub(crate) async fn stop(mut self) {
        for timer in std::mem::take(&mut self.timers) {
            timer.abort();
            // The error is the abort itself.
            let _ = timer.await;
        }
    }
}

impl Drop for Schedules {
    fn drop(&mut self) {
        for timer in &self.timers {
            timer.abort();
        }
    }
}

/// The event that `EventBridge` sends for the schedule `name`.
fn scheduled_event(name: &str) -> Value {
    json!({
        "version": "0",
        "id": uuid::Uuid::new_v4().to_string(),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": OffsetDateTime::now_utc().replace_nanosecond(0).ok().and_then(|now| now.format(&Rfc3339).ok()),
        "region": REGION,
        "resources": [format!("arn:aws:events:{REGION}:{ACCOUNT}:rule/{name}")],
        "detail": {},
    })
}
