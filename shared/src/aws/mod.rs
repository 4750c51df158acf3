//! The AWS clients, handed out per tenant, and what can go wrong with any AWS call.

mod breaker;
mod calls;
mod roots;
mod sessions;
mod settings;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use aws_sdk_dynamodb::{
    config::{
        BehaviorVersion, IdentityCache, Region, SharedCredentialsProvider, SharedHttpClient,
        http::HttpResponse,
        retry::{ClientRateLimiter, RetryConfig, RetryPartition, TokenBucket},
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
};
use futures_util::future::join;
use tracing::warn;

use breaker::{Breaker, CircuitOpen};
use calls::CallObserver;
pub use roots::{TrustedRoots, UnusableBundle};
pub(crate) use sessions::MAX_SESSIONS;
use sessions::{Principal, Session, Sessions};
pub use sessions::{RoleArn, Roles};
pub use settings::{AwsSettings, OwnCredentials};

use crate::{
    auth::{IndexAuthority, SystemAuthority, TenantScope},
    clock::Clock,
};

/// How long one attempt of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call may take with all its attempts: well under the 30 s that API Gateway waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// How often a call is tried.
const MAX_ATTEMPTS: u32 = 3;
/// The longest wait before a call is tried again; doubles, up to the second number. The SDK takes a
/// random part of it ("full jitter"), but where it adapts to throttles, which then decide.
const FIRST_RETRY_WAIT: Duration = Duration::from_millis(200);
const MAX_RETRY_WAIT: Duration = Duration::from_secs(2);
/// How many retries a client may make on credit, and what part of one each success earns. So a
/// client makes at most half as many retries as it has successes, and these: a service that is down
/// or slow gets little more than it would without retries.
const RETRY_CREDIT: usize = 10;
const RETRIES_PER_SUCCESS: f32 = 0.5;

/// How long the start of a function waits for its connections.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// The partition key that is asked for to open the connection. No item has it.
const WARM_UP_KEY: &str = "WARM-UP";

/// All AWS clients, obtainable only by those who hold the right to use them, and with the rights of
/// those alone whose data they are for.
///
/// Each is made when it is first asked for: what a function never calls costs its start nothing,
/// and is not linked into it.
#[derive(Clone, Debug)]
pub struct AwsClients(Arc<Clients>);

#[derive(Debug)]
struct Clients {
    clock: Clock,
    region: String,
    endpoint: Option<String>,
    credentials: SharedCredentialsProvider,
    /// Whether the credentials need not be kept, as they cost nothing to ask for.
    are_at_hand: bool,
    http: SharedHttpClient,
    /// None where the functions' own rights do for all tenants.
    sessions: Option<Sessions>,
    dynamodb: OnceLock<aws_sdk_dynamodb::Client>,
    ssm: OnceLock<aws_sdk_ssm::Client>,
    eventbridge: OnceLock<aws_sdk_eventbridge::Client>,
    sts: OnceLock<aws_sdk_sts::Client>,
}

macro_rules! client {
    ($clients:expr, $sdk:ident, $service:expr) => {{
        let clients: &Clients = $clients;
        let mut config = $sdk::Config::builder()
            .interceptor(CallObserver::new($service, &clients.region))
            .interceptor(Breaker::new($service, clients.clock.clone()))
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(clients.region.clone()))
            .credentials_provider(clients.credentials.clone())
            .http_client(SharedHttpClient::clone(&clients.http))
            .retry_config(retries($service))
            .retry_partition(retry_budget($service))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(1))
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .operation_timeout(CALL_TIMEOUT)
                    .build(),
            );
        config.set_endpoint_url(clients.endpoint.clone());
        if clients.are_at_hand {
            config.set_identity_cache(IdentityCache::no_cache());
        }
        $sdk::Client::from_conf(config.build())
    }};
}

/// How a client's calls are tried again.
fn retries(service: Service) -> RetryConfig {
    let config = match service {
        // Its limits hold for all of an account and region, are low, and those of puts are not
        // published. Nobody counts for everybody; each environment that is throttled calls less
        // often from then on, and by and by as often as it is let.
        Service::ParameterStore => RetryConfig::adaptive(),
        // A throttled table mostly means one tenant's partition, which must not slow the others
        // down.
        Service::DynamoDb | Service::EventBridge | Service::Sts => RetryConfig::standard(),
    };
    config.with_max_attempts(MAX_ATTEMPTS).with_initial_backoff(FIRST_RETRY_WAIT).with_max_backoff(MAX_RETRY_WAIT)
}

/// How a call to Parameter Store is made that must not be repeated.
pub(crate) fn once_to_parameter_store() -> aws_sdk_ssm::config::Builder {
    aws_sdk_ssm::Config::builder().retry_config(retries(Service::ParameterStore).with_max_attempts(1))
}

