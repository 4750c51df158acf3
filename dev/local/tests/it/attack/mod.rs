//! The attack suite: every way that we know of to name another tenant's data, tried by tenants with
//! awkward names on one another. The other's canary must stand in no byte of any answer, log line,
//! metric or event, and nothing may change in the other's place.
//!
//! `TENANTRY_PROBES` says how many attempts are made, 1,000 where it says nothing.

mod forgeries;
mod probes;
mod world;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use emulator::{Role, Service};
use fastrand::Rng;
use serde_json::{Value, json};
use tenantry::ledger::GRACE;

use probes::{COUNT, Probe};
pub(crate) use world::TENANTS;
use world::{BYSTANDERS, Leak, Owner, World};

fn attempts() -> usize {
    let asked = std::env::var("TENANTRY_PROBES").ok();
    asked.map_or(1_000, |count| count.parse().expect("TENANTRY_PROBES is a number"))
}

/// What came of many attempts.
#[derive(Debug, Default)]
struct Tally {
    /// Attempts by their way.
    ways: BTreeMap<&'static str, usize>,
    /// Answers by their status.
    statuses: BTreeMap<u16, usize>,
    leaks: Vec<Leak>,
}

impl Tally {
    fn add(&mut self, more: Self) {
        more.ways.into_iter().for_each(|(way, count)| *self.ways.entry(way).or_default() += count);
        more.statuses.into_iter().for_each(|(status, count)| *self.statuses.entry(status).or_default() += count);
        self.leaks.extend(more.leaks);
    }

    #[track_caller]
    fn none_got_through(&self) {
        let first = self.leaks.first().map(ToString::to_string).unwrap_or_default();
        assert_eq!(self.leaks.len(), 0, "the first: {first}");
    }
}

/// Attempts of each on each, in turns and at random from a seed; `before` hears of attacker and
/// victim.
async fn attack(world: &World, rng: &mut Rng, attempts: usize, before: impl Fn(&Owner, &Owner)) -> Tally {
    let mut tally = Tally::default();
    for turn in 0..attempts {
        let attacker = &world.owners[rng.usize(..world.owners.len() - BYSTANDERS)];
        let victim = loop {
            let victim = &world.owners[rng.usize(..world.owners.len())];
            if victim.name != attacker.name {
                break victim;
            }
        };
        // Calls that were refused halfway leave intents behind, for which later writers would wait.
        if turn % 20 == 0 {
            world.api.pass(GRACE * 2);
        }
        before(attacker, victim);
        let probe: Probe = probes::probe(rng, turn, attacker, victim);
        *tally.ways.entry(probe.way).or_default() += 1;
        match world.attempt(&probe, attacker).await {
            Ok(status) => *tally.statuses.entry(status).or_default() += 1,
            Err(leak) => tally.leaks.push(leak),
        }
    }
    tally
}

/// Promise: no tenant gets at another's data, by any of the ways that are tried here.
#[tokio::test]
async fn no_way_leads_to_another_tenant() {
    let mut rng = Rng::with_seed(5);
    let world = World::start(&mut rng, &[]).await;
    let tally = attack(&world, &mut rng, attempts(), |_, _| ()).await;
    tally.none_got_through();
    assert_eq!(tally.ways.len(), COUNT);
    for status in tally.statuses.keys() {
        assert!((200..500).contains(status), "{:?}", tally.statuses);
    }
    world.api.sweep(1).await;
    let places = world.inspect().await.unwrap_or_else(|leak| panic!("{leak}"));
    eprintln!("{} probes, none got through: {:?}", attempts(), tally.ways);
    eprintln!("answers by status: {:?}; items and parameters looked at: {places}", tally.statuses);
    world.api.stop().await;
}

/// The operations that the functions call for a tenant.
const OPERATIONS: [&str; 9] = [
    "GetItem",
    "BatchGetItem",
    "Query",
    "TransactWriteItems",
    "UpdateItem",
    "GetParameters",
    "GetParameterHistory",
    "PutParameter",
    "DeleteParameter",
];

/// Has the calls of one operation, or of all, that the functions make for the attacker name the
/// victim instead: what a mistake of ours would do that derives keys from what the request says.
/// This is put between the functions and the stores, so that no function has to carry such a
/// mistake.
fn confuse(world: &World, seed: u64) -> impl Fn(&Owner, &Owner) + use<> {
    struct Confusion {
        attacker: String,
        victim: String,
        operation: Option<&'static str>,
        rng: Rng,
    }
    let (attacker, victim) = (String::new(), String::new());
    let confusion = Arc::new(Mutex::new(Confusion { attacker, victim, operation: None, rng: Rng::with_seed(seed) }));
    let current = Arc::clone(&confusion);
    world.api.suite.emulator().rewrite(Arc::new(move |service, operation: &str, body: &str| {
        if !matches!(service, Service::DynamoDb | Service::ParameterStore) {
            return None;
        }
        let confusion = current.lock().expect("no panic while confusing");
        if confusion.operation.is_some_and(|only| only != operation) {
            return None;
        }
        let partition = |name: &str| format!("\"TENANT#{name}\"");
        let path = |name: &str| format!("/tenantry/{name}/");
        let Confusion { attacker, victim, .. } = &*confusion;
        Some(body.replace(&partition(attacker), &partition(victim)).replace(&path(attacker), &path(victim)))
    }));
    move |attacker, victim| {
        let mut confusion = confusion.lock().expect("no panic while confusing");
        (confusion.attacker, confusion.victim) = (attacker.name.clone(), victim.name.clone());
        // What a request calls first is often the same: only one operation at a time gets to the
        // later ones. The last of them, which only deletes come to, more often.
        let one = confusion.rng.usize(..OPERATIONS.len() + 5);
        confusion.operation = if one == 0 { None } else { Some(OPERATIONS[(one - 1).min(OPERATIONS.len() - 1)]) };
    }
}

