//! Stopping, starting and what stands around the interface: drain, TLS, health, reflection,
//! metrics.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use config_client::{Client, Filter, Options, Start, StaticToken};
use config_stream::metrics::Ended;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::*;

/// What a load balancer does: new connections go to whoever serves now, and old ones stay where
/// they are.
struct Balancer {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Balancer {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let current = Arc::clone(&target);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *current.lock().unwrap();
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { address, target }
    }
}

/// Promise: an instance that is stopped under load fails no call: those that are open are answered,
/// new ones go to the next instance, and watches go on there without losing or doubling a change.
#[tokio::test]
async fn a_restart_fails_no_call() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 0).await;
    let mut instance = Instance::start(&api, &[]).await;
    let balancer = Balancer::start(instance.stream.address()).await;
    let options = Options::new(format!("http://{}", balancer.address), StaticToken::new(&acme.token));
    let client = Client::connect(options).unwrap();
    let live = client.live(Filter::all());
    live.ready().await.unwrap();
    let mut watch = client.watch(Filter::all(), Start::Snapshot);
    let is_over = Arc::new(AtomicBool::new(false));
    let asking = (0..4).map(|_| {
        let (client, is_over) = (client.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut answered = 0;
            while !is_over.load(Ordering::Relaxed) {
                client.get("tenant_config_a").await.expect("an answer");
                answered += 1;
            }
            answered
        })
    });
    let asking: Vec<_> = asking.collect();
    let writing = async {
        for round in 0..3_u64 {
            for value in 1..=10 {
                put(&acme, "a", round * 10 + value).await;
            }
            let next = Instance::start(&api, &[]).await;
            *balancer.target.lock().unwrap() = next.stream.address();
            std::mem::replace(&mut instance, next).stream.stop().await;
        }
        put(&acme, "a", 31).await;
    };
    let told = async {
        let mut told = Vec::new();
        while told.last() != Some(&32) {
            match watch.next().await.expect("the watch goes on").expect("the watch goes on") {
                config_client::Event::Snapshot(snapshot) => assert_eq!(snapshot.position.revision, 1),
                config_client::Event::Update(update) => told.push(update.position.revision),
                _ => {}
            }
        }
        told
    };
    let ((), told) = tokio::join!(writing, told);
    assert_eq!(told, (2..=32).collect::<Vec<_>>());
    live.wait_for(32).await.unwrap();
    assert_eq!(live.get("tenant_config_a").unwrap().bytes().unwrap().as_ref(), b"31");
    is_over.store(true, Ordering::Relaxed);
    for asked in asking {
        assert!(asked.await.unwrap() > 0);
    }
}

/// Promise: an instance that stops says so in its health, ends its watches with UNAVAILABLE, and is
/// gone in time although one of them does not read.
#[tokio::test]
async fn an_instance_that_stops_waits_for_nobody_for_ever() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for name in 0..8 {
        acme.put(&format!("tenant_config_{name}"), &json!("x".repeat(200_000))).await.expect(201);
    }
    let instance = Instance::start(&api, &[("DRAIN_SECONDS", "4"), ("DRAIN_DELAY_SECONDS", "1")]).await;
    let mut health =
        HealthClient::new(instance.channel.clone()).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let (mut watching, _) = instance.tenant(&acme).watch().await;
    // It takes nothing, so that its connection's window is full.
    let _silent = instance.tenant(&acme).try_watch(v1::WatchConfigRequest::default()).await.unwrap();
    let stopping = tokio::spawn(instance.stream.stop());
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(watching.end().await.code(), Code::Unavailable);
    tokio::time::timeout(Duration::from_mins(1), stopping).await.expect("it stops").unwrap();
}

/// So long that a test which waited for it would be a failed one.
const NO_LIMIT: [(&str, &str); 1] = [("DRAIN_SECONDS", "3600")];

/// Waits for what an instance has to do by itself. A minute in vain is a failure.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), what).await.expect("it does not take for ever")
}

