//! Who gets in, and as whom. Tokens are made here by hand, so that each test can lie in exactly one place.

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

use async_trait::async_trait;
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaEncoding},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use lambda_http::http::Uri;
use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;

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
        jwks_url: Uri::default(),
        tenant_claim: "custom:tenantId".to_owned(),
    }
}

impl World {
    fn new() -> Self {
        let published = Mutex::new(vec![rsa_jwk("rsa"), ec_jwk(&EC, "ec")]);
        let keys = Arc::new(FakeKeys { published, ..FakeKeys::default() });
        let millis = Arc::new(AtomicU64::new(NOW * 1000));
        let settings = settings();
        let shown = Arc::clone(&millis);
        let clock = Clock::new(move || Timestamp::from_millis(shown.load(Ordering::Relaxed)));
        Self { authenticator: Authenticator::new(&settings, Box::new(Arc::clone(&keys)), clock), keys, millis }
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
}

/// What becomes of a caller, in one word or as "tenant by author".
fn outcome(result: &Result<Caller, AuthError>) -> String {
    match result {
        Ok(caller) => format!("{} by {}", caller.tenant, caller.author.as_str()),
        Err(AuthError::NoToken) => "no token".to_owned(),
        Err(AuthError::InvalidToken(reason)) => format!("invalid: {reason}"),
        Err(AuthError::NoTenant { .. }) => "no tenant".to_owned(),
        Err(AuthError::MissingScope(_)) => "missing scope".to_owned(),
        Err(AuthError::KeysUnavailable(_)) => "keys unavailable".to_owned(),
    }
}

/// What becomes of a caller whose token has passed the authorizer with these claims.
async fn with_claims(claims: &[(&str, &str)]) -> Result<Caller, AuthError> {
    let claims: HashMap<_, _> = claims.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    World::new().authenticator.authenticate(Presented::Claims(&claims)).await
}

/// The claims of API Gateway's authorizer are believed as they are, and cost no look at the issuer's keys.
#[tokio::test]
async fn the_authorizers_claims_name_tenant_and_author() {
    for (claims, expected) in [
        (&[("custom:tenantId", "acme"), ("sub", "alice")][..], "acme by alice"),
        (&[("custom:tenantId", "acme"), ("client_id", "backend")], "acme by backend"),
        (&[("custom:tenantId", "acme"), ("client_id", "backend"), ("sub", "alice")], "acme by alice"),
        (&[("custom:tenantId", "acme")], "acme by unknown"),
        (&[("tenantId", "acme"), ("sub", "alice")], "no tenant"),
        (&[], "no tenant"),
    ] {
        assert_eq!(outcome(&with_claims(claims).await), expected, "{claims:?}");
    }
}

/// Promise: a tenant claim that is not a plain tenant id names no tenant, however API Gateway renders it, and one whose name is spelt
/// otherwise is another claim. Nothing is cut, trimmed or picked from a list.
#[tokio::test]
async fn a_malformed_tenant_claim_names_no_tenant() {
    for text in [
        "",
        " ",
        "[acme]",
        "[acme globex]",
        "[]",
        "[[acme]]",
        "map[id:acme]",
        "<nil>",
        "acme globex",
        "acme,globex",
        "acme/globex",
        "acme#x",
        " acme",
        "*",
    ] {
        let result = with_claims(&[("custom:tenantId", text), ("sub", "alice")]).await;
        assert_eq!(outcome(&result), "no tenant", "{text:?}");
    }
    for name in ["CUSTOM:TENANTID", "custom:tenantid", " custom:tenantId", "tenantId"] {
        let result = with_claims(&[(name, "acme"), ("sub", "alice")]).await;
        assert_eq!(outcome(&result), "no tenant", "{name:?}");
        let beside = with_claims(&[(name, "globex"), ("custom:tenantId", "acme"), ("sub", "alice")]).await;
        assert_eq!(outcome(&beside), "acme by alice", "{name:?}");
    }
    let world = World::new();
    for (changes, expected) in [
        (json!({"custom:tenantId": null, "CUSTOM:TENANTID": "acme"}), "no tenant"),
        (json!({"custom:tenantId": null}), "no tenant"),
        (json!({"CUSTOM:TENANTID": "globex"}), "acme by alice"),
    ] {
        assert_eq!(outcome(&world.bearer(&rs256(&claims(changes.clone()))).await), expected, "{changes}");
    }
    for value in [
        json!(["acme"]),
        json!(["acme", "globex"]),
        json!([]),
        json!({"id": "acme"}),
        json!(7),
        json!(true),
        json!(""),
        json!("acme/globex"),
        json!("acme "),
        json!(null),
    ] {
        let result = world.bearer(&rs256(&claims(json!({"custom:tenantId": value.clone()})))).await;
        assert_eq!(outcome(&result), "no tenant", "{value}");
    }
}

/// Promise: an id token lets nobody in, whether or not API Gateway has looked at it: it tells a client who signed in, and permits nothing.
#[tokio::test]
async fn id_tokens_are_refused() {
    const REFUSED: &str = "invalid: the token is no access token";
    for (text, expected) in
        [("access", "acme by alice"), ("id", REFUSED), ("", REFUSED), ("Access", REFUSED), ("[access]", REFUSED)]
    {
        let result = with_claims(&[("custom:tenantId", "acme"), ("sub", "alice"), ("token_use", text)]).await;
        assert_eq!(outcome(&result), expected, "{text:?}");
    }
    let world = World::new();
    for (token_use, expected) in [
        (json!("access"), "acme by alice"),
        (json!(null), "acme by alice"),
        (json!("id"), REFUSED),
        (json!("ACCESS"), REFUSED),
        (json!(["access"]), REFUSED),
        (json!({"access": true}), REFUSED),
        (json!(true), REFUSED),
    ] {
        let result = world.bearer(&rs256(&claims(json!({"token_use": token_use.clone()})))).await;
        assert_eq!(outcome(&result), expected, "{token_use}");
    }
    let mut null = claims(json!({}));
    null["token_use"] = Value::Null;
    assert_eq!(outcome(&world.bearer(&rs256(&null)).await), REFUSED);
}

/// A permission is granted by the whole word only, wherever in the list it stands, and however the list was rendered.
#[tokio::test]
async fn a_scope_is_matched_as_a_whole_word() {
    for (claim, text, read, write) in [
        ("scope", "config/read", true, false),
        ("scope", "config/read config/write", true, true),
        ("scope", "openid  config/write\tprofile", false, true),
        ("scope", "[config/read config/write]", true, true),
        ("scope", "[config/read]", true, false),
        ("scp", "config/read", true, false),
        ("scp", "[openid config/read]", true, false),
        ("scope", "", false, false),
        ("scope", "[]", false, false),
        ("scope", "config/readx", false, false),
        ("scope", "xconfig/read", false, false),
        ("scope", "config/read/all", false, false),
        ("scope", "CONFIG/READ", false, false),
        ("scope", "config/read,config/write", false, false),
        ("scope", "config/*", false, false),
        ("scope", "config", false, false),
        ("scopes", "config/read", false, false),
    ] {
        let caller = with_claims(&[("custom:tenantId", "acme"), (claim, text)]).await.unwrap();
        for (permission, expected) in [(Permission::Read, read), (Permission::Write, write)] {
            let granted = match caller.clone().authorize(permission) {
                Ok(scope) => scope.tenant().as_str() == "acme",
                Err(error) => !matches!(error, AuthError::MissingScope(missing) if missing == permission),
            };
            assert_eq!(granted, expected, "{claim} {text:?} for {permission:?}");
        }
    }
}

/// Promise: the right to read secrets is a scope of its own, which neither reading nor writing brings, and which brings neither of them. Who
/// does what a commit left behind has not got it.
#[tokio::test]
async fn reading_secrets_takes_its_own_scope() {
    for (scopes, permission, secrets) in [
        ("config/read", Permission::Read, Some(false)),
        ("config/write", Permission::Write, Some(false)),
        ("config/read config/write", Permission::Read, Some(false)),
        ("config/read config/secrets", Permission::Read, Some(true)),
        ("[config/secrets config/read]", Permission::Read, Some(true)),
        ("config/read config/secretsx config/secret xconfig/secrets CONFIG/SECRETS", Permission::Read, Some(false)),
        ("config/read/secrets config/read", Permission::Read, Some(false)),
        ("config/secrets", Permission::Read, None),
        ("config/secrets", Permission::Write, None),
    ] {
        let caller = with_claims(&[("custom:tenantId", "acme"), ("scope", scopes)]).await.unwrap();
        let may_read_secrets = caller.authorize(permission).ok().map(|scope| scope.may_read_secrets());
        assert_eq!(may_read_secrets, secrets, "{scopes:?} for {permission:?}");
    }
    assert!(!SystemAuthority::for_owed_work().act_for("acme".parse().unwrap()).may_read_secrets());
}

/// A bearer token's scopes count whether they are text or a list, and `scope` stands before `scp`.
#[tokio::test]
async fn scopes_come_from_scope_or_scp() {
    let world = World::new();
    for (changes, write) in [
        (json!({"scope": ["openid", "config/write"]}), true),
        (json!({"scope": null, "scp": ["config/write"]}), true),
        (json!({"scope": null, "scp": "config/write"}), true),
        (json!({"scope": "config/read", "scp": "config/write"}), false),
        (json!({"scope": {"config/write": true}}), false),
        (json!({"scope": null}), false),
    ] {
        let caller = world.bearer(&rs256(&claims(changes.clone()))).await.unwrap();
        assert_eq!(caller.authorize(Permission::Write).is_ok(), write, "{changes}");
    }
}

/// The scheme is `Bearer` in any case; anything else, and nothing at all, is no token rather than a bad one.
#[tokio::test]
async fn the_scheme_is_bearer_in_any_case() {
    let world = World::new();
    let token = rs256(&claims(json!({})));
    for (header, expected) in [
        (format!("Bearer {token}"), "acme by alice"),
        (format!("bearer {token}"), "acme by alice"),
        (format!("BEARER   {token} "), "acme by alice"),
        (token.clone(), "no token"),
        (format!("Basic {token}"), "no token"),
        (format!("Bearerx {token}"), "no token"),
        ("Bearer".to_owned(), "no token"),
        // Two headers arrive joined by a comma.
        (format!("Bearer {token},Bearer {token}"), "invalid: the token's form is malformed"),
        (format!("Bearer {token} {token}"), "invalid: the token's form is malformed"),
        (String::new(), "no token"),
    ] {
        let result = world.authenticator.authenticate(Presented::Authorization(&header)).await;
        assert_eq!(outcome(&result), expected, "{header:.20}");
    }
    assert_eq!(outcome(&world.authenticator.authenticate(Presented::Nothing).await), "no token");
}

/// What a caller is told never says which check its token failed; the log gets that from the source.
#[tokio::test]
async fn a_refusal_does_not_say_which_check_failed() {
    let world = World::new();
    let expired = world.bearer(&rs256(&claims(json!({"exp": NOW - 600})))).await.unwrap_err();
    let forged = world.bearer(&format!("{}x", rs256(&claims(json!({}))))).await.unwrap_err();
    assert_eq!(expired.to_string(), forged.to_string());
    assert!(std::error::Error::source(&expired).is_some_and(|reason| reason.to_string().contains("expired")));
}

/// Work that a commit left behind is done in the service's own name, for the tenant that the ledger named.
#[test]
fn owed_work_is_done_in_the_services_name() {
    let scope = SystemAuthority::for_owed_work().act_for("acme".parse().unwrap());
    assert_eq!((scope.tenant().as_str(), scope.author().as_str()), ("acme", "tenantry"));
}
