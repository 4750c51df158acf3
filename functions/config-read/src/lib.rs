//! Answers everything that reads: entries, lists, batches, history, changes, and whether the service is there.

use lambda_http::http::StatusCode;
use serde::Serialize;
use tenantry::{
    auth::{Permission, TenantScope},
    clock::Timestamp,
    entry::{Author, ETag, Epoch, Revision, TagList, Version},
    function::{BoxFuture, Context, Front},
    http::{
        Answer, BatchGetBody, Cursor, CursorKind, EntryView, Event, Problem, ProblemType, Respond, StoreView,
        VersionView,
    },
    key::{ConfigKey, is_key_prefix},
    ledger::{Change, ChangeOperation},
    service::{At, Fetched, Foundation, ReadService},
    settings::Settings,
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

/// What is answered here, as the template's route keys.
pub const ROUTES: [&str; 6] = [HEALTH, GET_ENTRY, LIST_ENTRIES, BATCH_GET, GET_HISTORY, GET_CHANGES];

/// The running function.
#[derive(Debug)]
pub struct App {
    front: Front,
    foundation: Foundation,
    reader: ReadService,
}

/// Answers one request.
pub async fn handle(app: &App, event: Event, context: &Context) -> Answer {
    let route = event.route(&ROUTES);
    app.front.answer(&event, route, context, app.answer(route, &event)).await
}

impl App {
    /// Makes the function from its settings. Connects to nothing yet.
    pub fn start(settings: &Settings) -> Result<Self, lambda_runtime::Error> {
        let foundation = Foundation::new(settings)?;
        Ok(Self {
            front: Front::new("config-read", settings),
            reader: ReadService::new(foundation.clone(), settings),
            foundation,
        })
    }

    /// Connects to the ledger, within a second, whether that succeeds or not.
    pub async fn warm_up(&self) {
        self.foundation.ledger.warm_up().await;
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
        self.front.authorize(event, Permission::Read).await
    }

    fn is_secret(&self, key: &ConfigKey) -> bool {
        self.foundation.stores.of(key).is_secret()
    }

    async fn entry(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let key = event.key(CONFIG, &self.foundation.routes)?;
        let query = event.query(&["version", "minRevision"])?;
        let known_tags = event.tag_list("if-none-match")?;
        let (version, min_revision) = (query.version()?, query.revision("minRevision")?);
        if let Some(version) = version {
            let at = Box::pin(self.reader.version(scope, &key, version, min_revision)).await?;
            let past = past_entry(&key, version, &at)?;
            return Ok(self.tagged(&at, &key, past.shown_etag(), known_tags.as_ref(), &past));
        }
        let at = self.reader.get(scope, &key, event.freshness(min_revision)).await?;
        let Some(resolved) = &at.found else { return Err(Problem::no_value(&key, at.revision)) };
        Ok(self.tagged(&at, &key, &resolved.entry.shown_etag(), known_tags.as_ref(), &EntryView::from(&**resolved)))
    }

    /// One version of a key, or that the caller knows it already by its tag.
    fn tagged<T>(
        &self,
        at: &At<T>,
        key: &ConfigKey,
        etag: &ETag,
        known: Option<&TagList>,
        view: &impl Serialize,
    ) -> Answer {
        let is_known = known.is_some_and(|tags| tags.matches_weakly(Some(etag)));
        let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let respond = Respond::new(status).at(at).etag(etag).secret(self.is_secret(key));
        if is_known { respond.empty() } else { respond.json(view) }
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
        let at = self.reader.list(scope, prefix, after.as_deref(), query.limit(MAX_PAGE)?).await?;
        let has_secret = at.found.entries.iter().any(|one| self.is_secret(&one.entry.key));
        let view = ListView {
            revision: at.revision,
            entries: at.found.entries.iter().map(EntryView::from).collect(),
            cursor: at.found.next.as_deref().map(|last| cursor.at(last)),
        };
        Ok(Respond::new(StatusCode::OK).at(&at).secret(has_secret).json(&view))
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
            let key = ConfigKey::parse(&text, &self.foundation.routes)
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
        Ok(Respond::new(StatusCode::OK).at(&at).secret(has_secret).json(&view))
    }

    async fn history(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let key = event.key(HISTORY, &self.foundation.routes)?;
        let query = event.query(&["limit", "cursor"])?;
        let cursor = Cursor { tenant: scope.tenant(), kind: CursorKind::History(key.as_str()) };
        let position = query.text("cursor").map(|text| cursor.position(text)).transpose()?;
        let before = position.and_then(|digits| digits.parse().ok()).map(Version::new);
        let at = self.reader.history(scope, &key, before, query.limit(MAX_PAGE)?).await?;
        if at.found.versions.is_empty() && before.is_none() {
            return Err(Problem::new(ProblemType::NotFound, format!("{key} was never written")).at(at.revision));
        }
        let view = HistoryView {
            revision: at.revision,
            key: key.as_str(),
            versions: at.found.versions.iter().map(VersionView::from).collect(),
            cursor: at.found.next.map(|version| cursor.at(&version.to_string())),
        };
        Ok(Respond::new(StatusCode::OK).at(&at).secret(self.is_secret(&key)).json(&view))
    }

    async fn changes(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let query = event.query(&["since", "limit"])?;
        let Some(since) = query.revision("since")? else {
            let rule = "since is missing: the revision after which changes are wanted, 0 for all that are kept";
            return Err(Problem::new(ProblemType::InvalidParameter, rule));
        };
        let at = self.reader.changes(scope, since, query.limit(MAX_PAGE)?).await?;
        let (epoch, changes) = &at.found;
        let view =
            ChangesView { revision: at.revision, epoch, changes: changes.iter().map(ChangeView::from).collect() };
        Ok(Respond::new(StatusCode::OK).at(&at).json(&view))
    }
}

/// A past version as an entry, or why there is none to show.
fn past_entry<'a>(key: &ConfigKey, version: Version, at: &'a At<Option<Fetched>>) -> Result<VersionView<'a>, Problem> {
    match &at.found {
        None => Err(Problem::new(ProblemType::NotFound, format!("{key} has no version {version}")).at(at.revision)),
        Some(past) if !past.entry.is_live() => {
            Err(Problem::new(ProblemType::NotFound, format!("version {version} of {key} is a deletion"))
                .at(at.revision))
        }
        Some(past) if past.value.is_none() => Err(Problem::new(
            ProblemType::Gone,
            format!("the value of version {version} of {key} is not kept any more"),
        )
        .at(at.revision)),
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
        Self { revision: change.revision, at: change.at, author: &change.author, keys: keys.collect() }
    }
}
