//! The AWS services that the suite calls, on one port: a stand-in for development and tests.
//!
//! Point an AWS SDK, boto3 or the AWS CLI at [`Emulator::url`] with any credentials; service and
//! operation are told apart as these clients write them. What is here: `DynamoDB` (the embedded
//! engine `dynoxide`), Parameter Store, `EventBridge` (`PutEvents`, rules, and looking around), SQS
//! (sending, receiving and deleting messages), and STS (`AssumeRole`, `GetCallerIdentity`) with the
//! policies of IAM ([`Emulator::add_role`]).
//!
//! # How it differs from AWS
//!
//! - **No authentication of users.** Signatures are not verified. A caller without a signature, or
//!   with an access key id that does not begin with `ASIA` (`local`, `test`), is the account's
//!   administrator: it may do everything, and assume any role whatever its trust policy says.
//!   `DynamoDB` wants to see some credentials all the same. It speaks plain HTTP, and listens only
//!   where it is told to. Ids that begin with `ASIA` are temporary credentials: they must be ones
//!   that this emulator gave out, with their session token, and not past their end. They are kept
//!   in memory, 10,000 at most; beyond, those that end soonest are forgotten.
//! - **IAM evaluates** roles' identity-based policies, session policies, and trust policies where a
//!   role is assumed, for every call with temporary credentials. A call is decided as a whole: one
//!   item, parameter or event that is denied denies it. A body that is no JSON object is refused
//!   before.
//!   - Not evaluated: service and resource control policies, permissions boundaries, resource-based
//!     policies (of tables, buses, queues and keys), VPC endpoint policies, managed policies by
//!     name, and tags of roles and resources.
//!   - A document is refused when it comes in ([`PolicyError`]) if it has an element, a condition
//!     operator or a condition key that is not evaluated. Operators are those of strings and ARNs,
//!     `Bool` and `Null`, with `…IfExists`, `ForAllValues:` and `ForAnyValue:`; not those of
//!     numbers, dates, addresses and binary data. Refused as well: `NotPrincipal`, federated
//!     principals, ARNs whose first five parts are not written out (unless they end with `*`), and
//!     elements and operators in another case of letters.
//!   - Condition keys: `aws:SourceAccount` and `aws:SourceArn` (where ECS assumes a task's role),
//!     `aws:PrincipalArn`, `aws:PrincipalAccount`, `aws:PrincipalTag/…` (session tags),
//!     `aws:PrincipalType`, `aws:userid`, `aws:RequestedRegion`, `aws:SecureTransport` (always
//!     `true`: plain HTTP stands in for TLS), `aws:RequestTag/…` and `aws:TagKeys` (`AssumeRole`,
//!     tags of parameters); `dynamodb:LeadingKeys`, `dynamodb:EnclosingOperation` (transactions),
//!     `dynamodb:Select` (as it is sent: AWS's default is not filled in); `events:source`,
//!     `events:detail-type`; `sts:RoleSessionName`, `sts:ExternalId`; `kms:ViaService`,
//!     `kms:CallerAccount`, `kms:EncryptionContext:PARAMETER_ARN`, `kms:EncryptionContextKeys`. So
//!     neither `dynamodb:Attributes` nor `aws:SourceIp`, `aws:CurrentTime` and the like. Keys of
//!     services that are not here pass, and are absent.
//!   - An operator for one value that meets several is satisfied by any of them, as it is at AWS.
//!     `ForAnyValue:…IfExists` does not hold where the key is absent, as users of AWS report. A
//!     policy variable that has no value, and no default, matches nothing; where that would allow
//!     something (`NotResource` and negated operators in an `Allow`), the statement does not apply.
//!     Values of variables are literal text: a `*` in a tag is no wildcard.
//!   - `dynamodb:LeadingKeys` is there for reads and writes of items, alone, in batches and in
//!     transactions, and for `Query` with a key condition that can be read. `Scan`, `PartiQL` and
//!     everything else has none, so that `ForAllValues` without `Null` lets them pass. Numbers are
//!     compared as they are written.
//!   - A role is assumed only if the caller's policies allow it and the trust policy does, too: AWS
//!     is content with a trust policy that names a role of the same account. Session tags need
//!     `sts:TagSession` on both sides. `AssumeRole` knows no transitive tags, managed session
//!     policies, source identity and MFA, and refuses a request with them; a role's own longest
//!     session is 12 hours, and one hour for a caller that is a role itself. `PackedPolicySize` is
//!     what it would be without packing, and refuses nothing; `SessionTokenUtilization` is not
//!     answered.
//!   - KMS is asked for nothing but parameters, and there only if their key is not `alias/aws/ssm`:
//!     `kms:Encrypt` for a put, or `kms:GenerateDataKey` if it is advanced by its tier or size;
//!     `kms:Decrypt` for a read with decryption, in `GetParametersByPath` for all that lies under
//!     the path, not for one page. An alias stays an alias, while AWS looks its key up.
//!   - A `PartiQL` statement whose table cannot be told needs its permission on `*`; so do
//!     `ListStreams` and `GetRecords` of a stream that is gone.
//! - **No throttling, no latency.** Limits of size and number are those of AWS; limits of rate are
//!   there where they are asked for ([`Faults::limit`]). Throttles, delays and other failures are
//!   injected, one by one or at random from a seed ([`Faults`]).
//! - **`DynamoDB` is always consistent.** Every read is strongly consistent and no index ever lags,
//!   unless a fault has it lag ([`Fault::StalePage`]). Expired items are deleted after
//!   seconds instead of days, or minutes where there are thousands of items: 250 are looked at
//!   every ten seconds. Writes of one table never conflict by themselves: they run one by one.
//! - **`EventBridge` delivers at once**, to functions in this process, four times at most within
//!   about a second, unless [`Emulator::set_event_fate`] has events late, doubled or lost. What is
//!   under way when the emulator stops is lost. Buses, rules and targets cannot be made by a call:
//!   the program that starts the emulator adds rules. Event patterns are those of the crate
//!   `quamina`.
//! - **`Parameter Store Change` always comes**, while AWS's is best effort, unless
//!   [`Emulator::set_event_fate`] says otherwise.
//! - **Parameter Store** shows a put to every reader at once ([`Fault::StalePage`] has it lag),
//!   never answers `TooManyUpdates` by itself, lets a name be used again right after its deletion,
//!   takes any KMS key id and keeps secrets in plain text in its file, and knows no parameter
//!   policies. An `AllowedPattern` is a Rust regular expression. Last-modified times never repeat,
//!   as if AWS's clock never did, and every read shows them to the millisecond
//!   ([`Fault::WholeSeconds`] has some not). Pages are full unless [`Options::empty_pages`] or
//!   [`Fault::EmptyPage`] asks for AWS's habit of sending empty ones in between.
//! - **SQS** has standard queues only, and of their operations `SendMessage`, `ReceiveMessage`,
//!   `DeleteMessage`, `DeleteMessageBatch` and `GetQueueUrl`. Queues are added by the program
//!   ([`Emulator::add_queue`]) and kept in memory. Messages come in the order in which they were
//!   sent, once in each visibility timeout; there are no attributes of messages, no delay, no dead
//!   letters, no limit of messages under way, and a receipt handle is good until the next receipt.
//!   A queue's address is the one it would have at AWS: clients need the emulator's as their
//!   endpoint. A caller that hangs up while it waits for messages takes none with it.
//! - **Data** stays in two `SQLite` files. Both have a write on disk before it is answered.
//!   Messages of queues do not stay.

