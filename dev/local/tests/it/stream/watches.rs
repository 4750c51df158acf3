//! What watchers are told: everything, in order, once.

use super::*;

/// Promise: a watch begins with all there is, then tells each commit, made through the API or
/// behind its back in Parameter Store, in the order of the revisions, each once.
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

/// Promise: who goes on from a position hears what it missed and then what is new, also from
/// another instance; and nothing that it knew.
#[tokio::test]
async fn a_watch_goes_on_where_it_ended() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let first = Instance::start(&api, &[]).await;
    let (mut watching, _) = first.tenant(&acme).watch().await;
    put(&acme, "a", 2).await;
    assert_eq!(line(&watching.update().await), "1→2 tenant_config_a@2=2");
    let position = watching.position.clone().unwrap();
    drop(watching);
    put(&acme, "a", 3).await;
    put(&acme, "b", 1).await;
    let second = Instance::start(&api, &[]).await;
    for instance in [&first, &second] {
        let mut watching = instance.tenant(&acme).go_on(position.clone()).await.unwrap();
        assert_eq!(line(&watching.update().await), "2→3 tenant_config_a@3=3");
        assert_eq!(line(&watching.update().await), "3→4 tenant_config_b@1=1");
        // That is all that it missed, which is said.
        let Event::Heartbeat(heartbeat) = watching.next().await.unwrap() else { panic!("no heartbeat") };
        assert_eq!((heartbeat.revision, heartbeat.stale), (4, false));
        let position = watching.position.clone().unwrap();
        // Up to date: the first message says so.
        let mut again = instance.tenant(&acme).go_on(position).await.unwrap();
        let Event::Heartbeat(heartbeat) = again.next().await.unwrap() else { panic!("no heartbeat") };
        assert_eq!((heartbeat.revision, heartbeat.stale), (4, false));
    }
    put(&acme, "b", 2).await;
    let mut watching = second.tenant(&acme).go_on(position).await.unwrap();
    for expected in ["2→3 tenant_config_a@3=3", "3→4 tenant_config_b@1=1", "4→5 tenant_config_b@2=2"] {
        assert_eq!(line(&watching.update().await), expected);
    }
}

/// Promise: what happened long ago, before anything that is in memory, is told from the tenant's
/// log, each commit once.
#[tokio::test]
async fn a_watch_goes_on_from_long_ago() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let instance = Instance::start(&api, &[]).await;
    put(&acme, "a", 1).await;
    let (watching, _) = instance.tenant(&acme).watch().await;
    let position = watching.position.clone().unwrap();
    drop(watching);
    // More than the log in memory has, and than is fetched at once.
    let last = 160;
    for value in 2..=last {
        put(&acme, "a", value).await;
    }
    for instance in [instance, Instance::start(&api, &[]).await] {
        let mut watching = instance.tenant(&acme).go_on(position.clone()).await.unwrap();
        for value in 2..=last {
            let expected = format!("{}→{value} tenant_config_a@{value}={value}", value - 1);
            assert_eq!(line(&watching.update().await), expected);
        }
    }
}

