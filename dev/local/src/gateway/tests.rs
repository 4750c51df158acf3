//! The gateway as a client meets it: who gets in, what is too large, and what happens when a
//! function fails.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use crate::{
    gateway::{ApiIdentity, Function, Gateway, JwtAuthorizer, MAX_BODY, MAX_HEAD, MAX_PAYLOAD, Routes},
    issuer::{Issuer, TokenRequest, generate_key},
    template::Route,
};
use axum::body::Body;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use http::Request;
use http_body_util::BodyExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const ISSUER: &str = "http://127.0.0.1:1/_local/issuer";

struct Fixture {
    gateway: Gateway,
    issuer: Issuer,
    key: String,
}

/// Answers with the event it got, or as the path asks for.
fn echo() -> Function {
    Arc::new(|event: Vec<u8>| {
        async move {
            let event: Value = serde_json::from_slice(&event).unwrap();
            match event["pathParameters"]["key"].as_str() {
                Some("panic") => panic!("as asked"),
                Some("fail") => Err("as asked".to_owned()),
                Some("large") => Ok(vec![b' '; MAX_PAYLOAD + 1]),
                Some("garbage") => Ok(b"{".to_vec()),
                Some("status") => Ok(br#"{"statusCode": 1000}"#.to_vec()),
                _ => {
                    let body = event.to_string();
                    let body = if body.len() > 10_000 { "long".to_owned() } else { body };
                    Ok(json!({"statusCode": 200, "body": body}).to_string().into_bytes())
                }
            }
        }
        .boxed()
    })
}

fn fixture() -> Fixture {
    let route = |method: &str, path: &str, scope: Option<&str>| Route {
        method: method.into(),
        path: path.into(),
        function: "echo".into(),
        authorizer: scope.map(|_| "Tokens".into()),
        scopes: scope.into_iter().filter(|scope| !scope.is_empty()).map(str::to_owned).collect(),
    };
    let routes = Routes::new(vec![
        route("GET", "/open/{key+}", None),
        route("PUT", "/open/{key+}", None),
        route("GET", "/read", Some("config/read")),
        route("GET", "/any", Some("")),
    ]);
    let key = generate_key().unwrap();
    let issuer = Issuer::new(ISSUER.into(), &key).unwrap();
    let authorizer =
        JwtAuthorizer::new(|issuer| issuer == ISSUER, vec!["tenantry-local".into()], issuer.jwk()).unwrap();
    let gateway = Gateway::new(
        ApiIdentity { account: "123456789012".into(), api: "local".into() },
        8080,
        routes,
        BTreeMap::from([("Tokens".into(), authorizer)]),
        BTreeMap::from([("echo".into(), echo())]),
    );
    Fixture { gateway, issuer, key }
}

impl Fixture {
    async fn call(&self, request: Request<Body>) -> (u16, Option<String>, String) {
        let client = SocketAddr::from(([127, 0, 0, 1], 50_000));
        let (parts, body) = self.gateway.answer(request, client).await.into_parts();
        assert_eq!(parts.headers["apigw-requestid"].len(), 16);
        let challenge = parts.headers.get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), challenge, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str, authorization: Option<&str>) -> (u16, Option<String>, String) {
        let mut request = Request::get(path);
        if let Some(value) = authorization {
            request = request.header("Authorization", value);
        }
        self.call(request.body(Body::empty()).unwrap()).await
    }

    fn token(&self, claims: &[(&str, &str)]) -> String {
        let claims: Vec<_> = claims.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.issuer
            .token(&TokenRequest {
                tenant: "acme",
                tenant_claim: "custom:tenantId",
                scope: "config/read config/write",
                expires_in: 60,
                claims: &claims,
            })
            .unwrap()
    }

    /// Any claims at all, properly signed.
    fn signed(&self, header: &Value, claims: &Value) -> String {
        let key = EncodingKey::from_rsa_pem(self.key.as_bytes()).unwrap();
        let header: Header = serde_json::from_value(header.clone()).unwrap();
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }

    fn key_id(&self) -> String {
        self.issuer.jwk().common.key_id.clone().unwrap()
    }
}

