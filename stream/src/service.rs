//! The methods of the interface: who calls, what for, and the answer.

use std::{borrow::Cow, collections::HashSet, future::Future, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use config_proto::v1::{self, config_service_server::ConfigService};
use futures_util::stream::{Empty, empty};
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
    answer::{self, CallError, View, full, no_key, too_often, unknown},
    connections::AbortFlag,
    frames::Selection,
    memory::{Fresh, Memory},
    pages::SlotValue,
    refusals::Refusals,
    waker::End,
    watch::{Watch, WatchOptions},
    watch_body::WatchBody,
};

/// How many entries a page has by default, and at most.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;
/// About how many bytes of entries an answer has. gRPC clients take messages of 4 MB by default.
const MAX_ANSWER_BYTES: usize = 3_500_000;
/// How many keys and how many prefixes a watch may name.
const MAX_SELECTION: usize = 100;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    memory: Arc<Memory>,
    tokens: TokenMemory,
    refusals: Refusals,
    limits: TenantLimits,
    /// Watches have a limit of their own: when an instance stops, all its watchers come at once,
    /// and must not keep out readers.
    watch_limits: TenantLimits,
    options: WatchOptions,
}

impl Service {
    /// A service over `memory`, for callers with tokens that `tokens` accepts.
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

    /// The caller, if the tenant may make another call. A caller who is refused costs the tenant
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

    async fn fresh(&self, bearer: &Bearer, min_revision: u64) -> Result<Fresh, CallError> {
        Ok(self.memory.fresh(&bearer.scope, Revision::new(min_revision)).await?)
    }

    fn view(&self, bearer: &Bearer) -> View<'_> {
        let backend = self.memory.tail().backend();
        View { backend, may_read_secrets: bearer.scope.may_read_secrets() }
    }

    /// A key whose value the caller may read. Checked before anything is read, so that a caller who
    /// may not read it does not learn whether it has a value.
    fn readable(&self, bearer: &Bearer, text: &str) -> Result<ConfigKey, CallError> {
        let key = self.key(text)?;
        self.memory.tail().backend().permit(&bearer.scope, &key)?;
        Ok(key)
    }

    fn key(&self, text: &str) -> Result<ConfigKey, Status> {
        let routes = &self.memory.tail().backend().routes;
        ConfigKey::parse(text, routes).map_err(|invalid| no_key(text, &invalid))
    }

    async fn get(&self, request: Request<v1::GetConfigRequest>) -> Result<v1::GetConfigResponse, CallError> {
        let bearer = self.caller(request.metadata(), &self.limits).await?;
        let request = request.into_inner();
        let key = self.readable(&bearer, &request.key)?;
        let Fresh { pages, revision, is_stale } = self.fresh(&bearer, request.min_revision).await?;
        let Some(slot) = pages.get(key.as_str()) else {
            // The last known state may be older than the key.
            return Err(CallError::Status(if is_stale {
                Status::unavailable("the stores do not answer, and nothing is known of the key; try again later")
            } else {
                Status::not_found(format!("{key} has no value"))
            }));
        };
        match slot.value {
            SlotValue::Present(_) => {}
            SlotValue::Withheld | SlotValue::Unavailable if is_stale => {
                return Err(Status::unavailable("the stores do not answer; try again later").into());
            }
            SlotValue::Withheld | SlotValue::Unavailable => return Err(ReadError::ValueMissing(key).into()),
        }
        let entry = Some(self.view(&bearer).entry(&slot));
        Ok(v1::GetConfigResponse { entry, revision: revision.get(), stale: is_stale })
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetConfigRequest>,
    ) -> Result<v1::BatchGetConfigResponse, CallError> {
        let bearer = self.caller(request.metadata(), &self.limits).await?;
        let request = request.into_inner();
        if !(1..=MAX_BATCH_KEYS).contains(&request.keys.len()) {
            let count = request.keys.len();
            return Err(Status::invalid_argument(format!(
                "keys has {count} keys; 1 to {MAX_BATCH_KEYS} are read at once"
            ))
            .into());
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

    async fn list(&self, request: Request<v1::ListConfigRequest>) -> Result<v1::ListConfigResponse, CallError> {
        let bearer = self.caller(request.metadata(), &self.limits).await?;
        let request = request.into_inner();
        check_prefix(&request.prefix)?;
        let limit = match usize::try_from(request.page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => return Err(Status::invalid_argument("page_size is below zero; 0 asks for 100").into()),
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

    async fn watch(&self, request: Request<v1::WatchConfigRequest>) -> Result<Watch, CallError> {
        let bearer = self.caller(request.metadata(), &self.watch_limits).await?;
        let abort = request.extensions().get::<AbortFlag>().cloned();
        let v1::WatchConfigRequest { mut keys, mut prefixes, position } = request.into_inner();
        for (name, list) in [("keys", &keys), ("prefixes", &prefixes)] {
            if list.len() > MAX_SELECTION {
                let count = list.len();
                return Err(Status::invalid_argument(format!(
                    "{name} has {count} members; at most {MAX_SELECTION} are allowed"
                ))
                .into());
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
        if let Some(abort) = abort {
            watched.registration.end(End { at: bearer.expires_at, abort });
        }
        let memory = Arc::clone(&self.memory);
        Watch::begin(memory, watched, selection, position, bearer.expires_at, self.options).await
    }

    /// Counts the call when it is answered.
    async fn counted<T>(
        &self,
        method: &'static str,
        answering: impl Future<Output = Result<T, CallError>>,
    ) -> Result<Response<T>, Status> {
        let answer = answering.await.map_err(CallError::into_status);
        let code = answer.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.memory.metrics().note_call(method, code);
        answer.map(Response::new)
    }
}

/// The `authorization` metadata. Several values are joined, as HTTP joins headers, and so are no
/// valid token.
fn authorization(metadata: &MetadataMap) -> Cow<'_, str> {
    let all = metadata.get_all("authorization").iter().map(|value| value.to_str().unwrap_or("not text"));
    all.map(Cow::Borrowed).reduce(|before, next| Cow::Owned(format!("{before},{next}"))).unwrap_or_default()
}

/// Refuses a text that no key begins with.
fn check_prefix(prefix: &str) -> Result<(), Status> {
    if is_key_prefix(prefix) {
        return Ok(());
    }
    let shown: String = prefix.chars().take(100).collect();
    let rule = "it is longer than any key, or has other characters than A-Z, a-z, 0-9, '_', '.', '-', '/'";
    Err(Status::invalid_argument(format!("no key begins with {shown:?}: {rule}")))
}

/// The last key of the page before. Memory has one tenant's entries, so a forged token leads
/// nowhere else.
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
    /// Of no messages: the answer's body is the watch itself.
    type WatchConfigStream = Empty<Result<v1::WatchConfigResponse, Status>>;

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
        let begun = self.watch(request).await.map_err(CallError::into_status);
        if let Err(status) = &begun {
            self.memory.metrics().note_call("WatchConfig", status.code());
        }
        begun.map(|watch| WatchBody::answer(watch, empty()))
    }
}
