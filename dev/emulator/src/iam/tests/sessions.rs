//! Who credentials belong to, and until when. By a clock that the tests set; over HTTP as well.

use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region, SharedCredentialsProvider};
use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use http::HeaderMap;
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::super::{Assumption, BadCredentials, Caller, Clock, Iam, RoleCredentials};
use super::{ACCOUNT, document, iam, open_trust, role};
use crate::{Emulator, Options};

/// A clock that goes when it is told to.
#[derive(Clone)]
struct SetClock(Arc<Mutex<OffsetDateTime>>);

impl SetClock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(500))))
    }

    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Arc::new(move || *now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pass(&self, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += time;
    }
}

fn headers(id: &str, token: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let signed = format!("AWS4-HMAC-SHA256 Credential={id}/20261121/eu-central-1/ssm/aws4_request, SignedHeaders=x");
    headers.insert("authorization", signed.parse().expect("a header"));
    if let Some(token) = token {
        headers.insert("x-amz-security-token", token.parse().expect("a header"));
    }
    headers
}

pub(super) fn caller(iam: &Iam, credentials: &RoleCredentials) -> Result<Caller, BadCredentials> {
    iam.caller(&headers(&credentials.access_key_id, Some(&credentials.session_token)))
}

fn assume(iam: &Iam, lasts: Duration) -> RoleCredentials {
    let assumption = Assumption { session_name: "ab".to_owned(), lasts, ..Assumption::default() };
    iam.assume("r", assumption).expect("the role").credentials
}

/// Promise: temporary credentials are good with their own token until their end, and never else;
/// whoever has others is the administrator.
#[test]
fn credentials_are_good_until_they_end() {
    let clock = SetClock::new();
    let iam = iam(clock.clock());
    iam.add_role(role("r", open_trust(), [])).expect("a role");
    let credentials = assume(&iam, Duration::minutes(15));
    let id = &credentials.access_key_id;
    assert!(id.len() == 20 && id.starts_with("ASIA"), "{id}");
    assert_eq!(credentials.secret_access_key.len(), 40);
    assert!(matches!(caller(&iam, &credentials), Ok(Caller::Role(_))));

    let other = assume(&iam, Duration::minutes(15));
    for (id, token) in [
        (id.as_str(), None),
        (id, Some("")),
        (id, Some("wrong")),
        (id, Some(other.session_token.as_str())),
        ("ASIAAAAAAAAAAAAAAAAA", Some(credentials.session_token.as_str())),
        ("ASIA", None),
    ] {
        assert_eq!(iam.caller(&headers(id, token)).err(), Some(BadCredentials::Unknown), "{id} {token:?}");
    }
    for id in ["local", "test", "a", "AKIAIOSFODNN7EXAMPLE", "asia", ""] {
        assert!(matches!(iam.caller(&headers(id, None)), Ok(Caller::Administrator)), "{id}");
    }
    assert!(matches!(iam.caller(&HeaderMap::new()), Ok(Caller::Administrator)));

    // Half a second less than asked for: ends are whole seconds.
    clock.pass(Duration::minutes(15) - Duration::milliseconds(501));
    assert!(matches!(caller(&iam, &credentials), Ok(Caller::Role(_))));
    clock.pass(Duration::milliseconds(1));
    assert_eq!(caller(&iam, &credentials).err(), Some(BadCredentials::Expired));
    // A wrong token is told nothing of that.
    assert_eq!(iam.caller(&headers(id, Some("wrong"))).err(), Some(BadCredentials::Unknown));

    // Some time later, when others come, nobody remembers.
    clock.pass(Duration::minutes(61));
    assert_eq!(caller(&iam, &credentials).err(), Some(BadCredentials::Expired));
    assume(&iam, Duration::minutes(15));
    assert_eq!(caller(&iam, &credentials).err(), Some(BadCredentials::Unknown));
}

/// Promise: what is remembered has a bound, and what goes first is what would end first; functions
/// keep their credentials.
#[test]
fn sessions_are_bounded() {
    let clock = SetClock::new();
    let iam = iam(clock.clock());
    iam.add_role(role("r", open_trust(), [])).expect("a role");
    let function = iam.credentials_of("r").expect("credentials");
    let first = assume(&iam, Duration::hours(2));
    let soonest = assume(&iam, Duration::hours(1));
    for _ in 0..9_997 {
        assume(&iam, Duration::hours(3));
    }
    assert!(caller(&iam, &soonest).is_ok());
    assume(&iam, Duration::hours(3));
    assert_eq!(caller(&iam, &soonest).err(), Some(BadCredentials::Unknown));
    assert!(caller(&iam, &first).is_ok());
    assume(&iam, Duration::hours(3));
    assert_eq!(caller(&iam, &first).err(), Some(BadCredentials::Unknown));
    assert!(caller(&iam, &function).is_ok());
}

