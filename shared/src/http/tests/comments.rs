//! Comments: where they stand, what is refused, and that answers leave room for them.

use super::*;
use crate::{
    clock::Timestamp,
    model::{
        comment::MAX_COMMENT_CHARS,
        entry::{Author, CommitId, Entry, State},
        key::{MAX_NAME_BYTES, MAX_TAG_BYTES},
        refusal::{Refusal, RefusalReason},
        value::{ConfigValue, answer_bytes},
    },
    read::Fetched,
};

/// The comment of a request of each form, as far as that takes one.
fn comments(json: &str) -> [Result<Option<Comment>, Problem>; 3] {
    let event = |members: &str| event(json!({"body": format!("{{{members}, \"comment\": {json}}}")}));
    [
        event(r#""value": 1"#).json("").and_then(|(_, body): (_, PutBody)| body.comment()),
        event(r#""version": 1"#).json("").and_then(|(_, body): (_, RollbackBody)| body.comment()),
        event(r#""operations": []"#).json("").and_then(|(_, body): (_, TransactionBody)| body.comment()),
    ]
}

fn of_query(query: &str) -> Result<Option<Comment>, Problem> {
    event(json!({"rawQueryString": query})).query(&["comment"])?.comment()
}

fn text(comment: Result<Option<Comment>, Problem>) -> Option<String> {
    comment.unwrap().map(|comment| comment.as_str().to_owned())
}

/// A comment stands beside what is written, or in the query of a DELETE; without one, and with a
/// blank one, there is none.
#[test]
fn each_form_takes_a_comment() {
    for (json, query, expected) in [
        (r#""as asked in #42""#, "comment=as+asked%20in+%2342", Some("as asked in #42")),
        (r#""gr\u00f6\u00dfer 🦀""#, "comment=gr%C3%B6%C3%9Fer%20%F0%9F%A6%80", Some("größer 🦀")),
        (r#""100% a+b=c&d""#, "comment=100%25+a%2Bb=c%26d", Some("100% a+b=c&d")),
        (r#""""#, "comment=", None),
        (r#""  ""#, "comment", None),
        ("null", "", None),
    ] {
        for comment in comments(json) {
            assert_eq!(text(comment).as_deref(), expected, "{json}");
        }
        assert_eq!(text(of_query(query)).as_deref(), expected, "{query}");
    }
    let parsed: Result<(_, PutBody), _> = event(json!({"body": r#"{"value": 1}"#})).json("");
    assert_eq!(text(parsed.unwrap().1.comment()), None);
}

/// What is no comment is refused with the rule, as the problem of what it stands in; one that is
/// too long with both numbers.
#[test]
fn what_is_no_comment_is_refused() {
    let longest = "🦀".repeat(MAX_COMMENT_CHARS);
    for comment in comments(&format!("{longest:?}")) {
        assert_eq!(text(comment).as_ref(), Some(&longest));
    }
    let long = format!("{longest}!");
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("comment", &long).finish();
    for refused in comments(&format!("{long:?}")).into_iter().chain([of_query(&query)]) {
        let (status, body) = shown(refused.expect_err("too long"));
        assert_eq!((status, &body["type"]), (413, &json!("urn:tenantry:problem:too-large")));
        assert_eq!((&body["characters"], &body["limitCharacters"]), (&json!(257), &json!(256)));
        assert_eq!(body["detail"], "the comment has 257 characters; at most 256 are allowed");
    }
    for refused in comments(r#""a\nb""#) {
        let detail = refusal(refused);
        assert!(detail.starts_with("400 invalid-body: the comment holds the character U+000A; "), "{detail}");
    }
    for (json, detail) in [("7", "integer `7`"), ("{}", "map"), (r#"["a"]"#, "sequence"), (r#""\ud800""#, "hex escape")]
    {
        for refused in comments(json) {
            let refused = refusal(refused);
            assert!(refused.starts_with("400 invalid-body: ") && refused.contains(detail), "{json}: {refused}");
        }
    }
    for (query, detail) in [
        ("comment=a%1Bb", "the comment holds the character U+001B; "),
        ("comment=%0A", "the comment holds the character U+000A; "),
        ("comment=a&comment=b", "the query parameter comment stands twice"),
        ("Comment=a", "unknown query parameter \"Comment\"; accepted here: comment"),
        ("comment=%FF", "the query is not UTF-8"),
        ("comment=%C3&x", "the query is not UTF-8"),
    ] {
        let refused = refusal(of_query(query));
        assert!(refused.starts_with(&format!("400 invalid-parameter: {detail}")), "{query}: {refused}");
    }
    let elsewhere = refusal(event(json!({"rawQueryString": "comment=a"})).query(&[]));
    assert!(elsewhere.starts_with("400 invalid-parameter: unknown query parameter \"comment\""), "{elsewhere}");
}

/// Promise: whatever stands in an answer beside a value, the count that keeps answers below
/// Lambda's limit covers it.
#[test]
fn answers_leave_room_for_the_longest_entry() {
    let tag = format!("{}_", "t".repeat(MAX_TAG_BYTES - 1));
    let routes = TagRoutes::parse(&format!(r#"{{"{tag}": {{"store": "dynamodb"}}}}"#)).unwrap();
    let name = vec!["n".repeat(64); 10].join("/");
    assert_eq!(name.len(), MAX_NAME_BYTES);
    let most = 1_000_000_000_000_000_000;
    let value = ConfigValue::from_text("\"");
    for (author, comment) in ["\"", "\\", "\u{1}", "\u{7f}", "é", "🦀"].iter().zip(["\"", "\\", "é", "🦀", "🦀", "\""])
    {
        let entry = Entry {
            key: ConfigKey::parse(&format!("{tag}{name}"), &routes).unwrap(),
            version: Version::new(most),
            revision: Revision::new(most),
            author: Author::new(&author.repeat(1_000)),
            comment: Comment::parse(&comment.repeat(MAX_COMMENT_CHARS)).unwrap(),
            modified_at: Timestamp::from_millis(1_795_250_885_123),
            commit: CommitId::random(),
            state: State::Deleted,
            superseded: true,
            refusal: Some(Refusal {
                reason: RefusalReason::OldestVersionLabelled,
                since: Timestamp::from_millis(1_795_250_885_123),
            }),
        };
        let fetched = Fetched { entry, value: Some(value.clone()), withheld: true };
        for shown in [
            serde_json::to_string(&EntryView::from(&fetched)).unwrap(),
            serde_json::to_string(&VersionView::with_key(&fetched)).unwrap(),
        ] {
            let escaped = json!(format!("{shown},")).to_string().len() - 2;
            assert!(escaped <= answer_bytes(Some(&value)), "{escaped} bytes: {shown}");
        }
    }
}
