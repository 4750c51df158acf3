//! The running service: everything put together, started, and stopped without dropping a call.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use config_proto::v1::{self, config_service_server::ConfigServiceServer};
use futures_util::FutureExt;
use http::Request;
use hyper::{body::Incoming, service::Service as _};
use hyper_util::service::TowerToHyperService;
use prometheus_client::{encoding::text, registry::Registry};
use tenantry::{
    auth::{Authenticator, HttpKeys, Permission, TokenMemory},
    limit::{RequestLimit, TenantLimits},
    service::{Foundation, TailService},
    store::UnusableRoute,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tonic::{body::Body, codegen::Service as _, server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

use crate::{
    connections::{self, Answering, Cut, UnusableCertificate},
    disk,
    follower::Follower,
    hints,
    memory::{Limits, Memory},
    metrics::Metrics,
    service::Service,
    settings::StreamSettings,
    watch::Manners,
};

/// How large a request may be: 100 keys and 100 prefixes of the longest, with room to spare.
const MAX_REQUEST_BYTES: usize = 256 * 1024;
/// How many connections there may be beside one for each watcher.
const SPARE_CONNECTIONS: usize = 1_000;
/// For how many intervals, and how long at least, memory is believed although the index of changes could not be looked at.
const PATIENCE_INTERVALS: u32 = 10;
const LEAST_PATIENCE: Duration = Duration::from_secs(3);
/// How the path of a call ends that has no end of its own.
const WATCH: &str = "/WatchConfig";
/// How many hints may wait to be seen to.
const MAX_HINTS: usize = 1_000;
/// The content type of metrics (`OpenMetrics` 1.0).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A tag's route is unusable.
    #[error(transparent)]
    Route(#[from] UnusableRoute),
    /// A port cannot be had.
    #[error("cannot listen on {address}, as {setting} says")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The setting.
        setting: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The certificates are unusable.
    #[error("the certificate, its key or the clients' CA cannot be used")]
    Tls(#[from] UnusableCertificate),
    /// The interface's description is unusable.
    #[error("the interface's description cannot be shown")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The running service. Dropping it stops it as well, but waits for nothing.
#[derive(Debug)]
pub struct Stream {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    memory: Arc<Memory>,
    health: HealthReporter,
    drain: Duration,
    drain_delay: Duration,
    /// Stops taking calls.
    closing: watch::Sender<bool>,
    /// Stops what runs in the background.
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Starts it; when this returns, it answers.
    pub async fn start(settings: &StreamSettings) -> Result<Self, StartError> {
        let shared = &settings.shared;
        let foundation = Foundation::new(shared)?;
        foundation.ledger.warm_up().await;
        let limits = Limits {
            bytes: shared.cache_max_bytes,
            watchers: settings.max_watchers,
            tenant_watchers: settings.max_tenant_watchers,
        };
        let patience = LEAST_PATIENCE.max(settings.follow_interval * PATIENCE_INTERVALS);
        let metrics = Arc::new(Metrics::default());
        let memory = TailService::new(foundation);
        let memory = Arc::new(Memory::new(memory, limits, patience, shared.clock.clone(), Arc::clone(&metrics)));
        if let Some(snapshot) = &settings.snapshot {
            disk::restore(&memory, snapshot);
        }

        let keys = HttpKeys::new(shared.tokens.jwks_url.clone());
        let authenticator = Authenticator::new(&shared.tokens, Box::new(keys), shared.clock.clone());
        let tokens = TokenMemory::new(authenticator, Permission::Read, shared.clock.clone());
        // All watchers of a tenant may come at once.
        let all_watchers = u32::try_from(settings.max_tenant_watchers).unwrap_or(u32::MAX);
        let watch_limit = shared.tenant_limit.map(|own| RequestLimit { burst: own.burst.max(all_watchers), ..own });
        let limits = [shared.tenant_limit, watch_limit].map(|limit| TenantLimits::new(limit, shared.clock.clone()));
        let manners = Manners { heartbeat: settings.heartbeat };
        let service = Service::new(Arc::clone(&memory), tokens, limits, manners);

        let (listener, address) = listen(settings.address, "GRPC_ADDRESS").await?;
        let (health, answer) = routes(service).await?;
        let (closing, closed) = watch::channel(false);
        let tls = settings.tls.as_ref().map(connections::acceptor).transpose()?;
        let max = settings.max_watchers.saturating_add(SPARE_CONNECTIONS);
        let server = tokio::spawn(connections::serve(listener, tls, max, answer, closed));

        let (stop, stopped) = watch::channel(false);
        let (hint, hints) = mpsc::channel(MAX_HINTS);
        let follower = Follower::new(Arc::clone(&memory), settings.follow_interval, hints);
        let mut background = vec![tokio::spawn(follower.run(stopped.clone()))];
        if let Some(queue) = settings.change_queue.clone() {
            let client = hints::client(&shared.aws);
            let listening = hints::listen(Arc::clone(&memory), client, queue, hint, stopped.clone());
            background.push(tokio::spawn(listening));
        }
        if let Some(snapshot) = settings.snapshot.clone() {
            background.push(tokio::spawn(disk::keep(Arc::clone(&memory), snapshot, stopped.clone())));
        }
        let mut metrics_address = None;
        if let Some(wanted) = settings.metrics_address {
            let (listener, address) = listen(wanted, "METRICS_ADDRESS").await?;
            metrics_address = Some(address);
            background.push(tokio::spawn(show_metrics(listener, Arc::clone(&memory), stopped)));
        }
        info!(%address, "config-stream serves gRPC");
        let (drain, drain_delay) = (settings.drain, settings.drain_delay);
        Ok(Self { address, metrics_address, memory, health, drain, drain_delay, closing, stop, server, background })
    }

    /// Where gRPC is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// What is in memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Stops: says that it is not serving, takes no new calls, lets the open ones end, and has watches end so that they go on elsewhere.
    pub async fn stop(self) {
        let Self { memory, health, drain, drain_delay, closing, stop, mut server, background, .. } = self;
        health.set_service_status("", ServingStatus::NotServing).await;
        health.set_not_serving::<ConfigServiceServer<Service>>().await;
        tokio::time::sleep(drain_delay).await;
        closing.send_replace(true);
        memory.drain();
        if timeout(drain, &mut server).await.is_ok() {
            info!("all calls have ended");
        } else {
            warn!(watchers = memory.watchers(), "calls are still open, and are cut off");
            server.abort();
        }
        stop.send_replace(true);
        for task in background {
            if let Err(error) = task.await {
                error!(%error, "a task did not end cleanly");
            }
        }
    }
}

async fn listen(wanted: SocketAddr, setting: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address: wanted, setting, source };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The interface, the standard health service and the standard reflection service.
async fn routes(
    service: Service,
) -> Result<(HealthReporter, impl Fn(Request<Incoming>) -> (Answering, Option<Cut>) + Clone + Send + 'static), StartError>
{
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_serving::<ConfigServiceServer<Service>>().await;
    let descriptions = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let config = ConfigServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
    let others = Routes::new(health_service)
        .add_service(descriptions().build_v1()?)
        .add_service(descriptions().build_v1alpha()?);
    let others = TowerToHyperService::new(others.prepare());
    let answer = move |mut request: Request<Incoming>| {
        // Past the router, which is for the few calls of the others.
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split('/').next());
        if service == Some(ConfigServiceServer::<Service>::NAME) {
            let cut = request.uri().path().ends_with(WATCH).then(Cut::default);
            if let Some(cut) = &cut {
                request.extensions_mut().insert(cut.clone());
            }
            // It is always ready.
            (config.clone().call(request), cut)
        } else {
            (others.call(request.map(Body::new)).boxed(), None)
        }
    };
    Ok((health, answer))
}

/// Serves `/metrics`, and `/healthz` for those who ask over HTTP/1.1.
async fn show_metrics(listener: TcpListener, memory: Arc<Memory>, mut stop: watch::Receiver<bool>) {
    let registry: Arc<Registry> = Arc::new(memory.metrics().registry());
    let show = move || {
        let (memory, registry) = (Arc::clone(&memory), Arc::clone(&registry));
        async move {
            let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let ((idle, watched), (idle_bytes, watched_bytes)) = (memory.tenants(), memory.bytes());
            memory.metrics().watchers.set(gauge(memory.watchers() as u64));
            memory.metrics().tenants.set(gauge((idle + watched) as u64));
            memory.metrics().bytes.set(gauge(idle_bytes + watched_bytes));
            let mut shown = String::new();
            // Writing to a string does not fail.
            let _ = text::encode(&mut shown, &registry);
            ([(CONTENT_TYPE, OPEN_METRICS)], shown)
        }
    };
    let app = Router::new().route("/metrics", get(show)).route("/healthz", get(|| async { "ok\n" }));
    let served = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = stop.wait_for(|stop| *stop).await;
    });
    if let Err(error) = served.await {
        error!(%error, "metrics are not served any more");
    }
}
