//! Requests: an API Gateway event, and everything that the functions read from it. Whatever a
//! client sends, the fault is the client's, never ours, and the tenant is the token's.

use std::{collections::HashMap, sync::LazyLock};

use async_trait::async_trait;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use tenantry::{
    auth::{Authenticator, FetchKeys, KeyFetchError, KeySet, KeySource, Permission, TokenSettings},
    clock::{Clock, Timestamp},
    http::{BatchGetBody, Event, Problem, PutBody, Query, RollbackBody, TransactionBody},
    model::key::ConfigKey,
};
use tokio::runtime::{Builder, Runtime};

use crate::{Outcome, ROUTES, assert_blames_the_request, values::assert_canonical};

/// The claim that names the tenant.
const TENANT_CLAIM: &str = "custom:tenantId";
/// What stands before a key in a path.
const BEFORE_KEYS: [&str; 3] = ["/v1/config/", "/v1/history/", "/v1/rollback/"];

/// Knows no key, so that no bearer token is believed.
struct NoKeys;

#[async_trait]
impl FetchKeys for NoKeys {
    async fn fetch(&self) -> Result<KeySet, KeyFetchError> {
        Ok(KeySet::default())
    }
}

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let settings = TokenSettings {
        issuer: "https://issuer.example".to_owned(),
        audience: vec!["tenantry".to_owned()],
        // Nobody asks there: see `NoKeys`.
        keys: KeySource::At(http::Uri::default()),
        tenant_claim: TENANT_CLAIM.to_owned(),
        scope_claims: vec!["scope".to_owned(), "scp".to_owned()],
        author_claim: None,
    };
    Authenticator::new(&settings, Box::new(NoKeys), Clock::new(|| Timestamp::from_millis(1_763_692_800_000)))
});

/// Fetches no keys, in a task of its own.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

/// The input as an event, if it is a JSON object; otherwise as the text of an HTTP request, from
/// which API Gateway's event is made: `GET /path?query`, header lines, an empty line, the body.
pub fn check(input: &[u8]) -> Outcome {
    let event = if input.starts_with(b"{") {
        let Ok(event) = serde_json::from_slice::<Value>(input) else { return Outcome::Refused };
        event
    } else {
        event_of(input)
    };
    let Ok(parsed) = serde_json::from_value::<Event>(event.clone()) else {
        assert!(input.starts_with(b"{"), "an event of API Gateway's form is no event: {event}");
        return Outcome::Refused;
    };
    if read_all(&parsed, &event) { Outcome::Accepted } else { Outcome::Refused }
}

/// What API Gateway makes of a request: header names in lower case, values of one name joined, a
/// body that is no text in base64.
fn event_of(request: &[u8]) -> Value {
    let head_end = request.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = head_end.map_or((request, None), |end| (&request[..end], Some(&request[end + 2..])));
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split('\n');
    let (method, target) = lines.next().unwrap_or_default().split_once(' ').unwrap_or(("GET", "/"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let joined = headers.entry(name.to_ascii_lowercase()).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value.trim());
    }
    let key = BEFORE_KEYS.iter().find_map(|prefix| path.strip_prefix(prefix));
    let key = key.map(|key| percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned());
    let text = body.map(|body| std::str::from_utf8(body));
    // Without a token in the request it is one that an authorizer has let through; with one the
    // function looks at it itself.
    let authorizer = if headers.contains_key("authorization") {
        Value::Null
    } else {
        let claims =
            json!({ TENANT_CLAIM: "acme", "scope": "config/read", "sub": "someone", "exp": 4_000_000_000_u64 });
        let parts = [json!({ "alg": "RS256", "kid": "k" }).to_string(), claims.to_string(), String::new()];
        let token = parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
        headers.insert("authorization".to_owned(), format!("Bearer {token}"));
        let mut told = claims;
        told["exp"] = json!("4000000000");
        json!({ "jwt": { "claims": told } })
    };
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "pathParameters": key.map(|key| json!({ "key": key })),
        "requestContext": {
            "stage": "$default",
            "requestId": "UbR4xgH6liAEJ0w=",
            "authorizer": authorizer,
            "http": { "method": method, "path": path, "protocol": "HTTP/1.1" },
        },
        "body": match text {
            None => Value::Null,
            Some(Ok(text)) => text.into(),
            Some(Err(_)) => BASE64_STANDARD.encode(body.unwrap_or_default()).into(),
        },
        "isBase64Encoded": matches!(text, Some(Err(_))),
    })
}

/// Reads what any route reads, whatever the route; whether everything that this request's route
/// needs was taken.
fn read_all(event: &Event, source: &Value) -> bool {
    let key =
        BEFORE_KEYS.iter().find(|prefix| event.path().starts_with(**prefix)).map(|prefix| key(event, prefix, source));
    let query = queries(event);
    let conditions = blamed(event.precondition()).is_some();
    let body = blamed(event.body()).is_some_and(|text| bodies(event, &text));
    freshness(event);
    let authorized = authorize(event, source);
    key.unwrap_or(true) && query && conditions && authorized && (body || matches!(event.method(), "GET" | "DELETE"))
}

