//! Ways to name another tenant's data: every place in a request, an event or a token where somebody
//! might try.

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use fastrand::Rng;
use serde_json::{Value, json};

use super::{
    forgeries::{change_event, forged_token, odd_claims, parameter_event},
    world::{Owner, TAGS},
};
use crate::harness::come_with;

/// One attempt of a tenant to get at another's data.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// The way it is tried.
    pub(super) way: &'static str,
    pub(super) sent: Sent,
}

/// What is sent, and to whom.
#[derive(Debug, Clone)]
pub(super) enum Sent {
    /// To the API.
    Http { method: &'static str, path: String, headers: Vec<(String, String)>, body: String },
    /// To a function, past the API: what no client can send, a mistake in front of the function
    /// could.
    Function { name: &'static str, event: Value },
    /// To config-refresh, as an event of the account's buses.
    Event(Value),
}

impl Sent {
    /// The body, where it is sent in Base64.
    pub(super) fn decoded(&self) -> String {
        let Self::Function { event, .. } = self else { return String::new() };
        let body = event["body"].as_str().and_then(|body| BASE64_STANDARD.decode(body).ok()).unwrap_or_default();
        String::from_utf8_lossy(&body).into_owned()
    }
}

type Way = (&'static str, fn(&mut Rng, &Owner, &Owner) -> Sent);

/// Every way. Each is taken in turn.
const WAYS: &[Way] = &[
    ("plain reads", plain_read),
    ("plain puts", plain_put),
    ("plain deletes", plain_delete),
    ("path tricks", path_trick),
    ("path tricks past the gateway", raw_path),
    ("path parameter against path", path_parameter),
    ("spoofing headers", spoofing_header),
    ("spoofing query", spoofing_query),
    ("duplicate parameters", duplicate_parameter),
    ("another's cursor", foreign_cursor),
    ("made-up cursor", made_up_cursor),
    ("another's entity tag", foreign_etag),
    ("another's idempotency key", foreign_idempotency_key),
    ("batch smuggling", batch),
    ("transaction smuggling", transaction),
    ("rollback", rollback),
    ("list prefixes", list_prefix),
    ("bodies with a tenant", body_with_tenant),
    ("forged tokens", forged_token),
    ("claims of odd forms", odd_claims),
    ("parameter events", parameter_event),
    ("change events", change_event),
];

/// How many ways there are.
pub(super) const COUNT: usize = WAYS.len();

/// The next attempt of `attacker` on what is `victim`'s.
pub(super) fn probe(rng: &mut Rng, turn: usize, attacker: &Owner, victim: &Owner) -> Probe {
    let (way, make) = WAYS[turn % WAYS.len()];
    Probe { way, sent: make(rng, attacker, victim) }
}

pub(super) fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}

pub(super) fn a_tag(rng: &mut Rng) -> &'static str {
    TAGS[rng.usize(..TAGS.len())]
}

/// Texts that might be taken for a key of the victim's.
pub(super) fn foreign_name(rng: &mut Rng, victim: &Owner) -> String {
    let (name, tag) = (&victim.name, a_tag(rng));
    let key = pick(rng, &victim.keys).clone();
    let rest = &key[tag.len().min(key.len())..];
    let names = [
        format!("{tag}../{name}/{tag}/{rest}"),
        format!("{tag}../../{name}/{tag}/k"),
        format!("{tag}k/../../../{name}/{tag}/k"),
        format!("../{name}/{key}"),
        format!("/{name}/{key}"),
        format!("//{name}//{key}"),
        format!("{name}/{key}"),
        format!("{name}#{key}"),
        format!("{key}#{name}"),
        format!("{key}@{name}"),
        format!("{key}?tenant={name}"),
        format!("{key};tenant={name}"),
        format!("{key}\0{name}"),
        format!("{key}\r\nx-tenant: {name}"),
        format!("{key}:1"),
        format!("{key}:label"),
        format!("TENANT#{name}"),
        format!("TENANT#{name}#ENTRY#{key}"),
        format!("ENTRY#{key}"),
        format!("{tag}k#TENANT#{name}"),
        format!("{tag}*"),
        format!("{tag}${{aws:PrincipalTag/TenantId}}"),
        format!("/tenantry/{name}/{tag}/k"),
        format!("arn:aws:ssm:us-east-1:000000000000:parameter/tenantry/{name}/{tag}/k"),
        format!("{tag}{{{{ssm:/tenantry/{name}/{tag}/k}}}}"),
        // Look-alikes: full width, a Cyrillic letter, a combining mark, a zero width space, a
        // right-to-left override.
        key.replace('_', "\u{ff3f}"),
        key.replace('a', "\u{430}").replace('o', "\u{43e}"),
        format!("{key}\u{301}"),
        format!("{tag}\u{200b}{rest}"),
        format!("\u{202e}{key}"),
        format!("{tag}\u{2024}\u{2024}\u{2215}{name}\u{2215}{tag}\u{2215}k"),
        key.to_uppercase(),
        key.clone(),
    ];
    pick(rng, &names).clone()
}

/// Percent-encoded in one of the ways that decoders have disagreed about.
fn encoded(rng: &mut Rng, text: &str) -> String {
    let percent = |keep: fn(u8) -> bool, text: &str| -> String {
        text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/');
    match rng.u8(..8) {
        0 => percent(unreserved, text),
        1 => percent(|_| false, text),
        2 => percent(unreserved, &percent(unreserved, text)),
        3 => percent(unreserved, text).to_lowercase(),
        4 => percent(plain, &text.replace("..", "%2e%2e")).replace("%25", "%"),
        // Overlong and wide forms of the slash.
        5 => percent(plain, text).replace('/', "%c0%af"),
        6 => percent(plain, text).replace('/', "%ef%bc%8f"),
        _ => percent(plain, text),
    }
}

fn get(path: String) -> Sent {
    Sent::Http { method: "GET", path, headers: Vec::new(), body: String::new() }
}

/// A request for a name: a read, or a write into what only the attacker may have.
fn for_name(rng: &mut Rng, attacker: &Owner, name: &str) -> Sent {
    let value = json!({"value": attacker.canary(rng)}).to_string();
    let (method, path, body) = match rng.u8(..8) {
        0 => ("GET", format!("/v1/history/{name}"), String::new()),
        1 => ("GET", format!("/v1/config/{name}?version=1"), String::new()),
        2 => ("PUT", format!("/v1/config/{name}"), value),
        3 => ("DELETE", format!("/v1/config/{name}"), String::new()),
        4 => ("POST", format!("/v1/rollback/{name}"), json!({"version": 1}).to_string()),
        _ => ("GET", format!("/v1/config/{name}"), String::new()),
    };
    Sent::Http { method, path, headers: Vec::new(), body }
}

/// What any tenant asks of its own: harmless, unless a mistake of ours has it reach elsewhere. So
/// are the next two.
fn plain_read(rng: &mut Rng, attacker: &Owner, _: &Owner) -> Sent {
    let key = pick(rng, &attacker.keys).clone();
    let (method, path, body) = match rng.u8(..6) {
        0 => ("GET", format!("/v1/config/{key}"), String::new()),
        1 => ("GET", format!("/v1/config/{key}?version=1"), String::new()),
        2 => ("GET", format!("/v1/history/{key}"), String::new()),
        3 => ("GET", format!("/v1/config?limit={}", rng.u8(1..=100)), String::new()),
        4 => ("GET", "/v1/changes?since=0".to_owned(), String::new()),
        _ => ("POST", "/v1/batch-get".to_owned(), json!({"keys": attacker.keys}).to_string()),
    };
    Sent::Http { method, path, headers: Vec::new(), body }
}

fn plain_put(rng: &mut Rng, attacker: &Owner, _: &Owner) -> Sent {
    let (own, canary) = (format!("{}own", a_tag(rng)), attacker.canary(rng));
    let (method, path, body) = match rng.u8(..4) {
        0 => {
            let operations = json!([{"op": "put", "key": "tenant_config_own", "value": canary}]);
            ("POST", "/v1/transactions".to_owned(), json!({"operations": operations}))
        }
        _ => ("PUT", format!("/v1/config/{own}"), json!({"value": canary})),
    };
    Sent::Http { method, path, headers: Vec::new(), body: body.to_string() }
}

fn plain_delete(rng: &mut Rng, _: &Owner, _: &Owner) -> Sent {
    let path = format!("/v1/config/{}own", a_tag(rng));
    Sent::Http { method: "DELETE", path, headers: Vec::new(), body: String::new() }
}

fn path_trick(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let name = foreign_name(rng, victim);
    let path = encoded(rng, &name);
    // What may be a key of the attacker's own is only read, so that no tenant gets a key of
    // another's name.
    if victim.keys.contains(&name.to_lowercase()) {
        get(format!("/v1/config/{path}"))
    } else {
        for_name(rng, attacker, &path)
    }
}

/// An event as API Gateway makes it, for the attacker.
pub(super) fn event(attacker: &Owner, method: &str, path: &str, body: &str) -> Value {
    let mut event = json!({
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json"},
        "requestContext": {"stage": "$default", "http": {"method": method, "path": path}},
        "body": body,
        "isBase64Encoded": false,
    });
    come_with(&mut event, &claims(&json!(attacker.name)));
    event
}

/// Claims that permit everything to the tenant that is called so.
pub(super) fn claims(tenant: &Value) -> Value {
    json!({"custom:tenantId": tenant, "scope": "config/read config/write config/secrets", "sub": "mallory"})
}

/// Every route, for a key, with a body that fits; what it writes is the attacker's own.
pub(super) fn any_route(rng: &mut Rng, attacker: &Owner, key: &str) -> (&'static str, &'static str, String, String) {
    let canary = attacker.canary(rng);
    let none = String::new;
    match rng.u8(..11) {
        0 => ("config-read", "GET", format!("/v1/history/{key}"), none()),
        1 => ("config-read", "GET", "/v1/config".to_owned(), none()),
        2 => ("config-read", "GET", "/v1/changes".to_owned(), none()),
        3 => ("config-read", "POST", "/v1/batch-get".to_owned(), json!({"keys": [key]}).to_string()),
        4 => ("config-write", "PUT", format!("/v1/config/{key}"), json!({"value": canary}).to_string()),
        5 => ("config-write", "DELETE", format!("/v1/config/{key}"), none()),
        6 => ("config-write", "POST", format!("/v1/rollback/{key}"), json!({"version": 1}).to_string()),
        7 => {
            let operations = json!([{"op": "put", "key": key, "value": canary}]);
            ("config-write", "POST", "/v1/transactions".to_owned(), json!({"operations": operations}).to_string())
        }
        _ => ("config-read", "GET", format!("/v1/config/{key}"), none()),
    }
}

fn raw_path(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let name = foreign_name(rng, victim);
    if victim.keys.contains(&name.to_lowercase()) {
        return Sent::Function {
            name: "config-read",
            event: event(attacker, "GET", &format!("/v1/config/{name}"), ""),
        };
    }
    let name = if rng.bool() { name } else { encoded(rng, &name) };
    let (function, method, path, body) = any_route(rng, attacker, &name);
    if function == "config-write" {
        let mut event = event(attacker, method, &path, &body);
        if rng.bool() {
            event["body"] = BASE64_STANDARD.encode(&body).into();
            event["isBase64Encoded"] = json!(true);
        }
        return Sent::Function { name: function, event };
    }
    let mut event = event(attacker, method, &path, &body);
    match rng.u8(..4) {
        0 => event["requestContext"]["stage"] = json!(victim.name),
        1 => event["rawPath"] = json!(format!("/{}/v1/config/{name}", victim.name)),
        2 => {
            event["multiValueHeaders"] =
                json!({"x-tenant-id": [victim.name], "authorization": [format!("Bearer {}", victim.token)]});
        }
        _ => {}
    }
    Sent::Function { name: "config-read", event }
}

fn path_parameter(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let mut event = event(attacker, "GET", &format!("/v1/config/{}", pick(rng, &attacker.keys)), "");
    let parameter = if rng.bool() { foreign_name(rng, victim) } else { pick(rng, &victim.keys).clone() };
    event["pathParameters"] = json!({"key": parameter, "proxy": parameter, "tenant": victim.name});
    Sent::Function { name: "config-read", event }
}

const SPOOFED: &[&str] = &[
    "x-tenant-id",
    "x-tenant",
    "tenant",
    "tenant-id",
    "tenantid",
    "x-amz-tenant",
    "x-forwarded-tenant",
    "custom-tenantid",
    "x-claims",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-user",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-amz-security-token",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "forwarded",
    "cookie",
    "via",
    "host",
    "x-authorization",
    "proxy-authorization",
];

fn spoofing_header(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let key = pick(rng, &attacker.keys);
    let header = *pick(rng, SPOOFED);
    let values = [
        victim.name.clone(),
        format!("{}, {}", attacker.name, victim.name),
        json!({"custom:tenantId": victim.name}).to_string(),
        format!("tenant={}; custom:tenantId={}", victim.name, victim.name),
        format!("/v1/config/{}", pick(rng, &victim.keys)),
        format!("Bearer {}", victim.token),
    ];
    let mut headers = vec![(header.to_owned(), pick(rng, &values).clone())];
    if rng.bool() {
        headers.push(((*pick(rng, SPOOFED)).to_owned(), victim.name.clone()));
    }
    // A host is not to be spoofed by this client.
    headers.retain(|(name, _)| name != "host");
    if rng.bool() {
        // With what is remembered: the one way that asks no storage.
        headers.push(("cache-control".to_owned(), "max-age=600, stale-if-error=600".to_owned()));
        return Sent::Http {
            method: "GET",
            path: format!("/v1/config/{key}?minRevision=1"),
            headers,
            body: String::new(),
        };
    }
    let own = format!("{}own", a_tag(rng));
    let (_, method, path, body) = any_route(rng, attacker, &own);
    Sent::Http { method, path, headers, body }
}

const PARAMETERS: &[&str] = &[
    "tenant",
    "tenantId",
    "tenant_id",
    "custom:tenantId",
    "key",
    "path",
    "claims",
    "stage",
    "as",
    "sub",
    "pk",
    "partition",
];

fn spoofing_query(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let (parameter, name) = (*pick(rng, PARAMETERS), encoded(rng, &victim.name));
    let key = pick(rng, &attacker.keys);
    let paths = [
        format!("/v1/config/{key}?{parameter}={name}"),
        format!("/v1/config?prefix=&{parameter}={name}"),
        format!("/v1/changes?since=0&{parameter}={name}"),
        format!("/v1/history/{key}?{parameter}[]={name}"),
        format!("/v1/config?{parameter}={name}&limit=1"),
    ];
    get(pick(rng, &paths).clone())
}

fn duplicate_parameter(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let (cursor, key) = (pick(rng, &victim.cursors), pick(rng, &victim.keys));
    let paths = [
        format!("/v1/config?prefix=param_config_&prefix={key}"),
        format!("/v1/config?limit=1&cursor=&cursor={cursor}"),
        format!("/v1/config?limit=1&Cursor={cursor}&cursor={cursor}"),
        format!("/v1/history/{}?limit=1&limit=2&cursor={cursor}", pick(rng, &attacker.keys)),
        "/v1/changes?since=0&since=1".to_owned(),
    ];
    get(pick(rng, &paths).clone())
}

fn foreign_cursor(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let cursor = pick(rng, &victim.cursors);
    let prefix = a_tag(rng);
    let key = pick(rng, &attacker.keys);
    let paths = [
        format!("/v1/config?limit=1&cursor={cursor}"),
        format!("/v1/config?prefix={prefix}&limit=1&cursor={cursor}"),
        format!("/v1/history/{key}?limit=1&cursor={cursor}"),
        format!("/v1/history/{}?limit=1&cursor={cursor}", pick(rng, &victim.keys)),
    ];
    get(pick(rng, &paths).clone())
}

/// Cursors that somebody computed: around another's key, or out of one of another's.
fn made_up_cursor(rng: &mut Rng, _: &Owner, victim: &Owner) -> Sent {
    let key = pick(rng, &victim.keys);
    let cursor = match rng.u8(..4) {
        0 => BASE64_URL_SAFE_NO_PAD.encode(format!("{:016x}{key}", rng.u64(..))),
        1 => BASE64_URL_SAFE_NO_PAD.encode(format!("{:016x}TENANT#{}#ENTRY#{key}", rng.u64(..), victim.name)),
        2 => {
            let mut bytes = pick(rng, &victim.cursors).clone().into_bytes();
            let at = rng.usize(..bytes.len());
            bytes[at] = *pick(rng, b"ABCabc019-_");
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => {
            let position = json!({"pk": {"S": format!("TENANT#{}", victim.name)}, "sk": {"S": format!("ENTRY#{key}")}});
            BASE64_URL_SAFE_NO_PAD.encode(position.to_string())
        }
    };
    get(format!("/v1/config?limit=5&cursor={cursor}"))
}

fn foreign_etag(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let tag = pick(rng, &victim.etags).clone();
    if rng.bool() {
        let key = pick(rng, &attacker.keys);
        let headers = vec![("if-none-match".to_owned(), tag)];
        return Sent::Http { method: "GET", path: format!("/v1/config/{key}"), headers, body: String::new() };
    }
    // Never what the attacker's own entries have, so nothing is written.
    let headers = vec![("if-match".to_owned(), tag)];
    let body = json!({"value": attacker.canary(rng)}).to_string();
    let (method, body) = if rng.bool() { ("PUT", body) } else { ("DELETE", String::new()) };
    Sent::Http { method, path: format!("/v1/config/{}", pick(rng, &attacker.keys)), headers, body }
}

/// What the victim asked for, under its idempotency key. The attacker's own keys of that name were
/// written under other ones.
fn foreign_idempotency_key(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let key = format!("{}{}", victim.idempotency, pick(rng, &victim.keys));
    let headers = vec![("idempotency-key".to_owned(), key)];
    let own = format!("{}own", a_tag(rng));
    let canary = attacker.canary(rng);
    let (method, path, body) = match rng.u8(..3) {
        0 => ("DELETE", format!("/v1/config/{own}"), String::new()),
        1 => {
            let operations = json!([{"op": "put", "key": own, "value": canary}]);
            ("POST", "/v1/transactions".to_owned(), json!({"operations": operations}).to_string())
        }
        _ => ("PUT", format!("/v1/config/{own}"), json!({"value": canary}).to_string()),
    };
    Sent::Http { method, path, headers, body }
}

fn batch(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let mut keys: Vec<_> = (0..rng.usize(1..6)).map(|_| Value::from(foreign_name(rng, victim))).collect();
    if rng.bool() {
        keys = vec![pick(rng, &victim.keys).as_str().into(), pick(rng, &attacker.keys).as_str().into()];
    }
    let body = match rng.u8(..5) {
        0 => json!({"keys": keys, "tenant": victim.name}).to_string(),
        1 => json!({"keys": {"tenant": victim.name, "keys": keys}}).to_string(),
        2 => json!({"keys": [{"tenant": victim.name, "key": keys[0]}]}).to_string(),
        3 => format!(r#"{{"keys": [], "keys": {}}}"#, Value::from(keys)),
        _ => json!({"keys": keys}).to_string(),
    };
    Sent::Http { method: "POST", path: "/v1/batch-get".to_owned(), headers: Vec::new(), body }
}

fn transaction(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let canary = attacker.canary(rng);
    let own = format!("{}own", a_tag(rng));
    let foreign = foreign_name(rng, victim);
    let operations = match rng.u8(..4) {
        // Its own keys of the victim's names are never touched: each of these is refused as a
        // whole, or writes to `own`.
        0 => json!([{"op": "put", "key": own, "value": canary, "tenant": victim.name}]),
        1 => {
            json!([{"op": "put", "key": own, "value": canary}, {"op": "delete", "key": format!("TENANT#{}", victim.name)}])
        }
        2 => json!([{"op": "put", "key": format!("../{}/{foreign}", victim.name), "value": canary}]),
        _ => json!([{"op": "put", "key": own, "value": canary, "ifMatch": pick(rng, &victim.etags)}]),
    };
    let body = json!({"operations": operations}).to_string();
    Sent::Http { method: "POST", path: "/v1/transactions".to_owned(), headers: Vec::new(), body }
}

fn rollback(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let body = match rng.u8(..3) {
        0 => json!({"version": 1, "tenant": victim.name}),
        1 => json!({"version": format!("TENANT#{}", victim.name)}),
        _ => json!({"version": 99, "key": pick(rng, &victim.keys)}),
    };
    let path = format!("/v1/rollback/{}", pick(rng, &attacker.keys));
    Sent::Http { method: "POST", path, headers: Vec::new(), body: body.to_string() }
}

fn list_prefix(rng: &mut Rng, _: &Owner, victim: &Owner) -> Sent {
    let prefixes = [
        format!("TENANT#{}", victim.name),
        format!("../{}", victim.name),
        format!("/tenantry/{}", victim.name),
        victim.name.clone(),
        pick(rng, &victim.keys).clone(),
        a_tag(rng).to_owned(),
        String::new(),
        "*".to_owned(),
        "~".to_owned(),
    ];
    let prefix = pick(rng, &prefixes).clone();
    get(format!("/v1/config?prefix={}&limit={}", encoded(rng, &prefix), rng.u8(1..=100)))
}

fn body_with_tenant(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let own = format!("{}own", a_tag(rng));
    let canary = attacker.canary(rng);
    let member = *pick(rng, PARAMETERS);
    let body = match rng.u8(..4) {
        0 => json!({"value": canary, member: victim.name}).to_string(),
        1 => format!(r#"{{"value": "{canary}", "value": {{"tenant": "{}"}}}}"#, victim.name),
        2 => json!({"value": {"$ref": format!("/tenantry/{}/param_config_/k", victim.name), "c": canary}}).to_string(),
        _ => json!({"value": format!("{canary} {{{{ssm:/tenantry/{}/param_config_/k}}}}", victim.name)}).to_string(),
    };
    Sent::Http { method: "PUT", path: format!("/v1/config/{own}"), headers: Vec::new(), body }
}
