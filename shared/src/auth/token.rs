//! Verifies a bearer token (RFC 7519) by the rules of RFC 8725: the key decides the algorithm, never the token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde_json::Value;
use tracing::warn;

use super::{AuthError, FetchKeys, KeyFetchError};
use crate::{
    clock::{Clock, Timestamp},
    settings::TokenSettings,
};

/// The longest token that is looked at, in bytes; API Gateway stops at 10,240 bytes of headers in all.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// An unknown key id makes the keys be fetched again at most this often, so that made-up ids cost the issuer nothing.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
/// Keys that came longer ago are fetched again, so that one which the issuer took back does not serve for ever.
const MAX_KEY_AGE: Duration = Duration::from_hours(1);
/// If that fails the old keys go on serving, and it is tried again after this time.
const RENEWAL_PAUSE: Duration = Duration::from_mins(1);
/// How far the issuer's clock and ours may differ. Both are kept right by NTP to well under a second, and every second here is one
/// that a token outlives its end; the libraries' usual minute is for clocks that nobody keeps.
const LEEWAY: Duration = Duration::from_secs(10);

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
    /// Malformed, or signed otherwise.
    #[error(transparent)]
    Refused(#[from] jsonwebtoken::errors::Error),
    /// From somebody else.
    #[error("the token is from another issuer")]
    Issuer,
    /// No `exp`, or a time that is no number of seconds.
    #[error("the token's {0} is missing or no time")]
    Time(&'static str),
    /// Used after its end.
    #[error("the token has expired")]
    Expired,
    /// Used before its beginning.
    #[error("the token is not valid yet")]
    Early,
    /// Critical header parameters that nobody here understands (RFC 7515, 4.1.11).
    #[error("the token has critical header parameters")]
    Critical,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
}

type Claims = serde_json::Map<String, Value>;

/// Verifies tokens of one issuer.
pub(super) struct TokenVerifier {
    audience: Vec<String>,
    issuer: String,
    keys: Box<dyn FetchKeys>,
    clock: Clock,
    known: Mutex<Known>,
    /// Locked while keys are on their way, so that a crowd of unknown ids makes one request, and each of the crowd waits for its
    /// answer.
    fetching: tokio::sync::Mutex<()>,
}

/// What is known of the issuer's keys.
#[derive(Clone, Default)]
struct Known {
    keys: Arc<KeysById>,
    /// When they came.
    fetched_at: Option<Timestamp>,
    /// When they could not be fetched again although they were old.
    renewal_failed_at: Option<Timestamp>,
}

type KeysById = HashMap<String, (Algorithm, DecodingKey)>;

impl Known {
    /// Whether the keys came, or the last try to get newer ones failed, so long ago that it is time for the next try.
    fn is_old(&self, now: Timestamp) -> bool {
        self.fetched_at.is_some_and(|at| now.since(at) >= MAX_KEY_AGE)
            && self.renewal_failed_at.is_none_or(|at| now.since(at) >= RENEWAL_PAUSE)
    }
}

impl TokenVerifier {
    pub(super) fn new(settings: &TokenSettings, keys: Box<dyn FetchKeys>, clock: Clock) -> Self {
        Self {
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            keys,
            clock,
            known: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
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

        // The library checks the signature; the claims are checked below: it reads the machine's clock instead of ours, and knows
        // nothing of a client_id that stands in for the audience.
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = decode::<Claims>(token, &key, &validation).map_err(refused)?.claims;
        self.check(&claims).map_err(AuthError::InvalidToken)?;
        Ok(claims.into_iter().filter_map(|(name, value)| Some((name, plain(value)?))).collect())
    }

    fn check(&self, claims: &Claims) -> Result<(), TokenError> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(TokenError::Issuer);
        }
        if !self.is_audience(claims) {
            return Err(TokenError::Audience);
        }
        let now = Duration::from_millis(self.clock.now().millis());
        if time(claims, "exp")?.ok_or(TokenError::Time("exp"))? <= now.saturating_sub(LEEWAY) {
            return Err(TokenError::Expired);
        }
        if time(claims, "nbf")?.is_some_and(|start| start > now + LEEWAY) {
            return Err(TokenError::Early);
        }
        Ok(())
    }

    /// As API Gateway's JWT authorizer has it: `aud`, and only where there is none, `client_id`.
    fn is_audience(&self, claims: &Claims) -> bool {
        let accepted = |value: &Value| value.as_str().is_some_and(|text| self.audience.iter().any(|one| one == text));
        match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(accepted),
            Some(one) => accepted(one),
            None => claims.get("client_id").is_some_and(accepted),
        }
    }

    async fn key(&self, id: &str) -> Result<(Algorithm, DecodingKey), AuthError> {
        self.renew().await;
        if let Some(found) = self.known().keys.get(id) {
            return Ok(found.clone());
        }
        let _fetching = self.fetching.lock().await;
        let mut known = self.known();
        // Whoever waited for the lock may find that its key has come meanwhile.
        if !known.keys.contains_key(id) {
            if known.fetched_at.is_some_and(|at| self.clock.now().since(at) < REFETCH_INTERVAL) {
                return Err(AuthError::InvalidToken(TokenError::UnknownKey));
            }
            // If this fails, or whoever asks gives up waiting, nothing was learned, and the next token may try again.
            known = self.fetch().await?;
        }
        known.keys.get(id).cloned().ok_or(AuthError::InvalidToken(TokenError::UnknownKey))
    }

    /// Fetches the keys again if they are old. One caller does, and the others go on with what is known.
    async fn renew(&self) {
        let is_old = || self.known().is_old(self.clock.now());
        if !is_old() {
            return;
        }
        let Ok(_fetching) = self.fetching.try_lock() else { return };
        // Whoever held the lock before may have done it.
        if is_old()
            && let Err(error) = self.fetch().await
        {
            warn!(%error, "the issuer's keys cannot be fetched again; the old ones go on serving");
            self.lock_known().renewal_failed_at = Some(self.clock.now());
        }
    }

    async fn fetch(&self) -> Result<Known, KeyFetchError> {
        let now = self.clock.now();
        let set = self.keys.fetch().await?;
        let keys = Arc::new(set.keys.iter().filter_map(usable).collect());
        let known = Known { keys, fetched_at: Some(now), renewal_failed_at: None };
        *self.lock_known() = known.clone();
        Ok(known)
    }

    fn known(&self) -> Known {
        self.lock_known().clone()
    }

    fn lock_known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A time, as RFC 7519 (2, `NumericDate`) has it: a number of seconds since the epoch, perhaps with a fraction.
fn time(claims: &Claims, name: &'static str) -> Result<Option<Duration>, TokenError> {
    let seconds = |value: &Value| value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    claims.get(name).map(|value| seconds(value).ok_or(TokenError::Time(name))).transpose()
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
