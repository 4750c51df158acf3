//! Whoever edits parameters past Tenantry.

use aws_credential_types::Credentials;
use aws_sdk_ssm::config::{BehaviorVersion, Region};
use local::{
    Suite,
    suite::{CREDENTIALS, REGION},
};

/// A client of the suite's Parameter Store.
pub(crate) fn parameter_store(suite: &Suite) -> aws_sdk_ssm::Client {
    let config = aws_sdk_ssm::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(REGION))
        .credentials_provider(Credentials::new(CREDENTIALS, CREDENTIALS, None, None, "local"))
        .endpoint_url(suite.aws_url())
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    aws_sdk_ssm::Client::from_conf(config.build())
}
