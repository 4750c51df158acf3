//! What operators see of each invocation: one line of JSON that is log and metrics at once, and a
//! trace of its calls to AWS. It never contains a value, a token, or a claim other than the
//! tenant's id. The tenant is no dimension of a metric.

mod line;
mod log;
mod trace;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub use log::{init, init_to};
pub use trace::{InvalidDaemonAddress, TraceContext, Tracer};

use crate::{
    clock::{Clock, Timestamp},
    model::{entry::Revision, key::ConfigKey, tenant::TenantId},
};

/// Where lines and traces go.
#[derive(Clone)]
pub struct Telemetry {
    sink: Option<Sink>,
    tracer: Option<Tracer>,
    /// The name that metrics know the function by, if it is not its own: one that tells the stacks
    /// of one account apart.
    function: Option<Arc<str>>,
}

type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// How an invocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an HTTP status.
    Status(u16),
    /// An event was handled.
    Done,
    /// An event was dropped, because nothing can be done about it.
    Dropped,
    /// An event could not be handled; Lambda delivers it again.
    Failed,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheResult {
    /// From memory, without asking.
    Hit,
    /// From memory, after the head was compared.
    Validated,
    /// From the stores.
    Miss,
    /// From memory, because the store is down.
    Stale,
}

/// What is known of an invocation from the start.
#[derive(Clone, Debug)]
pub struct Invocation<'a> {
    /// The function.
    pub function: &'static str,
    /// What is asked for, one of few: a route's key, an event's kind.
    pub route: &'a str,
    /// The id that the Lambda service gave the invocation: that of its own lines, of retries and of
    /// dead letters.
    pub id: &'a str,
    /// The id that API Gateway gave the request, or EventBridge the event.
    pub request_id: &'a str,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
}

/// What is found out during the invocation.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    tenant: Option<TenantId>,
    key: Option<ConfigKey>,
    revision: Option<Revision>,
    cache: Option<CacheResult>,
    /// The type of the problem that was answered with.
    problem: Option<&'static str>,
    /// Calls to AWS by service, each attempt counted.
    calls: BTreeMap<&'static str, u32>,
    swept: Option<(SweepReport, Duration)>,
    /// Edits in a store that should have been JSON and are not.
    unparsed_edits: u32,
    /// How many committed values turned out to be refused by their stores.
    refusals: u32,
    /// What a round of comparison counted that has come to its end.
    round: Option<Round>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    /// Changes published.
    pub published: usize,
    /// Values replicated to their stores.
    pub replicated: usize,
    /// Parameters and entries that were compared with each other.
    pub compared: usize,
    /// Versions and removals by others that the comparison found and committed.
    pub imported: usize,
    /// Committed values that their stores refuse.
    pub refused: usize,
    /// Outbox items that failed and were postponed.
    pub failed: usize,
}

/// What a round of comparison counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Round {
    /// Parameters under the root.
    pub parameters: usize,
    /// Keys whose stores refuse what is committed.
    pub refused: usize,
    /// Whether the parameters were not counted to their end.
    pub is_cut: bool,
}

struct Current {
    id: String,
    request_id: String,
    notes: Mutex<Notes>,
    trace: Option<TraceContext>,
    tracer: Option<Tracer>,
}

tokio::task_local! {
    static CURRENT: Arc<Current>;
}

impl Telemetry {
    /// Lines to standard output, which Lambda takes to CloudWatch, in the name of the deployed
    /// `function`; traces to the X-Ray daemon, if there is one.
    pub fn lambda(function: Option<String>, tracer: Option<Tracer>) -> Self {
        Self { sink: Some(Arc::new(print)), tracer, function: function.map(Arc::from) }
    }

    /// Lines to `sink`, traces to `tracer`.
    pub fn to(sink: impl Fn(&str) + Send + Sync + 'static, tracer: Option<Tracer>) -> Self {
        Self { sink: Some(Arc::new(sink)), tracer, function: None }
    }

    /// Neither lines nor traces.
    pub fn silent() -> Self {
        Self { sink: None, tracer: None, function: None }
    }

    /// Carries out an invocation and writes its line.
    pub async fn observe<T>(
        &self,
        clock: &Clock,
        invocation: Invocation<'_>,
        doing: impl Future<Output = T>,
        outcome: impl FnOnce(&T) -> Outcome,
    ) -> T {
        let (began, at) = (Instant::now(), clock.now());
        let current = Arc::new(Current {
            id: invocation.id.to_owned(),
            request_id: invocation.request_id.to_owned(),
            trace: invocation.trace.clone(),
            notes: Mutex::default(),
            tracer: self.tracer.clone(),
        });
        let mut line =
            Unwritten { telemetry: self, invocation, current: &current, at, began, outcome: Outcome::Failed };
        let done = CURRENT.scope(Arc::clone(&current), doing).await;
        line.outcome = outcome(&done);
        done
    }
}

