//! A client for the tests: requests as a tenant, answers with what tests look at, and a clock that
//! they set.

use std::{
    collections::HashMap,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use emulator::{EventFate, Held, Rule, Target};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use local::{Options, Suite, issuer::DEFAULT_SCOPE};
use serde_json::{Value, json};
use tenantry::{clock::Clock, ledger::GRACE};

/// A tag for each store and strategy.
pub(crate) const ROUTES: &str = r#"{
  "tenant_config_": {"store": "dynamodb"},
  "param_config_": {"store": "parameter-store"},
  "back_config_": {"store": "parameter-store", "strategy": "write-back"},
  "around_config_": {"store": "parameter-store", "strategy": "write-around"},
  "secret_config_": {"store": "parameter-store", "type": "SecureString"}
}"#;

/// Longer than any circuit to a store stays open.
pub(crate) const CIRCUIT: Duration = Duration::from_secs(31);

/// How often the outbox is flushed at the end of a test, at most.
const MOST_SWEEPS: usize = 3;

/// The seeds that tests with chance in them are run with: two, or as many as `TENANTRY_SEEDS` says.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("TENANTRY_SEEDS").ok().map(|count| count.parse().expect("TENANTRY_SEEDS is a number"));
    0..asked.unwrap_or(2)
}

/// A client of an emulated service, past the suite.
macro_rules! client {
    ($api:expr, $sdk:ident) => {
        $sdk::Client::from_conf(
            $sdk::Config::builder()
                .behavior_version($sdk::config::BehaviorVersion::latest())
                .region($sdk::config::Region::from_static(local::suite::REGION))
                .credentials_provider(Credentials::new("a", "b", None, None, "test"))
                .endpoint_url($api.suite.aws_url())
                .http_client(aws_smithy_http_client::Builder::new().build_http())
                .build(),
        )
    };
}

/// Waits until a call is held; a minute that passes without one is a failure.
pub(crate) async fn reached(held: &Held) {
    tokio::time::timeout(GRACE, held.reached()).await.expect("the call comes");
}

/// The suite and a client of it.
pub(crate) struct Api {
    pub(crate) suite: Suite,
    client: Client<HttpConnector, Full<Bytes>>,
    ahead: Arc<AtomicU64>,
}

/// A tenant's view of the suite.
#[derive(Clone)]
pub(crate) struct Tenant<'a> {
    api: &'a Api,
    pub(crate) name: String,
    pub(crate) token: String,
}

