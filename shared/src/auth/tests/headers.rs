//! What a token's header may say, and what form a token has.

use super::*;

const GOOD: &str = "acme by alice";
const UNKNOWN: &str = "invalid: the token's key is not among the issuer's";

async fn check(token: &str) -> String {
    outcome(&World::new().bearer(token).await)
}

/// What becomes of a good token whose header has this member besides.
async fn check_member(name: &str, value: Value) -> String {
    let mut header = json!({"alg": "RS256", "kid": "rsa"});
    header[name] = value;
    check(&token(&header, &claims(json!({})), sign_rsa)).await
}

/// Promise: a token that calls itself something else than a JWT, or holds another one, is none of
/// ours (RFC 8725, 3.11).
#[tokio::test]
async fn a_token_of_another_type_is_refused() {
    const REFUSED: &str = "invalid: the token's typ or cty says that it is something else";
    for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/jwt", "application/at+jwt", "Application/AT+JWT"] {
        assert_eq!(check_member("typ", json!(typ)).await, GOOD, "{typ}");
    }
    for typ in [
        json!("secevent+jwt"),
        json!("id+jwt"),
        json!("logout+jwt"),
        json!("dpop+jwt"),
        json!("JOSE"),
        json!("at+jwtx"),
        json!("application/application/jwt"),
        json!("text/jwt"),
        json!(""),
        json!(null),
        json!(["JWT"]),
        json!(7),
    ] {
        assert_eq!(check_member("typ", typ.clone()).await, REFUSED, "{typ}");
    }
    for cty in [json!("JWT"), json!("jwt"), json!("json"), json!(null)] {
        assert_eq!(check_member("cty", cty.clone()).await, REFUSED, "{cty}");
    }
    let good = rs256(&claims(json!({})));
    let nested = token_of(r#"{"alg":"RS256","kid":"rsa"}"#, &good, sign_rsa);
    assert_eq!(check(&nested).await, "invalid: the token's claims is malformed");
}

/// Promise: what says "refuse me unless you understand this" is refused, and so is a payload that
/// is not encoded (RFC 7797).
#[tokio::test]
async fn critical_parameters_are_refused() {
    for (name, value) in [
        ("crit", json!(["b64"])),
        ("crit", json!(["exp"])),
        ("crit", json!(["made-up"])),
        ("crit", json!([])),
        ("crit", json!("b64")),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("b64", json!(true)),
    ] {
        let outcome = check_member(name, value.clone()).await;
        assert_eq!(outcome, "invalid: the token has critical header parameters", "{name}: {value}");
    }
}

/// Promise: what a header offers to find a key by is not looked at, neither for good nor for bad,
/// whatever its form; the issuer's key with the token's id decides, and nobody is called but the
/// issuer.
#[tokio::test]
async fn keys_come_from_the_issuer_alone() {
    let attacker = ec_key();
    let offers = [
        ("jku", json!("https://evil.example/keys")),
        ("jku", json!(7)),
        ("x5u", json!("https://evil.example/certificate")),
        ("x5u", json!(["file:///etc/passwd"])),
        ("jwk", ec_jwk(&attacker, "ec")),
        ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ("jwk", json!("no key at all")),
        ("x5c", json!(["AAAA"])),
        ("x5c", json!({"not": "a list"})),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!([])),
        ("made-up", json!({"deep": [1, 2]})),
    ];
    for (name, value) in offers {
        assert_eq!(check_member(name, value.clone()).await, GOOD, "{name}: {value}");
        let mut header = json!({"alg": "ES256", "kid": "ec"});
        header[name] = value.clone();
        let forged = token(&header, &claims(json!({})), |message| sign_ec(&attacker, message));
        assert_eq!(check(&forged).await, "invalid: the token's signature is not its key's", "{name}: {value}");
    }
}

/// Promise: a key's id is looked up as it is and nothing else: one that looks like a path, a query
/// or an address, and one of any length, is an unknown id, which costs the issuer what every
/// unknown id does.
#[tokio::test]
async fn an_id_is_looked_up_and_nothing_else() {
    let world = World::new();
    let long = "k".repeat(2_500);
    for id in [
        "",
        " rsa",
        "RSA",
        "rsa\0",
        "../rsa",
        "../../../../dev/null",
        "/etc/passwd",
        "rsa' OR '1'='1",
        "'; DROP TABLE keys; --",
        "https://evil.example/rsa",
        "$(id)",
        "|id",
        "%72sa",
        "\u{202e}asr",
        long.as_str(),
    ] {
        let by_rsa = token(&json!({"alg": "RS256", "kid": id}), &claims(json!({})), sign_rsa);
        assert_eq!(outcome(&world.bearer(&by_rsa).await), UNKNOWN, "{id:?}");
        assert_eq!(world.fetches(), 1, "{id:?}");
    }
    for odd in [json!(null), json!(7), json!(["rsa"]), json!({"rsa": true})] {
        assert_eq!(check_member("kid", odd.clone()).await, UNKNOWN, "{odd}");
    }
    let nameless = token(&json!({"alg": "RS256"}), &claims(json!({})), sign_rsa);
    assert_eq!(check(&nameless).await, UNKNOWN);
}

