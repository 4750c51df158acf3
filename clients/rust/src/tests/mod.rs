//! Tests against a scripted service over an in-memory network. Time is paused: it moves on when
//! nobody has anything to do.

mod backoff;
mod channels;
mod live;
mod reconnect;
mod service;
mod tracker;
mod unary;
mod watch;

use config_proto::v1::{self, KeyChange, WatchConfigResponse, watch_config_response};
use tokio::sync::mpsc;

use crate::{Error, Event, Watch};

/// A position as the service makes them: no two revisions have the same token.
fn position(revision: u64) -> v1::Position {
    v1::Position { revision, token: format!("t{revision}") }
}

/// An entry whose value is its revision.
fn entry(key: &str, revision: u64) -> v1::Entry {
    v1::Entry {
        key: key.to_owned(),
        value: revision.to_string().into(),
        content_type: "application/json".to_owned(),
        version: 1,
        revision,
        value_status: v1::ValueStatus::Present.into(),
    }
}

fn put(key: &str, revision: u64) -> KeyChange {
    let operation = v1::Operation::Put.into();
    KeyChange { key: key.to_owned(), operation, entry: Some(entry(key, revision)), version: 1 }
}

fn delete(key: &str) -> KeyChange {
    KeyChange { key: key.to_owned(), operation: v1::Operation::Delete.into(), entry: None, version: 2 }
}

fn snapshot(revision: u64, keys: &[&str]) -> WatchConfigResponse {
    let entries = keys.iter().map(|key| entry(key, revision)).collect();
    let snapshot = v1::Snapshot { entries, revision, more: false, stale: false };
    WatchConfigResponse {
        position: Some(position(revision)),
        event: Some(watch_config_response::Event::Snapshot(snapshot)),
    }
}

/// An update that follows the revision before it.
fn update(revision: u64, changes: Vec<KeyChange>) -> WatchConfigResponse {
    update_after(revision - 1, revision, changes)
}

/// An update between whose revision and the one before nothing else is watched.
fn update_after(previous_revision: u64, revision: u64, changes: Vec<KeyChange>) -> WatchConfigResponse {
    let update = v1::Update { revision, previous_revision, changes, skipped: None, more: false };
    WatchConfigResponse {
        position: Some(position(revision)),
        event: Some(watch_config_response::Event::Update(update)),
    }
}

/// An update that puts one key.
fn commit(revision: u64) -> WatchConfigResponse {
    commit_after(revision - 1, revision)
}

fn commit_after(previous_revision: u64, revision: u64) -> WatchConfigResponse {
    update_after(previous_revision, revision, vec![put("tenant_config_a", revision)])
}

fn skipping(first: u64, last: u64, changes: Vec<KeyChange>) -> WatchConfigResponse {
    let skipped = Some(v1::SkippedRevisions { first, last });
    let update = v1::Update { revision: last, previous_revision: first - 1, changes, skipped, more: false };
    WatchConfigResponse { position: Some(position(last)), event: Some(watch_config_response::Event::Update(update)) }
}

fn heartbeat(revision: u64) -> WatchConfigResponse {
    let heartbeat = v1::Heartbeat { revision, stale: false };
    WatchConfigResponse {
        position: Some(position(revision)),
        event: Some(watch_config_response::Event::Heartbeat(heartbeat)),
    }
}

/// Makes a message the first part of two: its position is that of before.
fn in_parts(mut first: WatchConfigResponse, before: Option<u64>) -> WatchConfigResponse {
    first.position = before.map(position);
    match &mut first.event {
        Some(watch_config_response::Event::Snapshot(snapshot)) => snapshot.more = true,
        Some(watch_config_response::Event::Update(update)) => update.more = true,
        Some(watch_config_response::Event::Heartbeat(_)) | None => panic!("it has no parts"),
    }
    first
}

/// What a watch tells, in short: `=5:2` a snapshot with two entries, `+6:1` an update with one
/// change, `~6` a heartbeat, `!` an end.
fn short(event: &Result<Event, Error>) -> String {
    match event {
        Ok(Event::Snapshot(snapshot)) => format!("={}:{}", snapshot.position.revision, snapshot.entries.len()),
        Ok(Event::Update(update)) => format!("+{}:{}", update.position.revision, update.changes.len()),
        Ok(Event::Heartbeat(heartbeat)) => format!("~{}", heartbeat.position.revision),
        Err(error) => format!("! {error}"),
    }
}

/// A watch that somebody listens to.
struct Listener {
    events: mpsc::UnboundedReceiver<Result<Event, Error>>,
}

impl Listener {
    fn new(mut watch: Watch) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(event) = watch.next().await {
                let _ = sender.send(event);
            }
        });
        Self { events }
    }

    /// The next event, in short; `.` after the end.
    async fn next(&mut self) -> String {
        service::soon(self.events.recv()).await.as_ref().map_or_else(|| ".".to_owned(), short)
    }

    /// As many events, in short.
    async fn take(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.next().await);
        }
        all
    }
}
