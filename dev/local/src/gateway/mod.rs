//! A stand-in for an API Gateway HTTP API with payload format 2.0: what a request meets on its way
//! to a function and back.
//!
//! Routes, scopes and authorizers come from the template. The limits are those of AWS: 10,240 bytes
//! for the request line and headers, 10 MiB for a body, 6 MiB for an event and for an answer (the
//! invocation payload of a function). The functions see and return bytes, as when deployed. HEAD is
//! a method like any other; the HTTP server leaves out the body of its answer. What differs from
//! AWS: plain HTTP, no throttling, no timeouts (a handler may be stopped in a debugger), and the
//! deviations that the modules below name.

mod authorizer;
mod cors;
mod event;
mod response;
mod routes;
mod target;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Request, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use time::OffsetDateTime;

pub use authorizer::{JwtAuthorizer, Refusal};
pub use event::ApiIdentity;
pub use routes::Routes;
pub(crate) use target::WholeTargets;

use crate::template::Cors;

use event::{RequestContext, event};
use response::{message, response};
use routes::decode_path;

/// Bytes of the request line and all headers together.
pub const MAX_HEAD: usize = 10_240;
/// Bytes of a request's body.
pub const MAX_BODY: usize = 10 * 1024 * 1024;
/// Bytes of a function's event, and of its answer.
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024;
/// How much of a body that is too large is still read, so that the client gets to see the answer.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;

/// A function as the gateway knows it: the event's JSON in, the answer's JSON out, or what went
/// wrong.
pub type Function = Arc<dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// The gateway.
pub struct Gateway {
    api: ApiIdentity,
    port: u16,
    routes: Routes,
    authorizers: BTreeMap<String, JwtAuthorizer>,
    functions: BTreeMap<String, Function>,
    cors: Option<Cors>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("api", &self.api).field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway on `port`. Routes name their authorizer and their function.
    pub fn new(
        api: ApiIdentity,
        port: u16,
        routes: Routes,
        authorizers: BTreeMap<String, JwtAuthorizer>,
        functions: BTreeMap<String, Function>,
    ) -> Self {
        Self { api, port, routes, authorizers, functions, cors: None }
    }

    /// The same, for pages of other origins, too.
    #[must_use]
    pub fn with_cors(self, cors: Option<Cors>) -> Self {
        Self { cors, ..self }
    }

    /// Answers one request of `client`. A function that fails or panics costs this request only.
    pub async fn answer(&self, request: Request<Body>, client: SocketAddr) -> Response {
        // As long as API Gateway's ids: 16 characters, the last of them padding.
        let id = STANDARD.encode(&fastrand::u128(..).to_be_bytes()[..11]);
        let mut response = self.route(request, client, &id).await.unwrap_or_else(Failure::into_response);
        if let Ok(id) = HeaderValue::try_from(id) {
            response.headers_mut().insert(HeaderName::from_static("apigw-requestid"), id);
        }
        response
    }

