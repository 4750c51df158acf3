//! The running service: everything put together, started, and stopped without dropping a call.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use config_proto::v1::config_service_server::ConfigServiceServer;
use prometheus_client::{encoding::text, registry::Registry};
use tenantry::{
    auth::{Authenticator, HttpKeys, Permission, TokenMemory},
    backend::Backend,
    limit::{RequestLimit, TenantLimits},
    store::UnusableRoute,
    tail::TailService,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

use crate::{
    connections::{self, UnusableCertificate},
    disk, hints,
    memory::{Limits, Memory},
    metrics::Metrics,
    poller::ChangePoller,
    routes::routes,
    service::Service,
    settings::StreamSettings,
    watch::WatchOptions,
};

/// How many connections there may be beside one for each watcher.
const SPARE_CONNECTIONS: usize = 1_000;
/// For how many intervals, and how long at least, memory is believed although the index of changes
/// could not be looked at.
const POLL_AGE_INTERVALS: u32 = 10;
const LEAST_POLL_AGE: Duration = Duration::from_secs(3);
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

/// The running service. Dropping it stops it as well, but waits for nothing: calls that are open
/// are cut off.
#[derive(Debug)]
pub struct Stream {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    memory: Arc<Memory>,
    health: HealthReporter,
    drain: Duration,
    drain_delay: Duration,
    /// Whether it has begun to stop, for those who ask over HTTP/1.1.
    is_stopping: Arc<AtomicBool>,
    /// Stops taking calls.
    closing: watch::Sender<bool>,
    /// Stops what runs in the background.
    stop: watch::Sender<bool>,
    /// One task, in a set because that ends with its owner.
    server: JoinSet<()>,
    background: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Starts it; when this returns, it answers.
    pub async fn start(settings: &StreamSettings) -> Result<Self, StartError> {
        let shared = &settings.shared;
        let backend = Backend::new(&shared.backend, &shared.clock)?;
        backend.ledger.warm_up().await;
        let limits = Limits {
            bytes: shared.cache_max_bytes,
            watchers: settings.max_watchers,
            tenant_watchers: settings.max_tenant_watchers,
        };
        let max_poll_age = LEAST_POLL_AGE.max(settings.poll_interval * POLL_AGE_INTERVALS);
        let metrics = Arc::new(Metrics::default());
        let memory = TailService::new(backend);
        let memory = Arc::new(Memory::new(memory, limits, max_poll_age, shared.clock.clone(), Arc::clone(&metrics)));
        if let Some(snapshot) = &settings.snapshot {
            disk::restore(&memory, snapshot);
        }

        let keys = HttpKeys::new(&shared.tokens);
        let authenticator = Authenticator::new(&shared.tokens, Box::new(keys), shared.clock.clone());
        let tokens = TokenMemory::new(authenticator, Permission::Read, shared.clock.clone());
        // All watchers of a tenant may come at once.
        let all_watchers = u32::try_from(settings.max_tenant_watchers).unwrap_or(u32::MAX);
        let watch_limit = shared.tenant_limit.map(|own| RequestLimit { burst: own.burst.max(all_watchers), ..own });
        let limits = [shared.tenant_limit, watch_limit].map(|limit| TenantLimits::new(limit, shared.clock.clone()));
        let options = WatchOptions { heartbeat: settings.heartbeat };
        let service = Service::new(Arc::clone(&memory), tokens, limits, options);

        let (listener, address) = listen(settings.address, "GRPC_ADDRESS").await?;
        let (closing, closed) = watch::channel(false);
        let (health, answer) = routes(service, metrics, closed.clone()).await?;
        let tls = settings.tls.as_ref().map(connections::acceptor).transpose()?;
        let max = settings.max_watchers.saturating_add(SPARE_CONNECTIONS);
        let mut server = JoinSet::new();
        server.spawn(connections::serve(listener, tls, max, answer, closed));

        let (stop, stopped) = watch::channel(false);
        let (hint, hints) = mpsc::channel(MAX_HINTS);
        let poller = ChangePoller::new(Arc::clone(&memory), settings.poll_interval, hints);
        let mut background = vec![tokio::spawn(poller.run(stopped.clone()))];
        if let Some(queue) = settings.change_queue.clone() {
            let client = hints::client(&shared.backend.aws);
            let listening = hints::listen(Arc::clone(&memory), client, queue, hint, stopped.clone());
            background.push(tokio::spawn(listening));
        }
        if let Some(snapshot) = settings.snapshot.clone() {
            background.push(tokio::spawn(disk::keep(Arc::clone(&memory), snapshot, stopped.clone())));
        }
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut metrics_address = None;
        if let Some(wanted) = settings.metrics_address {
            let (listener, address) = listen(wanted, "METRICS_ADDRESS").await?;
            metrics_address = Some(address);
            background.push(tokio::spawn(show_metrics(
                listener,
                Arc::clone(&memory),
                Arc::clone(&is_stopping),
                stopped,
            )));
        }
        info!(%address, "config-stream serves gRPC");
        let (drain, drain_delay) = (settings.drain, settings.drain_delay);
        Ok(Self {
            address,
            metrics_address,
            memory,
            health,
            drain,
            drain_delay,
            is_stopping,
            closing,
            stop,
            server,
            background,
        })
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

    /// Stops: says that it is not serving, takes no new calls, lets the open ones end, and has
    /// watches end so that they go on elsewhere.
    pub async fn stop(self) {
        let Self { memory, health, drain, drain_delay, is_stopping, closing, stop, mut server, background, .. } = self;
        is_stopping.store(true, Ordering::Relaxed);
        health.set_service_status("", ServingStatus::NotServing).await;
        health.set_not_serving::<ConfigServiceServer<Service>>().await;
        tokio::time::sleep(drain_delay).await;
        closing.send_replace(true);
        memory.drain();
        if timeout(drain, server.join_next()).await.is_ok() {
            info!("all calls have ended");
        } else {
            warn!(watchers = memory.watchers(), "calls are still open, and are cut off");
            server.abort_all();
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

/// Serves `/metrics`, and `/healthz` for those who ask over HTTP/1.1: 503 from when the instance
/// begins to stop.
async fn show_metrics(
    listener: TcpListener,
    memory: Arc<Memory>,
    is_stopping: Arc<AtomicBool>,
    mut stop: watch::Receiver<bool>,
) {
    let registry: Arc<Registry> = Arc::new(memory.metrics().registry());
    let begin = memory.now();
    let show = move || {
        let (memory, registry) = (Arc::clone(&memory), Arc::clone(&registry));
        async move {
            let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let ((idle, watched), (idle_bytes, watched_bytes)) = (memory.tenants(), memory.bytes());
            memory.metrics().watchers.set(gauge(memory.watchers() as u64));
            memory.metrics().tenants.set(gauge((idle + watched) as u64));
            memory.metrics().bytes.set(gauge(idle_bytes + watched_bytes));
            // A shard that was never looked at is as old as the instance.
            let polled_at = memory.oldest_poll().max(begin);
            memory.metrics().poll_age.set(memory.now().since(polled_at).as_secs_f64());
            let mut shown = String::new();
            // Writing to a string does not fail.
            let _ = text::encode(&mut shown, &registry);
            ([(CONTENT_TYPE, OPEN_METRICS)], shown)
        }
    };
    let health = move || {
        let is_stopping = is_stopping.load(Ordering::Relaxed);
        async move { if is_stopping { (StatusCode::SERVICE_UNAVAILABLE, "stopping\n") } else { (StatusCode::OK, "ok\n") } }
    };
    let app = Router::new().route("/metrics", get(show)).route("/healthz", get(health));
    let served = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = stop.wait_for(|stop| *stop).await;
    });
    if let Err(error) = served.await {
        error!(%error, "metrics are not served any more");
    }
}
