//! Which bearer tokens are believed.

use aws_lc_rs::{
    hmac,
    signature::{RSA_PKCS1_SHA512, RSA_PSS_SHA256},
};
use proptest::prelude::*;

use super::*;

/// What becomes of a token, by a world that has done nothing before.
async fn check(token: &str) -> String {
    outcome(&World::new().bearer(token).await)
}

async fn check_claims(changes: Value) -> String {
    check(&rs256(&claims(changes))).await
}

/// Both algorithms that identity providers sign with are taken, each with its own kind of key.
#[tokio::test]
async fn rs256_and_es256_tokens_are_believed() {
    let es256 = token(&json!({"alg": "ES256", "kid": "ec"}), &claims(json!({})), |message| sign_ec(&EC, message));
    assert_eq!(check(&es256).await, "acme by alice");
    assert_eq!(check_claims(json!({})).await, "acme by alice");
}

/// A signature is of this very message, by a key of the issuer's.
#[tokio::test]
async fn what_the_issuer_did_not_sign_is_refused() {
    let good = rs256(&claims(json!({})));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let other = base64(claims(json!({"custom:tenantId": "globex"})).to_string());
    let foreign = ec_key();
    let stranger =
        token(&json!({"alg": "ES256", "kid": "ec"}), &claims(json!({})), |message| sign_ec(&foreign, message));
    for bad in [
        format!("{header}.{other}.{signature}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}"),
        format!("{header}.{payload}.{}", base64([0; 256])),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        stranger,
        "..".to_owned(),
        "a.b.c".to_owned(),
    ] {
        let outcome = check(&bad).await;
        assert!(outcome.starts_with("invalid: "), "{bad:.60}: {outcome}");
    }
}

/// The key decides the algorithm, never the token (RFC 8725, 3.1): each row is a way to have one's
/// own signature believed.
#[tokio::test]
async fn the_token_does_not_choose_its_algorithm() {
    let claims = claims(json!({}));
    let public = RSA.public_key();
    let jwk = rsa_jwk("rsa");
    let ec_point = EC.public_key().as_ref();
    let hs256 = |kid: &str, secret: &[u8]| {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        token(&json!({"alg": "HS256", "kid": kid}), &claims, |message| hmac::sign(&secret, message).as_ref().to_vec())
    };
    let attacker = ec_key();
    let with_key =
        json!({"alg": "ES256", "kid": "ec", "jwk": ec_jwk(&attacker, "ec"), "jku": "https://evil.example/keys"});
    for (name, bad) in [
        ("HS256 by the public key's DER", hs256("rsa", public.as_ref())),
        ("HS256 by its modulus", hs256("rsa", public.modulus().big_endian_without_leading_zero())),
        ("HS256 by its modulus as text", hs256("rsa", jwk["n"].as_str().unwrap().as_bytes())),
        ("HS256 by the JWK", hs256("rsa", jwk.to_string().as_bytes())),
        ("HS256 by the EC point", hs256("ec", ec_point)),
        ("HS256 by nothing", hs256("rsa", b"")),
        ("none", token(&json!({"alg": "none", "kid": "rsa"}), &claims, |_| Vec::new())),
        ("None", token(&json!({"alg": "None", "kid": "rsa"}), &claims, |_| Vec::new())),
        ("nOnE", token(&json!({"alg": "nOnE", "kid": "rsa"}), &claims, |_| Vec::new())),
        ("NONE with a signature", token(&json!({"alg": "NONE", "kid": "rsa"}), &claims, sign_rsa)),
        ("none in a space", token(&json!({"alg": " none", "kid": "rsa"}), &claims, sign_rsa)),
        ("nothing as its name", token(&json!({"alg": "", "kid": "rsa"}), &claims, sign_rsa)),
        ("null", token(&json!({"alg": null, "kid": "rsa"}), &claims, sign_rsa)),
        ("a list", token(&json!({"alg": ["RS256"], "kid": "rsa"}), &claims, sign_rsa)),
        ("another spelling of the right one", token(&json!({"alg": "rs256", "kid": "rsa"}), &claims, sign_rsa)),
        ("no algorithm", token(&json!({"kid": "rsa"}), &claims, sign_rsa)),
        ("RS256 by an EC key", token(&json!({"alg": "RS256", "kid": "ec"}), &claims, sign_rsa)),
        (
            "ES256 by an RSA key",
            token(&json!({"alg": "ES256", "kid": "rsa"}), &claims, |message| sign_ec(&EC, message)),
        ),
        (
            "RS512 by our RSA key",
            token(&json!({"alg": "RS512", "kid": "rsa"}), &claims, |m| sign_as(&RSA_PKCS1_SHA512, m)),
        ),
        (
            "PS256 by our RSA key",
            token(&json!({"alg": "PS256", "kid": "rsa"}), &claims, |m| sign_as(&RSA_PSS_SHA256, m)),
        ),
        ("a key in the token", token(&with_key, &claims, |message| sign_ec(&attacker, message))),
    ] {
        let outcome = check(&bad).await;
        let expected = if name == "a key in the token" { "signature" } else { "algorithm" };
        assert_eq!(outcome, format!("invalid: the token's {expected} is not its key's"), "{name}");
    }
}

