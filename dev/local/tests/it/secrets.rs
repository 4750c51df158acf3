//! Secrets: their plaintext stays in one place.

use std::{
    io::{self, Write as _},
    sync::{Arc, Mutex},
};

use emulator::Fault;
use http::Method;
use serde_json::{Value, json};
use tenantry::telemetry::Telemetry;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::harness::{Answer, Api, CIRCUIT, Call, Tenant, come_with};

/// What has been logged.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while logging").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Promise: a secret's value stands in no log line of ours, whatever goes wrong, in no item of the
/// ledger, in no change, and in no error; and no other tenant's name stands in what is logged for
/// one. Nor does a comment stand in any log line.
#[tokio::test]
async fn plaintext_stays_in_parameter_store() {
    const CANARY: &str = "canary-7f3a9d";
    const NO_SECRET: &str = "plain-51c0be";
    const COMMENT: &str = "because-88d2f1";
    let log = Log::default();
    let ours =
        EnvFilter::new("tenantry=trace,config_read=trace,config_write=trace,config_refresh=trace,local=trace,info");
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).with_env_filter(ours).finish();
    // A second one, because as long as there is just one, a line that another test's thread comes
    // by first counts as unwanted here, too.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logging = tracing::subscriber::set_default(subscriber);

    let data = tempfile::tempdir().expect("a folder");
    let lines = log.clone();
    let telemetry = Telemetry::to(move |line| lines.clone().write_all(line.as_bytes()).expect("in memory"), None);
    let data_folder = Some(data.path().to_owned());
    let api = Api::with(local::Options { data: data_folder, telemetry, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    let secret = json!({"password": CANARY});
    acme.put_because("tenant_config_db", &json!(NO_SECRET), COMMENT).await.expect(201);
    acme.put_because("tenant_config_db", &json!(NO_SECRET), &format!("{COMMENT}\n")).await.expect(400);
    acme.delete(&format!("tenant_config_db?comment={COMMENT}")).await.expect(200);
    acme.delete(&format!("tenant_config_db?comment={COMMENT}")).await.expect(404);
    acme.call(Method::POST, "/v1/rollback/tenant_config_db")
        .json(&json!({"version": 1, "comment": COMMENT}))
        .await
        .expect(201);
    let operations = json!([{"op": "put", "key": "param_config_db", "value": 1}]);
    let body = json!({"operations": operations, "comment": COMMENT});
    acme.call(Method::POST, "/v1/transactions").json(&body).await.expect(200);
    assert!(acme.changes("since=0").await.expect(200).text.contains(COMMENT));
    let written = acme.put("secret_config_db", &secret).header("idempotency-key", "k").await.expect(201);
    // White space around a text is in the ledger, the text is not.
    acme.put("secret_config_pem", &json!(format!("\n{CANARY}\n"))).await.expect(201);
    let read = acme.get("secret_config_db").await.expect(200);
    assert_eq!((&read.body["value"], read.header("cache-control")), (&secret, "no-store"));
    for operation in ["PutParameter", "TransactWriteItems", "GetParameterHistory", "GetItem", "BatchGetItem"] {
        api.suite.emulator().faults().inject(operation, Fault::InternalError, 20);
        let failed = acme.put("secret_config_db", &json!(format!("{CANARY}!"))).await;
        assert!(!failed.text.contains(CANARY), "{}", failed.text);
        api.suite.emulator().faults().clear();
        api.pass(CIRCUIT);
    }
    let too_large = acme.put("secret_config_db", &json!(CANARY.repeat(1000))).await.expect_problem(413, "too-large");
    let lost = acme.put("secret_config_db", &json!(CANARY)).header("if-none-match", "*").await.expect(412);
    for answer in [&written, &too_large, &lost, &acme.changes("since=0").await] {
        assert!(!answer.text.contains(CANARY), "{}", answer.text);
    }
    // What the writes set going may have met the faults as well, and opened circuits again.
    api.settled().await;
    api.pass(CIRCUIT);
    api.suite.run_schedules().await.expect("a sweep");
    let token = acme.token.clone();
    api.stop().await;

    let logged = String::from_utf8_lossy(&log.0.lock().expect("no panic while logging")).into_owned();
    for looked_at in ["an AWS call failed", "PUT /v1/config/{key+}"] {
        assert!(logged.contains(looked_at), "the log is looked at: {logged}");
    }
    assert!(!logged.contains(CANARY), "{logged}");
    for hidden in token.split('.').chain(["Bearer ", COMMENT]) {
        assert!(!logged.contains(hidden), "{hidden}: {logged}");
    }
    let mut found = false;
    for entry in std::fs::read_dir(data.path().join("aws")).expect("the emulator's folder") {
        let path = entry.expect("a file").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().contains("dynamodb")) {
            let bytes = std::fs::read(&path).expect("readable");
            let text = String::from_utf8_lossy(&bytes);
            found |= text.contains(NO_SECRET);
            assert!(!text.contains(CANARY), "{}", path.display());
        }
    }
    assert!(found, "a value that is no secret would be found here");
}