impl std::ops::Add for SweepReport {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            published: self.published + other.published,
            replicated: self.replicated + other.replicated,
            compared: self.compared + other.compared,
            imported: self.imported + other.imported,
            refused: self.refused + other.refused,
            failed: self.failed + other.failed,
        }
    }
}

impl std::ops::Add for Round {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            parameters: self.parameters + other.parameters,
            refused: self.refused + other.refused,
            is_cut: self.is_cut || other.is_cut,
        }
    }
}

/// The line of an invocation, written when the invocation ends, also by a panic.
struct Unwritten<'a> {
    telemetry: &'a Telemetry,
    invocation: Invocation<'a>,
    current: &'a Current,
    at: Timestamp,
    began: Instant,
    outcome: Outcome,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        let Some(sink) = &self.telemetry.sink else { return };
        let notes = self.current.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let function = self.telemetry.function.as_deref().unwrap_or(self.invocation.function);
        sink(&line::write(function, &self.invocation, &notes, self.at, self.began.elapsed(), self.outcome));
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::silent()
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("tracer", &self.tracer).finish_non_exhaustive()
    }
}

/// Writes a line to standard output. In one write, so that no other line comes in between.
fn print(line: &str) {
    // Where nobody reads, nothing is lost.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Notes something about the invocation that this is a part of, if it is a part of one.
fn note(take: impl FnOnce(&mut Notes)) {
    let _outside_of_one = CURRENT.try_with(|current| {
        take(&mut current.notes.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

/// Notes whose data the invocation is about.
pub(crate) fn note_tenant(tenant: &TenantId) {
    note(|notes| notes.tenant = Some(tenant.clone()));
}

/// Notes the one key that the invocation is about.
pub fn note_key(key: &ConfigKey) {
    note(|notes| notes.key = Some(key.clone()));
}

/// Notes the revision of the answer.
pub fn note_revision(revision: Revision) {
    note(|notes| notes.revision = Some(revision));
}

/// Notes where the answer came from.
pub(crate) fn note_cache(result: CacheResult) {
    note(|notes| notes.cache = Some(result));
}

/// Notes the type of the problem that is the answer.
pub fn note_problem(kind: &'static str) {
    note(|notes| notes.problem = Some(kind));
}

/// What a sweep came to, and how old the oldest item of the outbox was.
pub(crate) fn note_sweep(report: SweepReport, oldest: Duration) {
    note(|notes| notes.swept = Some((report, oldest)));
}

/// Counts an edit in a store that should have been JSON and is not.
pub(crate) fn note_unparsed_edit() {
    note(|notes| notes.unparsed_edits += 1);
}

/// Counts a committed value that its store refuses.
pub(crate) fn note_refusal() {
    note(|notes| notes.refusals += 1);
}

/// Notes what a round of comparison came to.
pub(crate) fn note_round(round: Round) {
    note(|notes| notes.round = Some(round));
}

/// An attempt of a call to AWS that has ended.
#[derive(Debug)]
pub(crate) struct CallSeen<'a> {
    pub(crate) service: &'static str,
    pub(crate) operation: &'a str,
    pub(crate) region: &'a str,
    pub(crate) began: std::time::SystemTime,
    pub(crate) took: Duration,
    /// The answer's status; none if no answer came.
    pub(crate) status: Option<u16>,
    /// Whether the service refused for the moment: too many requests.
    pub(crate) throttled: bool,
}

/// Counts an attempt of a call.
pub(crate) fn note_call(service: &'static str) {
    note(|notes| *notes.calls.entry(service).or_default() += 1);
}

/// Adds an attempt that has ended to the trace.
pub(crate) fn trace_call(call: &CallSeen<'_>) {
    let _outside_of_one = CURRENT.try_with(|current| {
        if let (Some(tracer), Some(trace)) = (&current.tracer, &current.trace) {
            tracer.send(trace, call);
        }
    });
}

/// The trace of the invocation that this is a part of, as the header `X-Amzn-Trace-Id` has it.
pub(crate) fn trace_header() -> Option<String> {
    CURRENT.try_with(|current| current.trace.as_ref().map(TraceContext::header)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// An invocation that panics is a failed one in the log and in the metrics.
    #[tokio::test]
    async fn a_panic_is_told() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        let telemetry = Telemetry::to(move |line| written.lock().unwrap().push(line.to_owned()), None);
        let invocation = Invocation { function: "f", route: "r", id: "i", request_id: "q", trace: None };
        let panicking = async { note_call("DynamoDB") }.map(|()| panic!("on purpose"));
        let clock = Clock::system();
        let watched = telemetry.observe(&clock, invocation, panicking, |&()| Outcome::Done);
        assert!(std::panic::AssertUnwindSafe(watched).catch_unwind().await.is_err());
        let lines = lines.lock().unwrap();
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((lines.len(), &line["Outcome"], &line["faas.invocation_id"]), (1, &"failed".into(), &"i".into()));
        assert_eq!(line["calls"], serde_json::json!({"DynamoDB": 1}), "what was known by then");
    }
}
