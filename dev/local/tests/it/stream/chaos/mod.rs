//! Many watchers of many tenants while everything goes wrong: stores that throttle, fail, hang and
//! lose replies, an index that lags and shows things out of order, hints that are lost, doubled and
//! late, instances that are stopped and that die, clients that leave at random.
//!
//! `TENANTRY_WATCHERS` says how many watchers there are, 20 where it says nothing; a tenth as many
//! tenants, and ten times as many changes.

mod account;
mod deeds;
mod watchers;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use config_stream::{Stream, settings::StreamSettings};
use emulator::{EventFate, EventOdds, Fault, Schedule, Scheduled, Service};
use fastrand::Rng;
use futures_util::future::{join, join_all};
use local::issuer::DEFAULT_SCOPE;
use serde_json::{Value, json};
use tenantry::ledger::Ledger;
use tokio::{runtime::Runtime, sync::watch};

use self::{
    account::{Account, Part, Truth},
    deeds::Deeds,
    watchers::{Kind, Scene, Watcher, kind, part, tally},
};
use super::{Instance, line, put};
use crate::harness::{Api, CIRCUIT, Tenant, seeds};

/// Writers at a time.
const WRITERS: usize = 8;

fn watchers() -> usize {
    let asked = std::env::var("TENANTRY_WATCHERS").ok();
    asked.map_or(20, |count| count.parse().expect("TENANTRY_WATCHERS is a number"))
}

/// An instance with a runtime of its own, so that it can die.
struct Mortal {
    runtime: Runtime,
    stream: Stream,
}

impl Mortal {
    async fn start(settings: StreamSettings) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        let starting = runtime.spawn(async move {
            loop {
                // The port of one that has just died may be taken for a moment.
                match Stream::start(&settings).await {
                    Err(config_stream::StartError::Listen { .. }) => tokio::task::yield_now().await,
                    started => break started.expect("the service starts"),
                }
            }
        });
        let stream = starting.await.expect("no panic");
        Self { runtime, stream }
    }

    /// Ends as after SIGTERM.
    async fn stop(self) {
        self.runtime.spawn(self.stream.stop()).await.expect("no panic");
        self.runtime.shutdown_background();
    }

    /// Ends as after SIGKILL.
    fn die(self) {
        self.runtime.shutdown_background();
    }
}

/// The suite and its instances, and what is done to them.
struct World<'a> {
    api: &'a Api,
    deeds: &'a Deeds,
    addresses: Vec<SocketAddr>,
    instances: Vec<Option<Mortal>>,
    seed: u64,
    dealt: BTreeMap<Fault, usize>,
}

fn settings(api: &Api, address: &str) -> StreamSettings {
    let changes =
        [("GRPC_ADDRESS", address), ("POLL_INTERVAL_MS", "200"), ("HEARTBEAT_SECONDS", "1"), ("DRAIN_SECONDS", "5")];
    api.suite.stream_settings(&changes).expect("usable settings")
}