/// The same tenant, with a token for these scopes.
fn with_scope<'a>(api: &Api, tenant: &Tenant<'a>, scope: &str) -> Tenant<'a> {
    let mut same = tenant.clone();
    same.token = api.suite.token(&tenant.name, scope).expect("a token");
    same
}

/// The answer to a request that no store may hear of.
async fn without_a_call(api: &Api, call: Call<'_>) -> Answer {
    let before = api.suite.emulator().calls().total();
    let answer = call.await;
    assert_eq!(api.suite.emulator().calls().total(), before, "{}", answer.text);
    answer
}

/// Promise: who may read but not read secrets is refused each way to a secret's value, and told the
/// scope that it takes; before anything is looked for, so that nobody learns whether there is a
/// secret, or whether it is still the one of an entity tag. What another reader has brought into
/// memory makes no difference.
#[tokio::test]
async fn reading_a_secret_takes_its_scope() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let etag = acme.put("secret_config_s", &json!("hush")).await.expect(201).etag().to_owned();
    acme.put("param_config_p", &json!("plain")).await.expect(201);
    let reader = with_scope(&api, &acme, "config/read config/write");
    acme.get("secret_config_s").await.expect(200);
    acme.get("secret_config_s").header("if-none-match", &etag).await.expect(304);

    for key in ["secret_config_s", "secret_config_missing"] {
        let old_answers = "max-age=600, stale-if-error=600";
        for call in [
            reader.get(key),
            reader.get(key).header("if-none-match", &etag),
            reader.get(key).header("if-none-match", "*"),
            reader.get(key).header("cache-control", old_answers),
            reader.get(&format!("{key}?version=1")),
            reader.get(&format!("{key}?version=1")).header("if-none-match", &etag),
            reader.get(&format!("{key}?version=7")),
            reader.get(&format!("{key}?minRevision=1000")),
            reader.history(key),
            reader.history(&format!("{key}?limit=1")),
            reader.batch_get(&[key]),
            reader.batch_get(&[key]).header("cache-control", old_answers),
            reader.batch_get(&["param_config_p", "param_config_p", key, "tenant_config_t"]),
        ] {
            let refused = without_a_call(&api, call).await.expect_problem(403, "forbidden");
            assert_eq!((&refused.body["key"], refused.etag()), (&json!(key), ""), "{}", refused.text);
            let detail = refused.body["detail"].as_str().expect("a detail");
            assert!(detail.contains("config/secrets") && !refused.text.contains("hush"), "{}", refused.text);
        }
        let batch = reader.batch_get(&["param_config_p", "param_config_p", key]).await.expect(403);
        assert_eq!(batch.body["index"], 2, "{}", batch.text);
        let batch = acme.batch_get(&["param_config_p", key]).await.expect(200);
        assert_eq!(batch.each("found", "value").len(), if key == "secret_config_s" { 2 } else { 1 });
    }
    assert_eq!(reader.batch_get(&["param_config_p"]).await.expect(200).each("found", "value"), ["plain"]);
    assert_eq!(reader.get("param_config_p").await.expect(200).body["value"], "plain");
    assert_eq!(acme.history("secret_config_s").await.expect(200).each("versions", "value"), ["hush"]);
    assert_eq!(acme.get("secret_config_s?version=1").await.expect(200).body["value"], "hush");
    // API Gateway asks for the scope to read, and so do we behind it.
    let secrets_alone = with_scope(&api, &acme, "config/secrets config/write");
    secrets_alone.get("secret_config_s").await.expect(403);
    let mut event = acme.event("GET", "/v1/config/secret_config_s", &Value::Null);
    come_with(&mut event, &json!({"custom:tenantId": "acme", "scope": "config/secrets config/write"}));
    let answer = api.suite.invoke("config-read", event).await.expect("an answer");
    assert_eq!(answer["statusCode"], 403, "{answer}");
    api.stop().await;
}

