//! Puts the tenant of a user of the Cognito user pool into the access token: the pre token
//! generation trigger, event version 2. A user without a tenant gets no token.

use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};

/// The user's attribute that names the tenant, and the claim that it becomes.
pub const TENANT_ATTRIBUTE: &str = "custom:tenantId";

/// Why a user gets no token. Cognito shows it to who signs in, so it says nothing about the user
/// pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The event is not one of the version that can change access tokens.
    NotVersion2,
    /// The user belongs to no tenant.
    NoTenant {
        /// The user's id in the pool, for operators.
        sub: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVersion2 => f.write_str("the trigger needs events of version V2_0 with a user"),
            Self::NoTenant { .. } => write!(f, "the user has no attribute {TENANT_ATTRIBUTE}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// The line for the log, as the other functions write theirs: `aws cognito-idp list-users
    /// --filter 'sub = "…"'` finds the user.
    pub fn line(&self, invocation_id: &str) -> Value {
        let mut line = json!({
            "level": "WARN", "message": "no token was given out", "error": self.to_string(), "faas.invocation_id": invocation_id,
        });
        if let Self::NoTenant { sub } = self {
            line["user.sub"] = json!(sub);
        }
        line
    }
}

/// The members of the event that are read.
#[derive(Deserialize)]
struct TokenEvent {
    version: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    user_attributes: UserAttributes,
}

#[derive(Deserialize)]
struct UserAttributes {
    #[serde(default)]
    sub: String,
    #[serde(rename = "custom:tenantId", default)]
    tenant: String,
}

/// Answers one event: the event itself with the claim in its response. What the pool puts into
/// tokens by itself stays.
pub fn handle(mut event: Value) -> Result<Value, Refusal> {
    let TokenEvent { version, request } = TokenEvent::deserialize(&event).map_err(|_| Refusal::NotVersion2)?;
    if version != "2" {
        return Err(Refusal::NotVersion2);
    }
    let UserAttributes { sub, tenant } = request.user_attributes;
    if tenant.is_empty() {
        return Err(Refusal::NoTenant { sub });
    }
    event["response"] = json!({
        "claimsAndScopeOverrideDetails": {
            "accessTokenGeneration": {"claimsToAddOrOverride": {TENANT_ATTRIBUTE: tenant}},
        },
    });
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        serde_json::from_str(include_str!("../../../events/token-generation.json")).unwrap()
    }

    /// Promise: the access token names the user's tenant, and nothing else about it changes.
    #[test]
    fn the_tenant_becomes_a_claim() {
        let answer = handle(sample()).unwrap();
        let details = &answer["response"]["claimsAndScopeOverrideDetails"];
        assert_eq!(details, &json!({"accessTokenGeneration": {"claimsToAddOrOverride": {"custom:tenantId": "acme"}}}));
        let unanswered = |mut event: Value| {
            event["response"] = Value::Null;
            event
        };
        assert_eq!(unanswered(answer), unanswered(sample()), "Cognito gets its event back");
    }

    /// Promise: who has no tenant gets no token, and operators learn who it was; the user does not
    /// learn more than that.
    #[test]
    fn users_without_a_tenant_are_refused() {
        let mut without = sample();
        without["request"]["userAttributes"].as_object_mut().unwrap().remove(TENANT_ATTRIBUTE);
        let refusal = handle(without).unwrap_err();
        assert_eq!(refusal.to_string(), "the user has no attribute custom:tenantId");
        let line = refusal.line("8476a536");
        let sub = &sample()["request"]["userAttributes"]["sub"];
        assert_eq!((&line["user.sub"], &line["faas.invocation_id"]), (sub, &json!("8476a536")));
        assert!(sub.is_string());
        let mut empty = sample();
        empty["request"]["userAttributes"][TENANT_ATTRIBUTE] = json!("");
        assert!(matches!(handle(empty), Err(Refusal::NoTenant { .. })));
    }

    /// Promise: a tenant that a client gives beside the request is not taken for the user's.
    #[test]
    fn what_the_client_says_counts_for_nothing() {
        let mut event = sample();
        event["request"]["clientMetadata"] = json!({"custom:tenantId": "globex"});
        let claims = handle(event).unwrap()["response"]["claimsAndScopeOverrideDetails"]["accessTokenGeneration"]
            ["claimsToAddOrOverride"]
            .take();
        assert_eq!(claims, json!({"custom:tenantId": "acme"}));
    }

    /// Promise: a trigger of a version that cannot change access tokens fails, rather than let
    /// tokens without tenant pass.
    #[test]
    fn other_versions_are_refused() {
        let mut first = sample();
        first["version"] = json!("1");
        assert_eq!(handle(first), Err(Refusal::NotVersion2));
        assert_eq!(handle(json!({})), Err(Refusal::NotVersion2));
    }
}
