//! How AWS is reached.

use std::fmt;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::{HttpClient, RuntimeComponents, SharedCredentialsProvider, SharedHttpClient};
use aws_smithy_http_client::{
    Builder as HttpClientBuilder,
    tls::{Provider, TlsContext, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    connector_metadata::ConnectorMetadata,
    http::{HttpConnectorSettings, SharedHttpConnector},
};
use tracing::warn;

use super::{Roles, TrustedRoots};

/// How AWS is reached: the variables that the Lambda service sets, and the SDKs' standard one for
/// another endpoint.
#[derive(Clone)]
pub struct AwsSettings {
    /// `AWS_REGION`.
    pub region: String,
    /// `AWS_ENDPOINT_URL`: another endpoint for all services, as the SDKs understand it.
    pub endpoint: Option<String>,
    /// The process's own credentials: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`, or whatever gives others in time.
    pub credentials: OwnCredentials,
    /// How many tenants' sessions are kept. One takes about 20 KB for each service that was called
    /// with it.
    pub max_sessions: usize,
    /// `TENANT_ROLE_ARN`, `SYSTEM_ROLE_ARN`: the roles for tenants' data and for work across
    /// tenants. None if `TENANT_ROLE_ARN` says `none`: then the process uses its own rights for
    /// everything, and nothing but our own code keeps tenants apart.
    pub roles: Option<Roles>,
    /// `AWS_CA_BUNDLE`, a file: the root certificates that are trusted instead of those that
    /// [`TrustedRoots::choose`] takes.
    pub roots: TrustedRoots,
}

/// The credentials of the process itself.
#[derive(Clone, Debug)]
pub enum OwnCredentials {
    /// Those that a process of short life is given at its start, as by the Lambda service.
    Fixed(Credentials),
    /// Others in the course of time, kept until shortly before they end.
    Provided(SharedCredentialsProvider),
}

impl OwnCredentials {
    /// The credentials as the SDK asks for them.
    pub fn provider(&self) -> SharedCredentialsProvider {
        match self {
            Self::Fixed(credentials) => SharedCredentialsProvider::new(credentials.clone()),
            Self::Provided(provider) => provider.clone(),
        }
    }
}

impl AwsSettings {
    /// A client that trusts the right root certificates.
    pub fn http_client(&self) -> SharedHttpClient {
        let mut http = HttpClientBuilder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        match TlsContext::builder().with_trust_store(self.roots.store()).build() {
            Ok(tls) => http = http.tls_context(tls),
            // It has no reason to fail; if it ever does, the system's certificates stay in place.
            Err(error) => warn!(%error, "the root certificates cannot be used"),
        }
        SharedHttpClient::new(MadeOnCall(http.build_https()))
    }
}

/// Makes its connector for the first call, and no other. The SDK's client by itself makes one for
/// each new service client as well, reads the root certificates for it, and drops it. That is a
/// twenty-fifth of a cold start, and a part of each tenant's first call.
#[derive(Debug)]
struct MadeOnCall(SharedHttpClient);

impl HttpClient for MadeOnCall {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        self.0.http_connector(settings, components)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

impl fmt::Debug for AwsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSettings")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
