//! How fresh memory is: what it costs to know, what happens when the index of changes does not
//! tell, and when the stores do not answer.

use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use emulator::Fault;

use super::*;

/// Longer than memory is believed without asking.
const EXPIRED: Duration = Duration::from_secs(61);
/// Longer than memory is believed while the index of changes cannot be polled.
const NOT_POLLED: Duration = Duration::from_secs(11);

/// The first poll of the index is the last one of a test, and there are no hints.
const SILENCE: [(&str, &str); 2] = [("POLL_INTERVAL_MS", "600000"), ("CHANGE_QUEUE_URL", "")];

/// Makes every call fail that reads tenants or the index.
fn take_stores_down(api: &Api) {
    for operation in ["GetItem", "BatchGetItem", "Query", "GetParameters"] {
        api.suite.emulator().faults().inject(operation, Fault::InternalError, 100_000);
    }
}

fn bring_stores_back(api: &Api) {
    api.suite.emulator().faults().clear();
    // Circuits that have opened meanwhile may close again.
    api.pass(crate::harness::CIRCUIT);
}

/// What `waiting` comes to, while time passes: a refresh that fails as the stores come back is
/// tried again only after a pause.
async fn in_time<T>(api: &Api, waiting: impl Future<Output = T>) -> T {
    let mut waiting = std::pin::pin!(waiting);
    loop {
        match tokio::time::timeout(Duration::from_millis(200), &mut waiting).await {
            Ok(outcome) => return outcome,
            Err(_) => api.pass(crate::harness::CIRCUIT),
        }
    }
}

/// Promise: what is in memory costs no call to a store, whatever the number of tenants, besides
/// the poller's polls of the index.
#[tokio::test]
async fn a_tenant_in_memory_costs_no_call() {
    let api = Api::frozen().await;
    let instance = Instance::start(&api, &SILENCE).await;
    let mut tenants = Vec::new();
    for n in 0..20 {
        let tenant = api.tenant(&format!("tenant-{n}"));
        put(&tenant, "a", n).await;
        let grpc = instance.tenant(&tenant);
        assert_eq!(grpc.value("tenant_config_a").await.0, n.to_string());
        tenants.push(grpc);
    }
    let (_watching, _) = tenants[0].watch().await;
    let counts =
        || ["GetItem", "BatchGetItem", "Query", "AssumeRole"].map(|name| api.suite.emulator().calls().count(name));
    let before = counts();
    for (n, grpc) in tenants.iter().enumerate() {
        assert_eq!(grpc.value("tenant_config_a").await.0, n.to_string());
        assert_eq!(grpc.get("tenant_config_none", 0).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(grpc.list(v1::ListConfigRequest::default()).await.unwrap().entries.len(), 1);
    }
    assert_eq!(counts(), before);
    // After a minute, the log of a tenant that is asked for is read once, and no other.
    api.pass(EXPIRED);
    for shard in tenantry::ledger::Ledger::shards() {
        instance.stream.memory().note_poll(shard, instance.stream.memory().now());
    }
    for _ in 0..3 {
        tenants[1].value("tenant_config_a").await;
    }
    assert_eq!(counts()[2], before[2] + 1, "one read of its log");
}

/// Promise: a reader who asks for nothing special sees a change as soon as the index lists it, and
/// one who names a revision at once.
#[tokio::test]
async fn a_change_is_seen_by_the_index_or_by_asking() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let (quick, slow) = (Instance::start(&api, &[]).await, Instance::start(&api, &SILENCE).await);
    let (quick, slow) = (quick.tenant(&acme), slow.tenant(&acme));
    for grpc in [&quick, &slow] {
        assert_eq!(grpc.value("tenant_config_a").await, ("1".to_owned(), 1));
    }
    put(&acme, "a", 2).await;
    while quick.value("tenant_config_a").await.1 < 2 {}
    assert_eq!(slow.value("tenant_config_a").await.1, 1, "nobody has told it");
    assert_eq!(slow.get("tenant_config_a", 2).await.unwrap().revision, 2);
    assert_eq!(slow.value("tenant_config_a").await, ("2".to_owned(), 2), "and it remembers");
}

/// Promise: a change that the index never lists, or a table that was restored, is noticed within
/// the minute, and a watcher is given the state anew where its history is not continued.
#[tokio::test]
async fn a_restored_table_is_noticed() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    for value in 1..=3 {
        put(&acme, "a", value).await;
    }
    let instance = Instance::start(&api, &[]).await;
    let (mut watching, _) = instance.tenant(&acme).watch().await;
    let second = api.item(&acme, "VERSION#tenant_config_a#00000000000000000002").await;
    let number = |n: u64| AttributeValue::N(n.to_string());
    for (item, attribute, value) in [
        ("ENTRY#tenant_config_a", "version", number(2)),
        ("ENTRY#tenant_config_a", "revision", number(2)),
        ("ENTRY#tenant_config_a", "value", second["value"].clone()),
        ("HEAD", "revision", number(2)),
        ("HEAD", "commitId", second["commitId"].clone()),
    ] {
        api.set(&acme, item, attribute, value).await;
    }
    api.remove_item(&acme, "CHANGE#00000000000000000003").await;
    api.remove_item(&acme, "VERSION#tenant_config_a#00000000000000000003").await;
    put(&acme, "b", 9).await;
    put(&acme, "b", 10).await;
    // Until the minute is over, or a revision beyond the one that is known: both are told.
    api.pass(EXPIRED);
    let snapshot = watching.snapshot().await;
    assert_eq!(entries(&snapshot.entries), "tenant_config_a=2 tenant_config_b=10");
    assert_eq!((snapshot.revision, snapshot.stale), (4, false));
}

