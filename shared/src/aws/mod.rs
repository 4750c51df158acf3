//! AWS: the clients, handed out per tenant, how their calls are made, and what can go wrong.

mod breaker;
mod calls;
mod clients;
mod failure;
mod retry;
mod roots;
mod sessions;
mod settings;
mod warm_up;

use std::fmt;

pub use clients::AwsClients;
pub use failure::{AwsFailure, FailureKind, error_chain};
pub(crate) use retry::once_to_parameter_store;
pub use roots::{TrustedRoots, UnusableBundle};
pub(crate) use sessions::MAX_SESSIONS;
pub use sessions::{RoleArn, Roles};
pub use settings::{AwsSettings, OwnCredentials};

/// The services of AWS that are called.
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