/// Promise: where a name stands twice, in the header or in the claims or inside of one, two readers
/// may read two tokens; so nobody does (RFC 8725, 3.10 and 2.4). The same name in two spellings of
/// JSON is the same name.
#[tokio::test]
async fn a_name_that_stands_twice_is_refused() {
    const HEADER: &str = r#"{"alg":"RS256","kid":"rsa"}"#;
    let good = claims(json!({})).to_string();
    let with = |first: &str, last: &str| {
        let inner = good.trim_start_matches('{').trim_end_matches('}');
        format!("{{{first}{inner}{last}}}")
    };
    for claims in [
        with(r#""custom:tenantId":"globex","#, ""),
        with("", r#","custom:tenantId":"globex""#),
        with("", r#","custom:tenantId":"acme""#),
        with("", r#","custom\u003atenantId":"globex""#),
        with(r#""exp":9999999999,"#, ""),
        with("", r#","scope":"config/write""#),
        with("", r#","address":{"city":"a","city":"b"}"#),
        with("", r#","list":[{"a":1,"a":2}]"#),
    ] {
        let outcome = check(&token_of(HEADER, &claims, sign_rsa)).await;
        assert_eq!(outcome, "invalid: the token's claims is malformed", "{claims}");
    }
    for header in [
        r#"{"alg":"none","alg":"RS256","kid":"rsa"}"#,
        r#"{"alg":"RS256","kid":"rsa","alg":"none"}"#,
        r#"{"alg":"RS256","kid":"made-up","kid":"rsa"}"#,
        r#"{"alg":"RS256","kid":"rsa","\u006bid":"rsa"}"#,
        r#"{"alg":"RS256","kid":"rsa","jwk":{"k":1,"k":2}}"#,
    ] {
        let outcome = check(&token_of(header, &good, sign_rsa)).await;
        assert_eq!(outcome, "invalid: the token's header is malformed", "{header}");
    }
    // The same text, without the double.
    assert_eq!(check(&token_of(HEADER, &good, sign_rsa)).await, GOOD);
}

/// Promise: header and claims are JSON objects in UTF-8, in base64url in its one spelling, and a
/// token has three parts.
#[tokio::test]
async fn a_token_has_one_form() {
    const HEADER: &str = r#"{"alg":"RS256","kid":"rsa"}"#;
    let good = claims(json!({})).to_string();
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    for header in ["", "[]", "null", "7", "\"RS256\"", "{", "{} {}", "{\"alg\":\"RS256\"} x", deep.as_str()] {
        let outcome = check(&token_of(header, &good, sign_rsa)).await;
        assert_eq!(outcome, "invalid: the token's header is malformed", "{header}");
    }
    for claims in ["", "[]", "null", "7", "\"acme\"", "{", "{} {}", deep.as_str()] {
        let outcome = check(&token_of(HEADER, claims, sign_rsa)).await;
        assert_eq!(outcome, "invalid: the token's claims is malformed", "{claims}");
    }
    let not_utf8 = [b"{\"custom:tenantId\":\"acme", &[0xff][..], b"\"}"].concat();
    assert_eq!(check(&token_of(HEADER, not_utf8, sign_rsa)).await, "invalid: the token's claims is malformed");

    let token = rs256(&claims(json!({})));
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    // One of the spare bits of the last character: the same bytes to a lenient reader.
    let respelt = |part: &str| {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let last = ALPHABET.iter().position(|one| Some(one) == part.as_bytes().last()).unwrap();
        format!("{}{}", &part[..part.len() - 1], char::from(ALPHABET[last + 1]))
    };
    assert!(signature.len() % 4 != 0, "the signature's last character has spare bits");
    for (bad, expected) in [
        (header.to_owned(), "form"),
        (format!("{header}.{payload}"), "form"),
        (format!("{token}."), "form"),
        (format!("{token}.{signature}"), "form"),
        (format!("{header}.{payload}.{signature}.{signature}.{signature}"), "form"),
        ("....".to_owned(), "form"),
        ("..".to_owned(), "header"),
        (format!(".{payload}.{signature}"), "header"),
        (format!("{header}=.{payload}.{signature}"), "header"),
        (format!("{header} .{payload}.{signature}"), "header"),
        (format!("{}.{payload}.{signature}", header.replace('e', "+")), "header"),
    ] {
        assert_eq!(check(&bad).await, format!("invalid: the token's {expected} is malformed"), "{bad:.60}");
    }
    for bad in [
        format!("{header}.{payload}.{}", respelt(signature)),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}=.{signature}"),
        format!("{header}.{payload}."),
    ] {
        assert_eq!(check(&bad).await, "invalid: the token's signature is not its key's", "{bad:.60}");
    }
}