/// Promise: a value that the log names and that is not there does not pass for a deleted key; the
/// entries tell.
#[tokio::test]
async fn a_missing_version_is_no_deletion() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let instance = Instance::start(&api, &[("POLL_INTERVAL_MS", "4000000"), ("CHANGE_QUEUE_URL", "")]).await;
    let grpc = instance.tenant(&acme);
    let (mut watching, _) = grpc.watch().await;
    put(&acme, "a", 2).await;
    api.remove_item(&acme, "VERSION#tenant_config_a#00000000000000000002").await;
    let answer = grpc.get("tenant_config_a", 2).await.unwrap();
    assert_eq!((answer.entry.unwrap().value.as_ref(), answer.revision), (b"2".as_slice(), 2));
    assert_eq!(entries(&watching.snapshot().await.entries), "tenant_config_a=2");
}

/// Promise: a value that its store shows too late is there soon after, though nothing changes any
/// more.
#[tokio::test]
async fn a_late_value_is_looked_for_again() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    acme.put("secret_config_host", &json!("db-1")).await.expect(201);
    let instance = Instance::start(&api, &[]).await;
    let grpc = instance.tenant(&acme);
    let hide = |_, operation: &str, body: &str| (operation == "GetParameters").then(|| body.replace("host", "nowhere"));
    api.suite.emulator().rewrite(Arc::new(hide));
    assert_eq!(grpc.get("secret_config_host", 0).await.unwrap_err().code(), Code::FailedPrecondition);
    let (mut watching, snapshot) = grpc.watch().await;
    assert_eq!(snapshot.entries[0].value_status(), v1::ValueStatus::Unavailable);
    api.suite.emulator().rewrite(Arc::new(|_, _: &str, _: &str| None));
    api.pass(EXPIRED);
    assert_eq!(entries(&watching.snapshot().await.entries), r#"secret_config_host="db-1""#);
    assert_eq!(grpc.value("secret_config_host").await.0, r#""db-1""#);
}

/// Promise: while the stores do not answer, what was last known is served and marked so; what is
/// not known is said to be unknown, not absent; and when they answer again, so is the truth.
#[tokio::test]
async fn what_was_last_known_serves_while_the_stores_are_down() {
    let api = Api::frozen().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    put(&acme, "a", 1).await;
    put(&globex, "a", 1).await;
    let instance = Instance::start(&api, &[("HEARTBEAT_SECONDS", "1")]).await;
    let (grpc, other) = (instance.tenant(&acme), instance.tenant(&globex));
    let (mut watching, _) = grpc.watch().await;
    assert!(!grpc.get("tenant_config_a", 0).await.unwrap().stale);
    take_stores_down(&api);
    api.pass(NOT_POLLED);
    let answer = grpc.get("tenant_config_a", 0).await.unwrap();
    assert_eq!((answer.entry.unwrap().value.as_ref(), answer.stale), (b"1".as_slice(), true));
    for status in [
        grpc.get("tenant_config_a", 2).await.err(),
        grpc.get("tenant_config_none", 0).await.err(),
        other.get("tenant_config_a", 0).await.err(),
        other.try_watch(v1::WatchConfigRequest::default()).await.err(),
    ] {
        assert_eq!(status.unwrap().code(), Code::Unavailable);
    }
    loop {
        let Event::Heartbeat(heartbeat) = watching.next().await.unwrap() else { panic!("no heartbeat") };
        if heartbeat.stale {
            break;
        }
    }
    bring_stores_back(&api);
    put(&acme, "a", 2).await;
    assert_eq!(line(&in_time(&api, watching.update()).await), "1→2 tenant_config_a@2=2");
    assert_eq!(other.value("tenant_config_a").await.0, "1");
    let answer = grpc.get("tenant_config_a", 2).await.unwrap();
    assert!(!answer.stale);
}

/// Promise: a tenant that has more than an instance may hold is refused by name, and costs the
/// others nothing.
#[tokio::test]
async fn a_tenant_may_be_too_large() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    for name in 0..3 {
        acme.put(&format!("tenant_config_{name}"), &json!("x".repeat(10_000))).await.expect(201);
    }
    put(&globex, "a", 1).await;
    let instance = Instance::start(&api, &[("CACHE_MAX_BYTES", "20000")]).await;
    let status = instance.tenant(&acme).get("tenant_config_0", 0).await.unwrap_err();
    assert!(status.code() == Code::FailedPrecondition && status.message().contains("HTTP API"), "{status}");
    assert_eq!(instance.tenant(&globex).value("tenant_config_a").await.0, "1");
}
