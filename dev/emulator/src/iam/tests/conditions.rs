//! Condition operators, with values and without.

use serde_json::{Value, json};

use super::super::condition::Condition;
use super::super::policy::Effect;
use super::context;

fn holds(condition: &Value, keys: &[(&str, &[&str])], effect: Effect) -> bool {
    Condition::parse(condition, true).expect("a condition").holds(&context(keys), effect)
}

/// Promise: operators compare as "IAM JSON policy elements: Condition operators" says.
#[test]
fn operators_compare_as_documented() {
    let tag = "aws:PrincipalTag/t";
    for (operator, policy, value, expected) in [
        ("StringEquals", json!("a"), "a", true),
        ("StringEquals", json!("a"), "A", false),
        ("StringEquals", json!("*"), "a", false),
        ("StringEquals", json!(["a", "b"]), "b", true),
        ("StringEquals", json!(["a", "b"]), "c", false),
        ("StringEquals", json!(5), "5", true),
        ("StringEquals", json!(true), "true", true),
        ("StringNotEquals", json!("a"), "b", true),
        ("StringNotEquals", json!("a"), "a", false),
        ("StringNotEquals", json!(["a", "b"]), "b", false),
        ("StringNotEquals", json!(["a", "b"]), "c", true),
        ("StringEqualsIgnoreCase", json!("Äb"), "äB", true),
        ("StringEqualsIgnoreCase", json!("a*"), "ab", false),
        ("StringNotEqualsIgnoreCase", json!("Ab"), "aB", false),
        ("StringNotEqualsIgnoreCase", json!("Ab"), "b", true),
        ("StringLike", json!("a*"), "abc", true),
        ("StringLike", json!("a*"), "Abc", false),
        ("StringLike", json!("a?"), "a", false),
        ("StringNotLike", json!("a*"), "abc", false),
        ("StringNotLike", json!("a*"), "b", true),
        ("ArnEquals", json!("arn:aws:iam::1:role/*"), "arn:aws:iam::1:role/a", true),
        ("ArnLike", json!("arn:aws:iam::1:role/*"), "arn:aws:iam::1:role/a", true),
        ("ArnLike", json!("arn:aws:iam::1:role/*"), "arn:aws:iam::1:user/a", false),
        ("ArnLike", json!("arn:aws:iam::*:role/a"), "arn:aws:iam::1:x:role/a", false),
        ("ArnLike", json!("arn:aws:iam::1:role/*"), "no ARN", false),
        ("ArnNotEquals", json!("arn:aws:iam::1:role/*"), "arn:aws:iam::1:role/a", false),
        ("ArnNotLike", json!("arn:aws:iam::1:role/*"), "arn:aws:iam::1:user/a", true),
        ("Bool", json!("true"), "true", true),
        ("Bool", json!(true), "true", true),
        ("Bool", json!("True"), "tRUE", true),
        ("Bool", json!("false"), "true", false),
        ("Null", json!("false"), "a", true),
        ("Null", json!("true"), "a", false),
        ("Null", json!(false), "", true),
        // A value that is there is compared, IfExists or not.
        ("StringEqualsIfExists", json!("a"), "b", false),
        ("StringNotEqualsIfExists", json!("a"), "a", false),
        ("BoolIfExists", json!("true"), "false", false),
        ("ArnLikeIfExists", json!("arn:aws:iam::1:role/*"), "arn:aws:iam::1:user/a", false),
    ] {
        for effect in [Effect::Allow, Effect::Deny] {
            let found = holds(&json!({ operator: { tag: policy } }), &[(tag, &[value])], effect);
            assert_eq!(found, expected, "{operator} {policy} {value}");
        }
    }
}

/// Promise: a key that is absent decides as documented: "Condition operators" (positive ones false,
/// negated ones true, `IfExists` true, `Null`), "Multivalued context keys" (`ForAllValues` true,
/// `ForAnyValue` false). No values at all are an absent key.
#[test]
fn absent_keys_decide_as_documented() {
    let arn = "arn:aws:iam::1:role/a";
    let operators = [
        ("StringEquals", false, "a"),
        ("StringNotEquals", true, "a"),
        ("StringEqualsIgnoreCase", false, "a"),
        ("StringNotEqualsIgnoreCase", true, "a"),
        ("StringLike", false, "*"),
        ("StringNotLike", true, "*"),
        ("ArnEquals", false, arn),
        ("ArnLike", false, arn),
        ("ArnNotEquals", true, arn),
        ("ArnNotLike", true, arn),
        ("Bool", false, "false"),
    ];
    for (operator, negated, value) in operators {
        for (name, expected) in [
            (operator.to_owned(), negated),
            (format!("{operator}IfExists"), true),
            (format!("ForAllValues:{operator}"), true),
            (format!("ForAllValues:{operator}IfExists"), true),
            (format!("ForAnyValue:{operator}"), false),
            // IfExists is looked for at each value, and there is none (AWS re:Post; not
            // documented).
            (format!("ForAnyValue:{operator}IfExists"), false),
        ] {
            let condition = json!({ &name: { "dynamodb:LeadingKeys": value } });
            for effect in [Effect::Allow, Effect::Deny] {
                assert_eq!(holds(&condition, &[], effect), expected, "{name}");
                assert_eq!(holds(&condition, &[("dynamodb:LeadingKeys", &[])], effect), expected, "{name}");
            }
        }
    }
    for (value, expected) in [("true", true), ("false", false)] {
        assert_eq!(holds(&json!({ "Null": { "dynamodb:LeadingKeys": value } }), &[], Effect::Allow), expected);
    }
}

