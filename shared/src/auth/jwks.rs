//! The issuer's public keys: fetched when needed, kept while they serve.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jsonwebtoken::jwk::JwkSet;
use lambda_http::http::{StatusCode, Uri};

/// The largest key set that is read, in bytes: what API Gateway's JWT authorizer accepts too.
const MAX_KEY_SET_BYTES: usize = 150_000;
/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Brings the issuer's current keys.
#[async_trait]
pub trait FetchKeys: Send + Sync {
    /// Fetches the key set.
    async fn fetch(&self) -> Result<JwkSet, KeyFetchError>;
}

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFetchError {
    /// No answer in time.
    #[error("the key set did not arrive within {} ms", FETCH_TIMEOUT.as_millis())]
    Timeout,
    /// No connection, or it broke.
    #[error("the key set could not be fetched: {0}")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another status than 200.
    #[error("the key set's address answered {0}")]
    Status(StatusCode),
    /// Not a key set.
    #[error("what the key set's address answered is no JWK set: {0}")]
    Form(#[source] serde_json::Error),
}

/// Keys from an HTTP(S) address.
#[derive(Debug)]
pub struct HttpKeys {
    address: Uri,
}

impl HttpKeys {
    /// Keys from `address`.
    pub fn new(address: Uri) -> Self {
        Self { address }
    }
}

#[async_trait]
impl FetchKeys for HttpKeys {
    async fn fetch(&self) -> Result<JwkSet, KeyFetchError> {
        let fetch = async {
            // A client for each fetch: they are rare, and reading the system's root certificates is no work for a cold start, which
            // mostly finds claims that API Gateway has checked.
            let roots = HttpsConnectorBuilder::new().with_native_roots().map_err(transport)?;
            let client = Client::builder(TokioExecutor::new())
                .build::<_, Empty<Bytes>>(roots.https_or_http().enable_http1().build());
            let response = client.get(self.address.clone()).await.map_err(transport)?;
            if response.status() != StatusCode::OK {
                return Err(KeyFetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_KEY_SET_BYTES).collect().await.map_err(transport)?;
            serde_json::from_slice(&body.to_bytes()).map_err(KeyFetchError::Form)
        };
        tokio::time::timeout(FETCH_TIMEOUT, fetch).await.map_err(|_| KeyFetchError::Timeout)?
    }
}

fn transport(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> KeyFetchError {
    KeyFetchError::Transport(error.into())
}
