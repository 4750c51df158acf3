//! Paths, queries and headers.

use proptest::prelude::*;

use super::*;

const PREFIX: &str = "/v1/config/";

fn key_at(raw_path: &str, parameter: Option<&str>) -> Result<String, String> {
    let parameters = parameter.map(|key| json!({"key": key}));
    let event = event(json!({"rawPath": raw_path, "pathParameters": parameters}));
    match event.key(PREFIX, &TagRoutes::default()) {
        Ok(key) => Ok(key.to_string()),
        refused => Err(refusal(refused)),
    }
}

/// A key in the path is decoded exactly once, and what API Gateway made of it must agree.
#[test]
fn a_key_is_decoded_exactly_once() {
    for (path, parameter, expected) in [
        ("tenant_config_a", None, "tenant_config_a"),
        ("tenant_config_a", Some("tenant_config_a"), "tenant_config_a"),
        ("param_config_db/primary/host", Some("param_config_db/primary/host"), "param_config_db/primary/host"),
        ("param_config_db%2Fhost", Some("param_config_db/host"), "param_config_db/host"),
        ("param_config_db%2fhost", None, "param_config_db/host"),
        ("%74enant_config_a", None, "tenant_config_a"),
    ] {
        assert_eq!(key_at(&format!("{PREFIX}{path}"), parameter).as_deref(), Ok(expected), "{path} {parameter:?}");
    }
}

/// Whatever could be read in two ways, or is no key after one decoding, is refused; nothing is
/// trimmed, resolved or decoded again.
#[test]
fn ambiguous_and_malformed_keys_are_refused() {
    const AMBIGUOUS: &str = "400 invalid-key: the key in the path is encoded ambiguously";
    const SEGMENT: &str = "400 invalid-key: segment ";
    const UNKNOWN: &str = "400 invalid-key: the key starts with no known tag";
    for (path, parameter, expected) in [
        ("param_config_a%252Fb", None, SEGMENT),
        ("param_config_a%252Fb", Some("param_config_a/b"), AMBIGUOUS),
        ("param_config_a%252Fb", Some("param_config_a%2Fb"), SEGMENT),
        ("param_config_a%2Fb", Some("param_config_a%2Fb"), AMBIGUOUS),
        ("tenant_config_a", Some("tenant_config_b"), AMBIGUOUS),
        ("tenant_config_a", Some(""), AMBIGUOUS),
        ("tenant_config_a", Some("tenant_config_a/"), AMBIGUOUS),
        ("tenant_config_%ff", None, AMBIGUOUS),
        ("tenant_config_%c3%28", None, AMBIGUOUS),
        ("tenant_config_a/", None, SEGMENT),
        ("tenant_config_a//b", None, SEGMENT),
        ("tenant_config_a%00", None, SEGMENT),
        ("tenant_config_a\0", None, SEGMENT),
        ("tenant_config_a+b", None, SEGMENT),
        ("tenant_config_a%20b", None, SEGMENT),
        ("tenant_config_a%", None, SEGMENT),
        ("tenant_config_%zz", None, SEGMENT),
        ("tenant_config_a/../b", None, SEGMENT),
        ("tenant_config_a/%2e%2e/b", None, SEGMENT),
        ("tenant_config_a/..", None, SEGMENT),
        ("tenant_config_a/.", None, SEGMENT),
        ("tenant_config_a#b", None, SEGMENT),
        ("tenant_config_a%23b", None, SEGMENT),
        ("tenant_config_a:3", None, SEGMENT),
        ("tenant_config_ä", None, SEGMENT),
        ("tenant_config_", None, "400 invalid-key: the key is only a tag"),
        ("", None, UNKNOWN),
        ("/tenant_config_a", None, UNKNOWN),
        ("../history/tenant_config_a", None, UNKNOWN),
        ("TENANT_config_a", None, UNKNOWN),
    ] {
        let refusal = key_at(&format!("{PREFIX}{path}"), parameter).expect_err(path);
        assert!(refusal.starts_with(expected), "{path:?} {parameter:?}: {refusal}");
    }
    assert!(key_at("/v1/elsewhere/tenant_config_a", None).expect_err("another path").starts_with(UNKNOWN));
}