    async fn route(&self, request: Request<Body>, client: SocketAddr, id: &str) -> Result<Response, Failure> {
        let (parts, body) = request.into_parts();
        let head = head_length(&parts);
        let body = read(body).await?;
        if head > MAX_HEAD {
            return Err(Failure::HeadTooLong);
        }
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors::preflight(cors, &parts)) {
            return Ok(answer);
        }
        let path = decode_path(parts.uri.path());
        let matched = self.routes.find(parts.method.as_str(), &path).ok_or(Failure::NoRoute)?;
        let route = matched.route;
        let authorizer = match &route.authorizer {
            None => None,
            Some(name) => {
                let authorizer = self
                    .authorizers
                    .get(name)
                    .ok_or_else(|| Failure::Internal(format!("there is no authorizer {name}")))?;
                let given = authorization(&parts);
                let refused = |refusal| Failure::Refused(refusal, route.scopes.join(" "));
                Some(authorizer.authorize(given.as_deref(), &route.scopes).map_err(refused)?)
            }
        };
        let time = OffsetDateTime::now_utc();
        let context =
            RequestContext { api: &self.api, client, port: self.port, id, time, path: &path, matched, authorizer };
        let event = event(&parts, &body, context);
        let event = serde_json::to_vec(&event).map_err(|error| Failure::Internal(error.to_string()))?;
        if event.len() > MAX_PAYLOAD {
            return Err(Failure::BodyTooLong);
        }
        let answer = self.invoke(&route.function, event).await.map_err(Failure::Internal)?;
        let mut response = response(&answer).map_err(|error| Failure::Internal(error.to_string()))?;
        if let Some(cors) = &self.cors {
            cors::add(cors, &parts.headers, response.headers_mut());
        }
        Ok(response)
    }

    async fn invoke(&self, name: &str, event: Vec<u8>) -> Result<Vec<u8>, String> {
        let function = self.functions.get(name).ok_or_else(|| format!("there is no function {name}"))?;
        // A task of its own: a panic ends there, and the function finishes even if the client goes
        // away, as on AWS.
        let answer = tokio::spawn(function(event)).await.map_err(|error| format!("{name}: {error}"))??;
        if answer.len() > MAX_PAYLOAD {
            return Err(format!("{name} answered with {} bytes; the limit is {MAX_PAYLOAD}", answer.len()));
        }
        Ok(answer)
    }
}

/// Why the gateway answers by itself.
#[derive(Debug)]
enum Failure {
    HeadTooLong,
    BodyTooLong,
    BodyUnreadable,
    NoRoute,
    Refused(Refusal, String),
    Internal(String),
}

impl Failure {
    fn into_response(self) -> Response {
        match self {
            Self::HeadTooLong => {
                message(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Request Header Fields Too Large")
            }
            Self::BodyTooLong => message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large"),
            Self::BodyUnreadable => message(StatusCode::BAD_REQUEST, "Bad Request"),
            Self::NoRoute => message(StatusCode::NOT_FOUND, "Not Found"),
            Self::Refused(refusal, scopes) => refused(&refusal, &scopes),
            Self::Internal(reason) => {
                tracing::error!(reason, "a request was answered with 500");
                message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
            }
        }
    }
}

fn refused(refusal: &Refusal, scopes: &str) -> Response {
    let (mut response, challenge) = match refusal {
        Refusal::Missing => (message(StatusCode::UNAUTHORIZED, "Unauthorized"), "Bearer".to_owned()),
        Refusal::Invalid(reason) => {
            let reason = reason.replace('"', "'");
            (
                message(StatusCode::UNAUTHORIZED, "Unauthorized"),
                format!("Bearer scope=\"{scopes}\" error=\"invalid_token\" error_description=\"{reason}\""),
            )
        }
        Refusal::Scope => (
            message(StatusCode::FORBIDDEN, "Forbidden"),
            format!("Bearer scope=\"{scopes}\" error=\"insufficient_scope\""),
        ),
    };
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// The `Authorization` header; two of them make one that is no token.
fn authorization(parts: &Parts) -> Option<String> {
    let values: Vec<_> =
        parts.headers.get_all(header::AUTHORIZATION).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// Bytes of the request line and the headers as they came over the wire.
fn head_length(parts: &Parts) -> usize {
    let line = parts.method.as_str().len() + parts.uri.to_string().len() + " HTTP/1.1\r\n ".len();
    let headers = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + headers.sum::<usize>()
}

async fn read(mut body: Body) -> Result<Bytes, Failure> {
    let mut read = BytesMut::new();
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Failure::BodyUnreadable)?.into_data() else {
            continue;
        };
        if discarded == 0 && read.len() + data.len() <= MAX_BODY {
            read.extend_from_slice(&data);
        } else {
            discarded += data.len();
            if discarded > MAX_DISCARDED {
                break;
            }
        }
    }
    if discarded > 0 { Err(Failure::BodyTooLong) } else { Ok(read.freeze()) }
}