/// What all calls of one client share.
fn retry_budget(service: Service) -> RetryPartition {
    let tokens = TokenBucket::builder().capacity(RETRY_CREDIT).success_reward(RETRIES_PER_SUCCESS);
    let tokens = tokens.retry_cost(1).throttling_retry_cost(1).timeout_retry_cost(1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let rate = ClientRateLimiter::new(now.as_secs_f64());
    RetryPartition::custom(service.trace_name()).token_bucket(tokens.build()).client_rate_limiter(rate).build()
}

impl AwsClients {
    /// Clients for the region, endpoint and credentials of `settings`. Connects to nothing yet.
    pub fn new(settings: &AwsSettings, clock: &Clock) -> Self {
        Self(Arc::new(Clients {
            clock: clock.clone(),
            region: settings.region.clone(),
            endpoint: settings.endpoint.clone(),
            credentials: settings.credentials.provider(),
            are_at_hand: matches!(settings.credentials, OwnCredentials::Fixed(_)),
            http: settings.http_client(),
            sessions: settings.roles.clone().map(|roles| Sessions::new(roles, settings.max_sessions, clock.clone())),
            dynamodb: OnceLock::new(),
            ssm: OnceLock::new(),
            eventbridge: OnceLock::new(),
            sts: OnceLock::new(),
        }))
    }

    /// Opens the connections that the first call will use: to DynamoDB by asking for an item that
    /// is not there, and to STS by asking who this is. Any answer does, a refusal, too. If there is
    /// none in time, the first call has to try for itself.
    pub async fn warm_up(&self, table: &str) {
        let key = |name: &str| aws_sdk_dynamodb::types::AttributeValue::S(name.to_owned());
        let get =
            self.own_dynamodb().get_item().table_name(table).key("pk", key(WARM_UP_KEY)).key("sk", key(WARM_UP_KEY));
        let sts = async {
            match &self.0.sessions {
                Some(_) => self.sts().get_caller_identity().send().await.map(drop),
                None => Ok(()),
            }
        };
        let (dynamodb, sts) =
            join(warm(Service::DynamoDb, Box::pin(get.send())), warm(Service::Sts, Box::pin(sts))).await;
        for cold in [dynamodb, sts].into_iter().flatten() {
            warn!(error = cold, "a connection could not be opened at the start");
        }
    }

    /// DynamoDB, for the items of the scope's tenant.
    pub async fn dynamodb(&self, scope: &TenantScope) -> Result<aws_sdk_dynamodb::Client, AwsFailure> {
        self.dynamodb_as(&Principal::Tenant(scope.tenant().clone())).await
    }

    /// DynamoDB, for the indexes across tenants.
    pub async fn dynamodb_of_system(
        &self,
        _authority: &SystemAuthority,
    ) -> Result<aws_sdk_dynamodb::Client, AwsFailure> {
        self.dynamodb_as(&Principal::System).await
    }

    /// DynamoDB, for the index of recent changes.
    pub async fn dynamodb_of_index(&self, _authority: &IndexAuthority) -> Result<aws_sdk_dynamodb::Client, AwsFailure> {
        self.dynamodb_as(&Principal::System).await
    }

    /// Parameter Store, for the parameters of the scope's tenant.
    pub async fn parameter_store(&self, scope: &TenantScope) -> Result<aws_sdk_ssm::Client, AwsFailure> {
        self.parameter_store_as(&Principal::Tenant(scope.tenant().clone())).await
    }

    /// Parameter Store, for names and versions across tenants.
    pub async fn parameter_store_of_system(
        &self,
        _authority: &SystemAuthority,
    ) -> Result<aws_sdk_ssm::Client, AwsFailure> {
        self.parameter_store_as(&Principal::System).await
    }

    /// EventBridge, to say what the scope's tenant changed: which keys, never a value. With the
    /// function's own rights, since a bus knows no tenants.
    pub fn eventbridge(&self, _scope: &TenantScope) -> &aws_sdk_eventbridge::Client {
        self.0.eventbridge.get_or_init(|| client!(&self.0, aws_sdk_eventbridge, Service::EventBridge))
    }

    async fn dynamodb_as(&self, principal: &Principal) -> Result<aws_sdk_dynamodb::Client, AwsFailure> {
        let own = self.own_dynamodb();
        let Some(session) = self.session(principal).await? else { return Ok(own.clone()) };
        let client = || {
            let config = own.config().to_builder().credentials_provider(session.credentials.clone());
            // They are at hand.
            let config = config.identity_cache(IdentityCache::no_cache());
            aws_sdk_dynamodb::Client::from_conf(config.build())
        };
        Ok(session.dynamodb.get_or_init(client).clone())
    }

    async fn parameter_store_as(&self, principal: &Principal) -> Result<aws_sdk_ssm::Client, AwsFailure> {
        let own = self.0.ssm.get_or_init(|| client!(&self.0, aws_sdk_ssm, Service::ParameterStore));
        let Some(session) = self.session(principal).await? else { return Ok(own.clone()) };
        let client = || {
            let config = own.config().to_builder().credentials_provider(session.credentials.clone());
            // They are at hand.
            let config = config.identity_cache(IdentityCache::no_cache());
            aws_sdk_ssm::Client::from_conf(config.build())
        };
        Ok(session.ssm.get_or_init(client).clone())
    }

    /// None where the function's own rights do for all.
    async fn session(&self, principal: &Principal) -> Result<Option<Arc<Session>>, AwsFailure> {
        match &self.0.sessions {
            Some(sessions) => Ok(Some(sessions.of(self.sts(), principal).await?)),
            None => Ok(None),
        }
    }

    fn own_dynamodb(&self) -> &aws_sdk_dynamodb::Client {
        self.0.dynamodb.get_or_init(|| client!(&self.0, aws_sdk_dynamodb, Service::DynamoDb))
    }

    fn sts(&self) -> &aws_sdk_sts::Client {
        self.0.sts.get_or_init(|| client!(&self.0, aws_sdk_sts, Service::Sts))
    }
}

/// Why a connection is not open; none if it is.
async fn warm<T, E>(
    service: Service,
    calling: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Option<String>
where
    E: std::error::Error + 'static,
{
    match tokio::time::timeout(WARM_UP_TIMEOUT, calling).await {
        Ok(Ok(_) | Err(SdkError::ServiceError(_))) => None,
        Ok(Err(error)) => Some(format!("{service}: {}", error_chain(&error))),
        Err(_) => Some(format!("{service}: no answer within {} s", WARM_UP_TIMEOUT.as_secs())),
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
    /// AWS Security Token Service.
    Sts,
}

impl Service {
    /// The name that traces know the service by, in logs, too.
    pub(crate) const fn trace_name(self) -> &'static str {
        match self {
            Self::DynamoDb => "DynamoDB",
            Self::ParameterStore => "SSM",
            Self::EventBridge => "EventBridge",
            Self::Sts => "STS",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DynamoDb => "DynamoDB",
            Self::ParameterStore => "Parameter Store",
            Self::EventBridge => "EventBridge",
            Self::Sts => "STS",
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

/// What an error and its causes say. Not what they show for debugging: that may be the body of an
/// answer, and so a value.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    causes(error).fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

fn causes<'a>(error: &'a (dyn std::error::Error + 'a)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| cause.source())
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    fn clients(endpoint: std::net::SocketAddr) -> AwsClients {
        let settings = AwsSettings {
            region: "us-east-1".to_owned(),
            endpoint: Some(format!("http://{endpoint}")),
            credentials: OwnCredentials::Fixed(Credentials::from_keys("id", "key", None)),
            max_sessions: 1,
            roles: None,
            roots: TrustedRoots::Amazon,
        };
        AwsClients::new(&settings, &Clock::system())
    }

    /// A store that takes the connection and says nothing holds up no start for longer than it may.
    #[tokio::test(start_paused = true)]
    async fn a_silent_store_holds_up_no_start() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let began = tokio::time::Instant::now();
        clients(silent.local_addr().unwrap()).warm_up("table").await;
        assert!(began.elapsed() < WARM_UP_TIMEOUT + Duration::from_millis(50));
    }

    /// A refusal warms as well: the next call goes over the same connection, the only one that is
    /// taken here.
    #[tokio::test]
    async fn the_first_call_finds_the_connection_open() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clients = clients(listener.local_addr().unwrap());
        let store = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut requests = Vec::new();
            for _ in 0..2 {
                let mut request = String::new();
                while !request.ends_with("}}}") {
                    let mut some = [0; 4096];
                    let count = connection.read(&mut some).await.unwrap();
                    request += std::str::from_utf8(&some[..count]).unwrap();
                }
                let body = r#"{"__type":"com.amazon.coral.service#AccessDeniedException"}"#;
                let answer = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                connection.write_all(answer.as_bytes()).await.unwrap();
                requests.push(request);
            }
            requests
        };
        let calls = async {
            clients.warm_up("table").await;
            clients.warm_up("table").await;
        };
        let (requests, ()) = tokio::join!(store, calls);
        assert!(requests.iter().all(|request| request.contains(WARM_UP_KEY)));
    }
}