/// A request in the making.
pub(crate) struct Call<'a> {
    api: &'a Api,
    builder: http::request::Builder,
    body: Bytes,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Api {
    /// The details of all events on the suite's bus from now on.
    pub(crate) fn listen(&self) -> Arc<Mutex<Vec<Value>>> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&heard);
        let target: Target = Arc::new(move |event: Value, _| {
            note.lock().expect("no panic while noting").push(event["detail"].clone());
            Box::pin(async { Ok(()) })
        });
        let pattern = json!({"source": ["tenantry"]});
        let rule = Rule { name: "watch".to_owned(), bus: "tenantry-config".to_owned(), pattern, target };
        self.suite.emulator().add_rule(rule).expect("a rule");
        heard
    }

    /// A suite of its own, in memory, with all the tags of [`ROUTES`].
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A suite of its own, whose functions' clock moves at [`Api::pass`] only.
    pub(crate) async fn frozen() -> Self {
        Self::frozen_with(Options::default()).await
    }

    /// The same, started with `options` as far as the harness does not decide.
    pub(crate) async fn frozen_with(options: Options) -> Self {
        let begin = Clock::system().now();
        Self::at(Clock::new(move || begin), options).await
    }

    /// A suite of its own, started with `options` as far as the harness does not decide.
    pub(crate) async fn with(options: Options) -> Self {
        Self::at(Clock::system(), options).await
    }

    async fn at(clock: Clock, mut options: Options) -> Self {
        let ahead = Arc::new(AtomicU64::new(0));
        let offset = Arc::clone(&ahead);
        options.clock = Clock::new(move || clock.now().plus(Duration::from_millis(offset.load(Ordering::Relaxed))));
        options.parameters.entry("TagRoutes".to_owned()).or_insert_with(|| ROUTES.to_owned());
        // Only the tests of the limit are to meet it: others ask as fast as they can.
        options.parameters.entry("TenantRateLimit".to_owned()).or_insert_with(|| "0".to_owned());
        let suite = Suite::start(options).await.expect("the suite starts");
        Self { suite, client: Client::builder(TokioExecutor::new()).build_http(), ahead }
    }

    /// Moves the functions' clock ahead.
    pub(crate) fn pass(&self, time: Duration) {
        self.ahead.fetch_add(u64::try_from(time.as_millis()).expect("short"), Ordering::Relaxed);
    }

    /// Ends a test. Whatever it did, once every call succeeds again the service flushes its outbox
    /// by itself, so that nothing is left in it.
    pub(crate) async fn stop(self) {
        self.suite.emulator().faults().clear();
        self.suite.emulator().set_event_fate(EventFate::Delivered);
        self.settled().await;
        let mut left = self.outbox().await;
        for _ in 0..MOST_SWEEPS {
            if left.is_empty() {
                break;
            }
            self.pass(CIRCUIT + GRACE * 3);
            // What goes wrong is still in the outbox afterwards.
            let _ = self.suite.run_schedules().await;
            self.settled().await;
            left = self.outbox().await;
        }
        assert!(left.is_empty(), "a test that leaves something in the outbox ends with stop_with_outbox: {left:#?}");
        self.suite.stop().await;
    }

    /// Ends a test that leaves something in the outbox: what a store refuses, or what was damaged.
    pub(crate) async fn stop_with_outbox(self) {
        self.suite.stop().await;
    }

    /// What commits have left to do, each in words.
    async fn outbox(&self) -> Vec<String> {
        let dynamodb = client!(self, aws_sdk_dynamodb);
        let scan = dynamodb.scan().table_name(self.table(&dynamodb).await).index_name("outbox");
        let left = scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        left.expect("DynamoDB answers").iter().map(|item| format!("{item:?}")).collect()
    }

    /// Acts for a tenant, with a token that permits everything.
    pub(crate) fn tenant(&self, name: &str) -> Tenant<'_> {
        let token = self.suite.token(name, DEFAULT_SCOPE).expect("the issuer signs");
        Tenant { api: self, name: name.to_owned(), token }
    }

    /// A request without a token.
    pub(crate) fn call(&self, method: Method, path: &str) -> Call<'_> {
        let builder = Request::builder().method(method).uri(format!("{}{path}", self.suite.http_url()));
        Call { api: self, builder, body: Bytes::new() }
    }

    /// Parameter Store itself, past the suite.
    pub(crate) fn parameter_store(&self) -> aws_sdk_ssm::Client {
        client!(self, aws_sdk_ssm)
    }

    /// The queues themselves, past the suite.
    pub(crate) fn queues(&self) -> aws_sdk_sqs::Client {
        client!(self, aws_sdk_sqs)
    }

    /// One of a tenant's items, as it lies in the table.
    pub(crate) async fn item(&self, tenant: &Tenant<'_>, sort_key: &str) -> HashMap<String, AttributeValue> {
        let dynamodb = client!(self, aws_sdk_dynamodb);
        let get = dynamodb.get_item().table_name(self.table(&dynamodb).await).set_key(Some(tenant.place(sort_key)));
        get.send().await.expect("DynamoDB answers").item.unwrap_or_default()
    }

    /// Sets an attribute of one of a tenant's items to a text or a number, as nobody but a restored
    /// table would.
    pub(crate) async fn set(&self, tenant: &Tenant<'_>, sort_key: &str, attribute: &str, value: AttributeValue) {
        let dynamodb = client!(self, aws_sdk_dynamodb);
        let update =
            dynamodb.update_item().table_name(self.table(&dynamodb).await).set_key(Some(tenant.place(sort_key)));
        let update = update.update_expression("SET #a = :v").expression_attribute_names("#a", attribute);
        update.expression_attribute_values(":v", value).send().await.expect("DynamoDB answers");
    }

    /// Removes an attribute of one of a tenant's items, as if an older writer had written it.
    pub(crate) async fn remove_attribute(&self, tenant: &Tenant<'_>, sort_key: &str, attribute: &str) {
        let dynamodb = client!(self, aws_sdk_dynamodb);
        let update =
            dynamodb.update_item().table_name(self.table(&dynamodb).await).set_key(Some(tenant.place(sort_key)));
        let update = update.update_expression("REMOVE #a").expression_attribute_names("#a", attribute);
        update.send().await.expect("DynamoDB answers");
    }

    /// Removes one of a tenant's items from the table, as DynamoDB does with those that have
    /// expired.
    pub(crate) async fn remove_item(&self, tenant: &Tenant<'_>, sort_key: &str) {
        let dynamodb = client!(self, aws_sdk_dynamodb);
        let delete = dynamodb.delete_item().table_name(self.table(&dynamodb).await);
        delete.set_key(Some(tenant.place(sort_key))).send().await.expect("DynamoDB answers");
    }

    /// Puts an item of texts into the table.
    pub(crate) async fn put_item(&self, attributes: &[(&str, &str)]) {
        let dynamodb = client!(self, aws_sdk_dynamodb);
        let item = attributes.iter().map(|(name, text)| ((*name).to_owned(), AttributeValue::S((*text).to_owned())));
        let put = dynamodb.put_item().table_name(self.table(&dynamodb).await).set_item(Some(item.collect()));
        put.send().await.expect("DynamoDB takes it");
    }

    /// Every item of the table, with its partition.
    pub(crate) async fn items(&self) -> Vec<(String, HashMap<String, AttributeValue>)> {
        let dynamodb = client!(self, aws_sdk_dynamodb);
        let pages = dynamodb.scan().table_name(self.table(&dynamodb).await).into_paginator().items().send();
        let items: Vec<_> = pages.collect::<Result<_, _>>().await.expect("DynamoDB answers");
        let partition = |item: &HashMap<_, AttributeValue>| item["pk"].as_s().expect("a text").clone();
        items.into_iter().map(|item| (partition(&item), item)).collect()
    }

    /// Every parameter under the suite's root, by its name, with what it holds.
    pub(crate) async fn parameters(&self) -> Vec<(String, String)> {
        let below = self.parameter_store().get_parameters_by_path().path("/tenantry").recursive(true);
        let pages = below.with_decryption(true).into_paginator().send();
        let pages: Vec<_> = pages.collect::<Result<_, _>>().await.expect("Parameter Store answers");
        let texts = |one: aws_sdk_ssm::types::Parameter| (one.name.unwrap_or_default(), one.value.unwrap_or_default());
        pages.into_iter().flat_map(|page| page.parameters.unwrap_or_default()).map(texts).collect()
    }

    /// The name of the suite's table.
    async fn table(&self, dynamodb: &aws_sdk_dynamodb::Client) -> String {
        let tables = dynamodb.list_tables().send().await.expect("DynamoDB answers");
        let [table] = tables.table_names() else { panic!("the suite has one table: {tables:?}") };
        table.clone()
    }

    /// The text that a parameter holds now, and its version; none if there is no such parameter.
    pub(crate) async fn parameter(&self, name: &str) -> Option<(String, i64)> {
        let request = self.parameter_store().get_parameter().name(name).with_decryption(true);
        let answer = request.send().await.ok()?;
        let found = answer.parameter.expect("an answer has a parameter");
        Some((found.value.expect("a parameter has a value"), found.version))
    }

    /// Waits until all events have been delivered.
    pub(crate) async fn settled(&self) {
        self.suite.emulator().settled().await;
    }

    /// Lets work that is left come due, and has config-refresh work it off, so many times.
    pub(crate) async fn sweep(&self, times: usize) {
        for _ in 0..times {
            self.settled().await;
            self.pass(GRACE * 3);
            self.suite.run_schedules().await.expect("a sweep");
        }
        self.settled().await;
    }

    /// How often an AWS operation was called while `doing`.
    pub(crate) async fn calls_during<T>(&self, operation: &str, doing: impl IntoFuture<Output = T>) -> (u64, T) {
        let before = self.suite.emulator().calls().count(operation);
        let done = doing.await;
        (self.suite.emulator().calls().count(operation) - before, done)
    }
}

