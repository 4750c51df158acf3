use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use config_proto::v1;
use tokio::time::Instant;
use tonic::Status;

use super::{
    Listener, commit, commit_after, heartbeat, in_parts,
    service::{BACKOFF, service, service_with},
    snapshot,
};
use crate::{Filter, Options, Position, Start, StaticToken};

fn token() -> StaticToken {
    StaticToken::new("t")
}

fn options() -> Options {
    Options::new("http://one", token()).backoff(BACKOFF)
}

/// Promise: a watch whose connection ends, well or not, goes on where it was: nothing is lost, and
/// what is told again is dropped.
#[tokio::test(start_paused = true)]
async fn goes_on_where_it_was() {
    let (client, mut service) = service(token());
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    let call = service.watch.next().await;
    assert_eq!((call.since(), call.authorization.as_str(), call.is_bounded), (None, "Bearer t", false));
    let feed = call.say([snapshot(5, &["tenant_config_a"]), commit(6)]);
    assert_eq!(events.take(2).await, ["=5:1", "+6:1"]);
    drop(feed);

    let call = service.watch.next().await;
    assert_eq!(call.request.position, Some(super::position(6)));
    let feed = call.say([commit(6), commit(7), heartbeat(7)]);
    assert_eq!(events.take(2).await, ["+7:1", "~7"]);
    feed.end(Status::unavailable("going away"));

    let call = service.watch.next().await;
    assert_eq!(call.since(), Some(7));
    let _feed = call.say([commit(8)]);
    assert_eq!(events.next().await, "+8:1");
    service.network.cut();

    let call = service.watch.next().await;
    assert_eq!(call.since(), Some(8));
    let _feed = call.say([commit(9)]);
    assert_eq!(events.next().await, "+9:1");
}

/// Promise: an instance that says GOAWAY loses no watch: its open one is told to the end, and the
/// next goes to another instance.
#[tokio::test(start_paused = true)]
async fn follows_goaway() {
    let (client, mut service) = service(token());
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    let old = service.watch.next().await.say([snapshot(5, &[])]);
    assert_eq!(events.next().await, "=5:0");
    service.network.go_away();
    service.network.up();
    old.say(commit(6));
    assert_eq!(events.next().await, "+6:1");
    old.end(Status::unavailable("going away"));
    let call = service.watch.next().await;
    assert_eq!(call.since(), Some(6));
    let _feed = call.say([commit(7)]);
    assert_eq!(events.next().await, "+7:1");
    assert_eq!(service.network.hosts().len(), 2);
}

/// Promise: a stored position is gone on from; if it is too old, the watch begins with a snapshot,
/// by itself.
#[tokio::test(start_paused = true)]
async fn out_of_range_begins_with_a_snapshot() {
    let (client, mut service) = service(token());
    let stored: Position = "5@t5".parse().unwrap();
    assert_eq!(stored.to_string().parse(), Ok(stored.clone()));
    let mut events = Listener::new(client.watch(Filter::all(), Start::After(stored)));
    let call = service.watch.next().await;
    assert_eq!(call.request.position, Some(super::position(5)));
    call.fail(Status::out_of_range("too old"));
    let call = service.watch.next().await;
    assert_eq!(call.since(), None);
    let feed = call.say([snapshot(90, &["tenant_config_a", "tenant_config_b"])]);
    assert_eq!(events.next().await, "=90:2");

    feed.end(Status::out_of_range("another history"));
    let call = service.watch.next().await;
    assert_eq!(call.since(), None);
    let _feed = call.say([snapshot(3, &[])]);
    assert_eq!(events.next().await, "=3:0", "a new history may be shorter");
}

/// Promise: a position inside of parts is not taken: a watch that ends there goes on from before
/// them, and tells them once, whole.
#[tokio::test(start_paused = true)]
async fn half_an_update_is_told_again() {
    let (client, mut service) = service(token());
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    let first = || in_parts(snapshot(5, &["tenant_config_a"]), None);
    drop(service.watch.next().await.say([first()]));
    let call = service.watch.next().await;
    assert_eq!(call.since(), None);
    let feed = call.say([first(), snapshot(5, &["tenant_config_b"])]);
    assert_eq!(events.next().await, "=5:2");

    // Even if the service names a position that it must not name yet.
    feed.say(in_parts(commit(6), Some(6)));
    drop(feed);
    let call = service.watch.next().await;
    assert_eq!(call.since(), Some(5));
    let _feed = call.say([in_parts(commit(6), Some(5)), commit(6)]);
    assert_eq!(events.next().await, "+6:2");
}

