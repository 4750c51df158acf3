//! What requests mean, what is refused, and what callers are told: without a panic, a guess, or a
//! word about our insides.

mod bodies;
mod comments;
mod cursors;
mod problems;
mod redaction;
mod requests;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::*;
use crate::{
    auth::{Authenticator, Permission, Presented},
    model::{
        entry::{EntityTagList, Precondition, Revision, Version},
        key::ConfigKey,
        routing::TagRoutes,
    },
};

/// An event of API Gateway's with these members on top of the least there can be.
fn event(members: Value) -> Event {
    let mut event = json!({"rawPath": "/", "rawQueryString": "", "requestContext": {"stage": "$default", "http": {"method": "PUT"}}});
    let Value::Object(members) = members else { panic!("members are an object") };
    for (name, value) in members {
        event[name] = value;
    }
    serde_json::from_value(event).unwrap()
}

fn with_header(name: &str, value: &str) -> Event {
    event(json!({"headers": {name: value}}))
}

/// Status and body of a problem as the caller gets it.
fn shown(problem: Problem) -> (i64, Value) {
    let answer = problem.answer();
    let Some(lambda_http::Body::Text(text)) = &answer.body else { panic!("a problem has a text") };
    (answer.status_code, serde_json::from_str(text).unwrap())
}

/// What a refusal comes to: its status, the end of its type, and its detail.
fn refusal<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    let (status, body) = shown(result.expect_err("a refusal"));
    let name = body["type"].as_str().unwrap().trim_start_matches("urn:tenantry:problem:");
    format!("{status} {name}: {}", body["detail"].as_str().unwrap())
}
