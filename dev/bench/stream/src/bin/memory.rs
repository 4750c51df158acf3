//! What tenants in memory take: config-stream's own memory in a process of its own, filled as it is
//! when tenants are read from the ledger.
//!
//! `stream-memory TENANTS WATCHED KEY_BYTES` says on standard output, as JSON, what was added to
//! the process's resident set.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use aws_credential_types::Credentials;
use config_stream::{
    memory::{Limits, Memory},
    metrics::Metrics,
    settings::StreamSettings,
    tenant::Tenant,
};
use serde_json::json;
use tenantry::{
    auth::SystemAuthority,
    aws::OwnCredentials,
    backend::Backend,
    model::{
        entry::{CommitId, Revision, Version},
        key::ConfigKey,
        routing::TagRoutes,
        tenant::TenantId,
        value::ConfigValue,
    },
    tail::{Position, Snapshot, TailService, Value, Valued},
};

/// How many keys a tenant has, and how long a value is, the quotation marks of JSON among it.
const KEYS: usize = 10;
const VALUE_BYTES: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> = env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let [tenants, active, key_bytes] = numbers[..] else {
        return Err("how many tenants, how many of them watched, and how long keys are".into());
    };
    let settings = StreamSettings::load(&setting, OwnCredentials::Fixed(Credentials::from_keys("id", "secret", None)))?;
    let shared = &settings.shared;
    let tail = TailService::new(Backend::new(&shared.backend, &shared.clock)?);
    let limits = Limits { bytes: u64::MAX / 4, watchers: active, tenant_watchers: active };
    let memory = Memory::new(tail, limits, Duration::ZERO, shared.clock.clone(), Arc::new(Metrics::default()));
    let memory = Arc::new(memory);

    // One that does not count, for what is made once.
    fill(&memory, &shared.backend.routes, 0..1, key_bytes)?;
    let before = resident_bytes()?;
    fill(&memory, &shared.backend.routes, 1..tenants + 1, key_bytes)?;
    let after = resident_bytes()?;
    let (weight, _) = memory.bytes();

    let authority = SystemAuthority::for_outbox();
    let mut watches = Vec::with_capacity(active);
    for number in 1..=active {
        watches.push(memory.watch(&Arc::new(authority.act_for(id(number)?)))?);
    }
    let with_watches = resident_bytes()?;
    let (in_memory, are_watched) = memory.tenants();
    if in_memory + are_watched != tenants + 1 || are_watched != active {
        return Err(format!("{in_memory} and {are_watched} tenants are in memory").into());
    }

    let each = |bytes: u64, of: usize| {
        Ok::<_, Box<dyn Error>>(f64::from(u32::try_from(bytes)?) / f64::from(u32::try_from(of)?))
    };
    let said = json!({
        "tenants": tenants,
        "watched": active,
        "keyBytes": key_bytes,
        "payloadBytes": each((KEYS * (key_bytes + VALUE_BYTES)) as u64, 1)?,
        "residentBytes": each(after.saturating_sub(before), tenants)?,
        "watchedBytes": each(with_watches.saturating_sub(after), active)?,
        "weightBytes": each(weight, tenants + 1)?,
    });
    writeln!(io::stdout(), "{said}")?;
    Ok(())
}

/// Puts tenants into memory, each read as a whole and packed, as a load from the ledger does.
fn fill(
    memory: &Memory,
    routes: &TagRoutes,
    numbers: std::ops::Range<usize>,
    key_bytes: usize,
) -> Result<(), Box<dyn Error>> {
    for number in numbers {
        let position = Position { revision: Revision::new(KEYS as u64), commit: Some(CommitId::random()) };
        let mut entries = BTreeMap::new();
        for key in 0..KEYS {
            let name = format!("tenant_config_{:f<width$}-{key:02}", "feature", width = key_bytes.saturating_sub(17));
            let value = format!("{number:0>width$}", width = VALUE_BYTES - 2);
            let value = Value::Present(ConfigValue::from_text(&value));
            let revision = Revision::new(key as u64 + 1);
            entries.insert(ConfigKey::parse(&name, routes)?, Valued { version: Version::new(1), revision, value });
        }
        let tenant = Tenant::default();
        // Nobody watches it who might want more.
        let _ = tenant.replace(&Snapshot { position, entries }, memory.now());
        memory.restore(id(number)?, tenant.loaded().ok_or("nothing is loaded")?);
    }
    Ok(())
}

fn id(number: usize) -> Result<TenantId, Box<dyn Error>> {
    Ok(format!("tenant-{number:06}").parse()?)
}

/// Settings that lead nowhere: nothing is asked for.
fn setting(name: &str) -> Option<String> {
    let value = match name {
        "TENANT_ROLE_ARN" => "none",
        "TOKEN_ISSUER" => "http://localhost/",
        "AWS_ENDPOINT_URL" => "http://localhost:1",
        "AWS_REGION" => "us-east-1",
        "TABLE_NAME" | "TOKEN_AUDIENCE" => "bench",
        _ => return None,
    };
    Some(value.to_owned())
}

fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("the system does not say")?;
    Ok(resident.trim().trim_end_matches(" kB").parse::<u64>()? * 1_024)
}
