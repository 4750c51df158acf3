//! The HTTP port: the issuer and who this is below paths of their own, the gateway everywhere else.

use std::{
    future::IntoFuture,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
    serve::ListenerExt,
};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    gateway::{Gateway, WholeTargets},
    issuer::{self, Issuer},
    token::{Identity, SUITE_PATH},
};

/// How long open requests may still take when the server stops.
const DRAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Shared {
    issuer: Arc<Issuer>,
    identity: Identity,
    gateway: Gateway,
}

/// A port of this machine alone; 0 for any free one.
pub(crate) async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// Serves until `stop` is done, then lets open requests finish.
pub(crate) async fn serve(
    listener: TcpListener,
    issuer: Arc<Issuer>,
    identity: Identity,
    gateway: Gateway,
    stop: watch::Receiver<bool>,
) {
    // The other end is dropped, or says so: both mean stop.
    let stopped = |mut stop: watch::Receiver<bool>| async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let router = Router::new().fallback(answer).with_state(Arc::new(Shared { issuer, identity, gateway }));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    // Tapped for nothing but the clients' addresses, which axum knows of its own listeners alone.
    let listener = WholeTargets(listener).tap_io(|_| ());
    let serving = axum::serve(listener, service).with_graceful_shutdown(stopped(stop.clone()));
    let overdue = async {
        stopped(stop).await;
        // Connections that a client merely keeps open must not hold up the end.
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = serving.into_future() => {
            if let Err(error) = result {
                tracing::error!(%error, "the HTTP port is no longer served");
            }
        }
        () = overdue => tracing::warn!("some requests were cut off"),
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let path = request.uri().path();
    if request.method() == Method::GET && path == SUITE_PATH {
        return document(serde_json::to_value(&shared.identity).ok());
    }
    if request.method() == Method::GET && path.starts_with(issuer::PATH) {
        return document(shared.issuer.document(path));
    }
    shared.gateway.answer(request, client).await
}

fn document(document: Option<Value>) -> Response {
    let (status, body) = match document {
        Some(document) => (StatusCode::OK, document.to_string()),
        None => (StatusCode::NOT_FOUND, r#"{"message":"Not Found"}"#.to_owned()),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
