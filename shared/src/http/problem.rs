//! Errors as callers see them (RFC 9457): a stable `type`, a `detail` that says what to do, and
//! nothing about the inside of the service.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tracing::{error, info, warn};

use super::{Answer, Respond};
use crate::{
    auth::{AuthError, KeyFetchError, TokenError},
    aws::{AwsFailure, FailureKind, Service},
    ledger::{DamagedItem, LedgerError},
    limit::OverLimit,
    model::{
        comment::{InvalidComment, MAX_COMMENT_CHARS},
        entry::{ETag, EntityTagList, Revision},
        key::{ConfigKey, InvalidKey, MAX_NAME_BYTES, MAX_TAG_BYTES},
        value::InvalidValue,
    },
    read::ReadError,
    store::{StoreError, ValueRefused},
    write::WriteError,
};

/// The kinds of problems. Their names are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// A key breaks a rule.
    InvalidKey,
    /// A value breaks a rule.
    InvalidValue,
    /// A query parameter, header or cursor breaks a rule.
    InvalidParameter,
    /// A body is not of its form.
    InvalidBody,
    /// No token, or one that is not valid here.
    Unauthenticated,
    /// The token lacks a scope or names no tenant.
    Forbidden,
    /// There is no such key, version or route.
    NotFound,
    /// Too many write at once.
    Contention,
    /// It was there and is not kept any more.
    Gone,
    /// A precondition does not hold.
    PreconditionFailed,
    /// Something is larger than its limit.
    TooLarge,
    /// A body is encoded in a way that is not read here.
    UnsupportedMediaType,
    /// Understood, and cannot be done.
    Unprocessable,
    /// Too many requests.
    Throttled,
    /// A store is down.
    Unavailable,
}

impl ProblemType {
    /// Status, type and title.
    const fn published(self) -> (StatusCode, &'static str, &'static str) {
        macro_rules! urn {
            ($name:literal) => {
                concat!("urn:tenantry:problem:", $name)
            };
        }
        match self {
            Self::InvalidKey => (StatusCode::BAD_REQUEST, urn!("invalid-key"), "The key is not valid"),
            Self::InvalidValue => (StatusCode::BAD_REQUEST, urn!("invalid-value"), "The value is not valid"),
            Self::InvalidParameter => (StatusCode::BAD_REQUEST, urn!("invalid-parameter"), "A parameter is not valid"),
            Self::InvalidBody => (StatusCode::BAD_REQUEST, urn!("invalid-body"), "The body is not valid"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, urn!("unauthenticated"), "A valid token is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, urn!("forbidden"), "The token does not allow this"),
            Self::NotFound => (StatusCode::NOT_FOUND, urn!("not-found"), "There is nothing here"),
            Self::Contention => (StatusCode::CONFLICT, urn!("contention"), "Too many write at the same time"),
            Self::Gone => (StatusCode::GONE, urn!("gone"), "It is not kept any more"),
            Self::PreconditionFailed => {
                (StatusCode::PRECONDITION_FAILED, urn!("precondition-failed"), "The precondition does not hold")
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, urn!("too-large"), "Something is too large"),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                urn!("unsupported-media-type"),
                "The body is encoded in an unknown way",
            ),
            Self::Unprocessable => {
                (StatusCode::UNPROCESSABLE_ENTITY, urn!("unprocessable"), "It cannot be done as asked")
            }
            Self::Throttled => (StatusCode::TOO_MANY_REQUESTS, urn!("throttled"), "Too many requests"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, urn!("unavailable"), "A store is unavailable"),
        }
    }
}

