//! What can go wrong with a call to AWS, and what that means.

use std::time::Duration;

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use super::{Service, breaker::CircuitOpen};

/// What kind of failure a call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The service refused for the moment: too many requests. Nothing was done.
    Throttled,
    /// No answer, or an answer that leaves open whether the call took effect.
    Unavailable,
    /// The service understood and refused.
    Refused,
    /// The call was not made, because the service does not answer.
    CircuitOpen {
        /// When it may be tried again.
        retry_after: Duration,
    },
}

impl FailureKind {
    /// Whether the call certainly did nothing, if it was tried once.
    pub const fn did_nothing(self) -> bool {
        match self {
            Self::Throttled | Self::Refused | Self::CircuitOpen { .. } => true,
            Self::Unavailable => false,
        }
    }

    /// Whether it is the service's state that failed the call, not the call itself.
    pub const fn is_outage(self) -> bool {
        match self {
            Self::Throttled | Self::Unavailable | Self::CircuitOpen { .. } => true,
            Self::Refused => false,
        }
    }
}

/// A failed AWS call.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{service} {operation}: {detail}")]
pub struct AwsFailure {
    /// The service.
    pub service: Service,
    /// The operation, by AWS's name.
    pub operation: &'static str,
    /// What kind of failure.
    pub kind: FailureKind,
    /// The service's error code, such as `ParameterNotFound`.
    pub code: Option<String>,
    detail: String,
}

impl AwsFailure {
    /// What a failed SDK call means.
    pub fn of<E>(service: Service, operation: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let code = error.code().map(str::to_owned);
        let open = causes(error).find_map(|cause| cause.downcast_ref::<CircuitOpen>());
        let kind = match (error, open) {
            (_, Some(open)) => FailureKind::CircuitOpen { retry_after: open.retry_after },
            (SdkError::ConstructionFailure(_), None) => FailureKind::Refused,
            (SdkError::ServiceError(context), None) => {
                kind_of(code.as_deref().unwrap_or_default(), context.raw().status().is_server_error())
            }
            // Timeouts, broken connections, unreadable answers, and whatever the SDK adds.
            _ => FailureKind::Unavailable,
        };
        Self { service, operation, kind, code, detail: error_chain(error) }
    }

    /// The failure without AWS's words, which may repeat what was sent.
    #[must_use]
    pub fn code_only(self) -> Self {
        let detail = self.code.clone().unwrap_or_else(|| "no answer".to_owned());
        Self { detail, ..self }
    }

    /// An answer that AWS promises never to give.
    pub fn unexpected(service: Service, operation: &'static str, detail: impl Into<String>) -> Self {
        Self { service, operation, kind: FailureKind::Unavailable, code: None, detail: detail.into() }
    }

    /// A refusal for the moment that came as part of a good answer.
    pub fn throttled(service: Service, operation: &'static str, detail: impl Into<String>) -> Self {
        Self { kind: FailureKind::Throttled, ..Self::unexpected(service, operation, detail) }
    }

    /// Whether the service's error code is `code`.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

/// What an answer with an error means: by the codes that AWS's services share, DynamoDB's and
/// Parameter Store's own for the same thing, and where those say nothing by whose fault the status
/// says it is.
pub(super) fn kind_of(code: &str, is_server_error: bool) -> FailureKind {
    match code {
        "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "TooManyUpdates"
        | "TransactionConflictException"
        | "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "ThrottledException" => FailureKind::Throttled,
        "TransactionInProgressException" | "RequestTimeoutException" | "" => FailureKind::Unavailable,
        _ if is_server_error => FailureKind::Unavailable,
        _ => FailureKind::Refused,
    }
}

/// The messages of an error and its causes. Not their debug output, which may contain the body of
/// an answer, and so a value.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    causes(error).fold(error.to_string(), |chain, cause| format!("{chain}: {cause}"))
}

fn causes<'a>(error: &'a (dyn std::error::Error + 'a)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| cause.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a call that certainly did not take effect counts as throttled or refused.
    #[test]
    fn doubtful_answers_leave_the_outcome_open() {
        for (code, is_server_error, kind) in [
            ("ThrottlingException", false, FailureKind::Throttled),
            ("TransactionConflictException", false, FailureKind::Throttled),
            ("ValidationException", false, FailureKind::Refused),
            ("InternalServerError", true, FailureKind::Unavailable),
            ("SomethingNew", true, FailureKind::Unavailable),
            ("TransactionInProgressException", false, FailureKind::Unavailable),
            ("", false, FailureKind::Unavailable),
        ] {
            assert_eq!(kind_of(code, is_server_error), kind, "{code}");
        }
    }

    /// The body of an answer that cannot be read stays out of the log.
    #[test]
    fn bodies_are_not_said() {
        let body = aws_smithy_types::body::SdkBody::from("hunter2");
        let answer = HttpResponse::new(200.try_into().unwrap(), body);
        let error: SdkError<aws_sdk_ssm::operation::get_parameters::GetParametersError, _> =
            SdkError::response_error("no JSON", answer);
        let failure = AwsFailure::of(Service::ParameterStore, "GetParameters", &error);
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert_eq!(failure.to_string(), "Parameter Store GetParameters: response error: no JSON");
    }

    /// What a service says about a value that it refused may repeat it.
    #[test]
    fn code_only_repeats_nothing() {
        let failure = AwsFailure::unexpected(Service::ParameterStore, "PutParameter", "hunter2 is not allowed");
        assert_eq!(failure.code_only().to_string(), "Parameter Store PutParameter: no answer");
    }
}
