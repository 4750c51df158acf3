//! The frame that the functions behind the API answer requests in.

use std::time::Duration;

use futures_util::FutureExt;
pub use futures_util::future::BoxFuture;
pub use lambda_http::Context;

use crate::{
    auth::{Authenticator, HttpKeys, Permission, TenantScope, TokenSettings},
    clock::Clock,
    http::{Answer, Event, Problem, ProblemType, revision_of},
    limit::{RequestLimit, TenantLimits},
    telemetry::{self, Invocation, Outcome, Telemetry, TraceContext},
};

/// How long an answer may take: less than the timeout of the functions that answer requests.
const ANSWER_BUDGET: Duration = Duration::from_secs(27);

/// Stands between API Gateway and a function's routes: it finds out who asks, and writes the line
/// of the invocation.
#[derive(Debug)]
pub struct ApiHandler {
    function: &'static str,
    authenticator: Authenticator,
    limits: TenantLimits,
    telemetry: Telemetry,
    clock: Clock,
}

impl ApiHandler {
    /// The handler of `function`. It accepts the tokens that `tokens` describes, and as many
    /// requests of each tenant as `limit` allows.
    pub fn new(
        function: &'static str,
        tokens: &TokenSettings,
        limit: Option<RequestLimit>,
        telemetry: Telemetry,
        clock: Clock,
    ) -> Self {
        let keys = HttpKeys::new(tokens);
        Self {
            function,
            authenticator: Authenticator::new(tokens, Box::new(keys), clock.clone()),
            limits: TenantLimits::new(limit, clock.clone()),
            telemetry,
            clock,
        }
    }

    /// The tenant of the request, if its sender may do that and the tenant has not made too many
    /// requests. A sender who may not act for a tenant does not count against it.
    pub async fn authorize(&self, event: &Event, permission: Permission) -> Result<TenantScope, Problem> {
        let scope = event.authorize(&self.authenticator, permission).await?;
        telemetry::note_tenant(scope.tenant());
        self.limits.admit(scope.tenant())?;
        Ok(scope)
    }

    /// The answer to the request for `route`; also writes the line of the invocation. `context` is
    /// the Lambda service's. Where it names no trace, API Gateway's header does. `answering` is
    /// boxed, so that the future of each route does not lie on the stack of the runtime.
    pub async fn answer(
        &self,
        event: &Event,
        route: Option<&'static str>,
        context: &Context,
        answering: BoxFuture<'_, Result<Answer, Problem>>,
    ) -> Answer {
        let trace = context.xray_trace_id.as_deref().or_else(|| event.header("x-amzn-trace-id"));
        let invocation = Invocation {
            function: self.function,
            route: route.unwrap_or("none"),
            id: &context.request_id,
            request_id: event.request_id(),
            trace: trace.and_then(TraceContext::parse),
        };
        let answering = tokio::time::timeout(ANSWER_BUDGET, answering)
            .map(|in_time| concluded(in_time.unwrap_or_else(|_| Err(too_slow()))));
        self.telemetry.observe(&self.clock, invocation, answering, outcome).await
    }
}

/// The answer. Only here operators are told of a problem and of the revision.
fn concluded(answered: Result<Answer, Problem>) -> Answer {
    let answer = answered.unwrap_or_else(|problem| {
        problem.log();
        telemetry::note_problem(problem.type_name());
        problem.answer()
    });
    if let Some(revision) = revision_of(&answer) {
        telemetry::note_revision(revision);
    }
    answer
}

fn too_slow() -> Problem {
    let detail = "it could not be finished in time; a write may have taken place: read the key, or send the same request with the same Idempotency-Key";
    Problem::new(ProblemType::Unavailable, detail).retry_after(2)
}

fn outcome(answer: &Answer) -> Outcome {
    Outcome::Status(u16::try_from(answer.status_code).unwrap_or_default())
}
