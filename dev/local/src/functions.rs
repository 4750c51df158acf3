//! The three functions, called as the Lambda runtime calls them: JSON in, JSON out.

use std::{collections::BTreeMap, sync::Arc};

use emulator::RoleCredentials;
use futures_util::{FutureExt, future::BoxFuture};
use serde_json::Value;
use tenantry::{clock::Clock, function::Context, settings::Settings, telemetry::Telemetry};

use crate::{
    account::{ACCOUNT, REGION},
    gateway,
    template::{Stack, StackError},
};

/// The function that answers reads.
const READ: &str = "config-read";
/// The function that answers writes.
const WRITE: &str = "config-write";
/// The function behind events and schedules.
const REFRESH: &str = "config-refresh";

/// A function that cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FunctionError {
    /// The template has no such function.
    #[error(transparent)]
    Template(#[from] StackError),
    /// The template sends requests or events to a function that is not among the suite's.
    #[error("the template's function {0} is not part of the local suite, or not for this kind of event")]
    Unknown(String),
    /// It has no role, or one that the Lambda service may not take on.
    #[error("the function {0} has no role that it could run with")]
    Role(&'static str),
    /// Its settings or its start failed.
    #[error("cannot start {0}")]
    Start(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A function for events: takes one, with the trace that it belongs to.
pub(crate) type EventFunction =
    Arc<dyn Fn(Value, Option<String>) -> BoxFuture<'static, Result<Value, String>> + Send + Sync>;

/// The functions, running.
pub(crate) struct Functions {
    http: BTreeMap<String, gateway::Function>,
    events: BTreeMap<String, EventFunction>,
    write: Settings,
}

/// One more environment of a function, beside the one that answers the suite's requests: memory,
/// sessions and connections of its own.
#[derive(Clone)]
pub struct Environment(gateway::Function);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment {
    /// Calls the function as the Lambda service would.
    pub async fn invoke(&self, event: Value) -> Result<Value, String> {
        invoke(&self.0, event).await
    }
}

async fn invoke(function: &gateway::Function, event: Value) -> Result<Value, String> {
    let answer = function(event.to_string().into_bytes()).await?;
    serde_json::from_slice(&answer).map_err(|error| error.to_string())
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.http.keys().chain(self.events.keys())).finish()
    }
}

impl Functions {
    /// Starts all functions with the settings of the template. `lambda` are the environment
    /// variables that the Lambda service would add, but for the credentials of the function's role,
    /// which come from `credentials`.
    pub(crate) fn start(
        stack: &Stack,
        lambda: &BTreeMap<String, String>,
        credentials: &dyn Fn(&str) -> Option<RoleCredentials>,
        clock: &Clock,
        telemetry: &Telemetry,
    ) -> Result<Self, FunctionError> {
        let started = |name| move |error: Box<dyn std::error::Error + Send + Sync>| FunctionError::Start(name, error);
        let settings = |name| {
            let mut settings = settings(name, stack, lambda, credentials)?;
            settings.shared.clock = clock.clone();
            settings.telemetry = telemetry.clone();
            Ok::<_, FunctionError>(settings)
        };

        let app = config_read::App::start(&settings(READ)?).map_err(started(READ))?;
        let read = http_function(app, |app, event| {
            async move { config_read::handle(&app, event, &Context::default()).await }.boxed()
        });

        let write_settings = settings(WRITE)?;
        let write = write_function(&write_settings)?;

        let app = config_refresh::App::start(&settings(REFRESH)?).map_err(started(REFRESH))?;
        let app = Arc::new(app);
        let own_arn = format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{REFRESH}");
        let refresh: EventFunction = Arc::new(move |event, trace| {
            let app = Arc::clone(&app);
            let mut context = Context::default();
            context.xray_trace_id = trace;
            context.invoked_function_arn.clone_from(&own_arn);
            async move { config_refresh::handle(&app, event, &context).await.map_err(|error| error.to_string()) }
                .boxed()
        });

        let functions = Self {
            http: BTreeMap::from([(READ.to_owned(), read), (WRITE.to_owned(), write)]),
            events: BTreeMap::from([(REFRESH.to_owned(), refresh)]),
            write: write_settings,
        };
        match stack.api.routes.iter().find(|route| !functions.http.contains_key(&route.function)) {
            Some(route) => Err(FunctionError::Unknown(route.function.clone())),
            None => Ok(functions),
        }
    }

    /// The functions behind the API, by name.
    pub(crate) fn http(&self) -> BTreeMap<String, gateway::Function> {
        self.http.clone()
    }

    /// One more environment of config-write.
    pub(crate) fn another_writer(&self) -> Result<Environment, FunctionError> {
        Ok(Environment(write_function(&self.write)?))
    }

    /// Calls a function as the Lambda service would.
    pub(crate) async fn invoke(&self, name: &str, event: Value) -> Result<Value, String> {
        if let Some(function) = self.events.get(name) {
            return function(event, None).await;
        }
        let function = self.http.get(name).ok_or_else(|| format!("there is no function {name}"))?;
        invoke(function, event).await
    }

    /// The function for the events of a rule or a schedule.
    pub(crate) fn event(&self, name: &str) -> Result<EventFunction, FunctionError> {
        self.events.get(name).cloned().ok_or_else(|| FunctionError::Unknown(name.to_owned()))
    }
}

fn settings(
    name: &'static str,
    stack: &Stack,
    lambda: &BTreeMap<String, String>,
    credentials: &dyn Fn(&str) -> Option<RoleCredentials>,
) -> Result<Settings, FunctionError> {
    let function = stack.function(name)?;
    let own = function.role.as_deref().and_then(credentials).ok_or(FunctionError::Role(name))?;
    let source = |variable: &str| match variable {
        "AWS_ACCESS_KEY_ID" => Some(own.access_key_id.clone()),
        "AWS_SECRET_ACCESS_KEY" => Some(own.secret_access_key.clone()),
        "AWS_SESSION_TOKEN" => Some(own.session_token.clone()),
        _ => function.environment.get(variable).or_else(|| lambda.get(variable)).cloned(),
    };
    Settings::load(&source).map_err(|error| FunctionError::Start(name, error.into()))
}

fn write_function(settings: &Settings) -> Result<gateway::Function, FunctionError> {
    let app = config_write::App::start(settings).map_err(|error| FunctionError::Start(WRITE, error))?;
    Ok(http_function(app, |app, event| {
        async move { config_write::handle(&app, event, &Context::default()).await }.boxed()
    }))
}

/// Puts a handler behind bytes, so that it meets exactly what it would meet when deployed.
fn http_function<A, F>(app: A, handle: F) -> gateway::Function
where
    A: Send + Sync + 'static,
    F: Fn(Arc<A>, tenantry::http::Event) -> BoxFuture<'static, tenantry::http::Answer> + Send + Sync + 'static,
{
    let (app, handle) = (Arc::new(app), Arc::new(handle));
    Arc::new(move |event: Vec<u8>| {
        let (app, handle) = (Arc::clone(&app), Arc::clone(&handle));
        async move {
            let event = serde_json::from_slice(&event).map_err(|error| format!("unreadable event: {error}"))?;
            let answer = handle(app, event).await;
            serde_json::to_vec(&answer).map_err(|error| format!("unwritable answer: {error}"))
        }
        .boxed()
    })
}
