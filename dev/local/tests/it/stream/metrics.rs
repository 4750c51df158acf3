//! What there is to alarm on: how old memory's knowledge is, and how late commits come to it.

use emulator::Fault;

use super::*;

/// The value of a metric that has no labels.
async fn shown(instance: &Instance, name: &str) -> f64 {
    let (_, page) = instance.page("/metrics").await;
    let value = page.lines().find_map(|line| line.strip_prefix(&format!("tenantry_stream_{name} ")));
    value.unwrap_or_else(|| panic!("no {name} in:\n{page}")).parse().expect("a number")
}

/// Promise: an instance that cannot look at the index of changes can be told by its metrics: looks
/// fail, and the last one grows older.
#[tokio::test]
async fn an_instance_that_is_blind_is_seen() {
    let api = Api::frozen().await;
    let instance = Instance::start(&api, &[("METRICS_ADDRESS", "127.0.0.1:0")]).await;
    let metrics = instance.stream.memory().metrics();
    until(|| instance.stream.memory().oldest_poll() >= instance.stream.memory().now()).await;
    assert_eq!(shown(&instance, "index_poll_age_seconds").await.to_string(), "0");
    assert_eq!(metrics.failed_polls.get(), 0);
    let down = api.suite.emulator().faults().inject("Query", Fault::InternalError, 100_000);
    down.reached().await;
    // Those that had begun before are over.
    until(|| metrics.failed_polls.get() >= 2 * u64::from(tenantry::ledger::Ledger::shards().end)).await;
    api.pass(Duration::from_mins(2));
    assert_eq!(shown(&instance, "index_poll_age_seconds").await.to_string(), "120");
    assert!(shown(&instance, "failed_polls_total").await > 0.0);
    api.suite.emulator().faults().clear();
    api.pass(crate::harness::CIRCUIT);
    until(|| instance.stream.memory().oldest_poll() >= instance.stream.memory().now()).await;
    assert_eq!(shown(&instance, "index_poll_age_seconds").await.to_string(), "0");
}

/// Promise: the lag of commits is that of those that somebody waited for. What is caught up with
/// after a quiet hour is no lag.
#[tokio::test]
async fn a_commit_is_late_only_if_somebody_waits() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let instance = Instance::start(&api, &[("METRICS_ADDRESS", "127.0.0.1:0")]).await;
    let grpc = instance.tenant(&acme);
    grpc.value("tenant_config_a").await;
    for value in [2, 3] {
        put(&acme, "a", value).await;
        api.pass(Duration::from_mins(2));
        if value == 2 {
            assert_eq!(grpc.get("tenant_config_a", 2).await.unwrap().revision, 2);
        }
    }
    let (mut watching, snapshot) = grpc.watch().await;
    assert_eq!(snapshot.revision, 3);
    let count = async || shown(&instance, "commit_lag_seconds_count").await.to_string();
    assert_eq!(count().await, "0");
    assert_eq!(instance.stream.memory().metrics().commits.get(), 2);
    put(&acme, "a", 4).await;
    assert_eq!(line(&watching.update().await), "3→4 tenant_config_a@4=4");
    assert_eq!(count().await, "1");
}
