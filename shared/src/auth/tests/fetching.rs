//! When the issuer's keys are fetched.

use super::*;

fn signed_with(kid: &str) -> String {
    token(&json!({"alg": "RS256", "kid": kid}), &claims(json!({})), sign_rsa)
}

const HOUR: u64 = 3_600_000;

/// A token that outlives the tests' hours.
fn lasting(kid: &str) -> String {
    token(&json!({"alg": "RS256", "kid": kid}), &claims(json!({"exp": NOW + 86_400})), sign_rsa)
}

/// One fetch serves all tokens of the keys that it brought, for an hour.
#[tokio::test]
async fn a_known_key_serves_for_an_hour() {
    let world = World::new();
    assert_eq!(world.fetches(), 0, "nothing is fetched before a token needs it");
    for _ in 0..3 {
        assert_eq!(outcome(&world.bearer(&lasting("rsa")).await), "acme by alice");
        let es256 = token(&json!({"alg": "ES256", "kid": "ec"}), &claims(json!({"exp": NOW + 86_400})), |message| {
            sign_ec(&EC, message)
        });
        assert_eq!(outcome(&world.bearer(&es256).await), "acme by alice");
        world.wait(HOUR / 3 - 1);
    }
    assert_eq!(world.fetches(), 1);
    world.wait(3);
    assert_eq!(outcome(&world.bearer(&lasting("rsa")).await), "acme by alice");
    assert_eq!(world.fetches(), 2);
}

/// A key that the issuer took back, as one does with a stolen one, stops working within the hour,
/// without any unknown key to ask for.
#[tokio::test]
async fn a_withdrawn_key_stops_working() {
    let world = World::new();
    assert!(world.bearer(&lasting("rsa")).await.is_ok());
    *world.keys.published.lock().unwrap() = vec![ec_jwk(&EC, "ec")];
    world.wait(HOUR - 1);
    assert_eq!(outcome(&world.bearer(&lasting("rsa")).await), "acme by alice");
    world.wait(1);
    let refused = outcome(&world.bearer(&lasting("rsa")).await);
    assert_eq!((refused.as_str(), world.fetches()), ("invalid: the token's key is not among the issuer's", 2));
}

/// While old keys cannot be fetched again they go on serving, and the issuer is asked once a
/// minute, not by every token.
#[tokio::test]
async fn old_keys_serve_while_there_are_no_newer_ones() {
    let world = World::new();
    assert!(world.bearer(&lasting("rsa")).await.is_ok());
    *world.keys.down.lock().unwrap() = Some(Outage::Error);
    world.wait(HOUR);
    for (wait_millis, fetches) in [(0, 2), (0, 2), (59_999, 2), (1, 3), (0, 3)] {
        world.wait(wait_millis);
        assert_eq!(outcome(&world.bearer(&lasting("rsa")).await), "acme by alice");
        assert_eq!(world.fetches(), fetches);
    }
    *world.keys.down.lock().unwrap() = None;
    for (wait_millis, fetches) in [(60_000, 4), (0, 4), (60_000, 4), (HOUR - 60_001, 4), (1, 5)] {
        world.wait(wait_millis);
        assert_eq!(outcome(&world.bearer(&lasting("rsa")).await), "acme by alice");
        assert_eq!(world.fetches(), fetches);
    }
}

/// While old keys are being fetched again, one caller waits for them and the others go on with the
/// old ones.
#[tokio::test]
async fn old_keys_serve_while_newer_ones_are_on_their_way() {
    let world = World::new();
    assert!(world.bearer(&lasting("rsa")).await.is_ok());
    *world.keys.down.lock().unwrap() = Some(Outage::Silence);
    world.wait(HOUR);
    let token = lasting("rsa");
    let result = tokio::select! {
        biased;
        _ = world.bearer(&token) => panic!("nobody has answered"),
        result = world.bearer(&token) => result,
    };
    tokio::task::yield_now().await;
    assert_eq!((outcome(&result).as_str(), world.fetches()), ("acme by alice", 2));
}