/// Promise: a gap is not told, of a filter's revisions neither: the watch connects again, and if it
/// is still there, begins with a snapshot.
#[tokio::test(start_paused = true)]
async fn gaps_are_refused() {
    let (client, mut service) = service(token());
    let filter = Filter::all().prefix("tenant_config_");
    let mut events = Listener::new(client.watch(filter, Start::Snapshot));
    let _first = service.watch.next().await.say([snapshot(5, &[]), commit(7)]);
    assert_eq!(events.next().await, "=5:0");
    let call = service.watch.next().await;
    assert_eq!(call.since(), Some(5));
    let _second = call.say([heartbeat(5), commit(7)]);
    assert_eq!(events.next().await, "~5");
    let call = service.watch.next().await;
    assert_eq!(call.since(), None);
    let _third = call.say([snapshot(7, &[]), commit(8)]);
    assert_eq!(events.take(2).await, ["=7:0", "+8:1"]);
}

/// Promise: a token that has expired is renewed, and the watch goes on where it was; tokens are
/// asked for only then.
#[tokio::test(start_paused = true)]
async fn renews_its_token() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (client, mut service) = service(move || {
        let nth = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok::<_, Infallible>(format!("t{nth}")) }
    });
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    let call = service.watch.next().await;
    assert_eq!(call.authorization, "Bearer t1");
    let feed = call.say([snapshot(5, &[])]);
    assert_eq!(events.next().await, "=5:0");
    feed.end(Status::unavailable("going away"));
    let call = service.watch.next().await;
    assert_eq!(call.authorization, "Bearer t1", "it is still good");
    let feed = call.say([commit(6)]);
    assert_eq!(events.next().await, "+6:1");
    feed.end(Status::unauthenticated("expired"));
    let call = service.watch.next().await;
    assert_eq!((call.authorization.as_str(), call.since()), ("Bearer t2", Some(6)));
    call.fail(Status::unauthenticated("not yet valid"));
    let call = service.watch.next().await;
    assert_eq!((call.authorization.as_str(), call.since()), ("Bearer t3", Some(6)));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

/// Promise: a token source that fails for some time costs time only.
#[tokio::test(start_paused = true)]
async fn waits_for_a_token() {
    let asked = AtomicUsize::new(0);
    let (client, mut service) = service(move || {
        let nth = asked.fetch_add(1, Ordering::Relaxed);
        async move { if nth < 3 { Err("the issuer is down") } else { Ok("t".to_owned()) } }
    });
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    let _feed = service.watch.next().await.say([snapshot(5, &[])]);
    assert_eq!(events.next().await, "=5:0");
}

/// Promise: a watch ends where trying again would end the same, and only there; it says why, once.
#[tokio::test(start_paused = true)]
async fn ends_where_nothing_helps() {
    for (status, ends) in [
        (Status::permission_denied("no"), true),
        (Status::invalid_argument("no"), true),
        (Status::unimplemented("no"), true),
        // Nobody renews this token.
        (Status::unauthenticated("no"), true),
        (Status::unavailable("no"), false),
        (Status::resource_exhausted("no"), false),
        (Status::internal("no"), false),
        (Status::unknown("no"), false),
        (Status::cancelled("no"), false),
        (Status::deadline_exceeded("no"), false),
        (Status::aborted("no"), false),
        (Status::not_found("no"), false),
        (Status::out_of_range("no"), false),
    ] {
        let (client, mut service) = service(token());
        let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
        service.watch.next().await.fail(status.clone());
        if ends {
            let code = status.code();
            assert_eq!(events.take(2).await, [format!("! {code:?}: no"), ".".to_owned()]);
        } else {
            let _feed = service.watch.next().await.say([snapshot(5, &[])]);
            assert_eq!(events.next().await, "=5:0", "after {status}");
        }
    }
}

