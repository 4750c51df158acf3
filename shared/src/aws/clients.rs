//! The clients, handed out per tenant, and with that tenant's rights alone.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use aws_sdk_dynamodb::config::{
    BehaviorVersion, IdentityCache, Region, SharedCredentialsProvider, SharedHttpClient, timeout::TimeoutConfig,
};

use super::{
    AwsFailure, AwsSettings, OwnCredentials, Service,
    breaker::Breaker,
    calls::CallObserver,
    retry::{retries, retry_budget},
    sessions::{Principal, Session, Sessions},
};
use crate::{
    auth::{IndexAuthority, SystemAuthority, TenantScope},
    clock::Clock,
};

/// How long one attempt of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call may take with all its attempts: well under the 30 s that API Gateway waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// All AWS clients. A caller needs proof of its right to get one, and the client has the rights of
/// that tenant alone.
///
/// Each is made when it is first asked for: a client that a function never uses does not slow its
/// start, and is not linked into it.
#[derive(Clone, Debug)]
pub struct AwsClients(pub(super) Arc<Clients>);

#[derive(Debug)]
pub(super) struct Clients {
    clock: Clock,
    region: String,
    endpoint: Option<String>,
    credentials: SharedCredentialsProvider,
    /// Whether the credentials need not be kept, as they cost nothing to ask for.
    are_at_hand: bool,
    http: SharedHttpClient,
    /// None where the functions' own rights do for all tenants.
    pub(super) sessions: Option<Sessions>,
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

    /// EventBridge, to publish what the scope's tenant changed: which keys, never a value. It has
    /// the function's own rights, since a bus knows no tenants.
    pub fn eventbridge(&self, _scope: &TenantScope) -> &aws_sdk_eventbridge::Client {
        self.0.eventbridge.get_or_init(|| client!(&self.0, aws_sdk_eventbridge, Service::EventBridge))
    }

    async fn dynamodb_as(&self, principal: &Principal) -> Result<aws_sdk_dynamodb::Client, AwsFailure> {
        let own = self.own_dynamodb();
        let Some(session) = self.session(principal).await? else { return Ok(own.clone()) };
        let client = || {
            let config = own.config().to_builder().credentials_provider(session.credentials.clone());
            // Asking the session for its credentials costs nothing.
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
            // Asking the session for its credentials costs nothing.
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

    pub(super) fn own_dynamodb(&self) -> &aws_sdk_dynamodb::Client {
        self.0.dynamodb.get_or_init(|| client!(&self.0, aws_sdk_dynamodb, Service::DynamoDb))
    }

    pub(super) fn sts(&self) -> &aws_sdk_sts::Client {
        self.0.sts.get_or_init(|| client!(&self.0, aws_sdk_sts, Service::Sts))
    }
}
