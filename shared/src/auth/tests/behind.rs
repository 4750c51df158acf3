//! What is made of a token that API Gateway's authorizer has checked: it is read here as strictly
//! as any other, but for its signature, and it has to be the one that the authorizer tells of.

use super::*;

const HEADER: &str = r#"{"alg":"RS256","kid":"rsa"}"#;

/// What becomes of a token that the authorizer took for one of these claims.
async fn check(token: &str, claims: &Value) -> String {
    let world = World::new();
    let came = outcome(&world.behind(token, &told(claims)).await);
    assert_eq!(world.fetches(), 0, "the signature is the authorizer's business");
    came
}

/// Promise: whatever the authorizer does not look at is looked at here: what the token says that it
/// is, critical parameters, a name that stands twice, its form. None of that costs a look at the
/// issuer's keys.
#[tokio::test]
async fn a_checked_token_is_read_strictly() {
    let good = claims(json!({}));
    let with_header = |header: Value| token(&header, &good, |_| b"any".to_vec());
    assert_eq!(
        check(&with_header(json!({"alg": "RS256", "kid": "any", "typ": "at+jwt"})), &good).await,
        "acme by alice"
    );
    for typ in ["dpop+jwt", "logout+jwt", "secevent+jwt", "id+jwt", "JOSE", ""] {
        let came = check(&with_header(json!({"alg": "RS256", "kid": "rsa", "typ": typ})), &good).await;
        assert_eq!(came, "invalid: the token's typ or cty says that it is something else", "{typ}");
    }
    for (header, expected) in [
        (json!({"alg": "RS256", "kid": "rsa", "cty": "JWT"}), "the token's typ or cty says that it is something else"),
        (json!({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}), "the token has critical header parameters"),
        (json!({"alg": "none", "kid": "rsa"}), "the token's algorithm is not its key's"),
        (json!({"alg": "HS256", "kid": "rsa"}), "the token's algorithm is not its key's"),
        (json!({"alg": "RS256"}), "the token's key is not among the issuer's"),
    ] {
        assert_eq!(check(&with_header(header.clone()), &good).await, format!("invalid: {expected}"), "{header}");
    }
    let text = good.to_string();
    let inner = text.trim_start_matches('{').trim_end_matches('}');
    for twice in [
        // The authorizer takes the last one.
        format!(r#"{{"custom:tenantId":"globex",{inner}}}"#),
        format!(r#"{{{inner},"custom:tenantId":"acme"}}"#),
        format!(r#"{{"scope":"config/write",{inner}}}"#),
        format!(r#"{{"address":{{"city":"a","city":"b"}},{inner}}}"#),
        format!("{text} x"),
    ] {
        let came = check(&token_of(HEADER, &twice, sign_rsa), &good).await;
        assert_eq!(came, "invalid: the token's claims is malformed", "{twice}");
    }
    let twice = r#"{"alg":"RS256","kid":"rsa","typ":"id+jwt","typ":"JWT"}"#;
    assert_eq!(check(&token_of(twice, &text, sign_rsa), &good).await, "invalid: the token's header is malformed");
    assert_eq!(check("not.a.token", &good).await, "invalid: the token's header is malformed");
    for (changes, expected) in [
        (json!({"exp": "4000000000"}), "the token's exp is missing or no time"),
        (json!({"exp": null}), "the token's exp is missing or no time"),
        (json!({"iat": true}), "the token's iat is missing or no time"),
        (json!({"nbf": "1"}), "the token's nbf is missing or no time"),
    ] {
        let odd = claims(changes);
        assert_eq!(check(&rs256(&odd), &odd).await, format!("invalid: {expected}"), "{odd}");
    }
}

/// Promise: a token that says something else than the authorizer told, in any claim that anything
/// here goes by, is not the one that was checked.
#[tokio::test]
async fn a_token_that_differs_from_its_claims_is_refused() {
    let good = claims(json!({}));
    for (changes, name) in [
        (json!({"custom:tenantId": "globex"}), "custom:tenantId"),
        (json!({"custom:tenantId": 7}), "custom:tenantId"),
        (json!({"custom:tenantId": ["globex"]}), "custom:tenantId"),
        (json!({"custom:tenantId": null}), "custom:tenantId"),
        (json!({"scope": "openid config/read config/write"}), "scope"),
        (json!({"scope": "config/write"}), "scope"),
        (json!({"scope": null}), "scope"),
        (json!({"scp": "config/write"}), "scp"),
        (json!({"sub": "bob"}), "sub"),
        (json!({"sub": true}), "sub"),
        (json!({"client_id": "other"}), "client_id"),
        (json!({"iss": "https://evil.example"}), "iss"),
        (json!({"token_use": null}), "token_use"),
        (json!({"exp": NOW + 601}), "exp"),
    ] {
        let came = check(&rs256(&claims(changes.clone())), &good).await;
        let expected =
            format!("invalid: the token says something else in {name:?} than the authorizer's claims beside it");
        assert_eq!(came, expected, "{changes}");
    }
    // What was told as "acme" may have been the text or a list of one. The token says which.
    let came = check(&rs256(&claims(json!({"custom:tenantId": ["acme"]}))), &good).await;
    assert_eq!(came, "no tenant: is neither text nor a whole number in digits");
    // What nobody goes by may differ.
    let came = check(&rs256(&claims(json!({"jti": "1", "aud": "our-client"}))), &claims(json!({"jti": "2"}))).await;
    assert_eq!(came, "acme by alice");
}

/// API Gateway writes all claims as text, and does not say how. Numbers and lists are recognised in
/// each spelling that was seen.
#[tokio::test]
async fn claims_are_recognised_as_they_are_told() {
    let world = World::new();
    let token = rs256(&claims(json!({"scope": ["openid", "config/read"], "exp": 1_795_227_000})));
    for exp in ["1795227000", "1.795227e+09", "1795227000.0"] {
        for scope in
            ["[openid config/read]", "openid config/read", r#"["openid","config/read"]"#, "[openid, config/read]"]
        {
            let mut claims = told(&claims(json!({"scope": scope})));
            claims.insert("exp".to_owned(), exp.to_owned());
            assert_eq!(outcome(&world.behind(&token, &claims).await), "acme by alice", "{exp} {scope}");
        }
    }
    for scope in ["[config/read openid]", "[openid]", "[openid config/read config/write]", "[]", ""] {
        let claims = told(&claims(json!({"scope": scope, "exp": 1_795_227_000})));
        assert!(world.behind(&token, &claims).await.is_err(), "{scope}");
    }
}

/// Promise: a token that comes again says the same as before, and what is told beside it is
/// compared each time; another token speaks for itself.
#[tokio::test]
async fn a_token_that_comes_again_is_compared_again() {
    let world = World::new();
    let (acme, globex) = (claims(json!({})), claims(json!({"custom:tenantId": "globex"})));
    let header = json!({"alg": "RS256", "kid": "any"});
    let [of_acme, of_globex] = [&acme, &globex].map(|claims| token(&header, claims, |_| b"any".to_vec()));
    let differs =
        "invalid: the token says something else in \"custom:tenantId\" than the authorizer's claims beside it";
    for (token, told_claims, expected) in [
        (&of_acme, &acme, "acme by alice"),
        (&of_acme, &acme, "acme by alice"),
        (&of_acme, &globex, differs),
        (&of_globex, &globex, "globex by alice"),
        (&of_globex, &acme, differs),
        (&of_acme, &acme, "acme by alice"),
    ] {
        assert_eq!(outcome(&world.behind(token, &told(told_claims)).await), expected);
    }
}
