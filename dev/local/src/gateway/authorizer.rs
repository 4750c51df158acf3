//! The JWT authorizer of an HTTP API: who gets in, and what the function is told about the token.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind, jwk::Jwk};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// Checks tokens for the routes of one API.
pub struct JwtAuthorizer {
    accepts_issuer: Box<dyn Fn(&str) -> bool + Send + Sync>,
    audience: Vec<String>,
    key_id: String,
    key: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for JwtAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtAuthorizer").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// Why a request does not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no token: 401.
    Missing,
    /// The token is not to be trusted, for this reason: 401.
    Invalid(&'static str),
    /// The token has none of the route's scopes: 403.
    Scope,
}

impl JwtAuthorizer {
    /// An authorizer for tokens of the issuers that `accepts_issuer` takes, signed with the key
    /// `jwk`.
    pub fn new(
        accepts_issuer: impl Fn(&str) -> bool + Send + Sync + 'static,
        audience: Vec<String>,
        jwk: &Jwk,
    ) -> Result<Self, jsonwebtoken::errors::Error> {
        // RSA only: API Gateway takes nothing else, and the local issuer signs with nothing else.
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        // The audience may be in `client_id`, so it is checked here.
        validation.validate_aud = false;
        Ok(Self {
            accepts_issuer: Box::new(accepts_issuer),
            audience,
            key_id: jwk.common.key_id.clone().unwrap_or_default(),
            key: DecodingKey::from_jwk(jwk)?,
            validation,
        })
    }

    /// Checks the `Authorization` header for a route that asks for one of `scopes`. The answer is
    /// what the event holds in `requestContext.authorizer`.
    pub fn authorize(&self, authorization: Option<&str>, scopes: &[String]) -> Result<Value, Refusal> {
        let header = authorization.map(str::trim).filter(|header| !header.is_empty()).ok_or(Refusal::Missing)?;
        // API Gateway takes the bare token as well.
        let token = match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            Some(_) => {
                return Err(Refusal::Invalid("unable to decode \"Authorization\" into a JWT"));
            }
            None => header,
        };
        let claims = self.verify(token)?;
        let granted = granted_scopes(&claims);
        if !scopes.is_empty() && !scopes.iter().any(|scope| granted.contains(scope)) {
            return Err(Refusal::Scope);
        }
        let texts: Map<String, Value> =
            claims.iter().map(|(name, value)| (name.clone(), Value::String(claim_text(value)))).collect();
        let granted = if granted.is_empty() { Value::Null } else { json!(granted) };
        Ok(json!({"jwt": {"claims": texts, "scopes": granted}}))
    }

    fn verify(&self, token: &str) -> Result<Map<String, Value>, Refusal> {
        let header = decode_header(token).map_err(|_| Refusal::Invalid("the token is malformed"))?;
        if header.kid.as_deref() != Some(self.key_id.as_str()) {
            return Err(Refusal::Invalid("the token was signed with an unknown key"));
        }
        let claims = decode::<Map<String, Value>>(token, &self.key, &self.validation)
            .map_err(|error| {
                Refusal::Invalid(match error.kind() {
                    ErrorKind::ExpiredSignature => "the token has expired",
                    ErrorKind::ImmatureSignature => "the token is not valid yet",
                    ErrorKind::InvalidSignature => "the token's signature is invalid",
                    ErrorKind::InvalidAlgorithm => "the token's algorithm is not supported",
                    ErrorKind::MissingRequiredClaim(_) => "the token does not expire",
                    _ => "the token is malformed",
                })
            })?
            .claims;
        if !claims.get("iss").and_then(Value::as_str).is_some_and(&self.accepts_issuer) {
            return Err(Refusal::Invalid("the token was not issued by the expected issuer"));
        }
        // `client_id` counts only where there is no `aud`.
        let audience = match (claims.get("aud"), claims.get("client_id")) {
            (Some(Value::Array(items)), _) => items.iter().filter_map(Value::as_str).collect(),
            (Some(audience), _) => Vec::from_iter(audience.as_str()),
            (None, client) => Vec::from_iter(client.and_then(Value::as_str)),
        };
        if !audience.iter().any(|audience| self.audience.iter().any(|accepted| accepted == audience)) {
            return Err(Refusal::Invalid("the token does not have a valid audience"));
        }
        let now = OffsetDateTime::now_utc().unix_timestamp();
        match claims.get("iat").map(Value::as_f64) {
            None => {}
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a double")]
            Some(Some(issued)) if issued <= now as f64 => {}
            Some(_) => return Err(Refusal::Invalid("the token was issued in the future")),
        }
        Ok(claims)
    }
}

/// The scopes of a token, from `scope`, else `scp`.
fn granted_scopes(claims: &Map<String, Value>) -> Vec<String> {
    match claims.get("scope").or_else(|| claims.get("scp")) {
        Some(Value::String(scopes)) => scopes.split_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(scopes)) => scopes.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// A claim as the event shows it: always a text. Lists come as `[a b]`, which is how Go prints
/// them; what has no documented form (objects, null) is written as Go would.
fn claim_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(claim_text).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("{name}:{}", claim_text(value))).collect();
            format!("map[{}]", members.join(" "))
        }
    }
}
