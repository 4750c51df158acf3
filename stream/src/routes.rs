//! Routes calls to the interface, or to a standard service beside it; and bounds how long an answer
//! may take.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use config_proto::v1::{self, config_service_server::ConfigServiceServer};
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::Service as _,
};
use hyper_util::service::TowerToHyperService;
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Status, body::Body, codegen::Service as _, server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    answer::trailers,
    connections::{AbortFlag, ResponseFuture},
    metrics::Metrics,
    service::Service,
    watch_body::WatchBody,
};

/// How large a request may be: 100 keys and 100 prefixes of the longest, with room to spare.
const MAX_REQUEST_BYTES: usize = 256 * 1024;
/// How large the metadata of a call may be, each pair with 32 bytes more, as HTTP/2 counts them. A
/// call with more gets a status of its own, which the connection's limit would not give.
const MAX_METADATA_BYTES: usize = 16 * 1024;
/// The methods of the interface, as metrics name them.
const METHODS: [&str; 4] = ["GetConfig", "BatchGetConfig", "ListConfig", "WatchConfig"];
/// How the path of the method ends whose calls do not end by themselves.
const WATCH: &str = "/WatchConfig";

/// The interface, the standard health service and the standard reflection service. Streams of the
/// latter two end when `closed` says so.
pub(crate) async fn routes(
    service: Service,
    metrics: Arc<Metrics>,
    closed: watch::Receiver<bool>,
) -> Result<
    (HealthReporter, impl Fn(Request<Incoming>) -> (ResponseFuture, Option<AbortFlag>) + Clone + Send + 'static),
    tonic_reflection::server::Error,
> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_serving::<ConfigServiceServer<Service>>().await;
    let descriptions = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let config = ConfigServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
    let others = Routes::new(health_service)
        .add_service(descriptions().build_v1()?)
        .add_service(descriptions().build_v1alpha()?);
    let others = TowerToHyperService::new(others.prepare());
    let answer = move |mut request: Request<Incoming>| {
        if metadata_bytes(request.headers()) > MAX_METADATA_BYTES {
            let called = request.uri().path().rsplit('/').next();
            if let Some(method) = METHODS.into_iter().find(|method| called == Some(method)) {
                metrics.note_call(method, Code::ResourceExhausted);
            }
            return (refuse(too_much_metadata()), None);
        }
        let limit = limit(request.headers());
        // Without the router, which is for the few calls of the other services.
        let mut path = request.uri().path().split('/').skip(1);
        if path.next() == Some(ConfigServiceServer::<Service>::NAME) {
            let called = limit.and_then(|_| path.next());
            let method = METHODS.into_iter().find(|method| called == Some(method));
            let abort = request.uri().path().ends_with(WATCH).then(AbortFlag::default);
            if let Some(abort) = &abort {
                request.extensions_mut().insert(abort.clone());
            }
            // The service is always ready.
            let mut answering = config.clone().call(request);
            if abort.is_some() {
                answering = answering.map(|answer| answer.map(WatchBody::of)).boxed();
            }
            let Some(limit) = limit else { return (answering, abort) };
            let metrics = Arc::clone(&metrics);
            let answering = within(limit, answering, move || {
                if let Some(method) = method {
                    metrics.note_call(method, Code::DeadlineExceeded);
                }
            });
            (answering, abort)
        } else {
            // Both ways: a stream is open until both have ended, and reflection reads until its
            // requests end.
            let asked = Ending::new(&closed, None);
            let told = Ending::new(&closed, Some(Status::unavailable("the instance is going away; connect again")));
            let answering = others.call(request.map(|body| asked.of(Body::new(body))));
            let answering = answering.map(|answer| answer.map(|answer| answer.map(|body| told.of(body)))).boxed();
            match limit {
                None => (answering, None),
                Some(limit) => (within(limit, answering, || ()), None),
            }
        }
    };
    Ok((health, answer))
}

/// The size of a call's metadata, as HTTP/2 counts it (RFC 9113, 6.5.2).
fn metadata_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn too_much_metadata() -> Status {
    Status::resource_exhausted(format!("the call's metadata is more than {MAX_METADATA_BYTES} bytes; send less of it"))
}

/// Answers at once with this status.
fn refuse(status: Status) -> ResponseFuture {
    std::future::ready(Ok::<_, Infallible>(status.into_http())).boxed()
}

/// Answers by `answering`, or after `limit` with `DEADLINE_EXCEEDED`. A watch counts as answered
/// when it begins; its stream does not end here, and tonic's own server does not end it either. The
/// client ends it at its deadline, and keepalive finds dead peers.
fn within(limit: Duration, answering: ResponseFuture, is_late: impl FnOnce() + Send + 'static) -> ResponseFuture {
    async move {
        let Ok(answer) = timeout(limit, answering).await else {
            is_late();
            let late: Response<Body> =
                Status::deadline_exceeded("there was no answer within the call's deadline").into_http();
            return Ok::<_, Infallible>(late);
        };
        answer
    }
    .boxed()
}

/// How long the caller waits, as gRPC over HTTP/2 writes it: one to eight digits and a unit.
/// Anything else counts as no deadline, as with tonic's own server.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get("grpc-timeout")?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_hours(number)),
        b'M' => Some(Duration::from_mins(number)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The body of a request or an answer of a standard service. Some are streams that nobody else
/// ends, such as those of health. They end once the instance takes no more calls and everything
/// that is ready has been sent.
struct Ending {
    body: Body,
    closed: BoxFuture<'static, ()>,
    /// The status at the end.
    last: Option<Status>,
    is_over: bool,
}

impl Ending {
    fn new(closed: &watch::Receiver<bool>, last: Option<Status>) -> Self {
        let mut closed = closed.clone();
        let closed = async move { _ = closed.wait_for(|closed| *closed).await }.boxed();
        Self { body: Body::empty(), closed, last, is_over: false }
    }

    fn of(self, body: Body) -> Body {
        Body::new(Self { body, ..self })
    }
}

impl hyper::body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(self.closed.as_mut().poll(context));
        self.is_over = true;
        Poll::Ready(self.last.take().map(|last| trailers(&last)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_over { SizeHint::with_exact(0) } else { self.body.size_hint() }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Promise: deadlines are read in every unit that gRPC has, up to the longest; anything else is
    /// no deadline.
    #[test]
    fn deadlines_are_read_as_grpc_says() {
        let read = |text: &'static str| {
            limit(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), HeaderValue::from_static(text))]))
        };
        for (text, duration) in [
            ("2H", Duration::from_hours(2)),
            ("3M", Duration::from_mins(3)),
            ("42S", Duration::from_secs(42)),
            ("100m", Duration::from_millis(100)),
            ("7u", Duration::from_micros(7)),
            ("00000009n", Duration::from_nanos(9)),
            ("99999999H", Duration::from_hours(99_999_999)),
        ] {
            assert_eq!(read(text), Some(duration), "{text}");
        }
        for text in ["", "1", "S", "+5S", "-5S", " 5S", "5 S", "5s", "1.5S", "123456789n", "5SS"] {
            assert_eq!(read(text), None, "{text:?}");
        }
        assert_eq!(limit(&HeaderMap::new()), None);
    }
}
