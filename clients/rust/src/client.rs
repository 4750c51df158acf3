//! The client: single reads, tried again where that can help. Every call is a read, so doing one
//! twice does no harm.

use std::{collections::HashMap, future::Future, sync::Arc};

use config_proto::v1::{
    BatchGetConfigRequest, GetConfigRequest, ListConfigRequest, config_service_client::ConfigServiceClient,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    backoff::Pauses,
    channels::{ChannelId, Channels, Dial},
    entry::Entry,
    error::{Error, is_expiry},
    live::LiveConfig,
    options::Options,
    token::{Authorization, Tokens},
    watch::{Filter, Start, Watch},
};

/// Entries of a page: the most that the interface allows.
const PAGE_SIZE: i32 = 1_000;

/// A client of one tenant's configuration; the token says which tenant. Cheap to clone: clones
/// share connections and token.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    min_revision: u64,
}

struct Shared {
    channels: Channels,
    tokens: Tokens,
    options: Options,
}

/// What was read, and how new it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// The tenant's revision that this is of; if it took several requests, of the oldest answer.
    pub revision: u64,
    /// Whether the service's stores do not answer, so that this is the last that was known.
    pub stale: bool,
}

/// Entries of several keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The entries of the keys that have a value, in the order in which they were asked for.
    pub entries: Vec<Entry>,
    /// The keys that have none.
    pub missing_keys: Vec<String>,
}

impl Client {
    /// A client with these options. It connects when it is used first, so this fails only if the
    /// options cannot be used. Call it inside a Tokio runtime.
    pub fn connect(options: Options) -> Result<Self, Error> {
        Self::connect_with(options, Endpoint::connect_lazy)
    }

    /// As [`Client::connect`], over connections that this function makes: through a Unix socket,
    /// say, by [`Endpoint::connect_with_connector_lazy`]. The endpoints come with all settings of
    /// the options.
    pub fn connect_with(
        options: Options,
        dial: impl Fn(&Endpoint) -> Channel + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let dial: Arc<Dial> = Arc::new(dial);
        let channels = Channels::new(options.parsed_endpoints()?, options.connect_timeout, dial);
        let tokens = Tokens::new(Arc::clone(&options.token), options.token_timeout);
        Ok(Self { shared: Arc::new(Shared { channels, tokens, options }), min_revision: 0 })
    }

    /// The same client, whose reads see this revision at least: that of a write that must be seen.
    /// It does not concern watches.
    #[must_use]
    pub fn at_least(&self, revision: u64) -> Self {
        Self { min_revision: self.min_revision.max(revision), ..self.clone() }
    }

    /// Reads the entry of one key. [`Error::NotFound`] if it has no value.
    pub async fn get(&self, key: impl Into<String>) -> Result<Read<Entry>, Error> {
        let message = GetConfigRequest { key: key.into(), min_revision: self.min_revision };
        let answer =
            self.call(message, |mut service, request| async move { service.get_config(request).await }).await?;
        let entry = answer.entry.ok_or(Error::Protocol("it has no entry"))?;
        Ok(Read { value: entry.into(), revision: answer.revision, stale: answer.stale })
    }

    /// Reads the entries of 1 to 100 keys; one that is named several times is answered once. They
    /// are all of one revision, unless they are too large for one answer: then each further answer
    /// is of the same revision or a later one.
    pub async fn batch_get(&self, keys: impl IntoIterator<Item = impl Into<String>>) -> Result<Read<Batch>, Error> {
        let asked: Vec<String> = keys.into_iter().map(Into::into).collect();
        let mut read = Read { value: Batch::default(), revision: u64::MAX, stale: false };
        let (mut keys, mut min_revision) = (asked.clone(), self.min_revision);
        loop {
            let count = keys.len();
            let message = BatchGetConfigRequest { keys, min_revision };
            let answer = self
                .call(message, |mut service, request| async move { service.batch_get_config(request).await })
                .await?;
            read.revision = read.revision.min(answer.revision);
            read.value.entries.extend(answer.entries.into_iter().map(Entry::from));
            read.value.missing_keys.extend(answer.missing_keys);
            read.stale |= answer.stale;
            keys = answer.unprocessed_keys;
            if keys.is_empty() {
                break;
            }
            if keys.len() >= count {
                return Err(Error::Protocol("it leaves all keys unprocessed"));
            }
            // Another instance may answer the next request, and be behind. One whose stores are
            // down cannot be asked for more.
            if !read.stale {
                min_revision = min_revision.max(answer.revision);
            }
        }
        // Of a key that is named several times the first place counts.
        let order: HashMap<&str, usize> =
            asked.iter().enumerate().rev().map(|(nth, key)| (key.as_str(), nth)).collect();
        read.value.entries.sort_by_key(|entry| order.get(entry.key.as_str()));
        read.value.missing_keys.sort_by_key(|key| order.get(key.as_str()));
        Ok(read)
    }

