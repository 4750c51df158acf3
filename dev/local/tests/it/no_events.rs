//! A suite whose events are all lost, as `cargo run -p local -- --no-events` has it: late, and
//! right.

use emulator::Fault;
use local::Options;
use serde_json::json;
use tenantry::ledger::GRACE;

use crate::harness::Api;

/// Promise: without events, an edit in Parameter Store, the put of a write-back value and a
/// publication that failed come right with the schedule, and not before; readers of the API get
/// what was written at once.
#[tokio::test]
async fn the_schedule_makes_up_for_lost_events() {
    let api = Api::with(Options { lose_events: true, ..Options::default() }).await;
    let acme = api.tenant("acme");
    acme.put("param_config_edited", &json!("ours")).await.expect(201);
    let edited = acme.parameter_name("param_config_", "edited");
    let edit = api.parameter_store().put_parameter().name(&edited).value("theirs").overwrite(true);
    edit.send().await.expect("Parameter Store takes it");
    let written = acme.put("back_config_k", &json!("back")).await.expect(201);
    assert_eq!(written.body["pending"], true);
    let refused = api.suite.emulator().faults().inject("PutEvents", Fault::InternalError, 100);
    acme.put("tenant_config_k", &json!("told late")).await.expect(201);
    assert!(refused.hits() > 0);
    api.suite.emulator().faults().clear();

    api.settled().await;
    let (back, later) = (acme.parameter_name("back_config_", "k"), GRACE * 2);
    api.pass(later);
    assert_eq!(acme.get("param_config_edited").await.expect(200).body["value"], "ours", "it is not imported yet");
    assert_eq!(api.parameter(&back).await, None, "nobody has put it");
    assert_eq!(acme.get("back_config_k").await.expect(200).body["value"], "back");

    let (published, swept) = api.calls_during("PutEvents", api.suite.run_schedules()).await;
    swept.expect("a sweep");
    let found = acme.get("param_config_edited").await.expect(200);
    assert_eq!((&found.body["value"], &found.body["author"]), (&json!("theirs"), &json!("external")));
    assert_eq!(api.parameter(&back).await.map(|(text, _)| text), Some("back".to_owned()));
    assert_eq!(published, 2, "what was in the outbox, and the edit's own commit");

    api.pass(later);
    let before = api.suite.emulator().calls().snapshot();
    api.suite.run_schedules().await.expect("a sweep");
    for operation in ["PutEvents", "PutParameter", "TransactWriteItems"] {
        let after = api.suite.emulator().calls().count(operation);
        assert_eq!(before.get(operation).copied().unwrap_or_default(), after, "{operation} was still to be done");
    }
    api.stop().await;
}

/// Promise: what the comparison costs follows from the tenants that have parameters, however many
/// others there are. From its first parameter on a tenant is one of them.
#[tokio::test]
async fn the_comparison_passes_over_tenants_without_parameters() {
    let api = Api::with(Options { lose_events: true, ..Options::default() }).await;
    let sweep = async || {
        api.pass(GRACE * 2);
        let (queries, swept) = api.calls_during("Query", api.suite.run_schedules()).await;
        swept.expect("a sweep");
        queries
    };
    let acme = api.tenant("acme");
    acme.put("param_config_k", &json!("ours")).await.expect(201);
    sweep().await;
    let alone = sweep().await;
    for number in 0..30 {
        api.tenant(&format!("other-{number}")).put("tenant_config_k", &json!(1)).await.expect(201);
    }
    // Publishes what nobody was told.
    sweep().await;
    assert_eq!(sweep().await, alone);
    let removal = api.parameter_store().delete_parameter().name(acme.parameter_name("param_config_", "k"));
    removal.send().await.expect("Parameter Store takes it");
    sweep().await;
    acme.get("param_config_k").await.expect(404);
    api.stop().await;
}
