//! What operators see: one line for each invocation, whose parts are log, metrics and trace.

use std::{
    collections::{BTreeSet, VecDeque},
    net::UdpSocket,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_ssm::types::ParameterType;
use local::template::TEMPLATE;
use serde_json::{Value, json};
use tenantry::{
    ledger::GRACE,
    telemetry::{Telemetry, Tracer},
};

use crate::{harness::Api, operator::edit};

const MINUTE: Duration = Duration::from_mins(1);
const TRACE: &str = "1-5759e988-bd862e3fe1be46a994272793";

/// The lines that have been written.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<Value>>>);

impl Lines {
    pub(crate) fn telemetry(&self, tracer: Option<Tracer>) -> Telemetry {
        let lines = self.clone();
        let take = move |line: &str| {
            let line = serde_json::from_str(line).expect("a line is JSON");
            lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        };
        Telemetry::to(take, tracer)
    }

    /// The lines since the last call.
    pub(crate) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The only line since the last call.
    #[track_caller]
    fn one(&self) -> Value {
        let mut lines = self.take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }
}

async fn start(tracer: Option<Tracer>) -> (Api, Lines) {
    let lines = Lines::default();
    let telemetry = lines.telemetry(tracer);
    (Api::with(local::Options { telemetry, ..local::Options::default() }).await, lines)
}

/// The members of `line` that are named.
fn members(line: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), line[*name].clone())).collect::<serde_json::Map<_, _>>().into()
}

/// Promise: a request is one line with route, outcome, duration, calls, cache result, revision,
/// tenant and trace; never with a value, a token, or another claim.
#[tokio::test]
async fn a_request_is_one_line() {
    let (api, lines) = start(None).await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!("a secret of sorts")).await.expect(201);
    api.settled().await;
    lines.take();
    let seen =
        ["Function", "Route", "Outcome", "Tag", "status", "tenant.id", "config.key", "revision", "cache", "calls"];
    for (path, cache, calls) in [
        ("tenant_config_k", "miss", json!({"DynamoDB": 2, "STS": 1})),
        ("tenant_config_k", "validated", json!({"DynamoDB": 1})),
        ("tenant_config_k", "hit", json!({})),
    ] {
        let age = if cache == "hit" { "max-age=60" } else { "max-age=0" };
        let trace = format!("Root={TRACE}");
        let answer = acme.get(path).header("cache-control", age).header("x-amzn-trace-id", &trace).await.expect(200);
        let line = lines.one();
        assert_eq!(
            members(&line, &seen),
            json!({
                "Function": "config-read", "Route": "GET /v1/config/{key+}", "Outcome": "2xx", "Tag": "tenant_config_",
                "status": 200, "tenant.id": "acme", "config.key": "tenant_config_k", "revision": 1, "cache": cache,
                "calls": calls,
            })
        );
        assert_eq!((&line["level"], &line["message"]), (&json!("INFO"), &json!("invocation")));
        assert!(line["duration_ms"].as_f64().is_some_and(|duration| duration > 0.0));
        assert!(line["request.id"].as_str().is_some_and(|id| !id.is_empty()));
        assert_eq!(line["requestId"], line["request.id"], "what the runbook's query asks for");
        assert_eq!(line["trace.id"], TRACE);
        let text = line.to_string();
        let of_the_token = acme.token.split('.').chain(["acme-developer", "Bearer"]);
        for hidden in of_the_token.chain(["secret of sorts", answer.etag().trim_matches('"')]) {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
    }
    for (method, path, route, outcome, problem) in [
        (http::Method::GET, "/v1/config/tenant_config_x", "GET /v1/config/{key+}", "4xx", "not-found"),
        (http::Method::HEAD, "/v1/config/tenant_config_x", "GET /v1/config/{key+}", "4xx", "not-found"),
        (http::Method::PUT, "/v1/config/tenant_config_x", "PUT /v1/config/{key+}", "4xx", "invalid-body"),
        (http::Method::GET, "/v1/config/x", "GET /v1/config/{key+}", "4xx", "invalid-key"),
        (http::Method::GET, "/healthz", "GET /healthz", "2xx", ""),
    ] {
        let call = if path == "/healthz" { api.call(method, path) } else { acme.call(method, path) };
        call.await;
        let problem = Some(problem).filter(|name| !name.is_empty()).map(|name| format!("urn:tenantry:problem:{name}"));
        assert_eq!(
            members(&lines.one(), &["Route", "Outcome", "problem"]),
            json!({"Route": route, "Outcome": outcome, "problem": problem})
        );
    }
    api.stop().await;
}

