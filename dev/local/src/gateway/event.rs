//! An HTTP request as the event that API Gateway sends to a function: payload format 2.0.

use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header, request::Parts};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::routes::Match;

/// Who the request seems to be sent to: API Gateway's own data, none of which local runs have.
#[derive(Debug, Clone)]
pub struct ApiIdentity {
    /// The account, 12 digits.
    pub account: String,
    /// The API's id.
    pub api: String,
}

/// Everything about a request that is not in its own bytes.
#[derive(Debug)]
pub(super) struct RequestContext<'a> {
    /// The API.
    pub(super) api: &'a ApiIdentity,
    /// The client.
    pub(super) client: SocketAddr,
    /// The port the request came in by.
    pub(super) port: u16,
    /// The request's id.
    pub(super) id: &'a str,
    /// When it came.
    pub(super) time: OffsetDateTime,
    /// The path, decoded once.
    pub(super) path: &'a str,
    /// The route.
    pub(super) matched: Match<'a>,
    /// What the authorizer says, if the route has one.
    pub(super) authorizer: Option<Value>,
}

/// The event for a request.
pub(super) fn event(parts: &Parts, body: &[u8], context: RequestContext<'_>) -> Value {
    let RequestContext { api, client, port, id, time, path, matched, authorizer } = context;
    let route_key = format!("{} {}", matched.route.method, matched.route.path);
    let query = parts.uri.query().unwrap_or_default();
    let headers = headers(&parts.headers, body.len(), client, port, time);
    let domain = parts.headers.get(header::HOST).map(text).unwrap_or_default();

    let mut request_context = json!({
        "accountId": api.account,
        "apiId": api.api,
        "domainName": domain,
        "domainPrefix": domain.split(['.', ':']).next().unwrap_or_default(),
        "http": {
            "method": parts.method.as_str(),
            "path": path,
            "protocol": format!("{:?}", parts.version),
            "sourceIp": client.ip().to_string(),
            "userAgent": headers.get("user-agent").cloned().unwrap_or_else(|| "".into()),
        },
        "requestId": id,
        "routeKey": route_key,
        "stage": "$default",
        "time": clock(time),
        "timeEpoch": i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX),
    });
    if let Some(authorizer) = authorizer {
        request_context["authorizer"] = authorizer;
    }

    let mut event = json!({
        "version": "2.0",
        "routeKey": route_key,
        "rawPath": path,
        // As it came: only the parameters below are decoded.
        "rawQueryString": query,
        "headers": headers,
        "requestContext": request_context,
        "isBase64Encoded": false,
    });
    let cookies = cookies(&parts.headers);
    if !cookies.is_empty() {
        event["cookies"] = json!(cookies);
    }
    let parameters = query_parameters(query);
    if !parameters.is_empty() {
        event["queryStringParameters"] = Value::Object(parameters);
    }
    if !matched.parameters.is_empty() {
        event["pathParameters"] = Value::Object(matched.parameters);
    }
    if !body.is_empty() {
        let (text, encoded) = body_text(&parts.headers, body);
        event["body"] = text.into();
        event["isBase64Encoded"] = encoded.into();
    }
    event
}

/// Header names are in lower case already; doubles are joined by commas. API Gateway adds what it
/// knows of the client.
fn headers(
    given: &HeaderMap,
    length: usize,
    client: SocketAddr,
    port: u16,
    time: OffsetDateTime,
) -> Map<String, Value> {
    let mut headers = Map::new();
    for name in given.keys() {
        // Cookies have a place of their own; the others speak of the connection, which ends at the
        // gateway.
        if [header::COOKIE, header::CONNECTION, header::TRANSFER_ENCODING].contains(name) {
            continue;
        }
        let values: Vec<_> = given.get_all(name).iter().map(text).collect();
        headers.insert(name.as_str().to_owned(), values.join(",").into());
    }
    let forwarded = match headers.get("x-forwarded-for").and_then(Value::as_str) {
        Some(earlier) => format!("{earlier}, {}", client.ip()),
        None => client.ip().to_string(),
    };
    headers.insert("content-length".into(), length.to_string().into());
    headers.insert("x-forwarded-for".into(), forwarded.into());
    headers.insert("x-forwarded-port".into(), port.to_string().into());
    headers.insert("x-forwarded-proto".into(), "http".into());
    headers.entry("x-amzn-trace-id").or_insert_with(|| {
        let random = fastrand::u128(..) >> 32;
        format!("Root=1-{:08x}-{random:024x}", time.unix_timestamp()).into()
    });
    headers
}