/// The stage stands in front of the path unless it is `$default`; what only looks like it stays.
#[test]
fn the_stage_is_no_part_of_the_path() {
    for (stage, raw_path, path) in [
        (json!("$default"), "/v1/config/x", "/v1/config/x"),
        (json!(null), "/v1/config/x", "/v1/config/x"),
        (json!("prod"), "/prod/v1/config/x", "/v1/config/x"),
        (json!("prod"), "/v1/config/x", "/v1/config/x"),
        (json!("prod"), "/production/v1/config/x", "/production/v1/config/x"),
        (json!("prod"), "/prod", "/prod"),
        (json!("prod"), "/prod/prod/x", "/prod/x"),
        (json!("prod"), "prod/x", "prod/x"),
        (json!(""), "/v1", "/v1"),
        (json!(""), "//v1", "/v1"),
        (json!("prod"), "", ""),
    ] {
        let context = json!({"stage": stage, "http": {"method": "GET"}});
        let event = event(json!({"rawPath": raw_path, "requestContext": context}));
        assert_eq!(event.path(), path, "{stage} {raw_path}");
    }
}

/// Query parameters are known ones, each once; a misspelt one would otherwise be an answer to
/// another question.
#[test]
fn unknown_and_double_parameters_are_refused() {
    let query = |raw: &str| event(json!({"rawQueryString": raw})).query(&["prefix", "limit"]);
    for (raw, prefix, limit) in [
        ("", None, None),
        ("prefix=a%2Fb", Some("a/b"), None),
        ("prefix=a+b", Some("a b"), None),
        ("limit=1&prefix=", Some(""), Some("1")),
        ("&&limit=1&", None, Some("1")),
        ("limit", None, Some("")),
        ("limit=1=2", None, Some("1=2")),
    ] {
        let query = query(raw).unwrap();
        assert_eq!((query.text("prefix"), query.text("limit")), (prefix, limit), "{raw}");
    }
    for (raw, detail) in [
        ("limits=1", "unknown query parameter \"limits\"; accepted here: prefix, limit"),
        ("Limit=1", "unknown query parameter \"Limit\""),
        ("tenant=globex", "unknown query parameter \"tenant\""),
        ("limit%20=1", "unknown query parameter \"limit \""),
        ("=1", "unknown query parameter \"\""),
        ("limit=1&limit=1", "the query parameter limit stands twice"),
        ("limit=1&%6cimit=2", "the query parameter limit stands twice"),
        ("prefix=%ff", "the query is not UTF-8"),
    ] {
        let refusal = refusal(query(raw));
        assert!(refusal.starts_with(&format!("400 invalid-parameter: {detail}")), "{raw}: {refusal}");
    }
    assert!(refusal(event(json!({"rawQueryString": "a=1"})).query(&[])).contains("none is accepted here"));
    let long = refusal(query(&"x".repeat(9_000)));
    assert!(long.len() < 200, "{long}");
}

/// Numbers have one spelling. What only some parsers take, or what no counter reaches, is refused.
#[test]
fn numbers_have_one_spelling() {
    fn number(text: &str) -> Query {
        event(json!({"rawQueryString": format!("limit={text}&version={text}&since={text}")}))
            .query(&["limit", "version", "since"])
            .unwrap()
    }
    for (text, limit, version, since) in [
        ("1", Some(1), Some(1), Some(1)),
        ("100", Some(100), Some(100), Some(100)),
        ("101", None, Some(101), Some(101)),
        ("0", None, None, Some(0)),
        ("1000000000000000000", None, Some(1_000_000_000_000_000_000), Some(1_000_000_000_000_000_000)),
    ] {
        let query = number(text);
        assert_eq!(query.limit(100).ok(), limit, "{text}");
        assert_eq!(query.version().ok().flatten().map(Version::get), version, "{text}");
        assert_eq!(query.revision("since").ok().flatten().map(Revision::get), since, "{text}");
    }
    for text in [
        "",
        "01",
        "00",
        "%2B1",
        "-1",
        "-0",
        "1e3",
        "1.0",
        "0x10",
        "1_000",
        "1%20",
        "%201",
        "1%00",
        "NaN",
        "%D9%A1",
        "1000000000000000001",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999",
    ] {
        let query = number(text);
        let expected = "must be a whole number, in digits only";
        assert_eq!(refusal(query.limit(100)), format!("400 invalid-parameter: limit {expected}"), "{text}");
        assert_eq!(refusal(query.version()), format!("400 invalid-parameter: version {expected}"), "{text}");
        assert_eq!(refusal(query.revision("since")), format!("400 invalid-parameter: since {expected}"), "{text}");
    }
    let absent = event(json!({})).query(&["limit"]).unwrap();
    assert_eq!(
        (absent.limit(100).unwrap(), absent.version().unwrap(), absent.revision("since").unwrap()),
        (100, None, None)
    );
    assert_eq!(refusal(number("101").limit(100)), "400 invalid-parameter: limit must be from 1 to 100");
    assert_eq!(refusal(number("0").version()), "400 invalid-parameter: versions count from 1");
}

