//! Answers: status, headers, and the JSON forms of what the services return.

use std::borrow::Cow;

use ::http::{HeaderName, HeaderValue, StatusCode};
use lambda_http::Body;
use serde::Serialize;

use super::{Answer, Problem, ProblemType};
use crate::{
    cache::Resolved,
    clock::Timestamp,
    ledger::WrittenKey,
    model::{
        comment::Comment,
        entry::{Author, ETag, Entry, Revision, Version},
        refusal::Refusal,
        value::ConfigValue,
    },
    read::{At, Fetched},
    write::StoreState,
};

/// The header that names a revision at which the answer is valid.
const REVISION: &str = "tenantry-revision";
/// The header that marks an answer as the last known one while a store is down.
const STALE: &str = "tenantry-stale";

/// An answer in the making. It has no body yet.
#[derive(Debug)]
pub struct Respond(Answer);

impl Respond {
    /// An answer with a status. Only the caller may cache it, and has to revalidate it.
    pub fn new(status: StatusCode) -> Self {
        let mut answer = Answer::default();
        answer.status_code = i64::from(status.as_u16());
        Self(answer).header("cache-control", "private, no-cache").header("content-type", "application/json")
    }

    /// Sets a header. A value that is no header's is left out; none here comes from a caller.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// The revision at which the answer is valid.
    #[must_use]
    pub fn revision(self, revision: Revision) -> Self {
        self.header(REVISION, &revision.to_string())
    }

    /// Revision and age of an answer.
    #[must_use]
    pub fn at<T>(self, at: &At<T>) -> Self {
        let mut respond = self.revision(at.revision);
        if let Some(age) = at.age {
            respond = respond.header("age", &age.as_secs().to_string());
        }
        if at.stale { respond.header(STALE, "true") } else { respond }
    }

    /// The version that the answer shows.
    #[must_use]
    pub fn etag(self, etag: &ETag) -> Self {
        self.header("etag", etag.as_str())
    }

    /// Nobody may cache it at all.
    #[must_use]
    pub fn secret(self, is_secret: bool) -> Self {
        if is_secret { self.header("cache-control", "no-store") } else { self }
    }

    /// The finished answer, with JSON.
    pub fn json(self, body: &impl Serialize) -> Result<Answer, Problem> {
        match serde_json::to_string(body) {
            Ok(text) => Ok(self.text(text)),
            // Only a stored value that is no JSON could do this.
            Err(_) => Err(Problem::new(ProblemType::Unavailable, "a stored value cannot be shown")),
        }
    }

    /// The finished answer, with text.
    pub fn text(mut self, text: String) -> Answer {
        self.0.body = Some(Body::Text(text));
        self.0
    }

    /// The finished answer, without a body.
    pub fn empty(mut self) -> Answer {
        self.0.headers.remove("content-type");
        self.0
    }
}

/// The revision at which an answer is valid, if it names one.
pub fn revision_of(answer: &Answer) -> Option<Revision> {
    answer.headers.get(REVISION)?.to_str().ok()?.parse().ok().map(Revision::new)
}

/// What a key's store makes of a version, where that is worth telling.
#[derive(Debug, Serialize)]
pub struct StoreView {
    state: &'static str,
    #[serde(flatten)]
    refusal: Refusal,
}

impl From<Refusal> for StoreView {
    fn from(refusal: Refusal) -> Self {
        Self { state: "refused", refusal }
    }
}

/// A live entry with its value.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryView<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a ConfigValue>,
    /// The value cannot be had from its store any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    value_gone: bool,
    /// The value is a secret, and the asker may not read secrets.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    value_withheld: bool,
    version: Version,
    revision: Revision,
    author: &'a Author,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a Comment>,
    modified_at: Timestamp,
    etag: ETag,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreView>,
}

impl<'a> From<&'a Resolved> for EntryView<'a> {
    fn from(Resolved { entry, value }: &'a Resolved) -> Self {
        Self::new(entry, Some(value), false)
    }
}

impl<'a> From<&'a Fetched> for EntryView<'a> {
    fn from(Fetched { entry, value, withheld }: &'a Fetched) -> Self {
        Self::new(entry, value.as_ref(), *withheld)
    }
}

impl<'a> EntryView<'a> {
    fn new(entry: &'a Entry, value: Option<&'a ConfigValue>, withheld: bool) -> Self {
        Self {
            key: entry.key.as_str(),
            value,
            value_gone: value.is_none() && !withheld,
            value_withheld: withheld,
            version: entry.version,
            revision: entry.revision,
            author: &entry.author,
            comment: entry.comment.as_ref(),
            modified_at: entry.modified_at,
            etag: entry.etag(),
            store: entry.refusal.map(StoreView::from),
        }
    }

    /// The entity tag of what is shown.
    pub fn shown_etag(&self) -> Cow<'_, ETag> {
        shown(&self.etag, self.store.as_ref())
    }
}

/// The tag of what is shown of the version with this one.
fn shown<'a>(etag: &'a ETag, store: Option<&StoreView>) -> Cow<'a, ETag> {
    etag.shown(store.map(|store| &store.refusal))
}

/// A version in a key's history.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    version: Version,
    revision: Revision,
    operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a ConfigValue>,
    /// The version had a value that its store does not keep any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    value_gone: bool,
    /// Somebody put it into its store, and a later put replaced it before it was imported.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    superseded: bool,
    author: &'a Author,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a Comment>,
    modified_at: Timestamp,
    etag: ETag,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreView>,
}

impl<'a> From<&'a Fetched> for VersionView<'a> {
    fn from(Fetched { entry, value, .. }: &'a Fetched) -> Self {
        Self {
            key: None,
            version: entry.version,
            revision: entry.revision,
            operation: if entry.is_live() { "put" } else { "delete" },
            value: value.as_ref(),
            value_gone: entry.is_live() && value.is_none(),
            superseded: entry.superseded,
            author: &entry.author,
            comment: entry.comment.as_ref(),
            modified_at: entry.modified_at,
            etag: entry.etag(),
            store: entry.refusal.map(StoreView::from),
        }
    }
}

impl<'a> VersionView<'a> {
    /// A version on its own, which names its key.
    pub fn with_key(past: &'a Fetched) -> Self {
        Self { key: Some(past.entry.key.as_str()), ..Self::from(past) }
    }

    /// The entity tag of what is shown.
    pub fn shown_etag(&self) -> Cow<'_, ETag> {
        shown(&self.etag, self.store.as_ref())
    }
}

/// What a write did to a key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WrittenView<'a> {
    key: &'a str,
    version: Version,
    revision: Revision,
    author: &'a str,
    modified_at: Timestamp,
    etag: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// The delete takes the values of the key's earlier versions along: they lay in their store
    /// alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    removes_older_values: bool,
    /// The value is committed, and every reader gets it; it is not replicated to its store yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pending: bool,
    /// Its store refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreView>,
}

impl<'a> WrittenView<'a> {
    /// The views of all writes of a request.
    pub fn all(written: &'a crate::write::Written) -> Vec<Self> {
        let receipt = &written.receipt;
        let view = |(one, state): (&'a WrittenKey, &StoreState)| Self {
            key: &one.key,
            version: one.version,
            revision: receipt.revision,
            author: &receipt.author,
            modified_at: Timestamp::from_millis(receipt.at_millis),
            etag: &one.etag,
            deleted: one.deleted,
            removes_older_values: one.removes_older_values,
            pending: *state == StoreState::Pending,
            store: if let StoreState::Refused(refusal) = state { Some((*refusal).into()) } else { None },
        };
        receipt.writes.iter().zip(&written.stores).map(view).collect()
    }
}
