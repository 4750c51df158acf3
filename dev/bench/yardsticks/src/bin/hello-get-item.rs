//! The yardstick for a read that asks the ledger: a bare function that makes one `GetItem` with the
//! SDK, over the same TLS settings as the functions, and does nothing with what it gets.

use std::{collections::HashMap, env, fs};

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::{
    Client, Config,
    config::{BehaviorVersion, Region},
    types::AttributeValue,
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use lambda_http::{Body, Error, Request, Response, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let client = client()?;
    let table = env::var("TABLE_NAME")?;
    let key = HashMap::from([
        ("pk".to_owned(), AttributeValue::S("TENANT#acme".to_owned())),
        ("sk".to_owned(), AttributeValue::S("HEAD".to_owned())),
    ]);
    lambda_http::run(service_fn(|_: Request| {
        let get = client.get_item().table_name(&table).set_key(Some(key.clone())).consistent_read(true);
        async {
            let got = get.send().await?;
            let text = if got.item.is_some() { r#"{"hello":"world"}"# } else { "{}" };
            Ok::<_, Error>(Response::new(Body::from(text)))
        }
    }))
    .await
}

fn client() -> Result<Client, Error> {
    let roots = TrustStore::empty().with_pem_certificate(fs::read(env::var("AWS_CA_BUNDLE")?)?);
    let http = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(TlsContext::builder().with_trust_store(roots).build()?)
        .build_https();
    let credentials = Credentials::from_keys(
        env::var("AWS_ACCESS_KEY_ID")?,
        env::var("AWS_SECRET_ACCESS_KEY")?,
        env::var("AWS_SESSION_TOKEN").ok(),
    );
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(env::var("AWS_REGION")?))
        .endpoint_url(env::var("AWS_ENDPOINT_URL")?)
        .credentials_provider(credentials)
        .http_client(http)
        .build();
    Ok(Client::from_conf(config))
}
