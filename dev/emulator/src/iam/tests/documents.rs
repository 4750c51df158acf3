//! Which documents are taken.

use serde_json::{Value, json};

use super::super::SessionPolicy;
use super::{document, iam, open_trust, role};

fn refused(trust: Value, policy: Value) -> Option<String> {
    let iam = iam(std::sync::Arc::new(time::OffsetDateTime::now_utc));
    iam.add_role(role("r", trust, [policy])).err().map(|error| error.to_string())
}

/// An identity-based statement with these elements in place of its own; null takes one away.
fn statement(changes: &Value) -> Value {
    let mut statement = json!({ "Effect": "Allow", "Action": "dynamodb:GetItem", "Resource": "*" });
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(statement.as_object_mut().expect("an object").remove(name)),
            value => statement[name.as_str()] = value.clone(),
        }
    }
    document(&statement)
}

fn condition(operator: &str, key: &str, value: &Value) -> Value {
    statement(&json!({ "Condition": { operator: { key: value } } }))
}

/// Promise: every form that "Grammar of the IAM JSON policy language" has and the evaluation knows
/// is taken.
#[test]
fn documents_that_are_evaluated_are_taken() {
    for policy in [
        statement(&json!({})),
        json!({ "Statement": [{ "Effect": "Deny", "NotAction": ["a:*", "b:C?"], "NotResource": ["*"] }] }),
        json!({ "Version": "2008-10-17", "Id": "x", "Statement": { "Sid": "y", "Effect": "Allow", "Action": "*", "Resource": "*" } }),
        statement(
            &json!({ "Resource": ["arn:aws:s3:::b/${aws:PrincipalTag/t}/*", "arn:aws:sqs:*", "arn:aws:ssm:*:*:parameter/a"] }),
        ),
        statement(&json!({ "Condition": {} })),
        condition("ForAllValues:StringLikeIfExists", "dynamodb:leadingkeys", &json!(["a", "b"])),
        condition("Bool", "aws:SecureTransport", &json!(false)),
        condition("Null", "kms:EncryptionContext:PARAMETER_ARN", &json!("true")),
        // Keys of services that are not here are absent, here and there.
        condition("StringEquals", "s3:prefix", &json!("x")),
        condition("ArnLike", "aws:PrincipalArn", &json!("arn:aws:iam::*:role/${aws:PrincipalTag/t}")),
    ] {
        assert_eq!(refused(open_trust(), policy.clone()), None, "{policy}");
    }
}

/// Promise: what is not evaluated is refused when it comes in; nothing is allowed because it was
/// not understood.
#[test]
fn documents_that_are_not_evaluated_are_refused() {
    for policy in [
        json!("text"),
        json!({}),
        json!({ "Version": "2012-10-17" }),
        json!({ "Version": "2020-01-01", "Statement": [] }),
        json!({ "Version": 2012, "Statement": [{ "Effect": "Allow", "Action": "*", "Resource": "*" }] }),
        document(&json!([])),
        document(&json!(["x"])),
        json!({ "Version": "2012-10-17", "version": "x", "Statement": { "Effect": "Deny", "Action": "*", "Resource": "*" } }),
        statement(&json!({ "Effect": "allow" })),
        statement(&json!({ "Effect": null })),
        statement(&json!({ "Action": null })),
        statement(&json!({ "NotAction": "a:b" })),
        statement(&json!({ "Action": [] })),
        statement(&json!({ "Action": "GetItem" })),
        statement(&json!({ "Action": "dynamodb:${aws:PrincipalTag/t}" })),
        statement(&json!({ "Action": 5 })),
        statement(&json!({ "Action": [["dynamodb:GetItem"]] })),
        statement(&json!({ "Resource": null })),
        statement(&json!({ "NotResource": "*" })),
        statement(&json!({ "Resource": "table/a" })),
        statement(&json!({ "Resource": "arn:aws:dynamodb" })),
        statement(&json!({ "Resource": "arn:aws:dynamodb:us-east-1:1" })),
        statement(&json!({ "Resource": "arn:aws:${aws:PrincipalTag/t}:::a" })),
        statement(&json!({ "Resource": "${aws:PrincipalTag/t}*" })),
        statement(&json!({ "Resource": "arn:aws:s3:::${aws:username}" })),
        statement(&json!({ "Principal": "*" })),
        statement(&json!({ "Conditions": {} })),
        statement(&json!({ "Condition": [] })),
        condition("StringMatches", "aws:PrincipalArn", &json!("x")),
        condition("stringequals", "aws:PrincipalArn", &json!("x")),
        condition("NumericEquals", "aws:PrincipalArn", &json!("1")),
        condition("DateLessThan", "aws:CurrentTime", &json!("2020-01-01T00:00:00Z")),
        condition("IpAddress", "aws:SourceIp", &json!("10.0.0.0/8")),
        condition("NullIfExists", "aws:PrincipalArn", &json!("true")),
        condition("ForAllValues:Null", "aws:PrincipalArn", &json!("true")),
        condition("ForSomeValues:StringEquals", "aws:PrincipalArn", &json!("x")),
        condition("StringEqualsIfExistsIfExists", "aws:PrincipalArn", &json!("x")),
        condition("StringEquals", "aws:SourceIp", &json!("x")),
        condition("ForAllValues:StringEquals", "dynamodb:Attributes", &json!("x")),
        condition("StringEquals", "aws:PrincipalTag/", &json!("x")),
        condition("StringEquals", "PrincipalTag", &json!("x")),
        condition("StringEquals", "aws:PrincipalArn", &json!([])),
        condition("StringEquals", "aws:PrincipalArn", &json!(null)),
        condition("StringEquals", "aws:PrincipalArn", &json!({})),
        condition("Bool", "aws:SecureTransport", &json!("yes")),
        condition("Bool", "aws:SecureTransport", &json!("${aws:PrincipalTag/t}")),
        condition("Null", "aws:PrincipalArn", &json!(["true", "false"])),
        condition("ArnLike", "aws:PrincipalArn", &json!("*")),
        condition("ArnLike", "aws:PrincipalArn", &json!("arn:aws:iam::${aws:PrincipalAccount}:role/a")),
    ] {
        assert!(refused(open_trust(), policy.clone()).is_some(), "{policy}");
        assert!(SessionPolicy::parse(&policy.to_string()).is_err(), "{policy}");
    }
}