/// Promise: the line is a document of CloudWatch's embedded metric format: each metric and each
/// dimension is a member, every dimension takes few values, and the tenant is none.
#[tokio::test]
async fn a_line_is_metrics() {
    let (api, lines) = start(None).await;
    let acme = api.tenant("acme");
    acme.put("param_config_k", &json!(1)).await.expect(201);
    acme.list("").await.expect(200);
    api.suite.emulator().limit_parameters(1);
    acme.put("param_config_refused", &json!(1)).await.expect(201);
    api.suite.run_schedules().await.expect("a sweep");
    api.settled().await;
    let lines = lines.take();
    let round = lines.iter().find(|line| line["Route"] == "schedule").expect("a round of comparison");
    assert_eq!((&round["Parameters"], &round["RefusedKeys"]), (&json!(1), &json!(1)));
    assert_eq!(lines.iter().filter_map(|line| line["Refusals"].as_u64()).sum::<u64>(), 1);
    assert!(lines.len() >= 4, "{lines:?}");
    let mut written = BTreeSet::new();
    for line in lines {
        let directives = line["_aws"]["CloudWatchMetrics"].as_array().expect("directives");
        assert!(line["_aws"]["Timestamp"].as_u64().is_some_and(|at| at > 1_700_000_000_000), "milliseconds: {line}");
        for directive in directives {
            assert_eq!(directive["Namespace"], "Tenantry");
            for set in directive["Dimensions"].as_array().expect("sets") {
                let dimensions: Vec<_> = set.as_array().expect("a set").iter().filter_map(Value::as_str).collect();
                for name in &dimensions {
                    assert!(["Function", "Route", "Tag", "Outcome"].contains(name), "{name}");
                    assert!(line[name].is_string(), "{name}: {line}");
                }
                for metric in directive["Metrics"].as_array().expect("metrics") {
                    let name = metric["Name"].as_str().expect("a name");
                    assert!(line[name].is_number(), "{metric}: {line}");
                    let unit = metric["Unit"].as_str().expect("a unit").to_owned();
                    written.insert((name.to_owned(), dimensions.join(","), unit));
                }
            }
        }
    }
    assert_watched(&written);
    api.stop().await;
}

/// Alarms and dashboard watch metrics that are written: with these dimensions, in this unit.
fn assert_watched(written: &BTreeSet<(String, String, String)>) {
    let between = |text: &'static str, before: &str, after: char| {
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before}: {text:.80}"));
        rest.split(after).next().unwrap_or_default().to_owned()
    };
    let dimensioned =
        |name: &str, dimensions: &str| written.iter().any(|(a, b, _)| (a.as_str(), b.as_str()) == (name, dimensions));
    let mut watched = 0;
    for search in TEMPLATE.split("SEARCH('{Tenantry,").skip(1) {
        let dimensions = search.split('}').next().unwrap_or_default();
        let name = between(search, r#"MetricName=\""#, '\\');
        assert!(dimensioned(&name, dimensions), "{name} by {dimensions} is on the dashboard: {written:?}");
        watched += 1;
    }
    for widget in TEMPLATE.split(r#"["Tenantry",""#).skip(1) {
        let name = widget.split('"').next().unwrap_or_default();
        assert!(dimensioned(name, "Function"), "{name} is on the dashboard: {written:?}");
        watched += 1;
    }
    for alarm in TEMPLATE.split("Namespace: Tenantry\n").skip(1) {
        let dimensions = between(alarm, "Dimensions: [{ Name: ", ',');
        let metric = (between(alarm, "MetricName: ", '\n'), dimensions, between(alarm, "Unit: ", '\n'));
        assert!(written.contains(&metric), "{metric:?} has an alarm: {written:?}");
        watched += 1;
    }
    assert_eq!(watched, 11, "three searches, five metrics on widgets and three alarms");
}

