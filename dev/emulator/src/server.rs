//! Accepts connections and speaks HTTP on them. Not axum: only a service of hyper's own can close a
//! connection without an answer, which a lost reply looks like.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::gateway::Gateway;
use crate::shutdown::Shutdown;

/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long calls under way may still take once the emulator stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `shutdown` says so, then lets the calls under way finish.
pub(crate) async fn serve(listener: TcpListener, gateway: Arc<Gateway>, shutdown: Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&gateway), shutdown.clone()));
                }
                Err(error) => {
                    // Too many open files, most likely: it passes, and there is no use in spinning
                    // meanwhile.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!("some calls did not finish");
    }
}

async fn serve_connection(stream: TcpStream, gateway: Arc<Gateway>, shutdown: Shutdown) {
    // Answers are written at once; waiting for more to send with them would only cost time.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let gateway = Arc::clone(&gateway);
        async move { gateway.answer(request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log(ended),
        () = shutdown.requested() => connection.as_mut().graceful_shutdown(),
    }
    log(connection.await);
}

/// A connection may end in the middle, when its client goes away or a lost reply was asked for.
fn log(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