    /// Reads all entries whose key begins with this, or all there are, in byte order of their keys.
    /// Each page of 1,000 is of one revision; later pages may be of later ones. To hold a
    /// configuration as it changes, use [`Client::live`].
    pub async fn list(&self, prefix: impl Into<String>) -> Result<Read<Vec<Entry>>, Error> {
        let mut message = ListConfigRequest {
            prefix: prefix.into(),
            page_size: PAGE_SIZE,
            page_token: String::new(),
            min_revision: self.min_revision,
        };
        let mut read = Read { value: Vec::new(), revision: u64::MAX, stale: false };
        loop {
            let page = self
                .call(message.clone(), |mut service, request| async move { service.list_config(request).await })
                .await?;
            read.value.extend(page.entries.into_iter().map(Entry::from));
            read.revision = read.revision.min(page.revision);
            read.stale |= page.stale;
            if page.next_page_token.is_empty() {
                break;
            }
            if page.next_page_token == message.page_token {
                return Err(Error::Protocol("its next page is the same page"));
            }
            message.page_token = page.next_page_token;
        }
        Ok(read)
    }

    /// Watches what the filter names. The watch connects when it is first asked for an event, and
    /// again by itself whenever it has to.
    pub fn watch(&self, filter: Filter, start: Start) -> Watch {
        Watch::new(self.clone(), filter, start)
    }

    /// Holds what the filter names in memory, always the newest. Call it inside a Tokio runtime.
    pub fn live(&self, filter: Filter) -> LiveConfig {
        LiveConfig::start(self.watch(filter, Start::Snapshot))
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn channels(&self) -> &Channels {
        &self.shared.channels
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    /// The service over the channel in use, and which one that is.
    pub(crate) fn service(&self) -> (ConfigServiceClient<Channel>, ChannelId) {
        let (channel, id) = self.shared.channels.current();
        let service = ConfigServiceClient::new(channel);
        (service.max_decoding_message_size(self.shared.options.max_message_bytes), id)
    }

    /// Makes an unary call, again where that can help, until the deadline.
    async fn call<M, R, Fut>(
        &self,
        message: M,
        call: impl Fn(ConfigServiceClient<Channel>, Request<M>) -> Fut,
    ) -> Result<R, Error>
    where
        M: Clone,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let Shared { channels, tokens, options } = &*self.shared;
        let deadline = Instant::now() + options.deadline;
        let mut pauses = Pauses::new(options.backoff);
        let mut renewed = false;
        let mut last: Option<Box<Error>> = None;
        loop {
            // The token source has nothing to do with the connection: it does not count for the
            // attempt.
            let Ok(authorization) = timeout_at(deadline, tokens.authorization()).await else {
                return Err(Error::at_deadline(last.or_else(|| Some(Box::new(Tokens::late())))));
            };
            let authorization = authorization?;
            let mut request = Self::authorized(message.clone(), &authorization);
            let (service, channel) = self.service();
            let begun = Instant::now();
            let left = deadline.saturating_duration_since(begun);
            // So that the service gives up when nobody waits any more.
            request.set_timeout(left);
            let patience = left.min(options.attempt_timeout);
            let error = match timeout(patience, call(service, request)).await {
                Ok(Ok(answer)) => {
                    channels.heard(channel, Instant::now());
                    return Ok(answer.into_inner());
                }
                // Tonic counts down what the request says it has: here that is the deadline, and no
                // failure of the connection.
                Ok(Err(status)) if is_expiry(&status) => return Err(Error::at_deadline(last)),
                Ok(Err(status)) => Error::from(status),
                // What came of the attempts before says more than that there was no time left for
                // this one. Nor does it say anything of the connection: the deadline is the
                // caller's, and may be shorter than any answer takes.
                Err(_) if patience == left => return Err(Error::at_deadline(last)),
                Err(_) => Error::Silent,
            };
            if !error.is_of_connection() {
                channels.heard(channel, Instant::now());
            }
            if matches!(error, Error::Unauthenticated(_)) {
                let may_renew = tokens.refused(&authorization);
                if may_renew && !renewed {
                    renewed = true;
                    continue;
                }
            }
            if !error.is_retried() {
                return Err(error);
            }
            match error {
                Error::Silent => channels.silent(channel, begun),
                _ => channels.failed(channel),
            }
            let pause = pauses.next();
            tracing::debug!(%error, pause_ms = pause.as_millis(), "a call is tried again");
            // What the service said last says more than what became of connections since.
            if !error.is_of_connection() || last.as_ref().is_none_or(|last| last.is_of_connection()) {
                last = Some(Box::new(error));
            }
            if Instant::now() + pause >= deadline {
                return Err(Error::at_deadline(last));
            }
            sleep(pause).await;
        }
    }

    /// A request with its token.
    pub(crate) fn authorized<M>(message: M, authorization: &Authorization) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", authorization.header.clone());
        request
    }
}
