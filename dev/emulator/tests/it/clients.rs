//! AWS SDK clients for an endpoint, and short ways to say what is expected of their answers.

use std::fmt::Debug;
use std::future::Future;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region, SharedCredentialsProvider};
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_sdk_ssm::types::ParameterType;
use aws_smithy_http_client::Builder;
use emulator::{Emulator, Options};

/// Clients that do not retry: what a call answers is what the test sees.
pub(crate) struct Clients {
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) ssm: aws_sdk_ssm::Client,
    pub(crate) events: aws_sdk_eventbridge::Client,
    pub(crate) sqs: aws_sdk_sqs::Client,
    pub(crate) sts: aws_sdk_sts::Client,
}

/// Why a case does not hold.
pub(crate) struct Failure(pub(crate) String);

/// What a case comes to.
pub(crate) type Outcome = Result<(), Failure>;

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(DisplayErrorContext(&error).to_string())
    }
}

impl Debug for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl Clients {
    /// As the administrator.
    pub(crate) fn new(url: &str) -> Self {
        Self::with(url, Credentials::from_keys("test", "test", None))
    }

    /// As whoever has these credentials.
    pub(crate) fn with(url: &str, credentials: Credentials) -> Self {
        let credentials = SharedCredentialsProvider::new(credentials);
        let region = Region::new("us-east-1");
        let http = Builder::new().build_http();
        macro_rules! client {
            ($sdk:ident) => {
                $sdk::Client::from_conf(
                    $sdk::Config::builder()
                        .behavior_version(BehaviorVersion::v2026_01_12())
                        .credentials_provider(credentials.clone())
                        .region(region.clone())
                        .http_client(http.clone())
                        .retry_config(RetryConfig::disabled())
                        .endpoint_url(url)
                        .build(),
                )
            };
        }
        Self {
            dynamodb: client!(aws_sdk_dynamodb),
            ssm: client!(aws_sdk_ssm),
            events: client!(aws_sdk_eventbridge),
            sqs: client!(aws_sdk_sqs),
            sts: client!(aws_sdk_sts),
        }
    }

    /// A table with the keys `pk` and `sk`, both text.
    pub(crate) async fn table(&self, name: &str) -> Outcome {
        self.table_by(name, ["pk", "sk"]).await
    }

    /// A table with a partition key and a sort key of these names, both text.
    pub(crate) async fn table_by(&self, name: &str, keys: [&str; 2]) -> Outcome {
        let mut create = self.dynamodb.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
        for (key, kind) in keys.into_iter().zip([KeyType::Hash, KeyType::Range]) {
            create = create
                .attribute_definitions(
                    AttributeDefinition::builder()
                        .attribute_name(key)
                        .attribute_type(ScalarAttributeType::S)
                        .build()?,
                )
                .key_schema(KeySchemaElement::builder().attribute_name(key).key_type(kind).build()?);
        }
        create.send().await?;
        Ok(())
    }

    /// `PutParameter` of a `String`, new or not. Returns the version.
    pub(crate) async fn put_parameter(&self, name: &str, value: &str) -> Result<i64, Failure> {
        let put = self.ssm.put_parameter().name(name).value(value).r#type(ParameterType::String).overwrite(true);
        Ok(put.send().await?.version())
    }

    /// The value that `GetParameter` answers.
    pub(crate) async fn value(&self, name: &str) -> Result<String, Failure> {
        let got = self.ssm.get_parameter().name(name).send().await?;
        got.parameter()
            .and_then(|parameter| parameter.value())
            .map(str::to_owned)
            .ok_or_else(|| Failure(format!("{name} has no value")))
    }
}

/// An emulator in memory, and clients for it.
pub(crate) async fn start(options: Options) -> (Emulator, Clients) {
    let emulator = Emulator::start(options).await.expect("the emulator starts");
    let clients = Clients::new(emulator.url());
    (emulator, clients)
}

/// A text attribute.
pub(crate) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// A number attribute.
pub(crate) fn number(value: impl ToString + Copy) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// What came of a call: `ok`, or the code of its error.
pub(crate) async fn code<T, E, F>(call: F) -> String
where
    E: ProvideErrorMetadata,
    F: Future<Output = Result<T, E>>,
{
    match call.await {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.code().unwrap_or("no answer").to_owned(),
    }
}

/// Two things are the same.
macro_rules! same {
    ($what:expr, $actual:expr, $expected:expr $(,)?) => {
        match (&$actual, &$expected) {
            (actual, expected) if *actual == *expected => Ok::<(), $crate::clients::Failure>(()),
            (actual, expected) => {
                Err($crate::clients::Failure(format!("{}: {actual:?}, expected {expected:?}", $what)))
            }
        }
    };
}
pub(crate) use same;

/// Something holds.
pub(crate) fn holds(what: &str, condition: bool) -> Outcome {
    if condition { Ok(()) } else { Err(Failure(what.to_owned())) }
}
