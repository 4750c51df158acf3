//! What callers are told when something is wrong, and who is let in at all.

use ::http::Uri;
use async_trait::async_trait;

use super::*;
use crate::{
    auth::{Document, FetchKeys, KeyFetchError, KeySet, KeySource, TokenSettings},
    aws::{AwsFailure, FailureKind, Service},
    clock::{Clock, Timestamp},
    fixture,
    ledger::LedgerError,
    model::{
        entry::{CommitId, ETag},
        value::ConfigValue,
    },
    read::{ReadError, ValueGone},
    store::{StoreError, ValueRefused},
    write::WriteError,
};

fn key(text: &str) -> ConfigKey {
    ConfigKey::parse(text, &TagRoutes::default()).unwrap()
}

/// A header of the answer.
fn header(answer: &Answer, name: &str) -> Option<String> {
    answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// Status and type of every kind of problem are part of the API: clients branch on them.
#[test]
fn statuses_and_types_are_as_published() {
    for (kind, status, name) in [
        (ProblemType::InvalidKey, 400, "invalid-key"),
        (ProblemType::InvalidValue, 400, "invalid-value"),
        (ProblemType::InvalidParameter, 400, "invalid-parameter"),
        (ProblemType::InvalidBody, 400, "invalid-body"),
        (ProblemType::Unauthenticated, 401, "unauthenticated"),
        (ProblemType::Forbidden, 403, "forbidden"),
        (ProblemType::NotFound, 404, "not-found"),
        (ProblemType::Contention, 409, "contention"),
        (ProblemType::Gone, 410, "gone"),
        (ProblemType::PreconditionFailed, 412, "precondition-failed"),
        (ProblemType::TooLarge, 413, "too-large"),
        (ProblemType::UnsupportedMediaType, 415, "unsupported-media-type"),
        (ProblemType::Unprocessable, 422, "unprocessable"),
        (ProblemType::Throttled, 429, "throttled"),
        (ProblemType::Unavailable, 503, "unavailable"),
    ] {
        let answer = Problem::new(kind, "what to do").answer();
        assert_eq!(header(&answer, "content-type").as_deref(), Some("application/problem+json"));
        assert_eq!(header(&answer, "cache-control").as_deref(), Some("private, no-cache"));
        assert_eq!(header(&answer, "www-authenticate").as_deref(), (status == 401).then_some("Bearer"), "{kind:?}");
        assert_eq!(header(&answer, "retry-after"), None);
        let (shown_status, body) = shown(Problem::new(kind, "what to do"));
        let title = body["title"].as_str().unwrap().to_owned();
        assert!(!title.is_empty());
        let expected = json!({"type": format!("urn:tenantry:problem:{name}"), "title": title, "status": status, "detail": "what to do"});
        assert_eq!((shown_status, body), (status, expected), "{kind:?}");
    }
}

/// When to come back, at which revision it was seen, and what else there is to know, stand where
/// clients look for them.
#[test]
fn a_problem_carries_what_helps() {
    let problem =
        Problem::new(ProblemType::Contention, "try \"again\"\n").retry_after(7).at(Revision::new(41)).with("key", "k");
    let answer = problem.answer();
    assert_eq!(header(&answer, "retry-after").as_deref(), Some("7"));
    assert_eq!(header(&answer, "tenantry-revision").as_deref(), Some("41"));
    let problem = Problem::new(ProblemType::Contention, "try \"again\"\n").with("key", "k");
    let (_, body) = shown(problem);
    assert_eq!((&body["key"], &body["detail"]), (&json!("k"), &json!("try \"again\"\n")));
}

/// The outcome of each error of a service: status, type, `Retry-After`, and a part of the detail.
#[test]
fn every_error_has_its_answer() {
    let too_large = ValueRefused::TooLarge { store: "DynamoDB", tag: "x_".to_owned(), bytes: 9, limit: 8 };
    let unreadable = ConfigValue::parse("{").unwrap_err();
    let (version, revision) = (Version::new(3), Revision::new(41));
    let a = || key("tenant_config_a");
    let gone = |deletion| ValueGone { key: a(), version, deletion };
    let cases: Vec<(Problem, &str, Option<&str>, &str)> = vec![
        (ReadError::ValueMissing(a()).into(), "503 unavailable", Some("5"), "tenant_config_a"),
        (
            ReadError::RouteChanged(a()).into(),
            "503 unavailable",
            Some("60"),
            "the route of the tag tenant_config_ no longer leads to the store that holds the value of tenant_config_a",
        ),
        (
            ReadError::NotReached { head: revision, asked: Revision::new(50) }.into(),
            "422 unprocessable",
            None,
            "50 was asked for",
        ),
        (ReadError::Contention.into(), "409 contention", Some("1"), "try again"),
        (
            ReadError::Compacted { since: Revision::new(1), head: revision }.into(),
            "410 gone",
            None,
            "after revision 1 are not all kept any more; take a fresh list",
        ),
        (
            ReadError::Ahead { since: Revision::new(50), head: revision }.into(),
            "410 gone",
            None,
            "since is ahead of the newest revision 41;",
        ),
        (ReadError::Store(StoreError::Gone).into(), "503 unavailable", Some("5"), "try again later"),
        (ReadError::Store(StoreError::Unreadable(unreadable)).into(), "503 unavailable", Some("5"), "try again later"),
        (WriteError::Refused(too_large).into(), "413 too-large", None, "at most 8 bytes"),
        (WriteError::NotFound(a()).into(), "404 not-found", None, "tenant_config_a has no value"),
        (WriteError::NoSuchVersion(a(), version).into(), "404 not-found", None, "no version 3"),
        (WriteError::from(gone(None)).into(), "410 gone", None, "version 3 of tenant_config_a is not kept any more"),
        (
            WriteError::from(gone(Some(Version::new(5)))).into(),
            "410 gone",
            None,
            "not kept any more: it lay in its store alone, from which version 5, a delete, has removed all",
        ),
        (
            ReadError::VersionGone { gone: gone(None), head: revision }.into(),
            "410 gone",
            None,
            "version 3 of tenant_config_a is not kept any more",
        ),
        (WriteError::VersionIsTombstone(a(), version).into(), "422 unprocessable", None, "use DELETE"),
        (WriteError::IdempotencyMismatch.into(), "422 unprocessable", None, "use a new key"),
        (
            WriteError::CannotJoin { tag: "x_".to_owned(), key: a() }.into(),
            "422 unprocessable",
            None,
            "write tenant_config_a on its own",
        ),
        (WriteError::TransactionTooLarge(2_000_000).into(), "413 too-large", None, "2000000 bytes"),
        (WriteError::Contention.into(), "409 contention", Some("1"), "nothing was written"),
        (WriteError::Removing(a()).into(), "409 contention", Some("30"), "being removed"),
        (Problem::no_route(), "404 not-found", None, "/v1/"),
        (Problem::no_value(&a(), revision), "404 not-found", None, "tenant_config_a has no value"),
    ];
    for (problem, expected, retry_after, detail) in cases {
        let answer = problem.answer();
        let Some(lambda_http::Body::Text(text)) = &answer.body else { panic!("a problem has a text") };
        let body: Value = serde_json::from_str(text).unwrap();
        let name = body["type"].as_str().unwrap().trim_start_matches("urn:tenantry:problem:");
        assert_eq!(format!("{} {name}", answer.status_code), expected, "{text}");
        assert_eq!(header(&answer, "retry-after").as_deref(), retry_after, "{text}");
        assert!(body["detail"].as_str().unwrap().contains(detail), "{text}");
    }
}

/// A failed precondition brings the current tag and revision along, so that the client can decide
/// anew at once.
#[test]
fn a_failed_precondition_tells_the_current_tag() {
    let etag = ETag::new(Version::new(3), &CommitId::from_stored("0123456789abcdef"));
    for (current, shown) in [(Some(etag), Some("\"3-0123456789ab\"")), (None, None)] {
        let problem: Problem = WriteError::Precondition {
            key: key("tenant_config_a"),
            current,
            head: Revision::new(41),
            only_weakly: false,
        }
        .into();
        let answer = problem.answer();
        assert_eq!((answer.status_code, header(&answer, "etag").as_deref()), (412, shown));
        assert_eq!(header(&answer, "tenantry-revision").as_deref(), Some("41"));
    }
}

/// Who sends the right tag as a weak one is told so, and is not left to compare two tags that look
/// the same (RFC 9110, 13.1.1).
#[test]
fn a_weak_tag_in_if_match_is_explained() {
    const ADVICE: &str = "a weak tag, W/\"…\", never matches in If-Match: send the tag as it is, without W/";
    let tag = ETag::new(Version::new(3), &CommitId::from_stored("e"));
    let weak: EntityTagList = "W/\"3-e\"".parse().unwrap();
    let others: EntityTagList = "W/\"2-e\", \"4-e\"".parse().unwrap();
    let read = |asked: &EntityTagList| refusal::<()>(Err(Problem::not_matched(asked, &tag, Revision::new(41))));
    assert_eq!(read(&weak), format!("412 precondition-failed: If-Match does not hold: the ETag is \"3-e\"; {ADVICE}"));
    assert_eq!(read(&others), "412 precondition-failed: If-Match does not hold: the ETag is \"3-e\"");
    let write = |only_weakly| {
        let (key, current) = (key("tenant_config_a"), Some(tag.clone()));
        refusal::<()>(Err(WriteError::Precondition { key, current, head: Revision::new(41), only_weakly }.into()))
    };
    assert!(write(true).ends_with(&format!("its ETag is \"3-e\"; {ADVICE}")), "{}", write(true));
    assert!(write(false).ends_with("its ETag is \"3-e\"; read it again and decide anew"), "{}", write(false));

    let page = ETag::of_page(Revision::new(41), "ab");
    let refused = Problem::not_matched(&"W/\"41-ab\"".parse().unwrap(), &page, Revision::new(41));
    assert!(
        refusal::<()>(Err(refused)).ends_with("pages have weak tags, which never match in If-Match: use If-None-Match")
    );
}

/// What AWS says is for the log: it names accounts, tables, roles and hosts. The caller learns
/// which service, and when to come back.
#[test]
fn what_aws_says_stays_inside() {
    const INSIDE: &str =
        "User: arn:aws:sts::123456789012:assumed-role/tenantry is not authorized on table/tenantry-ledger";
    let failure = |kind| {
        let mut failure = AwsFailure::unexpected(Service::DynamoDb, "GetItem", INSIDE);
        failure.kind = kind;
        failure.code = Some("AccessDeniedException".to_owned());
        failure
    };
    for (kind, status, retry_after) in
        [(FailureKind::Throttled, 429, "1"), (FailureKind::Unavailable, 503, "2"), (FailureKind::Refused, 503, "60")]
    {
        let ways: [Problem; 7] = [
            failure(kind).into(),
            LedgerError::Aws(failure(kind)).into(),
            StoreError::Aws(failure(kind)).into(),
            ReadError::Ledger(LedgerError::Aws(failure(kind))).into(),
            ReadError::Store(StoreError::Aws(failure(kind))).into(),
            WriteError::Ledger(LedgerError::Aws(failure(kind))).into(),
            WriteError::Store(StoreError::Aws(failure(kind))).into(),
        ];
        for problem in ways {
            let answer = problem.answer();
            assert_eq!(
                (answer.status_code, header(&answer, "retry-after").as_deref()),
                (status, Some(retry_after)),
                "{kind:?}"
            );
            let all = format!("{answer:?}");
            assert!(all.contains("DynamoDB"), "{all}");
            for secret in
                ["arn:", "123456789012", "assumed-role", "ledger", "GetItem", "AccessDenied", "not authorized"]
            {
                assert!(!all.contains(secret), "{kind:?} tells {secret}: {all}");
            }
        }
    }
    let unknown: Problem = WriteError::Ledger(LedgerError::OutcomeUnknown(failure(FailureKind::Unavailable))).into();
    let answer = unknown.answer();
    assert_eq!((answer.status_code, header(&answer, "retry-after").as_deref()), (503, Some("2")));
    let all = format!("{answer:?}");
    assert!(all.contains("Idempotency-Key") && !all.contains("arn:") && !all.contains("ledger"), "{all}");
}

/// An issuer that is down, and names itself in its failures.
struct Down;

#[async_trait]
impl FetchKeys for Down {
    async fn fetch(&self) -> Result<KeySet, KeyFetchError> {
        Err(KeyFetchError::Transport(Document::Keys, "connection to issuer.internal:8443 refused".into()))
    }
}

fn authenticator() -> Authenticator {
    let settings = TokenSettings {
        issuer: "https://issuer.example".to_owned(),
        audience: vec!["client".to_owned()],
        keys: KeySource::At(Uri::default()),
        tenant_claim: "custom:tenantId".to_owned(),
        scope_claims: vec!["scope".to_owned()],
        author_claim: None,
    };
    Authenticator::new(&settings, Box::new(Down), Clock::new(|| Timestamp::from_millis(0)))
}

/// Who is let in: by the token that the authorizer has checked, where it says what the authorizer
/// tells, else by the token alone; and no other header makes up for a claim.
#[tokio::test]
async fn callers_come_in_by_claims_or_token() {
    const REFUSED: &str = "401 unauthenticated: the bearer token is not valid here";
    let header = base64_token(r#"{"alg":"RS256","kid":"k"}"#);
    let context = |authorizer: Value| json!({"http": {"method": "GET"}, "authorizer": authorizer});
    let claims = |claims: Value| context(json!({"jwt": {"claims": claims}}));
    let all = json!({"custom:tenantId": "acme", "scope": "config/read"});
    let checked = |of: &Value| {
        let (header, told) = fixture::checked(of);
        (claims(json!(told)), header)
    };
    let (all_told, all_header) = checked(&all);
    let (write_told, write_header) = checked(&json!({"custom:tenantId": "acme", "scope": "config/write"}));
    let (nobody_told, nobody_header) = checked(&json!({"scope": "config/read"}));
    let (list_told, list_header) = checked(&json!({"custom:tenantId": ["acme"], "scope": "config/read"}));
    for (context, headers, expected) in [
        (
            all_told.clone(),
            json!({"authorization": all_header.clone(), "x-tenant-id": "globex", "custom:tenantId": "globex"}),
            "acme",
        ),
        // Claims that come without their token, or with another, are not the authorizer's.
        (all_told.clone(), json!({}), "401 unauthenticated: there is no bearer token"),
        (all_told.clone(), json!({"authorization": "Bearer rubbish"}), REFUSED),
        (all_told.clone(), json!({"authorization": write_header.clone()}), REFUSED),
        (all_told.clone(), json!({"authorization": format!("{all_header},{all_header}")}), REFUSED),
        (
            all_told,
            json!({"authorization": all_header.trim_start_matches("Bearer ")}),
            "401 unauthenticated: what was sent as Authorization is no bearer token; send the word Bearer",
        ),
        (
            write_told,
            json!({"authorization": write_header}),
            "403 forbidden: the token lacks the scope config/read, which is looked for in the first that it has of these claims: scope",
        ),
        (
            nobody_told,
            json!({"authorization": nobody_header, "custom:tenantid": "acme"}),
            "403 forbidden: the token names no tenant; its claim \"custom:tenantId\" is missing",
        ),
        (list_told, json!({"authorization": list_header}), "403 forbidden: the token names no tenant; its claim"),
        (claims(json!({})), json!({"authorization": all_header}), REFUSED),
        (claims(json!(null)), json!({"authorization": all_header}), REFUSED),
        (context(json!(null)), json!({}), "401 unauthenticated: there is no bearer token"),
        (
            context(json!({"jwt": null})),
            json!({"authorization": "Basic eDp5"}),
            "401 unauthenticated: what was sent as Authorization is no bearer token",
        ),
        (
            context(json!({"lambda": {"custom:tenantId": "acme"}})),
            json!({}),
            "401 unauthenticated: there is no bearer token",
        ),
        (
            context(json!(null)),
            json!({"authorization": "Bearer rubbish"}),
            "401 unauthenticated: the bearer token is not valid here",
        ),
        (context(json!(null)), json!({"authorization": header}), "503 unavailable: the token cannot be checked now"),
    ] {
        let event = event(json!({"requestContext": context, "headers": headers}));
        let came = match event.authorize(&authenticator(), Permission::Read).await {
            Ok(scope) => scope.tenant().to_string(),
            refused => refusal(refused),
        };
        assert!(came.starts_with(expected), "{event:?}: {came}");
        assert!(!came.contains("issuer.internal"), "{came}");
    }
}

/// The header of a bearer token with this JSON header, and nothing in it that would pass.
fn base64_token(header: &str) -> String {
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    format!("Bearer {}.{}.eA", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode("{}"))
}
