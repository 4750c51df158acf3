//! Every crash point: a function dies at each of its calls to AWS in turn, and the call takes
//! effect at once, late, or never. What was acknowledged stays, nothing is torn, counted twice or
//! left out, and everything comes right.

use emulator::{ANY, EventFate, Held};
use fastrand::Rng;
use serde_json::{Value, json};
use tenantry::ledger::GRACE;

use crate::{
    crash::recover,
    harness::{Answer, Api, Tenant, seeds},
};

/// More calls than any of the functions makes in a case.
const MANY: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Create,
    Replace,
    Delete,
    Recreate,
    RollBack,
    Transaction,
}

const OPERATIONS: [Operation; 6] = [
    Operation::Create,
    Operation::Replace,
    Operation::Delete,
    Operation::Recreate,
    Operation::RollBack,
    Operation::Transaction,
];

/// A key beside the tested one, for transactions.
const BESIDE: &str = "tenant_config_beside";

impl Operation {
    /// What the key holds before, the oldest first; nothing stands for a deletion.
    fn before(self) -> &'static [Option<&'static str>] {
        match self {
            Self::Create => &[],
            Self::Replace | Self::Delete | Self::Transaction => &[Some("first")],
            Self::Recreate => &[Some("first"), None],
            Self::RollBack => &[Some("first"), Some("second")],
        }
    }

    /// What the key holds if the operation takes place.
    fn after(self) -> Option<&'static str> {
        match self {
            Self::Delete => None,
            Self::RollBack => Some("first"),
            Self::Create | Self::Replace | Self::Recreate | Self::Transaction => Some("after"),
        }
    }

    fn event(self, tenant: &Tenant<'_>, key: &str) -> Value {
        let (path, value) = (format!("/v1/config/{key}"), json!({"value": "after"}));
        match self {
            Self::Create | Self::Replace | Self::Recreate => tenant.event("PUT", &path, &value),
            Self::Delete => {
                let mut event = tenant.event("DELETE", &path, &Value::Null);
                event["body"] = Value::Null;
                event
            }
            Self::RollBack => tenant.event("POST", &format!("/v1/rollback/{key}"), &json!({"version": 1})),
            Self::Transaction => {
                let put = |key: &str| json!({"op": "put", "key": key, "value": "after"});
                tenant.event("POST", "/v1/transactions", &json!({"operations": [put(key), put(BESIDE)]}))
            }
        }
    }
}

/// What becomes of the call that was under way when its function died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    AtOnce,
    /// After the first sweep.
    Late,
    Never,
}

/// Chooses one of `outcomes` for a call that is held; where it is late, it stays held.
pub(crate) fn let_go(held: Held, outcomes: &[Call], random: &mut Rng) -> (Call, Option<Held>) {
    let call = outcomes[random.usize(..outcomes.len())];
    match call {
        Call::AtOnce => held.release(),
        Call::Late => return (call, Some(held)),
        Call::Never => held.forget(),
    }
    (call, None)
}

/// One function that died, and what has been acknowledged since.
struct Death<'a> {
    name: String,
    tenant: Tenant<'a>,
    rival: bool,
}

/// Promise: wherever config-write dies, whatever it was doing, under every strategy, and whatever
/// becomes of its last call: each version and revision is there once; what was acknowledged before
/// and after is there; a transaction is there whole or not at all; all changes are published;
/// Parameter Store ends with what is committed; and the next write is possible at once.
async fn writes_die(tag: &str, points: usize) {
    let mut cases = 0;
    for seed in seeds() {
        for operation in OPERATIONS {
            let cannot_join = matches!(tag, "around_config_" | "secret_config_");
            if operation != Operation::Transaction || !cannot_join {
                cases += write_dies(tag, operation, seed).await;
            }
        }
    }
    eprintln!("{cases} deaths of config-write under {tag}");
    assert!(cases >= points * seeds().count(), "no crash point is left out by mistake");
}

#[tokio::test]
async fn a_write_to_dynamodb_may_die_anywhere() {
    writes_die("tenant_config_", 24).await;
}

#[tokio::test]
async fn a_write_through_may_die_anywhere() {
    writes_die("param_config_", 42).await;
}

#[tokio::test]
async fn a_write_back_may_die_anywhere() {
    writes_die("back_config_", 24).await;
}

#[tokio::test]
async fn a_write_around_may_die_anywhere() {
    writes_die("around_config_", 40).await;
}

#[tokio::test]
async fn a_write_of_a_secret_may_die_anywhere() {
    writes_die("secret_config_", 40).await;
}

