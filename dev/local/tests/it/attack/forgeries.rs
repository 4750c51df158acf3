//! Forgeries: tokens, claims and events that nobody who may make them has made.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fastrand::Rng;
use serde_json::{Value, json};

use super::{
    probes::{Sent, a_tag, any_route, claims as claims_of, event, foreign_name, pick},
    world::Owner,
};
use crate::harness::come_with;

/// Tokens that nobody signed, or somebody else. To the API, and to the function past it.
pub(super) fn forged_token(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let parts: Vec<_> = victim.token.split('.').collect();
    let claims = BASE64_URL_SAFE_NO_PAD.decode(parts[1]).unwrap_or_default();
    let mut claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    let algorithms = ["none", "None", "nOnE", "HS256", "HS512", "RS256", "RS512", "PS256", "ES256", "EdDSA", ""];
    let mut header =
        json!({"alg": pick(rng, &algorithms), "typ": "JWT", "kid": pick(rng, &["local", "", "../../etc/passwd", "0"])});
    match rng.u8(..6) {
        0 => header["jku"] = json!("http://127.0.0.1:1/keys"),
        1 => header["jwk"] = json!({"kty": "oct", "k": "c2VjcmV0"}),
        2 => header["x5u"] = json!("http://127.0.0.1:1/cert"),
        3 => header["crit"] = json!(["exp"]),
        4 => claims["exp"] = json!("9999999999"),
        _ => claims["custom:tenantId"] = json!([victim.name]),
    }
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let token = match rng.u8(..5) {
        0 => format!("{}.{}.", encode(&header), encode(&claims)),
        1 => format!("{}.{}.{}", encode(&header), encode(&claims), parts[2]),
        2 => {
            claims["scope"] = json!("config/admin config/read config/write config/secrets");
            format!("{}.{}.{}", parts[0], encode(&claims), parts[2])
        }
        3 => format!("{}.{}.{}", encode(&header), parts[1], parts[2]),
        _ => format!("{}.{}.{}A", parts[0], parts[1], parts[2]),
    };
    let key = pick(rng, &victim.keys).clone();
    let (name, method, path, body) = any_route(rng, attacker, &key);
    // Two that arrive joined are none.
    let header =
        if rng.u8(..4) == 0 { format!("Bearer {}, Bearer {token}", attacker.token) } else { format!("Bearer {token}") };
    if rng.bool() {
        return Sent::Http { method, path, headers: vec![("authorization".to_owned(), header)], body };
    }
    let mut event = event(victim, method, &path, &body);
    event["requestContext"]["authorizer"] = Value::Null;
    event["headers"]["authorization"] = header.into();
    Sent::Function { name, event }
}

/// Claims as a mistaken authorizer might pass them, with the token that says so or with another:
/// none of them is the victim.
pub(super) fn odd_claims(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let (mine, theirs) = (&attacker.name, &victim.name);
    let claims = [
        json!([theirs]),
        json!([mine, theirs]),
        json!({"id": theirs}),
        json!(format!("[{theirs}]")),
        json!(format!("[{mine} {theirs}]")),
        json!(format!("{mine},{theirs}")),
        json!(format!("{theirs}\0")),
        json!(format!(" {theirs}")),
        json!(format!("{theirs}/")),
        json!(format!("{theirs}#")),
        json!(format!("{mine}/../{theirs}")),
        json!(format!("{mine}#{theirs}")),
        json!(format!("{theirs}\u{200b}")),
        json!(null),
        json!(""),
        json!(1.5),
        json!(true),
    ];
    let key = pick(rng, &victim.keys).clone();
    let (name, method, path, body) = any_route(rng, attacker, &key);
    let mut event = event(attacker, method, &path, &body);
    let own_token = event["headers"]["authorization"].clone();
    match rng.u8(..4) {
        // Neither of two that do not agree.
        0 => {
            come_with(&mut event, &claims_of(&json!(theirs)));
            event["headers"]["authorization"] = own_token;
        }
        1 => {
            let told = event["requestContext"]["authorizer"].clone();
            come_with(&mut event, &claims_of(&json!(theirs)));
            event["requestContext"]["authorizer"] = told;
        }
        2 => event["requestContext"]["authorizer"]["jwt"]["claims"]["custom:tenantId"] = pick(rng, &claims).clone(),
        _ => come_with(&mut event, &claims_of(pick(rng, &claims))),
    }
    let given = &mut event["requestContext"]["authorizer"]["jwt"]["claims"];
    given["CUSTOM:TENANTID"] = json!(theirs);
    given["tenantId"] = json!(theirs);
    event["requestContext"]["authorizer"]["lambda"] = json!({"custom:tenantId": theirs, "tenantId": theirs});
    event["requestContext"]["authorizer"]["iam"] = json!({"userId": theirs, "accountId": theirs});
    event["cookies"] = json!([format!("tenant={theirs}")]);
    Sent::Function { name, event }
}

/// An event of Parameter Store that somebody made up.
pub(super) fn parameter_event(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let tag = a_tag(rng);
    let own = format!("/tenantry/{}/{tag}/k", attacker.name);
    let names = [
        format!("/tenantry/{}/{tag}/../../{}/{tag}/k", attacker.name, victim.name),
        format!("/tenantry/{}/../{}/{tag}/k", attacker.name, victim.name),
        format!("/tenantry//{}/{tag}/k", victim.name),
        format!("/tenantry/{}/{tag}/k:1", victim.name),
        format!("/tenantry/{}/{tag}", victim.name),
        format!("/tenantry/{}*/{tag}/k", attacker.name),
        own.clone(),
    ];
    let name = pick(rng, &names).clone();
    let resource = if rng.bool() { name.clone() } else { format!("/tenantry/{}/{tag}/k", victim.name) };
    Sent::Event(json!({
        "version": "0",
        "id": "forged",
        "detail-type": "Parameter Store Change",
        "source": "aws.ssm",
        "account": pick(rng, &["000000000000", "999999999999"]),
        "region": "us-east-1",
        "resources": [format!("arn:aws:ssm:us-east-1:000000000000:parameter{resource}")],
        "detail": {"name": name, "operation": pick(rng, &["Create", "Update", "Delete"]), "type": "String", "description": victim.name},
    }))
}

/// A change that nobody committed.
pub(super) fn change_event(rng: &mut Rng, attacker: &Owner, victim: &Owner) -> Sent {
    let keys: Vec<_> = (0..rng.usize(1..4)).map(|_| json!({"key": foreign_name(rng, victim), "version": 1})).collect();
    let tenants = [
        json!(attacker.name),
        json!(format!("{}/../{}", attacker.name, victim.name)),
        json!([attacker.name, victim.name]),
        json!(format!("{}#", victim.name)),
        json!(null),
    ];
    Sent::Event(json!({
        "version": "0",
        "id": "forged",
        "detail-type": "Config Changed",
        "source": "tenantry",
        "account": "000000000000",
        "region": "us-east-1",
        "resources": [],
        "detail": {"tenant": pick(rng, &tenants), "revision": rng.u32(..), "keys": keys},
    }))
}
