//! Many at once: no update is lost, no number is used twice or left out, and no reader goes back in
//! time.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Answer, Api, Call};

/// As many as the promise is made for.
const WRITERS: u64 = 32;

/// Sends a request until it has got through the crowd, as the answer 409 asks for.
async fn get_through<'a>(call: impl Fn() -> Call<'a>) -> Answer {
    loop {
        let answer = call().await;
        if answer.status != 409 {
            return answer;
        }
    }
}

/// The members of these answers called `member`, sorted.
#[track_caller]
fn sorted(answers: &[Answer], member: &str) -> Vec<u64> {
    let mut numbers: Vec<_> = answers.iter().map(|answer| answer.number(member)).collect();
    numbers.sort_unstable();
    numbers
}

/// Promise: of 32 writers on one key each takes a version and a revision of its own, without gaps,
/// and every acknowledged value stands in the history; Parameter Store ends with the newest.
#[tokio::test]
async fn no_update_of_one_key_is_lost() {
    for tag in ["tenant_config_", "param_config_"] {
        let api = Api::start().await;
        let acme = api.tenant("acme");
        let key = format!("{tag}contended");
        let answers =
            join_all((0..WRITERS).map(async |writer| get_through(|| acme.put(&key, &json!(writer))).await)).await;
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 201)), "{answers:?}");
        let all: Vec<_> = (1..=WRITERS).collect();
        assert_eq!(sorted(&answers, "version"), all);
        assert_eq!(sorted(&answers, "revision"), all);
        assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);

        let history = acme.history(&key).await.expect(200);
        let mut values: Vec<_> = history.each("versions", "value").iter().filter_map(Value::as_u64).collect();
        values.sort_unstable();
        assert_eq!(values, (0..WRITERS).collect::<Vec<_>>());
        if tag == "param_config_" {
            api.settled().await;
            let newest = acme.get(&key).await.expect(200).body["value"].to_string();
            let parameter = api.parameter(&acme.parameter_name(tag, "contended")).await;
            assert_eq!(parameter.map(|(text, _)| text), Some(newest));
        }
        api.stop().await;
    }
}

/// Promise: 32 write-around writers of one key lose nothing either: each acknowledged value can be
/// read from the history, nobody puts in vain, and those who could not get through within their
/// time say so, and wrote nothing.
#[tokio::test]
async fn no_update_around_the_ledger_is_lost() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let key = "secret_config_contended";
    let value = |writer: u64| json!(format!("value {writer}"));
    let writes = join_all((0..WRITERS).map(|writer| acme.put(key, &value(writer)).into_future()));
    let (puts, answers) = api.calls_during("PutParameter", writes).await;
    let mut written: Vec<_> = Vec::new();
    for (writer, answer) in (0..).zip(answers) {
        if matches!(answer.status, 200 | 201) {
            written.push((answer.number("version"), value(writer)));
        } else {
            assert_eq!(answer.expect_problem(409, "contention").header("retry-after"), "1");
        }
    }
    written.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
    assert!(!written.is_empty() && puts <= WRITERS, "{puts} puts for {} versions", written.len());
    let history = acme.history(key).await.expect(200);
    let kept = history.each("versions", "version").into_iter().zip(history.each("versions", "value"));
    assert_eq!(
        kept.collect::<Vec<_>>(),
        written.into_iter().map(|(version, value)| (json!(version), value)).collect::<Vec<_>>()
    );

    // What a writer without success put may lie there as the newest until config-refresh has put it
    // right.
    let committed = acme.get(key).await.expect(200).body["value"].as_str().map(str::to_owned);
    api.settled().await;
    api.pass(tenantry::ledger::GRACE * 2);
    api.suite.run_schedules().await.expect("a sweep");
    let parameter = api.parameter(&acme.parameter_name("secret_config_", "contended")).await;
    assert_eq!(parameter.map(|(text, _)| text), committed);
    assert_eq!(acme.get(key).await.expect(200).body["value"].as_str().map(str::to_owned), committed);
    api.stop().await;
}

/// Promise: of 32 writers that saw the same version, exactly one wins.
#[tokio::test]
async fn one_writer_wins_per_if_match() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for key in ["tenant_config_k", "param_config_k", "secret_config_k"] {
        let first = acme.put(key, &json!("first")).await.expect(201);
        let put = |n: u64| acme.put(key, &json!(format!("{n}"))).header("if-match", first.etag());
        let answers = join_all((0..WRITERS).map(async |n| get_through(|| put(n)).await)).await;
        let winners: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert_eq!(winners.len(), 1, "{key}");
        assert_eq!(acme.get(key).await.expect(200).etag(), winners[0].etag());
        let losers = answers.iter().filter(|answer| answer.status == 412).count() as u64;
        assert_eq!(losers, WRITERS - 1, "{key}");
    }
    api.stop().await;
}