async fn write_dies(tag: &str, operation: Operation, seed: u64) -> usize {
    let mut random = Rng::with_seed(seed);
    let api = Api::start().await;
    let key = format!("{tag}k");
    let (mut deaths, mut late): (Vec<Death<'_>>, Vec<Held>) = (Vec::new(), Vec::new());
    for point in 0..MANY {
        let tenant = api.tenant(&format!("case-{point}"));
        for value in operation.before() {
            match value {
                Some(value) => tenant.put(&key, &json!(value)).await,
                None => tenant.delete(&key).await,
            };
        }
        api.settled().await;
        // What the function causes comes when it is dead, in the opposite order, or never.
        api.suite.emulator().set_event_fate(if random.bool() { EventFate::Delayed } else { EventFate::Lost });
        let held = api.suite.emulator().faults().hold(ANY, point);
        let answered = tokio::select! {
            answer = api.suite.invoke("config-write", operation.event(&tenant, &key)) => Some(answer),
            () = held.reached() => None,
        };
        if let Some(answer) = answered {
            let status = answer.expect("an answer")["statusCode"].as_u64();
            assert!(matches!(status, Some(200 | 201)), "{tag} {operation:?}: undisturbed it succeeds");
            api.suite.emulator().faults().clear();
            api.suite.emulator().set_event_fate(EventFate::Delivered);
            break;
        }
        // A removal has the field to itself for 30 seconds; that it comes later than that is not
        // foreseen.
        let outcomes: &[Call] = if operation == Operation::Delete {
            &[Call::AtOnce, Call::Never]
        } else {
            &[Call::AtOnce, Call::Late, Call::Never]
        };
        let (call, held) = let_go(held, outcomes, &mut random);
        late.extend(held);
        api.suite.emulator().set_event_fate(EventFate::Delivered);
        let rival = random.bool();
        if rival {
            // Longer than anybody is waited for, or removes, and not long enough to count as dead.
            api.pass(GRACE * 2 / 3);
            let written = tenant.put(&key, &json!("rival")).await;
            assert!(matches!(written.status, 200 | 201), "{tag} {operation:?} point {point}: {}", written.text);
        }
        let name = format!(
            "{tag} {operation:?} dies at call {point}, which takes effect {call:?}, rival {rival}, seed {seed}"
        );
        deaths.push(Death { name, tenant, rival });
    }
    assert!(deaths.len() < MANY, "it ends some day");
    api.settled().await;
    api.pass(GRACE * 3);
    api.suite.run_schedules().await.expect("a sweep");
    drop(late);
    recover(&api).await;
    for death in &deaths {
        is_well(&api, death, tag, operation).await;
    }
    let count = deaths.len();
    api.stop().await;
    count
}

/// All that a key has been, the oldest first; nothing stands for a deletion.
fn values(history: &Answer) -> Vec<Option<String>> {
    let versions = history.body["versions"].as_array().into_iter().flatten();
    versions.rev().map(|one| one["value"].as_str().map(str::to_owned)).collect()
}

/// The members called `member`; none where there is no list.
fn numbers(list: &Value, member: &str) -> Vec<u64> {
    list.as_array().into_iter().flatten().map(|one| one[member].as_u64().expect("a number")).collect()
}

async fn is_well(api: &Api, Death { name, tenant, rival }: &Death<'_>, tag: &str, operation: Operation) {
    let (key, parameter) = (format!("{tag}k"), tenant.parameter_name(tag, "k"));
    let history = tenant.history(&key).await;
    let found = values(&history);
    assert_eq!(
        numbers(&history.body["versions"], "version"),
        (1..=found.len() as u64).rev().collect::<Vec<_>>(),
        "{name}"
    );

    // The dying write took place once, before or behind its rival, or not at all.
    let mut expected: Vec<Option<&str>> = operation.before().to_vec();
    // What was in Parameter Store alone is gone with a deletion.
    let is_kept_there = matches!(tag, "around_config_" | "secret_config_");
    if is_kept_there && expected.contains(&None) {
        expected[0] = None;
    }
    let without: Vec<_> = expected.iter().copied().chain(rival.then_some(Some("rival"))).collect();
    let first: Vec<_> =
        expected.iter().copied().chain([operation.after()]).chain(rival.then_some(Some("rival"))).collect();
    let second: Vec<_> = without.iter().copied().chain([operation.after()]).collect();
    let gone_with_it = |mut values: Vec<Option<&'static str>>| {
        if is_kept_there && operation == Operation::Delete {
            values[0] = None;
        }
        values
    };
    let is = |outcome: &[Option<&str>]| found.iter().map(Option::as_deref).eq(outcome.iter().copied());
    let took_place = is(&first) || is(&second) || is(&gone_with_it(first.clone())) || is(&gone_with_it(second.clone()));
    assert!(took_place || is(&without), "{name}: {found:?}");
    if operation == Operation::Transaction {
        let beside = tenant.get(BESIDE).await;
        assert_eq!(beside.status == 200, took_place, "{name}: both or none");
    }

    // Every revision once, and every version in one of them.
    let feed = tenant.changes("since=0").await.expect(200);
    let revisions = feed.each("changes", "revision");
    assert_eq!(revisions, (1..=revisions.len()).collect::<Vec<_>>(), "{name}");
    let told = feed.each("changes", "keys");
    let told = told.iter().flat_map(|keys| keys.as_array().expect("keys")).filter(|one| one["key"] == key.as_str());
    assert_eq!(
        told.map(|one| one["version"].as_u64()).collect::<Vec<_>>(),
        (1..=found.len() as u64).map(Some).collect::<Vec<_>>(),
        "{name}"
    );

    let current = tenant.get(&key).await;
    let value = (current.status == 200).then(|| current.body["value"].as_str().map(str::to_owned)).flatten();
    assert!(
        value == found.last().cloned().flatten() && matches!(current.status, 200 | 404),
        "{name}: {}",
        current.text
    );
    let has_parameter = tag != "tenant_config_";
    if has_parameter {
        assert_eq!(api.parameter(&parameter).await.map(|(text, _)| text), value, "{name}");
    }
    let next = tenant.put(&key, &json!("next")).await;
    assert!(matches!(next.status, 200 | 201), "{name}: {}", next.text);
    api.settled().await;
    if has_parameter {
        assert_eq!(api.parameter(&parameter).await.map(|(text, _)| text).as_deref(), Some("next"), "{name}");
    }
}
