//! What a function returned as an HTTP response: payload format 2.0.

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A function's answer that API Gateway cannot turn into a response; the client gets 500.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResponseError {
    /// Not of the documented shape.
    #[error("the function's answer is malformed: {0}")]
    Shape(#[from] serde_json::Error),
    /// A status that HTTP does not have.
    #[error("the function answered with the status {0}")]
    Status(Value),
    /// A header that HTTP does not allow.
    #[error("the function answered with an impossible header {0}")]
    Header(String),
    /// A body that claims to be base64.
    #[error("the function's body is not base64")]
    Base64(#[from] base64::DecodeError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: Value,
    headers: Option<Map<String, Value>>,
    cookies: Option<Vec<String>>,
    body: Option<String>,
    is_base64_encoded: Option<bool>,
}

/// The response for the bytes that a function returned. An answer without a status code is taken
/// for the body of a 200.
pub(super) fn response(answer: &[u8]) -> Result<Response, ResponseError> {
    let value: Value = serde_json::from_slice(answer)?;
    if value.get("statusCode").is_none() {
        let body = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        return Ok(json_response(StatusCode::OK, body));
    }
    let answer: Answer = serde_json::from_value(value)?;
    let status = match &answer.status_code {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    let status = status
        .and_then(|status| StatusCode::from_u16(status).ok())
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or(ResponseError::Status(answer.status_code))?;

    let text = answer.body.unwrap_or_default();
    let body = if answer.is_base64_encoded == Some(true) { STANDARD.decode(text)? } else { text.into_bytes() };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in answer.headers.into_iter().flatten() {
        let value = match value {
            Value::String(text) => text,
            Value::Null => continue,
            other => other.to_string(),
        };
        let (Ok(header), Ok(value)) = (HeaderName::try_from(&name), HeaderValue::try_from(value)) else {
            return Err(ResponseError::Header(name));
        };
        // The gateway counts the body itself and speaks for its own connection.
        if ![header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING].contains(&header) {
            headers.insert(header, value);
        }
    }
    for cookie in answer.cookies.into_iter().flatten() {
        let value = HeaderValue::try_from(cookie).map_err(|_| ResponseError::Header("set-cookie".into()))?;
        headers.append(header::SET_COOKIE, value);
    }
    if [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) {
        *response.body_mut() = Body::empty();
        return Ok(response);
    }
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain;charset=UTF-8"));
    Ok(response)
}

/// An answer of API Gateway itself.
pub(super) fn message(status: StatusCode, message: &str) -> Response {
    json_response(status, json!({"message": message}).to_string())
}

fn json_response(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn check(answer: Value) -> Result<(u16, Vec<(String, String)>, Vec<u8>), String> {
        let (parts, body) =
            response(&serde_json::to_vec(&answer).unwrap()).map_err(|error| error.to_string())?.into_parts();
        let headers = parts.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        Ok((parts.status.as_u16(), headers, body.collect().await.unwrap().to_bytes().to_vec()))
    }

    /// Promise: clients see locally what they would see through API Gateway.
    #[tokio::test]
    async fn answers_become_responses() {
        let json_type = ("content-type", "application/json");
        let text_type = ("content-type", "text/plain;charset=UTF-8");
        for (answer, status, headers, body) in [
            (json!({"statusCode": 200, "body": "a"}), 200, vec![text_type], &b"a"[..]),
            (json!({"statusCode": "201"}), 201, vec![text_type], b""),
            (
                json!({"statusCode": 200, "headers": {"ETag": "\"1\"", "Retry-After": 3, "Content-Type": "application/json",
                    "Content-Length": "77", "X-Null": null}, "cookies": ["a=1", "b=2"], "body": "{}"}),
                200,
                vec![json_type, ("etag", "\"1\""), ("retry-after", "3"), ("set-cookie", "a=1"), ("set-cookie", "b=2")],
                b"{}",
            ),
            (json!({"statusCode": 200, "body": "AP8=", "isBase64Encoded": true}), 200, vec![text_type], b"\x00\xff"),
            (json!({"statusCode": 304, "headers": {"ETag": "\"1\""}, "body": "no"}), 304, vec![("etag", "\"1\"")], b""),
            (
                json!({"multiValueHeaders": {}, "statusCode": 200, "headers": {}, "cookies": [], "body": null}),
                200,
                vec![text_type],
                b"",
            ),
            (json!({"a": 1}), 200, vec![json_type], b"{\"a\":1}"),
            (json!("text"), 200, vec![json_type], b"text"),
        ] {
            let mut found = check(answer.clone()).await.unwrap();
            found.1.sort();
            let mut headers: Vec<_> = headers.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            headers.sort();
            assert_eq!(found, (status, headers, body.to_vec()), "{answer}");
        }
    }

    #[tokio::test]
    async fn malformed_answers_are_refused() {
        for (answer, message) in [
            (json!({"statusCode": 99}), "the status 99"),
            (json!({"statusCode": 100}), "the status 100"),
            (json!({"statusCode": 600}), "the status 600"),
            (json!({"statusCode": null}), "the status null"),
            (json!({"statusCode": 200, "body": {}}), "malformed"),
            (json!({"statusCode": 200, "headers": {"a b": "c"}}), "impossible header a b"),
            (json!({"statusCode": 200, "headers": {"a": "b\nc"}}), "impossible header a"),
            (json!({"statusCode": 200, "cookies": ["a\n"]}), "impossible header set-cookie"),
            (json!({"statusCode": 200, "body": "!", "isBase64Encoded": true}), "not base64"),
        ] {
            let error = check(answer.clone()).await.unwrap_err();
            assert!(error.contains(message), "{answer}: {error}");
        }
        assert!(response(b"{").is_err());
    }
}
