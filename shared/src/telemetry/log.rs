//! What is logged beside the line of an invocation: one JSON object each, with the ids of the
//! invocation that it belongs to.
//!
//! The ids come from the invocation's task, not from a span: every call would pay for a span that
//! few need.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use super::{CURRENT, print};

/// The crates whose every line is ours to answer for.
const OURS: [&str; 5] = ["tenantry", "config_read", "config_write", "config_refresh", "config_stream"];

/// Sends the process's logs to standard output as JSON lines, at the levels of `RUST_LOG`, by
/// default `info`.
pub fn init() {
    init_to("info", print);
}

/// Sends them to `write` instead, by default at the levels `usual`.
pub fn init_to(usual: &str, write: impl Fn(&str) + Send + Sync + 'static) {
    let levels = levels(std::env::var("RUST_LOG").as_deref().unwrap_or_default(), usual);
    // A second call, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(levels).with(Lines(write)).try_init();
}

/// The levels of `RUST_LOG`, or the usual ones. No library may trace: some then write whole
/// requests, with tokens and values.
fn levels(wanted: &str, usual: &str) -> Targets {
    // `EnvFilter` can do more, but links regular expressions and compiles them at every start.
    let mut wanted = [wanted, usual].into_iter().filter(|text| !text.is_empty()).filter_map(|text| text.parse().ok());
    let wanted: Targets = wanted.next().unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let capped = |level: LevelFilter| level.min(LevelFilter::DEBUG);
    let default = wanted.default_level().unwrap_or(LevelFilter::OFF);
    Targets::new().with_default(capped(default)).with_targets(OURS.map(|target| (target, default))).with_targets(
        wanted.into_iter().map(|(target, level)| {
            let is_ours = OURS.iter().any(|ours| target.split("::").next() == Some(ours));
            (target, if is_ours { level } else { capped(level) })
        }),
    )
}

/// Writes each event as a line.
struct Lines<W>(W);

impl<S: Subscriber, W: Fn(&str) + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        line.text("level", event.metadata().level().as_str());
        line.text("target", event.metadata().target());
        // None outside of an invocation.
        let _ = CURRENT.try_with(|current| {
            line.text("faas.invocation_id", &current.id);
            line.text("request.id", &current.request_id);
            line.text("requestId", &current.request_id);
            if let Some(trace) = &current.trace {
                line.text("trace.id", trace.id());
            }
        });
        event.record(&mut line);
        if let Ok(line) = serde_json::to_string(&line.0) {
            self.0(&line);
        }
    }
}

#[derive(Default)]
struct Line(Map<String, Value>);

impl Line {
    fn text(&mut self, name: &str, text: &str) {
        self.0.insert(name.to_owned(), text.into());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Level;

    use super::*;
    use crate::{
        clock::Clock,
        telemetry::{Invocation, Outcome, Telemetry, TraceContext},
    };

    /// What libraries write at the level `trace` is whole requests: no `RUST_LOG` brings that into
    /// the logs.
    #[test]
    fn libraries_are_never_traced() {
        for wanted in ["trace", "lambda_runtime=trace", "hyper::proto=trace,info", "tenantry::aws=trace,hyper=trace"] {
            let levels = levels(wanted, "info");
            for target in ["lambda_runtime::layers", "hyper::proto::h1", "aws_smithy_runtime::client"] {
                assert!(!levels.would_enable(target, &Level::TRACE), "{target} at {wanted}");
            }
        }
        assert!(levels("trace", "info").would_enable("tenantry::ledger", &Level::TRACE));
        assert!(levels("tenantry::aws=trace", "info").would_enable("tenantry::aws", &Level::TRACE));
        assert!(levels("hyper=debug", "info").would_enable("hyper::proto", &Level::DEBUG));
        for wanted in ["", "no=level=at all"] {
            assert!(levels(wanted, "info").would_enable("config_read", &Level::INFO), "{wanted}");
            assert!(!levels(wanted, "info").would_enable("config_read", &Level::DEBUG), "{wanted}");
            assert!(!levels(wanted, "warn,hyper=error").would_enable("config_read", &Level::INFO), "{wanted}");
            assert!(!levels(wanted, "warn,hyper=error").would_enable("hyper::proto", &Level::WARN), "{wanted}");
        }
    }

    /// A line has the event's fields, and the ids of the invocation that it belongs to.
    #[tokio::test]
    async fn lines_name_their_invocation() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        let write = move |line: &str| written.lock().unwrap().push(serde_json::from_str::<Value>(line).unwrap());
        let _logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(Lines(write)));
        let trace = TraceContext::parse("Root=1-5759e988-bd862e3fe1be46a994272793");
        let invocation = Invocation { function: "f", route: "r", id: "i", request_id: "q", trace };
        let logging = async {
            tracing::warn!(tenant.id = %"acme", count = 3, ok = false, ratio = 0.5, "it said \"no\"");
        };
        Telemetry::silent().observe(&Clock::system(), invocation, logging, |()| Outcome::Done).await;
        tracing::info!("outside");
        let lines = lines.lock().unwrap();
        let expected = serde_json::json!({
            "level": "WARN", "target": "tenantry::telemetry::log::tests", "message": "it said \"no\"", "tenant.id": "acme",
            "count": 3, "ok": false, "ratio": 0.5, "faas.invocation_id": "i", "request.id": "q", "requestId": "q",
            "trace.id": "1-5759e988-bd862e3fe1be46a994272793",
        });
        assert_eq!(lines[0], expected);
        assert_eq!((&lines[1]["message"], lines[1].get("request.id")), (&"outside".into(), None));
    }
}