/// Promise: a list names secrets to everybody who may read, and shows their values, and fetches
/// them, only for those who may read secrets.
#[tokio::test]
async fn a_list_withholds_secrets() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for (key, value) in [("param_config_p", "plain"), ("secret_config_a", "hush"), ("secret_config_b", "hush, too")] {
        acme.put(key, &json!(value)).await.expect(201);
    }
    acme.delete("secret_config_b").await.expect(200);
    acme.put("secret_config_b", &json!("hush again")).await.expect(201);
    let reader = with_scope(&api, &acme, "config/read");
    let keys = [json!("param_config_p"), json!("secret_config_a"), json!("secret_config_b")];

    let (fetched, page) = api.calls_during("GetParameters", reader.list("")).await;
    assert_eq!((page.each("entries", "key"), fetched), (keys.to_vec(), 0), "{}", page.text);
    assert_eq!(page.each("entries", "value"), [json!("plain"), Value::Null, Value::Null]);
    assert_eq!(page.each("entries", "valueWithheld"), [Value::Null, json!(true), json!(true)]);
    assert_eq!(page.each("entries", "valueGone"), [Value::Null, Value::Null, Value::Null]);
    assert!(!page.text.contains("hush"), "{}", page.text);

    let (fetched, full) = api.calls_during("GetParameters", acme.list("")).await;
    assert_eq!((full.each("entries", "key"), fetched), (keys.to_vec(), 1), "{}", full.text);
    assert_eq!(full.each("entries", "value"), [json!("plain"), json!("hush"), json!("hush again")]);
    assert!(!full.text.contains("valueWithheld"), "{}", full.text);
    for member in ["version", "revision", "etag", "author", "modifiedAt"] {
        assert_eq!(page.each("entries", member), full.each("entries", member), "{member}");
    }
    // Page by page, and where the values are lost.
    api.parameter_store()
        .delete_parameter()
        .name(acme.parameter_name("secret_config_", "a"))
        .send()
        .await
        .expect("it is there");
    let first = reader.list("prefix=secret_config_&limit=1").await.expect(200);
    assert_eq!(first.each("entries", "valueWithheld"), [json!(true)]);
    let cursor = first.body["cursor"].as_str().expect("more");
    let second = reader.list(&format!("prefix=secret_config_&limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!(second.each("entries", "key"), ["secret_config_b"]);
    api.stop().await;
}

/// Promise: to write a secret takes the right to write alone, and no answer to a write shows a
/// value.
#[tokio::test]
async fn writing_a_secret_shows_none() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let writer = with_scope(&api, &acme, "config/write");
    let operations = json!([{"op": "put", "key": "secret_config_s", "value": "hush, third"}]);
    for (call, status) in [
        (writer.put("secret_config_s", &json!("hush")).header("idempotency-key", "k"), 201),
        (writer.put("secret_config_s", &json!("hush")).header("idempotency-key", "k"), 201),
        (writer.put("secret_config_s", &json!("hush, second")), 200),
        (writer.put("secret_config_s", &json!("hush, lost")).header("if-none-match", "*"), 412),
        (writer.transaction(&operations), 200),
        (writer.roll_back("secret_config_s", 1), 200),
        (writer.delete("secret_config_s"), 200),
        (writer.get("secret_config_s"), 403),
    ] {
        let answer = call.await.expect(status);
        assert!(!answer.text.contains("hush") && !answer.text.contains("\"value"), "{}", answer.text);
    }
    for scope in ["config/read config/secrets", "config/secrets"] {
        let reader = with_scope(&api, &acme, scope);
        reader.put("secret_config_s", &json!("not mine")).await.expect(403);
        let path = "/v1/rollback/secret_config_s";
        reader.call(Method::POST, path).json(&json!({"version": 1})).await.expect(403);
    }
    let history = acme.history("secret_config_s").await.expect(200);
    assert_eq!(history.each("versions", "version"), [5, 4, 3, 2, 1]);
    api.stop().await;
}
