//! Cross-origin requests (CORS), as an HTTP API answers them where the template allows origins.
//!
//! By AWS's page *Configure CORS for HTTP APIs*: preflights, which are OPTIONS with `Origin` and
//! `Access-Control-Request-Method`, are answered by the API itself, without authorizer and whether
//! there is a route or not. The answer of a function to a request with an `Origin` gets the
//! configured headers, and what the function says about CORS itself is left out. What the page does
//! not say: an origin that is not allowed gets the answers without those headers, by which a
//! browser keeps them from the page; and so do answers that the API makes itself, such as 401.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    },
    request::Parts,
};

use axum::{body::Body, response::Response};

use crate::template::Cors;

/// What all headers about CORS begin with.
const PREFIX: &str = "access-control-";

/// The answer to a preflight; none if the request is none.
pub(super) fn preflight(cors: &Cors, request: &Parts) -> Option<Response> {
    let origin = request.headers.get(ORIGIN)?;
    if request.method != Method::OPTIONS || !request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Some(allowed) = allowed(cors, origin) {
        let headers = response.headers_mut();
        admit(cors, allowed, headers);
        insert(headers, ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods.join(","));
        insert(headers, ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers.join(","));
        if let Some(seconds) = cors.max_age {
            insert(headers, ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
    }
    Some(response)
}

/// Puts the headers about CORS into a function's answer.
pub(super) fn add(cors: &Cors, request: &HeaderMap, response: &mut HeaderMap) {
    let own: Vec<_> = response.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in own {
        response.remove(name);
    }
    if let Some(allowed) = request.get(ORIGIN).and_then(|origin| allowed(cors, origin)) {
        admit(cors, allowed, response);
        insert(response, ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers.join(","));
    }
}

/// The origin as it is allowed; none if it is not.
fn allowed(cors: &Cors, origin: &HeaderValue) -> Option<HeaderValue> {
    let text = origin.to_str().ok()?;
    let patterns = &cors.allow_origins;
    if patterns.iter().any(|pattern| pattern == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let fits = |pattern: &String| match pattern.strip_suffix("://*") {
        Some(scheme) => text.strip_prefix(scheme).is_some_and(|rest| rest.starts_with("://")),
        None => pattern == text,
    };
    patterns.iter().any(fits).then(|| origin.clone())
}

fn admit(cors: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// A list that is empty has no header.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value)
        && !value.is_empty()
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Cors {
            allow_origins: texts(origins),
            allow_methods: texts(&["GET", "PUT"]),
            allow_headers: texts(&["authorization", "if-match"]),
            expose_headers: texts(&["etag"]),
            max_age: Some(600),
            allow_credentials: false,
        }
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let text = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut shown: Vec<_> = headers.iter().map(text).collect();
        shown.sort();
        shown
    }

    /// Promise: an origin is allowed if it is named, or its scheme is, and nothing that merely
    /// begins like one.
    #[test]
    fn origins_are_allowed_by_name_or_scheme() {
        for (origins, origin, expected) in [
            (&["https://a.example"][..], "https://a.example", Some("https://a.example")),
            (&["https://a.example"], "https://a.example.evil", None),
            (&["https://a.example"], "http://a.example", None),
            (&["https://a.example"], "https://a.example:8443", None),
            (&["https://a.example"], "null", None),
            (&["https://a.example", "https://b.example"], "https://b.example", Some("https://b.example")),
            (&["https://*"], "https://any.example", Some("https://any.example")),
            (&["https://*"], "http://any.example", None),
            (&["https://*"], "httpsx://any.example", None),
            (&["http://*"], "https://any.example", None),
            (&["*"], "null", Some("*")),
        ] {
            let mut request = HeaderMap::new();
            request.insert(ORIGIN, HeaderValue::from_static(origin));
            let mut response = HeaderMap::new();
            add(&cors(origins), &request, &mut response);
            let found = response.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{origins:?} {origin}");
            assert_eq!(response.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS), expected.is_some());
        }
    }

    /// Promise: a preflight is an OPTIONS that says so, and is answered with what is allowed, or
    /// with nothing of it.
    #[test]
    fn preflights_are_answered_without_a_route() {
        let ask = |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri("/nowhere");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            preflight(&cors(&["https://a.example"]), &parts)
        };
        let (ours, theirs) = (("origin", "https://a.example"), ("origin", "https://b.example"));
        let asked = ("access-control-request-method", "PUT");
        let allowed = ask("OPTIONS", &[ours, asked]).unwrap();
        assert_eq!(allowed.status(), 204);
        assert_eq!(
            shown(allowed.headers()),
            [
                "access-control-allow-headers: authorization,if-match",
                "access-control-allow-methods: GET,PUT",
                "access-control-allow-origin: https://a.example",
                "access-control-max-age: 600",
            ]
        );
        let refused = ask("OPTIONS", &[theirs, asked]).unwrap();
        assert_eq!((refused.status().as_u16(), shown(refused.headers())), (204, vec![]));
        for (method, headers) in [("OPTIONS", vec![ours]), ("OPTIONS", vec![asked]), ("PUT", vec![ours, asked])] {
            assert!(ask(method, &headers).is_none(), "{method} {headers:?}");
        }
    }

    /// Promise: what a function says about CORS itself does not get through, as AWS says.
    #[test]
    fn the_functions_own_headers_are_left_out() {
        let mut response = HeaderMap::new();
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        response.insert("etag", HeaderValue::from_static("\"1\""));
        add(&cors(&["https://a.example"]), &HeaderMap::new(), &mut response);
        assert_eq!(shown(&response), ["etag: \"1\""]);
    }
}
