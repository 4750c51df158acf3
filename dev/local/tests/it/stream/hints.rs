//! Hints: they make changes come sooner, and nothing else.

use super::*;

/// Promise: with the queue of events, a change is told without the index of changes having been
/// looked at, and a made-up hint changes nothing.
#[tokio::test]
async fn a_hint_is_enough_to_look() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    api.settled().await;
    let instance = Instance::start(&api, &[("POLL_INTERVAL_MS", "600000")]).await;
    let (mut watching, _) = instance.tenant(&acme).watch().await;
    put(&acme, "a", 2).await;
    assert_eq!(line(&watching.update().await), "1→2 tenant_config_a@2=2");
    let boast = json!({"detail": {"tenant": "acme", "revision": u64::MAX}}).to_string();
    let queue = api.suite.stream_environment().expect("a service")["CHANGE_QUEUE_URL"].clone();
    for body in ["no JSON", "{}", r#"{"detail": {"tenant": "#, &boast] {
        api.queues().send_message().queue_url(&queue).message_body(body).send().await.expect("a message");
    }
    put(&acme, "a", 3).await;
    assert_eq!(line(&watching.update().await), "2→3 tenant_config_a@3=3");
    // The rumour does not last: memory is believed again.
    until(|| instance.stream.memory().watched().iter().all(|(_, tenant)| !tenant.is_behind())).await;
}
