//! Tells telemetry of every call to AWS. Each attempt counts: that is what AWS charges, and what
//! takes time.

use std::{
    borrow::Cow,
    time::{Instant, SystemTime},
};

use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, Region, RuntimeComponents,
        http::HttpResponse,
        interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
    },
    error::BoxError,
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use serde::Deserialize;

use super::{FailureKind, Service, failure::kind_of};
use crate::telemetry::{self, CallSeen};

/// What the JSON protocols say of an error.
#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(rename = "__type", borrow)]
    code: Cow<'a, str>,
}

/// Whether an answer is a throttle. Its status does not tell: the JSON protocols use 400 for
/// throttles, too.
fn is_throttled(answer: &HttpResponse) -> bool {
    let body = answer.body().bytes().filter(|_| !answer.status().is_success());
    let error = body.and_then(|body| serde_json::from_slice::<ErrorBody<'_>>(body).ok());
    // Behind the namespace, if there is one:
    // `com.amazonaws.dynamodb.v20120810#ThrottlingException`.
    let code = error.as_ref().and_then(|error| error.code.rsplit('#').next());
    code.is_some_and(|code| kind_of(code, answer.status().is_server_error()) == FailureKind::Throttled)
}

/// Sees the calls of one client.
#[derive(Debug)]
pub(super) struct CallObserver {
    service: Service,
    region: Region,
}

/// An attempt under way.
#[derive(Clone, Debug)]
struct Attempt {
    operation: String,
    began: SystemTime,
    clock: Instant,
}

impl Storable for Attempt {
    type Storer = StoreReplace<Self>;
}

impl CallObserver {
    pub(super) fn new(service: Service, region: &str) -> Self {
        Self { service, region: Region::new(region.to_owned()) }
    }
}

impl Intercept for CallObserver {
    fn name(&self) -> &'static str {
        "CallObserver"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // The JSON protocols name the operation behind the service's name:
        // `DynamoDB_20120810.GetItem`.
        let target = context.request().headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        telemetry::note_call(self.service.trace_name());
        config.interceptor_state().store_put(Attempt { operation, began: SystemTime::now(), clock: Instant::now() });
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // None was sent where the circuit is open.
        let Some(attempt) = config.load::<Attempt>() else { return Ok(()) };
        let answer = context.response();
        telemetry::trace_call(&CallSeen {
            service: self.service.trace_name(),
            operation: &attempt.operation,
            region: self.region.as_ref(),
            began: attempt.began,
            took: attempt.clock.elapsed(),
            status: answer.map(|answer| answer.status().as_u16()),
            throttled: answer.is_some_and(is_throttled),
        });
        config.interceptor_state().unset::<Attempt>();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;

    use super::*;

    /// The code decides what a throttle is: its status is that of any other client error.
    #[test]
    fn throttles_are_known_by_their_code() {
        for (status, body, throttled) in [
            (400, r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}"#, true),
            (400, r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#, true),
            (400, r#"{"__type":"com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"}"#, false),
            (200, r#"{"__type":"ThrottlingException"}"#, false),
            (500, "", false),
        ] {
            let answer = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
            assert_eq!(is_throttled(&answer), throttled, "{status} {body}");
        }
    }
}