/// Tokens that the issuer did not sign, or not like this: case, token, reason.
fn forged_tokens(fixture: &Fixture) -> Vec<(&'static str, String, &'static str)> {
    let good = fixture.token(&[]);
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let changed = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap().replace("acme", "evil");
    let altered = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(changed));
    let none = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": fixture.key_id()}).to_string());
    let symmetric = {
        let header = Header { kid: Some(fixture.key_id()), ..Header::new(Algorithm::HS256) };
        let secret = serde_json::to_vec(fixture.issuer.jwk()).unwrap();
        jsonwebtoken::encode(&header, &valid_claims(), &EncodingKey::from_secret(&secret)).unwrap()
    };
    let other = Issuer::new(ISSUER.into(), &generate_key().unwrap()).unwrap();
    let rs512 = json!({"alg": "RS512", "kid": fixture.key_id()});
    vec![
        ("no token", "x".into(), "malformed"),
        ("three parts", "a.b.c".into(), "malformed"),
        ("altered", altered, "signature is invalid"),
        ("cut", good[..good.len() - 4].to_owned(), "invalid_token"),
        ("not signed", format!("{none}.{claims}."), "malformed"),
        ("signed with the public key as a secret", symmetric, "not supported"),
        ("signed by another", other.token(&request(&[])).unwrap(), "unknown key"),
        ("no key id", fixture.signed(&json!({"alg": "RS256"}), &valid_claims()), "unknown key"),
        ("another RSA algorithm", fixture.signed(&rs512, &valid_claims()), "not supported"),
    ]
}

/// Tokens that the issuer signed, but not for this API or not for now: case, token, reason.
fn unfit_tokens(fixture: &Fixture) -> Vec<(&'static str, String, &'static str)> {
    let header = json!({"alg": "RS256", "kid": fixture.key_id()});
    let with = |name: &str, value: Value| {
        let mut claims = valid_claims();
        claims[name] = value;
        fixture.signed(&header, &claims)
    };
    let without = |name: &str| {
        let mut claims = valid_claims();
        claims.as_object_mut().unwrap().remove(name);
        fixture.signed(&header, &claims)
    };
    let late = 9_999_999_998_i64;
    vec![
        ("expired", with("exp", json!(1)), "has expired"),
        ("never expires", without("exp"), "does not expire"),
        ("expiry as text", with("exp", json!("9999999999")), "invalid_token"),
        ("not yet valid", with("nbf", json!(late)), "not valid yet"),
        ("issued in the future", with("iat", json!(late)), "issued in the future"),
        ("issued as text", with("iat", json!("1")), "issued in the future"),
        ("another issuer", with("iss", json!("http://127.0.0.1:2/_local/issuer")), "expected issuer"),
        ("no issuer", without("iss"), "expected issuer"),
        ("another audience", with("aud", json!("other")), "valid audience"),
        ("other audiences", with("aud", json!(["other", 1])), "valid audience"),
        ("another client", with("client_id", json!("other")), "valid audience"),
        ("no audience", without("client_id"), "valid audience"),
    ]
}

fn valid_claims() -> Value {
    json!({"iss": ISSUER, "client_id": "tenantry-local", "exp": 9_999_999_999_i64, "scope": "config/read"})
}

