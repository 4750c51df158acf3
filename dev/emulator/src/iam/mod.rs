//! IAM: roles, the sessions in which they are used, and what these may do.
//!
//! Evaluation is as in "Policy evaluation logic" in the IAM user guide, for what there is here:
//! identity-based policies of roles, session policies, and trust policies where a role is assumed.
//! Own code, since the crates that evaluate policies put values of variables in as patterns, and
//! know no missing values.

mod condition;
mod context;
mod need;
mod pattern;
mod policy;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

pub(crate) use context::Context;
pub(crate) use need::Need;
pub use policy::PolicyError;
use policy::{Asker, Kind, Policy, Request, Verdict};
pub(crate) use session::Session;
use session::{Found, Sessions, unique_id};

use crate::account::Account;

/// The services that functions and containers run in.
const LAMBDA: &str = "lambda.amazonaws.com";
const ECS_TASKS: &str = "ecs-tasks.amazonaws.com";

/// An IAM role. Policies are policy documents as JSON, as `template.yaml` has them once resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    /// Its name: `[\w+=,.@-]{1,64}`. Its ARN is `arn:aws:iam::<account>:role/<name>`: there are no
    /// paths.
    pub name: String,
    /// Who may assume it: `AssumeRolePolicyDocument`.
    pub trust: Value,
    /// What it may do. They count together.
    pub policies: Vec<Value>,
}

/// What calls in the name of a role are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct RoleCredentials {
    /// Begins with `ASIA`.
    pub access_key_id: String,
    /// Signs calls; the emulator does not verify that.
    pub secret_access_key: String,
    /// Goes with each call, in `X-Amz-Security-Token`.
    pub session_token: String,
}

impl fmt::Debug for RoleCredentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RoleCredentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// What policies say of an action on a resource, and which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// It is allowed wherever it has to be, and denied nowhere.
    Allowed,
    /// No statement allows it.
    NotAllowed(PolicyKind),
    /// A statement denies it.
    Denied(PolicyKind),
}

/// The kinds of policies that are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PolicyKind {
    /// What the caller's role may do.
    Identity,
    /// What a session was narrowed to when its role was assumed.
    Session,
    /// Who may assume the role in question.
    Trust,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Identity => "identity-based policy",
            Self::Session => "session policy",
            Self::Trust => "role trust policy",
        })
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// A caller without temporary credentials, who may do everything.
    Administrator,
    Role(Arc<Session>),
}

/// Why credentials are not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadCredentials {
    Unknown,
    Expired,
}

/// What a role is assumed with.
#[derive(Debug, Default)]
pub(crate) struct Assumption {
    pub(crate) session_name: String,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) policy: Option<SessionPolicy>,
    pub(crate) lasts: Duration,
}

/// A session policy, taken apart.
#[derive(Debug)]
pub(crate) struct SessionPolicy(Policy);

impl SessionPolicy {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Policy::parse(&document, Kind::Identity).map(Self)
    }
}

/// A role that was assumed.
#[derive(Debug)]
pub(crate) struct Assumed {
    pub(crate) credentials: RoleCredentials,
    pub(crate) expires: OffsetDateTime,
    /// `<role id>:<session name>`
    pub(crate) id: String,
    pub(crate) arn: String,
}

/// Tells the time.
pub(crate) type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// Roles and sessions of the account.
pub(crate) struct Iam {
    account: Account,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    roles: BTreeMap<String, Arc<KnownRole>>,
    sessions: Sessions,
    used: BTreeSet<(String, String)>,
    refused: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct KnownRole {
    id: String,
    trust: Policy,
    policies: Vec<Policy>,
}

impl fmt::Debug for Iam {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Iam").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Iam {
    pub(crate) fn new(account: Account, clock: Clock) -> Self {
        Self { account, clock, state: Mutex::default() }
    }

    pub(crate) fn add_role(&self, role: Role) -> Result<(), PolicyError> {
        let Role { name, trust, policies } = role;
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(letter) {
            return Err(PolicyError::new(format!("role {name:?}"), "its name is none that IAM takes"));
        }
        let parse = |document: &Value, kind: Kind, what: &str| {
            Policy::parse(document, kind).map_err(|reason| PolicyError::new(format!("{what} of role {name}"), reason))
        };
        let trust = parse(&trust, Kind::Trust, "trust policy")?;
        let policies = policies.iter().enumerate();
        let policies = policies.map(|(index, policy)| parse(policy, Kind::Identity, &format!("policy {}", index + 1)));
        let policies = policies.collect::<Result<_, _>>()?;
        let mut state = self.lock();
        // Who holds credentials of the role that was there goes on with what the new one may do.
        let id = state.roles.get(&name).map_or_else(|| unique_id("AROA"), |known| known.id.clone());
        state.roles.insert(name, Arc::new(KnownRole { id, trust, policies }));
        Ok(())
    }