/// Promise: where the changes since a position are not kept any more, where the history or the
/// watch is another one, or where the position is ahead of all there is, the watcher is told to
/// start anew, and never goes on over a gap.
#[tokio::test]
async fn a_position_that_leads_nowhere_is_refused() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for value in 1..=4 {
        put(&acme, "a", value).await;
    }
    let instance = Instance::start(&api, &[]).await;
    let grpc = instance.tenant(&acme);
    let (watching, _) = grpc.watch().await;
    let position = watching.position.clone().unwrap();
    drop(watching);
    let at = |revision: u64, token: &str| v1::Position { revision, token: token.to_owned() };
    let (mark, commit) = position.token.split_once('.').unwrap();
    let other = format!("{mark}.{}", commit.chars().rev().collect::<String>());
    api.remove_item(&acme, "CHANGE#00000000000000000002").await;
    let refused = [
        ("compacted", at(1, "")),
        ("another history, in memory", at(4, &other)),
        ("another history, in the log", at(3, &other)),
        ("ahead", at(5, "")),
        ("far ahead", at(u64::MAX, "")),
        ("another watch", at(4, &format!("AAAAAAAA.{commit}"))),
        ("no token of ours", at(4, "x")),
    ];
    for (what, position) in refused {
        let status = grpc.go_on(position).await.err().expect(what);
        assert_eq!(status.code(), Code::OutOfRange, "{what}: {status}");
        assert!(status.message().contains("start from a snapshot"), "{status}");
    }
    let selection = v1::WatchConfigRequest {
        keys: vec!["tenant_config_a".to_owned()],
        position: Some(position.clone()),
        ..v1::WatchConfigRequest::default()
    };
    assert_eq!(grpc.try_watch(selection).await.err().unwrap().code(), Code::OutOfRange, "another selection");
    // The rights decide what was told, too.
    let narrow = instance.with_token(&api.suite.token("acme", "config/read").unwrap());
    assert_eq!(narrow.go_on(position.clone()).await.err().unwrap().code(), Code::OutOfRange, "other rights");
    assert!(grpc.go_on(at(4, "")).await.is_ok());
    assert!(grpc.go_on(position).await.is_ok());
    // One who does not say which commit it knows opens no way for one of another history.
    let _trusting = grpc.go_on(at(3, "")).await.unwrap();
    assert_eq!(grpc.go_on(at(3, &other)).await.err().unwrap().code(), Code::OutOfRange, "after one without a token");
}

/// Promise: a watcher who asks for some keys is told of them alone, and by heartbeats how far it
/// has come.
#[tokio::test]
async fn a_selection_is_all_that_is_told() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for name in ["a", "b/1", "b/2", "c"] {
        put(&acme, name, 1).await;
    }
    let instance = Instance::start(&api, &[("HEARTBEAT_SECONDS", "1")]).await;
    let request = v1::WatchConfigRequest {
        keys: vec!["tenant_config_c".to_owned(), "tenant_config_none".to_owned()],
        prefixes: vec!["tenant_config_b/".to_owned()],
        position: None,
    };
    let mut watching = instance.tenant(&acme).try_watch(request.clone()).await.unwrap();
    let snapshot = watching.snapshot().await;
    assert_eq!(entries(&snapshot.entries), "tenant_config_b/1=1 tenant_config_b/2=1 tenant_config_c=1");
    put(&acme, "a", 2).await;
    put(&acme, "b/3", 2).await;
    let operations = json!([
        {"op": "put", "key": "tenant_config_a", "value": 3},
        {"op": "delete", "key": "tenant_config_c"},
    ]);
    acme.transaction(&operations).await.expect(200);
    put(&acme, "a", 4).await;
    let told = line(&watching.update().await);
    // From 4, or where a heartbeat was by then.
    assert_eq!(told.split_once('→').map(|(_, told)| told), Some("6 tenant_config_b/3@1=2"), "{told}");
    assert_eq!(line(&watching.update().await), "6→7 tenant_config_c@2=-");
    // Nothing else of it is watched, which a heartbeat says.
    loop {
        let Event::Heartbeat(heartbeat) = watching.next().await.unwrap() else { panic!("no heartbeat") };
        if heartbeat.revision == 8 {
            break;
        }
    }
    let position = watching.position.clone();
    put(&acme, "c", 5).await;
    let mut again = instance.tenant(&acme).try_watch(v1::WatchConfigRequest { position, ..request }).await.unwrap();
    assert_eq!(line(&again.update().await), "8→9 tenant_config_c@3=5");
}

/// Promise: a watch lasts as long as the token that it began with, and ends with UNAUTHENTICATED;
/// whoever comes with a new one goes on.
#[tokio::test]
async fn a_watch_ends_with_its_token() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let instance = Instance::start(&api, &[("HEARTBEAT_SECONDS", "1")]).await;
    let (mut watching, _) = instance.tenant(&acme).watch().await;
    let position = watching.position.clone().unwrap();
    api.pass(Duration::from_hours(24 * 400));
    assert_eq!(watching.end().await.code(), Code::Unauthenticated);
    let refused = instance.tenant(&acme).go_on(position).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

