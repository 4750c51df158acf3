//! Who gets in, and as whom. Tokens are made here by hand, so that each test can lie in exactly one
//! place.

mod behind;
mod discovery;
mod fetching;
mod headers;
mod key_sets;
mod remembered;
mod tokens;

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ::http::Uri;
use async_trait::async_trait;
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaEncoding},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;
use crate::{clock::Timestamp, fixture::told};

/// The time at which the tests take place: in 2026, whatever the machine's clock says.
const NOW: u64 = 1_795_226_400;
const ISSUER: &str = "https://issuer.example/pool";

/// The issuer's key pairs, one of each kind. Made once, since an RSA key takes a while.
static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
static EC: LazyLock<EcdsaKeyPair> = LazyLock::new(ec_key);

fn ec_key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

fn rsa_jwk(kid: &str) -> Value {
    let (modulus, exponent) = (RSA.public_key().modulus(), RSA.public_key().exponent());
    let n = base64(modulus.big_endian_without_leading_zero());
    let e = base64(exponent.big_endian_without_leading_zero());
    json!({"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": n, "e": e})
}

fn ec_jwk(key: &EcdsaKeyPair, kid: &str) -> Value {
    // An uncompressed point: 4, then x and y.
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256", "x": base64(x), "y": base64(y)})
}

fn sign_rsa(message: &[u8]) -> Vec<u8> {
    sign_as(&RSA_PKCS1_SHA256, message)
}

fn sign_as(scheme: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; RSA.public_modulus_len()];
    RSA.sign(scheme, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

fn sign_ec(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of any header and claims, signed by `sign`.
fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    token_of(&header.to_string(), claims.to_string(), sign)
}

/// A token of any texts, JSON or not, signed by `sign`.
fn token_of(header: &str, claims: impl AsRef<[u8]>, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64(signature))
}

fn rs256(claims: &Value) -> String {
    token(&json!({"alg": "RS256", "kid": "rsa"}), claims, sign_rsa)
}

/// The claims of a good access token, `changes` applied; a change to null takes a claim away.
fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "sub": "alice", "client_id": "our-client", "token_use": "access",
        "iat": NOW - 60, "exp": NOW + 600, "scope": "openid config/read", "custom:tenantId": "acme",
    });
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (name, value) in changes {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(&name);
        } else {
            claims[name] = value;
        }
    }
    claims
}

/// Keys from memory, and how often they were asked for.
#[derive(Default)]
struct FakeKeys {
    published: Mutex<Vec<Value>>,
    fetches: AtomicUsize,
    down: Mutex<Option<Outage>>,
}

/// How a fetch goes wrong.
#[derive(Clone, Copy)]
enum Outage {
    Error,
    Silence,
}

#[async_trait]
impl FetchKeys for Arc<FakeKeys> {
    async fn fetch(&self) -> Result<KeySet, KeyFetchError> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        // The network takes its time, and others get theirs meanwhile.
        tokio::task::yield_now().await;
        let down = *self.down.lock().unwrap();
        match down {
            Some(Outage::Error) => Err(KeyFetchError::Timeout),
            Some(Outage::Silence) => std::future::pending().await,
            None => KeySet::parse(json!({"keys": *self.published.lock().unwrap()}).to_string().as_bytes()),
        }
    }
}

/// An authenticator with its issuer's keys and its clock in the test's hands.
struct World {
    authenticator: Authenticator,
    keys: Arc<FakeKeys>,
    millis: Arc<AtomicU64>,
}

fn settings() -> TokenSettings {
    TokenSettings {
        issuer: ISSUER.to_owned(),
        audience: vec!["our-client".to_owned(), "https://api.example".to_owned()],
        keys: KeySource::At(Uri::default()),
        tenant_claim: "custom:tenantId".to_owned(),
        scope_claims: vec!["scope".to_owned(), "scp".to_owned()],
        author_claim: None,
    }
}

impl World {
    fn new() -> Self {
        Self::with(&settings())
    }

