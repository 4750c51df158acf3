//! Which connection the next call goes over, and when: dead connections, slow ones, and those that
//! many watches lose together.

use std::{
    convert::Infallible,
    future::pending,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use config_proto::v1::GetConfigResponse;
use tokio::{
    task::JoinHandle,
    time::{Instant, advance},
};
use tonic::Status;

use super::{
    Listener, commit, entry, heartbeat,
    service::{BACKOFF, Break, Feed, Script, service_with},
    snapshot,
};
use crate::{Client, Entry, Error, Filter, Options, Read, Start, StaticToken};

/// An attempt takes 3 s, and connecting 5 s; pings of the connection notice nothing before a test
/// has ended.
fn options() -> Options {
    Options::new("http://one", StaticToken::new("t"))
        .backoff(BACKOFF)
        .keepalive(Duration::from_hours(1), Duration::from_hours(1))
}

fn answer() -> GetConfigResponse {
    GetConfigResponse { entry: Some(entry("tenant_config_a", 5)), revision: 6, stale: false }
}

fn get(client: &Client) -> JoinHandle<Result<Read<Entry>, Error>> {
    let client = client.clone();
    tokio::spawn(async move { client.get("tenant_config_a").await })
}

/// A call that is answered at once, and the next millisecond.
async fn warm_up(client: &Client, service: &mut Script) {
    let read = get(client);
    service.get.next().await.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());
    advance(Duration::from_millis(1)).await;
}

/// An open watch that has been told a snapshot.
async fn open(client: &Client, service: &mut Script) -> (Listener, Feed) {
    let mut events = Listener::new(client.watch(Filter::all(), Start::Snapshot));
    let feed = service.watch.next().await.say([snapshot(5, &[])]);
    assert_eq!(events.next().await, "=5:0");
    (events, feed)
}

/// Promise: a host that vanishes without a word, behind the only address there is, costs a call one
/// attempt: the next one takes another connection. What is open on the old one is not cut off, in
/// case that it was only slow.
#[tokio::test(start_paused = true)]
async fn a_call_leaves_a_dead_connection() {
    let (client, mut service) = service_with(options());
    warm_up(&client, &mut service).await;
    service.network.vanish();
    let read = get(&client);
    service.get.next().await.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());
    assert_eq!(service.network.hosts().len(), 2);

    let (mut events, feed) = open(&client, &mut service).await;
    advance(Duration::from_millis(1)).await;
    let read = get(&client);
    let _slow = service.get.next().await;
    service.get.next().await.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());
    assert_eq!(service.network.hosts().len(), 3);
    feed.say(commit(6));
    assert_eq!(events.next().await, "+6:1");
}

/// Promise: a connection that never brought anything is left as well, once it must have been made.
#[tokio::test(start_paused = true)]
async fn a_call_leaves_a_connection_that_never_lived() {
    let (client, mut service) = service_with(options());
    let read = get(&client);
    let _taken = (service.get.next().await, service.get.next().await);
    assert_eq!(service.network.hosts().len(), 1, "it may still be connecting");
    service.get.next().await.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());
    assert_eq!(service.network.hosts().len(), 2);
}

/// Promise: a service that is slow for one call keeps its connection as long as others are told
/// something over it, and whenever it is only its caller's deadline that is short.
#[tokio::test(start_paused = true)]
async fn a_slow_service_keeps_its_connection() {
    let (client, mut service) = service_with(options());
    let (mut events, feed) = open(&client, &mut service).await;
    advance(Duration::from_millis(1)).await;
    let read = get(&client);
    let _slow = service.get.next().await;
    advance(Duration::from_millis(1)).await;
    feed.say(heartbeat(5));
    assert_eq!(events.next().await, "~5");
    service.get.next().await.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());
    assert_eq!(service.network.hosts().len(), 1, "the connection lives");

    let (client, mut service) = service_with(options().deadline(Duration::from_secs(1)));
    warm_up(&client, &mut service).await;
    for _ in 0..5 {
        let read = get(&client);
        let _slow = service.get.next().await;
        assert!(matches!(read.await.unwrap(), Err(Error::DeadlineExceeded { last: None })));
    }
    warm_up(&client, &mut service).await;
    assert_eq!(service.network.hosts().len(), 1, "the deadline was short");
}

/// Promise: a connection that takes longer to be made than an attempt has is made in the end, and
/// not begun anew by each attempt.
#[tokio::test(start_paused = true)]
async fn slow_connecting_is_waited_for() {
    let (client, mut service) = service_with(options());
    service.network.take_to_connect(Duration::from_secs(4));
    let (read, other) = (get(&client), get(&client));
    for _ in 0..2 {
        service.get.next().await.answer(Ok(answer()));
    }
    assert!(read.await.unwrap().is_ok() && other.await.unwrap().is_ok());
    assert_eq!(service.network.hosts().len(), 1);
}

/// Promise: watches on one dead connection notice it one after the other, and all take the one that
/// the first of them has made.
#[tokio::test(start_paused = true)]
async fn watches_leave_a_dead_connection_together() {
    let (client, mut service) = service_with(options().reconnect_spread(Duration::ZERO));
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(open(&client, &mut service).await);
        advance(Duration::from_secs(2)).await;
    }
    service.network.vanish();
    let mut again = Vec::new();
    for _ in 0..10 {
        // They have no answer before the last has noticed, so that the new connection has brought
        // nothing yet.
        again.push(service.watch.next().await);
    }
    let _feeds: Vec<_> = again.into_iter().map(|call| call.say([commit(6)])).collect();
    for (events, _) in &mut watches {
        assert_eq!(events.next().await, "+6:1");
    }
    assert_eq!(service.network.hosts().len(), 2);
}

