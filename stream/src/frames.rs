//! Messages of watches as bytes, in gRPC's frames: encoded once for all watchers that are told the
//! same.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes};
use config_proto::v1;
use prost::Message;
use tenantry::tail::Commit;

/// gRPC's prefix of a message: whether it is compressed, and its length
/// ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
const PREFIX_BYTES: usize = 5;
/// How many bytes of messages a tenant keeps for other watchers: as many as one of them may have
/// waiting.
const MAX_SHARED_BYTES: usize = 256 * 1024;

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

/// What a watcher watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Keys, sorted.
    pub(crate) keys: Vec<String>,
    /// Prefixes of keys, sorted. Without keys and prefixes, all keys are watched.
    pub(crate) prefixes: Vec<String>,
}

impl Selection {
    /// Whether it is all keys.
    pub(crate) fn is_all(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }

    /// Whether it holds a key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.is_all()
            || self.keys.binary_search_by(|one| one.as_str().cmp(key)).is_ok()
            || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
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
    /// What `addressee` is told of `commit`: as another one of the same kind was told it, or else
    /// as `encode` says.
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

    /// Promise: a message is shared by those who watch the same, with the same rights, from the
    /// same revision, and by nobody else.
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
