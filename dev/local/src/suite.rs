//! The suite: starts all its parts in the right order, and stops them.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region};
use config_stream::{
    Stream,
    settings::{StreamSettings, UnusableSettings},
};
use emulator::{Emulator, EventFate};
use futures_util::{FutureExt as _, TryFutureExt as _, future::BoxFuture};
use serde_json::Value;
use tenantry::{aws::OwnCredentials, clock::Clock, telemetry::Telemetry};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

pub use crate::account::{ACCOUNT, CREDENTIALS, REGION};
use crate::{
    data::{DataError, DataFolder, DataLock},
    event_source,
    functions::{Environment, FunctionError, Functions},
    gateway::{ApiIdentity, Gateway, JwtAuthorizer, Routes},
    issuer::{
        CLIENT_ID, DEFAULT_LIFETIME, DEFAULT_SCOPE, Issuer, IssuerError, TENANT_CLAIM, TokenRequest, generate_key,
    },
    ready::{self, Ready},
    schedule::Schedules,
    server,
    table::{self, TableError},
    template::{Deployment, Rule, Stack, StackError, StreamService, TEMPLATE, Target},
    token::Identity,
};

/// The tenants that tokens are made for at start.
pub const SAMPLE_TENANTS: [&str; 2] = ["acme", "globex"];

/// How long the suite takes to stop at most: 20 seconds for open gRPC calls (`DRAIN_SECONDS`), then
/// 5 for open requests, then 5 for their calls to the emulator. Nothing that was answered is lost
/// by being cut off.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How to start.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Port of the HTTP API and the issuer; 0 takes any free one.
    pub http_port: u16,
    /// Port of the AWS services; 0 takes any free one.
    pub aws_port: u16,
    /// Port of the gRPC service; 0 takes any free one. None: it does not run.
    pub grpc_port: Option<u16>,
    /// Folder for all data; without one everything is in memory and gone at the end.
    pub data: Option<PathBuf>,
    /// Values for parameters of the template, by name.
    pub parameters: BTreeMap<String, String>,
    /// Whether the schedules of the template run by themselves. Without it they run at
    /// [`Suite::run_schedules`] only.
    pub run_schedules: bool,
    /// File to write once everything answers (see [`Ready`]). One of an earlier run is removed
    /// first, and it is removed again when the suite stops.
    pub ready_file: Option<PathBuf>,
    /// Whether every event of every bus is lost. Schedules are none of them.
    pub lose_events: bool,
    /// Whether listings of Parameter Store send empty pages in between, as those of AWS may.
    pub empty_pages: bool,
    /// What the functions take for the time; the emulator, the issuer and the gateway go by the
    /// machine's clock.
    pub clock: Clock,
    /// Where the functions tell what becomes of their invocations.
    pub telemetry: Telemetry,
}