/// A token counts from its beginning to its end by our own clock, give or take ten seconds. Its end
/// must be there, and both must be numbers: what one reader takes for no limit, another may take
/// for one.
#[tokio::test]
async fn a_token_counts_from_its_beginning_to_its_end() {
    const GOOD: &str = "acme by alice";
    const EXPIRED: &str = "invalid: the token has expired";
    const EARLY: &str = "invalid: the token is not valid yet";
    const NO_END: &str = "invalid: the token's exp is missing or no time";
    const NO_BEGINNING: &str = "invalid: the token's nbf is missing or no time";
    const NO_ISSUE: &str = "invalid: the token's iat is missing or no time";
    for (changes, expected) in [
        (json!({"exp": NOW + 1}), GOOD),
        (json!({"exp": NOW - 9}), GOOD),
        (json!({"exp": NOW - 10}), EXPIRED),
        (json!({"exp": NOW - 9, "nbf": NOW - 3600}), GOOD),
        (json!({"exp": NOW - 3600}), EXPIRED),
        (json!({"exp": 0}), EXPIRED),
        (json!({"exp": 1.5e9}), EXPIRED),
        (json!({"exp": 1_795_226_400.5}), GOOD),
        (json!({"exp": u64::MAX / 2}), GOOD),
        (json!({"exp": null}), NO_END),
        (json!({"exp": (NOW + 600).to_string()}), NO_END),
        (json!({"exp": true}), NO_END),
        (json!({"exp": -1}), NO_END),
        (json!({"exp": 1e300}), NO_END),
        (json!({"exp": -1e300}), NO_END),
        (json!({"exp": -0.5}), NO_END),
        (json!({"exp": ""}), NO_END),
        (json!({"nbf": NOW}), GOOD),
        (json!({"nbf": NOW + 10}), GOOD),
        (json!({"nbf": NOW + 11}), EARLY),
        (json!({"nbf": u64::MAX / 2}), EARLY),
        (json!({"nbf": "0"}), NO_BEGINNING),
        (json!({"nbf": false}), NO_BEGINNING),
        (json!({"nbf": -1}), NO_BEGINNING),
        (json!({"iat": null}), GOOD),
        (json!({"iat": 0}), GOOD),
        (json!({"iat": NOW}), GOOD),
        (json!({"iat": NOW + 10}), GOOD),
        (json!({"iat": NOW + 11}), EARLY),
        (json!({"iat": u64::MAX / 2}), EARLY),
        (json!({"iat": NOW.to_string()}), NO_ISSUE),
        (json!({"iat": true}), NO_ISSUE),
        (json!({"iat": -1}), NO_ISSUE),
        (json!({"iat": u64::MAX}), NO_ISSUE),
        (json!({"iat": 1e300}), NO_ISSUE),
    ] {
        assert_eq!(check_claims(changes.clone()).await, expected, "{changes}");
    }
    for name in ["exp", "nbf", "iat"] {
        for odd in [json!([NOW + 600]), json!({}), json!(null)] {
            // `null` as it stands: `claims` would take the claim away.
            let mut claims = claims(json!({}));
            claims[name] = odd;
            let outcome = check(&rs256(&claims)).await;
            assert_eq!(outcome, format!("invalid: the token's {name} is missing or no time"), "{claims}");
        }
    }
    // What is no JSON number at all, or none that a double holds.
    for text in ["NaN", "Infinity", "-Infinity", "1e400", "0x10", "01", "+1", ""] {
        let claims = claims(json!({"exp": 4_242_424_242_u64})).to_string().replace("4242424242", text);
        let outcome = check(&token_of(r#"{"alg":"RS256","kid":"rsa"}"#, &claims, sign_rsa)).await;
        assert_eq!(outcome, "invalid: the token's claims is malformed", "{text}");
    }
}

/// Time passes for a token on the injected clock alone, and a token that was good once is not good
/// for ever.
#[tokio::test]
async fn a_token_ends_while_its_key_stays_known() {
    let world = World::new();
    let token = rs256(&claims(json!({"exp": NOW + 60})));
    for (wait_millis, expected) in
        [(0, "acme by alice"), (69_999, "acme by alice"), (1, "invalid: the token has expired")]
    {
        world.wait(wait_millis);
        assert_eq!(outcome(&world.bearer(&token).await), expected);
    }
}

/// Only our issuer's tokens count, by its exact name.
#[tokio::test]
async fn tokens_of_another_issuer_are_refused() {
    for issuer in [
        json!(null),
        json!(""),
        json!("https://issuer.example/pool/"),
        json!("https://issuer.example/poo"),
        json!("HTTPS://issuer.example/pool"),
        json!(["https://issuer.example/pool"]),
        json!(["https://evil.example", "https://issuer.example/pool"]),
        json!(7),
    ] {
        let outcome = check_claims(json!({"iss": issuer.clone()})).await;
        assert_eq!(outcome, "invalid: the token is from another issuer", "{issuer}");
    }
}

/// `aud` must hold one of our audiences, as text or in a list; `client_id` stands in only where
/// there is no `aud` at all.
#[tokio::test]
async fn tokens_for_another_audience_are_refused() {
    const GOOD: &str = "acme by alice";
    const REFUSED: &str = "invalid: the token is for another audience";
    for (changes, expected) in [
        (json!({"aud": "our-client"}), GOOD),
        (json!({"aud": "https://api.example"}), GOOD),
        (json!({"aud": ["other", "our-client"]}), GOOD),
        (json!({"aud": "our-client", "client_id": "other"}), GOOD),
        (json!({"client_id": "our-client"}), GOOD),
        (json!({"client_id": "other"}), REFUSED),
        (json!({"client_id": null}), REFUSED),
        (json!({"client_id": ["our-client"]}), REFUSED),
        (json!({"aud": "other"}), REFUSED),
        (json!({"aud": "our-clientx"}), REFUSED),
        (json!({"aud": "our-client other"}), REFUSED),
        (json!({"aud": ["other"]}), REFUSED),
        (json!({"aud": []}), REFUSED),
        (json!({"aud": ""}), REFUSED),
        (json!({"aud": [["our-client"]]}), REFUSED),
        (json!({"aud": {"our-client": true}}), REFUSED),
        (json!({"aud": 7}), REFUSED),
    ] {
        assert_eq!(check_claims(changes.clone()).await, expected, "{changes}");
    }
    let mut null = claims(json!({}));
    null["aud"] = Value::Null;
    assert_eq!(check(&rs256(&null)).await, REFUSED);
}

/// What is longer than any real token is refused before anything looks into it.
#[tokio::test]
async fn oversized_tokens_are_refused_unread() {
    let world = World::new();
    let sized = |filling: usize| rs256(&claims(json!({"filling": "x".repeat(filling)})));
    // Base64 makes four characters of three bytes: this many bring the token to its limit, and
    // three more beyond it.
    let filling = (8 * 1024 - sized(0).len()) / 4 * 3;
    let (fits, too_long) = (sized(filling), sized(filling + 4));
    assert!((8 * 1024 - 3..=8 * 1024).contains(&fits.len()) && too_long.len() > 8 * 1024);
    let refused = "invalid: the token is longer than 8192 bytes, or its header than 4096";
    assert_eq!(outcome(&world.bearer(&too_long).await), refused);
    let with_header = |filling: usize| {
        token(&json!({"alg": "RS256", "kid": "rsa", "x5c": ["x".repeat(filling)]}), &claims(json!({})), sign_rsa)
    };
    let filling = 4 * 1024 / 4 * 3 - r#"{"alg":"RS256","kid":"rsa","x5c":[""]}"#.len();
    assert_eq!(outcome(&world.bearer(&with_header(filling + 1)).await), refused);
    assert_eq!(world.fetches(), 0);
    assert_eq!(outcome(&world.bearer(&fits).await), "acme by alice");
    assert_eq!(outcome(&world.bearer(&with_header(filling)).await), "acme by alice");
}

proptest! {
    /// No header makes the checks panic, and nothing but a signature opens the door.
    #[test]
    fn noise_is_no_token(noise in "(Bearer )?(\\PC{0,60}|[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,4})", json in "\\PC{0,40}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = World::new();
        for header in [noise, format!("Bearer {}.{}.{}", base64(&json), base64(&json), base64(&json))] {
            let result = runtime.block_on(world.authenticator.authenticate(Presented::Authorization(&header)));
            prop_assert!(matches!(result, Err(AuthError::NoToken | AuthError::NoBearer | AuthError::InvalidToken(_))));
        }
    }
}