/// A header's value as text. What is no UTF-8 is taken for Latin-1, which every byte is a character
/// of.
fn text(value: &http::HeaderValue) -> String {
    match str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
    }
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|value| text(value).split(';').map(|cookie| cookie.trim().to_owned()).collect::<Vec<_>>())
        .filter(|cookie| !cookie.is_empty())
        .collect()
}

/// The decoded query parameters; doubles are joined by commas.
fn query_parameters(query: &str) -> Map<String, Value> {
    let mut parameters: Map<String, Value> = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let joined = match parameters.get(name.as_ref()).and_then(Value::as_str) {
            Some(earlier) => format!("{earlier},{value}"),
            None => value.into_owned(),
        };
        parameters.insert(name.into_owned(), joined.into());
    }
    parameters
}

/// The body as text, and whether that is base64. As measured on AWS by others, only `text/*` and
/// the three types below go as they are; everything else, a missing content type too, is base64.
/// What should be text and is not UTF-8 goes as base64 as well, so that the function sees the bytes
/// that were sent.
fn body_text(headers: &HeaderMap, body: &[u8]) -> (String, bool) {
    let content_type = headers.get(header::CONTENT_TYPE).map(text).unwrap_or_default().to_ascii_lowercase();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let is_text = media_type.starts_with("text/")
        || ["application/json", "application/javascript", "application/xml"].contains(&media_type);
    match str::from_utf8(body) {
        Ok(body) if is_text => (body.to_owned(), false),
        _ => (STANDARD.encode(body), true),
    }
}

