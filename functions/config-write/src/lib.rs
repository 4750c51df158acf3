//! Carries out everything that writes: puts, deletes, rollbacks, transactions.

use lambda_http::http::StatusCode;
use serde::Serialize;
use tenantry::{
    auth::{Permission, TenantScope},
    backend::WriteBackend,
    function::{ApiHandler, Context},
    http::{
        Answer, Event, OperationBody, Problem, ProblemType, PutBody, Respond, RollbackBody, TransactionBody,
        WrittenView,
    },
    model::{
        comment::Comment,
        entry::{ETag, EntityTagList, Precondition, Revision},
        key::ConfigKey,
    },
    settings::{Settings, SharedSettings},
    telemetry,
    write::{MAX_OPERATIONS, Operation, WriteRequest, WriteService, Written},
};

const CONFIG: &str = "/v1/config/";
const ROLLBACK: &str = "/v1/rollback/";

const PUT_ENTRY: &str = "PUT /v1/config/{key+}";
const DELETE_ENTRY: &str = "DELETE /v1/config/{key+}";
const ROLL_BACK_ENTRY: &str = "POST /v1/rollback/{key+}";
const COMMIT_TRANSACTION: &str = "POST /v1/transactions";

/// What is answered here, as the template's route keys.
pub const ROUTES: [&str; 4] = [PUT_ENTRY, DELETE_ENTRY, ROLL_BACK_ENTRY, COMMIT_TRANSACTION];

/// The running function.
#[derive(Debug)]
pub struct App {
    handler: ApiHandler,
    backend: WriteBackend,
    writer: WriteService,
}

/// Answers one request.
pub async fn handle(app: &App, event: Event, context: &Context) -> Answer {
    let route = event.route(&ROUTES);
    app.handler.answer(&event, route, context, Box::pin(app.answer(route, &event))).await
}

impl App {
    /// Makes the function from its settings. Connects to nothing yet.
    pub fn start(settings: &Settings) -> Result<Self, lambda_runtime::Error> {
        let SharedSettings { backend, tokens, tenant_limit, clock, .. } = &settings.shared;
        let backend = WriteBackend::new(backend, settings.event_bus.clone(), clock)?;
        let telemetry = settings.telemetry.clone();
        Ok(Self {
            handler: ApiHandler::new("config-write", tokens, *tenant_limit, telemetry, clock.clone()),
            writer: WriteService::new(backend.clone(), clock.clone()),
            backend,
        })
    }

    /// Connects to the ledger, within a second, whether that succeeds or not.
    pub async fn warm_up(&self) {
        self.backend.ledger.warm_up().await;
    }

    async fn answer(&self, route: Option<&str>, event: &Event) -> Result<Answer, Problem> {
        match route {
            Some(PUT_ENTRY) => self.put(&self.scope(event).await?, event).await,
            Some(DELETE_ENTRY) => self.delete(&self.scope(event).await?, event).await,
            Some(ROLL_BACK_ENTRY) => self.rollback(&self.scope(event).await?, event).await,
            Some(COMMIT_TRANSACTION) => self.transaction(&self.scope(event).await?, event).await,
            _ => Err(Problem::no_route()),
        }
    }

    async fn scope(&self, event: &Event) -> Result<TenantScope, Problem> {
        self.handler.authorize(event, Permission::Write).await
    }

    /// The key that the request names behind `prefix`.
    fn key(&self, event: &Event, prefix: &str) -> Result<ConfigKey, Problem> {
        let key = event.key(prefix, &self.backend.routes)?;
        telemetry::note_key(&key);
        Ok(key)
    }