/// Promise: who does not take what it is sent holds its place no longer than its token lasts.
#[tokio::test]
async fn a_watcher_who_takes_nothing_ends_with_its_token() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    // More than is under way to one who does not take it.
    for name in 0..12 {
        acme.put(&format!("tenant_config_{name}"), &json!("x".repeat(250_000))).await.expect(201);
    }
    let instance = Instance::start(&api, &[]).await;
    let _watching = instance.tenant(&acme).try_watch(v1::WatchConfigRequest::default()).await.unwrap();
    let memory = instance.stream.memory();
    assert_eq!(memory.watchers(), 1);
    api.pass(Duration::from_hours(24 * 400));
    until(|| memory.watchers() == 0).await;
}

/// Promise: a tenant has no more watchers than it may, nor has the instance, and those who leave
/// make room.
#[tokio::test]
async fn watchers_are_limited() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    let instance = Instance::start(&api, &[("MAX_WATCHERS_PER_TENANT", "2"), ("MAX_WATCHERS", "3")]).await;
    let (acme, globex) = (instance.tenant(&acme), instance.tenant(&globex));
    let (one, _) = acme.watch().await;
    let (_two, _) = acme.watch().await;
    let all = v1::WatchConfigRequest::default;
    let status = acme.try_watch(all()).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("the tenant has 2 watchers"), "{status}");
    let (_three, _) = globex.watch().await;
    let status = globex.try_watch(all()).await.err().unwrap();
    assert!(status.code() == Code::ResourceExhausted && status.message().contains("this instance"), "{status}");
    drop(one);
    until(|| instance.stream.memory().watchers() == 2).await;
    let (_again, _) = acme.watch().await;
    assert_eq!(instance.stream.memory().tenants().1, 2);
}

/// Promise: tenants that are watched take no more memory than they may; one that does not fit in is
/// refused, and the others stay.
#[tokio::test]
async fn watched_tenants_share_the_memory() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    for tenant in [&acme, &globex] {
        tenant.put("tenant_config_a", &json!("x".repeat(12_000))).await.expect(201);
    }
    let instance = Instance::start(&api, &[("CACHE_MAX_BYTES", "20000"), ("POLL_INTERVAL_MS", "4000000")]).await;
    let (one, _) = instance.tenant(&acme).watch().await;
    let (two, _) = instance.tenant(&acme).watch().await;
    let refused = instance.tenant(&globex).try_watch(v1::WatchConfigRequest::default()).await.err().unwrap();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("no memory left"), "{refused}");
    drop((one, two));
    until(|| instance.stream.memory().watchers() == 0).await;
    instance.tenant(&globex).watch().await;
}

/// Promise: a state that does not fit into a message comes in parts, and none of them is a
/// position.
#[tokio::test]
async fn a_large_state_comes_in_parts() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for name in 0..9 {
        let value = json!(format!("{name}").repeat(30_000));
        acme.put(&format!("tenant_config_{name}"), &value).await.expect(201);
    }
    let instance = Instance::start(&api, &[]).await;
    let mut watching = instance.tenant(&acme).try_watch(v1::WatchConfigRequest::default()).await.unwrap();
    let (mut found, mut parts) = (Vec::new(), 0);
    loop {
        let Event::Snapshot(part) = watching.next().await.unwrap() else { panic!("no snapshot") };
        parts += 1;
        found.extend(part.entries.iter().map(|entry| (entry.key.clone(), entry.value.len())));
        assert_eq!(watching.position.is_some(), !part.more);
        if !part.more {
            break;
        }
    }
    assert_eq!(parts, 5);
    let expected: Vec<_> = (0..9).map(|name| (format!("tenant_config_{name}"), 30_002)).collect();
    assert_eq!(found, expected);
}

