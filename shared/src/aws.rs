//! The AWS clients, handed out per tenant, and what can go wrong with any AWS call.

mod calls;

use std::{fmt, time::Duration};

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::{
    config::{
        BehaviorVersion, Region, SharedCredentialsProvider, SharedHttpClient, http::HttpResponse, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_http_client::{
    Builder as HttpClientBuilder,
    tls::{Provider, rustls_provider::CryptoMode},
};

use calls::CallObserver;

use crate::{
    auth::{SystemAuthority, TenantScope},
    settings::AwsSettings,
};

/// How long one attempt of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call may take with all its attempts: well under the 30 s that API Gateway waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// All AWS clients, obtainable only by those who hold the right to use them.
///
/// Today every tenant gets the function's own credentials. Credentials per tenant come in here, and nowhere else.
#[derive(Clone, Debug)]
pub struct AwsClients {
    dynamodb: aws_sdk_dynamodb::Client,
    ssm: aws_sdk_ssm::Client,
    eventbridge: aws_sdk_eventbridge::Client,
}

impl AwsClients {
    /// Clients for the region, endpoint and credentials of `settings`. Connects to nothing yet.
    pub fn new(settings: &AwsSettings) -> Self {
        let http = HttpClientBuilder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https();
        let credentials = SharedCredentialsProvider::new(Credentials::from_keys(
            &settings.access_key_id,
            &settings.secret_access_key,
            settings.session_token.clone(),
        ));
        macro_rules! client {
            ($sdk:ident, $service:expr) => {{
                let mut config = $sdk::Config::builder()
                    .interceptor(CallObserver::new($service, &settings.region))
                    .behavior_version(BehaviorVersion::latest())
                    .region(Region::new(settings.region.clone()))
                    .credentials_provider(credentials.clone())
                    .http_client(SharedHttpClient::clone(&http))
                    .retry_config(RetryConfig::standard())
                    .timeout_config(
                        TimeoutConfig::builder()
                            .connect_timeout(Duration::from_secs(1))
                            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                            .operation_timeout(CALL_TIMEOUT)
                            .build(),
                    );
                config.set_endpoint_url(settings.endpoint.clone());
                $sdk::Client::from_conf(config.build())
            }};
        }
        Self {
            dynamodb: client!(aws_sdk_dynamodb, Service::DynamoDb),
            ssm: client!(aws_sdk_ssm, Service::ParameterStore),
            eventbridge: client!(aws_sdk_eventbridge, Service::EventBridge),
        }
    }

    /// DynamoDB, for the items of the scope's tenant.
    pub fn dynamodb(&self, _scope: &TenantScope) -> &aws_sdk_dynamodb::Client {
        &self.dynamodb
    }

    /// Parameter Store, for the parameters of the scope's tenant.
    pub fn parameter_store(&self, _scope: &TenantScope) -> &aws_sdk_ssm::Client {
        &self.ssm
    }

    /// EventBridge, to say what the scope's tenant changed.
    pub fn eventbridge(&self, _scope: &TenantScope) -> &aws_sdk_eventbridge::Client {
        &self.eventbridge
    }

    /// DynamoDB, for the indexes across tenants.
    pub fn dynamodb_of_system(&self, _authority: &SystemAuthority) -> &aws_sdk_dynamodb::Client {
        &self.dynamodb
    }
}

/// The services that the suite calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Amazon DynamoDB.
    DynamoDb,
    /// Systems Manager Parameter Store.
    ParameterStore,
    /// Amazon EventBridge.
    EventBridge,
}

impl Service {
    /// The name that traces know the service by, in logs, too.
    pub(crate) const fn trace_name(self) -> &'static str {
        match self {
            Self::DynamoDb => "DynamoDB",
            Self::ParameterStore => "SSM",
            Self::EventBridge => "EventBridge",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DynamoDb => "DynamoDB",
            Self::ParameterStore => "Parameter Store",
            Self::EventBridge => "EventBridge",
        })
    }
}

/// What kind of failure a call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The service refused for the moment: too many requests. Nothing was done.
    Throttled,
    /// No answer, or an answer that leaves open whether the call took effect.
    Unavailable,
    /// The service understood and refused.
    Refused,
}

/// A failed AWS call.
#[derive(Debug, thiserror::Error)]
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
        let kind = match error {
            SdkError::ConstructionFailure(_) => FailureKind::Refused,
            SdkError::ServiceError(context) => {
                kind_of(code.as_deref().unwrap_or_default(), context.raw().status().is_server_error())
            }
            // Timeouts, broken connections, unreadable answers, and whatever the SDK adds.
            _ => FailureKind::Unavailable,
        };
        Self { service, operation, kind, code, detail: said(error) }
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

/// What an answer with an error means: by the codes that AWS's services share, DynamoDB's and Parameter Store's own for the same
/// thing, and where those say nothing by whose fault the status says it is.
fn kind_of(code: &str, is_server_error: bool) -> FailureKind {
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

/// What an error and its causes say. Not what they show for debugging: that may be the body of an answer, and so a value.
fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what certainly did not take effect counts as throttled or refused.
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

    /// An answer that cannot be read stands in no log with its body.
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
