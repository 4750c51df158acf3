//! Who is calling, and what they may do. The only place that makes a [`TenantScope`].

mod fetch;
mod jwks;
mod keyring;
mod remembered;
mod settings;
mod token;

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    clock::Clock,
    model::{
        entry::Author,
        tenant::{InvalidTenantId, TenantId},
    },
};

pub use fetch::{Document, HttpKeys, KeyFetchError};
pub use jwks::{FetchKeys, KeySet};
pub use remembered::{Bearer, TokenMemory};
pub use settings::{KeySource, TokenSettings};
pub use token::TokenError;
use token::{Claims, TokenVerifier};

/// What a token can permit: an OAuth scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `config/read`.
    Read,
    /// `config/write`.
    Write,
    /// `config/secrets`: to read the values of tags that hold secrets, besides `config/read`.
    /// Nobody needs it to write them.
    ReadSecrets,
}

impl Permission {
    /// The OAuth scope's name.
    pub const fn scope(self) -> &'static str {
        match self {
            Self::Read => "config/read",
            Self::Write => "config/write",
            Self::ReadSecrets => "config/secrets",
        }
    }
}

/// The proof that a caller may act for a tenant. Every store and ledger call takes one and derives
/// its keys from it.
///
/// Its fields are private and only this module makes one: from a verified token that carries the
/// needed scope, or, for the work that a commit left behind, through [`SystemAuthority`].
#[derive(Clone, Debug)]
pub struct TenantScope {
    tenant: TenantId,
    author: Author,
    may_read_secrets: bool,
}

impl TenantScope {
    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Whose name a write is made in.
    pub fn author(&self) -> &Author {
        &self.author
    }

    /// Whether it permits to read the values of secrets.
    pub fn may_read_secrets(&self) -> bool {
        self.may_read_secrets
    }
}

/// The right to see which tenants have changed, and nothing else of them.
#[derive(Debug)]
pub struct IndexAuthority(());

impl IndexAuthority {
    /// Taken once, by the service that polls for changes. It does not act for tenants with it: for
    /// that it has its callers' scopes.
    pub fn for_recent_changes() -> Self {
        Self(())
    }
}

/// The right to flush the outbox, for whichever tenant the ledger names. config-refresh alone has
/// one.
#[derive(Debug)]
pub struct SystemAuthority(());

impl SystemAuthority {
    /// Taken once, by the function that flushes the outbox.
    pub fn for_outbox() -> Self {
        Self(())
    }

    /// The scope of a tenant that the ledger's own keys named, or an event of ours. The ledger
    /// alone decides what is done with it.
    pub fn act_for(&self, tenant: TenantId) -> TenantScope {
        TenantScope { tenant, author: Author::new("tenantry"), may_read_secrets: false }
    }
}

/// What a request brings to say who is calling. `Debug` shows neither claims nor token.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    /// What API Gateway's JWT authorizer put into the request context, after checking the token,
    /// and that token.
    Checked {
        /// The claims, each as text.
        claims: &'a HashMap<String, String>,
        /// The `Authorization` header's value.
        authorization: &'a str,
    },
    /// The `Authorization` header's value, where no authorizer stood in front (`sam local`, a
    /// direct call).
    Authorization(&'a str),
    /// Neither.
    Nothing,
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checked { .. } => "Checked(…)",
            Self::Authorization(_) => "Authorization(…)",
            Self::Nothing => "Nothing",
        })
    }
}

/// A caller whose token has been verified.
#[derive(Clone, Debug)]
pub struct Caller {
    tenant: TenantId,
    author: Author,
    granted: Vec<String>,
    /// The claims that may hold scopes, to be told.
    scope_claims: Arc<str>,
}

impl Caller {
    /// The caller's scope, if the token grants `permission`.
    pub fn authorize(self, permission: Permission) -> Result<TenantScope, AuthError> {
        if !self.is_granted(permission) {
            return Err(AuthError::MissingScope { permission, claims: self.scope_claims });
        }
        let may_read_secrets = self.is_granted(Permission::ReadSecrets);
        Ok(TenantScope { tenant: self.tenant, author: self.author, may_read_secrets })
    }