/// Made-up key ids cost the issuer one request in thirty seconds, and cost those with good tokens
/// nothing.
#[tokio::test]
async fn unknown_keys_refetch_at_most_every_thirty_seconds() {
    let world = World::new();
    for (wait_millis, kid, fetches) in [
        (0, "rsa", 1),
        (0, "made-up", 1),
        (0, "another", 1),
        (29_999, "made-up", 1),
        (0, "rsa", 1),
        (1, "made-up", 2),
        (0, "another", 2),
        (0, "rsa", 2),
        (30_000, "rsa", 2),
        (0, "made-up", 3),
    ] {
        world.wait(wait_millis);
        let result = world.bearer(&signed_with(kid)).await;
        let expected =
            if kid == "rsa" { "acme by alice" } else { "invalid: the token's key is not among the issuer's" };
        assert_eq!((outcome(&result).as_str(), world.fetches()), (expected, fetches), "{kid}");
    }
}

/// A new key is found as soon as the interval allows, and a key that the issuer took back is
/// forgotten with that fetch.
#[tokio::test]
async fn rotated_keys_are_picked_up() {
    let world = World::new();
    assert!(world.bearer(&signed_with("rsa")).await.is_ok());
    *world.keys.published.lock().unwrap() = vec![rsa_jwk("new")];
    world.wait(30_000);
    assert_eq!(outcome(&world.bearer(&signed_with("new")).await), "acme by alice");
    assert!(world.bearer(&signed_with("rsa")).await.is_err());
}

/// A fetch that failed has taught nothing: no token is called bad, and known keys go on serving.
/// But the issuer is left alone for a second, twice as long after each failure, for half a minute
/// at most, and who needs a key meanwhile is told so at once.
#[tokio::test]
async fn a_failed_fetch_is_followed_by_a_pause() {
    let world = World::new();
    *world.keys.down.lock().unwrap() = Some(Outage::Error);
    let mut fetches = 0;
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        fetches += 1;
        for wait_millis in [0, pause * 1000 - 1] {
            world.wait(wait_millis);
            let refused = world.bearer(&signed_with("rsa")).await;
            let Err(AuthError::KeysUnavailable { retry_after, .. }) = refused else { panic!("{}", outcome(&refused)) };
            let rest = if wait_millis == 0 { pause * 1000 } else { 1 };
            assert_eq!(retry_after.as_millis(), rest.into(), "how long nobody fetches");
            assert_eq!(world.fetches(), fetches, "{pause} s");
        }
        world.wait(1);
    }
    *world.keys.down.lock().unwrap() = None;
    assert_eq!(outcome(&world.bearer(&signed_with("rsa")).await), "acme by alice");
    *world.keys.down.lock().unwrap() = Some(Outage::Error);
    world.wait(30_000);
    let fetches = world.fetches();
    // After a success the pauses begin anew.
    for (wait_millis, more) in [(0, 1), (999, 1), (1, 2), (1_999, 2), (1, 3)] {
        world.wait(wait_millis);
        assert_eq!(outcome(&world.bearer(&signed_with("made-up")).await), "keys unavailable");
        assert_eq!(outcome(&world.bearer(&signed_with("rsa")).await), "acme by alice");
        assert_eq!(world.fetches() - fetches, more);
    }
}

/// Promise: a clock that is put back ends the pause: how long it has lasted cannot be told then.
#[tokio::test]
async fn a_clock_that_is_put_back_ends_the_pause() {
    let world = World::new();
    *world.keys.down.lock().unwrap() = Some(Outage::Error);
    assert_eq!(outcome(&world.bearer(&signed_with("rsa")).await), "keys unavailable");
    *world.keys.down.lock().unwrap() = None;
    world.millis.fetch_sub(5_000, Ordering::Relaxed);
    assert_eq!(outcome(&world.bearer(&signed_with("rsa")).await), "acme by alice");
}

/// Keys that fail to come, after a while.
struct Slow(Arc<AtomicUsize>);

#[async_trait]
impl FetchKeys for Slow {
    async fn fetch(&self) -> Result<KeySet, KeyFetchError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        Err(KeyFetchError::Timeout)
    }
}