/// Promise: a connection that says nothing for three heartbeats is given up, and another one is
/// made; one that says something is not.
#[tokio::test(start_paused = true)]
async fn silence_is_death() {
    let interval = Duration::from_secs(15);
    let (client, mut service) = service_with(options().heartbeat_interval(interval).reconnect_spread(Duration::ZERO));
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    let feed = service.watch.next().await.say([snapshot(5, &[])]);
    assert_eq!(events.next().await, "=5:0");
    for _ in 0..5 {
        tokio::time::advance(2 * interval).await;
        feed.say(heartbeat(5));
        assert_eq!(events.next().await, "~5");
    }
    let heard = Instant::now();
    let call = service.watch.next().await;
    let silent = call.at - heard;
    assert!((3 * interval..3 * interval + Duration::from_secs(1)).contains(&silent), "given up after {silent:?}");
    assert_eq!(call.since(), Some(5));
    assert_eq!(service.network.hosts().len(), 2, "the old connection is not used again");

    // A call that nobody even takes is no better.
    let unanswered = call;
    let call = service.watch.next().await;
    let silent = call.at - unanswered.at;
    assert!((3 * interval..3 * interval + Duration::from_secs(1)).contains(&silent), "given up after {silent:?}");
    let _feed = call.say([commit(6)]);
    assert_eq!(events.next().await, "+6:1");
}

/// Promise: while the service is away, or has no place for it, a watch tries again: pauses grow up
/// to their bound, and begin anew once it has been told something new.
#[tokio::test(start_paused = true)]
async fn pauses_grow_and_begin_anew() {
    for status in [Status::unavailable("no"), Status::resource_exhausted("full")] {
        fastrand::seed(3);
        let (client, mut service) = service(token());
        let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
        let mut last = service.watch.next().await.fail(status.clone());
        let (mut bound, mut pauses) = (BACKOFF.initial, Vec::new());
        for _ in 0..20 {
            let call = service.watch.next().await;
            let pause = call.at - last;
            // The clock of a paused test goes by whole milliseconds.
            assert!(pause <= bound + Duration::from_millis(2), "{pause:?} of at most {bound:?}");
            pauses.push(pause);
            bound = (2 * bound).min(BACKOFF.max);
            last = call.fail(status.clone());
        }
        assert!(pauses.iter().any(|pause| *pause > BACKOFF.max / 2), "they grow: {pauses:?}");
        let feed = service.watch.next().await.say([snapshot(5, &[]), commit(6)]);
        assert_eq!(events.take(2).await, ["=5:0", "+6:1"]);
        let ended = Instant::now();
        feed.end(Status::unavailable("going away"));
        let call = service.watch.next().await;
        assert!(call.at - ended <= BACKOFF.initial + Duration::from_millis(2));
    }
}

/// Promise: who gets no further than the snapshot, which is dear to make, comes back more and more
/// slowly.
#[tokio::test(start_paused = true)]
async fn snapshots_alone_are_no_success() {
    fastrand::seed(3);
    let (client, mut service) = service(token());
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    let begun = Instant::now();
    for _ in 0..30 {
        service.watch.next().await.say([snapshot(5, &[])]).end(Status::out_of_range("no"));
        assert_eq!(events.next().await, "=5:0");
    }
    assert!(begun.elapsed() > 5 * BACKOFF.max, "{:?}", begun.elapsed());
}

/// Promise: with several endpoints, the next one is tried when one fails.
#[tokio::test(start_paused = true)]
async fn goes_to_the_next_endpoint() {
    let (client, mut service) = service_with(options().endpoint("http://two"));
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    service.watch.next().await.fail(Status::unavailable("no"));
    let _feed = service.watch.next().await.say([snapshot(5, &[])]);
    assert_eq!(events.next().await, "=5:0");
    let mut hosts = service.network.hosts();
    hosts.sort();
    assert_eq!(hosts, ["one", "two"]);
}

/// Promise: the filter is asked for as it was given, and revisions that it leaves out are no gaps.
#[tokio::test(start_paused = true)]
async fn asks_for_its_filter() {
    let (client, mut service) = service(token());
    let filter = Filter::all().key("tenant_config_a").prefix("param_config_");
    let mut events = Listener::new(client.watch(filter, Start::Snapshot));
    let call = service.watch.next().await;
    let v1::WatchConfigRequest { keys, prefixes, .. } = &call.request;
    assert_eq!(
        (keys.as_slice(), prefixes.as_slice()),
        (&["tenant_config_a".to_owned()][..], &["param_config_".to_owned()][..])
    );
    let _feed = call.say([snapshot(5, &[]), commit_after(5, 9), heartbeat(12)]);
    assert_eq!(events.take(3).await, ["=5:0", "+9:1", "~12"]);
}
