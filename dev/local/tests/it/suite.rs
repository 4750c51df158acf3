//! The suite as a whole, in this process: everything is up when it says so, and data outlives it.

use std::{fs, path::Path, time::Duration};

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Region},
    types::{AttributeValue, KeySchemaElement, ProjectionType},
};
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use hyper_util::{client::legacy, rt::TokioExecutor};
use local::{
    Options, StartError, Suite,
    issuer::{DEFAULT_SCOPE, TokenRequest},
    token::{self, Place, TokenError},
};
use serde_json::{Value, json};
use tenantry::clock::Clock;

type TestResult = Result<(), Box<dyn std::error::Error>>;

async fn get(url: &str, token: Option<&str>) -> Result<(u16, Value), Box<dyn std::error::Error>> {
    let client = legacy::Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::get(url);
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let response = client.request(request.body(Body::empty())?).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn dynamodb(suite: &Suite) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("a", "b", None, None, "test"))
        .endpoint_url(suite.aws_url())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

fn on(data: &Path) -> Options {
    Options { data: Some(data.to_owned()), ..Options::default() }
}

/// Promise: once started, the issuer, the API and the AWS services answer, and unrouted paths do
/// not.
#[tokio::test]
async fn everything_answers_once_it_has_started() -> TestResult {
    let suite = Suite::start(Options::default()).await?;
    let issuer = suite.issuer().url().to_owned();
    assert_eq!(issuer, format!("{}/_local/issuer", suite.http_url()));

    let (status, discovery) = get(&format!("{issuer}/.well-known/openid-configuration"), None).await?;
    assert_eq!((status, &discovery["issuer"]), (200, &json!(issuer)));
    let (status, keys) = get(discovery["jwks_uri"].as_str().unwrap_or_default(), None).await?;
    let key = &keys["keys"][0];
    assert_eq!(status, 200);
    assert_eq!((&key["kty"], &key["alg"], &key["use"]), (&json!("RSA"), &json!("RS256"), &json!("sig")));
    for secret in ["d", "p", "q"] {
        assert_eq!(key.get(secret), None, "no part of the private key is published");
    }

    let url = format!("{}/v1/config", suite.http_url());
    assert_eq!(get(&url, None).await?.0, 401);
    let write_only = suite.token("acme", "config/write")?;
    assert_eq!(get(&url, Some(&write_only)).await?.0, 403);
    assert_eq!(get(&format!("{}/v2", suite.http_url()), None).await?.0, 404);
    assert_eq!(get(&format!("{issuer}/other"), None).await?.0, 404);

    let tables = dynamodb(&suite).list_tables().send().await?;
    assert_eq!(tables.table_names(), ["tenantry-ConfigTable"]);
    suite.stop().await;
    Ok(())
}

/// Promise: a test whose functions' clock stands still may last as long as it has to on a busy
/// machine: tokens are never issued in the functions' future.
#[tokio::test]
async fn tokens_are_good_by_a_clock_that_is_behind() -> TestResult {
    let behind = Clock::system().now().minus(Duration::from_mins(10));
    let suite = Suite::start(Options { clock: Clock::new(move || behind), ..Options::default() }).await?;
    let token = suite.token("acme", "config/read")?;
    assert_eq!(get(&format!("{}/v1/config", suite.http_url()), Some(&token)).await?.0, 200);
    suite.stop().await;
    Ok(())
}

/// Promise: the table is the template's, and its items expire.
#[tokio::test]
async fn the_table_is_that_of_the_template() -> TestResult {
    let suite = Suite::start(Options::default()).await?;
    let client = dynamodb(&suite);
    let described = client.describe_table().table_name("tenantry-ConfigTable").send().await?;
    let table = described.table().ok_or("no table")?;
    let keys: Vec<_> = table.key_schema().iter().map(KeySchemaElement::attribute_name).collect();
    assert_eq!(keys, ["pk", "sk"]);
    let mut indexes: Vec<_> = table
        .global_secondary_indexes()
        .iter()
        .map(|index| {
            let keys: Vec<_> = index.key_schema().iter().map(KeySchemaElement::attribute_name).collect();
            let projection = index.projection().and_then(|projection| projection.projection_type());
            format!("{:?} {keys:?} {:?}", index.index_name(), projection.map(ProjectionType::as_str))
        })
        .collect();
    indexes.sort();
    assert_eq!(
        indexes,
        [
            r#"Some("changes-by-time") ["timeShard", "timeKey"] Some("KEYS_ONLY")"#,
            r#"Some("outbox") ["outboxShard", "outboxKey"] Some("KEYS_ONLY")"#,
        ]
    );
    let expiry = client.describe_time_to_live().table_name("tenantry-ConfigTable").send().await?;
    let expiry = expiry.time_to_live_description().ok_or("no time to live")?;
    assert_eq!(expiry.attribute_name(), Some("expiresAt"));
    suite.stop().await;
    Ok(())
}