/// An answer from memory is given only to those who ask for one in so many words; what cannot be
/// read asks for the freshest.
#[test]
fn old_answers_are_for_those_who_accept_them() {
    const LONG: u64 = u32::MAX as u64;
    for (header, max_age, stale_if_error) in [
        ("", 0, 0),
        ("max-age=5", 5, 0),
        ("MAX-AGE=5", 5, 0),
        (" max-age = \"5\" ", 5, 0),
        ("stale-if-error=600", 0, 600),
        ("max-age=5, stale-if-error=600", 5, 600),
        ("stale-if-error=600,max-age=5", 5, 600),
        ("max-age", 0, 0),
        ("max-age=", 0, 0),
        ("max-age=x", 0, 0),
        ("max-age=-5", 0, 0),
        ("max-age=+5", 0, 0),
        ("max-age=5.5", 0, 0),
        ("max-age=5 6", 0, 0),
        ("max-age=5;stale-if-error=6", 0, 0),
        ("max-age=99999999999999999999999", LONG, 0),
        ("max-age=4294967296, stale-if-error=18446744073709551615", LONG, LONG),
        ("no-store, only-if-cached, max-stale=9", 0, 0),
        ("xmax-age=5", 0, 0),
        // Of two that contradict each other the stricter one counts, wherever it stands.
        ("max-age=5, max-age=9", 5, 0),
        ("max-age=9, max-age=5", 5, 0),
        ("max-age=9, max-age=x", 0, 0),
        ("max-age=5, no-cache", 0, 0),
        ("no-cache, max-age=5", 0, 0),
        ("No-Cache, stale-if-error=600", 0, 600),
        ("stale-if-error=600, no-cache", 0, 600),
        ("stale-if-error=600, stale-if-error=60", 0, 60),
    ] {
        let freshness = with_header("cache-control", header).freshness(Some(Revision::new(7)));
        let seconds = (freshness.max_age.as_secs(), freshness.stale_if_error.as_secs());
        assert_eq!(
            (seconds, freshness.min_revision),
            ((max_age, stale_if_error), Some(Revision::new(7))),
            "{header:?}"
        );
    }
    let freshness = event(json!({})).freshness(None);
    assert!(freshness.max_age.is_zero() && freshness.stale_if_error.is_zero() && freshness.min_revision.is_none());
}

/// Preconditions are lists of entity tags; what is none is refused, since a write without its
/// condition would be a lost update.
#[test]
fn malformed_preconditions_are_refused() {
    let none = event(json!({})).precondition().unwrap();
    assert_eq!(none, Precondition::default());
    let both = event(json!({"headers": {"if-match": "\"3-ab\"", "if-none-match": "*"}})).precondition().unwrap();
    assert!(both.if_match.is_some() && both.if_none_match == Some(EntityTagList::Any));
    for name in ["if-match", "if-none-match"] {
        for bad in ["", " ", "3-ab", "\"3-ab", "\"a\" \"b\"", "*, \"a\"", "w/\"a\"", ",", "null"] {
            let refusal = refusal(with_header(name, bad).precondition());
            assert!(
                refusal.starts_with(&format!("400 invalid-parameter: the header {name} is malformed")),
                "{bad:?}: {refusal}"
            );
        }
    }
}