/// Promise: a call that is open when an instance stops is answered, over the connection that it
/// came by and without being made again, and meanwhile the instance says to load balancers, in
/// their way, too, that it is not there for others.
#[tokio::test]
async fn a_call_that_is_open_is_answered() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme"), api.tenant("globex"));
    let instance = Instance::start(&api, &[NO_LIMIT[0], ("METRICS_ADDRESS", "127.0.0.1:0")]).await;
    assert_eq!(instance.page("/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    let metrics = instance.stream.metrics_address().unwrap();
    let (mut watching, _) = instance.tenant(&globex).watch().await;
    let held = api.suite.emulator().faults().hold("GetItem", 0);
    let grpc = instance.tenant(&acme);
    let asking = tokio::spawn(async move { grpc.list(v1::ListConfigRequest::default()).await });
    held.reached().await;
    let stopping = tokio::spawn(instance.stream.stop());
    // By then it takes no new calls.
    assert_eq!(watching.end().await.code(), Code::Unavailable);
    assert_eq!(page(metrics, "/healthz").await, (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()));
    held.release();
    assert_eq!(asking.await.unwrap().expect("an answer").entries, []);
    soon(stopping).await.unwrap();
}

/// Promise: whoever connects and says nothing, or nothing but that he speaks HTTP/2, keeps no
/// instance from stopping.
#[tokio::test]
async fn silence_holds_no_instance() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let instance = Instance::start(&api, &NO_LIMIT).await;
    let _silent = TcpStream::connect(instance.stream.address()).await.unwrap();
    let mut dumb = TcpStream::connect(instance.stream.address()).await.unwrap();
    dumb.write_all(PREFACE).await.unwrap();
    // Whoever came before has been taken then.
    instance.tenant(&acme).list(v1::ListConfigRequest::default()).await.unwrap();
    soon(instance.stream.stop()).await;
}

/// Promise: whoever connects and makes no call gives up his place to others after a while, and
/// whoever makes calls keeps it.
#[tokio::test]
async fn silence_holds_no_place() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let instance = Instance::start(&api, &[]).await;
    let (mut watching, _) = instance.tenant(&acme).watch().await;
    let connect = async |first: &[u8]| {
        let mut stream = TcpStream::connect(instance.stream.address()).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream
    };
    let (mut silent, mut dumb) = (connect(b"").await, connect(PREFACE).await);
    let (mut from_silent, mut from_dumb) = (Vec::new(), Vec::new());
    let ended = async { tokio::join!(silent.read_to_end(&mut from_silent), dumb.read_to_end(&mut from_dumb)) };
    let (silence, _) = soon(ended).await;
    silence.unwrap();
    // A frame of the type GOAWAY: who speaks HTTP/2 is told before.
    let mut frames = from_dumb.as_slice();
    let mut types = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        types.push(*kind);
        frames = &rest[usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)..];
    }
    assert!(types.contains(&7), "{types:?}");
    put(&acme, "a", 1).await;
    assert_eq!(line(&watching.update().await), "0→1 tenant_config_a@1=1");
}

/// What a client of HTTP/2 begins with: the preface, and its settings, of which it has none.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Promise: streams of the standard services are told what they are there for, and then end, when
/// an instance stops.
#[tokio::test]
async fn streams_of_standard_services_end() {
    let api = Api::start().await;
    let instance = Instance::start(&api, &NO_LIMIT).await;
    let mut health = HealthClient::new(instance.channel.clone());
    let mut health = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let requests = futures_util::stream::pending::<ServerReflectionRequest>();
    let mut reflection = ServerReflectionClient::new(instance.channel.clone());
    let mut reflection = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    let stopping = tokio::spawn(instance.stream.stop());
    assert_eq!(soon(health.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(soon(health.message()).await.unwrap_err().code(), Code::Unavailable);
    // It has nothing to say.
    let _ = soon(reflection.message()).await;
    soon(stopping).await.unwrap();
}

/// Promise: an instance that is dropped, and not stopped, cuts off what is open.
#[tokio::test]
async fn an_instance_that_is_dropped_is_gone() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let instance = Instance::start(&api, &[]).await;
    let (mut watching, _) = instance.tenant(&acme).watch().await;
    drop(instance.stream);
    soon(watching.end()).await;
}

/// Promise: a call ends with `DEADLINE_EXCEEDED` when its caller's time is over, though the stores
/// do not answer, and is counted so. What is no deadline is none.
#[tokio::test]
async fn deadlines_are_kept() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let instance = Instance::start(&api, &[]).await;
    // tonic's channel would keep the deadline itself.
    let http = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http::<tonic::body::Body>();
    let origin = format!("http://{}", instance.stream.address()).parse().unwrap();
    let client = ConfigServiceClient::with_origin(http, origin);
    let list = async |timeout: &'static str| {
        let mut request = instance.tenant(&acme).request(v1::ListConfigRequest::default());
        request.metadata_mut().insert("grpc-timeout", MetadataValue::from_static(timeout));
        client.clone().list_config(request).await.map(tonic::Response::into_inner)
    };
    let held = api.suite.emulator().faults().hold("GetItem", 0);
    let status = soon(list("100m")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    held.release();
    assert_eq!(list("1H").await.unwrap().entries, []);
    assert_eq!(list("100").await.unwrap().entries, []);
    let counted = |code| {
        let ended = Ended { method: "ListConfig", code };
        instance.stream.memory().metrics().calls.get_or_create(&ended).get()
    };
    assert_eq!((counted(Code::DeadlineExceeded as i64), counted(0)), (1, 2));
}

