//! Writers of one tenant share its ledger: who lost a race takes a ticket and waits for its turn,
//! and a lone writer pays nothing for that.

use std::{future::IntoFuture, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use emulator::{Fault, Service};
use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use tenantry::clock::Clock;

use crate::{
    crash::put,
    harness::{Api, Tenant, reached},
};

/// What a write costs that meets nobody: its basis, its commit, and that its event went out.
const ALONE: u64 = 3;
/// As many as write at once.
const WRITERS: usize = 12;

impl Api {
    /// How many calls DynamoDB gets from a write.
    async fn cost(&self, tenant: &Tenant<'_>, key: &str) -> u64 {
        let calls = || self.suite.emulator().calls().service_total(Service::DynamoDb);
        let before = calls();
        assert!(matches!(tenant.put(key, &json!(1)).await.status, 200 | 201));
        calls() - before
    }

    /// Has ticket 7 be given out so long ago, with 6 served: its writer is dead, or slow.
    async fn give_out_a_ticket(&self, tenant: &Tenant<'_>, ago: Duration) {
        let number = |number: u64| AttributeValue::N(number.to_string());
        let at = Clock::system().now().millis() - u64::try_from(ago.as_millis()).expect("short");
        for (item, attribute, value) in [
            ("HEAD", "servedTicket", 6),
            ("HEAD", "lastTicket", 7),
            ("QUEUE", "lastTicket", 7),
            ("QUEUE", "givenOutAt", at),
        ] {
            self.set(tenant, item, attribute, number(value)).await;
        }
    }

    async fn served(&self, tenant: &Tenant<'_>) -> Option<String> {
        self.item(tenant, "HEAD").await.get("servedTicket").and_then(|served| served.as_n().ok()).cloned()
    }
}

/// Promise: a writer that meets nobody takes no ticket, also after a race; one that lost a race
/// takes one, and commits what it had planned without reading it again.
#[tokio::test]
async fn a_lost_race_costs_a_ticket_and_a_commit() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    assert_eq!(api.cost(&acme, "tenant_config_a").await, ALONE);
    let held = api.suite.emulator().faults().hold("TransactWriteItems", 0);
    let calls = || api.suite.emulator().calls().service_total(Service::DynamoDb);
    let before = calls();
    let slow = acme.put("tenant_config_b", &json!("slow")).into_future();
    let fast = async {
        reached(&held).await;
        acme.put("tenant_config_c", &json!("fast")).await.expect(201);
        held.release();
    };
    let (slow, ()) = join(slow, fast).await;
    assert_eq!(slow.expect(201).revision(), 3);
    assert_eq!(calls() - before, 2 * ALONE + 2);
    assert_eq!(api.served(&acme).await.as_deref(), Some("1"));
    assert_eq!(api.cost(&acme, "tenant_config_d").await, ALONE, "nobody waits any more");
    api.stop().await;
}

/// Promise: a writer whose key was written meanwhile plans anew, upon what is there now.
#[tokio::test]
async fn what_was_planned_upon_an_older_version_is_planned_anew() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!("first")).await.expect(201);
    for (has_precondition, status) in [(false, 200), (true, 412)] {
        let current = acme.get("tenant_config_k").await.expect(200);
        let held = api.suite.emulator().faults().hold("TransactWriteItems", 0);
        let mut slow = acme.put("tenant_config_k", &json!("slow"));
        if has_precondition {
            slow = slow.header("if-match", current.etag());
        }
        let fast = async {
            reached(&held).await;
            acme.put("tenant_config_k", &json!("fast")).await.expect(200);
            held.release();
        };
        let (slow, ()) = join(slow.into_future(), fast).await;
        assert_eq!(slow.status, status, "{}", slow.text);
    }
    assert_eq!(acme.get("tenant_config_k").await.expect(200).body["value"], "fast");
    assert_eq!(acme.history("tenant_config_k").await.expect(200).each("versions", "version"), [4, 3, 2, 1]);
    api.stop().await;
}

/// Promise: where others wait, a newcomer goes behind them. A ticket whose writer died holds up
/// nobody for long, and one that is too old holds up nobody at all.
#[tokio::test]
async fn a_dead_writers_ticket_holds_up_nobody() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_a", &json!(1)).await.expect(201);
    for ago in [Duration::ZERO, Duration::from_secs(9)] {
        api.give_out_a_ticket(&acme, ago).await;
        let cost = api.cost(&acme, "tenant_config_a").await;
        if ago > Duration::ZERO {
            assert_eq!(cost, ALONE + 1, "a ticket, and nobody to wait for");
        } else {
            assert!(cost > ALONE + 1, "{cost}: the dead writer was waited for");
        }
        assert_eq!(api.served(&acme).await.as_deref(), Some("8"));
        assert_eq!(api.cost(&acme, "tenant_config_a").await, ALONE, "nobody waits any more");
    }
    api.stop().await;
}

/// Promise: where the answer to a commit is lost that counted on another still to come, nobody
/// takes it for a conflict: it may yet arrive in time.
#[tokio::test]
async fn a_lost_answer_to_a_guess_is_no_conflict() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_a", &json!(1)).await.expect(201);
    api.give_out_a_ticket(&acme, Duration::ZERO).await;
    let lost = api.suite.emulator().faults().inject("TransactWriteItems", Fault::ReplyLost, 1);
    let unknown = acme.put("tenant_config_b", &json!(1)).await.expect_problem(503, "unavailable");
    assert_eq!(lost.hits(), 1);
    assert!(unknown.body["detail"].as_str().is_some_and(|detail| detail.contains("whether the write took place")));
    api.stop().await;
}

/// Promise: writers in environments of their own, as Lambda has them, all get through, each once,
/// and share the revisions without gaps. Few attempts are in vain.
#[tokio::test]
async fn a_crowd_gets_through() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let writers: Vec<_> = (0..WRITERS).map(|_| api.suite.another_writer().expect("an environment")).collect();
    let write = async |(n, writer): (usize, &local::Environment)| {
        writer.invoke(put(&acme, &format!("tenant_config_{n}"), "v")).await.expect("an answer")
    };
    let (attempts, answers) =
        api.calls_during("TransactWriteItems", join_all(writers.iter().enumerate().map(write))).await;
    let revision = |answer: &Value| answer["headers"]["tenantry-revision"].as_str().and_then(|text| text.parse().ok());
    let mut revisions: Vec<usize> = answers.iter().filter_map(revision).collect();
    revisions.sort_unstable();
    assert!(answers.iter().all(|answer| answer["statusCode"] == 201), "{answers:?}");
    assert_eq!(revisions, (1..=WRITERS).collect::<Vec<_>>());
    assert!(attempts <= 4 * WRITERS as u64, "{attempts} attempts of {WRITERS} writers");
    assert_eq!(api.cost(&acme, "tenant_config_0").await, ALONE, "nobody waits any more");
    api.stop().await;
}