/// Promise: a function's credentials do not end, stay the same while its role is replaced, and are
/// there only if Lambda may assume the role.
#[test]
fn functions_have_lasting_credentials() {
    let clock = SetClock::new();
    let iam = iam(clock.clock());
    iam.add_role(role("r", open_trust(), [])).expect("a role");
    let credentials = iam.credentials_of("r").expect("credentials");
    clock.pass(Duration::days(400));
    assert!(caller(&iam, &credentials).is_ok());
    iam.add_role(role("r", open_trust(), [])).expect("a role");
    assert_eq!(iam.credentials_of("r"), Some(credentials.clone()));

    let trust = |effect: &str, principal: serde_json::Value| {
        document(&json!([
            { "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" },
            { "Effect": effect, "Principal": principal, "Action": "sts:*" }
        ]))
    };
    let deny = trust("Deny", json!({ "Service": "lambda.amazonaws.com" }));
    iam.add_role(role("denied", deny, [])).expect("a role");
    let others = document(&json!({ "Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole" }));
    iam.add_role(role("others", others, [])).expect("a role");
    let edge = json!({ "Effect": "Allow", "Principal": { "Service": "edgelambda.amazonaws.com" }, "Action": "sts:*" });
    iam.add_role(role("edge", document(&edge), [])).expect("a role");
    for name in ["denied", "others", "edge", "nobody"] {
        assert_eq!(iam.credentials_of(name), None, "{name}");
    }
    // Debug output is read by people who may not use them.
    let shown = format!("{credentials:?}");
    assert!(!shown.contains(&credentials.secret_access_key) && !shown.contains(&credentials.session_token), "{shown}");
}

/// An SDK client that does not retry.
macro_rules! client {
    ($sdk:ident, $emulator:expr, $credentials:expr) => {
        $sdk::Client::from_conf(
            $sdk::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .credentials_provider($credentials)
                .region(Region::new("us-east-1"))
                .http_client(aws_smithy_http_client::Builder::new().build_http())
                .retry_config(RetryConfig::disabled())
                .endpoint_url($emulator.url())
                .build(),
        )
    };
}

/// Promise: an assumed role's answer says when it ends.
#[tokio::test]
async fn an_answer_says_when_it_ends() {
    let options = Options { account: ACCOUNT.to_owned(), ..Options::default() };
    let emulator = Emulator::start_by(options, SetClock::new().clock()).await.expect("the emulator starts");
    emulator.add_role(role("r", open_trust(), [])).expect("a role");
    let sts = client!(aws_sdk_sts, emulator, Credentials::from_keys("local", "local", None));
    for (asked, expected) in [(None, 3_600), (Some(900), 900), (Some(43_200), 43_200)] {
        let call = sts.assume_role().role_arn(format!("arn:aws:iam::{ACCOUNT}:role/r")).role_session_name("ab");
        let assumed = call.set_duration_seconds(asked).send().await.expect("assumed");
        let end = assumed.credentials().map(|credentials| credentials.expiration().secs());
        // The clock stands at the beginning of 1970.
        assert_eq!(end, Some(expected));
    }
}

/// Promise: each service says in its own words that credentials have ended, or are none.
#[tokio::test]
async fn services_refuse_bad_credentials() {
    let clock = SetClock::new();
    let options = Options { account: ACCOUNT.to_owned(), ..Options::default() };
    let emulator = Emulator::start_by(options, clock.clock()).await.expect("the emulator starts");
    emulator.add_role(role("r", open_trust(), [])).expect("a role");
    let ended = assume(&emulator.gateway.iam, Duration::minutes(15));
    clock.pass(Duration::minutes(15));
    let unknown = RoleCredentials { session_token: "wrong".to_owned(), ..ended.clone() };
    for (credentials, json, query) in [
        (ended, "ExpiredTokenException", "ExpiredToken"),
        (unknown, "UnrecognizedClientException", "InvalidClientTokenId"),
    ] {
        let RoleCredentials { access_key_id, secret_access_key, session_token } = credentials;
        let provider = SharedCredentialsProvider::new(Credentials::from_keys(
            access_key_id,
            secret_access_key,
            Some(session_token),
        ));
        macro_rules! refused {
            ($call:expr, $code:expr, $status:expr) => {
                let error = $call.send().await.expect_err("refused");
                let status = error.raw_response().map(|response| response.status().as_u16());
                assert_eq!((error.code(), status), (Some($code), Some($status)));
            };
        }
        refused!(client!(aws_sdk_dynamodb, emulator, provider.clone()).list_tables(), json, 400);
        refused!(client!(aws_sdk_ssm, emulator, provider.clone()).describe_parameters(), json, 400);
        refused!(client!(aws_sdk_eventbridge, emulator, provider.clone()).list_rules(), json, 400);
        refused!(client!(aws_sdk_sts, emulator, provider.clone()).get_caller_identity(), query, 403);
    }
}
