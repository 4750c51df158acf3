//! Answers everything that reads: entries, lists, batches, history, changes, and whether the
//! service is there.

use lambda_http::http::StatusCode;
use serde::Serialize;
use tenantry::{
    auth::{Permission, TenantScope},
    backend::Backend,
    clock::Timestamp,
    function::{ApiHandler, BoxFuture, Context},
    http::{
        Answer, BatchGetBody, Cursor, CursorKind, EntryView, Event, PageTag, Problem, ProblemType, Respond, StoreView,
        VersionView, digest,
    },
    ledger::{Change, ChangeOperation, Head},
    model::{
        comment::Comment,
        entry::{Author, ETag, EntityTagList, Epoch, Precondition, Revision, Version},
        key::{ConfigKey, is_key_prefix},
    },
    read::{At, Fetched, ReadService},
    settings::{Settings, SharedSettings},
    telemetry,
};

/// The most entries, versions or changes of one page.
const MAX_PAGE: usize = 100;
/// The most keys of one batch.
const MAX_BATCH_KEYS: usize = 100;

const CONFIG: &str = "/v1/config/";
const HISTORY: &str = "/v1/history/";

const HEALTH: &str = "GET /healthz";
const GET_ENTRY: &str = "GET /v1/config/{key+}";
const LIST_ENTRIES: &str = "GET /v1/config";
const BATCH_GET: &str = "POST /v1/batch-get";
const GET_HISTORY: &str = "GET /v1/history/{key+}";
const GET_CHANGES: &str = "GET /v1/changes";

/// What is answered here, as the template's route keys; each GET also answers HEAD.
pub const ROUTES: [&str; 6] = [HEALTH, GET_ENTRY, LIST_ENTRIES, BATCH_GET, GET_HISTORY, GET_CHANGES];

/// The running function.
#[derive(Debug)]
pub struct App {
    handler: ApiHandler,
    backend: Backend,
    reader: ReadService,
    /// A digest of the tag routes.
    routes: String,
}

/// Answers one request.
pub async fn handle(app: &App, event: Event, context: &Context) -> Answer {
    let route = event.route(&ROUTES);
    app.handler.answer(&event, route, context, app.answer(route, &event)).await
}

impl App {
    /// Makes the function from its settings. Connects to nothing yet.
    pub fn start(settings: &Settings) -> Result<Self, lambda_runtime::Error> {
        let SharedSettings { backend, tokens, tenant_limit, cache_max_bytes, clock } = &settings.shared;
        let routes = digest(&backend.routes);
        let backend = Backend::new(backend, clock)?;
        let telemetry = settings.telemetry.clone();
        Ok(Self {
            handler: ApiHandler::new("config-read", tokens, *tenant_limit, telemetry, clock.clone()),
            reader: ReadService::new(backend.clone(), *cache_max_bytes, clock.clone()),
            routes,
            backend,
        })
    }

    /// Connects to the ledger, within a second, whether that succeeds or not.
    pub async fn warm_up(&self) {
        self.backend.ledger.warm_up().await;
    }

