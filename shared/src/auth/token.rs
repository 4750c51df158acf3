//! Verifies a bearer token (RFC 7519) by the rules of RFC 8725: the key decides the algorithm, never the token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde_json::Value;

use super::{AuthError, FetchKeys, KeyFetchError};
use crate::{
    clock::{Clock, Timestamp},
    settings::TokenSettings,
};

/// The longest token that is looked at, in bytes; API Gateway stops at 10,240 bytes of headers in all.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// An unknown key id makes the keys be fetched again at most this often, so that made-up ids cost the issuer nothing.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
/// How far the issuer's clock and ours may differ, in seconds.
const LEEWAY_SECONDS: u64 = 60;

/// Which check a token failed. For the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than any real one.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// No `kid`, or one that the issuer does not have.
    #[error("the token's key is not among the issuer's")]
    UnknownKey,
    /// Malformed, signed otherwise, expired, from another issuer, …
    #[error(transparent)]
    Refused(#[from] jsonwebtoken::errors::Error),
    /// Critical header parameters that nobody here understands (RFC 7515, 4.1.11).
    #[error("the token has critical header parameters")]
    Critical,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
}

/// Verifies tokens of one issuer.
pub(super) struct TokenVerifier {
    audience: Vec<String>,
    issuer: String,
    keys: Box<dyn FetchKeys>,
    clock: Clock,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_id: Arc<HashMap<String, (Algorithm, DecodingKey)>>,
    fetched_at: Option<Timestamp>,
}

impl TokenVerifier {
    pub(super) fn new(settings: &TokenSettings, keys: Box<dyn FetchKeys>, clock: Clock) -> Self {
        Self {
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            keys,
            clock,
            known: Mutex::default(),
        }
    }

    /// The claims of a token that passes every check; claims that are neither text nor a list of texts are left out.
    pub(super) async fn verify(&self, token: &str) -> Result<HashMap<String, String>, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::InvalidToken(TokenError::TooLong));
        }
        let header = decode_header(token).map_err(refused)?;
        if header.crit.is_some() {
            return Err(AuthError::InvalidToken(TokenError::Critical));
        }
        let id = header.kid.ok_or(AuthError::InvalidToken(TokenError::UnknownKey))?;
        let (algorithm, key) = self.key(&id).await?;

        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss"]);
        // Checked below: a client_id may stand in for it.
        validation.validate_aud = false;
        let claims = decode::<serde_json::Map<String, Value>>(token, &key, &validation).map_err(refused)?.claims;
        if !self.is_audience(&claims) {
            return Err(AuthError::InvalidToken(TokenError::Audience));
        }
        Ok(claims.into_iter().filter_map(|(name, value)| Some((name, plain(value)?))).collect())
    }

    /// As API Gateway's JWT authorizer has it: `aud`, and only where there is none, `client_id`.
    fn is_audience(&self, claims: &serde_json::Map<String, Value>) -> bool {
        let accepted = |value: &Value| value.as_str().is_some_and(|text| self.audience.iter().any(|one| one == text));
        match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(accepted),
            Some(one) => accepted(one),
            None => claims.get("client_id").is_some_and(accepted),
        }
    }

    async fn key(&self, id: &str) -> Result<(Algorithm, DecodingKey), AuthError> {
        let now = self.clock.now();
        let (known, may_fetch) = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let may_fetch = known.fetched_at.is_none_or(|at| now.since(at) >= REFETCH_INTERVAL);
            if may_fetch && !known.by_id.contains_key(id) {
                // Noted before the fetch, so that a crowd of unknown ids makes one request, not a crowd of them.
                known.fetched_at = Some(now);
            }
            (Arc::clone(&known.by_id), may_fetch)
        };
        if let Some(found) = known.get(id) {
            return Ok(found.clone());
        }
        if !may_fetch {
            return Err(AuthError::InvalidToken(TokenError::UnknownKey));
        }
        let fetched = self.keys.fetch().await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(set) => known.by_id = Arc::new(set.keys.iter().filter_map(usable).collect()),
            Err(error) => {
                // The next token may try again: nothing was learned.
                known.fetched_at = None;
                return Err(AuthError::KeysUnavailable(error));
            }
        }
        known.by_id.get(id).cloned().ok_or(AuthError::InvalidToken(TokenError::UnknownKey))
    }
}

/// A signing key with the one algorithm that goes with its type, RS256 or ES256. Others are not for us.
fn usable(jwk: &Jwk) -> Option<(String, (Algorithm, DecodingKey))> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return None,
    };
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|for_use| *for_use == PublicKeyUse::Signature);
    let named = jwk.common.key_algorithm.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (signs && named).then_some((jwk.common.key_id.clone()?, (algorithm, key)))
}

/// A claim as API Gateway would pass it: text as it is, a list of texts as "[a b]".
fn plain(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(all) => {
            let texts: Option<Vec<_>> = all.iter().map(Value::as_str).collect();
            texts.map(|texts| format!("[{}]", texts.join(" ")))
        }
        _ => None,
    }
}

fn refused(error: jsonwebtoken::errors::Error) -> AuthError {
    AuthError::InvalidToken(error.into())
}

impl From<KeyFetchError> for AuthError {
    fn from(error: KeyFetchError) -> Self {
        Self::KeysUnavailable(error)
    }
}