    fn is_granted(&self, permission: Permission) -> bool {
        self.granted.iter().any(|scope| scope == permission.scope())
    }
}

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No token at all.
    #[error("there is no bearer token; send one in the Authorization header")]
    NoToken,
    /// Something else, a bare token perhaps.
    #[error("what was sent as Authorization is no bearer token; send the word Bearer, a space, and the token")]
    NoBearer,
    /// A token that cannot be believed. Which check failed is for the log, not for the caller.
    #[error("the bearer token is not valid here; get a new one from the identity provider")]
    InvalidToken(#[source] TokenError),
    /// A good token without a usable tenant claim.
    #[error("the token names no tenant; its claim {claim:?} {why}")]
    NoTenant {
        /// The claim that should name it.
        claim: String,
        /// What is wrong with it.
        why: UnusableClaim,
    },
    /// A good token without the scope that the request takes.
    #[error("the token lacks the scope {}, which is looked for in the first that it has of these claims: {claims}", .permission.scope())]
    MissingScope {
        /// What the request takes.
        permission: Permission,
        /// The claims that may hold scopes.
        claims: Arc<str>,
    },
    /// The issuer's keys cannot be had.
    #[error("the token cannot be checked now, because the identity provider's keys cannot be fetched")]
    KeysUnavailable {
        /// Why.
        #[source]
        reason: Arc<KeyFetchError>,
        /// When they are fetched again.
        retry_after: Duration,
    },
}

/// What is wrong with a tenant claim. It repeats at most a character of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableClaim {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// It is a list, a truth value, a fraction …
    #[error("is neither text nor a whole number in digits")]
    Type,
    /// It is not the id of a tenant.
    #[error("is no tenant id: {0}")]
    Id(#[from] InvalidTenantId),
}

/// Finds out who is calling.
pub struct Authenticator {
    tenant_claim: String,
    /// The claims that may hold scopes: the first that a token has.
    scope_claims: Vec<String>,
    /// The same, to be told.
    scope_claims_shown: Arc<str>,
    author_claim: Option<String>,
    verifier: TokenVerifier,
}

impl Authenticator {
    /// An authenticator that accepts the tokens of `settings`, with keys from `keys`.
    pub fn new(settings: &TokenSettings, keys: Box<dyn FetchKeys>, clock: Clock) -> Self {
        Self {
            tenant_claim: settings.tenant_claim.clone(),
            scope_claims: settings.scope_claims.clone(),
            scope_claims_shown: settings.scope_claims.join(", ").into(),
            author_claim: settings.author_claim.clone(),
            verifier: TokenVerifier::new(settings, keys, clock),
        }
    }

    /// The caller behind what a request presents.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Caller, AuthError> {
        match presented {
            // The authorizer's claims do not show which JSON they were, nor what the token is for:
            // only the token itself does.
            Presented::Checked { claims, authorization } => {
                let claims = self.verifier.read_checked(bearer(authorization)?, claims)?;
                self.caller(&claims)
            }
            Presented::Authorization(header) => self.caller(&self.verifier.verify(bearer(header)?).await?.claims),
            Presented::Nothing => Err(AuthError::NoToken),
        }
    }

    fn caller(&self, claims: &Claims) -> Result<Caller, AuthError> {
        let no_tenant = |why| AuthError::NoTenant { claim: self.tenant_claim.clone(), why };
        let tenant = claims.get(&self.tenant_claim).ok_or_else(|| no_tenant(UnusableClaim::Missing))?;
        let tenant = name(tenant).ok_or_else(|| no_tenant(UnusableClaim::Type))?;
        let tenant = tenant.parse().map_err(|invalid: InvalidTenantId| no_tenant(invalid.into()))?;
        let authors = self.author_claim.as_deref().into_iter().chain(["sub", "client_id"]);
        let author = authors.filter_map(|claim| name(claims.get(claim)?)).find(|name| !name.is_empty());
        let granted = match self.scope_claims.iter().find_map(|claim| claims.get(claim)) {
            Some(Value::String(text)) => Some(text.split_whitespace().map(str::to_owned).collect()),
            Some(Value::Array(all)) => all.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        Ok(Caller {
            tenant,
            author: Author::new(author.as_deref().unwrap_or("unknown")),
            granted: granted.unwrap_or_default(),
            scope_claims: Arc::clone(&self.scope_claims_shown),
        })
    }
}

/// What a claim names: a text as it is, a whole number in its digits. Other JSON has more than one
/// spelling.
fn name(claim: &Value) -> Option<Cow<'_, str>> {
    match claim {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) if !number.is_f64() => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("tenant_claim", &self.tenant_claim).finish_non_exhaustive()
    }
}

/// The token of an `Authorization: Bearer …` header; the scheme's case does not matter (RFC 9110,
/// 11.1).
fn bearer(header: &str) -> Result<&str, AuthError> {
    let header = header.trim();
    if header.is_empty() {
        return Err(AuthError::NoToken);
    }
    let (scheme, token) = header.split_once(' ').ok_or(AuthError::NoBearer)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(AuthError::NoBearer) }
}

#[cfg(test)]
mod tests;
