//! A service that does what a test says, call by call, over a network that a test can cut.

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use config_proto::v1::{
    BatchGetConfigRequest, BatchGetConfigResponse, GetConfigRequest, GetConfigResponse, ListConfigRequest,
    ListConfigResponse, WatchConfigRequest, WatchConfigResponse,
    config_service_server::{ConfigService, ConfigServiceServer},
};
use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::{BoxStream, unfold},
};
use h2::{Reason, server};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Response, Status,
    codegen::Service,
    codegen::http::{self, Uri},
    transport::{Server, ServerTlsConfig},
};

use crate::{Backoff, BoxError, Client, Options, TokenSource};

/// A call that waits for what the test says.
pub(super) struct Call<Q, A> {
    pub(super) request: Q,
    pub(super) authorization: String,
    /// Whether it says how long its caller waits.
    pub(super) is_bounded: bool,
    pub(super) at: Instant,
    reply: oneshot::Sender<Result<A, Status>>,
}

impl<Q, A> Call<Q, A> {
    pub(super) fn answer(self, answer: Result<A, Status>) {
        // The caller may have given up.
        let _ = self.reply.send(answer);
    }

    pub(super) fn fail(self, status: Status) -> Instant {
        let at = self.at;
        self.answer(Err(status));
        at
    }
}

type Messages = BoxStream<'static, Result<WatchConfigResponse, Status>>;
pub(super) type WatchCall = Call<WatchConfigRequest, Messages>;

impl WatchCall {
    /// The revision that it wants to go on from.
    pub(super) fn since(&self) -> Option<u64> {
        self.request.position.as_ref().map(|position| position.revision)
    }

    /// Takes the call, and says these messages.
    pub(super) fn say(self, messages: impl IntoIterator<Item = WatchConfigResponse>) -> Feed {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.answer(Ok(UnboundedReceiverStream::new(receiver).boxed()));
        let feed = Feed(sender);
        messages.into_iter().for_each(|message| feed.say(message));
        feed
    }
}

/// An open watch; it ends well when this is dropped.
pub(super) struct Feed(mpsc::UnboundedSender<Result<WatchConfigResponse, Status>>);

impl Feed {
    pub(super) fn say(&self, message: WatchConfigResponse) {
        let _ = self.0.send(Ok(message));
    }

    /// Waits until nobody listens any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    pub(super) fn end(self, status: Status) {
        let _ = self.0.send(Err(status));
    }
}

/// Fails, rather than waits for ever, if nothing comes. The time is that of paused tests: it is
/// long, and over at once.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_hours(1), what).await.expect("something happens")
}

/// The calls of one method, in the order in which they came.
pub(super) struct Calls<Q, A>(mpsc::UnboundedReceiver<Call<Q, A>>);

impl<Q, A> Calls<Q, A> {
    pub(super) async fn next(&mut self) -> Call<Q, A> {
        soon(self.0.recv()).await.expect("the service is there")
    }

    /// Whether there is none.
    pub(super) fn is_empty(&mut self) -> bool {
        self.0.is_empty()
    }
}

/// The service, as the test holds it.
pub(super) struct Script {
    pub(super) get: Calls<GetConfigRequest, GetConfigResponse>,
    pub(super) batch_get: Calls<BatchGetConfigRequest, BatchGetConfigResponse>,
    pub(super) list: Calls<ListConfigRequest, ListConfigResponse>,
    pub(super) watch: Calls<WatchConfigRequest, Messages>,
    pub(super) network: Network,
}

type Sender<Q, A> = mpsc::UnboundedSender<Call<Q, A>>;

#[derive(Clone)]
struct Fake {
    get: Sender<GetConfigRequest, GetConfigResponse>,
    batch_get: Sender<BatchGetConfigRequest, BatchGetConfigResponse>,
    list: Sender<ListConfigRequest, ListConfigResponse>,
    watch: Sender<WatchConfigRequest, Messages>,
}

async fn ask<Q, A>(calls: &Sender<Q, A>, request: Request<Q>) -> Result<Response<A>, Status> {
    let (reply, answer) = oneshot::channel();
    let text = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (authorization, is_bounded) = (text("authorization").unwrap_or_default(), text("grpc-timeout").is_some());
    let call = Call { authorization, is_bounded, at: Instant::now(), request: request.into_inner(), reply };
    let _ = calls.send(call);
    answer.await.map_err(|_| Status::internal("the test dropped the call"))?.map(Response::new)
}

#[tonic::async_trait]
impl ConfigService for Fake {
    type WatchConfigStream = Messages;

    async fn get_config(&self, request: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        ask(&self.get, request).await
    }

    async fn batch_get_config(
        &self,
        request: Request<BatchGetConfigRequest>,
    ) -> Result<Response<BatchGetConfigResponse>, Status> {
        ask(&self.batch_get, request).await
    }

    async fn list_config(&self, request: Request<ListConfigRequest>) -> Result<Response<ListConfigResponse>, Status> {
        ask(&self.list, request).await
    }

    async fn watch_config(&self, request: Request<WatchConfigRequest>) -> Result<Response<Messages>, Status> {
        ask(&self.watch, request).await
    }
}

/// What a client connects through: to the instance that is there, if one is.
#[derive(Clone)]
pub(super) struct Network(Arc<Mutex<Wires>>);

struct Wires {
    fake: Fake,
    instance: Option<Instance>,
    /// The hosts that were connected to.
    hosts: Vec<String>,
    connected: Vec<Wire>,
    broken: Option<Break>,
    /// How long it takes to connect.
    distance: Duration,
}

/// A connection.
struct Wire {
    task: AbortHandle,
    /// Has it carry nothing any more.
    hush: oneshot::Sender<()>,
}