/// An idempotency key is one visible word. White space and quotes around it do not count; anything
/// else in it does.
#[test]
fn idempotency_keys_are_one_visible_word() {
    let claim = |key: &str| with_header("idempotency-key", key).idempotency("{}");
    let longest = "k".repeat(255);
    let plain = claim("abc").unwrap().unwrap();
    for same in [" abc ", "\"abc\"", " \"abc\" "] {
        assert_eq!(claim(same).unwrap().unwrap().key_hash, plain.key_hash, "{same}");
    }
    for good in ["a", "8f14e45f-ceea-467f-a9a7-0d1c3f5a7b21", "!~#/:;", longest.as_str()] {
        assert!(claim(good).unwrap().is_some(), "{good}");
    }
    let too_long = "k".repeat(256);
    for bad in ["", " ", "\"\"", "\"", "a b", "a,b", "a\"b", "ä", "a\0", "a\nb", "a\u{7f}", too_long.as_str()] {
        assert!(
            refusal(claim(bad)).starts_with("400 invalid-parameter: the header Idempotency-Key must be"),
            "{bad:?}"
        );
    }
    assert!(event(json!({})).idempotency("{}").unwrap().is_none());
}

/// The same key means the same request only if all of it is the same; and what is kept shows
/// neither the key nor the request.
#[test]
fn an_idempotency_claim_covers_the_whole_request() {
    let base = json!({"rawPath": "/v1/config/x", "headers": {"idempotency-key": "k", "if-match": "\"1\"", "if-none-match": "\"2\""}});
    let claim = |change: &dyn Fn(&mut Value), body: &str| {
        let mut members = base.clone();
        change(&mut members);
        event(members).idempotency(body).unwrap().unwrap()
    };
    let first = claim(&|_| (), "{}");
    let again = claim(&|event| event["headers"]["user-agent"] = json!("curl"), "{}");
    assert_eq!((&first.key_hash, &first.request_hash), (&again.key_hash, &again.request_hash));
    let others = [
        claim(&|_| (), "{ }"),
        claim(&|event| event["rawPath"] = json!("/v1/config/y"), "{}"),
        claim(&|event| event["requestContext"] = json!({"http": {"method": "DELETE"}}), "{}"),
        claim(&|event| event["headers"]["if-match"] = json!("\"9\""), "{}"),
        claim(&|event| event["headers"]["if-none-match"] = json!("\"9\""), "{}"),
        // The same characters, cut at other places.
        claim(&|event| event["headers"] = json!({"idempotency-key": "k", "if-match": "\"1\"\"2\""}), "{}"),
        claim(&|event| event["headers"] = json!({"idempotency-key": "k", "if-none-match": "\"1\"\"2\""}), "{}"),
    ];
    for other in &others {
        assert_eq!(other.key_hash, first.key_hash);
        assert_ne!(other.request_hash, first.request_hash);
    }
    let other_key = claim(&|event| event["headers"]["idempotency-key"] = json!("l"), "{}");
    assert!(other_key.key_hash != first.key_hash && other_key.request_hash != first.request_hash);
    assert!(first.key_hash.len() == 64 && first.key_hash.bytes().all(|b| b.is_ascii_hexdigit()));
}

/// The names of headers have no case. API Gateway sends them in lower case, `sam local` as the
/// client spelt them.
#[test]
fn headers_are_found_whatever_their_case() {
    let event = event(json!({"headers": {"If-Match": "\"1\"", "IDEMPOTENCY-KEY": "k", "authorization": "Bearer x"}}));
    for (name, value) in [("if-match", "\"1\""), ("idempotency-key", "k"), ("authorization", "Bearer x")] {
        assert_eq!(event.header(name), Some(value));
    }
    let twice = super::event(json!({"headers": {"If-Match": "\"1\"", "if-match": "\"2\""}}));
    assert_eq!(twice.header("if-match"), Some("\"1\",\"2\""));
}

