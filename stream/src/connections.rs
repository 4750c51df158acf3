//! Connections: each with all its calls in one task.
//!
//! tonic's own server has a task for each connection and one for each call, which wake each other
//! for every message, mostly from different threads. Here a call's future lies in its connection's
//! task: a message costs one wake, and a connection that ends takes its calls with it, also those
//! that wait for a peer who does not read.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
    task::AtomicWaker,
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

use crate::settings::TlsSettings;

/// How many calls one connection may have open at once.
const MAX_CALLS: u32 = 1_000;
/// How much metadata of a call is read at all, in bytes as HTTP/2 counts them; routes.rs takes far
/// less. A call with more is refused without a word of gRPC, and one with several times as much
/// costs the peer its connection: what it sends has to be read, or all later calls would be
/// misunderstood.
pub(crate) const MAX_HEADERS: u32 = 128 * 1024;
/// How much of a call's answer waits in memory for the peer to take it, in bytes.
const MAX_UNSENT: usize = 256 * 1024;
/// After what silence a peer is asked whether it is still there, and how long it may take to
/// answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer has for its first call, with all that comes before: agreeing on a key, agreeing
/// on HTTP/2.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer without a call has to go by itself, once it was told to.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nothing is taken after the system has refused a connection, as it does without file
/// descriptors.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// How often a connection and its calls are looked at in turns before others are.
const MAX_TURNS: usize = 16;