/// Promise: a restart keeps the data, the key and the tokens, on whatever port it runs next.
#[tokio::test]
async fn data_and_tokens_outlive_the_suite() -> TestResult {
    let folder = tempfile::tempdir()?;
    let first = Suite::start(on(folder.path())).await?;
    let token = first.token("acme", "config/write")?;
    let item = ("pk".to_owned(), AttributeValue::S("kept".into()));
    let client = dynamodb(&first);
    client
        .put_item()
        .table_name("tenantry-ConfigTable")
        .item(&item.0, item.1.clone())
        .item("sk", item.1.clone())
        .send()
        .await?;
    let earlier = first.issuer().url().to_owned();
    first.stop().await;

    let second = Suite::start(on(folder.path())).await?;
    // 403, not 401: it is known and lacks the scope to read.
    assert_eq!(get(&format!("{}/v1/config", second.http_url()), Some(&token)).await?.0, 403, "{earlier}");
    let found = dynamodb(&second).scan().table_name("tenantry-ConfigTable").send().await?;
    assert_eq!(found.items().len(), 1);
    second.stop().await;
    Ok(())
}

/// What `local token` signs for the suite at `place`, valid for so many seconds. It blocks as a
/// process of its own would.
async fn sign(place: Place, expires_in: i64) -> Result<token::Signed, Box<dyn std::error::Error>> {
    let signed = tokio::task::spawn_blocking(move || {
        let (tenant_claim, scope) = ("custom:tenantId", DEFAULT_SCOPE);
        token::sign(&place, &TokenRequest { tenant: "t", tenant_claim, scope, expires_in, claims: &[] })
    });
    Ok(signed.await??)
}

fn port(url: &str) -> u16 {
    url.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default()
}

/// A port that nobody listens on.
fn closed_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Promise: a token that is signed beside the suite is one that it takes, however the suite was
/// found, whatever its data folder, and whichever claim names the tenant.
#[tokio::test]
async fn tokens_signed_beside_the_suite_are_good() -> TestResult {
    let (folder, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let parameters = [("TenantClaim".to_owned(), "org".to_owned())].into();
    let suite = Suite::start(Options { parameters, ..on(folder.path()) }).await?;
    let here = port(suite.http_url());
    let by_folder = Place::Folder(folder.path().to_owned());
    for (case, place, expires_in, status) in [
        ("by its port", Place::Port(here), 60, 200),
        ("by its folder", by_folder.clone(), 60, 200),
        ("on the usual port", Place::Anywhere { port: here, data: elsewhere.path().to_owned() }, 60, 200),
        ("on the usual folder", Place::Anywhere { port: closed_port()?, data: folder.path().to_owned() }, 60, 200),
        ("on both", Place::Anywhere { port: here, data: folder.path().to_owned() }, 60, 200),
        ("expired", by_folder.clone(), -60, 401),
    ] {
        let signed = sign(place, expires_in).await.map_err(|error| format!("{case}: {error}"))?;
        assert!(signed.is_running, "{case}");
        let answered = get(&format!("{}/v1/config", suite.http_url()), Some(&signed.token)).await?;
        assert_eq!(answered.0, status, "{case}: {}", answered.1);
    }
    suite.stop().await;
    // The key is still there; nobody is who takes the token now.
    assert!(!sign(by_folder, 60).await?.is_running);
    Ok(())
}

/// Promise: where no suite runs that a token could be for, that is said, and nothing is made;
/// nothing that an earlier one left behind, and no other program, is taken for one.
#[tokio::test]
async fn without_a_suite_there_is_no_token() -> TestResult {
    let folder = tempfile::tempdir()?;
    let (new, used) = (folder.path().join("new"), folder.path().join("used"));
    Suite::start(on(&used)).await?.stop().await;
    // It takes one call and hangs up, as another program's server may; then its port is closed.
    let other = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let others_port = other.local_addr()?.port();
    let hanging_up = std::thread::spawn(move || other.accept().map(drop));
    for (place, message) in [
        (Place::Anywhere { port: closed_port()?, data: new.clone() }, "no suite runs here"),
        (Place::Anywhere { port: others_port, data: used.clone() }, "no suite runs here"),
        (Place::Port(closed_port()?), "no suite runs here"),
        (Place::Folder(new.clone()), "no suite has run on the data folder"),
    ] {
        let error = sign(place.clone(), 60).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(message), "{place:?}: {error}");
        assert!(!new.exists(), "{place:?}");
    }
    hanging_up.join().map_err(|_| "it panicked")??;
    Ok(())
}

