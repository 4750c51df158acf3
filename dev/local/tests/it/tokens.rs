//! Tokens as identity providers make them, and as nobody should: they mean the same behind API
//! Gateway's authorizer, to a function that nobody stands in front of, and over gRPC.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use local::{data::DataFolder, issuer::CLIENT_ID};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Request, metadata::MetadataValue};
use tracing_subscriber::EnvFilter;

use crate::{
    harness::Api,
    secrets::Log,
    stream::{Grpc, Instance},
};

const KEY: &str = "tenant_config_k";

/// The suite, with the issuer's key in the test's hands.
struct Issuing {
    api: Api,
    key: EncodingKey,
    _data: TempDir,
}

impl Issuing {
    async fn start(parameters: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let folder = Some(data.path().to_owned());
        let api = Api::with(local::Options { data: folder, parameters, ..local::Options::default() }).await;
        let key = DataFolder::open(data.path()).expect("it is there").issuer_key().expect("a key");
        Self { api, key: EncodingKey::from_rsa_pem(key.as_bytes()).expect("a key"), _data: data }
    }

    /// A token with these members in its header, and these changes to the claims of a good one;
    /// null takes one away.
    fn token(&self, header: &Value, changes: &Value) -> String {
        self.signed(header, &self.claims(changes).to_string())
    }

