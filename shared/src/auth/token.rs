//! Verifies a bearer token (RFC 7519) by the rules of RFC 8725: the key decides the algorithm,
//! never the token.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, crypto};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{AuthError, FetchKeys, TokenSettings, keyring::Keyring};
use crate::{
    clock::{Clock, Timestamp},
    model::value::check_unambiguous,
};

/// The longest token that is read, in bytes; API Gateway stops at 10,240 bytes of headers in
/// all.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The longest header that is read, in bytes as it is sent: room for a chain of certificates, which
/// is ignored.
const MAX_HEADER_BYTES: usize = 4 * 1024;
/// What a header may call the token (RFC 7519, 5.1; RFC 9068, 2.1); `application/` may stand in
/// front (RFC 7515, 4.1.9).
const TYPES: [&str; 2] = ["jwt", "at+jwt"];
/// The claim in which Cognito says what a token is for, and what it says in access tokens. Its id
/// tokens have our client in `aud`, and would pass otherwise.
const TOKEN_USE: &str = "token_use";
const ACCESS: &str = "access";
/// The claims that are read whatever the settings say.
const READ_ALWAYS: [&str; 8] = ["iss", "sub", "aud", "client_id", "exp", "nbf", "iat", TOKEN_USE];
/// More members than most tokens have, so that their list does not have to grow.
const USUAL_MEMBERS: usize = 24;
/// How far the issuer's clock and ours may differ. Both are kept right by NTP to well under a
/// second, and every second here is one that a token outlives its end; the libraries' usual minute
/// is for clocks that nobody keeps.
const LEEWAY: Duration = Duration::from_secs(10);

/// Which check a token failed. For the log, so it repeats nothing of the token.
#[derive(Debug, thiserror::Error)]
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
    /// Not the one that the authorizer has checked.
    #[error("the token says something else in {0:?} than the authorizer's claims beside it")]
    Differs(String),
}

/// The claims of a token that are read, with their types.
pub(super) type Claims = serde_json::Map<String, Value>;

/// Verifies tokens of one issuer.
pub(super) struct TokenVerifier {
    /// The claims that say who is calling, and for what.
    callers_claims: Vec<String>,
    audience: Vec<String>,
    issuer: String,
    pub(super) keys: Keyring,
    clock: Clock,
    /// The last token that was read behind the authorizer, and its claims. The next request mostly
    /// brings the same token, and then its claims need not be read again.
    last_read: Mutex<Option<(Box<str>, Arc<Claims>)>>,
}

/// A token that passed every check.
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// From when on it does not pass any more.
    pub(super) expires_at: Timestamp,
}

impl TokenVerifier {
    pub(super) fn new(settings: &TokenSettings, keys: Box<dyn FetchKeys>, clock: Clock) -> Self {
        let keys = Keyring::new(keys, clock.clone());
        let TokenSettings { tenant_claim, scope_claims, author_claim, .. } = settings;
        let callers_claims = [tenant_claim].into_iter().chain(scope_claims).chain(author_claim).cloned().collect();
        let (audience, issuer) = (settings.audience.clone(), settings.issuer.clone());
        Self { callers_claims, audience, issuer, keys, clock, last_read: Mutex::default() }
    }

    /// The claims of a token that passes every check.
    pub(super) async fn verify(&self, token: &str) -> Result<Verified, AuthError> {
        let parts = Parts::of(token)?;
        let (algorithm, key_id) = read_header(parts.header)?;
        let key = self.keys.get(&key_id).await?;
        if key.algorithm != algorithm {
            return Err(TokenError::Algorithm.into());
        }
        // The library checks the signature alone: it would parse leniently, read the machine's
        // clock instead of ours, and knows nothing of a client_id that stands in for the audience.
        let signed = crypto::verify(parts.signature, parts.message.as_bytes(), &key.key, key.algorithm);
        if !signed.unwrap_or(false) {
            return Err(TokenError::Signature.into());
        }
        let claims = self.read_claims(parts.claims)?;
        let expires_at = self.check(&claims)?;
        Ok(Verified { claims, expires_at })
    }