    async fn put(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let key = self.key(event, CONFIG)?;
        event.query(&[])?;
        let (text, body): (_, PutBody) = event.json(r#"{"value": …}"#)?;
        let comment = body.comment()?;
        self.write_one(scope, event, &text, key, Operation::Put(body.value()?), comment).await
    }

    async fn delete(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let key = self.key(event, CONFIG)?;
        // Not in a body: that of a DELETE has no meaning (RFC 9110, 9.3.5), and many on the way
        // drop it.
        let query = event.query(&["comment"])?;
        if !event.body()?.is_empty() {
            let rule = "a DELETE takes no body; a comment stands in its query, as ?comment=";
            return Err(Problem::new(ProblemType::InvalidBody, rule));
        }
        let text = query.text("comment").unwrap_or_default();
        self.write_one(scope, event, text, key, Operation::Delete, query.comment()?).await
    }

    async fn rollback(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        let key = self.key(event, ROLLBACK)?;
        event.query(&[])?;
        let (text, body): (_, RollbackBody) = event.json(r#"{"version": 3}"#)?;
        let comment = body.comment()?;
        self.write_one(scope, event, &text, key, Operation::Rollback(body.version()?), comment).await
    }

    async fn write_one(
        &self,
        scope: &TenantScope,
        event: &Event,
        body: &str,
        key: ConfigKey,
        operation: Operation,
        comment: Option<Comment>,
    ) -> Result<Answer, Problem> {
        let request = WriteRequest { key, precondition: event.precondition()?, operation };
        let written = self.writer.write(scope, &[request], comment, event.idempotency(body)?).await?;
        let created = written.receipt.writes.iter().any(|one| one.created && !one.deleted);
        let status = if created { StatusCode::CREATED } else { StatusCode::OK };
        let mut respond = written_headers(Respond::new(status), &written);
        let views = WrittenView::all(&written);
        let Some((view, one)) = views.first().zip(written.receipt.writes.first()) else { return Ok(respond.empty()) };
        if !one.deleted {
            respond = respond.etag(&ETag::from_stored(&one.etag));
        }
        respond.json(view)
    }

    async fn transaction(&self, scope: &TenantScope, event: &Event) -> Result<Answer, Problem> {
        event.query(&[])?;
        if event.header("if-match").or(event.header("if-none-match")).is_some() {
            let rule = "the preconditions of a transaction stand in its operations, as ifMatch and ifNoneMatch";
            return Err(Problem::new(ProblemType::InvalidParameter, rule));
        }
        let (text, body): (_, TransactionBody) =
            event.json(r#"{"operations": [{"op": "put", "key": "…", "value": …}]}"#)?;
        if !(1..=MAX_OPERATIONS).contains(&body.count()) {
            let rule = format!("a transaction takes 1 to {MAX_OPERATIONS} operations; this one has {}", body.count());
            return Err(Problem::new(ProblemType::InvalidBody, rule));
        }
        let comment = body.comment()?;
        let mut requests: Vec<WriteRequest> = Vec::with_capacity(body.count());
        for (index, operation) in body.operations().enumerate() {
            let operation = operation?;
            let of_this = |problem: Problem| problem.of_item(index, Some(&operation.key));
            let request = self.operation(&operation).map_err(of_this)?;
            if requests.iter().any(|other| other.key == request.key) {
                let rule = format!("{} stands in two operations; a transaction writes each key once", request.key);
                return Err(of_this(Problem::new(ProblemType::InvalidBody, rule)));
            }
            requests.push(request);
        }
        let written = self.writer.write(scope, &requests, comment, event.idempotency(&text)?).await?;
        let view = TransactionView { revision: written.receipt.revision, results: WrittenView::all(&written) };
        written_headers(Respond::new(StatusCode::OK), &written).json(&view)
    }

    fn operation(&self, body: &OperationBody) -> Result<WriteRequest, Problem> {
        let key = ConfigKey::parse(&body.key, &self.backend.routes)?;
        let tags = |name: &str, text: &Option<String>| -> Result<Option<EntityTagList>, Problem> {
            let parse = |text: &String| {
                text.parse().map_err(|error| {
                    Problem::new(ProblemType::InvalidBody, format!("{name} of {key} is malformed: {error}"))
                })
            };
            text.as_ref().map(parse).transpose()
        };
        let precondition = Precondition {
            if_match: tags("ifMatch", &body.if_match)?,
            if_none_match: tags("ifNoneMatch", &body.if_none_match)?,
        };
        let operation = match body.value()? {
            Some(value) => {
                // The service checks this, too, but does not say which operation it is.
                self.backend.stores.of(&key).check(&key, &value)?;
                Operation::Put(value)
            }
            None => Operation::Delete,
        };
        Ok(WriteRequest { key, precondition, operation })
    }
}

fn written_headers(respond: Respond, written: &Written) -> Respond {
    let respond = respond.revision(written.receipt.revision);
    if written.replayed { respond.header("idempotency-replayed", "true") } else { respond }
}

#[derive(Serialize)]
struct TransactionView<'a> {
    revision: Revision,
    results: Vec<WrittenView<'a>>,
}