mod account;
mod call_log;
mod dynamodb;
mod eventbridge;
mod faults;
mod gateway;
mod iam;
mod parameter_store;
mod permission;
mod server;
mod shutdown;
mod sqs;
mod sts;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use account::Account;
pub use call_log::CallLog;
pub use eventbridge::{Delivered, EventFate, EventOdds, Rule, RuleError, Target};
pub use faults::{ANY, Fault, Faults, Held, Injected, Schedule, Scheduled};
pub use gateway::Rewrite;
pub use iam::{Decision, PolicyError, PolicyKind, Role, RoleCredentials};
pub use sqs::Queue;

use dynamodb::DynamoDb;
use eventbridge::EventBridge;
use gateway::Gateway;
use iam::{Clock, Context, Iam};
use parameter_store::ParameterStore;
use shutdown::Shutdown;
use sqs::Queues;

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
    /// Whether listings of Parameter Store send empty pages in between, as those of AWS may: every
    /// third page, from the first on.
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
    /// Simple Queue Service
    Sqs,
    /// Security Token Service
    Sts,
}

impl Service {
    fn protocol(self) -> wire::Protocol {
        match self {
            Self::DynamoDb | Self::Sqs => wire::Protocol::Json10,
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
        Self::start_by(options, Arc::new(OffsetDateTime::now_utc)).await
    }

    /// The same, by another clock: sessions end by it.
    async fn start_by(options: Options, clock: Clock) -> Result<Self, StartError> {
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
        let account = Account { region, id: account };
        let queues = Queues::new(account.clone(), stopped.clone());
        let gateway = Arc::new(Gateway {
            rewriting: gateway::Rewriting::default(),
            iam: Iam::new(account.clone(), clock),
            account,
            calls: CallLog::default(),
            faults: Faults::default(),
            dynamodb,
            parameters,
            events,
            queues,
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

    /// Adds an empty queue, unless one of its name is there already. Returns its address, as at
    /// AWS.
    pub fn add_queue(&self, queue: Queue) -> String {
        self.gateway.queues.add(queue)
    }

    /// A target for rules that puts events into a queue, each as JSON text in a message of its own.
    /// None if there is no such queue.
    pub fn queue_target(&self, queue: &str) -> Option<Target> {
        self.gateway.queues.target(queue)
    }

    /// Decides what becomes of events from now on.
    pub fn set_event_fate(&self, fate: EventFate) {
        self.gateway.events.set_fate(fate);
    }

    /// Adds a role, or replaces the one of its name; sessions of that one go on with what the new
    /// one may do. Refuses documents with an element, an operator, a condition key or a form that
    /// is not evaluated.
    pub fn add_role(&self, role: Role) -> Result<(), PolicyError> {
        self.gateway.iam.add_role(role)
    }

    /// Credentials of a role as the Lambda service gives them to a function, or ECS to a task: they
    /// do not end, and stay the same. None if there is no such role, or its trust policy lets
    /// neither `lambda.amazonaws.com` nor `ecs-tasks.amazonaws.com` assume it.
    pub fn credentials_of(&self, role: &str) -> Option<RoleCredentials> {
        self.gateway.iam.credentials_of(role)
    }

    /// How often an action was refused to a role so far.
    pub fn permissions_refused(&self) -> BTreeMap<String, u64> {
        self.gateway.iam.permissions_refused()
    }

    /// Role and action of every call that a role was allowed so far. What administrators do is not
    /// counted.
    pub fn permissions_used(&self) -> BTreeSet<(String, String)> {
        self.gateway.iam.permissions_used()
    }

    /// What a role's policies say of an action on a resource, as if it were called by the Lambda
    /// service's session. `context` are condition keys beside those of every call,
    /// `aws:PrincipalTag/…` of another session among them. None if there is no such role.
    pub fn decide(&self, role: &str, action: &str, resource: &str, context: &[(&str, &[&str])]) -> Option<Decision> {
        let mut keys = Context::default();
        for (key, values) in context {
            keys.set_all(key, values.iter().map(|value| (*value).to_owned()));
        }
        self.gateway.iam.decide_for(role, action, resource, &keys)
    }

    /// For tests: how many standard parameters there may be from now on, instead of AWS's 10,000.
    pub fn limit_parameters(&self, most: u32) {
        self.gateway.parameters.limit(most);
    }

    /// For tests: has calls that are made in a role say something else than their caller wrote,
    /// from now on, before it is looked at whether they are allowed. A mistake in the caller,
    /// without the caller.
    pub fn rewrite(&self, rewrite: Rewrite) {
        self.gateway.rewriting.set(rewrite);
    }

    /// The calls so far.
    pub fn calls(&self) -> &CallLog {
        &self.gateway.calls
    }

    /// Failures on demand.
    pub fn faults(&self) -> &Faults {
        &self.gateway.faults
    }

    /// Resolves when no event is on its way to a target. The events of a call that was answered are
    /// counted, and so are those that a target causes by its own calls.
    pub async fn settled(&self) {
        self.gateway.events.settled().await;
    }

    /// Lets the calls under way finish, for up to five seconds, and stops. Deliveries under way are
    /// dropped.
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