/// A problem, on its way to the caller.
#[derive(Debug)]
pub struct Problem {
    kind: ProblemType,
    detail: String,
    retry_after_seconds: Option<u32>,
    revision: Option<Revision>,
    etag: Option<ETag>,
    members: Vec<(&'static str, Value)>,
    cause: Option<Box<Cause>>,
}

/// What operators have to know of a problem, and callers must not.
#[derive(Debug)]
enum Cause {
    InvalidToken(TokenError),
    NoKeys(Arc<KeyFetchError>),
    Call(AwsFailure),
    Damage(DamagedItem),
    UnknownOutcome(AwsFailure),
    NotAsPut(StoreError),
    ValueMissing(ConfigKey),
    OffRoute(ConfigKey),
}

impl Problem {
    /// A problem with what to do about it.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            retry_after_seconds: None,
            revision: None,
            etag: None,
            members: Vec::new(),
            cause: None,
        }
    }

    /// That there is no such route.
    pub fn no_route() -> Self {
        Self::new(ProblemType::NotFound, "there is no such method and path here; the paths are under /v1/")
    }

    /// That a key has no value, seen at a revision.
    pub fn no_value(key: &ConfigKey, revision: Revision) -> Self {
        Self::new(ProblemType::NotFound, format!("{key} has no value")).at(revision)
    }

    /// That the version, or the page, that is current at a revision is not what `If-Match` asks
    /// for.
    pub fn not_matched(asked: &EntityTagList, current: &ETag, revision: Revision) -> Self {
        let advice = match asked.matches_only_weakly(Some(current)) {
            true if current.is_weak() => "; pages have weak tags, which never match in If-Match: use If-None-Match",
            only_weakly => weak_tag_advice(only_weakly),
        };
        let rule = format!("If-Match does not hold: the ETag is {current}{advice}");
        let mut problem = Self::new(ProblemType::PreconditionFailed, rule);
        problem.etag = Some(current.clone());
        problem.at(revision)
    }

    /// That a text is no comment; `place` is the problem of what it stands in.
    pub(super) fn comment(error: InvalidComment, place: ProblemType) -> Self {
        let detail = error.to_string();
        match error {
            InvalidComment::TooLong(characters) => Self::new(ProblemType::TooLarge, detail)
                .with("limitCharacters", MAX_COMMENT_CHARS)
                .with("characters", characters),
            InvalidComment::Control(_) => Self::new(place, detail),
        }
    }

    /// That a value is in a store that no route leads to.
    fn off_route(key: ConfigKey, detail: &str) -> Self {
        let advice = "the operators of this service must restore the route, or the key be written anew";
        Self::new(ProblemType::Unavailable, format!("{detail}; {advice}"))
            .retry_after(60)
            .caused_by(Cause::OffRoute(key))
    }

    fn caused_by(mut self, cause: Cause) -> Self {
        self.cause = Some(Box::new(cause));
        self
    }

    /// The revision at which the problem was seen.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    /// When it may be tried again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// A further member of the problem.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// Which item of a list in the request has the problem: its position, counted from 0, and its
    /// key where it names one.
    #[must_use]
    pub fn of_item(self, index: usize, key: Option<&str>) -> Self {
        let problem = self.with("index", index);
        // A text that is longer than any key is not repeated.
        match key.filter(|key| key.len() <= MAX_TAG_BYTES + MAX_NAME_BYTES) {
            Some(key) => problem.with("key", key),
            None => problem,
        }
    }

    /// Its type, as callers see it.
    pub fn type_name(&self) -> &'static str {
        self.kind.published().1
    }

    /// Writes the line that says what the caller is not told, where there is something to say.
    pub fn log(&self) {
        match self.cause.as_deref() {
            None => {}
            Some(Cause::InvalidToken(reason)) => info!(%reason, "a token was refused"),
            Some(Cause::NoKeys(reason)) => warn!(%reason, "the issuer's keys cannot be fetched"),
            Some(Cause::Call(failure)) => error!(%failure, kind = ?failure.kind, "an AWS call failed"),
            Some(Cause::Damage(damage)) => error!(%damage, "the ledger is damaged"),
            Some(Cause::UnknownOutcome(failure)) => error!(%failure, "the outcome of a commit is unknown"),
            Some(Cause::NotAsPut(error)) => error!(%error, "a store does not hold what was put"),
            Some(Cause::ValueMissing(key)) => error!(config.key = %key, "a committed value is not in its store"),
            Some(Cause::OffRoute(key)) => {
                error!(config.key = %key, "a committed value is in a store that its tag's route does not lead to");
            }
        }
    }

    /// The answer.
    pub fn answer(self) -> Answer {
        let (status, kind, title) = self.kind.published();
        let body = ProblemView {
            kind,
            title,
            status: status.as_u16(),
            detail: &self.detail,
            members: self.members.iter().map(|(member, value)| (*member, value)).collect(),
        };
        let mut respond = Respond::new(status).header("content-type", "application/problem+json");
        if let Some(seconds) = self.retry_after_seconds {
            respond = respond.header("retry-after", &seconds.to_string());
        }
        if let Some(revision) = self.revision {
            respond = respond.revision(revision);
        }
        if let Some(etag) = &self.etag {
            respond = respond.header("etag", etag.as_str());
        }
        match status {
            StatusCode::UNAUTHORIZED => respond = respond.header("www-authenticate", "Bearer"),
            // What would have been read (RFC 9110, 15.5.16).
            StatusCode::UNSUPPORTED_MEDIA_TYPE => respond = respond.header("accept-encoding", "identity"),
            _ => {}
        }
        // Nothing in it can fail to be written.
        respond.text(serde_json::to_string(&body).unwrap_or_default())
    }
}

