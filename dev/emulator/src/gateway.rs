//! The one door: tells the services apart as AWS SDKs address them, counts the call, applies
//! injected faults.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Map, Value};

use crate::account::Account;
use crate::call_log::CallLog;
use crate::dynamodb::{self, DynamoDb};
use crate::eventbridge::{self, EventBridge};
use crate::faults::{Fault, Faults, View};
use crate::iam::{BadCredentials, Caller, Iam};
use crate::parameter_store::{self, ParameterStore};
use crate::permission::{self, Stored};
use crate::shutdown::Shutdown;
use crate::sqs::{self, Queues};
use crate::wire::{AwsError, Protocol, Reply, json_reply, reply, request_id};
use crate::{Service, sts};

/// The largest request: what `DynamoDB` takes.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The call gets no answer: its connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("no answer, on purpose")]
pub(crate) struct Unanswered;

/// Every service, and what tests ask about and do to calls.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) rewriting: Rewriting,
    pub(crate) account: Account,
    pub(crate) iam: Iam,
    pub(crate) calls: CallLog,
    pub(crate) faults: Faults,
    pub(crate) dynamodb: DynamoDb,
    pub(crate) parameters: ParameterStore,
    pub(crate) events: Arc<EventBridge>,
    pub(crate) queues: Queues,
    pub(crate) shutdown: Shutdown,
}

/// Has a call say something else than its caller wrote, by its service, operation and body; none
/// leaves it as it is.
pub type Rewrite = Arc<dyn Fn(Service, &str, &str) -> Option<String> + Send + Sync>;

/// What becomes of the bodies of calls.
#[derive(Default)]
pub(crate) struct Rewriting(RwLock<Option<Rewrite>>);

impl Rewriting {
    pub(crate) fn set(&self, rewrite: Rewrite) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(rewrite);
    }

    fn rewrite(&self, call: &mut Call) {
        let Some(rewrite) = self.0.read().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        if let Some(body) =
            std::str::from_utf8(&call.body).ok().and_then(|body| rewrite(call.service, &call.operation, body))
        {
            call.body = body.into();
        }
    }
}

impl fmt::Debug for Rewriting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Rewriting")
    }
}

/// A call whose service and operation are known.
struct Call {
    service: Service,
    operation: String,
    headers: HeaderMap,
    body: Bytes,
    caller: Caller,
}