/// Events of odd forms are read for what they hold or refused whole: what the platform may leave
/// out or set to null is absent.
#[test]
fn odd_events_are_read_or_refused() {
    let least = json!({"requestContext": {"http": {"method": "GET"}}});
    let parse = |members: &Value| {
        let mut event = least.clone();
        event.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        serde_json::from_value::<Event>(event)
    };
    for members in [
        json!({}),
        json!({"headers": null, "pathParameters": null, "body": null, "rawQueryString": null}),
        json!({"version": "2.0", "cookies": ["a=b"], "somethingNew": {"deep": [1]}}),
        json!({"requestContext": {"http": {"method": "GET", "path": "/"}, "authorizer": null, "stage": null, "requestId": null}}),
        json!({"requestContext": {"http": {"method": "GET"}, "authorizer": {"jwt": null}}}),
        json!({"requestContext": {"http": {"method": "GET"}, "authorizer": {"lambda": {"tenant": "acme"}}}}),
        json!({"requestContext": {"http": {"method": "GET"}, "authorizer": {"jwt": {"claims": null, "scopes": null}}}}),
        json!({"requestContext": {"http": {"method": "GET"}, "authorizer": {"jwt": {"claims": {"n": 7, "l": ["a"], "t": "x"}}}}}),
    ] {
        let event = parse(&members).unwrap_or_else(|error| panic!("{members}: {error}"));
        assert_eq!((event.method(), event.path(), event.request_id(), event.header("x")), ("GET", "", "", None));
        assert_eq!(event.body().unwrap(), "");
    }
    for members in [
        json!({"requestContext": null}),
        json!({"requestContext": {}}),
        json!({"requestContext": {"http": {}}}),
        json!({"requestContext": {"http": {"method": 7}}}),
        json!({"headers": []}),
        json!({"headers": {"x": null}}),
        json!({"headers": {"x": ["a"]}}),
        json!({"rawPath": 7}),
        json!({"body": {}}),
        json!({"isBase64Encoded": "true"}),
    ] {
        assert!(parse(&members).is_err(), "{members}");
    }
    for event in [json!(null), json!({}), json!({"Records": []}), json!("x")] {
        assert!(serde_json::from_value::<Event>(event).is_err());
    }
}

/// Promise: claims that say something twice, as API Gateway's never do, name no tenant: the event
/// is refused whole.
#[test]
fn a_claim_that_stands_twice_is_no_claim() {
    let parse = |claims: &str| {
        let context = format!(r#"{{"http":{{"method":"GET"}},"authorizer":{{"jwt":{{"claims":{{{claims}}}}}}}}}"#);
        serde_json::from_str::<Event>(&format!(r#"{{"requestContext":{context}}}"#))
    };
    for claims in [
        r#""custom:tenantId":"acme","custom:tenantId":"globex""#,
        r#""custom:tenantId":"acme","custom:tenantId":"acme""#,
        r#""custom:tenantId":"acme","custom\u003atenantId":"globex""#,
        r#""custom:tenantId":["acme"],"custom:tenantId":"globex""#,
        r#""custom:tenantId":"acme","custom:tenantId":7"#,
        r#""token_use":1,"token_use":2"#,
    ] {
        let error = parse(claims).expect_err(claims).to_string();
        assert!(error.starts_with("a claim stands twice"), "{claims}: {error}");
    }
    assert!(parse(r#""custom:tenantId":"acme","CUSTOM:TENANTID":"globex""#).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a client sends in path, query and headers is understood or refused as its own
    /// mistake.
    #[test]
    fn no_request_line_or_header_is_our_fault(
        path in "(/v1/config/)?((tenant|param)_config_)?(\\PC|%[0-9a-f]{2}|[/.%]){0,20}",
        parameter in prop::option::of("\\PC{0,12}"),
        query in "((limit|version|prefix|x)?=?(\\PC|%[0-9a-f]{2}|[0-9+]){0,8}&?){0,4}",
        header in "(\\PC|[\\x00-\\x1f\",=*0-9]|max-age|W/){0,16}",
    ) {
        let names = ["If-Match", "if-none-match", "cache-control", "idempotency-key", "authorization"];
        let headers: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!(header))).collect();
        let event = event(json!({"rawPath": path, "rawQueryString": query, "headers": headers, "pathParameters": parameter.map(|key| json!({"key": key}))}));
        let mut problems = Vec::new();
        problems.extend(event.key(PREFIX, &TagRoutes::default()).err());
        match event.query(&["limit", "version", "prefix"]) {
            Ok(query) => {
                problems.extend(query.limit(100).err());
                problems.extend(query.version().err());
                problems.extend(query.revision("version").err());
            }
            Err(problem) => problems.push(problem),
        }
        problems.extend(event.precondition().err());
        problems.extend(event.idempotency(&header).err());
        event.freshness(None);
        for problem in problems {
            prop_assert_eq!(shown(problem).0, 400);
        }
    }
}