/// What to do about an `If-Match` that names the right tag as a weak one (RFC 9110, 13.1.1).
const fn weak_tag_advice(only_weakly: bool) -> &'static str {
    if only_weakly {
        "; a weak tag, W/\"…\", never matches in If-Match: send the tag as it is, without W/"
    } else {
        ""
    }
}

/// RFC 9457, 3.1 and 3.2.
#[derive(Serialize)]
struct ProblemView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    members: BTreeMap<&'a str, &'a Value>,
}

impl From<InvalidKey> for Problem {
    fn from(error: InvalidKey) -> Self {
        Self::new(ProblemType::InvalidKey, error.to_string())
    }
}

impl From<InvalidValue> for Problem {
    fn from(error: InvalidValue) -> Self {
        Self::new(ProblemType::InvalidValue, error.to_string())
    }
}

impl From<ValueRefused> for Problem {
    fn from(error: ValueRefused) -> Self {
        let ValueRefused::TooLarge { limit, bytes, .. } = error;
        Self::new(ProblemType::TooLarge, error.to_string()).with("limitBytes", limit).with("bytes", bytes)
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let detail = error.to_string();
        match error {
            AuthError::NoToken | AuthError::NoBearer => Self::new(ProblemType::Unauthenticated, detail),
            AuthError::InvalidToken(reason) => {
                Self::new(ProblemType::Unauthenticated, detail).caused_by(Cause::InvalidToken(reason))
            }
            AuthError::NoTenant { .. } | AuthError::MissingScope { .. } => Self::new(ProblemType::Forbidden, detail),
            AuthError::KeysUnavailable { reason, retry_after } => Self::new(ProblemType::Unavailable, detail)
                .retry_after(whole_seconds(retry_after))
                .caused_by(Cause::NoKeys(reason)),
        }
    }
}

/// At least a second, and no part of one: what Retry-After takes (RFC 9110, 10.2.3).
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

impl From<OverLimit> for Problem {
    fn from(error: OverLimit) -> Self {
        let advice =
            "wait as long as Retry-After says, spread requests out, and get many keys at once by /v1/batch-get";
        let seconds = whole_seconds(error.retry_after);
        Self::new(ProblemType::Throttled, format!("{error}; {advice}")).retry_after(seconds)
    }
}

