//! Tenants with awkward names, each value of theirs a canary that nobody else has, and eyes on
//! everything that leaves the suite.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use emulator::Rule;
use fastrand::Rng;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::probes::{Probe, Sent};
use crate::harness::Api;

/// Prefixes of one another, other cases, other punctuation, and names that look like our own
/// delimiters, paths and items.
pub(crate) const TENANTS: [&str; 24] = [
    "a",
    "A",
    "a.",
    "a-",
    "a_",
    "a.b",
    "a-b",
    "a_b",
    "ab",
    "aB",
    "a.b.c",
    "acme",
    "Acme",
    "ACME",
    "acme.",
    "acme..",
    "acme-1",
    "acme_1",
    "acme.param_config_",
    "0",
    "TENANT",
    "HEAD",
    "tenantry",
    "x23456789.123456789-123456789_123456789.123456789-123456789_12",
];

/// How many of them, the last ones, attack nobody: what is theirs must be the same at the end, byte
/// for byte.
pub(super) const BYSTANDERS: usize = 4;

/// A tag of each store and strategy.
pub(super) const TAGS: [&str; 5] =
    ["tenant_config_", "param_config_", "back_config_", "around_config_", "secret_config_"];

/// What every canary begins with. Four hexadecimal digits follow that say whose it is, and eight
/// more.
const CANARY: &str = "cnry";

/// A tenant, and what others might know of it.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    at: u64,
    pub(super) name: String,
    pub(super) token: String,
    pub(super) keys: Vec<String>,
    pub(super) etags: Vec<String>,
    pub(super) cursors: Vec<String>,
    /// What its idempotency keys begin with.
    pub(super) idempotency: String,
}

impl Owner {
    /// A text that is this tenant's alone: its first digits say whose.
    pub(super) fn canary(&self, rng: &mut Rng) -> String {
        format!("{CANARY}{:04x}{:08x}", self.at, rng.u32(..))
    }
}

/// All that left the suite but by answers.
#[derive(Clone, Default)]
pub(super) struct Seen {
    lines: Arc<Mutex<Vec<String>>>,
    events: Arc<Mutex<Vec<Value>>>,
}

/// The suite with its tenants.
pub(super) struct World {
    pub(super) api: Api,
    pub(super) owners: Vec<Owner>,
    seen: Seen,
    untouched: BTreeMap<String, String>,
    /// Which attacker has tried which idempotency key: the second time, it meets its own request.
    tried: Mutex<HashSet<(String, String)>>,
}

/// Something of a tenant's that was found where it does not belong.
#[derive(Debug, thiserror::Error)]
#[error("{of}'s: {place}")]
pub(super) struct Leak {
    /// Where.
    place: String,
    /// Whose it is.
    of: String,
}

impl World {
    pub(super) async fn start(rng: &mut Rng, parameters: &[(&str, &str)]) -> Self {
        let seen = Seen::default();
        let lines = Arc::clone(&seen.lines);
        let note = move |line: &str| lines.lock().expect("no panic while noting").push(line.to_owned());
        let api = Api::with(local::Options {
            telemetry: tenantry::telemetry::Telemetry::to(note, None),
            parameters: parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..local::Options::default()
        })
        .await;
        for bus in ["default", "tenantry-config"] {
            let events = Arc::clone(&seen.events);
            let target: emulator::Target = Arc::new(move |event, _| {
                events.lock().expect("no panic while noting").push(event);
                Box::pin(async { Ok(()) })
            });
            let pattern = json!({"account": [local::suite::ACCOUNT]});
            let rule = Rule { name: "watch".to_owned(), bus: bus.to_owned(), pattern, target };
            api.suite.emulator().add_rule(rule).expect("a rule");
        }
        let mut owners = Vec::new();
        for (name, at) in TENANTS.into_iter().zip(0..) {
            let token = api.tenant(name).token;
            let mut owner = Owner {
                at,
                name: name.to_owned(),
                token,
                keys: Vec::new(),
                etags: Vec::new(),
                cursors: Vec::new(),
                idempotency: format!("{at}-"),
            };
            fill(&api, &mut owner, rng).await;
            owners.push(owner);
        }
        // Until the outbox is empty.
        api.sweep(2).await;
        seen.events.lock().expect("no panic while noting").clear();
        let mut world = Self { api, owners, seen, untouched: BTreeMap::new(), tried: Mutex::default() };
        world.untouched = world.places_of_bystanders().await;
        world
    }