/// Promise: 32 writers on keys of their own share the tenant's revisions without gaps, and the feed
/// shows each once, in order.
#[tokio::test]
async fn one_tenants_revisions_have_no_gaps() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    let keys: Vec<_> = (0..WRITERS).map(|n| format!("tenant_config_{n}")).collect();
    let writes = keys.iter().flat_map(|key| [(&acme, key), (&globex, key)]);
    let answers = join_all(writes.map(async |(tenant, key)| get_through(|| tenant.put(key, &json!(key))).await)).await;
    let mut revisions = sorted(&answers.into_iter().map(|answer| answer.expect(201)).collect::<Vec<_>>(), "revision");
    revisions.dedup();
    assert_eq!(revisions, (1..=WRITERS).collect::<Vec<_>>());
    for tenant in [&acme, &globex] {
        let feed = tenant.changes("since=0").await.expect(200);
        assert_eq!(feed.each("changes", "revision"), (1..=WRITERS).collect::<Vec<_>>());
    }
    api.stop().await;
}

/// Promise: a reader never sees an older version, an older revision, or half a transaction,
/// whatever is being written.
#[tokio::test]
async fn a_reader_never_goes_back() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let keys = ["tenant_config_a", "param_config_a"];
    let write = |n: u64| {
        acme.transaction(&json!([{"op": "put", "key": keys[0], "value": n}, {"op": "put", "key": keys[1], "value": n}]))
    };
    write(0).await.expect(200);
    let writers = join_all((0..4).map(|_| async {
        for n in 1..=6 {
            get_through(|| write(n)).await.expect(200);
        }
    }));
    let readers = join_all((0..4).map(|_| async {
        let (mut revision, mut versions) = (0, [0, 0]);
        for _ in 0..20 {
            for (key, version) in keys.iter().zip(&mut versions) {
                let answer = acme.get(key).await.expect(200);
                assert!(answer.revision() >= revision && answer.number("version") >= *version, "{}", answer.text);
                (revision, *version) = (answer.revision(), answer.number("version"));
                assert!(answer.number("revision") <= revision, "an entry is not newer than its answer");
            }
            let batch = acme.batch_get(&keys).await;
            // A batch may find no quiet moment; it says so rather than to show halves.
            if batch.status != 409 {
                let batch = batch.expect(200);
                assert!(batch.revision() >= revision);
                revision = batch.revision();
                let written_at = batch.each("found", "revision");
                assert_eq!(written_at[0], written_at[1], "both halves of one transaction");
            }
        }
    }));
    futures_util::future::join(writers, readers).await;
    assert_eq!(acme.get(keys[0]).await.expect(200).number("version"), 25);
    api.stop().await;
}

/// Promise: a batch that is read while a transaction is committed shows all of it or nothing,
/// whatever is in memory already.
#[tokio::test]
async fn no_batch_shows_half_a_transaction() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let keys = ["tenant_config_a", "param_config_a"];
    let write = |n: u64| {
        acme.transaction(&json!([{"op": "put", "key": keys[0], "value": n}, {"op": "put", "key": keys[1], "value": n}]))
    };
    write(1).await.expect(200);
    // One of them is in memory, the other is not; and the head has been looked at when the
    // transaction comes.
    acme.get(keys[0]).await.expect(200);
    let held = api.suite.emulator().faults().hold("BatchGetItem", 0);
    let reading = acme.batch_get(&keys).into_future();
    let writing = async {
        held.reached().await;
        write(2).await.expect(200);
        held.release();
    };
    let (batch, ()) = futures_util::future::join(reading, writing).await;
    let values = batch.expect(200).each("found", "value");
    assert_eq!(values[0], values[1]);
    api.stop().await;
}

/// Promise: of 32 requests with one idempotency key, one is carried out, and all get its result.
#[tokio::test]
async fn one_idempotency_key_is_carried_out_once() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for (key, revision) in [("tenant_config_k", 1), ("param_config_k", 2), ("secret_config_k", 3)] {
        let put = || acme.put(key, &json!("v")).header("idempotency-key", key).header("if-none-match", "*");
        let answers = join_all((0..WRITERS).map(async |_| get_through(put).await)).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect(201)).collect();
        assert!(answers.iter().all(|answer| answer.text == answers[0].text && answer.etag() == answers[0].etag()));
        let replayed = answers.iter().filter(|answer| answer.header("idempotency-replayed") == "true").count() as u64;
        assert_eq!(replayed, WRITERS - 1);
        assert_eq!(acme.get(key).await.expect(200).revision(), revision);
    }
    api.stop().await;
}