impl From<AwsFailure> for Problem {
    fn from(failure: AwsFailure) -> Self {
        let service = failure.service;
        let no_answer = || format!("{service} does not answer now; try again later");
        let (kind, detail, seconds) = match failure.kind {
            // The caller does not make too many requests: too many tenants need credentials.
            FailureKind::Throttled if service == Service::Sts => (ProblemType::Unavailable, no_answer(), 1),
            FailureKind::Throttled => {
                (ProblemType::Throttled, format!("{service} takes no more requests now; try again later"), 1)
            }
            FailureKind::Unavailable => (ProblemType::Unavailable, no_answer(), 2),
            FailureKind::CircuitOpen { retry_after } => {
                let seconds = u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
                (ProblemType::Unavailable, no_answer(), seconds)
            }
            // Refused for good: a limit of the account, a lacking permission. The same request will
            // fail again.
            FailureKind::Refused => {
                let advice = "the operators of this service find the reason in its log";
                (ProblemType::Unavailable, format!("{service} refuses the request; {advice}"), 60)
            }
        };
        Self::new(kind, detail).retry_after(seconds).caused_by(Cause::Call(failure))
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Aws(failure) => failure.into(),
            LedgerError::Damaged(damage) => {
                Self::new(
                    ProblemType::Unavailable,
                    "a stored record cannot be read; the operators of this service find it in its log",
                )
                .retry_after(60)
                .caused_by(Cause::Damage(damage))
            }
            LedgerError::OutcomeUnknown(failure) => {
                Self::new(
                    ProblemType::Unavailable,
                    "whether the write took place could not be found out; read the key, or send the same request with the same Idempotency-Key",
                )
                .retry_after(2)
                .caused_by(Cause::UnknownOutcome(failure))
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Aws(failure) => failure.into(),
            StoreError::Refused { reason, .. } => {
                Self::new(ProblemType::Unprocessable, error.to_string()).with("reason", reason.name())
            }
            StoreError::Gone | StoreError::Unreadable(_) => {
                Self::new(ProblemType::Unavailable, "the value was changed behind this service's back; try again later")
                    .retry_after(5)
                    .caused_by(Cause::NotAsPut(error))
            }
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let detail = error.to_string();
        match error {
            ReadError::Ledger(error) => error.into(),
            ReadError::Store(error) => error.into(),
            ReadError::ValueMissing(key) => {
                Self::new(ProblemType::Unavailable, detail).retry_after(5).caused_by(Cause::ValueMissing(key))
            }
            ReadError::RouteChanged(key) => Self::off_route(key, &detail),
            ReadError::VersionGone { head, .. } => Self::new(ProblemType::Gone, detail).at(head),
            ReadError::Secret(key) => Self::new(ProblemType::Forbidden, detail).with("key", key.as_str()),
            ReadError::NotReached { head, .. } => {
                Self::new(ProblemType::Unprocessable, detail).at(head).with("revision", head.get())
            }
            ReadError::TooLarge { .. } => Self::new(ProblemType::Unprocessable, detail),
            ReadError::TooSlow => {
                Self::new(ProblemType::Unavailable, format!("{detail}; try again later")).retry_after(2)
            }
            ReadError::Contention => Self::new(ProblemType::Contention, format!("{detail}; try again")).retry_after(1),
            ReadError::Compacted { head, .. } | ReadError::Ahead { head, .. } => {
                Self::new(ProblemType::Gone, format!("{detail}; take a fresh list and follow from its revision"))
                    .at(head)
            }
        }
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let detail = error.to_string();
        match error {
            WriteError::Ledger(error) => error.into(),
            WriteError::Store(error) => error.into(),
            WriteError::Refused(error) => error.into(),
            WriteError::Precondition { key, current, head, only_weakly } => {
                let shown =
                    current.as_ref().map_or_else(|| "it has no value".to_owned(), |etag| format!("its ETag is {etag}"));
                let advice = if only_weakly { weak_tag_advice(true) } else { "; read it again and decide anew" };
                let mut problem = Self::new(ProblemType::PreconditionFailed, format!("{detail}: {shown}{advice}"))
                    .at(head)
                    .with("key", key.as_str());
                problem.etag = current;
                problem
            }
            WriteError::InTheWay { key, reason } => {
                Self::new(ProblemType::Unprocessable, detail).with("key", key.as_str()).with("reason", reason.name())
            }
            WriteError::At { head, error } => Self::from(*error).at(head),
            WriteError::NotFound(key) | WriteError::NoSuchVersion(key, _) => {
                Self::new(ProblemType::NotFound, detail).with("key", key.as_str())
            }
            WriteError::RouteChanged(key) => Self::off_route(key, &detail),
            WriteError::VersionGone(gone) => Self::new(ProblemType::Gone, detail).with("key", gone.key.as_str()),
            WriteError::VersionIsTombstone(key, _) | WriteError::CannotJoin { key, .. } => {
                Self::new(ProblemType::Unprocessable, detail).with("key", key.as_str())
            }
            WriteError::IdempotencyMismatch => {
                Self::new(ProblemType::Unprocessable, format!("{detail}; use a new key for a new request"))
            }
            WriteError::TransactionTooLarge(_) => Self::new(ProblemType::TooLarge, detail),
            WriteError::Contention => Self::new(ProblemType::Contention, format!("{detail}; try again")).retry_after(1),
            WriteError::Removing(key) => {
                Self::new(ProblemType::Contention, format!("{detail}; nothing was written; try again"))
                    .retry_after(30)
                    .with("key", key.as_str())
            }
        }
    }
}