    pub(crate) fn credentials_of(&self, role: &str) -> Option<RoleCredentials> {
        let mut state = self.lock();
        let known = Arc::clone(state.roles.get(role)?);
        let arn = self.role_arn(role);
        let for_function = self.common_context();
        let mut for_task = for_function.clone();
        // Of a task nothing is known here but where it runs.
        for_task.set("aws:SourceAccount", self.account.id.as_str());
        for_task.set("aws:SourceArn", self.account.arn("ecs", "task/task"));
        let is_trusted = |service, context: &Context| {
            let request = Request { action: "sts:AssumeRole", resource: &arn, context };
            known.trust.verdict(request, Some(Asker::Service(service))) == Verdict::Allow
        };
        if !is_trusted(LAMBDA, &for_function) && !is_trusted(ECS_TASKS, &for_task) {
            return None;
        }
        let credentials = state.sessions.lasting(role).unwrap_or_else(RoleCredentials::random);
        let session = Session {
            role: role.to_owned(),
            role_id: known.id.clone(),
            // Lambda takes the function's name, ECS the task's; here a role is all that is known of
            // one.
            name: role.to_owned(),
            tags: Vec::new(),
            policy: None,
            credentials: credentials.clone(),
            expires: None,
        };
        state.sessions.insert(session, (self.clock)());
        Some(credentials)
    }

    pub(crate) fn permissions_refused(&self) -> BTreeMap<String, u64> {
        self.lock().refused.clone()
    }

    pub(crate) fn permissions_used(&self) -> BTreeSet<(String, String)> {
        self.lock().used.clone()
    }

    /// Who signed a call: `AWS4-HMAC-SHA256 Credential=<access key
    /// id>/<day>/<region>/<service>/aws4_request, …`
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, BadCredentials> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let signed = header(AUTHORIZATION.as_str()).unwrap_or_default();
        let credential = signed.split_once("Credential=").map_or("", |(_, rest)| rest);
        let id = credential.split('/').next().unwrap_or_default();
        if !id.starts_with(session::TEMPORARY) {
            return Ok(Caller::Administrator);
        }
        match self.lock().sessions.find(id, header("x-amz-security-token"), (self.clock)()) {
            Found::Session(session) => Ok(Caller::Role(session)),
            Found::Expired => Err(BadCredentials::Expired),
            Found::Unknown => Err(BadCredentials::Unknown),
        }
    }

    /// Whether a session may do all of this; if not, AWS's words for what it may not. What is
    /// allowed as a whole is remembered.
    pub(crate) fn authorize(&self, session: &Session, needs: &[Need]) -> Result<(), String> {
        for need in needs {
            let why = match self.decide(session, &need.action, &need.resource, &need.context) {
                Decision::Allowed => continue,
                Decision::NotAllowed(kind) => format!("because no {kind} allows the {} action", need.action),
                Decision::Denied(kind) => format!("with an explicit deny in the {kind}"),
            };
            *self.lock().refused.entry(need.action.clone()).or_default() += 1;
            return Err(format!(
                "User: {} is not authorized to perform: {} on resource: {} {why}",
                self.session_arn(session),
                need.action,
                need.resource
            ));
        }
        let used = needs.iter().map(|need| (session.role.clone(), need.action.clone()));
        self.lock().used.extend(used);
        Ok(())
    }

    /// What the policies of a role say without a call. None if there is no such role.
    pub(crate) fn decide_for(&self, role: &str, action: &str, resource: &str, context: &Context) -> Option<Decision> {
        let role_id = self.lock().roles.get(role)?.id.clone();
        let session = Session {
            role: role.to_owned(),
            role_id,
            name: role.to_owned(),
            tags: Vec::new(),
            policy: None,
            credentials: RoleCredentials::random(),
            expires: None,
        };
        Some(self.decide(&session, action, resource, context))
    }

