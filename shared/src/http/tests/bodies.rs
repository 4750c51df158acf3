//! Request bodies.

use proptest::prelude::*;

use super::*;

fn parse<T: serde::de::DeserializeOwned>(body: &str) -> Result<T, Problem> {
    event(json!({"body": body})).json("{…}").map(|(_, parsed)| parsed)
}

fn put(body: &str) -> Result<String, Problem> {
    parse::<PutBody>(body).and_then(|body| body.value()).map(|value| value.as_json().to_owned())
}

fn operation(members: &str) -> Result<Option<String>, Problem> {
    let body: TransactionBody = parse(&format!(r#"{{"operations": [{members}]}}"#))?;
    let operation = body.operations().next().unwrap()?;
    Ok(operation.value()?.map(|value| value.as_json().to_owned()))
}

fn batch(body: &str) -> Result<Vec<String>, Problem> {
    parse::<BatchGetBody>(body)?.keys().collect()
}

/// Any JSON value can be put, `null` too.
#[test]
fn any_json_value_is_a_value() {
    for (body, value) in [
        (r#"{"value": null}"#, "null"),
        (r#"{"value": 0}"#, "0"),
        (r#"{"value": ""}"#, "\"\""),
        (" \n{\"value\" : { \"b\" : 1 , \"a\" : [ ] } }\t", r#"{"b":1,"a":[]}"#),
        (r#"{"\u0076alue": 1.50}"#, "1.50"),
        // Before JSON it is the mark of a program; within, it is the user's.
        ("\u{feff}{\"value\": \"\u{feff}\"}", "\"\u{feff}\""),
    ] {
        assert_eq!(put(body).unwrap(), value, "{body}");
        let encoded = event(json!({"body": BASE64_STANDARD.encode(body), "isBase64Encoded": true}));
        let (_, parsed): (_, PutBody) = encoded.json("{…}").unwrap();
        assert_eq!(parsed.value().unwrap().as_json(), value, "{body} in base64");
    }
}

/// A body with a content coding is refused as such, with what would be taken (RFC 9110, 15.5.16),
/// rather than as bad JSON.
#[test]
fn encoded_bodies_are_refused_by_their_coding() {
    let with = |coding: &str, body: &str| {
        let members = json!({"headers": {"content-encoding": coding}, "body": body, "isBase64Encoded": true});
        event(members).body()
    };
    let packed = BASE64_STANDARD.encode([0x1f, 0x8b, 8, 0]);
    for (coding, shown_coding) in [("gzip", "gzip"), ("GZIP", "GZIP"), ("identity, br", "br"), (",zstd,", "zstd")] {
        let problem = with(coding, &packed).unwrap_err();
        let answer = with(coding, &packed).unwrap_err().answer();
        assert_eq!(answer.headers["accept-encoding"], "identity");
        let expected = format!(
            "415 unsupported-media-type: the body has the content coding {shown_coding:?}; send it as it is, without Content-Encoding"
        );
        assert_eq!(refusal::<()>(Err(problem)), expected);
    }
    for coding in ["", "identity", "Identity , ,identity"] {
        assert_eq!(with(coding, "e30=").unwrap(), "{}", "{coding}");
    }
    assert_eq!(with("gzip", "").unwrap(), "", "nothing is encoded in no way");
    assert!(refusal(with(&"x".repeat(9_000), &packed)).len() < 200);
}

/// A body is an object of exactly the known members, each once, with a value that every reader
/// reads alike.
#[test]
fn bodies_of_another_form_are_refused() {
    for (body, expected) in [
        ("", "400 invalid-body: the body is not a JSON object of the form {…}: EOF"),
        ("{", "400 invalid-body: "),
        ("{}", "400 invalid-body: the body is not a JSON object of the form {…}: missing field `value`"),
        (
            "null",
            "400 invalid-body: the body is not a JSON object of the form {…}: invalid type: null, expected an object",
        ),
        ("7", "400 invalid-body: "),
        (r#""x""#, "400 invalid-body: "),
        // An array of the members' values, which serde's derived code would take.
        (
            "[7]",
            "400 invalid-body: the body is not a JSON object of the form {…}: invalid type: sequence, expected an object",
        ),
        (r#"[{"value": 7}]"#, "400 invalid-body: "),
        (
            r#"{"value": 1, "valeu": 2}"#,
            "400 invalid-body: the body is not a JSON object of the form {…}: unknown field `valeu`",
        ),
        (r#"{"Value": 1}"#, "400 invalid-body: "),
        (
            r#"{"value": 1, "value": 2}"#,
            "400 invalid-body: the body is not a JSON object of the form {…}: duplicate field `value`",
        ),
        (r#"{"value": 1} {}"#, "400 invalid-body: "),
        (r#"{"value": 1,}"#, "400 invalid-body: "),
        (r#"{"value": NaN}"#, "400 invalid-body: "),
        (r#"{"value": 'x'}"#, "400 invalid-body: "),
        ("\u{feff}\u{feff}{\"value\": 1}", "400 invalid-body: "),
        ("{\u{feff}\"value\": 1}", "400 invalid-body: "),
        (
            r#"{"value": {"a": 1, "a": 2}}"#,
            "400 invalid-value: the value is not acceptable JSON: the member \"a\" stands twice",
        ),
        (r#"{"value": 0.10000000000000000555}"#, "400 invalid-value: the value holds the number 0.1"),
    ] {
        let refusal = refusal(put(body));
        assert!(refusal.starts_with(expected), "{body}: {refusal}");
    }
    let deep = format!(r#"{{"value": {}{}}}"#, "[".repeat(33), "]".repeat(33));
    assert!(refusal(put(&deep)).starts_with("400 invalid-value: "));
    let bottomless = format!(r#"{{"value": {}"#, "[".repeat(100_000));
    assert!(refusal(put(&bottomless)).starts_with("400 invalid-"));
}

/// What a refusal repeats of a body stays short: an answer longer than Lambda passes on would be an
/// error of ours.
#[test]
fn refusals_of_huge_bodies_are_short() {
    let huge = "x".repeat(1_000_000);
    let bodies = [format!(r#"{{"{huge}": 1}}"#), format!("{huge:?}"), format!(r#"{{"version": {huge:?}}}"#)];
    for body in &bodies {
        assert!(refusal(put(body)).len() < 500);
        assert!(refusal(parse::<RollbackBody>(body)).len() < 500);
        assert!(refusal(batch(body)).len() < 500);
    }
    let answer = |result: Result<_, Problem>| shown(result.unwrap_err()).1.to_string();
    assert!(answer(operation(&format!(r#"{{"op": {huge:?}, "key": {huge:?}}}"#))).len() < 500);
    assert!(answer(operation(&format!(r#"{{"op": "put", "key": 1, "value": {huge:?}}}"#))).len() < 500);
    assert!(refusal(put(&format!(r#"{{"value": {{"{huge}": 1, "{huge}": 2}}}}"#))).len() < 500);
    assert!(refusal(put(&format!(r#"{{"value": 1{}1}}"#, "0".repeat(1_000_000)))).len() < 500);
}

/// A version is a whole number from 1 on.
#[test]
fn rollbacks_name_a_version() {
    let version = |body: &str| parse::<RollbackBody>(body).and_then(|body| body.version()).map(Version::get);
    assert_eq!(version(r#"{"version": 1}"#).unwrap(), 1);
    assert_eq!(version(r#"{"version": 1000000000000000000}"#).unwrap(), 1_000_000_000_000_000_000);
    for body in [
        r#"{"version": 0}"#,
        r#"{"version": -1}"#,
        r#"{"version": 1.0}"#,
        r#"{"version": 1e0}"#,
        r#"{"version": "1"}"#,
        r#"{"version": null}"#,
        r#"{"version": 1000000000000000001}"#,
        r#"{"version": 18446744073709551616}"#,
        r#"{"version": 1, "force": true}"#,
        "{}",
        "[1]",
    ] {
        assert!(refusal(version(body)).starts_with("400 invalid-body: "), "{body}");
    }
}

/// A batch names its keys as a list of texts.
#[test]
fn batches_name_keys() {
    assert_eq!(batch(r#"{"keys": ["a", "b"]}"#).unwrap(), ["a", "b"]);
    for body in [
        "{}",
        r#"{"keys": "a"}"#,
        r#"{"keys": [1]}"#,
        r#"{"keys": null}"#,
        r#"{"keys": [], "all": true}"#,
        r#"[["a"]]"#,
    ] {
        assert!(refusal(batch(body)).starts_with("400 invalid-body: "), "{body}");
    }
}

/// What is wrong with one item of a list is said with its position, and its key where it names one.
/// However many items a body has, they are counted.
#[test]
fn the_item_that_is_wrong_is_named() {
    let operations = |items: &str| -> Result<Vec<OperationBody>, Problem> {
        parse::<TransactionBody>(&format!(r#"{{"operations": [{items}]}}"#))?.operations().collect()
    };
    let good = r#"{"op": "delete", "key": "a"}"#;
    for (item, key, detail) in [
        (r#"{"op": "patch", "key": "k"}"#, Some("k"), "operations[1] is not of its form: unknown variant `patch`"),
        (r#"{"op": "delete", "key": "k", "if": 1}"#, Some("k"), "unknown field `if`"),
        (r#"{"key": "k"}"#, Some("k"), "missing field `op`"),
        (r#"{"op": "delete"}"#, None, "missing field `key`"),
        (r#"{"op": "delete", "key": "k", "key": "l"}"#, None, "duplicate field `key`"),
        (r#"["delete", "k"]"#, None, "expected an object"),
        ("7", None, "expected an object"),
    ] {
        let (status, body) = shown(operations(&format!("{good}, {item}, {good}")).unwrap_err());
        assert_eq!((status, &body["index"], body["key"].as_str()), (400, &json!(1), key), "{item}");
        assert!(body["detail"].as_str().unwrap().contains(detail), "{item}: {body}");
    }
    let (_, body) = shown(batch(r#"{"keys": ["a", "b", 7]}"#).unwrap_err());
    assert_eq!((&body["index"], body.get("key")), (&json!(2), None));

    let many = vec!["0"; 100_000].join(",");
    assert_eq!(parse::<BatchGetBody>(&format!(r#"{{"keys": [{many}]}}"#)).unwrap().count(), 100_000);
    assert_eq!(parse::<TransactionBody>(&format!(r#"{{"operations": [{many}]}}"#)).unwrap().count(), 100_000);
    assert!(refusal(parse::<BatchGetBody>(&format!(r#"{{"keys": [{many},]}}"#))).starts_with("400 invalid-body: "));
}

/// A put has a value, `null` counting as one; a delete has none.
#[test]
fn puts_have_a_value_and_deletes_have_none() {
    for (members, value) in [
        (r#"{"op": "put", "key": "k", "value": 1}"#, Some("1")),
        (r#"{"op": "put", "key": "k", "value": null}"#, Some("null")),
        (r#"{"op": "put", "key": "k", "value": 1, "ifMatch": "\"1\"", "ifNoneMatch": "*"}"#, Some("1")),
        (r#"{"op": "delete", "key": "k"}"#, None),
        (r#"{"op": "delete", "key": "k", "ifMatch": "*"}"#, None),
    ] {
        assert_eq!(operation(members).unwrap().as_deref(), value, "{members}");
    }
    for (members, detail) in [
        (r#"{"op": "put", "key": "k"}"#, "the put of \"k\" has no value"),
        (r#"{"op": "delete", "key": "k", "value": 1}"#, "the delete of \"k\" has a value"),
        (r#"{"op": "delete", "key": "k", "value": null}"#, "the delete of \"k\" has a value"),
        (r#"{"op": "rollback", "key": "k"}"#, "unknown variant `rollback`"),
        (r#"{"op": "PUT", "key": "k", "value": 1}"#, "unknown variant `PUT`"),
        (r#"{"op": "put", "value": 1}"#, "missing field `key`"),
        (r#"{"key": "k", "value": 1}"#, "missing field `op`"),
        (r#"{"op": "put", "key": "k", "value": 1, "if-match": "*"}"#, "unknown field `if-match`"),
        (r#"{"op": "put", "key": "k", "value": 1, "if_match": "*"}"#, "unknown field `if_match`"),
        (r#"{"op": "put", "op": "delete", "key": "k"}"#, "duplicate field `op`"),
        (r#"{"op": "put", "key": 7, "value": 1}"#, "invalid type: integer `7`"),
        (r#"["put", "k", 1, null, null]"#, "invalid type: sequence, expected an object"),
    ] {
        let refusal = refusal(operation(members));
        assert!(refusal.starts_with("400 invalid-body: ") && refusal.contains(detail), "{members}: {refusal}");
    }
    for body in
        ["{}", "[[]]", r#"{"operations": {}}"#, r#"{"operations": null}"#, r#"{"operations": [], "atomic": false}"#]
    {
        assert!(refusal(parse::<TransactionBody>(body)).starts_with("400 invalid-body: "), "{body}");
    }
}

/// API Gateway encodes bodies that it takes for binary; what is then no text is the client's
/// mistake.
#[test]
fn encoded_bodies_are_decoded() {
    let body = |text: &str, encoded: bool| event(json!({"body": text, "isBase64Encoded": encoded})).body();
    let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    assert_eq!(body(&encode("{\"ä\": 1}".as_bytes()), true).unwrap(), "{\"ä\": 1}");
    assert_eq!(body("", true).unwrap(), "");
    assert_eq!(body("e30=", false).unwrap(), "e30=", "only where the event says so");
    for (text, detail) in [
        ("e30", "the body is marked as base64 and is not"),
        ("e3 0=", "the body is marked as base64 and is not"),
        ("{}", "the body is marked as base64 and is not"),
        ("e30_", "the body is marked as base64 and is not"),
        (encode(&[0xff, 0xfe]).as_str(), "the body is not UTF-8; send JSON"),
        (encode(&[b'"', 0xed, 0xa0, 0x80, b'"']).as_str(), "the body is not UTF-8; send JSON"),
    ] {
        assert_eq!(refusal(body(text, true)), format!("400 invalid-body: {detail}"), "{text}");
    }
}

/// The text that was parsed comes along, for the request's hash.
#[test]
fn the_text_of_a_body_comes_with_it() {
    let (text, _): (_, PutBody) = event(json!({"body": "{ \"value\": 1 }"})).json("{…}").unwrap();
    assert_eq!(text, "{ \"value\": 1 }");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a client sends as a body is understood or refused as its own mistake.
    #[test]
    fn no_body_is_our_fault(
        noise in "(\\PC|[\\x00-\\x1f]){0,30}",
        json in "\\{?(\"(value|version|keys|operations|op|key)\"|[:,\\[\\]{}]|null|-?[0-9]{1,22}(\\.[0-9]{1,20})?(e-?[0-9]{1,3})?|\"\\PC{0,3}\"){0,12}\\}?",
        encoded in any::<bool>(),
    ) {
        for text in [noise, json] {
            let event = event(json!({"body": text, "isBase64Encoded": encoded}));
            let mut problems = Vec::new();
            problems.extend(event.json::<PutBody>("").and_then(|(_, body)| body.value()).err());
            problems.extend(event.json::<RollbackBody>("").and_then(|(_, body)| body.version()).err());
            match event.json::<BatchGetBody>("") {
                Ok((_, body)) => problems.extend(body.keys().filter_map(Result::err)),
                Err(problem) => problems.push(problem),
            }
            match event.json::<TransactionBody>("") {
                Ok((_, body)) => problems.extend(body.operations().filter_map(|one| one.and_then(|one| one.value()).err())),
                Err(problem) => problems.push(problem),
            }
            for problem in problems {
                prop_assert_eq!(shown(problem).0, 400);
            }
        }
    }
}
