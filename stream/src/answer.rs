//! The messages of the interface: entries, changes and positions; and errors as status codes.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use config_proto::v1;
use http::HeaderMap;
use hyper::body::Frame;
use tenantry::{
    auth::AuthError,
    aws::FailureKind,
    backend::Backend,
    ledger::{ChangeOperation, LedgerError},
    limit::OverLimit,
    model::{
        entry::{CommitId, Revision},
        key::InvalidKey,
    },
    read::ReadError,
    store::StoreError,
    tail::{KeyChange, Position, Value, Valued},
};
use tonic::{Code, Status};
use tracing::error;

use crate::{
    memory::Full,
    pages::{Slot, SlotValue},
};

/// The media type of all values (RFC 8259).
const JSON: &str = "application/json";

/// What a caller may see of a tenant's entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// Knows which keys hold secrets.
    pub(crate) backend: &'a Backend,
    /// Whether the caller may read secrets.
    pub(crate) may_read_secrets: bool,
}

impl View<'_> {
    /// Whether the caller may not see the value of this key.
    pub(crate) fn hides(&self, key: &str) -> bool {
        !self.may_read_secrets && self.backend.is_secret(key)
    }

    /// An entry in memory.
    pub(crate) fn entry(&self, slot: &Slot<'_>) -> v1::Entry {
        let (value, status) = match slot.value {
            _ if self.hides(slot.key) => (Bytes::new(), v1::ValueStatus::Withheld),
            SlotValue::Present(json) => (Bytes::copy_from_slice(json.as_bytes()), v1::ValueStatus::Present),
            // Withheld when it was loaded, not from this caller: the stores have not been read with
            // the caller's rights yet.
            SlotValue::Withheld | SlotValue::Unavailable => (Bytes::new(), v1::ValueStatus::Unavailable),
        };
        entry(slot.key, slot.version, slot.revision, value, status)
    }

    /// A change of a commit.
    pub(crate) fn change(&self, change: &KeyChange) -> v1::KeyChange {
        let operation = match change.operation {
            ChangeOperation::Put => v1::Operation::Put,
            ChangeOperation::Delete => v1::Operation::Delete,
            ChangeOperation::Supersede => v1::Operation::Supersede,
            ChangeOperation::Refuse => v1::Operation::Refuse,
            ChangeOperation::Accept => v1::Operation::Accept,
        };
        v1::KeyChange {
            key: change.key.to_string(),
            operation: operation.into(),
            entry: change.entry.as_ref().map(|entry| self.valued(change.key.as_str(), entry)),
            version: change.version.get(),
        }
    }

    fn valued(&self, key: &str, valued: &Valued) -> v1::Entry {
        let (value, status) = match &valued.value {
            _ if self.hides(key) => (Bytes::new(), v1::ValueStatus::Withheld),
            Value::Present(value) => (Bytes::copy_from_slice(value.as_json().as_bytes()), v1::ValueStatus::Present),
            Value::Withheld | Value::Unavailable => (Bytes::new(), v1::ValueStatus::Unavailable),
        };
        entry(key, valued.version.get(), valued.revision.get(), value, status)
    }
}

fn entry(key: &str, version: u64, revision: u64, value: Bytes, status: v1::ValueStatus) -> v1::Entry {
    v1::Entry {
        key: key.to_owned(),
        value,
        content_type: JSON.to_owned(),
        version,
        revision,
        value_status: status.into(),
    }
}

/// About how many bytes an entry takes in a message.
pub(crate) fn size(slot: &Slot<'_>) -> usize {
    let value = if let SlotValue::Present(json) = slot.value { json.len() } else { 0 };
    slot.key.len() + value + 64
}

/// What a watch is of. Its positions hold for the same watch only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchFingerprint(String);

impl WatchFingerprint {
    /// The fingerprint of a watch of these keys and prefixes, both sorted, with these rights.
    pub(crate) fn new(keys: &[String], prefixes: &[String], may_read_secrets: bool) -> Self {
        let text = format!("{may_read_secrets} {keys:?} {prefixes:?}");
        let hash = digest(&SHA256, text.as_bytes());
        Self(BASE64_URL_SAFE_NO_PAD.encode(&hash.as_ref()[..6]))
    }