    fn decide(&self, session: &Session, action: &str, resource: &str, context: &Context) -> Decision {
        let (own, assumed) = {
            let state = self.lock();
            let own = state.roles.get(&session.role).cloned();
            let assumed = self.role_of(resource).and_then(|name| state.roles.get(name)).cloned();
            (own, assumed)
        };
        let mut whole = self.context_of(session);
        whole.extend(context);
        let request = Request { action, resource, context: &whole };
        let identity = own.iter().flat_map(|role| &role.policies).map(|policy| policy.verdict(request, None));
        let mut verdicts = vec![(PolicyKind::Identity, identity.max().unwrap_or(Verdict::Nothing))];
        if let Some(policy) = &session.policy {
            verdicts.push((PolicyKind::Session, policy.verdict(request, None)));
        }
        if action.starts_with("sts:") {
            // A role that is not there trusts nobody.
            let (role_arn, session_arn) = (self.role_arn(&session.role), self.session_arn(session));
            let asker = Asker::Role { role_arn: &role_arn, session_arn: &session_arn, account: &self.account.id };
            let verdict = assumed.map_or(Verdict::Nothing, |role| role.trust.verdict(request, Some(asker)));
            verdicts.push((PolicyKind::Trust, verdict));
        }
        let first = |wanted: Verdict| verdicts.iter().find(|(_, verdict)| *verdict == wanted).map(|(kind, _)| *kind);
        match (first(Verdict::Deny), first(Verdict::Nothing)) {
            (Some(kind), _) => Decision::Denied(kind),
            (None, Some(kind)) => Decision::NotAllowed(kind),
            (None, None) => Decision::Allowed,
        }
    }

    /// Begins a session of a role without asking who wants it. None if there is no such role.
    pub(crate) fn assume(&self, role: &str, assumption: Assumption) -> Option<Assumed> {
        let Assumption { session_name, tags, policy, lasts } = assumption;
        let now = (self.clock)();
        let mut state = self.lock();
        let known = state.roles.get(role)?;
        // AWS answers whole seconds.
        let expires = (now + lasts).replace_nanosecond(0).unwrap_or(now);
        let session = Session {
            role: role.to_owned(),
            role_id: known.id.clone(),
            name: session_name,
            tags,
            policy: policy.map(|SessionPolicy(policy)| policy),
            credentials: RoleCredentials::random(),
            expires: Some(expires),
        };
        let assumed = Assumed {
            credentials: session.credentials.clone(),
            expires,
            id: session.user_id(),
            arn: self.session_arn(&session),
        };
        state.sessions.insert(session, now);
        Some(assumed)
    }

    pub(crate) fn account_id(&self) -> &str {
        &self.account.id
    }

    /// The ARN that errors and `GetCallerIdentity` call the caller by.
    pub(crate) fn caller_arn(&self, caller: &Caller) -> String {
        match caller {
            Caller::Administrator => format!("arn:aws:iam::{}:user/local", self.account.id),
            Caller::Role(session) => self.session_arn(session),
        }
    }

    /// The name in an ARN of a role of this account.
    pub(crate) fn role_of<'a>(&self, arn: &'a str) -> Option<&'a str> {
        arn.strip_prefix(&self.role_arn(""))
    }

    fn role_arn(&self, role: &str) -> String {
        format!("arn:aws:iam::{}:role/{role}", self.account.id)
    }

    fn session_arn(&self, session: &Session) -> String {
        format!("arn:aws:sts::{}:assumed-role/{}/{}", self.account.id, session.role, session.name)
    }

    /// The condition keys of every call.
    fn common_context(&self) -> Context {
        let mut context = Context::default();
        context.set("aws:RequestedRegion", self.account.region.as_str());
        // Plain HTTP stands in for TLS.
        context.set("aws:SecureTransport", "true");
        context
    }

    /// The condition keys of every call of a session.
    fn context_of(&self, session: &Session) -> Context {
        let mut context = self.common_context();
        context.set("aws:PrincipalArn", self.role_arn(&session.role));
        context.set("aws:PrincipalAccount", self.account.id.as_str());
        context.set("aws:PrincipalType", "AssumedRole");
        context.set("aws:userid", session.user_id());
        for (key, value) in &session.tags {
            context.set(&format!("aws:PrincipalTag/{key}"), value.as_str());
        }
        context
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// `<role id>:<session name>`
    pub(crate) fn user_id(&self) -> String {
        format!("{}:{}", self.role_id, self.name)
    }
}
