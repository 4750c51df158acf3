//! Wildcards and policy variables.

use super::super::pattern::{Pattern, Syntax};
use super::context;

const ALL: Syntax = Syntax { wildcards: true, variables: true };
const WILDCARDS: Syntax = Syntax { wildcards: true, variables: false };
const VARIABLES: Syntax = Syntax { wildcards: false, variables: true };

/// Promise: wildcards and variables mean what "IAM policy elements: Variables and tags" and "IAM
/// JSON policy elements: Resource" say, and a tag's value is never more than its letters.
#[test]
fn patterns_match_as_documented() {
    let none: &[&str] = &[];
    for (pattern, syntax, tag, text, expected) in [
        ("", ALL, none, "", true),
        ("", ALL, none, "a", false),
        ("a", ALL, none, "a", true),
        ("a", ALL, none, "A", false),
        ("a", ALL, none, "", false),
        ("*", ALL, none, "", true),
        ("*", ALL, none, "a:b/c", true),
        ("?", ALL, none, "a", true),
        ("?", ALL, none, "ä", true),
        ("?", ALL, none, "", false),
        ("?", ALL, none, "ab", false),
        ("a*", ALL, none, "a", true),
        ("a*c", ALL, none, "abbc", true),
        ("a*c", ALL, none, "abcb", false),
        ("*ab*ab", ALL, none, "abxabab", true),
        ("*ab?ab", ALL, none, "abab", false),
        ("**?", ALL, none, "a", true),
        ("a?*", ALL, none, "a", false),
        // Without wildcards they are letters.
        ("*", VARIABLES, none, "*", true),
        ("*", VARIABLES, none, "a", false),
        ("?", VARIABLES, none, "a", false),
        // Variables: the value, its whole value and nothing but its value.
        ("t/${aws:PrincipalTag/Id}/*", ALL, &["acme"], "t/acme/x", true),
        ("t/${aws:PrincipalTag/Id}/*", ALL, &["acme"], "t/acme2/x", false),
        ("t/${aws:PrincipalTag/Id}/*", ALL, &["acme"], "t/globex/x", false),
        ("t/${aws:principaltag/ID}/*", ALL, &["acme"], "t/acme/x", true),
        ("t/${aws:PrincipalTag/Id}/*", ALL, &[""], "t//x", true),
        ("${aws:PrincipalTag/Id}", ALL, &["*"], "*", true),
        ("${aws:PrincipalTag/Id}", ALL, &["*"], "acme", false),
        ("${aws:PrincipalTag/Id}", ALL, &["?"], "a", false),
        ("${aws:PrincipalTag/Id}", ALL, &["a?c"], "abc", false),
        ("${aws:PrincipalTag/Id}", ALL, &["a*"], "a*", true),
        ("${aws:PrincipalTag/Id}", ALL, &["${aws:PrincipalAccount}"], "${aws:PrincipalAccount}", true),
        ("${aws:PrincipalTag/Id}", ALL, &["${aws:PrincipalAccount}"], "111122223333", false),
        ("${aws:PrincipalTag/Id}*", ALL, &["*"], "acme", false),
        ("${aws:PrincipalTag/Id}*", ALL, &["*"], "*cme", true),
        // Without a value there is no match, not even with nothing.
        ("t/${aws:PrincipalTag/Id}", ALL, none, "t/", false),
        ("*${aws:PrincipalTag/Id}", ALL, none, "t/", false),
        // Several values are none.
        ("${aws:PrincipalTag/Id}", ALL, &["a", "b"], "a", false),
        // Defaults are for what has no value, and are literal.
        ("${aws:PrincipalTag/Id, 'nobody'}", ALL, none, "nobody", true),
        ("${aws:PrincipalTag/Id,'nobody'}", ALL, none, "nobody", true),
        ("${aws:PrincipalTag/Id, 'nobody'}", ALL, &["acme"], "acme", true),
        ("${aws:PrincipalTag/Id, 'nobody'}", ALL, &["acme"], "nobody", false),
        ("${aws:PrincipalTag/Id, '*'}", ALL, none, "acme", false),
        ("${aws:PrincipalTag/Id, ''}", ALL, none, "", true),
        // Special characters.
        ("a${*}", ALL, none, "a*", true),
        ("a${*}", ALL, none, "ab", false),
        ("a${?}", ALL, none, "a?", true),
        ("a${?}", ALL, none, "ab", false),
        ("${$}{aws:PrincipalTag/Id}", ALL, &["acme"], "${aws:PrincipalTag/Id}", true),
        ("a$b", ALL, none, "a$b", true),
        ("a}b{", ALL, none, "a}b{", true),
        // Older documents know no variables.
        ("${aws:PrincipalTag/Id}", WILDCARDS, &["acme"], "acme", false),
        ("${aws:PrincipalTag/Id}", WILDCARDS, &["acme"], "${aws:PrincipalTag/Id}", true),
    ] {
        let context = context(&[("aws:PrincipalTag/Id", tag), ("aws:PrincipalAccount", &["111122223333"])]);
        let found = Pattern::parse(pattern, syntax).expect(pattern).resolve(&context);
        assert_eq!(found.is_some_and(|found| found.matches(text)), expected, "{pattern} {tag:?} {text}");
    }
}

/// Promise: what looks like a variable and is none is refused, not taken literally.
#[test]
fn broken_variables_are_refused() {
    for pattern in [
        "${",
        "${aws:PrincipalTag/Id",
        "${}",
        "${username}",
        "${aws:PrincipalTag/}",
        "${aws:username}",
        "${aws:CurrentTime}",
        "${ aws:PrincipalArn}",
        "${aws:PrincipalArn }",
        "${aws:PrincipalArn, nobody}",
        "${aws:PrincipalArn, 'nobody}",
        "${aws:PrincipalArn, 'no'body'}",
        "${aws:PrincipalTag/${aws:PrincipalAccount}}",
        "${aws:PrincipalTag/*}",
    ] {
        assert!(Pattern::parse(pattern, ALL).is_err(), "{pattern}");
    }
}

/// Promise: in ARN conditions no wildcard crosses a colon of the first five ("Amazon Resource Name
/// (ARN) condition operators").
#[test]
fn arns_match_part_by_part() {
    let pattern = "arn:aws:someservice:*:111122223333:finance/*";
    for (pattern, arn, expected) in [
        (pattern, "arn:aws:someservice:us-east-2:111122223333:finance/a", true),
        (pattern, "arn:aws:someservice:us-east-2:111122223333:finance/a:b:c", true),
        (pattern, "arn:aws:someservice:us-east-2:999999999999:store/abc:111122223333:finance/document.txt", false),
        (pattern, "arn:aws:someservice:us-east-2:111122223333", false),
        ("arn:aws:iam::*:role/a?", "arn:aws:iam::1:role/ab", true),
        ("arn:aws:iam::*:role/a?", "arn:aws:iam::1:role/A?", false),
        ("arn:aws:iam::*:role/a", "a", false),
    ] {
        let found = Pattern::parse(pattern, ALL).expect(pattern).resolve(&context(&[])).expect("no variables");
        assert_eq!(found.matches_arn(arn), expected, "{pattern} {arn}");
    }
}

/// Promise: a long text against many wildcards takes a time that nobody notices; the pattern comes
/// from a caller's session policy.
#[test]
fn many_wildcards_take_no_time() {
    let pattern = Pattern::parse(&"*a".repeat(1_000), ALL).expect("a pattern");
    let resolved = pattern.resolve(&context(&[])).expect("no variables");
    assert!(!resolved.matches(&"ab".repeat(900)));
    assert!(resolved.matches(&"ba".repeat(1_000)));
}
