//! Secrets: their plaintext stays in one place.

use std::{
    io::{self, Write as _},
    sync::{Arc, Mutex},
};

use emulator::Fault;
use serde_json::json;
use tenantry::telemetry::Telemetry;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::harness::Api;

/// What has been logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

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

/// Promise: a secret's value stands in no log line of ours, whatever goes wrong, in no item of the ledger, in no change, and in no
/// error; and no other tenant's name stands in what is logged for one.
#[tokio::test]
async fn plaintext_stays_in_parameter_store() {
    const CANARY: &str = "canary-7f3a9d";
    const NO_SECRET: &str = "plain-51c0be";
    let log = Log::default();
    let ours =
        EnvFilter::new("tenantry=trace,config_read=trace,config_write=trace,config_refresh=trace,local=trace,info");
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_env_filter(ours).finish();
    // A second one, because as long as there is just one, a line that another test's thread comes by first counts as unwanted here, too.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logging = tracing::subscriber::set_default(subscriber);

    let data = tempfile::tempdir().expect("a folder");
    let lines = log.clone();
    let telemetry = Telemetry::to(move |line| lines.clone().write_all(line.as_bytes()).expect("in memory"), None);
    let data_folder = Some(data.path().to_owned());
    let api = Api::with(local::Options { data: data_folder, telemetry, ..local::Options::default() }).await;
    let acme = api.tenant("acme");
    let secret = json!({"password": CANARY});
    acme.put("tenant_config_db", &json!(NO_SECRET)).await.expect(201);
    let written = acme.put("secret_config_db", &secret).header("idempotency-key", "k").await.expect(201);
    let read = acme.get("secret_config_db").await.expect(200);
    assert_eq!((&read.body["value"], read.header("cache-control")), (&secret, "no-store"));
    for operation in ["PutParameter", "TransactWriteItems", "DescribeParameters", "GetItem", "BatchGetItem"] {
        api.suite.emulator().faults().inject(operation, Fault::InternalError, 20);
        let failed = acme.put("secret_config_db", &json!(format!("{CANARY}!"))).await;
        assert!(!failed.text.contains(CANARY), "{}", failed.text);
        api.suite.emulator().faults().clear();
    }
    let too_large = acme.put("secret_config_db", &json!(CANARY.repeat(1000))).await.expect_problem(413, "too-large");
    let lost = acme.put("secret_config_db", &json!(CANARY)).header("if-none-match", "*").await.expect(412);
    for answer in [&written, &too_large, &lost, &acme.changes("since=0").await] {
        assert!(!answer.text.contains(CANARY), "{}", answer.text);
    }
    api.suite.run_schedules().await.expect("a sweep");
    let token = acme.token.clone();
    api.suite.stop().await;

    let logged = String::from_utf8_lossy(&log.0.lock().expect("no panic while logging")).into_owned();
    for looked_at in ["an AWS call failed", "PUT /v1/config/{key+}"] {
        assert!(logged.contains(looked_at), "the log is looked at: {logged}");
    }
    assert!(!logged.contains(CANARY), "{logged}");
    for hidden in token.split('.').chain(["Bearer "]) {
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
