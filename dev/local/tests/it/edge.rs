//! What HTTP and browsers ask of any server, and what clients send that means something else to
//! others.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, Method};
use local::Options;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Api, Call};

/// The headers of an answer that are the same if it is asked for again.
fn lasting(headers: &HeaderMap) -> BTreeMap<String, String> {
    let passing = ["date", "apigw-requestid"];
    let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
    let lasting = headers.iter().filter(|(name, _)| !passing.contains(&name.as_str()));
    lasting.map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Promise: HEAD is answered as GET is, with the same status and headers, the length among them,
/// and without a body; to the same people.
#[tokio::test]
async fn head_is_get_without_the_body() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let etag = acme.put("tenant_config_k", &json!({"a": [1, 2, 3]})).await.expect(201).etag().to_owned();
    acme.put("secret_config_k", &json!("s")).await.expect(201);
    api.settled().await;
    for (path, status) in [
        ("/v1/config/tenant_config_k", 200),
        ("/v1/config/tenant_config_k?version=1", 200),
        ("/v1/config/secret_config_k", 200),
        ("/v1/config/tenant_config_x", 404),
        ("/v1/config/nobody_x", 400),
        ("/v1/config?limit=1", 200),
        ("/v1/config?limit=0", 400),
        ("/v1/history/tenant_config_k", 200),
        ("/v1/changes?since=0", 200),
        ("/v1/changes?since=9", 410),
        ("/v1/batch-get", 404),
        ("/v1", 404),
    ] {
        let get = acme.call(Method::GET, path).await.expect(status);
        let head = acme.call(Method::HEAD, path).await.expect(status);
        assert_eq!(lasting(&head.headers), lasting(&get.headers), "{path}");
        assert_eq!(head.header("content-length"), get.text.len().to_string(), "{path}");
        assert_eq!(head.text, "", "{path}");
    }
    let known = acme.call(Method::HEAD, "/v1/config/tenant_config_k").header("if-none-match", &etag).await.expect(304);
    assert_eq!(known.etag(), etag);
    api.call(Method::HEAD, "/healthz").await.expect(200);
    api.call(Method::HEAD, "/v1/config").await.expect(401);
    for (key, scope) in [("secret_config_k", "config/read"), ("tenant_config_k", "config/write")] {
        let token = api.suite.token("acme", scope).expect("a token");
        let call = api.call(Method::HEAD, &format!("/v1/config/{key}"));
        call.header("authorization", &format!("Bearer {token}")).await.expect(403);
    }
    api.stop().await;
}

/// Promise: a byte order mark before the body is no part of it, and a packed body is refused as
/// one, not as bad JSON.
#[tokio::test]
async fn bodies_come_as_text() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let put = |body: Vec<u8>| acme.call(Method::PUT, "/v1/config/tenant_config_k").raw(body);
    let marked = "\u{feff}{\"value\": \"\u{feff}x\"}";
    put(marked.into()).await.expect(201);
    put(marked.into()).header("content-type", "application/json").await.expect(200);
    assert_eq!(acme.get("tenant_config_k").await.expect(200).body["value"], "\u{feff}x");
    // `gzip` of {"value":1}.
    let packed = BASE64_STANDARD.decode("H4sIAAAAAAAAA6tWKkvMKU1VsjKsBQBZ4Qr8CwAAAA==").expect("base64");
    for content_type in ["application/json", "application/octet-stream"] {
        let call = put(packed.clone()).header("content-encoding", "gzip").header("content-type", content_type);
        let refused = call.await.expect_problem(415, "unsupported-media-type");
        assert_eq!(refused.header("accept-encoding"), "identity");
        assert!(refused.text.contains("without Content-Encoding"), "{}", refused.text);
    }
    put("{\"value\": 1}".into()).header("content-encoding", "identity").await.expect(200);
    api.stop().await;
}

