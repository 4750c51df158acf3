//! Tokens that are verified once: what is remembered of them must not outlive what made them good.

use super::*;

/// A memory over the keys and the clock of `World`.
fn memory() -> (World, TokenMemory) {
    let world = World::new();
    let shown = Arc::clone(&world.millis);
    let clock = Clock::new(move || Timestamp::from_millis(shown.load(Ordering::Relaxed)));
    let authenticator = Authenticator::new(&settings(), Box::new(Arc::clone(&world.keys)), clock.clone());
    (world, TokenMemory::new(authenticator, Permission::Read, clock))
}

async fn recognized(memory: &TokenMemory, token: &str) -> Result<Arc<Bearer>, AuthError> {
    memory.recognize(&format!("Bearer {token}")).await
}

fn is_expired(result: &Result<Arc<Bearer>, AuthError>) -> bool {
    matches!(result, Err(AuthError::InvalidToken(TokenError::Expired)))
}

/// Promise: a token is verified once, and is refused from the moment on that it would be without
/// any memory.
#[tokio::test]
async fn a_token_is_remembered_until_it_expires() {
    let (world, memory) = memory();
    let token = rs256(&claims(json!({})));
    // The first one brings the keys.
    recognized(&memory, &token).await.unwrap();
    let first = recognized(&memory, &token).await.unwrap();
    assert_eq!(first.expires_at, Timestamp::from_millis((NOW + 610) * 1000), "10 s of leeway");
    world.wait(609_999);
    assert!(Arc::ptr_eq(&first, &recognized(&memory, &token).await.unwrap()), "it was verified again");
    world.wait(1);
    assert!(is_expired(&recognized(&memory, &token).await));
    assert!(is_expired(&recognized(&memory, &token).await));
}

/// Promise: a key that the issuer took back takes with it what was remembered of its tokens.
#[tokio::test]
async fn a_withdrawn_key_is_forgotten_with_its_tokens() {
    let (world, memory) = memory();
    let token = rs256(&claims(json!({"exp": NOW + 86_400})));
    recognized(&memory, &token).await.unwrap();
    recognized(&memory, &token).await.unwrap();
    *world.keys.published.lock().unwrap() = vec![ec_jwk(&EC, "ec")];
    world.wait(3_600_000);
    for _ in 0..2 {
        let refused = recognized(&memory, &token).await;
        assert!(matches!(refused, Err(AuthError::InvalidToken(TokenError::UnknownKey))), "{refused:?}");
    }
}

/// Promise: what is remembered of one token helps no other: one without the scope, of another
/// tenant, or with a changed signature.
#[tokio::test]
async fn only_the_same_token_is_recognized() {
    let (_world, memory) = memory();
    let good = rs256(&claims(json!({})));
    assert_eq!(recognized(&memory, &good).await.unwrap().scope.tenant().as_str(), "acme");
    let other = rs256(&claims(json!({"custom:tenantId": "globex", "scope": "config/read config/secrets"})));
    let other = recognized(&memory, &other).await.unwrap();
    assert_eq!((other.scope.tenant().as_str(), other.scope.may_read_secrets()), ("globex", true));
    assert!(!recognized(&memory, &good).await.unwrap().scope.may_read_secrets());
    let writer = rs256(&claims(json!({"scope": "config/write"})));
    for _ in 0..2 {
        assert!(matches!(
            recognized(&memory, &writer).await,
            Err(AuthError::MissingScope { permission: Permission::Read, .. })
        ));
    }
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let changed = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    assert!(recognized(&memory, &changed).await.is_err());
    assert!(recognized(&memory, &good).await.is_ok());
    assert!(matches!(memory.recognize(&good).await, Err(AuthError::NoBearer)), "no scheme");
}