impl<'a> Tenant<'a> {
    pub(crate) fn call(&self, method: Method, path: &str) -> Call<'a> {
        self.api.call(method, path).header("authorization", &format!("Bearer {}", self.token))
    }

    pub(crate) fn get(&self, key: &str) -> Call<'a> {
        self.call(Method::GET, &format!("/v1/config/{key}"))
    }

    pub(crate) fn put(&self, key: &str, value: &Value) -> Call<'a> {
        self.call(Method::PUT, &format!("/v1/config/{key}")).json(&json!({"value": value}))
    }

    /// A put with a comment.
    pub(crate) fn put_because(&self, key: &str, value: &Value, comment: &str) -> Call<'a> {
        self.call(Method::PUT, &format!("/v1/config/{key}")).json(&json!({"value": value, "comment": comment}))
    }

    pub(crate) fn delete(&self, key: &str) -> Call<'a> {
        self.call(Method::DELETE, &format!("/v1/config/{key}"))
    }

    pub(crate) fn roll_back(&self, key: &str, version: u64) -> Call<'a> {
        self.call(Method::POST, &format!("/v1/rollback/{key}")).json(&json!({"version": version}))
    }

    pub(crate) fn history(&self, key: &str) -> Call<'a> {
        self.call(Method::GET, &format!("/v1/history/{key}"))
    }

    pub(crate) fn list(&self, query: &str) -> Call<'a> {
        self.call(Method::GET, &format!("/v1/config?{query}"))
    }

    pub(crate) fn changes(&self, query: &str) -> Call<'a> {
        self.call(Method::GET, &format!("/v1/changes?{query}"))
    }

    pub(crate) fn batch_get(&self, keys: &[&str]) -> Call<'a> {
        self.call(Method::POST, "/v1/batch-get").json(&json!({"keys": keys}))
    }

    pub(crate) fn transaction(&self, operations: &Value) -> Call<'a> {
        self.call(Method::POST, "/v1/transactions").json(&json!({"operations": operations}))
    }

    /// Where one of the tenant's items lies in the table. Spelled here and not taken from the
    /// ledger: tables that are there already have to be found again.
    fn place(&self, sort_key: &str) -> HashMap<String, AttributeValue> {
        let key = [("pk", format!("TENANT#{}", self.name)), ("sk", sort_key.to_owned())];
        key.map(|(name, text)| (name.to_owned(), AttributeValue::S(text))).into()
    }

    /// The name of a key's parameter.
    pub(crate) fn parameter_name(&self, tag: &str, name: &str) -> String {
        format!("/tenantry/{}/{tag}/{name}", self.name)
    }

    /// The event that API Gateway makes of a request with a body, for calls past it.
    pub(crate) fn event(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut event = json!({
            "version": "2.0",
            "rawPath": path,
            "rawQueryString": "",
            "headers": {"content-type": "application/json"},
            "requestContext": {"stage": "$default", "http": {"method": method, "path": path}},
            "body": body.to_string(),
            "isBase64Encoded": false,
        });
        let claims = json!({"custom:tenantId": self.name, "scope": DEFAULT_SCOPE, "sub": "crash-test"});
        come_with(&mut event, &claims);
        event
    }
}

