//! Connections: each is served, with all its calls, by one task.
//!
//! tonic's own server has a task for each connection and one for each call. They wake each other
//! for every message, mostly on different threads. Here a call's future belongs to its connection's
//! task. So a message costs one wake. A connection that ends takes its calls with it, also those
//! that wait for a peer that does not read.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tracing::{debug, warn};

use crate::{
    connection_waker::{ConnectionTask, Part},
    settings::TlsSettings,
};

/// How many calls one connection may have open at once.
const MAX_CALLS: u32 = 1_000;
/// How much metadata of a call is read at all, in bytes as HTTP/2 counts them; routes.rs allows far
/// less. A call with more is refused without a gRPC status. One with several times as much ends the
/// connection: its headers have to be read, or all later ones would be misread.
pub(crate) const MAX_HEADERS: u32 = 128 * 1024;
/// How much of a call's answer waits in memory for the peer to take it, in bytes.
const MAX_UNSENT: usize = 256 * 1024;
/// After what silence a peer is pinged, and how long its answer may take.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer has until its first call, with the handshakes of TLS and HTTP/2.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer without a call has to close the connection after it was told to.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long no connection is accepted after the system has refused one, as it does without file
/// descriptors.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The answer to a request.
pub(crate) type ResponseFuture = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Aborts a call from outside, without a status. A call whose peer takes nothing is not polled, and
/// cannot end by itself.
#[derive(Clone, Debug, Default)]
pub struct AbortFlag(Arc<AtomicBool>);