/// Promise: trust policies say who may assume a role, in forms that are known, and nothing else.
#[test]
fn trust_policies_are_checked() {
    let trust = |principal: Value, action: &str| {
        document(&json!({ "Effect": "Allow", "Principal": principal, "Action": action }))
    };
    let allowed = statement(&json!({}));
    for good in [
        trust(json!("*"), "sts:AssumeRole"),
        trust(json!({ "AWS": "*" }), "sts:*"),
        trust(json!({ "AWS": ["111122223333", "arn:aws:iam::111122223333:root"] }), "sts:TagSession"),
        trust(
            json!({ "AWS": "arn:aws:iam::111122223333:role/a", "Service": ["lambda.amazonaws.com"] }),
            "STS:AssumeRole",
        ),
        trust(json!({ "AWS": "arn:aws:sts::111122223333:assumed-role/a/b" }), "sts:AssumeRole"),
    ] {
        assert_eq!(refused(good.clone(), allowed.clone()), None, "{good}");
    }
    for bad in [
        trust(json!(null), "sts:AssumeRole"),
        trust(json!("arn:aws:iam::111122223333:root"), "sts:AssumeRole"),
        trust(json!({}), "sts:AssumeRole"),
        trust(json!({ "AWS": [] }), "sts:AssumeRole"),
        trust(json!({ "AWS": "arn:aws:iam::111122223333:role/*" }), "sts:AssumeRole"),
        trust(json!({ "AWS": "arn:aws:iam::111122223333:role/${aws:PrincipalTag/t}" }), "dynamodb:GetItem"),
        trust(json!({ "AWS": "arn:aws:iam::1:root" }), "sts:AssumeRole"),
        trust(json!({ "AWS": "AROAEXAMPLE" }), "sts:AssumeRole"),
        trust(json!({ "Federated": "cognito-identity.amazonaws.com" }), "sts:AssumeRole"),
        trust(json!({ "Service": "lambda" }), "sts:AssumeRole"),
        trust(json!({ "Service": 5 }), "sts:AssumeRole"),
        trust(json!("*"), "*"),
        trust(json!("*"), "iam:PassRole"),
        document(&json!({ "Effect": "Allow", "Principal": "*", "NotAction": "sts:TagSession" })),
        document(&json!({ "Effect": "Allow", "NotPrincipal": { "AWS": "*" }, "Action": "sts:AssumeRole" })),
        document(&json!({ "Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole", "Resource": "*" })),
        allowed.clone(),
    ] {
        assert!(refused(bad.clone(), allowed.clone()).is_some(), "{bad}");
    }
}

/// Promise: a refusal says which document, which statement, and why.
#[test]
fn refusals_say_where_and_why() {
    let iam = iam(std::sync::Arc::new(time::OffsetDateTime::now_utc));
    let bad = json!([
        { "Effect": "Allow", "Action": "a:b", "Resource": "*" },
        { "Effect": "Allow", "Action": "a:b", "Resource": "*", "Condition": { "IpAddress": { "aws:SourceIp": "::1" } } }
    ]);
    let error =
        iam.add_role(role("reader", open_trust(), [statement(&json!({})), document(&bad)])).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "policy 2 of role reader: statement 2: the emulator does not evaluate the condition operator \"IpAddress\""
    );
    for name in ["", "a/b", "a b", &"a".repeat(65)] {
        let error = iam.add_role(role(name, open_trust(), [])).expect_err("refused");
        assert!(error.to_string().contains("name"), "{error}");
    }
}
