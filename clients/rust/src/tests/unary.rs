use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use config_proto::v1::{BatchGetConfigResponse, GetConfigResponse, ListConfigResponse};
use h2::Reason;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, transport::ServerTlsConfig};

use super::{
    entry,
    service::{BACKOFF, Break, service, service_with},
};
use crate::{Certificate, Client, ClientTlsConfig, Error, Identity, Options, StaticToken, Value};

fn token() -> StaticToken {
    StaticToken::new("t")
}

fn answer() -> GetConfigResponse {
    GetConfigResponse { entry: Some(entry("tenant_config_a", 5)), revision: 6, stale: true }
}

/// Promise: a read brings the value, its revision, and whether it may be old; it carries the token
/// and its caller's deadline.
#[tokio::test(start_paused = true)]
async fn gets() {
    let (client, mut service) = service(token());
    let read = tokio::spawn(async move { client.at_least(4).get("tenant_config_a").await });
    let call = service.get.next().await;
    assert_eq!((call.request.key.as_str(), call.request.min_revision), ("tenant_config_a", 4));
    assert_eq!((call.authorization.as_str(), call.is_bounded), ("Bearer t", true));
    call.answer(Ok(answer()));
    let read = read.await.unwrap().unwrap();
    assert_eq!((read.revision, read.stale, read.value.value), (6, true, Value::Present("5".into())));
}

/// Promise: only "not now" is tried again: every other status is the caller's, at once and as it
/// came.
#[tokio::test(start_paused = true)]
async fn retries_not_now_only() {
    for code in (1..=16).map(Code::from) {
        let (client, mut service) = service(token());
        let read = tokio::spawn(async move { client.get("tenant_config_a").await });
        service.get.next().await.fail(Status::new(code, "no"));
        if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
            service.get.next().await.answer(Ok(answer()));
            assert!(read.await.unwrap().is_ok());
        } else {
            let error = read.await.unwrap().unwrap_err();
            assert_eq!(error.status().map(|status| (status.code(), status.message())), Some((code, "no")));
            assert!(service.get.is_empty(), "{code:?} is not tried again");
        }
    }
}

/// Promise: a call whose connection breaks is made again, whatever code the break is given here.
#[tokio::test(start_paused = true)]
async fn retries_broken_connections() {
    let (client, mut service) = service(token());
    let read = tokio::spawn(async move { client.get("tenant_config_a").await });
    let _lost = service.get.next().await;
    service.network.cut();
    service.get.next().await.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());
}

/// Promise: a call that ends without a status of the service, since its stream was reset or its
/// connection ended, is made again, whatever code that is given here. What the service says itself
/// with such a code is not: see [`retries_not_now_only`].
#[tokio::test(start_paused = true)]
async fn retries_broken_calls() {
    let reasons =
        [Reason::NO_ERROR, Reason::REFUSED_STREAM, Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::HTTP_1_1_REQUIRED];
    let breaks = reasons.into_iter().flat_map(|reason| [Break::Reset(reason), Break::GoAway(reason)]);
    for how in breaks.chain([Break::Unfinished]) {
        let (client, mut service) = service(token());
        service.network.break_next(how);
        let mut read = tokio::spawn(async move { client.get("tenant_config_a").await });
        tokio::select! {
            call = service.get.next() => call.answer(Ok(answer())),
            read = &mut read => panic!("{how:?} is told: {:?}", read.unwrap()),
        }
        assert!(read.await.unwrap().is_ok(), "{how:?}");
        assert_eq!(service.network.hosts().len(), 2, "{how:?}");
    }
}

/// Promise: GOAWAY costs no call: one under way is answered by the old instance, the next one by
/// the new.
#[tokio::test(start_paused = true)]
async fn goaway_fails_no_call() {
    let (client, mut service) = service(token());
    let under_way = tokio::spawn({
        let client = client.clone();
        async move { client.get("tenant_config_a").await }
    });
    let call = service.get.next().await;
    service.network.go_away();
    let next = tokio::spawn(async move { client.get("tenant_config_a").await });
    service.network.up();
    service.get.next().await.answer(Ok(answer()));
    assert!(next.await.unwrap().is_ok());
    call.answer(Ok(answer()));
    assert!(under_way.await.unwrap().is_ok());
}