/// Why the suite did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The port of the HTTP API cannot be had.
    #[error("cannot listen on 127.0.0.1:{port} for HTTP; is another program using it? Choose another with --http-port")]
    HttpPort {
        /// The port asked for.
        port: u16,
        /// The system's reason.
        source: io::Error,
    },
    /// The emulator did not start.
    #[error("cannot start the AWS services on 127.0.0.1:{port}; another port can be chosen with --aws-port")]
    Emulator {
        /// The port asked for.
        port: u16,
        /// The emulator's reason.
        source: emulator::StartError,
    },
    /// The template cannot be run locally.
    #[error("template.yaml cannot be run locally")]
    Template(#[from] StackError),
    /// A rule of the template cannot be run locally.
    #[error("the event rule {0} cannot be run locally")]
    Rule(String, #[source] emulator::RuleError),
    /// A role of the template has a policy that the emulator does not understand.
    #[error("the role {0} cannot be enforced locally")]
    Role(String, #[source] emulator::PolicyError),
    /// ECS may not take on the role of the streaming service.
    #[error("the streaming service has no role that it could run with")]
    StreamRole,
    /// A rule feeds a queue that is not there.
    #[error("there is no queue {0}")]
    Queue(String),
    /// The table cannot be made.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A function did not start.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// The settings of the streaming service.
    #[error("the streaming service's settings in template.yaml cannot be used")]
    StreamSettings(#[from] UnusableSettings),
    /// The streaming service did not start.
    #[error("cannot start the streaming service; another port can be chosen with --grpc-port")]
    Stream(#[from] config_stream::StartError),
    /// The issuer cannot sign.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The issuer's key does not verify tokens.
    #[error("the issuer's key is unusable")]
    Key(#[source] jsonwebtoken::errors::Error),
}

/// The running suite. Dropping it stops it as well, but waits for nothing.
#[derive(Debug)]
pub struct Suite {
    http_url: String,
    issuer: Arc<Issuer>,
    tenant_claim: String,
    emulator: Emulator,
    functions: Functions,
    stream: Option<StreamService>,
    clock: Clock,
    streaming: Option<Stream>,
    schedules: Schedules,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    ready_file: Option<PathBuf>,
    _lock: Option<DataLock>,
}

impl Suite {
    /// Starts everything; when this returns, everything answers.
    // No `async fn`: each program and test that awaits one compiles all that it runs once more.
    pub fn start(options: Options) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(Self::begin(options))
    }

    async fn begin(options: Options) -> Result<Self, StartError> {
        let data = options.data.as_deref().map(DataFolder::open).transpose()?;
        let lock = data.as_ref().map(DataFolder::lock).transpose()?;
        // Only once the data folder is ours: it may be the file of a running instance.
        if let Some(file) = &options.ready_file {
            ready::remove(file)?;
        }
        let key = match &data {
            Some(data) => data.issuer_key()?,
            None => passing_key()?,
        };

        let http_port = |source| StartError::HttpPort { port: options.http_port, source };
        let listener = server::bind(options.http_port).await.map_err(http_port)?;
        let port = listener.local_addr().map_err(http_port)?.port();
        let issuer = Arc::new(Issuer::new(Issuer::url_at(port), &key)?);

        let stack = stack(&issuer, options.parameters)?;
        let emulator = Emulator::start(emulator::Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, options.aws_port)),
            data: data.as_ref().map(DataFolder::emulator),
            region: REGION.to_owned(),
            account: ACCOUNT.to_owned(),
            empty_pages: options.empty_pages,
        })
        .await
        .map_err(|source| StartError::Emulator { port: options.aws_port, source })?;
        if options.lose_events {
            emulator.set_event_fate(EventFate::Lost);
        }
        let dynamodb = dynamodb(emulator.url());
        for table in &stack.tables {
            table::ensure(&dynamodb, table).await?;
        }

        // Enforced as AWS would; who signs in nobody's name, such as the AWS CLI, may do
        // everything.
        for role in &stack.roles {
            let (name, trust, policies) = (role.name.clone(), role.trust.clone(), role.policies.clone());
            let added = emulator.add_role(emulator::Role { name, trust, policies });
            added.map_err(|error| StartError::Role(role.name.clone(), error))?;
        }
        let lambda = lambda_environment(emulator.url());
        let credentials = |role: &str| emulator.credentials_of(role);
        let functions = Functions::start(&stack, &lambda, &credentials, &options.clock, &options.telemetry)?;
        if stack.stream.as_ref().is_some_and(|stream| emulator.credentials_of(&stream.role).is_none()) {
            return Err(StartError::StreamRole);
        }
        for queue in &stack.queues {
            let (name, visibility_timeout, retention) = (queue.name.clone(), queue.visibility_timeout, queue.retention);
            emulator.add_queue(emulator::Queue { name, visibility_timeout, retention });
        }
        add_rules(&stack, &functions, &emulator)?;
        let mut schedules = Schedules::default();
        for schedule in &stack.schedules {
            schedules.add(schedule.clone(), functions.event(&schedule.function)?, options.run_schedules);
        }

        let api = ApiIdentity { account: ACCOUNT.to_owned(), api: "local".to_owned() };
        let authorizers = authorizers(&stack, &issuer)?;
        let tenant_claim = tenant_claim(&stack);
        let gateway = Gateway::new(api, port, Routes::new(stack.api.routes), authorizers, functions.http())
            .with_cors(stack.api.cors);
        let (stop, stopped) = watch::channel(false);
        let identity = Identity::new(&issuer, &tenant_claim, options.data.as_deref());
        let server = tokio::spawn(server::serve(listener, Arc::clone(&issuer), identity, gateway, stopped));
        if let Some(data) = &data {
            data.set_issuer_url(issuer.url())?;
        }
        let mut suite = Self {
            http_url: format!("http://127.0.0.1:{port}"),
            issuer,
            tenant_claim,
            emulator,
            functions,
            stream: stack.stream,
            clock: options.clock,
            streaming: None,
            schedules,
            stop,
            server,
            ready_file: options.ready_file,
            _lock: lock,
        };
        if let Some(port) = options.grpc_port {
            let mut settings = suite.stream_settings(&[])?;
            settings.address.set_port(port);
            suite.streaming = Some(Stream::start(&settings).await?);
        }
        if let Some(file) = &suite.ready_file {
            suite.write_ready_file(file)?;
        }
        Ok(suite)
    }

    fn write_ready_file(&self, file: &Path) -> Result<(), StartError> {
        let grpc_url = self.grpc_url();
        let ready = Ready {
            http_url: self.http_url(),
            aws_url: self.aws_url(),
            grpc_url: grpc_url.as_deref(),
            issuer: self.issuer.url(),
            jwks_url: &self.issuer.jwks_url(),
            tokens: &self.sample_tokens()?,
        };
        Ok(ready.write(file)?)
    }

    /// The address of the HTTP API, without a slash at its end.
    pub fn http_url(&self) -> &str {
        &self.http_url
    }

    /// The address of all AWS services, without a slash at its end.
    pub fn aws_url(&self) -> &str {
        self.emulator.url()
    }

    /// The address of the gRPC service, if it runs.
    pub fn grpc_url(&self) -> Option<String> {
        self.streaming.as_ref().map(|stream| format!("http://{}", stream.address()))
    }

    /// The token issuer.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The emulator of the AWS services, with its record of calls and its faults.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// What ECS would start the streaming service with: the settings of its task, where AWS is, and
    /// credentials of the task's role. None if the template is to have no such service.
    pub fn stream_environment(&self) -> Option<BTreeMap<String, String>> {
        let StreamService { environment, role, .. } = self.stream.as_ref()?;
        let own = self.emulator.credentials_of(role)?;
        let mut environment = environment.clone();
        let added = [
            ("AWS_ACCESS_KEY_ID", own.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", own.secret_access_key),
            ("AWS_SESSION_TOKEN", own.session_token),
            ("AWS_ENDPOINT_URL", self.emulator.url().to_owned()),
        ];
        environment.extend(added.map(|(name, value)| (name.to_owned(), value)));
        Some(environment)
    }

    /// The settings of the streaming service, as the template has them but for these: on a free
    /// port of this machine alone.
    pub fn stream_settings(&self, changes: &[(&str, &str)]) -> Result<StreamSettings, UnusableSettings> {
        let environment = self.stream_environment().unwrap_or_default();
        let setting = |name: &str| match changes.iter().find(|(changed, _)| *changed == name) {
            Some((_, value)) => Some((*value).to_owned()),
            None if name == "GRPC_ADDRESS" => Some("127.0.0.1:0".to_owned()),
            // Metrics are served only where a test asks for them.
            None if name == "METRICS_ADDRESS" => None,
            None => environment.get(name).cloned(),
        };
        let own = |name: &str| environment.get(name).cloned().unwrap_or_default();
        let (id, secret) = (own("AWS_ACCESS_KEY_ID"), own("AWS_SECRET_ACCESS_KEY"));
        let credentials = OwnCredentials::Fixed(Credentials::from_keys(id, secret, Some(own("AWS_SESSION_TOKEN"))));
        let mut settings = StreamSettings::load(&setting, credentials)?;
        settings.shared.clock = self.clock.clone();
        Ok(settings)
    }

    /// A token for `tenant` with the scopes in `scope`, separated by spaces. It is issued by
    /// whichever clock is behind, the machine's or the functions', so that it comes from nobody's
    /// future.
    pub fn token(&self, tenant: &str, scope: &str) -> Result<String, IssuerError> {
        let issued = Clock::system().now().min(self.clock.now());
        self.issuer.token(&TokenRequest {
            tenant,
            tenant_claim: &self.tenant_claim,
            scope,
            expires_in: DEFAULT_LIFETIME,
            claims: &[("iat".to_owned(), issued.seconds().to_string())],
        })
    }

    /// A token with all scopes for each of the [`SAMPLE_TENANTS`].
    pub fn sample_tokens(&self) -> Result<BTreeMap<String, String>, IssuerError> {
        SAMPLE_TENANTS.into_iter().map(|tenant| Ok((tenant.to_owned(), self.token(tenant, DEFAULT_SCOPE)?))).collect()
    }

    /// Calls the function `name` with an event, past the gateway and the event buses, as `cargo
    /// lambda invoke` would. The error is that of the function.
    pub async fn invoke(&self, name: &str, event: Value) -> Result<Value, String> {
        self.functions.invoke(name, event).await
    }

    /// One more environment of config-write: Lambda has as many as there are requests under way,
    /// while all requests to the suite's API share one.
    pub fn another_writer(&self) -> Result<Environment, FunctionError> {
        self.functions.another_writer()
    }

    /// Runs each schedule of the template once, now, and waits for it. The error is that of the
    /// function.
    pub async fn run_schedules(&self) -> Result<(), String> {
        self.schedules.run_once().await
    }

    /// Stops: no new requests, open ones are answered. It takes no longer than [`STOP_LIMIT`].
    pub async fn stop(self) {
        if timeout(STOP_LIMIT, self.stop_parts()).await.is_err() {
            tracing::warn!("what did not end in time was cut off");
        }
    }

    async fn stop_parts(self) {
        let Self { emulator, schedules, stop, server, streaming, ready_file, _lock, .. } = self;
        if let Some(Err(error)) = ready_file.as_deref().map(ready::remove) {
            tracing::warn!(%error, "the ready file is still there");
        }
        if let Some(streaming) = streaming {
            streaming.stop().await;
        }
        schedules.stop().await;
        stop.send_replace(true);
        if let Err(error) = server.await {
            tracing::error!(%error, "the HTTP server did not stop cleanly");
        }
        emulator.stop().await;
    }
}

fn add_rules(stack: &Stack, functions: &Functions, emulator: &Emulator) -> Result<(), StartError> {
    for Rule { name, bus, pattern, target } in stack.rules.clone() {
        let target: emulator::Target = match target {
            Target::Function(function) => {
                let function = functions.event(&function)?;
                Arc::new(move |event, trace| function(event, trace).map_ok(drop).boxed())
            }
            Target::Queue(queue) => match stack.sources.iter().find(|source| source.queue == queue) {
                Some(source) => event_source::target(source.clone(), functions.event(&source.function)?),
                None => emulator.queue_target(&queue).ok_or(StartError::Queue(queue))?,
            },
        };
        let added = emulator.add_rule(emulator::Rule { name: name.clone(), bus, pattern, target });
        added.map_err(|error| StartError::Rule(name, error))?;
    }
    Ok(())
}

/// The issuer's key where nothing is kept: one for the whole process, because making one takes
/// longer than the rest of a start.
fn passing_key() -> Result<String, IssuerError> {
    static KEY: OnceLock<String> = OnceLock::new();
    if let Some(key) = KEY.get() {
        return Ok(key.clone());
    }
    let key = generate_key()?;
    Ok(KEY.get_or_init(|| key).clone())
}

/// The template for this machine. What was asked for in vain is said at once.
fn stack(issuer: &Issuer, parameters: BTreeMap<String, String>) -> Result<Stack, StackError> {
    let stack = Stack::read(TEMPLATE, &deployment(issuer, parameters))?;
    for sentence in &stack.not_honoured {
        tracing::warn!("{sentence}");
    }
    Ok(stack)
}

fn deployment(issuer: &Issuer, parameters: BTreeMap<String, String>) -> Deployment {
    let mut values = BTreeMap::from([
        ("TokenIssuer".to_owned(), issuer.url().to_owned()),
        ("TokenAudience".to_owned(), CLIENT_ID.to_owned()),
        // Any name turns that part of the template on; there is no image here.
        ("StreamImage".to_owned(), "local".to_owned()),
    ]);
    values.extend(parameters);
    Deployment {
        region: REGION.to_owned(),
        account: ACCOUNT.to_owned(),
        stack: "tenantry".to_owned(),
        parameters: values,
    }
}

/// What the Lambda service adds to a function's environment, and where AWS is.
fn lambda_environment(aws_url: &str) -> BTreeMap<String, String> {
    [("AWS_REGION", REGION), ("AWS_ENDPOINT_URL", aws_url)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn authorizers(stack: &Stack, issuer: &Issuer) -> Result<BTreeMap<String, JwtAuthorizer>, StartError> {
    let mut authorizers = BTreeMap::new();
    for (name, authorizer) in &stack.api.authorizers {
        let expected = authorizer.issuer.clone();
        // The issuer's address changes with the port, its key does not. So tokens of an earlier run
        // on another port, or signed before the first run, remain good, as they would with an
        // identity provider that stays where it is.
        let accepts = move |issuer: &str| issuer == expected || Issuer::is_local(issuer);
        let authorizer =
            JwtAuthorizer::new(accepts, authorizer.audience.clone(), issuer.jwk()).map_err(StartError::Key)?;
        authorizers.insert(name.clone(), authorizer);
    }
    Ok(authorizers)
}

fn tenant_claim(stack: &Stack) -> String {
    let mut settings = stack.functions.values().map(|function| function.environment.get("TENANT_CLAIM"));
    settings.find_map(Option::<&String>::cloned).unwrap_or_else(|| TENANT_CLAIM.to_owned())
}

fn dynamodb(endpoint: &str) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(REGION))
        .credentials_provider(Credentials::new(CREDENTIALS, CREDENTIALS, None, None, "local"))
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}
