//! Verifies a bearer token (RFC 7519) by the rules of RFC 8725: the key decides the algorithm, never the token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, crypto};
use serde_json::Value;
use tracing::warn;

use super::{
    AuthError, FetchKeys, KeyFetchError,
    jwks::{KeySet, VerificationKey},
};
use crate::{
    clock::{Clock, Timestamp},
    settings::TokenSettings,
    value::check_unambiguous,
};

/// The longest token that is looked at, in bytes; API Gateway stops at 10,240 bytes of headers in all.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The longest header that is looked at, in bytes as it is sent: room for a chain of certificates, which is not looked at.
const MAX_HEADER_BYTES: usize = 4 * 1024;
/// What a header may call the token (RFC 7519, 5.1; RFC 9068, 2.1); `application/` may stand in front (RFC 7515, 4.1.9).
const TYPES: [&str; 2] = ["jwt", "at+jwt"];
/// An unknown key id makes the keys be fetched again at most this often, so that made-up ids cost the issuer nothing.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
/// Keys that came longer ago are fetched again, so that one which the issuer took back does not serve for ever.
const MAX_KEY_AGE: Duration = Duration::from_hours(1);
/// If that fails the old keys go on serving, and it is tried again after this time.
const RENEWAL_PAUSE: Duration = Duration::from_mins(1);
/// The claim in which Cognito says what a token is for, and what it says in access tokens. Its id tokens have our client in `aud`, and
/// would pass otherwise.
pub(super) const TOKEN_USE: &str = "token_use";
pub(super) const ACCESS: &str = "access";
/// How far the issuer's clock and ours may differ. Both are kept right by NTP to well under a second, and every second here is one
/// that a token outlives its end; the libraries' usual minute is for clocks that nobody keeps.
const LEEWAY: Duration = Duration::from_secs(10);

/// Which check a token failed. For the log, so it repeats nothing of the token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than any real one.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes, or its header than {MAX_HEADER_BYTES}")]
    TooLong,
    /// Not header, claims and signature, each in its one spelling.
    #[error("the token's {0} is malformed")]
    Malformed(&'static str),
    /// Something else than an access token.
    #[error("the token's typ or cty says that it is something else")]
    Type,
    /// An algorithm that is not one of ours, or not the key's.
    #[error("the token's algorithm is not its key's")]
    Algorithm,
    /// No `kid`, or one that the issuer does not have.
    #[error("the token's key is not among the issuer's")]
    UnknownKey,
    /// Signed otherwise.
    #[error("the token's signature is not its key's")]
    Signature,
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
    /// Critical header parameters that nobody here understands (RFC 7515, 4.1.11; RFC 7797).
    #[error("the token has critical header parameters")]
    Critical,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// An id token, or whatever else an issuer signs.
    #[error("the token is no access token")]
    Use,
}

type Members = serde_json::Map<String, Value>;

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

/// A token that passed every check.
pub(super) struct Verified {
    /// Its claims, but for those that are neither text nor a list of texts.
    pub(super) claims: HashMap<String, String>,
    /// From when on it does not pass any more.
    pub(super) expires_at: Timestamp,
}

