//! Tells telemetry of every call to AWS. Each attempt counts: that is what AWS charges, and what takes time.

use std::time::{Instant, SystemTime};

use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, Region, RuntimeComponents,
        interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
    },
    error::BoxError,
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use super::Service;
use crate::telemetry::{self, CallSeen};

/// Sees the calls of one client.
#[derive(Debug)]
pub(super) struct CallObserver {
    service: Service,
    region: Region,
}

/// An attempt under way.
#[derive(Debug)]
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
        // The JSON protocols name the operation behind the service's name: `DynamoDB_20120810.GetItem`.
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
        let Some(attempt) = config.load::<Attempt>() else { return Ok(()) };
        telemetry::trace_call(&CallSeen {
            service: self.service.trace_name(),
            operation: &attempt.operation,
            region: self.region.as_ref(),
            began: attempt.began,
            took: attempt.clock.elapsed(),
            status: context.response().map(|response| response.status().as_u16()),
        });
        Ok(())
    }
}
