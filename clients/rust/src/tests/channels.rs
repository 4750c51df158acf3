use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, advance};
use tonic::transport::Endpoint;

use crate::channels::Channels;

/// Promise: what is noticed late of a channel that was replaced concerns its successor in no way:
/// it neither fails by it, nor lives by it.
#[tokio::test(start_paused = true)]
async fn a_replaced_channel_is_of_no_concern() {
    let second = Duration::from_secs(1);
    let endpoints = ["http://one", "http://two"].map(Endpoint::from_static).to_vec();
    let channels = Channels::new(endpoints, second, Arc::new(Endpoint::connect_lazy));
    let current = || channels.current().1;
    let old = current();
    advance(second).await;
    channels.silent(old, Instant::now());
    let other = current();
    channels.failed(other);
    let new = current();
    assert!(old != other && old != new && other != new);

    channels.failed(old);
    channels.silent(old, Instant::now());
    assert_eq!(current(), new);

    channels.heard(new, Instant::now());
    advance(second).await;
    let begun = Instant::now();
    advance(second).await;
    channels.heard(old, Instant::now());
    channels.silent(new, begun);
    channels.failed(current());
    assert_ne!(current(), new, "it was dead");
}
