//! The yardstick: the least that a service on tonic can be. Answers `GetConfig` with a constant,
//! and sends a message to all who watch when `BatchGetConfig` says so. Looks at no token and at no
//! key. Same crate features, profile and runtime as config-stream.

use std::{
    error::Error,
    io::{self, Write},
    net::Ipv4Addr,
    pin::Pin,
};

use bytes::Bytes;
use config_proto::v1::{
    self,
    config_service_server::{ConfigService, ConfigServiceServer},
    watch_config_response::Event,
};
use futures_util::{Stream, stream};
use tokio::{net::TcpListener, sync::watch};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

const KEY: &str = "tenant_config_limits";

struct Hello {
    /// What `GetConfig` answers.
    value: Bytes,
    /// What watchers are told.
    news: watch::Sender<(u64, Bytes)>,
}

fn entry(value: Bytes, revision: u64) -> v1::Entry {
    v1::Entry {
        key: KEY.to_owned(),
        value,
        content_type: "application/json".to_owned(),
        version: revision,
        revision,
        value_status: v1::ValueStatus::Present.into(),
    }
}

/// As config-stream tells of a commit of one key.
fn update(value: Bytes, revision: u64) -> v1::WatchConfigResponse {
    let change = v1::KeyChange {
        key: KEY.to_owned(),
        operation: v1::Operation::Put.into(),
        entry: Some(entry(value, revision)),
        version: revision,
    };
    let update = v1::Update {
        revision,
        previous_revision: revision.saturating_sub(1),
        changes: vec![change],
        skipped: None,
        more: false,
    };
    let position = v1::Position { revision, token: "a-token-as-long-as-they-are-0123456789ab".to_owned() };
    v1::WatchConfigResponse { position: Some(position), event: Some(Event::Update(update)) }
}

#[tonic::async_trait]
impl ConfigService for Hello {
    type WatchConfigStream = Pin<Box<dyn Stream<Item = Result<v1::WatchConfigResponse, Status>> + Send>>;

    async fn get_config(&self, _: Request<v1::GetConfigRequest>) -> Result<Response<v1::GetConfigResponse>, Status> {
        let entry = Some(entry(self.value.clone(), 1));
        Ok(Response::new(v1::GetConfigResponse { entry, revision: 1, stale: false }))
    }

    /// Sends the text that stands in the place of the first key to all who watch.
    async fn batch_get_config(
        &self,
        request: Request<v1::BatchGetConfigRequest>,
    ) -> Result<Response<v1::BatchGetConfigResponse>, Status> {
        let text = request.into_inner().keys.pop().unwrap_or_default();
        self.news.send_modify(|(revision, value)| (*revision, *value) = (*revision + 1, text.into()));
        Ok(Response::new(v1::BatchGetConfigResponse::default()))
    }

    async fn list_config(&self, _: Request<v1::ListConfigRequest>) -> Result<Response<v1::ListConfigResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn watch_config(
        &self,
        _: Request<v1::WatchConfigRequest>,
    ) -> Result<Response<Self::WatchConfigStream>, Status> {
        let mut news = self.news.subscribe();
        // So that the watcher knows that it watches.
        news.mark_changed();
        Ok(Response::new(Box::pin(stream::unfold(news, |mut news| async move {
            news.changed().await.ok()?;
            let (revision, value) = news.borrow_and_update().clone();
            Some((Ok(update(value, revision)), news))
        }))))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let value = Bytes::from(std::env::args().nth(1).unwrap_or_default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let hello = Hello { value, news: watch::Sender::new((1, Bytes::new())) };
    Server::builder()
        .add_service(ConfigServiceServer::new(hello))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}
