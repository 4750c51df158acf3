//! The part of the HTTP API that a mirror needs: its forms, and which of its answers mean that one
//! should come back later.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{json, value::RawValue};

/// The most that the API takes: entries or changes of a page, keys of a batch.
pub(crate) const MAX_PAGE: usize = 100;
/// A little longer than API Gateway lets any request take.
const TIMEOUT: Duration = Duration::from_secs(35);

/// A tenant's view of the API.
pub(crate) struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    authorization: String,
}

/// An answer that says something: 200, or a problem that its asker knows what to make of.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Why a request brought nothing.
pub(crate) enum Trouble {
    /// It may be sent again, after this time at the earliest: throttled, an outage, too many
    /// writers, no connection.
    Later(Duration),
    /// Sending it again would not help.
    Fatal(MirrorError),
}

/// Why there is no way to go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MirrorError {
    /// The address or the token cannot stand in a request.
    #[error("the address of the API, or the token, is malformed")]
    Request(#[from] http::Error),
    /// There are no root certificates to check the API's against.
    #[error("the system's root certificates cannot be read")]
    Roots(#[from] std::io::Error),
    /// The API refuses: an expired token, a missing scope, a wrong address.
    #[error("{path} answered {status}: {detail}")]
    Refused {
        /// What was asked for, without its query.
        path: String,
        /// The answer.
        status: StatusCode,
        /// What the answer says to do.
        detail: String,
    },
    /// What answers is not this API.
    #[error("the answer is not of the API's form")]
    Form(#[from] serde_json::Error),
}

impl<E: Into<MirrorError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// What is of use in a problem, and in the body that API Gateway itself refuses with.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    /// Which item of a batch is malformed.
    index: Option<usize>,
    #[serde(alias = "message")]
    detail: String,
}

impl Client {
    /// A client of the API at `url`, such as `http://127.0.0.1:8080`, with the tenant's access
    /// token.
    pub(crate) fn new(url: &str, token: &str) -> Result<Self, MirrorError> {
        let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
        Ok(Self {
            http: HttpClient::builder(TokioExecutor::new()).build(connector),
            url: url.trim_end_matches('/').to_owned(),
            authorization: format!("Bearer {token}"),
        })
    }

    /// A page of entries; one without a cursor is the last.
    pub(crate) async fn list(&self, prefix: &str, limit: usize, cursor: Option<&str>) -> Result<ListPage, Trouble> {
        // Prefixes and cursors are of characters that may stand in a query as they are.
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/v1/config?prefix={prefix}&limit={limit}{cursor}");
        self.ask(Method::GET, &path, String::new(), None).await?.json()
    }

    /// The current entries of up to [`MAX_PAGE`] keys.
    pub(crate) async fn batch_get(&self, keys: &[String]) -> Result<BatchAnswer, Trouble> {
        let body = json!({"keys": keys}).to_string();
        let (path, refused) = ("/v1/batch-get", StatusCode::BAD_REQUEST);
        let answer = self.ask(Method::POST, path, body, Some(refused)).await?;
        if answer.status != refused {
            return Ok(BatchAnswer::Batch(answer.json()?));
        }
        let Refusal { index, detail } = answer.refusal();
        match index.filter(|index| *index < keys.len()) {
            Some(index) => Ok(BatchAnswer::NotServed(index)),
            None => Err(MirrorError::Refused { path: path.to_owned(), status: refused, detail }.into()),
        }
    }

    /// The changes after a revision.
    pub(crate) async fn changes(&self, since: u64, limit: usize) -> Result<ChangesAnswer, Trouble> {
        let path = format!("/v1/changes?since={since}&limit={limit}");
        let answer = self.ask(Method::GET, &path, String::new(), Some(StatusCode::GONE)).await?;
        if answer.status == StatusCode::GONE {
            return Ok(ChangesAnswer::Gone { head: answer.number("tenantry-revision").unwrap_or_default() });
        }
        Ok(ChangesAnswer::Changes(answer.json()?))
    }

    /// Asks once. `expected` is an answer, as 200 is.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: String,
        expected: Option<StatusCode>,
    ) -> Result<Answer, Trouble> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let answering = async {
            let (parts, body) = self.http.request(request).await.ok()?.into_parts();
            Some(Answer { status: parts.status, headers: parts.headers, body: body.collect().await.ok()?.to_bytes() })
        };
        let Ok(Some(answer)) = tokio::time::timeout(TIMEOUT, answering).await else {
            return Err(Trouble::Later(Duration::ZERO));
        };
        match answer.status {
            status if status == StatusCode::OK || Some(status) == expected => Ok(answer),
            StatusCode::CONFLICT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Err(Trouble::Later(Duration::from_secs(answer.number("retry-after").unwrap_or_default())))
            }
            status => {
                let path = path.split('?').next().unwrap_or_default().to_owned();
                Err(MirrorError::Refused { path, status, detail: answer.refusal().detail }.into())
            }
        }
    }
}

impl Answer {
    /// A header that is a number, as `Retry-After` and `Tenantry-Revision` are.
    fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.parse().ok()
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Trouble> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    fn refusal(&self) -> Refusal {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A page of entries. It may be short, or even empty, and still have a cursor.
#[derive(Deserialize)]
pub(crate) struct ListPage {
    /// Each entry is at least as new as this revision.
    pub(crate) revision: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) cursor: Option<String>,
}

/// One key's current version.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) version: u64,
    pub(crate) revision: u64,
    pub(crate) etag: String,
    pub(crate) author: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
    pub(crate) modified_at: String,
    /// As it was written, byte for byte; `null` is a value like any other. None: its store has lost
    /// it, but the key is there.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Box<RawValue>>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// What came of a batch.
pub(crate) enum BatchAnswer {
    Batch(Batch),
    /// Nothing, because the key at this index is none that the API serves.
    NotServed(usize),
}

/// Entries by their keys.
#[derive(Deserialize)]
pub(crate) struct Batch {
    pub(crate) found: Vec<Entry>,
    pub(crate) missing: Vec<String>,
    /// What did not fit into the answer.
    pub(crate) unprocessed: Vec<String>,
    /// What has a value that its store has lost.
    pub(crate) unavailable: Vec<String>,
}

/// What came of asking for changes.
pub(crate) enum ChangesAnswer {
    Changes(Changes),
    /// They are not all kept, or there is no such revision yet; this is the newest.
    Gone {
        head: u64,
    },
}

/// A page of the feed.
#[derive(Deserialize)]
pub(crate) struct Changes {
    /// The newest revision when the page was read; the page itself may end before it, or even
    /// behind it.
    pub(crate) revision: u64,
    /// Names one life of the tenant's ledger.
    pub(crate) epoch: String,
    #[serde(rename = "changes")]
    pub(crate) commits: Vec<Change>,
}

/// A commit: what it wrote, and enough beside to know it again.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    at: String,
    author: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    pub(crate) keys: Vec<ChangedKey>,
}

/// What a commit did to a key.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangedKey {
    pub(crate) key: String,
    pub(crate) version: u64,
    pub(crate) operation: Operation,
}

/// The ways to write.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    Put,
    Delete,
    /// A version that went into the history only: what is current stays.
    Supersede,
    /// The key's store refuses the current version, which stays.
    Refuse,
    /// It has taken it after all.
    Accept,
    /// One that this program does not know: to be on the safe side, the key is loaded.
    #[serde(other)]
    Other,
}