/// Promise: of two suites the caller says which one is meant, and a key that is not the suite's
/// signs nothing for it.
#[tokio::test]
async fn a_token_is_never_for_another_suite() -> TestResult {
    let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (first, second) = (Suite::start(on(one.path())).await?, Suite::start(on(two.path())).await?);
    let both = Place::Anywhere { port: port(first.http_url()), data: two.path().to_owned() };
    let refused = |error: Box<dyn std::error::Error>| error.downcast::<TokenError>().map(|error| *error);
    let error = sign(both, 60).await.map(|_| ()).map_err(refused);
    assert!(matches!(error, Err(Ok(TokenError::Several(ports))) if ports.contains(&port(second.http_url()))));

    fs::copy(two.path().join("issuer-key.pem"), one.path().join("issuer-key.pem"))?;
    let error = sign(Place::Port(port(first.http_url())), 60).await.map(|_| ()).map_err(refused);
    assert!(matches!(error, Err(Ok(TokenError::OtherKey { data, .. })) if data == one.path()));
    first.stop().await;
    second.stop().await;
    Ok(())
}

/// Promise: the ready file is there exactly while the suite answers.
#[tokio::test]
async fn the_ready_file_comes_and_goes_with_the_suite() -> TestResult {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ready.json");
    fs::write(&file, "of an earlier run")?;
    let suite = Suite::start(Options { ready_file: Some(file.clone()), ..on(&folder.path().join("data")) }).await?;
    let ready: Value = serde_json::from_slice(&fs::read(&file)?)?;
    assert_eq!(ready["httpUrl"], suite.http_url());
    assert_eq!(ready["awsUrl"], suite.aws_url());
    assert_eq!(ready["issuer"], suite.issuer().url());
    assert_eq!(get(ready["jwksUrl"].as_str().unwrap_or_default(), None).await?.0, 200);
    let tokens = ready["tokens"].as_object().ok_or("no tokens")?;
    assert_eq!(tokens.keys().collect::<Vec<_>>(), ["acme", "globex"]);

    // A second instance is refused and leaves the first one's file alone.
    let second = Options { ready_file: Some(file.clone()), ..on(&folder.path().join("data")) };
    let error = Suite::start(second).await.map(drop);
    assert!(matches!(error, Err(StartError::Data(_))), "{error:?}");
    assert!(file.exists());
    suite.stop().await;
    assert!(!file.exists());
    Ok(())
}

/// Promise: what keeps the suite from starting is named.
#[tokio::test]
async fn a_start_that_fails_says_why() -> TestResult {
    let suite = Suite::start(Options::default()).await?;
    let (http_port, aws_port) = (port(suite.http_url()), port(suite.aws_url()));
    let file = tempfile::NamedTempFile::new()?;
    for (options, message) in [
        (Options { http_port, ..Options::default() }, "--http-port"),
        (Options { aws_port, ..Options::default() }, "--aws-port"),
        (on(file.path()), "cannot use the data folder"),
        (
            Options { parameters: [("Nothing".to_owned(), String::new())].into(), ..Options::default() },
            "template.yaml cannot be run locally",
        ),
    ] {
        match Suite::start(options).await {
            Ok(_) => return Err(format!("started despite {message}").into()),
            Err(error) => assert!(error.to_string().contains(message), "{error}"),
        }
    }
    suite.stop().await;
    Ok(())
}

/// Promise: each tenant has a token of its own with every scope.
#[tokio::test]
async fn sample_tokens_name_their_tenant() -> TestResult {
    let suite = Suite::start(Options::default()).await?;
    for (tenant, token) in suite.sample_tokens()? {
        let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(&token)?;
        assert_eq!(claims["custom:tenantId"], tenant);
        assert_eq!(claims["scope"], DEFAULT_SCOPE);
        assert_eq!(claims["token_use"], "access");
        assert_eq!(claims["iss"], suite.issuer().url());
    }
    suite.stop().await;
    Ok(())
}
