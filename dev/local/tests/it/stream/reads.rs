//! Reads from memory: what the HTTP API would answer, and who may ask.

use super::*;

/// Promise: an entry comes as it was written, with its version and revision, and a change is seen
/// as soon as the index tells of it.
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

/// Promise: lists and batches are what the HTTP API would answer, a page at a time, each of one
/// revision.
#[tokio::test]
async fn lists_and_batches_are_whole() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for name in 0..7 {
        put(&acme, &format!("b/{name}"), name).await;
    }
    put(&acme, "a", 1).await;
    put(&api.tenant("globex"), "b/9", 9).await;
    let instance = Instance::start(&api, &[]).await;
    let grpc = instance.tenant(&acme);
    let (mut page_token, mut pages) = (String::new(), Vec::new());
    loop {
        let request = v1::ListConfigRequest {
            prefix: "tenant_config_b/".to_owned(),
            page_size: 3,
            page_token: page_token.clone(),
            min_revision: 0,
        };
        let page = grpc.list(request).await.unwrap();
        assert_eq!(page.revision, 8);
        pages.push(
            page.entries
                .iter()
                .map(|entry| entry.key.trim_start_matches("tenant_config_").to_owned())
                .collect::<Vec<_>>(),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    assert_eq!(pages, [vec!["b/0", "b/1", "b/2"], vec!["b/3", "b/4", "b/5"], vec!["b/6"]]);
    let batch = grpc.batch_get(&["tenant_config_b/3", "tenant_config_x", "tenant_config_a"]).await.unwrap();
    assert_eq!(entries(&batch.entries), "tenant_config_b/3=3 tenant_config_a=1");
    assert_eq!((batch.missing_keys, batch.revision), (vec!["tenant_config_x".to_owned()], 8));
    // As over HTTP: once, where it stands first.
    let named = ["tenant_config_x", "tenant_config_b/3", "tenant_config_a", "tenant_config_b/3", "tenant_config_x"];
    let batch = grpc.batch_get(&named).await.unwrap();
    assert_eq!(entries(&batch.entries), "tenant_config_b/3=3 tenant_config_a=1");
    assert_eq!(batch.missing_keys, ["tenant_config_x"]);
    let http = acme.batch_get(&named).await.expect(200);
    assert_eq!(http.each("found", "key"), ["tenant_config_b/3", "tenant_config_a"]);
    assert_eq!(http.body["missing"], json!(["tenant_config_x"]));
}

/// Promise: a call with more metadata than is taken is refused by itself; a watch, and the calls
/// after it, go on over the same connection.
#[tokio::test]
async fn too_much_metadata_costs_one_call() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let instance = Instance::start(&api, &[]).await;
    let grpc = instance.tenant(&acme);
    let (mut watching, _) = grpc.watch().await;
    let ask = async |pairs: usize, bytes: usize| {
        let message = v1::GetConfigRequest { key: "tenant_config_a".to_owned(), min_revision: 0 };
        let mut request = grpc.request(message);
        for pair in 0..pairs {
            // Each in other characters, so that none is sent shorter than it is.
            let value: String = (0..bytes).map(|_| fastrand::alphanumeric()).collect();
            let name = tonic::metadata::AsciiMetadataKey::from_bytes(format!("x-{pair}").as_bytes()).expect("a name");
            request.metadata_mut().insert(name, value.parse().expect("a header"));
        }
        grpc.client.clone().get_config(request).await.map_err(|status| (status.code(), status.message().to_owned()))
    };
    assert!(ask(1, 8 * 1024).await.is_ok());
    assert!(ask(100, 100).await.is_ok());
    for (pairs, bytes) in [(1, 17 * 1024), (300, 100), (4, 20 * 1024), (1, 60 * 1024), (1, 120 * 1024)] {
        let (code, message) = ask(pairs, bytes).await.unwrap_err();
        assert_eq!(code, Code::ResourceExhausted, "{pairs} of {bytes}: {message}");
        assert!(message.contains("more than 16384 bytes"), "{message}");
        put(&acme, "a", bytes as u64).await;
        assert_eq!(watching.update().await.changes.len(), 1, "the watch goes on");
    }
    // Past what is read of it at all: no word of gRPC, and still that call alone.
    assert!(ask(20, 10 * 1024).await.is_err());
    put(&acme, "a", 0).await;
    assert_eq!(watching.update().await.changes.len(), 1);
    assert!(ask(0, 0).await.is_ok());
}

/// Promise: bad input is refused with what is wrong with it.
#[tokio::test]
async fn bad_input_is_refused_by_name() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let instance = Instance::start(&api, &[]).await;
    let grpc = instance.tenant(&acme);
    let check = |status: Option<Status>, message: &str| {
        let status = status.expect(message);
        assert!(status.code() == Code::InvalidArgument && status.message().contains(message), "{status}");
    };
    check(grpc.get("", 0).await.err(), "starts with no known tag");
    check(grpc.get("other_config_a", 0).await.err(), "the tags here are");
    check(grpc.get("tenant_config_a//b", 0).await.err(), "segment 2");
    check(grpc.batch_get(&[]).await.err(), "1 to 100");
    check(grpc.batch_get(&["nothing"]).await.err(), "no known tag");
    let list = |prefix: &str, page_size, page_token: &str| {
        let (prefix, page_token) = (prefix.to_owned(), page_token.to_owned());
        grpc.list(v1::ListConfigRequest { prefix, page_size, page_token, min_revision: 0 })
    };
    check(list("a b", 0, "").await.err(), "no key begins with");
    check(list("", -1, "").await.err(), "below zero");
    check(list("", 0, "%").await.err(), "page_token");
    check(list("b", 0, "YQ").await.err(), "page_token");
    let watch = |keys: Vec<String>, prefixes: Vec<String>| {
        grpc.try_watch(v1::WatchConfigRequest { keys, prefixes, position: None })
    };
    check(watch(vec!["x".to_owned()], vec![]).await.err(), "no known tag");
    check(watch(vec![], vec!["#".to_owned()]).await.err(), "no key begins with");
    check(watch(vec!["tenant_config_a".to_owned(); 101], vec![]).await.err(), "at most 100");
    let status = grpc.get("tenant_config_a", 5).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