/// Promise: no byte in a path makes the name of another key of it: a target is taken whole, or
/// refused.
#[tokio::test]
async fn no_raw_byte_cuts_a_path() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    let address = api.suite.http_url().trim_start_matches("http://").to_owned();
    let status = async |target: &[u8]| {
        let mut stream = TcpStream::connect(&address).await.expect("it listens");
        let request = [
            &b"GET "[..],
            target,
            b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer ",
            acme.token.as_bytes(),
            b"\r\n\r\n",
        ];
        stream.write_all(&request.concat()).await.expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("it answers");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).expect("a status")
    };
    assert_eq!(status(b"/v1/config/tenant_config_k").await, 200);
    for byte in 0..=255 {
        for target in [
            [b"/v1/config/tenant_config_k", &[byte][..], b"x"].concat(),
            [b"/v1/config?limit=5", &[byte][..], b"0"].concat(),
        ] {
            let status = status(&target).await;
            // A digit makes another number of the second one, which is too large; `&` a parameter
            // that is unknown.
            assert!(matches!(status, 400 | 404), "{status} for {:?}", String::from_utf8_lossy(&target));
        }
    }
    for target in ["/v1/config/tenant_config_k#", "#/v1/config", "http://x/v1/config/tenant_config_k#a", "/healthz#?"] {
        assert_eq!(status(target.as_bytes()).await, 400, "{target}");
    }
    api.stop().await;
}

fn preflight<'a>(api: &'a Api, origin: &str) -> Call<'a> {
    let call = api.call(Method::OPTIONS, "/v1/config/tenant_config_k").header("origin", origin);
    call.header("access-control-request-method", "PUT").header("access-control-request-headers", "authorization")
}

/// Promise: with the parameter `CorsOrigins` pages of these origins may call the API, preflights
/// included, as the template says; without it none may.
#[tokio::test]
async fn pages_of_allowed_origins_may_call() {
    let parameters = [("CorsOrigins".to_owned(), "https://a.example, http://localhost:3000".to_owned())].into();
    let api = Api::with(Options { parameters, ..Options::default() }).await;
    let acme = api.tenant("acme");
    let of_cors = |headers: &HeaderMap| {
        let mut lasting = lasting(headers);
        lasting.retain(|name, _| name.starts_with("access-control-"));
        lasting
    };
    for origin in ["https://a.example", "http://localhost:3000"] {
        let answer = preflight(&api, origin).await.expect(204);
        let expected = [
            (
                "access-control-allow-headers",
                "authorization,cache-control,content-type,idempotency-key,if-match,if-none-match",
            ),
            ("access-control-allow-methods", "GET,HEAD,PUT,POST,DELETE"),
            ("access-control-allow-origin", origin),
            ("access-control-max-age", "600"),
        ];
        assert_eq!(of_cors(&answer.headers), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let answer = acme.put("tenant_config_k", &json!(1)).header("origin", origin).await;
        let expected = [
            ("access-control-allow-origin", origin),
            (
                "access-control-expose-headers",
                "age,etag,idempotency-replayed,retry-after,tenantry-revision,tenantry-stale",
            ),
        ];
        assert_eq!(of_cors(&answer.headers), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let refused = acme.get("nobody").header("origin", origin).await.expect_problem(400, "invalid-key");
        assert_eq!(refused.header("access-control-allow-origin"), origin, "problems can be read, too");
    }
    assert!(of_cors(&preflight(&api, "https://b.example").await.expect(204).headers).is_empty());
    let other = acme.get("tenant_config_k").header("origin", "https://b.example").await.expect(200);
    assert!(of_cors(&other.headers).is_empty());
    assert!(of_cors(&acme.get("tenant_config_k").await.expect(200).headers).is_empty());
    api.stop().await;

    let api = Api::start().await;
    preflight(&api, "https://a.example").await.expect(404);
    let answer = api.call(Method::GET, "/healthz").header("origin", "https://a.example").await.expect(200);
    assert!(of_cors(&answer.headers).is_empty());
    api.stop().await;
}
