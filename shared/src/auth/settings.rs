//! Whose tokens are accepted, and where the keys to check them are.

use std::net::IpAddr;

use ::http::Uri;

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// `TOKEN_ISSUER`: must equal `iss`.
    pub issuer: String,
    /// `TOKEN_AUDIENCE`, comma separated: one of them must be in `aud`, or equal `client_id` where
    /// there is no `aud`.
    pub audience: Vec<String>,
    /// Where the issuer's keys are.
    pub keys: KeySource,
    /// `TENANT_CLAIM`: the claim that names the tenant; `custom:tenantId` by default.
    pub tenant_claim: String,
    /// `SCOPE_CLAIMS`, comma separated: the claims that may hold scopes, the first that a token
    /// has; `scope,scp` by default.
    pub scope_claims: Vec<String>,
    /// `AUTHOR_CLAIM`: the claim that names who writes. By default, and where a token has no such
    /// claim, `sub`, else `client_id`.
    pub author_claim: Option<String>,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// `JWKS_URL`: here.
    At(Uri),
    /// Where the document at this address says. It is the issuer's description of itself (`OpenID`
    /// Connect Discovery 1.0, 4), expected under `TOKEN_ISSUER`.
    Described(Uri),
}

impl KeySource {
    /// Where `issuer` describes itself. None where nobody could trust what is fetched from there.
    pub(crate) fn of_issuer(issuer: &str) -> Option<Self> {
        let address = format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer));
        // The description lies behind the issuer's path, so nothing can follow that.
        let address = address.parse().ok().filter(|address| is_protected(address) && !issuer.contains(['?', '#']));
        address.map(Self::Described)
    }
}

/// Whether nobody on the way can change what is fetched from here: by TLS, or because it does not
/// leave the machine.
pub(super) fn is_protected(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    !host.is_empty()
        && match address.scheme_str() {
            Some("https") => true,
            Some("http") => is_loopback,
            _ => false,
        }
}