/// Promise: a watch of which nothing is heard connects again over the connection that it had if
/// others are told something over it.
#[tokio::test(start_paused = true)]
async fn a_silent_watch_leaves_others_their_connection() {
    let (client, mut service) = service_with(options());
    let (mut events, _silent) = open(&client, &mut service).await;
    let (mut others, told) = open(&client, &mut service).await;
    for _ in 0..4 {
        advance(Duration::from_secs(10)).await;
        told.say(heartbeat(5));
        assert_eq!(others.next().await, "~5");
    }
    let _feed = service.watch.next().await.say([commit(6)]);
    assert_eq!(events.next().await, "+6:1");
    assert_eq!(service.network.hosts().len(), 1);
}

/// Promise: a token source that hangs for longer than a connection may be silent delays a watch,
/// and no more: it is asked again, and the connection and the endpoint, which are good, stay.
#[tokio::test(start_paused = true)]
async fn a_hanging_token_source_costs_no_connection() {
    for has_second in [false, true] {
        let asked = AtomicUsize::new(0);
        let tokens = move || {
            let nth = asked.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                if nth == 2 {
                    pending::<()>().await;
                }
                Ok::<_, Infallible>(format!("t{nth}"))
            }
        };
        let options = Options::new("http://one", tokens).backoff(BACKOFF).token_timeout(Duration::from_mins(1));
        let options = if has_second { options.endpoint("http://two") } else { options };
        let (client, mut service) = service_with(options);
        let (mut events, feed) = open(&client, &mut service).await;
        let refused = Instant::now();
        feed.end(Status::unauthenticated("expired"));
        let call = service.watch.next().await;
        assert_eq!(call.authorization, "Bearer t3");
        let hung = call.at - refused;
        assert!((Duration::from_mins(1)..Duration::from_secs(61)).contains(&hung), "asked again after {hung:?}");
        let _feed = call.say([commit(6)]);
        assert_eq!(events.next().await, "+6:1");
        assert_eq!(service.network.hosts().len(), 1);
    }
}

/// How watches come to lose their stream.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Their connection is cut.
    Cut,
    /// A load balancer resets their streams.
    Reset,
    /// Their streams end, and no status says why.
    Ended,
    /// Their connection falls silent.
    Silent,
    /// The service itself says that it goes away.
    Told,
}

/// How long each of 50 watches pauses after this, in milliseconds.
async fn pauses_after(loss: Loss, options: Options) -> Vec<u128> {
    const WATCHES: usize = 50;
    fastrand::seed(3);
    let (client, mut service) = service_with(options);
    if let Loss::Reset = loss {
        service.network.break_next(Break::Unfinished);
    }
    let (mut watches, mut feeds) = (Vec::new(), Vec::new());
    for _ in 0..WATCHES {
        watches.push(Listener::new(client.watch(Filter::all(), Start::Snapshot)));
    }
    let mut begun = Instant::now();
    if !matches!(loss, Loss::Reset) {
        for events in &mut watches {
            feeds.push(service.watch.next().await.say([snapshot(5, &[])]));
            assert_eq!(events.next().await, "=5:0");
        }
        begun = Instant::now();
    }
    match loss {
        Loss::Reset => {}
        Loss::Cut => service.network.cut(),
        Loss::Ended => feeds.clear(),
        Loss::Silent => {
            service.network.vanish();
            begun += Duration::from_secs(45);
        }
        Loss::Told => feeds.drain(..).for_each(|feed| feed.end(Status::unavailable("going away"))),
    }
    let mut pauses = Vec::new();
    for _ in 0..WATCHES {
        let call = service.watch.next().await;
        pauses.push((call.at - begun).as_millis());
        feeds.push(call.say([heartbeat(5)]));
    }
    pauses
}

/// Promise: watches that lost their connection at the same instant come back spread over 2 s, not
/// at once; those that the service itself has sent away, one by one, come back at once, as do all
/// where the spread is set so.
#[tokio::test(start_paused = true)]
async fn lost_watches_come_back_spread() {
    for loss in [Loss::Cut, Loss::Reset, Loss::Ended, Loss::Silent] {
        let pauses = pauses_after(loss, options()).await;
        let within = |from, to| pauses.iter().filter(|pause| (from..to).contains(*pause)).count();
        let quarters = [within(0, 500), within(500, 1_000), within(1_000, 1_500), within(1_500, 2_010)];
        assert_eq!(quarters.iter().sum::<usize>(), pauses.len(), "after {loss:?}: {pauses:?}");
        assert!(quarters.iter().all(|count| *count > 5), "after {loss:?}, in each quarter: {quarters:?}");
    }
    let at_once = options().reconnect_spread(Duration::ZERO);
    for (loss, options) in [(Loss::Told, options()), (Loss::Told, at_once.clone()), (Loss::Cut, at_once)] {
        let pauses = pauses_after(loss, options).await;
        assert!(pauses.iter().all(|pause| *pause <= BACKOFF.initial.as_millis() + 10), "after {loss:?}: {pauses:?}");
    }
}