    fn with(settings: &TokenSettings) -> Self {
        let published = Mutex::new(vec![rsa_jwk("rsa"), ec_jwk(&EC, "ec")]);
        let keys = Arc::new(FakeKeys { published, ..FakeKeys::default() });
        let millis = Arc::new(AtomicU64::new(NOW * 1000));
        let shown = Arc::clone(&millis);
        let clock = Clock::new(move || Timestamp::from_millis(shown.load(Ordering::Relaxed)));
        Self { authenticator: Authenticator::new(settings, Box::new(Arc::clone(&keys)), clock), keys, millis }
    }

    fn wait(&self, millis: u64) {
        self.millis.fetch_add(millis, Ordering::Relaxed);
    }

    fn fetches(&self) -> usize {
        self.keys.fetches.load(Ordering::Relaxed)
    }

    async fn bearer(&self, token: &str) -> Result<Caller, AuthError> {
        self.authenticator.authenticate(Presented::Authorization(&format!("Bearer {token}"))).await
    }

    /// Behind API Gateway's authorizer, which tells these claims.
    async fn behind(&self, token: &str, claims: &HashMap<String, String>) -> Result<Caller, AuthError> {
        let authorization = format!("Bearer {token}");
        self.authenticator.authenticate(Presented::Checked { claims, authorization: &authorization }).await
    }

    /// By a token with these claims, which is verified here, and which API Gateway's authorizer has
    /// checked: one rule decides both.
    async fn both(&self, claims: &Value) -> Result<Caller, AuthError> {
        let token = rs256(claims);
        let (here, behind) = (self.bearer(&token).await, self.behind(&token, &told(claims)).await);
        let granted = |caller: &Result<Caller, AuthError>| caller.as_ref().ok().map(|caller| caller.granted.clone());
        assert_eq!((outcome(&here), granted(&here)), (outcome(&behind), granted(&behind)), "{claims}");
        behind
    }
}

/// What becomes of a caller, in one word or as "tenant by author".
fn outcome(result: &Result<Caller, AuthError>) -> String {
    match result {
        Ok(caller) => format!("{} by {}", caller.tenant, caller.author.as_str()),
        Err(AuthError::NoToken) => "no token".to_owned(),
        Err(AuthError::NoBearer) => "no bearer".to_owned(),
        Err(AuthError::InvalidToken(reason)) => format!("invalid: {reason}"),
        Err(AuthError::NoTenant { why, .. }) => format!("no tenant: {why}"),
        Err(AuthError::MissingScope { .. }) => "missing scope".to_owned(),
        Err(AuthError::KeysUnavailable { .. }) => "keys unavailable".to_owned(),
    }
}

/// Who comes by claims is their tenant, and writes in the name of `sub`, of the client where there
/// is none, or of the claim that the settings name.
#[tokio::test]
async fn claims_name_tenant_and_author() {
    let named = TokenSettings { author_claim: Some("email".to_owned()), ..settings() };
    for (settings, changes, expected) in [
        (settings(), json!({}), "acme by alice"),
        (settings(), json!({"sub": null}), "acme by our-client"),
        (settings(), json!({"sub": "", "email": "a@example.com"}), "acme by our-client"),
        (settings(), json!({"sub": null, "client_id": null, "aud": "our-client"}), "acme by unknown"),
        (settings(), json!({"sub": 7}), "acme by 7"),
        (settings(), json!({"sub": ["alice"]}), "acme by our-client"),
        (named.clone(), json!({"email": "a@example.com"}), "acme by a@example.com"),
        (named.clone(), json!({"email": ["a@example.com"]}), "acme by alice"),
        (named.clone(), json!({"email": ""}), "acme by alice"),
        (named, json!({}), "acme by alice"),
    ] {
        let result = World::with(&settings).both(&claims(changes.clone())).await;
        assert_eq!(outcome(&result), expected, "{changes}");
    }
}

