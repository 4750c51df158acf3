//! Messages of watches as bytes, in gRPC's frames: encoded once for all watchers that are told the
//! same.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::{BufMut, Bytes};
use config_proto::v1;
use prost::Message;

/// gRPC's prefix of a message: whether it is compressed, and its length
/// ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
const PREFIX_BYTES: usize = 5;
/// How many bytes of messages a tenant keeps for other watchers: as many as one of them may have
/// waiting.
const MAX_SHARED_BYTES: usize = 256 * 1024;
/// For how many kinds of watchers: the search among them costs each watcher.
const MAX_KINDS: usize = 8;

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

    /// About how many bytes it takes.
    fn bytes(&self) -> usize {
        let texts = self.keys.iter().chain(&self.prefixes);
        texts.map(|text| text.len() + size_of::<String>()).sum()
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
pub struct SharedMessages {
    newest: Mutex<Newest>,
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Newest {
    revision: u64,
    messages: Vec<(Addressee, Bytes)>,
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
    /// What `addressee` is told of the commit of `revision`: as another one of the same kind was
    /// told it, or else as `encode` says.
    pub(crate) fn of(
        &self,
        revision: u64,
        addressee: &Addressee,
        encode: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Bytes> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if revision > newest.revision {
            *newest = Newest { revision, messages: Vec::new() };
            self.bytes.store(0, Relaxed);
        }
        if revision < newest.revision {
            // Somebody has gone on meanwhile.
            drop(newest);
            return encode();
        }
        if let Some((_, message)) = newest.messages.iter().find(|(own, _)| own == addressee) {
            return Some(message.clone());
        }
        if newest.messages.len() == MAX_KINDS {
            drop(newest);
            return encode();
        }
        // Under the lock: most of those who wait for it want the same.
        let message = encode()?;
        let bytes = self.bytes() + message.len() + addressee.selection.bytes();
        if bytes <= MAX_SHARED_BYTES {
            self.bytes.store(bytes, Relaxed);
            newest.messages.push((addressee.clone(), message.clone()));
        }
        Some(message)
    }

    /// How many bytes they take, with what says whom they are for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn addressee(key: &str, may_read_secrets: bool, told: u64) -> Addressee {
        let selection = Selection { keys: vec![key.to_owned()], prefixes: Vec::new() };
        Addressee { selection: Arc::new(selection), may_read_secrets, told }
    }

    /// Promise: a message is shared by those who watch the same, with the same rights, from the
    /// same revision, and by nobody else.
    #[test]
    fn only_equals_share_a_message() {
        let (messages, encoded) = (SharedMessages::default(), Cell::new(0_u8));
        let told = |revision, addressee: &Addressee| {
            let message = messages.of(revision, addressee, || {
                encoded.set(encoded.get() + 1);
                Some(Bytes::copy_from_slice(&[encoded.get()]))
            });
            message.unwrap()[0]
        };
        let one = addressee("a", false, 1);
        assert_eq!([told(2, &one), told(2, &one)], [1, 1]);
        for (other, number) in
            [addressee("b", false, 1), addressee("a", true, 1), addressee("a", false, 0)].iter().zip(2..)
        {
            assert_eq!(told(2, other), number, "{other:?}");
        }
        assert_eq!(told(2, &one), 1);
        // Whoever is late takes nothing from those who are not.
        assert_eq!([told(3, &one), told(2, &one), told(3, &one)], [5, 6, 5]);
    }

    /// Promise: what is kept for others is bounded, by whatever it grows.
    #[test]
    fn what_is_kept_is_bounded() {
        let many = Selection { keys: vec!["k".repeat(600); 100], prefixes: Vec::new() };
        for (selection, message) in [(many, 1), (Selection::default(), MAX_SHARED_BYTES / 3), (Selection::default(), 1)]
        {
            let (messages, message) = (SharedMessages::default(), Bytes::from(vec![0; message]));
            for told in 0..100 {
                let addressee = Addressee { selection: Arc::new(selection.clone()), may_read_secrets: true, told };
                assert_eq!(messages.of(1, &addressee, || Some(message.clone())).as_ref(), Some(&message));
            }
            assert!(messages.bytes() <= MAX_SHARED_BYTES);
            assert!(messages.newest.lock().unwrap().messages.len() <= MAX_KINDS);
        }
    }
}