/// What was taken; a refusal has to blame the request.
fn blamed<T>(result: Result<T, Problem>) -> Option<T> {
    result.map_err(assert_blames_the_request).ok()
}

/// The key is what stands in the path, decoded once, and in API Gateway's parameter, if there is
/// one; else there is none.
fn key(event: &Event, prefix: &str, source: &Value) -> bool {
    let key = blamed(event.key(prefix, &ROUTES));
    let decoded = percent_encoding::percent_decode_str(&event.path()[prefix.len()..]).decode_utf8().ok();
    let parameter = source["pathParameters"]["key"].as_str();
    let agreed = decoded.filter(|decoded| parameter.is_none_or(|parameter| parameter == decoded));
    let expected = agreed.and_then(|text| ConfigKey::parse(&text, &ROUTES).ok());
    assert_eq!(key, expected, "the key is not the path's");
    key.is_some()
}

/// The query as each route knows it; whether any of them takes it whole.
fn queries(event: &Event) -> bool {
    let known: [&[&str]; 6] = [
        &[],
        &["minRevision"],
        &["version", "minRevision"],
        &["limit", "cursor"],
        &["prefix", "limit", "cursor"],
        &["since", "limit"],
    ];
    known.into_iter().filter(|names| blamed(event.query(names)).is_some_and(|query| parameters(&query))).count() > 0
}

fn parameters(query: &Query) -> bool {
    let limit = blamed(query.limit(100));
    assert!(limit.is_none_or(|limit| (1..=100).contains(&limit)), "{limit:?} passes the limit");
    let version = blamed(query.version());
    let revisions = ["minRevision", "since"].map(|name| (name, blamed(query.revision(name))));
    for (name, revision) in &revisions {
        let spelling = revision.flatten().map(|revision| revision.to_string());
        assert!(revision.is_none() || spelling.as_deref() == query.text(name), "{spelling:?} is not what was sent");
    }
    if let Some(Some(version)) = version {
        assert_ne!(version.get(), 0, "versions count from 1");
        assert_eq!(Some(version.to_string().as_str()), query.text("version"));
    }
    limit.is_some() && version.is_some() && revisions.iter().all(|(_, revision)| revision.is_some())
}

/// The body as each route knows it, and the idempotency key over it; whether any route takes it.
fn bodies(event: &Event, text: &str) -> bool {
    let value = |result| {
        let value = blamed(result);
        value.as_ref().inspect(|value| assert_canonical(value));
        value.is_some()
    };
    let put = blamed(event.json::<PutBody>("{}")).is_some_and(|(_, body)| value(body.value()));
    let rollback = blamed(event.json::<RollbackBody>("{}"))
        .and_then(|(_, body)| blamed(body.version()))
        .inspect(|version| assert_ne!(version.get(), 0, "versions count from 1"));
    let batch = blamed(event.json::<BatchGetBody>("{}"))
        .is_some_and(|(_, body)| body.keys().filter_map(blamed).count() == body.count());
    let transaction = blamed(event.json::<TransactionBody>("{}")).is_some_and(|(_, body)| {
        body.operations().all(|one| match blamed(one.and_then(|one| one.value())) {
            Some(Some(given)) => value(Ok(given)),
            other => other.is_some(),
        })
    });
    idempotency(event, text);
    put || rollback.is_some() || batch || transaction
}

/// A claim is the same for the same request, and another for another one.
fn idempotency(event: &Event, body: &str) {
    let Some(Some(claim)) = blamed(event.idempotency(body)) else { return };
    let again = event.idempotency(body).ok().flatten().expect("the same request claims again");
    assert_eq!((&claim.key_hash, &claim.request_hash), (&again.key_hash, &again.request_hash));
    let other = event.idempotency(&format!("{body} ")).ok().flatten().expect("another body claims too");
    assert_eq!(claim.key_hash, other.key_hash);
    assert_ne!(claim.request_hash, other.request_hash, "two requests pass as one");
}

/// Only a request that says so may get an old answer.
fn freshness(event: &Event) {
    let freshness = event.freshness(None);
    let asked = event.header("cache-control").unwrap_or_default().to_ascii_lowercase();
    assert!(freshness.max_age.is_zero() || asked.contains("max-age"), "{asked:?} gets an old answer");
    assert!(freshness.stale_if_error.is_zero() || asked.contains("stale-if-error"), "{asked:?} gets a stale answer");
}

/// The tenant is what the authorizer's claims say, and nothing else lets anybody in.
fn authorize(event: &Event, source: &Value) -> bool {
    let claims = &source["requestContext"]["authorizer"]["jwt"]["claims"];
    let mut let_in = false;
    for permission in [Permission::Read, Permission::Write] {
        let result = RUNTIME.block_on(event.authorize(&AUTHENTICATOR, permission));
        let Some(scope) = blamed(result) else { continue };
        assert_eq!(Some(scope.tenant().as_str()), claims[TENANT_CLAIM].as_str(), "another's tenant");
        let granted = ["scope", "scp"].iter().find_map(|name| claims[name].as_str()).unwrap_or_default();
        assert!(granted.contains(permission.scope()), "{granted:?} does not grant {}", permission.scope());
        let_in = true;
    }
    let_in
}
