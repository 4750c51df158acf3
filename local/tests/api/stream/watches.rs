//! What watchers are told: everything, in order, once.

use super::*;

/// Promise: a watch begins with all there is, then tells each commit, made through the API or behind its back in Parameter Store, in the
/// order of the revisions, each once.
#[tokio::test]
async fn a_watch_tells_every_commit_once() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    put(&acme, "a", 1).await;
    acme.put("param_config_host", &json!("db-1")).await.expect(201);
    let instance = Instance::start(&api, &[]).await;
    let (mut watching, snapshot) = instance.tenant(&acme).watch().await;
    assert_eq!(entries(&snapshot.entries), r#"param_config_host="db-1" tenant_config_a=1"#);
    assert_eq!((snapshot.revision, snapshot.stale), (2, false));

    put(&globex, "a", 9).await;
    put(&acme, "a", 2).await;
    assert_eq!(line(&watching.update().await), "2→3 tenant_config_a@2=2");
    // Behind our back.
    let edit = api.parameter_store().put_parameter().name(acme.parameter_name("param_config_", "host")).value("db-2");
    edit.overwrite(true).send().await.unwrap();
    assert_eq!(line(&watching.update().await), r#"3→4 param_config_host@2="db-2""#);
    acme.delete("tenant_config_a").await.expect(200);
    assert_eq!(line(&watching.update().await), "4→5 tenant_config_a@3=-");
    let operations = [
        json!({"op": "put", "key": "tenant_config_b", "value": 1}),
        json!({"op": "put", "key": "tenant_config_c", "value": 2}),
    ];
    acme.transaction(&json!(operations)).await.expect(200);
    assert_eq!(line(&watching.update().await), "5→6 tenant_config_b@1=1 tenant_config_c@1=2");
    instance.stream.stop().await;
}
