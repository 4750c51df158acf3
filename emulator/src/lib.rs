//! The AWS services that the suite calls, on one port: a stand-in for development and tests.
//!
//! Point an AWS SDK, boto3 or the AWS CLI at [`Emulator::url`] with any credentials; service and operation are told
//! apart as these clients write them. What is here: `DynamoDB` (the embedded engine `dynoxide`), Parameter Store,
//! `EventBridge` (`PutEvents`, rules, and looking around) and STS (`GetCallerIdentity`).
//!
//! # How it differs from AWS
//!
//! - **No authentication.** Signatures are not verified. Whoever reaches the port may do everything that the program which
//!   starts the emulator does not forbid ([`Emulator::guard`]): that sees the actions and resources of IAM, no conditions.
//!   `DynamoDB` wants to see some credentials all the same. It speaks plain HTTP, and listens only where it is told to.
//! - **No throttling, no latency.** Limits of size and number are those of AWS; limits of rate are there where they are asked for
//!   ([`Faults::limit`]). Throttles, delays and other failures are injected, one by one or at random from a seed ([`Faults`]).
//! - **`DynamoDB` is always consistent.** Every read is strongly consistent and no index ever lags, unless a fault has it lag
//!   ([`Fault::StalePage`]). Expired items are deleted within seconds instead of days. Writes of one table never conflict by
//!   themselves: they run one by one.
//! - **`EventBridge` delivers at once**, to functions in this process, four times at most within about a second, unless
//!   [`Emulator::set_event_fate`] has events late, doubled or lost. What is under way when the emulator stops is lost. Buses,
//!   rules and targets cannot be made by a call: the program that starts the emulator adds rules. Event patterns are
//!   those of the crate `quamina`.
//! - **`Parameter Store Change` always comes**, while AWS's is best effort, unless [`Emulator::set_event_fate`] says otherwise.
//! - **Parameter Store** shows a put to every reader at once ([`Fault::StalePage`] has it lag), never answers
//!   `TooManyUpdates` by itself, lets a name be used again right after its deletion, takes any KMS key id and keeps
//!   secrets in plain text in its file, and knows no parameter policies. An `AllowedPattern` is a Rust regular expression.
//!   Last-modified times never repeat, as if AWS's clock never did. Pages are full unless [`Options::empty_pages`] or
//!   [`Fault::EmptyPage`] asks for AWS's habit of sending empty ones in between.
//! - **Data** stays in two `SQLite` files. Both have a write on disk before it is answered.

mod call_log;
mod dynamodb;
mod eventbridge;
mod faults;
mod gateway;
mod parameter_store;
mod permission;
mod server;
mod shutdown;
mod sts;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use call_log::CallLog;
pub use eventbridge::{Delivered, EventFate, EventOdds, Rule, RuleError, Target};
pub use faults::{ANY, Fault, Faults, Held, Injected, Schedule, Scheduled};
pub use permission::{Guard, Permission};

use dynamodb::DynamoDb;
use eventbridge::EventBridge;
use gateway::Gateway;
use parameter_store::ParameterStore;
use shutdown::Shutdown;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen, and nowhere else; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The directory for the data, made if it is not there. `None` keeps everything in memory.
    pub data: Option<PathBuf>,
    /// The region in ARNs and events, for example `us-east-1`.
    pub region: String,
    /// The account in ARNs and events: 12 digits.
    pub account: String,
    /// Whether listings of Parameter Store send empty pages in between, as those of AWS may: every third page, from
    /// the first on.
    pub empty_pages: bool,
}

impl Default for Options {
    /// In memory, on any free port of the loopback interface.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: None,
            region: "us-east-1".to_owned(),
            account: "000000000000".to_owned(),
            empty_pages: false,
        }
    }
}

