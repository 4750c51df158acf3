//! The methods of the interface: who asks, what for, and what the answer is.

use std::{borrow::Cow, collections::HashSet, future::Future, pin::Pin, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use config_proto::v1::{self, config_service_server::ConfigService};
use futures_util::Stream;
use tenantry::{
    auth::{Bearer, TokenMemory},
    ledger::MAX_BATCH_KEYS,
    limit::TenantLimits,
    model::{
        entry::Revision,
        key::{ConfigKey, is_key_prefix},
    },
    read::ReadError,
};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    answer::{self, View, full, no_key, refusal, too_often, unknown},
    connections::Cut,
    memory::{Fresh, Memory},
    pages::SlotValue,
    refusals::Refusals,
    waker::End,
    watch::{Selection, Watch, WatchOptions},
};

/// The entries of a page that asks for no number, and the most of one that does.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;
/// About how many bytes of entries an answer has; gRPC clients take messages of 4 MB unless they
/// are told otherwise.
const MAX_ANSWER_BYTES: usize = 3_500_000;
/// How many keys and prefixes a watch may name, each.
const MAX_SELECTION: usize = 100;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    memory: Arc<Memory>,
    tokens: TokenMemory,
    refusals: Refusals,
    limits: TenantLimits,
    /// Watches have a limit of their own: when an instance has ended, all its watchers come at
    /// once, and must not keep out who reads.
    watch_limits: TenantLimits,
    options: WatchOptions,
}

/// What a watcher is sent.
pub(crate) type Messages = Pin<Box<dyn Stream<Item = Result<v1::WatchConfigResponse, Status>> + Send>>;

impl Service {
    /// A service over `memory`, for callers whose tokens are known to `tokens`.
    pub(crate) fn new(
        memory: Arc<Memory>,
        tokens: TokenMemory,
        limits: [TenantLimits; 2],
        options: WatchOptions,
    ) -> Self {
        let [limits, watch_limits] = limits;
        let refusals = Refusals::default();
        Self { memory, tokens, refusals, limits, watch_limits, options }
    }

    /// Who calls, if the tenant may make another call. Who cannot act for a tenant costs it
    /// nothing.
    async fn caller(&self, metadata: &MetadataMap, limits: &TenantLimits) -> Result<Arc<Bearer>, Status> {
        let known = self.tokens.recognize(&authorization(metadata)).await;
        let bearer = known.map_err(|error| {
            self.refusals.note(&error);
            unknown(&error)
        })?;
        limits.admit(bearer.scope.tenant()).map_err(|over| too_often(&over))?;
        Ok(bearer)
    }

    async fn fresh(&self, bearer: &Bearer, min_revision: u64) -> Result<Fresh, Status> {
        self.memory.fresh(&bearer.scope, Revision::new(min_revision)).await.map_err(|error| refusal(&error))
    }