impl Gateway {
    /// Answers one HTTP request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, Unanswered> {
        let mut answer = self.route(request).await?;
        if !answer.headers().contains_key("x-amzn-requestid")
            && let Ok(id) = HeaderValue::try_from(request_id())
        {
            answer.headers_mut().insert("x-amzn-requestid", id);
        }
        Ok(answer)
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, Unanswered> {
        let (head, body) = request.into_parts();
        if head.method == Method::GET && head.uri.path() == "/" && head.uri.query().is_none() {
            return Ok(reply(StatusCode::OK, "text/plain", Bytes::from_static(b"ready\n")));
        }
        if head.method != Method::POST || head.uri.path() != "/" {
            let error = AwsError::new("UnknownOperationException", "AWS services are called by POST on /.");
            return Ok(error.with_status(StatusCode::NOT_FOUND).into_reply(Protocol::Json10));
        }
        let body = match read(body).await {
            Ok(body) => body,
            Err(error) => return Ok(error.into_reply(Protocol::Json10)),
        };
        let call = match Call::of(head.headers, body) {
            Ok(call) => call,
            Err(error) => return Ok(error.into_reply(Protocol::Json10)),
        };
        self.calls.record(call.service, &call.operation);
        // Not in a task: a caller that hangs up while it waits must not take the next message.
        if call.service == Service::Sqs && call.operation == "ReceiveMessage" {
            return self.dispatch(call).await;
        }
        // A task of its own: a call once begun is carried through, event and all, even if its
        // client hangs up.
        let service = call.service;
        let gateway = Arc::clone(&self);
        tokio::spawn(async move { gateway.dispatch(call).await }).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call could not be carried out");
            let error = AwsError::internal("InternalFailure", "The emulator failed; its log says why.");
            Ok(error.into_reply(service.protocol()))
        })
    }

    /// Whether the caller is known, and may make the call.
    async fn admit(&self, call: &mut Call) -> Result<(), AwsError> {
        let caller = self.iam.caller(&call.headers).map_err(|why| not_taken(call.service, why))?;
        if matches!(caller, Caller::Role(_)) {
            self.rewriting.rewrite(call);
        }
        let Call { service, operation, body, .. } = &*call;
        if let Caller::Role(session) = &caller {
            // What cannot be read here must not be read elsewhere. The services' parsers also take
            // lists for objects.
            if *service != Service::Sts && serde_json::from_slice::<Map<String, Value>>(body).is_err() {
                return Err(AwsError::new("SerializationException", "The body is no JSON object."));
            }
            let stored = match service {
                Service::DynamoDb => {
                    let tables = self.dynamodb.keys(permission::dynamodb::tables(operation, body)).await;
                    Stored { tables, ..Stored::default() }
                }
                Service::ParameterStore => {
                    let encrypted = self.parameters.encrypted(operation, body.clone()).await;
                    Stored { encrypted, ..Stored::default() }
                }
                Service::EventBridge | Service::Sqs | Service::Sts => Stored::default(),
            };
            let needs = permission::needed(&self.account, *service, operation, body, &stored);
            self.iam.authorize(session, &needs).map_err(|why| match service {
                Service::Sts => sts::denied(why),
                _ => AwsError::new("AccessDeniedException", why),
            })?;
        }
        call.caller = caller;
        Ok(())
    }

    /// Executes a call, unless it is not allowed, or a fault waits for it.
    async fn dispatch(&self, mut call: Call) -> Result<Reply, Unanswered> {
        if let Err(error) = self.admit(&mut call).await {
            return Ok(error.into_reply(call.service.protocol()));
        }
        let fits = |fault| self.fits(fault, &call);
        let Some(hit) = self.faults.take(&call.operation, fits) else {
            return Ok(self.execute(call, View::Whole).await);
        };
        let fault = tokio::select! {
            fault = hit.fault() => fault,
            () = self.shutdown.requested() => return Err(Unanswered),
        };
        match fault {
            None => Ok(self.execute(call, View::Whole).await),
            Some(Fault::ReplyLost) => {
                self.execute(call, View::Whole).await;
                hit.announce();
                Err(Unanswered)
            }
            Some(fault) => {
                hit.announce();
                self.fail(fault, call).await
            }
        }
    }

    /// Whether a fault means something to a call.
    fn fits(&self, fault: Fault, call: &Call) -> bool {
        match fault {
            Fault::Throttle
            | Fault::InternalError
            | Fault::ReplyLost
            | Fault::NoReply
            | Fault::Delay(_)
            | Fault::Reset => true,
            Fault::TransactionConflict | Fault::NotYet | Fault::StalePage | Fault::EmptyPage | Fault::WholeSeconds => {
                match call.service {
                    Service::DynamoDb => dynamodb::fits(fault, &call.operation, &call.body),
                    Service::ParameterStore => self.parameters.fits(fault, &call.operation, &call.body),
                    Service::EventBridge | Service::Sqs | Service::Sts => false,
                }
            }
        }
    }

    async fn execute(&self, call: Call, view: View) -> Reply {
        let protocol = call.service.protocol();
        let answer = match call.service {
            Service::DynamoDb => self.dynamodb.call(&call.operation, &call.headers, call.body, view).await,
            Service::ParameterStore => self
                .parameters
                .call(&call.operation, call.body, view)
                .await
                .map(|answer| json_reply(StatusCode::OK, protocol, &answer)),
            Service::EventBridge => self
                .events
                .call(&call.operation, &call.body)
                .map(|answer| json_reply(StatusCode::OK, protocol, &answer)),
            Service::Sqs => self
                .queues
                .call(&call.operation, &call.body)
                .await
                .map(|answer| json_reply(StatusCode::OK, protocol, &answer)),
            Service::Sts => sts::call(&call.operation, &call.body, &call.caller, &self.iam),
        };
        answer.unwrap_or_else(|error| error.into_reply(protocol))
    }

    /// Fails a call by a fault that does not need its answer.
    async fn fail(&self, fault: Fault, call: Call) -> Result<Reply, Unanswered> {
        let protocol = call.service.protocol();
        match fault {
            Fault::NoReply => {
                self.shutdown.requested().await;
                return Err(Unanswered);
            }
            Fault::Reset => return Err(Unanswered),
            Fault::Delay(delay) => {
                tokio::select! {
                    () = self.shutdown.requested() => return Err(Unanswered),
                    () = tokio::time::sleep(delay) => return Ok(self.execute(call, View::Whole).await),
                }
            }
            Fault::StalePage => return Ok(self.execute(call, View::Stale).await),
            Fault::EmptyPage => return Ok(self.execute(call, View::EmptyPage).await),
            Fault::WholeSeconds => return Ok(self.execute(call, View::WholeSeconds).await),
            Fault::NotYet if call.service == Service::ParameterStore => {
                if let Some(nothing) = parameter_store::nothing(&call.operation, &call.body) {
                    return Ok(nothing.map_or_else(
                        |error| error.into_reply(protocol),
                        |nothing| json_reply(StatusCode::OK, protocol, &nothing),
                    ));
                }
            }
            Fault::Throttle | Fault::InternalError | Fault::ReplyLost | Fault::TransactionConflict | Fault::NotYet => {}
        }
        let error = match call.service {
            Service::DynamoDb => dynamodb::failure(fault, &call.operation, &call.body),
            Service::ParameterStore => parameter_store::failure(fault),
            Service::EventBridge => eventbridge::failure(fault),
            Service::Sqs => sqs::failure(fault),
            Service::Sts if fault == Fault::Throttle => AwsError::new("Throttling", "Rate exceeded"),
            Service::Sts => AwsError::internal("InternalFailure", "Internal server error"),
        };
        Ok(error.into_reply(protocol))
    }
}