/// Promise: a tenant claim is a text that is a tenant id, or a whole number, which is its digits,
/// wherever a token comes from; all else names no tenant, and the caller is told why. Nothing is
/// cut, trimmed or picked from a list, and a claim whose name is spelt otherwise is another claim.
#[tokio::test]
async fn a_tenant_claim_is_an_id_or_a_whole_number() {
    const TYPE: &str = "no tenant: is neither text nor a whole number in digits";
    const ID: &str = "no tenant: is no tenant id: it ";
    const MISSING: &str = "no tenant: is missing";
    let world = World::new();
    for (value, expected) in [
        (json!("acme"), "acme by alice"),
        (json!("7"), "7 by alice"),
        (json!(7), "7 by alice"),
        (json!(0), "0 by alice"),
        (json!(18_446_744_073_709_551_615_u64), "18446744073709551615 by alice"),
        (json!(7.0), TYPE),
        (json!(7.5), TYPE),
        (json!(1e3), TYPE),
        (json!(1e30), TYPE),
        (json!(true), TYPE),
        (json!(false), TYPE),
        (json!(["acme"]), TYPE),
        (json!(["acme", "globex"]), TYPE),
        (json!([]), TYPE),
        (json!([7]), TYPE),
        (json!({"id": "acme"}), TYPE),
        (json!(-7), ID),
        (json!("true"), ID),
        (json!("false"), ID),
        (json!("null"), ID),
        (json!("undefined"), ID),
        (json!(""), ID),
        (json!(" "), ID),
        (json!("[acme]"), ID),
        (json!("[acme globex]"), ID),
        (json!("[]"), ID),
        (json!("[[acme]]"), ID),
        (json!("map[id:acme]"), ID),
        (json!("<nil>"), ID),
        (json!("acme globex"), ID),
        (json!("acme,globex"), ID),
        (json!("acme/globex"), ID),
        (json!("acme#x"), ID),
        (json!(" acme"), ID),
        (json!("acme "), ID),
        (json!("*"), ID),
        (
            json!("org|123"),
            "no tenant: is no tenant id: it has the character '|'; a tenant id is 1 to 63 characters of ",
        ),
    ] {
        let result = world.both(&claims(json!({"custom:tenantId": value.clone()}))).await;
        assert!(outcome(&result).starts_with(expected), "{value}: {}", outcome(&result));
    }
    let mut null = claims(json!({}));
    null["custom:tenantId"] = Value::Null;
    assert_eq!(outcome(&world.both(&null).await), TYPE);
    for (changes, expected) in [
        (json!({"custom:tenantId": null}), MISSING),
        (json!({"custom:tenantId": null, "CUSTOM:TENANTID": "acme"}), MISSING),
        (json!({"custom:tenantId": null, "custom:tenantid": "acme", " custom:tenantId": "acme"}), MISSING),
        (json!({"custom:tenantId": null, "tenantId": "acme"}), MISSING),
        (json!({"CUSTOM:TENANTID": "globex", "tenantId": "globex"}), "acme by alice"),
    ] {
        assert_eq!(outcome(&world.both(&claims(changes.clone())).await), expected, "{changes}");
    }
}

