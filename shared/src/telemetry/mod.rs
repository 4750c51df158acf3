//! What operators see of each invocation: one line of JSON that is log, metrics and trace id at once, and a trace of its calls to AWS.
//! Never a value, never a token, no claim but the tenant's id; and the tenant is no dimension of a metric.

mod line;
mod trace;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Instrument, error_span};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub use trace::{InvalidDaemonAddress, TraceContext, Tracer};

use crate::{
    clock::{Clock, Timestamp},
    entry::Revision,
    key::ConfigKey,
    service::SweepReport,
    tenant::TenantId,
};

/// The crates whose every line is ours to answer for.
const OURS: [&str; 4] = ["tenantry", "config_read", "config_write", "config_refresh"];

/// Sends the process's logs to standard output as JSON lines, at the levels of `RUST_LOG`, by default `info`.
pub fn init() {
    let levels = levels(std::env::var("RUST_LOG").as_deref().unwrap_or_default());
    let json = tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false).without_time();
    // A second call, as in tests, changes nothing.
    let _ = json.with_max_level(LevelFilter::TRACE).finish().with(levels).try_init();
}

/// The levels of `RUST_LOG`, but that no library may trace: some then write whole requests, with tokens and values.
fn levels(said: &str) -> Targets {
    // `EnvFilter` knows more than levels by target, for regular expressions in the binary and in every start.
    let said = said.parse().ok().filter(|_| !said.is_empty());
    let said: Targets = said.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let capped = |level: LevelFilter| level.min(LevelFilter::DEBUG);
    let default = said.default_level().unwrap_or(LevelFilter::OFF);
    Targets::new().with_default(capped(default)).with_targets(OURS.map(|target| (target, default))).with_targets(
        said.into_iter().map(|(target, level)| {
            let is_ours = OURS.iter().any(|ours| target.split("::").next() == Some(ours));
            (target, if is_ours { level } else { capped(level) })
        }),
    )
}

/// Where the lines and the traces go.
#[derive(Clone)]
pub struct Telemetry {
    sink: Option<Sink>,
    tracer: Option<Tracer>,
    /// The name that metrics know the function by, if it is not its own: one that tells suites of one account apart.
    function: Option<Arc<str>>,
}

type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// How an invocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an HTTP status.
    Status(u16),
    /// An event was worked off.
    Done,
    /// An event could not be worked off; Lambda delivers it again.
    Failed,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheResult {
    /// From memory, without asking.
    Hit,
    /// From memory, after a look at the head.
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
    /// The id that the Lambda service gave the invocation: that of its own lines, of retries and of dead letters.
    pub id: &'a str,
    /// The id that API Gateway gave the request, or EventBridge the event.
    pub request_id: &'a str,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
}

/// What is found out on the way.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    tenant: Option<TenantId>,
    key: Option<ConfigKey>,
    revision: Option<Revision>,
    cache: Option<CacheResult>,
    /// Calls to AWS by service, each attempt counted.
    calls: BTreeMap<&'static str, u32>,
    swept: Option<(SweepReport, Duration)>,
}

struct Current {
    notes: Mutex<Notes>,
    trace: Option<TraceContext>,
    tracer: Option<Tracer>,
}

tokio::task_local! {
    static CURRENT: Arc<Current>;
}

impl Telemetry {
    /// Lines to standard output, which Lambda takes to CloudWatch, in the name of the deployed `function`; traces to the X-Ray daemon,
    /// if there is one.
    pub fn lambda(function: Option<String>, tracer: Option<Tracer>) -> Self {
        let print = |line: &str| {
            // One write, so that no other line comes in between. Where nobody reads there is nobody to tell.
            let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
        };
        Self { sink: Some(Arc::new(print)), tracer, function: function.map(Arc::from) }
    }

    /// Lines to `sink`, traces to `tracer`.
    pub fn to(sink: impl Fn(&str) + Send + Sync + 'static, tracer: Option<Tracer>) -> Self {
        Self { sink: Some(Arc::new(sink)), tracer, function: None }
    }

    /// Nothing to anybody.
    pub fn silent() -> Self {
        Self { sink: None, tracer: None, function: None }
    }

    /// Carries out an invocation and tells what became of it.
    pub async fn observe<T>(
        &self,
        clock: &Clock,
        invocation: Invocation<'_>,
        doing: impl Future<Output = T>,
        outcome: impl FnOnce(&T) -> Outcome,
    ) -> T {
        let (began, at) = (Instant::now(), clock.now());
        let trace_id = invocation.trace.as_ref().map_or("", TraceContext::id);
        // Of the highest level, so that no `RUST_LOG` takes the ids from what is logged below it.
        let span = error_span!(
            "invocation",
            faas.invocation_id = invocation.id,
            request.id = invocation.request_id,
            trace.id = trace_id
        );
        let current =
            Arc::new(Current { notes: Mutex::default(), trace: invocation.trace.clone(), tracer: self.tracer.clone() });
        let mut line =
            Unwritten { telemetry: self, invocation, current: &current, at, began, outcome: Outcome::Failed };
        let done = CURRENT.scope(Arc::clone(&current), doing).instrument(span).await;
        line.outcome = outcome(&done);
        done
    }
}

/// The line of an invocation, which is written when that is over: also if it panics.
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

/// Notes something about the invocation that this is a part of, if it is a part of one.
fn note(take: impl FnOnce(&mut Notes)) {
    let _outside_of_one = CURRENT.try_with(|current| {
        take(&mut current.notes.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

/// Whose data is worked at.
pub(crate) fn note_tenant(tenant: &TenantId) {
    note(|notes| notes.tenant = Some(tenant.clone()));
}

/// The one key that is worked at.
pub(crate) fn note_key(key: &ConfigKey) {
    note(|notes| notes.key = Some(key.clone()));
}

/// The revision that is answered at.
pub(crate) fn note_revision(revision: Revision) {
    note(|notes| notes.revision = Some(revision));
}

/// Where the answer came from.
pub(crate) fn note_cache(result: CacheResult) {
    note(|notes| notes.cache = Some(result));
}

/// What a sweep came to, and how long the oldest work had been owed.
pub(crate) fn note_sweep(report: SweepReport, oldest: Duration) {
    note(|notes| notes.swept = Some((report, oldest)));
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
    use tracing::Level;

    use super::*;

    /// What libraries say at the level `trace` is whole requests: no `RUST_LOG` brings that into the logs.
    #[test]
    fn libraries_are_never_traced() {
        for said in ["trace", "lambda_runtime=trace", "hyper::proto=trace,info", "tenantry::aws=trace,hyper=trace"] {
            let levels = levels(said);
            for target in ["lambda_runtime::layers", "hyper::proto::h1", "aws_smithy_runtime::client"] {
                assert!(!levels.would_enable(target, &Level::TRACE), "{target} at {said}");
            }
        }
        assert!(levels("trace").would_enable("tenantry::ledger", &Level::TRACE));
        assert!(levels("tenantry::aws=trace").would_enable("tenantry::aws", &Level::TRACE));
        assert!(levels("hyper=debug").would_enable("hyper::proto", &Level::DEBUG));
        for said in ["", "no=level=at all"] {
            assert!(levels(said).would_enable("config_read", &Level::INFO), "{said}");
            assert!(!levels(said).would_enable("config_read", &Level::DEBUG), "{said}");
        }
    }

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
