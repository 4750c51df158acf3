//! A look over all parameters of the suite, whoever's they are: names, versions and times, never a value.

use std::collections::HashSet;

use aws_sdk_ssm::types::ParameterStringFilter;

use super::parameter_store::{locator, parameter_name};
use crate::{
    auth::SystemAuthority,
    aws::{AwsClients, AwsFailure, Service},
    entry::Locator,
    key::ConfigKey,
    settings::Settings,
    tenant::TenantId,
};

/// The most parameters that `DescribeParameters` names at once, and the most names that it is asked for.
pub const MAX_DESCRIBED: usize = 50;

/// Looks over the parameters below the suite's root.
#[derive(Clone, Debug)]
pub struct Survey {
    clients: AwsClients,
    root: String,
}

/// Some of the parameters.
#[derive(Debug, Default)]
pub struct SurveyPage {
    /// Their names, and where their newest versions lie. A page may be empty and still not be the last.
    pub parameters: Vec<(String, Locator)>,
    /// Where to go on; none at the end.
    pub next: Option<String>,
}

impl Survey {
    /// A survey by the suite's settings.
    pub fn new(clients: AwsClients, settings: &Settings) -> Self {
        Self { clients, root: settings.parameter_root.clone() }
    }

    /// The parameters from `token` on. A token that Parameter Store does not take any more begins anew.
    pub async fn page(&self, authority: &SystemAuthority, token: Option<String>) -> Result<SurveyPage, AwsFailure> {
        let begins = token.is_none();
        match self.describe(authority, "Path", Some("Recursive"), vec![self.root.clone()], token).await {
            Err(failure) if failure.is("InvalidNextToken") && !begins => Ok(SurveyPage::default()),
            page => page,
        }
    }

    /// Those of these tenants' keys that have a parameter, at most [`MAX_DESCRIBED`] of them.
    pub async fn present(
        &self,
        authority: &SystemAuthority,
        keys: &[(TenantId, ConfigKey)],
    ) -> Result<HashSet<(TenantId, ConfigKey)>, AwsFailure> {
        let names: Vec<_> = keys.iter().map(|(tenant, key)| parameter_name(&self.root, tenant, key)).collect();
        let mut found = HashSet::new();
        let mut token = None;
        loop {
            let page = self.describe(authority, "Name", Some("Equals"), names.clone(), token).await?;
            found.extend(page.parameters.into_iter().map(|(name, _)| name));
            token = page.next;
            if token.is_none() {
                let present = keys.iter().zip(&names).filter(|(_, name)| found.contains(*name));
                return Ok(present.map(|(key, _)| key.clone()).collect());
            }
        }
    }

    async fn describe(
        &self,
        authority: &SystemAuthority,
        by: &str,
        option: Option<&str>,
        values: Vec<String>,
        token: Option<String>,
    ) -> Result<SurveyPage, AwsFailure> {
        const OPERATION: &str = "DescribeParameters";
        let unexpected = |detail: String| AwsFailure::unexpected(Service::ParameterStore, OPERATION, detail);
        let filter = ParameterStringFilter::builder().key(by).set_option(option.map(str::to_owned));
        let filter = filter.set_values(Some(values)).build().map_err(|error| unexpected(error.to_string()))?;
        let answer = self
            .clients
            .parameter_store_of_system(authority)
            .describe_parameters()
            .parameter_filters(filter)
            .max_results(i32::try_from(MAX_DESCRIBED).unwrap_or(i32::MAX))
            .set_next_token(token)
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::ParameterStore, OPERATION, &error))?;
        let mut parameters = Vec::new();
        for one in answer.parameters() {
            let version = u64::try_from(one.version()).unwrap_or_default();
            let place = locator(version, one.last_modified_date())
                .map_err(|_| unexpected("a parameter without a date".to_owned()))?;
            parameters.push((one.name().unwrap_or_default().to_owned(), place));
        }
        Ok(SurveyPage { parameters, next: answer.next_token })
    }
}
