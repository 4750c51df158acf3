//! How an issuer's public keys are fetched: from an address that the settings name, or from the one
//! that the issuer names in its description of itself (`OpenID` Connect Discovery 1.0).

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ::http::{StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, de::Error as _};
use tokio::time::Instant;

use super::{
    FetchKeys, KeySet,
    settings::{KeySource, TokenSettings, is_protected},
};
use crate::model::value::check_unambiguous;

/// The largest document that is read, in bytes: what API Gateway's JWT authorizer accepts of keys,
/// too.
const MAX_DOCUMENT_BYTES: usize = 150_000;
/// How long a fetch may take, both documents together. API Gateway waits 1.5 s for the keys alone.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the address of the keys is remembered, unless the keys cannot be fetched there. As long
/// as keys serve, so that moved keys are found as soon as replaced ones.
const MAX_ADDRESS_AGE: Duration = Duration::from_hours(1);

/// What is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// The issuer's description of itself.
    Description,
    /// Its keys.
    Keys,
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Description => "discovery document",
            Self::Keys => "key set",
        })
    }
}

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum KeyFetchError {
    /// No answer in time.
    #[error("the issuer's keys did not arrive within {} ms", FETCH_TIMEOUT.as_millis())]
    Timeout,
    /// No connection, or it broke.
    #[error("the {0} could not be fetched: {1}")]
    Transport(Document, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another status than 200. A redirection is one: it could lead anywhere.
    #[error("the {0}'s address answered {1}; only 200 is taken, and redirections are not followed")]
    Status(Document, StatusCode),
    /// Not what it should be.
    #[error("what the {0}'s address answered is no {0}: {1}")]
    Form(Document, #[source] serde_json::Error),
    /// The description of somebody else.
    #[error("the discovery document is of the issuer {0:?}, not of the one that TOKEN_ISSUER names")]
    OtherIssuer(String),
    /// An address that keys must not be taken from.
    #[error("the discovery document names {0:?} as jwks_uri; it must be an https URL")]
    Address(String),
}

/// Keys from an HTTP(S) address.
#[derive(Debug)]
pub struct HttpKeys {
    source: KeySource,
    issuer: String,
    /// Where the keys were found last, by the issuer's description.
    found: Mutex<Option<Found>>,
}

#[derive(Debug)]
struct Found {
    address: Uri,
    at: Instant,
}

/// An issuer's description of itself, as far as it matters here.
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: String,
}

type Client = legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

impl HttpKeys {
    /// The keys of the issuer that `settings` name.
    pub fn new(settings: &TokenSettings) -> Self {
        Self { source: settings.keys.clone(), issuer: settings.issuer.clone(), found: Mutex::default() }
    }

    async fn fetch_slowly(&self) -> Result<KeySet, KeyFetchError> {
        // A client for each fetch: they are rare, and reading the system's root certificates is no
        // work for a cold start, which mostly finds claims that API Gateway has checked.
        let roots = HttpsConnectorBuilder::new().with_native_roots();
        let roots = roots.map_err(|error| KeyFetchError::Transport(Document::Keys, error.into()))?;
        // The second document gets a new connection. The issuer may be closing the first one, and
        // then the fetch would fail.
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(roots.https_or_http().enable_http1().build());
        let description = match &self.source {
            KeySource::At(address) => return keys(&client, address).await,
            KeySource::Described(address) => address,
        };
        // Taken out: if the keys are not there, or do not come in time, the next fetch asks the
        // issuer for the address.
        let found = self.found().take().filter(|found| found.at.elapsed() < MAX_ADDRESS_AGE);
        if let Some(found) = found
            && let Ok(keys) = keys(&client, &found.address).await
        {
            *self.found() = Some(found);
            return Ok(keys);
        }
        let address = self.key_address(&client, description).await?;
        let keys = keys(&client, &address).await?;
        *self.found() = Some(Found { address, at: Instant::now() });
        Ok(keys)
    }

    /// Where the issuer says that its keys are.
    async fn key_address(&self, client: &Client, description: &Uri) -> Result<Uri, KeyFetchError> {
        let json = get(client, description, Document::Description).await?;
        let parse = || {
            let json = std::str::from_utf8(&json).map_err(serde_json::Error::custom)?;
            check_unambiguous(json)?;
            serde_json::from_str(json)
        };
        let description: Description = parse().map_err(|error| KeyFetchError::Form(Document::Description, error))?;
        let shown = |text: String| text.chars().take(200).collect();
        if description.issuer != self.issuer {
            return Err(KeyFetchError::OtherIssuer(shown(description.issuer)));
        }
        let address = description.jwks_uri.parse().ok().filter(is_protected);
        address.ok_or_else(|| KeyFetchError::Address(shown(description.jwks_uri)))
    }

    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl FetchKeys for HttpKeys {
    async fn fetch(&self) -> Result<KeySet, KeyFetchError> {
        tokio::time::timeout(FETCH_TIMEOUT, self.fetch_slowly()).await.map_err(|_| KeyFetchError::Timeout)?
    }
}

async fn keys(client: &Client, address: &Uri) -> Result<KeySet, KeyFetchError> {
    KeySet::parse(&get(client, address, Document::Keys).await?)
}

async fn get(client: &Client, address: &Uri, document: Document) -> Result<Bytes, KeyFetchError> {
    let response =
        client.get(address.clone()).await.map_err(|error| KeyFetchError::Transport(document, error.into()))?;
    if response.status() != StatusCode::OK {
        return Err(KeyFetchError::Status(document, response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await;
    Ok(body.map_err(|error| KeyFetchError::Transport(document, error))?.to_bytes())
}