    fn view(&self, bearer: &Bearer) -> View<'_> {
        let backend = self.memory.tail().backend();
        View { backend, may_read_secrets: bearer.scope.may_read_secrets() }
    }

    /// A key whose value the caller may read. Decided before anything is looked for, so that who
    /// may not does not learn whether there is one.
    fn readable(&self, bearer: &Bearer, text: &str) -> Result<ConfigKey, Status> {
        let key = self.key(text)?;
        self.memory.tail().backend().permit(&bearer.scope, &key).map_err(|error| refusal(&error))?;
        Ok(key)
    }

    fn key(&self, text: &str) -> Result<ConfigKey, Status> {
        let routes = &self.memory.tail().backend().routes;
        ConfigKey::parse(text, routes).map_err(|invalid| no_key(text, &invalid))
    }

    async fn get(&self, request: Request<v1::GetConfigRequest>) -> Result<v1::GetConfigResponse, Status> {
        let bearer = self.caller(request.metadata(), &self.limits).await?;
        let request = request.into_inner();
        let key = self.readable(&bearer, &request.key)?;
        let Fresh { pages, revision, is_stale } = self.fresh(&bearer, request.min_revision).await?;
        let Some(slot) = pages.get(key.as_str()) else {
            // What was known last may be from before it came.
            return Err(if is_stale {
                Status::unavailable("the stores do not answer, and nothing is known of the key; try again later")
            } else {
                Status::not_found(format!("{key} has no value"))
            });
        };
        match slot.value {
            SlotValue::Present(_) => {}
            _ if is_stale => return Err(Status::unavailable("the stores do not answer; try again later")),
            _ => return Err(refusal(&ReadError::ValueMissing(key))),
        }
        let entry = Some(self.view(&bearer).entry(&slot));
        Ok(v1::GetConfigResponse { entry, revision: revision.get(), stale: is_stale })
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetConfigRequest>,
    ) -> Result<v1::BatchGetConfigResponse, Status> {
        let bearer = self.caller(request.metadata(), &self.limits).await?;
        let request = request.into_inner();
        if !(1..=MAX_BATCH_KEYS).contains(&request.keys.len()) {
            let count = request.keys.len();
            return Err(Status::invalid_argument(format!(
                "keys has {count} keys; 1 to {MAX_BATCH_KEYS} are read at once"
            )));
        }
        for key in &request.keys {
            self.readable(&bearer, key)?;
        }
        let Fresh { pages, revision, is_stale } = self.fresh(&bearer, request.min_revision).await?;
        let view = self.view(&bearer);
        let mut answer = v1::BatchGetConfigResponse {
            revision: revision.get(),
            stale: is_stale,
            ..v1::BatchGetConfigResponse::default()
        };
        let (mut bytes, mut seen) = (0, HashSet::new());
        // A key that is named several times is answered once.
        for key in request.keys.into_iter().filter(|key| seen.insert(key.clone())) {
            match pages.get(&key) {
                None => answer.missing_keys.push(key),
                Some(slot) => {
                    bytes += answer::size(&slot);
                    if bytes > MAX_ANSWER_BYTES && !answer.entries.is_empty() {
                        answer.unprocessed_keys.push(key);
                    } else {
                        answer.entries.push(view.entry(&slot));
                    }
                }
            }
        }
        Ok(answer)
    }

    async fn list(&self, request: Request<v1::ListConfigRequest>) -> Result<v1::ListConfigResponse, Status> {
        let bearer = self.caller(request.metadata(), &self.limits).await?;
        let request = request.into_inner();
        check_prefix(&request.prefix)?;
        let limit = match usize::try_from(request.page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => return Err(Status::invalid_argument("page_size is below zero; 0 asks for 100")),
        };
        let after = page_token(&request.page_token, &request.prefix)?;
        let Fresh { pages, revision, is_stale } = self.fresh(&bearer, request.min_revision).await?;
        let view = self.view(&bearer);
        let from = after.as_deref().unwrap_or(&request.prefix);
        let slots = pages.from(from).filter(|slot| after.as_deref() != Some(slot.key));
        let (mut entries, mut bytes, mut next_page_token) = (Vec::new(), 0, String::new());
        for slot in slots.take_while(|slot| slot.key.starts_with(&request.prefix)) {
            bytes += answer::size(&slot);
            if entries.len() == limit || (bytes > MAX_ANSWER_BYTES && !entries.is_empty()) {
                let last = entries.last().map_or("", |entry: &v1::Entry| &entry.key);
                next_page_token = BASE64_URL_SAFE_NO_PAD.encode(last);
                break;
            }
            entries.push(view.entry(&slot));
        }
        Ok(v1::ListConfigResponse { entries, next_page_token, revision: revision.get(), stale: is_stale })
    }

    async fn watch(&self, request: Request<v1::WatchConfigRequest>) -> Result<Messages, Status> {
        let bearer = self.caller(request.metadata(), &self.watch_limits).await?;
        let cut = request.extensions().get::<Cut>().cloned();
        let v1::WatchConfigRequest { mut keys, mut prefixes, position } = request.into_inner();
        for (name, list) in [("keys", &keys), ("prefixes", &prefixes)] {
            if list.len() > MAX_SELECTION {
                let count = list.len();
                return Err(Status::invalid_argument(format!(
                    "{name} has {count} members; at most {MAX_SELECTION} are allowed"
                )));
            }
        }
        for key in &keys {
            self.key(key)?;
        }
        prefixes.iter().try_for_each(|prefix| check_prefix(prefix))?;
        keys.sort_unstable();
        keys.dedup();
        prefixes.sort_unstable();
        prefixes.dedup();
        let selection = Selection { keys, prefixes };
        let scope = Arc::new(bearer.scope.clone());
        let mut watched = self.memory.watch(&scope).map_err(full)?;
        if let Some(cut) = cut {
            watched.registration.end(End { at: bearer.expires_at, cut });
        }
        let memory = Arc::clone(&self.memory);
        let watch = Watch::begin(memory, watched, selection, position, bearer.expires_at, self.options).await?;
        Ok(Box::pin(watch))
    }

    /// The answer to a call, counted.
    async fn counted<T>(
        &self,
        method: &'static str,
        answering: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let answer = answering.await;
        let code = answer.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.memory.metrics().note_call(method, code);
        answer.map(Response::new)
    }
}

