//! A key's current value, as the service tells it.

use bytes::Bytes;
use config_proto::v1::{self, ValueStatus};

/// A key's current value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key: its tag and its name, such as `tenant_config_limits`.
    pub key: String,
    /// The value, or why it is not there.
    pub value: Value,
    /// The media type of the value: `application/json`.
    pub content_type: String,
    /// Counts the writes of this key: 1, 2, 3, …
    pub version: u64,
    /// The tenant's revision at which this version was committed.
    pub revision: u64,
}

/// A value, or why it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// The value, in the form that the entry's `content_type` names.
    Present(Bytes),
    /// The key holds a secret, and the token lacks the scope `config/secrets`.
    Withheld,
    /// The value is committed, but cannot be had from its store any more.
    Unavailable,
    /// The service says something that this client does not know.
    Unknown,
}

impl Entry {
    /// The value, if it is there.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.value {
            Value::Present(bytes) => Some(bytes),
            Value::Withheld | Value::Unavailable | Value::Unknown => None,
        }
    }
}

impl From<v1::Entry> for Entry {
    fn from(entry: v1::Entry) -> Self {
        let value = match entry.value_status() {
            ValueStatus::Present => Value::Present(entry.value),
            ValueStatus::Withheld => Value::Withheld,
            ValueStatus::Unavailable => Value::Unavailable,
            ValueStatus::Unspecified => Value::Unknown,
        };
        let (key, content_type) = (entry.key, entry.content_type);
        Self { key, value, content_type, version: entry.version, revision: entry.revision }
    }
}