/// Nobody is confused any more.
fn clear(world: &World) {
    world.api.suite.emulator().rewrite(Arc::new(|_, _: &str, _: &str| None));
}

/// Attacks with the application's own check gone, and demands that the storage holds: that it
/// refused each operation, and gave and took nothing. Chance comes to some operations seldom: until
/// each was reached, it goes on, up to ten times as long.
async fn attack_the_storage(world: &World, rng: &mut Rng, attempts: usize) {
    let refused = || world.api.suite.emulator().permissions_refused();
    let before = refused();
    let count = |operation: &str| -> u64 {
        // Transactions need what their items need.
        let actions = if operation == "TransactWriteItems" { ["PutItem", "UpdateItem"] } else { [operation; 2] };
        let of = |counts: &BTreeMap<String, u64>| -> u64 {
            let name = |action: &str| [format!("dynamodb:{action}"), format!("ssm:{action}")];
            actions.iter().flat_map(|action| name(action)).filter_map(|name| counts.get(&name)).sum()
        };
        of(&refused()) - of(&before)
    };
    let confusion = confuse(world, rng.u64(..));
    let mut tally = attack(world, rng, attempts, &confusion).await;
    let mut made = attempts;
    while made < attempts * 10 && OPERATIONS.iter().any(|operation| count(operation) == 0) {
        tally.add(attack(world, rng, COUNT, &confusion).await);
        made += COUNT;
    }
    clear(world);
    tally.none_got_through();
    let counts: BTreeMap<_, _> = OPERATIONS.iter().map(|operation| (*operation, count(operation))).collect();
    assert!(counts.values().all(|count| *count > 0), "each operation reached for another's data: {counts:?}");
    for status in tally.statuses.keys() {
        assert!((200..500).contains(status) || *status == 503, "{:?}", tally.statuses);
    }
    let places = world.inspect().await.unwrap_or_else(|leak| panic!("{leak}"));
    eprintln!(
        "{made} probes without the application's check, none got through; calls refused by the storage: {counts:?}"
    );
    eprintln!("answers by status: {:?}; items and parameters looked at: {places}", tally.statuses);
}

/// Promise: with the application's own check gone, so that requests reach for the data of the
/// tenant that they name, the storage refuses every one of them, whatever the operation.
#[tokio::test]
async fn the_storage_alone_is_a_wall() {
    let mut rng = Rng::with_seed(6);
    let world = World::start(&mut rng, &[]).await;
    attack_the_storage(&world, &mut rng, attempts() / 2).await;
    world.api.stop().await;
}

/// Promise: the policy that each session brings is a wall by itself, whatever its role allows. That
/// the roles are, too, with no such policy, `policies` shows.
#[tokio::test]
async fn the_sessions_policy_alone_is_a_wall() {
    let mut rng = Rng::with_seed(8);
    let world = World::start(&mut rng, &[]).await;
    for function in ["Read", "Write", "Refresh"] {
        let document = |statement: Value| json!({"Version": "2012-10-17", "Statement": statement});
        let name = format!("tenantry-Config{function}TenantRole");
        let trust = document(json!({"Effect": "Allow", "Action": "sts:*", "Principal": {"AWS": "*"}}));
        let policies = vec![document(json!({"Effect": "Allow", "Action": "*", "Resource": "*"}))];
        world.api.suite.emulator().add_role(Role { name, trust, policies }).expect("a role");
    }
    attack_the_storage(&world, &mut rng, attempts() / 2).await;
    world.api.stop().await;
}

/// Promise: the tests above see it where there is no wall: without tenants' credentials the same
/// mistake shows another's data.
#[tokio::test]
async fn without_the_wall_the_mistake_shows() {
    let mut rng = Rng::with_seed(7);
    let world = World::start(&mut rng, &[("TenantCredentials", "false")]).await;
    let tally = attack(&world, &mut rng, 10 * COUNT, confuse(&world, 7)).await;
    clear(&world);
    assert!(!tally.leaks.is_empty(), "foreign reads");
    assert!(world.inspect().await.is_err(), "foreign writes");
    eprintln!("{} of {} probes got through without the wall", tally.leaks.len(), 10 * COUNT);
    world.api.stop().await;
}