impl<'a> World<'a> {
    async fn start(api: &'a Api, deeds: &'a Deeds, seed: u64) -> Self {
        let (mut addresses, mut instances) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let instance = Mortal::start(settings(api, "127.0.0.1:0")).await;
            addresses.push(instance.stream.address());
            instances.push(Some(instance));
        }
        Self { api, deeds, addresses, instances, seed, dealt: BTreeMap::new() }
    }

    /// What goes wrong all the time, at random.
    fn disturb(&mut self) -> Scheduled {
        self.seed += 1;
        let odds =
            EventOdds { seed: self.seed, lost: 0.3, doubled: 0.2, delayed: 0.3, longest: Duration::from_millis(50) };
        self.api.suite.emulator().set_event_fate(EventFate::Random(odds));
        self.hide_from_the_index();
        let faults = vec![
            (Fault::Throttle, 0.02),
            (Fault::InternalError, 0.01),
            (Fault::ReplyLost, 0.02),
            (Fault::Reset, 0.01),
            (Fault::TransactionConflict, 0.01),
            (Fault::Delay(Duration::from_millis(20)), 0.04),
            (Fault::StalePage, 0.2),
            (Fault::EmptyPage, 0.05),
        ];
        self.schedule(faults, None)
    }

    fn schedule(&self, faults: Vec<(Fault, f64)>, operation: Option<&str>) -> Scheduled {
        let operations = operation.map(|operation| vec![operation.to_owned()]);
        self.api.suite.emulator().faults().schedule(Schedule { seed: self.seed, faults, operations, max: usize::MAX })
    }

    /// Has a look at the index miss what one of the tenants did, now and then, so that later
    /// changes come before it.
    fn hide_from_the_index(&self) {
        let (random, tenants) = (Mutex::new(Rng::with_seed(self.seed)), self.deeds.tenants.clone());
        self.api.suite.emulator().rewrite(Arc::new(move |service, operation: &str, body: &str| {
            if service != Service::DynamoDb || operation != "Query" || !body.contains("changes-by-time") {
                return None;
            }
            let mut random = random.lock().expect("no panic while hiding");
            random.bool().then(|| without(body, &tenants[random.usize(..tenants.len())]))
        }));
    }

    /// Has nothing go wrong any more.
    fn calm(&self) {
        self.api.suite.emulator().faults().clear();
        self.api.suite.emulator().rewrite(Arc::new(|_, _: &str, _: &str| None));
        self.api.suite.emulator().set_event_fate(EventFate::Delivered);
    }

    /// Has all calls of an operation fail until some have, then lets circuits close again.
    async fn outage(&self, operation: &str, fault: Fault, calls: usize) {
        let failing = self.schedule(vec![(fault, 1.0)], Some(operation));
        let enough = async {
            while failing.dealt().values().sum::<usize>() < calls {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), enough).await.expect("calls fail");
        failing.end();
        let _nobody_at_work = self.deeds.at_work.write().await;
        self.api.pass(CIRCUIT);
    }

    /// Puts another instance into the place of one that has ended.
    async fn restart(&mut self, which: usize) {
        let address = self.addresses[which].to_string();
        self.instances[which] = Some(Mortal::start(settings(self.api, &address)).await);
    }

    /// What goes wrong at some time, one after the other, spread over the changes.
    async fn disasters(&mut self, changes: usize, which: Range<usize>) {
        let mut disturbing = self.disturb();
        let count = which.len() + 1;
        for (nth, step) in which.enumerate() {
            let mut acknowledged = self.deeds.acknowledged.subscribe();
            let so_many = changes * (nth + 1) / count;
            acknowledged.wait_for(|count| *count >= so_many).await.expect("the writers are at it");
            for (fault, count) in disturbing.dealt() {
                *self.dealt.entry(fault).or_default() += count;
            }
            match step {
                0 => self.outage("Query", Fault::InternalError, 8).await,
                1 => {
                    if let Some(instance) = self.instances[0].take() {
                        instance.stop().await;
                    }
                    self.restart(0).await;
                }
                2 => self.outage("GetItem", Fault::InternalError, 8).await,
                3 => {
                    if let Some(instance) = self.instances[1].take() {
                        instance.die();
                    }
                    self.restart(1).await;
                    self.outage("AssumeRole", Fault::InternalError, 2).await;
                }
                4 => self.outage("BatchGetItem", Fault::InternalError, 8).await,
                5 => self.outage("Query", Fault::NoReply, 4).await,
                6 => self.outage("GetParameters", Fault::Throttle, 8).await,
                _ => self.outage("BatchGetItem", Fault::Delay(Duration::from_millis(300)), 8).await,
            }
            disturbing = self.disturb();
        }
    }
}

/// A query that passes over a tenant's items.
fn without(body: &str, tenant: &str) -> String {
    let mut query: Value = serde_json::from_str(body).expect("a query");
    query["FilterExpression"] = json!("pk <> :hidden");
    query["ExpressionAttributeValues"][":hidden"] = json!({"S": format!("TENANT#{tenant}")});
    query.to_string()
}

/// Those who watch, `watchers` of them.
fn crowd(api: &Api, deeds: &Deeds, watchers: usize, seed: u64) -> Vec<Watcher> {
    let tenants = deeds.tenants.len();
    let watcher = |number: usize| {
        let (tenant, nth) = (number % tenants, number / tenants);
        let (kind, part): (Kind, Part) = (kind(nth), part(nth));
        let name = &deeds.tenants[tenant];
        let scope = if part.may_read_secrets { DEFAULT_SCOPE } else { "config/read" };
        let token = api.suite.token(name, scope).expect("the issuer signs");
        let who = format!("watcher {number}, {kind:?} of {name}, seed {seed}");
        let account = Account::new(who, name.clone(), part);
        Watcher { kind, tenant, token, rng: Rng::with_seed(seed << 32 | number as u64), account }
    };
    (0..watchers).map(watcher).collect()
}

