//! Messages of watches as bytes, in gRPC's frames: encoded once for all watchers that are told the
//! same, and sent without a copy.
//!
//! tonic encodes each message into a buffer of its stream, 8 KiB that stay. A thousand watchers of one
//! key are told the same bytes, so they share them here.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use config_proto::v1;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use prost::Message;
use tenantry::tail::Commit;
use tonic::{Response, Status};

use crate::watch::{Selection, Watch};

/// gRPC's prefix of a message: whether it is compressed, and its length
/// ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
const PREFIX_BYTES: usize = 5;
/// How many bytes of messages a tenant keeps for other watchers: as many as one of them may have
/// waiting.
const MAX_SHARED_BYTES: usize = 256 * 1024;
/// Messages that are ready together are sent together, up to about so many bytes.
const JOINED_BYTES: usize = 32 * 1024;

/// A message as it is sent.
pub(crate) fn framed(message: &v1::WatchConfigResponse) -> Bytes {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    // No message comes near: its values are a transaction's.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    frame.into()
}

/// The messages of a tenant's newest commit, one for each kind of watcher.
#[derive(Debug, Default)]
pub struct SharedMessages(Mutex<Shared>);

#[derive(Debug, Default)]
struct Shared {
    commit: Option<Arc<Commit>>,
    messages: Vec<(Addressee, Bytes)>,
    bytes: usize,
}

/// Whom a message is for. All of a kind are told the same of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addressee {
    pub(crate) selection: Arc<Selection>,
    pub(crate) may_read_secrets: bool,
    /// The last revision that it was told.
    pub(crate) told: u64,
}

impl SharedMessages {
    /// What `addressee` is told of `commit`: as another one of the same kind was told it, or else as
    /// `encode` says.
    pub(crate) fn of(
        &self,
        commit: &Arc<Commit>,
        addressee: &Addressee,
        encode: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Bytes> {
        // Encoded under the lock: whoever waits for it wants the same.
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !shared.commit.as_ref().is_some_and(|own| Arc::ptr_eq(own, commit)) {
            *shared = Shared { commit: Some(Arc::clone(commit)), ..Shared::default() };
        }
        if let Some((_, message)) = shared.messages.iter().find(|(own, _)| own == addressee) {
            return Some(message.clone());
        }
        let message = encode()?;
        if shared.bytes + message.len() <= MAX_SHARED_BYTES {
            shared.bytes += message.len();
            shared.messages.push((addressee.clone(), message.clone()));
        }
        Some(message)
    }

    /// How many bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

/// The body of a watch's answer.
pub(crate) struct WatchBody {
    watch: Watch,
    /// The status to end with, once what was ready before it has been sent.
    end: Option<Status>,
    is_over: bool,
}

impl WatchBody {
    /// An answer for tonic to begin, whose body is this watch's.
    pub(crate) fn answer<T>(watch: Watch, instead: T) -> Response<T> {
        let mut answer = Response::new(instead);
        let body = Self { watch, end: None, is_over: false };
        answer.extensions_mut().insert(Handover(Arc::new(Mutex::new(Some(body)))));
        answer
    }

    /// The answer that tonic has begun, with the body of its watch, if it is of one.
    pub(crate) fn of(mut answer: http::Response<tonic::body::Body>) -> http::Response<tonic::body::Body> {
        let handover: Option<Handover> = answer.extensions_mut().remove();
        let body = handover.and_then(|handover| handover.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        match body {
            Some(body) => answer.map(|_| tonic::body::Body::new(body)),
            None => answer,
        }
    }

    fn trailers(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl Body for WatchBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(status) = self.end.take() {
            return self.trailers(&status);
        }
        let mut next = match ready!(self.watch.poll_message(context)) {
            Ok(next) => next,
            Err(status) => return self.trailers(&status),
        };
        let mut joined = BytesMut::new();
        while next.is_followed && joined.len() + next.frame.len() < JOINED_BYTES {
            match self.watch.poll_message(context) {
                Poll::Pending => break,
                Poll::Ready(Ok(then)) => {
                    joined.extend_from_slice(&next.frame);
                    next = then;
                }
                Poll::Ready(Err(status)) => {
                    self.end = Some(status);
                    break;
                }
            }
        }
        if joined.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(next.frame))));
        }
        joined.extend_from_slice(&next.frame);
        Poll::Ready(Some(Ok(Frame::data(joined.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// Carries the body past tonic.
#[derive(Clone)]
struct Handover(Arc<Mutex<Option<WatchBody>>>);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tenantry::{clock::Timestamp, model::entry::Revision, tail::Position};

    use super::*;

    fn commit(revision: u64) -> Arc<Commit> {
        let position = Position { revision: Revision::new(revision), commit: None };
        Arc::new(Commit { position, at: Timestamp::from_millis(0), changes: Vec::new() })
    }

    fn addressee(key: &str, may_read_secrets: bool, told: u64) -> Addressee {
        let selection = Selection { keys: vec![key.to_owned()], prefixes: Vec::new() };
        Addressee { selection: Arc::new(selection), may_read_secrets, told }
    }

    /// Promise: a message is shared by those who watch the same, with the same rights, from the same
    /// revision, and by nobody else.
    #[test]
    fn only_equals_share_a_message() {
        let (messages, encoded) = (SharedMessages::default(), Cell::new(0_u8));
        let told = |commit: &Arc<Commit>, addressee: &Addressee| {
            let message = messages.of(commit, addressee, || {
                encoded.set(encoded.get() + 1);
                Some(Bytes::copy_from_slice(&[encoded.get()]))
            });
            message.unwrap()[0]
        };
        let (first, second) = (commit(2), commit(3));
        assert_eq!([told(&first, &addressee("a", false, 1)), told(&first, &addressee("a", false, 1))], [1, 1]);
        for (other, number) in
            [addressee("b", false, 1), addressee("a", true, 1), addressee("a", false, 0)].iter().zip(2..)
        {
            assert_eq!(told(&first, other), number, "{other:?}");
        }
        assert_eq!(told(&first, &addressee("a", false, 1)), 1);
        // Another history may have another commit of the same revision.
        assert_eq!([told(&second, &addressee("a", false, 1)), told(&commit(2), &addressee("a", false, 1))], [5, 6]);
    }

    /// Promise: what is kept for others is bounded, whatever is committed.
    #[test]
    fn large_messages_are_not_kept() {
        let (messages, commit) = (SharedMessages::default(), commit(1));
        for told in 0..10 {
            let large = Bytes::from(vec![0; MAX_SHARED_BYTES / 3]);
            assert_eq!(messages.of(&commit, &addressee("a", true, told), || Some(large.clone())), Some(large));
        }
        assert!(messages.bytes() <= MAX_SHARED_BYTES);
    }
}
