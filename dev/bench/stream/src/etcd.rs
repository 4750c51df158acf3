//! etcd's interface, as far as it is measured: `etcdserverpb.KV` and `etcdserverpb.Watch` of etcd
//! 3.

use bytes::Bytes;
use prost::Message;

use crate::grpc::framed;

/// Reads keys.
pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
/// Writes a key.
pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
/// Watches keys.
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    /// Answered from what the member has, without asking the others.
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create_request: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

/// Asks for one key, serializable.
pub(crate) fn range(key: &'static str) -> Bytes {
    framed(&RangeRequest { key: Bytes::from_static(key.as_bytes()), serializable: true })
}

/// Puts one key.
pub(crate) fn put(key: &'static str, value: String) -> Bytes {
    framed(&PutRequest { key: Bytes::from_static(key.as_bytes()), value: value.into() })
}

/// Watches one key.
pub(crate) fn watch(key: &'static str) -> Bytes {
    let create_request = Some(WatchCreateRequest { key: Bytes::from_static(key.as_bytes()) });
    framed(&WatchRequest { create_request })
}
