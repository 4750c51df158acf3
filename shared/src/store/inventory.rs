//! Lists all parameters of the suite, of every tenant: names, versions and times, never a value.

use std::collections::HashMap;

use aws_sdk_ssm::{operation::describe_parameters::DescribeParametersOutput, types::ParameterStringFilter};
use tracing::warn;

use super::parameter_store::{NotAKey, key_of_parameter, locator, parameter_name};
use crate::{
    auth::SystemAuthority,
    aws::{AwsClients, AwsFailure, Service},
    model::{entry::Locator, key::ConfigKey, routing::TagRoutes, tenant::TenantId},
};

/// The most parameters that one `DescribeParameters` returns, and the most names that it takes.
pub const MAX_DESCRIBED: usize = 50;

/// Lists the parameters below the suite's root.
#[derive(Clone, Debug)]
pub struct Inventory {
    clients: AwsClients,
    root: String,
}

/// Some of the parameters.
#[derive(Debug, Default)]
pub struct InventoryPage {
    /// Their names, and where their newest versions lie. A page may be empty and not be the last.
    pub parameters: Vec<(String, Locator)>,
    /// Where the next page begins; none at the end.
    pub next: Option<String>,
    /// Whether there may be more that cannot be reached from here.
    pub is_cut: bool,
}

impl Inventory {
    /// The inventory of the parameters below `root`.
    pub fn new(clients: AwsClients, root: String) -> Self {
        Self { clients, root }
    }

    /// The tenant and the key whose value would lie in the parameter `name`.
    pub fn key_of(&self, routes: &TagRoutes, name: &str) -> Result<(TenantId, ConfigKey), NotAKey> {
        key_of_parameter(&self.root, routes, name)
    }

    /// The parameters from `token` on. If Parameter Store refuses the token, this is the end; the
    /// rest waits for the next round.
    pub async fn page(&self, authority: &SystemAuthority, token: Option<String>) -> Result<InventoryPage, AwsFailure> {
        let begins = token.is_none();
        match self.describe(authority, ("Path", "Recursive"), vec![self.root.clone()], token).await {
            Err(failure) if failure.is("InvalidNextToken") && !begins => {
                warn!(error = %failure, "not all parameters could be compared in this round");
                Ok(InventoryPage { is_cut: true, ..InventoryPage::default() })
            }
            page => page,
        }
    }

    /// Where the newest versions of these keys lie, in the same order; none for keys without a
    /// parameter. At most [`MAX_DESCRIBED`].
    pub async fn places(
        &self,
        authority: &SystemAuthority,
        keys: &[(TenantId, ConfigKey)],
    ) -> Result<Vec<Option<Locator>>, AwsFailure> {
        let names: Vec<_> = keys.iter().map(|(tenant, key)| parameter_name(&self.root, tenant, key)).collect();
        let mut found = HashMap::new();
        let mut token = None;
        loop {
            let page = self.describe(authority, ("Name", "Equals"), names.clone(), token).await?;
            found.extend(page.parameters);
            token = page.next;
            if token.is_none() {
                return Ok(names.iter().map(|name| found.get(name).copied()).collect());
            }
        }
    }

    async fn describe(
        &self,
        authority: &SystemAuthority,
        by: (&str, &str),
        values: Vec<String>,
        token: Option<String>,
    ) -> Result<InventoryPage, AwsFailure> {
        let answer = describe(&self.clients.parameter_store_of_system(authority).await?, by, values, token).await?;
        let mut parameters = Vec::new();
        for one in answer.parameters() {
            let version = u64::try_from(one.version()).unwrap_or_default();
            parameters.push((one.name().unwrap_or_default().to_owned(), locator(version, one.last_modified_date())?));
        }
        Ok(InventoryPage { parameters, next: answer.next_token, is_cut: false })
    }
}

/// Names, versions and times of the parameters whose key `by.0` matches one of `values` in the way
/// `by.1`.
async fn describe(
    client: &aws_sdk_ssm::Client,
    by: (&str, &str),
    values: Vec<String>,
    token: Option<String>,
) -> Result<DescribeParametersOutput, AwsFailure> {
    const OPERATION: &str = "DescribeParameters";
    let filter = ParameterStringFilter::builder().key(by.0).option(by.1).set_values(Some(values)).build();
    let filter =
        filter.map_err(|error| AwsFailure::unexpected(Service::ParameterStore, OPERATION, error.to_string()))?;
    client
        .describe_parameters()
        .parameter_filters(filter)
        .max_results(i32::try_from(MAX_DESCRIBED).unwrap_or(i32::MAX))
        .set_next_token(token)
        .send()
        .await
        .map_err(|error| AwsFailure::of(Service::ParameterStore, OPERATION, &error))
}