    /// All that lies in the places of those who attack nobody.
    async fn places_of_bystanders(&self) -> BTreeMap<String, String> {
        let bystanders = &self.owners[self.owners.len() - BYSTANDERS..];
        let is_theirs = |name: Option<&str>| bystanders.iter().any(|one| Some(one.name.as_str()) == name);
        let mut places = BTreeMap::new();
        for (partition, item) in self.api.items().await {
            if is_theirs(partition.strip_prefix("TENANT#")) {
                places.insert(format!("{partition} {:?}", item["sk"]), in_order(&AttributeValue::M(item)));
            }
        }
        for (name, text) in self.api.parameters().await {
            if is_theirs(name.split('/').nth(2)) {
                places.insert(name, text);
            }
        }
        places
    }

    /// Tries it, and what of anybody else's came back, or was told to anybody.
    pub(super) async fn attempt(&self, probe: &Probe, attacker: &Owner) -> Result<u16, Leak> {
        let (status, answer) = self.send(&probe.sent, attacker).await;
        // What the attacker said itself may be said back.
        let said = format!("{probe:?} {}", probe.sent.decoded());
        // However often it was encoded.
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let said = [&said, &decode(&said), &decode(&decode(&said))].map(|said| said.to_ascii_lowercase()).concat();
        let told = |canary: &str| said.contains(canary);
        self.look(|| format!("the answer to {probe:?}: {answer}"), &answer, Some(attacker), told)?;
        for other in self.owners.iter().filter(|other| other.name != attacker.name) {
            let shown = other.etags.iter().map(|etag| etag.trim_matches('"'));
            if let Some(etag) = shown.into_iter().find(|etag| answer.contains(etag) && !told(etag)) {
                return Err(Leak {
                    place: format!("{etag} in the answer to {probe:?}: {answer}"),
                    of: other.name.clone(),
                });
            }
        }
        self.look_at_lines(probe, told)?;
        let events: Vec<_> = self.seen.events.lock().expect("no panic while noting").drain(..).collect();
        for event in events {
            // A change is the affair of its tenant, and of that alone.
            let of = event["detail"]["tenant"].as_str().map(str::to_owned);
            let of = of.or_else(|| Some(event["detail"]["name"].as_str()?.split('/').nth(2)?.to_owned()));
            let of = self.owners.iter().find(|owner| Some(&owner.name) == of.as_ref());
            self.look(|| format!("an event after {probe:?}: {event}"), &event.to_string(), of, told)?;
        }
        Ok(status)
    }

    async fn send(&self, sent: &Sent, attacker: &Owner) -> (u16, String) {
        match sent {
            Sent::Http { method, path, headers, body } => {
                let Ok(_) = path.parse::<http::Uri>() else { return (400, "no URI".to_owned()) };
                let mut call = self.api.call(method.parse().expect("a method"), path);
                if !headers.iter().any(|(name, _)| name == "authorization") {
                    call = call.header("authorization", &format!("Bearer {}", attacker.token));
                }
                for (name, value) in headers {
                    call = call.header(name, value);
                }
                let answer = call.raw(body.clone()).await;
                let cursor = answer.body["cursor"].as_str().and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
                let cursor = cursor.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
                // What says of another's request or entry that it was made or is known, shows no
                // canary.
                let sent = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
                let is_first = sent("idempotency-key").is_some_and(|key| {
                    let tried = (attacker.name.clone(), key.clone());
                    self.tried.lock().expect("no panic while noting").insert(tried)
                });
                let replays = is_first && (answer.status == 422 || !answer.header("idempotency-replayed").is_empty());
                let knows = sent("if-none-match").is_some() && answer.status == 304;
                let told = if replays || knows { format!("{CANARY}ffff00000000") } else { String::new() };
                (answer.status, format!("{:?} {} {cursor} {told}", answer.headers, answer.text))
            }
            Sent::Function { name, event } => {
                let answer = self.api.suite.invoke(name, event.clone()).await;
                let status = answer.as_ref().ok().and_then(|answer| answer["statusCode"].as_u64()).unwrap_or(400);
                (u16::try_from(status).unwrap_or(500), format!("{answer:?}"))
            }
            Sent::Event(event) => {
                let answer = self.api.suite.invoke("config-refresh", event.clone()).await;
                (200, format!("{answer:?}"))
            }
        }
    }

    /// What is logged may name keys, each in a line that names its tenant; no canary of a value
    /// stands anywhere.
    fn look_at_lines(&self, probe: &Probe, told: impl Fn(&str) -> bool) -> Result<(), Leak> {
        let lines: Vec<_> = self.seen.lines.lock().expect("no panic while noting").drain(..).collect();
        for text in lines {
            let line: Value = serde_json::from_str(&text).expect("a line is JSON");
            let of = self.owners.iter().find(|owner| line["tenant.id"] == owner.name.as_str());
            self.look(|| format!("a line after {probe:?}: {text}"), &text, of, &told)?;
        }
        Ok(())
    }

