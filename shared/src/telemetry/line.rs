//! The line: a JSON object that CloudWatch also reads as metrics (the embedded metric format).

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{CacheResult, Invocation, Notes, Outcome, TraceContext};
use crate::{
    clock::Timestamp,
    model::{entry::Revision, key::ConfigKey, tenant::TenantId},
};

/// The namespace of the metrics.
const NAMESPACE: &str = "Tenantry";
/// More than most lines have, so that their buffer does not have to grow.
const USUAL_BYTES: usize = 1024;

/// Metrics and dimensions have names in CloudWatch's spelling, the rest in that of the other log
/// lines.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "_aws")]
    aws: EmbeddedMetrics,
    level: &'static str,
    message: &'static str,
    #[serde(rename = "Function")]
    function: &'a str,
    #[serde(rename = "Route")]
    route: &'a str,
    #[serde(rename = "Tag", skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(rename = "Outcome")]
    outcome: &'static str,
    #[serde(rename = "Requests")]
    requests: u8,
    #[serde(rename = "Duration")]
    duration: f64,
    #[serde(rename = "OutboxAge", skip_serializing_if = "Option::is_none")]
    outbox_age: Option<f64>,
    #[serde(rename = "UnparsedEdits", skip_serializing_if = "Option::is_none")]
    unparsed_edits: Option<u32>,
    #[serde(rename = "Refusals", skip_serializing_if = "Option::is_none")]
    refusals: Option<u32>,
    #[serde(rename = "RefusedKeys", skip_serializing_if = "Option::is_none")]
    refused_keys: Option<usize>,
    #[serde(rename = "Parameters", skip_serializing_if = "Option::is_none")]
    parameters: Option<usize>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// As in the answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
    /// OpenTelemetry's name for it.
    #[serde(rename = "faas.invocation_id")]
    id: &'a str,
    #[serde(rename = "request.id")]
    request_id: &'a str,
    /// The same again, by the name that the API's access log has for it: one query finds both, and
    /// needs no name with a dot.
    #[serde(rename = "requestId")]
    same_request_id: &'a str,
    #[serde(rename = "trace.id", skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(rename = "tenant.id", skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(rename = "config.key", skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'static str>,
    calls: &'a BTreeMap<&'static str, u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicated: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compared: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    imported: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EmbeddedMetrics {
    /// Milliseconds since the epoch.
    timestamp: u64,
    cloud_watch_metrics: Vec<Directive>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: &'static [&'static [&'static str]],
    metrics: &'static [Metric],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metric {
    name: &'static str,
    unit: &'static str,
}

const BY_ROUTE: &[&str] = &["Function", "Route", "Outcome"];
const BY_TAG: &[&str] = &["Function", "Tag", "Outcome"];
const OF_REQUESTS: &[Metric] =
    &[Metric { name: "Requests", unit: "Count" }, Metric { name: "Duration", unit: "Milliseconds" }];
const BY_FUNCTION: &[&[&str]] = &[&["Function"]];
const OF_SWEEPS: &[Metric] = &[Metric { name: "OutboxAge", unit: "Seconds" }];
const OF_EDITS: &[Metric] = &[Metric { name: "UnparsedEdits", unit: "Count" }];
const OF_REFUSALS: &[Metric] = &[Metric { name: "Refusals", unit: "Count" }];
const OF_ROUNDS: &[Metric] = &[Metric { name: "RefusedKeys", unit: "Count" }];
const OF_WHOLE_ROUNDS: &[Metric] = &[Metric { name: "Parameters", unit: "Count" }];

/// The line of an invocation.
pub(super) fn write(
    function: &str,
    invocation: &Invocation<'_>,
    notes: &Notes,
    at: Timestamp,
    took: Duration,
    outcome: Outcome,
) -> String {
    let tag = notes.key.as_ref().map(ConfigKey::tag);
    let dimensions: &[&[&str]] = if tag.is_some() { &[BY_ROUTE, BY_TAG] } else { &[BY_ROUTE] };
    let mut cloud_watch_metrics = vec![Directive { namespace: NAMESPACE, dimensions, metrics: OF_REQUESTS }];
    let refusals = (notes.refusals > 0).then_some(notes.refusals);
    let refused_keys = notes.round.map(|round| round.refused);
    let parameters = notes.round.filter(|round| !round.is_cut).map(|round| round.parameters);
    let of_the_function = [
        (notes.swept.is_some(), OF_SWEEPS),
        (refusals.is_some(), OF_REFUSALS),
        (refused_keys.is_some(), OF_ROUNDS),
        (parameters.is_some(), OF_WHOLE_ROUNDS),
    ];
    for (_, metrics) in of_the_function.into_iter().filter(|(is_written, _)| *is_written) {
        cloud_watch_metrics.push(Directive { namespace: NAMESPACE, dimensions: BY_FUNCTION, metrics });
    }
    // Only where there is something to count: a metric that nobody needs then costs nothing.
    let unparsed_edits = Some(notes.unparsed_edits).filter(|count| *count > 0);
    if unparsed_edits.is_some() {
        cloud_watch_metrics.push(Directive { namespace: NAMESPACE, dimensions: BY_FUNCTION, metrics: OF_EDITS });
    }
    let duration = (took.as_secs_f64() * 1e6).round() / 1e3;
    let report = notes.swept.as_ref().map(|(report, _)| report);
    let line = Line {
        aws: EmbeddedMetrics { timestamp: at.millis(), cloud_watch_metrics },
        level: "INFO",
        message: "invocation",
        function,
        route: invocation.route,
        tag,
        outcome: class(outcome),
        requests: 1,
        duration,
        outbox_age: notes.swept.as_ref().map(|(_, oldest)| oldest.as_secs_f64()),
        unparsed_edits,
        refusals,
        refused_keys,
        parameters,
        duration_ms: duration,
        status: if let Outcome::Status(status) = outcome { Some(status) } else { None },
        problem: notes.problem,
        id: invocation.id,
        request_id: invocation.request_id,
        same_request_id: invocation.request_id,
        trace_id: invocation.trace.as_ref().map(TraceContext::id),
        tenant: notes.tenant.as_ref().map(TenantId::as_str),
        key: notes.key.as_ref().map(ConfigKey::as_str),
        revision: notes.revision.map(Revision::get),
        cache: notes.cache.map(|cache| match cache {
            CacheResult::Hit => "hit",
            CacheResult::Validated => "validated",
            CacheResult::Miss => "miss",
            CacheResult::Stale => "stale",
        }),
        calls: &notes.calls,
        published: report.map(|report| report.published),
        replicated: report.map(|report| report.replicated),
        compared: report.map(|report| report.compared),
        imported: report.map(|report| report.imported),
        refused: report.map(|report| report.refused),
        failed: report.map(|report| report.failed),
    };
    let mut written = Vec::with_capacity(USUAL_BYTES);
    // Nothing in it can fail to be written, and what is written is UTF-8.
    let _ = serde_json::to_writer(&mut written, &line);
    String::from_utf8(written).unwrap_or_default()
}

/// Few, because each is a metric of its own.
fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Status(..300) => "2xx",
        Outcome::Status(..400) => "3xx",
        Outcome::Status(..500) => "4xx",
        Outcome::Status(_) => "5xx",
        Outcome::Done => "done",
        Outcome::Dropped => "dropped",
        Outcome::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stacks of one account stay apart: metrics bear the name of the deployed function.
    #[test]
    fn metrics_bear_the_deployed_functions_name() {
        let invocation =
            Invocation { function: "config-read", route: "GET /healthz", id: "", request_id: "", trace: None };
        let line = write(
            "tenantry-dev-ConfigRead-X",
            &invocation,
            &Notes::default(),
            Timestamp::from_millis(1),
            Duration::ZERO,
            Outcome::Status(200),
        );
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["Function"], "tenantry-dev-ConfigRead-X");
    }
}
