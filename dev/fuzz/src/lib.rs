//! What must hold for any bytes that a stranger sends: the bodies of the fuzz targets, which panic
//! where it does not.
//!
//! libFuzzer runs them through `fuzz_targets/`; `tests/replay.rs` runs them on stable, over the
//! seeds and inputs made from them by [`Mutator`].
#![forbid(unsafe_code)]

pub mod cursors;
pub mod keys;
mod mutate;
pub mod requests;
pub mod values;

use std::sync::LazyLock;

pub use mutate::Mutator;
use tenantry::{
    http::Problem,
    model::routing::{DEFAULT_ROUTES, TagRoutes},
};

/// What a target made of an input. A run in which one of the two never comes up has tested little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The input, or some part of it, was taken.
    Accepted,
    /// It was refused, as documented.
    Refused,
}

/// A target's body.
pub type Check = fn(&[u8]) -> Outcome;

/// Every target by its name.
pub const TARGETS: [(&str, Check); 4] =
    [("keys", keys::check), ("values", values::check), ("cursors", cursors::check), ("requests", requests::check)];

/// The routes that apply where the settings name none.
static ROUTES: LazyLock<TagRoutes> =
    LazyLock::new(|| TagRoutes::parse(DEFAULT_ROUTES).expect("the default routes parse"));

/// A problem must blame the request, never us, and be what RFC 9457 asks for.
fn assert_blames_the_request(problem: Problem) {
    let answer = problem.answer();
    let body = match &answer.body {
        Some(body) => std::str::from_utf8(body.as_ref()).expect("a problem is text"),
        None => panic!("a problem has a body"),
    };
    assert!((400..500).contains(&answer.status_code), "{}: {body}", answer.status_code);
    let body: serde_json::Value = serde_json::from_str(body).expect("a problem is JSON");
    assert_eq!(body["status"], answer.status_code);
    assert!(body["type"].as_str().is_some_and(|kind| kind.starts_with("urn:tenantry:problem:")));
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    let content_type = answer.headers.get("content-type").map(AsRef::as_ref);
    assert_eq!(content_type, Some(b"application/problem+json".as_slice()));
}