impl AbortFlag {
    /// Aborts the call when it is polled next.
    pub fn abort(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_aborted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableCertificate {
    /// A file is no PEM, or lacks what it should have.
    #[error("no usable PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Certificate and key do not go together, or are not supported.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The CA that clients' certificates must lead to is unusable.
    #[error("the clients' CA: {0}")]
    Clients(#[from] rustls::server::VerifierBuilderError),
}

/// Accepts TLS connections as the settings say.
pub(crate) fn acceptor(settings: &TlsSettings) -> Result<TlsAcceptor, UnusableCertificate> {
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match &settings.client_ca {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_slice_iter(&settings.certificate).collect::<Result<_, _>>()?;
    let mut config = config.with_single_cert(chain, PrivateKeyDer::from_pem_slice(&settings.key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Answers requests over `listener` by `answer`, over `max` connections at most, until `closed`
/// says so. Then waits until all calls have ended, but not for peers without a call. Dropping it
/// aborts all calls.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    max: usize,
    answer: impl Fn(Request<Incoming>) -> (ResponseFuture, Option<AbortFlag>) + Clone + Send + 'static,
    closed: watch::Receiver<bool>,
) {
    let mut closing = closed.clone();
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(max));
    let admit = |connections: &mut JoinSet<()>, stream: TcpStream, closed: watch::Receiver<bool>| {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!(max, "a connection was refused: there are as many as there may be");
            return;
        };
        let (tls, answer) = (tls.clone(), answer.clone());
        connections.spawn(async move {
            if let Err(error) = serve_connection(stream, tls, answer, closed).await {
                // Peers disconnect as they like.
                debug!(%error, "a connection has ended");
            }
            drop(place);
        });
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = closing.wait_for(|closed| *closed) => break,
        };
        match accepted {
            Ok((stream, _)) => admit(&mut connections, stream, closed.clone()),
            Err(error) => {
                warn!(%error, "a connection could not be taken");
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }
    // Those that the system has accepted already are told to go elsewhere. Closing the listener
    // would reset them.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        admit(&mut connections, stream, closed.clone());
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    answer: impl Fn(Request<Incoming>) -> (ResponseFuture, Option<AbortFlag>),
    closed: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    // Messages are small, and each is to be sent at once.
    stream.set_nodelay(true)?;
    match tls {
        None => serve_calls(stream, answer, deadline, closed).await?,
        // Boxed, so that a connection without TLS has no room for it.
        Some(tls) => Box::pin(serve_encrypted(stream, tls, answer, deadline, closed)).await?,
    }
    Ok(())
}

async fn serve_encrypted(
    stream: TcpStream,
    tls: TlsAcceptor,
    answer: impl Fn(Request<Incoming>) -> (ResponseFuture, Option<AbortFlag>),
    deadline: Instant,
    closed: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut closing = closed.clone();
    let leaving = async move {
        let _ = closing.wait_for(|closed| *closed).await;
        sleep(LEAVE_TIMEOUT).await;
    };
    let encrypted = tokio::select! {
        encrypted = timeout_at(deadline, tls.accept(stream)) => encrypted.map_err(io::Error::from)??,
        () = leaving => return Ok(()),
    };
    Ok(serve_calls(encrypted, answer, deadline, closed).await?)
}

/// Answers the calls of a connection. Closes it in good order when `closed` says so, or when no
/// call has come until `deadline`. A peer that has made no call and does not leave then is dropped:
/// hyper would wait for its half of the handshake for ever.
async fn serve_calls(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(Request<Incoming>) -> (ResponseFuture, Option<AbortFlag>),
    deadline: Instant,
    mut closed: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let new_calls = NewCalls::default();
    let mut builder = http2::Builder::new(new_calls.clone());
    builder
        .timer(TokioTimer::new())
        // Nobody caches gRPC.
        .auto_date_header(false)
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(MAX_UNSENT)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let beginning = new_calls.clone();
    let answer = service_fn(move |request| {
        let (answering, abort) = answer(request);
        // hyper executes this call before it accepts the next one.
        beginning.lock().abort = abort;
        answering
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let mut calls = FuturesUnordered::new();
    // Only until the first call: from then on, keepalive finds dead peers, and no timer is needed.
    let mut first_call_by = Some(Box::pin(sleep_until(deadline)));
    let mut is_told_to_go = false;
    let mut closing = pin!(async move { closed.wait_for(|closed| *closed).await.is_ok() }.fuse());
    let task = ConnectionTask::new();
    poll_fn(|context| {
        task.poll(context.waker(), |part, context| match part {
            Part::Calls => {
                while let Poll::Ready(Some(())) = calls.poll_next_unpin(context) {}
                Poll::Pending
            }
            Part::Connection => {
                if closing.as_mut().poll(context).is_ready() {
                    is_told_to_go = true;
                    connection.as_mut().graceful_shutdown();
                    if let Some(deadline) = &mut first_call_by {
                        deadline.as_mut().reset(Instant::now() + LEAVE_TIMEOUT);
                    }
                }
                if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                    return Poll::Ready(ended);
                }
                let new = &mut new_calls.lock().calls;
                if !new.is_empty() {
                    first_call_by = None;
                    calls.extend(new.drain(..));
                    task.poll_next(Part::Calls);
                }
                if let Some(deadline) = &mut first_call_by
                    && deadline.as_mut().poll(context).is_ready()
                {
                    if is_told_to_go {
                        return Poll::Ready(Ok(()));
                    }
                    // Told first, so that a call on its way is answered, or made elsewhere.
                    is_told_to_go = true;
                    connection.as_mut().graceful_shutdown();
                    deadline.as_mut().reset(Instant::now() + LEAVE_TIMEOUT);
                    task.poll_next(Part::Connection);
                }
                Poll::Pending
            }
        })
    })
    .await
}

/// The calls that have begun since the connection was polled.
#[derive(Clone, Default)]
struct NewCalls(Arc<Mutex<NewCallsState>>);

#[derive(Default)]
struct NewCallsState {
    calls: Vec<Call>,
    /// Aborts the next one.
    abort: Option<AbortFlag>,
}

impl NewCalls {
    fn lock(&self) -> MutexGuard<'_, NewCallsState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for NewCalls {
    fn execute(&self, call: F) {
        let mut new = self.lock();
        let abort = new.abort.take();
        new.calls.push(Call { call: Box::pin(call), abort });
    }
}

/// A call.
struct Call {
    call: BoxFuture<'static, ()>,
    abort: Option<AbortFlag>,
}

impl Future for Call {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.abort.as_ref().is_some_and(AbortFlag::is_aborted) {
            return Poll::Ready(());
        }
        self.call.as_mut().poll(context)
    }
}
