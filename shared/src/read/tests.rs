//! Reads while a store does not answer at all. The time is tokio's own, and moves when nothing else
//! does.

use std::{net::TcpListener, time::Duration};

use tokio::time::Instant;

use super::{Freshness, ReadError, ReadService};
use crate::{
    aws::FailureKind,
    backend::Backend,
    fixture,
    ledger::{Head, LedgerError},
    model::{entry::Version, key::ConfigKey},
};

/// Promise: a read of a store that never answers fails within a bounded time; after a few such
/// reads at once, without a call.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever() {
    // The system accepts connections, and nothing ever answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let settings = fixture::settings(&[("AWS_ENDPOINT_URL", &endpoint)]).unwrap();
    let scope = fixture::reader(&settings).await;
    let backend = Backend::new(&settings.backend, &settings.clock).unwrap();
    let key = ConfigKey::parse("tenant_config_k", &backend.routes).unwrap();
    let reader = ReadService::new(backend, settings.cache_max_bytes, settings.clock);
    let mut took = Vec::new();
    let mut last = None;
    for _ in 0..3 {
        let begun = Instant::now();
        last = Some(reader.get(&scope, &key, Freshness::default()).await.expect_err("nobody answers"));
        took.push(begun.elapsed());
    }
    let [first, _, third] = took[..] else { panic!("three reads") };
    assert!(first <= Duration::from_secs(10), "{took:?}");
    assert!(third < Duration::from_millis(1), "{took:?}");
    let Some(ReadError::Ledger(LedgerError::Aws(failure))) = last else { panic!("{last:?}") };
    assert!(matches!(failure.kind, FailureKind::CircuitOpen { .. }), "{failure:?}");
}

/// Promise: each way to a value checks the right to it by itself.
#[tokio::test]
async fn every_read_of_a_value_asks_for_the_right_to_it() {
    // Nothing answers there, so a read that was let through would fail otherwise.
    let settings = fixture::settings(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]).unwrap();
    let scope = fixture::reader(&settings).await;
    let backend = Backend::new(&settings.backend, &settings.clock).unwrap();
    let keys = ["param_config_k", "secret_config_k"].map(|key| ConfigKey::parse(key, &backend.routes).unwrap());
    let reader = ReadService::new(backend, settings.cache_max_bytes, settings.clock);
    let (secret, fresh) = (&keys[1], Freshness::default());
    for refused in [
        reader.get(&scope, secret, fresh).await.err(),
        reader.batch_get(&scope, &keys, fresh).await.err(),
        reader.version(&scope, secret, Version::new(1), None).await.err(),
        reader.history(&scope, &Head::empty(), secret, None, 1).await.err(),
    ] {
        assert!(matches!(&refused, Some(ReadError::Secret(key)) if key == secret), "{refused:?}");
    }
}
