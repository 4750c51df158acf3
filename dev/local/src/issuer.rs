//! The token issuer: stands in for the identity provider (a Cognito user pool, say). It signs
//! access tokens with a key of its own and publishes that key the way `OpenID` Connect says.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// Where the issuer lies on the HTTP port. No route of the API begins with `/_local`.
pub const PATH: &str = "/_local/issuer";
/// Where its keys lie, below its address: not where many issuers have them, so that whoever guesses
/// instead of reading the description finds nothing.
pub const JWKS_PATH: &str = "/discovery/keys";
/// Where its description lies, below its address.
pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
/// The `client_id` of its tokens: the audience that the local suite accepts.
pub const CLIENT_ID: &str = "tenantry-local";
/// The claim that names the tenant if the suite is not told otherwise.
pub const TENANT_CLAIM: &str = "custom:tenantId";
/// How long a token is valid if nothing else is asked for, in seconds: a working day and a bit.
pub const DEFAULT_LIFETIME: i64 = 12 * 3_600;
/// What a token may do if nothing else is asked for.
pub const DEFAULT_SCOPE: &str = "config/read config/write config/secrets";

/// A key or a token that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The random number generator or the RSA code failed.
    #[error("cannot generate an RSA key")]
    Generate,
    /// The text is no RSA private key.
    #[error("not an RSA private key in PEM form")]
    Key(#[source] jsonwebtoken::errors::Error),
    /// Signing failed.
    #[error("cannot sign the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A private key as text, PKCS #8 in PEM form.
pub fn generate_key() -> Result<String, IssuerError> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| IssuerError::Generate)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| IssuerError::Generate)?;
    Ok(pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref())))
}

/// An issuer at one address.
pub struct Issuer {
    url: String,
    key: EncodingKey,
    key_id: String,
    jwk: Jwk,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("url", &self.url).field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct TokenRequest<'a> {
    /// The value of the tenant claim.
    pub tenant: &'a str,
    /// The name of the tenant claim.
    pub tenant_claim: &'a str,
    /// The scopes, separated by spaces.
    pub scope: &'a str,
    /// How long it is valid, in seconds from now; below zero for one that has expired.
    pub expires_in: i64,
    /// Further claims, which also replace those above.
    pub claims: &'a [(String, String)],
}

impl Issuer {
    /// An issuer that calls itself `url` and signs with the private key `key` (see
    /// [`generate_key`]).
    pub fn new(url: String, key: &str) -> Result<Self, IssuerError> {
        let key = EncodingKey::from_rsa_pem(key.as_bytes()).map_err(IssuerError::Key)?;
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256).map_err(IssuerError::Key)?;
        let key_id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(IssuerError::Key)?;
        jwk.common.key_id = Some(key_id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { url, key, key_id, jwk })
    }

    /// The issuer's address on the loopback port `port`: its `iss`.
    pub fn url_at(port: u16) -> String {
        format!("http://127.0.0.1:{port}{PATH}")
    }

    /// Whether `url` is an address that a local issuer has on some port.
    pub fn is_local(url: &str) -> bool {
        Self::port_of(url).is_some()
    }

    /// The port of a local issuer with the address `url`, if it is one.
    pub fn port_of(url: &str) -> Option<u16> {
        let port = url.strip_prefix("http://127.0.0.1:")?.strip_suffix(PATH)?.parse().ok()?;
        (Self::url_at(port) == url).then_some(port)
    }

    /// The issuer's address: the `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address of its keys.
    pub fn jwks_url(&self) -> String {
        format!("{}{JWKS_PATH}", self.url)
    }

    /// The id of its key: the same as long as the key is.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// What a GET below [`PATH`] is answered with.
    pub fn document(&self, path: &str) -> Option<Value> {
        match path.strip_prefix(PATH)? {
            JWKS_PATH => serde_json::to_value(JwkSet { keys: vec![self.jwk.clone()] }).ok(),
            DISCOVERY_PATH => Some(json!({
                "issuer": self.url,
                "jwks_uri": self.jwks_url(),
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["token"],
                "subject_types_supported": ["public"],
                "scopes_supported": DEFAULT_SCOPE.split(' ').collect::<Vec<_>>(),
            })),
            _ => None,
        }
    }

    /// A signed token, of the shape of a Cognito access token.
    pub fn token(&self, request: &TokenRequest<'_>) -> Result<String, IssuerError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let mut claims = Map::from_iter([
            ("sub".to_owned(), json!(format!("{}-developer", request.tenant))),
            ("iss".to_owned(), json!(self.url)),
            ("version".to_owned(), json!(2)),
            ("client_id".to_owned(), json!(CLIENT_ID)),
            ("token_use".to_owned(), json!("access")),
            ("scope".to_owned(), json!(request.scope)),
            ("auth_time".to_owned(), json!(now)),
            ("iat".to_owned(), json!(now)),
            ("exp".to_owned(), json!(now.saturating_add(request.expires_in))),
            ("jti".to_owned(), json!(uuid::Uuid::new_v4().to_string())),
            ("username".to_owned(), json!(format!("{}-developer", request.tenant))),
            (request.tenant_claim.to_owned(), json!(request.tenant)),
        ]);
        for (name, value) in request.claims {
            claims.insert(name.clone(), claim(name, value));
        }
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::RS256) };
        encode(&header, &claims, &self.key).map_err(IssuerError::Sign)
    }
}

/// Times are numbers in a token; all else is the text as given.
fn claim(name: &str, value: &str) -> Value {
    match (name, value.parse::<i64>()) {
        ("exp" | "iat" | "nbf" | "auth_time", Ok(number)) => json!(number),
        _ => json!(value),
    }
}