/// Promise: no token that is not the issuer's own, unaltered, in time and meant for this API gets
/// to a function.
#[tokio::test]
async fn tokens_that_are_not_to_be_trusted_get_401() {
    let fixture = fixture();
    let good = fixture.signed(&json!({"alg": "RS256", "kid": fixture.key_id()}), &valid_claims());
    assert_eq!(fixture.get("/read", Some(&good)).await.0, 200);
    for (case, token, reason) in forged_tokens(&fixture).into_iter().chain(unfit_tokens(&fixture)) {
        let (status, challenge, body) = fixture.get("/read", Some(&format!("Bearer {token}"))).await;
        assert_eq!((status, body.as_str()), (401, r#"{"message":"Unauthorized"}"#), "{case}");
        let challenge = challenge.unwrap();
        assert!(challenge.starts_with(r#"Bearer scope="config/read" error="invalid_token""#), "{case}: {challenge}");
        assert!(challenge.contains(reason), "{case}: {challenge}");
    }
}

fn request(claims: &[(String, String)]) -> TokenRequest<'_> {
    TokenRequest { tenant: "acme", tenant_claim: "custom:tenantId", scope: "config/read", expires_in: 60, claims }
}

#[tokio::test]
async fn the_authorization_header_is_read_as_api_gateway_does() {
    let fixture = fixture();
    let token = fixture.token(&[]);
    for (header, status) in [
        (None, 401),
        (Some(String::new()), 401),
        (Some("Bearer".into()), 401),
        (Some(format!("Bearer {token}")), 200),
        (Some(format!("bearer  {token} ")), 200),
        (Some(token.clone()), 200),
        (Some(format!("Basic {token}")), 401),
        (Some(format!("Bearer {token} {token}")), 401),
    ] {
        let (found, challenge, body) = fixture.get("/read", header.as_deref()).await;
        assert_eq!(found, status, "{header:?}: {body}");
        assert_eq!(challenge.is_some(), status == 401);
    }
    assert_eq!(fixture.get("/read", None).await.1.unwrap(), "Bearer");
    let twice = Request::get("/read").header("Authorization", &token).header("Authorization", &token);
    assert_eq!(fixture.call(twice.body(Body::empty()).unwrap()).await.0, 401);
}

/// Promise: one of the route's scopes is needed, and a scope is never a part of another.
#[tokio::test]
async fn a_missing_scope_gets_403() {
    let fixture = fixture();
    for (path, name, scope, status) in [
        ("/read", "scope", "config/read", 200),
        ("/read", "scope", "config/write config/read", 200),
        ("/read", "scope", "config/write", 403),
        ("/read", "scope", "config/readonly", 403),
        ("/read", "scope", "config", 403),
        ("/read", "scope", "", 403),
        ("/any", "scope", "", 200),
    ] {
        let token = fixture.token(&[(name, scope)]);
        let (found, challenge, body) = fixture.get(path, Some(&token)).await;
        assert_eq!(found, status, "{path} {scope}: {body}");
        if status == 403 {
            assert_eq!(body, r#"{"message":"Forbidden"}"#);
            assert_eq!(challenge.unwrap(), r#"Bearer scope="config/read" error="insufficient_scope""#);
        }
    }
}

/// Promise: a function sees claims as texts, and only of a token that was checked.
#[tokio::test]
async fn claims_arrive_as_texts() {
    let fixture = fixture();
    let token = fixture.signed(
        &json!({"alg": "RS256", "kid": fixture.key_id()}),
        &json!({"iss": ISSUER, "aud": ["x", "tenantry-local"], "exp": 9_999_999_999_i64, "iat": 1, "scp": ["a", "b"],
            "groups": ["admin", "dev"], "flag": true, "none": null, "empty": [], "map": {"a": 1, "b": ["c"]}, "custom:tenantId": "acme"}),
    );
    let (status, _, body) = fixture.get("/any", Some(&token)).await;
    assert_eq!(status, 200, "{body}");
    let event: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        event["requestContext"]["authorizer"],
        json!({"jwt": {
            "claims": {
                "iss": ISSUER, "aud": "[x tenantry-local]", "exp": "9999999999", "iat": "1", "scp": "[a b]",
                "groups": "[admin dev]", "flag": "true", "none": "<nil>", "empty": "[]", "map": "map[a:1 b:[c]]",
                "custom:tenantId": "acme",
            },
            "scopes": ["a", "b"],
        }})
    );
    let (_, _, body) = fixture.get("/open/x", Some(&token)).await;
    let event: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(event["requestContext"].get("authorizer"), None, "an open route checks nothing and says nothing");
}

/// Promise: what the template does not route, no function sees.
#[tokio::test]
async fn unrouted_requests_get_404() {
    let fixture = fixture();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/open"),
        ("GET", "/open/"),
        ("POST", "/open/x"),
        ("HEAD", "/read"),
        ("OPTIONS", "/read"),
    ] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let (status, _, body) = fixture.call(request).await;
        assert_eq!((status, body.as_str()), (404, r#"{"message":"Not Found"}"#), "{method} {path}");
    }
}

/// Promise: the limits are those of AWS, to the byte where a byte can be told.
#[tokio::test]
async fn too_large_requests_are_refused() {
    let fixture = fixture();
    let put = |length: usize| {
        let body = Body::from(vec![b'a'; length]);
        Request::put("/open/x").header("Content-Type", "text/plain").body(body).unwrap()
    };
    let too_long = (413, None, r#"{"message":"Request Entity Too Large"}"#.to_owned());
    for (length, fits) in
        [(0, true), (MAX_PAYLOAD - 2_000, true), (MAX_PAYLOAD, false), (MAX_BODY, false), (MAX_BODY + 1, false)]
    {
        let found = fixture.call(put(length)).await;
        if fits {
            assert_eq!(found.0, 200, "{length}");
        } else {
            assert_eq!(found, too_long, "{length}");
        }
    }
    // Request line "GET /open/x HTTP/1.1", header "a: …", each with its line end.
    let rest = MAX_HEAD - "GET /open/x HTTP/1.1\r\n".len() - "a: \r\n".len();
    for (length, status) in [(rest, 200), (rest + 1, 431)] {
        let request = Request::get("/open/x").header("a", "x".repeat(length)).body(Body::empty()).unwrap();
        assert_eq!(fixture.call(request).await.0, status, "{length}");
    }
}

/// Promise: a function that fails costs one request, says nothing of why, and the next one is
/// answered.
#[tokio::test]
async fn failing_functions_get_500() {
    let fixture = fixture();
    for key in ["panic", "fail", "large", "garbage", "status"] {
        let (status, _, body) = fixture.get(&format!("/open/{key}"), None).await;
        assert_eq!((status, body.as_str()), (500, r#"{"message":"Internal Server Error"}"#), "{key}");
    }
    assert_eq!(fixture.get("/open/x", None).await.0, 200);
}