/// `21/Nov/2025:02:40:00 +0000`.
fn clock(time: OffsetDateTime) -> String {
    let month = time.month().to_string();
    format!(
        "{:02}/{}/{}:{:02}:{:02}:{:02} +0000",
        time.day(),
        month.get(..3).unwrap_or(&month),
        time.year(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::{gateway::routes::Routes, template::Route};

    fn check(request: Request<&[u8]>) -> Value {
        let routes = Routes::new(vec![Route {
            method: "PUT".into(),
            path: "/c/{key+}".into(),
            function: "f".into(),
            authorizer: None,
            scopes: vec![],
        }]);
        let (parts, body) = request.into_parts();
        let path = super::super::routes::decode_path(parts.uri.path());
        let matched = routes.find("PUT", &path).unwrap();
        event(
            &parts,
            body,
            RequestContext {
                api: &ApiIdentity { account: "123456789012".into(), api: "local".into() },
                client: "127.0.0.1:50000".parse().unwrap(),
                port: 8080,
                id: "id",
                time: OffsetDateTime::from_unix_timestamp(1_763_692_800).unwrap(),
                path: &path,
                matched,
                authorizer: Some(json!({"jwt": {}})),
            },
        )
    }

    fn request(headers: &[(&str, &[u8])], uri: &str, body: &'static [u8]) -> Request<&'static [u8]> {
        let mut request = Request::put(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body).unwrap()
    }

    /// Promise: a function gets locally, member by member, what API Gateway would send it.
    #[test]
    fn a_whole_event() {
        let headers: [(&str, &[u8]); 4] = [
            ("Host", b"localhost:8080"),
            ("User-Agent", b"curl/8"),
            ("Content-Type", b"application/json; charset=utf-8"),
            ("X-Amzn-Trace-Id", b"Root=1-0-0"),
        ];
        let event = check(request(&headers, "/c/a%2Fb?x=1&y=%2F&x=2", b"{\"value\":1}"));
        assert_eq!(
            event,
            json!({
                "version": "2.0",
                "routeKey": "PUT /c/{key+}",
                "rawPath": "/c/a/b",
                "rawQueryString": "x=1&y=%2F&x=2",
                "headers": {
                    "content-length": "11",
                    "content-type": "application/json; charset=utf-8",
                    "host": "localhost:8080",
                    "user-agent": "curl/8",
                    "x-amzn-trace-id": "Root=1-0-0",
                    "x-forwarded-for": "127.0.0.1",
                    "x-forwarded-port": "8080",
                    "x-forwarded-proto": "http",
                },
                "queryStringParameters": {"x": "1,2", "y": "/"},
                "pathParameters": {"key": "a/b"},
                "requestContext": {
                    "accountId": "123456789012",
                    "apiId": "local",
                    "authorizer": {"jwt": {}},
                    "domainName": "localhost:8080",
                    "domainPrefix": "localhost",
                    "http": {
                        "method": "PUT",
                        "path": "/c/a/b",
                        "protocol": "HTTP/1.1",
                        "sourceIp": "127.0.0.1",
                        "userAgent": "curl/8",
                    },
                    "requestId": "id",
                    "routeKey": "PUT /c/{key+}",
                    "stage": "$default",
                    "time": "21/Nov/2025:02:40:00 +0000",
                    "timeEpoch": 1_763_692_800_000_i64,
                },
                "body": "{\"value\":1}",
                "isBase64Encoded": false,
            })
        );
    }

    /// Promise: names in lower case, doubles joined by commas, cookies in their own place, no
    /// header lost to odd bytes.
    #[test]
    fn headers_and_cookies() {
        let headers: [(&str, &[u8]); 9] = [
            ("If-None-Match", b"\"a\""),
            ("If-None-Match", b"\"b\", \"c\""),
            ("Cookie", b"a=1; b=2"),
            ("Cookie", b"c=3"),
            ("X-Utf", "ä".as_bytes()),
            ("X-Latin", b"\xe4"),
            ("Connection", b"close"),
            ("X-Forwarded-For", b"203.0.113.1"),
            ("Content-Length", b"99"),
        ];
        let event = check(request(&headers, "/c/k", b""));
        let trace = event["headers"]["x-amzn-trace-id"].as_str().unwrap().to_owned();
        assert!(trace.starts_with("Root=1-691fd0c0-") || trace.starts_with("Root=1-"), "{trace}");
        assert_eq!(trace.len(), "Root=1-691fd0a0-5f3b2a4c6d7e8f9012345678".len());
        assert_eq!(
            event["headers"],
            json!({
                "if-none-match": "\"a\",\"b\", \"c\"",
                "x-utf": "ä",
                "x-latin": "ä",
                "content-length": "0",
                "x-amzn-trace-id": trace,
                "x-forwarded-for": "203.0.113.1, 127.0.0.1",
                "x-forwarded-port": "8080",
                "x-forwarded-proto": "http",
            })
        );
        assert_eq!(event["cookies"], json!(["a=1", "b=2", "c=3"]));
    }

    /// Promise: what is absent in a request is absent in its event.
    #[test]
    fn nothing_is_made_up() {
        let event = check(request(&[], "/c/k", b""));
        for member in ["cookies", "queryStringParameters", "body", "stageVariables"] {
            assert_eq!(event.get(member), None, "{member}");
        }
        assert_eq!(event["rawQueryString"], "");
        assert_eq!(event["isBase64Encoded"], false);
    }

    #[test]
    fn query_parameters_are_decoded_and_joined() {
        for (query, expected) in [
            ("a=1", json!({"a": "1"})),
            ("a=1&b=2&a=3", json!({"a": "1,3", "b": "2"})),
            ("a", json!({"a": ""})),
            ("a=", json!({"a": ""})),
            ("a=b=c", json!({"a": "b=c"})),
            ("&&a=1&", json!({"a": "1"})),
            ("a%20b=c+d%2Be", json!({"a b": "c d+e"})),
            ("a=%zz", json!({"a": "%zz"})),
            ("a=%ff", json!({"a": "\u{fffd}"})),
        ] {
            let event = check(request(&[], &format!("/c/k?{query}"), b""));
            assert_eq!(event["queryStringParameters"], expected, "{query}");
            assert_eq!(event["rawQueryString"], query);
        }
    }

    #[test]
    fn bodies_are_text_or_base64_by_their_type() {
        for (content_type, body, expected, encoded) in [
            ("application/json", &b"{}"[..], "{}", false),
            ("Application/JSON; charset=utf-8", b"{}", "{}", false),
            ("text/plain", b"a", "a", false),
            ("application/xml", b"<a/>", "<a/>", false),
            ("application/problem+json", b"{}", "e30=", true),
            ("application/x-www-form-urlencoded", b"a=1", "YT0x", true),
            ("application/octet-stream", b"\x00\xff", "AP8=", true),
            ("application/json", b"\xff", "/w==", true),
            ("", b"a", "YQ==", true),
        ] {
            let headers: &[(&str, &[u8])] =
                if content_type.is_empty() { &[] } else { &[("Content-Type", content_type.as_bytes())] };
            let event = check(request(headers, "/c/k", body));
            assert_eq!(
                (&event["body"], &event["isBase64Encoded"]),
                (&json!(expected), &json!(encoded)),
                "{content_type}"
            );
        }
    }
}