/// Promise: an edit of a key with JSON values that is no JSON is counted, in a metric that the
/// runbook names, and one that is JSON, or of a key with texts, writes nothing of it.
#[tokio::test]
async fn edits_that_do_not_parse_are_counted() {
    let (api, lines) = start(None).await;
    let acme = api.tenant("acme");
    acme.put("param_config_k", &json!(8080)).await.expect(201);
    acme.put("param_config_t", &json!("text")).await.expect(201);
    api.settled().await;
    for (name, text, counted) in [("k", "off", json!(1)), ("k", "9091", Value::Null), ("t", "off", Value::Null)] {
        lines.take();
        edit(&api, &acme.parameter_name("param_config_", name), text, ParameterType::String).await;
        api.settled().await;
        let lines = lines.take();
        let told = lines.iter().find(|line| line["Route"] == "Parameter Store Change").expect("a line of the import");
        assert_eq!(told["UnparsedEdits"], counted, "{text}: {told}");
        let directive = json!({
            "Namespace": "Tenantry", "Dimensions": [["Function"]],
            "Metrics": [{"Name": "UnparsedEdits", "Unit": "Count"}],
        });
        let directives = told["_aws"]["CloudWatchMetrics"].as_array().expect("directives");
        assert_eq!(directives.contains(&directive), counted == 1, "{text}: {told}");
    }
    assert!(include_str!("../../../../docs/operations/runbook.md").contains("`UnparsedEdits`"));
    api.stop().await;
}

/// Promise: while work fails, its age in the outbox grows: in any five minutes one of the sweeps,
/// which come each minute, reports it.
#[tokio::test]
async fn the_outbox_has_an_age() {
    let (api, lines) = start(None).await;
    let acme = api.tenant("acme");
    let age = async || {
        lines.take();
        api.suite.run_schedules().await.expect("a sweep");
        let swept = lines.take().into_iter().find(|line| line["Route"] == "schedule").expect("a line of the sweep");
        (swept["OutboxAge"].as_f64().expect("an age"), swept["failed"].clone())
    };
    assert_eq!(age().await, (0.0, json!(0)));
    api.suite.emulator().faults().inject("PutParameter", emulator::Fault::InternalError, 1_000);
    acme.put("param_config_k", &json!("v")).await.expect(201);
    let mut five_minutes = VecDeque::new();
    for minute in 1..=20 {
        api.pass(MINUTE);
        five_minutes.push_back(age().await.0);
        if five_minutes.len() == 5 {
            let seen = five_minutes.iter().copied().fold(0.0, f64::max);
            assert!(seen > 60.0 * f64::from(minute - 4), "{five_minutes:?} in minute {minute}");
            five_minutes.pop_front();
        }
    }
    api.suite.emulator().faults().clear();
    api.pass(GRACE * 3);
    age().await;
    assert_eq!(age().await, (0.0, json!(0)));
    api.stop().await;
}

/// Promise: one trace shows the write, its calls to AWS, the event, and what config-refresh does
/// for it.
#[tokio::test]
async fn one_trace_shows_it_all() {
    let daemon = UdpSocket::bind("127.0.0.1:0").expect("a port");
    daemon.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let address = daemon.local_addr().expect("an address").to_string();
    let (api, lines) = start(Some(Tracer::new(&address).expect("a daemon"))).await;
    let trace = format!("Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=1");
    let acme = api.tenant("acme");
    acme.put("back_config_k", &json!("v")).header("x-amzn-trace-id", &trace).await.expect(201);
    api.settled().await;
    let lines = lines.take();
    let told: Vec<_> = lines.iter().map(|line| (line["Route"].as_str(), line["trace.id"].as_str())).collect();
    for route in ["PUT /v1/config/{key+}", "Config Changed"] {
        assert!(told.contains(&(Some(route), Some(TRACE))), "{told:?}");
    }
    // Every call of these two invocations is a part of the trace. Others, of Parameter Store's own
    // event, belong to none.
    let traced = lines.iter().filter(|line| line["trace.id"] == TRACE);
    let calls: u64 =
        traced.flat_map(|line| line["calls"].as_object().expect("calls").values()).filter_map(Value::as_u64).sum();
    let mut operations = Vec::new();
    for _ in 0..calls {
        let mut datagram = [0; 4096];
        let length = daemon.recv(&mut datagram).expect("a document for each call");
        let text = std::str::from_utf8(&datagram[..length]).expect("text");
        let (header, document) = text.split_once('\n').expect("a header");
        assert_eq!(header, r#"{"format":"json","version":1}"#);
        let document: Value = serde_json::from_str(document).expect("JSON");
        assert_eq!((&document["trace_id"], &document["parent_id"]), (&json!(TRACE), &json!("53995c3f42cd8ad8")));
        operations.push(document["aws"]["operation"].as_str().expect("an operation").to_owned());
    }
    for operation in ["TransactWriteItems", "PutEvents", "PutParameter"] {
        assert!(operations.iter().any(|one| one == operation), "{operation}: {operations:?}");
    }
    api.stop().await;
}
