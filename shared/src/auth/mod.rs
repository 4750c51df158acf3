//! Who is calling, and what they may do. The only place that makes a [`TenantScope`].

#[cfg(test)]
pub(crate) mod fixture;
mod jwks;
mod remembered;
mod token;

use std::{collections::HashMap, fmt};

use crate::{clock::Clock, entry::Author, settings::TokenSettings, tenant::TenantId};

pub use jwks::{FetchKeys, HttpKeys, KeyFetchError, KeySet};
pub use remembered::{Bearer, TokenMemory};
use token::{ACCESS, TOKEN_USE, TokenError, TokenVerifier};

/// What a token can permit: an OAuth scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `config/read`.
    Read,
    /// `config/write`.
    Write,
    /// `config/secrets`: to read the values of tags that hold secrets, besides `config/read`. Nobody needs it to write them.
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

/// The proof that a caller may act for a tenant. Every store and ledger call takes one and derives its keys from it.
///
/// Its fields are private and only this module makes one: from a verified token that carries the needed scope, or, for the
/// work that a commit left behind, through [`SystemAuthority`].
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
    /// Taken once, by the service that looks for what has changed. It acts for no tenant: for that it has its callers' scopes.
    pub fn for_recent_changes() -> Self {
        Self(())
    }
}

/// The right to do what commits still owe, for whichever tenant the ledger names. config-refresh alone has one.
#[derive(Debug)]
pub struct SystemAuthority(());

impl SystemAuthority {
    /// Taken once, by the function that works off what is owed.
    pub fn for_owed_work() -> Self {
        Self(())
    }

    /// The scope of a tenant that the ledger's own keys named, or an event of ours. What is done with it is decided by the ledger alone.
    pub fn act_for(&self, tenant: TenantId) -> TenantScope {
        TenantScope { tenant, author: Author::new("tenantry"), may_read_secrets: false }
    }
}

/// What a request brings to say who is calling. `Debug` shows neither claims nor token.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    /// The claims that API Gateway's JWT authorizer put into the request context, after checking the token.
    Claims(&'a HashMap<String, String>),
    /// The `Authorization` header's value, where no authorizer stood in front (`sam local`, a direct call).
    Authorization(&'a str),
    /// Neither.
    Nothing,
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Claims(_) => "Claims(…)",
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
}

impl Caller {
    /// The caller's scope, if the token grants `permission`.
    pub fn authorize(self, permission: Permission) -> Result<TenantScope, AuthError> {
        if !self.is_granted(permission) {
            return Err(AuthError::MissingScope(permission));
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
#[non_exhaustive]
pub enum AuthError {
    /// No token at all.
    #[error("there is no bearer token; send one in the Authorization header")]
    NoToken,
    /// A token that cannot be believed. Which check failed is for the log, not for the caller.
    #[error("the bearer token is not valid here; get a new one from the identity provider")]
    InvalidToken(#[source] TokenError),
    /// A good token without a usable tenant claim.
    #[error("the token names no tenant; its claim {claim:?} must be a plain tenant id")]
    NoTenant {
        /// The claim that is looked at.
        claim: String,
    },
    /// A good token without the scope that the request takes.
    #[error("the token lacks the scope {}", .0.scope())]
    MissingScope(Permission),
    /// The issuer's keys cannot be had.
    #[error("the token cannot be checked now, because the identity provider's keys cannot be fetched")]
    KeysUnavailable(#[source] KeyFetchError),
}

/// Finds out who is calling.
pub struct Authenticator {
    tenant_claim: String,
    verifier: TokenVerifier,
}

impl Authenticator {
    /// An authenticator that accepts the tokens of `settings`, with keys from `keys`.
    pub fn new(settings: &TokenSettings, keys: Box<dyn FetchKeys>, clock: Clock) -> Self {
        Self { tenant_claim: settings.tenant_claim.clone(), verifier: TokenVerifier::new(settings, keys, clock) }
    }

    /// The caller behind what a request presents.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Caller, AuthError> {
        match presented {
            // API Gateway does not know what a token is for.
            Presented::Claims(claims) if claims.get(TOKEN_USE).is_some_and(|token_use| token_use != ACCESS) => {
                Err(TokenError::Use.into())
            }
            Presented::Claims(claims) => self.caller(claims),
            Presented::Authorization(header) => {
                let token = bearer(header).ok_or(AuthError::NoToken)?;
                self.caller(&self.verifier.verify(token).await?.claims)
            }
            Presented::Nothing => Err(AuthError::NoToken),
        }
    }

    fn caller(&self, claims: &HashMap<String, String>) -> Result<Caller, AuthError> {
        let tenant = claims
            .get(&self.tenant_claim)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| AuthError::NoTenant { claim: self.tenant_claim.clone() })?;
        let name = ["sub", "client_id"].iter().find_map(|claim| claims.get(*claim)).map_or("unknown", String::as_str);
        // API Gateway renders a claim that is a list as "[a b]".
        let granted = ["scope", "scp"]
            .iter()
            .find_map(|claim| claims.get(*claim))
            .map(|text| text.trim_matches(['[', ']']).split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
        Ok(Caller { tenant, author: Author::new(name), granted })
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("tenant_claim", &self.tenant_claim).finish_non_exhaustive()
    }
}

/// The token of an `Authorization: Bearer …` header; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests;