/// Promise: with certificates, the service is there for those alone who trust it and, where it asks
/// for theirs, are trusted by it.
#[tokio::test]
async fn tls_keeps_strangers_out() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let ca = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let issue = |ca: &CertifiedIssuer<'_, KeyPair>, name: &str, usage| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
    };
    let (ours, theirs) = (ca(), ca());
    let (certificate, key) = issue(&ours, "config.test", ExtendedKeyUsagePurpose::ServerAuth);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = (file("certificate", &certificate), file("key", &key));
    let client_ca = file("ca", &ours.pem());
    let settings =
        [("TLS_CERTIFICATE_FILE", &*certificate), ("TLS_KEY_FILE", &*key), ("TLS_CLIENT_CA_FILE", &*client_ca)];
    let asking = Instance::start(&api, &settings).await;
    let open = Instance::start(&api, &settings[..2]).await;
    let known = issue(&ours, "client", ExtendedKeyUsagePurpose::ClientAuth);
    let stranger = issue(&theirs, "client", ExtendedKeyUsagePurpose::ClientAuth);
    for (what, instance, root, identity, is_let_in) in [
        ("mutual", &asking, Some(&ours), Some(&known), true),
        ("no certificate", &asking, Some(&ours), None, false),
        ("a stranger's", &asking, Some(&ours), Some(&stranger), false),
        ("plain text", &asking, None, None, false),
        ("one-sided", &open, Some(&ours), None, true),
        ("another service", &open, Some(&theirs), None, false),
        ("plain text", &open, None, None, false),
    ] {
        let scheme = if root.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", instance.stream.address())).unwrap();
        if let Some(root) = root {
            let mut tls =
                ClientTlsConfig::new().domain_name("config.test").ca_certificate(Certificate::from_pem(root.pem()));
            if let Some((certificate, key)) = identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        let grpc = Grpc { client: ConfigServiceClient::new(endpoint.connect_lazy()), token: acme.token.clone() };
        assert_eq!(grpc.get("tenant_config_a", 0).await.is_ok(), is_let_in, "{what}");
    }
}

/// Promise: the standard tools find their way: health by service, the interface by reflection,
/// metrics over HTTP.
#[tokio::test]
async fn standard_tools_find_their_way() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    let instance = Instance::start(&api, &[("METRICS_ADDRESS", "127.0.0.1:0")]).await;
    for service in ["", "tenantry.config.v1.ConfigService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(instance.channel.clone()).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([request]);
    let mut answers = ServerReflectionClient::new(instance.channel.clone())
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("no list: {answer:?}") };
    let names: BTreeSet<_> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains("tenantry.config.v1.ConfigService") && names.contains("grpc.health.v1.Health"), "{names:?}");

    let (_watching, _) = instance.tenant(&acme).watch().await;
    let ahead = v1::Position { revision: 9, token: String::new() };
    instance.tenant(&acme).go_on(ahead).await.err().expect("no such position");
    instance.tenant(&acme).value("tenant_config_a").await;
    let (_, shown) = instance.page("/metrics").await;
    // Out of range, and no more: one that did not begin did not end either.
    let watches: Vec<_> = shown.lines().filter(|line| line.contains("WatchConfig")).collect();
    assert_eq!(watches, [r#"tenantry_stream_calls_total{method="WatchConfig",code="11"} 1"#]);
    for line in [
        "tenantry_stream_watchers 1",
        "tenantry_stream_tenants 1",
        "tenantry_stream_loads_total 1",
        r#"tenantry_stream_calls_total{method="GetConfig",code="0"} 1"#,
        "# EOF",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in:\n{shown}");
    }
}