/// Answers a request.
pub(crate) type Answering = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Ends a call from outside, without a word. A call whose peer does not take what it has is not
/// looked at, and cannot end by itself.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Ends it when it is polled next.
    pub fn cut(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_cut(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableCertificate {
    /// A file is no PEM, or has not what it should have.
    #[error("no usable PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Certificate and key do not go together, or are not supported.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The certificates that clients' must lead to.
    #[error("the clients' CA: {0}")]
    Clients(#[from] rustls::server::VerifierBuilderError),
}

/// What makes TLS of a connection.
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

/// Answers by `answer` what comes over `listener`, over `max` connections at most, until `closed`
/// says so; then waits until all calls have ended, but not for peers that have made none. Dropping
/// it ends them.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    max: usize,
    answer: impl Fn(Request<Incoming>) -> (Answering, Option<Cut>) + Clone + Send + 'static,
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
            if let Err(error) = hold(stream, tls, answer, closed).await {
                // Peers go away as they like.
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
    // Those that the system has taken already are told to go elsewhere; closing the listener would
    // reset them.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        admit(&mut connections, stream, closed.clone());
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn hold(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    answer: impl Fn(Request<Incoming>) -> (Answering, Option<Cut>),
    closed: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    // Messages are small, and each is to go at once.
    stream.set_nodelay(true)?;
    match tls {
        None => converse(stream, answer, deadline, closed).await?,
        Some(tls) => {
            let mut closing = closed.clone();
            let leaving = async move {
                let _ = closing.wait_for(|closed| *closed).await;
                sleep(LEAVE_TIMEOUT).await;
            };
            let encrypted = tokio::select! {
                encrypted = timeout_at(deadline, tls.accept(stream)) => encrypted.map_err(io::Error::from)??,
                () = leaving => return Ok(()),
            };
            converse(encrypted, answer, deadline, closed).await?;
        }
    }
    Ok(())
}

/// Answers the calls of a connection, and closes it in good order when `closed` says so, or when
/// none has come until `deadline`. A peer that has made no call and does not go then is left: hyper
/// would wait for its half of the handshake for ever.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(Request<Incoming>) -> (Answering, Option<Cut>),
    deadline: Instant,
    mut closed: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let begun = Begun::default();
    let mut builder = http2::Builder::new(begun.clone());
    builder
        .timer(TokioTimer::new())
        // Nobody caches gRPC.
        .auto_date_header(false)
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(MAX_UNSENT)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let beginning = begun.clone();
    let answer = service_fn(move |request| {
        let (answering, cut) = answer(request);
        // hyper has the call executed before it takes the next one.
        beginning.lock().cut = cut;
        answering
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let mut calls = FuturesUnordered::new();
    // Until the first call. From then on keepalive finds out who is gone, and nobody pays for a
    // timer.
    let mut first_call_by = Some(Box::pin(sleep_until(deadline)));
    let mut is_told_to_go = false;
    let mut closing = pin!(async move { closed.wait_for(|closed| *closed).await.is_ok() }.fuse());
    let waker = Arc::new(ConnectionWaker::default());
    let [(calls_flag, calls_waker), (connection_flag, connection_waker)] = [waker.flag(), waker.flag()];
    poll_fn(|task| {
        waker.attend(task.waker());
        for _ in 0..MAX_TURNS {
            // Calls first: what they have to say goes out with what the connection does next.
            if calls_flag.take() {
                let context = &mut Context::from_waker(&calls_waker);
                while let Poll::Ready(Some(())) = calls.poll_next_unpin(context) {}
            }
            if connection_flag.take() {
                let context = &mut Context::from_waker(&connection_waker);
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
                let new = &mut begun.lock().calls;
                if !new.is_empty() {
                    first_call_by = None;
                    calls.extend(new.drain(..));
                    calls_flag.set();
                }
                if let Some(deadline) = &mut first_call_by
                    && deadline.as_mut().poll(context).is_ready()
                {
                    if is_told_to_go {
                        return Poll::Ready(Ok(()));
                    }
                    // First told, so that a call that is on its way is answered, or made elsewhere.
                    is_told_to_go = true;
                    connection.as_mut().graceful_shutdown();
                    deadline.as_mut().reset(Instant::now() + LEAVE_TIMEOUT);
                    connection_flag.set();
                }
            }
            if waker.may_rest([&calls_flag, &connection_flag]) {
                return Poll::Pending;
            }
        }
        // Others get their turn, too.
        waker.is_attended.store(false, Ordering::SeqCst);
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Where a connection's task is rung for: by what its calls wait for, and by what the connection
/// itself does. Each has a flag, so that only what has something to do is looked at. While the task
/// is there, it sees to its flags by itself, and need not be woken: the connection and its calls
/// mostly ring for each other, and the runtime would wake another thread for it.
#[derive(Default)]
struct ConnectionWaker {
    task: AtomicWaker,
    is_attended: AtomicBool,
}

impl ConnectionWaker {
    /// A flag that has rung already, for what is there at the beginning.
    fn flag(self: &Arc<Self>) -> (Arc<WakeFlag>, Waker) {
        let flag = Arc::new(WakeFlag { waker: Arc::clone(self), is_set: AtomicBool::new(true) });
        (Arc::clone(&flag), Waker::from(flag))
    }

    fn attend(&self, task: &Waker) {
        self.task.register(task);
        self.is_attended.store(true, Ordering::SeqCst);
    }

    /// Whether nothing has rung. If so, whatever rings from now on wakes the task.
    fn may_rest(&self, flags: [&WakeFlag; 2]) -> bool {
        self.is_attended.store(false, Ordering::SeqCst);
        let is_set = flags.iter().any(|flag| flag.is_set.load(Ordering::SeqCst));
        if is_set {
            self.is_attended.store(true, Ordering::SeqCst);
        }
        !is_set
    }
}

struct WakeFlag {
    waker: Arc<ConnectionWaker>,
    is_set: AtomicBool,
}

impl WakeFlag {
    fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
    }

    /// Whether it has rung since this was last asked.
    fn take(&self) -> bool {
        self.is_set.swap(false, Ordering::SeqCst)
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set();
        // If the task is there, it looks before it rests. If not, it may have looked just before:
        // one of the two sees to it.
        if !self.waker.is_attended.load(Ordering::SeqCst) {
            self.waker.task.wake();
        }
    }
}

/// The calls that have begun since the connection was last looked at.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<New>>);

#[derive(Default)]
struct New {
    calls: Vec<Call>,
    /// What ends the next one.
    cut: Option<Cut>,
}

impl Begun {
    fn lock(&self) -> MutexGuard<'_, New> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, call: F) {
        let mut new = self.lock();
        let cut = new.cut.take();
        new.calls.push(Call { call: Box::pin(call), cut });
    }
}

/// A call.
struct Call {
    call: BoxFuture<'static, ()>,
    cut: Option<Cut>,
}

impl Future for Call {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.cut.as_ref().is_some_and(Cut::is_cut) {
            return Poll::Ready(());
        }
        self.call.as_mut().poll(context)
    }
}