/// The `authorization` metadata. Several are joined as several headers are in HTTP, and so are no
/// token.
fn authorization(metadata: &MetadataMap) -> Cow<'_, str> {
    let all = metadata.get_all("authorization").iter().map(|value| value.to_str().unwrap_or("not text"));
    all.map(Cow::Borrowed).reduce(|before, next| Cow::Owned(format!("{before},{next}"))).unwrap_or_default()
}

/// That a text can be the beginning of a key.
fn check_prefix(prefix: &str) -> Result<(), Status> {
    if is_key_prefix(prefix) {
        return Ok(());
    }
    let shown: String = prefix.chars().take(100).collect();
    let rule = "it is longer than any key, or has other characters than A-Z, a-z, 0-9, '_', '.', '-', '/'";
    Err(Status::invalid_argument(format!("no key begins with {shown:?}: {rule}")))
}

/// The key that a page begins behind. Memory has one tenant's entries, so a token can lead nowhere
/// else.
fn page_token(token: &str, prefix: &str) -> Result<Option<String>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = BASE64_URL_SAFE_NO_PAD.decode(token).ok().and_then(|key| String::from_utf8(key).ok());
    let key = key.filter(|key| is_key_prefix(key) && key.starts_with(prefix) && !key.is_empty());
    match key {
        Some(key) => Ok(Some(key)),
        None => Err(Status::invalid_argument("page_token is not of a page of this list; begin without one")),
    }
}

#[tonic::async_trait]
impl ConfigService for Service {
    type WatchConfigStream = Messages;

    async fn get_config(
        &self,
        request: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigResponse>, Status> {
        self.counted("GetConfig", self.get(request)).await
    }

    async fn batch_get_config(
        &self,
        request: Request<v1::BatchGetConfigRequest>,
    ) -> Result<Response<v1::BatchGetConfigResponse>, Status> {
        self.counted("BatchGetConfig", self.batch_get(request)).await
    }

    async fn list_config(
        &self,
        request: Request<v1::ListConfigRequest>,
    ) -> Result<Response<v1::ListConfigResponse>, Status> {
        self.counted("ListConfig", self.list(request)).await
    }

    async fn watch_config(
        &self,
        request: Request<v1::WatchConfigRequest>,
    ) -> Result<Response<Self::WatchConfigStream>, Status> {
        let begun = self.watch(request).await;
        if let Err(status) = &begun {
            self.memory.metrics().note_call("WatchConfig", status.code());
        }
        begun.map(Response::new)
    }
}