/// Promise: attempts end at the deadline, and the error says what the last one came to; an instance
/// that does not answer costs one attempt.
#[tokio::test(start_paused = true)]
async fn gives_up_at_the_deadline() {
    let deadline = Duration::from_secs(10);
    let options = Options::new("http://one", token()).deadline(deadline).backoff(BACKOFF);
    let (client, mut service) = service_with(options);
    let read = tokio::spawn({
        let client = client.clone();
        async move { client.get("tenant_config_a").await }
    });
    let silent = service.get.next().await;
    let second = service.get.next().await;
    assert!(second.at - silent.at >= Duration::from_secs(3), "the first attempt had its time");
    second.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());

    let begun = Instant::now();
    let mut read = tokio::spawn(async move { client.get("tenant_config_a").await });
    let mut attempts = 0;
    let error = loop {
        tokio::select! {
            call = service.get.next() => {
                call.fail(Status::unavailable("no"));
                attempts += 1;
            }
            read = &mut read => break read.unwrap().unwrap_err(),
        }
    };
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    assert_eq!(error.status().map(Status::code), Some(Code::Unavailable));
    assert!(attempts > 3, "{attempts} attempts");
    assert!(begun.elapsed() <= deadline + Duration::from_millis(5), "{:?}", begun.elapsed());
}

/// Promise: who is over a limit is tried again with growing pauses; at the deadline, what the
/// service said last is the caller's, as it came, and not that the time is over: an answer that is
/// too large has the same code, and its message says what to do.
#[tokio::test(start_paused = true)]
async fn a_limit_is_told_as_it_came() {
    fastrand::seed(3);
    let deadline = Duration::from_secs(10);
    for ends_silent in [false, true] {
        let options = Options::new("http://one", token()).deadline(deadline).backoff(BACKOFF);
        let (client, mut service) = service_with(options);
        let begun = Instant::now();
        let mut read = tokio::spawn(async move { client.get("tenant_config_a").await });
        let (mut attempts, mut unanswered) = (0, Vec::new());
        let error = loop {
            tokio::select! {
                call = service.get.next() => {
                    attempts += 1;
                    if ends_silent && attempts > 3 {
                        unanswered.push(call);
                    } else {
                        call.fail(Status::resource_exhausted(format!("attempt {attempts}")));
                    }
                }
                read = &mut read => break read.unwrap().unwrap_err(),
            }
        };
        let told = if ends_silent { 3 } else { attempts };
        let Error::ResourceExhausted(status) = &error else { panic!("{error}") };
        assert_eq!(status.message(), format!("attempt {told}"));
        assert!((4..20).contains(&attempts), "{attempts} attempts");
        assert!(begun.elapsed() <= deadline + Duration::from_millis(5), "{:?}", begun.elapsed());
    }
}

/// Promise: a token source may take longer than an attempt, since it says nothing of the
/// connection; a call that it lets wait too long says that it was the token that it waited for.
#[tokio::test(start_paused = true)]
async fn waits_for_its_token() {
    let slow = || async {
        sleep(Duration::from_secs(4)).await;
        Ok::<_, Infallible>("t".to_owned())
    };
    let options = || Options::new("http://one", slow).backoff(BACKOFF);
    let (client, mut service) = service_with(options());
    let read = tokio::spawn(async move { client.get("tenant_config_a").await });
    service.get.next().await.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());

    let (client, mut service) = service_with(options().deadline(Duration::from_secs(2)));
    let error = client.get("tenant_config_a").await.unwrap_err();
    let Error::DeadlineExceeded { last: Some(last) } = error else { panic!("{error}") };
    assert!(matches!(*last, Error::Token(_)), "{last}");
    assert!(service.get.is_empty());

    let (client, _service) = service_with(options().token_timeout(Duration::from_secs(3)));
    let error = client.get("tenant_config_a").await.unwrap_err();
    assert!(matches!(error, Error::Token(_)), "{error}");
}

/// Promise: a refused token is renewed once for a call; refused again, the caller is told.
#[tokio::test(start_paused = true)]
async fn renews_its_token_once() {
    let asked = AtomicUsize::new(0);
    let (client, mut service) = service(move || {
        let nth = asked.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(format!("t{nth}")) }
    });
    let read = tokio::spawn({
        let client = client.clone();
        async move { client.get("tenant_config_a").await }
    });
    service.get.next().await.fail(Status::unauthenticated("expired"));
    let call = service.get.next().await;
    assert_eq!(call.authorization, "Bearer t1");
    call.answer(Ok(answer()));
    assert!(read.await.unwrap().is_ok());

    let read = tokio::spawn(async move { client.get("tenant_config_a").await });
    service.get.next().await.fail(Status::unauthenticated("expired"));
    service.get.next().await.fail(Status::unauthenticated("expired"));
    assert!(matches!(read.await.unwrap(), Err(Error::Unauthenticated(_))));
    assert!(service.get.is_empty());
}