/// Promise: sets of values are compared as "Multivalued context keys" says, and an operator for one
/// value takes any match.
#[test]
fn several_values_are_compared_as_documented() {
    for (operator, policy, values, expected) in [
        ("ForAllValues:StringEquals", json!(["a", "b"]), ["a", "b"], true),
        ("ForAllValues:StringEquals", json!(["a", "b"]), ["a", "a"], true),
        ("ForAllValues:StringEquals", json!(["a", "b"]), ["a", "c"], false),
        ("ForAllValues:StringEquals", json!("a"), ["a", "b"], false),
        ("ForAllValues:StringNotEquals", json!(["a", "b"]), ["c", "d"], true),
        ("ForAllValues:StringNotEquals", json!(["a", "b"]), ["a", "c"], false),
        ("ForAllValues:StringLike", json!("a*"), ["a1", "a2"], true),
        ("ForAnyValue:StringEquals", json!(["a", "b"]), ["b", "c"], true),
        ("ForAnyValue:StringEquals", json!(["a", "b"]), ["c", "d"], false),
        ("ForAnyValue:StringNotEquals", json!(["a", "b"]), ["a", "c"], true),
        ("ForAnyValue:StringNotEquals", json!(["a", "b"]), ["a", "b"], false),
        ("StringEquals", json!("a"), ["a", "b"], true),
        ("StringEquals", json!("a"), ["b", "c"], false),
        ("StringNotEquals", json!("a"), ["a", "b"], false),
        ("StringNotEquals", json!("a"), ["b", "c"], true),
        ("Null", json!("false"), ["a", "b"], true),
    ] {
        let condition = json!({ operator: { "dynamodb:LeadingKeys": policy } });
        let found = holds(&condition, &[("dynamodb:LeadingKeys", &values)], Effect::Allow);
        assert_eq!(found, expected, "{operator} {policy} {values:?}");
    }
}

/// Promise: all keys under all operators must hold; the case of keys does not count ("Conditions
/// with multiple context keys or values").
#[test]
fn all_tests_must_hold() {
    let keys: &[(&str, &[&str])] = &[("aws:PrincipalTag/A", &["1"]), ("aws:PrincipalTag/B", &["2"])];
    for (condition, expected) in [
        (json!({}), true),
        (json!({ "StringEquals": { "aws:PrincipalTag/A": "1", "aws:PrincipalTag/B": "2" } }), true),
        (json!({ "StringEquals": { "aws:PrincipalTag/A": "1", "aws:PrincipalTag/B": "1" } }), false),
        (json!({ "StringEquals": { "AWS:principaltag/a": "1" }, "StringLike": { "aws:PrincipalTag/B": "*" } }), true),
        (json!({ "StringEquals": { "aws:PrincipalTag/A": "1" }, "Bool": { "aws:PrincipalTag/B": "true" } }), false),
    ] {
        assert_eq!(holds(&condition, keys, Effect::Allow), expected, "{condition}");
    }
}

/// Promise: a variable without a value matches nothing, and where the lack of a match would allow
/// something, it does not.
#[test]
fn variables_without_a_value_fail_closed() {
    let gone = "${aws:PrincipalTag/gone}";
    let keys: &[(&str, &[&str])] = &[("dynamodb:LeadingKeys", &["a"])];
    for (operator, policy, allows, denies) in [
        ("StringEquals", json!(gone), false, false),
        ("StringEquals", json!([gone, "a"]), true, true),
        ("StringLike", json!(format!("*{gone}*")), false, false),
        ("StringNotEquals", json!(gone), false, true),
        ("StringNotEquals", json!([gone, "b"]), false, true),
        ("StringNotEquals", json!([gone, "a"]), false, false),
        ("StringNotLike", json!(gone), false, true),
        ("ArnNotLike", json!(format!("arn:aws:iam::1:role/{gone}")), false, true),
        ("ForAllValues:StringEquals", json!(gone), false, false),
        ("ForAllValues:StringNotEquals", json!(gone), false, true),
        ("ForAnyValue:StringNotEquals", json!(gone), false, true),
        ("StringNotEquals", json!("${aws:PrincipalTag/gone, 'b'}"), true, true),
    ] {
        let condition = json!({ operator: { "dynamodb:LeadingKeys": policy } });
        assert_eq!(holds(&condition, keys, Effect::Allow), allows, "Allow {operator} {policy}");
        assert_eq!(holds(&condition, keys, Effect::Deny), denies, "Deny {operator} {policy}");
    }
    // The same if the key is absent, too.
    let condition = json!({ "StringNotEquals": { "dynamodb:LeadingKeys": gone } });
    assert!(!holds(&condition, &[], Effect::Allow));
    assert!(holds(&condition, &[], Effect::Deny));
}
