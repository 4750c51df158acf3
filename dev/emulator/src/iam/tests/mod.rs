//! Policies, decisions and sessions, in tables. Each names the page of AWS's documentation that it
//! follows.

mod conditions;
mod decisions;
mod documents;
mod patterns;
mod sessions;

use serde_json::{Value, json};

use super::context::Context;
use super::{Iam, Need, Role};
use crate::account::Account;

/// The account of all tests here.
const ACCOUNT: &str = "111122223333";

/// A request's condition keys.
fn context(keys: &[(&str, &[&str])]) -> Context {
    let mut context = Context::default();
    for (key, values) in keys {
        context.set_all(key, values.iter().map(|value| (*value).to_owned()));
    }
    context
}

/// A document of the version that knows variables.
fn document(statements: &Value) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// What anybody in the account, and Lambda, may assume.
fn open_trust() -> Value {
    document(&json!([
        { "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" },
        {
            "Effect": "Allow",
            "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:root") },
            "Action": ["sts:AssumeRole", "sts:TagSession"]
        }
    ]))
}

fn role(name: &str, trust: Value, policies: impl IntoIterator<Item = Value>) -> Role {
    Role { name: name.to_owned(), trust, policies: policies.into_iter().collect() }
}

fn iam(clock: super::Clock) -> Iam {
    Iam::new(Account { region: "eu-central-1".to_owned(), id: ACCOUNT.to_owned() }, clock)
}

/// One with the wall clock, and these roles.
fn with_roles(roles: impl IntoIterator<Item = Role>) -> Iam {
    let iam = iam(std::sync::Arc::new(time::OffsetDateTime::now_utc));
    for role in roles {
        iam.add_role(role).expect("a role that is evaluated");
    }
    iam
}

fn need(action: &str, resource: &str, keys: &[(&str, &[&str])]) -> Need {
    Need { action: action.to_owned(), resource: resource.to_owned(), context: context(keys) }
}