/// Why the emulator could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address is taken, or is not one of this machine.
    #[error("cannot listen")]
    Listen(#[source] io::Error),
    /// The directory for the data could not be made.
    #[error("cannot use the directory for the data")]
    Data(#[source] io::Error),
    /// The tables could not be opened.
    #[error("cannot open DynamoDB: {0}")]
    DynamoDb(String),
    /// The parameters could not be opened.
    #[error("cannot open Parameter Store: {0}")]
    ParameterStore(String),
}

/// The services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Service {
    /// `DynamoDB` and its streams
    DynamoDb,
    /// Parameter Store, of Systems Manager
    ParameterStore,
    /// `EventBridge`
    EventBridge,
    /// Security Token Service
    Sts,
}

impl Service {
    fn protocol(self) -> wire::Protocol {
        match self {
            Self::DynamoDb => wire::Protocol::Json10,
            Self::ParameterStore | Self::EventBridge => wire::Protocol::Json11,
            Self::Sts => wire::Protocol::Query,
        }
    }
}

/// The running emulator. It stops when this is dropped; [`Emulator::stop`] also waits until it has.
#[derive(Debug)]
pub struct Emulator {
    url: String,
    gateway: Arc<Gateway>,
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Emulator {
    /// Starts it within the current Tokio runtime. Once this returns, calls are answered.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options { listen, data, region, account, empty_pages } = options;
        if let Some(data) = &data {
            std::fs::create_dir_all(data).map_err(StartError::Data)?;
        }
        let file = |name: &str| data.as_ref().map(|data| data.join(name));
        let listener = TcpListener::bind(listen).await.map_err(StartError::Listen)?;
        let url = format!("http://{}", listener.local_addr().map_err(StartError::Listen)?);

        let (shutdown, stopped) = Shutdown::channel();
        let events = Arc::new(EventBridge::new(&region, &account, stopped.clone()));
        let parameters = ParameterStore::open(
            file("parameters.sqlite").as_deref(),
            &region,
            &account,
            empty_pages,
            Arc::clone(&events),
        )?;
        let (dynamodb, mut tasks) = DynamoDb::start(file("dynamodb.sqlite").as_deref(), &stopped).await?;
        let gateway = Arc::new(Gateway {
            account: permission::Account { region, id: account },
            guarded: permission::Guarded::default(),
            calls: CallLog::default(),
            faults: Faults::default(),
            dynamodb,
            parameters,
            events,
            shutdown: stopped.clone(),
        });
        tasks.push(tokio::spawn(server::serve(listener, Arc::clone(&gateway), stopped)));
        Ok(Self { url, gateway, shutdown, tasks })
    }

    /// The address, for example `http://127.0.0.1:4566`, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Adds an `EventBridge` rule, or replaces the one of its name on its bus.
    pub fn add_rule(&self, rule: Rule) -> Result<(), RuleError> {
        self.gateway.events.add_rule(rule)
    }

    /// Decides what becomes of events from now on.
    pub fn set_event_fate(&self, fate: EventFate) {
        self.gateway.events.set_fate(fate);
    }

    /// Has `guard` decide from now on which calls are allowed.
    pub fn guard(&self, guard: Guard) {
        self.gateway.guarded.set(guard);
    }

    /// The calls so far.
    pub fn calls(&self) -> &CallLog {
        &self.gateway.calls
    }

    /// Failures on demand.
    pub fn faults(&self) -> &Faults {
        &self.gateway.faults
    }

    /// Resolves when no event is on its way to a target. The events of a call that was answered are counted, and so are
    /// those that a target causes by its own calls.
    pub async fn settled(&self) {
        self.gateway.events.settled().await;
    }

    /// Lets the calls under way finish, for up to five seconds, and stops. Deliveries under way are dropped.
    pub async fn stop(self) {
        self.shutdown.send_replace(true);
        let Self { gateway, tasks, .. } = self;
        drop(gateway);
        for task in tasks {
            if let Err(error) = task.await {
                tracing::warn!(%error, "a part of the emulator ended badly");
            }
        }
    }
}