    /// From when on the token will not pass any more, if it does now.
    fn check(&self, claims: &Claims) -> Result<Timestamp, TokenError> {
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
        Ok(Timestamp::from_millis(0).plus(expires.saturating_add(LEEWAY)))
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

    /// The claims of a token that API Gateway's authorizer has checked: signature, issuer, audience
    /// and times. `told` are the claims as the authorizer passes them on. The token is read as
    /// strictly as any other. It is refused where a claim that matters differs from `told`.
    pub(super) fn read_checked(&self, token: &str, told: &HashMap<String, String>) -> Result<Arc<Claims>, TokenError> {
        let claims = self.read(token)?;
        let relied_on = ["iss", "sub", "client_id", "exp", TOKEN_USE].into_iter();
        for name in relied_on.chain(self.callers_claims.iter().map(String::as_str)) {
            if !is_told(claims.get(name), told.get(name).map(String::as_str)) {
                return Err(TokenError::Differs(name.to_owned()));
            }
        }
        Ok(claims)
    }

    /// The claims of a token, whoever signed it.
    fn read(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let mut last_read = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, claims)) = last_read.as_ref().filter(|(last, _)| **last == *token) {
            return Ok(Arc::clone(claims));
        }
        let parts = Parts::of(token)?;
        read_header(parts.header)?;
        let claims = Arc::new(self.read_claims(parts.claims)?);
        *last_read = Some((token.into(), Arc::clone(&claims)));
        Ok(claims)
    }

    /// The claims of an access token that are read. It must say when it ends.
    fn read_claims(&self, encoded: &str) -> Result<Claims, TokenError> {
        let is_read = |name: &str| READ_ALWAYS.contains(&name) || self.callers_claims.iter().any(|own| own == name);
        let claims = object(encoded, is_read).ok_or(TokenError::Malformed("claims"))?;
        time(&claims, "exp")?.ok_or(TokenError::Time("exp"))?;
        for beginning in ["nbf", "iat"] {
            time(&claims, beginning)?;
        }
        if claims.get(TOKEN_USE).is_some_and(|token_use| token_use.as_str() != Some(ACCESS)) {
            return Err(TokenError::Use);
        }
        Ok(claims)
    }
}

/// Whether API Gateway may have made `told`, which is always text, of a claim. It does not document
/// how it renders JSON that is no text. So numbers may have any spelling, lists are "[a b]", and
/// JSON that means nothing here may have any form.
fn is_told(claim: Option<&Value>, told: Option<&str>) -> bool {
    let words = |text: &'_ str| {
        let words = text.split([' ', ',', '[', ']', '"']).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    match (claim, told) {
        (None, told) => told.is_none(),
        (Some(Value::Null | Value::Object(_)), _) => true,
        (Some(_), None) => false,
        (Some(Value::String(text)), Some(told)) => text == told,
        (Some(Value::Bool(is)), Some(told)) => told == if *is { "true" } else { "false" },
        (Some(Value::Number(number)), Some(told)) => {
            told == number.to_string() || told.parse().ok().is_some_and(|told: f64| number.as_f64() == Some(told))
        }
        (Some(Value::Array(items)), Some(told)) => {
            let items: Option<Vec<_>> = items.iter().map(|item| item.as_str().map(words)).collect();
            items.is_none_or(|items| items.concat() == words(told))
        }
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
    /// Cuts a token of bearable size. An encrypted token has five parts, and is refused.
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

/// The algorithm and the key's id that a header names. What else it offers to find a key by (`jku`,
/// `jwk`, `x5u`, `x5c`) comes from whoever made the token, and is ignored.
fn read_header(encoded: &str) -> Result<(Algorithm, String), TokenError> {
    let is_read = |name: &str| ["alg", "kid", "typ", "cty", "crit", "b64"].contains(&name);
    let header = object(encoded, is_read).ok_or(TokenError::Malformed("header"))?;
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

/// The wanted members of a JSON object in base64url. The whole object is read, and refused if a
/// name stands twice anywhere in it (RFC 7519, 4 and 10.1). Only wanted members become values,
/// because each request pays for this.
fn object(encoded: &str, is_wanted: impl Fn(&str) -> bool) -> Option<Claims> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(encoded).ok()?;
    let Members(members) = serde_json::from_str(std::str::from_utf8(&json).ok()?).ok()?;
    let wanted = members.into_iter().filter(|(name, _)| is_wanted(name));
    wanted.map(|(name, value)| Some((name.into_owned(), serde_json::from_str(value.get()).ok()?))).collect()
}

/// A JSON object's members, in the order of their names, of which none stands twice.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor(PhantomData))
    }
}

struct MembersVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for MembersVisitor<'a> {
    type Value = Members<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        let mut members = Vec::with_capacity(USUAL_MEMBERS);
        while let Some(Name(name)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            // A text without escapes cannot be ambiguous. Any other JSON can.
            let json = value.get();
            if !json.starts_with('"') || json.contains('\\') {
                check_unambiguous(json).map_err(A::Error::custom)?;
            }
            members.push((name, value));
        }
        members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(A::Error::custom("a member stands twice"));
        }
        Ok(Members(members))
    }
}

/// A time, as RFC 7519 (2, `NumericDate`) has it: a number of seconds since the epoch, perhaps with
/// a fraction.
fn time(claims: &Claims, name: &'static str) -> Result<Option<Duration>, TokenError> {
    let seconds = |value: &Value| value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    claims.get(name).map(|value| seconds(value).ok_or(TokenError::Time(name))).transpose()
}

impl From<TokenError> for AuthError {
    fn from(reason: TokenError) -> Self {
        Self::InvalidToken(reason)
    }
}