    fn claims(&self, changes: &Value) -> Value {
        let mut claims = json!({
            "iss": self.api.suite.issuer().url(), "sub": "alice", "client_id": CLIENT_ID, "token_use": "access",
            "iat": 1_763_692_800, "exp": 4_000_000_000_u64, "scope": "openid config/read config/write",
            "custom:tenantId": "acme",
        });
        for (name, value) in changes.as_object().expect("changes are an object") {
            match value {
                Value::Null => _ = claims.as_object_mut().expect("an object").remove(name),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }

    /// A token with these claims, whatever text they are.
    fn signed(&self, members: &Value, claims: &str) -> String {
        let mut header = json!({"alg": "RS256", "kid": self.api.suite.issuer().jwk().common.key_id});
        header.as_object_mut().expect("an object").extend(members.as_object().expect("members").clone());
        let message =
            format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header.to_string()), BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature = crypto::sign(message.as_bytes(), &self.key, Algorithm::RS256).expect("a signature");
        format!("{message}.{signature}")
    }

    /// What becomes of a request with these `Authorization` headers: through the gateway with its
    /// authorizer, at the function alone, and by gRPC. Each time the status, and what is said about
    /// it.
    async fn outcomes(&self, stream: &Instance, headers: &[String]) -> [(u16, String); 3] {
        let call = self.api.call(Method::GET, &format!("/v1/config/{KEY}"));
        let call = headers.iter().fold(call, |call, header| call.header("authorization", header));
        let answer = call.await;
        let text = |body: &Value| body["detail"].as_str().unwrap_or_default().to_owned();
        let gateway = (answer.status, text(&answer.body));

        let mut event = self.api.tenant("acme").event("GET", &format!("/v1/config/{KEY}"), &Value::Null);
        event["requestContext"].as_object_mut().expect("an object").remove("authorizer");
        event["headers"]["authorization"] = json!(headers.join(","));
        let answer = self.api.suite.invoke("config-read", event).await.expect("an answer");
        let body = serde_json::from_str(answer["body"].as_str().expect("a body")).expect("JSON");
        let alone = (u16::try_from(answer["statusCode"].as_u64().expect("a status")).expect("a status"), text(&body));

        let message = config_proto::v1::GetConfigRequest { key: KEY.to_owned(), min_revision: 0 };
        let mut request = Request::new(message);
        for header in headers {
            request.metadata_mut().append("authorization", MetadataValue::try_from(header).expect("a header"));
        }
        let grpc = match Grpc::client_of(stream).get_config(request).await {
            Ok(_) => (200, String::new()),
            Err(status) => {
                let http = match status.code() {
                    Code::Unauthenticated => 401,
                    Code::PermissionDenied => 403,
                    Code::NotFound => 404,
                    code => panic!("{code}: {status}"),
                };
                (http, status.message().to_owned())
            }
        };
        [gateway, alone, grpc]
    }
}

/// Promise: one rule decides about tokens, wherever they are looked at: whose tenant they name,
/// what they permit, what kind of token they are.
#[tokio::test]
async fn a_token_means_the_same_everywhere() {
    let issuing = Issuing::start(&[]).await;
    let stream = Instance::start(&issuing.api, &[]).await;
    for tenant in ["acme", "7"] {
        issuing.api.tenant(tenant).put(KEY, &json!(tenant)).await.expect(201);
    }
    let none = json!({});
    let in_header = |member: &str, value: &str| issuing.token(&json!({member: value}), &none);
    let with = |changes: Value| issuing.token(&none, &changes);
    let tenant = |tenant: Value| with(json!({"custom:tenantId": tenant}));
    let text = issuing.claims(&none).to_string();
    let twice = text.replacen('{', r#"{"custom:tenantId":"globex","#, 1);
    let null = text.replace(r#""custom:tenantId":"acme""#, r#""custom:tenantId":null"#);
    let good = with(none.clone());
    for (name, token, status) in [
        ("good", good.clone(), 200),
        ("typ", in_header("typ", "JWT"), 200),
        ("typ of RFC 9068", in_header("typ", "at+jwt"), 200),
        ("a proof", in_header("typ", "dpop+jwt"), 401),
        ("a logout token", in_header("typ", "logout+jwt"), 401),
        ("a security event", in_header("typ", "secevent+jwt"), 401),
        ("an id token by typ", in_header("typ", "id+jwt"), 401),
        ("an id token by token_use", with(json!({"token_use": "id"})), 401),
        ("nested", in_header("cty", "JWT"), 401),
        ("critical", issuing.token(&json!({"crit": ["exp"]}), &none), 401),
        ("a claim twice", issuing.signed(&none, &twice), 401),
        ("another audience", with(json!({"client_id": "other"})), 401),
        ("another issuer", with(json!({"iss": "https://issuer.example"})), 401),
        ("over", with(json!({"exp": 1_763_692_900})), 401),
        ("an end in text", with(json!({"exp": "4000000000"})), 401),
        ("without an end", with(json!({"exp": null})), 401),
        ("another signature", format!("{}AAAA", &good[..good.len() - 4]), 401),
        ("a number", tenant(json!(7)), 200),
        ("its digits", tenant(json!("7")), 200),
        ("a fraction", tenant(json!(7.5)), 403),
        ("a number with a point", tenant(json!(7.0)), 403),
        ("true", tenant(json!(true)), 403),
        ("false", tenant(json!(false)), 403),
        ("null", issuing.signed(&none, &null), 403),
        ("a list", tenant(json!(["acme"])), 403),
        ("an object", tenant(json!({"id": "acme"})), 403),
        ("true as text", tenant(json!("true")), 403),
        ("null as text", tenant(json!("null")), 403),
        ("undefined as text", tenant(json!("undefined")), 403),
        ("a path", tenant(json!("acme/..")), 403),
        ("no tenant", with(json!({"custom:tenantId": null})), 403),
        ("scp", with(json!({"scope": null, "scp": ["config/read"]})), 200),
        ("a list of scopes", with(json!({"scope": ["openid", "config/read"]})), 200),
        ("another scope", with(json!({"scope": "config/write"})), 403),
        ("scope before scp", with(json!({"scope": "config/write", "scp": "config/read"})), 403),
        ("no scope", with(json!({"scope": null})), 403),
    ] {
        let outcomes = issuing.outcomes(&stream, &[format!("Bearer {token}")]).await;
        assert_eq!(outcomes.each_ref().map(|(status, _)| *status), [status; 3], "{name}: {outcomes:?}");
    }
    // The rule for tenant ids, to the token's holder; and one tenant never gets another's answer.
    for (_, said) in issuing.outcomes(&stream, &[format!("Bearer {}", tenant(json!("org|123")))]).await {
        assert!(
            said.contains("\"custom:tenantId\" is no tenant id: it has the character '|'; a tenant id is 1 to"),
            "{said}"
        );
    }
    // What is no bearer token. API Gateway takes a bare one.
    for (headers, expected) in [
        (vec![good.clone()], "send the word Bearer, a space, and the token"),
        (vec!["Basic YTpi".to_owned()], "send the word Bearer, a space, and the token"),
        (vec![format!("Bearer {good}"), format!("Bearer {good}")], "the bearer token is not valid here"),
        (vec![], "there is no bearer token"),
    ] {
        let outcomes = issuing.outcomes(&stream, &headers).await;
        for (at, (status, said)) in outcomes.iter().enumerate() {
            // What the gateway refuses itself, it refuses without words.
            let is_silent = at == 0 && said.is_empty();
            assert!(*status == 401 && (is_silent || said.contains(expected)), "{headers:?}: {outcomes:?}");
        }
    }
    stream.stream.stop().await;
    issuing.api.stop().await;
}

/// Promise: permissions lie in the claims that the settings name, and who writes is called by the
/// claim that they name. Who lacks a permission is told where it was looked for.
#[tokio::test]
async fn permissions_and_authors_come_from_the_claims_that_are_set() {
    let issuing = Issuing::start(&[("ScopeClaims", "permissions,roles"), ("AuthorClaim", "email")]).await;
    let stream = Instance::start(&issuing.api, &[]).await;
    let token = |changes: Value| format!("Bearer {}", issuing.token(&json!({}), &changes));
    let both = json!({"scope": "openid", "permissions": ["config/read", "config/write"], "email": "jane@example.com"});
    let put = issuing.api.call(Method::PUT, &format!("/v1/config/{KEY}")).header("authorization", &token(both.clone()));
    let written = put.json(&json!({"value": 1})).await.expect(201);
    assert_eq!(written.body["author"], "jane@example.com");
    for (changes, status) in [
        (both, 200),
        (json!({"roles": ["config/read"]}), 200),
        (json!({"permissions": ["config/write"]}), 403),
        (json!({"scope": "config/read"}), 403),
    ] {
        let outcomes = issuing.outcomes(&stream, &[token(changes.clone())]).await;
        for (found, said) in &outcomes {
            let names_claims =
                said.contains("the scope config/read") && said.ends_with("these claims: permissions, roles");
            assert!(*found == status && (status == 200 || names_claims), "{changes}: {outcomes:?}");
        }
    }
    stream.stream.stop().await;
    issuing.api.stop().await;
}

/// Promise: whoever is refused by the streaming service finds the reason in its log, and no part of
/// the token is there.
#[tokio::test]
async fn the_stream_logs_why_it_refuses() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_writer(log.clone()).with_env_filter(EnvFilter::new("info")).finish();
    // A second one, because as long as there is just one, a line that another test's thread comes
    // by first counts as unwanted here, too.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logging = tracing::subscriber::set_default(subscriber);

    let issuing = Issuing::start(&[]).await;
    let stream = Instance::start(&issuing.api, &[]).await;
    let deaf = Instance::start(&issuing.api, &[("JWKS_URL", "http://127.0.0.1:1/keys")]).await;
    let with = |changes: Value| issuing.token(&json!({}), &changes);
    for (stream, token, reason) in [
        (&stream, with(json!({"client_id": "other"})), "the token is for another audience"),
        (&stream, with(json!({"exp": 1_763_692_900})), "the token has expired"),
        (&stream, with(json!({"custom:tenantId": true})), "is neither text nor a whole number"),
        (&stream, with(json!({"scope": "openid"})), "lacks the scope config/read"),
        (&deaf, with(json!({})), "the key set could not be fetched"),
    ] {
        log.0.lock().expect("no panic while logging").clear();
        stream.with_token(&token).get(KEY, 0).await.expect_err(reason);
        let logged = String::from_utf8_lossy(&log.0.lock().expect("no panic while logging")).into_owned();
        let lines: Vec<_> = logged.lines().filter(|line| line.contains("a call was refused")).collect();
        assert!(lines.len() == 1 && lines[0].contains(reason), "{reason}: {logged}");
        for part in token.split('.') {
            assert!(!logged.contains(part), "{logged}");
        }
    }
    deaf.stream.stop().await;
    stream.stream.stop().await;
    issuing.api.stop().await;
}