    /// That no canary stands in a text but those of `of`, and those that were `told` there.
    fn look(
        &self,
        place: impl FnOnce() -> String,
        text: &str,
        of: Option<&Owner>,
        told: impl Fn(&str) -> bool,
    ) -> Result<(), Leak> {
        let text = text.to_ascii_lowercase();
        for (start, _) in text.match_indices(CANARY) {
            let canary = text.get(start..start + CANARY.len() + 12).unwrap_or_default();
            let Some(digits) = canary.get(CANARY.len()..).filter(|digits| u64::from_str_radix(digits, 16).is_ok())
            else {
                continue;
            };
            let at = u64::from_str_radix(&digits[..4], 16).unwrap_or(u64::MAX);
            if of.map(|of| of.at) != Some(at) && !told(canary) {
                let owner = self.owners.iter().find(|owner| owner.at == at);
                let of = owner.map_or("nobody", |owner| &owner.name).to_owned();
                return Err(Leak { place: place(), of });
            }
        }
        Ok(())
    }

    /// Everything in both stores, item by item and parameter by parameter: that nothing in a
    /// tenant's place is another's, and that each tenant's entries are as they were. How many
    /// places were looked at.
    pub(super) async fn inspect(&self) -> Result<usize, Leak> {
        let mut looked_at = 0;
        for (partition, item) in self.api.items().await {
            let of = partition.strip_prefix("TENANT#").and_then(|name| self.owners.iter().find(|one| one.name == name));
            // Tenants that are none of these were never there.
            let is_known = of.is_some() || partition.starts_with("SYSTEM#");
            if !is_known {
                return Err(Leak { place: format!("a partition {partition}"), of: "nobody".to_owned() });
            }
            self.look(|| format!("an item of {partition}"), &format!("{item:?}"), of, |_| false)?;
            looked_at += 1;
        }
        for (name, text) in self.api.parameters().await {
            let of = name.split('/').nth(2).and_then(|tenant| self.owners.iter().find(|one| one.name == tenant));
            self.look(|| format!("the parameter {name}"), &format!("{name} {text}"), of, |_| false)?;
            looked_at += 1;
        }
        let now = self.places_of_bystanders().await;
        if let Some((place, _)) = now.iter().find(|(place, text)| self.untouched.get(*place) != Some(*text)) {
            return Err(Leak {
                place: format!("{place} has changed, and nobody was to touch it"),
                of: "a bystander".to_owned(),
            });
        }
        if now.len() != self.untouched.len() {
            return Err(Leak {
                place: "something is gone that nobody was to touch".to_owned(),
                of: "a bystander".to_owned(),
            });
        }
        for owner in &self.owners {
            let tenant = self.api.tenant(&owner.name);
            for (key, etag) in owner.keys.iter().zip(&owner.etags) {
                let answer = tenant.get(key).await.expect(200);
                if answer.etag() != etag {
                    let place = format!("{key} of {} is not what it was: {}", owner.name, answer.text);
                    return Err(Leak { place, of: owner.name.clone() });
                }
            }
        }
        Ok(looked_at)
    }
}

/// A value as text, maps in order.
fn in_order(value: &AttributeValue) -> String {
    match value {
        AttributeValue::M(members) => {
            let members: BTreeMap<_, _> = members.iter().map(|(name, member)| (name, in_order(member))).collect();
            format!("{members:?}")
        }
        AttributeValue::L(items) => format!("{:?}", items.iter().map(in_order).collect::<Vec<_>>()),
        other => format!("{other:?}"),
    }
}

/// Gives a tenant entries under every tag, by names that all share, and one whose name is a canary
/// itself.
async fn fill(api: &Api, owner: &mut Owner, rng: &mut Rng) {
    let tenant = api.tenant(&owner.name);
    let mut keys: Vec<_> = TAGS.iter().map(|tag| format!("{tag}k")).collect();
    keys.push(format!("param_config_{}", owner.canary(rng)));
    for key in keys {
        let put = tenant
            .put(&key, &json!({"canary": owner.canary(rng)}))
            .header("idempotency-key", &format!("{}{key}", owner.idempotency));
        let mut written = put.await.expect(201);
        if key == "tenant_config_k" {
            written = tenant.put(&key, &json!(owner.canary(rng))).await.expect(200);
        }
        owner.etags.push(written.etag().to_owned());
        owner.keys.push(key);
    }
    for page in
        [tenant.list("limit=1"), tenant.list("prefix=param_config_&limit=1"), tenant.history("tenant_config_k?limit=1")]
    {
        owner.cursors.push(page.await.expect(200).body["cursor"].as_str().expect("more").to_owned());
    }
}