/// Promise: a watcher who does not keep up holds up nobody and costs no memory; it is then told the
/// newest of each key, deleted ones among them, and which revisions it missed.
#[tokio::test]
async fn a_slow_watcher_is_told_the_newest() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "gone", 1).await;
    let instance = Instance::start(&api, &[]).await;
    let (mut slow, _) = instance.tenant(&acme).watch().await;
    let (mut fast, _) = instance.tenant(&acme).watch().await;
    acme.delete("tenant_config_gone").await.expect(200);
    assert_eq!(fast.update().await.revision, 2);
    let large = "x".repeat(100_000);
    // What is in flight, and in the tenant's log, holds far less.
    for value in 0..40 {
        acme.put("tenant_config_a", &json!(format!("{value}{large}"))).await;
        assert_eq!(fast.update().await.revision, value + 3);
    }
    let mut told = 0;
    let mut skipped = 0;
    let mut newest = String::new();
    while told < 42 {
        let update = slow.update().await;
        assert!(update.previous_revision + 1 == update.revision || update.skipped.is_some(), "{}", update.revision);
        if let Some(all) = &update.skipped {
            assert_eq!((all.first, all.last), (update.previous_revision + 1, update.revision - 1));
            skipped += all.last - all.first + 1;
        }
        told = update.revision;
        for change in update.changes {
            newest =
                change.entry.map(|entry| String::from_utf8_lossy(&entry.value[1..3]).into_owned()).unwrap_or_default();
        }
    }
    assert!(skipped > 0, "it was told of each");
    assert_eq!(newest, "39");
    assert!(instance.stream.memory().bytes().1 < 3_000_000);
}

/// Promise: who may read secrets is told of them with their values, whoever else makes the service
/// look: a reader or a watcher who may not.
#[tokio::test]
async fn a_secret_reaches_who_may_read_it() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("secret_config_s", &json!("one")).await.expect(201);
    // It does not look by itself, so that others make it.
    let never = [("POLL_INTERVAL_MS", "4000000"), ("CHANGE_QUEUE_URL", "")];
    let instance = Instance::start(&api, &never).await;
    let narrow = instance.with_token(&api.suite.token("acme", "config/read").unwrap());
    let (mut blind, snapshot) = narrow.watch().await;
    assert_eq!(snapshot.entries[0].value_status(), v1::ValueStatus::Withheld);
    let full = instance.tenant(&acme);
    let (mut watching, snapshot) = full.watch().await;
    assert_eq!(entries(&snapshot.entries), r#"secret_config_s="one""#);
    // What was loaded without secrets is loaded anew.
    blind.snapshot().await;
    let position = watching.position.clone().unwrap();

    acme.put("secret_config_s", &json!("two")).await.expect(200);
    narrow.get("tenant_config_none", 2).await.expect_err("there is none");
    assert_eq!(line(&watching.update().await), r#"1→2 secret_config_s@2="two""#);
    assert_eq!(line(&blind.update().await), "1→2 secret_config_s@2=");

    // Nor is what one who may not read them goes back to without them for who may.
    let later = Instance::start(&api, &never).await;
    let (_watching, _) = later.tenant(&acme).watch().await;
    let narrow = later.with_token(&api.suite.token("acme", "config/read").unwrap());
    let mut blind = narrow.go_on(v1::Position { token: String::new(), ..position.clone() }).await.unwrap();
    assert_eq!(line(&blind.update().await), "1→2 secret_config_s@2=");
    let mut watching = later.tenant(&acme).go_on(position).await.unwrap();
    assert_eq!(line(&watching.update().await), r#"1→2 secret_config_s@2="two""#);
}

/// Promise: a commit that is made, and heard of, while the log is read is told as a commit like the
/// others; the tenant is not read anew for it.
#[tokio::test]
async fn a_commit_during_a_look_is_told_as_one() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let instance = Instance::start(&api, &[("POLL_INTERVAL_MS", "4000000"), ("CHANGE_QUEUE_URL", "")]).await;
    let grpc = instance.tenant(&acme);
    let (mut watching, _) = grpc.watch().await;
    put(&acme, "a", 2).await;
    // After the log, the values of its versions are read.
    let held = api.suite.emulator().faults().hold("BatchGetItem", 0);
    let meanwhile = async {
        crate::harness::reached(&held).await;
        put(&acme, "a", 3).await;
        let tenant = instance.stream.memory().known(&"acme".parse().unwrap()).expect("it is watched");
        assert!(tenant.advertise(3));
        held.release();
    };
    let (read, ()) = futures_util::future::join(grpc.get("tenant_config_a", 2), meanwhile).await;
    assert_eq!(read.unwrap().revision, 3);
    assert_eq!(line(&watching.update().await), "1→2 tenant_config_a@2=2");
    assert_eq!(line(&watching.update().await), "2→3 tenant_config_a@3=3");
}
