//! What happens to the tenants meanwhile: puts, deletes and transactions through the HTTP API,
//! edits behind its back, under every tag.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_sdk_ssm::types::ParameterType;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::{RwLock, watch};

use super::account::{Done, Seen, Shown, Truth};
use crate::harness::{Api, Tenant};

const TAGS: [&str; 5] = ["tenant_config_", "param_config_", "back_config_", "around_config_", "secret_config_"];
/// Keys of each tag; few, so that writers meet.
const KEYS: usize = 3;
/// How many large values a tenant gets in a rush, under how many keys, and how large: all of them
/// do not fit into one message.
const RUSH: usize = 26;
const LARGE_KEYS: usize = 13;
const LARGE: usize = 100_000;

/// The writers' common affairs.
#[derive(Debug)]
pub(super) struct Deeds {
    pub(super) tenants: Vec<String>,
    /// How many of them, the first, have most of the changes.
    busy: usize,
    serial: AtomicU64,
    /// How many changes were acknowledged, in all and of each tenant.
    pub(super) acknowledged: watch::Sender<usize>,
    pub(super) of_tenant: Vec<watch::Sender<usize>>,
    written: Vec<Mutex<BTreeMap<(String, u64), String>>>,
    /// Whether slow watchers sleep.
    pub(super) rushing: watch::Sender<bool>,
    /// How many of the first tenant's do, in the rush.
    pub(super) asleep: watch::Sender<usize>,
    /// Held by whoever is at a change; the clock jumps only while nobody is, as no function works
    /// for so long.
    pub(super) at_work: RwLock<()>,
}

/// Whether a value names this tenant and this key.
pub(super) fn names(text: &str, tenant: &str, key: &str) -> bool {
    let rest = text.strip_prefix(tenant).and_then(|rest| rest.strip_prefix(' '));
    rest.and_then(|rest| rest.strip_prefix(key)).is_some_and(|rest| rest.starts_with(" #"))
}

impl Deeds {
    pub(super) fn new(tenants: usize) -> Self {
        let each = |_| watch::Sender::new(0);
        Self {
            tenants: (0..tenants).map(|number| format!("tenant-{number}")).collect(),
            busy: (tenants / 50).max(1),
            serial: AtomicU64::new(0),
            acknowledged: watch::Sender::new(0),
            of_tenant: (0..tenants).map(each).collect(),
            written: (0..tenants).map(|_| Mutex::default()).collect(),
            rushing: watch::Sender::new(false),
            asleep: watch::Sender::new(0),
            at_work: RwLock::new(()),
        }
    }