/// Promise: a number too large for any integer, and one that is written with a point or an
/// exponent, is no tenant, since readers would not agree about its digits.
#[tokio::test]
async fn a_number_has_one_spelling() {
    let world = World::new();
    for (spelling, tenant) in
        [("7", Some("7")), ("7.0", None), ("7e0", None), ("70e-1", None), ("18446744073709551616", None), ("-0", None)]
    {
        let text = claims(json!({"custom:tenantId": "here"})).to_string().replace("\"here\"", spelling);
        let token = token_of(r#"{"alg":"RS256","kid":"rsa"}"#, &text, sign_rsa);
        // API Gateway may tell all of them in one way.
        let mut told = told(&serde_json::from_str(&text).unwrap());
        let value: f64 = spelling.parse().unwrap();
        told.insert("custom:tenantId".to_owned(), value.to_string());
        let (here, behind) = (world.bearer(&token).await, world.behind(&token, &told).await);
        for result in [here, behind] {
            let named = result.as_ref().ok().map(|caller| caller.tenant.as_str());
            assert_eq!(named, tenant, "{spelling}: {}", outcome(&result));
        }
    }
}

/// Promise: an id token lets nobody in, whether or not API Gateway has looked at it: it tells a
/// client who signed in, and permits nothing.
#[tokio::test]
async fn id_tokens_are_refused() {
    const REFUSED: &str = "invalid: the token is no access token";
    let world = World::new();
    for (token_use, expected) in [
        (json!("access"), "acme by alice"),
        (json!(null), "acme by alice"),
        (json!("id"), REFUSED),
        (json!(""), REFUSED),
        (json!("ACCESS"), REFUSED),
        (json!(["access"]), REFUSED),
        (json!({"access": true}), REFUSED),
        (json!(true), REFUSED),
    ] {
        let result = world.both(&claims(json!({"token_use": token_use.clone()}))).await;
        assert_eq!(outcome(&result), expected, "{token_use}");
    }
    let mut null = claims(json!({}));
    null["token_use"] = Value::Null;
    assert_eq!(outcome(&world.both(&null).await), REFUSED);
}

/// A permission is granted by the whole word only: of a text, in which words stand between white
/// space, or of a list. It is looked for in the first of the claims that the settings name, and
/// whoever lacks it is told where.
#[tokio::test]
async fn a_scope_is_matched_as_a_whole_word() {
    let of = |claims: &[&str]| TokenSettings {
        scope_claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
        ..settings()
    };
    let (usual, permissions) = (&["scope", "scp"][..], &["permissions", "roles"][..]);
    for (looked_at, changes, read, write) in [
        (usual, json!({"scope": "config/read"}), true, false),
        (usual, json!({"scope": "config/read config/write"}), true, true),
        (usual, json!({"scope": "openid  config/write\tprofile"}), false, true),
        (usual, json!({"scope": ["config/read", "config/write"]}), true, true),
        (usual, json!({"scp": "config/read"}), true, false),
        (usual, json!({"scp": ["openid", "config/read"]}), true, false),
        (usual, json!({"scope": "config/read", "scp": "config/write"}), true, false),
        (usual, json!({"scope": "", "scp": "config/write"}), false, false),
        (usual, json!({"scope": "[config/read config/write]"}), false, false),
        (usual, json!({"scope": ["config/read config/write"]}), false, false),
        (usual, json!({"scope": ["config/read", 7]}), false, false),
        (usual, json!({"scope": {"config/read": true}}), false, false),
        (usual, json!({"scope": true}), false, false),
        (usual, json!({"scope": ""}), false, false),
        (usual, json!({"scope": []}), false, false),
        (usual, json!({"scope": "config/readx"}), false, false),
        (usual, json!({"scope": "xconfig/read"}), false, false),
        (usual, json!({"scope": "config/read/all"}), false, false),
        (usual, json!({"scope": "CONFIG/READ"}), false, false),
        (usual, json!({"scope": "config/read,config/write"}), false, false),
        (usual, json!({"scope": "config/*"}), false, false),
        (usual, json!({"scope": "config"}), false, false),
        (usual, json!({"scopes": "config/read"}), false, false),
        (usual, json!({"permissions": ["config/read"]}), false, false),
        (usual, json!({}), false, false),
        (permissions, json!({"scope": "config/write", "permissions": ["config/read"]}), true, false),
        (permissions, json!({"scope": "config/write", "roles": ["config/read", "other"]}), true, false),
        (permissions, json!({"permissions": [], "roles": ["config/read"]}), false, false),
        (permissions, json!({"scope": "config/write"}), false, false),
    ] {
        let mut all = claims(json!({"scope": null}));
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let caller = World::with(&of(looked_at)).both(&all).await.unwrap();
        for (permission, expected) in [(Permission::Read, read), (Permission::Write, write)] {
            let result = caller.clone().authorize(permission);
            assert_eq!(result.is_ok(), expected, "{changes} for {permission:?}");
            let told = format!(
                "the token lacks the scope {}, which is looked for in the first that it has of these claims: {}",
                permission.scope(),
                looked_at.join(", ")
            );
            assert!(
                result.is_ok_and(|scope| scope.tenant().as_str() == "acme") || {
                    let error = caller.clone().authorize(permission).unwrap_err();
                    error.to_string() == told
                }
            );
        }
    }
}

/// Promise: the right to read secrets is a scope of its own, which neither reading nor writing
/// brings, and which brings neither of them. Who does what a commit left behind has not got it.
#[tokio::test]
async fn reading_secrets_takes_its_own_scope() {
    for (scopes, permission, secrets) in [
        ("config/read", Permission::Read, Some(false)),
        ("config/write", Permission::Write, Some(false)),
        ("config/read config/write", Permission::Read, Some(false)),
        ("config/read config/secrets", Permission::Read, Some(true)),
        ("openid config/secrets config/read", Permission::Read, Some(true)),
        ("config/read config/secretsx config/secret xconfig/secrets CONFIG/SECRETS", Permission::Read, Some(false)),
        ("config/read/secrets config/read", Permission::Read, Some(false)),
        ("config/secrets", Permission::Read, None),
        ("config/secrets", Permission::Write, None),
    ] {
        let caller = World::new().both(&claims(json!({"scope": scopes}))).await.unwrap();
        let may_read_secrets = caller.authorize(permission).ok().map(|scope| scope.may_read_secrets());
        assert_eq!(may_read_secrets, secrets, "{scopes:?} for {permission:?}");
    }
    assert!(!SystemAuthority::for_outbox().act_for("acme".parse().unwrap()).may_read_secrets());
}

/// The scheme is `Bearer` in any case. A bare token, which API Gateway takes, and any other scheme
/// is refused with words that say so, wherever the token is checked.
#[tokio::test]
async fn the_scheme_is_bearer_in_any_case() {
    let world = World::new();
    let token = rs256(&claims(json!({})));
    for (header, expected) in [
        (format!("Bearer {token}"), "acme by alice"),
        (format!("bearer {token}"), "acme by alice"),
        (format!("BEARER   {token} "), "acme by alice"),
        (token.clone(), "no bearer"),
        (format!("Basic {token}"), "no bearer"),
        (format!("Bearerx {token}"), "no bearer"),
        (format!("Bearer\t{token}"), "no bearer"),
        ("Bearer".to_owned(), "no bearer"),
        // Two headers arrive joined by a comma.
        (format!("Bearer {token},Bearer {token}"), "invalid: the token's form is malformed"),
        (format!("Bearer {token} {token}"), "invalid: the token's form is malformed"),
        (String::new(), "no token"),
    ] {
        let result = world.authenticator.authenticate(Presented::Authorization(&header)).await;
        assert_eq!(outcome(&result), expected, "{header:.20}");
        let checked = Presented::Checked { claims: &told(&claims(json!({}))), authorization: &header };
        assert_eq!(outcome(&world.authenticator.authenticate(checked).await), expected, "{header:.20}");
    }
    assert_eq!(outcome(&world.authenticator.authenticate(Presented::Nothing).await), "no token");
}

/// What a caller is told never says which check its token failed; the log gets that from the
/// source.
#[tokio::test]
async fn a_refusal_does_not_say_which_check_failed() {
    let world = World::new();
    let expired = world.bearer(&rs256(&claims(json!({"exp": NOW - 600})))).await.unwrap_err();
    let forged = world.bearer(&format!("{}x", rs256(&claims(json!({}))))).await.unwrap_err();
    assert_eq!(expired.to_string(), forged.to_string());
    assert!(std::error::Error::source(&expired).is_some_and(|reason| reason.to_string().contains("expired")));
}

/// Work that a commit left behind is done in the service's own name, for the tenant that the ledger
/// named.
#[test]
fn owed_work_is_done_in_the_services_name() {
    let scope = SystemAuthority::for_outbox().act_for("acme".parse().unwrap());
    assert_eq!((scope.tenant().as_str(), scope.author().as_str()), ("acme", "tenantry"));
}
