//! Traces as AWS X-Ray has them: the context that comes with an invocation, and the calls that are
//! added to it.
//!
//! The documents go to the daemon that runs beside every function with tracing, one datagram each.
//! Nothing waits for them, and a lost one is not sent again.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::CallSeen;

/// What stands in front of each document (X-Ray: "Sending segment documents to the X-Ray daemon").
const HEADER: &str = "{\"format\":\"json\",\"version\":1}\n";

/// The trace that an invocation belongs to, as `X-Amzn-Trace-Id` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    root: String,
    parent: Option<String>,
    sampled: bool,
}

impl TraceContext {
    /// Reads a header such as
    /// `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`. None if it
    /// holds anything but what it must: it may come from a client.
    pub fn parse(header: &str) -> Option<Self> {
        let member = |name: &str| header.split(';').find_map(|one| one.trim().strip_prefix(name)?.strip_prefix('='));
        let is_hex = |text: &str, digits| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
        let root = member("Root")?;
        let (time, random) = root.strip_prefix("1-")?.split_once('-')?;
        if !is_hex(time, 8) || !is_hex(random, 24) {
            return None;
        }
        let parent = member("Parent").filter(|parent| is_hex(parent, 16)).map(str::to_owned);
        Some(Self { root: root.to_owned(), parent, sampled: member("Sampled") == Some("1") })
    }

    /// The trace's id.
    pub fn id(&self) -> &str {
        &self.root
    }

    /// The context as a header, for the service that is called next.
    pub fn header(&self) -> String {
        let parent = self.parent.as_ref().map_or_else(String::new, |parent| format!(";Parent={parent}"));
        format!("Root={}{parent};Sampled={}", self.root, u8::from(self.sampled))
    }
}

/// An address of the X-Ray daemon that is none.
#[derive(Debug, thiserror::Error)]
#[error("the X-Ray daemon cannot be reached at {0:?}; AWS_XRAY_DAEMON_ADDRESS must be an IP address and a port")]
pub struct InvalidDaemonAddress(String);

/// Sends to the X-Ray daemon.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<UdpSocket>);

impl Tracer {
    /// A sender to the daemon at `address`, such as `169.254.79.129:2000`.
    pub fn new(address: &str) -> Result<Self, InvalidDaemonAddress> {
        let invalid = || InvalidDaemonAddress(address.to_owned());
        let daemon: SocketAddr = address.parse().map_err(|_| invalid())?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|_| invalid())?;
        socket.set_nonblocking(true).and_then(|()| socket.connect(daemon)).map_err(|_| invalid())?;
        Ok(Self(Arc::new(socket)))
    }

    pub(super) fn send(&self, trace: &TraceContext, call: &CallSeen<'_>) {
        let document = Subsegment::new(trace, call).and_then(|subsegment| serde_json::to_string(&subsegment).ok());
        if let Some(document) = document {
            let _lost = self.0.send(format!("{HEADER}{document}").as_bytes());
        }
    }
}

/// A call, as a part of the function's segment (X-Ray segment documents).
#[derive(Serialize)]
struct Subsegment<'a> {
    id: String,
    trace_id: &'a str,
    parent_id: &'a str,
    name: &'static str,
    namespace: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    start_time: f64,
    end_time: f64,
    aws: AwsCall<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Http>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    throttle: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    error: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fault: bool,
}

#[derive(Serialize)]
struct AwsCall<'a> {
    operation: &'a str,
    region: &'a str,
}

#[derive(Serialize)]
struct Http {
    response: Response,
}

#[derive(Serialize)]
struct Response {
    status: u16,
}

impl<'a> Subsegment<'a> {
    /// None where the trace is not sampled, or has nothing that the call could be a part of.
    fn new(trace: &'a TraceContext, call: &CallSeen<'a>) -> Option<Self> {
        let parent_id = trace.parent.as_deref().filter(|_| trace.sampled)?;
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Some(Self {
            id: format!("{:016x}", fastrand::u64(..)),
            trace_id: &trace.root,
            parent_id,
            name: call.service,
            namespace: "aws",
            kind: "subsegment",
            start_time: seconds(call.began),
            end_time: seconds(call.began + call.took),
            aws: AwsCall { operation: call.operation, region: call.region },
            http: call.status.map(|status| Http { response: Response { status } }),
            throttle: call.throttled,
            error: call.status.is_some_and(|status| (400..500).contains(&status)),
            fault: call.status.is_none_or(|status| status >= 500),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes from outside goes on only if it is a trace header and nothing else.
    #[test]
    fn contexts_are_read_strictly() {
        let whole = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        assert_eq!(TraceContext::parse(whole).unwrap().header(), whole);
        let root_only = "Root=1-5759e988-bd862e3fe1be46a994272793";
        assert_eq!(TraceContext::parse(root_only).unwrap().header(), format!("{root_only};Sampled=0"));
        let noisy = "Self=1-x; Root=1-5759e988-bd862e3fe1be46a994272793; Parent=x; Lineage=a:1; Sampled=?";
        assert_eq!(TraceContext::parse(noisy).unwrap().header(), format!("{root_only};Sampled=0"));
        for none in [
            "",
            "Root=",
            "Root=1-5759e988",
            "Root=1-5759e988-bd862e3fe1be46a99427279\"",
            "Root=2-5759e988-bd862e3fe1be46a994272793",
        ] {
            assert_eq!(TraceContext::parse(none), None, "{none}");
        }
    }

    /// A call becomes a part of the function's segment, if the trace is sampled.
    #[test]
    fn calls_are_parts_of_the_segment() {
        let call = |status| CallSeen {
            service: "DynamoDB",
            operation: "GetItem",
            region: "eu-central-1",
            began: UNIX_EPOCH + std::time::Duration::from_millis(1_500),
            took: std::time::Duration::from_millis(250),
            status,
            throttled: false,
        };
        let sampled = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        let sampled = TraceContext::parse(sampled).unwrap();
        let mut document = serde_json::to_value(Subsegment::new(&sampled, &call(Some(200)))).unwrap();
        assert_eq!(document["id"].as_str().map(str::len), Some(16));
        document["id"].take();
        assert_eq!(
            document,
            serde_json::json!({
                "id": null, "trace_id": "1-5759e988-bd862e3fe1be46a994272793", "parent_id": "53995c3f42cd8ad8",
                "name": "DynamoDB", "namespace": "aws", "type": "subsegment", "start_time": 1.5, "end_time": 1.75,
                "aws": {"operation": "GetItem", "region": "eu-central-1"}, "http": {"response": {"status": 200}},
            })
        );
        let throttled = CallSeen { throttled: true, ..call(Some(400)) };
        let throttled = serde_json::to_value(Subsegment::new(&sampled, &throttled)).unwrap();
        assert_eq!((&throttled["throttle"], &throttled["error"]), (&true.into(), &true.into()));
        let failed = serde_json::to_value(Subsegment::new(&sampled, &call(None))).unwrap();
        assert_eq!((&failed["fault"], &failed["http"]), (&true.into(), &serde_json::Value::Null));
        let unsampled = TraceContext { sampled: false, ..sampled.clone() };
        assert!(Subsegment::new(&unsampled, &call(Some(200))).is_none());
        assert!(Subsegment::new(&TraceContext { parent: None, ..sampled }, &call(Some(200))).is_none());
    }
}
