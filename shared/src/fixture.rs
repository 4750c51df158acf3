//! What unit tests start from: settings that are complete, and a caller.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    auth::{Authenticator, HttpKeys, Permission, Presented, TenantScope},
    clock::Clock,
    settings::{InvalidSettings, Settings, SharedSettings},
};

/// What the settings share, with these variables, and something for whatever else is needed.
pub(crate) fn settings(variables: &[(&str, &str)]) -> Result<SharedSettings, InvalidSettings> {
    let needed = [
        ("TABLE_NAME", "something"),
        ("EVENT_BUS_NAME", "something"),
        ("TOKEN_AUDIENCE", "something"),
        ("AWS_REGION", "something"),
        ("AWS_ACCESS_KEY_ID", "something"),
        ("AWS_SECRET_ACCESS_KEY", "something"),
        ("TOKEN_ISSUER", "https://issuer.example"),
        ("TENANT_ROLE_ARN", "none"),
    ];
    let source = |name: &str| {
        let found = variables.iter().chain(&needed).find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Ok(Settings::load(&source)?.shared)
}

/// A header whose token has these claims and a signature that nobody has made, and what API
/// Gateway's authorizer would tell of it: every claim as text.
pub(crate) fn checked(claims: &Value) -> (String, HashMap<String, String>) {
    let mut claims = claims.clone();
    if claims.get("exp").is_none() {
        claims["exp"] = json!(4_000_000_000_u64);
    }
    let parts = [json!({"alg": "RS256", "kid": "k"}).to_string(), claims.to_string(), "no signature".to_owned()];
    let token = parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
    (format!("Bearer {token}"), told(&claims))
}

/// Claims as API Gateway's authorizer tells them.
pub(crate) fn told(claims: &Value) -> HashMap<String, String> {
    fn text(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(all) => format!("[{}]", all.iter().map(text).collect::<Vec<_>>().join(" ")),
            other => other.to_string(),
        }
    }
    claims.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Somebody who may read what is the tenant acme's.
pub(crate) async fn reader(settings: &SharedSettings) -> TenantScope {
    let (authorization, claims) = checked(&json!({"custom:tenantId": "acme", "scope": "config/read"}));
    let keys = Box::new(HttpKeys::new(&settings.tokens));
    let authenticator = Authenticator::new(&settings.tokens, keys, Clock::system());
    let presented = Presented::Checked { claims: &claims, authorization: &authorization };
    let caller = authenticator.authenticate(presented).await.unwrap();
    caller.authorize(Permission::Read).unwrap()
}
