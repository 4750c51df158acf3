//! The suite as a whole, in this process: everything is up when it says so, and data outlives it.

use std::{fs, path::Path};

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
    token,
};
use serde_json::{Value, json};

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

/// Promise: once started, the issuer, the API and the AWS services answer, and unrouted paths do not.
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
            r#"Some("work") ["workShard", "workKey"] Some("KEYS_ONLY")"#,
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

/// Promise: `local token` signs for the running suite, and does so before the first start, too.
#[tokio::test]
async fn tokens_signed_beside_the_suite_are_good() -> TestResult {
    let folder = tempfile::tempdir()?;
    let request =
        TokenRequest { tenant: "t", tenant_claim: "custom:tenantId", scope: "none", expires_in: 60, claims: &[] };
    let before = token::sign(folder.path(), 8080, &request)?;
    let suite = Suite::start(on(folder.path())).await?;
    let beside = token::sign(folder.path(), 8080, &request)?;
    let expired = token::sign(folder.path(), 8080, &TokenRequest { expires_in: -1, ..request })?;
    for (case, token, status) in [("before", before, 403), ("beside", beside, 403), ("expired", expired, 401)] {
        assert_eq!(get(&format!("{}/v1/config", suite.http_url()), Some(&token)).await?.0, status, "{case}");
    }
    suite.stop().await;
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
    let port = |url: &str| url.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
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