    fn value(&self, tenant: &str, key: &str, length: usize) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{tenant} {key} #{serial} {}", "x".repeat(length))
    }

    /// Changes tenants until so many changes were acknowledged.
    pub(super) async fn change(&self, api: &Api, tenants: &[Tenant<'_>], changes: usize, mut rng: Rng) {
        let parameter_store = api.parameter_store();
        while *self.acknowledged.borrow() < changes {
            let _at_work = self.at_work.read().await;
            let number = if rng.u8(..10) < 6 { rng.usize(..self.busy) } else { rng.usize(..tenants.len()) };
            let tenant = &tenants[number];
            let tag = TAGS[rng.usize(..TAGS.len())];
            let name = format!("k{}", rng.usize(..KEYS));
            let key = format!("{tag}{name}");
            let deed = rng.u8(..20);
            if deed >= 18 && tag != "tenant_config_" {
                let kind = if tag == "secret_config_" { ParameterType::SecureString } else { ParameterType::String };
                let put = parameter_store.put_parameter().name(tenant.parameter_name(tag, &name)).r#type(kind);
                // It may suffer a fault; nobody acknowledges it.
                _ = put.value(self.value(&tenant.name, &key, 10)).overwrite(true).send().await;
                continue;
            }
            let (answer, put) = match deed {
                0..3 => (tenant.delete(&key).await, None),
                3..6 => (self.transaction(tenant, &mut rng).await, None),
                _ => {
                    let value = self.value(&tenant.name, &key, 500);
                    (tenant.put(&key, &json!(value)).await, Some((key, value)))
                }
            };
            let refused = matches!(answer.status, 404 | 409 | 412 | 429 | 503);
            assert!(refused || matches!(answer.status, 200 | 201), "{} {}", answer.status, answer.text);
            if refused {
                continue;
            }
            if let Some((key, value)) = put {
                let mut written = self.written[number].lock().unwrap_or_else(PoisonError::into_inner);
                assert!(
                    written.insert((key, answer.number("version")), value).is_none(),
                    "a version twice: {}",
                    answer.text
                );
            }
            self.acknowledged.send_modify(|count| *count += 1);
            self.of_tenant[number].send_modify(|count| *count += 1);
        }
    }

    /// Gives the first tenant more than the service keeps at hand, while its slow watchers, so
    /// many, sleep.
    pub(super) async fn rush(&self, tenant: &Tenant<'_>, sleepers: usize) {
        self.rushing.send_replace(true);
        let mut asleep = self.asleep.subscribe();
        asleep.wait_for(|asleep| *asleep >= sleepers).await.expect("it is kept here");
        for number in 0..RUSH {
            let key = format!("tenant_config_large/{}", number % LARGE_KEYS);
            let answer = tenant.put(&key, &json!(self.value(&tenant.name, &key, LARGE))).await;
            assert!(matches!(answer.status, 200 | 201), "{}", answer.text);
        }
        tenant.delete("tenant_config_large/0").await.expect(200);
        self.rushing.send_replace(false);
    }

    async fn transaction(&self, tenant: &Tenant<'_>, rng: &mut Rng) -> crate::harness::Answer {
        let mut operations = Vec::new();
        for tag in ["tenant_config_", "param_config_", "back_config_"] {
            let key = format!("{tag}k{}", rng.usize(..KEYS));
            // One that deletes what is not there is refused as a whole.
            operations.push(match rng.u8(..8) {
                0 => json!({"op": "delete", "key": key}),
                _ => json!({"op": "put", "key": key, "value": self.value(&tenant.name, &key, 200)}),
            });
        }
        tenant.transaction(&json!(operations)).await
    }

    /// What a tenant has come to, by the HTTP API.
    pub(super) async fn truth(&self, tenant: &Tenant<'_>, number: usize) -> Truth {
        let mut log: Vec<Vec<Done>> = Vec::new();
        loop {
            let page = tenant.changes(&format!("since={}&limit=100", log.len())).await.expect(200);
            let commits = page.body["changes"].as_array().expect("changes");
            if commits.is_empty() {
                assert_eq!(page.revision(), log.len() as u64);
                break;
            }
            for commit in commits {
                assert_eq!(commit["revision"], log.len() + 1, "the log has no gap");
                let keys = commit["keys"].as_array().expect("keys");
                let mut done: Vec<_> = keys.iter().map(one_done).collect();
                done.sort_unstable();
                log.push(done);
            }
        }
        let (mut entries, mut cursor) = (BTreeMap::new(), String::new());
        loop {
            let page = tenant.list(&format!("limit=100{cursor}")).await.expect(200);
            entries.extend(page.body["entries"].as_array().expect("entries").iter().map(entry));
            let Some(next) = page.body["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let written = self.written[number].lock().unwrap_or_else(PoisonError::into_inner).clone();
        Truth { log, entries, written }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn one_done(changed: &Value) -> Done {
    let operations = ["put", "delete", "supersede"];
    let operation = operations.into_iter().find(|operation| changed["operation"] == *operation);
    (changed["key"].as_str().expect("a key").to_owned(), number(&changed["version"]), operation.expect("an operation"))
}

fn entry(entry: &Value) -> (String, Seen) {
    let value = match entry["value"].as_str() {
        Some(text) => Shown::Present(text.to_owned()),
        None => Shown::Unavailable,
    };
    let seen = Seen { version: number(&entry["version"]), revision: number(&entry["revision"]), value };
    (entry["key"].as_str().expect("a key").to_owned(), seen)
}
