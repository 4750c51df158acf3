//! What the template's roles allow, one by one, by real calls to the emulator, which evaluates
//! their policies as IAM does. The sessions here carry no session policy: the roles alone have to
//! hold.

use std::collections::BTreeMap;

use bytes::Bytes;
use emulator::RoleCredentials;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use local::{
    Options, Suite,
    suite::{ACCOUNT, REGION},
};
use serde_json::{Value, json};

const TABLE: &str = "tenantry-ConfigTable";
/// What a row asks for, and what must come of it.
const ALLOWED: bool = true;
const DENIED: bool = false;

struct Wall {
    suite: Suite,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Wall {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(parameters: &[(&str, &str)]) -> Self {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let suite = Suite::start(Options { parameters, ..Options::default() }).await.expect("the suite starts");
        Self { suite, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// A call as an SDK would make it, but for the signature; none stands for the account's
    /// administrator.
    async fn call(&self, by: Option<&RoleCredentials>, headers: &[(&str, &str)], body: String) -> (u16, String) {
        let key = by.map_or("administrator", |by| by.access_key_id.as_str());
        let credential =
            format!("AWS4-HMAC-SHA256 Credential={key}/20261121/{REGION}/x/aws4_request, SignedHeaders=host");
        let mut request = Request::post(format!("{}/", self.suite.aws_url())).header("authorization", credential);
        if let Some(by) = by {
            request = request.header("x-amz-security-token", &by.session_token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let answer = self.client.request(request).await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a whole answer").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    /// Whether IAM lets a call through; what the service then says of it is its own affair.
    async fn allows(&self, by: &RoleCredentials, target: &str, body: &Value) -> bool {
        let headers = [("x-amz-target", target), ("content-type", "application/x-amz-json-1.0")];
        let (_, answer) = self.call(Some(by), &headers, body.to_string()).await;
        for unasked in ["UnrecognizedClient", "ExpiredToken", "Serialization", "UnknownOperation", "InternalFailure"] {
            assert!(!answer.contains(unasked), "{target} {body}: {answer}");
        }
        !answer.contains("AccessDenied")
    }

    /// Takes on a role; the error is STS's code.
    async fn assume(
        &self,
        by: Option<&RoleCredentials>,
        role: &str,
        name: &str,
        tags: &[(&str, &str)],
    ) -> Result<RoleCredentials, String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", "AssumeRole").append_pair("Version", "2011-06-15");
        form.append_pair("RoleArn", &format!("arn:aws:iam::{ACCOUNT}:role/{role}"))
            .append_pair("RoleSessionName", name);
        for ((key, value), at) in tags.iter().zip(1..) {
            form.append_pair(&format!("Tags.member.{at}.Key"), key)
                .append_pair(&format!("Tags.member.{at}.Value"), value);
        }
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let (status, answer) = self.call(by, &headers, form.finish()).await;
        let element = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>"))?;
            Some(rest.split_once("</")?.0.to_owned())
        };
        if status != 200 {
            return Err(element("Code").unwrap_or(answer));
        }
        Ok(RoleCredentials {
            access_key_id: element("AccessKeyId").expect("an id"),
            secret_access_key: element("SecretAccessKey").expect("a secret"),
            session_token: element("SessionToken").expect("a token"),
        })
    }

    async fn check(&self, who: &str, by: &RoleCredentials, rows: impl IntoIterator<Item = Row>) {
        for (target, body, expected) in rows {
            assert_eq!(self.allows(by, target, &body).await, expected, "{who}: {target} {body}");
        }
    }

    /// A function's own credentials, or a task's.
    fn function(&self, role: &str) -> RoleCredentials {
        self.suite.emulator().credentials_of(&format!("tenantry-{role}")).expect("the template has the role")
    }
}

/// The item that begins a tenant's partition.
fn item(partition: &str) -> Value {
    json!({"pk": {"S": partition}, "sk": {"S": "HEAD"}})
}

fn get(partition: &str) -> Value {
    json!({"TableName": TABLE, "Key": item(partition)})
}

fn put(partition: &str) -> Value {
    json!({"TableName": TABLE, "Item": item(partition)})
}

fn update(partition: &str) -> Value {
    let values = json!({":v": {"N": "1"}});
    json!({"TableName": TABLE, "Key": item(partition), "UpdateExpression": "SET v = :v", "ExpressionAttributeValues": values})
}

fn batch_get(partitions: &[&str]) -> Value {
    let keys: Vec<_> = partitions.iter().map(|partition| item(partition)).collect();
    json!({"RequestItems": {TABLE: {"Keys": keys}}})
}

fn query(condition: &str, value: &str) -> Value {
    json!({"TableName": TABLE, "KeyConditionExpression": condition, "ExpressionAttributeValues": {":p": {"S": value}, ":s": {"S": "A"}}})
}

fn index(name: &str, key: &str, value: &str) -> Value {
    let mut query = query(&format!("{key} = :p"), value);
    query["IndexName"] = name.into();
    query["ExpressionAttributeValues"] = json!({":p": {"S": value}});
    query
}

fn transact(partitions: &[&str]) -> Value {
    let puts: Vec<_> = partitions.iter().map(|partition| json!({"Put": put(partition)})).collect();
    json!({"TransactItems": puts})
}

fn named(names: &[&str]) -> Value {
    json!({"Names": names, "WithDecryption": true})
}

fn parameter(name: &str) -> Value {
    json!({"Name": name, "Value": "v", "Type": "String"})
}

const GET: &str = "DynamoDB_20120810.GetItem";
const PUT: &str = "DynamoDB_20120810.PutItem";
const QUERY: &str = "DynamoDB_20120810.Query";
const PARTIQL: &str = "DynamoDB_20120810.ExecuteStatement";
const TRANSACT: &str = "DynamoDB_20120810.TransactWriteItems";
const GET_PARAMETERS: &str = "AmazonSSM.GetParameters";
const BY_PATH: &str = "AmazonSSM.GetParametersByPath";
const PUT_PARAMETER: &str = "AmazonSSM.PutParameter";

type Row = (&'static str, Value, bool);

/// What no role of a tenant may do, whichever function's it is.
fn never_allowed() -> Vec<Row> {
    let scan = json!({"TableName": TABLE});
    let scan_index = json!({"TableName": TABLE, "IndexName": "outbox"});
    let select = |partition: &str| json!({"Statement": format!("SELECT * FROM \"{TABLE}\" WHERE pk = '{partition}'")});
    let insert = json!({"Statement": format!("INSERT INTO \"{TABLE}\" VALUE {{'pk': 'TENANT#acme', 'sk': 'x'}}")});
    let condition_check = json!({"ConditionCheck": {"TableName": TABLE, "Key": item("TENANT#acme"), "ConditionExpression": "attribute_exists(pk)"}});
    let stream = json!({"StreamArn": format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{TABLE}/stream/x")});
    let by_path = |path: &str| json!({"Path": path, "Recursive": true});
    let other_arn = format!("arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/tenantry/globex/k");
    vec![
        // Names that are nearly the tenant's: its prefixes, what it is a prefix of, other cases,
        // patterns of it.
        (GET, get("TENANT#acm"), DENIED),
        (GET, get("TENANT#acme-eu"), DENIED),
        (GET, get("TENANT#acme#"), DENIED),
        (GET, get("TENANT#ACME"), DENIED),
        (GET, get("TENANT#*"), DENIED),
        (GET, get("TENANT#acm?"), DENIED),
        (GET, get("TENANT#${aws:PrincipalTag/TenantId}"), DENIED),
        (GET, get("TENANT#"), DENIED),
        (GET, get("tenant#acme"), DENIED),
        (GET, get("TENANT#globex"), DENIED),
        (GET, get("SYSTEM#RECONCILE"), DENIED),
        (GET, get("WARM-UP"), DENIED),
        (GET, json!({"TableName": "another", "Key": item("TENANT#acme")}), DENIED),
        (GET, json!({"TableName": TABLE, "Key": {"sk": {"S": "HEAD"}}}), DENIED),
        ("DynamoDB_20120810.BatchGetItem", batch_get(&["TENANT#acme", "TENANT#globex"]), DENIED),
        ("DynamoDB_20120810.BatchGetItem", batch_get(&["TENANT#acme-eu"]), DENIED),
        (
            "DynamoDB_20120810.TransactGetItems",
            json!({"TransactItems": [{"Get": get("TENANT#acme")}, {"Get": get("TENANT#globex")}]}),
            DENIED,
        ),
        (QUERY, query("pk = :p", "TENANT#globex"), DENIED),
        (QUERY, query("sk > :s AND pk = :p", "TENANT#globex"), DENIED),
        (QUERY, query("pk = :p AND begins_with(sk, :s)", "TENANT#acme-eu"), DENIED),
        (QUERY, index("outbox", "outboxShard", "REPLICATE#0"), DENIED),
        (QUERY, index("changes-by-time", "timeShard", "TENANT#acme"), DENIED),
        ("DynamoDB_20120810.Scan", scan, DENIED),
        ("DynamoDB_20120810.Scan", scan_index, DENIED),
        (PARTIQL, select("TENANT#acme"), DENIED),
        (PARTIQL, select("TENANT#globex"), DENIED),
        (PARTIQL, insert, DENIED),
        ("DynamoDB_20120810.BatchExecuteStatement", json!({"Statements": [select("TENANT#acme")]}), DENIED),
        ("DynamoDB_20120810.ExecuteTransaction", json!({"TransactStatements": [select("TENANT#acme")]}), DENIED),
        (TRANSACT, transact(&["TENANT#acme", "TENANT#globex"]), DENIED),
        (TRANSACT, json!({"TransactItems": [condition_check]}), DENIED),
        (PUT, put("TENANT#globex"), DENIED),
        ("DynamoDB_20120810.UpdateItem", update("TENANT#globex"), DENIED),
        ("DynamoDB_20120810.DeleteItem", get("TENANT#acme"), DENIED),
        (
            "DynamoDB_20120810.BatchWriteItem",
            json!({"RequestItems": {TABLE: [{"PutRequest": {"Item": item("TENANT#acme")}}]}}),
            DENIED,
        ),
        ("DynamoDB_20120810.DescribeTable", json!({"TableName": TABLE}), DENIED),
        ("DynamoDB_20120810.ListTables", json!({}), DENIED),
        ("DynamoDB_20120810.DeleteTable", json!({"TableName": TABLE}), DENIED),
        ("DynamoDBStreams_20120810.DescribeStream", stream, DENIED),
        (GET_PARAMETERS, named(&["/tenantry/globex/param_config_/k"]), DENIED),
        (GET_PARAMETERS, named(&["/tenantry/acme-eu/param_config_/k"]), DENIED),
        (GET_PARAMETERS, named(&["/tenantry/acme/param_config_/k", "/tenantry/globex/param_config_/k"]), DENIED),
        (GET_PARAMETERS, named(&["/tenantry/acme"]), DENIED),
        (GET_PARAMETERS, named(&["/tenantry/acme*/k"]), DENIED),
        (GET_PARAMETERS, named(&["/other/acme/param_config_/k"]), DENIED),
        (GET_PARAMETERS, named(&[&other_arn]), DENIED),
        (GET_PARAMETERS, named(&["/tenantry/globex/param_config_/k:1"]), DENIED),
        ("AmazonSSM.GetParameter", json!({"Name": "/tenantry/acme/param_config_/k"}), DENIED),
        ("AmazonSSM.GetParameterHistory", json!({"Name": "/tenantry/globex/param_config_/k"}), DENIED),
        (BY_PATH, by_path("/"), DENIED),
        (BY_PATH, by_path("/tenantry"), DENIED),
        (BY_PATH, by_path("/tenantry/acme"), DENIED),
        (BY_PATH, by_path("/tenantry/acme/param_config_"), DENIED),
        ("AmazonSSM.DescribeParameters", json!({}), DENIED),
        (PUT_PARAMETER, parameter("/tenantry/globex/param_config_/k"), DENIED),
        (PUT_PARAMETER, parameter("/tenantry/acme-eu/param_config_/k"), DENIED),
        ("AmazonSSM.DeleteParameter", json!({"Name": "/tenantry/globex/param_config_/k"}), DENIED),
        ("AmazonSSM.DeleteParameters", json!({"Names": ["/tenantry/acme/param_config_/k"]}), DENIED),
        ("AmazonSSM.LabelParameterVersion", json!({"Name": "/tenantry/acme/param_config_/k", "Labels": ["l"]}), DENIED),
        (
            "AWSEvents.PutEvents",
            json!({"Entries": [{"EventBusName": "tenantry-config", "Source": "tenantry", "DetailType": "d", "Detail": "{}"}]}),
            DENIED,
        ),
    ]
}

/// What the tenant's own data are open to: everything that a function does, by the role that it
/// does it with.
fn own(reads: bool, queries: bool, writes: bool) -> Vec<Row> {
    vec![
        (GET, get("TENANT#acme"), ALLOWED),
        ("DynamoDB_20120810.BatchGetItem", batch_get(&["TENANT#acme"]), ALLOWED),
        ("DynamoDB_20120810.TransactGetItems", json!({"TransactItems": [{"Get": get("TENANT#acme")}]}), reads),
        (QUERY, query("pk = :p", "TENANT#acme"), queries),
        (QUERY, query("sk > :s AND pk = :p", "TENANT#acme"), queries),
        (PUT, put("TENANT#acme"), writes),
        ("DynamoDB_20120810.UpdateItem", update("TENANT#acme"), writes),
        (TRANSACT, transact(&["TENANT#acme", "TENANT#acme"]), writes),
        (GET_PARAMETERS, named(&["/tenantry/acme/param_config_/k"]), ALLOWED),
        (GET_PARAMETERS, named(&["/tenantry/acme/param_config_/k:1", "/tenantry/acme/secret_config_/k"]), ALLOWED),
        ("AmazonSSM.GetParameterHistory", json!({"Name": "/tenantry/acme/param_config_/k"}), ALLOWED),
        (PUT_PARAMETER, parameter("/tenantry/acme/param_config_/k"), writes),
        ("AmazonSSM.DeleteParameter", json!({"Name": "/tenantry/acme/param_config_/k"}), writes),
    ]
}

/// Promise: each role allows what its function does for a tenant, and nothing of anybody else's, by
/// no operation.
#[tokio::test]
async fn roles_are_walls() {
    let wall = Wall::start().await;
    let mut asked = BTreeMap::from([(ALLOWED, 0), (DENIED, 0)]);
    let mut check = async |who: &str, by: &RoleCredentials, rows: Vec<Row>| {
        for (target, body, expected) in rows {
            assert_eq!(wall.allows(by, target, &body).await, expected, "{who}: {target} {body}");
            *asked.entry(expected).or_default() += 1;
        }
    };
    for (function, rows) in
        [("Read", own(true, true, false)), ("Write", own(true, false, true)), ("Refresh", own(true, true, true))]
    {
        let role = format!("tenantry-Config{function}TenantRole");
        let own_rights = wall.function(&format!("Config{function}Role"));
        let session = wall.assume(Some(&own_rights), &role, "@acme", &[("TenantId", "acme")]).await.expect(&role);
        check(&role, &session, rows).await;
        check(&role, &session, never_allowed()).await;

        // The administrator may take on the role without a tag: its policies then allow nothing.
        let untagged = wall.assume(None, &role, "@acme", &[]).await.expect(&role);
        let all = own(true, true, true).into_iter().chain(never_allowed());
        check("no tag", &untagged, all.map(|(target, body, _)| (target, body, DENIED)).collect()).await;
        // A tenant is what the tag says, not what the session is called.
        let other = wall.assume(None, &role, "@acme", &[("TenantId", "globex")]).await.expect(&role);
        check("another's tag", &other, vec![(GET, get("TENANT#acme"), DENIED), (GET, get("TENANT#globex"), ALLOWED)])
            .await;

        // The function itself: the connection that it opens, and its bus.
        let publishes = function != "Read";
        let event = |bus: &str| json!({"Entries": [{"EventBusName": bus, "Source": "tenantry", "DetailType": "d", "Detail": "{}"}]});
        let all = own(true, true, true).into_iter().chain(never_allowed());
        let none = all.filter(|(target, body, _)| !target.contains("PutEvents") && *body != get("WARM-UP"));
        check(function, &own_rights, none.map(|(target, body, _)| (target, body, DENIED)).collect()).await;
        check(
            function,
            &own_rights,
            vec![
                (GET, get("WARM-UP"), function != "Refresh"),
                (PUT, put("WARM-UP"), DENIED),
                ("AWSEvents.PutEvents", event("tenantry-config"), publishes),
                ("AWSEvents.PutEvents", event("default"), DENIED),
            ],
        )
        .await;
    }
    let own_rights = wall.function("ConfigRefreshRole");
    let system =
        wall.assume(Some(&own_rights), "tenantry-ConfigRefreshSystemRole", "system", &[]).await.expect("a session");
    let mine = vec![
        (QUERY, index("outbox", "outboxShard", "REPLICATE#0"), ALLOWED),
        (QUERY, index("changes-by-time", "timeShard", "PARAMETERS#0"), ALLOWED),
        (GET, get("SYSTEM#RECONCILE"), ALLOWED),
        (PUT, put("SYSTEM#RECONCILE"), ALLOWED),
        (PUT, put("SYSTEM#OTHER"), DENIED),
        ("DynamoDB_20120810.UpdateItem", update("SYSTEM#RECONCILE"), DENIED),
        ("AmazonSSM.DescribeParameters", json!({}), ALLOWED),
    ];
    let of_tenants = own(true, true, true).into_iter().chain(never_allowed());
    let of_tenants = of_tenants
        .filter(|one| !mine.iter().any(|row| (row.0, &row.1) == (one.0, &one.1)) && one.1["IndexName"].is_null());
    check("system", &system, of_tenants.map(|(target, body, _)| (target, body, DENIED)).collect()).await;
    check("system", &system, mine).await;
    eprintln!("{} calls that a role allows, {} that it does not", asked[&ALLOWED], asked[&DENIED]);
    wall.suite.stop().await;
}

/// A call that names a queue of the template.
fn of_queue(name: &str) -> Value {
    json!({
        "QueueUrl": format!("https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/tenantry-{name}"),
        "MessageBody": "m",
        "ReceiptHandle": "00000000-0000-0000-0000-000000000000",
        "Entries": [{"Id": "1", "ReceiptHandle": "00000000-0000-0000-0000-000000000000"}],
    })
}

fn denied(rows: impl IntoIterator<Item = Row>) -> impl Iterator<Item = Row> {
    rows.into_iter().map(|(target, body, _)| (target, body, DENIED))
}

/// What all tenants together are open to: which of them have changed.
fn recent() -> Value {
    index("changes-by-time", "timeShard", "CHANGES#0")
}

const HINTS: [&str; 3] = ["AmazonSQS.ReceiveMessage", "AmazonSQS.DeleteMessage", "AmazonSQS.DeleteMessageBatch"];

/// What the streaming service does for a tenant: it reads.
fn own_of_stream() -> Vec<Row> {
    own(true, true, false)
}

/// Promise: the streaming service reads a tenant's data with that tenant's credentials and writes
/// nothing; without a tenant it sees which of them have changed, and no more; by itself it takes
/// its hints, and no more. Nobody else takes them.
#[tokio::test]
async fn the_streaming_service_has_walls_of_its_own() {
    let wall = Wall::start().await;
    let all = || own(true, true, true).into_iter().chain(never_allowed());
    let task = wall.function("ConfigStreamTaskRole");
    let role = "tenantry-ConfigStreamTenantRole";
    let tenant = wall.assume(Some(&task), role, "@acme", &[("TenantId", "acme")]).await.expect(role);
    wall.check("tenant", &tenant, own_of_stream()).await;
    wall.check("tenant", &tenant, never_allowed()).await;
    let untagged = wall.assume(None, role, "@acme", &[]).await.expect(role);
    wall.check("no tag", &untagged, denied(all())).await;

    let system = wall.assume(Some(&task), "tenantry-ConfigStreamSystemRole", "system", &[]).await.expect("a session");
    wall.check("system", &system, [(QUERY, recent(), ALLOWED)]).await;
    let others = all().filter(|(_, body, _)| body["IndexName"] != "changes-by-time");
    wall.check("system", &system, denied(others)).await;

    wall.check("task", &task, denied(all().chain([(QUERY, recent(), DENIED), (GET, get("WARM-UP"), DENIED)]))).await;
    wall.check("task", &task, HINTS.map(|call| (call, of_queue("ConfigStreamHints"), ALLOWED))).await;
    wall.check("task", &task, HINTS.map(|call| (call, of_queue("RefreshDeadLetters"), DENIED))).await;
    wall.check("task", &task, [("AmazonSQS.SendMessage", of_queue("ConfigStreamHints"), DENIED)]).await;
    let others = ["ConfigStreamExecutionRole", "ConfigReadRole", "ConfigWriteRole", "ConfigRefreshRole"];
    let others = others.map(|role| wall.function(role)).into_iter().chain([tenant, system]);
    for other in others {
        wall.check("another", &other, HINTS.map(|call| (call, of_queue("ConfigStreamHints"), DENIED))).await;
    }
    wall.check("execution", &wall.function("ConfigStreamExecutionRole"), denied(all())).await;
    wall.suite.stop().await;
}

/// Promise: with what the suite would start the streaming service with, it finds each change of the
/// suite's bus in the queue that it is told of.
#[tokio::test]
async fn changes_are_in_the_queue_that_the_streaming_service_is_told_of() {
    let wall = Wall::start().await;
    let environment = wall.suite.stream_environment().expect("a streaming service");
    let own = RoleCredentials {
        access_key_id: environment["AWS_ACCESS_KEY_ID"].clone(),
        secret_access_key: environment["AWS_SECRET_ACCESS_KEY"].clone(),
        session_token: environment["AWS_SESSION_TOKEN"].clone(),
    };
    assert_eq!(
        (environment["AWS_ENDPOINT_URL"].as_str(), environment["AWS_REGION"].as_str()),
        (wall.suite.aws_url(), REGION)
    );
    for (target, by, body) in [
        (
            "AWSEvents.PutEvents",
            None,
            json!({"Entries": [{"EventBusName": "tenantry-config", "Source": "tenantry", "DetailType": "Config Changed", "Detail": r#"{"tenant":"acme"}"#}]}),
        ),
        ("AmazonSQS.ReceiveMessage", Some(&own), json!({"QueueUrl": environment["CHANGE_QUEUE_URL"]})),
    ] {
        let headers = [("x-amz-target", target), ("content-type", "application/x-amz-json-1.0")];
        let (status, answer) = wall.call(by, &headers, body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        wall.suite.emulator().settled().await;
        assert!(by.is_none() || answer.contains("acme"), "{answer}");
    }
    wall.suite.stop().await;
    let parameters = BTreeMap::from([("StreamImage".to_owned(), String::new())]);
    let without = Suite::start(Options { parameters, ..Options::default() }).await.expect("the suite starts");
    assert_eq!(without.stream_environment(), None);
    without.stop().await;
}

/// Promise: without tenants' credentials the streaming service reaches all tenants by itself, and
/// still only reads.
#[tokio::test]
async fn the_streaming_service_only_reads_by_itself() {
    let wall = Wall::with(&[("TenantCredentials", "false")]).await;
    let task = wall.function("ConfigStreamTaskRole");
    wall.check("task", &task, own_of_stream()).await;
    wall.check("task", &task, HINTS.map(|call| (call, of_queue("ConfigStreamHints"), ALLOWED))).await;
    let rows = [
        (GET, get("TENANT#globex"), ALLOWED),
        (QUERY, recent(), ALLOWED),
        (QUERY, index("outbox", "outboxShard", "REPLICATE#0"), DENIED),
        (PUT, put("SYSTEM#RECONCILE"), DENIED),
        ("AmazonSSM.DescribeParameters", json!({}), DENIED),
        ("DynamoDB_20120810.Scan", json!({"TableName": TABLE}), DENIED),
    ];
    wall.check("task", &task, rows).await;
    wall.suite.stop().await;
}

/// Promise: each role is taken on by its own function only, in the name of exactly one tenant, and
/// by nobody who is already in a role of a tenant.
#[tokio::test]
async fn roles_are_taken_on_by_their_functions_for_one_tenant() {
    let wall = Wall::start().await;
    let [read, write, refresh] =
        ["ConfigReadRole", "ConfigWriteRole", "ConfigRefreshRole"].map(|role| wall.function(role));
    let [stream, execution] = ["ConfigStreamTaskRole", "ConfigStreamExecutionRole"].map(|role| wall.function(role));
    let session = wall.assume(Some(&read), "tenantry-ConfigReadTenantRole", "@acme", &[("TenantId", "acme")]).await;
    let session = session.expect("a session");
    let acme: &[_] = &[("TenantId", "acme")];
    let two: &[_] = &[("TenantId", "acme"), ("Other", "x")];
    for (by, role, name, tags, expected) in [
        (&read, "ConfigReadTenantRole", "@acme", acme, Ok(())),
        (&write, "ConfigWriteTenantRole", "@acme", acme, Ok(())),
        (&refresh, "ConfigRefreshTenantRole", "@acme", acme, Ok(())),
        (&refresh, "ConfigRefreshSystemRole", "system", &[], Ok(())),
        (&read, "ConfigWriteTenantRole", "@acme", acme, Err("AccessDenied")),
        (&read, "ConfigRefreshTenantRole", "@acme", acme, Err("AccessDenied")),
        (&read, "ConfigRefreshSystemRole", "system", &[], Err("AccessDenied")),
        (&write, "ConfigReadTenantRole", "@acme", acme, Err("AccessDenied")),
        (&write, "ConfigRefreshSystemRole", "system", &[], Err("AccessDenied")),
        (&refresh, "ConfigReadTenantRole", "@acme", acme, Err("AccessDenied")),
        (&refresh, "ConfigRefreshSystemRole", "system", acme, Err("AccessDenied")),
        (&stream, "ConfigStreamTenantRole", "@acme", acme, Ok(())),
        (&stream, "ConfigStreamSystemRole", "system", &[], Ok(())),
        (&stream, "ConfigStreamTenantRole", "@acme", &[], Err("AccessDenied")),
        (&stream, "ConfigStreamTenantRole", "@globex", acme, Err("AccessDenied")),
        (&stream, "ConfigStreamTenantRole", "@acme", two, Err("AccessDenied")),
        (&stream, "ConfigStreamSystemRole", "system", acme, Err("AccessDenied")),
        (&stream, "ConfigReadTenantRole", "@acme", acme, Err("AccessDenied")),
        (&stream, "ConfigWriteTenantRole", "@acme", acme, Err("AccessDenied")),
        (&stream, "ConfigRefreshSystemRole", "system", &[], Err("AccessDenied")),
        (&execution, "ConfigStreamTenantRole", "@acme", acme, Err("AccessDenied")),
        (&execution, "ConfigStreamSystemRole", "system", &[], Err("AccessDenied")),
        (&read, "ConfigStreamTenantRole", "@acme", acme, Err("AccessDenied")),
        (&refresh, "ConfigStreamSystemRole", "system", &[], Err("AccessDenied")),
        (&read, "ConfigReadTenantRole", "@acme", &[], Err("AccessDenied")),
        (&read, "ConfigReadTenantRole", "@globex", acme, Err("AccessDenied")),
        (&read, "ConfigReadTenantRole", "acme", acme, Err("AccessDenied")),
        (&read, "ConfigReadTenantRole", "@acme", two, Err("AccessDenied")),
        (&read, "ConfigReadTenantRole", "@acme", &[("Tenant", "acme")], Err("AccessDenied")),
        (&read, "ConfigReadTenantRole", "@", &[("TenantId", "")], Err("ValidationError")),
        (&read, "ConfigReadTenantRole", "@acme", &[("TenantId", "*")], Err("ValidationError")),
        (&read, "ConfigReadTenantRole", "@acme", &[("TenantId", "TENANT#acme")], Err("ValidationError")),
        (&session, "ConfigReadTenantRole", "@globex", &[("TenantId", "globex")], Err("AccessDenied")),
        (&session, "ConfigReadTenantRole", "@acme", acme, Err("AccessDenied")),
    ] {
        let role = format!("tenantry-{role}");
        let found = wall.assume(Some(by), &role, name, tags).await;
        let found = found.as_ref().map(drop).map_err(String::as_str);
        assert_eq!(found, expected, "{role} as {name} with {tags:?}");
    }
    wall.suite.stop().await;
}

/// Promise: with a key of the account's own, secrets are encrypted and decrypted by the roles under
/// that very key, and for the tenant's own parameters only.
#[tokio::test]
async fn secrets_lie_under_the_accounts_key() {
    let arn = |id: &str| format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{id}");
    let (key, other) = (arn("1111"), arn("2222"));
    let wall = Wall::with(&[("ParameterKmsKeyArn", &key)]).await;
    let secret = |key: &str| json!({"Name": "/tenantry/acme/secret_config_/k", "Value": "v", "Type": "SecureString", "KeyId": key, "Overwrite": true});
    let read = |decrypted: bool| json!({"Names": ["/tenantry/acme/secret_config_/k"], "WithDecryption": decrypted});
    let history = json!({"Name": "/tenantry/acme/secret_config_/k", "WithDecryption": true});
    let session = async |function: &str| {
        let role = format!("tenantry-Config{function}TenantRole");
        let own_rights = wall.function(&format!("Config{function}Role"));
        wall.assume(Some(&own_rights), &role, "@acme", &[("TenantId", "acme")]).await.expect("a session")
    };
    let (reader, writer, refresher) = (session("Read").await, session("Write").await, session("Refresh").await);
    for (by, body, expected) in [
        (&writer, secret(&key), ALLOWED),
        (&refresher, secret(&key), ALLOWED),
        (&reader, secret(&key), DENIED),
        (&writer, secret(&other), DENIED),
    ] {
        assert_eq!(wall.allows(by, PUT_PARAMETER, &body).await, expected, "{body}");
    }
    for by in [&reader, &writer, &refresher] {
        assert!(wall.allows(by, GET_PARAMETERS, &read(true)).await);
        assert!(wall.allows(by, "AmazonSSM.GetParameterHistory", &history).await);
    }
    // Somebody puts the parameter under another key, which our roles know nothing of.
    let headers = [("x-amz-target", PUT_PARAMETER), ("content-type", "application/x-amz-json-1.1")];
    let (status, answer) = wall.call(None, &headers, secret(&other).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    for by in [&reader, &writer, &refresher] {
        assert!(!wall.allows(by, GET_PARAMETERS, &read(true)).await);
        assert!(wall.allows(by, GET_PARAMETERS, &read(false)).await, "where it lies is no secret");
    }
    wall.suite.stop().await;
}
