//! Reads from memory: what the HTTP API would answer, and who may ask.

use super::*;

/// Promise: an entry comes as it was written, with its version and revision, and a change is seen as soon as the index tells of it.
#[tokio::test]
async fn entries_are_read_as_they_were_written() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_limits", &json!({"a": [1, 2.5, "x"]})).await.expect(201);
    let instance = Instance::start(&api, &[]).await;
    let grpc = instance.tenant(&acme);
    let answer = grpc.get("tenant_config_limits", 0).await.unwrap();
    let entry = answer.entry.unwrap();
    assert_eq!(entry.value.as_ref(), br#"{"a":[1,2.5,"x"]}"#);
    assert_eq!((entry.version, entry.revision, answer.revision, answer.stale), (1, 1, 1, false));
    assert_eq!((entry.content_type.as_str(), entry.value_status()), ("application/json", v1::ValueStatus::Present));
    put(&acme, "limits", 7).await;
    let answer = grpc.get("tenant_config_limits", 2).await.unwrap();
    assert_eq!((answer.entry.unwrap().value.as_ref(), answer.revision), (b"7".as_slice(), 2));
    assert_eq!(grpc.get("tenant_config_other", 0).await.unwrap_err().code(), Code::NotFound);
    instance.stream.stop().await;
}
