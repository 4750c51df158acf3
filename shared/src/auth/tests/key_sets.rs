//! Which of an issuer's published keys tokens are verified with.

use aws_lc_rs::hmac;

use super::*;

/// Promise: only what the issuer publishes as a key for RS256 or ES256 signatures is one; what else
/// is in its set does no harm, and one that is not public verifies nothing: whoever can read the
/// set can sign with it.
#[tokio::test]
async fn only_signing_keys_verify() {
    let (rsa, ec) = (rsa_jwk("key"), ec_jwk(&EC, "key"));
    let secret = json!({"kty": "oct", "kid": "key", "k": base64([7; 32]), "alg": "HS256"});
    let by_secret = token(&json!({"alg": "HS256", "kid": "key"}), &claims(json!({})), |message| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]), message).as_ref().to_vec()
    });
    let with = |jwk: &Value, member: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[member] = value;
        jwk
    };
    let by = |alg: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        token(&json!({"alg": alg, "kid": "key"}), &claims(json!({})), |message| sign(message))
    };
    let by_rsa = by("RS256", &sign_rsa);
    let by_ec = by("ES256", &|message| sign_ec(&EC, message));
    let without = |member: &str| {
        let mut jwk = rsa.clone();
        jwk.as_object_mut().unwrap().remove(member);
        jwk
    };
    for (name, jwk, token, believed) in [
        ("as published", rsa.clone(), &by_rsa, true),
        ("without alg", without("alg"), &by_rsa, true),
        ("without use", without("use"), &by_rsa, true),
        ("for encryption", with(&rsa, "use", json!("enc")), &by_rsa, false),
        ("for an unheard-of use", with(&rsa, "use", json!("SIG")), &by_rsa, false),
        ("to verify with", with(&rsa, "key_ops", json!(["verify"])), &by_rsa, true),
        ("to verify with, and more", with(&rsa, "key_ops", json!(["encrypt", "verify"])), &by_rsa, true),
        ("to encrypt with", with(&rsa, "key_ops", json!(["encrypt", "wrapKey"])), &by_rsa, false),
        ("to sign with", with(&rsa, "key_ops", json!(["sign"])), &by_rsa, false),
        ("to do nothing with", with(&rsa, "key_ops", json!([])), &by_rsa, false),
        ("with operations of another form", with(&rsa, "key_ops", json!("verify")), &by_rsa, false),
        ("with its private exponent", with(&rsa, "d", json!("AQAB")), &by_rsa, false),
        ("with a prime", with(&rsa, "p", json!("AQAB")), &by_rsa, false),
        ("with its private scalar", with(&ec, "d", json!("AQAB")), &by_ec, false),
        ("with a secret beside it", with(&rsa, "k", json!("AQAB")), &by_rsa, false),
        ("with a modulus that is no base64url", with(&rsa, "n", json!("+/+/")), &by_rsa, false),
        ("without a modulus", without("n"), &by_rsa, false),
        ("that is a text", json!("rsa"), &by_rsa, false),
        ("that is null", json!(null), &by_rsa, false),
        ("for another algorithm", with(&rsa, "alg", json!("RS512")), &by_rsa, false),
        ("for encryption by its algorithm", with(&rsa, "alg", json!("RSA-OAEP")), &by_rsa, false),
        ("for an unheard-of algorithm", with(&rsa, "alg", json!("RS256x")), &by_rsa, false),
        ("without an id", without("kid"), &by_rsa, false),
        ("of another curve", with(&ec, "crv", json!("P-384")), &by_ec, false),
        ("of an unheard-of curve", with(&ec, "crv", json!("P-257")), &by_ec, false),
        ("of an unheard-of type", with(&rsa, "kty", json!("AKP")), &by_rsa, false),
        ("a shared secret", secret, &by_secret, false),
    ] {
        let world = World::new();
        world.keys.published.lock().unwrap().insert(0, jwk);
        let result = world.bearer(token).await;
        assert_eq!(outcome(&result) == "acme by alice", believed, "{name}: {}", outcome(&result));
        // The others in the set are not lost by it.
        assert_eq!(outcome(&world.bearer(&rs256(&claims(json!({})))).await), "acme by alice", "{name}");
    }
}

/// Promise: an RSA key of less than 2048 bits verifies nothing, whoever publishes it, and however
/// many zeros stand before it.
#[tokio::test]
async fn weak_rsa_keys_are_refused() {
    let zeros = |modulus: &[u8]| [vec![0; 256 - modulus.len()], modulus.to_vec()].concat();
    let (bits_1024, bits_2047) = ([0xff; 128], [vec![0x7f], vec![0xff; 255]].concat());
    for (name, modulus, is_known) in [
        ("1024", bits_1024.to_vec(), false),
        ("1024, behind zeros", zeros(&bits_1024), false),
        ("2047", bits_2047, false),
        ("2048", vec![0xff; 256], true),
        ("none", vec![], false),
        ("zeros only", vec![0; 256], false),
    ] {
        let world = World::new();
        let mut key = rsa_jwk("key");
        key["n"] = json!(base64(&modulus));
        world.keys.published.lock().unwrap().push(key);
        let by_key = token(&json!({"alg": "RS256", "kid": "key"}), &claims(json!({})), |_| vec![1; modulus.len()]);
        let expected = if is_known {
            "invalid: the token's signature is not its key's"
        } else {
            "invalid: the token's key is not among the issuer's"
        };
        assert_eq!(outcome(&world.bearer(&by_key).await), expected, "{name}");
    }
}

/// Promise: an id that means two different keys means none, whatever their order and however many
/// there are; another key keeps serving. The same key twice is one.
#[tokio::test]
async fn an_ambiguous_id_means_no_key() {
    let other = ec_key();
    let (one, two) = (ec_jwk(&EC, "key"), ec_jwk(&other, "key"));
    let rsa = rsa_jwk("key");
    let with_use = |jwk: &Value, name: &str| {
        let mut jwk = jwk.clone();
        jwk["use"] = json!(name);
        jwk
    };
    let token = token(&json!({"alg": "ES256", "kid": "key"}), &claims(json!({})), |message| sign_ec(&EC, message));
    for (name, published, believed) in [
        ("alone", vec![one.clone()], true),
        ("before another", vec![one.clone(), two.clone()], false),
        ("behind another", vec![two.clone(), one.clone()], false),
        ("around another", vec![one.clone(), two.clone(), one.clone()], false),
        ("beside one of another type", vec![one.clone(), rsa], false),
        ("twice", vec![one.clone(), one.clone()], true),
        ("beside one that is for something else", vec![one.clone(), with_use(&two, "enc")], true),
    ] {
        let world = World::new();
        world.keys.published.lock().unwrap().extend(published);
        assert_eq!(outcome(&world.bearer(&token).await) == "acme by alice", believed, "{name}");
        assert_eq!(outcome(&world.bearer(&rs256(&claims(json!({})))).await), "acme by alice", "{name}");
    }
}