/// What is known of the issuer's keys.
#[derive(Clone, Default)]
struct Known {
    keys: Arc<KeySet>,
    /// When they came.
    fetched_at: Option<Timestamp>,
    /// When they could not be fetched again although they were old.
    renewal_failed_at: Option<Timestamp>,
}

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

    /// The keys that tokens are checked with at present, where they have been fetched.
    pub(super) async fn present_keys(&self) -> Arc<KeySet> {
        let known = self.known();
        if !known.is_old(self.clock.now()) {
            return known.keys;
        }
        self.renew().await;
        self.known().keys
    }

    /// What a token says that passes every check.
    pub(super) async fn verify(&self, token: &str) -> Result<Verified, AuthError> {
        let parts = Parts::of(token)?;
        let (algorithm, key_id) = read_header(parts.header)?;
        let key = self.key(&key_id).await?;
        if key.algorithm != algorithm {
            return Err(TokenError::Algorithm.into());
        }
        // The library checks the signature alone: it would parse leniently, read the machine's clock instead of ours, and knows nothing of
        // a client_id that stands in for the audience.
        let signed = crypto::verify(parts.signature, parts.message.as_bytes(), &key.key, key.algorithm);
        if !signed.unwrap_or(false) {
            return Err(TokenError::Signature.into());
        }
        let claims = object(parts.claims).ok_or(TokenError::Malformed("claims"))?;
        let expires_at = self.check(&claims)?;
        let claims = claims.into_iter().filter_map(|(name, value)| Some((name, plain(value)?))).collect();
        Ok(Verified { claims, expires_at })
    }

    /// From when on the token will not pass any more, if it does now.
    fn check(&self, claims: &Members) -> Result<Timestamp, TokenError> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(TokenError::Issuer);
        }
        if !self.is_audience(claims) {
            return Err(TokenError::Audience);
        }
        let now = Duration::from_millis(self.clock.now().millis());
        let expires = time(claims, "exp")?.ok_or(TokenError::Time("exp"))?;
        if expires <= now.saturating_sub(LEEWAY) {
            return Err(TokenError::Expired);
        }
        for beginning in ["nbf", "iat"] {
            if time(claims, beginning)?.is_some_and(|start| start > now + LEEWAY) {
                return Err(TokenError::Early);
            }
        }
        match claims.get(TOKEN_USE) {
            Some(token_use) if token_use.as_str() != Some(ACCESS) => Err(TokenError::Use),
            _ => Ok(Timestamp::from_millis(0).plus(expires.saturating_add(LEEWAY))),
        }
    }

    /// As API Gateway's JWT authorizer has it: `aud`, and only where there is none, `client_id`.
    fn is_audience(&self, claims: &Members) -> bool {
        let accepted = |value: &Value| value.as_str().is_some_and(|text| self.audience.iter().any(|one| one == text));
        match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(accepted),
            Some(one) => accepted(one),
            None => claims.get("client_id").is_some_and(accepted),
        }
    }

    async fn key(&self, id: &str) -> Result<VerificationKey, AuthError> {
        self.renew().await;
        if let Some(found) = self.known().keys.get(id) {
            return Ok(found.clone());
        }
        let _fetching = self.fetching.lock().await;
        let mut known = self.known();
        // Whoever waited for the lock may find that its key has come meanwhile.
        if known.keys.get(id).is_none() {
            if known.fetched_at.is_some_and(|at| self.clock.now().since(at) < REFETCH_INTERVAL) {
                return Err(TokenError::UnknownKey.into());
            }
            // If this fails, or whoever asks gives up waiting, nothing was learned, and the next token may try again.
            known = self.fetch().await?;
        }
        Ok(known.keys.get(id).cloned().ok_or(TokenError::UnknownKey)?)
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
        let keys = Arc::new(self.keys.fetch().await?);
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

/// A token's three parts, each as it is sent, and what is signed.
struct Parts<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    message: &'a str,
}

impl<'a> Parts<'a> {
    /// Cuts a token of bearable size. One that is encrypted has five parts, and is not for us.
    fn of(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let cut = || {
            let (message, signature) = token.rsplit_once('.')?;
            let (header, claims) = message.split_once('.')?;
            (!claims.contains('.')).then_some(Self { header, claims, signature, message })
        };
        let parts = cut().ok_or(TokenError::Malformed("form"))?;
        if parts.header.len() > MAX_HEADER_BYTES { Err(TokenError::TooLong) } else { Ok(parts) }
    }
}

/// The algorithm and the key's id that a header names. What else it offers to find a key by (`jku`, `jwk`, `x5u`, `x5c`) comes from
/// whoever made the token, and is not looked at.
fn read_header(encoded: &str) -> Result<(Algorithm, String), TokenError> {
    let header = object(encoded).ok_or(TokenError::Malformed("header"))?;
    if ["crit", "b64"].iter().any(|name| header.contains_key(*name)) {
        return Err(TokenError::Critical);
    }
    if header.contains_key("cty") || !header.get("typ").is_none_or(is_type_of_ours) {
        return Err(TokenError::Type);
    }
    let algorithm = match header.get("alg").and_then(Value::as_str) {
        Some("RS256") => Algorithm::RS256,
        Some("ES256") => Algorithm::ES256,
        _ => return Err(TokenError::Algorithm),
    };
    let key_id = header.get("kid").and_then(Value::as_str).ok_or(TokenError::UnknownKey)?;
    Ok((algorithm, key_id.to_owned()))
}

fn is_type_of_ours(typ: &Value) -> bool {
    let name = typ.as_str().map(str::to_ascii_lowercase).unwrap_or_default();
    TYPES.contains(&name.strip_prefix("application/").unwrap_or(&name))
}

/// The members of a JSON object in base64url, none of which stands twice, anywhere in it (RFC 7519, 4 and 10.1).
fn object(encoded: &str) -> Option<Members> {
    let json = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
    check_unambiguous(&json).ok()?;
    serde_json::from_str(&json).ok()
}

/// A time, as RFC 7519 (2, `NumericDate`) has it: a number of seconds since the epoch, perhaps with a fraction.
fn time(claims: &Members, name: &'static str) -> Result<Option<Duration>, TokenError> {
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

impl From<TokenError> for AuthError {
    fn from(reason: TokenError) -> Self {
        Self::InvalidToken(reason)
    }
}

impl From<KeyFetchError> for AuthError {
    fn from(error: KeyFetchError) -> Self {
        Self::KeysUnavailable(error)
    }
}