impl Call {
    /// The JSON services put service and operation in `x-amz-target`, STS puts its operation in a
    /// form.
    fn of(headers: HeaderMap, body: Bytes) -> Result<Self, AwsError> {
        let unknown = |message: String| AwsError::new("UnknownOperationException", message);
        if let Some(target) = headers.get("x-amz-target") {
            let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
            let (prefix, operation) = target.split_once('.').unwrap_or((&target, ""));
            let service = match prefix {
                "DynamoDB_20120810" | "DynamoDBStreams_20120810" => Service::DynamoDb,
                "AmazonSSM" => Service::ParameterStore,
                "AWSEvents" => Service::EventBridge,
                "AmazonSQS" => Service::Sqs,
                _ => {
                    return Err(unknown(format!("The emulator does not know the target {target:?}.")));
                }
            };
            // The engine refuses such a body without saying so in AWS's way.
            if std::str::from_utf8(&body).is_err() {
                return Err(AwsError::new("SerializationException", "The body is not UTF-8."));
            }
            let operation = operation_name(operation);
            return Ok(Self { service, operation, headers, body, caller: Caller::Administrator });
        }
        let form = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let action = form.then(|| {
            let body = String::from_utf8_lossy(&body);
            body.split('&').find_map(|pair| pair.strip_prefix("Action=")).map(operation_name)
        });
        match action.flatten() {
            Some(operation) => {
                Ok(Self { service: Service::Sts, operation, headers, body, caller: Caller::Administrator })
            }
            None => Err(unknown("A call needs an x-amz-target header, or an Action in a form.".to_owned())),
        }
    }
}

/// What services say to credentials that they do not take.
fn not_taken(service: Service, why: BadCredentials) -> AwsError {
    let (json, query, message) = match why {
        BadCredentials::Unknown => (
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
        ),
        BadCredentials::Expired => {
            ("ExpiredTokenException", "ExpiredToken", "The security token included in the request is expired")
        }
    };
    match service {
        Service::Sts => AwsError::new(query, message).with_status(StatusCode::FORBIDDEN),
        _ => AwsError::new(json, message),
    }
}

/// Operation names are words; anything else is none, and is not worth remembering.
fn operation_name(text: &str) -> String {
    let word = !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if word { text } else { "Unknown" }.to_owned()
}

/// Reads a whole body. One that is too large is read to its end all the same, so that its sender
/// gets to the answer.
async fn read(mut body: Incoming) -> Result<Bytes, AwsError> {
    let all = async {
        let mut bytes = BytesMut::new();
        let mut total = 0_usize;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| AwsError::new("SerializationException", error.to_string()))?;
            if let Some(data) = frame.data_ref() {
                total = total.saturating_add(data.len());
                if total <= MAX_BODY {
                    bytes.extend_from_slice(data);
                }
            }
        }
        if total > MAX_BODY {
            let message = format!("The request has {total} bytes; at most {MAX_BODY} are taken.");
            return Err(
                AwsError::new("RequestEntityTooLargeException", message).with_status(StatusCode::PAYLOAD_TOO_LARGE)
            );
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(BODY_TIMEOUT, all).await {
        Ok(read) => read,
        Err(_) => Err(AwsError::new("RequestTimeoutException", "The body did not arrive in time.")
            .with_status(StatusCode::REQUEST_TIMEOUT)),
    }
}