/// Promise: one fetch is one outcome for all who wait for it, whenever they came, when it fails,
/// too: nobody waits in line to fetch again. Who gives up takes it away from nobody.
#[tokio::test(start_paused = true)]
async fn a_crowd_shares_a_failure() {
    let fetches = Arc::new(AtomicUsize::new(0));
    let clock = Clock::new(|| Timestamp::from_millis(NOW * 1000));
    let authenticator = Authenticator::new(&settings(), Box::new(Slow(Arc::clone(&fetches))), clock);
    let header = format!("Bearer {}", signed_with("rsa"));
    let begin = tokio::time::Instant::now();
    let call = |after: u64, patience: u64| {
        let (authenticator, header) = (&authenticator, &header);
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(after)).await;
            let calling = authenticator.authenticate(Presented::Authorization(header));
            let patience = std::time::Duration::from_millis(patience);
            let result = tokio::time::timeout(patience, calling).await.ok()?;
            Some((outcome(&result), begin.elapsed().as_millis()))
        }
    };
    // The first begins the fetch, and gives up.
    let (first, others) =
        tokio::join!(call(0, 1_000), futures_util::future::join_all((0..12).map(|one| call(one * 400, 60_000))));
    assert_eq!(first, None);
    for other in others {
        assert_eq!(other, Some(("keys unavailable".to_owned(), 5_000)));
    }
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

/// Callers who come while the keys are on their way wait for them; their good tokens are not
/// refused, and one fetch serves them all.
#[tokio::test]
async fn a_crowd_waits_for_one_fetch() {
    let world = World::new();
    let token = signed_with("rsa");
    let (first, second, third) = tokio::join!(world.bearer(&token), world.bearer(&token), world.bearer(&token));
    for result in [first, second, third] {
        assert_eq!(outcome(&result), "acme by alice");
    }
    assert_eq!(world.fetches(), 1);
}

/// A caller who gives up while the keys are on their way takes them away from nobody: they come,
/// and serve the next one.
#[tokio::test]
async fn an_abandoned_fetch_comes_to_its_end() {
    let world = World::new();
    let token = signed_with("rsa");
    tokio::select! {
        biased;
        _ = world.bearer(&token) => panic!("nobody has answered"),
        () = async { while world.fetches() == 0 { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(outcome(&world.bearer(&token).await), "acme by alice");
    assert_eq!(world.fetches(), 1);
}

/// While somebody's unknown key is being looked for, those with known keys do not wait.
#[tokio::test]
async fn known_keys_serve_while_others_are_looked_for() {
    let world = World::new();
    assert!(world.bearer(&signed_with("rsa")).await.is_ok());
    *world.keys.down.lock().unwrap() = Some(Outage::Silence);
    world.wait(30_000);
    let (unknown, known) = (signed_with("made-up"), signed_with("rsa"));
    let result = tokio::select! {
        biased;
        _ = world.bearer(&unknown) => panic!("nobody has answered"),
        result = world.bearer(&known) => result,
    };
    tokio::task::yield_now().await;
    assert_eq!((outcome(&result).as_str(), world.fetches()), ("acme by alice", 2));
}

/// Promise: a key that the issuer replaces under its old id is believed once the keys are fetched
/// again, and the one before it no more. A bad signature makes nobody ask for keys: whoever invents
/// signatures could have the issuer asked for each.
#[tokio::test]
async fn a_key_that_changes_under_its_id_is_replaced_within_the_hour() {
    let world = World::new();
    let next = ec_key();
    let signed_by = |key: &EcdsaKeyPair| {
        token(&json!({"alg": "ES256", "kid": "ec"}), &claims(json!({"exp": NOW + 86_400})), |message| {
            sign_ec(key, message)
        })
    };
    let (old_token, new_token) = (signed_by(&EC), signed_by(&next));
    assert_eq!(outcome(&world.bearer(&old_token).await), "acme by alice");
    *world.keys.published.lock().unwrap() = vec![ec_jwk(&next, "ec")];
    for (wait_millis, old_is_good, fetches) in [(0, true, 1), (HOUR - 1, true, 1), (1, false, 2)] {
        world.wait(wait_millis);
        let (old, new) = (world.bearer(&old_token).await, world.bearer(&new_token).await);
        assert_eq!((old.is_ok(), new.is_ok(), world.fetches()), (old_is_good, !old_is_good, fetches));
    }
}