/// Promise: only who has a good token with the right scope gets anything, and of its own tenant
/// alone.
#[tokio::test]
async fn the_token_decides_whose_entries_are_read() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    put(&acme, "a", 1).await;
    put(&globex, "a", 2).await;
    let instance = Instance::start(&api, &[]).await;
    assert_eq!(instance.tenant(&acme).value("tenant_config_a").await.0, "1");
    assert_eq!(instance.tenant(&globex).value("tenant_config_a").await.0, "2");
    assert_eq!(
        instance.tenant(&api.tenant("initech")).get("tenant_config_a", 0).await.unwrap_err().code(),
        Code::NotFound
    );
    let (signed, _) = acme.token.rsplit_once('.').unwrap();
    for (token, code) in [
        ("", Code::Unauthenticated),
        ("x", Code::Unauthenticated),
        (&*format!("{signed}.AAAA"), Code::Unauthenticated),
        (&*api.suite.token("acme", "config/write").unwrap(), Code::PermissionDenied),
    ] {
        let grpc = instance.with_token(token);
        assert_eq!(grpc.get("tenant_config_a", 0).await.unwrap_err().code(), code, "{token}");
        assert_eq!(grpc.try_watch(v1::WatchConfigRequest::default()).await.err().unwrap().code(), code, "{token}");
    }
}

/// Promise: a secret's value is for those alone whose token has the scope for secrets, in reads,
/// lists and watches, whoever else reads or watches the same tenant; the others learn of a single
/// key not even whether there is one.
#[tokio::test]
async fn secrets_are_for_those_who_may_read_them() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("secret_config_key", &json!("hush")).await.expect(201);
    let instance = Instance::start(&api, &[]).await;
    let (all, some) = (instance.tenant(&acme), instance.with_token(&api.suite.token("acme", "config/read").unwrap()));
    // First those who may not: what they had loaded does for nobody else.
    let (mut blind, snapshot) = some.watch().await;
    assert_eq!(snapshot.entries[0].value_status(), v1::ValueStatus::Withheld);
    assert_eq!(snapshot.entries[0].value.len(), 0);
    assert_eq!(all.value("secret_config_key").await.0, r#""hush""#);
    for key in ["secret_config_key", "secret_config_none"] {
        assert_eq!(some.get(key, 0).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(some.batch_get(&[key]).await.unwrap_err().code(), Code::PermissionDenied);
    }
    let (mut seeing, snapshot) = all.watch().await;
    assert_eq!(entries(&snapshot.entries), r#"secret_config_key="hush""#);
    acme.put("secret_config_key", &json!("psst")).await.expect(200);
    assert_eq!(line(&seeing.update().await), r#"1→2 secret_config_key@2="psst""#);
    // Perhaps after a snapshot, as the tenant was read anew for the other one's sake.
    loop {
        match blind.event().await {
            Event::Snapshot(snapshot) => assert_eq!(snapshot.entries[0].value.len(), 0),
            Event::Update(update) => {
                let entry = update.changes[0].entry.clone().unwrap();
                assert_eq!((entry.value.len(), entry.value_status(), entry.version), (0, v1::ValueStatus::Withheld, 2));
                break;
            }
            Event::Heartbeat(_) => {}
        }
    }
    let page = some.list(v1::ListConfigRequest::default()).await.unwrap();
    assert_eq!((page.entries[0].value.len(), page.entries[0].value_status()), (0, v1::ValueStatus::Withheld));
}

/// Promise: a tenant that asks too often is told so, and costs the others nothing.
#[tokio::test]
async fn a_tenants_calls_are_limited() {
    let api = Api::frozen().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    let instance = Instance::start(&api, &[("TENANT_RATE_LIMIT", "1"), ("TENANT_BURST_LIMIT", "2")]).await;
    let (acme, globex) = (instance.tenant(&acme), instance.tenant(&globex));
    for code in [Code::NotFound, Code::NotFound, Code::ResourceExhausted] {
        assert_eq!(acme.get("tenant_config_a", 0).await.unwrap_err().code(), code);
    }
    assert_eq!(globex.get("tenant_config_a", 0).await.unwrap_err().code(), Code::NotFound);
}

/// Promise: a tenant's watchers, who all come at once when an instance has ended, do not keep out
/// who reads.
#[tokio::test]
async fn watchers_do_not_keep_out_readers() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let instance = Instance::start(&api, &[("TENANT_RATE_LIMIT", "1"), ("TENANT_BURST_LIMIT", "2")]).await;
    let acme = instance.tenant(&acme);
    let mut watching = Vec::new();
    for _ in 0..5 {
        watching.push(acme.watch().await);
    }
    for code in [Code::NotFound, Code::NotFound, Code::ResourceExhausted] {
        assert_eq!(acme.get("tenant_config_a", 0).await.unwrap_err().code(), code);
    }
}
