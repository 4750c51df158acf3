//! What unit tests start from: settings that are complete, and a caller.

use super::{Authenticator, HttpKeys, Permission, Presented, TenantScope};
use crate::{
    clock::Clock,
    settings::{InvalidSettings, Settings},
};

/// Settings with these variables, and something for whatever else is needed.
pub(crate) fn settings(variables: &[(&str, &str)]) -> Result<Settings, InvalidSettings> {
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
    Settings::load(&source)
}

/// Somebody who may read what is the tenant acme's.
pub(crate) async fn reader(settings: &Settings) -> TenantScope {
    let claims = [("custom:tenantId", "acme"), ("scope", "config/read")];
    let claims = claims.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let keys = Box::new(HttpKeys::new("http://127.0.0.1:1".parse().unwrap()));
    let authenticator = Authenticator::new(&settings.tokens, keys, Clock::system());
    let caller = authenticator.authenticate(Presented::Claims(&claims)).await.unwrap();
    caller.authorize(Permission::Read).unwrap()
}
