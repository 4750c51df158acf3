//! When the issuer's keys are fetched, and what is taken for keys.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

/// A key that the issuer took back, as one does with a stolen one, stops working within the hour, without any unknown key to ask for.
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

/// While old keys cannot be fetched again they go on serving, and the issuer is asked once a minute, not by every token.
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

/// While old keys are being fetched again, one caller waits for them and the others go on with the old ones.
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
    assert_eq!((outcome(&result).as_str(), world.fetches()), ("acme by alice", 2));
}

/// Made-up key ids cost the issuer one request in thirty seconds, and cost those with good tokens nothing.
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

/// A new key is found as soon as the interval allows, and a key that the issuer took back is forgotten with that fetch.
#[tokio::test]
async fn rotated_keys_are_picked_up() {
    let world = World::new();
    assert!(world.bearer(&signed_with("rsa")).await.is_ok());
    *world.keys.published.lock().unwrap() = vec![rsa_jwk("new")];
    world.wait(30_000);
    assert_eq!(outcome(&world.bearer(&signed_with("new")).await), "acme by alice");
    assert!(world.bearer(&signed_with("rsa")).await.is_err());
}

/// A fetch that failed has taught nothing: the token is not called bad, the next one tries again, and known keys go on serving.
#[tokio::test]
async fn a_failed_fetch_may_be_tried_again_at_once() {
    let world = World::new();
    *world.keys.down.lock().unwrap() = Some(Outage::Error);
    for fetches in 1..=2 {
        assert_eq!(outcome(&world.bearer(&signed_with("rsa")).await), "keys unavailable");
        assert_eq!(world.fetches(), fetches);
    }
    *world.keys.down.lock().unwrap() = None;
    assert_eq!(outcome(&world.bearer(&signed_with("rsa")).await), "acme by alice");
    *world.keys.down.lock().unwrap() = Some(Outage::Error);
    world.wait(30_000);
    assert_eq!(outcome(&world.bearer(&signed_with("made-up")).await), "keys unavailable");
    assert_eq!(outcome(&world.bearer(&signed_with("rsa")).await), "acme by alice");
}

/// Callers who come while the keys are on their way wait for them; their good tokens are not refused, and one fetch serves them all.
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

/// A caller who gives up while the keys are on their way leaves nothing behind that would turn the next one away.
#[tokio::test]
async fn an_abandoned_fetch_does_not_lock_others_out() {
    let world = World::new();
    *world.keys.down.lock().unwrap() = Some(Outage::Silence);
    let token = signed_with("rsa");
    tokio::select! {
        biased;
        _ = world.bearer(&token) => panic!("nobody has answered"),
        () = async { while world.fetches() == 0 { tokio::task::yield_now().await } } => {}
    }
    *world.keys.down.lock().unwrap() = None;
    assert_eq!(outcome(&world.bearer(&token).await), "acme by alice");
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
    assert_eq!((outcome(&result).as_str(), world.fetches()), ("acme by alice", 2));
}

/// What an address that answers `response`, and then hangs up, gives as keys.
async fn served(response: Vec<u8>) -> Result<KeySet, KeyFetchError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        // The client may hang up in the middle of what it does not want.
        let _ = connection.write_all(&response);
    });
    let result = HttpKeys::new(address).fetch().await;
    server.join().unwrap();
    result
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Keys are a JWK set of bearable size, from an answer of 200. A redirection is not followed: it could lead anywhere.
#[tokio::test]
async fn only_a_key_set_is_taken_for_keys() {
    let set = json!({"keys": [rsa_jwk("rsa"), {"kty": "AKP", "kid": "of tomorrow"}]}).to_string();
    let keys = served(answer("200 OK", &set)).await.unwrap();
    assert!(keys.get("rsa").is_some() && keys.get("of tomorrow").is_none());

    let padded = |length: usize| format!("{set}{}", " ".repeat(length - set.len()));
    assert!(served(answer("200 OK", &padded(150_000))).await.is_ok());
    let redirection = b"HTTP/1.1 302 Found\r\nlocation: /keys\r\ncontent-length: 0\r\n\r\n".to_vec();
    for (response, expected) in [
        (answer("200 OK", &padded(150_001)), "could not be fetched"),
        (answer("200 OK", ""), "no JWK set"),
        (answer("200 OK", "<html>"), "no JWK set"),
        (answer("200 OK", "{}"), "no JWK set"),
        (answer("200 OK", "[]"), "no JWK set"),
        (answer("200 OK", r#"{"keys":{}}"#), "no JWK set"),
        (answer("200 OK", &set.replace("{\"keys\"", "{\"keys\":[],\"keys\"")), "twice"),
        (answer("200 OK", &set.replace("\"alg\":", "\"kid\":\"other\",\"alg\":")), "twice"),
        (answer("404 Not Found", &set), "answered 404"),
        (answer("500 Internal Server Error", &set), "answered 500"),
        (answer("204 No Content", ""), "answered 204"),
        (redirection, "answered 302"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{".to_vec(), "could not be fetched"),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), "could not be fetched"),
    ] {
        let error = served(response).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// Promise: a key that the issuer replaces under its old id is believed once the keys are fetched again, and the one before it no more. A bad
/// signature makes nobody ask for keys: whoever invents signatures could have the issuer asked for each.
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

/// Promise: an address that begins to answer and never ends does not hold a request up for ever.
#[tokio::test(start_paused = true)]
async fn an_answer_without_end_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
    let serving = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(connection.read_u8().await.unwrap());
        }
        let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"keys\":[";
        connection.write_all(begin).await.unwrap();
        std::future::pending::<()>().await;
    };
    let keys = HttpKeys::new(address);
    let error = tokio::select! {
        () = serving => unreachable!("it serves without end"),
        result = keys.fetch() => result.expect_err("nothing is complete"),
    };
    assert!(matches!(error, KeyFetchError::Timeout), "{error}");
}

/// An address that takes the connection and says nothing does not hold a request up for ever.
#[tokio::test(start_paused = true)]
async fn a_silent_address_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
    let error = HttpKeys::new(address).fetch().await.expect_err("nobody has answered");
    assert!(matches!(error, KeyFetchError::Timeout), "{error}");
}
