//! The streaming service, against the whole suite: real gRPC over loopback, writes through the HTTP
//! API and past it.

mod chaos;
mod disk;
mod freshness;
mod hints;
mod metrics;
mod reads;
mod restarts;
mod watches;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use config_proto::v1::{self, config_service_client::ConfigServiceClient, watch_config_response::Event};
use config_stream::Stream;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy, rt::TokioExecutor};
use serde_json::json;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::harness::{Api, Tenant};

/// An instance of the service beside the suite.
pub(crate) struct Instance {
    pub(crate) stream: Stream,
    pub(crate) channel: Channel,
}

/// A tenant's client of an instance.
pub(crate) struct Grpc {
    client: ConfigServiceClient<Channel>,
    token: String,
}

/// An open watch.
pub(crate) struct Watching {
    messages: Streaming<v1::WatchConfigResponse>,
    /// The position of the last message.
    pub(crate) position: Option<v1::Position>,
}

impl Instance {
    /// An instance with the settings of the template but for these.
    pub(crate) async fn start(api: &Api, changes: &[(&str, &str)]) -> Self {
        // Often, so that tests wait for little; a setting of a test's own comes first.
        let changes: Vec<_> = changes.iter().copied().chain([("POLL_INTERVAL_MS", "10")]).collect();
        let settings = api.suite.stream_settings(&changes).expect("usable settings");
        let stream = Stream::start(&settings).await.expect("the service starts");
        let channel = Endpoint::from_shared(format!("http://{}", stream.address())).expect("an address").connect_lazy();
        Self { stream, channel }
    }

    /// What it shows over HTTP/1.1.
    pub(crate) async fn page(&self, path: &str) -> (StatusCode, String) {
        page(self.stream.metrics_address().expect("metrics are served"), path).await
    }

    /// Acts for a tenant.
    pub(crate) fn tenant(&self, tenant: &Tenant<'_>) -> Grpc {
        self.with_token(&tenant.token)
    }

    /// Acts with a token.
    pub(crate) fn with_token(&self, token: &str) -> Grpc {
        Grpc { client: ConfigServiceClient::new(self.channel.clone()), token: token.to_owned() }
    }
}

impl Grpc {
    /// A client that brings what its caller gives it.
    pub(crate) fn client_of(instance: &Instance) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(instance.channel.clone())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = MetadataValue::try_from(format!("Bearer {}", self.token)).expect("a header");
        request.metadata_mut().insert("authorization", token);
        request
    }

    pub(crate) async fn get(&self, key: &str, min_revision: u64) -> Result<v1::GetConfigResponse, Status> {
        let request = self.request(v1::GetConfigRequest { key: key.to_owned(), min_revision });
        self.client.clone().get_config(request).await.map(tonic::Response::into_inner)
    }

    /// The value of a key and the revision of the answer.
    pub(crate) async fn value(&self, key: &str) -> (String, u64) {
        let answer = self.get(key, 0).await.expect("an entry");
        let entry = answer.entry.expect("an answer has an entry");
        (String::from_utf8(entry.value.to_vec()).expect("JSON"), answer.revision)
    }

    pub(crate) async fn batch_get(&self, keys: &[&str]) -> Result<v1::BatchGetConfigResponse, Status> {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let request = self.request(v1::BatchGetConfigRequest { keys, min_revision: 0 });
        self.client.clone().batch_get_config(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn list(&self, request: v1::ListConfigRequest) -> Result<v1::ListConfigResponse, Status> {
        self.client.clone().list_config(self.request(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn try_watch(&self, request: v1::WatchConfigRequest) -> Result<Watching, Status> {
        let messages = self.client.clone().watch_config(self.request(request)).await?.into_inner();
        Ok(Watching { messages, position: None })
    }

    /// Watches everything from the beginning, and takes the snapshot.
    pub(crate) async fn watch(&self) -> (Watching, v1::Snapshot) {
        let mut watching = self.try_watch(v1::WatchConfigRequest::default()).await.expect("a watch");
        let snapshot = watching.snapshot().await;
        (watching, snapshot)
    }

    /// Goes on from a position.
    pub(crate) async fn go_on(&self, position: v1::Position) -> Result<Watching, Status> {
        self.try_watch(v1::WatchConfigRequest { position: Some(position), ..v1::WatchConfigRequest::default() }).await
    }
}

impl Watching {
    /// The next message. A minute without one is a failure.
    pub(crate) async fn next(&mut self) -> Result<Event, Status> {
        let message = tokio::time::timeout(Duration::from_mins(1), self.messages.message()).await;
        let message = message.expect("a message comes")?.ok_or_else(|| Status::new(Code::Aborted, "the end"))?;
        if let Some(position) = message.position {
            self.position = Some(position);
        }
        Ok(message.event.expect("a message says something"))
    }

    /// The next message but heartbeats.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            match self.next().await.expect("a message") {
                Event::Heartbeat(_) => {}
                event => return event,
            }
        }
    }

    /// The next snapshot, its parts put together.
    pub(crate) async fn snapshot(&mut self) -> v1::Snapshot {
        let mut entries = Vec::new();
        loop {
            let Event::Snapshot(part) = self.event().await else { panic!("no snapshot") };
            entries.extend(part.entries);
            if !part.more {
                return v1::Snapshot { entries, ..part };
            }
        }
    }

    /// The next update.
    pub(crate) async fn update(&mut self) -> v1::Update {
        let Event::Update(update) = self.event().await else { panic!("no update") };
        update
    }

    /// The status that the watch ends with.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

/// What an update says, in one line: `previous→revision key@version=value …`.
pub(crate) fn line(update: &v1::Update) -> String {
    let changes = update.changes.iter().map(|change| {
        let value = change.entry.as_ref().map_or("-".into(), |entry| String::from_utf8_lossy(&entry.value));
        format!(" {}@{}={value}", change.key, change.version)
    });
    let skipped = update.skipped.as_ref().map_or(String::new(), |all| format!(" skipped {}-{}", all.first, all.last));
    format!("{}→{}{}{skipped}", update.previous_revision, update.revision, changes.collect::<String>())
}

/// What a snapshot holds, in one line.
pub(crate) fn entries(entries: &[v1::Entry]) -> String {
    let shown = entries.iter().map(|entry| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value)));
    shown.collect::<Vec<_>>().join(" ")
}

/// What is shown over HTTP/1.1.
pub(crate) async fn page(address: SocketAddr, path: &str) -> (StatusCode, String) {
    let url = format!("http://{address}{path}").parse().expect("an address");
    let client = legacy::Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(url).await.expect("an answer");
    let status = answer.status();
    let shown = answer.into_body().collect().await.expect("a page").to_bytes();
    (status, String::from_utf8(shown.to_vec()).expect("text"))
}

/// Puts a number under `tenant_config_<name>`.
pub(crate) async fn put(tenant: &Tenant<'_>, name: &str, value: u64) {
    let answer = tenant.put(&format!("tenant_config_{name}"), &json!(value)).await;
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text);
}

/// Waits until something is so. A minute in vain is a failure.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.expect("it comes to be so");
}
