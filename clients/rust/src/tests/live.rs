use std::{thread, time::Duration};

use config_proto::v1::{WatchConfigResponse, watch_config_response};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    commit, delete, heartbeat, put,
    service::{service, soon},
    skipping, snapshot, update,
};
use crate::{Filter, LiveConfig, StaticToken};

fn token() -> StaticToken {
    StaticToken::new("t")
}

/// A key's value.
fn value(config: &LiveConfig, key: &str) -> Option<String> {
    config.get(key).map(|entry| String::from_utf8(entry.bytes().unwrap().to_vec()).unwrap())
}

/// Promise: the newest state is there without waiting, from the first snapshot on; a conflated
/// update brings each key to its newest value.
#[tokio::test(start_paused = true)]
async fn holds_the_newest_state() {
    let (client, mut service) = service(token());
    let mut config = client.live(Filter::all());
    assert_eq!((config.revision(), config.is_stale(), value(&config, "tenant_config_a")), (None, true, None));
    assert!(config.view().is_none());
    let feed = service.watch.next().await.say([snapshot(5, &["tenant_config_a", "tenant_config_b"])]);
    config.ready().await.unwrap();
    assert_eq!((config.revision(), config.is_stale()), (Some(5), false));
    assert_eq!(value(&config, "tenant_config_a").as_deref(), Some("5"));
    config.changed().await.unwrap();

    let old = config.view().unwrap();
    feed.say(skipping(6, 20, vec![put("tenant_config_a", 18), delete("tenant_config_b"), put("tenant_config_c", 7)]));
    config.wait_for(20).await.unwrap();
    config.changed().await.unwrap();
    let values = ["tenant_config_a", "tenant_config_b", "tenant_config_c"].map(|key| value(&config, key));
    assert_eq!(values, [Some("18".to_owned()), None, Some("7".to_owned())]);
    assert_eq!((old.revision(), old.len(), old.get("tenant_config_a").unwrap().revision), (5, 2, 5), "a view stays");

    feed.say(snapshot(30, &["tenant_config_d"]));
    config.wait_for(30).await.unwrap();
    let keys: Vec<_> = config.view().unwrap().iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(keys, ["tenant_config_d"], "a snapshot replaces all");
    config.changed().await.unwrap();
    feed.say(snapshot(3, &["tenant_config_a"]));
    soon(config.changed()).await.unwrap();
    let values = ["tenant_config_a", "tenant_config_d"].map(|key| value(&config, key));
    assert_eq!((config.revision(), values), (Some(3), [Some("3".to_owned()), None]), "the table was restored");
}

/// Promise: a commit is seen as a whole, never half, by readers in other threads too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_are_atomic() {
    const LAST: u64 = 2_000;
    let keys: Vec<String> = (0..20).map(|nth| format!("tenant_config_{nth:02}")).collect();
    let commit = |revision| update(revision, keys.iter().map(|key| put(key, revision)).collect());
    let (client, mut service) = service(token());
    let config = client.live(Filter::all());
    let feed = service.watch.next().await.say([snapshot(1, &keys.iter().map(String::as_str).collect::<Vec<_>>())]);
    config.ready().await.unwrap();
    let reader = config.clone();
    let reading = thread::spawn(move || {
        let mut views = 0_u64;
        loop {
            let view = reader.view().unwrap();
            assert!(view.iter().all(|entry| entry.revision == view.revision()), "half of {}", view.revision());
            views += 1;
            if view.revision() == LAST {
                return views;
            }
        }
    });
    (2..=LAST).for_each(|revision| feed.say(commit(revision)));
    config.wait_for(LAST).await.unwrap();
    assert!(reading.join().unwrap() > 0);
}

/// Promise: a state that may not be the newest says so: without a connection, after one until all
/// is told that was missed, and when the service says so itself. It stays readable.
#[tokio::test(start_paused = true)]
async fn says_when_it_is_stale() {
    let (client, mut service) = service(token());
    let mut config = client.live(Filter::all());
    let feed = service.watch.next().await.say([snapshot(5, &["tenant_config_a"])]);
    config.changed().await.unwrap();
    assert!(!config.is_stale());
    feed.end(Status::unavailable("going away"));
    let call = service.watch.next().await;
    assert!(config.is_stale());
    assert_eq!(value(&config, "tenant_config_a").as_deref(), Some("5"));
    let feed = call.say([commit(6)]);
    config.wait_for(6).await.unwrap();
    assert!(config.is_stale(), "7 may have been committed meanwhile");
    feed.say(heartbeat(6));
    feed.say(commit(7));
    config.wait_for(7).await.unwrap();
    assert!(!config.is_stale());

    let mut stale = heartbeat(7);
    if let WatchConfigResponse { event: Some(watch_config_response::Event::Heartbeat(heartbeat)), .. } = &mut stale {
        heartbeat.stale = true;
    }
    feed.say(stale);
    feed.say(commit(8));
    config.wait_for(8).await.unwrap();
    assert!(config.is_stale(), "a commit does not say that there is no other");
}

/// Promise: a heartbeat moves the revision on, so that nobody waits for one that concerns other
/// keys.
#[tokio::test(start_paused = true)]
async fn heartbeats_move_the_revision() {
    let (client, mut service) = service(token());
    let config = client.live(Filter::all().key("tenant_config_a"));
    let _feed = service.watch.next().await.say([snapshot(5, &[]), heartbeat(9)]);
    soon(config.wait_for(9)).await.unwrap();
    assert_eq!(config.revision(), Some(9));
}

/// Promise: who waits is told when the watch has ended for good, and what was known stays.
#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_watch() {
    let (client, mut service) = service(token());
    let mut config = client.live(Filter::all());
    let feed = service.watch.next().await.say([snapshot(5, &["tenant_config_a"])]);
    config.changed().await.unwrap();
    feed.end(Status::permission_denied("no longer"));
    let error = soon(config.wait_for(6)).await.unwrap_err();
    assert_eq!(error.status().map(Status::code), Some(Code::PermissionDenied));
    assert!(soon(config.changed()).await.is_err());
    assert!(config.ready().await.is_ok());
    assert!(config.is_stale() && value(&config, "tenant_config_a").is_some());
}

/// Promise: the watch ends with the last handle, and not before.
#[tokio::test(start_paused = true)]
async fn ends_with_its_last_handle() {
    let (client, mut service) = service(token());
    let config = client.live(Filter::all());
    let feed = service.watch.next().await.say([snapshot(5, &[])]);
    let clone = config.clone();
    drop(config);
    feed.say(commit(6));
    clone.wait_for(6).await.unwrap();
    let dropped = Instant::now();
    drop(clone);
    // The service notices at once, not when the silence has become too long.
    feed.closed().await;
    assert!(dropped.elapsed() < Duration::from_secs(1), "{:?}", dropped.elapsed());
    assert!(service.watch.is_empty());
}