/// A token with these claims that nobody has signed: to be read behind an authorizer, which would
/// have looked at that.
pub(crate) fn unsigned(claims: &Value) -> String {
    let header = json!({"alg": "RS256", "kid": "none"});
    let parts = [header.to_string(), claims.to_string(), "not signed".to_owned()];
    parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".")
}

/// What API Gateway's authorizer makes of claims: texts.
pub(crate) fn told(claims: &Value) -> Value {
    fn text(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(all) => format!("[{}]", all.iter().map(text).collect::<Vec<_>>().join(" ")),
            other => other.to_string(),
        }
    }
    let claims = claims.as_object().expect("claims are an object");
    claims.iter().map(|(name, value)| (name.clone(), text(value).into())).collect::<serde_json::Map<_, _>>().into()
}

/// Has an event come with these claims, in a token and as API Gateway's authorizer tells of it.
pub(crate) fn come_with(event: &mut Value, claims: &Value) {
    let mut claims = claims.clone();
    claims["exp"] = json!(4_000_000_000_u64);
    event["headers"]["authorization"] = json!(format!("Bearer {}", unsigned(&claims)));
    event["requestContext"]["authorizer"] = json!({"jwt": {"claims": told(&claims)}});
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    /// The request as a text, but for its token.
    pub(crate) fn text(&self) -> String {
        let method = self.builder.method_ref().map_or("", Method::as_str);
        let path = self.builder.uri_ref().and_then(|uri| uri.path_and_query()).map_or("", |path| path.as_str());
        let headers = self.builder.headers_ref().into_iter().flatten();
        let headers = headers.filter(|(name, _)| *name != "authorization");
        let headers = headers.map(|(name, value)| format!("\n{name}: {}", value.to_str().expect("a header of text")));
        let body = String::from_utf8_lossy(&self.body);
        let body = if body.is_empty() { String::new() } else { format!("\n{body}") };
        format!("{method} {path}{}{body}", headers.collect::<String>())
    }

    pub(crate) fn raw(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

impl<'a> IntoFuture for Call<'a> {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let request = self.builder.body(Full::new(self.body)).expect("a valid request");
            let (parts, body) = self.api.client.request(request).await.expect("an answer").into_parts();
            let bytes = body.collect().await.expect("a whole answer").to_bytes();
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            let body = serde_json::from_str(&text).unwrap_or(Value::Null);
            Answer { status: parts.status.as_u16(), headers: parts.headers, text, body }
        })
    }
}

impl Answer {
    /// The answer, if it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// The answer, if it is this problem.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, name: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.body["type"], format!("urn:tenantry:problem:{name}"), "{}", answer.text);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        answer
    }

    /// A header's value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of text"))
    }

    pub(crate) fn etag(&self) -> &str {
        self.header("etag")
    }

    /// The revision in the header.
    #[track_caller]
    pub(crate) fn revision(&self) -> u64 {
        self.header("tenantry-revision").parse().expect("a revision")
    }

    /// A member of the body that is a number.
    #[track_caller]
    pub(crate) fn number(&self, member: &str) -> u64 {
        self.body[member].as_u64().expect("a number")
    }

    /// The members called `member` of the list called `list`.
    #[track_caller]
    pub(crate) fn each(&self, list: &str, member: &str) -> Vec<Value> {
        self.body[list].as_array().expect("a list").iter().map(|one| one[member].clone()).collect()
    }
}