/// Promise: whatever goes wrong, each watcher ends with exactly the tenant's state, having been
/// told of each revision in order, once, with what the change log says of it, unless it was named
/// as skipped; of its own tenant, of what it asked for, and of no secret that it may not read.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_miss_nothing() {
    for seed in seeds() {
        let (watchers, api) = (watchers(), Api::start().await);
        let changes = watchers * 10;
        // In the test command each seed has its half of them.
        let disasters = match seed % 2 {
            _ if watchers >= 100 => 0..8,
            0 => 0..4,
            _ => 4..8,
        };
        let deeds = Arc::new(Deeds::new((watchers / 10).max(2)));
        let tenants: Vec<Tenant<'_>> = deeds.tenants.iter().map(|name| api.tenant(name)).collect();
        let mut world = World::start(&api, &deeds, seed * 100).await;
        let (tell_heads, heads) = watch::channel(None);
        let scene = Arc::new(Scene { addresses: world.addresses.clone(), deeds: Arc::clone(&deeds), heads });
        let crowd = crowd(&api, &deeds, watchers, seed).into_iter().map(|watcher| {
            let kind = watcher.kind;
            let watching = tokio::spawn(watcher.watch(Arc::clone(&scene)));
            async move { (kind, watching.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))) }
        });
        let mut crowd = tokio::spawn(join_all(crowd));

        let writers = (0..WRITERS).map(|writer| {
            let rng = Rng::with_seed(seed << 32 | 1 << 31 | writer as u64);
            deeds.change(&api, &tenants, changes, rng)
        });
        let slow =
            (0..watchers).filter(|number| number % tenants.len() == 0 && kind(number / tenants.len()) == Kind::Slow);
        let everything = async {
            join(join_all(writers), world.disasters(changes, disasters)).await;
            world.calm();
            api.pass(CIRCUIT);
            deeds.rush(&tenants[0], slow.count()).await;
        };
        tokio::select! {
            () = everything => {}
            ended = &mut crowd => panic!("the watchers ended: {:?}", ended.err()),
        }
        // What was done behind our back, and written back, as far as its events were lost.
        api.sweep(3).await;

        let truths = tenants.iter().enumerate().map(|(number, tenant)| deeds.truth(tenant, number));
        let truths: Vec<Truth> = join_all(truths).await;
        tell_heads.send_replace(Some(truths.iter().map(Truth::head).collect()));
        let accounts: Vec<(Kind, Account)> =
            crowd.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let truth: BTreeMap<_, _> = deeds.tenants.iter().zip(&truths).collect();
        for (_, account) in &accounts {
            account.check(truth[&account.tenant]);
        }
        let commits: u64 = truths.iter().map(Truth::head).sum();
        let tally = tally(&accounts);
        eprintln!(
            "seed {seed}: {commits} commits of {} tenants; (watchers, connections, skipped, snapshots) {tally:?}; {:?}",
            truths.len(),
            world.dealt
        );
        assert!(commits >= changes as u64, "{commits} commits");
        for instance in world.instances.into_iter().flatten() {
            instance.stop().await;
        }
        api.stop().await;
    }
}

/// Promise: what the index shows late, after later changes of others, is heard of all the same,
/// without hints and without time passing.
#[tokio::test]
async fn what_the_index_shows_late_is_heard() {
    let api = Api::frozen().await;
    let shard = |name: &str| Ledger::shard_of(&name.parse().expect("a tenant"));
    let other = (0..1_000).map(|number| format!("other-{number}")).find(|name| shard(name) == shard("acme"));
    let (acme, other) = (api.tenant("acme"), api.tenant(&other.expect("there are few shards")));
    let instance = Instance::start(&api, &[("CHANGE_QUEUE_URL", "")]).await;
    let (mut late, _) = instance.tenant(&acme).watch().await;
    let (mut early, _) = instance.tenant(&other).watch().await;
    api.suite
        .emulator()
        .rewrite(Arc::new(|_, _: &str, body: &str| body.contains("changes-by-time").then(|| without(body, "acme"))));
    put(&acme, "a", 1).await;
    api.pass(Duration::from_millis(100));
    put(&other, "a", 1).await;
    assert_eq!(early.update().await.revision, 1);
    api.suite.emulator().rewrite(Arc::new(|_, _: &str, _: &str| None));
    let told = tokio::time::timeout(Duration::from_mins(1), late.update()).await;
    assert_eq!(line(&told.expect("it is told")), "0→1 tenant_config_a@1=1");
    instance.stream.stop().await;
    api.stop().await;
}
