//! The change feed, read-your-writes, and what is kept how long.

use std::time::Duration;

use serde_json::json;

use crate::harness::Api;

/// Promise: a reader of the feed sees every commit once, in order, page by page, and an empty page
/// at the head.
#[tokio::test]
async fn a_reader_of_the_feed_misses_nothing() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let empty = acme.changes("since=0").await.expect(200);
    assert_eq!((&empty.body["changes"], empty.revision()), (&json!([]), 0));
    for n in 0..5 {
        acme.put("tenant_config_k", &json!(n)).await.expect(if n == 0 { 201 } else { 200 });
    }
    let several =
        json!([{"op": "put", "key": "tenant_config_a", "value": 1}, {"op": "delete", "key": "tenant_config_k"}]);
    acme.transaction(&several).await.expect(200);

    let (mut since, mut seen) = (0, Vec::new());
    loop {
        let page = acme.changes(&format!("since={since}&limit=2")).await.expect(200);
        assert_eq!(page.revision(), 6);
        let revisions: Vec<_> = page.each("changes", "revision").iter().filter_map(serde_json::Value::as_u64).collect();
        let Some(last) = revisions.last() else { break };
        since = *last;
        seen.extend(revisions);
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    let last = acme.changes("since=5").await.expect(200);
    assert_eq!(
        last.each("changes", "keys"),
        [json!([
            {"key": "tenant_config_a", "version": 1, "operation": "put"},
            {"key": "tenant_config_k", "version": 6, "operation": "delete"},
        ])],
        "a page never splits a revision"
    );
    assert!(!last.text.contains("value"), "the feed names keys, not values");
    api.stop().await;
}

/// Promise: whoever asks for changes that are not all kept any more, or never were, is told to take
/// a fresh list.
#[tokio::test]
async fn what_is_not_kept_is_gone() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_old", &json!(1)).await.expect(201);
    let ahead = acme.changes("since=2").await.expect_problem(410, "gone");
    let detail = ahead.body["detail"].as_str().expect("a detail");
    assert!(detail.contains("ahead of the newest revision 1") && detail.contains("fresh list"), "{detail}");
    assert_eq!(ahead.revision(), 1, "where to look is said at once");
    api.pass(Duration::from_hours(7 * 24 + 1));
    acme.put("tenant_config_new", &json!(1)).await.expect(201);
    let gone = acme.changes("since=0").await.expect_problem(410, "gone");
    let detail = gone.body["detail"].as_str().expect("a detail");
    assert!(detail.contains("not all kept") && detail.contains("fresh list"), "{detail}");
    assert_eq!(gone.revision(), 2);
    assert_eq!(acme.changes("since=1").await.expect(200).each("changes", "revision"), [2]);
    assert_eq!(acme.get("tenant_config_old").await.expect(200).number("version"), 1, "entries do not expire");
    api.stop().await;
}

/// Promise: nobody is led past a change that is missing in the middle, in whatever order DynamoDB
/// removes what has expired.
#[tokio::test]
async fn a_gap_is_not_skipped() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for n in 0..4 {
        acme.put("tenant_config_k", &json!(n)).await;
    }
    api.remove_item(&acme, "CHANGE#00000000000000000002").await;
    assert_eq!(acme.changes("since=0").await.expect(200).each("changes", "revision"), [1]);
    acme.changes("since=1").await.expect_problem(410, "gone");
    assert_eq!(acme.changes("since=2").await.expect(200).each("changes", "revision"), [3, 4]);
    api.stop().await;
}

/// Promise: a reader that names the revision of its write gets nothing older, and is told when that
/// revision does not exist.
#[tokio::test]
async fn a_writer_reads_its_own_write() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let written = acme.put("tenant_config_k", &json!(1)).await.expect(201).revision();
    // A stale answer would be allowed here, but for the revision.
    acme.get("tenant_config_k").await.expect(200);
    let next = acme.put("tenant_config_k", &json!(2)).await.expect(200).revision();
    let path = format!("tenant_config_k?minRevision={next}");
    let fresh = acme.get(&path).header("cache-control", "max-age=60").await.expect(200);
    assert_eq!((&fresh.body["value"], fresh.revision()), (&json!(2), next));
    let ahead = acme.get("tenant_config_k?minRevision=3").await.expect_problem(422, "unprocessable");
    assert_eq!((ahead.revision(), ahead.number("revision")), (2, 2));
    acme.get(&format!("tenant_config_k?version=1&minRevision={written}")).await.expect(200);
    acme.get("tenant_config_k?version=1&minRevision=3").await.expect_problem(422, "unprocessable");
    api.stop().await;
}

/// Promise: a repeated request is answered with its first result for 24 hours, whatever has
/// happened to the key since; the same idempotency key with another request is refused; after that
/// time the key is free again.
#[tokio::test]
async fn repeated_requests_get_their_first_result() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let key = "tenant_config_k";
    for (nth, revision) in [("first", 1), ("second", 4)] {
        let put = || acme.put(key, &json!(nth)).header("idempotency-key", "\"7c1d\"");
        let written = put().await;
        assert_eq!((written.revision(), written.header("idempotency-replayed")), (revision, ""));
        acme.put(key, &json!("other")).await.expect(200);
        let again = put().await.expect(written.status);
        assert_eq!((&again.text, again.header("idempotency-replayed")), (&written.text, "true"));
        acme.put(key, &json!("another")).header("idempotency-key", "7c1d").await.expect_problem(422, "unprocessable");
        acme.put(key, &json!(nth))
            .header("idempotency-key", "7c1d")
            .header("if-match", "*")
            .await
            .expect_problem(422, "unprocessable");
        acme.delete(key).header("idempotency-key", "7c1d").await.expect_problem(422, "unprocessable");
        assert_eq!(acme.get(key).await.expect(200).revision(), revision + 1);
        let other = api.tenant("globex").put(key, &json!("mine")).header("idempotency-key", "7c1d").await;
        assert_eq!(other.header("idempotency-replayed"), "", "keys belong to their tenant");
        api.pass(Duration::from_hours(24) + Duration::from_secs(2));
        acme.put(key, &json!("between")).await.expect(200);
    }
    api.stop().await;
}