    /// Each route's future in a box of its own, so that none is as large as the largest of them.
    fn answer<'a>(&'a self, route: Option<&str>, event: &'a Event) -> BoxFuture<'a, Result<Answer, Problem>> {
        match route {
            Some(HEALTH) => Box::pin(async { Ok(Respond::new(StatusCode::OK).text(r#"{"status":"ok"}"#.to_owned())) }),
            Some(LIST_ENTRIES) => Box::pin(async { self.list(&self.scope(event).await?, event).await }),
            Some(GET_CHANGES) => Box::pin(async { self.changes(&self.scope(event).await?, event).await }),
            Some(BATCH_GET) => Box::pin(async { self.batch_get(&self.scope(event).await?, event).await }),
            Some(GET_ENTRY) => Box::pin(async { self.entry(&self.scope(event).await?, event).await }),
            Some(GET_HISTORY) => Box::pin(async { self.history(&self.scope(event).await?, event).await }),
            _ => Box::pin(async { Err(Problem::no_route()) }),
        }
    }

    async fn scope(&self, event: &Event) -> Result<TenantScope, Problem> {
        self.handler.authorize(event, Permission::Read).await
    }

    /// The key that the request names behind `prefix`.
    fn key(&self, event: &Event, prefix: &str) -> Result<ConfigKey, Problem> {
        let key = event.key(prefix, &self.backend.routes)?;
        telemetry::note_key(&key);
        Ok(key)
    }

    fn is_secret(&self, key: &ConfigKey) -> bool {
        self.backend.stores.of(key).is_secret()
    }

    async fn entry(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let key = self.key(event, CONFIG)?;
        let query = event.query(&["version", "minRevision"])?;
        let asked = event.precondition()?;
        let (version, min_revision) = (query.version()?, query.revision("minRevision")?);
        if let Some(version) = version {
            let at = Box::pin(self.reader.version(scope, &key, version, min_revision)).await?;
            let past = past_entry(&key, version, &at)?;
            return shown(&at, Some(&past.shown_etag()), &asked, self.is_secret(&key), &past);
        }
        let at = self.reader.get(scope, &key, event.freshness(min_revision)).await?;
        let Some(resolved) = &at.found else { return Err(Problem::no_value(&key, at.revision)) };
        let view = EntryView::from(&**resolved);
        shown(&at, Some(&view.shown_etag()), &asked, self.is_secret(&key), &view)
    }

    /// The tag of a page: `query` says what is paged through, and where the page begins and ends.
    fn page_tag<'a>(&'a self, scope: &'a TenantScope, query: &'a [&'a str]) -> PageTag<'a> {
        PageTag { routes: &self.routes, scope, query }
    }

    async fn list(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let query = event.query(&["prefix", "limit", "cursor"])?;
        let prefix = query.text("prefix").unwrap_or_default();
        if !is_key_prefix(prefix) {
            let rule = "prefix must be the beginning of a key, of A-Z, a-z, 0-9, '_', '.', '-', '/'";
            return Err(Problem::new(ProblemType::InvalidParameter, rule));
        }
        let cursor = Cursor { tenant: scope.tenant(), kind: CursorKind::List(prefix) };
        let after = query.text("cursor").map(|text| cursor.position(text)).transpose()?;
        let (limit, asked) = (query.limit(MAX_PAGE)?, event.precondition()?);
        let page = ["list", prefix, after.as_deref().unwrap_or_default(), &limit.to_string()];
        let tag = self.page_tag(scope, &page);
        let head = self.reader.head(scope).await?;
        if let Some(known) = known_page(&tag.at(&head), &head, &asked, scope.may_read_secrets()) {
            return Ok(known);
        }
        let at = self.reader.list(scope, head, prefix, after.as_deref(), limit).await?;
        let has_secret = at.found.entries.iter().any(|one| self.is_secret(&one.entry.key));
        let view = ListView {
            revision: at.revision,
            entries: at.found.entries.iter().map(EntryView::from).collect(),
            cursor: at.found.next.as_deref().map(|last| cursor.at(last)),
        };
        let is_whole = at.found.entries.iter().all(|one| one.value.is_some() || one.withheld);
        let tag = is_whole.then(|| tag.at(&at.found.head));
        shown(&at, tag.as_ref(), &asked, has_secret, &view)
    }

    async fn batch_get(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let query = event.query(&["minRevision"])?;
        let (_, body): (_, BatchGetBody) = event.json(r#"{"keys": ["tenant_config_limits"]}"#)?;
        if !(1..=MAX_BATCH_KEYS).contains(&body.count()) {
            let rule = format!("a batch takes 1 to {MAX_BATCH_KEYS} keys; this one has {}", body.count());
            return Err(Problem::new(ProblemType::InvalidBody, rule));
        }
        let mut keys: Vec<ConfigKey> = Vec::with_capacity(body.count());
        for (index, text) in body.keys().enumerate() {
            let text = text?;
            let key = ConfigKey::parse(&text, &self.backend.routes)
                .map_err(|error| Problem::from(error).of_item(index, Some(&text)))?;
            self.reader.permit(scope, &key).map_err(|error| Problem::from(error).of_item(index, Some(&text)))?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let at = self.reader.batch_get(scope, &keys, event.freshness(query.revision("minRevision")?)).await?;
        let view = BatchView {
            revision: at.revision,
            found: at.found.found.iter().map(|resolved| EntryView::from(&**resolved)).collect(),
            missing: at.found.missing.iter().map(ConfigKey::as_str).collect(),
            unprocessed: at.found.unprocessed.iter().map(ConfigKey::as_str).collect(),
            unavailable: at.found.unavailable.iter().map(ConfigKey::as_str).collect(),
        };
        let has_secret = keys.iter().any(|key| self.is_secret(key));
        Respond::new(StatusCode::OK).at(&at).secret(has_secret).json(&view)
    }

    async fn history(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let key = self.key(event, HISTORY)?;
        let query = event.query(&["limit", "cursor"])?;
        let cursor = Cursor { tenant: scope.tenant(), kind: CursorKind::History(key.as_str()) };
        let position = query.text("cursor").map(|text| cursor.position(text)).transpose()?;
        let before = position.as_deref().and_then(|digits| digits.parse().ok()).map(Version::new);
        let (limit, asked) = (query.limit(MAX_PAGE)?, event.precondition()?);
        let page = ["history", key.as_str(), position.as_deref().unwrap_or_default(), &limit.to_string()];
        self.reader.permit(scope, &key)?;
        let head = self.reader.head(scope).await?;
        let tag = self.page_tag(scope, &page).at(&head);
        if let Some(known) = known_page(&tag, &head, &asked, self.is_secret(&key)) {
            return Ok(known);
        }
        let at = self.reader.history(scope, &head, &key, before, limit).await?;
        if at.found.versions.is_empty() && before.is_none() {
            return Err(Problem::new(ProblemType::NotFound, format!("{key} was never written")).at(at.revision));
        }
        let view = HistoryView {
            revision: at.revision,
            key: key.as_str(),
            versions: at.found.versions.iter().map(VersionView::from).collect(),
            cursor: at.found.next.map(|version| cursor.at(&version.to_string())),
        };
        let is_whole = at.found.versions.iter().all(|past| past.value.is_some() || !past.entry.is_live());
        shown(&at, Some(&tag).filter(|_| is_whole), &asked, self.is_secret(&key), &view)
    }

    async fn changes(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let query = event.query(&["since", "limit"])?;
        let Some(since) = query.revision("since")? else {
            let rule = "since is missing: the revision after which changes are wanted, 0 for all that are kept";
            return Err(Problem::new(ProblemType::InvalidParameter, rule));
        };
        let (limit, asked) = (query.limit(MAX_PAGE)?, event.precondition()?);
        let page = ["changes", &since.to_string(), &limit.to_string()];
        let head = self.reader.head(scope).await?;
        let tag = self.page_tag(scope, &page).at(&head);
        if let Some(known) = known_page(&tag, &head, &asked, false) {
            return Ok(known);
        }
        let at = self.reader.changes(scope, &head, since, limit).await?;
        let changes = at.found.iter().map(ChangeView::from).collect();
        let view = ChangesView { revision: at.revision, epoch: &head.epoch, changes };
        shown(&at, Some(&tag), &asked, false, &view)
    }
}

/// What was read, as far as the caller does not know it already, if it is what the caller means
/// (RFC 9110, 13.2.2). What has no tag is shown whatever the conditions say.
fn shown<T>(
    at: &At<T>,
    etag: Option<&ETag>,
    asked: &Precondition,
    is_secret: bool,
    view: &impl Serialize,
) -> Result<Answer, Problem> {
    let Some(etag) = etag else { return Respond::new(StatusCode::OK).at(at).secret(is_secret).json(view) };
    if let Some(tags) = asked.if_match.as_ref().filter(|tags| !tags.matches_strongly(Some(etag))) {
        return Err(Problem::not_matched(tags, etag, at.revision));
    }
    let is_known = asked.if_none_match.as_ref().is_some_and(|tags| tags.matches_weakly(Some(etag)));
    let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let respond = Respond::new(status).at(at).etag(etag).secret(is_secret);
    if is_known { Ok(respond.empty()) } else { respond.json(view) }
}

/// That the caller has the page already, if so: it names the very tag that the page has at `head`,
/// and got it with the page.
///
/// That page was read after a look at this same head. Since there was no commit in between, it
/// shows what there is at this revision. `*` says nothing of that kind, and `If-Match` is for pages
/// that there are: both are decided once the page is read.
fn known_page(tag: &ETag, head: &Head, asked: &Precondition, may_be_secret: bool) -> Option<Answer> {
    let names_it =
        matches!(&asked.if_none_match, Some(tags @ EntityTagList::Tags(_)) if tags.matches_weakly(Some(tag)));
    let at = At { revision: head.revision, age: None, stale: false, found: () };
    let respond = || Respond::new(StatusCode::NOT_MODIFIED).at(&at).etag(tag).secret(may_be_secret);
    (names_it && asked.if_match.is_none()).then(|| respond().empty())
}

/// A past version as an entry, or why there is none to show.
fn past_entry<'a>(key: &ConfigKey, version: Version, at: &'a At<Option<Fetched>>) -> Result<VersionView<'a>, Problem> {
    match &at.found {
        None => Err(Problem::new(ProblemType::NotFound, format!("{key} has no version {version}")).at(at.revision)),
        Some(past) if !past.entry.is_live() => {
            Err(Problem::new(ProblemType::NotFound, format!("version {version} of {key} is a deletion"))
                .at(at.revision))
        }
        Some(past) => Ok(VersionView::with_key(past)),
    }
}

#[derive(Serialize)]
struct ListView<'a> {
    revision: Revision,
    entries: Vec<EntryView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Serialize)]
struct BatchView<'a> {
    revision: Revision,
    found: Vec<EntryView<'a>>,
    missing: Vec<&'a str>,
    unprocessed: Vec<&'a str>,
    unavailable: Vec<&'a str>,
}

#[derive(Serialize)]
struct HistoryView<'a> {
    revision: Revision,
    key: &'a str,
    versions: Vec<VersionView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Serialize)]
struct ChangesView<'a> {
    revision: Revision,
    epoch: &'a Epoch,
    changes: Vec<ChangeView<'a>>,
}

#[derive(Serialize)]
struct ChangeView<'a> {
    revision: Revision,
    at: Timestamp,
    author: &'a Author,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a Comment>,
    keys: Vec<ChangedKeyView<'a>>,
}

#[derive(Serialize)]
struct ChangedKeyView<'a> {
    key: &'a str,
    version: Version,
    operation: ChangeOperation,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreView>,
}

impl<'a> From<&'a Change> for ChangeView<'a> {
    fn from(change: &'a Change) -> Self {
        let keys = change.keys.iter().map(|one| ChangedKeyView {
            key: &one.key,
            version: one.version,
            operation: one.operation,
            store: one.refusal.map(StoreView::from),
        });
        Self {
            revision: change.revision,
            at: change.at,
            author: &change.author,
            comment: change.comment.as_ref(),
            keys: keys.collect(),
        }
    }
}