    /// A position as it is sent.
    pub(crate) fn tell(&self, position: &Position) -> v1::Position {
        let token = match &position.commit {
            Some(commit) => format!("{}.{commit}", self.0),
            None => format!("{}.", self.0),
        };
        v1::Position { revision: position.revision.get(), token }
    }

    /// A position as it was sent, if it is of such a watch.
    pub(crate) fn read(&self, told: &v1::Position) -> Option<Position> {
        let revision = Revision::new(told.revision);
        if told.token.is_empty() {
            return Some(Position { revision, commit: None });
        }
        let commit = told.token.strip_prefix(&self.0)?.strip_prefix('.')?;
        Some(Position { revision, commit: (!commit.is_empty()).then(|| CommitId::from_stored(commit)) })
    }
}

/// Why a call fails.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The stores could not be read.
    Read(ReadError),
    /// The call itself cannot be answered.
    Status(Status),
}

impl From<ReadError> for CallError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl CallError {
    /// Ends the call, once: gives its status, and logs what operators have to act on.
    pub(crate) fn into_status(self) -> Status {
        match self {
            Self::Status(status) => status,
            Self::Read(failure) => end_read(&failure),
        }
    }
}

/// The status of a failed read. Logs what operators have to act on.
fn end_read(failure: &ReadError) -> Status {
    let text = failure.to_string();
    match failure {
        ReadError::Ledger(LedgerError::Aws(failure)) | ReadError::Store(StoreError::Aws(failure)) => match failure.kind
        {
            FailureKind::Refused => {
                error!(error = %failure.clone().code_only(), "AWS refused a call");
                Status::unavailable("the store refused the call; the operators have been told")
            }
            FailureKind::Throttled => Status::unavailable("the store is throttled; try again, with increasing pauses"),
            FailureKind::Unavailable | FailureKind::CircuitOpen { .. } => {
                Status::unavailable("the store does not answer; try again, with increasing pauses")
            }
        },
        ReadError::NotReached { .. } | ReadError::RouteChanged(_) | ReadError::ValueMissing(_) => {
            Status::failed_precondition(text)
        }
        ReadError::Secret(_) => Status::permission_denied(text),
        // Not RESOURCE_EXHAUSTED: trying again does not help.
        ReadError::TooLarge { .. } => Status::failed_precondition(format!("{text}, over the HTTP API")),
        ReadError::Compacted { .. } | ReadError::Ahead { .. } => {
            Status::out_of_range(format!("{text}; watch without a position, to start from a snapshot"))
        }
        ReadError::TooSlow | ReadError::Contention => Status::unavailable(format!("{text}; try again")),
        _ => {
            error!(error = %failure, "a store does not hold what was put");
            Status::unavailable("the store does not hold what was put; try again later")
        }
    }
}

/// A status as the end of an answer that has begun.
pub(crate) fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

/// The status of a refused caller.
pub(crate) fn unknown(failure: &AuthError) -> Status {
    match failure {
        AuthError::NoToken => {
            Status::unauthenticated("there is no bearer token; send one in the authorization metadata")
        }
        AuthError::MissingScope { .. } | AuthError::NoTenant { .. } => Status::permission_denied(failure.to_string()),
        AuthError::KeysUnavailable { .. } => Status::unavailable(failure.to_string()),
        _ => Status::unauthenticated(failure.to_string()),
    }
}

/// The status of a caller over its limit.
pub(crate) fn too_often(over: &OverLimit) -> Status {
    Status::resource_exhausted(over.to_string())
}

/// The status of a watcher for which there is no place.
pub(crate) fn full(full: Full) -> Status {
    Status::resource_exhausted(full.to_string())
}

/// The status of an invalid key.
pub(crate) fn no_key(text: &str, invalid: &InvalidKey) -> Status {
    let shown: String = text.chars().take(100).collect();
    Status::invalid_argument(format!("the key {shown:?}: {invalid}"))
}

/// The status of a position that a watch cannot go on from.
pub(crate) fn out_of_range(what: &str) -> Status {
    Status::new(Code::OutOfRange, format!("{what}; watch without a position, to start from a snapshot"))
}
