//! What tenants in memory cost in calls of the AWS services while nobody asks for them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::time::sleep;

use crate::{
    grpc::{Connection, Failure, framed},
    report::Idle,
    servers::Suite,
};

/// How many tenants are asked for once.
const TENANTS: u32 = 200;
/// A service that lists a tenant's entries: so it is all in memory afterwards, though it has none.
const LIST: &str = "/tenantry.config.v1.ConfigService/ListConfig";

/// Counts calls for so long with no tenant in memory, and again with some.
pub(crate) async fn measure(suite: &mut Suite, binaries: &Path, window: Duration) -> Result<Idle, Failure> {
    // One of its own, so that nothing is in its memory.
    let server = suite.config_stream(binaries)?;
    let empty = count(suite, window).await?;
    for tenant in 0..TENANTS {
        let mut target = server.target.clone();
        target.token = Some(suite.bearer(&format!("idle-{tenant:03}"))?);
        let request = framed(&config_proto::v1::ListConfigRequest::default());
        Connection::open(&target).await?.call(LIST, &request).await?;
    }
    let known = count(suite, window).await?;
    Ok(Idle { tenants: TENANTS, seconds: window.as_secs(), empty, known })
}

async fn count(suite: &mut Suite, window: Duration) -> Result<BTreeMap<String, u64>, Failure> {
    let before = suite.calls()?;
    sleep(window).await;
    let mut calls = suite.calls()?;
    for (operation, count) in &mut calls {
        *count -= before.get(operation).copied().unwrap_or_default();
    }
    calls.retain(|_, count| *count > 0);
    Ok(calls)
}