/// Promise: keys that did not fit are asked for again, at the same revision or a later one; the
/// answer is in the order that was asked for.
#[tokio::test(start_paused = true)]
async fn batches_are_completed() {
    let (client, mut service) = service(token());
    let keys = ["tenant_config_a", "tenant_config_b", "tenant_config_c", "tenant_config_d"];
    let read = tokio::spawn({
        let client = client.clone();
        async move { client.batch_get(keys).await }
    });
    service.batch_get.next().await.answer(Ok(BatchGetConfigResponse {
        entries: vec![entry("tenant_config_b", 2), entry("tenant_config_d", 3)],
        unprocessed_keys: vec!["tenant_config_a".to_owned(), "tenant_config_c".to_owned()],
        revision: 8,
        ..BatchGetConfigResponse::default()
    }));
    let call = service.batch_get.next().await;
    assert_eq!(
        (call.request.keys.as_slice(), call.request.min_revision),
        (&[keys[0].to_owned(), keys[2].to_owned()][..], 8)
    );
    call.answer(Ok(BatchGetConfigResponse {
        entries: vec![entry("tenant_config_a", 9)],
        missing_keys: vec!["tenant_config_c".to_owned()],
        revision: 9,
        ..BatchGetConfigResponse::default()
    }));
    let read = read.await.unwrap().unwrap();
    let found: Vec<_> = read.value.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(
        (found.as_slice(), read.value.missing_keys.as_slice(), read.revision),
        (&[keys[0], keys[1], keys[3]][..], &[keys[2].to_owned()][..], 8)
    );

    let read = tokio::spawn(async move { client.batch_get(["tenant_config_a"]).await });
    let unprocessed_keys = vec!["tenant_config_a".to_owned()];
    service.batch_get.next().await.answer(Ok(BatchGetConfigResponse { unprocessed_keys, ..Default::default() }));
    assert!(matches!(read.await.unwrap(), Err(Error::Protocol(_))), "it does not ask for ever");
}

/// Promise: a list brings all pages, also behind an empty one, and names the oldest revision among
/// them.
#[tokio::test(start_paused = true)]
async fn lists_all_pages() {
    let (client, mut service) = service(token());
    let read = tokio::spawn(async move { client.list("tenant_").await });
    let pages =
        [("", vec!["tenant_config_a"], "p2", 5), ("p2", vec![], "p3", 6), ("p3", vec!["tenant_config_b"], "", 6)];
    for (page, keys, next, revision) in pages {
        let call = service.list.next().await;
        assert_eq!((call.request.prefix.as_str(), call.request.page_token.as_str()), ("tenant_", page));
        let entries = keys.into_iter().map(|key| entry(key, 1)).collect();
        call.answer(Ok(ListConfigResponse { entries, next_page_token: next.to_owned(), revision, stale: false }));
    }
    let read = read.await.unwrap().unwrap();
    let keys: Vec<_> = read.value.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!((keys.as_slice(), read.revision), (&["tenant_config_a", "tenant_config_b"][..], 5));
}

/// Promise: options that cannot work are refused before anything is sent, above all a token that
/// would travel in the clear.
#[tokio::test]
async fn refuses_unusable_options() {
    for options in [
        Options::new("", token()),
        Options::new("127.0.0.1:50051", token()),
        Options::new("ftp://127.0.0.1", token()),
        Options::new("http://127.0.0.1", token()).tls(ClientTlsConfig::new()),
    ] {
        assert!(matches!(Client::connect(options), Err(Error::InvalidOptions { .. })));
    }
}

/// Promise: over TLS, the service must be one that the given authority vouches for, and gets the
/// client's certificate if it asks for one.
#[tokio::test(start_paused = true)]
async fn speaks_mutual_tls() {
    let (authority, vouched) = (authority(), authority());
    let (server, caller, stranger) = (issued(&authority), issued(&authority), issued(&vouched));
    let tls = ServerTlsConfig::new().identity(server).client_ca_root(Certificate::from_pem(authority.pem()));
    let trusting =
        |ca: &CertifiedIssuer<'_, KeyPair>| ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.pem()));
    for (tls_of_client, works) in [
        (trusting(&authority).identity(caller.clone()), true),
        (trusting(&authority), false),
        (trusting(&authority).identity(stranger), false),
        (trusting(&vouched).identity(caller), false),
    ] {
        let options = Options::new("https://localhost", token()).tls(tls_of_client);
        let (client, mut service) = service_with(options.backoff(BACKOFF));
        service.network.up_with_tls(tls.clone());
        let read = tokio::spawn(async move { client.get("tenant_config_a").await });
        if works {
            service.get.next().await.answer(Ok(answer()));
            assert!(read.await.unwrap().is_ok());
        } else {
            let error = read.await.unwrap().unwrap_err();
            let Error::DeadlineExceeded { last: Some(last) } = error else { panic!("{error}") };
            assert!(matches!(*last, Error::Unavailable(_)), "{last}");
            assert!(service.get.is_empty());
        }
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn issued(authority: &CertifiedIssuer<'_, KeyPair>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
    Identity::from_pem(parameters.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}