struct Instance {
    connections: mpsc::UnboundedSender<DuplexStream>,
    stop: oneshot::Sender<()>,
}

/// How an instance, or what stands before it, leaves a call without a gRPC status.
#[derive(Clone, Copy, Debug)]
pub(super) enum Break {
    /// It resets the call's stream before it has answered anything.
    Reset(Reason),
    /// It begins an answer, and resets the stream (CANCEL) before its end.
    Unfinished,
    /// It sends GOAWAY, and ends the connection without waiting for its calls.
    GoAway(Reason),
}

impl Network {
    /// Starts an instance.
    pub(super) fn up(&self) {
        self.start(Server::builder());
    }

    /// Starts an instance that speaks TLS.
    pub(super) fn up_with_tls(&self, tls: ServerTlsConfig) {
        self.start(Server::builder().tls_config(tls).unwrap());
    }

    /// Has the next connection break its calls, and no other: the one after is made to the instance
    /// that is there.
    pub(super) fn break_next(&self, how: Break) {
        self.0.lock().unwrap().broken = Some(how);
    }

    fn start(&self, mut server: Server) {
        let mut wires = self.0.lock().unwrap();
        let (connections, accepted) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let incoming = unfold(accepted, async |mut accepted: mpsc::UnboundedReceiver<DuplexStream>| {
            accepted.recv().await.map(|connection| (Ok::<_, io::Error>(connection), accepted))
        });
        let server = server.add_service(ConfigServiceServer::new(wires.fake.clone()));
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, stopped.map(drop)));
        wires.instance = Some(Instance { connections, stop });
    }

    /// Has the instance send GOAWAY; it takes no new calls, and ends when its calls have.
    pub(super) fn go_away(&self) {
        let instance = self.0.lock().unwrap().instance.take();
        let _ = instance.expect("there is an instance").stop.send(());
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        self.0.lock().unwrap().connected.drain(..).for_each(|wire| wire.task.abort());
    }

    /// Has all connections carry nothing any more, without an end: their host has vanished.
    pub(super) fn vanish(&self) {
        for wire in self.0.lock().unwrap().connected.drain(..) {
            let _ = wire.hush.send(());
        }
    }

    /// Has it take this long to connect.
    pub(super) fn take_to_connect(&self, distance: Duration) {
        self.0.lock().unwrap().distance = distance;
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        self.0.lock().unwrap().hosts.clone()
    }

    fn connect(&self, uri: &Uri) -> io::Result<TokioIo<DuplexStream>> {
        let mut wires = self.0.lock().unwrap();
        wires.hosts.push(uri.host().unwrap_or_default().to_owned());
        let (near, mut near_end) = duplex(1 << 16);
        let (mut far_end, far) = duplex(1 << 16);
        if let Some(how) = wires.broken.take() {
            tokio::spawn(break_calls(far, how));
        } else {
            let instance = wires.instance.as_ref().ok_or(io::ErrorKind::ConnectionRefused)?;
            instance.connections.send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        }
        let (hush, hushed) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                _ = copy_bidirectional(&mut near_end, &mut far_end) => {}
                // It holds both ends, and keeps them open.
                Ok(()) = hushed => pending().await,
            }
        });
        wires.connected.push(Wire { task: task.abort_handle(), hush });
        Ok(TokioIo::new(near))
    }
}

/// Breaks each call of a connection, after which it is closed.
async fn break_calls(connection: DuplexStream, how: Break) {
    let mut connection = server::handshake(connection).await.unwrap();
    // Else their streams would be reset before the connection ends.
    let mut left = Vec::new();
    while let Some(Ok((_, mut call))) = connection.accept().await {
        match how {
            Break::Reset(reason) => call.send_reset(reason),
            Break::Unfinished => {
                let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                call.send_response(head, false).unwrap();
            }
            Break::GoAway(reason) => {
                connection.abrupt_shutdown(reason);
                left.push(call);
                continue;
            }
        }
        connection.graceful_shutdown();
    }
}

impl Service<Uri> for Network {
    type Response = TokioIo<DuplexStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>> {
        let (network, distance) = (self.clone(), self.0.lock().unwrap().distance);
        Box::pin(async move {
            if !distance.is_zero() {
                sleep(distance).await;
            }
            Ok(network.connect(&uri)?)
        })
    }
}

/// The bounds of pauses in tests.
pub(super) const BACKOFF: Backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(10) };

/// A client and the service that it talks to.
pub(super) fn service(token: impl TokenSource + 'static) -> (Client, Script) {
    service_with(Options::new("http://one", token).backoff(BACKOFF))
}

/// As [`service`], with these options.
pub(super) fn service_with(options: Options) -> (Client, Script) {
    let (get, get_calls) = mpsc::unbounded_channel();
    let (batch_get, batch_get_calls) = mpsc::unbounded_channel();
    let (list, list_calls) = mpsc::unbounded_channel();
    let (watch, watch_calls) = mpsc::unbounded_channel();
    let fake = Fake { get, batch_get, list, watch };
    let wires = Wires {
        fake,
        instance: None,
        hosts: Vec::new(),
        connected: Vec::new(),
        broken: None,
        distance: Duration::ZERO,
    };
    let network = Network(Arc::new(Mutex::new(wires)));
    network.up();
    let through = network.clone();
    let client =
        Client::connect_with(options, move |endpoint| endpoint.connect_with_connector_lazy(through.clone())).unwrap();
    let script = Script {
        get: Calls(get_calls),
        batch_get: Calls(batch_get_calls),
        list: Calls(list_calls),
        watch: Calls(watch_calls),
        network,
    };
    (client, script)
}
